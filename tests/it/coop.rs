//! Cooperative scheduling: no public future keeps a thread to itself, and readers keep up with
//! tasks that publish in a loop.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use bellwire::{
    Client, ClientConfig, Connection, Delivery, Listener, Notifications, Router, Server,
    ServerConfig, Session, Subscription, memory,
    server::{PeerAddr, TestRequest},
};
use bellwire_testkit::{PIPE, PipeServer, RawPeer};
use futures::{
    StreamExt,
    future::{pending, ready},
};
use tokio::{
    io::DuplexStream,
    runtime::Builder,
    sync::{Mutex, MutexGuard},
    task::{LocalSet, coop::unconstrained, yield_now},
    time::timeout,
};

#[path = "../../examples/bursts/burst.rs"]
mod burst;
use burst::{Burst, By, Outcome};

const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60\n";

/// How long a loop runs before a timeout is to stop it.
const LOOP: Duration = Duration::from_millis(20);
/// A loop that is not stopped by then has frozen its thread.
const FROZEN: Duration = Duration::from_secs(20);

/// Whether it was stopped.
type Looping = Pin<Box<dyn Future<Output = bool>>>;
type Case = (&'static str, fn() -> Looping);

/// Each public future and stream, in a loop that waits for nothing else, wherever it can be ready at
/// once.
fn list() -> Vec<Case> {
    vec![
        ("Call", || looping(async |it| drop(it.closed.call("m", "").await))),
        ("Call::replied", || looping(async |it| drop(it.closed.call("m", "").replied().await))),
        ("Client::close", || looping(async |it| drop(it.closed.close().await))),
        ("Client::connect", || looping(async |_| drop(Client::connect("").await))),
        ("Client::connect_unix", || looping(async |_| drop(Client::connect_unix("/none").await))),
        ("Client::connect_unix_with", || {
            looping(async |_| drop(Client::connect_unix_with("/none", ClientConfig::new()).await))
        }),
        ("Client::connect_with", || {
            looping(async |_| drop(Client::connect_with("", ClientConfig::new()).await))
        }),
        ("Client::connected", || looping(async |it| drop(it.open.connected().await))),
        ("ClientBuilder::connect", || looping(async |_| drop(Client::builder().connect().await))),
        ("Connection", || looping(async |it| drop((&mut *held(&it.over).await).await))),
        ("ConnectionEvents", || {
            looping(async |it| drop(it.closed.events().collect::<Vec<_>>().await))
        }),
        ("ConnectionEvents::next", || {
            looping(async |it| assert_eq!(it.closed.events().next().await, None))
        }),
        ("Methods", || looping(async |it| drop(it.closed.methods().await))),
        ("Notifications", || {
            looping(async |it| drop(it.closed.notifications().collect::<Vec<_>>().await))
        }),
        ("Notifications::next", || {
            looping(async |it| assert_eq!(it.closed.notifications().next().await, None))
        }),
        ("OneWay", || looping(async |it| drop(it.closed.one_way("m", "").await))),
        ("Publish", || looping(async |it| drop(it.closed.publish("t", "").await))),
        ("Publisher::close", || looping(async |it| drop(it.server.publisher.close("t").await))),
        ("Publisher::publish", || {
            looping(async |it| drop(it.server.publisher.publish("t", "x").await))
        }),
        ("Publisher::publish_confirmed", || {
            looping(async |it| {
                drop(it.server.publisher.publish_confirmed("t", "x", Duration::ZERO).await);
            })
        }),
        ("Publisher::publish_latest", || {
            looping(async |it| drop(it.server.publisher.publish_latest("t", "k", "x").await))
        }),
        ("Seen", || {
            looping(async |it| {
                let ended = held(&it.ended).await;
                assert!(ended.seen(ended.position()).await);
            })
        }),
        ("Serve", || {
            looping(async |_| {
                let serving = Server::new(Deaf).serve(Router::<()>::new());
                drop(serving.with_graceful_shutdown(ready(())).await);
            })
        }),
        // One step without an end.
        ("Serve", || {
            looping(async |_| drop(Server::new(Crowded).serve(Router::<()>::new()).await))
        }),
        ("Server::bind_unix", || looping(async |_| drop(Server::bind_unix("/none/s").await))),
        ("Server::bind", || looping(async |_| drop(Server::bind("192.0.2.1:1").await))),
        ("Session::closed", || looping(async |it| it.gone.closed().await)),
        ("Stopping", || looping(async |it| it.gone.stopping().await)),
        ("Streaming", || {
            looping(async |it| drop(it.closed.stream("m", "").collect::<Vec<_>>().await))
        }),
        ("Streaming::next", || looping(async |it| drop(it.closed.stream("m", "").next().await))),
        ("Streaming::next_with_credit", || {
            looping(async |it| drop(it.closed.stream("m", "").next_with_credit().await))
        }),
        ("Streaming::next_with_credit", || {
            looping(async |it| drop(it.closed.stream("m", "").next_with_credit().await))
        }),
        ("Subscribe", || looping(async |it| drop(it.closed.subscribe("t").await))),
        // Refused before anything is waited for.
        ("Subscribe", || looping(async |it| drop(it.open.subscribe("").await))),
        ("Subscription", || {
            looping(async |it| assert_eq!(StreamExt::next(&mut *held(&it.ended).await).await, None))
        }),
        ("Subscription::next", || {
            looping(async |it| assert_eq!(held(&it.ended).await.next().await, None))
        }),
        ("TestRequest::run", || {
            looping(async |_| drop(TestRequest::new("m").run(&Router::new()).await))
        }),
        ("TestRequest::run_to_end", || {
            looping(async |_| drop(TestRequest::new("m").run_to_end(&Router::new()).await))
        }),
        ("TypedCall", || looping(async |it| drop(it.closed.request::<_, u8>("m", &1).await))),
        ("TypedCall::replied", || {
            looping(async |it| drop(it.closed.request::<_, u8>("m", &1).replied().await))
        }),
        ("TypedStreaming", || {
            looping(async |it| {
                let items = it.closed.request_stream::<_, u8>("m", &1);
                drop(items.collect::<Vec<_>>().await);
            })
        }),
        ("TypedStreaming::next", || {
            looping(async |it| drop(it.closed.request_stream::<_, u8>("m", &1).next().await))
        }),
        ("MemoryConnector::open", || {
            looping(async |_| {
                let (_, connector) = memory::pair();
                drop(connector.open().await);
            })
        }),
        ("TypedStreaming::next_with_credit", || {
            looping(async |it| {
                drop(it.closed.request_stream::<_, u8>("m", &1).next_with_credit().await);
            })
        }),
        ("TypedStreaming::next_with_credit", || {
            looping(async |it| {
                let mut items = it.closed.request_stream::<_, u8>("m", &1);
                drop(items.next_with_credit().await);
            })
        }),
    ]
}

/// Public futures that no loop can be made of, and why.
const EXEMPT: [(&str, &str); 36] = [
    ("Client::connect_tls", "as Client::connect"),
    ("Client::connect_tls_with", "as Client::connect"),
    ("HandlerReply", "a handler is started once, and its driver yields between requests"),
    ("MemoryKeys::begin", "a table's, which a keyed run waits for"),
    ("MemoryKeys::finish", "as MemoryKeys::begin"),
    ("MemoryKeys::forget", "as MemoryKeys::begin"),
    ("MemoryTopics::close", "a store's, which Publisher::close waits for"),
    ("MemoryTopics::append", "a store's, which Publisher::publish waits for"),
    ("MemoryTopics::append_latest", "a store's, which Publisher::publish_latest waits for"),
    ("RedisKeys::begin", "Redis answers, so it is never ready at once"),
    ("RedisKeys::end", "as RedisKeys::begin"),
    ("RedisKeys::finish", "as RedisKeys::begin"),
    ("RedisKeys::forget", "as RedisKeys::begin"),
    ("RedisKeys::open", "as RedisKeys::begin"),
    ("RedisTopics::append", "as MemoryTopics::append; its task answers"),
    ("RedisTopics::append_latest", "as RedisTopics::append"),
    ("RedisTopics::close", "as MemoryTopics::close; its task answers"),
    ("RedisTopics::connect", "Redis answers, so it is never ready at once"),
    ("RedisTopics::connect_with", "as RedisTopics::connect"),
    ("RedisTopics::publish_once", "as RedisTopics::append"),
    ("RedisTopics::queue", "as RedisTopics::append"),
    ("RedisTopics::shutdown", "its tasks answer, so it is never ready at once"),
    ("Server::bind_tls", "as Server::bind"),
    ("SqliteKeys::begin", "as MemoryKeys::begin; a thread answers"),
    ("SqliteKeys::finish", "as MemoryKeys::finish; a thread answers"),
    ("SqliteKeys::forget", "as MemoryKeys::forget; a thread answers"),
    ("SqliteKeys::open", "a thread answers, so it is never ready at once"),
    ("SqliteTopics::append", "as MemoryTopics::append; its thread answers"),
    ("SqliteTopics::append_latest", "as SqliteTopics::append"),
    ("SqliteTopics::close", "as MemoryTopics::close; its thread answers"),
    ("SqliteTopics::open", "a thread opens the file, so it is never ready at once"),
    ("SqliteTopics::open_with", "as SqliteTopics::open"),
    ("SqliteTopics::queue", "as SqliteTopics::append"),
    ("SqliteTopics::shutdown", "its thread answers, so it is never ready at once"),
    ("TokenAuthenticator::authenticate", "a hook, which a connection polls once for an /auth"),
    ("Upgrades::accept", "a channel of tokio, which spends the budget"),
];

/// What the loops work on.
struct Fixture {
    server: PipeServer,
    open: Client,
    /// All that is asked of it fails at once.
    closed: Client,
    /// The driver of `closed`, which has ended.
    over: Mutex<Connection<DuplexStream>>,
    /// The server's session of `closed`, which is over.
    gone: Session,
    /// A subscription of a client that is closed, read to its end.
    ended: Mutex<Subscription>,
}

impl Fixture {
    async fn new() -> Self {
        let server = PipeServer::start(Router::<()>::new());
        let (open, connection) = Client::new(server.pipe(), ClientConfig::new());
        tokio::spawn(connection);
        open.connected().await.expect("a server");
        let (closed, mut over) = Client::new(server.pipe(), ClientConfig::new());
        let known: Vec<_> = server.handle.sessions().iter().map(Session::id).collect();
        let ended = tokio::select! {
            ended = closed.subscribe("t").into_future() => ended.expect("a subscription"),
            over = &mut over => panic!("{over:?}"),
        };
        let mut sessions = server.handle.sessions().into_iter();
        let gone = sessions.find(|session| !known.contains(&session.id())).expect("a session");
        drop(tokio::join!(closed.close(), &mut over));
        gone.closed().await;
        let mut ended = ended;
        while ended.next().await.is_some() {}
        let (over, ended) = (Mutex::new(over), Mutex::new(ended));
        Self { server, open, closed, over, gone, ended }
    }
}

/// Locks without a unit of the budget: else the lock, and not what a loop is about, would have the
/// loop give way.
async fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    unconstrained(mutex.lock()).await
}

