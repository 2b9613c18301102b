//! Limits of a whole server, over all its topics and connections, and what a custom store may cost
//! it.

// SECURITY.md, threats 15, 24 and 28.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    Listener, PublishError, Published, Random, Router, Server, ServerConfig, handler,
    protocol::{Cursor, Topic, Window},
    server::PeerAddr,
    topic::{BoxFuture, MemoryTopics, Read, Room, TopicReader, TopicStore, Unavailable},
};
use bellwire_testkit::{PIPE, PipeServer, RawPeer, process, slow_store::SlowStore};
use bytes::Bytes;
use tokio::{
    io::DuplexStream,
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore, mpsc},
    time::{advance, timeout},
};

fn router() -> Router {
    Router::new().method("echo", async |text: String| text)
}

// Bytes that topics retain.

/// The oldest messages of all topics are dropped, and reported to subscribers that had not read
/// them. Other subscribers are not affected, and numbers do not change.
#[tokio::test(start_paused = true)]
async fn messages_dropped_for_other_topics_are_reported() {
    let config = ServerConfig::new().retained_bytes_total(1_000).retained_bytes(800);
    let server = PipeServer::with_config(router(), config);
    let payload = "x".repeat(80);
    let mut reading = server.connect().await;
    reading.send("1 /subscribe a\n").await;
    assert_eq!(reading.attribute("next").await, "1");
    let mut epoch = String::new();
    for sequence in 1..=5 {
        epoch = server.publisher.publish("a", payload.clone()).await.unwrap().epoch.to_string();
        reading.expect(format!("* a {sequence} {payload}\n")).await;
    }
    for _ in 0..7 {
        server.publisher.publish("b", payload.clone()).await.unwrap();
    }
    let retained = server.handle.stats().retained_bytes;
    assert!((900..=1_000).contains(&retained), "{retained}");
    // Nine lines of 103 bytes fit: seven of b, and the last two of a.
    let mut late = server.connect().await;
    late.send(format!("1 /subscribe;from={epoch}:1 a\n")).await;
    assert_eq!(late.attribute("head").await, "5");
    late.expect(format!("* /gap a {epoch} 1 3 retention\n* a 4 {payload}\n")).await;
    late.expect(format!("* a 5 {payload}\n")).await;
    // One that is over the limit by itself stays, and all else leaves.
    server.publisher.publish("c", "y".repeat(2_000)).await.unwrap();
    late.send(format!("2 /subscribe;from={epoch}:1 b\n")).await;
    assert_eq!(late.attribute("head").await, "7");
    late.expect(format!("* /gap b {epoch} 1 7 retention\n")).await;
    reading.ask("2 /renew\n", format!("2 ok;lease=60 a:{epoch}:6\n")).await;
    server.publisher.publish("a", "z").await.unwrap();
    reading.expect("* a 6 z\n").await;
    late.expect("* a 6 z\n").await;
}

