//! Keyed requests: each key runs at most once (docs/protocol/keyed.md).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bellwire::{
    Failure, Publisher, Random, Router, ServerConfig, State, Streamed, blocking, handler,
    protocol::{Code, KeyWindow},
    server::{
        Action, Principal, Reply, TokenAuthenticator, Verdict,
        keys::{
            Begun, BoxFuture, KeyTable, KeyedOutcome, KeyedRequest, KeysConfig, KeysUnavailable,
            MemoryKeys,
        },
    },
};
use bellwire_testkit::{PipeServer, RawPeer};
use futures::stream;
use tokio::{io::DuplexStream, sync::Semaphore, task::yield_now, time::advance};

const SECOND: Duration = Duration::from_secs(1);

/// Counts the handlers that were started, and lets those of `wait` go on.
#[derive(Clone)]
struct Desk {
    runs: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl Desk {
    fn new() -> Self {
        Self { runs: Arc::default(), gate: Arc::new(Semaphore::new(0)) }
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    fn run(&self) -> usize {
        self.runs.fetch_add(1, Ordering::SeqCst) + 1
    }
}

async fn count(State(desk): State<Desk>, text: String) -> String {
    format!("{text} {}", desk.run())
}

async fn wait(State(desk): State<Desk>, text: String) -> String {
    let run = desk.run();
    desk.gate.acquire().await.expect("open").forget();
    format!("{text} {run}")
}

async fn fail(State(desk): State<Desk>) -> Result<(), Failure> {
    Err(Failure::new(Code::from_static("sold"), format!("out {}", desk.run())))
}

async fn explode(State(desk): State<Desk>) {
    panic!("run {}", desk.run());
}

async fn never(State(desk): State<Desk>) {
    desk.run();
    std::future::pending::<()>().await;
}

async fn publish(State(desk): State<Desk>, publisher: Publisher) -> Reply {
    let published = publisher.publish("t", desk.run().to_string()).await.expect("published");
    Reply::ok("added").after("t", published)
}

async fn large(State(desk): State<Desk>) -> String {
    desk.run();
    "x".repeat(70_000)
}

fn router(desk: &Desk) -> Router<Desk> {
    Router::with_state(desk.clone())
        .method("count", count)
        .method("wait", wait)
        .method("task", handler(wait).spawned())
        .method(
            "sum",
            blocking(|State(desk): State<Desk>, text: String| format!("{text} {}", desk.run())),
        )
        .method("fail", fail)
        .method("explode", explode)
        .method("never", never)
        .method("endless", handler(never).handler_time(None))
        .method("long", handler(never).handler_time(100 * SECOND))
        .method("add", publish)
        .method("large", large)
        .method("list", async |State(desk): State<Desk>| {
            desk.run();
            Streamed(stream::iter(["a", "b"]))
        })
}

fn serve(desk: &Desk, config: ServerConfig) -> PipeServer {
    PipeServer::with_config(router(desk), config.allow_publish(true))
}

fn start(desk: &Desk) -> PipeServer {
    serve(desk, ServerConfig::new())
}

/// Other tasks have their turns.
async fn settle() {
    for _ in 0..30 {
        yield_now().await;
    }
}

async fn until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if is_so() {
            return;
        }
        yield_now().await;
    }
    panic!("it did not happen");
}

/// Loses the connection: a pipe that is dropped looks like a half-close until the server writes.
async fn lose(mut peer: RawPeer<DuplexStream>, server: &PipeServer) {
    peer.send("99 nosuch\n").await;
    drop(peer);
    until(|| server.handle.sessions().is_empty()).await;
}

/// The value of `keys` in the `/hello` of a new connection.
async fn announced(server: &PipeServer) -> KeyWindow {
    let mut peer = server.connect_raw(1_024);
    peer.attribute("keys").await.parse().expect("STORE:SECONDS")
}

/// [S22.1] [S23.3] A repeat gets the outcome of the one run, on any connection, by any id.
#[tokio::test(start_paused = true)]
async fn a_key_runs_once_and_a_repeat_gets_its_outcome() {
    let desk = Desk::new();
    let server = start(&desk);
    let mut peer = server.connect().await;
    peer.ask("1 count;key=a x\n", "1 ok x 1\n").await;
    peer.ask("2 count;key=a;ttl=9;trace=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01 x\n3 count x\n", "2 ok x 1\n3 ok x 2\n")
        .await;
    let mut other = server.connect().await;
    other.ask("1 count;key=a;app.x=y x\n2 count;key=b x\n", "1 ok x 1\n2 ok x 3\n").await;
    assert_eq!(desk.runs(), 3);
    assert_eq!(server.handle.stats().started, 3);
    let long = "k".repeat(255);
    let lines = format!("3 count;key={long} x\n4 count;key={long} x\n");
    other.ask(lines, "3 ok x 4\n4 ok x 4\n").await;
}

