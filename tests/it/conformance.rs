//! The rules of the protocol that no transcript shows, each as a dialogue in raw bytes: limits to
//! the byte, what handlers see of an end, order, slow readers. First the server, then the client.

use std::{
    future::pending,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, ConnectionError, Failure, Random, Router, ServerConfig, State,
    Unknown, blocking, handler,
    protocol::{Code, Line, Notice},
    server::{FromRequest, Rejection, RequestParts},
    topic::MemoryTopics,
};
use bellwire_testkit::{
    PIPE, PipeServer, TcpServer,
    dialogue::Peer,
    document,
    methods::{Waiting, router},
    slow_store::SlowStore,
};
use tokio::{
    sync::Semaphore,
    time::{advance, timeout},
};

/// Far above what anything here takes on the real clock.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server of the transcripts within limits of its own, and its waiting handlers.
fn serve(config: ServerConfig) -> (PipeServer, Waiting) {
    let waiting = Waiting::default();
    (PipeServer::with_config(router(waiting.clone()), config), waiting)
}

fn publishing() -> ServerConfig {
    ServerConfig::new().allow_publish(true)
}

/// A connection through a pipe of `size` bytes, whose hello was read.
async fn connect_through(server: &PipeServer, size: usize) -> Peer {
    let mut peer = Peer::new(server.connect_raw(size).io);
    assert!(peer.line().await.starts_with("* /hello;version=1;"));
    peer
}

async fn connect(server: &PipeServer) -> Peer {
    connect_through(server, PIPE).await
}

/// Sends lines, LF added, in one write, and expects these.
async fn ask<const N: usize>(peer: &mut Peer, lines: &str, replies: [&str; N]) {
    peer.send(lines).await;
    for reply in replies {
        let line = peer.line().await;
        assert_eq!(line, reply, "upon {lines:?}");
    }
}

async fn finish(waiting: &Waiting, id: u64) {
    waiting.finish(id).await.unwrap();
}

/// The value of an attribute of a line's head.
fn attribute(line: &str, key: &str) -> String {
    let head = line.split(' ').nth(1).unwrap();
    let mut found = head.split(';').filter_map(|one| one.split_once('='));
    found.find(|(name, _)| *name == key).unwrap_or_else(|| panic!("{key} in {line}")).1.to_owned()
}

/// What handlers did, in order: `start X`, `done X`, and `end X` when they are gone.
#[derive(Clone)]
struct Runs {
    log: Arc<Mutex<Vec<String>>>,
    gate: Arc<Semaphore>,
}

struct Running {
    runs: Runs,
    name: String,
}

impl Runs {
    fn new() -> Self {
        Self { log: Arc::default(), gate: Arc::new(Semaphore::new(0)) }
    }

