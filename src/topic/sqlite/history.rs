//! The thread that reads old messages from the file, and moves the write-ahead log into it.

use std::{sync::mpsc, thread};

use rusqlite::{Connection, ErrorCode, Row, params};
use tokio::sync::oneshot;

use super::{file::Message, open::TARGET};
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
    let query = "SELECT sequence, at, checksum, payload FROM messages \
                 WHERE log = ?1 AND sequence >= ?2 ORDER BY sequence";
    let mut statement = connection.prepare_cached(query)?;
    let mut rows = statement.query(params![ask.log, ask.from.next])?;
    let mut bytes = 0;
    while bytes < ask.bytes
        && let Some(row) = rows.next()?
    {
        // A value of another type than the table's is damage, too.
        if let Some(message) = verified(row, ask).unwrap_or_default() {
            bytes += message.payload.len() + 1;
            found.push(message);
        }
    }
    Ok(())
}

/// The message of a row; `None` if it is damaged.
fn verified(row: &Row<'_>, ask: &Ask) -> rusqlite::Result<Option<Fetched>> {
    let sequence: u64 = row.get(0)?;
    let (at, payload): (i64, Vec<u8>) = (row.get(1)?, row.get(3)?);
    let message = Message { log: ask.log, epoch: ask.from.epoch, sequence, at, payload: &payload };
    if row.get::<_, u32>(2)? == message.checksum() {
        return Ok(Some(Fetched { sequence, payload }));
    }
    tracing::error!(target: TARGET, log = ask.log, sequence, "a message is damaged");
    Ok(None)
}
