//! Opening a file: whether its logs may go on, and what they hold.

use std::{collections::HashMap, fs, path::Path};

use rusqlite::{Connection, Row, params};

use super::{
    config::{Durability, SqliteConfig},
    error::OpenError,
    file::{self, LogRow, Message, Meta},
    head::{Count, Head},
    replaced,
};
use crate::protocol::{Epoch, MAX_NUMBER, Topic, Window};

/// The target of log events.
pub(super) const TARGET: &str = "bellwire::store";

/// A file that is open.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) head: Head,
    pub(super) meta: Meta,
    pub(super) logs: Vec<(LogRow, Held)>,
}

/// What the file has of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// The oldest number that it has, or that was replaced.
    pub(super) first: u64,
    pub(super) messages: u64,
    /// Bytes of payloads and keys.
    pub(super) bytes: u64,
    /// When the oldest message was published, in milliseconds since 1970.
    pub(super) since: i64,
    /// Messages were replaced.
    pub(super) has_ranges: bool,
}

impl LogRow {
    pub(super) fn window(&self, held: Held) -> Window {
        Window { epoch: self.epoch, first: held.first, next: self.next }
    }
}

/// Opens the file at `path`, or creates it.
pub(super) fn open(path: &Path, config: &SqliteConfig) -> Result<Opened, OpenError> {
    let mut head = Head::lock(path)?;
    let connection = file::connect(path, config.durability)?;
    let boot = boot(config.durability);
    let is_new = file::is_new(&connection)?;
    if is_new {
        file::create(
            &connection,
            &Meta { is_clean: true, boot: boot.clone(), ..new_meta(config) },
        )?;
    }
    file::set_journal(&connection)?;
    file::set_limit(&connection, config.file_bytes)?;
    if config.check {
        file::check(&connection)?;
    }
    let said = file::meta(&connection)?;
    let count = head.read();
    let is_whole = said.as_ref().is_some_and(|meta| is_whole(meta, count, &boot));
    let may_go_on = !config.new_epochs && (is_new || is_whole);
    let (meta, logs) = begin_life(&connection, said, boot, may_go_on, config)?;
    let count = Count { store: meta.store, commits: meta.commits };
    head.write(count).map_err(|error| OpenError::Io(error.to_string()))?;
    Ok(Opened { connection, head, meta, logs })
}

/// Whether the file has everything that was ever committed to it, as far as can be known.
fn is_whole(meta: &Meta, count: Option<Count>, boot: &str) -> bool {
    let has_all =
        count.is_some_and(|count| count.store == meta.store && count.commits <= meta.commits);
    let was_synced = meta.is_clean || meta.boot == SYNCED || meta.boot == boot;
    has_all && was_synced
}

/// The name of a life of the file in which every commit was synced.
const SYNCED: &str = "synced";

/// What a later life has to know about this one. Without syncs, commits survive as long as the
/// system runs.
fn boot(durability: Durability) -> String {
    if durability == Durability::Power {
        return SYNCED.into();
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot = boot.trim();
    match boot.is_empty() {
        // No later life has the same name.
        true => format!("unknown {}", uuid::Uuid::new_v4()),
        false => boot.into(),
    }
}

/// Notes that the file is in use, ends all epochs if the logs may not go on, and loads the logs.
fn begin_life(
    connection: &Connection,
    said: Option<Meta>,
    boot: String,
    may_go_on: bool,
    config: &SqliteConfig,
) -> Result<(Meta, Vec<(LogRow, Held)>), OpenError> {
    let transaction = connection.unchecked_transaction()?;
    let mut meta = said.unwrap_or_else(|| new_meta(config));
    if !may_go_on {
        tracing::warn!(target: TARGET, "the file may lack messages: every log begins a new epoch");
        meta.birth = config.random.next_epoch();
        meta.keys = config.random.next_epoch();
        end_epochs(&transaction, config)?;
    }
    let logs = load(&transaction, config)?;
    replace_missing(&transaction, &mut meta, logs.len(), config)?;
    (meta.is_clean, meta.boot, meta.commits) = (false, boot, meta.commits + 1);
    file::put_meta(&transaction, &meta)?;
    transaction.commit()?;
    Ok((meta, logs))
}

/// What is said of a file without logs and keys.
fn new_meta(config: &SqliteConfig) -> Meta {
    Meta {
        store: config.random.next_uuid().into_bytes(),
        commits: 0,
        birth: config.random.next_epoch(),
        logs: 0,
        is_clean: false,
        boot: String::new(),
        keys: config.random.next_epoch(),
        key_rows: 0,
        key_clock: 0,
    }
}

/// Gives every log a new epoch, with the messages that it has.
fn end_epochs(connection: &Connection, config: &SqliteConfig) -> Result<(), OpenError> {
    for log in file::logs(connection)?.into_iter().flatten() {
        end_epoch(connection, log, config)?;
    }
    Ok(())
}

fn end_epoch(
    connection: &Connection,
    log: LogRow,
    config: &SqliteConfig,
) -> Result<LogRow, OpenError> {
    let epoch = config.random.next_epoch();
    let last = rewrite(connection, &log, epoch)?;
    let last = last.max(replaced::rewrite(connection, (log.id, log.epoch), epoch)?);
    let next = log.next.max(last + 1).min(MAX_NUMBER);
    let log = LogRow { epoch, next, ..log };
    file::put_log(connection, &log)?;
    Ok(log)
}

/// Gives the messages of a log another epoch, and removes those that are damaged. Returns the last
/// number; 0 if there is none.
fn rewrite(connection: &Connection, log: &LogRow, epoch: Epoch) -> Result<u64, OpenError> {
    let mut last = 0;
    loop {
        let messages = some_messages(connection, log.id, last)?;
        let Some((sequence, ..)) = messages.last() else { return Ok(last) };
        last = *sequence;
        for (sequence, at, checksum, key, payload) in &messages {
            let (sequence, at, key) = (*sequence, *at, key.as_deref());
            let old = Message { log: log.id, epoch: log.epoch, sequence, at, key, payload };
            let checksum =
                (old.checksum() == *checksum).then(|| Message { epoch, ..old }.checksum());
            file::sign_message(connection, log.id, sequence, checksum)?;
        }
    }
}

type Signed = (u64, i64, u32, Option<Vec<u8>>, Vec<u8>);

/// The next messages of a log behind number `last`; none at the end.
fn some_messages(connection: &Connection, log: u64, last: u64) -> rusqlite::Result<Vec<Signed>> {
    let query = "SELECT sequence, at, checksum, key, payload FROM messages \
                 WHERE log = ?1 AND sequence > ?2 ORDER BY sequence LIMIT 64";
    let read =
        |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?));
    connection.prepare_cached(query)?.query_map(params![log, last], read)?.collect()
}

