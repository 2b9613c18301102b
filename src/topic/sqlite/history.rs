//! The thread that reads old messages from the file, and moves the write-ahead log into it.

use std::{ops::RangeInclusive, sync::mpsc, thread};

use rusqlite::{Connection, ErrorCode, Row, params};
use tokio::sync::oneshot;

use super::{
    file::Message,
    open::TARGET,
    replaced::{self, Range},
};
use crate::topic::{
    Unavailable,
    tail::{Ask, Fetched},
};

/// What the thread has to do.
pub(super) enum Task {
    Fetch(Ask, oneshot::Sender<Result<Vec<Fetched>, Unavailable>>),
    /// Moves what it can without stopping the writer.
    Checkpoint,
    /// Ends the thread.
    Stop,
}

/// Starts the thread.
pub(super) fn start(
    connection: Connection,
    tasks: mpsc::Receiver<Task>,
) -> std::io::Result<thread::JoinHandle<()>> {
    let run = move || {
        for task in tasks {
            match task {
                Task::Fetch(ask, done) => {
                    // The reader may be gone.
                    let _ = done.send(fetch(&connection, &ask));
                }
                Task::Checkpoint => checkpoint(&connection),
                Task::Stop => return,
            }
        }
    };
    thread::Builder::new().name("bellwire-history".into()).spawn(run)
}

fn checkpoint(connection: &Connection) {
    let read = |_: &Row<'_>| Ok(());
    if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], read) {
        tracing::warn!(target: TARGET, %error, "cannot move the write-ahead log into the file");
    }
}

/// Reads what was asked for. In a part of the file that is damaged, there is nothing.
fn fetch(connection: &Connection, ask: &Ask) -> Result<Vec<Fetched>, Unavailable> {
    let mut found = Vec::new();
    match read(connection, ask, &mut found) {
        Ok(()) => Ok(found),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
            tracing::error!(target: TARGET, %error, log = ask.log, "the file is damaged");
            Ok(found)
        }
        Err(error) => Err(Unavailable(error.to_string())),
    }
}

fn read(connection: &Connection, ask: &Ask, found: &mut Vec<Fetched>) -> rusqlite::Result<()> {
    let query = "SELECT sequence, at, checksum, key, payload FROM messages \
                 WHERE log = ?1 AND sequence >= ?2 ORDER BY sequence";
    let mut statement = connection.prepare_cached(query)?;
    let mut rows = statement.query(params![ask.log, ask.from.next])?;
    let (mut bytes, mut next) = (0, ask.from.next);
    while bytes < ask.bytes {
        let Some(row) = rows.next()? else {
            return find_replaced(connection, ask, next..=i64::MAX as u64, found);
        };
        // A value of another type than the table's is damage, too.
        let Ok(sequence) = row.get(0) else { continue };
        if next < sequence {
            find_replaced(connection, ask, next..=sequence - 1, found)?;
        }
        next = sequence + 1;
        if let Some(payload) = verified(row, ask, sequence).unwrap_or_default() {
            bytes += payload.len() + 1;
            found.push(Fetched::Message { sequence, payload });
        }
    }
    Ok(())
}

/// The payload of a row; `None` if it is damaged.
fn verified(row: &Row<'_>, ask: &Ask, sequence: u64) -> rusqlite::Result<Option<Vec<u8>>> {
    let (at, payload): (i64, Vec<u8>) = (row.get(1)?, row.get(4)?);
    let (key, epoch): (Option<Vec<u8>>, _) = (row.get(3)?, ask.from.epoch);
    let key = key.as_deref();
    let message = Message { log: ask.log, epoch, sequence, at, key, payload: &payload };
    if row.get::<_, u32>(2)? == message.checksum() {
        return Ok(Some(payload));
    }
    tracing::error!(target: TARGET, log = ask.log, sequence, "a message is damaged");
    Ok(None)
}

/// Adds what was replaced among numbers that are missing.
fn find_replaced(
    connection: &Connection,
    ask: &Ask,
    missing: RangeInclusive<u64>,
    found: &mut Vec<Fetched>,
) -> rusqlite::Result<()> {
    let log = (ask.log, ask.from.epoch);
    let ranges = replaced::between(connection, log, *missing.start(), *missing.end())?;
    let ranges =
        ranges.into_iter().map(|Range { first, last, .. }| Fetched::Replaced { first, last });
    found.extend(ranges);
    Ok(())
}
