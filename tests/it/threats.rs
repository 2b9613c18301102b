//! Known attacks on servers and clients, by counts and bytes. SECURITY.md maps each threat to its
//! tests. Memory is measured in tests/memory.rs.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    Client, ClientConfig, ConnectionError, Delivery, Failure, Gap, GapCause, Router, ServerConfig,
    State, handler,
    protocol::{AttributeList, Code, Line, LineDecoder, Mark, Method, Topic},
};
use bellwire_testkit::{PIPE, PipeServer, RawPeer};
use bytes::Bytes;
use futures::{StreamExt, future::join_all, stream};
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, RngSeed},
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    task::{JoinHandle, yield_now},
};

/// What one read of a driver takes at most.
const SCRATCH: usize = 64 * 1024;

const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60\n";

async fn echo(payload: Bytes) -> Bytes {
    payload
}

fn client_of(server: &PipeServer, size: usize, config: ClientConfig) -> Client {
    let (client, connection) = Client::new(server.connect_raw(size).io, config);
    tokio::spawn(connection);
    client
}

/// Lets every other task have its turns.
async fn until_quiet() {
    for _ in 0..20 {
        yield_now().await;
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

// SECURITY.md, threats 1 and 2: what is a line.

fn awkward() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => proptest::sample::select(vec!["\n", "\r", "\r\n", "\x10", "\x10J", "\0", " ", "2 ok x"])
            .prop_map(str::to_owned),
        1 => ".{0,8}",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// So that a run repeats.
fn seeded() -> ProptestConfig {
    ProptestConfig {
        cases: 64,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(7_440),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(seeded())]

    /// No value makes two lines of one: each is validated, or stuffed. SECURITY.md, threat 1.
    #[test]
    fn no_value_injects_a_second_line(
        name in awkward(),
        payload in awkward(),
        text in awkward(),
        code in awkward(),
    ) {
        let breaks = |text: &str| text.contains(['\n', '\r']);
        if breaks(&name) {
            assert!(Topic::new(&name).is_err() && Method::new(&name).is_err());
            assert!(AttributeList::new().push("app.x", &name).is_err());
            assert!(AttributeList::new().push(&name, "x").is_err());
        }
        assert!(!breaks(&code) || Code::new(&code).is_none());
        runtime().block_on(both_directions(&payload, &text));
    }
}

/// What a server writes, and what a client does, with these in every place that takes them.
async fn both_directions(payload: &str, text: &str) {
    let text = text.to_owned();
    let router = Router::with_state(text)
        .method("echo", handler(async |payload: Bytes| payload).doc(payload))
        .method("fail", async |State(text): State<String>| {
            Err::<(), _>(Failure::new(Code::from_static("x"), text))
        });
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.send("1 /subscribe t\n").await;
    peer.line().await;
    server.publisher.publish("t", payload.to_owned()).await.expect("it fits");
    let notification = peer.line().await.expect("a notification");
    assert_eq!(parsed(notification.as_bytes()), "t");
    let mut request = b"2 echo ".to_vec();
    bellwire::protocol::stuff(payload.as_bytes(), &mut request);
    peer.send([&request, &b"\n3 fail\n4 /methods\n5 /quit\n"[..]].concat()).await;
    let mut all = Vec::new();
    peer.io.read_to_end(&mut all).await.expect("read");
    let lines: Vec<_> = all.split_inclusive(|&byte| byte == b'\n').map(parsed).collect();
    let words = ["ok", "err", "more", "more", "ok", "ok"];
    assert_eq!(lines, words, "{}", all.escape_ascii());

    let (near, mut far) = tokio::io::duplex(PIPE);
    let (client, connection) = Client::new(near, ClientConfig::new());
    let driver = tokio::spawn(connection);
    far.write_all(HELLO.as_bytes()).await.expect("read");
    client.connected().await.expect("a hello");
    client.one_way("m", payload).await.expect("it fits");
    let _ = client.publish("t", payload).now_or_poll().await;
    drop(client);
    until_quiet().await;
    far.write_all(b"1 ok;epoch=e;seq=1\n2 ok\n").await.expect("read");
    far.shutdown().await.expect("shut down");
    let mut all = Vec::new();
    far.read_to_end(&mut all).await.expect("read");
    let lines: Vec<_> = all.split_inclusive(|&byte| byte == b'\n').map(parsed).collect();
    assert_eq!(lines, ["m", "/publish", "/cancel", "/quit"], "{}", all.escape_ascii());
    let _ = driver.await.expect("no panic");
}

/// The word of a line, which has one LF and no CR.
fn parsed(bytes: &[u8]) -> String {
    let line = bytes.strip_suffix(b"\n").expect("a LF at the end");
    assert!(!line.contains(&b'\r'));
    Line::parse(line).expect("well-formed").word.as_str().to_owned()
}

/// Polls a future once, which sends what it sends, and then drops it.
trait PolledOnce: Future + Sized {
    async fn now_or_poll(self) -> Option<Self::Output> {
        let mut future = std::pin::pin!(self);
        let polled = futures::poll!(future.as_mut());
        until_quiet().await;
        match polled {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }
}

impl<F: Future> PolledOnce for F {}

/// What is between two requests, and whether it ends the first.
const ENDINGS: [(&[u8], bool); 16] = [
    (b"\n", true),
    (b"\r\n", true),
    (b"\r", false),
    (b"\r\r\n", true),
    (b"\n\r", true),
    (b"\r\r", false),
    (b"\n\n", true),
    (b"\0\n", true),
    (b"\0", false),
    (b"\x0b", false),
    (b"\x0c", false),
    (b"\x1a", false),
    (b"\x85", false),
    (b"\xc2\x85", false),
    (b"\xe2\x80\xa8", false),
    (b"\x10J", false),
];

/// The crate's parser and one that was written only from the document see the same requests in
/// every stream, and the server runs those and no other. SECURITY.md, threat 2.
#[tokio::test]
async fn an_independent_parser_sees_the_same_requests() {
    for (ending, ends) in ENDINGS {
        // A fault of the first line would close the connection, so another stands before.
        let stream = [b"* echo\n1 echo a", ending, b"2 echo b\n3 echo c\n"].concat();
        let expected = by_hand(&stream);
        for size in [1, 2, 3, stream.len()] {
            assert_eq!(by_the_crate(stream.chunks(size)), expected, "{}", ending.escape_ascii());
        }
        assert_eq!(run_by_server(&stream).await, expected, "{}", ending.escape_ascii());
        let second = expected.iter().any(|(id, _)| *id == 2);
        // A byte that stands before the second id makes another line of it, never a request 2.
        assert_eq!(second, ends && !ending.ends_with(b"\r"), "{}", ending.escape_ascii());
    }
}

/// Id and plain payload of each well-formed request, in order.
type Requests = Vec<(u64, Vec<u8>)>;

/// Byte by byte, from PROTOCOL.md, section 2.
fn by_hand(stream: &[u8]) -> Requests {
    let (mut requests, mut line) = (Requests::new(), Vec::new());
    for &byte in stream {
        if byte != b'\n' {
            line.push(byte);
            continue;
        }
        let mut bytes = std::mem::take(&mut line);
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        requests.extend(request_by_hand(&bytes));
    }
    requests
}

fn request_by_hand(line: &[u8]) -> Option<(u64, Vec<u8>)> {
    let text = line.strip_prefix(b"1 echo ").map(|rest| (1, rest));
    let text = text.or_else(|| line.strip_prefix(b"2 echo ").map(|rest| (2, rest)));
    let (id, rest) = text.or_else(|| line.strip_prefix(b"3 echo ").map(|rest| (3, rest)))?;
    let (mut plain, mut bytes) = (Vec::new(), rest.iter());
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\r' => return None,
            0x10 => match bytes.next()? {
                escaped @ (b'J' | b'M' | b'P') => plain.push(escaped ^ 0x40),
                _ => return None,
            },
            other => plain.push(other),
        }
    }
    Some((id, plain))
}

fn by_the_crate<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Requests {
    let (mut decoder, mut requests) = (LineDecoder::new(1_024), Requests::new());
    for mut piece in pieces {
        while let Some(line) = decoder.next(&mut piece).expect("short lines") {
            if let Ok(line) = Line::parse_request(line)
                && let Mark::Id(id) = line.mark
            {
                requests.push((id.get(), line.rest.plain().into_owned()));
            }
        }
    }
    requests
}

async fn run_by_server(stream: &[u8]) -> Requests {
    let server = PipeServer::start(Router::new().method("echo", echo));
    let mut peer = server.connect().await;
    peer.send(stream).await;
    peer.half_close().await;
    let mut all = Vec::new();
    peer.io.read_to_end(&mut all).await.expect("read");
    let lines = all.split(|&byte| byte == b'\n').filter_map(|line| {
        let line = Line::parse(line).ok()?;
        let Mark::Id(id) = line.mark else { return None };
        let payload = line.rest.plain().into_owned();
        (line.word.as_str() == "ok").then_some((id.get(), payload))
    });
    lines.collect()
}

// SECURITY.md, threats 7, 8 and 9: floods of a client that does not read. Memory is in
// tests/memory.rs.

/// How many of these bytes the server takes if its output is not read; all, or until it closes.
async fn taken(write: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> usize {
    let (mut taken, mut idle) = (0, 0);
    while taken < bytes.len() && idle < 1_000 {
        match futures::poll!(std::pin::pin!(write.write(&bytes[taken..]))) {
            Poll::Ready(Ok(count)) => (taken, idle) = (taken + count, 0),
            Poll::Ready(Err(_)) => break,
            Poll::Pending => idle += 1,
        }
        yield_now().await;
    }
    taken
}

/// If replies are not read, no more lines are handled: neither the bytes read nor the handlers
/// started grow with the flood. SECURITY.md, threat 7.
#[tokio::test(start_paused = true)]
async fn a_request_flood_with_unread_replies_stops() {
    const MARK: usize = 4_096;
    let started = Arc::new(AtomicUsize::new(0));
    let router = Router::with_state(started.clone()).method(
        "count",
        async |State(started): State<Arc<AtomicUsize>>| {
            started.fetch_add(1, Ordering::Relaxed);
            "counted"
        },
    );
    let server = PipeServer::with_config(router, ServerConfig::new().reply_mark(MARK));
    let (_read, mut write) = tokio::io::split(server.connect_raw(1_024).io);
    let flood: String = (1..=50_000).map(|n| format!("{n} count\n")).collect();
    let taken = taken(&mut write, flood.as_bytes()).await;
    let started = started.load(Ordering::Relaxed);
    let most = (MARK + 1_024) / "1 ok counted\n".len() + 1;
    assert!(started <= most, "{started} started");
    // What was started, a read that is still to be looked at, and the pipe.
    assert!(taken <= started * "12345 count\n".len() + SCRATCH + 1_024, "{taken} bytes");
}

/// Handlers that do not end also stop the reading, each with its payload. SECURITY.md, threat 7.
#[tokio::test(start_paused = true)]
async fn a_request_flood_holds_no_more_handlers_than_places() {
    let alive = Alive::default();
    let server = PipeServer::with_config(counted(&alive), ServerConfig::new().in_flight(8));
    let (_read, mut write) = tokio::io::split(server.connect_raw(1_024).io);
    let flood: String = (1..=50_000).map(|n| format!("{n} wait\n")).collect();
    let taken = taken(&mut write, flood.as_bytes()).await;
    assert_eq!((alive.now(), alive.most()), (8, 8));
    assert!(taken <= SCRATCH + 2 * 1_024, "{taken} bytes");
}

/// Every malformed line is answered, so the answers count too: they stop the reading, or the
/// connection is closed for the violations. SECURITY.md, threat 9.
#[tokio::test(start_paused = true)]
async fn malformed_lines_with_unread_replies_stop() {
    const MARK: usize = 4_096;
    for bad in ["x\n", "\n", "1 x\r\ry\n", "* nosuch\n", "1 ok\n"] {
        let config = ServerConfig::new().reply_mark(MARK);
        let server = PipeServer::with_config(Router::new().method("echo", echo), config);
        let (mut read, mut write) = tokio::io::split(server.connect_raw(1_024).io);
        write.write_all(b"1 echo\n").await.expect("written");
        let flood = bad.repeat(100_000);
        let taken = taken(&mut write, flood.as_bytes()).await;
        // Each takes an answer of at least as many bytes as itself.
        assert!(taken <= 2 * MARK + SCRATCH + 2 * 1_024, "{taken} bytes of {bad:?}");
        // Once it is read again, it is read and answered to the end, and then rests: a connection
        // that goes on being polled would keep the paused clock from ever coming to the timeout.
        let mut written = Vec::new();
        let reading = async { while read.read_buf(&mut written).await.is_ok_and(|n| n > 0) {} };
        let _ = tokio::time::timeout(Duration::from_secs(1), reading).await;
        assert!(written.starts_with(b"* /hello;") && written.ends_with(b"\n"));
    }
}

/// Acks, renewals and lists are answered only below twice the mark. SECURITY.md, threat 9.
#[tokio::test(start_paused = true)]
async fn protocol_requests_with_unread_replies_stop() {
    const MARK: usize = 4_096;
    for control in ["/renew", "/methods", "/subscribe t", "/unsubscribe t"] {
        let config = ServerConfig::new().reply_mark(MARK);
        let server = PipeServer::with_config(Router::new().method("echo", echo), config);
        let (_read, mut write) = tokio::io::split(server.connect_raw(1_024).io);
        let flood: String = (1..=50_000).map(|n| format!("{n} {control}\n")).collect();
        let taken = taken(&mut write, flood.as_bytes()).await;
        let longest = flood.len() / 50_000 + 2;
        let answered = (2 * MARK + 2 * 1_024) / "1 ok\n".len() + 1;
        assert!(taken <= answered * longest + SCRATCH, "{taken} bytes of {control}");
    }
}

/// Handlers that are alive, and the most that ever were at once.
#[derive(Clone, Default)]
struct Alive(Arc<[AtomicUsize; 3]>);

impl Alive {
    fn enter(&self) -> Guard {
        let now = self.0[0].fetch_add(1, Ordering::SeqCst) + 1;
        self.0[1].fetch_max(now, Ordering::SeqCst);
        self.0[2].fetch_add(1, Ordering::SeqCst);
        Guard(self.clone())
    }

    fn now(&self) -> usize {
        self.0[0].load(Ordering::SeqCst)
    }

    fn most(&self) -> usize {
        self.0[1].load(Ordering::SeqCst)
    }

    fn ever(&self) -> usize {
        self.0[2].load(Ordering::SeqCst)
    }
}

struct Guard(Alive);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0[0].fetch_sub(1, Ordering::SeqCst);
    }
}

