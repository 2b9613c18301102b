//! The table of keys in Redis, for several servers.

use std::{
    collections::{HashMap, HashSet},
    fmt::{self, Write as _},
    future::ready,
    time::Duration,
};

use tokio::{runtime::Handle, time::sleep};

use crate::{
    coop::consume_budget,
    protocol::{Code, Epoch, KeyWindow},
    random::Random,
    server::keys::{
        Begun, BoxFuture, KeyId, KeyTable, KeyedOutcome, KeyedRequest, KeysConfig, KeysUnavailable,
        config::Bounds, shares::Owner, table::size,
    },
    sync::{Arc, AtomicU64, Mutex, Ordering, Weak, oneshot},
    topic::{
        Unavailable,
        redis::{Beat, KeyBegin, KeyScripts, KeyState, NotBegun, RedisTopics},
    },
};

/// The target of log events.
const TARGET: &str = "bellwire::keys";
/// How often a server says that it is alive, and how long that counts.
const BEAT: Duration = Duration::from_secs(3);
const ALIVE: Duration = Duration::from_secs(15);
/// The pauses between two looks at a run of another server: the first, and the longest.
const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);

/// A table of keys in Redis, with the feature `redis`, for the servers that share
/// [`RedisTopics`]. A client whose connection to one of them is lost may repeat a keyed request at
/// another one: it runs at most once.
///
/// ```no_run
/// use bellwire::{Router, Server, server::keys::{KeysConfig, RedisKeys}};
/// use bellwire::topic::redis::RedisTopics;
///
/// # async fn run(router: Router) -> Result<(), Box<dyn std::error::Error>> {
/// let topics = RedisTopics::connect("redis://127.0.0.1/").await?;
/// let keys = RedisKeys::open(&topics, KeysConfig::new()).await?;
/// let server = Server::bind("127.0.0.1:7440").await?.topics(topics.clone()).keys(keys);
/// server.serve(router).await?;
/// topics.shutdown().await;
/// # Ok(()) }
/// ```
///
/// The servers must have the same [`KeysConfig`] and the same
/// [`prefix`](crate::topic::redis::RedisConfig::prefix). Clones are the same server to the table.
///
/// # Guarantees
///
/// That a key was started is in Redis before its handler runs, and its outcome is there before a
/// caller gets it. A repeat at another server waits while the run goes on: it looks after 20 ms,
/// and then less and less often, up to once a second.
///
/// A server says every 3 s that it is alive. If it has not done so for 15 s, its runs are
/// `cut lost`: their handlers may have run, wholly or in part, or may still run. An outcome that
/// comes later is given to the callers at that server, and repeats get `cut lost`. The 15 s do not
/// go on while Redis is down.
///
/// The identity of the store changes when Redis may have lost entries, as the epochs of the topics
/// do (see [`topic::redis`](crate::topic::redis)): after a restart, a promotion or a new replica,
/// and when the key of the table is lost. A connection that was told of another identity is refused
/// keyed requests with `no busy` from then on, and is told to close, so that its client reconnects.
///
/// While there is no connection to Redis, keyed requests are refused `no busy`. Outcomes of runs
/// wait for Redis, and so do their callers, up to
/// [`handler_time`](crate::ServerConfig::handler_time).
///
/// # Time and memory
///
/// Outcomes are kept by the clock of Redis. If that clock is set forward, outcomes lose at most 4 s
/// of their time.
/// All entries are in one hash, within the bounds of [`KeysConfig`].
#[derive(Clone)]
pub struct RedisKeys(Arc<Shared>);

struct Shared {
    scripts: KeyScripts,
    window: Mutex<KeyWindow>,
    bounds: Bounds,
    random: Random,
    /// The name under which this server is alive.
    server: Mutex<Epoch>,
    /// Held while a new name is announced.
    naming: tokio::sync::Mutex<()>,
    /// The number of the last token.
    last: AtomicU64,
    local: Mutex<Local>,
    runtime: Handle,
}

type Token = Arc<str>;

/// The runs of this server.
#[derive(Default)]
struct Local {
    /// Those that have begun and not ended. A key may run again in another table, while its run in
    /// the one that was lost goes on.
    runs: HashMap<(Option<Epoch>, Arc<KeyId>), Token>,
    /// The tokens that Redis may know as running: also those of runs that are about to begin, or
    /// whose end is about to be written.
    tokens: HashSet<Token>,
}

