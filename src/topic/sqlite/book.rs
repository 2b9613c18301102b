//! What the writer knows about the logs of the file, and how it changes them.
//!
//! **Invariant:** a number reaches subscribers only after its transaction was committed, and `logs`
//! changes only then.

use std::collections::HashMap;

use rusqlite::{Connection, ErrorCode, Row};

use super::{
    command::{Append, Batch},
    config::SqliteConfig,
    file::{self, LogRow, Message, Meta},
    files::Files,
    head::{Count, Head},
    open::{Held, Opened, TARGET},
    replaced,
};
use crate::{
    protocol::{MAX_NUMBER, Position, Topic},
    sync::Arc,
    topic::{
        PublishError, Unavailable,
        tail::{Kept, Tail},
    },
};

/// The file, and what is known of its logs.
pub(super) struct Book {
    pub(super) connection: Connection,
    pub(super) logs: HashMap<Topic, Log>,
    pub(super) tail: Arc<Tail<Files>>,
    pub(super) config: SqliteConfig,
    pub(super) meta: Meta,
    head: Head,
    /// Somebody has the keys of the file.
    pub(super) has_keys: bool,
}

/// A log of the file, and its place in memory.
#[derive(Clone)]
pub(super) struct Log {
    pub(super) row: LogRow,
    pub(super) held: Held,
    pub(super) kept: Arc<Kept>,
}

/// The logs that a transaction changes, as they are once it is committed.
type Changes = HashMap<Topic, Change>;

pub(super) struct Change {
    pub(super) log: Log,
    /// The messages that the transaction adds.
    pub(super) added: u64,
    is_new: bool,
}

/// Why a transaction failed.
pub(super) struct Failure {
    pub(super) error: rusqlite::Error,
    /// It failed at its end, so it may be in the file.
    may_be_there: bool,
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self { error, may_be_there: false }
    }
}

impl Book {
    pub(super) fn new(opened: Opened, tail: Arc<Tail<Files>>, config: SqliteConfig) -> Self {
        let Opened { connection, head, meta, logs } = opened;
        let log = |(row, held): (LogRow, Held)| {
            let kept = tail.load(&row.topic, row.id, row.window(held));
            (row.topic.clone(), Log { row, held, kept })
        };
        let logs = logs.into_iter().map(log).collect();
        Self { connection, logs, tail, config, meta, head, has_keys: false }
    }

    /// Commits messages and keys together. Then subscribers and publishers get their numbers.
    ///
    /// If that fails, perhaps because there is no room for the messages, the keys are tried again
    /// without them.
    pub(super) fn commit(&mut self, batch: Batch) {
        let Batch { appends, keys, .. } = batch;
        let mut changes = Changes::new();
        let written = self.transact(|book| {
            book.write_keys(&keys)?;
            book.write(&appends, &mut changes)
        });
        self.tail.archive.written(appends.iter().map(Append::bytes).sum());
        match written {
            Ok(numbers) => {
                self.hand_out(appends, &numbers, changes);
                keys.into_iter().for_each(|write| write.end(Ok(())));
            }
            Err(failure) => {
                let had_messages = !appends.is_empty();
                self.give_up(appends, changes, &failure);
                self.give_up_keys(keys, had_messages, &failure);
            }
        }
    }

    /// Returns the number of each message; `None` for one that has no room.
    fn write(
        &mut self,
        batch: &[Append],
        changes: &mut Changes,
    ) -> rusqlite::Result<Vec<Option<u64>>> {
        let now = self.config.now();
        let numbers = batch.iter().map(|append| self.place(append, now, changes));
        let numbers = numbers.collect::<rusqlite::Result<Vec<_>>>()?;
        for change in changes.values_mut() {
            self.make_room(&mut change.log, change.added)?;
            file::put_log(&self.connection, &change.log.row)?;
        }
        self.meta.logs += changes.values().filter(|change| change.is_new).count() as u64;
        Ok(numbers)
    }

