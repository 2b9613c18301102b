//! The tail of logs that others write, too. It follows them, and asks the archive for what it
//! missed.

use std::task::Waker;

use super::{Archive, Kept, Tail};
use crate::{
    protocol::{Position, Topic, Window},
    sync::{Arc, Ordering},
    topic::{
        entry::TopicState,
        log::{Log, stuffed},
    },
};

impl<A: Archive> Tail<A> {
    /// The topic, if it has readers.
    pub(in crate::topic) fn find(&self, topic: &Topic) -> Option<Arc<Kept>> {
        self.topics.get(topic).map(|kept| kept.clone())
    }

    /// The topics that have readers.
    pub(in crate::topic) fn followed(&self) -> Vec<Topic> {
        self.topics.iter().map(|kept| kept.key().clone()).collect()
    }

    /// Appends the message `at` to the log that has this epoch, and wakes the readers that waited
    /// for it. With a key, it replaces the one that has the same key. The numbers that were missed
    /// before it are in the archive only. A message that the tail has is left out.
    pub(in crate::topic) fn push_at(
        &self,
        kept: &Kept,
        at: Position,
        key: Option<&[u8]>,
        payload: &[u8],
    ) {
        let mut buffer = Vec::new();
        let line = stuffed(payload, &mut buffer);
        let mut state = kept.entry.state.lock();
        let end = state.log.end();
        if state.readers.is_empty() || end.epoch != at.epoch || at.next < end.next {
            return;
        }
        if at.next > end.next {
            self.begin_anew(kept, &mut state, at);
        }
        let appended = self.budget.append(&kept.entry, &mut state, key, line);
        drop(state);
        self.budget.settle(appended);
    }

    /// The log is `window`: a log of another epoch takes the place of this one, and messages that
    /// are not in the tail are in the archive only. Wakes the readers if that changes anything.
    pub(in crate::topic) fn catch_up(&self, kept: &Kept, window: Window) {
        let Window { epoch, first, next } = window;
        let mut state = kept.entry.state.lock();
        let end = state.log.end();
        if state.is_closed || (end.epoch == epoch && end.next >= next) {
            return;
        }
        if end.epoch != epoch {
            kept.first.store(first, Ordering::Release);
        }
        self.begin_anew(kept, &mut state, Position { epoch, next });
        let waiting = state.readers.take_waiting();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Numbers below `first` are no longer retained, as far as the tail has come.
    pub(in crate::topic) fn trim_followed(&self, kept: &Kept, first: u64) {
        let first = first.min(kept.end().next);
        if first > kept.first() {
            self.trim(kept, first);
        }
    }

    /// The log was closed at `end`: its readers get what is left, and then its end. Does nothing if
    /// the topic has another log.
    pub(in crate::topic) fn finish(&self, kept: &Arc<Kept>, end: Position) {
        let mut waiting = Vec::new();
        let gone = self.topics.remove_if(&kept.entry.topic, |_, current| {
            let mut state = kept.entry.state.lock();
            let at = state.log.end();
            if !Arc::ptr_eq(current, kept) || at.epoch != end.epoch {
                return false;
            }
            if at.next < end.next {
                self.begin_anew(kept, &mut state, end);
            }
            state.is_closed = true;
            waiting = state.readers.take_waiting();
            true
        });
        waiting.into_iter().for_each(Waker::wake);
        drop(gone);
    }

    /// Empties the tail. The next message has the number of `begin`.
    fn begin_anew(&self, kept: &Kept, state: &mut TopicState, begin: Position) {
        self.budget.count(state.log.bytes(), 0);
        state.log = Log::new(&kept.entry.topic, begin, self.retention);
    }
}
