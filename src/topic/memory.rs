//! Topics in memory: the hub of all logs, and the readers of each log.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use dashmap::{DashMap, Entry};

use crate::{
    protocol::{Cursor, Position, Topic, Window},
    random::Random,
    sync::{Arc, AtomicUsize, Mutex, Ordering},
    topic::{
        BoxFuture, PublishError, Published, Read, Room, TopicReader, TopicStats, TopicStore,
        Unavailable,
        births::Births,
        budget::{Appended, Budget},
        entry::{TopicEntry, TopicState},
        limits::{Retention, StoreLimits},
        log::stuffed,
    },
};

/// The capacity that the table of topics always keeps.
const SPARE_TOPICS: usize = 1_024;

/// The default [`TopicStore`]: logs in memory, bounded per topic and all together. Cheap to clone.
///
/// The first publish creates a log. A topic with subscribers and without a log costs only the
/// subscribers. A message is accepted, and gets its number, as soon as it is in memory. A restart
/// of the process loses it, and the topic comes back under a new epoch.
///
/// The log of a topic without subscribers is dropped if it had no message for two whole intervals
/// between [sweeps](TopicStore::sweep). The position of its end is kept, for as many topics as may
/// have a log. So the topic goes on under the same epoch with the next number, and a subscriber
/// that had received all messages has lost none. A topic whose end was not kept comes back under a
/// new epoch. Topics that never had a message change their epoch only when the end of another topic
/// is dropped.
#[derive(Clone, Debug)]
pub struct MemoryTopics(Arc<Hub>);

#[derive(Debug)]
struct Hub {
    topics: DashMap<Topic, Arc<TopicEntry>>,
    settings: Mutex<Settings>,
    budget: Budget,
    /// The number of topics with a log.
    born: AtomicUsize,
}

#[derive(Debug)]
struct Settings {
    births: Births,
    retention: Retention,
    max_topics: usize,
}

impl MemoryTopics {
    /// Topics that retain 65,536 messages and 1 MiB each, and 256 MiB together. At most 65,536
    /// topics have a log.
    pub fn new(random: &Random) -> Self {
        let births = Births::new(random.next_epoch(), random);
        Self(Arc::new(Hub {
            topics: DashMap::new(),
            settings: Mutex::new(Settings {
                births,
                retention: Retention { messages: 65_536, bytes: 1 << 20 },
                max_topics: 65_536,
            }),
            budget: Budget::new(256 << 20),
            born: AtomicUsize::new(0),
        }))
    }

    /// Sets the limits. The limits of one log apply to logs that are created later.
    pub(crate) fn set_limits(&self, retention: Retention, totals: StoreLimits) {
        let mut settings = self.0.settings.lock();
        settings.retention = retention;
        settings.max_topics = totals.topics;
        self.0.budget.set_limit(totals.bytes);
    }

    /// Bytes that all logs retain.
    pub(crate) fn retained_bytes(&self) -> usize {
        self.0.budget.retained()
    }

    #[cfg(test)]
    pub(super) fn listed(&self) -> usize {
        self.0.budget.listed()
    }

    /// Draws the epochs of later logs from `random`.
    pub(crate) fn reseed(&self, random: &Random) {
        self.0.settings.lock().births.reseed(random);
    }

    fn append_now(&self, topic: &Topic, payload: &[u8]) -> Result<Published, PublishError> {
        self.append_with(topic, None, payload)
    }

    fn append_with(
        &self,
        topic: &Topic,
        key: Option<&[u8]>,
        payload: &[u8],
    ) -> Result<Published, PublishError> {
        let mut buffer = Vec::new();
        let appended = self.0.append(topic, key, stuffed(payload, &mut buffer))?;
        Ok(self.0.budget.settle(appended))
    }
}

impl TopicStore for MemoryTopics {
    fn append(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        Box::pin(std::future::ready(self.append_now(topic, &payload)))
    }

    fn append_latest(
        &self,
        topic: &Topic,
        key: Bytes,
        payload: Bytes,
    ) -> BoxFuture<Result<Published, PublishError>> {
        Box::pin(std::future::ready(self.append_with(topic, Some(&key), &payload)))
    }