    fn push(&self, what: &str, name: &str) {
        self.log.lock().unwrap().push(format!("{what} {name}"));
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    fn enter(&self, name: String) -> Running {
        self.push("start", &name);
        Running { runs: self.clone(), name }
    }

    /// A server whose `run` and `spawned` wait for the gate.
    fn serve(&self, config: ServerConfig) -> PipeServer {
        let router = Router::with_state(self.clone())
            .method("run", run)
            .method("spawned", handler(run).spawned())
            .method("other", async || ());
        PipeServer::with_config(router, config)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.runs.push("end", &self.name);
    }
}

async fn run(State(runs): State<Runs>, name: String) -> String {
    let running = runs.enter(name);
    runs.gate.acquire().await.unwrap().forget();
    runs.push("done", &running.name);
    running.name.clone()
}

// Lines and limits.

/// A head of `length` bytes, mark included, of attributes that any method takes.
fn head(mark_and_word: &str, length: usize) -> String {
    let mut head = mark_and_word.to_owned();
    for n in 0.. {
        let left = length - head.len();
        let key = format!(";a.{n:02}=");
        // What is left for the last one is never too short for a key.
        let value = (left - key.len()).min(200);
        let value = if (1..20).contains(&(left - key.len() - value)) { value - 20 } else { value };
        head += &format!("{key}{}", "v".repeat(value));
        if head.len() == length {
            return head;
        }
    }
    unreachable!()
}

/// [B2.2] The longest head is read, one byte more is malformed, by both ends.
#[tokio::test(start_paused = true)]
async fn a_head_has_2048_bytes() {
    let (server, _) = serve(ServerConfig::new());
    let mut peer = connect(&server).await;
    ask(&mut peer, &format!("{} x", head("1 echo", 2_048)), ["1 ok x"]).await;
    let too_long = format!("{} x", head("2 echo", 2_049));
    ask(&mut peer, &too_long, ["2 no malformed byte 2048: head too long"]).await;
    let (mut server, driver) = greeted().await;
    server.send(&format!("{} x", head("1 ok", 2_048))).await;
    server.expect_silence().await;
    server.send(&format!("{} x", head("2 ok", 2_049))).await;
    assert!(matches!(driver.await.unwrap(), Err(ConnectionError::Protocol(_))));
}

/// [B2.3] [S2.3] SECURITY.md, threat 2: what ends a line for the server, and what does not.
#[tokio::test(start_paused = true)]
async fn only_a_lf_ends_a_line() {
    let (server, _) = serve(ServerConfig::new());
    let mut peer = connect(&server).await;
    ask(&mut peer, "1 echo a\r\n2 echo b", ["1 ok a", "2 ok b"]).await;
    ask(&mut peer, "3 echo a\r3 echo b", ["3 no malformed byte 8: raw CR"]).await;
    ask(&mut peer, "4 echo a\r\r", ["4 no malformed byte 8: raw CR"]).await;
    for (id, end) in (5..).zip(["\0", "\x0b", "\x0c", "\x1c", "\x1e", "\u{85}", "\u{2028}"]) {
        let rest = format!("a{end}{id} echo b");
        ask(&mut peer, &format!("{id} echo {rest}"), [&format!("{id} ok {rest}")]).await;
    }
    peer.expect_silence().await;
}

/// [S2.9] The error comes at the first byte over the limit, and the connection ends with it.
#[tokio::test(start_paused = true)]
async fn an_overlong_line_closes_the_connection() {
    let (server, _) = serve(ServerConfig::new().max_line(1_024));
    let mut peer = connect(&server).await;
    let payload = "x".repeat(1_024 - "1 echo \n".len());
    ask(&mut peer, &format!("1 echo {payload}"), [&format!("1 ok {payload}")]).await;
    peer.send_bytes(format!("2 echo {payload}").as_bytes()).await;
    peer.expect_silence().await;
    peer.send_bytes(b"x").await;
    peer.expect("* /error line-too-long max-line is 1024").await;
    peer.expect_closed().await;
}

/// [S2.5] A first line that is too long is not answered.
#[tokio::test(start_paused = true)]
async fn an_overlong_first_line_closes_without_a_reply() {
    let (server, _) = serve(ServerConfig::new().max_line(1_024));
    let mut peer = connect(&server).await;
    peer.send_bytes(&[b'1'; 1_024]).await;
    peer.expect_closed().await;
}

/// [B2.1] [S2.2] [S2.1] A hello of the greatest numbers is short, and each connection begins with
/// one.
#[tokio::test(start_paused = true)]
async fn the_longest_hello_is_below_1_kib() {
    let most = bellwire::protocol::MAX_NUMBER;
    // What is configured above that is cut to it.
    let config =
        ServerConfig::new().max_line(usize::MAX).in_flight(usize::MAX).lease(Duration::MAX);
    let (server, _) = serve(config);
    let mut peer = Peer::new(server.connect_raw(PIPE).io);
    let hello = peer.line().await;
    assert!(hello.len() < 1_024);
    let line = Line::parse(hello.as_bytes()).unwrap();
    let Some(Notice::Hello(hello)) = Notice::parse(&line) else { panic!("{hello}") };
    assert_eq!((hello.max_line as u64, hello.in_flight as u64, hello.lease), (most, most, most));
}

fn sizes() -> Router {
    Router::new().method("size", async |size: String| "x".repeat(size.parse().unwrap())).method(
        "fail",
        async |size: String| -> Result<(), Failure> {
            let text = "x".repeat(size.parse().unwrap());
            Err(Failure::new(Code::from_static("app"), text))
        },
    )
}

/// [S2.4] [S3.8] [S12.5] No line is over the lesser of both limits: a reply becomes an error, the
/// text of an error is cut.
#[tokio::test(start_paused = true)]
async fn no_line_exceeds_the_limit_of_either_end() {
    let server = PipeServer::with_config(sizes(), ServerConfig::new().max_line(2_000));
    for (hello, limit) in [("", 2_000), (";max-line=1024", 1_024), (";max-line=70000", 2_000)] {
        let mut peer = connect(&server).await;
        ask(&mut peer, &format!("1 /hello;version=1{hello}"), ["1 ok;version=1"]).await;
        let fits = limit - "2 ok \n".len();
        let reply = format!("2 ok {}", "x".repeat(fits));
        ask(&mut peer, &format!("2 size {fits}"), [&reply]).await;
        peer.send(&format!("3 size {}", fits + 1)).await;
        assert!(peer.line().await.starts_with("3 err too-large"));
        let fits = limit - "4 err app \n".len();
        let cut = "x".repeat(fits);
        for (id, size) in [(4, fits), (5, fits + 1), (6, 3 * fits)] {
            ask(&mut peer, &format!("{id} fail {size}"), [&format!("{id} err app {cut}")]).await;
        }
    }
    let server = PipeServer::start(sizes());
    let mut peer = connect(&server).await;
    ask(&mut peer, "1 size 65535", ["1 err too-large max-line is 65535"]).await;
}

/// [S3.8] [B2.4] A text is cut only as far as necessary, and no SP is left at the end.
#[tokio::test(start_paused = true)]
async fn an_error_text_is_truncated_only_as_far_as_needed() {
    let router = Router::new().method("fail", async || -> Result<(), Failure> {
        Err(Failure::new(Code::from_static("app"), "\u{e9}".repeat(1_000)))
    });
    let server = PipeServer::with_config(router, ServerConfig::new().max_line(1_024));
    let mut peer = connect(&server).await;
    peer.send("1 fail").await;
    let line = peer.line().await;
    assert!(line.len() >= 1_022 && !line.ends_with(' '), "{} bytes: {line:?}", line.len());
}

/// [S2.8] Malformed lines affect neither requests in flight, nor subscriptions, nor the lines
/// behind them.
#[tokio::test(start_paused = true)]
async fn a_malformed_line_affects_nothing_else() {
    let (server, waiting) = serve(publishing());
    let mut peer = connect(&server).await;
    peer.send("1 wait a\n2 /subscribe offers").await;
    assert!(peer.line().await.starts_with("2 ok;"));
    let faults = "\n1 wait b\n1\n* \n3 wait..\n4 wait\x01 x\n5 wait a\rb\n* wait a\x10";
    peer.send(&format!("{faults}\n6 echo x")).await;
    peer.expect("* /error malformed byte 0: empty line").await;
    peer.expect("* /error;id=1 id-order last is 2").await;
    for _ in 0..2 {
        assert!(peer.line().await.starts_with("* /error malformed byte "));
    }
    for id in 3..6 {
        assert!(peer.line().await.starts_with(&format!("{id} no malformed byte ")));
    }
    assert!(peer.line().await.starts_with("* /error malformed byte "));
    peer.expect("6 ok x").await;
    server.publisher.publish("offers", "still").await.unwrap();
    peer.expect("* offers 1 still").await;
    finish(&waiting, 1).await;
    peer.expect("1 ok done a").await;
}

/// [B2.6] Arguments are split at single SPs, behind unstuffing; the last keeps what is left.
#[tokio::test(start_paused = true)]
async fn the_last_argument_is_the_rest_of_the_line() {
    let (server, _) = serve(publishing());
    let mut peer = connect(&server).await;
    peer.send("1 /subscribe t").await;
    peer.line().await;
    for (id, sent, rest) in
        [(2, "a b  c ", "a b  c "), (3, " a", " a"), (4, "a\x10J b", "a\x10J b")]
    {
        peer.send(&format!("{id} /publish t {sent}")).await;
        let mut lines = [peer.line().await, peer.line().await];
        lines.sort();
        assert_eq!(lines[0], format!("* t {} {rest}", id - 1));
    }
    ask(&mut peer, "5 /unsubscribe  t", ["5 no bad-arguments usage: /unsubscribe TOPIC"]).await;
    let usage = "6 no bad-arguments usage: /publish TOPIC [PAYLOAD]";
    ask(&mut peer, "6 /publish t\x10J x", [usage]).await;
}

// Handlers: what they see of each end.

/// [S3.3] [S3.4] A handler is started once for its line, and not at all for what is refused.
#[tokio::test(start_paused = true)]
async fn a_handler_is_started_at_most_once() {
    let runs = Runs::new();
    let server = runs.serve(ServerConfig::new());
    let mut peer = connect(&server).await;
    ask(&mut peer, "1 other\n5 run a\n5 run a", ["1 ok", "* /error;id=5 id-order last is 5"]).await;
    ask(&mut peer, "4 run b", ["* /error;id=4 id-order last is 5"]).await;
    for (id, line) in [
        (6, "run;new=1 c"),
        (7, "run;ttl=0 c"),
        (8, "run c\rd"),
        (9, "run \u{0}\x10"),
        (10, "runs c"),
    ] {
        peer.send(&format!("{id} {line}")).await;
        assert!(peer.line().await.starts_with(&format!("{id} no ")), "{line}");
    }
    peer.send_bytes(b"11 run \xff\n").await;
    peer.expect("11 no bad-arguments payload is not UTF-8").await;
    peer.send("* run d").await;
    runs.gate.add_permits(2);
    peer.expect("5 ok a").await;
    ask(&mut peer, "12 other", ["12 ok"]).await;
    let log = runs.take();
    let starts: Vec<_> = log.iter().filter(|one| one.starts_with("start")).collect();
    assert_eq!(starts, ["start a", "start d"]);
}

/// [S3.4] [S3.5] The terminal line is sent once the handler has ended: `ok` when it completed,
/// `cut` when the server ended it. This holds in the connection's task and in a task of its own.
#[tokio::test(start_paused = true)]
async fn the_terminal_line_follows_the_end_of_the_handler() {
    for method in ["run", "spawned"] {
        let runs = Runs::new();
        let mut server = runs.serve(ServerConfig::new().drain(Duration::from_secs(2)));
        let mut peer = connect(&server).await;
        ask(&mut peer, &format!("1 {method} a\n2 other"), ["2 ok"]).await;
        runs.gate.add_permits(1);
        peer.expect("1 ok a").await;
        assert_eq!(runs.take(), ["start a", "done a", "end a"]);
        peer.send(&format!("3 {method} b")).await;
        while runs.take().is_empty() {
            tokio::task::yield_now().await;
        }
        ask(&mut peer, "* /cancel 3", ["3 cut cancelled"]).await;
        assert_eq!(runs.take(), ["end b"]);
        peer.send(&format!("4 {method};ttl=100 c")).await;
        while runs.take().is_empty() {
            tokio::task::yield_now().await;
        }
        advance(Duration::from_millis(150)).await;
        peer.expect("4 cut deadline").await;
        assert_eq!(runs.take(), ["end c"]);
        ask(&mut peer, &format!("5 {method} d\n6 other"), ["6 ok"]).await;
        server.stop();
        peer.expect("* /bye shutdown").await;
        peer.expect("* /bye;last=6 shutdown").await;
        advance(Duration::from_secs(3)).await;
        peer.expect("5 cut closing").await;
        peer.expect_closed().await;
        server.ended().await;
        assert_eq!(runs.take(), ["start d", "end d"]);
    }
}

/// [S3.5] [S3.14] [S3.15] What a blocking handler holds is held until it has ended; what waits for
/// its thread was never started, and is refused.
#[test]
fn requests_that_never_started_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (starts, mut started) = tokio::sync::mpsc::unbounded_channel();
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let block = move |name: String| {
            starts.send(name.clone()).unwrap();
            released.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            name
        };
        let router = Router::new().method("block", blocking(block)).method("other", async || ());
        let server = PipeServer::with_config(router, ServerConfig::new());
        let mut peer = connect(&server).await;
        peer.send("1 block a").await;
        assert_eq!(started.recv().await.unwrap(), "a");
        let late = "2 block;ttl=1 b\n3 block c\n* /cancel 3\n* /cancel 1\n4 other";
        ask(&mut peer, late, ["4 ok"]).await;
        peer.expect_silence().await;
        advance(Duration::from_millis(50)).await;
        // The server's turn to see it: what waits is ended before the thread is free.
        peer.expect_silence().await;
        release.send(()).unwrap();
        let mut lines = [peer.line().await, peer.line().await, peer.line().await];
        lines.sort();
        assert_eq!(lines, ["1 cut cancelled", "2 no deadline", "3 no cancelled"]);
        assert!(started.try_recv().is_err(), "only one was started");
    });
}