    fn place(
        &self,
        append: &Append,
        at: i64,
        changes: &mut Changes,
    ) -> rusqlite::Result<Option<u64>> {
        if !changes.contains_key(&append.topic) {
            let Some(change) = self.change(&append.topic, at, changes)? else { return Ok(None) };
            changes.insert(append.topic.clone(), change);
        }
        let Some(change) = changes.get_mut(&append.topic) else { return Ok(None) };
        let LogRow { id: log, epoch, next: sequence, .. } = change.log.row;
        if sequence >= MAX_NUMBER {
            return Ok(None);
        }
        let (key, payload) = (append.key.as_deref(), &append.payload);
        if let Some(key) = key {
            self.replace(&mut change.log, key)?;
        }
        let message = Message { log, epoch, sequence, at, key, payload };
        file::add_message(&self.connection, message)?;
        if change.log.held.messages == 0 {
            change.log.held.since = at;
        }
        change.log.held.messages += 1;
        change.log.held.bytes += message.bytes();
        change.log.row.next += 1;
        change.added += 1;
        Ok(Some(sequence))
    }

    /// Removes the message that has this key, and notes that its number was replaced.
    fn replace(&self, log: &mut Log, key: &[u8]) -> rusqlite::Result<()> {
        let LogRow { id, epoch, .. } = log.row;
        for (sequence, bytes) in file::keyed(&self.connection, (id, epoch), key)? {
            file::sign_message(&self.connection, id, sequence, None)?;
            replaced::add(&self.connection, id, epoch, sequence)?;
            log.held.messages = log.held.messages.saturating_sub(1);
            log.held.bytes = log.held.bytes.saturating_sub(bytes);
            log.held.has_ranges = true;
        }
        Ok(())
    }

    /// The log of `topic`, to be changed; `None` if it would be one too many.
    fn change(
        &self,
        topic: &Topic,
        at: i64,
        changes: &Changes,
    ) -> rusqlite::Result<Option<Change>> {
        if let Some(log) = self.logs.get(topic) {
            return Ok(Some(Change { log: log.clone(), added: 0, is_new: false }));
        }
        let new = changes.values().filter(|change| change.is_new).count();
        if self.logs.len() + new >= self.config.topics {
            return Ok(None);
        }
        let kept = self.tail.hold(topic);
        let Position { epoch, next } = kept.end();
        let id = file::add_log(&self.connection, topic, epoch, next)
            .inspect_err(|_| self.tail.release(&kept))?;
        let row = LogRow { id, topic: topic.clone(), epoch, next, is_closed: false };
        let held = Held { first: next, since: at, ..Held::default() };
        Ok(Some(Change { log: Log { row, held, kept }, added: 0, is_new: true }))
    }

    fn hand_out(&mut self, batch: Vec<Append>, numbers: &[Option<u64>], changes: Changes) {
        for change in changes.values().filter(|change| change.is_new) {
            self.tail.birth(&change.log.kept, change.log.row.id);
        }
        let push = |(append, number): (Append, &Option<u64>)| {
            let change = changes.get(&append.topic).filter(|_| number.is_some());
            let change = change.ok_or(PublishError::TooMany);
            let Append { key, payload, done, .. } = append;
            let push = |log: &Log| self.tail.push(&log.kept, key.as_deref(), &payload);
            (done, change.map(|change| push(&change.log)))
        };
        let published: Vec<_> = batch.into_iter().zip(numbers).map(push).collect();
        for change in changes.values() {
            self.tail.trim(&change.log.kept, change.log.held.first);
        }
        self.logs.extend(changes.into_iter().map(|(topic, change)| (topic, change.log)));
        for (done, published) in published {
            // The publisher may be gone.
            let _ = done.send(published);
        }
    }

    fn give_up(&self, batch: Vec<Append>, changes: Changes, failure: &Failure) {
        if batch.is_empty() {
            return;
        }
        tracing::error!(target: TARGET, error = %failure.error, messages = batch.len(), "cannot write");
        for change in changes.values().filter(|change| change.is_new) {
            self.tail.release(&change.log.kept);
        }
        let why = Unavailable(why(&failure.error));
        for append in batch {
            let error = match failure.may_be_there {
                true => PublishError::Unavailable(why.clone()),
                false => PublishError::Busy(why.clone()),
            };
            let _ = append.done.send(Err(error));
        }
    }

