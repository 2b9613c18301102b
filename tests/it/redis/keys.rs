//! Keys in Redis: what two servers share, and what becomes of runs whose server or whose table is
//! lost.
//!
//! What every table has to do is in `key_tables`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bellwire::{
    CallError,
    protocol::{Code, Epoch},
    server::keys::{KeyTable, KeyedOutcome, KeyedRequest, KeysConfig, RedisKeys},
};
use tokio::{runtime::Handle, sync::Semaphore};

use super::*;
use crate::key_tables::{Clock, Kind, begin, finish, join, paid, pay};

const KEYED: &str = "bellwire{0}:keyed";

/// Tables of keys, each in a Redis of its own.
pub(crate) struct InRedis {
    servers: std::sync::Mutex<Vec<Redis>>,
}

impl InRedis {
    pub(crate) fn new() -> Self {
        Self { servers: std::sync::Mutex::default() }
    }
}

impl Kind for InRedis {
    type Table = RedisKeys;

    async fn open(&self, config: KeysConfig) -> RedisKeys {
        let redis = Redis::start();
        let keys = open(&url(&redis), config).await.1;
        self.servers.lock().unwrap().push(redis);
        keys
    }
}

async fn open(url: &str, config: KeysConfig) -> (RedisTopics, RedisKeys) {
    let topics = connect(url).await;
    let keys = bounded("opening the table", RedisKeys::open(&topics, config)).await.unwrap();
    (topics, keys)
}

fn store(keys: &RedisKeys) -> Epoch {
    keys.window().unwrap().store
}

/// [S22.1] [S23.3] A key that one server runs is joined at another one, which gets the outcome.
#[tokio::test]
async fn a_key_runs_at_one_of_two_servers() {
    let redis = Redis::start();
    let (_, one) = open(&url(&redis), KeysConfig::new()).await;
    let (_, two) = open(&url(&redis), KeysConfig::new()).await;
    assert_eq!(store(&one), store(&two));
    let request = pay("a", "40");
    assert_eq!(begin(&one, &request).await, "Run");
    assert_eq!(begin(&two, &pay("a", "41")).await, "Mismatch");
    let joined = join(&two, &request).await;
    // It did not begin it.
    finish(&two, &request, KeyedOutcome::ok("wrong")).await;
    bounded("forgetting", two.forget(&request)).await.unwrap();
    finish(&one, &request, paid()).await;
    assert_eq!(bounded("the outcome", joined).await, Ok(paid()));
    for table in [&one, &two] {
        assert_eq!(begin(table, &request).await, "ok paid");
    }
}

/// [S23.8] The runs of a server that is not alive any more are lost.
#[tokio::test]
async fn a_dead_server_leaves_lost_runs() {
    let (redis, clock) = (Redis::start(), Clock::default());
    let (topics, one) = open(&url(&redis), clock.config()).await;
    let (_, two) = open(&url(&redis), clock.config()).await;
    let [ended, looked, joined, buried] = ["ended", "looked", "joined", "buried"];
    for key in [ended, looked, joined, buried] {
        assert_eq!(begin(&one, &pay(key, "40")).await, "Run");
    }
    finish(&one, &pay(ended, "40"), paid()).await;
    // A server that has ended says nothing, as one that was killed.
    bounded("closing the store", topics.shutdown()).await;
    clock.advance(14_999);
    let waiting = join(&two, &pay(joined, "40")).await;
    clock.advance(1);
    assert_eq!(begin(&two, &pay(looked, "40")).await, "cut lost");
    assert_eq!(bounded("the outcome", waiting).await, Ok(KeyedOutcome::cut(Code::LOST)));
    assert_eq!(begin(&two, &pay(ended, "40")).await, "ok paid");
    // The last one is found by the other server, which takes another name itself.
    redis.until(&["HGET", KEYED, "k:=ada:buried"], |entry| entry.ends_with("cut lost")).await;
    redis.until(&["HGET", KEYED, "servers"], |all| all.split(' ').count() == 1).await;
    assert_eq!(begin(&two, &pay("new", "40")).await, "Run");
}

