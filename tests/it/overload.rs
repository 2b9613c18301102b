//! Peers that make a server hold replies, with full server buffers: shares of connections,
//! refusals, and which connections are closed. Attackers must not use up the share of other
//! clients. `scripts/hoarders.sh` does the same at full size, in resident memory.

// SECURITY.md, threats 35 and 36.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bellwire::{
    Router, ServerConfig, Session, State, Streamed, blocking, handler,
    server::{HandlerFuture, Next, Principal, Rejection, Reply, RequestParts, TokenAuthenticator},
};
use bellwire_testkit::{PipeServer, RawPeer};
use bytes::Bytes;
use futures::{StreamExt, stream, stream::Stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::Semaphore,
    task::yield_now,
    time::{advance, sleep, timeout},
};

type Peer = RawPeer<DuplexStream>;

/// The length of a reply.
const BIG: usize = 60_000;
const MARK: usize = 256 * 1024;
/// Functions that may block, of one connection, that run at a time.
const THREADS: usize = 16;

/// A wait whose end is a failure with a name.
async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(600), event).await.unwrap_or_else(|_| panic!("no end: {what}"))
}

/// Bytes of replies that are alive, and the most that ever were.
#[derive(Clone, Default)]
struct Alive(Arc<[AtomicUsize; 2]>);

struct Blob(Box<[u8]>, Alive);

impl Alive {
    fn blob(&self) -> Bytes {
        let now = self.0[0].fetch_add(BIG, Ordering::Relaxed) + BIG;
        self.0[1].fetch_max(now, Ordering::Relaxed);
        Bytes::from_owner(Blob(vec![b'x'; BIG].into(), self.clone()))
    }

    fn now(&self) -> usize {
        self.0[0].load(Ordering::Relaxed)
    }

    fn most(&self) -> usize {
        self.0[1].load(Ordering::Relaxed)
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        self.1.0[0].fetch_sub(BIG, Ordering::Relaxed);
    }
}

fn blobs(alive: &Alive) -> Router<Alive> {
    async fn now(State(alive): State<Alive>) -> Bytes {
        alive.blob()
    }
    async fn later(State(alive): State<Alive>) -> Bytes {
        sleep(Duration::from_millis(5)).await;
        alive.blob()
    }
    async fn items(State(alive): State<Alive>) -> Streamed<impl Stream<Item = Bytes>> {
        Streamed(stream::iter(0..2).map(move |_| alive.blob()))
    }
    Router::with_state(alive.clone())
        .method("spawned", handler(now).spawned())
        .method("later", handler(later).spawned())
        .method("blocking", blocking(|State(alive): State<Alive>| alive.blob()))
        .method("items", handler(items).spawned())
        .method("inline", later)
}

/// Requests `count` replies and reads none of them, until the server produces no more.
async fn ask_without_reading(server: &PipeServer, method: &str, count: usize) -> Peer {
    let mut peer = server.connect_raw(64 * 1024);
    peer.hello().await;
    let asked: String = (1..=count).map(|id| format!("{id} {method}\n")).collect();
    peer.send(asked).await;
    peer
}

/// Unread replies are counted from the moment they are made, in every mode of handler. No more are
/// made than the mark allows, plus one for each running handler. When the client reads, it gets
/// them all. SECURITY.md, threat 35.
#[tokio::test]
async fn finished_replies_are_counted_and_bounded() {
    const COUNT: usize = 200;
    for (method, beside, lines) in [
        ("spawned", 1, COUNT),
        ("later", 1, COUNT),
        ("items", 1, 3 * COUNT),
        ("inline", 1, COUNT),
        ("blocking", THREADS, COUNT),
    ] {
        let alive = Alive::default();
        let server = PipeServer::with_config(blobs(&alive), ServerConfig::new());
        let mut peer = ask_without_reading(&server, method, COUNT).await;
        let held = || server.handle.stats().buffered_bytes;
        let full = async {
            while held() < MARK {
                yield_now().await;
            }
        };
        soon(method, full).await;
        // What was begun by then may end.
        for _ in 0..2_000 {
            yield_now().await;
            // A reply of another thread is there a moment before it is counted.
            let is_counted = held() >= alive.now();
            assert!(is_counted || method == "blocking", "{method}: {} of {}", held(), alive.now());
        }
        let all_counted = async {
            while held() < alive.now() {
                yield_now().await;
            }
        };
        soon(method, all_counted).await;
        let most = MARK + beside * BIG;
        assert!(alive.most() <= most, "{method}: {} bytes of {most}", alive.most());
        let reading = async {
            for _ in 0..lines {
                peer.line().await.expect("a reply");
            }
        };
        soon(method, reading).await;
        let at_rest = async {
            while held() > 0 {
                yield_now().await;
            }
        };
        soon(method, at_rest).await;
        assert!(alive.now() == 0 && alive.most() <= most, "{method}: {}", alive.most());
    }
}