/// A handler that never ends of itself, inline and as a task of its own.
fn counted(alive: &Alive) -> Router<Alive> {
    async fn wait(State(alive): State<Alive>) {
        let _guard = alive.enter();
        std::future::pending::<()>().await;
    }
    Router::with_state(alive.clone())
        .method("wait", wait)
        .method("task", handler(wait).spawned())
        .method("echo", echo)
}

/// A cancel frees the place only when the handler has ended. A second cancel, or one of an unknown
/// request, does nothing. SECURITY.md, threat 8.
#[tokio::test]
async fn request_and_cancel_pairs_hold_no_more_handlers_than_places() {
    const PAIRS: usize = 10_000;
    const PLACES: usize = 8;
    for method in ["wait", "task"] {
        let alive = Alive::default();
        let server =
            PipeServer::with_config(counted(&alive), ServerConfig::new().in_flight(PLACES));
        let mut peer = server.connect().await;
        let pair = |n: usize| format!("{n} {method}\n* /cancel {n}\n* /cancel {n}\n* /cancel 1\n");
        let flood: String = (1..=PAIRS).map(pair).collect();
        let (mut read, mut write) = tokio::io::split(&mut peer.io);
        let mut answers = String::new();
        let reading = async {
            let mut reader = tokio::io::BufReader::new(&mut read);
            for _ in 0..PAIRS {
                tokio::io::AsyncBufReadExt::read_line(&mut reader, &mut answers).await.unwrap();
            }
        };
        let ((), written) = tokio::join!(reading, write.write_all(flood.as_bytes()));
        written.unwrap();
        let mut outcomes = HashMap::new();
        for line in answers.lines() {
            let (id, outcome) = line.split_once(' ').unwrap();
            assert!(outcomes.insert(id.to_owned(), outcome.to_owned()).is_none(), "{id} twice");
            assert!(matches!(outcome, "cut cancelled" | "no cancelled"), "{line}");
        }
        assert_eq!(outcomes.len(), PAIRS);
        assert!(alive.most() <= PLACES && alive.ever() <= PAIRS, "{} alive", alive.most());
        assert_eq!(alive.now(), 0);
        peer.ask(format!("{} echo x\n", PAIRS + 1), format!("{} ok x\n", PAIRS + 1)).await;
    }
}

