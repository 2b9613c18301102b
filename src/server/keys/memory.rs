//! The table of keys in memory: the default.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::ready,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    protocol::KeyWindow,
    random::Random,
    server::{
        config::ServerConfig,
        keys::{Begun, BoxFuture, KeyId, KeyTable, KeyedOutcome, KeyedRequest, KeysUnavailable},
    },
    sync::{Arc, Mutex, oneshot},
};

/// The memory of an entry besides its names and its outcome, rounded up.
const ENTRY: usize = 320;

/// A table of keys in memory. It is lost when the process ends: a server that is started again
/// announces another store, and its clients repeat no request that they sent before.
///
/// Clones share the entries, so several servers of one process may share a table.
///
/// ```
/// use bellwire::{Random, Server, server::keys::MemoryKeys};
///
/// # async fn run() -> std::io::Result<()> {
/// let keys = MemoryKeys::new(&Random::from_system()).seconds(60).entries(1_000_000);
/// let server = Server::bind("127.0.0.1:0").await?.keys(keys);
/// # Ok(()) }
/// # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Clone)]
pub struct MemoryKeys {
    window: KeyWindow,
    entries: usize,
    bytes: usize,
    clock: Clock,
    table: Arc<Mutex<Table>>,
}

/// The time since the table was made.
#[derive(Clone)]
struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

#[derive(Default)]
struct Table {
    entries: HashMap<Arc<KeyId>, Entry>,
    /// The ended runs and when their time is over, the earliest first.
    ended: VecDeque<(Duration, Arc<KeyId>)>,
    /// The bytes of all entries. A run in progress counts with the largest outcome that it can
    /// have.
    bytes: usize,
}

struct Entry {
    request: KeyedRequest,
    state: State,
    bytes: usize,
}

enum State {
    /// With the servers that wait for the outcome.
    Running(Vec<oneshot::Sender<KeyedOutcome>>),
    Ended(KeyedOutcome),
}

impl MemoryKeys {
    /// An empty table for 300 s, with at most 65,536 entries and 64 MiB. `random` gives its
    /// identity.
    pub fn new(random: &Random) -> Self {
        let start = Instant::now();
        Self {
            window: KeyWindow::new(random.next_epoch(), 300),
            entries: 65_536,
            bytes: 64 * 1024 * 1024,
            clock: Clock(Arc::new(move || Instant::now().saturating_duration_since(start))),
            table: Arc::default(),
        }
    }

    /// The table that a configuration asks for; `None` if it asks for none.
    pub(in crate::server) fn of(config: &ServerConfig, random: &Random) -> Option<Self> {
        let seconds = config.key_time.as_secs();
        let table = || Self::new(random).seconds(seconds).bytes(config.keys_bytes);
        (config.keys > 0).then(|| table().entries(config.keys))
    }

    /// How long a client may repeat a request, in seconds; at least 1. Default 300. Outcomes are
    /// kept 60 s longer than that, counted from the end of the run.
    #[must_use]
    pub fn seconds(mut self, seconds: u64) -> Self {
        self.window = KeyWindow::new(self.window.store, seconds);
        self
    }

    /// The most entries. Default 65,536, which is enough for about 180 keyed requests a second, for
    /// ever. Past it, new keys are refused `no busy`.
    #[must_use]
    pub fn entries(mut self, entries: usize) -> Self {
        self.entries = entries;
        self
    }

    /// The most bytes of all entries together. Default 64 MiB. Each entry counts with its names,
    /// its outcome and 320 bytes; while the run is in progress, with the longest line of the server
    /// instead of the outcome. Past it, new keys are refused `no busy`.
    #[must_use]
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Another clock, for simulations: the time since any fixed moment. Default: the clock of the
    /// runtime.
    #[must_use]
    pub fn clock(mut self, now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        self.clock = Clock(Arc::new(now));
        self
    }

    /// How many keys it holds.
    pub fn len(&self) -> usize {
        self.table.lock().entries.len()
    }

    /// Whether it holds no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of all entries together, as [`bytes`](Self::bytes) counts them.
    pub fn held_bytes(&self) -> usize {
        self.table.lock().bytes
    }

    fn look_up(&self, request: &KeyedRequest) -> Begun {
        let now = (self.clock.0)();
        let mut table = self.table.lock();
        table.expire(now);
        if let Some(entry) = table.entries.get_mut(request.id()) {
            return entry.begun(request);
        }
        let bytes = size(request, request.max_outcome());
        let has_room =
            table.entries.len() < self.entries && table.bytes.saturating_add(bytes) <= self.bytes;
        if !has_room {
            return Begun::Full;
        }
        table.bytes += bytes;
        let (request, state) = (request.clone(), State::Running(Vec::new()));
        table.entries.insert(request.id().clone(), Entry { request, state, bytes });
        Begun::Run
    }

    /// Stores an outcome. Returns the servers that wait for it.
    fn store(
        &self,
        request: &KeyedRequest,
        outcome: &KeyedOutcome,
    ) -> Vec<oneshot::Sender<KeyedOutcome>> {
        let until = (self.clock.0)().saturating_add(self.window.kept());
        let mut table = self.table.lock();
        let Table { entries, ended, bytes } = &mut *table;
        let Some(entry) = entries.get_mut(request.id()) else { return Vec::new() };
        let State::Running(waiting) = &mut entry.state else { return Vec::new() };
        let waiting = std::mem::take(waiting);
        *bytes -= entry.bytes;
        entry.bytes = size(request, outcome.bytes());
        *bytes += entry.bytes;
        entry.state = State::Ended(outcome.clone());
        ended.push_back((until, request.id().clone()));
        waiting
    }
}

fn size(request: &KeyedRequest, outcome: usize) -> usize {
    let principal = request.principal().map_or(0, str::len);
    ENTRY + principal + request.key().len() + request.method().len() + outcome
}

impl Table {
    fn expire(&mut self, now: Duration) {
        while self.ended.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, id)) = self.ended.pop_front() else { return };
            self.remove(&id);
        }
    }

    fn remove(&mut self, id: &Arc<KeyId>) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        self.bytes -= entry.bytes;
        if self.entries.is_empty() {
            (self.entries, self.ended) = Default::default();
        }
        Some(entry)
    }
}

impl Entry {
    fn begun(&mut self, request: &KeyedRequest) -> Begun {
        match &mut self.state {
            _ if !self.request.is_same(request) => Begun::Mismatch,
            State::Ended(outcome) => Begun::Done(outcome.clone()),
            State::Running(waiting) => {
                let (sender, receiver) = oneshot::channel();
                // Servers whose callers have gone wait no longer.
                waiting.retain(|sender| !sender.is_closed());
                waiting.push(sender);
                Begun::Joined(Box::pin(async {
                    let forgotten = |_| KeysUnavailable("the run was not started".into());
                    receiver.await.map_err(forgotten)
                }))
            }
        }
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
        let mut table = self.table.lock();
        let is_running = |entry: &Entry| matches!(entry.state, State::Running(_));
        let forgotten = match table.entries.get(request.id()).is_some_and(is_running) {
            true => table.remove(request.id()),
            false => None,
        };
        drop(table);
        drop(forgotten);
        Box::pin(ready(Ok(())))
    }

    fn sweep(&self) {
        let now = (self.clock.0)();
        self.table.lock().expire(now);
    }
}

impl fmt::Debug for MemoryKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryKeys").field("window", &self.window).finish_non_exhaustive()
    }
}