/// A connection whose finished replies exceed its budget starts nothing further, not even inline
/// handlers. When it ends, it gives all bytes back.
#[tokio::test]
async fn finished_replies_keep_further_work_from_starting() {
    let alive = Alive::default();
    let started = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Semaphore::new(0));
    let (count, opened, blobs) = (started.clone(), gate.clone(), alive.clone());
    let gated = move || {
        let (gate, alive) = (opened.clone(), blobs.clone());
        async move {
            gate.acquire().await.unwrap().forget();
            alive.blob()
        }
    };
    let counts = move || {
        count.fetch_add(1, Ordering::Relaxed);
        async {}
    };
    let router = Router::new().method("gated", handler(gated).spawned()).method("count", counts);
    let server = PipeServer::with_config(router, ServerConfig::new().reply_mark(3 * BIG));
    let mut peer = server.connect_raw(256);
    peer.hello().await;
    let asked: String = (1..=9).map(|id| format!("{id} gated\n")).collect();
    peer.send(asked).await;
    gate.add_permits(9);
    let full = async {
        while server.handle.stats().buffered_bytes < 3 * BIG {
            yield_now().await;
        }
    };
    soon("full", full).await;
    peer.send("10 count\n* count\n").await;
    for _ in 0..100 {
        yield_now().await;
    }
    assert_eq!(started.load(Ordering::Relaxed), 0);
    drop(peer);
    let gone = async {
        while server.handle.stats().buffered_bytes > 0 || alive.now() > 0 {
            yield_now().await;
        }
    };
    soon("gone", gone).await;
}

/// A list of any length is written as fast as its reader reads it, and in its place among the
/// replies.
#[tokio::test]
async fn a_long_list_of_methods_is_written_in_steps() {
    const METHODS: usize = 3_000;
    let name = |n: usize| format!("method-{n:0100}");
    let router = (0..METHODS).fold(Router::new(), |router, n| {
        router.method(&name(n), handler(async || ()).doc("x".repeat(100)))
    });
    let server = PipeServer::with_config(router, ServerConfig::new());
    let mut peer = server.connect_raw(256);
    peer.hello().await;
    peer.send("1 /methods\n2 /renew\n3 /methods\n4 /quit\n").await;
    let full = async {
        while server.handle.stats().buffered_bytes < MARK {
            yield_now().await;
        }
    };
    soon("full", full).await;
    // A buffer that grows by doubling; the whole list has 654,000 bytes.
    let held = server.handle.stats().buffered_bytes;
    assert!(held <= 2 * MARK + 1_024, "{held}");
    for id in [1, 3] {
        for n in 0..METHODS {
            let line = format!("{id} more {} {}\n", name(n), "x".repeat(100));
            soon("list", peer.expect(line)).await;
        }
        let rest = if id == 1 { "1 ok\n2 ok;lease=60\n" } else { "3 ok\n4 ok\n" };
        soon("end", peer.expect(rest)).await;
    }
    soon("close", peer.expect_closed()).await;
}

/// A blocking function releases its thread when it ends, so that any number may follow.
#[tokio::test]
async fn blocking_handlers_release_their_threads() {
    let router = Router::<()>::new().method("block", blocking(|| ()));
    let server = PipeServer::with_config(router, ServerConfig::new());
    let mut peer = server.connect().await;
    for id in 1..=3 * THREADS {
        soon("block", peer.ask(format!("{id} block\n"), format!("{id} ok\n"))).await;
    }
}

/// A list of subscriptions that is written in many steps names each of them once.
#[tokio::test]
async fn a_long_list_of_subscriptions_names_each_once() {
    const TOPICS: usize = 300;
    let config = ServerConfig::new().reply_mark(1_000).subscriptions(TOPICS);
    let server = PipeServer::with_config(Router::<()>::new(), config);
    let mut peer = server.connect_raw(256);
    peer.hello().await;
    for n in 0..TOPICS {
        peer.send(format!("{} /subscribe topic-{n}\n", n + 1)).await;
        soon("subscribe", peer.line()).await.unwrap();
    }
    peer.send("1000 /renew;list=more\n").await;
    for _ in 0..100 {
        yield_now().await;
    }
    let mut named = Vec::new();
    loop {
        let line = soon("list", peer.line()).await.unwrap();
        let Some(items) = line.strip_prefix("1000 more ") else {
            assert_eq!(line, "1000 ok;lease=60\n");
            break;
        };
        let items = items.split_ascii_whitespace().filter_map(|item| item.split(':').next());
        named.extend(items.map(str::to_owned));
    }
    let expected: Vec<_> = (0..TOPICS).map(|n| format!("topic-{n}")).collect();
    assert_eq!(named, expected);
}

