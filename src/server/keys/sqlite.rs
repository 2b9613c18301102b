//! The table of keys in a file.

use std::{fmt, future::ready, time::Duration};

use crate::{
    coop::consume_budget,
    protocol::{Code, KeyWindow},
    server::keys::{
        Begun, BoxFuture, KeyTable, KeyedOutcome, KeyedRequest, KeysConfig, KeysUnavailable,
        config::{Bounds, Clock},
        table::{Found, Table},
    },
    sync::{Arc, Mutex, oneshot},
    topic::{
        Unavailable,
        sqlite::{KeyChange, KeyRow, KeyWrite, LoadedKeys, OpenError, SqliteTopics},
    },
};

/// Entries that one command removes from the file at most.
const SOME: usize = 256;

/// A table of keys in the file of [`SqliteTopics`], with the feature `sqlite`. A server that is
/// restarted or killed announces the same store, and goes on with its keys.
///
/// ```no_run
/// use bellwire::{Router, Server, server::keys::{KeysConfig, SqliteKeys}};
/// use bellwire::topic::sqlite::SqliteTopics;
///
/// # async fn run(router: Router) -> Result<(), Box<dyn std::error::Error>> {
/// let topics = SqliteTopics::open("topics.db").await?;
/// let keys = SqliteKeys::open(&topics, KeysConfig::new()).await?;
/// let server = Server::bind("127.0.0.1:7440").await?.topics(topics.clone()).keys(keys);
/// server.serve(router).await?;
/// topics.shutdown().await?;
/// # Ok(()) }
/// ```
///
/// Clones share the entries, so several servers of one process may share a table.
///
/// # Guarantees
///
/// That a key was started is committed before its handler runs, and its outcome is committed before
/// a caller gets it. Both are committed together with the messages that wait for the disk. A key
/// that was started, and had no outcome when the process ended, is `cut lost`: its handler may have
/// run, wholly or in part. So may a `/publish` that was killed between its message and its outcome.
///
/// The identity of the store changes when entries may be missing: as the epochs of the topics
/// change (see [`topic::sqlite`](crate::topic::sqlite)), and when an entry is damaged or missing.
/// Entries that are left stay.
///
/// If the outcome of a run cannot be written, for example because the disk is full, its callers
/// still get it. A repeat gets it until the process ends, and `cut lost` after that. New keys are
/// refused `no busy` then.
///
/// # Time
///
/// Entries leave by a clock that counts only the time during which the table is open, and that is
/// committed with each change. So no entry leaves early if the clock of the system is set, and
/// entries stay longer over a time in which the server is down.
///
/// # Memory
///
/// All entries are in memory, too, as in [`MemoryKeys`](super::MemoryKeys), and the bounds of
/// [`KeysConfig`] are those of that. Repeats do not read the file. A table that holds more when it
/// is opened takes no new keys until enough have left.
#[derive(Clone)]
pub struct SqliteKeys(Arc<Shared>);

struct Shared {
    topics: SqliteTopics,
    window: KeyWindow,
    bounds: Bounds,
    clock: Clock,
    table: Mutex<Table>,
}

impl SqliteKeys {
    /// Loads the keys of an open file. A file gives its keys to one table at a time.
    ///
    /// # Errors
    /// [`OpenError::InUse`]: there is a table for this open file already. [`OpenError::Corrupt`]:
    /// the file is damaged. [`OpenError::Io`]: it cannot be read or written, or was closed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the file is as before.
    pub async fn open(topics: &SqliteTopics, config: KeysConfig) -> Result<Self, OpenError> {
        consume_budget().await;
        let kept = millis(KeyWindow::kept_for(config.seconds));
        let lost = KeyedOutcome::cut(Code::LOST).encode();
        let LoadedKeys { store, clock, rows } = topics.load_keys(kept, lost).await?;
        let mut table = Table::default();
        rows.into_iter().for_each(|row| restore(&mut table, row));
        Ok(Self(Arc::new(Shared {
            topics: topics.clone(),
            window: KeyWindow::new(store, config.seconds),
            bounds: config.bounds,
            clock: going_on(Clock::or_of_runtime(config.clock), Duration::from_millis(clock)),
            table: Mutex::new(table),
        })))
    }

    /// How many keys it holds.
    pub fn len(&self) -> usize {
        self.0.table.lock().len()
    }

    /// Whether it holds no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of all entries together, as [`KeysConfig::bytes`] counts them.
    pub fn held_bytes(&self) -> usize {
        self.0.table.lock().bytes()
    }
}

/// A key that was entered in the table, and whose run has not begun. If it is dropped so, the key is
/// new again.
struct Entered {
    keys: SqliteKeys,
    request: KeyedRequest,
    number: u64,
    stays: bool,
}

impl Entered {
    /// Enters the key in the file, too.
    fn write(self) -> BoxFuture<Result<Begun, KeysUnavailable>> {
        let put = KeyChange::Put(row(&self.request, self.number));
        let written = self.keys.0.write(put, None);
        Box::pin(async move {
            // All of it, and not one field, lives as long as the future.
            let mut entered = self;
            written.await?;
            entered.stays = true;
            Ok(Begun::Run)
        })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        let mut table = self.keys.0.table.lock();
        let is_this = table.running(&self.request) == Some(self.number);
        let forgotten = is_this.then(|| table.forget(&self.request));
        drop(table);
        drop(forgotten);
        if is_this {
            self.keys.0.remove(vec![self.number]);
        }
    }
}