/// [S3.14] The server's own limit holds, whatever the `ttl`.
#[tokio::test(start_paused = true)]
async fn a_ttl_does_not_lengthen_the_servers_limit() {
    let (server, _) = serve(ServerConfig::new().handler_time(Duration::from_secs(2)));
    let mut peer = connect(&server).await;
    ask(&mut peer, "1 wait;ttl=60000 a\n2 wait b\n3 echo x", ["3 ok x"]).await;
    advance(Duration::from_millis(1_900)).await;
    peer.expect_silence().await;
    advance(Duration::from_millis(150)).await;
    peer.expect("1 cut deadline").await;
    peer.expect("2 cut deadline").await;
}

/// [S3.7] A panic affects only its own request, in each mode of handler.
#[tokio::test(start_paused = true)]
async fn a_panic_affects_only_its_request() {
    let waiting = Waiting::default();
    let router = router(waiting.clone())
        .method("spawned-panic", handler(async || -> String { panic!("as it should") }).spawned());
    let server = PipeServer::start(router);
    let (mut one, mut other) = (connect(&server).await, connect(&server).await);
    ask(&mut one, "1 wait a\n2 echo x", ["2 ok x"]).await;
    ask(&mut other, "9 wait b\n10 echo x", ["10 ok x"]).await;
    ask(&mut one, "3 panic", ["3 err internal"]).await;
    ask(&mut one, "4 spawned-panic", ["4 err internal"]).await;
    ask(&mut one, "* panic\n5 echo x", ["5 ok x"]).await;
    for (id, peer) in [(1, &mut one), (9, &mut other)] {
        finish(&waiting, id).await;
        assert!(peer.line().await.starts_with(&format!("{id} ok done")));
    }
}

// Checks, forms, arguments.

