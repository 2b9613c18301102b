//! Stores that are wrong in one thing each: the default store behind a wrapper.

use std::{
    collections::HashMap,
    hint,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    thread::{self, ThreadId},
};

use bellwire::{
    PublishError, Published,
    protocol::{Code, Cursor, Epoch, Position, Topic, Window},
    topic::{
        BoxFuture, MemoryTopics, Read, Room, TopicReader, TopicStats, TopicStore, Unavailable,
        suite::{Limits, memory},
    },
};
use bytes::Bytes;

/// What the store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    SkipsANumber,
    NumbersAtThePoll,
    NamesAnotherEpoch,
    NumbersByThread,
    WindowIsLate,
    CopiesAllLines,
    CopiesAllBytes,
    ServesTheLatestReader,
    NamesLargeAsRetention,
    IgnoresTheEpoch,
    GapToTheCursor,
    TextOnly,
    CutsNames,
    RetainsAll,
    RetainsFiveMore,
    GapOneTooLong,
    NeverWakes,
    WakesTheFirstWaker,
    RegistersLate,
    OneEpochForEver,
    SweepsAll,
    EndIsOneLess,
    AnyNumberOfTopics,
    CountsReaders,
    CountsAnotherReader,
    KeepsReplaced,
    ForgetsKeys,
    RepeatsAPayload,
    PanicsAtClose,
    BlocksAtSweep,
}

#[derive(Clone)]
pub(super) struct Wrong(Arc<Inner>);

struct Inner {
    fault: Fault,
    limits: Limits,
    memory: Mutex<MemoryTopics>,
    appends: AtomicU64,
    readers: AtomicUsize,
    open: AtomicUsize,
    by_thread: Mutex<HashMap<ThreadId, u64>>,
    /// The wakers of readers, for faults of waking.
    wakers: Mutex<Vec<Waker>>,
}

impl Wrong {
    pub(super) fn new(mut limits: Limits, fault: Fault) -> Self {
        match fault {
            Fault::RetainsAll => (limits.messages, limits.bytes) = (1_000_000, 1 << 30),
            Fault::RetainsFiveMore => limits.messages += 5,
            Fault::AnyNumberOfTopics => limits.topics = 1_000_000,
            _ => {}
        }
        Self(Arc::new(Inner {
            fault,
            limits,
            memory: Mutex::new(memory(limits)),
            appends: AtomicU64::new(0),
            readers: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            by_thread: Mutex::default(),
            wakers: Mutex::default(),
        }))
    }

    fn memory(&self) -> MemoryTopics {
        self.0.memory.lock().unwrap().clone()
    }

    /// Whether this is the fault.
    fn has(&self, fault: Fault) -> bool {
        self.0.fault == fault
    }

    fn name(&self, topic: &Topic) -> Topic {
        let cut = topic.as_str().get(..64).filter(|_| self.has(Fault::CutsNames));
        cut.map_or_else(|| topic.clone(), |cut| Topic::new(cut).unwrap())
    }

    fn epoch(&self, epoch: Epoch) -> Epoch {
        if self.has(Fault::OneEpochForEver) { Epoch::new("same").unwrap() } else { epoch }
    }

    fn append_now(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Published> {
        let count = self.0.appends.fetch_add(1, Ordering::Relaxed) + 1;
        let payload = match self.0.fault {
            Fault::TextOnly => String::from_utf8_lossy(&payload).into_owned().into(),
            Fault::RepeatsAPayload if count.is_multiple_of(37) => Bytes::from_static(b"once more"),
            _ => payload,
        };
        let append = self.memory().append(&self.name(topic), payload);
        let this = self.clone();
        Box::pin(async move {
            let published = append.await.expect("accepted");
            let sequence = this.sequence(published.sequence);
            this.0.wakers.lock().unwrap().drain(..).for_each(Waker::wake);
            Published::new(this.epoch(published.epoch), sequence)
        })
    }

    fn sequence(&self, sequence: u64) -> u64 {
        match self.0.fault {
            Fault::SkipsANumber if sequence > 8 => sequence + 1,
            Fault::NumbersByThread => {
                let mut by_thread = self.0.by_thread.lock().unwrap();
                let own = by_thread.entry(thread::current().id()).or_insert(0);
                *own += 1;
                *own
            }
            _ => sequence,
        }
    }
}

impl TopicStore for Wrong {
    fn append(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        if !self.memory().has_room_for(topic) {
            return self.memory().append(topic, payload);
        }
        if self.has(Fault::NumbersAtThePoll) {
            let (this, topic) = (self.clone(), topic.clone());
            return Box::pin(async move { Ok(this.append_now(&topic, payload).await) });
        }
        // The message is in the log before the future is polled.
        let mut append = self.append_now(topic, payload);
        match append.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(published) => Box::pin(std::future::ready(Ok(published))),
            Poll::Pending => unreachable!("the default store accepts at once"),
        }
    }

    fn append_latest(
        &self,
        topic: &Topic,
        key: Bytes,
        payload: Bytes,
    ) -> BoxFuture<Result<Published, PublishError>> {
        match self.0.fault {
            Fault::KeepsReplaced if payload.is_empty() => self.append(topic, payload),
            Fault::ForgetsKeys => self.append(topic, payload),
            _ => self.memory().append_latest(topic, key, payload),
        }
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        let serial = self.0.readers.fetch_add(1, Ordering::Relaxed) + 1;
        let reader = self.memory().open(&self.name(topic));
        Box::new(WrongReader { store: self.clone(), reader, serial, first: None })
    }

