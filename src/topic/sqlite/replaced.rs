//! The numbers of messages that later messages of the same keys have replaced.
//!
//! They are kept as ranges that do not touch each other. So a number that is missing without being
//! in a range is known to be lost, and a log has at most one range more than messages.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::protocol::Epoch;

/// Numbers of a log, all of which were replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) log: u64,
    pub(super) epoch: Epoch,
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Range {
    fn checksum(self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for number in [self.log, self.first, self.last] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(self.epoch.as_str().as_bytes());
        hasher.finalize()
    }

    /// The range of a row with the columns `first, last, checksum`; `None` if it is damaged.
    fn verified(row: &Row<'_>, log: u64, epoch: Epoch) -> Option<Self> {
        // A value of another type than the table's is damage, too.
        let (first, last) = (row.get(0).ok()?, row.get(1).ok()?);
        let range = Self { log, epoch, first, last };
        (row.get(2) == Ok(range.checksum())).then_some(range)
    }
}

/// Notes that a message was replaced, in the ranges beside it or in one of its own.
pub(super) fn add(
    connection: &Connection,
    log: u64,
    epoch: Epoch,
    sequence: u64,
) -> rusqlite::Result<()> {
    let mut range = Range { log, epoch, first: sequence, last: sequence };
    let one = |query, number| one(connection, query, (log, epoch), number);
    let before = "SELECT first, last, checksum FROM replaced \
                  WHERE log = ?1 AND first < ?2 ORDER BY first DESC LIMIT 1";
    if let Some(before) = one(before, sequence)?.filter(|before| before.last + 1 == sequence) {
        range.first = before.first;
    }
    let behind = "SELECT first, last, checksum FROM replaced WHERE log = ?1 AND first = ?2";
    if let Some(behind) = one(behind, sequence + 1)? {
        range.last = behind.last;
        remove(connection, log, behind.first)?;
    }
    put(connection, range)
}

/// The range that a query finds; `None` if it is damaged, too.
fn one(
    connection: &Connection,
    query: &str,
    (log, epoch): (u64, Epoch),
    number: u64,
) -> rusqlite::Result<Option<Range>> {
    let read = |row: &Row<'_>| Ok(Range::verified(row, log, epoch));
    let found = connection.prepare_cached(query)?.query_row(params![log, number], read);
    Ok(found.optional()?.flatten())
}

/// The ranges that have numbers from `from` to `to`, without those that are damaged.
pub(super) fn between(
    connection: &Connection,
    (log, epoch): (u64, Epoch),
    from: u64,
    to: u64,
) -> rusqlite::Result<Vec<Range>> {
    let query = "SELECT first, last, checksum FROM replaced WHERE log = ?1 AND first >= coalesce( \
                 (SELECT max(first) FROM replaced WHERE log = ?1 AND first <= ?2), ?2) \
                 AND first <= ?3 ORDER BY first";
    let mut statement = connection.prepare_cached(query)?;
    let read = |row: &Row<'_>| Ok(Range::verified(row, log, epoch));
    let found = statement.query_map(params![log, from, to], read)?;
    let found = found.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(found.into_iter().flatten().filter(|range| range.last >= from).collect())
}

/// The first and the last number of all ranges of a log.
pub(super) fn bounds(
    connection: &Connection,
    log: u64,
) -> rusqlite::Result<(Option<u64>, Option<u64>)> {
    let query = "SELECT min(first), max(last) FROM replaced WHERE log = ?1";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    connection.prepare_cached(query)?.query_row([log], read)
}

/// Gives the ranges of a log another epoch, and removes those that are damaged. Returns the last
/// number; 0 if there is none.
pub(super) fn rewrite(
    connection: &Connection,
    (log, epoch): (u64, Epoch),
    to: Epoch,
) -> rusqlite::Result<u64> {
    let ranges = between(connection, (log, epoch), 0, i64::MAX as u64)?;
    remove_all(connection, log)?;
    for &range in &ranges {
        put(connection, Range { epoch: to, ..range })?;
    }
    Ok(ranges.iter().map(|range| range.last).max().unwrap_or_default())
}

fn put(connection: &Connection, range: Range) -> rusqlite::Result<()> {
    let Range { log, first, last, .. } = range;
    connection
        .prepare_cached("INSERT OR REPLACE INTO replaced VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![log, first, last, range.checksum()])
        .map(drop)
}

fn remove(connection: &Connection, log: u64, first: u64) -> rusqlite::Result<()> {
    let remove = "DELETE FROM replaced WHERE log = ?1 AND first = ?2";
    connection.prepare_cached(remove)?.execute([log, first]).map(drop)
}

/// Removes the ranges of a log.
pub(super) fn remove_all(connection: &Connection, log: u64) -> rusqlite::Result<()> {
    let remove = "DELETE FROM replaced WHERE log = ?1";
    connection.prepare_cached(remove)?.execute([log]).map(drop)
}

/// Removes the ranges of a log below `first`, which is in none.
pub(super) fn trim(connection: &Connection, log: u64, first: u64) -> rusqlite::Result<()> {
    let remove = "DELETE FROM replaced WHERE log = ?1 AND first < ?2";
    connection.prepare_cached(remove)?.execute([log, first]).map(drop)
}