// SECURITY.md, threat 13: a hostile server. Random bytes are in tests/it/properties.rs, memory in
// tests/memory.rs.

type Driver = JoinHandle<Result<(), ConnectionError>>;

async fn greeted(config: ClientConfig) -> (Client, Driver, RawPeer<DuplexStream>) {
    let (near, far) = tokio::io::duplex(1_024);
    let (client, connection) = Client::new(near, config);
    let driver = tokio::spawn(connection);
    let mut server = RawPeer::new(far);
    server.send(HELLO).await;
    client.connected().await.expect("a hello");
    (client, driver, server)
}

/// SECURITY.md, threat 13. An endless line is read to its limit and no further.
#[tokio::test(start_paused = true)]
async fn an_endless_line_is_not_read_past_the_clients_limit() {
    const MAX_LINE: usize = 4_096;
    let (client, driver, mut server) = greeted(ClientConfig::new().max_line(MAX_LINE)).await;
    let call = client.call("m", "");
    let mut call = std::pin::pin!(call);
    assert!(futures::poll!(call.as_mut()).is_pending());
    let taken = taken(&mut server.io, &[b'x'; 100 * MAX_LINE]).await;
    assert!(taken <= MAX_LINE + SCRATCH, "{taken} bytes");
    assert!(matches!(driver.await.unwrap(), Err(ConnectionError::Protocol(_))));
    assert!(call.await.is_err());
}

