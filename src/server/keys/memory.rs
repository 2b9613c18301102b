//! The table of keys in memory: the default.

use std::{fmt, future::ready};

use crate::{
    protocol::KeyWindow,
    random::Random,
    server::{
        config::ServerConfig,
        keys::{
            Begun, BoxFuture, KeyTable, KeyedOutcome, KeyedRequest, KeysConfig, KeysUnavailable,
            config::{Bounds, Clock},
            table::{Found, Table, Waiting},
        },
    },
    sync::{Arc, Mutex},
};

/// A table of keys in memory. It is lost when the process ends: a server that is started again
/// announces another store, and its clients repeat no request that they sent before.
///
/// Clones share the entries, so several servers of one process may share a table.
///
/// ```
/// use bellwire::{Random, Server, server::keys::{KeysConfig, MemoryKeys}};
///
/// # async fn run() -> std::io::Result<()> {
/// let config = KeysConfig::new().seconds(60).entries(1_000_000);
/// let keys = MemoryKeys::with_config(&Random::from_system(), config);
/// let server = Server::bind("127.0.0.1:0").await?.keys(keys);
/// # Ok(()) }
/// # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Clone)]
pub struct MemoryKeys {
    window: KeyWindow,
    bounds: Bounds,
    clock: Clock,
    table: Arc<Mutex<Table>>,
}

impl MemoryKeys {
    /// An empty table with the defaults of [`KeysConfig`]. `random` gives its identity.
    pub fn new(random: &Random) -> Self {
        Self::with_config(random, KeysConfig::new())
    }

    /// An empty table with these settings. `random` gives its identity.
    pub fn with_config(random: &Random, config: KeysConfig) -> Self {
        let window = KeyWindow::new(random.next_epoch(), config.seconds);
        let clock = Clock::or_of_runtime(config.clock);
        Self { window, bounds: config.bounds, clock, table: Arc::default() }
    }

    /// The table that a configuration asks for; `None` if it asks for none.
    pub(in crate::server) fn of(config: &ServerConfig, random: &Random) -> Option<Self> {
        let keys = KeysConfig::new().seconds(config.key_time.as_secs());
        let keys = keys.entries(config.keys).bytes(config.keys_bytes);
        (config.keys > 0).then(|| Self::with_config(random, keys))
    }

    /// How many keys it holds.
    pub fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Whether it holds no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of all entries together, as [`KeysConfig::bytes`] counts them.
    pub fn held_bytes(&self) -> usize {
        self.table.lock().bytes()
    }

    fn look_up(&self, request: &KeyedRequest) -> Begun {
        let now = self.clock.now();
        let mut table = self.table.lock();
        table.expire(now);
        match table.look_up(request, self.bounds) {
            Found::New(_) => Begun::Run,
            Found::Known(begun) => begun,
        }
    }

    /// Stores an outcome. Returns the servers that wait for it.
    fn store(&self, request: &KeyedRequest, outcome: &KeyedOutcome) -> Waiting {
        let until = self.clock.now().saturating_add(self.window.kept());
        self.table.lock().end(request, outcome, until)
    }
}

impl KeyTable for MemoryKeys {
    fn window(&self) -> Option<KeyWindow> {
        Some(self.window)
    }

    fn begin(&self, request: &KeyedRequest) -> BoxFuture<Result<Begun, KeysUnavailable>> {
        Box::pin(ready(Ok(self.look_up(request))))
    }

    fn finish(
        &self,
        request: &KeyedRequest,
        outcome: KeyedOutcome,
    ) -> BoxFuture<Result<(), KeysUnavailable>> {
        // A sender wakes its receiver, so this happens outside the lock.
        for waiting in self.store(request, &outcome) {
            drop(waiting.send(outcome.clone()));
        }
        Box::pin(ready(Ok(())))
    }

    fn forget(&self, request: &KeyedRequest) -> BoxFuture<Result<(), KeysUnavailable>> {
        let forgotten = self.table.lock().forget(request);
        drop(forgotten);
        Box::pin(ready(Ok(())))
    }

    fn sweep(&self) {
        let now = self.clock.now();
        self.table.lock().expire(now);
    }
}

impl fmt::Debug for MemoryKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryKeys").field("window", &self.window).finish_non_exhaustive()
    }
}