/// [S12.1] Of several faults the one that comes first in the list is reported.
#[tokio::test(start_paused = true)]
async fn the_first_fault_in_check_order_is_reported() {
    let (mut server, _) = serve(ServerConfig::new());
    let mut peer = connect(&server).await;
    ask(&mut peer, "5 wait x\n6 echo", ["6 ok"]).await;
    for (line, reply) in [
        ("5 nosuch;new=1", "* /error;id=5 id-order "),
        ("5 bad..name", "* /error;id=5 id-order "),
        ("7 nosuch;new=1;ttl=0", "7 no unknown-method "),
        ("8 /cancel;new=1 x", "8 no bad-form "),
        ("* /subscribe;new=1;from=x no:name", "* /error bad-form "),
        ("9 echo;ttl=0;new=1", "9 no unknown-attribute "),
        ("10 /subscribe;from=x;new=1 no:name", "10 no unknown-attribute "),
        ("11 /subscribe;from=x no:name", "11 no bad-attribute "),
        ("12 /publish no:name x", "12 no bad-arguments "),
        ("* /hello;new=1 x", "* /error bad-form "),
        ("13 /hello x", "13 no out-of-order "),
        ("14 /hello;version=1;new=1 x", "14 no out-of-order "),
        ("15 /hello;version=2;max-line=x", "15 no out-of-order "),
    ] {
        peer.send(line).await;
        let got = peer.line().await;
        assert!(got.starts_with(reply), "{line}: {got}");
    }
    server.stop();
    peer.expect("* /bye shutdown").await;
    peer.expect("* /bye;last=15 shutdown").await;
    for (line, reply) in [
        ("15 echo", "* /error;id=15 id-order "),
        ("20 bad..name", "20 no malformed "),
        ("21 nosuch;new=1", "21 no closing"),
        ("22 echo;ttl=0;new=1", "22 no closing"),
        ("23 /subscribe;new=1 no:name", "23 no closing"),
        ("24 /publish;new=1 no:name", "24 no closing"),
        ("25 /nosuch", "25 no unknown-method "),
        ("26 /renew;new=1 x", "26 no unknown-attribute "),
    ] {
        peer.send(line).await;
        let got = peer.line().await;
        assert!(got.starts_with(reply), "{line}: {got}");
    }
}

/// [S3.10] Each protocol method is sent in the form (request or one-way) that it does not have.
/// Methods that are not built have no form.
#[tokio::test(start_paused = true)]
async fn protocol_methods_refuse_the_wrong_form() {
    let (server, _) = serve(publishing());
    let mut peer = connect(&server).await;
    ask(&mut peer, "1 /cancel 1", ["1 no bad-form /cancel is one-way"]).await;
    ask(&mut peer, "2 /more 1 2", ["2 no bad-form /more is one-way"]).await;
    for word in ["/hello", "/subscribe", "/unsubscribe", "/renew", "/publish", "/methods", "/quit"]
    {
        let error = format!("* /error bad-form {word} needs an id");
        ask(&mut peer, &format!("* {word} x"), [&error]).await;
    }
    for (word, id) in ["/auth token x"].into_iter().zip(3..) {
        let name = word.split(' ').next().unwrap();
        let error = format!("unknown-method no method \"{name}\"; ask /methods");
        ask(&mut peer, &format!("{id} {word}"), [&format!("{id} no {error}")]).await;
        ask(&mut peer, &format!("* {word}"), [&format!("* /error {error}")]).await;
    }
    // One has both forms.
    ask(&mut peer, "4 /ack t e:1", ["4 ok"]).await;
    ask(&mut peer, "* /ack t e:1\n5 echo x", ["5 ok x"]).await;
}

/// [S12.7] An extractor refuses with a code of the table, and with no other.
#[tokio::test(start_paused = true)]
async fn extractors_refuse_with_the_codes_of_the_table() {
    let router = Router::new().method("try", async |_: Refused| ());
    let server = PipeServer::start(router);
    let mut peer = connect(&server).await;
    let codes = ["bad-arguments", "bad-attribute", "forbidden", "busy", "too-many", "too-large"];
    for (code, id) in codes.into_iter().zip(1..) {
        assert!(document::codes().with("no").contains(&code), "{code}");
        ask(&mut peer, &format!("{id} try {code}"), [&format!("{id} no {code} why")]).await;
    }
}

struct Refused;

impl<S> FromRequest<S> for Refused {
    fn from_request(parts: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        Err(match &*parts.payload() {
            b"bad-attribute" => Rejection::bad_attribute("why"),
            b"forbidden" => Rejection::forbidden("why"),
            b"busy" => Rejection::busy("why"),
            b"too-many" => Rejection::too_many("why"),
            b"too-large" => Rejection::too_large("why"),
            _ => Rejection::bad_arguments("why"),
        })
    }
}

/// [S3.6] What has no arguments takes none, and a topic is a name.
#[tokio::test(start_paused = true)]
async fn arguments_that_do_not_decode_are_refused() {
    let (server, _) = serve(publishing());
    let mut peer = connect(&server).await;
    let lines = [
        "/renew x",
        "/methods x",
        "/quit x",
        "/subscribe",
        "/subscribe a b",
        "/subscribe a..b",
        "/unsubscribe",
        "/unsubscribe /a",
        "/publish",
        "/publish a: x",
    ];
    for (line, id) in lines.into_iter().zip(1..) {
        peer.send(&format!("{id} {line}")).await;
        let reply = format!("{id} no bad-arguments usage: {}", &line[..5]);
        let got = peer.line().await;
        assert!(got.starts_with(&reply), "{line}: {got}");
    }
    ask(&mut peer, "20 echo x", ["20 ok x"]).await;
}

/// [S12.1] [S12.3] [S12.4] The required parts of a hello, and the order in which they are checked.
#[tokio::test(start_paused = true)]
async fn a_malformed_client_hello_is_refused() {
    let (server, _) = serve(ServerConfig::new());
    for (attributes, reply) in [
        (";version=2", "1 no bad-version "),
        (";version=2;max-line=x;new=1 x", "1 no bad-version "),
        (";ext=a x", "1 no bad-attribute version"),
        // Not built yet.
        (";version=1;ext=A,,", "1 no unknown-attribute ext"),
        (";version=1;max-line=x;new=1 x", "1 no unknown-attribute new"),
        (";version=1;max-line=x x", "1 no bad-attribute max-line"),
        (";version=1 x", "1 no bad-arguments usage: /hello"),
        (";version=x", "1 no bad-version "),
        (";version=01", "1 no bad-version "),
        ("", "1 no bad-attribute version"),
        (";max-line=2000", "1 no bad-attribute version"),
        (";version=1;max-line=x", "1 no bad-attribute max-line"),
        (";version=1;max-line=02000", "1 no bad-attribute max-line"),
        (";version=1;max-line=1023", "1 no bad-attribute max-line"),
        (";version=1;max-line=1024", "1 ok;version=1"),
        (";version=1;x.y=z", "1 ok;version=1"),
    ] {
        let mut peer = connect(&server).await;
        peer.send(&format!("1 /hello{attributes}")).await;
        let got = peer.line().await;
        assert!(got.starts_with(reply), "{attributes}: {got}");
        ask(&mut peer, "2 echo x", ["2 ok x"]).await;
        // Refused or not, it comes once.
        ask(&mut peer, "3 /hello;version=1", ["3 no out-of-order /hello must come first"]).await;
    }
}