impl RedisKeys {
    /// Finds or creates the table. It has to be called within a tokio runtime, which runs the tasks
    /// of the table. They end when the last clone is dropped.
    ///
    /// # Errors
    /// [`KeysUnavailable`]: there is no connection to Redis, or it refuses.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn open(topics: &RedisTopics, config: KeysConfig) -> Result<Self, KeysUnavailable> {
        consume_budget().await;
        let now = config.clock.map(|clock| clock.0);
        let kept = KeyWindow::kept_for(config.seconds);
        let scripts = KeyScripts { topics: topics.clone(), now, kept, alive: ALIVE };
        let random = Random::from_system();
        let server = random.next_epoch();
        let Beat { store, .. } = scripts.beat(server, true).await.map_err(unavailable)?;
        let keys = Self(Arc::new(Shared {
            scripts,
            window: Mutex::new(KeyWindow::new(store, config.seconds)),
            bounds: config.bounds,
            random,
            server: Mutex::new(server),
            naming: tokio::sync::Mutex::default(),
            last: AtomicU64::new(0),
            local: Mutex::default(),
            runtime: Handle::current(),
        }));
        tokio::spawn(beats(Arc::downgrade(&keys.0)));
        Ok(keys)
    }

    /// Notes the identity of the table.
    fn note(&self, store: Epoch) {
        let mut window = self.0.window.lock();
        let before = std::mem::replace(&mut window.store, store);
        drop(window);
        if before != store {
            tracing::warn!(target: TARGET, %before, %store, "the table of keys is another one");
        }
    }

    /// Says that this server is alive, and ends the runs of those that are not.
    async fn beat(&self) -> Result<(), Unavailable> {
        loop {
            let server = *self.0.server.lock();
            let Beat { store, is_alive, dead } = self.0.scripts.beat(server, false).await?;
            self.note(store);
            if !is_alive {
                self.rename(server).await?;
            }
            let Some(dead) = dead else { return Ok(()) };
            tracing::info!(target: TARGET, server = dead, "the keyed runs of a server are lost");
            self.0.scripts.bury(&dead).await?;
        }
    }

    /// Takes another name, because Redis does not know this one as alive.
    async fn rename(&self, dead: Epoch) -> Result<(), Unavailable> {
        let _naming = self.0.naming.lock().await;
        if *self.0.server.lock() != dead {
            return Ok(());
        }
        let server = self.0.random.next_epoch();
        let Beat { store, .. } = self.0.scripts.beat(server, true).await?;
        self.note(store);
        *self.0.server.lock() = server;
        Ok(())
    }

    async fn look_up(self, request: KeyedRequest) -> Result<Begun, KeysUnavailable> {
        let key = name(&request);
        loop {
            let server = *self.0.server.lock();
            let entering = Entering::new(&self, &key, server);
            let begin = self.begin_of(&request, &entering);
            let (store, state) = match self.0.scripts.begin(&begin).await {
                Ok(begun) => begun,
                Err(NotBegun { may_be_there, why }) => {
                    if !may_be_there {
                        entering.settle(&request, false);
                    }
                    return Err(KeysUnavailable(why));
                }
            };
            self.note(store);
            entering.settle(&request, matches!(state, KeyState::Entered));
            return Ok(match state {
                KeyState::Entered => Begun::Run,
                KeyState::Running(other) => self.running(key, other, server, store).await?,
                KeyState::Ended(outcome) => ended(&outcome),
                KeyState::Mismatch => Begun::Mismatch,
                KeyState::Full => Begun::Full,
                KeyState::OtherStore => Begun::OtherStore,
                KeyState::Dead => {
                    self.rename(server).await.map_err(unavailable)?;
                    continue;
                }
                KeyState::Gone => return Err(KeysUnavailable("an unexpected answer".into())),
            });
        }
    }

    fn begin_of(&self, request: &KeyedRequest, entering: &Entering) -> KeyBegin {
        KeyBegin {
            told: request.store(),
            key: entering.key.clone(),
            token: entering.token.to_string(),
            owner: owner(request.owner()),
            method: request.method().to_owned(),
            digest: request.payload(),
            bytes: size(request, request.max_outcome()),
            rest: size(request, 0),
            entries: self.0.bounds.entries,
            bytes_total: self.0.bounds.bytes,
        }
    }

    /// What to do about a key that has a run.
    async fn running(
        &self,
        key: String,
        token: String,
        server: Epoch,
        store: Epoch,
    ) -> Result<Begun, KeysUnavailable> {
        let is_own = token.split('.').next() == Some(server.as_str());
        if is_own && !self.0.local.lock().tokens.contains(token.as_str()) {
            let lost = KeyedOutcome::cut(Code::LOST).encode();
            self.0.scripts.end(&key, &token, &lost, 0).await.map_err(unavailable)?;
            return Ok(Begun::Lost);
        }
        Ok(Begun::Joined(Box::pin(self.clone().outcome(key, token, store))))
    }

    /// Waits for the outcome of a run.
    async fn outcome(
        self,
        key: String,
        token: String,
        store: Epoch,
    ) -> Result<KeyedOutcome, KeysUnavailable> {
        let mut pause = FIRST;
        loop {
            sleep(pause).await;
            pause = (2 * pause).min(LONGEST);
            let looked = self.0.scripts.look(&key, &token).await;
            let (now, state) = looked.map_err(unavailable)?;
            self.note(now);
            match state {
                KeyState::Running(_) => {}
                KeyState::Ended(outcome) => return Ok(decoded(&outcome)),
                _ if now != store => return Ok(KeyedOutcome::cut(Code::LOST)),
                _ => return Err(KeysUnavailable("the run was not started".into())),
            }
        }
    }

    /// Writes the end of a run, once there is a connection, whether or not the future is polled.
    fn end(
        &self,
        key: String,
        token: Token,
        outcome: Vec<u8>,
        bytes: usize,
    ) -> BoxFuture<Result<(), KeysUnavailable>> {
        let ((done, written), keys) = (oneshot::channel(), self.clone());
        self.0.runtime.spawn(async move {
            let ended = keys.0.scripts.end(&key, &token, &outcome, bytes).await;
            keys.0.local.lock().tokens.remove(&token);
            // The caller may be gone.
            let _ = done.send(match ended {
                Ok(true) => Ok(()),
                Ok(false) => Err(KeysUnavailable("the table has lost the run".into())),
                Err(error) => Err(unavailable(error)),
            });
        });
        let lost = |_| Err(KeysUnavailable("the runtime has ended".into()));
        Box::pin(async move { written.await.unwrap_or_else(lost) })
    }

    /// The run of a key, which ends.
    fn take(&self, request: &KeyedRequest) -> Option<(String, Token)> {
        let token = self.0.local.lock().runs.remove(&(request.store(), request.id().clone()))?;
        Some((name(request), token))
    }
}