/// Topic names cost at most what their limits allow while they are used, and nothing afterwards.
/// scripts/names.sh does the same with a million names and measures the process. SECURITY.md,
/// threat 15.
#[tokio::test(start_paused = true)]
async fn a_flood_of_topic_names_is_bounded_and_leaves_nothing() {
    const IDLE: Duration = Duration::from_secs(10);
    let config = ServerConfig::new().topics(500).subscriptions(64).idle_log(IDLE);
    let server = PipeServer::with_config(router(), config.retained_bytes_total(10_000));
    let mut refused = 0;
    for n in 0..5_000 {
        match server.publisher.publish(&*format!("born.{n}"), "0123456789").await {
            Ok(_) => {}
            Err(PublishError::TooMany) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    let stats = server.handle.stats();
    assert_eq!((refused, stats.topics), (4_500, 500));
    assert!((9_900..=10_000).contains(&stats.retained_bytes), "{stats:?}");

    // Topics that are only listened to take no log, but there has to be room for one.
    server.publisher.close("born.0").await.unwrap();
    let mut peer = server.connect().await;
    let mut id = 0;
    for round in 0..50 {
        for n in 0..65 {
            id += 1;
            peer.send(format!("{id} /subscribe heard.{round}.{n}\n")).await;
            let line = peer.line().await.unwrap();
            let expected = if n < 64 { " ok;" } else { " no too-many" };
            assert!(line.contains(expected), "{line}");
        }
        for n in 0..64 {
            id += 1;
            peer.send(format!("{id} /unsubscribe heard.{round}.{n}\n")).await;
            assert!(peer.line().await.unwrap().contains(" ok;"));
        }
    }
    assert_eq!(server.handle.stats().topics, 499);
    drop(peer);
    for _ in 0..8 {
        advance(IDLE / 4).await;
        tokio::task::yield_now().await;
    }
    let stats = server.handle.stats();
    assert_eq!((stats.topics, stats.retained_bytes, stats.buffered_bytes), (0, 0, 0));
    server.publisher.publish("born.again", "").await.unwrap();
}

// Bytes that connections hold.

/// Tasks that wait until their peer reads resume one after the other, however many they are, though
/// none of them ends. A task that timed out meanwhile delays no other.
#[tokio::test(start_paused = true)]
async fn tasks_waiting_for_their_peer_resume_one_by_one() {
    let (gate, went_on) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opened, counted) = (gate.clone(), went_on.clone());
    let wait = move || {
        let (opened, counted) = (opened.clone(), counted.clone());
        async move {
            opened.acquire().await.expect("a gate").forget();
            counted.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<()>().await;
        }
    };
    let router = router().method("wait", handler(wait).spawned());
    let config = ServerConfig::new().reply_mark(1).handler_time(Duration::from_secs(600));
    let server = PipeServer::with_config(router, config);
    let mut peer = server.connect_raw(4_096);
    peer.hello().await;
    // More than the rounds of the connection that write the reply: each wakes one.
    peer.send("1 wait;ttl=1000\n").await;
    for id in 2..=40 {
        peer.send(format!("{id} wait\n")).await;
    }
    settle().await;
    let text = "x".repeat(40_000);
    peer.send(format!("41 echo {text}\n")).await;
    settle().await;
    gate.add_permits(40);
    settle().await;
    assert_eq!(went_on.load(Ordering::Relaxed), 0, "the peer does not read");
    advance(Duration::from_secs(2)).await;
    settle().await;
    peer.expect(format!("41 ok {text}\n1 cut deadline\n")).await;
    settle().await;
    assert_eq!(went_on.load(Ordering::Relaxed), 39);
}

async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Payloads of 30,000 bytes that wait, on a server whose limit is this; what it holds then, and
/// what their connection is answered. Another is served in any case.
async fn held_with_limit(limit: usize) -> (usize, String, PipeServer, Arc<Notify>) {
    let gate = Arc::new(Notify::new());
    let told = gate.clone();
    let router = router().method("hold", move |text: String| {
        let told = told.clone();
        async move {
            told.notified().await;
            text.len().to_string()
        }
    });
    let config = ServerConfig::new().buffered_bytes_total(limit).allow_publish(true);
    let server = PipeServer::with_config(router, config);
    let mut holding = server.connect_raw(1 << 20);
    holding.hello().await;
    let payload = "x".repeat(30_000);
    for id in 1..=3 {
        holding.send(format!("{id} hold {payload}\n")).await;
    }
    holding.ask("4 /renew\n", "4 ok;lease=60\n").await;
    let held = server.handle.stats().buffered_bytes;
    let mut other = server.connect().await;
    other.ask("1 echo a\n", "1 ok a\n").await;
    holding.send("5 echo a\n").await;
    let answer = holding.line().await.unwrap();
    if answer.contains("busy") {
        // Not so what is the protocol's own.
        holding.ask("6 /renew\n", "6 ok;lease=60\n").await;
        holding.send("7 /subscribe t\n").await;
        assert_eq!(holding.attribute("next").await, "1");
        holding.ask("8 /publish t x\n* echo b\n", "8 no busy\n* /error busy\n").await;
        holding.ask("9 /methods\n", "9 more echo\n9 more hold\n9 ok\n").await;
        // Nor what is told to subscribers.
        for sequence in 1..=100 {
            server.publisher.publish("t", sequence.to_string()).await.unwrap();
        }
        for sequence in 1..=100 {
            holding.expect(format!("* t {sequence} {sequence}\n")).await;
        }
        other
            .ask("2 /publish t 101\n", format!("2 ok;epoch={};seq=101\n", epoch(&server).await))
            .await;
        holding.expect("* t 101 101\n").await;
    }
    for id in 1..=3 {
        gate.notify_one();
        holding.expect(format!("{id} ok 30000\n")).await;
    }
    holding.ask("10 echo c\n", "10 ok c\n").await;
    (held, answer, server, gate)
}

/// The epoch of the topic `t`.
async fn epoch(server: &PipeServer) -> String {
    let mut peer = server.connect().await;
    peer.send("1 /subscribe t\n").await;
    peer.attribute("epoch").await
}

/// [S20.5] Above the limit, and not at it, application requests of a connection above its share are
/// refused until there is room again. Nothing else is refused.
#[tokio::test]
async fn full_server_buffers_refuse_application_requests() {
    let (held, answer, server, _gate) = held_with_limit(usize::MAX).await;
    assert!((90_000..200_000).contains(&held), "{held}");
    assert_eq!(answer, "5 ok a\n");
    assert_eq!(server.handle.stats().buffered_bytes, 0);
    // Three payloads, and 256 bytes for the place of each. Room that is kept for later is given back
    // first.
    let held = 3 * (30_000 + 256);
    for (limit, expected) in [(held + 1, "ok a"), (held, "ok a"), (held - 1, "no busy")] {
        let (_, answer, server, _gate) = held_with_limit(limit).await;
        assert_eq!(answer, format!("5 {expected}\n"), "{limit}");
        assert_eq!(server.handle.stats().buffered_bytes, 0);
    }
}

/// The bytes that each kind of peer makes its connection hold are counted, and released with the
/// connection.
#[tokio::test]
async fn held_bytes_are_counted_and_released() {
    let server = PipeServer::with_config(router(), ServerConfig::new().reply_mark(4_096));
    let x = "x".repeat(20_000);
    for (lines, pipe, least) in [
        // An unfinished line; replies that are not read; lines behind them.
        (format!("1 echo {x}"), 65_536, 20_000),
        (format!("1 echo {x}\n2 echo {x}\n"), 256, 20_000),
        (format!("1 echo {x}\n2 echo {x}\n3 echo {x}\n"), 256, 40_000),
    ] {
        let mut peer = server.connect_raw(pipe);
        let sending = async {
            peer.hello().await;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut peer.io, lines.as_bytes()).await;
        };
        let held = async {
            while server.handle.stats().buffered_bytes < least {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = held => {}
            () = async { sending.await; std::future::pending().await } => {}
        }
        drop(peer);
        while server.handle.stats().connections > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(server.handle.stats().buffered_bytes, 0);
    }
}

/// One of a hundred subscribers does not read. The others lose nothing, and it learns what it has
/// lost. On a paused clock, so that a busy machine does not make a slow reader look like a stopped
/// one. SECURITY.md, threat 28.
#[tokio::test(start_paused = true)]
async fn one_non_reading_subscriber_costs_the_others_nothing() {
    const BATCH: u64 = 100;
    const LAST: u64 = 30 * BATCH;
    let server = PipeServer::with_config(router(), ServerConfig::new().retained_messages(1_024));
    let mut peers = Vec::new();
    for _ in 0..100 {
        let mut peer = server.connect().await;
        peer.send("1 /subscribe t\n").await;
        assert_eq!(peer.attribute("next").await, "1");
        peers.push(peer);
    }
    let mut stopped = peers.swap_remove(42);
    let payload = "x".repeat(200);
    for begin in (1..=LAST).step_by(BATCH as usize) {
        for _ in 0..BATCH {
            server.publisher.publish("t", payload.clone()).await.unwrap();
        }
        for peer in &mut peers {
            for sequence in begin..begin + BATCH {
                peer.expect(format!("* t {sequence} {payload}\n")).await;
            }
        }
    }
    // Replies go on for it too, once what was written before is read.
    stopped.send("2 echo a\n").await;
    let (mut next, mut lost, mut is_answered) = (1, 0, false);
    while next <= LAST || !is_answered {
        let line = stopped.line().await.unwrap();
        let words: Vec<_> = line.trim_end().split(' ').collect();
        match words[..] {
            ["2", "ok", "a"] => is_answered = true,
            ["*", "t", sequence, _] => {
                assert_eq!(sequence.parse(), Ok(next));
                next += 1;
            }
            ["*", "/gap", "t", _, first, last, "retention"] => {
                assert_eq!(first.parse(), Ok(next));
                let last: u64 = last.parse().unwrap();
                lost += last + 1 - next;
                next = last + 1;
            }
            _ => panic!("{line}"),
        }
    }
    assert!(lost > 1_000 && next == LAST + 1, "{lost} lost, next is {next}");
}

// Time.

/// A blocker: it blocks its thread until it is released, or for a minute.
#[derive(Clone, Default)]
struct Blocked(Arc<(Mutex<bool>, Condvar)>);

impl Blocked {
    fn wait(&self) {
        let (lock, opened) = &*self.0;
        let is_shut = |is_open: &mut bool| !*is_open;
        drop(opened.wait_timeout_while(lock.lock().unwrap(), Duration::from_secs(60), is_shut));
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// What blocks: the preparation of the second connection, or the sweep of a store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Blocks {
    Prepare,
    Sweep,
}

static PREPARED: AtomicUsize = AtomicUsize::new(0);
static PREPARING: OnceLock<Blocked> = OnceLock::new();

struct SlowToPrepare(TcpListener);

impl Listener for SlowToPrepare {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(Self::Io, PeerAddr)> {
        Listener::accept(&mut self.0).await
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Listener::local_addr(&self.0)
    }

    fn prepare(_: &Self::Io, _: Option<Duration>) -> io::Result<()> {
        if PREPARED.fetch_add(1, Ordering::Relaxed) == 1 {
            PREPARING.get_or_init(Blocked::default).wait();
        }
        Ok(())
    }
}

struct SlowToSweep(MemoryTopics, Blocked, Arc<Semaphore>);

impl TopicStore for SlowToSweep {
    fn append(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        self.0.append(topic, payload)
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        self.0.open(topic)
    }

    fn sweep(&self) {
        self.2.add_permits(1);
        self.1.wait();
    }
}

/// A listener or a store that blocks where it must not does not delay any deadline. (In real time,
/// because a thread is blocked.)
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_blocked_thread_delays_no_deadline() {
    for blocks in [Blocks::Prepare, Blocks::Sweep] {
        let (blocked, sweeping) = (Blocked::default(), Arc::new(Semaphore::new(0)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = ServerConfig::new().first_line(Duration::from_millis(1_500));
        let server = Server::new(SlowToPrepare(listener)).config(match blocks {
            Blocks::Prepare => config,
            Blocks::Sweep => config.idle_log(Duration::from_secs(1)),
        });
        let memory = MemoryTopics::new(&Random::seeded(1));
        let store = SlowToSweep(memory, blocked.clone(), sweeping.clone());
        let server = server.topics(store);
        PREPARED.store(0, Ordering::Relaxed);
        let serving = tokio::spawn(server.serve(Router::new()).into_future());
        let connect = async || RawPeer::new(TcpStream::connect(address).await.expect("connected"));
        let mut first = connect().await;
        first.hello().await;
        let held_up = match blocks {
            Blocks::Prepare => Some(connect().await),
            Blocks::Sweep => {
                sweeping.acquire().await.unwrap().forget();
                PREPARED.store(2, Ordering::Relaxed);
                None
            }
        };
        let closed = timeout(Duration::from_secs(30), first.expect_closed()).await;
        assert!(closed.is_ok(), "{blocks:?}: the first line's deadline did not fire");
        blocked.open();
        PREPARING.get_or_init(Blocked::default).open();
        drop(held_up);
        serving.abort();
    }
}

/// A listener that is not one of the crate's own.
struct Wrapped(TcpListener);

impl Listener for Wrapped {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(Self::Io, PeerAddr)> {
        Listener::accept(&mut self.0).await
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Listener::local_addr(&self.0)
    }
}

/// While blocking handlers occupy every thread that the runtime has for them, connections are accepted,
/// and the topics are swept.
#[test]
fn blocking_handlers_do_not_delay_accepting() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
        come_in_beside_a_blocking_handler(own.local_addr().unwrap(), own).await;
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        come_in_beside_a_blocking_handler(other.local_addr().unwrap(), Wrapped(other)).await;
    });
}

async fn come_in_beside_a_blocking_handler(address: SocketAddr, listener: impl Listener) {
    let (blocked, sweeping) = (Blocked::default(), Arc::new(Semaphore::new(0)));
    let (begun, begins) = (Arc::new(Semaphore::new(0)), blocked.clone());
    let begin = begun.clone();
    let occupy = bellwire::blocking(move || {
        begin.add_permits(1);
        begins.wait();
    });
    let swept = Blocked::default();
    swept.open();
    let store = SlowToSweep(MemoryTopics::new(&Random::seeded(1)), swept, sweeping.clone());
    let config = ServerConfig::new().idle_log(Duration::from_secs(1));
    let server = Server::new(listener).config(config).topics(store);
    let serving = tokio::spawn(server.serve(Router::new().method("occupy", occupy)).into_future());
    let connect = async || RawPeer::new(TcpStream::connect(address).await.expect("connected"));
    let mut first = connect().await;
    first.hello().await;
    first.send("1 occupy\n").await;
    begun.acquire().await.unwrap().forget();
    let mut second = connect().await;
    let greeted = timeout(Duration::from_secs(30), second.hello()).await;
    assert!(greeted.is_ok(), "the second connection is not accepted");
    second.ask("1 /renew\n", "1 ok;lease=60\n").await;
    let is_swept = timeout(Duration::from_secs(30), sweeping.acquire()).await;
    assert!(is_swept.is_ok(), "the topics are not swept");
    blocked.open();
    first.expect("1 ok\n").await;
    serving.abort();
}

// Connections.

/// Connections from addresses as a test makes them up.
struct Addressed(mpsc::UnboundedReceiver<(DuplexStream, PeerAddr)>);

impl Listener for Addressed {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
        match self.0.recv().await {
            Some(accepted) => Ok(accepted),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("addressed".into()))
    }
}