/// [S11.2] None of the five words can be offered.
#[test]
fn no_method_has_the_name_of_an_outcome() {
    for word in ["ok", "more", "err", "no", "cut"] {
        let offer = || Router::new().method(word, async || ());
        assert!(std::panic::catch_unwind(offer).is_err(), "{word}");
    }
}

// Order, and places in flight.

/// [S3.11] Requests are started in line order, those that had to wait for a place too.
#[tokio::test(start_paused = true)]
async fn requests_start_in_line_order() {
    let runs = Runs::new();
    let server = runs.serve(ServerConfig::new().in_flight(7));
    let mut peer = connect(&server).await;
    let burst: Vec<_> = (1..=200).map(|id| format!("{id} run {id}")).collect();
    peer.send(&burst.join("\n")).await;
    runs.gate.add_permits(200);
    for _ in 0..200 {
        peer.line().await;
    }
    let log = runs.take();
    let starts = log.iter().filter_map(|one| one.strip_prefix("start "));
    assert!(starts.eq((1..=200).map(|id| id.to_string())), "{log:?}");
}

/// [S3.13] [S7.1] With all places taken and no room to wait, reading stops at the next line that
/// needs a place.
#[tokio::test(start_paused = true)]
async fn a_full_in_flight_table_stops_reading() {
    let (server, waiting) = serve(publishing().in_flight(2).parked_bytes(0));
    let mut peer = connect(&server).await;
    let lines = "1 wait a\n* wait b\n2 /renew\n3 wait c\n4 /renew\n5 /publish t x\n6 /renew";
    ask(&mut peer, lines, ["2 ok;lease=60", "4 ok;lease=60"]).await;
    peer.expect_silence().await;
    assert!(!waiting.waits(3));
    // The one-way's place is a place like any other, though no line says that it is free.
    finish(&waiting, 0).await;
    peer.expect("6 ok;lease=60").await;
    peer.expect_silence().await;
    assert!(waiting.waits(3));
    finish(&waiting, 1).await;
    let mut lines = [peer.line().await, peer.line().await];
    lines.sort();
    assert_eq!(lines[0], "1 ok done a");
    assert!(lines[1].starts_with("5 ok;epoch="));
    finish(&waiting, 3).await;
    peer.expect("3 ok done c").await;
}

/// [S3.12] Protocol methods need no place, and the table may be full.
#[tokio::test(start_paused = true)]
async fn protocol_methods_take_no_place() {
    let (server, waiting) = serve(publishing().in_flight(1));
    let mut peer = connect(&server).await;
    peer.send("1 wait a\n2 /subscribe t\n3 /renew\n4 /unsubscribe t\n5 /methods").await;
    for id in 2..5 {
        assert!(peer.line().await.starts_with(&format!("{id} ok;")));
    }
    for _ in 0..7 {
        assert!(peer.line().await.starts_with("5 more "));
    }
    peer.expect("5 ok").await;
    finish(&waiting, 1).await;
    peer.expect("1 ok done a").await;
}

/// [S3.12] [S4.6] Protocol methods keep their order though a store takes its time to open a topic.
#[tokio::test(start_paused = true)]
async fn protocol_methods_are_answered_in_line_order() {
    let store = SlowStore::new();
    let server = PipeServer::over(store.clone(), Router::new(), publishing());
    let mut peer = connect(&server).await;
    peer.send("1 /renew\n2 /subscribe t\n3 /renew\n4 /subscribe t\n5 /unsubscribe t\n6 /renew")
        .await;
    peer.expect("1 ok;lease=60").await;
    peer.expect_silence().await;
    store.windows.add_permits(1);
    let reply = peer.line().await;
    assert!(reply.starts_with("2 ok;"), "{reply}");
    let epoch = attribute(&reply, "epoch");
    peer.expect(&format!("3 ok;lease=60 t:{epoch}:1")).await;
    peer.expect("4 no already-subscribed t").await;
    peer.expect(&format!("5 ok;next={epoch}:1")).await;
    peer.expect("6 ok;lease=60").await;
}

/// [S3.15] A `/publish` is not cancelled, and takes its place until the log has the message.
#[tokio::test(start_paused = true)]
async fn a_publish_is_not_cancelled() {
    let store = SlowStore::new();
    let server = PipeServer::over(store.clone(), Router::new(), publishing().in_flight(1));
    let mut peer = connect(&server).await;
    ask(&mut peer, "1 /publish t x\n* /cancel 1\n2 /renew", ["2 ok;lease=60"]).await;
    peer.send("3 /publish t y").await;
    peer.expect_silence().await;
    store.appends.add_permits(2);
    assert_eq!(attribute(&peer.line().await, "seq"), "1");
    assert_eq!(attribute(&peer.line().await, "seq"), "2");
}

/// [S4.14] Messages of one connection to one topic are numbered in line order.
#[tokio::test(start_paused = true)]
async fn publishes_are_numbered_in_line_order() {
    let store = SlowStore::new();
    let server = PipeServer::over(store.clone(), Router::new(), publishing().in_flight(9));
    let mut peer = connect(&server).await;
    let burst: Vec<_> = (1..=50).map(|id| format!("{id} /publish t x")).collect();
    peer.send(&burst.join("\n")).await;
    store.appends.add_permits(50);
    for _ in 0..50 {
        let line = peer.line().await;
        let id = line.split(' ').next().unwrap();
        assert_eq!(attribute(&line, "seq"), id);
    }
}

// How connections end.

/// [S4.15] A half-close ends subscriptions without an `/end`, and running requests are finished.
#[tokio::test(start_paused = true)]
async fn a_half_close_ends_subscriptions() {
    let (server, waiting) = serve(publishing());
    let mut peer = connect(&server).await;
    peer.send("1 /subscribe offers\n2 wait a\n3 echo x").await;
    peer.line().await;
    peer.expect("3 ok x").await;
    peer.finish().await;
    // The server has read the end once nothing else is to be done.
    peer.expect_silence().await;
    server.publisher.publish("offers", "late").await.unwrap();
    peer.expect_silence().await;
    finish(&waiting, 2).await;
    peer.expect("2 ok done a").await;
    peer.expect_closed().await;
}