/// A layer that answers for a handler while its task goes on.
fn early(_: &RequestParts<'_>, next: Next<'_>) -> Result<HandlerFuture, Rejection> {
    let handler = next.run()?;
    Ok(Box::pin(async move {
        tokio::select! {
            biased;
            reply = handler => reply,
            () = yield_now() => Reply::ok("early"),
        }
    }))
}

/// Layers see replies of spawned tasks like all others. The bytes of replies that they drop are
/// released.
#[tokio::test]
async fn replies_dropped_by_a_layer_are_released() {
    let alive = Alive::default();
    let server = PipeServer::with_config(blobs(&alive).layer(early), ServerConfig::new());
    let mut peer = server.connect().await;
    for method in ["spawned", "later", "blocking"] {
        let asked: String = (1..=20).map(|id| format!("{id} {method}\n")).collect();
        let mut peer = server.connect_raw(1 << 20);
        peer.hello().await;
        peer.send(asked).await;
        for _ in 1..=20 {
            let line = soon(method, peer.line()).await.unwrap();
            assert!(line.contains(" ok ") || line.contains(" cut "), "{line}");
        }
    }
    soon("ask", peer.ask("1 /renew\n", "1 ok;lease=60\n")).await;
    let given_back = async {
        while server.handle.stats().buffered_bytes > 0 || alive.now() > 0 {
            yield_now().await;
        }
    };
    soon("given back", given_back).await;
}

// Shares.

fn holding() -> (Router, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let router = Router::new().method("echo", async |text: Bytes| text).method(
        "hold",
        move |text: Bytes| {
            let gate = opened.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                text.len().to_string()
            }
        },
    );
    (router, gate)
}

/// A client that asks one thing after the other: none is refused.
async fn is_served(clean: &mut Peer, first: u64, calls: u64, payload: &str) {
    for id in first..first + calls {
        let (line, reply) = (format!("{id} echo {payload}\n"), format!("{id} ok {payload}\n"));
        soon("a clean call", clean.ask(line, reply)).await;
    }
}

/// 140 peers hold a payload each in a slow handler, together more than the server may hold. A clean
/// client is refused nothing; the peers are refused only further payloads. SECURITY.md, threat 36.
#[tokio::test]
async fn hoarding_peers_do_not_use_up_a_clean_clients_share() {
    const PEERS: usize = 140;
    let (router, gate) = holding();
    let config = ServerConfig::new().buffered_bytes_total(4 << 20);
    let server = PipeServer::with_config(router, config);
    let mut clean = server.connect_raw(1 << 20);
    clean.hello().await;
    let payload = "x".repeat(BIG);
    let mut hoarders = Vec::new();
    for n in 0..PEERS {
        let mut peer = server.connect_raw(1 << 20);
        peer.hello().await;
        peer.send(format!("1 hold {payload}\n")).await;
        soon("taken", peer.ask("2 /renew\n", "2 ok;lease=60\n")).await;
        is_served(&mut clean, 3 * n as u64 + 1, 2, "x").await;
        is_served(&mut clean, 3 * n as u64 + 3, 1, &payload).await;
        hoarders.push(peer);
    }
    assert!(server.handle.stats().buffered_bytes > 2 * (4 << 20));
    for hoarder in &mut hoarders {
        soon("more", hoarder.ask(format!("3 hold {payload}\n"), "3 no busy\n")).await;
        // Protocol requests are answered, and notifications are delivered.
        soon("subscribe", hoarder.ask("4 /unsubscribe t\n", "4 no not-subscribed t\n")).await;
    }
    gate.add_permits(PEERS);
    for hoarder in &mut hoarders {
        soon("answered", hoarder.expect(format!("1 ok {BIG}\n"))).await;
        soon("again", hoarder.ask("5 echo x\n", "5 ok x\n")).await;
    }
    assert_eq!(server.handle.stats().shed, 0, "none of them left anything unread");
}