    fn topics(&self) -> usize {
        self.0.born.load(Ordering::Relaxed)
    }

    fn topic_stats(&self) -> Vec<TopicStats> {
        let has_log = |state: &TopicState| !state.log.is_unborn();
        self.0.topics.iter().filter_map(|entry| entry.stats(has_log)).collect()
    }

    fn has_room_for(&self, topic: &Topic) -> bool {
        self.0.has_room() || self.0.has_log(topic)
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        let entry = match self.0.topics.entry(topic.clone()) {
            Entry::Occupied(entry) => entry.into_ref(),
            Entry::Vacant(entry) => entry.insert(self.0.new_entry(topic)),
        };
        let slot = entry.state.lock().readers.add();
        Box::new(MemoryReader { hub: self.0.clone(), entry: entry.clone(), slot })
    }

    fn close(&self, topic: &Topic) -> BoxFuture<Result<Option<Position>, Unavailable>> {
        let (end, waiting) = self.0.close(topic);
        waiting.into_iter().for_each(Waker::wake);
        Box::pin(std::future::ready(Ok(end)))
    }

    fn sweep(&self) {
        self.0.sweep();
    }
}

impl Hub {
    /// Appends a line. Returns what the caller has to do outside all locks.
    ///
    /// The shard stays locked meanwhile. Otherwise the entry could be removed between the lookup
    /// and the append, and the message would be lost.
    fn append(
        &self,
        topic: &Topic,
        key: Option<&[u8]>,
        stuffed: &[u8],
    ) -> Result<Appended, PublishError> {
        if let Some(entry) = self.topics.get(topic) {
            return self.append_to(&entry, key, stuffed);
        }
        match self.topics.entry(topic.clone()) {
            Entry::Occupied(entry) => self.append_to(entry.get(), key, stuffed),
            Entry::Vacant(vacant) => {
                let entry = self.new_entry(topic);
                let appended = self.append_to(&entry, key, stuffed)?;
                vacant.insert(entry);
                Ok(appended)
            }
        }
    }

    fn append_to(
        &self,
        entry: &Arc<TopicEntry>,
        key: Option<&[u8]>,
        stuffed: &[u8],
    ) -> Result<Appended, PublishError> {
        let mut state = entry.state.lock();
        if state.log.is_full() {
            return Err(PublishError::TooMany);
        }
        if state.log.is_unborn() {
            self.count_birth()?;
        }
        state.swept = 0;
        Ok(self.budget.append(entry, &mut state, key, stuffed))
    }

    /// Whether one more topic may have a log.
    fn has_room(&self) -> bool {
        self.born.load(Ordering::Relaxed) < self.settings.lock().max_topics
    }

    fn has_log(&self, topic: &Topic) -> bool {
        self.topics.get(topic).is_some_and(|entry| !entry.state.lock().log.is_unborn())
    }

    fn count_birth(&self) -> Result<(), PublishError> {
        let max = self.settings.lock().max_topics;
        let one_more = |born| (born < max).then_some(born + 1);
        self.born
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .map(drop)
            .map_err(|_| PublishError::TooMany)
    }

    /// Drops the logs that had no message and no reader since the sweep before the last.
    ///
    /// It counts sweeps instead of time, so that appending reads no clock.
    fn sweep(&self) {
        self.drop_idle();
        // After a burst of names the table must shrink, whether or not a log is idle.
        if self.topics.capacity() > 4 * self.topics.len() + SPARE_TOPICS {
            self.topics.shrink_to_fit();
        }
    }

    fn drop_idle(&self) {
        let idle: Vec<_> = self.topics.iter().filter_map(|entry| entry.value().swept()).collect();
        if idle.is_empty() {
            return;
        }
        for topic in idle {
            let gone = self.topics.remove_if(&topic, |_, entry| {
                let end = entry.may_go();
                // The shard is still locked, so no task finds the topic without a log.
                end.inspect(|&end| self.note_end(&topic, end)).is_some()
            });
            if let Some((_, entry)) = gone {
                self.born.fetch_sub(1, Ordering::Relaxed);
                // Whoever looks for the oldest line may hold the entry still.
                self.discard(&mut entry.state.lock());
            }
        }
        self.budget.sweep();
    }