/// [S23.3] Every outcome but a refusal is kept: `err`, a panic, `cut`, what is too long.
#[tokio::test(start_paused = true)]
async fn every_outcome_is_given_again() {
    let desk = Desk::new();
    let server = start(&desk);
    let mut peer = server.connect().await;
    for (id, method, outcome) in [
        (1, "fail", "err sold out 1"),
        (3, "explode", "err internal"),
        (5, "large", "err too-large max-line is 65535"),
        (7, "sum", "ok  4"),
    ] {
        for id in [id, id + 1] {
            let line = format!("{id} {method};key={method}\n");
            peer.ask(line, format!("{id} {outcome}\n")).await;
        }
    }
    assert_eq!((desk.runs(), server.handle.stats().panics), (4, 1));
    peer.send("9 never;key=n\n").await;
    until(|| desk.runs() == 5).await;
    advance(31 * SECOND).await;
    peer.expect("9 cut deadline\n").await;
    peer.ask("10 never;key=n\n", "10 cut deadline\n").await;
    assert_eq!(desk.runs(), 5);
}

/// [S23.3] A repeat of a run in progress waits for it, and each gets the outcome.
#[tokio::test(start_paused = true)]
async fn a_repeat_joins_a_run_in_progress() {
    let desk = Desk::new();
    let server = start(&desk);
    for method in ["wait", "task"] {
        let begun = desk.runs();
        let (mut one, mut two) = (server.connect().await, server.connect().await);
        one.send(format!("1 {method};key={method} x\n2 {method};key={method} x\n")).await;
        two.send(format!("7 {method};key={method} x\n")).await;
        until(|| desk.runs() == begun + 1).await;
        one.expect_silence().await;
        two.expect_silence().await;
        desk.gate.add_permits(1);
        let run = begun + 1;
        one.expect(format!("1 ok x {run}\n2 ok x {run}\n")).await;
        two.expect(format!("7 ok x {run}\n")).await;
        assert_eq!(desk.runs(), begun + 1);
    }
}

/// [S23.2] A key is bound to method and payload.
#[tokio::test(start_paused = true)]
async fn another_use_of_a_key_is_refused() {
    let desk = Desk::new();
    let server = start(&desk);
    let mut peer = server.connect().await;
    peer.ask("1 count;key=a x\n", "1 ok x 1\n").await;
    peer.ask("2 count;key=a y\n3 count;key=a\n", "2 no key-mismatch\n3 no key-mismatch\n").await;
    peer.ask("4 fail;key=a x\n", "4 no key-mismatch\n").await;
    peer.ask("5 /publish;key=a t x\n", "5 no key-mismatch\n").await;
    // The same while it runs.
    peer.send("6 wait;key=w x\n7 wait;key=w y\n8 count;key=w x\n").await;
    peer.expect("7 no key-mismatch\n8 no key-mismatch\n").await;
    desk.gate.add_permits(1);
    peer.expect("6 ok x 2\n").await;
    peer.ask("9 count;key=a x\n", "9 ok x 1\n").await;
    assert_eq!(desk.runs(), 2);
}

/// [S23.2] Each principal has keys of its own; the anonymous have them together.
#[tokio::test(start_paused = true)]
async fn each_principal_has_its_own_keys() {
    let desk = Desk::new();
    let tokens = TokenAuthenticator::new()
        .token("a", Principal::new("ada"))
        .token("b", Principal::new("bob"));
    let server = PipeServer::built(router(&desk), |server| server.authenticator(tokens));
    for (token, run) in [("a", 1), ("b", 2), ("a", 1)] {
        let mut peer = server.connect().await;
        peer.ask(format!("1 /auth token {token}\n"), "1 ok\n").await;
        peer.ask("2 count;key=k x\n", format!("2 ok x {run}\n")).await;
    }
}