/// Many connections that each hold little may together exceed the limit by those small amounts, and
/// all of them continue to be served.
#[tokio::test]
async fn many_small_holders_are_all_served() {
    let (router, gate) = holding();
    let config = ServerConfig::new().buffered_bytes_total(1 << 20);
    let server = PipeServer::with_config(router, config);
    let (mut clean, payload) = (server.connect().await, "x".repeat(20_000));
    let mut hoarders = Vec::new();
    for _ in 0..100 {
        let mut peer = server.connect().await;
        peer.send(format!("1 hold {payload}\n")).await;
        soon("taken", peer.ask("2 echo x\n", "2 ok x\n")).await;
        hoarders.push(peer);
    }
    let held = server.handle.stats().buffered_bytes;
    assert!(held > 2_000_000, "{held}");
    is_served(&mut clean, 1, 100, "x").await;
    // One that holds more than all of them leave is refused.
    let mut heavy = server.connect_raw(1 << 20);
    heavy.hello().await;
    for id in [1, 2] {
        heavy.send(format!("{id} hold {payload}\n")).await;
    }
    soon("refused", heavy.ask("3 echo x\n", "3 no busy\n")).await;
    gate.add_permits(200);
    soon("answered", heavy.expect("1 ok 20000\n2 ok 20000\n")).await;
    soon("served", heavy.ask("4 echo x\n", "4 ok x\n")).await;
}

/// A server that knows its peers, and one that it does.
async fn guarded_server(config: ServerConfig, router: Router) -> (PipeServer, Peer) {
    let tokens = TokenAuthenticator::new().token("secret", Principal::new("one"));
    let server = PipeServer::built(router, |server| server.config(config).authenticator(tokens));
    let mut clean = server.connect().await;
    soon("auth", clean.ask("1 /auth token secret\n", "1 ok\n")).await;
    (server, clean)
}

/// Unauthenticated peers that read nothing make a server hold very little, and their refused lines
/// end their connections. SECURITY.md, threat 36.
#[tokio::test]
async fn unauthenticated_peers_cost_little_and_are_disconnected() {
    const PEERS: usize = 300;
    let (router, _gate) = holding();
    // No deadline ends them before their lines do, however slow the machine is.
    let hour = Duration::from_secs(3_600);
    let config = ServerConfig::new().buffered_bytes_total(1 << 20).auth_time(hour);
    let config = config.write_progress(hour).line_time(hour);
    let (server, mut clean) = guarded_server(config, router).await;
    let lines: String = (1..=2_000).map(|id| format!("{id} echo {:50}\n", id)).collect();
    let mut strangers = Vec::new();
    for n in 0..PEERS {
        let mut peer = server.connect_raw(256);
        let sending = async { while peer.io.write_all(lines.as_bytes()).await.is_ok() {} };
        // It stops being read, or is gone.
        let _ = timeout(Duration::from_millis(1), sending).await;
        strangers.push(peer);
        is_served(&mut clean, 2 + n as u64, 1, "x").await;
    }
    let held = server.handle.stats().buffered_bytes;
    assert!(held <= PEERS * 8 * 1024, "{held}");
    let mut told = String::new();
    let reading = strangers[0].io.read_to_string(&mut told);
    soon("reading", reading).await.unwrap();
    let refused = told.lines().filter(|line| line.ends_with(" no unauthenticated")).count();
    assert_eq!((refused, told.lines().last()), (33, Some("* /bye;last=33 violations")), "{told}");
}

/// Behind an unauthenticated peer's pending `/auth`, at most one line of input is read.
#[tokio::test(start_paused = true)]
async fn input_behind_a_pending_auth_is_bounded() {
    let (router, _gate) = holding();
    let (server, _clean) = guarded_server(ServerConfig::new(), router).await;
    let mut peer = server.connect_raw(1 << 20);
    peer.hello().await;
    let lines: String =
        (1..).map(|id| format!("{id} /hello;version=1 {:900}\n", id)).take(40).collect();
    peer.send(lines).await;
    for _ in 0..100 {
        yield_now().await;
        let held = server.handle.stats().buffered_bytes;
        assert!(held <= 40 * 1024, "{held}");
    }
}

/// Asks for echoes without reading them, until so much is held for it.
async fn deaf(server: &PipeServer, replies: usize) -> Peer {
    let mut peer = server.connect_raw(4 * 1024);
    peer.hello().await;
    for id in 1..=replies {
        peer.send(format!("{id} echo {:2000}\n", id)).await;
    }
    peer
}