/// Endless notifications of topics without a subscription are read and dropped. Replies between
/// them arrive. SECURITY.md, threat 13.
#[tokio::test]
async fn endless_unexpected_notifications_are_ignored() {
    let (client, _driver, mut server) = greeted(ClientConfig::new()).await;
    for round in 1..=50 {
        let flood: String = (1..=100).map(|n| format!("* t{round}.{n} {n} x\n")).collect();
        let mut call = std::pin::pin!(client.call("m", "").into_future());
        assert!(futures::poll!(call.as_mut()).is_pending());
        server.send(flood).await;
        server.send(format!("{round} ok {round}\n")).await;
        assert_eq!(call.await.unwrap(), round.to_string());
    }
    assert_eq!(client.stats().pending, 0);
}

// SECURITY.md, threat 14: a client that does not consume.

/// The stream's queue is bounded. Dropped numbers are reported exactly, in their place, and every
/// call on the connection is answered meanwhile. SECURITY.md, threat 14.
#[tokio::test]
async fn an_unread_stream_gets_an_exact_gap() {
    const PUBLISHED: u64 = 5_000;
    const KEPT: u64 = 16;
    let server = PipeServer::start(Router::new().method("echo", echo));
    let client = client_of(&server, PIPE, ClientConfig::new().inbox_items(KEPT as usize));
    let mut stopped = client.subscribe("t").await.unwrap();
    let mut reads = client.subscribe("t").await.unwrap();
    for number in 1..=PUBLISHED {
        server.publisher.publish("t", "x").await.unwrap();
        let delivery = reads.next().await.unwrap();
        assert_eq!(delivery.into_notification().expect("no gap").sequence, number);
        if number % 50 == 0 {
            assert_eq!(client.call("echo", number.to_string()).await.unwrap(), number.to_string());
        }
    }
    let Some(Delivery::Gap(Gap { first, last, cause, .. })) = stopped.next().await else {
        panic!("a gap comes first");
    };
    assert_eq!((first, last, cause), (1, PUBLISHED - KEPT, GapCause::Lagged));
    for number in PUBLISHED - KEPT + 1..=PUBLISHED {
        let delivery = stopped.next().await.unwrap();
        assert_eq!(delivery.into_notification().expect("no gap").sequence, number);
    }
    assert!(futures::poll!(std::pin::pin!(stopped.next())).is_pending());
}

