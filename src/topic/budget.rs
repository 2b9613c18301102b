//! The bytes that all logs retain together. Over the limit, the oldest lines of all logs are
//! dropped.

use std::{collections::BTreeMap, mem, task::Waker};

use crate::{
    sync::{Arc, AtomicU64, AtomicUsize, Mutex, Ordering, Weak},
    topic::{
        Published,
        entry::{TopicEntry, TopicState},
    },
};

/// Counts the bytes of all logs, and finds the log with the oldest line.
///
/// Each log with lines is listed once, under the age that its oldest line had when it was listed.
/// The log's own limits may have dropped that line since. The search for the oldest line then lists
/// the log again under the new age. So appending changes the list only for an empty log, and each
/// dropped line costs at most one step through the list.
#[derive(Debug)]
pub(super) struct Budget {
    limit: AtomicUsize,
    retained: AtomicUsize,
    /// The age of the next line: a count of all lines so far.
    next: AtomicU64,
    /// Lock order: this, then a topic's `state`.
    by_age: Mutex<BTreeMap<u64, Weak<TopicEntry>>>,
}

/// What [`Budget::settle`] has to do after an append, outside all locks.
#[must_use]
pub(super) struct Appended {
    pub(super) published: Published,
    /// The tasks that waited for the message.
    waiting: Vec<Waker>,
    stamp: u64,
    /// The log, if it had no lines before: it has to be listed.
    unlisted: Option<Arc<TopicEntry>>,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            retained: AtomicUsize::new(0),
            next: AtomicU64::new(0),
            by_age: Mutex::default(),
        }
    }

    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes that all logs retain.
    pub(super) fn retained(&self) -> usize {
        self.retained.load(Ordering::Relaxed)
    }

    /// Appends a line with this payload, already stuffed, to the log of `entry`, whose `state` the
    /// caller has locked. The log must not be full. With a key, the line replaces the one that has
    /// the same key.
    pub(super) fn append(
        &self,
        entry: &Arc<TopicEntry>,
        state: &mut TopicState,
        key: Option<&[u8]>,
        stuffed: &[u8],
    ) -> Appended {
        state.swept = 0;
        let (stamp, before) = (self.stamp(), state.log.bytes());
        let sequence = match key {
            Some(key) => state.log.append_latest(key, stuffed, stamp),
            None => state.log.append(stuffed, stamp),
        };
        self.count(before, state.log.bytes());
        let published = Published::new(state.log.window().epoch, sequence);
        let is_listed = mem::replace(&mut state.is_listed, true);
        let unlisted = (!is_listed).then(|| entry.clone());
        Appended { published, waiting: state.readers.take_waiting(), stamp, unlisted }
    }

    /// Wakes the readers that waited for the message, and enforces the limit. The caller must not
    /// hold a lock.
    pub(super) fn settle(&self, appended: Appended) -> Published {
        let Appended { published, waiting, stamp, unlisted } = appended;
        waiting.into_iter().for_each(Waker::wake);
        if let Some(entry) = unlisted {
            self.list(stamp, &entry);
        }
        self.enforce(stamp);
        published
    }

    /// The age of a line that is appended now.
    fn stamp(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Records that the size of a log has changed, in bytes. Called while the log's state is
    /// locked.
    pub(super) fn count(&self, before: usize, after: usize) {
        match after.checked_sub(before) {
            Some(more) => self.retained.fetch_add(more, Ordering::Relaxed),
            None => self.retained.fetch_sub(before - after, Ordering::Relaxed),
        };
    }

    /// Lists a log that had no lines. Its oldest line now has this `stamp`.
    fn list(&self, stamp: u64, entry: &Arc<TopicEntry>) {
        self.by_age.lock().insert(stamp, Arc::downgrade(entry));
    }

    /// Drops the oldest lines of all logs while the logs exceed the limit. Lines from the age
    /// `newest` on are kept: the message that was just published stays, whatever its size.
    ///
    /// The caller must not hold a lock.
    fn enforce(&self, newest: u64) {
        while self.is_over() {
            let mut by_age = self.by_age.lock();
            let Some(oldest) = by_age.first_entry().filter(|oldest| *oldest.key() < newest) else {
                return;
            };
            let Some(entry) = oldest.remove().upgrade() else { continue };
            let next = by_age.first_key_value().map_or(newest, |(&next, _)| next.min(newest));
            let mut state = entry.state.lock();
            self.drop_before(next, &mut state);
            match state.log.oldest() {
                Some(stamp) => _ = by_age.insert(stamp, Arc::downgrade(&entry)),
                None => state.is_listed = false,
            }
        }
    }

    /// Drops lines older than `stamp` while the logs exceed the limit.
    fn drop_before(&self, stamp: u64, state: &mut TopicState) {
        while self.is_over() && state.log.oldest().is_some_and(|oldest| oldest < stamp) {
            let before = state.log.bytes();
            state.log.drop_oldest();
            self.count(before, state.log.bytes());
        }
    }

    fn is_over(&self) -> bool {
        self.retained() > self.limit.load(Ordering::Relaxed)
    }

    /// The number of listed logs.
    #[cfg(test)]
    pub(super) fn listed(&self) -> usize {
        self.by_age.lock().len()
    }

    /// Removes logs that no longer exist from the list.
    pub(super) fn sweep(&self) {
        self.by_age.lock().retain(|_, entry| entry.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        task::{Context, Poll, Waker},
    };

    use crate::{
        protocol::Topic,
        random::Random,
        topic::{MemoryTopics, Retention, StoreLimits, TopicStore, limits::NOTED},
    };

    fn topic(n: usize) -> Topic {
        Topic::new(&format!("t{n}")).unwrap()
    }

    fn publish(topics: &MemoryTopics, n: usize, bytes: usize) {
        drop(topics.append(&topic(n), vec![b'x'; bytes].into()));
    }

    /// The numbers that a topic retains: the first, and the next to come.
    fn held(topics: &MemoryTopics, n: usize) -> (u64, u64) {
        let mut reader = topics.open(&topic(n));
        match reader.poll_window(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(window)) => (window.first, window.next),
            other => panic!("{other:?}"),
        }
    }

    fn limited(bytes: usize) -> MemoryTopics {
        let topics = MemoryTopics::new(&Random::seeded(1));
        let retention = Retention { messages: 5, bytes: 400 };
        topics.set_limits(retention, StoreLimits { topics: 100, bytes });
        topics
    }

    /// Compares with one queue of all messages. It holds the newest messages in the order of
    /// publishing, less those that the logs' own limits dropped.
    #[test]
    fn the_oldest_messages_of_all_topics_are_dropped_first() {
        const TOPICS: usize = 7;
        let (topics, mut rng) = (limited(2_000), fastrand::Rng::with_seed(7));
        let mut queue: VecDeque<(usize, usize)> = VecDeque::new();
        let mut next = [1u64; TOPICS];
        for _ in 0..3_000 {
            let (n, bytes) = (rng.usize(..TOPICS), rng.usize(1..300));
            publish(&topics, n, bytes);
            let line = format!("* t{n} {} \n", next[n]).len() + bytes;
            next[n] += 1;
            queue.push_back((n, line));
            let own = |queue: &VecDeque<(usize, usize)>| {
                let own = queue.iter().filter(|(topic, _)| *topic == n).map(|(_, line)| *line);
                (own.clone().count(), own.sum::<usize>())
            };
            while own(&queue).0 > 1 && (own(&queue).0 > 5 || own(&queue).1 > 400) {
                let at = queue.iter().position(|(topic, _)| *topic == n).unwrap();
                queue.remove(at);
            }
            let cost = |queue: &VecDeque<(usize, usize)>| {
                queue.iter().map(|(_, line)| line + NOTED).sum::<usize>()
            };
            while cost(&queue) > 2_000 {
                queue.pop_front();
            }
            assert_eq!(topics.retained_bytes(), cost(&queue));
        }
        for (n, &next) in next.iter().enumerate() {
            let count = queue.iter().filter(|(topic, _)| *topic == n).count() as u64;
            assert_eq!(held(&topics, n), (next - count, next));
        }
    }

    /// At the limit nothing is dropped, and one byte over it the oldest message is. The message
    /// that was just published stays, whatever its size.
    #[test]
    fn the_limit_is_exact_to_the_byte() {
        let line = "* t0 1 xxxx\n".len() + NOTED;
        for (limit, expected) in [(2 * line, [(1, 2), (1, 2)]), (2 * line - 1, [(2, 2), (1, 2)])] {
            let topics = limited(limit);
            publish(&topics, 0, 4);
            publish(&topics, 1, 4);
            assert_eq!([held(&topics, 0), held(&topics, 1)], expected);
        }
        let topics = limited(10);
        publish(&topics, 0, 4);
        publish(&topics, 1, 300);
        assert_eq!([held(&topics, 0), held(&topics, 1)], [(2, 2), (1, 2)]);
        publish(&topics, 0, 4);
        assert_eq!([held(&topics, 0), held(&topics, 1)], [(2, 3), (2, 2)]);
        assert_eq!(topics.retained_bytes(), line);
    }

    /// A dropped log gives back its bytes and its place in the list.
    #[test]
    fn a_dropped_log_leaves_the_budget() {
        let topics = limited(1_000);
        for round in 0..3 {
            for n in 0..50 {
                publish(&topics, n, 4);
            }
            assert!(topics.retained_bytes() > 900, "{round}");
            (0..4).for_each(|_| topics.sweep());
            assert_eq!((topics.retained_bytes(), topics.listed()), (0, 0));
        }
    }
}