/// [S23.1] A keyed request has one reply: neither a one-way request nor a streamed one is keyed.
#[tokio::test(start_paused = true)]
async fn one_way_and_streamed_requests_have_no_key() {
    let desk = Desk::new();
    let server = start(&desk);
    let mut peer = server.connect().await;
    peer.ask("* count;key=a x\n", "* /error bad-attribute key\n").await;
    peer.ask("1 list;key=a;window=3\n", "1 no bad-attribute key\n").await;
    peer.ask("2 /renew;key=a\n", "2 no unknown-attribute key\n").await;
    assert_eq!(desk.runs(), 0);
    let refused = "err internal a keyed request has one reply";
    peer.ask("3 list;key=a\n4 list;key=a\n", format!("3 {refused}\n4 {refused}\n")).await;
    assert_eq!(desk.runs(), 1);
}

/// A server without a table announces none, and knows no `key`.
#[tokio::test(start_paused = true)]
async fn without_a_table_a_key_is_unknown() {
    let desk = Desk::new();
    let server = serve(&desk, ServerConfig::new().keys(0));
    let mut peer = server.connect_raw(1_024);
    assert!(!peer.hello().await.contains("keys="));
    peer.ask("1 count;key=a x\n", "1 no unknown-attribute key\n").await;
    peer.ask("2 /publish;key=a t x\n", "2 no unknown-attribute key\n").await;
    assert_eq!(desk.runs(), 0);
}

/// [S23.4] A `/cancel` and a `ttl` end the waiting of a request, and not the run.
#[tokio::test(start_paused = true)]
async fn cancel_and_ttl_leave_the_run() {
    let desk = Desk::new();
    let server = start(&desk);
    let mut peer = server.connect().await;
    peer.send("1 wait;key=a x\n2 wait;key=a;ttl=500 x\n").await;
    until(|| desk.runs() == 1).await;
    peer.ask("* /cancel 1\n", "1 cut cancelled\n").await;
    advance(Duration::from_millis(520)).await;
    peer.expect("2 cut deadline\n").await;
    peer.send("3 wait;key=a x\n").await;
    peer.expect_silence().await;
    desk.gate.add_permits(1);
    peer.expect("3 ok x 1\n").await;
    assert_eq!(desk.runs(), 1);
}

/// [S23.4] The end of a connection leaves the run, however it ends, and in whatever way the handler
/// runs.
#[tokio::test(start_paused = true)]
async fn a_run_outlives_its_connection() {
    let desk = Desk::new();
    let server = start(&desk);
    for method in ["wait", "task"] {
        let begun = desk.runs();
        let mut peer = server.connect().await;
        peer.send(format!("1 {method};key={method} x\n")).await;
        until(|| desk.runs() == begun + 1).await;
        lose(peer, &server).await;
        desk.gate.add_permits(1);
        settle().await;
        assert_eq!(desk.gate.available_permits(), 0, "{method}: the handler went on");
        let mut peer = server.connect().await;
        peer.ask(format!("1 {method};key={method} x\n"), format!("1 ok x {}\n", begun + 1)).await;
        drop(peer);
        until(|| server.handle.sessions().is_empty()).await;
    }
}

/// A half-close and a `/quit` wait for the outcome.
#[tokio::test(start_paused = true)]
async fn a_quit_waits_for_the_outcome() {
    let desk = Desk::new();
    let server = start(&desk);
    let mut peer = server.connect().await;
    peer.send("1 wait;key=a x\n2 /quit\n").await;
    until(|| desk.runs() == 1).await;
    desk.gate.add_permits(1);
    peer.expect("1 ok x 1\n2 ok\n").await;
    peer.expect_closed().await;
}

/// A run has the limit of its method. No limit means that of the server, because no caller can end
/// the run.
#[tokio::test(start_paused = true)]
async fn a_run_has_a_limit() {
    for (method, seconds) in [("never", 30), ("endless", 30), ("long", 100)] {
        let desk = Desk::new();
        let server = start(&desk);
        let mut peer = server.connect().await;
        peer.send(format!("1 {method};key=a\n")).await;
        until(|| desk.runs() == 1).await;
        lose(peer, &server).await;
        advance((seconds - 1) * SECOND).await;
        let mut peer = server.connect().await;
        peer.send(format!("1 {method};key=a\n")).await;
        peer.expect_silence().await;
        advance(2 * SECOND).await;
        peer.expect("1 cut deadline\n").await;
        peer.ask(format!("2 {method};key=a\n"), "2 cut deadline\n").await;
        assert_eq!(desk.runs(), 1);
    }
}