/// A key that is about to be entered. If it is dropped before that is settled, the key is new again.
struct Entering {
    keys: RedisKeys,
    key: String,
    token: Token,
    is_settled: bool,
}

impl Entering {
    fn new(keys: &RedisKeys, key: &str, server: Epoch) -> Self {
        let number = keys.0.last.fetch_add(1, Ordering::Relaxed);
        let token: Token = format!("{server}.{number}").into();
        keys.0.local.lock().tokens.insert(token.clone());
        Self { keys: keys.clone(), key: key.to_owned(), token, is_settled: false }
    }

    /// It is known whether the table has entered the key.
    fn settle(mut self, request: &KeyedRequest, is_entered: bool) {
        self.is_settled = true;
        let mut local = self.keys.0.local.lock();
        let unused = match is_entered {
            true => {
                let run = (request.store(), request.id().clone());
                local.runs.insert(run, self.token.clone())
            }
            false => Some(self.token.clone()),
        };
        if let Some(unused) = unused {
            local.tokens.remove(&unused);
        }
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        if !self.is_settled {
            let key = std::mem::take(&mut self.key);
            drop(self.keys.end(key, self.token.clone(), Vec::new(), 0));
        }
    }
}

/// Says again and again that a server is alive.
async fn beats(shared: Weak<Shared>) {
    loop {
        sleep(BEAT).await;
        let Some(keys) = shared.upgrade().map(RedisKeys) else { return };
        if let Err(error) = keys.beat().await {
            tracing::debug!(target: TARGET, %error, "cannot say that this server is alive");
        }
    }
}

impl KeyTable for RedisKeys {
    fn window(&self) -> Option<KeyWindow> {
        // If it is out of date, `begin` finds out.
        Some(*self.0.window.lock())
    }

    fn begin(&self, request: &KeyedRequest) -> BoxFuture<Result<Begun, KeysUnavailable>> {
        Box::pin(self.clone().look_up(request.clone()))
    }

    fn finish(
        &self,
        request: &KeyedRequest,
        outcome: KeyedOutcome,
    ) -> BoxFuture<Result<(), KeysUnavailable>> {
        match self.take(request) {
            Some((key, token)) => self.end(key, token, outcome.encode(), outcome.bytes()),
            None => Box::pin(ready(Ok(()))),
        }
    }

    fn forget(&self, request: &KeyedRequest) -> BoxFuture<Result<(), KeysUnavailable>> {
        match self.take(request) {
            Some((key, token)) => self.end(key, token, Vec::new(), 0),
            None => Box::pin(ready(Ok(()))),
        }
    }
}

impl fmt::Debug for RedisKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisKeys").field("window", &*self.0.window.lock()).finish_non_exhaustive()
    }
}

fn ended(outcome: &[u8]) -> Begun {
    Begun::Done(decoded(outcome))
}

/// Only a later version may have written another form.
fn decoded(outcome: &[u8]) -> KeyedOutcome {
    KeyedOutcome::decode(outcome).unwrap_or_else(|| KeyedOutcome::cut(Code::LOST))
}

/// The name of a key in the table: `=PRINCIPAL:KEY`, or `-:KEY`.
fn name(request: &KeyedRequest) -> String {
    let mut name = request.principal().map_or_else(|| "-".into(), principal);
    name.push(':');
    name.push_str(request.key());
    name
}

/// The name of an owner: `=PRINCIPAL`, `@NETWORK` or `-`.
fn owner(owner: &Owner) -> String {
    match owner {
        Owner::Principal(name) => principal(name),
        Owner::Network(network) => format!("@{network}"),
        Owner::Nobody => "-".into(),
    }
}

fn principal(name: &str) -> String {
    let mut escaped = String::from("=");
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'@' => {
                escaped.push(byte.into());
            }
            // Writing to a string does not fail.
            _ => drop(write!(escaped, "%{byte:02X}")),
        }
    }
    escaped
}

fn unavailable(Unavailable(why): Unavailable) -> KeysUnavailable {
    KeysUnavailable(why)
}
