//! What the writer has to do.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::keys::{KeyWrite, LoadKeys};
use crate::{
    protocol::{Position, Topic},
    topic::{PublishError, Published, Unavailable},
};

/// Commands, in the order in which they are obeyed.
pub(super) enum Command {
    Append(Append),
    Key(KeyWrite),
    LoadKeys(LoadKeys),
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
    /// It replaces the message that has the same key.
    pub(super) key: Option<Bytes>,
    pub(super) payload: Bytes,
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
    fn content(&self) -> usize {
        self.payload.len() + self.key.as_ref().map_or(0, Bytes::len)
    }
}

/// What is written in one transaction.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) appends: Vec<Append>,
    pub(super) keys: Vec<KeyWrite>,
    /// Of payloads and keys.
    pub(super) bytes: usize,
}

impl Batch {
    /// Takes what is to be written. Returns any other command.
    pub(super) fn add(&mut self, command: Command) -> Option<Command> {
        match command {
            Command::Append(append) => {
                self.bytes += append.content();
                self.appends.push(append);
            }
            Command::Key(write) => {
                self.bytes += write.bytes();
                self.keys.push(write);
            }
            other => return Some(other),
        }
        None
    }

    pub(super) fn len(&self) -> usize {
        self.appends.len() + self.keys.len()
    }
}