/// A listener that gets no connections.
struct Deaf;

impl Listener for Deaf {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
        pending().await
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("nowhere".into()))
    }
}

/// A listener that always has another connection.
struct Crowded;

impl Listener for Crowded {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
        Ok((tokio::io::duplex(64).0, PeerAddr::Other("a crowd".into())))
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("a crowd".into()))
    }
}

fn looping(step: impl AsyncFn(&Fixture) + 'static) -> Looping {
    Box::pin(async move {
        let fixture = timeout(FROZEN, Fixture::new()).await.expect("it is set up");
        let steps = async {
            loop {
                step(&fixture).await;
            }
        };
        timeout(LOOP, steps).await.is_err()
    })
}

/// On one thread, a timeout ends a loop over any future that is always ready. SECURITY.md, threat
/// 38.
#[test]
fn no_public_future_monopolizes_its_thread() {
    // Each in a thread of its own, all at once: most of their time they wait.
    let running = list().into_iter().map(|(name, make)| {
        let (stopped, is_stopped) = channel();
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            stopped.send(LocalSet::new().block_on(&runtime, make())).unwrap();
        });
        (name, is_stopped)
    });
    for (name, is_stopped) in running.collect::<Vec<_>>() {
        match is_stopped.recv_timeout(FROZEN) {
            Ok(is_stopped) => assert!(is_stopped, "{name}: the loop ended by itself"),
            Err(RecvTimeoutError::Timeout) => panic!("{name} keeps its thread"),
            Err(RecvTimeoutError::Disconnected) => panic!("{name}: the loop panicked"),
        }
    }
}