/// [S3.16] A reset cancels the handlers of its connection, and of no other.
#[tokio::test]
async fn a_reset_cancels_handlers() {
    struct Told(tokio::sync::mpsc::UnboundedSender<String>, String);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(format!("end {}", self.1));
        }
    }
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let run = move |name: String| {
        let tell = tell.clone();
        async move {
            tell.send(format!("start {name}")).unwrap();
            let _told = Told(tell, name);
            pending::<()>().await;
        }
    };
    let router =
        Router::new().method("inline", run.clone()).method("spawned", handler(run).spawned());
    let server = TcpServer::start(router).await;
    let mut other = server.connect().await;
    other.send("1 inline c\n").await;
    let mut lost = server.connect().await;
    lost.send("1 inline a\n2 spawned b\n").await;
    let mut next = async || timeout(PATIENCE, told.recv()).await.expect("told").unwrap();
    let mut starts = [next().await, next().await, next().await];
    starts.sort();
    assert_eq!(starts, ["start a", "start b", "start c"]);
    lost.io.set_zero_linger().unwrap();
    drop(lost);
    let mut ends = [next().await, next().await];
    ends.sort();
    assert_eq!(ends, ["end a", "end b"]);
    drop(server);
    assert_eq!(next().await, "end c");
}

/// [S18.3] [S18.4] [S18.9] Nothing is started after the `/bye` with `last`. Requests that outlast
/// the drain are cut.
#[tokio::test(start_paused = true)]
async fn nothing_starts_after_the_final_bye_of_a_drain() {
    let runs = Runs::new();
    let mut server = runs.serve(publishing().drain(Duration::from_secs(5)));
    let mut peer = connect(&server).await;
    ask(&mut peer, "1 run a\n2 run b\n3 other", ["3 ok"]).await;
    server.stop();
    peer.expect("* /bye shutdown").await;
    peer.expect("* /bye;last=3 shutdown").await;
    let late = "* run c\n4 run d\n5 /publish t x\n6 /subscribe t\n* nosuch\n7 /renew";
    ask(&mut peer, late, ["4 no closing", "5 no closing", "6 no closing", "7 ok;lease=60"]).await;
    runs.gate.add_permits(1);
    peer.expect("1 ok a").await;
    advance(Duration::from_millis(4_900)).await;
    peer.expect_silence().await;
    advance(Duration::from_millis(200)).await;
    peer.expect("2 cut closing").await;
    peer.expect_closed().await;
    server.ended().await;
    let log = runs.take();
    let starts: Vec<_> = log.iter().filter(|one| one.starts_with("start")).collect();
    assert_eq!(starts, ["start a", "start b"]);
}

// Topics.

/// [S4.13] The reply to `/renew` lists the live subscriptions in the order in which they began.
#[tokio::test(start_paused = true)]
async fn renew_lists_live_subscriptions() {
    let (server, _) = serve(publishing());
    let mut peer = connect(&server).await;
    peer.send("1 /subscribe c\n2 /subscribe a\n3 /subscribe b\n4 /unsubscribe a\n5 /subscribe a")
        .await;
    for _ in 0..5 {
        assert!(peer.line().await.contains(" ok;"));
    }
    peer.send("6 /renew").await;
    let line = peer.line().await;
    let list = line.strip_prefix("6 ok;lease=60 ").unwrap();
    let topics: Vec<_> = list.split(' ').map(|one| one.split(':').next().unwrap()).collect();
    assert_eq!(topics, ["c", "b", "a"]);
}

/// The numbers of `topic` that a subscriber has received, and how.
struct Told {
    next: u64,
    gaps: Vec<String>,
    delivered: u64,
}

impl Told {
    fn from(next: u64) -> Self {
        Self { next, gaps: Vec::new(), delivered: 0 }
    }

    /// Takes a notification or a gap; whether it was one.
    fn take(&mut self, line: &str) -> bool {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["*", "/gap", _, _, first, last, reason] => {
                assert_eq!(first.parse(), Ok(self.next), "{line}");
                self.next = last.parse::<u64>().unwrap() + 1;
                self.gaps.push(reason.to_owned());
            }
            ["*", topic, number, ..] if !topic.starts_with('/') => {
                assert_eq!(number.parse(), Ok(self.next), "{line}");
                self.next += 1;
                self.delivered += 1;
            }
            _ => return false,
        }
        true
    }
}

/// [S4.13] [S4.5] [S4.8] [S4.11] [S16.1] One subscriber stops reading. Later it gets every number
/// once and in order, delivered or in a gap. Its replies do not wait for unread notifications, and
/// the other subscriber loses nothing.
#[tokio::test(start_paused = true)]
async fn a_slow_subscriber_gets_every_number_and_delays_no_other() {
    const MARK: usize = 1_000;
    const NARROW: usize = 512;
    let config = publishing().notification_mark(MARK).retained_messages(8);
    let (server, _) = serve(config);
    let mut slow = connect_through(&server, NARROW).await;
    let mut quick = connect(&server).await;
    let mut told = Told::from(1);
    for peer in [&mut slow, &mut quick] {
        peer.send("1 /subscribe t").await;
        assert!(peer.line().await.starts_with("1 ok;"));
    }
    let payload = "x".repeat(90);
    for number in 1..=300 {
        server.publisher.publish("t", payload.clone()).await.unwrap();
        quick.expect(&format!("* t {number} {payload}")).await;
    }
    slow.send("2 echo still here\n3 /renew").await;
    // Let the server read them: nothing of its output has been read since.
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    let (mut before_reply, mut replies) = (0, Vec::new());
    while told.next <= 300 || replies.len() < 2 {
        let line = slow.line().await;
        if !told.take(&line) {
            if line.starts_with("3 ok;") {
                let next: u64 = line.rsplit(':').next().unwrap().parse().unwrap();
                assert_eq!(next, told.next, "what is listed was told");
            }
            replies.push(line);
        } else if replies.is_empty() {
            before_reply += line.len() + 1;
        }
    }
    assert_eq!(replies[0], "2 ok still here");
    assert!(before_reply <= MARK + NARROW + 100, "{before_reply} bytes before the reply");
    assert!(!told.gaps.is_empty() && told.gaps.iter().all(|reason| reason == "retention"));
    assert!(told.delivered >= 8);
}

