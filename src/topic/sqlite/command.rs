//! What the writer has to do.

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{
    protocol::{Position, Topic},
    topic::{PublishError, Published, Unavailable},
};

/// Commands, in the order in which they are obeyed.
pub(super) enum Command {
    Append(Append),
    Close(Topic, oneshot::Sender<Result<Option<Position>, Unavailable>>),
    /// The last reader of a closed log has left.
    Discard(u64),
    /// An interval between two sweeps is over.
    Sweep,
    /// Ends the thread. All earlier commands are done then, and the file is free.
    Stop(Option<oneshot::Sender<Result<(), Unavailable>>>),
}

/// A message to be written, and its publisher.
pub(super) struct Append {
    pub(super) topic: Topic,
    pub(super) payload: Bytes,
    pub(super) done: oneshot::Sender<Result<Published, PublishError>>,
}

/// What a waiting message takes beyond its payload and its topic, in bytes, about.
const OVERHEAD: usize = 128;

impl Append {
    /// The bytes that it takes while it waits.
    pub(super) fn bytes(&self) -> usize {
        OVERHEAD + self.topic.as_str().len() + self.payload.len()
    }
}
