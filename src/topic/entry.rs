//! One topic in memory: its log, and the readers of it.

use std::task::Waker;

use crate::{
    protocol::{Position, Topic},
    sync::Mutex,
    topic::{limits::Retention, log::Log, readers::Readers},
};

/// Sweeps that a log outlives unused: after the first, which may come at once, two whole intervals.
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
    /// Sweeps since the last message, and since the last reader left.
    pub(super) swept: u8,
    /// The budget knows, or is about to be told, that the log has lines.
    pub(super) is_listed: bool,
    /// The log was closed, and stays only for the readers that it had.
    pub(super) is_closed: bool,
}

impl TopicEntry {
    /// A topic without messages, whose first gets the number of `begin`.
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

    /// Counts a sweep; the topic, if its log may go.
    pub(super) fn swept(&self) -> Option<Topic> {
        let mut state = self.state.lock();
        if state.log.is_unborn() || !state.readers.is_empty() {
            return None;
        }
        state.swept = state.swept.saturating_add(1);
        (state.swept > SWEEPS).then(|| self.topic.clone())
    }

    /// Where the log ends, if it may still be dropped: since the sweep found that it may, a reader
    /// or a message may have come.
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