// SECURITY.md, threat 16: chosen hash keys.

/// What chooses a hasher, or is one.
const HASHERS: [&str; 6] = [
    "BuildHasher",
    "with_hasher",
    "impl Hasher for",
    "hash_builder",
    "RandomState",
    "DefaultHasher",
];

/// Where a hasher is chosen, and why a peer cannot choose keys that collide in it.
const SEEDED_OR_SAFE: [(&str, &str); 2] = [
    (
        "src/server/handlers/router.rs",
        "keyed by the server's own methods: peers look up, and add nothing",
    ),
    ("src/client/core/pending.rs", "keyed by ids that this side chooses"),
];

/// Crates whose maps or hashers are unseeded, or seeded the same in every process.
const UNSEEDED: [&str; 8] =
    ["fnv", "fxhash", "rustc-hash", "nohash", "seahash", "foldhash", "hashbrown", "indexmap"];

/// SECURITY.md, threat 16. The maps of the standard library and of dashmap are seeded, per map or
/// per process; any that chooses its hasher is listed here with its reason.
#[test]
fn maps_with_peer_chosen_keys_are_seeded() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut choosing = BTreeSet::new();
    in_sources(&root.join("src"), &mut |path, source| {
        let mut code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        if code.any(|line| HASHERS.iter().any(|hasher| line.contains(hasher))) {
            let path = path.strip_prefix(root).unwrap().to_str().unwrap();
            choosing.insert(path.replace('\\', "/"));
        }
    });
    let listed: BTreeSet<_> = SEEDED_OR_SAFE.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(choosing, listed);
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let dependencies = manifest.split_once("\n[dependencies]\n").unwrap().1;
    let dependencies = dependencies.split("\n[").next().unwrap().lines();
    let mut names = dependencies.filter_map(|line| line.split([' ', '=']).next());
    assert!(!names.any(|name| UNSEEDED.iter().any(|unseeded| name.starts_with(unseeded))));
}

