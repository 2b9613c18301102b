//! The rows of keyed requests: which were started, and how they ended.
//!
//! The table of keys is in memory (`server/keys/`). These rows are what is left of it after the end
//! of the process.

use rusqlite::{Connection, Row, params};
use tokio::sync::oneshot;

use super::error::OpenError;
use crate::{protocol::Epoch, topic::Unavailable};

/// A keyed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRow {
    /// Tells the row from earlier ones of the same key.
    pub(crate) number: u64,
    pub(crate) principal: Option<String>,
    /// On whose account the row goes if there is no principal.
    pub(crate) network: Option<String>,
    pub(crate) key: String,
    pub(crate) method: String,
    /// The digest of the payload.
    pub(crate) payload: u128,
    /// How long the row is kept, by the clock of the table, in milliseconds; 0 until it has ended.
    pub(crate) until: u64,
    /// `None` until it has ended.
    pub(crate) outcome: Option<Vec<u8>>,
}

/// A change of the rows.
#[derive(Clone, Debug)]
pub(crate) enum KeyChange {
    /// Adds a row, or replaces the one with its number.
    Put(KeyRow),
    Remove(Vec<u64>),
}

/// A change to be written.
pub(crate) struct KeyWrite {
    pub(super) change: KeyChange,
    /// The clock of the table, in milliseconds.
    pub(super) clock: u64,
    /// Called by the writer after the commit. If there is none, it is dropped.
    done: Box<dyn FnOnce(Result<(), Unavailable>) + Send>,
}

/// Asks for the rows.
pub(super) struct LoadKeys {
    /// How long rows are kept that were started and have not ended, in milliseconds.
    pub(super) kept: u64,
    /// The outcome of these rows.
    pub(super) lost: Vec<u8>,
    pub(super) done: oneshot::Sender<Result<LoadedKeys, OpenError>>,
}

/// The rows of a file. All of them have ended.
#[derive(Clone, Debug)]
pub(crate) struct LoadedKeys {
    /// The identity of the table. It has changed if rows may be missing.
    pub(crate) store: Epoch,
    /// The clock of the table, in milliseconds.
    pub(crate) clock: u64,
    pub(crate) rows: Vec<KeyRow>,
}

impl KeyWrite {
    pub(crate) fn new(
        change: KeyChange,
        clock: u64,
        done: impl FnOnce(Result<(), Unavailable>) + Send + 'static,
    ) -> Self {
        Self { change, clock, done: Box::new(done) }
    }

    pub(super) fn end(self, written: Result<(), Unavailable>) {
        (self.done)(written);
    }

    /// The bytes that it writes, roughly.
    pub(super) fn bytes(&self) -> usize {
        match &self.change {
            KeyChange::Put(row) => {
                let outcome = row.outcome.as_ref().map_or(0, Vec::len);
                64 + row.key.len() + row.method.len() + outcome
            }
            KeyChange::Remove(numbers) => 64 * numbers.len(),
        }
    }
}

/// The rows, the oldest first. Of a damaged one there is the number.
pub(super) fn rows(connection: &Connection) -> rusqlite::Result<Vec<Result<KeyRow, u64>>> {
    let query = "SELECT number, principal, network, key, method, payload, until, outcome, checksum \
                 FROM keys ORDER BY number";
    let read = |row: &Row<'_>| {
        let number = row.get(0)?;
        // A value of another type than the table's is damage, too.
        Ok(verified(row, number).unwrap_or_default().ok_or(number))
    };
    connection.prepare(query)?.query_map([], read)?.collect()
}

/// `None` if the row is damaged.
fn verified(row: &Row<'_>, number: u64) -> rusqlite::Result<Option<KeyRow>> {
    let payload: Vec<u8> = row.get(5)?;
    let Ok(payload) = payload.try_into() else { return Ok(None) };
    let found = KeyRow {
        number,
        principal: row.get(1)?,
        network: row.get(2)?,
        key: row.get(3)?,
        method: row.get(4)?,
        payload: u128::from_le_bytes(payload),
        until: row.get(6)?,
        outcome: row.get(7)?,
    };
    Ok(if row.get(8) == Ok(found.checksum()) { Some(found) } else { None })
}

/// Adds a row, or replaces the one with its number. Returns how many rows there are more.
pub(super) fn put(connection: &Connection, row: &KeyRow) -> rusqlite::Result<u64> {
    let KeyRow { number, principal, network, key, method, payload, until, outcome } = row;
    let checksum = row.checksum();
    if outcome.is_some() {
        let update = "UPDATE keys SET until = ?2, outcome = ?3, checksum = ?4 WHERE number = ?1";
        let values = params![number, until, outcome, checksum];
        if connection.prepare_cached(update)?.execute(values)? == 1 {
            return Ok(0);
        }
    }
    let insert = "INSERT INTO keys VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let payload = &payload.to_le_bytes()[..];
    let values =
        params![number, principal, network, key, method, payload, until, outcome, checksum];
    connection.prepare_cached(insert)?.execute(values)?;
    Ok(1)
}

/// Removes rows. Returns how many there were.
pub(super) fn remove(connection: &Connection, numbers: &[u64]) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached("DELETE FROM keys WHERE number = ?1")?;
    let removed = numbers.iter().map(|number| Ok(statement.execute([number])? as u64));
    removed.sum()
}

impl KeyRow {
    fn checksum(&self) -> u32 {
        let Self { number, principal, network, key, method, payload, until, outcome } = self;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&number.to_le_bytes());
        hasher.update(&until.to_le_bytes());
        hasher.update(&payload.to_le_bytes());
        let texts = [principal.as_deref(), network.as_deref(), Some(&**key), Some(&**method)];
        let texts = texts.into_iter().map(|text| text.map(str::as_bytes));
        for part in texts.chain([outcome.as_deref()]) {
            // No text is so long.
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            hasher.update(&length.to_le_bytes());
            hasher.update(part.unwrap_or_default());
        }
        hasher.finalize()
    }
}