/// [S20.6] The connections of one address are limited. A further one gets an answer that says so,
/// other addresses are not affected, and a place is free as soon as its connection has ended.
#[tokio::test(start_paused = true)]
async fn connections_of_one_address_are_capped() {
    let (connect, accepted) = mpsc::unbounded_channel();
    let server = Server::new(Addressed(accepted));
    let server = server.config(ServerConfig::new().connections_per_address(Some(2)));
    let handle = server.handle();
    let serving = tokio::spawn(server.serve(router()).into_future());
    let come = async |address: &str| {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let peer = PeerAddr::Tcp(address.parse().unwrap());
        connect.send((theirs, peer)).unwrap();
        let mut peer = RawPeer::new(ours);
        peer.hello().await;
        peer
    };
    let mut first = come("10.0.0.1:1").await;
    let mut second = come("10.0.0.1:2").await;
    let mut third = come("10.0.0.1:3").await;
    third.expect("* /bye;last=0;retry=1000 busy\n").await;
    third.expect_closed().await;
    come("10.0.0.2:1").await.ask("1 echo a\n", "1 ok a\n").await;
    second.ask("1 echo b\n", "1 ok b\n").await;
    first.ask("1 /quit\n", "1 ok\n").await;
    drop(first);
    while handle.stats().connections > 1 {
        tokio::task::yield_now().await;
    }
    come("10.0.0.1:4").await.ask("1 echo c\n", "1 ok c\n").await;
    serving.abort();
}

