//! A durable store: logs in memory that outlive the store. A task writes, as a thread with a file
//! would, so that appends end later than they are called.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bellwire::{
    PublishError, Published,
    protocol::{Code, Cursor, Epoch, Position, Step, Topic, Window, encode},
    topic::{BoxFuture, Read, Room, TopicReader, TopicStore, Unavailable, suite::Limits},
};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// What the store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// A kill loses the last message of each log, acknowledged or not, under the same epoch.
    LosesTheLast,
    /// Each end loses all messages, and the numbers begin at 1 under the same epoch.
    NumbersAnew,
    /// Readers get messages that a kill may lose.
    ReadsTooEarly,
    /// A kill brings closed logs back.
    ForgetsCloses,
    /// A kill loses everything. Later epochs are new.
    LosesAllToAKill,
    /// A kill loses the first message of each log, and names it as retained no more.
    LosesTheFirst,
    /// Old messages are never dropped.
    KeepsTheOld,
    /// Each end loses everything, and later epochs are those of before.
    BeginsAnew,
}

#[derive(Clone)]
struct Line {
    at: Duration,
    key: Option<Bytes>,
    /// `None` once it was replaced.
    payload: Option<Bytes>,
    /// Whether its append has ended.
    is_confirmed: bool,
}

#[derive(Clone)]
struct Log {
    epoch: Epoch,
    first: u64,
    lines: VecDeque<Line>,
}

/// What outlives the store.
#[derive(Clone)]
pub(super) struct Disk(Arc<Mutex<Stored>>);

struct Stored {
    logs: HashMap<Topic, Log>,
    closed: HashMap<Topic, Log>,
    /// The number of epochs so far.
    epochs: u64,
    now: Duration,
    limits: Limits,
    bug: Option<Bug>,
    /// The store that may write. Another one was killed.
    life: u64,
}

impl Disk {
    pub(super) fn new(limits: Limits, bug: Option<Bug>) -> Self {
        let (logs, closed) = Default::default();
        let now = Duration::ZERO;
        Self(Arc::new(Mutex::new(Stored { logs, closed, epochs: 0, now, limits, bug, life: 0 })))
    }

    fn lock(&self) -> MutexGuard<'_, Stored> {
        self.0.lock().unwrap()
    }

    pub(super) fn advance(&self, time: Duration) {
        self.lock().now += time;
    }

    /// The end of a life: what is still to be written is lost.
    pub(super) fn end(&self, is_killed: bool) {
        let stored = &mut *self.lock();
        stored.life += 1;
        match stored.bug {
            Some(Bug::LosesTheLast) if is_killed => {
                stored.logs.values_mut().for_each(|log| drop(log.lines.pop_back()));
            }
            Some(Bug::LosesTheFirst) if is_killed => stored.logs.values_mut().for_each(|log| {
                log.first += u64::from(log.lines.pop_front().is_some());
            }),
            Some(Bug::NumbersAnew) => {
                stored
                    .logs
                    .values_mut()
                    .for_each(|log| (log.first, log.lines) = Default::default());
                stored.logs.values_mut().for_each(|log| log.first = 1);
            }
            Some(Bug::ReadsTooEarly) if is_killed => stored.logs.values_mut().for_each(|log| {
                log.lines.retain(|line| line.is_confirmed);
            }),
            Some(Bug::ForgetsCloses) if is_killed => stored.logs.extend(stored.closed.drain()),
            Some(Bug::LosesAllToAKill) if is_killed => stored.logs.clear(),
            Some(Bug::BeginsAnew) => (stored.logs, stored.epochs) = Default::default(),
            _ => {}
        }
    }

    /// Opens the store.
    pub(super) fn start(&self) -> Kept {
        let life = self.lock().life;
        let (writes, written) = mpsc::unbounded_channel();
        let store =
            Kept(Arc::new(Process { disk: self.clone(), life, live: Mutex::default(), writes }));
        let process = Arc::downgrade(&store.0);
        tokio::spawn(async move {
            let mut written = written;
            while let Some(write) = written.recv().await {
                let Some(process) = process.upgrade() else { return };
                process.write(write);
            }
        });
        store
    }
}

