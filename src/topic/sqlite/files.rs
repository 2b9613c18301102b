//! How to reach the threads of a file.

use std::sync::mpsc;

use tokio::sync::oneshot;

use super::{
    command::{Append, Command},
    history::Task,
};
use crate::{
    protocol::Code,
    sync::{AtomicUsize, Ordering},
    topic::{
        BoxFuture, Unavailable,
        tail::{Archive, Ask, Fetched},
    },
};

/// How to reach the threads.
pub(super) struct Files {
    commands: mpsc::Sender<Command>,
    tasks: mpsc::Sender<Task>,
    /// Bytes of messages that wait to be written.
    queued: AtomicUsize,
}

impl Files {
    pub(super) fn new(commands: mpsc::Sender<Command>, tasks: mpsc::Sender<Task>) -> Self {
        Self { commands, tasks, queued: AtomicUsize::new(0) }
    }

    pub(super) fn send(&self, command: Command) -> Result<(), Unavailable> {
        self.commands.send(command).map_err(|_| ended())
    }

    /// Lets a message wait to be written, if there is room.
    pub(super) fn queue(&self, append: Append, limit: usize) -> Result<(), Unavailable> {
        let bytes = append.bytes();
        let before = self.queued.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > limit && before > 0 {
            self.written(bytes);
            return Err(Unavailable(format!("{before} bytes of messages wait for the disk")));
        }
        self.send(Command::Append(append)).inspect_err(|_| self.written(bytes))
    }

    /// So many bytes no longer wait.
    pub(super) fn written(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Archive for Files {
    const LOST: Code = Code::CORRUPT;

    fn fetch(&self, ask: Ask) -> BoxFuture<Result<Vec<Fetched>, Unavailable>> {
        let (done, fetched) = oneshot::channel();
        match self.tasks.send(Task::Fetch(ask, done)) {
            Ok(()) => Box::pin(async { fetched.await.unwrap_or_else(|_| Err(ended())) }),
            Err(_) => Box::pin(std::future::ready(Err(ended()))),
        }
    }

    fn discard(&self, log: u64) {
        // After the end, the next start removes it.
        let _ = self.send(Command::Discard(log));
    }
}

pub(super) fn ended() -> Unavailable {
    Unavailable("the store was closed".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Topic;

    /// A queue of messages without payloads has a bound, too. Written messages make room.
    #[test]
    fn empty_messages_fill_the_queue() {
        let (commands, waiting) = mpsc::channel();
        let files = Files::new(commands, mpsc::channel().0);
        let append = || {
            let (topic, done) = (Topic::new("t").unwrap(), oneshot::channel().0);
            Append { topic, key: None, payload: bytes::Bytes::new(), done }
        };
        let bytes = append().bytes();
        for _ in 0..10 {
            files.queue(append(), 10 * bytes).unwrap();
        }
        assert!(files.queue(append(), 10 * bytes).is_err());
        assert_eq!(waiting.try_iter().count(), 10);
        files.written(bytes);
        files.queue(append(), 10 * bytes).unwrap();
    }
}