    /// Ends the log of `topic`. Returns where it ended, if there was one, and the wakers of the
    /// readers that wait at its head.
    fn close(&self, topic: &Topic) -> (Option<Position>, Vec<Waker>) {
        let entry = match self.topics.entry(topic.clone()) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(_) => return (self.retire(topic), Vec::new()),
        };
        let mut state = entry.get().state.lock();
        state.is_closed = true;
        let waiting = state.readers.take_waiting();
        let end = match state.log.is_unborn() {
            true => self.retire(topic),
            false => {
                self.born.fetch_sub(1, Ordering::Relaxed);
                self.end_epoch(topic);
                Some(state.log.end())
            }
        };
        if state.readers.is_empty() {
            self.discard(&mut state);
        }
        drop(state);
        drop(entry.remove());
        (end, waiting)
    }

    /// Makes a topic whose log was dropped come back under another epoch. Returns where that log
    /// ended.
    fn retire(&self, topic: &Topic) -> Option<Position> {
        let end = self.settings.lock().births.ended(topic)?;
        self.end_epoch(topic);
        Some(end)
    }

    /// Lets the next log of `topic` begin under a new epoch.
    fn end_epoch(&self, topic: &Topic) {
        let settings = &mut *self.settings.lock();
        settings.births.retire(topic, settings.max_topics);
    }

    /// Records where a log goes on that is about to be dropped. Called while its shard is locked.
    fn note_end(&self, topic: &Topic, end: Position) {
        let settings = &mut *self.settings.lock();
        settings.births.note_end(topic, end, settings.max_topics);
    }

    /// Drops the lines of a log that has no readers left.
    fn discard(&self, state: &mut TopicState) {
        self.budget.count(state.log.bytes(), 0);
        state.log.clear();
    }

    fn new_entry(&self, topic: &Topic) -> Arc<TopicEntry> {
        let settings = self.settings.lock();
        let begin = settings.births.begin(topic);
        Arc::new(TopicEntry::new(topic, begin, settings.retention))
    }
}

struct MemoryReader {
    hub: Arc<Hub>,
    entry: Arc<TopicEntry>,
    slot: u32,
}

impl TopicReader for MemoryReader {
    fn poll_window(&mut self, _: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        Poll::Ready(Ok(self.entry.state.lock().log.window()))
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        let mut state = self.entry.state.lock();
        match state.log.read(cursor, room, out) {
            Some(read) => Poll::Ready(Ok(read)),
            None if state.is_closed => Poll::Ready(Ok(Read::Closed)),
            None => {
                let before = state.readers.wait(self.slot, cx.waker());
                drop(state);
                drop(before);
                Poll::Pending
            }
        }
    }
}

impl Drop for MemoryReader {
    fn drop(&mut self) {
        // Dropping the last waker of a task may drop the task, and with it another reader. So the
        // waker is dropped outside the locks.
        let (entry, mut left) = (&self.entry, None);
        let gone = self.hub.topics.remove_if(&entry.topic, |_, current| {
            // After a log was closed, the topic may have a new one.
            let is_current = Arc::ptr_eq(current, entry);
            if is_current {
                left = Some(entry.leave(self.slot));
            }
            let is_last = left.as_ref().is_some_and(|(_, is_last)| *is_last);
            is_last && entry.state.lock().log.is_unborn()
        });
        let (waker, is_last) = left.unwrap_or_else(|| entry.leave(self.slot));
        if is_last {
            let mut state = entry.state.lock();
            if state.is_closed {
                self.hub.discard(&mut state);
            }
        }
        drop((gone, waker));
    }
}

#[cfg(test)]
mod tests {
    use crate::protocol::{Epoch, MAX_NUMBER};

    use super::*;
    use crate::topic::entry::SWEEPS;

