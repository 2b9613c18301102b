//! The tables of the file, and the checksums of their rows.
//!
//! SQLite has no checksums for the pages of a database. So each row has one, over everything that
//! identifies what it says.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, config::DbConfig, params};

use super::{config::Durability, error::OpenError, replaced};
use crate::protocol::{Epoch, Topic};

/// What SQLite knows the file by: "bwl1".
const APPLICATION: i64 = 0x6277_6c31;
const FORMAT: i64 = 1;
/// The size of a page, in bytes.
const PAGE: u64 = 4_096;
/// The size that the write-ahead log shrinks to, in bytes.
const JOURNAL: i64 = 64 << 20;

const SCHEMA: &str = "
    CREATE TABLE meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        store BLOB NOT NULL, commits INTEGER NOT NULL, birth TEXT NOT NULL, logs INTEGER NOT NULL,
        is_clean INTEGER NOT NULL, boot TEXT NOT NULL,
        keys TEXT NOT NULL, key_rows INTEGER NOT NULL, key_clock INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE logs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        topic TEXT NOT NULL, epoch TEXT NOT NULL, next INTEGER NOT NULL,
        is_closed INTEGER NOT NULL, checksum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE messages (
        log INTEGER NOT NULL, sequence INTEGER NOT NULL, at INTEGER NOT NULL,
        checksum INTEGER NOT NULL, key BLOB, payload BLOB NOT NULL,
        PRIMARY KEY (log, sequence)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX latest ON messages (log, key) WHERE key IS NOT NULL;
    CREATE TABLE replaced (
        log INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (log, first)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE keys (
        number INTEGER PRIMARY KEY,
        principal TEXT, network TEXT, key TEXT NOT NULL,
        method TEXT NOT NULL, payload BLOB NOT NULL,
        until INTEGER NOT NULL, outcome BLOB,
        checksum INTEGER NOT NULL
    ) STRICT;
";

/// The one row about the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// The identity of the file.
    pub(super) store: [u8; 16],
    /// The transactions so far.
    pub(super) commits: u64,
    /// The epoch of the logs that begin next.
    pub(super) birth: Epoch,
    /// The logs that are not closed.
    pub(super) logs: u64,
    /// The file was closed in order.
    pub(super) is_clean: bool,
    /// Which start of the system wrote it, and whether each commit was synced.
    pub(super) boot: String,
    /// The identity of the table of keys.
    pub(super) keys: Epoch,
    /// The rows of that table.
    pub(super) key_rows: u64,
    /// The clock of that table, at its last change: the time that it was in use, in milliseconds.
    pub(super) key_clock: u64,
}

/// The row of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogRow {
    pub(super) id: u64,
    pub(super) topic: Topic,
    pub(super) epoch: Epoch,
    pub(super) next: u64,
    pub(super) is_closed: bool,
}

/// A message to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) log: u64,
    pub(super) epoch: Epoch,
    pub(super) sequence: u64,
    /// When it was published, in milliseconds since 1970.
    pub(super) at: i64,
    /// It replaces the message that has the same key.
    pub(super) key: Option<&'a [u8]>,
    pub(super) payload: &'a [u8],
}

/// A connection to the file.
pub(super) fn connect(path: &Path, durability: Durability) -> Result<Connection, OpenError> {
    let connection = Connection::open(path)?;
    // Whatever the schema of a foreign or damaged file says, it runs nothing.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "synchronous", synchronous(durability))?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", JOURNAL)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    Ok(connection)
}

fn synchronous(durability: Durability) -> &'static str {
    match durability {
        Durability::Power => "FULL",
        Durability::Process => "NORMAL",
    }
}

/// Whether the file is new. Fails if it is not one of this format.
pub(super) fn is_new(connection: &Connection) -> Result<bool, OpenError> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if number("schema_version")? == 0 {
        return Ok(true);
    }
    if number("application_id")? != APPLICATION {
        return Err(OpenError::Foreign);
    }
    match number("user_version")? {
        FORMAT => Ok(false),
        other => Err(OpenError::Version(other)),
    }
}

/// Creates the tables, all at once.
pub(super) fn create(connection: &Connection, meta: &Meta) -> Result<(), OpenError> {
    connection.pragma_update(None, "page_size", PAGE)?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    set_journal(connection)?;
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    put_meta(&transaction, meta)?;
    Ok(transaction.commit()?)
}