/// [S23.5] A refusal leaves nothing behind: the key may be used again.
#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_kept() {
    let desk = Desk::new();
    let server = start(&desk);
    let mut peer = server.connect().await;
    peer.ask("1 count;key=a \u{7f}\n", "1 ok \u{7f} 1\n").await;
    // Not UTF-8, so the extractor refuses.
    peer.send(b"2 count;key=b \xff\n").await;
    assert!(peer.line().await.unwrap().starts_with("2 no bad-arguments"));
    peer.ask("3 count;key=b x\n", "3 ok x 2\n").await;
}

/// [S22.1] A keyed `/publish` is published once.
#[tokio::test(start_paused = true)]
async fn a_publish_is_published_once() {
    let desk = Desk::new();
    let server = start(&desk);
    let mut peer = server.connect().await;
    peer.send("1 /publish;key=a t x\n").await;
    let first = peer.line().await.unwrap();
    assert!(first.starts_with("1 ok;epoch=") && first.ends_with(";seq=1\n"), "{first}");
    peer.ask("2 /publish;key=a;ttl=9 t x\n", first.replace("1 ok", "2 ok")).await;
    peer.ask(
        "3 /publish;key=a t y\n4 /publish;key=a u x\n",
        "3 no key-mismatch\n4 no key-mismatch\n",
    )
    .await;
    peer.ask("5 /publish t x\n", first.replace("1 ok", "5 ok").replace("seq=1", "seq=2")).await;
    assert_eq!(server.publisher.publish("t", "z").await.unwrap().sequence, 3);
}

/// A repeat on a connection that reads the topic gets the position of the effect, as the first
/// would have.
#[tokio::test(start_paused = true)]
async fn a_repeat_names_the_position_of_the_effect() {
    let desk = Desk::new();
    let server = start(&desk);
    let mut peer = server.connect().await;
    peer.ask("1 add;key=a\n", "1 ok added\n").await;
    peer.send("2 /subscribe t\n").await;
    let epoch = peer.attribute("epoch").await;
    peer.ask("3 add;key=a\n", format!("3 ok;after=t:{epoch}:2 added\n")).await;
}

/// [S23.6] An outcome is kept for the announced time and 60 s, from the end of the run.
#[tokio::test(start_paused = true)]
async fn an_outcome_is_kept_in_time() {
    let desk = Desk::new();
    let server = serve(&desk, ServerConfig::new().key_time(40 * SECOND));
    assert_eq!(announced(&server).await.seconds, 40);
    let mut peer = server.connect().await;
    peer.send("1 wait;key=a x\n").await;
    until(|| desk.runs() == 1).await;
    // The time does not count from the beginning.
    advance(20 * SECOND).await;
    desk.gate.add_permits(1);
    peer.expect("1 ok x 1\n").await;
    advance(Duration::from_millis(99_999)).await;
    peer.ask("2 wait;key=a x\n3 wait;key=a y\n", "2 ok x 1\n3 no key-mismatch\n").await;
    advance(Duration::from_millis(1)).await;
    desk.gate.add_permits(1);
    peer.ask("4 wait;key=a y\n", "4 ok y 2\n").await;
    assert_eq!(desk.runs(), 2);
}

/// [S23.6] A full table refuses new keys and forgets none; known keys are answered.
#[tokio::test(start_paused = true)]
async fn a_full_table_refuses_new_keys() {
    let desk = Desk::new();
    let server = serve(&desk, ServerConfig::new().keys(2).key_time(SECOND));
    let mut peer = server.connect().await;
    peer.send("1 count;key=a x\n2 wait;key=b x\n3 count;key=c x\n").await;
    peer.expect("1 ok x 1\n3 no busy\n").await;
    peer.ask("4 count;key=a x\n5 count x\n", "4 ok x 1\n5 ok x 3\n").await;
    advance(31 * SECOND).await;
    peer.expect("2 cut deadline\n").await;
    peer.ask("6 count;key=c x\n", "6 no busy\n").await;
    advance(31 * SECOND).await;
    peer.ask("7 count;key=c x\n8 count;key=d x\n", "7 ok x 4\n8 no busy\n").await;
    peer.ask("9 wait;key=b x\n", "9 cut deadline\n").await;
}