/// A server that was stopped for long finds its runs lost, and goes on under another name.
#[tokio::test]
async fn a_server_that_was_away_goes_on() {
    let (redis, clock) = (Redis::start(), Clock::default());
    let (_, keys) = open(&url(&redis), clock.config()).await;
    for key in ["a", "b"] {
        assert_eq!(begin(&keys, &pay(key, "40")).await, "Run");
    }
    clock.advance(15_000);
    assert_eq!(begin(&keys, &pay("c", "40")).await, "Run");
    assert_eq!(begin(&keys, &pay("a", "40")).await, "cut lost");
    // Its outcome comes too late.
    bounded("storing an outcome", keys.finish(&pay("a", "40"), paid())).await.unwrap_err();
    assert_eq!(begin(&keys, &pay("a", "40")).await, "cut lost");
    finish(&keys, &pay("c", "40"), paid()).await;
    assert_eq!(begin(&keys, &pay("c", "40")).await, "ok paid");
}

/// [S23.7] When the table is lost, no key of a connection that was told of it runs again.
#[tokio::test]
async fn a_lost_table_is_another_one() {
    for command in [&["DEL", KEYED][..], &["FLUSHALL"]] {
        let redis = Redis::start();
        let (_, one) = open(&url(&redis), KeysConfig::new()).await;
        let (_, two) = open(&url(&redis), KeysConfig::new()).await;
        let first = store(&one);
        let of = |key| pay(key, "40").announced(Some(first));
        for key in ["ended", "running"] {
            assert_eq!(begin(&one, &of(key)).await, "Run");
        }
        finish(&one, &of("ended"), paid()).await;
        let joined = join(&two, &of("running")).await;
        redis.run(command);
        for key in ["ended", "running", "new"] {
            assert_eq!(begin(&two, &of(key)).await, "OtherStore");
        }
        assert_eq!(bounded("the outcome", joined).await, Ok(KeyedOutcome::cut(Code::LOST)));
        bounded("storing an outcome", one.finish(&of("running"), paid())).await.unwrap_err();
        let second = store(&two);
        assert_ne!(first, second);
        let again = pay("ended", "40").announced(Some(second));
        assert_eq!(begin(&one, &again).await, "Run");
        assert_eq!(store(&one), second);
    }
}

/// [S23.7] [S23.9] So it is when Redis restarts. Outcomes wait for that, and are given to the
/// callers.
#[tokio::test]
async fn redis_restarts() {
    let mut redis = Redis::start();
    let (_, keys) = open(&url(&redis), KeysConfig::new()).await;
    let first = store(&keys);
    let of = |key| pay(key, "40").announced(Some(first));
    assert_eq!(begin(&keys, &of("a")).await, "Run");
    redis.kill();
    let finished = keys.finish(&of("a"), paid());
    until(async || begin(&keys, &of("b")).await.contains("no connection to Redis")).await;
    // Requests that are refused leave nothing that waits.
    let tasks = Handle::current().metrics().num_alive_tasks();
    for _ in 0..100 {
        assert_ne!(begin(&keys, &of("b")).await, "Run");
    }
    assert!(Handle::current().metrics().num_alive_tasks() <= tasks + 10);
    redis.restart();
    bounded("storing an outcome", finished).await.unwrap_err();
    until(async || begin(&keys, &of("c")).await == "OtherStore").await;
    assert_ne!(store(&keys), first);
}

async fn until(is_so: impl AsyncFn() -> bool) {
    let so = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    bounded("the state", so).await;
}