/// The memory that a server may take is the sum that its documentation describes.
#[test]
fn worst_case_bytes_is_the_documented_sum() {
    const LINE: usize = 2_048;
    let config = ServerConfig::new()
        .max_line(LINE)
        .connections(10)
        .subscriptions(2)
        .buffered_bytes_total(1_000_000)
        .retained_bytes_total(500_000)
        .topics(3)
        .keys_bytes(70_000);
    let connection = 1_536 + 2 * 2_304 + 65_536 + 5 * LINE + 65_536;
    let expected = 10 * connection + 1_000_000 + 2 * 500_000 + 3 * 3_072;
    assert_eq!(config.worst_case_bytes(), expected + 2 * 70_000);
    assert_eq!(config.clone().keys(0).worst_case_bytes(), expected);
    assert_eq!(config.connections(usize::MAX).worst_case_bytes(), usize::MAX);
}

/// What is logged meanwhile.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    async fn line_with(&self, part: &str) -> String {
        loop {
            let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            match log.lines().find(|line| line.contains(part)) {
                Some(line) => return line.to_owned(),
                None => tokio::task::yield_now().await,
            }
        }
    }
}

/// A server reports its limit of connections, and that it accepts fewer than configured if files
/// are limited.
#[tokio::test]
async fn a_server_logs_its_connection_limit() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _logging = bellwire_testkit::logs::capture(subscriber);
    let config = ServerConfig::new().connections(usize::MAX);
    let in_memory = PipeServer::with_config(router(), config.clone());
    let line = log.line_with("serving").await;
    assert!(line.contains(&format!("connections={0} worst_case_bytes={0}", usize::MAX)), "{line}");
    drop(in_memory);
    let server = Server::bind("127.0.0.1:0").await.unwrap().config(config);
    let serving = tokio::spawn(server.serve(router()).into_future());
    let line = log.line_with("the limit of open files is too low").await;
    let allowed = line.split_once("allowed=").unwrap().1;
    assert!(allowed.parse::<usize>().unwrap() < usize::MAX, "{line}");
    log.line_with(&format!("serving connections={allowed}")).await;
    serving.abort();
}