/// [S4.9] [S12.5] A message that does not fit the subscriber's limit is reported in a gap, to that
/// subscriber only.
#[tokio::test(start_paused = true)]
async fn a_message_over_the_subscribers_limit_is_reported_in_a_gap() {
    let (server, _) = serve(publishing());
    let (mut small, mut large) = (connect(&server).await, connect(&server).await);
    ask(&mut small, "1 /hello;version=1;max-line=1024", ["1 ok;version=1"]).await;
    for peer in [&mut small, &mut large] {
        peer.send("2 /subscribe t").await;
        assert!(peer.line().await.starts_with("2 ok;"));
    }
    let fits = "x".repeat(1_024 - "* t 1 \n".len());
    for payload in [fits.clone(), format!("{fits}x"), "end".to_owned()] {
        server.publisher.publish("t", payload.clone()).await.unwrap();
        assert!(large.line().await.ends_with(&payload));
    }
    small.expect(&format!("* t 1 {fits}")).await;
    let gap = small.line().await;
    assert!(gap.starts_with("* /gap t ") && gap.ends_with(" 2 2 too-large"), "{gap}");
    small.expect("* t 3 end").await;
}

/// [S4.7] No notification of the topic follows its `/end`, not even of messages published at once.
#[tokio::test(start_paused = true)]
async fn nothing_follows_an_end() {
    let (server, _) = serve(publishing().lease(Duration::from_secs(5)));
    let mut peer = connect(&server).await;
    peer.send("1 /subscribe a\n2 /subscribe b").await;
    let epoch = attribute(&peer.line().await, "epoch");
    peer.line().await;
    advance(Duration::from_millis(5_020)).await;
    server.publisher.publish("a", "late").await.unwrap();
    let ends = [peer.line().await, peer.line().await];
    // It may just have been delivered; if not, the position is in front of it.
    assert_eq!(ends[0], format!("* /end a expired {epoch}:1"));
    assert!(ends[1].starts_with("* /end b expired "));
    server.publisher.publish("b", "late").await.unwrap();
    peer.expect_silence().await;
}

/// [S4.14] Publishing is forbidden unless it is allowed.
#[tokio::test(start_paused = true)]
async fn publishing_is_forbidden_by_default() {
    let (server, _) = serve(ServerConfig::new());
    let mut peer = connect(&server).await;
    ask(&mut peer, "1 /publish t x", ["1 no forbidden"]).await;
}

/// [S13.1] What may be published is counted with the longest number.
#[tokio::test(start_paused = true)]
async fn a_message_too_large_for_the_server_is_refused() {
    let (server, _) = serve(publishing().max_line(1_024));
    let mut peer = connect(&server).await;
    let fits = 1_024 - "* t 9007199254740991 \n".len();
    peer.send(&format!("1 /publish t {}", "x".repeat(fits))).await;
    assert!(peer.line().await.starts_with("1 ok;"));
    let longer = "x".repeat(fits + 1);
    ask(&mut peer, &format!("2 /publish t {longer}"), ["2 no too-large"]).await;
}

/// [S4.3] [S4.4] A log that is lost comes back under another epoch, so a position in the old one is
/// known as old.
#[tokio::test(start_paused = true)]
async fn a_lost_log_has_a_new_epoch() {
    let random = Random::seeded(3);
    let mut positions = Vec::new();
    for life in 1..=3 {
        let store = MemoryTopics::new(&random);
        let server = PipeServer::over(store, Router::new(), publishing());
        let mut peer = connect(&server).await;
        peer.send("1 /publish t x").await;
        let epoch = attribute(&peer.line().await, "epoch");
        if let Some(old) = positions.last() {
            peer.send(&format!("2 /subscribe;from={old} t")).await;
            peer.expect(&format!("2 ok;epoch={epoch};next=1;head=1;lease=60")).await;
            peer.expect("* t 1 x").await;
        }
        let position = format!("{epoch}:2");
        assert!(!positions.contains(&position), "life {life}");
        positions.push(position);
    }
}

// Limits.

/// [S7.1] The limits in the hello are those that the server enforces.
#[tokio::test(start_paused = true)]
async fn announced_limits_are_enforced() {
    let config = publishing().max_line(2_000).in_flight(2).lease(Duration::from_secs(9)).keys(0);
    let (server, _) = serve(config);
    let mut peer = Peer::new(server.connect_raw(PIPE).io);
    let hello = peer.line().await;
    assert!(hello.ends_with(";max-line=2000;in-flight=2;lease=9;idle=120"), "{hello}");
    peer.send("1 /subscribe t").await;
    assert!(peer.line().await.ends_with(";lease=9"));
    advance(Duration::from_millis(8_900)).await;
    peer.expect_silence().await;
    advance(Duration::from_millis(150)).await;
    assert!(peer.line().await.starts_with("* /end t expired "));
    ask(&mut peer, "2 wait a\n3 wait b\n4 /renew", ["4 ok;lease=9"]).await;
    peer.send("5 echo c").await;
    peer.expect_silence().await;
    let mut peer = connect(&server).await;
    ask(&mut peer, "1 echo", ["1 ok"]).await;
    peer.send_bytes(&[b'2'; 2_000]).await;
    peer.expect("* /error line-too-long max-line is 2000").await;
}

/// [S13.2] One subscription too many is refused, and one that goes makes room.
#[tokio::test(start_paused = true)]
async fn subscriptions_are_limited() {
    let (server, _) = serve(ServerConfig::new().subscriptions(2));
    let mut peer = connect(&server).await;
    peer.send("1 /subscribe a\n2 /subscribe b\n3 /subscribe c").await;
    peer.line().await;
    peer.line().await;
    peer.expect("3 no too-many").await;
    peer.send("4 /unsubscribe a\n5 /subscribe c").await;
    peer.line().await;
    assert!(peer.line().await.starts_with("5 ok;"));
}

/// [S20.1] While replies are unread, no further handler is started. SECURITY.md, threat 7.
#[tokio::test(start_paused = true)]
async fn unread_replies_keep_handlers_from_starting() {
    const MARK: usize = 2_000;
    let runs = Runs::new();
    runs.gate.add_permits(1_000);
    let server = runs.serve(ServerConfig::new().reply_mark(MARK));
    let mut peer = connect_through(&server, 4_096).await;
    let name = "x".repeat(100);
    let mut sent = 0;
    // The server stops reading, and then the pipe is full.
    while timeout(Duration::from_millis(1), peer.send(&format!("{} run {name}", sent + 1)))
        .await
        .is_ok()
    {
        sent += 1;
        assert!(sent < 1_000, "the server reads on");
    }
    let started = runs.take().iter().filter(|one| one.starts_with("start")).count();
    let line = "100 ok \n".len() + name.len();
    assert!(started <= (MARK + 4_096) / line + 2, "{started} started");
}

// The client.

const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60";

type Driver = tokio::task::JoinHandle<Result<(), ConnectionError>>;

