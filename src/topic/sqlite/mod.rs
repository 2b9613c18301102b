//! Topics in a file, by SQLite, with the feature `sqlite`: logs that outlive the process.
//!
//! [`SqliteTopics`] is a [`TopicStore`] for one server on one machine. A server that is restarted
//! goes on with the same epochs and numbers, so its clients resume without a gap. The file also has
//! the keys of [`SqliteKeys`](crate::server::keys::SqliteKeys).
//!
//! ```no_run
//! use bellwire::{Router, Server, topic::sqlite::SqliteTopics};
//!
//! # async fn run(router: Router) -> Result<(), Box<dyn std::error::Error>> {
//! let topics = SqliteTopics::open("topics.db").await?;
//! let server = Server::bind("127.0.0.1:7440").await?.topics(topics.clone());
//! server.serve(router).await?;
//! topics.shutdown().await?;
//! # Ok(()) }
//! ```
//!
//! # What survives what
//!
//! | | [`Durability::Power`] | [`Durability::Process`] |
//! |---|---|---|
//! | end of the process, SIGKILL | every message that was published | the same |
//! | power failure, crash of the system | the same | perhaps not the last ones; every log begins a new epoch |
//! | a file that lost transactions: restored from a backup, a write-ahead log that was removed, truncated or damaged | every log begins a new epoch, with the messages that it has | the same |
//! | a damaged message | a gap with the reason `corrupt` | the same |
//! | a damaged database | [`OpenError::Corrupt`] at the start; a gap or an error where it is met later | the same |
//! | a full disk | [`PublishError::Busy`] until there is room | the same |
//!
//! Beside the file, SQLite has `-wal` and `-shm`, and this crate has `-head`, which counts
//! transactions and holds the lock. To copy a store, close it and copy the file with its `-head`. To
//! go back to a copy, set [`SqliteConfig::new_epochs`] once.
//!
//! # How it works
//!
//! One thread writes. Messages that wait for it are committed together, up to 1,024 or 1 MiB.
//! [`Publisher::publish`](crate::Publisher::publish) returns after the commit, and subscribers get
//! the message after it, too. The newest messages are kept in memory. Subscribers that are further
//! behind read the file, in steps of 16 KiB, by another thread: they do not delay publishers and
//! other subscribers.
//!
//! A message with a key ([`Publisher::publish_latest`](crate::Publisher::publish_latest)) removes
//! the one with the same key from the file, in the same transaction. The numbers that were replaced
//! stay in the file as ranges. So a gap has the reason `replaced` only for these.

mod book;
mod command;
mod config;
mod error;
mod file;
mod files;
mod head;
mod history;
mod key_book;
mod keys;
mod open;
mod replaced;
mod trim;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::mpsc,
};

use bytes::Bytes;
use tokio::sync::oneshot;

pub(crate) use self::keys::{KeyChange, KeyRow, KeyWrite, LoadedKeys};
use self::{
    book::Book,
    command::{Append, Command},
    files::{Files, ended},
    keys::LoadKeys,
    writer::Writer,
};
pub use self::{
    config::{Durability, SqliteConfig},
    error::OpenError,
};
use super::{
    BoxFuture, PublishError, Published, TopicReader, TopicStats, TopicStore, Unavailable,
    births::Births,
    limits::Retention,
    tail::{Tail, TailReader},
};
use crate::{
    coop::consume_budget,
    protocol::{Position, Topic},
    sync::Arc,
};

/// A [`TopicStore`] in a file. Cheap to clone. See the [module](self).
///
/// The file is released when the last clone is dropped and all messages are written;
/// [`shutdown`](Self::shutdown) waits for that. Only one store at a time may have a file open.
#[derive(Clone)]
pub struct SqliteTopics(Arc<Handle>);

/// Ends the threads when it is dropped.
struct Handle {
    tail: Arc<Tail<Files>>,
    queue_bytes: usize,
}

impl SqliteTopics {
    /// Opens the file at `path`, or creates it, with the defaults of [`SqliteConfig`].
    ///
    /// ```
    /// use bellwire::{Publisher, topic::sqlite::SqliteTopics};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("topics.db");
    /// let topics = SqliteTopics::open(&path).await?;
    /// let first = Publisher::new(topics.clone()).publish("offers", "one").await?;
    /// topics.shutdown().await?;
    ///
    /// let topics = SqliteTopics::open(&path).await?;
    /// let second = Publisher::new(topics).publish("offers", "two").await?;
    /// assert_eq!((second.epoch, second.sequence), (first.epoch, first.sequence + 1));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`OpenError`]: the file is in use, is not a store, or is damaged, or the system refuses.
    ///
    /// # Cancel safety
    /// If the future is dropped, the file is opened and closed again.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_with(path, SqliteConfig::new()).await
    }

    /// Opens the file at `path`, or creates it, with these settings.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Cancel safety
    /// As [`open`](Self::open).
    pub async fn open_with(
        path: impl AsRef<Path>,
        config: SqliteConfig,
    ) -> Result<Self, OpenError> {
        let (path, (done, opened)) = (path.as_ref().to_owned(), oneshot::channel());
        let open = move || {
            // The caller may be gone.
            let _ = done.send(open(&path, config));
        };
        let thread = std::thread::Builder::new().name("bellwire-open".into());
        thread.spawn(open).map_err(|error| OpenError::Io(error.to_string()))?;
        consume_budget().await;
        opened.await.unwrap_or_else(|_| Err(OpenError::Io("opening it has panicked".into())))
    }

    /// Writes what was published, closes the file and releases it. Messages that are published
    /// later are refused with [`PublishError::Busy`]. Readers go on with what is in memory.
    ///
    /// # Errors
    /// [`Unavailable`]: the file could not be closed in order, or was closed before. Messages that
    /// were published are in it all the same.
    ///
    /// # Cancel safety
    /// The file is closed even if the future is dropped after its first poll.
    pub async fn shutdown(&self) -> Result<(), Unavailable> {
        let (done, stopped) = oneshot::channel();
        self.0.tail.archive.send(Command::Stop(Some(done)))?;
        consume_budget().await;
        stopped.await.unwrap_or_else(|_| Err(ended()))
    }
}