/// SECURITY.md, threat 24: a server that may open 64 files, and 200 clients at once. It refuses
/// with a hint, survives, and serves again.
#[cfg(unix)]
#[tokio::test]
async fn a_server_out_of_files_refuses_and_serves_again() {
    let server = process::Process::start("ulimit -n 64;").await;
    for _ in 1..=3 {
        let mut crowd = Crowd::default();
        // A server that is slow, because the machine is busy, drops connections whose first line it
        // has not read in time, and may not have noticed that those of the last round have ended.
        // Then as many come again.
        let coming = async {
            while crowd.served.is_empty() || crowd.refused < 16 {
                crowd.come(&server.address).await;
            }
        };
        timeout(process::BOUND, coming).await.expect("some are served, and some refused");
        assert!(crowd.served.len() <= 32, "{}", crowd.served.len());
        for peer in &mut crowd.served {
            peer.ask("2 random 1\n", "2 ok 0\n").await;
        }
    }
    // All connections have ended. A new one is served as soon as the server has noticed this.
    let serving = async {
        loop {
            if let Came::Served(_) = first_lines(server.address.clone()).await {
                return;
            }
        }
    };
    timeout(process::BOUND, serving).await.expect("it serves again");
    let mut server = server;
    server.terminate().await;
    assert!(server.end().await.success());
}