/// [S23.6] The bytes of the table are bounded. A run in progress counts with the longest outcome.
#[tokio::test(start_paused = true)]
async fn the_bytes_of_a_table_are_bounded() {
    let desk = Desk::new();
    let config = KeysConfig::new().bytes(2 * 66_000);
    let keys = MemoryKeys::with_config(&Random::seeded(1), config);
    let server = PipeServer::built(router(&desk), |server| server.keys(keys.clone()));
    let mut peer = server.connect().await;
    peer.send("1 wait;key=a x\n2 wait;key=b x\n3 wait;key=c x\n").await;
    peer.expect("3 no busy\n").await;
    assert_eq!((keys.len(), keys.held_bytes() > 131_070), (2, true));
    desk.gate.add_permits(2);
    peer.expect("1 ok x 1\n2 ok x 2\n").await;
    assert!(keys.held_bytes() < 1_000);
    peer.ask("4 count;key=c x\n", "4 ok x 3\n").await;
    advance(361 * SECOND).await;
    peer.ask("5 count;key=d x\n", "5 ok x 4\n").await;
    assert_eq!(keys.len(), 1);
}

/// Runs in progress are bounded, whether or not their callers are there.
#[tokio::test(start_paused = true)]
async fn runs_in_progress_are_bounded() {
    let desk = Desk::new();
    let server = serve(&desk, ServerConfig::new().keyed_runs(2));
    let mut peer = server.connect().await;
    peer.send("1 wait;key=a x\n2 wait;key=b x\n").await;
    until(|| desk.runs() == 2).await;
    drop(peer);
    let mut peer = server.connect().await;
    peer.ask("1 wait;key=c x\n2 count x\n", "1 no busy\n2 ok x 3\n").await;
    desk.gate.add_permits(2);
    settle().await;
    peer.ask("3 count;key=c x\n", "3 ok x 4\n").await;
    // So are the bytes of their requests.
    let server = serve(&desk, ServerConfig::new().keys_bytes(100_000));
    let mut peer = server.connect().await;
    let line = format!("wait;key=a {}\n", "x".repeat(60_000));
    peer.send(format!("1 {line}")).await;
    settle().await;
    let line = format!("2 count;key=b {}\n", "x".repeat(40_000));
    peer.ask(line, "2 no busy\n").await;
}

/// A principal that fills its share leaves room for the others, in the table and among the runs.
#[tokio::test(start_paused = true)]
async fn no_client_fills_the_table_for_others() {
    for config in [ServerConfig::new().keys(8), ServerConfig::new().keyed_runs(8)] {
        let desk = Desk::new();
        let tokens = TokenAuthenticator::new()
            .token("a", Principal::new("ada"))
            .token("b", Principal::new("bob"));
        let server =
            PipeServer::built(router(&desk), |server| server.config(config).authenticator(tokens));
        for (token, runs) in [("a", 5), ("b", 2)] {
            let (mut peer, begun) = (server.connect().await, desk.runs());
            peer.ask(format!("1 /auth token {token}\n"), "1 ok\n").await;
            let lines: String = (2..2 + runs).map(|id| format!("{id} wait;key={id} x\n")).collect();
            peer.send(lines).await;
            until(|| desk.runs() == begun + runs).await;
            peer.ask("9 wait;key=9 x\n", "9 no busy\n").await;
            // Another connection of the same principal is no other client.
            let mut again = server.connect().await;
            again.ask(format!("1 /auth token {token}\n"), "1 ok\n").await;
            again.ask("2 wait;key=9 x\n", "2 no busy\n").await;
        }
    }
}

/// [S23.7] Another table has another store.
#[tokio::test(start_paused = true)]
async fn another_table_has_another_store() {
    let desk = Desk::new();
    let (one, two) = (start(&desk), start(&desk));
    let window = announced(&one).await;
    assert_eq!(announced(&one).await, window);
    assert_eq!(window.seconds, 300);
    assert_ne!(announced(&two).await.store, window.store);
}