/// SECURITY.md, threat 36. If the server's buffers are full, it closes connections above their
/// share that read nothing, the largest first, and no more than necessary. Connections that read,
/// and those that hold less, stay.
#[tokio::test(start_paused = true)]
async fn the_largest_non_reading_connections_are_closed_first() {
    const REPLIES: [usize; 3] = [10, 40, 120];
    let mut held = 2 * 60_256;
    for replies in REPLIES {
        let server = PipeServer::start(holding().0);
        let _peer = deaf(&server, replies).await;
        held += server.handle.stats().buffered_bytes;
    }
    let limit = held - 10_000;
    let (router, gate) = holding();
    let config = ServerConfig::new().buffered_bytes_total(limit);
    let server = PipeServer::with_config(router, config);
    // One that has nothing to read, and holds what its requests do.
    let mut busy = server.connect_raw(1 << 20);
    busy.hello().await;
    for id in 1..=2 {
        busy.send(format!("{id} hold {:60000}\n", id)).await;
    }
    soon("taken", busy.ask("3 /renew\n", "3 ok;lease=60\n")).await;
    let [mut small, mut middle, mut large] = [
        deaf(&server, REPLIES[0]).await,
        deaf(&server, REPLIES[1]).await,
        deaf(&server, REPLIES[2]).await,
    ];
    assert!(server.handle.stats().buffered_bytes > limit);
    advance(Duration::from_millis(1_800)).await;
    assert_eq!(server.handle.stats().shed, 0);
    for _ in 0..6 {
        advance(Duration::from_millis(100)).await;
        yield_now().await;
    }
    assert_eq!(server.handle.stats().shed, 1);
    assert!(server.handle.stats().buffered_bytes <= limit);
    // What stood in the pipe, the line that was under way, and why.
    let mut said = String::new();
    soon("reading", large.io.read_to_string(&mut said)).await.unwrap();
    let mut lines = said.lines().filter(|line| !line.ends_with(" no closing"));
    let bye = lines.next_back().unwrap_or_default();
    assert!(bye.starts_with("* /bye;last=") && bye.ends_with(" slow"), "{bye}");
    for id in 1..=lines.clone().count() {
        assert_eq!(lines.next(), Some(&*format!("{id} ok {:2000}", id)));
    }
    assert!(said.len() < 10_000, "{said}");
    for (peer, replies) in [(&mut small, REPLIES[0]), (&mut middle, REPLIES[1])] {
        for id in 1..=replies {
            soon("a reader", peer.expect(format!("{id} ok {:2000}\n", id))).await;
        }
    }
    gate.add_permits(2);
    soon("answered", busy.expect("1 ok 60000\n2 ok 60000\n")).await;
}

/// Of several connections that hold more than their share, the largest is closed.
#[tokio::test(start_paused = true)]
async fn the_largest_connection_above_its_share_is_closed() {
    const REPLIES: [usize; 5] = [60, 100, 25, 25, 25];
    let measured = PipeServer::start(holding().0);
    let mut peers = Vec::new();
    for replies in REPLIES {
        peers.push(deaf(&measured, replies).await);
    }
    let limit = measured.handle.stats().buffered_bytes - 10_000;
    let server =
        PipeServer::with_config(holding().0, ServerConfig::new().buffered_bytes_total(limit));
    peers.clear();
    for replies in REPLIES {
        peers.push(deaf(&server, replies).await);
    }
    for _ in 0..25 {
        advance(Duration::from_millis(100)).await;
        settle().await;
    }
    assert_eq!(server.handle.stats().shed, 1);
    let mut said = String::new();
    soon("reading", peers[1].io.read_to_string(&mut said)).await.unwrap();
    assert!(said.ends_with(" slow\n"), "{}", said.len());
    soon("a reader", peers[0].expect(format!("1 ok {:2000}\n", 1))).await;
}

/// If all connections hold the same and exceed the limit, as many are closed as necessary. The
/// others stay, and so do those that read.
#[tokio::test(start_paused = true)]
async fn only_as_many_equal_connections_are_closed_as_needed() {
    let (router, _gate) = holding();
    let config = ServerConfig::new().buffered_bytes_total(1_000_000);
    let server = PipeServer::with_config(router, config);
    let mut peers = Vec::new();
    for _ in 0..12 {
        peers.push(deaf(&server, 50).await);
    }
    let (each, held) = (server.handle.stats().buffered_bytes / 12, server.handle.stats());
    assert!(held.buffered_bytes > 1_000_000, "{held:?}");
    for _ in 0..40 {
        advance(Duration::from_millis(100)).await;
        yield_now().await;
    }
    let stats = server.handle.stats();
    let need = (held.buffered_bytes - 1_000_000).div_ceil(each) as u64;
    assert_eq!(stats.shed, need, "{each} bytes each, {held:?}, {stats:?}");
    assert!(stats.buffered_bytes <= 1_000_000);
    let mut clean = server.connect().await;
    is_served(&mut clean, 1, 10, "x").await;
}

