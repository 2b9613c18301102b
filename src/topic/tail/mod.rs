//! Topics whose logs lie in an [`Archive`], with the newest messages of each in memory.
//!
//! A store on a file or on a distant engine has one [`Tail`]. It pushes each message to the tail
//! once that is durable, and not before. Readers at the head are woken by that, and read from
//! memory. Readers that are further behind ask the archive.

mod reader;

use std::task::Waker;

use dashmap::{DashMap, Entry};

pub(super) use self::reader::TailReader;
use crate::{
    protocol::{Position, Topic, Window},
    sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering},
    topic::{
        BoxFuture, Published, Unavailable,
        births::Births,
        budget::Budget,
        entry::{TopicEntry, TopicState},
        limits::Retention,
        log::stuffed,
    },
};

/// Has the messages that the tail does not.
pub(super) trait Archive: Send + Sync + 'static {
    /// Reads messages of a log from a number on, in order, until `bytes` are used up. At least one,
    /// if there is one. Numbers that are missing among them are lost.
    fn fetch(&self, ask: Ask) -> BoxFuture<Result<Vec<Fetched>, Unavailable>>;

    /// The last reader of a log that was closed has left. It may be called more than once.
    fn discard(&self, log: u64);
}

/// What a reader asks an archive for.
#[derive(Debug)]
pub(super) struct Ask {
    /// The archive's own name of the log.
    pub(super) log: u64,
    pub(super) from: Position,
    pub(super) bytes: usize,
}

/// A message of an archive, which has verified it.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) sequence: u64,
    pub(super) payload: Vec<u8>,
}

/// The topics of one store.
pub(super) struct Tail<A> {
    pub(super) archive: A,
    topics: DashMap<Topic, Arc<Kept>>,
    births: Mutex<Births>,
    budget: Budget,
    /// What the tail of one topic holds.
    retention: Retention,
    max_topics: usize,
    /// The number of topics with a log.
    born: AtomicUsize,
}

/// One topic: its tail, its readers, and what the archive has of it.
///
/// Lock order: the table's shard, then the state of the entry.
pub(super) struct Kept {
    pub(super) entry: Arc<TopicEntry>,
    /// The archive's name of the log; 0 while there is none. It never changes after that.
    log: AtomicU64,
    /// The oldest number that is retained. It changes only while the state is locked.
    first: AtomicU64,
    /// The first message is being written, so the topic has to stay in the table.
    is_held: AtomicBool,
}

impl<A: Archive> Tail<A> {
    /// A tail that holds `retention` of each topic and `bytes` of all.
    pub(super) fn new(
        archive: A,
        births: Births,
        retention: Retention,
        bytes: usize,
        max_topics: usize,
    ) -> Self {
        Self {
            archive,
            topics: DashMap::new(),
            births: Mutex::new(births),
            budget: Budget::new(bytes),
            retention,
            max_topics,
            born: AtomicUsize::new(0),
        }
    }

    /// Adds a log that the archive has.
    pub(super) fn load(&self, topic: &Topic, log: u64, window: Window) -> Arc<Kept> {
        let Window { epoch, first, next } = window;
        let kept = self.new_kept(topic, Position { epoch, next });
        kept.log.store(log, Ordering::Release);
        kept.first.store(first, Ordering::Release);
        self.born.fetch_add(1, Ordering::Relaxed);
        self.topics.insert(topic.clone(), kept.clone());
        kept
    }

    /// How many topics have a log.
    pub(super) fn born(&self) -> usize {
        self.born.load(Ordering::Relaxed)
    }

    /// Whether `topic` has a log or may get one.
    pub(super) fn has_room_for(&self, topic: &Topic) -> bool {
        self.has_room() || self.topics.get(topic).is_some_and(|kept| kept.log().is_some())
    }

    /// Whether one more topic may get a log.
    pub(super) fn has_room(&self) -> bool {
        self.born() < self.max_topics
    }

    /// Adds a reader to `topic`.
    fn enter(&self, topic: &Topic) -> (Arc<Kept>, u32) {
        let kept = match self.topics.entry(topic.clone()) {
            Entry::Occupied(kept) => kept.into_ref(),
            Entry::Vacant(kept) => kept.insert(self.kept_at_birth(topic)),
        };
        let slot = kept.entry.state.lock().readers.add();
        (kept.clone(), slot)
    }

    /// The topic, to write to it. If it has no log and gets none, [`release`](Self::release) it.
    pub(super) fn hold(&self, topic: &Topic) -> Arc<Kept> {
        let kept = match self.topics.entry(topic.clone()) {
            Entry::Occupied(kept) => kept.into_ref(),
            Entry::Vacant(kept) => kept.insert(self.kept_at_birth(topic)),
        };
        kept.is_held.store(true, Ordering::Release);
        kept.clone()
    }

    /// Lets a topic that still has no log go with its last reader.
    pub(super) fn release(&self, kept: &Kept) {
        kept.is_held.store(false, Ordering::Release);
        self.topics.remove_if(&kept.entry.topic, |_, current| {
            std::ptr::eq(&**current, kept) && kept.is_unused(&kept.entry.state.lock())
        });
    }

    /// The first message of a topic is durable: its log has this name in the archive.
    pub(super) fn birth(&self, kept: &Kept, log: u64) {
        kept.log.store(log, Ordering::Release);
        kept.is_held.store(false, Ordering::Release);
        self.born.fetch_add(1, Ordering::Relaxed);
    }

