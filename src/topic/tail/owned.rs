//! The tail of logs that only this process writes. It knows which logs there are.

use std::task::Waker;

use dashmap::Entry;

use super::{Archive, Kept, Tail};
use crate::{
    protocol::{Position, Topic, Window},
    sync::{Arc, Ordering},
    topic::{Published, log::stuffed},
};

impl<A: Archive> Tail<A> {
    /// Adds a log that the archive has.
    pub(in crate::topic) fn load(&self, topic: &Topic, log: u64, window: Window) -> Arc<Kept> {
        let Window { epoch, first, next } = window;
        let kept = self.new_kept(topic, Position { epoch, next });
        kept.log.store(log, Ordering::Release);
        kept.first.store(first, Ordering::Release);
        self.born.fetch_add(1, Ordering::Relaxed);
        self.topics.insert(topic.clone(), kept.clone());
        kept
    }

    /// How many topics have a log.
    pub(in crate::topic) fn born(&self) -> usize {
        self.born.load(Ordering::Relaxed)
    }

    /// Whether `topic` has a log or may get one.
    pub(in crate::topic) fn has_room_for(&self, topic: &Topic) -> bool {
        self.has_room() || self.topics.get(topic).is_some_and(|kept| kept.log().is_some())
    }

    /// Whether one more topic may get a log.
    pub(in crate::topic) fn has_room(&self) -> bool {
        self.born() < self.max_topics
    }

    /// The topic, to write to it. If it has no log and gets none, [`release`](Self::release) it.
    pub(in crate::topic) fn hold(&self, topic: &Topic) -> Arc<Kept> {
        let kept = match self.topics.entry(topic.clone()) {
            Entry::Occupied(kept) => kept.into_ref(),
            Entry::Vacant(kept) => kept.insert(self.kept_at_birth(topic)),
        };
        kept.is_held.store(true, Ordering::Release);
        kept.clone()
    }

    /// Lets a topic that still has no log go with its last reader.
    pub(in crate::topic) fn release(&self, kept: &Kept) {
        kept.is_held.store(false, Ordering::Release);
        self.topics.remove_if(&kept.entry.topic, |_, current| {
            std::ptr::eq(&**current, kept) && kept.is_unused(&kept.entry.state.lock())
        });
    }

    /// The first message of a topic is durable: its log has this name in the archive.
    pub(in crate::topic) fn birth(&self, kept: &Kept, log: u64) {
        kept.log.store(log, Ordering::Release);
        kept.is_held.store(false, Ordering::Release);
        self.born.fetch_add(1, Ordering::Relaxed);
    }

    /// Appends a message that is durable, and wakes the readers that waited for it. With a key, it
    /// replaces the one that has the same key.
    pub(in crate::topic) fn push(
        &self,
        kept: &Kept,
        key: Option<&[u8]>,
        payload: &[u8],
    ) -> Published {
        let mut buffer = Vec::new();
        let line = stuffed(payload, &mut buffer);
        let appended = self.budget.append(&kept.entry, &mut kept.entry.state.lock(), key, line);
        self.budget.settle(appended)
    }

    /// The log was closed: the readers get what is left, and the next message begins a new epoch.
    /// Returns whether there are readers.
    pub(in crate::topic) fn close(&self, kept: &Kept) -> bool {
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
    pub(in crate::topic) fn retire(&self, topic: &Topic) -> Option<Position> {
        let mut births = self.births.lock();
        let end = births.ended(topic)?;
        births.retire(topic, self.max_topics);
        Some(end)
    }

    /// Counts a sweep. Returns the topics without messages that nobody has used for two whole
    /// intervals between sweeps.
    pub(in crate::topic) fn idle(&self) -> Vec<Topic> {
        let idle = self.topics.iter().filter(|kept| kept.is_empty());
        let idle = idle.filter_map(|kept| kept.entry.count_sweep()).collect();
        self.tidy();
        idle
    }

    /// Drops the empty log of a topic, if it is still not used. The topic goes on where it ended.
    /// Returns the archive's name of the log.
    pub(in crate::topic) fn forget(&self, topic: &Topic) -> Option<u64> {
        let (_, kept) = self.topics.remove_if(topic, |_, kept| {
            let end = kept.entry.may_go();
            let note = |end| self.births.lock().note_end(topic, end, self.max_topics);
            // The shard is still locked, so no task finds the topic without a log.
            end.map(note).is_some()
        })?;
        self.born.fetch_sub(1, Ordering::Relaxed);
        kept.log()
    }
}

impl Kept {
    /// Whether there is a log, and no message in it.
    fn is_empty(&self) -> bool {
        let Window { first, next, .. } = self.window(&self.entry.state.lock());
        self.log().is_some() && first == next
    }
}
