//! What the tasks have to do.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::connection::Once;
use crate::{
    protocol::{Position, Topic, Window},
    topic::{PublishError, Published, Unavailable},
};

/// What the task that writes has to do, in this order.
pub(super) enum Command {
    Append(Append),
    Close(Topic, oneshot::Sender<Result<Option<Position>, Unavailable>>),
    /// Replaces the connection if it does not work, and sets the state in any case.
    Check,
    /// An interval between two sweeps is over.
    Sweep,
    /// Ends the task, once all earlier commands are done.
    Stop(Option<oneshot::Sender<()>>),
}

/// A message to be written, and its publisher.
pub(super) struct Append {
    pub(super) topic: Topic,
    /// It replaces the message that has the same key.
    pub(super) key: Option<Bytes>,
    pub(super) payload: Bytes,
    /// If its producer gave it a number.
    pub(super) once: Option<Once>,
    pub(super) done: oneshot::Sender<Result<Published, PublishError>>,
}

/// What a waiting message takes beyond its payload and its topic, in bytes, about.
const OVERHEAD: usize = 128;

impl Append {
    /// The bytes that it takes while it waits.
    pub(super) fn bytes(&self) -> usize {
        OVERHEAD + self.topic.as_str().len() + self.content()
    }

    /// The bytes of its payload and its key.
    pub(super) fn content(&self) -> usize {
        self.payload.len() + self.key.as_ref().map_or(0, Bytes::len)
    }
}

/// What the task that listens has to do.
pub(super) enum Order {
    /// Says where the topic is, once its channel is subscribed to.
    Sync(Topic, oneshot::Sender<Window>),
    /// The topic may have another log than the tail has.
    Doubt(Topic),
    /// The topic may have no readers any more.
    Left(Topic),
}