impl Log {
    fn next(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    fn window(&self) -> Window {
        Window { epoch: self.epoch, first: self.first, next: self.next() }
    }

    fn bytes(&self) -> usize {
        self.held().map(|payload| payload.len() + 16).sum()
    }

    /// The payloads that were not replaced.
    fn held(&self) -> impl Iterator<Item = &Bytes> {
        self.lines.iter().filter_map(|line| line.payload.as_ref())
    }

    fn replace(&mut self, key: &Bytes) {
        for line in self.lines.iter_mut().filter(|line| line.key.as_ref() == Some(key)) {
            (line.key, line.payload) = (None, None);
        }
    }

    /// The end of an append was seen.
    fn confirm(&mut self, published: Published) {
        let numbers = self.first..=published.sequence;
        let is_own = self.epoch == published.epoch;
        let confirmed = numbers.zip(&mut self.lines).filter(|_| is_own);
        confirmed.for_each(|(_, line)| line.is_confirmed = true);
    }

    fn is_over(&self, limits: &Limits) -> bool {
        self.held().count() > limits.messages || self.bytes() > limits.bytes
    }

    fn drop_oldest(&mut self) {
        self.first += u64::from(self.lines.pop_front().is_some());
    }

    fn copy(&self, topic: &Topic, from: u64, room: Room, out: &mut Vec<u8>) -> Read {
        let begin = out.len();
        let mut last = from - 1;
        let lines = self.lines.iter().skip((from - self.first) as usize);
        let replaced = lines.clone().take_while(|line| line.payload.is_none()).count() as u64;
        if replaced > 0 {
            return Read::Gap { last: from + replaced - 1, reason: Code::REPLACED };
        }
        for (number, payload) in (from..).zip(lines.map_while(|line| line.payload.as_ref())) {
            let before = out.len();
            if before - begin >= room.bytes || number - from >= room.lines {
                break;
            }
            encode::notification(out, topic, number, payload);
            if out.len() - before > room.max_line {
                out.truncate(before);
                break;
            }
            last = number;
        }
        match last < from {
            true => Read::Gap { last: from, reason: Code::TOO_LARGE },
            false => Read::Copied { last },
        }
    }
}

/// The store of one life.
pub(super) struct Kept(Arc<Process>);

struct Process {
    disk: Disk,
    life: u64,
    live: Mutex<HashMap<Topic, Arc<Mutex<Live>>>>,
    writes: mpsc::UnboundedSender<Write>,
}

/// A log and its readers. It stays for its readers after it was closed.
struct Live {
    log: Log,
    wakers: HashMap<u64, Waker>,
    readers: u64,
    is_closed: bool,
}

enum Write {
    Append(Topic, Option<Bytes>, Bytes, oneshot::Sender<Result<Published, PublishError>>),
    Close(Topic, oneshot::Sender<Option<Position>>),
    Sweep,
    Finish(oneshot::Sender<()>),
}

impl Kept {
    fn queue(
        &self,
        topic: &Topic,
        key: Option<Bytes>,
        payload: Bytes,
    ) -> BoxFuture<Result<Published, PublishError>> {
        let (done, written) = oneshot::channel();
        _ = self.0.writes.send(Write::Append(topic.clone(), key, payload, done));
        let (process, topic) = (Arc::downgrade(&self.0), topic.clone());
        Box::pin(async move {
            let published = written.await.map_err(|_| ended())??;
            process.upgrade().ok_or_else(ended)?.confirm(&topic, published);
            Ok(published)
        })
    }

    /// Waits until all is written.
    pub(super) async fn finish(&self) {
        let (done, finished) = oneshot::channel();
        _ = self.0.writes.send(Write::Finish(done));
        finished.await.expect("the writer runs");
    }
}

impl Process {
    fn live(&self, topic: &Topic) -> Arc<Mutex<Live>> {
        let mut live = self.live.lock().unwrap();
        let entry = live.entry(topic.clone()).or_insert_with(|| {
            let stored = &mut *self.disk.lock();
            let log = stored.logs.get(topic).cloned().unwrap_or_else(|| {
                stored.epochs += 1;
                let epoch = Epoch::new(&format!("k{}", stored.epochs)).unwrap();
                Log { epoch, first: 1, lines: VecDeque::new() }
            });
            Arc::new(Mutex::new(Live { log, wakers: HashMap::new(), readers: 0, is_closed: false }))
        });
        entry.clone()
    }

    /// What is stored, unless this life has ended.
    fn stored(&self) -> Option<MutexGuard<'_, Stored>> {
        Some(self.disk.lock()).filter(|stored| stored.life == self.life)
    }

    fn write(&self, write: Write) {
        match write {
            Write::Append(topic, key, payload, done) => {
                _ = done.send(self.append(&topic, key, payload));
            }
            Write::Close(topic, done) => _ = done.send(self.close(&topic)),
            Write::Sweep => self.sweep(),
            Write::Finish(done) => _ = done.send(()),
        }
    }