/// Fails if the list lacks a public future.
#[test]
fn every_public_future_is_tested_for_fairness() {
    let listed = list().into_iter().map(|(name, _)| name);
    let listed = listed.chain(EXEMPT.map(|(name, _)| name)).collect::<BTreeSet<_>>();
    let sources = sources();
    let names = sources.concat();
    let is_public = |name: &str| {
        let heads = ["struct", "enum"].map(|kind| format!("\npub {kind} {name}"));
        let is_word = |rest: &str| !rest.starts_with(|char: char| char.is_alphanumeric());
        heads.iter().any(|head| names.split(head.as_str()).skip(1).any(is_word))
    };
    let found = sources.iter().flat_map(|source| futures_in(source, is_public));
    let found: BTreeSet<_> = found.collect();
    assert!(found.len() > 20, "{found:?}");
    let found: BTreeSet<_> = found.iter().map(String::as_str).collect();
    let missing: Vec<_> = found.difference(&listed).collect();
    assert!(missing.is_empty(), "not in the list: {missing:?}");
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(gone.is_empty(), "in the list, and not in the crate: {gone:?}");
}

fn sources() -> Vec<String> {
    let (mut folders, mut files) = (vec![PathBuf::from("src")], Vec::new());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(fs::read_to_string(path).unwrap()),
            }
        }
    }
    files
}