/// A slow reader counts as reading: it is refused further work while it holds more than its share,
/// and is not closed for that.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_refused_and_not_closed() {
    let (router, _gate) = holding();
    let config = ServerConfig::new().buffered_bytes_total(100_000);
    let server = PipeServer::with_config(router, config);
    let mut slow = deaf(&server, 70).await;
    assert!(server.handle.stats().buffered_bytes > 100_000);
    let mut refused = 0;
    for id in 1..=70 {
        let line = soon("slowly", slow.line()).await.unwrap();
        match line == format!("{id} no busy\n") {
            true => refused += 1,
            false => assert_eq!(line, format!("{id} ok {:2000}\n", id)),
        }
        advance(Duration::from_millis(900)).await;
    }
    assert!((10..60).contains(&refused), "{refused}");
    assert_eq!(server.handle.stats().shed, 0);
    is_served(&mut slow, 71, 3, "x").await;
}

/// With the server's buffers full, unread notifications of each subscriber stay within the small
/// allowance that every connection has.
#[tokio::test(start_paused = true)]
async fn full_buffers_reduce_notifications_to_the_allowance() {
    let (router, _gate) = holding();
    let config = ServerConfig::new().buffered_bytes_total(100_000);
    let server = PipeServer::with_config(router, config);
    let mut peers = Vec::new();
    for _ in 0..30 {
        let mut peer = server.connect_raw(256);
        peer.hello().await;
        soon("subscribe", async {
            peer.send("1 /subscribe t\n").await;
            peer.attribute("next").await;
        })
        .await;
        peers.push(peer);
    }
    for _ in 0..200 {
        server.publisher.publish("t", "x".repeat(1_000)).await.unwrap();
        yield_now().await;
    }
    for _ in 0..100 {
        yield_now().await;
    }
    let held = server.handle.stats().buffered_bytes;
    // Buffers grow by doubling.
    assert!(held <= 100_000 + 30 * 2 * 34 * 1_024, "{held}");
    for peer in &mut peers {
        for sequence in 1..=200 {
            soon("t", peer.expect(format!("* t {sequence} {}\n", "x".repeat(1_000)))).await;
        }
    }
}

/// What a connection may have unread with the server's buffers full, whatever its share.
const LITTLE: usize = 32 * 1024;

/// A server of [`holding`] and [`blobs`] methods whose buffers are full as soon as [`fill`] was called.
fn narrow(alive: &Alive, config: ServerConfig) -> (PipeServer, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let gated = || {
        let (gate, alive) = (gate.clone(), alive.clone());
        move || {
            let (gate, alive) = (gate.clone(), alive.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                alive.blob()
            }
        }
    };
    let hold = async |_: Bytes| std::future::pending::<()>().await;
    let router = Router::new()
        .method("inline", gated())
        .method("spawned", handler(gated()).spawned())
        .method("hold", hold)
        .method("echo", async |text: Bytes| text);
    let config = config.buffered_bytes_total(100_000).allow_publish(true);
    (PipeServer::with_config(router, config), gate)
}

/// Two peers that hold more than the server may.
async fn fill(server: &PipeServer) -> [Peer; 2] {
    let mut peers = [server.connect_raw(1 << 20), server.connect_raw(1 << 20)];
    for peer in &mut peers {
        peer.hello().await;
        peer.send(format!("1 hold {:60000}\n", "")).await;
        soon("taken", peer.ask("2 /renew\n", "2 ok;lease=60\n")).await;
    }
    assert!(server.handle.stats().buffered_bytes > 100_000);
    peers
}

async fn settle() {
    for _ in 0..200 {
        yield_now().await;
    }
}

fn most_unwritten(server: &PipeServer) -> usize {
    let sessions = server.handle.sessions();
    sessions.iter().map(|session| session.stats().unwritten_bytes).max().unwrap_or_default()
}

