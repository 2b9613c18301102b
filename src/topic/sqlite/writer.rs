//! The thread that writes. Messages and keys that wait are committed together.

use std::{
    fs, io,
    path::PathBuf,
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    book::Book,
    command::{Batch, Command},
    history::Task,
    open::TARGET,
};
use crate::topic::Unavailable;

/// Messages and keys, and bytes of them, that one transaction has at most; the bytes by one message
/// more.
const BATCH: usize = 1_024;
const BATCH_BYTES: usize = 1 << 20;
/// After so many bytes of payload the write-ahead log is moved into the file by another thread.
const MOVE: usize = 4 << 20;
/// If it is still longer than this, in bytes, this thread does it, and publishing waits.
const LONGEST: u64 = 128 << 20;
/// How long to wait for a command before old messages are looked for.
const PAUSE: Duration = Duration::from_secs(1);
/// The same while more of them were left.
const SHORT_PAUSE: Duration = Duration::from_millis(5);

/// The state of the thread.
pub(super) struct Writer {
    pub(super) book: Book,
    pub(super) commands: mpsc::Receiver<Command>,
    /// The thread that reads, and how to reach it.
    pub(super) history: (mpsc::Sender<Task>, JoinHandle<()>),
    /// Where the write-ahead log is.
    pub(super) journal: PathBuf,
    /// Bytes since that was last moved.
    pub(super) unmoved: usize,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(self) -> io::Result<()> {
        let run = move || self.run();
        thread::Builder::new().name("bellwire-store".into()).spawn(run).map(drop)
    }

    fn run(mut self) {
        let mut rest_at = Instant::now() + PAUSE;
        loop {
            let pause = rest_at.saturating_duration_since(Instant::now());
            let mut next = match self.commands.recv_timeout(pause) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Command::Stop(None)),
            };
            while let Some(command) = next.take() {
                match command {
                    Command::Append(_) | Command::Key(_) => next = self.write(command),
                    Command::Stop(done) => return self.stop(done),
                    other => self.obey(other),
                }
            }
            if Instant::now() >= rest_at {
                rest_at = Instant::now() + self.rest();
            }
        }
    }

    /// Writes a message or a key, together with those that wait behind it. Returns a command that
    /// came after them.
    fn write(&mut self, first: Command) -> Option<Command> {
        let mut batch = Batch::default();
        let mut next = batch.add(first);
        while next.is_none() && batch.len() < BATCH && batch.bytes < BATCH_BYTES {
            let Ok(command) = self.commands.try_recv() else { break };
            next = batch.add(command);
        }
        self.unmoved += batch.bytes;
        self.book.commit(batch);
        if self.unmoved >= MOVE {
            self.move_journal();
        }
        next
    }

    fn move_journal(&mut self) {
        self.unmoved = 0;
        // If that thread has ended, the log grows until this one moves it.
        let _ = self.history.0.send(Task::Checkpoint);
        let length = fs::metadata(&self.journal).map_or(0, |found| found.len());
        if length > LONGEST
            && let Err(error) = self.book.empty_journal()
        {
            tracing::warn!(target: TARGET, %error, "cannot move the write-ahead log into the file");
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Close(topic, done) => {
                // The publisher may be gone.
                let _ = done.send(self.book.close(&topic));
            }
            Command::Discard(log) => self.book.discard(log),
            Command::Sweep => {
                self.book.trim_some();
                self.book.drop_idle();
            }
            Command::LoadKeys(load) => self.book.load_keys(load),
            Command::Append(_) | Command::Key(_) | Command::Stop(_) => {}
        }
    }

    /// Does what can wait, some of it. Returns when to do so again.
    fn rest(&mut self) -> Duration {
        if self.book.trim_some() {
            return SHORT_PAUSE;
        }
        if self.unmoved > 0 {
            self.move_journal();
        }
        if let Err(error) = self.book.shrink() {
            tracing::warn!(target: TARGET, %error, "cannot give free pages back");
        }
        PAUSE
    }

    fn stop(self, done: Option<oneshot::Sender<Result<(), Unavailable>>>) {
        let (tasks, thread) = self.history;
        // It may have ended before.
        let _ = tasks.send(Task::Stop);
        let _ = thread.join();
        let stopped = self.book.shut();
        if let Some(done) = done {
            // The caller may be gone.
            let _ = done.send(stopped);
        }
    }
}