/// `TYPE` for each public type that is a future, a stream, or becomes a future; `TYPE::NAME` for each
/// public function of one that is async, or returns a future.
fn futures_in(source: &str, is_public: impl Fn(&str) -> bool) -> Vec<String> {
    let source = source.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let (mut found, mut of) = (Vec::new(), None);
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("impl") {
            let (role, name) = impl_of(line);
            of = Some(name.to_owned()).filter(|name| is_public(name));
            let is_future = matches!(role, "Future" | "IntoFuture" | "Stream");
            found.extend(of.clone().filter(|_| is_future));
        }
        let (Some(of), Some((is_async, name))) = (&of, function_of(line)) else { continue };
        let mut head = line.to_owned();
        while !head.contains('{') && !head.contains(';') {
            head += lines.next().unwrap_or("{");
        }
        let returns = head.rsplit_once("-> ").map_or("", |(_, returns)| returns);
        let is_later = returns.starts_with("impl Future") || returns.starts_with("BoxFuture");
        if is_async || is_later {
            found.push(format!("{of}::{name}"));
        }
    }
    found
}

/// Of a line that begins a public function, or one of a trait: whether it is async, and its name.
fn function_of(line: &str) -> Option<(bool, &str)> {
    let rest = line.strip_prefix("    ")?;
    let (is_async, rest) = match rest.strip_prefix("pub async fn ") {
        Some(rest) => (true, rest),
        None => (false, rest.strip_prefix("pub fn ").or(rest.strip_prefix("fn "))?),
    };
    Some((is_async, rest.split(['(', '<']).next()?))
}

/// The trait, if there is one, and the type of a line that begins an `impl`.
fn impl_of(line: &str) -> (&str, &str) {
    let mut rest = line.strip_prefix("impl").unwrap_or_default();
    let mut depth = 0;
    let generics = rest.find(|char| {
        depth += i32::from(char == '<') - i32::from(char == '>');
        depth == 0
    });
    if rest.starts_with('<') {
        rest = &rest[generics.map_or(0, |end| end + 1)..];
    }
    let word = |text: &'_ str| text.trim().find(['<', ' ', '{']).unwrap_or(text.trim().len());
    match rest.split_once(" for ") {
        Some((role, name)) => {
            let (role, name) = (role.trim(), name.trim());
            (&role[..word(role)], &name[..word(name)])
        }
        None => ("", &rest.trim()[..word(rest)]),
    }
}

#[test]
fn impl_headers_are_parsed() {
    let heads = [
        ("impl Client {", ("", "Client")),
        (
            "impl<T: AsyncRead + AsyncWrite + Unpin> Future for Connection<T> {",
            ("Future", "Connection"),
        ),
        ("impl<L: Listener> IntoFuture for Serve<L> {", ("IntoFuture", "Serve")),
        ("impl<'a, C: Decode<R>, R> TypedCall<'a, C, R> {", ("", "TypedCall")),
    ];
    for (line, expected) in heads {
        assert_eq!(impl_of(line), expected, "{line}");
    }
}

/// How often another task of the thread had its turn while `work` ran.
async fn turns_during(work: impl Future<Output = ()>) -> usize {
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = turns.clone();
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Ordering::Relaxed);
            yield_now().await;
        }
    });
    work.await;
    other.abort();
    turns.load(Ordering::Relaxed)
}

/// Items of a full queue, and the turns that others have at least while it is read: a task reads 128
/// in one.
const QUEUED: u64 = 1_000;
const TURNS: usize = 6;

/// A client whose subscription to `t`, and whose stream of all notifications, hold [`QUEUED`] items.
async fn queued() -> (Client, Subscription, Notifications, RawPeer<DuplexStream>) {
    let (near, far) = tokio::io::duplex(PIPE);
    let (client, connection) = Client::new(near, ClientConfig::new());
    tokio::spawn(connection);
    let mut server = RawPeer::new(far);
    server.send(HELLO).await;
    let all = client.notifications();
    let (subscription, ()) = tokio::join!(client.subscribe("t").into_future(), async {
        server.expect("1 /subscribe t\n").await;
        server.send("1 ok;epoch=e;next=1;head=0;lease=60\n").await;
    });
    for number in 1..=QUEUED {
        server.send(format!("* t {number} x\n")).await;
    }
    while client.stats().notifications < QUEUED {
        yield_now().await;
    }
    (client, subscription.unwrap(), all, server)
}