/// The server's end of an idle client, and its driver.
async fn greeted() -> (Peer, Driver) {
    let (_, driver, server) = client().await;
    (server, driver)
}

/// The client is leaked in the driver's task, so that it does not close by itself.
async fn client() -> (Client, Driver, Peer) {
    let (near, far) = tokio::io::duplex(PIPE);
    // What probes a silent server would come before the renewals.
    let config = ClientConfig::default().probe(Duration::from_secs(3_600));
    let (client, connection) = Client::new(near, config);
    let kept = client.clone();
    let driver = tokio::spawn(async move {
        let ended = connection.await;
        drop(kept);
        ended
    });
    let mut server = Peer::new(far);
    server.send(HELLO).await;
    client.connected().await.unwrap();
    (client, driver, server)
}

/// What `call` of an empty payload gives, when the server answers with these bytes.
async fn answered(bytes: &[u8]) -> Result<Vec<u8>, CallError> {
    let (client, _driver, mut server) = client().await;
    let calling = tokio::spawn(async move { client.call("m", "").await });
    server.expect("1 m").await;
    server.send_bytes(bytes).await;
    server.finish().await;
    calling.await.unwrap().map(|reply| reply.to_vec())
}

/// [B2.4] An absent rest and an empty one are the same to a client, a second SP is
/// payload; and it writes no SP for an empty one.
#[tokio::test(start_paused = true)]
async fn a_client_reads_payloads_exactly() {
    assert_eq!(answered(b"1 ok\n").await.unwrap(), b"");
    assert_eq!(answered(b"1 ok \n").await.unwrap(), b"");
    assert_eq!(answered(b"1 ok  x \n").await.unwrap(), b" x ");
    assert_eq!(answered(b"1 ok\0\x0b\n").await.unwrap_err().code(), None);
}

/// [B2.3] [C2.1] SECURITY.md, threat 2: what ends a line for a client, and what does not.
#[tokio::test(start_paused = true)]
async fn only_a_lf_ends_a_line_for_a_client() {
    for end in ["\0", "\x0b", "\x0c", "\x1c", "\x1e", "\u{85}", "\u{2028}"] {
        let rest = format!("a{end}2 ok b");
        let line = format!("1 ok {rest}\n");
        assert_eq!(answered(line.as_bytes()).await.unwrap(), rest.as_bytes());
    }
    for end in ["\r", "\r\n", "\n\r"] {
        let lost = answered(format!("1 ok a{end}").as_bytes()).await;
        let is_taken = end == "\n\r";
        assert_eq!(lost.is_ok(), is_taken, "{end:?}");
    }
}

/// [B2.7] A reply without its LF is no reply.
#[tokio::test(start_paused = true)]
async fn an_unfinished_line_is_dropped() {
    let lost = answered(b"1 ok almost").await.unwrap_err();
    assert_eq!(lost, CallError::Unknown(Unknown::Lost(ConnectionError::ClosedByPeer)));
}

/// [B2.6] A client unstuffs once, and splits arguments behind that.
#[tokio::test(start_paused = true)]
async fn a_client_unstuffs_once() {
    assert_eq!(answered(b"1 ok \x10PJ\x10J\x10PM\n").await.unwrap(), b"\x10J\n\x10M");
    let error = answered(b"1 err app  two  words\x10J\n").await.unwrap_err();
    let CallError::Remote(reason) = error else { panic!("{error:?}") };
    assert_eq!((reason.code.as_str(), &reason.text[..]), ("app", " two  words\n"));
}

/// [B4.1] The position of a subscription is its next number, from which a client resumes.
#[tokio::test(start_paused = true)]
async fn a_position_is_the_next_number() {
    let (client, _driver, mut server) = client().await;
    let subscribing = tokio::spawn(client.subscribe("t").into_future());
    server.expect("1 /subscribe t").await;
    server.send("1 ok;epoch=e;next=18;head=17;lease=60\n* t 18 x").await;
    let mut subscription = subscribing.await.unwrap().unwrap();
    assert_eq!(subscription.position().to_string(), "e:18");
    subscription.next().await.unwrap();
    assert_eq!(subscription.position().to_string(), "e:19");
    server.send("* /end t expired e:19").await;
    server.expect("2 /subscribe;from=e:19 t").await;
}

/// [B2.1] The greatest line limit that a client can tell is the greatest number.
#[tokio::test(start_paused = true)]
async fn the_greatest_client_line_limit_is_the_greatest_number() {
    let (near, far) = tokio::io::duplex(PIPE);
    let (_client, connection) = Client::new(near, ClientConfig::new().max_line(usize::MAX));
    let _driver = tokio::spawn(connection);
    let mut server = Peer::new(far);
    server.send(HELLO).await;
    server.expect("1 /hello;version=1;max-line=9007199254740991").await;
}

/// [C4.4] The lease is counted from when the line was sent, however late its reply comes.
#[tokio::test(start_paused = true)]
async fn a_late_reply_does_not_delay_the_next_renewal() {
    let (client, _driver, mut server) = client().await;
    let subscribing = tokio::spawn(client.subscribe("t").into_future());
    server.expect("1 /subscribe t").await;
    server.send("1 ok;epoch=e;next=1;head=0;lease=60").await;
    let _subscription = subscribing.await.unwrap().unwrap();
    server.expect("2 /renew").await;
    let sent = tokio::time::Instant::now();
    advance(Duration::from_secs(25)).await;
    server.send("2 ok;lease=60 t:e:1").await;
    server.expect("3 /renew").await;
    let passed = sent.elapsed().as_secs();
    assert!((30..=48).contains(&passed), "{passed} s after the last one");
}

/// [C4.4] A reply that is late does not make the next renewal late; without any, four go out.
#[tokio::test(start_paused = true)]
async fn renewals_do_not_wait_for_replies() {
    let (client, _driver, mut server) = client().await;
    let subscribing = tokio::spawn(client.subscribe("t").into_future());
    server.expect("1 /subscribe t").await;
    let mut sent = tokio::time::Instant::now();
    server.send("1 ok;epoch=e;next=1;head=0;lease=60").await;
    let _subscription = subscribing.await.unwrap().unwrap();
    for id in 2..6 {
        server.expect(&format!("{id} /renew")).await;
        assert!(sent.elapsed() <= Duration::from_secs(48), "renewal {id}");
        sent = tokio::time::Instant::now();
    }
    advance(Duration::from_secs(600)).await;
    server.expect_silence().await;
    server.send("2 ok;lease=60 t:e:1").await;
    server.expect("6 /renew").await;
}