/// Those that came in a round. Those that were served stay.
#[cfg(unix)]
#[derive(Default)]
struct Crowd {
    served: Vec<RawPeer<TcpStream>>,
    refused: usize,
}

#[cfg(unix)]
impl Crowd {
    /// 200 more come at once.
    async fn come(&mut self, address: &str) {
        let clients = (0..200).map(|_| first_lines(address.to_owned()));
        for came in futures::future::join_all(clients).await {
            match came {
                Came::Served(peer) => self.served.push(peer),
                Came::Refused => self.refused += 1,
                Came::Dropped => {}
            }
        }
    }
}

#[cfg(unix)]
enum Came {
    Served(RawPeer<TcpStream>),
    Refused,
    Dropped,
}

/// Comes, asks, and looks what the server says.
#[cfg(unix)]
async fn first_lines(address: String) -> Came {
    let Ok(mut io) = TcpStream::connect(address).await else { return Came::Dropped };
    if tokio::io::AsyncWriteExt::write_all(&mut io, b"1 random 1\n").await.is_err() {
        return Came::Dropped;
    }
    let mut lines = Vec::new();
    while lines.iter().filter(|byte| **byte == b'\n').count() < 2 {
        match tokio::io::AsyncReadExt::read_buf(&mut io, &mut lines).await {
            Ok(1..) => {}
            _ => return Came::Dropped,
        }
    }
    let lines = String::from_utf8(lines).unwrap();
    match lines.lines().nth(1) {
        Some("1 ok 0") => Came::Served(RawPeer::new(io)),
        Some("* /bye;last=0;retry=1000 busy") => Came::Refused,
        other => panic!("{other:?}"),
    }
}