/// Two servers with one table run a key once, and a repeat waits at either.
#[tokio::test(start_paused = true)]
async fn servers_may_share_a_table() {
    let desk = Desk::new();
    let keys = MemoryKeys::new(&Random::seeded(1));
    let share = || PipeServer::built(router(&desk), |server| server.keys(keys.clone()));
    let (one, two) = (share(), share());
    assert_eq!(announced(&one).await, announced(&two).await);
    let (mut first, mut second) = (one.connect().await, two.connect().await);
    first.send("1 wait;key=a x\n").await;
    until(|| desk.runs() == 1).await;
    second.send("1 wait;key=a x\n2 wait;key=a y\n").await;
    second.expect("2 no key-mismatch\n").await;
    second.expect_silence().await;
    desk.gate.add_permits(1);
    first.expect("1 ok x 1\n").await;
    second.expect("1 ok x 1\n").await;
    second.ask("3 wait;key=a x\n", "3 ok x 1\n").await;
}

/// [S23.4] A server that stops gives its runs the time of the drain, with and without callers.
#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_runs() {
    let desk = Desk::new();
    let keys = MemoryKeys::new(&Random::seeded(1));
    let mut server = PipeServer::built(router(&desk), |server| server.keys(keys.clone()));
    let mut peer = server.connect().await;
    peer.send("1 wait;key=a x\n").await;
    until(|| desk.runs() == 1).await;
    lose(peer, &server).await;
    server.stop();
    advance(5 * SECOND).await;
    desk.gate.add_permits(1);
    server.ended().await;
    let next = PipeServer::built(router(&desk), |server| server.keys(keys.clone()));
    next.connect().await.ask("1 wait;key=a x\n", "1 ok x 1\n").await;
}

/// What outlasts the drain time is cut, and that outcome is kept.
#[tokio::test(start_paused = true)]
async fn a_drain_cuts_runs() {
    for method in ["wait", "task"] {
        let desk = Desk::new();
        let keys = MemoryKeys::new(&Random::seeded(1));
        let mut server = PipeServer::built(router(&desk), |server| server.keys(keys.clone()));
        let (mut peer, mut gone) = (server.connect().await, server.connect().await);
        peer.send(format!("1 {method};key=a x\n")).await;
        gone.send(format!("1 {method};key=b x\n")).await;
        until(|| desk.runs() == 2).await;
        drop(gone);
        server.stop();
        peer.expect("* /bye shutdown\n* /bye;last=1 shutdown\n1 cut closing\n").await;
        server.ended().await;
        let next = PipeServer::built(router(&desk), |server| server.keys(keys.clone()));
        let lines = format!("1 {method};key=a x\n2 {method};key=b x\n");
        next.connect().await.ask(lines, "1 cut closing\n2 cut closing\n").await;
        assert_eq!(desk.runs(), 2);
    }
}

/// [S23.8] A server that is dropped with its runs leaves `cut lost`.
#[tokio::test(start_paused = true)]
async fn a_run_that_vanishes_is_lost() {
    let desk = Desk::new();
    let keys = MemoryKeys::new(&Random::seeded(1));
    let server = PipeServer::built(router(&desk), |server| server.keys(keys.clone()));
    let mut peer = server.connect().await;
    peer.send("1 wait;key=a x\n").await;
    until(|| desk.runs() == 1).await;
    drop((server, peer));
    settle().await;
    let next = PipeServer::built(router(&desk), |server| server.keys(keys.clone()));
    next.connect().await.ask("1 wait;key=a x\n", "1 cut lost\n").await;
    assert_eq!(desk.runs(), 1);
}

/// The bytes of a request are cut at each place: its handler runs once if the line was whole, and
/// a repeat gets the outcome.
#[tokio::test(start_paused = true)]
async fn a_connection_cut_at_each_byte_runs_a_key_once() {
    let desk = Desk::new();
    let server = start(&desk);
    let line = b"1 count;key=K x\n";
    for cut in 0..=line.len() {
        let begun = desk.runs();
        let line = String::from_utf8_lossy(line).replace('K', &format!("k{cut:02}"));
        let cut = if cut > 13 { cut + 2 } else { cut };
        let cut = cut.min(line.len());
        let mut peer = server.connect().await;
        peer.send(&line[..cut]).await;
        drop(peer);
        until(|| server.handle.sessions().is_empty()).await;
        assert_eq!(desk.runs() - begun, usize::from(cut == line.len()));
        let mut peer = server.connect().await;
        peer.ask(&line, format!("1 ok x {}\n", begun + 1)).await;
        assert_eq!(desk.runs(), begun + 1);
        drop(peer);
        until(|| server.handle.sessions().is_empty()).await;
    }
}