#[tokio::test]
async fn reading_queued_notifications_yields_to_other_tasks() {
    let (_client, mut subscription, mut all, _server) = queued().await;
    let turns = turns_during(async {
        for _ in 0..QUEUED {
            assert!(matches!(subscription.next().await, Some(Delivery::Notification(_))));
        }
    });
    assert!(turns.await >= TURNS);
    let turns = turns_during(async {
        for _ in 0..QUEUED {
            assert!(matches!(all.next().await, Some(Delivery::Notification(_))));
        }
    });
    assert!(turns.await >= TURNS);
}

#[tokio::test]
async fn reading_a_buffered_streamed_reply_yields_to_other_tasks() {
    let (near, far) = tokio::io::duplex(PIPE);
    let (client, connection) = Client::new(near, ClientConfig::new());
    tokio::spawn(connection);
    let mut server = RawPeer::new(far);
    server.send(HELLO).await;
    let mut items = client.stream("m", "").window(QUEUED as usize);
    let (first, ()) = tokio::join!(items.next(), async {
        server.expect("1 m;window=1000\n").await;
        server.send("1 more x\n".repeat(QUEUED as usize - 1) + "1 ok\n").await;
    });
    first.unwrap().unwrap();
    while client.stats().ok == 0 {
        yield_now().await;
    }
    let turns = turns_during(async { while items.next().await.is_some() {} });
    assert!(turns.await >= TURNS);
}

#[tokio::test]
async fn reading_queued_events_yields_to_other_tasks() {
    let (near, far) = tokio::io::duplex(PIPE);
    let (client, connection) = Client::new(near, ClientConfig::new());
    let mut events = client.events();
    tokio::spawn(connection);
    let mut server = RawPeer::new(far);
    server.send(HELLO).await;
    server.send("9 ok\n".repeat(200)).await;
    while client.stats().unasked_replies < 200 {
        yield_now().await;
    }
    let turns = turns_during(async {
        for _ in 0..200 {
            assert!(events.next().await.is_some());
        }
    });
    assert!(turns.await >= 1);
}

/// A server handles pipelined `/publish` lines within the budget of its task: other tasks run after
/// every 32 of them.
#[tokio::test]
async fn pipelined_publishes_yield_to_other_tasks() {
    let config = ServerConfig::new().allow_publish(true);
    let server = PipeServer::with_config(Router::<()>::new(), config);
    let mut peer = server.connect().await;
    let lines: String = (1..=QUEUED).map(|id| format!("{id} /publish t x\n")).collect();
    peer.send(lines).await;
    let turns = turns_during(async {
        while server.publisher.publish("t", "x").await.unwrap().sequence < QUEUED {
            yield_now().await;
        }
    });
    assert!(turns.await >= QUEUED as usize / 32 / 2);
}

fn nothing_is_lost(burst: Burst) {
    let Outcome { received, lost } = burst.run();
    assert_eq!((received, lost), ((burst.messages * burst.readers) as u64, 0), "{burst}");
}

/// With default settings, 20,000 messages published in a loop reach a reader that keeps up.
#[test]
fn messages_published_in_a_loop_reach_a_reader() {
    for (workers, is_tcp) in [(0, true), (0, false), (2, true), (2, false)] {
        for by in [By::Root, By::Task] {
            nothing_is_lost(Burst { workers, is_tcp, by, ..Burst::default() });
        }
    }
}

#[test]
fn messages_published_in_a_handler_reach_a_reader() {
    for workers in [0, 2] {
        nothing_is_lost(Burst { workers, by: By::Handler, ..Burst::default() });
    }
}

#[test]
fn messages_published_by_threads_reach_a_reader() {
    for (workers, by) in [(0, By::Blocking), (2, By::Blocking), (0, By::Thread), (2, By::Thread)] {
        nothing_is_lost(Burst { workers, by, ..Burst::default() });
    }
}

#[test]
fn messages_published_by_a_client_reach_a_reader() {
    for workers in [0, 2] {
        nothing_is_lost(Burst { workers, by: By::PipeliningClient, ..Burst::default() });
        nothing_is_lost(Burst { workers, by: By::Client, messages: 2_000, ..Burst::default() });
    }
}

#[test]
fn messages_of_several_topics_reach_several_readers() {
    for workers in [0, 2] {
        nothing_is_lost(Burst { workers, topics: 4, readers: 2, ..Burst::default() });
    }
}