    /// Ends a log. Its readers get what is left of it.
    pub(super) fn close(&mut self, topic: &Topic) -> Result<Option<Position>, Unavailable> {
        let Some(log) = self.logs.get(topic).cloned() else { return Ok(self.tail.retire(topic)) };
        let row = LogRow { is_closed: true, ..log.row };
        self.end_births(|book| file::put_log(&book.connection, &row))
            .map_err(|failure| Unavailable(why(&failure.error)))?;
        self.logs.remove(topic);
        if !self.tail.close(&log.kept) {
            self.discard(row.id);
        }
        Ok(Some(Position { epoch: row.epoch, next: row.next }))
    }

    /// Removes a log that nobody reads any more. If that fails, the next start does it.
    pub(super) fn discard(&mut self, log: u64) {
        let removed = self.transact(|book| file::remove_log(&book.connection, log));
        self.report("cannot remove a log", removed);
    }

    /// Drops logs without messages that nobody uses.
    pub(super) fn drop_idle(&mut self) {
        for topic in self.tail.idle() {
            let Some(log) = self.tail.forget(&topic) else { continue };
            self.logs.remove(&topic);
            let removed = self.end_births(|book| file::remove_log(&book.connection, log));
            self.report("cannot remove a log", removed);
        }
    }

    /// Removes a log from the file. In later lives of the file, no log begins under an epoch that
    /// the removed one may have had.
    fn end_births(
        &mut self,
        remove: impl FnOnce(&mut Self) -> rusqlite::Result<()>,
    ) -> Result<(), Failure> {
        let birth = self.config.random.next_epoch();
        self.transact(|book| {
            book.meta.birth = birth;
            book.meta.logs = book.meta.logs.saturating_sub(1);
            remove(book)
        })
    }

    /// Runs a transaction. If it fails, nothing has changed; except that at its very end it may
    /// have come into the file nevertheless. No subscriber has its numbers then, and the next
    /// transaction takes its place.
    pub(super) fn transact<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> Result<T, Failure> {
        let before = self.meta.clone();
        let done = self.try_transact(work);
        if done.is_err() {
            self.meta = before;
            self.roll_back();
        }
        done
    }

    fn try_transact<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> Result<T, Failure> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let done = work(self)?;
        self.meta.commits += 1;
        file::put_meta(&self.connection, &self.meta)?;
        let committed = self.connection.execute_batch("COMMIT");
        committed.map_err(|error| Failure { error, may_be_there: true })?;
        self.count_commit();
        Ok(done)
    }

    /// If it fails, the count is too low: the loss of later transactions may go unnoticed.
    fn count_commit(&mut self) {
        let Meta { store, commits, .. } = self.meta;
        if let Err(error) = self.head.write(Count { store, commits }) {
            tracing::error!(target: TARGET, %error, "cannot count a transaction");
        }
    }

    fn roll_back(&self) {
        if self.connection.is_autocommit() {
            return;
        }
        if let Err(error) = self.connection.execute_batch("ROLLBACK") {
            tracing::error!(target: TARGET, %error, "cannot roll back");
        }
    }

    pub(super) fn report(&self, what: &str, done: Result<(), Failure>) {
        if let Err(Failure { error, .. }) = done {
            tracing::error!(target: TARGET, %error, "{what}");
        }
    }

    /// Moves the write-ahead log into the file, and makes it empty.
    pub(super) fn empty_journal(&self) -> rusqlite::Result<()> {
        let read = |_: &Row<'_>| Ok(());
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], read)
    }

    /// Notes that the file is closed in order, and closes it.
    pub(super) fn shut(mut self) -> Result<(), Unavailable> {
        let shut = self
            .connection
            .pragma_update(None, "synchronous", "FULL")
            .map_err(Failure::from)
            .and_then(|()| {
                self.transact(|book| {
                    book.meta.is_clean = true;
                    Ok(())
                })
            })
            .and_then(|()| Ok(self.empty_journal()?));
        shut.map_err(|failure| Unavailable(why(&failure.error)))
    }
}

/// The reason for a publisher.
pub(super) fn why(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full, or the file has reached its limit".into(),
        _ => error.to_string(),
    }
}