/// A keyed request that waits for a place runs once, too.
#[tokio::test(start_paused = true)]
async fn a_key_may_wait_for_a_place() {
    let desk = Desk::new();
    let server = serve(&desk, ServerConfig::new().in_flight(1));
    let mut peer = server.connect().await;
    peer.send("1 wait x\n2 count;key=a x\n3 /publish;key=p t x\n4 count;key=a x\n").await;
    peer.expect_silence().await;
    desk.gate.add_permits(1);
    peer.expect("1 ok x 1\n2 ok x 2\n").await;
    assert!(peer.line().await.unwrap().starts_with("3 ok;epoch="));
    peer.expect("4 ok x 2\n").await;
}

/// Permission is asked for each request, and a refused one does not touch the key.
#[tokio::test(start_paused = true)]
async fn permission_is_asked_for_each_repeat() {
    for later in [false, true] {
        let desk = Desk::new();
        let left = Arc::new(AtomicUsize::new(2));
        let budget = left.clone();
        let authorize = move |_: &Principal, _: Action<'_>| {
            let count = |left: usize| left.checked_sub(1);
            let may = budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count).is_ok();
            match later {
                true => Verdict::later(async move { may }),
                false => may.into(),
            }
        };
        let server = PipeServer::built(router(&desk), |server| server.authorizer(authorize));
        let mut peer = server.connect().await;
        peer.ask("1 count;key=a x\n", "1 ok x 1\n").await;
        peer.ask("2 count;key=a x\n", "2 ok x 1\n").await;
        peer.ask("3 count;key=a x\n4 count;key=b x\n", "3 no forbidden\n4 no forbidden\n").await;
        left.store(1, Ordering::SeqCst);
        peer.ask("5 count;key=a x\n", "5 ok x 1\n").await;
        assert_eq!((desk.runs(), server.handle.stats().started), (1, 1));
    }
}

/// A table whose answers take time or fail, as a test tells it.
#[derive(Clone)]
struct Slow {
    keys: MemoryKeys,
    /// The permits of `begin` and of `finish`.
    begins: Arc<Semaphore>,
    finishes: Arc<Semaphore>,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    BeginFails,
    BeginPanics,
    FinishFails,
    FinishPanics,
    WindowPanics,
}

impl Slow {
    fn new(fault: Fault) -> Self {
        let keys = MemoryKeys::new(&Random::seeded(1));
        let (begins, finishes) = (Semaphore::new(0).into(), Semaphore::new(0).into());
        Self { keys, begins, finishes, fault }
    }
}

impl KeyTable for Slow {
    fn window(&self) -> Option<KeyWindow> {
        assert_ne!(self.fault, Fault::WindowPanics, "as it is told to");
        self.keys.window()
    }

    fn begin(&self, request: &KeyedRequest) -> BoxFuture<Result<Begun, KeysUnavailable>> {
        assert_ne!(self.fault, Fault::BeginPanics, "as it is told to");
        if self.fault == Fault::BeginFails {
            return Box::pin(async { Err(KeysUnavailable("as it is told to".into())) });
        }
        let (begun, permits) = (self.keys.begin(request), self.begins.clone());
        Box::pin(async move {
            permits.acquire().await.expect("open").forget();
            begun.await
        })
    }

    fn finish(
        &self,
        request: &KeyedRequest,
        outcome: KeyedOutcome,
    ) -> BoxFuture<Result<(), KeysUnavailable>> {
        assert_ne!(self.fault, Fault::FinishPanics, "as it is told to");
        if self.fault == Fault::FinishFails {
            return Box::pin(async { Err(KeysUnavailable("as it is told to".into())) });
        }
        let (finished, permits) = (self.keys.finish(request, outcome), self.finishes.clone());
        Box::pin(async move {
            permits.acquire().await.expect("open").forget();
            finished.await
        })
    }

    fn forget(&self, request: &KeyedRequest) -> BoxFuture<Result<(), KeysUnavailable>> {
        self.keys.forget(request)
    }
}

fn over(desk: &Desk, table: &Slow) -> PipeServer {
    PipeServer::built(router(desk), |server| server.keys(table.clone()))
}