/// Lets the file have a write-ahead log.
pub(super) fn set_journal(connection: &Connection) -> Result<(), OpenError> {
    let set = |row: &Row<'_>| row.get::<_, String>(0);
    let mode = connection.query_row("PRAGMA journal_mode = WAL", [], set)?;
    match mode.as_str() {
        "wal" => Ok(()),
        other => Err(OpenError::Io(format!("no write-ahead log here, but {other}"))),
    }
}

/// Bounds the size of the file, in bytes.
pub(super) fn set_limit(connection: &Connection, bytes: u64) -> Result<(), OpenError> {
    let pages = i64::try_from(bytes / PAGE).unwrap_or(i64::MAX).clamp(1, 4_294_967_294);
    let set = |_: &Row<'_>| Ok(());
    Ok(connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], set)?)
}

/// Checks the structure of the whole file.
pub(super) fn check(connection: &Connection) -> Result<(), OpenError> {
    let said = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))?;
    match said.as_str() {
        "ok" => Ok(()),
        _ => Err(OpenError::Corrupt(said)),
    }
}

/// The row about the file; `None` if it is missing or damaged.
pub(super) fn meta(connection: &Connection) -> rusqlite::Result<Option<Meta>> {
    let query = "SELECT store, commits, birth, logs, is_clean, boot, keys, key_rows, key_clock, \
                 checksum FROM meta";
    let read = |row: &Row<'_>| {
        let (birth, boot, keys): (String, String, String) = (row.get(2)?, row.get(5)?, row.get(6)?);
        let store: Vec<u8> = row.get(0)?;
        let epochs = Epoch::new(&birth).zip(Epoch::new(&keys));
        let Some((store, (birth, keys))) = store.try_into().ok().zip(epochs) else {
            return Ok(None);
        };
        let (commits, logs, is_clean) = (row.get(1)?, row.get(3)?, row.get(4)?);
        let (key_rows, key_clock) = (row.get(7)?, row.get(8)?);
        let meta = Meta { store, commits, birth, logs, is_clean, boot, keys, key_rows, key_clock };
        Ok(if row.get(9) == Ok(meta.checksum()) { Some(meta) } else { None })
    };
    Ok(connection.query_row(query, [], read).optional()?.flatten())
}

/// Writes the row about the file.
pub(super) fn put_meta(connection: &Connection, meta: &Meta) -> rusqlite::Result<()> {
    let Meta { store, commits, birth, logs, is_clean, boot, keys, key_rows, key_clock } = meta;
    let (birth, keys, checksum) = (birth.as_str(), keys.as_str(), meta.checksum());
    let put = "INSERT OR REPLACE INTO meta VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let values =
        params![store, commits, birth, logs, is_clean, boot, keys, key_rows, key_clock, checksum];
    connection.prepare_cached(put)?.execute(values).map(drop)
}

/// The rows of all logs. A damaged row counts as none, and its id is returned instead.
pub(super) fn logs(connection: &Connection) -> rusqlite::Result<Vec<Result<LogRow, u64>>> {
    let query = "SELECT id, topic, epoch, next, is_closed, checksum FROM logs ORDER BY id";
    let read = |row: &Row<'_>| {
        let (id, topic, epoch): (u64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let Some((topic, epoch)) = Topic::new(&topic).ok().zip(Epoch::new(&epoch)) else {
            return Ok(Err(id));
        };
        let (next, is_closed) = (row.get(3)?, row.get(4)?);
        let log = LogRow { id, topic, epoch, next, is_closed };
        Ok(if row.get(5) == Ok(log.checksum()) { Ok(log) } else { Err(id) })
    };
    connection.prepare(query)?.query_map([], read)?.collect()
}

/// Adds the row of a new log. Returns its id.
pub(super) fn add_log(
    connection: &Connection,
    topic: &Topic,
    epoch: Epoch,
    next: u64,
) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(
            "INSERT INTO logs (topic, epoch, next, is_closed, checksum) VALUES (?1, ?2, ?3, 0, 0)",
        )?
        .execute(params![topic.as_str(), epoch.as_str(), next])?;
    let id = u64::try_from(connection.last_insert_rowid()).unwrap_or_default();
    put_log(connection, &LogRow { id, topic: topic.clone(), epoch, next, is_closed: false })?;
    Ok(id)
}

/// Writes the row of a log that has one.
pub(super) fn put_log(connection: &Connection, log: &LogRow) -> rusqlite::Result<()> {
    let LogRow { id, epoch, next, is_closed, .. } = log;
    connection
        .prepare_cached(
            "UPDATE logs SET epoch = ?2, next = ?3, is_closed = ?4, checksum = ?5 WHERE id = ?1",
        )?
        .execute(params![id, epoch.as_str(), next, is_closed, log.checksum()])
        .map(drop)
}

