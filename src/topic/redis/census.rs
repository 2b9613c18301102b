//! How many topics have a log in Redis, and which, once there is room for no further one.

use std::collections::HashSet;

use super::{connection::Connection, error::Failure};
use crate::{
    protocol::Topic,
    sync::{AtomicUsize, Mutex, Ordering},
};

/// What is known of the number of logs. Other servers change it, too, so it may be old.
pub(super) struct Census {
    limit: usize,
    count: AtomicUsize,
    /// The topics with a log, while there are as many as there may be; empty before.
    names: Mutex<HashSet<Topic>>,
}

impl Census {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, count: AtomicUsize::new(0), names: Mutex::default() }
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether `topic` has a log or may get one.
    pub(super) fn has_room_for(&self, topic: &Topic) -> bool {
        self.count() < self.limit || self.names.lock().contains(topic)
    }

    /// Redis says how many logs there are. `born` have a log, and `ended` has none.
    pub(super) async fn learn(
        &self,
        connection: &Connection,
        count: usize,
        born: impl Iterator<Item = Topic>,
        ended: Option<&Topic>,
    ) -> Result<(), Failure> {
        if !self.note(count, born, ended) {
            let names = connection.topics().await?.into_iter().collect();
            let before = std::mem::replace(&mut *self.names.lock(), names);
            drop(before);
        }
        self.count.store(count, Ordering::Relaxed);
        Ok(())
    }

    /// Returns whether the names are as many as they should be.
    fn note(&self, count: usize, born: impl Iterator<Item = Topic>, ended: Option<&Topic>) -> bool {
        let mut names = self.names.lock();
        if let Some(ended) = ended {
            names.remove(ended);
        }
        if count < self.limit {
            // A log that was closed leaves the others known: the next one may fill the place.
            if self.count() < self.limit && !names.is_empty() {
                names.clear();
            }
            return true;
        }
        names.extend(born);
        names.len() == count
    }
}