    /// Appends a message that is durable, and wakes the readers that waited for it.
    pub(super) fn push(&self, kept: &Kept, payload: &[u8]) -> Published {
        let mut buffer = Vec::new();
        let line = stuffed(payload, &mut buffer);
        let appended = self.budget.append(&kept.entry, &mut kept.entry.state.lock(), None, line);
        self.budget.settle(appended)
    }

    /// Numbers below `first` are no longer retained.
    pub(super) fn trim(&self, kept: &Kept, first: u64) {
        let mut state = kept.entry.state.lock();
        kept.first.store(first, Ordering::Release);
        let before = state.log.bytes();
        while state.log.oldest().is_some() && state.log.window().first < first {
            state.log.drop_oldest();
        }
        self.budget.count(before, state.log.bytes());
    }

    /// The log was closed: the readers get what is left, and the next message begins a new epoch.
    /// Returns whether there are readers.
    pub(super) fn close(&self, kept: &Kept) -> bool {
        let topic = &kept.entry.topic;
        let (gone, waiting, has_readers) = {
            let entry = self.topics.entry(topic.clone());
            let mut state = kept.entry.state.lock();
            state.is_closed = true;
            let (waiting, has_readers) = (state.readers.take_waiting(), !state.readers.is_empty());
            if !has_readers {
                self.clear(&mut state);
            }
            drop(state);
            self.births.lock().retire(topic, self.max_topics);
            let gone = match entry {
                Entry::Occupied(entry) => Some(entry.remove()),
                Entry::Vacant(_) => None,
            };
            (gone, waiting, has_readers)
        };
        self.born.fetch_sub(1, Ordering::Relaxed);
        waiting.into_iter().for_each(Waker::wake);
        drop(gone);
        has_readers
    }

    /// Makes a topic whose log was dropped come back under another epoch. Returns where that log
    /// ended; `None` if there was none.
    pub(super) fn retire(&self, topic: &Topic) -> Option<Position> {
        let mut births = self.births.lock();
        let end = births.ended(topic)?;
        births.retire(topic, self.max_topics);
        Some(end)
    }

    /// Counts a sweep. Returns the topics without messages that nobody has used for two whole
    /// intervals between sweeps.
    pub(super) fn idle(&self) -> Vec<Topic> {
        let idle = self.topics.iter().filter(|kept| kept.is_empty());
        let idle = idle.filter_map(|kept| kept.entry.count_sweep()).collect();
        self.budget.sweep();
        idle
    }

    /// Drops the empty log of a topic, if it is still not used. The topic goes on where it ended.
    /// Returns the archive's name of the log.
    pub(super) fn forget(&self, topic: &Topic) -> Option<u64> {
        let (_, kept) = self.topics.remove_if(topic, |_, kept| {
            let end = kept.entry.may_go();
            let note = |end| self.births.lock().note_end(topic, end, self.max_topics);
            // The shard is still locked, so no task finds the topic without a log.
            end.map(note).is_some()
        })?;
        self.born.fetch_sub(1, Ordering::Relaxed);
        kept.log()
    }

    /// Removes a reader. Called by its drop.
    fn leave(&self, kept: &Arc<Kept>, slot: u32) {
        // Dropping the last waker of a task may drop the task, and with it another reader. So the
        // waker is dropped outside the locks.
        let mut left = None;
        let gone = self.topics.remove_if(&kept.entry.topic, |_, current| {
            let is_current = Arc::ptr_eq(current, kept);
            if is_current {
                left = Some(kept.entry.leave(slot));
            }
            is_current && kept.is_unused(&kept.entry.state.lock())
        });
        let (waker, is_last) = left.unwrap_or_else(|| kept.entry.leave(slot));
        if is_last {
            self.discard_closed(kept);
        }
        drop((gone, waker));
    }

    fn discard_closed(&self, kept: &Kept) {
        let mut state = kept.entry.state.lock();
        if !state.is_closed {
            return;
        }
        self.clear(&mut state);
        drop(state);
        if let Some(log) = kept.log() {
            self.archive.discard(log);
        }
    }

    fn clear(&self, state: &mut TopicState) {
        self.budget.count(state.log.bytes(), 0);
        state.log.clear();
    }

    fn kept_at_birth(&self, topic: &Topic) -> Arc<Kept> {
        let begin = self.births.lock().begin(topic);
        self.new_kept(topic, begin)
    }

    fn new_kept(&self, topic: &Topic, begin: Position) -> Arc<Kept> {
        Arc::new(Kept {
            entry: Arc::new(TopicEntry::new(topic, begin, self.retention)),
            log: AtomicU64::new(0),
            first: AtomicU64::new(begin.next),
            is_held: AtomicBool::new(false),
        })
    }
}

impl Kept {
    /// The archive's name of the log; `None` while there is none.
    pub(super) fn log(&self) -> Option<u64> {
        Some(self.log.load(Ordering::Acquire)).filter(|&log| log != 0)
    }

    /// The oldest number that is retained.
    fn first(&self) -> u64 {
        self.first.load(Ordering::Acquire)
    }

    /// Where the log goes on.
    pub(super) fn end(&self) -> Position {
        self.entry.state.lock().log.end()
    }

    /// Whether there is a log, and no message in it.
    fn is_empty(&self) -> bool {
        let Window { first, next, .. } = self.window(&self.entry.state.lock());
        self.log().is_some() && first == next
    }

    /// What the tail and the archive have together.
    fn window(&self, state: &TopicState) -> Window {
        Window { first: self.first.load(Ordering::Acquire), ..state.log.window() }
    }

    fn is_unused(&self, state: &TopicState) -> bool {
        self.log().is_none() && !self.is_held.load(Ordering::Acquire) && state.readers.is_empty()
    }
}