fn in_sources(path: &Path, look: &mut dyn FnMut(&Path, &str)) {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap();
        entries.for_each(|entry| in_sources(&entry.unwrap().path(), look));
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        look(path, &fs::read_to_string(path).unwrap());
    }
}

// SECURITY.md, threat 26: panics of handlers.

/// Panics when it is polled, or when it is dropped, or both.
struct Bomb {
    polled: bool,
    dropped: bool,
    ready: bool,
}

impl Future for Bomb {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        assert!(!self.polled, "told to panic when polled");
        if self.ready { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!self.dropped || std::thread::panicking(), "told to panic when dropped");
    }
}

fn construct_panic() -> std::future::Ready<()> {
    panic!("told to panic when constructed");
}

fn bomb(polled: bool, dropped: bool, ready: bool) -> Bomb {
    Bomb { polled, dropped, ready }
}

fn bombs() -> Router {
    Router::new()
        .method("construct", construct_panic)
        .method("poll", || bomb(true, false, false))
        .method("drop", || bomb(false, true, true))
        .method("both", || bomb(true, true, false))
        .method("cancelled", || bomb(false, true, false))
        .method("construct.task", handler(construct_panic).spawned())
        .method("poll.task", handler(|| bomb(true, false, false)).spawned())
        .method("both.task", handler(|| bomb(true, true, false)).spawned())
        .method("blocking", bellwire::blocking(|| -> String { panic!("told to panic") }))
        .method("wait", async || yield_now().await)
        .method("echo", echo)
}

/// Wherever a handler panics, its own request gets `err internal`, and other requests on the
/// connection are answered. SECURITY.md, threat 26.
#[tokio::test]
async fn a_handler_panic_at_any_point_fails_only_its_request() {
    let server = PipeServer::start(bombs());
    let mut peer = server.connect().await;
    let methods = [
        "construct",
        "poll",
        "drop",
        "both",
        "construct.task",
        "poll.task",
        "both.task",
        "blocking",
    ];
    for (method, id) in methods.into_iter().zip((1..).step_by(10)) {
        peer.send(format!("{id} wait\n{} {method}\n* {method}\n", id + 1)).await;
        let mut answers = [peer.line().await.unwrap(), peer.line().await.unwrap()];
        answers.sort();
        assert_eq!(answers, [format!("{id} ok\n"), format!("{} err internal\n", id + 1)]);
        peer.ask(format!("{} echo {method}\n", id + 2), format!("{} ok {method}\n", id + 2)).await;
    }
    peer.ask("1000 cancelled\n* /cancel 1000\n1001 echo x\n", "").await;
    let cancelled = peer.line().await.unwrap();
    assert!(cancelled.starts_with("1000 cut") || cancelled == "1000 err internal\n", "{cancelled}");
    peer.expect("1001 ok x\n").await;
}

/// A connection that ends with such a handler on it affects no other. SECURITY.md, threat 26.
#[tokio::test]
async fn a_handler_panic_on_disconnect_affects_no_other_connection() {
    let server = PipeServer::start(bombs());
    let mut other = server.connect().await;
    for _ in 0..3 {
        let mut peer = server.connect().await;
        peer.send("1 cancelled\n2 cancelled\n3 echo x\n").await;
        peer.expect("3 ok x\n").await;
        drop(peer);
    }
    until_quiet().await;
    other.ask("1 echo x\n", "1 ok x\n").await;
    server.connect().await.ask("1 echo x\n", "1 ok x\n").await;
}