/// The logs of the file, without those that are closed or damaged, which are removed.
fn load(connection: &Connection, config: &SqliteConfig) -> Result<Vec<(LogRow, Held)>, OpenError> {
    let mut logs: HashMap<Topic, (LogRow, Held)> = HashMap::new();
    for found in file::logs(connection)? {
        let damaged = match found {
            Ok(log) if log.is_closed => {
                file::remove_log(connection, log.id)?;
                continue;
            }
            Ok(log) if log.next <= MAX_NUMBER => {
                let loaded = load_log(connection, log, config)?;
                let Some((twice, _)) = logs.insert(loaded.0.topic.clone(), loaded) else {
                    continue;
                };
                twice.id
            }
            Ok(LogRow { id, .. }) | Err(id) => id,
        };
        tracing::warn!(target: TARGET, log = damaged, "a damaged log was removed");
        file::remove_log(connection, damaged)?;
    }
    Ok(logs.into_values().collect())
}

/// Without a log that was there, its topic must not begin under an epoch that it had.
fn replace_missing(
    connection: &Connection,
    meta: &mut Meta,
    logs: usize,
    config: &SqliteConfig,
) -> Result<(), OpenError> {
    let logs = logs as u64;
    if meta.logs == logs {
        return Ok(());
    }
    tracing::warn!(target: TARGET, expected = meta.logs, found = logs, "logs are missing");
    (meta.logs, meta.birth) = (logs, config.random.next_epoch());
    Ok(file::remove_orphans(connection)?)
}

fn load_log(
    connection: &Connection,
    mut log: LogRow,
    config: &SqliteConfig,
) -> Result<(LogRow, Held), OpenError> {
    let (first, last, held) = held(connection, log.id)?;
    let (replaced, replaced_last) = replaced::bounds(connection, log.id)?;
    if last.max(replaced_last).is_some_and(|last| last >= log.next) {
        tracing::warn!(target: TARGET, topic = %log.topic, "a log is damaged: it begins a new epoch");
        log = end_epoch(connection, log, config)?;
    }
    let first = first.into_iter().chain(replaced).min().unwrap_or(log.next);
    Ok((log, Held { first, has_ranges: replaced.is_some(), ..held }))
}

/// The first and the last message of a log, and what it holds of messages.
fn held(connection: &Connection, log: u64) -> rusqlite::Result<(Option<u64>, Option<u64>, Held)> {
    let query = "SELECT min(sequence), max(sequence), total(length(payload) + coalesce(length(key), 0)), \
                 (SELECT at FROM messages WHERE log = ?1 ORDER BY sequence LIMIT 1), count(*) \
                 FROM messages WHERE log = ?1";
    let read = |row: &Row<'_>| {
        let (bytes, since): (f64, Option<i64>) = (row.get(2)?, row.get(3)?);
        let (bytes, since, messages) = (bytes as u64, since.unwrap_or_default(), row.get(4)?);
        Ok((row.get(0)?, row.get(1)?, Held { messages, bytes, since, ..Held::default() }))
    };
    connection.prepare_cached(query)?.query_row([log], read)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commits that were not synced survive as long as the system runs.
    #[test]
    fn a_crash_of_the_system_may_lose_commits_that_were_not_synced() {
        let meta = new_meta(&SqliteConfig::new());
        let count = Some(Count { store: meta.store, commits: meta.commits });
        for (boot, is_clean, whole) in [
            ("one", false, true),
            ("other", false, false),
            ("other", true, true),
            (SYNCED, false, true),
        ] {
            let meta = Meta { boot: boot.into(), is_clean, ..meta.clone() };
            assert_eq!(is_whole(&meta, count, "one"), whole, "{boot} {is_clean}");
        }
    }
}