    fn append(
        &self,
        topic: &Topic,
        key: Option<Bytes>,
        payload: Bytes,
    ) -> Result<Published, PublishError> {
        let live = self.live(topic);
        let live = &mut *live.lock().unwrap();
        let stored = &mut *self.stored().ok_or_else(ended)?;
        if !stored.logs.contains_key(topic) && stored.logs.len() >= stored.limits.topics {
            return Err(PublishError::TooMany);
        }
        let (at, number) = (stored.now, live.log.next());
        key.iter().for_each(|key| live.log.replace(key));
        live.log.lines.push_back(Line { at, key, payload: Some(payload), is_confirmed: false });
        while live.log.lines.len() > 1 && live.log.is_over(&stored.limits) {
            live.log.drop_oldest();
        }
        stored.logs.insert(topic.clone(), live.log.clone());
        live.wakers.drain().for_each(|(_, waker)| waker.wake());
        Ok(Published::new(live.log.epoch, number))
    }

    fn confirm(&self, topic: &Topic, published: Published) {
        let live = self.live(topic);
        live.lock().unwrap().log.confirm(published);
        let Some(mut stored) = self.stored() else { return };
        if let Some(log) = stored.logs.get_mut(topic) {
            log.confirm(published);
        }
    }

    fn close(&self, topic: &Topic) -> Option<Position> {
        let live = self.live.lock().unwrap().remove(topic);
        let stored = &mut *self.stored()?;
        let log = stored.logs.remove(topic);
        if let Some(live) = live {
            let live = &mut *live.lock().unwrap();
            live.is_closed = true;
            live.wakers.drain().for_each(|(_, waker)| waker.wake());
        }
        let end = log.as_ref().map(|log| Position { epoch: log.epoch, next: log.next() });
        stored.closed.extend(log.map(|log| (topic.clone(), log)));
        end
    }

    fn sweep(&self) {
        let topics: Vec<_> = self.disk.lock().logs.keys().cloned().collect();
        for topic in topics {
            let live = self.live(&topic);
            let live = &mut *live.lock().unwrap();
            let Some(stored) = &mut self.stored() else { return };
            let Some(age) = stored.limits.age.filter(|_| stored.bug != Some(Bug::KeepsTheOld))
            else {
                return;
            };
            let now = stored.now;
            while live.log.lines.front().is_some_and(|line| line.at + age < now) {
                live.log.drop_oldest();
            }
            stored.logs.insert(topic, live.log.clone());
        }
    }
}

fn ended() -> PublishError {
    PublishError::Unavailable(Unavailable("the store has ended".into()))
}

impl TopicStore for Kept {
    fn append(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        self.queue(topic, None, payload)
    }

    fn append_latest(
        &self,
        topic: &Topic,
        key: Bytes,
        payload: Bytes,
    ) -> BoxFuture<Result<Published, PublishError>> {
        self.queue(topic, Some(key), payload)
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        let live = self.0.live(topic);
        live.lock().unwrap().readers += 1;
        let id = live.lock().unwrap().readers;
        Box::new(KeptReader { topic: topic.clone(), live, id, has_waited: false })
    }

    fn has_room_for(&self, topic: &Topic) -> bool {
        let stored = self.0.disk.lock();
        stored.logs.contains_key(topic) || stored.logs.len() < stored.limits.topics
    }

    fn sweep(&self) {
        _ = self.0.writes.send(Write::Sweep);
    }

    fn close(&self, topic: &Topic) -> BoxFuture<Result<Option<Position>, Unavailable>> {
        let (done, written) = oneshot::channel();
        _ = self.0.writes.send(Write::Close(topic.clone(), done));
        Box::pin(
            async move { written.await.map_err(|_| Unavailable("the store has ended".into())) },
        )
    }

    fn topics(&self) -> usize {
        self.0.disk.lock().logs.len()
    }
}

struct KeptReader {
    topic: Topic,
    live: Arc<Mutex<Live>>,
    id: u64,
    has_waited: bool,
}

impl TopicReader for KeptReader {
    /// It is pending at first, as a store that has to look into a file.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        if !std::mem::replace(&mut self.has_waited, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(self.live.lock().unwrap().log.window()))
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        let mut live = self.live.lock().unwrap();
        let read = match cursor.step(live.log.window()).1 {
            Step::CaughtUp if live.is_closed => Read::Closed,
            Step::CaughtUp => {
                live.wakers.insert(self.id, cx.waker().clone());
                return Poll::Pending;
            }
            Step::Reset(to) => Read::Reset(to),
            Step::Gap { last, .. } => Read::Gap { last, reason: Code::RETENTION },
            Step::Read { first, .. } => live.log.copy(&self.topic, first, room, out),
        };
        Poll::Ready(Ok(read))
    }
}

impl Drop for KeptReader {
    fn drop(&mut self) {
        self.live.lock().unwrap().wakers.remove(&self.id);
    }
}
