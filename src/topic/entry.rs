//! One topic in memory: its log and its readers.

use std::task::Waker;

use crate::{
    protocol::{Position, Topic},
    sync::Mutex,
    topic::{TopicStats, limits::Retention, log::Log, readers::Readers},
};

/// The sweeps that an unused log outlives. The first one may come at once; two whole intervals
/// follow.
pub(super) const SWEEPS: u8 = 2;

/// Lock order: the hub's shard, then `state`.
#[derive(Debug)]
pub(super) struct TopicEntry {
    pub(super) topic: Topic,
    pub(super) state: Mutex<TopicState>,
}

#[derive(Debug)]
pub(super) struct TopicState {
    pub(super) log: Log,
    pub(super) readers: Readers,
    /// Sweeps since the last message and since the last reader left.
    pub(super) swept: u8,
    /// The budget lists the log, or is about to list it.
    pub(super) is_listed: bool,
    /// The log was closed, and is kept only for the readers that it had.
    pub(super) is_closed: bool,
}

impl TopicEntry {
    /// A topic without messages. Its first message gets the number of `begin`.
    pub(super) fn new(topic: &Topic, begin: Position, retention: Retention) -> Self {
        let state = TopicState {
            log: Log::new(topic, begin, retention),
            readers: Readers::default(),
            swept: 0,
            is_listed: false,
            is_closed: false,
        };
        Self { topic: topic.clone(), state: Mutex::new(state) }
    }

    /// The topic's statistics, if it has a log.
    pub(super) fn stats(&self, has_log: impl FnOnce(&TopicState) -> bool) -> Option<TopicStats> {
        let state = self.state.lock();
        has_log(&state).then(|| TopicStats {
            topic: self.topic.clone(),
            end: state.log.end(),
            retained_bytes: state.log.bytes(),
            subscribers: state.readers.len(),
        })
    }

    /// Counts a sweep, if there was ever a message. Returns the topic if its log may be dropped.
    pub(super) fn swept(&self) -> Option<Topic> {
        if self.state.lock().log.is_unborn() {
            return None;
        }
        self.count_sweep()
    }

    /// Counts a sweep. Returns the topic if it was unused for long enough.
    pub(super) fn count_sweep(&self) -> Option<Topic> {
        let mut state = self.state.lock();
        if !state.readers.is_empty() {
            return None;
        }
        state.swept = state.swept.saturating_add(1);
        (state.swept > SWEEPS).then(|| self.topic.clone())
    }

    /// The end of the log, if the log may still be dropped. A reader or a message may have come
    /// since the sweep.
    pub(super) fn may_go(&self) -> Option<Position> {
        let state = self.state.lock();
        (state.swept > SWEEPS && state.readers.is_empty()).then(|| state.log.end())
    }

    /// Removes a reader. Returns its waker, to be dropped outside the locks, and whether it was the
    /// last reader.
    pub(super) fn leave(&self, slot: u32) -> (Option<Waker>, bool) {
        let mut state = self.state.lock();
        let waker = state.readers.remove(slot);
        state.swept = 0;
        (waker, state.readers.is_empty())
    }
}