// Stores of one's own.

/// [S13.3] A store that never answers delays its connection for at most the handler time.
#[tokio::test(start_paused = true)]
async fn a_hanging_store_is_timed_out() {
    let config =
        ServerConfig::new().handler_time(Duration::from_secs(5)).drain(Duration::from_secs(2));
    let store = SlowStore::new();
    let windows = store.windows.clone();
    let mut server = PipeServer::over(store, router(), config);
    let mut peer = server.connect().await;
    peer.send("1 /subscribe t\n2 /renew\n3 echo a\n").await;
    peer.expect("3 ok a\n").await;
    advance(Duration::from_millis(4_900)).await;
    peer.expect_silence().await;
    advance(Duration::from_millis(200)).await;
    peer.expect("1 no busy\n2 ok;lease=60\n").await;
    windows.add_permits(1);
    peer.send("4 /subscribe t\n").await;
    let epoch = peer.attribute("epoch").await;
    // What is still being opened when the drain is over has not begun; what waits behind it is
    // obeyed then.
    peer.send("5 /subscribe u\n6 /unsubscribe t\n7 echo b\n").await;
    peer.expect("7 ok b\n").await;
    peer.expect_silence().await;
    server.stop();
    peer.expect("* /bye shutdown\n* /bye;last=7 shutdown\n").await;
    peer.expect(format!("5 no closing\n6 ok;next={epoch}:1\n")).await;
    peer.expect_closed().await;
}

/// Logs in memory; the topic's name says where its reader panics.
#[derive(Clone)]
struct PanickyStore(MemoryTopics);

struct PanickyReader {
    at: String,
    reader: Box<dyn TopicReader>,
}

impl TopicStore for PanickyStore {
    fn append(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        self.0.append(topic, payload)
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        let at = topic.to_string();
        assert_ne!(at, "open");
        Box::new(PanickyReader { at, reader: self.0.open(topic) })
    }

    fn sweep(&self) {
        panic!("in sweep");
    }
}

impl TopicReader for PanickyReader {
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        assert_ne!(self.at, "window");
        self.reader.poll_window(cx)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        let read = self.reader.poll_read(cx, cursor, room, out);
        assert!(read.is_pending() || self.at != "read", "half a line is out");
        read
    }
}

impl Drop for PanickyReader {
    fn drop(&mut self) {
        assert_ne!(self.at, "drop");
    }
}

/// A store that panics ends the subscription it panics in, and nothing else.
#[tokio::test(start_paused = true)]
async fn a_store_that_panics_ends_its_subscription_only() {
    let store = PanickyStore(MemoryTopics::new(&Random::seeded(1)));
    let config = ServerConfig::new().idle_log(Duration::from_secs(2));
    let server = PipeServer::over(store, router(), config);
    let mut peer = server.connect().await;
    peer.ask("1 /subscribe open\n2 /subscribe window\n", "1 no busy\n2 no busy\n").await;
    for (id, topic) in [(3, "read"), (4, "drop"), (5, "fine")] {
        peer.send(format!("{id} /subscribe {topic}\n")).await;
        assert_eq!(peer.attribute("next").await, "1");
    }
    let published = server.publisher.publish("read", "x").await.unwrap();
    let epoch = published.epoch;
    peer.expect(format!("* /end read closed {epoch}:1\n")).await;
    server.publisher.publish("fine", "x").await.unwrap();
    peer.expect("* fine 1 x\n").await;
    peer.ask("6 /unsubscribe drop\n", format!("6 ok;next={epoch}:1\n")).await;
    // Time for some sweeps.
    advance(Duration::from_secs(10)).await;
    peer.ask("7 echo a\n", "7 ok a\n").await;
    server.ended().await;
}