    fn topics() -> MemoryTopics {
        MemoryTopics::new(&Random::seeded(1))
    }

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    #[test]
    fn numbers_are_dense_from_one() {
        let topics = topics();
        let numbers = (0..3).map(|_| topics.append_now(&topic("a"), b"x").unwrap().sequence);
        assert_eq!(numbers.collect::<Vec<_>>(), [1, 2, 3]);
    }

    /// Numbers end at 2^53-2, so that the position behind the last one can be written.
    #[test]
    fn a_log_ends_before_the_greatest_number() {
        let (topics, epoch) = (topics(), Epoch::new("e").unwrap());
        topics.0.note_end(&topic("a"), Position { epoch, next: MAX_NUMBER - 1 });
        let last = topics.append_now(&topic("a"), b"x").unwrap();
        assert_eq!((last.epoch, last.sequence), (epoch, MAX_NUMBER - 1));
        assert!(last.position().is_some());
        assert_eq!(topics.append_now(&topic("a"), b"x"), Err(PublishError::TooMany));
        topics.append_now(&topic("b"), b"x").unwrap();
        topics.0.close(&topic("a"));
        let next = topics.append_now(&topic("a"), b"x").unwrap();
        assert!(next.epoch != epoch && next.sequence == 1, "{next:?}");
    }

    #[test]
    fn a_topic_without_a_log_is_removed_with_its_last_reader() {
        let topics = topics();
        let (first, second) = (topics.open(&topic("a")), topics.open(&topic("a")));
        drop(first);
        assert_eq!(topics.0.topics.len(), 1);
        drop(second);
        assert_eq!(topics.0.topics.len(), 0);
        topics.append_now(&topic("a"), b"x").unwrap();
        drop(topics.open(&topic("a")));
        assert_eq!(topics.0.topics.len(), 1);
    }

    #[test]
    fn the_limit_on_topics_counts_logs_and_fails_the_publish() {
        let topics = topics();
        let retention = topics.0.settings.lock().retention;
        topics.set_limits(retention, StoreLimits { topics: 1, bytes: 1 << 20 });
        let _readers = [topics.open(&topic("a")), topics.open(&topic("b"))];
        topics.append_now(&topic("a"), b"x").unwrap();
        assert_eq!(topics.append_now(&topic("b"), b"x"), Err(PublishError::TooMany));
        assert_eq!(topics.append_now(&topic("c"), b"x"), Err(PublishError::TooMany));
        topics.append_now(&topic("a"), b"x").unwrap();
        assert_eq!(topics.0.topics.len(), 2);
    }

    #[test]
    fn a_topic_continues_its_numbers_after_its_idle_log_is_dropped() {
        let topics = topics();
        let (a, b) = (topic("a"), topic("b"));
        let before = topics.append_now(&a, b"x").unwrap();
        let kept = topics.append_now(&b, b"x").unwrap();
        let reader = topics.open(&b);
        for _ in 0..2 {
            topics.sweep();
            assert_eq!(topics.0.topics.len(), 2);
        }
        topics.sweep();
        assert_eq!((topics.0.topics.len(), topics.0.born.load(Ordering::Relaxed)), (1, 1));
        let after = topics.append_now(&a, b"y").unwrap();
        assert_eq!(after, Published { sequence: 2, ..before });
        assert_eq!(topics.0.born.load(Ordering::Relaxed), 2);
        drop(reader);
        topics.sweep();
        topics.sweep();
        assert_eq!(topics.append_now(&b, b"y").unwrap(), Published { sequence: 2, ..kept });
    }

    fn window(topics: &MemoryTopics, name: &str) -> Window {
        let cx = &mut Context::from_waker(Waker::noop());
        match topics.open(&topic(name)).poll_window(cx) {
            Poll::Ready(Ok(window)) => window,
            other => panic!("{other:?}"),
        }
    }

    fn sweep(topics: &MemoryTopics) {
        (0..=SWEEPS).for_each(|_| topics.sweep());
    }

