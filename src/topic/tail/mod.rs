//! Topics whose logs lie in an [`Archive`], with the newest messages of each in memory.
//!
//! A store on a file or on a distant engine has one [`Tail`]. It pushes each message to the tail
//! once that is durable, and not before. Readers at the head are woken by that, and read from
//! memory. Readers that are further behind ask the archive.

#[cfg(feature = "redis")]
mod follow;
#[cfg(feature = "sqlite")]
mod owned;
mod reader;

use dashmap::{DashMap, Entry};

pub(super) use self::reader::TailReader;
use crate::{
    protocol::{Code, Position, Topic, Window},
    sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering},
    topic::{
        BoxFuture, TopicStats, Unavailable,
        births::Births,
        budget::Budget,
        entry::{TopicEntry, TopicState},
        limits::Retention,
    },
};

/// Has the messages that the tail does not.
pub(super) trait Archive: Send + Sync + 'static {
    /// The reason of a gap for numbers that are retained, and that the archive does not have.
    const LOST: Code;

    /// Reads a log from a number on, in order, until `bytes` are used up. At least one message, if
    /// there is one. Numbers that are missing among what it finds are lost.
    fn fetch(&self, ask: Ask) -> BoxFuture<Result<Vec<Fetched>, Unavailable>>;

    /// The last reader of a log that was closed has left. It may be called more than once.
    fn discard(&self, log: u64);
}

/// What a reader asks an archive for.
#[derive(Debug)]
pub(super) struct Ask {
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "for logs of several processes")
    )]
    pub(super) topic: Topic,
    /// The archive's own name of the log; 0 if it has given none.
    #[cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "for logs of one process"))]
    pub(super) log: u64,
    pub(super) from: Position,
    pub(super) bytes: usize,
}

/// What an archive has of a log, and has verified.
#[derive(Debug)]
pub(super) enum Fetched {
    Message {
        sequence: u64,
        payload: Vec<u8>,
    },
    /// Later messages of the same keys have taken the place of these.
    Replaced {
        first: u64,
        last: u64,
    },
}

impl Fetched {
    pub(super) fn first(&self) -> u64 {
        match *self {
            Self::Message { sequence: first, .. } | Self::Replaced { first, .. } => first,
        }
    }
}

/// The topics of one store.
pub(super) struct Tail<A> {
    pub(super) archive: A,
    topics: DashMap<Topic, Arc<Kept>>,
    births: Mutex<Births>,
    budget: Budget,
    /// What the tail of one topic holds.
    retention: Retention,
    #[cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "for logs of one process"))]
    max_topics: usize,
    /// The number of topics with a log.
    #[cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "for logs of one process"))]
    born: AtomicUsize,
}

/// One topic: its tail, its readers, and what the archive has of it.
///
/// Lock order: the table's shard, then the state of the entry.
pub(super) struct Kept {
    pub(super) entry: Arc<TopicEntry>,
    /// The archive's name of the log; 0 while there is none. It never changes after that.
    log: AtomicU64,
    /// The oldest number that is retained, or was replaced. It changes only while the state is
    /// locked.
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

    /// Adds a reader to `topic`.
    fn enter(&self, topic: &Topic) -> (Arc<Kept>, u32) {
        let kept = match self.topics.entry(topic.clone()) {
            Entry::Occupied(kept) => kept.into_ref(),
            Entry::Vacant(kept) => kept.insert(self.kept_at_birth(topic)),
        };
        let slot = kept.entry.state.lock().readers.add();
        (kept.clone(), slot)
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

    /// The topics that have a log.
    pub(super) fn stats(&self, has_log: impl Fn(&Kept, &TopicState) -> bool) -> Vec<TopicStats> {
        let stats = |kept: &Kept| kept.entry.stats(|state| has_log(kept, state));
        self.topics.iter().filter_map(|kept| stats(kept.value())).collect()
    }

    /// Gives the memory of what is gone back.
    pub(super) fn tidy(&self) {
        self.budget.sweep();
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
        if gone.is_some() {
            // Only the tail of a log that others write may hold messages then.
            self.clear(&mut kept.entry.state.lock());
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

    /// What the tail and the archive have together.
    fn window(&self, state: &TopicState) -> Window {
        Window { first: self.first.load(Ordering::Acquire), ..state.log.window() }
    }

    fn is_unused(&self, state: &TopicState) -> bool {
        self.log().is_none() && !self.is_held.load(Ordering::Acquire) && state.readers.is_empty()
    }
}