/// The handler runs once the table has entered the key, and its callers get the outcome once the
/// table has stored it. They may go at any time.
#[tokio::test(start_paused = true)]
async fn a_table_may_take_its_time() {
    let (desk, table) = (Desk::new(), Slow::new(Fault::None));
    let server = over(&desk, &table);
    let mut peer = server.connect().await;
    peer.send("1 count;key=a x\n2 count;key=a x\n3 count;key=a y\n").await;
    peer.expect("3 no key-mismatch\n").await;
    settle().await;
    assert_eq!(desk.runs(), 0);
    peer.ask("* /cancel 1\n", "1 cut cancelled\n").await;
    table.begins.add_permits(1);
    until(|| desk.runs() == 1).await;
    peer.expect_silence().await;
    table.finishes.add_permits(1);
    peer.expect("2 ok x 1\n").await;
    // All callers go before the key is entered.
    let mut gone = server.connect().await;
    gone.send("1 count;key=b x\n").await;
    settle().await;
    drop(gone);
    settle().await;
    table.begins.add_permits(1);
    table.finishes.add_permits(1);
    until(|| desk.runs() == 2).await;
    table.begins.add_permits(1);
    peer.ask("4 count;key=b x\n", "4 ok x 2\n").await;
    assert_eq!(server.handle.stats().started, 2);
}

/// A table that does not answer in time, or fails, starts no handler.
#[tokio::test(start_paused = true)]
async fn a_table_that_fails_starts_nothing() {
    for fault in [Fault::None, Fault::BeginFails, Fault::BeginPanics] {
        let (desk, table) = (Desk::new(), Slow::new(fault));
        let server = over(&desk, &table);
        let mut peer = server.connect().await;
        peer.send("1 count;key=a x\n").await;
        settle().await;
        if fault == Fault::None {
            peer.expect_silence().await;
            advance(31 * SECOND).await;
        }
        peer.expect("1 no busy\n").await;
        peer.ask("2 count x\n", "2 ok x 1\n").await;
    }
}

/// An outcome that could not be stored is still the outcome of its callers.
#[tokio::test(start_paused = true)]
async fn an_outcome_that_is_not_stored_is_answered() {
    for fault in [Fault::None, Fault::FinishFails, Fault::FinishPanics] {
        let (desk, table) = (Desk::new(), Slow::new(fault));
        let server = over(&desk, &table);
        table.begins.add_permits(9);
        let mut peer = server.connect().await;
        peer.send("1 count;key=a x\n").await;
        until(|| desk.runs() == 1).await;
        if fault == Fault::None {
            peer.expect_silence().await;
            advance(31 * SECOND).await;
        }
        peer.expect("1 ok x 1\n").await;
    }
}

/// A table that cannot say who it is announces nothing.
#[tokio::test(start_paused = true)]
async fn a_table_without_an_identity_announces_nothing() {
    let (desk, table) = (Desk::new(), Slow::new(Fault::WindowPanics));
    let server = over(&desk, &table);
    table.begins.add_permits(1);
    table.finishes.add_permits(1);
    let mut peer = server.connect_raw(1_024);
    assert!(!peer.hello().await.contains("keys="));
    peer.ask("1 count;key=a x\n", "1 ok x 1\n").await;
}

/// The end of a server while the table looks a key up: nothing was started.
#[tokio::test(start_paused = true)]
async fn a_drain_refuses_what_is_not_begun() {
    let (desk, table) = (Desk::new(), Slow::new(Fault::None));
    let mut server = over(&desk, &table);
    let mut peer = server.connect().await;
    peer.send("1 count;key=a x\n").await;
    settle().await;
    server.stop();
    peer.expect("* /bye shutdown\n* /bye;last=1 shutdown\n1 cut closing\n").await;
    server.ended().await;
    assert_eq!(desk.runs(), 0);
}

/// A spawned handler of a client that did not read goes on when that client is gone.
#[tokio::test(start_paused = true)]
async fn a_task_does_not_wait_for_a_client_that_is_gone() {
    let desk = Desk::new();
    let config = ServerConfig::new().reply_mark(1_024);
    let server = serve(&desk, config);
    let mut peer = server.connect_raw(512);
    peer.hello().await;
    peer.send("1 task;key=a x\n").await;
    until(|| desk.runs() == 1).await;
    peer.send(format!("2 count {}\n", "y".repeat(8_000))).await;
    settle().await;
    drop(peer);
    until(|| server.handle.sessions().is_empty()).await;
    desk.gate.add_permits(1);
    settle().await;
    server.connect().await.ask("1 task;key=a x\n", "1 ok x 1\n").await;
}