impl SqliteTopics {
    /// Lets a message wait to be written.
    fn queue(
        &self,
        topic: &Topic,
        key: Option<Bytes>,
        payload: Bytes,
    ) -> BoxFuture<Result<Published, PublishError>> {
        let (done, published) = oneshot::channel();
        let append = Append { topic: topic.clone(), key, payload, done };
        match self.0.tail.archive.queue(append, self.0.queue_bytes) {
            Ok(()) => Box::pin(async {
                let lost = |_| Err(PublishError::Unavailable(ended()));
                published.await.unwrap_or_else(lost)
            }),
            Err(busy) => Box::pin(std::future::ready(Err(PublishError::Busy(busy)))),
        }
    }

    /// Loads the keyed requests of the file. Those that were started and have not ended get the
    /// outcome `lost`, which is kept for `kept` milliseconds. They are given out once.
    pub(crate) async fn load_keys(
        &self,
        kept: u64,
        lost: Vec<u8>,
    ) -> Result<LoadedKeys, OpenError> {
        let closed = || OpenError::Io(ended().0);
        let (done, loaded) = oneshot::channel();
        let load = Command::LoadKeys(LoadKeys { kept, lost, done });
        self.0.tail.archive.send(load).map_err(|_| closed())?;
        loaded.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Writes a change of the keyed requests.
    pub(crate) fn write_key(&self, write: KeyWrite) {
        // After the end, the sender is dropped with the change, which tells the caller.
        let _ = self.0.tail.archive.send(Command::Key(write));
    }
}

/// Opens the file, and starts the threads.
fn open(path: &Path, config: SqliteConfig) -> Result<SqliteTopics, OpenError> {
    let io = |error: std::io::Error| OpenError::Io(error.to_string());
    let opened = open::open(path, &config)?;
    let (commands, commanded) = mpsc::channel();
    let (tasks, tasked) = mpsc::channel();
    let reading = history::start(file::connect(path, config.durability)?, tasked).map_err(io)?;
    let files = Files::new(commands, tasks.clone());
    let births = Births::new(opened.meta.birth, &config.random);
    let retention = Retention { messages: usize::MAX, bytes: config.tail_bytes };
    let tail = Tail::new(files, births, retention, config.tail_bytes_total, config.topics);
    let (tail, queue_bytes) = (Arc::new(tail), config.queue_bytes);
    let writer = Writer {
        book: Book::new(opened, tail.clone(), config),
        commands: commanded,
        history: (tasks, reading),
        journal: journal(path),
        unmoved: 0,
    };
    writer.start().map_err(io)?;
    Ok(SqliteTopics(Arc::new(Handle { tail, queue_bytes })))
}

/// The write-ahead log of the file.
fn journal(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

impl TopicStore for SqliteTopics {
    fn append(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        self.queue(topic, None, payload)
    }

    fn append_latest(
        &self,
        topic: &Topic,
        key: Bytes,
        payload: Bytes,
    ) -> BoxFuture<Result<Published, PublishError>> {
        self.queue(topic, Some(key), payload)
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        Box::new(TailReader::open(&self.0.tail, topic))
    }

    fn has_room_for(&self, topic: &Topic) -> bool {
        self.0.tail.has_room_for(topic)
    }

    fn sweep(&self) {
        // After the end there is nothing to sweep.
        let _ = self.0.tail.archive.send(Command::Sweep);
    }

    fn close(&self, topic: &Topic) -> BoxFuture<Result<Option<Position>, Unavailable>> {
        let (done, closed) = oneshot::channel();
        match self.0.tail.archive.send(Command::Close(topic.clone(), done)) {
            Ok(()) => Box::pin(async { closed.await.unwrap_or_else(|_| Err(ended())) }),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn topics(&self) -> usize {
        self.0.tail.born()
    }

    fn topic_stats(&self) -> Vec<TopicStats> {
        self.0.tail.stats(|kept, _| kept.log().is_some())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // It may have been stopped before.
        let _ = self.tail.archive.send(Command::Stop(None));
    }
}

impl fmt::Debug for SqliteTopics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SqliteTopics")
    }
}