/// With the server's buffers full, inline handlers and tasks make replies only while the unread
/// bytes of their connection are within the small allowance.
#[tokio::test(start_paused = true)]
async fn full_buffers_hold_replies_to_the_allowance() {
    for method in ["inline", "spawned"] {
        let alive = Alive::default();
        let (server, gate) = narrow(&alive, ServerConfig::new());
        let mut peer = server.connect_raw(256);
        peer.hello().await;
        let asked: String = (1..=20).map(|id| format!("{id} {method}\n")).collect();
        peer.send(asked).await;
        settle().await;
        let full = fill(&server).await;
        soon("a look at the share", peer.ask("21 /renew\n", "21 ok;lease=60\n")).await;
        gate.add_permits(20);
        settle().await;
        let made = alive.now() + most_unwritten(&server);
        assert!((BIG / 2..=LITTLE + 2 * BIG).contains(&made), "{method}: {made}");
        // They all come once there is room, or the peer reads.
        drop(full);
        for _ in 1..=20 {
            let line = soon(method, peer.line()).await.unwrap();
            assert!(line.contains(" ok x"), "{method}: {}", &line[..40]);
        }
    }
}

/// With the server's buffers full, no line is read from a peer whose unread bytes exceed the small
/// allowance. So its refusals are bounded, too.
#[tokio::test(start_paused = true)]
async fn full_buffers_hold_refusals_to_the_allowance() {
    let (server, _gate) = narrow(&Alive::default(), ServerConfig::new());
    let _full = fill(&server).await;
    let mut peer = server.connect_raw(256);
    peer.hello().await;
    let mut lines: String = (1..=30).map(|id| format!("{id} echo {:2000}\n", "")).collect();
    lines.extend((31..=20_000).map(|id| format!("{id} echo x\n")));
    let sending = timeout(Duration::from_secs(1), peer.send(lines)).await;
    assert!(sending.is_err(), "all of it is read");
    let unwritten = most_unwritten(&server);
    assert!((LITTLE..=LITTLE + 2_100).contains(&unwritten), "{unwritten}");
}

/// With the server's buffers full, notifications wait while the unread bytes exceed the small
/// allowance.
#[tokio::test(start_paused = true)]
async fn full_buffers_hold_notifications_to_the_allowance() {
    let (server, _gate) = narrow(&Alive::default(), ServerConfig::new());
    let mut peer = server.connect_raw(256);
    peer.hello().await;
    peer.send("1 /subscribe t\n").await;
    peer.attribute("next").await;
    let _full = fill(&server).await;
    for _ in 0..200 {
        server.publisher.publish("t", "x".repeat(1_000)).await.unwrap();
        yield_now().await;
    }
    settle().await;
    let unwritten = most_unwritten(&server);
    assert!((1_000..=LITTLE + 1_100).contains(&unwritten), "{unwritten}");
    for sequence in 1..=200 {
        soon("t", peer.expect(format!("* t {sequence} {}\n", "x".repeat(1_000)))).await;
    }
}

/// A line that has waited for a place is refused when its turn comes, if its connection holds more
/// than its share by then.
#[tokio::test(start_paused = true)]
async fn full_buffers_refuse_lines_that_waited() {
    let (server, gate) = narrow(&Alive::default(), ServerConfig::new().in_flight(1));
    let mut peer = server.connect_raw(1 << 20);
    peer.hello().await;
    peer.send(format!("1 inline\n2 echo a\n3 /publish t x\n4 echo {:40000}\n", "")).await;
    settle().await;
    let _full = fill(&server).await;
    gate.add_permits(1);
    let first = soon("the first", peer.line()).await.unwrap();
    assert!(first.starts_with("1 ok x"));
    soon("the others", peer.expect("2 no busy\n3 no busy\n")).await;
    assert_eq!(server.publisher.publish("t", "y").await.unwrap().sequence, 1);
}

/// Of two connections that hold the same, the one whose peer has not read for longest is closed.
#[tokio::test(start_paused = true)]
async fn ties_are_closed_by_longest_time_without_reading() {
    let measured = PipeServer::start(holding().0);
    let _peer = deaf(&measured, 60).await;
    let limit = 2 * measured.handle.stats().buffered_bytes + 10_000;
    let server =
        PipeServer::with_config(holding().0, ServerConfig::new().buffered_bytes_total(limit));
    let mut first = deaf(&server, 60).await;
    advance(Duration::from_millis(500)).await;
    let mut second = deaf(&server, 60).await;
    advance(Duration::from_secs(5)).await;
    settle().await;
    assert_eq!(server.handle.stats().shed, 0);
    // Another one, with little, has them exceed the limit.
    let _third = deaf(&server, 12).await;
    for _ in 0..5 {
        advance(Duration::from_millis(100)).await;
        settle().await;
    }
    assert_eq!(server.handle.stats().shed, 1);
    let mut said = String::new();
    soon("reading", first.io.read_to_string(&mut said)).await.unwrap();
    assert!(said.ends_with(" slow\n"), "{}", said.len());
    soon("a reader", second.expect(format!("1 ok {:2000}\n", 1))).await;
}

