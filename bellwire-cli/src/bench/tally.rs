//! The counts of a task, handed in when the task has ended.

use std::ops::{Deref, DerefMut};

use tokio::sync::mpsc::UnboundedSender;

/// The counts of one task. They are sent to the collector when this is dropped, so the counts of an
/// aborted task are not lost. They are not shared before that.
#[derive(Debug)]
pub(crate) struct Tally<T: Default> {
    counts: T,
    collector: UnboundedSender<T>,
}

impl<T: Default> Tally<T> {
    pub(crate) fn new(collector: UnboundedSender<T>) -> Self {
        Self { counts: T::default(), collector }
    }
}

impl<T: Default> Deref for Tally<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.counts
    }
}

impl<T: Default> DerefMut for Tally<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.counts
    }
}

impl<T: Default> Drop for Tally<T> {
    fn drop(&mut self) {
        // Without a collector the run has failed, and the counts are not needed.
        let _ = self.collector.send(std::mem::take(&mut self.counts));
    }
}
