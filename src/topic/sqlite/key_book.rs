//! Writes the rows of keyed requests, and loads them.

use std::{collections::HashMap, mem};

use super::{
    book::{Book, Failure, why},
    error::OpenError,
    keys::{self, KeyChange, KeyRow, KeyWrite, LoadKeys, LoadedKeys},
    open::TARGET,
};
use crate::topic::Unavailable;

impl Book {
    pub(super) fn write_keys(&mut self, writes: &[KeyWrite]) -> rusqlite::Result<()> {
        for write in writes {
            match &write.change {
                KeyChange::Put(row) => self.meta.key_rows += keys::put(&self.connection, row)?,
                KeyChange::Remove(numbers) => {
                    let removed = keys::remove(&self.connection, numbers)?;
                    self.meta.key_rows = self.meta.key_rows.saturating_sub(removed);
                }
            }
            self.meta.key_clock = self.meta.key_clock.max(write.clock);
        }
        Ok(())
    }

    /// Tries keys again that were not written, if they were written with messages.
    pub(super) fn give_up_keys(
        &mut self,
        writes: Vec<KeyWrite>,
        had_messages: bool,
        failure: &Failure,
    ) {
        if writes.is_empty() {
            return;
        }
        let again = had_messages.then(|| self.transact(|book| book.write_keys(&writes)));
        let written = match &again {
            Some(Ok(())) => Ok(()),
            Some(Err(Failure { error, .. })) => Err(error),
            None => Err(&failure.error),
        };
        let written = written.map_err(|error| {
            tracing::error!(target: TARGET, %error, keys = writes.len(), "cannot write");
            Unavailable(why(error))
        });
        writes.into_iter().for_each(|write| write.end(written.clone()));
    }

    /// Hands out the rows, once.
    pub(super) fn load_keys(&mut self, load: LoadKeys) {
        let LoadKeys { kept, lost, done } = load;
        let loaded = match mem::replace(&mut self.has_keys, true) {
            true => return drop(done.send(Err(OpenError::InUse))),
            false => self.transact(|book| book.end_all_keys(kept, &lost)),
        };
        let loaded = loaded.map_err(|failure| OpenError::from(failure.error));
        let is_loaded = loaded.is_ok();
        // Without its caller, nobody has them.
        self.has_keys = done.send(loaded).is_ok() && is_loaded;
    }

    /// Loads the rows. Those that have not ended get the outcome `lost`. If rows are missing or
    /// damaged, the table gets another identity.
    fn end_all_keys(&mut self, kept: u64, lost: &[u8]) -> rusqlite::Result<LoadedKeys> {
        let found = keys::rows(&self.connection)?;
        let is_whole = found.len() as u64 == self.meta.key_rows;
        let (mut newest, mut unused) = (HashMap::new(), Vec::new());
        let mut damaged = 0;
        for row in found {
            let replaced = match row {
                Ok(row) => newest.insert((row.principal.clone(), row.key.clone()), row),
                Err(number) => {
                    damaged += 1;
                    unused.push(number);
                    None
                }
            };
            unused.extend(replaced.map(|row: KeyRow| row.number));
        }
        if damaged > 0 || !is_whole {
            tracing::warn!(target: TARGET, damaged, "keys are missing: the table begins anew");
            self.meta.keys = self.config.random.next_epoch();
        }
        keys::remove(&self.connection, &unused)?;
        let (store, clock) = (self.meta.keys, self.meta.key_clock);
        let mut rows: Vec<KeyRow> = newest.into_values().collect();
        for row in rows.iter_mut().filter(|row| row.outcome.is_none()) {
            (row.until, row.outcome) = (clock.saturating_add(kept), Some(lost.to_vec()));
            keys::put(&self.connection, row)?;
        }
        self.meta.key_rows = rows.len() as u64;
        rows.sort_by_key(|row| row.until);
        Ok(LoadedKeys { store, clock, rows })
    }
}