/// Removes a log with its messages.
pub(super) fn remove_log(connection: &Connection, id: u64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM messages WHERE log = ?1")?.execute([id])?;
    replaced::remove_all(connection, id)?;
    connection.prepare_cached("DELETE FROM logs WHERE id = ?1")?.execute([id]).map(drop)
}

/// Removes messages whose log has no row.
pub(super) fn remove_orphans(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "DELETE FROM messages WHERE log NOT IN (SELECT id FROM logs);
         DELETE FROM replaced WHERE log NOT IN (SELECT id FROM logs)",
    )
}

/// Adds a message.
pub(super) fn add_message(connection: &Connection, message: Message<'_>) -> rusqlite::Result<()> {
    let Message { log, sequence, at, key, payload, .. } = message;
    connection
        .prepare_cached("INSERT INTO messages VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![log, sequence, at, message.checksum(), key, payload])
        .map(drop)
}

/// The messages of a log that have this key, each with its number and its bytes. Those that are
/// damaged are left out, because another key may have been theirs.
pub(super) fn keyed(
    connection: &Connection,
    (log, epoch): (u64, Epoch),
    key: &[u8],
) -> rusqlite::Result<Vec<(u64, u64)>> {
    let query = "SELECT sequence, at, checksum, payload FROM messages WHERE log = ?1 AND key = ?2";
    let read = |row: &Row<'_>| {
        let (sequence, at, payload): (_, _, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(3)?);
        let message = Message { log, epoch, sequence, at, key: Some(key), payload: &payload };
        let is_whole = row.get::<_, u32>(2)? == message.checksum();
        Ok(is_whole.then_some((sequence, message.bytes())))
    };
    let mut statement = connection.prepare_cached(query)?;
    let mut rows = statement.query(params![log, key])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        // A value of another type than the table's is damage, too.
        let read: rusqlite::Result<_> = read(row);
        found.extend(read.unwrap_or_default());
    }
    Ok(found)
}

/// Replaces the checksum of a message. Without one, the message is removed.
pub(super) fn sign_message(
    connection: &Connection,
    log: u64,
    sequence: u64,
    checksum: Option<u32>,
) -> rusqlite::Result<()> {
    let update = "UPDATE messages SET checksum = ?3 WHERE log = ?1 AND sequence = ?2";
    let remove = "DELETE FROM messages WHERE log = ?1 AND sequence = ?2";
    match checksum {
        Some(checksum) => {
            connection.prepare_cached(update)?.execute(params![log, sequence, checksum])
        }
        None => connection.prepare_cached(remove)?.execute(params![log, sequence]),
    }
    .map(drop)
}

/// Removes the messages of a log below `first`.
pub(super) fn trim(connection: &Connection, log: u64, first: u64) -> rusqlite::Result<()> {
    let remove = "DELETE FROM messages WHERE log = ?1 AND sequence < ?2";
    connection.prepare_cached(remove)?.execute(params![log, first]).map(drop)
}

impl Meta {
    fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.store);
        hasher.update(&self.commits.to_le_bytes());
        hasher.update(&self.logs.to_le_bytes());
        hasher.update(&[u8::from(self.is_clean)]);
        hasher.update(&self.key_rows.to_le_bytes());
        hasher.update(&self.key_clock.to_le_bytes());
        for text in [self.birth.as_str(), self.keys.as_str(), &self.boot] {
            hasher.update(text.as_bytes());
            hasher.update(b" ");
        }
        hasher.finalize()
    }
}

impl LogRow {
    fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.id.to_le_bytes());
        hasher.update(&self.next.to_le_bytes());
        hasher.update(&[u8::from(self.is_closed)]);
        hasher.update(self.topic.as_str().as_bytes());
        hasher.update(b" ");
        hasher.update(self.epoch.as_str().as_bytes());
        hasher.finalize()
    }
}

impl Message<'_> {
    /// The bytes that are retained: those of its payload and its key.
    pub(super) fn bytes(&self) -> u64 {
        (self.payload.len() + self.key.map_or(0, <[u8]>::len)) as u64
    }

    pub(super) fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.log.to_le_bytes());
        hasher.update(&self.sequence.to_le_bytes());
        hasher.update(&self.at.to_le_bytes());
        hasher.update(self.epoch.as_str().as_bytes());
        hasher.update(b" ");
        if let Some(key) = self.key {
            hasher.update(&key.len().to_le_bytes());
            hasher.update(key);
        }
        hasher.update(self.payload);
        hasher.finalize()
    }
}