    fn has_room_for(&self, topic: &Topic) -> bool {
        self.memory().has_room_for(topic)
    }

    fn sweep(&self) {
        match self.0.fault {
            Fault::SweepsAll => *self.0.memory.lock().unwrap() = memory(self.0.limits),
            Fault::BlocksAtSweep => loop {
                thread::park();
            },
            _ => self.memory().sweep(),
        }
    }

    fn close(&self, topic: &Topic) -> BoxFuture<Result<Option<Position>, Unavailable>> {
        assert!(!self.has(Fault::PanicsAtClose), "on purpose");
        let (this, close) = (self.clone(), self.memory().close(topic));
        Box::pin(async move {
            let end = close.await?;
            let less = u64::from(this.has(Fault::EndIsOneLess));
            let moved =
                |at: Position| Position { epoch: this.epoch(at.epoch), next: at.next - less };
            Ok(end.map(moved))
        })
    }

    fn topics(&self) -> usize {
        let readers = if self.has(Fault::CountsReaders) {
            &self.0.open
        } else {
            return self.memory().topics();
        };
        self.memory().topics() + readers.load(Ordering::Relaxed)
    }

    fn topic_stats(&self) -> Vec<TopicStats> {
        let mut stats = self.memory().topic_stats();
        if self.has(Fault::CountsAnotherReader) {
            stats.iter_mut().for_each(|topic| topic.subscribers += 1);
        }
        stats
    }
}

struct WrongReader {
    store: Wrong,
    reader: Box<dyn TopicReader>,
    serial: usize,
    first: Option<Waker>,
}

impl TopicReader for WrongReader {
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        let mut window = ready!(self.reader.poll_window(cx))?;
        window.epoch = self.store.epoch(window.epoch);
        match self.store.0.fault {
            Fault::NamesAnotherEpoch if window.next == 1 => {
                window.epoch = Epoch::new("another").unwrap();
            }
            Fault::WindowIsLate if window.next > 3 => window.next -= 1,
            _ => {}
        }
        Poll::Ready(Ok(window))
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        let fault = self.store.0.fault;
        let latest = self.store.0.readers.load(Ordering::Relaxed);
        if fault == Fault::ServesTheLatestReader && self.serial < latest {
            return Poll::Ready(Err(Unavailable("there is a later reader".into())));
        }
        let (cursor, room) = self.asked(cursor, room);
        if let Some(gap) = self.gap_to(cursor, fault) {
            return Poll::Ready(Ok(gap));
        }
        let read = match fault {
            Fault::NeverWakes => self.reader.poll_read(&mut noop(), cursor, room, out),
            Fault::WakesTheFirstWaker => {
                let first = self.first.get_or_insert_with(|| cx.waker().clone());
                self.reader.poll_read(&mut Context::from_waker(first), cursor, room, out)
            }
            Fault::RegistersLate => {
                let read = self.reader.poll_read(&mut noop(), cursor, room, out);
                if read.is_pending() {
                    self.register_late(cx);
                }
                read
            }
            _ => self.reader.poll_read(cx, cursor, room, out),
        };
        read.map_ok(|read| self.told(read))
    }
}

impl WrongReader {
    /// What the reader takes the request for.
    fn asked(&mut self, cursor: Cursor, room: Room) -> (Cursor, Room) {
        let Position { next, .. } = cursor.position;
        let own = match self.reader.poll_window(&mut noop()) {
            Poll::Ready(Ok(window)) => Cursor { position: Position { epoch: window.epoch, next } },
            other => panic!("{other:?}"),
        };
        match self.store.0.fault {
            Fault::CopiesAllLines => (cursor, Room::new(room.bytes, u64::MAX, room.max_line)),
            Fault::CopiesAllBytes => (cursor, Room::new(usize::MAX, room.lines, room.max_line)),
            Fault::IgnoresTheEpoch | Fault::OneEpochForEver | Fault::NamesAnotherEpoch => {
                (own, room)
            }
            _ => (cursor, room),
        }
    }

    fn gap_to(&mut self, cursor: Cursor, fault: Fault) -> Option<Read> {
        let next = match self.reader.poll_window(&mut noop()) {
            Poll::Ready(Ok(window)) => window.next,
            other => panic!("{other:?}"),
        };
        let is_beyond = fault == Fault::GapToTheCursor && cursor.position.next > next;
        is_beyond.then_some(Read::Gap { last: cursor.position.next, reason: Code::RETENTION })
    }

    fn told(&self, read: Read) -> Read {
        match (self.store.0.fault, read) {
            (Fault::NamesLargeAsRetention, Read::Gap { last, .. }) => {
                Read::Gap { last, reason: Code::RETENTION }
            }
            (Fault::GapOneTooLong, Read::Gap { last, reason }) => {
                Read::Gap { last: last + 1, reason }
            }
            (_, read) => read,
        }
    }

    /// Lets a message come between the look at the log and the registration.
    fn register_late(&self, cx: &mut Context<'_>) {
        let before = self.store.0.appends.load(Ordering::Relaxed);
        for _ in 0..2_000 {
            if self.store.0.appends.load(Ordering::Relaxed) > before {
                break;
            }
            thread::yield_now();
            hint::spin_loop();
        }
        self.store.0.wakers.lock().unwrap().push(cx.waker().clone());
    }
}

impl Drop for WrongReader {
    fn drop(&mut self) {
        self.store.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}