// SECURITY.md, threat 32: both ends blocked in write.

/// SECURITY.md, threat 32. Both directions hold 64 bytes; calls and notifications flood it both
/// ways, and all calls are answered while every number is delivered or named.
#[tokio::test]
async fn floods_both_ways_through_64_bytes_never_deadlock() {
    const CALLS: usize = 2_000;
    const PUBLISHED: u64 = 2_000;
    let server = PipeServer::start(Router::new().method("echo", echo));
    let client = client_of(&server, 64, ClientConfig::new());
    let mut subscription = client.subscribe("t").await.unwrap();
    let publisher = server.publisher.clone();
    let publishing = tokio::spawn(async move {
        for number in 1..=PUBLISHED {
            publisher.publish("t", format!("{number} {}", "y".repeat(300))).await.unwrap();
            yield_now().await;
        }
    });
    let asking = client.clone();
    let calls = stream::iter(0..CALLS).map(|number| {
        let client = asking.clone();
        let payload = format!("{number} {}", "x".repeat(300));
        async move { client.call("echo", &payload).await.unwrap() == payload }
    });
    let answered = calls.buffer_unordered(256).filter(|&right| std::future::ready(right)).count();
    let heard = async {
        let mut next = 1;
        while next <= PUBLISHED {
            let (first, last) = match subscription.next().await.expect("it goes on") {
                Delivery::Notification(one) => (one.sequence, one.sequence),
                Delivery::Gap(gap) => (gap.first, gap.last),
                other => panic!("{other:?}"),
            };
            assert_eq!(first, next);
            next = last + 1;
        }
    };
    let (answered, ()) = tokio::join!(answered, heard);
    assert_eq!(answered, CALLS);
    publishing.await.unwrap();
}

// SECURITY.md, threat 33: calls from where user code runs.

/// SECURITY.md, threat 33. The reader of a topic calls on the same client, whose queue of
/// notifications is full meanwhile; every reply comes.
#[tokio::test]
async fn a_notification_handler_may_call_on_its_own_connection() {
    let server = PipeServer::start(Router::new().method("echo", echo));
    let client = client_of(&server, 256, ClientConfig::new().inbox_items(2));
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let asking = client.clone();
    let mut subscription = client.subscribe("t").await.unwrap();
    tokio::spawn(async move {
        while let Some(delivery) = subscription.next().await {
            let Some(one) = delivery.into_notification() else { continue };
            let calls = (0..4).map(|_| asking.call("echo", &one.payload).into_future());
            let replies = join_all(calls).await;
            assert!(replies.iter().all(|reply| reply.as_ref().unwrap() == &one.payload));
            told.send(one.sequence).unwrap();
        }
    });
    for number in 1..=500 {
        server.publisher.publish("t", number.to_string()).await.unwrap();
        yield_now().await;
    }
    while hears.recv().await.unwrap() < 500 {}
}

/// A server's handlers that ask the other server: `down N` asks it for `down N-1`.
#[derive(Clone, Default)]
struct Other(Arc<std::sync::OnceLock<Client>>);

async fn down(State(other): State<Other>, left: String) -> String {
    let left: u32 = left.parse().unwrap();
    if left == 0 {
        return "bottom".to_owned();
    }
    let client = other.0.get().unwrap();
    let reply = client.call("down", (left - 1).to_string()).await.unwrap();
    String::from_utf8(reply.to_vec()).unwrap()
}

/// SECURITY.md, threat 33. Two servers that are each other's clients, on one thread: a handler
/// waits for a handler that waits for it, ten deep, a hundred times at once, over one connection
/// each way.
#[tokio::test]
async fn a_handler_may_call_a_server_that_calls_back() {
    let (to_second, to_first) = (Other::default(), Other::default());
    let router = |other: &Other| Router::with_state(other.clone()).method("down", down);
    let (first, second) =
        (PipeServer::start(router(&to_second)), PipeServer::start(router(&to_first)));
    let _ = to_second.0.set(client_of(&second, 256, ClientConfig::new()));
    let _ = to_first.0.set(client_of(&first, 256, ClientConfig::new()));
    let asking = client_of(&first, 256, ClientConfig::new());
    let calls = (0..100).map(|_| asking.call("down", "10").into_future());
    assert!(join_all(calls).await.iter().all(|reply| reply.as_ref().unwrap() == "bottom"));
}