    /// The epoch stays the same when other logs come and go.
    #[test]
    fn a_topic_without_messages_keeps_its_epoch() {
        let topics = topics();
        let quiet = window(&topics, "quiet");
        for n in 0..50 {
            topics.append_now(&topic(&format!("t{n}")), b"x").unwrap();
            sweep(&topics);
            drop(topics.close(&topic(&format!("u{n}"))));
            topics.append_now(&topic(&format!("u{n}")), b"x").unwrap();
            drop(topics.close(&topic(&format!("u{n}"))));
        }
        assert_eq!((topics.topics(), window(&topics, "quiet")), (0, quiet));
    }

    /// A sweep shrinks the table of topics after a burst of names, even if no log is idle.
    #[test]
    fn a_sweep_shrinks_the_table_after_a_burst_of_names() {
        const NAMES: usize = 20_000;
        let (topics, mut rng) = (topics(), fastrand::Rng::with_seed(5));
        let capacity = || topics.0.topics.capacity();
        topics.append_now(&topic("used"), b"x").unwrap();
        let _reader = topics.open(&topic("used"));
        let mut readers: Vec<_> =
            (0..NAMES).map(|n| topics.open(&topic(&format!("t{n}")))).collect();
        topics.sweep();
        assert!(capacity() >= NAMES, "room for names in use: {}", capacity());
        rng.shuffle(&mut readers);
        drop(readers);
        let kept = capacity();
        assert!(topics.0.topics.len() == 1 && kept > NAMES / 2, "{kept}");
        topics.sweep();
        assert!(capacity() <= SPARE_TOPICS + 4, "{} of {kept} are kept", capacity());
        assert_eq!(topics.topics(), 1, "a log that is used stays");
    }

    /// Identity: no number of an epoch names two messages of a topic, however many ends are
    /// dropped.
    #[test]
    fn no_number_of_an_epoch_is_assigned_twice() {
        let (topics, mut rng) = (topics(), fastrand::Rng::with_seed(3));
        let retention = topics.0.settings.lock().retention;
        topics.set_limits(retention, StoreLimits { topics: 8, bytes: 1 << 20 });
        let mut given = std::collections::HashSet::new();
        for _ in 0..5_000 {
            let name = topic(&format!("t{}", rng.u8(..20)));
            match rng.u8(..8) {
                0 => sweep(&topics),
                1 => drop(topics.close(&name)),
                2 => drop(topics.open(&name)),
                _ => {
                    let Ok(published) = topics.append_now(&name, b"x") else { continue };
                    assert!(given.insert((name, published)), "{published:?}");
                }
            }
        }
        assert!(given.len() > 1_000, "{}", given.len());
        let epochs: std::collections::HashSet<_> = given.iter().map(|(_, one)| one.epoch).collect();
        assert!(epochs.len() > 10, "{}", epochs.len());
    }

    /// The remaining messages are read to the end, and the bytes are given back with the last
    /// reader.
    #[test]
    fn a_closed_log_is_read_to_its_end_and_dropped() {
        let topics = topics();
        let name = topic("a");
        let before = topics.append_now(&name, b"x").unwrap();
        let mut reader = topics.open(&name);
        let end = topics.0.close(&name).0.unwrap();
        assert_eq!((end.epoch, end.next, topics.topics()), (before.epoch, 2, 0));
        let after = topics.append_now(&name, b"y").unwrap();
        assert!(after.epoch != before.epoch && after.sequence == 1);
        let held = topics.retained_bytes();
        let (cx, mut out) = (&mut Context::from_waker(Waker::noop()), Vec::new());
        let room = Room { bytes: 1_024, lines: 9, max_line: 1_024 };
        let cursor = Cursor { position: Position { next: 1, ..end } };
        let read = reader.poll_read(cx, cursor, room, &mut out);
        assert_eq!(read, Poll::Ready(Ok(Read::Copied { last: 1 })));
        let read = reader.poll_read(cx, cursor.delivered(1), room, &mut out);
        assert_eq!((read, &out[..]), (Poll::Ready(Ok(Read::Closed)), &b"* a 1 x\n"[..]));
        drop(reader);
        assert_eq!((topics.retained_bytes() * 2, topics.topics()), (held, 1));
        assert_eq!(topics.0.close(&topic("none")).0, None);
    }

