//! Removes old messages, a few at a time, so that publishing does not wait for it.

use rusqlite::{Row, params};

use super::{
    book::{Book, Log},
    file,
    open::Held,
    replaced,
};
use crate::protocol::Topic;

/// Messages that are removed from a log at a time, beyond twice those that are added.
const SOME: u64 = 64;
/// Logs that one transaction trims at most, when nothing is added.
const LOGS: usize = 64;
/// Pages that are given back to the system at a time.
const PAGES: u32 = 256;

impl Book {
    /// Removes the messages of a log that are over its limits, or some of them. `added` messages
    /// are new.
    pub(super) fn make_room(&self, log: &mut Log, added: u64) -> rusqlite::Result<()> {
        if !self.is_over(log) {
            return Ok(());
        }
        let some = added.saturating_mul(2).saturating_add(SOME);
        let left = self.without_excess(log, some)?;
        file::trim(&self.connection, log.row.id, left.first)?;
        if left.has_ranges {
            replaced::trim(&self.connection, log.row.id, left.first)?;
        }
        log.held = left;
        Ok(())
    }

    fn is_over(&self, log: &Log) -> bool {
        let Held { messages, bytes, since, .. } = log.held;
        messages > 0 && (self.is_too_much(messages, bytes) || self.is_too_old(since))
    }

    /// Whether a log with so much has too much. The newest message always stays.
    fn is_too_much(&self, messages: u64, bytes: u64) -> bool {
        let config = &self.config;
        messages > 1 && (messages > config.retained_messages || bytes > config.retained_bytes)
    }

    fn is_too_old(&self, at: i64) -> bool {
        self.config.oldest().is_some_and(|oldest| at < oldest)
    }

    /// What a log has without its excess, of which this counts `some` messages at most.
    fn without_excess(&self, log: &Log, some: u64) -> rusqlite::Result<Held> {
        let query = "SELECT sequence, at, length(payload) + coalesce(length(key), 0) FROM messages \
                     WHERE log = ?1 AND sequence >= ?2 ORDER BY sequence LIMIT ?3";
        let mut statement = self.connection.prepare_cached(query)?;
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let mut left = log.held;
        let rows =
            statement.query_map(params![log.row.id, left.first, some.saturating_add(1)], read)?;
        for (removed, row) in (0..).zip(rows) {
            let (sequence, at, bytes): (u64, i64, u64) = row?;
            let messages = left.messages.min(log.row.next.saturating_sub(sequence));
            let stays = !self.is_too_much(messages, left.bytes) && !self.is_too_old(at);
            if stays || removed == some {
                left.since = at;
                return Ok(left);
            }
            left.first = sequence + 1;
            left.messages = left.messages.saturating_sub(1);
            left.bytes = left.bytes.saturating_sub(bytes);
        }
        Ok(Held { first: log.row.next, messages: 0, bytes: 0, has_ranges: false, ..left })
    }

    /// Removes what has become too old or was over the limits, some of it. Returns whether there
    /// is more.
    pub(super) fn trim_some(&mut self) -> bool {
        let over = self.logs.iter().filter(|(_, log)| self.is_over(log));
        let over: Vec<_> = over.map(|(topic, _)| topic.clone()).take(LOGS).collect();
        if over.is_empty() {
            return false;
        }
        let mut trimmed: Vec<(Topic, Log)> = Vec::new();
        let done = self.transact(|book| {
            for topic in over {
                let Some(mut log) = book.logs.get(&topic).cloned() else { continue };
                book.make_room(&mut log, 0)?;
                trimmed.push((topic, log));
            }
            Ok(())
        });
        let is_done = done.is_ok();
        self.report("cannot remove old messages", done);
        if is_done {
            for (_, log) in &trimmed {
                self.tail.trim(&log.kept, log.held.first);
            }
            self.logs.extend(trimmed);
        }
        is_done
    }

    /// Gives free pages back to the system, some of them, if there are many.
    pub(super) fn shrink(&self) -> rusqlite::Result<()> {
        let number = |name| self.connection.pragma_query_value(None, name, |row| row.get(0));
        let (free, all): (u32, u32) = (number("freelist_count")?, number("page_count")?);
        if free > PAGES && free > all / 4 {
            self.connection.execute_batch(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
        }
        Ok(())
    }
}