/// A begin whose future is dropped, however far it has come, leaves a new key.
#[tokio::test]
async fn a_begin_that_is_dropped_leaves_a_new_key() {
    let redis = Redis::start();
    let (_, keys) = open(&url(&redis), KeysConfig::new()).await;
    let request = pay("a", "40");
    for polls in 0..20 {
        let mut begun = keys.begin(&request);
        for _ in 0..polls {
            if poll_fn(|cx| Poll::Ready(begun.as_mut().poll(cx).is_ready())).await {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(begun);
        bounded("forgetting", keys.forget(&request)).await.unwrap();
        // Until it is removed, there seems to be a run.
        until(async || begin(&keys, &request).await == "Run").await;
        bounded("forgetting", keys.forget(&request)).await.unwrap();
    }
}

/// The entries of all servers count, in whichever order they come and go.
#[tokio::test]
async fn the_account_is_right() {
    let (redis, clock) = (Redis::start(), Clock::default());
    let config = || clock.config().entries(30).seconds(1);
    let (_, one) = open(&url(&redis), config()).await;
    let (_, two) = open(&url(&redis), config()).await;
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..600 {
        let table = if rng.bool() { &one } else { &two };
        let principal = ["ada", "b b", "\u{e9}"][rng.usize(..3)];
        let key = rng.usize(..40).to_string();
        let request = KeyedRequest::new(Some(principal), &key, "pay", b"");
        match rng.usize(..4) {
            0 | 1 => drop(begin(table, &request).await),
            2 => {
                let outcome = KeyedOutcome::ok("x".repeat(rng.usize(..50)));
                let _ = bounded("storing an outcome", table.finish(&request, outcome)).await;
            }
            _ => drop(bounded("forgetting", table.forget(&request)).await),
        }
        clock.advance(rng.u64(..4_000));
        let all = redis.run(&["HGETALL", KEYED]);
        let all: Vec<_> = all.lines().collect();
        let fields: HashMap<_, _> = all.chunks(2).map(|pair| (pair[0], pair[1])).collect();
        let numbers = |text: &str| -> Vec<u64> {
            text.split(' ').filter_map(|word| word.parse().ok()).collect()
        };
        let state: Vec<_> = fields[""].split(' ').collect();
        let (mut entries, mut bytes, mut owners) = (0, 0, HashMap::<&str, (u64, u64)>::new());
        for (_, entry) in fields.iter().filter(|(name, _)| name.starts_with("k:")) {
            let words: Vec<_> = entry.split(' ').collect();
            let size: u64 = words[3].parse().unwrap();
            (entries, bytes) = (entries + 1, bytes + size);
            let owned = owners.entry(words[2]).or_default();
            *owned = (owned.0 + 1, owned.1 + size);
        }
        assert_eq!(state[4..6], [entries.to_string(), bytes.to_string()]);
        assert!(entries <= 30);
        let told = fields.iter().filter_map(|(name, held)| Some((name.strip_prefix("o:")?, held)));
        let told = told.map(|(name, held)| (name, (numbers(held)[0], numbers(held)[1])));
        assert_eq!(told.collect::<HashMap<_, _>>(), owners);
        let queued = fields.keys().filter(|name| name.starts_with("e:")).count();
        let ended = fields.values().filter(|entry| entry.starts_with("end ")).count();
        assert_eq!(queued, ended);
    }
}

/// A run that a table was told to begin.
struct Run {
    table: usize,
    request: KeyedRequest,
    /// The outcome that it was given.
    outcome: Option<String>,
}

/// Three servers begin and end runs at random. Connections are cut, the table is deleted, and servers
/// are silent for too long. No key runs twice in a table, and no outcome is that of another run.
#[tokio::test]
async fn no_key_runs_twice_whatever_is_lost() {
    for seed in 0..8 {
        let (redis, clock) = (Redis::start(), Clock::default());
        let mut tables = Vec::new();
        for _ in 0..3 {
            tables.push(open(&url(&redis), clock.config().seconds(3_600)).await.1);
        }
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut runs: HashMap<(Epoch, String), Run> = HashMap::new();
        let mut stores = vec![store(&tables[0])];
        for step in 0..250 {
            let what = format!("seed {seed}, step {step}");
            clock.advance(rng.u64(..4_000));
            match rng.usize(..100) {
                ..2 => drop(redis.run(&["DEL", KEYED])),
                2..4 => drop(redis.run(&["CLIENT", "KILL", "TYPE", "normal"])),
                4..8 => {
                    for table in &tables {
                        let probe = pay("probe", "40");
                        until(async || !begin(table, &probe).await.contains("unavailable")).await;
                    }
                }
                8..40 => end_one(&mut runs, &tables, &mut rng, &what).await,
                _ => {
                    let told = stores[rng.usize(stores.len().saturating_sub(2)..stores.len())];
                    let (table, key) = (rng.usize(..3), rng.usize(..30).to_string());
                    let request = pay(&key, "40").announced(Some(told));
                    let begun = begin(&tables[table], &request).await;
                    let known = runs.get(&(told, key.clone()));
                    if begun == "Run" {
                        assert!(known.is_none(), "{what}: {key} runs twice");
                        runs.insert((told, key), Run { table, request, outcome: None });
                    } else if let Some(outcome) = begun.strip_prefix("ok ") {
                        let given = known.and_then(|run| run.outcome.as_deref());
                        assert_eq!(given, Some(outcome), "{what}: {key}");
                    }
                }
            }
            stores.extend(tables.iter().map(store).find(|new| !stores.contains(new)));
        }
        let ended = runs.values().filter(|run| run.outcome.is_some()).count();
        assert!(ended > 10, "seed {seed}: {ended}");
    }
}

/// Ends one of the runs, or forgets its key.
async fn end_one(
    runs: &mut HashMap<(Epoch, String), Run>,
    tables: &[RedisKeys],
    rng: &mut fastrand::Rng,
    what: &str,
) {
    let mut open: Vec<_> = runs.iter().filter(|(_, run)| run.outcome.is_none()).collect();
    open.sort_by_key(|((store, key), _)| (key.clone(), store.to_string()));
    let Some((name, _)) = rng.choice(open) else { return };
    let name = name.clone();
    let run = runs.get_mut(&name).unwrap();
    let table = &tables[run.table];
    if rng.usize(..4) == 0 {
        if bounded(what, table.forget(&run.request)).await.is_ok() {
            runs.remove(&name);
        }
        return;
    }
    let outcome = rng.u64(..).to_string();
    run.outcome = Some(outcome.clone());
    // If the table has lost the run, nobody gets the outcome.
    let _ = bounded(what, table.finish(&run.request, KeyedOutcome::ok(outcome))).await;
}

/// A server whose only method waits until `gate` has a permit, and counts its runs.
async fn serve(
    url: &str,
    runs: &Arc<AtomicUsize>,
    gate: &Arc<Semaphore>,
) -> (Client, JoinHandle<()>) {
    let (topics, keys) = open(url, KeysConfig::new()).await;
    let (runs, gate) = (runs.clone(), gate.clone());
    let router = Router::new().method("pay", move || {
        runs.fetch_add(1, Ordering::SeqCst);
        let gate = gate.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            "paid"
        }
    });
    let server = Server::bind("127.0.0.1:0").await.unwrap().topics(topics).keys(keys);
    let address = server.local_addr().unwrap().to_string();
    let serving = server.serve(router).into_future();
    let serving = tokio::spawn(async { serving.await.unwrap() });
    (bounded("connecting", Client::connect(address)).await.unwrap(), serving)
}

/// [S22.1] [S23.9] Two servers run a key once. After the loss of the table, clients that were told of
/// it are refused, and reconnect.
#[tokio::test]
async fn clients_of_two_servers_share_keys() {
    let redis = Redis::start();
    let (runs, gate) = (Arc::default(), Arc::new(Semaphore::new(0)));
    let (one, _one) = serve(&url(&redis), &runs, &gate).await;
    let (two, _two) = serve(&url(&redis), &runs, &gate).await;
    let call = |client: &Client| {
        let client = client.clone();
        tokio::spawn(async move { client.call("pay", "").key("order-17").await })
    };
    let first = call(&one);
    until(async || runs.load(Ordering::SeqCst) == 1).await;
    let second = call(&two);
    let repeated = call(&one);
    gate.add_permits(1);
    for call in [first, second, repeated, call(&two)] {
        assert_eq!(bounded("the outcome", call).await.unwrap().unwrap(), "paid");
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);

    redis.run(&["FLUSHALL"]);
    let refused = bounded("the outcome", call(&one)).await.unwrap();
    let Err(CallError::Refused { reason, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(reason.code, Code::BUSY);
    gate.add_permits(1);
    until(async || bounded("the outcome", call(&one)).await.unwrap().is_ok()).await;
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}