/// An outcome that is being written. It is dropped afterwards, written or not, and its callers get
/// it then.
struct Ending {
    keys: SqliteKeys,
    request: KeyedRequest,
    outcome: KeyedOutcome,
    until: Duration,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Self { keys, request, outcome, until } = self;
        let waiting = keys.0.table.lock().end(request, outcome, *until);
        for waiting in waiting {
            drop(waiting.send(outcome.clone()));
        }
    }
}

impl Shared {
    /// Writes a change. Drops `ending` before the future ends.
    fn write(
        &self,
        change: KeyChange,
        ending: Option<Ending>,
    ) -> BoxFuture<Result<(), KeysUnavailable>> {
        let (done, written) = oneshot::channel();
        let end = move |result: Result<(), Unavailable>| {
            drop(ending);
            // The caller may be gone.
            drop(done.send(result));
        };
        self.topics.write_key(KeyWrite::new(change, millis(self.clock.now()), end));
        Box::pin(async {
            match written.await {
                Ok(written) => written.map_err(|Unavailable(why)| KeysUnavailable(why)),
                Err(_) => Err(KeysUnavailable("the store was closed".into())),
            }
        })
    }

    /// Removes rows. If that fails, they are loaded again after the next start.
    fn remove(&self, numbers: Vec<u64>) {
        for some in numbers.chunks(SOME) {
            drop(self.write(KeyChange::Remove(some.to_vec()), None));
        }
    }
}

impl KeyTable for SqliteKeys {
    fn window(&self) -> Option<KeyWindow> {
        Some(self.0.window)
    }

    fn begin(&self, request: &KeyedRequest) -> BoxFuture<Result<Begun, KeysUnavailable>> {
        let now = self.0.clock.now();
        let mut table = self.0.table.lock();
        let (expired, found) = (table.expire(now), table.look_up(request, self.0.bounds));
        drop(table);
        self.0.remove(expired);
        match found {
            Found::Known(begun) => Box::pin(ready(Ok(begun))),
            Found::New(number) => {
                let (keys, request) = (self.clone(), request.clone());
                Entered { keys, request, number, stays: false }.write()
            }
        }
    }

    fn finish(
        &self,
        request: &KeyedRequest,
        outcome: KeyedOutcome,
    ) -> BoxFuture<Result<(), KeysUnavailable>> {
        let until = self.0.clock.now().saturating_add(self.0.window.kept());
        let Some(number) = self.0.table.lock().running(request) else {
            return Box::pin(ready(Ok(())));
        };
        let (until_millis, encoded) = (millis(until), Some(outcome.encode()));
        let row = KeyRow { until: until_millis, outcome: encoded, ..row(request, number) };
        let ending = Ending { keys: self.clone(), request: request.clone(), outcome, until };
        self.0.write(KeyChange::Put(row), Some(ending))
    }

    fn forget(&self, request: &KeyedRequest) -> BoxFuture<Result<(), KeysUnavailable>> {
        let forgotten = self.0.table.lock().forget(request);
        let Some((number, waiting)) = forgotten else { return Box::pin(ready(Ok(()))) };
        drop(waiting);
        self.0.write(KeyChange::Remove(vec![number]), None)
    }

    fn sweep(&self) {
        let now = self.0.clock.now();
        let expired = self.0.table.lock().expire(now);
        self.0.remove(expired);
    }
}

impl fmt::Debug for SqliteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteKeys").field("window", &self.0.window).finish_non_exhaustive()
    }
}

/// A clock that goes on from where that of an earlier life stood.
fn going_on(clock: Clock, from: Duration) -> Clock {
    let start = clock.now();
    Clock(Arc::new(move || from.saturating_add(clock.now().saturating_sub(start))))
}

/// The row of a request whose run is in progress.
fn row(request: &KeyedRequest, number: u64) -> KeyRow {
    KeyRow {
        number,
        principal: request.principal().map(str::to_owned),
        network: request.network().map(|network| network.to_string()),
        key: request.key().to_owned(),
        method: request.method().to_owned(),
        payload: request.payload(),
        until: 0,
        outcome: None,
    }
}

/// Enters a row of an earlier life.
fn restore(table: &mut Table, row: KeyRow) {
    let KeyRow { number, principal, network, key, method, payload, until, outcome } = row;
    let request = KeyedRequest::of_digest(principal.as_deref(), &key, &method, payload, 0);
    let request = match network.and_then(|network| network.parse().ok()) {
        Some(network) => request.peer(network),
        None => request,
    };
    // Only a later version may have written another form.
    let outcome = outcome.and_then(|encoded| KeyedOutcome::decode(&encoded));
    let outcome = outcome.unwrap_or_else(|| KeyedOutcome::cut(Code::LOST));
    table.restore(&request, outcome, Duration::from_millis(until), number);
}

fn millis(time: Duration) -> u64 {
    // SQLite has no larger number.
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min(i64::MAX as u64)
}