    /// A topic that is closed after its log was dropped gets another epoch. A topic that never had
    /// a message has no end.
    #[test]
    fn a_topic_closed_after_its_log_dropped_gets_a_new_epoch() {
        let topics = topics();
        let name = topic("a");
        let before = topics.append_now(&name, b"x").unwrap();
        (0..=SWEEPS).for_each(|_| topics.sweep());
        assert_eq!(topics.topics(), 0);
        let end = topics.0.close(&name).0;
        assert_eq!(end, Some(Position { epoch: before.epoch, next: 2 }));
        assert_eq!(topics.0.close(&name).0, None, "it was closed before");
        let after = topics.append_now(&name, b"y").unwrap();
        assert!(after.epoch != before.epoch && after.sequence == 1);
    }

    /// The table of topics shrinks with the number of topics, even if no log is idle.
    #[test]
    fn a_sweep_shrinks_the_table_while_every_log_is_used() {
        let topics = topics();
        let open: Vec<_> = (0..20_000).map(|n| topics.open(&topic(&format!("t{n}")))).collect();
        assert!(topics.0.topics.capacity() >= 20_000);
        drop(open);
        topics.append_now(&topic("a"), b"x").unwrap();
        topics.sweep();
        assert!(topics.0.topics.capacity() <= 4 + SPARE_TOPICS, "{}", topics.0.topics.capacity());
        assert_eq!(topics.topics(), 1);
    }

    #[test]
    fn closing_a_log_wakes_waiting_readers() {
        let topics = topics();
        let (name, room) = (topic("a"), Room { bytes: 1, lines: 1, max_line: 1_024 });
        let mut reader = topics.open(&name);
        let cursor = Cursor::start(window(&topics, "a"), None).unwrap();
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(reader.poll_read(cx, cursor, room, &mut Vec::new()).is_pending());
        let (end, waiting) = topics.0.close(&name);
        assert_eq!((end, waiting.len(), topics.0.topics.len()), (None, 1, 0));
        let read = reader.poll_read(cx, cursor, room, &mut Vec::new());
        assert_eq!(read, Poll::Ready(Ok(Read::Closed)));
    }

    /// A log is idle only after its last message and after its last reader has left.
    #[test]
    fn a_log_in_use_again_is_not_idle() {
        let topics = topics();
        let a = topic("a");
        topics.append_now(&a, b"x").unwrap();
        for round in 0..5 {
            topics.sweep();
            topics.sweep();
            assert_eq!(topics.topics(), 1, "swept in round {round}");
            match round % 2 {
                0 => drop(topics.append_now(&a, b"x").unwrap()),
                _ => drop(topics.open(&a)),
            }
            assert_eq!(topics.topics(), 1, "round {round}");
        }
        (0..3).for_each(|_| topics.sweep());
        assert_eq!(topics.topics(), 0);
    }

    /// The last waker of a task may own a reader of the same topic.
    #[test]
    fn wakers_are_dropped_outside_the_locks() {
        struct Owner {
            _reader: Mutex<Box<dyn TopicReader>>,
        }
        impl std::task::Wake for Owner {
            fn wake(self: Arc<Self>) {}
        }
        let topics = topics();
        let window = Window {
            epoch: topics.0.settings.lock().births.begin(&topic("a")).epoch,
            first: 1,
            next: 1,
        };
        let cursor = Cursor::start(window, None).unwrap();
        let room = Room { bytes: 1, lines: 1, max_line: 1_024 };
        let mut reader = topics.open(&topic("a"));
        for _ in 0..2 {
            let owner = Arc::new(Owner { _reader: Mutex::new(topics.open(&topic("a"))) });
            let waker = Waker::from(owner);
            let cx = &mut Context::from_waker(&waker);
            assert!(reader.poll_read(cx, cursor, room, &mut Vec::new()).is_pending());
        }
        drop(reader);
        assert_eq!(topics.0.topics.len(), 0);
    }
}