/// If an unauthenticated peer reads nothing, its lines are not parsed after a few answers, however
/// many violations are allowed.
#[tokio::test(start_paused = true)]
async fn a_non_reading_unauthenticated_peer_is_not_read() {
    let (router, _gate) = holding();
    let config = ServerConfig::new().violations(1_000_000);
    let (server, _clean) = guarded_server(config, router).await;
    let mut stranger = server.connect_raw(256);
    stranger.hello().await;
    let lines: String = (1..=5_000).map(|id| format!("{id} echo x\n")).collect();
    let sending = timeout(Duration::from_secs(1), stranger.send(lines)).await;
    assert!(sending.is_err(), "all of it is read");
    let unwritten = most_unwritten(&server);
    assert!((4_000..=4_200).contains(&unwritten), "{unwritten}");
}

/// A `Session` that outlives its connection keeps neither its buffers nor its peer's data.
#[tokio::test]
async fn a_kept_session_does_not_keep_buffers() {
    let kept = Arc::new(std::sync::Mutex::new(None::<Session>));
    let keep = kept.clone();
    let router = Router::new().method("keep", move |session: Session| {
        *keep.lock().unwrap() = Some(session);
        async { "x".repeat(BIG) }
    });
    let server = PipeServer::with_config(router, ServerConfig::new());
    let mut peer = server.connect_raw(64);
    peer.send("1 keep\n").await;
    let full = async {
        while server.handle.stats().buffered_bytes < BIG {
            yield_now().await;
        }
    };
    soon("full", full).await;
    drop(peer);
    let gone = async {
        while server.handle.stats().buffered_bytes > 0 {
            yield_now().await;
        }
    };
    soon("gone", gone).await;
    assert!(kept.lock().unwrap().is_some());
}

/// Bytes whose owner panics when it is dropped.
struct Bomb;

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        b"bomb"
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// The owner of a reply's bytes is user code. It panics once the reply is written, and the
/// connection goes on. SECURITY.md, threat 26.
#[tokio::test(start_paused = true)]
async fn reply_bytes_that_panic_on_drop_affect_nothing() {
    fn bomb() -> Bytes {
        Bytes::from_owner(Bomb)
    }
    let router = Router::new()
        .method("echo", async |payload: Bytes| payload)
        .method("inline", async || bomb())
        .method("spawned", handler(async || bomb()).spawned())
        .method("blocking", blocking(bomb))
        .method("items", async || Streamed(stream::iter([bomb()])))
        .method("tasks", handler(async || Streamed(stream::iter([bomb()]))).spawned());
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    for (id, method) in (1..).step_by(2).zip(["inline", "spawned", "blocking", "items", "tasks"]) {
        peer.send(format!("* {method}\n{id} {method}\n")).await;
        match method {
            "items" | "tasks" => peer.expect(format!("{id} more bomb\n{id} ok\n")).await,
            _ => peer.expect(format!("{id} ok bomb\n")).await,
        }
        peer.ask(format!("{} echo x\n", id + 1), format!("{} ok x\n", id + 1)).await;
    }
}

/// A reply over the line limit is not sent, and its bytes are released, though the client reads
/// nothing.
#[tokio::test(start_paused = true)]
async fn oversized_replies_release_their_bytes() {
    const HUGE: usize = 8 << 20;
    let fail = async || {
        let code = bellwire::protocol::Code::from_static("huge");
        Err::<(), _>(bellwire::Failure::new(code, "x".repeat(HUGE)))
    };
    let router = Router::new().method("fails", fail).method("huge", async || vec![b'x'; HUGE]);
    let server = PipeServer::start(router);
    let mut peer = server.connect_raw(256);
    peer.hello().await;
    for (id, method) in (1..).zip(["fails", "huge"]) {
        peer.send(format!("{id} {method}\n")).await;
        for _ in 0..10 {
            yield_now().await;
        }
        let held = server.handle.stats().largest_held_bytes;
        assert!((1..=8 * 65_535).contains(&held), "{method}: {held} bytes are held");
    }
}
