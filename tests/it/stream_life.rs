//! The life of a streamed reply: the spans that its items are made in, the time that it may take, what
//! is measured of it, and credit that the application holds.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, Failure, Router, ServerConfig, Streamed, blocking, handler,
    protocol::{Code, Outcome, TraceParent},
    server::{
        Action, HandlerFuture, IntoReply, Next, Principal, Rejection, Reply, RequestParts, Verdict,
    },
};
use bellwire_testkit::{PipeServer, RawPeer};
use futures::{Stream, StreamExt, stream};
use tokio::{
    io::DuplexStream,
    time::{Instant, advance, timeout},
};
use tracing::Instrument;

type Peer = RawPeer<DuplexStream>;

/// What the timers may be late by.
const LATE: Duration = Duration::from_millis(50);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Fails where it would hang otherwise: on the paused clock it takes no time.
async fn soon<T>(event: impl Future<Output = T>) -> T {
    timeout(secs(36_000), event).await.expect("it comes")
}

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn client_of(server: &PipeServer) -> Client {
    let (client, connection) = Client::new(server.pipe(), ClientConfig::new());
    tokio::spawn(connection);
    client
}

// Spans.

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The lines with `what` in them.
    fn lines(&self, what: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(what)).map(str::to_owned).collect()
    }
}

struct Logs;

impl Drop for Logs {
    fn drop(&mut self) {
        tracing::info!("the stream is dropped");
    }
}

fn logging() -> Streamed<impl Stream<Item = String>> {
    let logs = Logs;
    Streamed(stream::iter(1..=2).map(move |number| {
        let _logs = &logs;
        tracing::info!("item {number} is made");
        number.to_string()
    }))
}

fn outer(_: &RequestParts<'_>, next: Next<'_>) -> Result<HandlerFuture, Rejection> {
    let span = tracing::info_span!("outer");
    let handler = span.in_scope(|| next.run())?;
    Ok(Box::pin(handler.instrument(span)))
}

fn inner(_: &RequestParts<'_>, next: Next<'_>) -> Result<HandlerFuture, Rejection> {
    let span = tracing::info_span!("inner");
    let handler = span.in_scope(|| next.run())?;
    Ok(Box::pin(handler.instrument(span)))
}

/// A panic is logged with its method and id, whenever the handler panics and however it runs.
#[tokio::test]
async fn a_panic_is_logged_with_its_method() {
    fn on_purpose() -> String {
        panic!("on purpose")
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::ERROR)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    let _guard = bellwire_testkit::logs::capture(subscriber);
    let later = async || {
        tokio::task::yield_now().await;
        on_purpose()
    };
    let router = Router::new()
        .method("fine", async || "fine")
        .method("at.once", async || on_purpose())
        .method("later", later)
        .method("spawned", handler(later).spawned())
        .method("blocking", blocking(on_purpose))
        .method("item", async || Streamed(stream::iter([()]).map(|()| on_purpose())));
    let server = PipeServer::start(router);
    let client = client_of(&server);
    for (number, method) in (1..).zip(["at.once", "later", "spawned", "blocking", "item"]) {
        let error = client.call(method, "").await.expect_err(method);
        assert_eq!(error.code(), Some(&Code::INTERNAL), "{method}");
        let lines = log.lines("handler panicked");
        let said = format!("handler panicked method=\"{method}\" id={number}");
        assert!(lines.len() == number && lines[number - 1].ends_with(&said), "{lines:#?}");
    }
}

/// Items are produced, and their stream is dropped, in the spans of the handler and of its layers,
/// which carry the caller's trace; in every mode.
#[tokio::test]
async fn items_are_produced_in_the_spans_of_their_handler() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    let _guard = bellwire_testkit::logs::capture(subscriber);
    let router = Router::new()
        .method("inline", async || logging())
        .method("later", async || {
            tokio::task::yield_now().await;
            logging()
        })
        .method("spawned", handler(async || logging()).spawned())
        .method("blocking", blocking(logging));
    for (layers, names) in [
        (0, &["handler{method=\"NAME\""][..]),
        (2, &["handler{method=\"NAME\"", ":outer", ":inner"]),
    ] {
        let router = match layers {
            0 => Router::new().method("inline", async || logging()),
            _ => Router::new().method("inline", async || logging()).layer(outer).layer(inner),
        };
        let server = PipeServer::start(router);
        let client = client_of(&server);
        let trace: TraceParent =
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
        let mut items = client.stream("inline", "").trace(trace);
        for number in ["1", "2"] {
            assert_eq!(items.next().await.unwrap().unwrap(), number);
        }
        assert!(items.next().await.is_none());
        for what in ["item 1 is made", "item 2 is made", "the stream is dropped"] {
            let line = log.lines(what).pop().expect(what);
            for name in names {
                let name = name.replace("NAME", "inline");
                assert!(line.contains(&name), "{name} in {line}");
            }
            assert!(line.contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{line}");
            assert_eq!(line.contains(":inner"), layers > 0, "{line}");
        }
    }
    let server = PipeServer::start(router.layer(outer));
    let client = client_of(&server);
    for mode in ["inline", "later", "spawned", "blocking"] {
        let before = log.lines("is made").len();
        let made: Vec<_> = client.stream(mode, "").collect().await;
        assert_eq!(made.len(), 2, "{mode}");
        let lines = log.lines("is made").split_off(before);
        let is_within = |line: &String| {
            line.contains(&format!("handler{{method=\"{mode}\"")) && line.contains(":outer")
        };
        assert!(lines.len() == 2 && lines.iter().all(is_within), "{mode}: {lines:?}");
    }
    // A typed stream has a trace as well.
    let trace = "00-00000000000000000000000000000001-00f067aa0ba902b7-01";
    let mut typed = client.request_stream::<(), u32>("inline", &()).trace(trace.parse().unwrap());
    assert_eq!(typed.next().await, Some(Ok(1)));
    assert!(
        log.lines("item 1 is made").pop().unwrap().contains("00000000000000000000000000000001")
    );
}

// What callers learn at the end.

fn gated(to: u64) -> impl Stream<Item = Result<String, Failure>> {
    stream::iter(1..=to).then(async |number| {
        tokio::time::sleep(secs(1)).await;
        match number {
            7 => Err(Failure::new(Code::from_static("seven"), "")),
            13 => panic!("thirteen"),
            _ => Ok(number.to_string()),
        }
    })
}

async fn count(to: String) -> Streamed<impl Stream<Item = Result<String, Failure>>> {
    Streamed(gated(to.parse().unwrap()))
}

/// A layer is notified once of the end of a streamed reply, with its terminal word and at its time.
/// For a reply of one line, at once.
#[tokio::test(start_paused = true)]
async fn layers_get_the_end_of_a_stream_with_its_outcome() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let (tell, begin) = (told.clone(), Instant::now());
    let layer = move |request: &RequestParts<'_>, next: Next<'_>| {
        let (tell, id) = (tell.clone(), request.id().map_or(0, |id| id.get()));
        let handler = next.run()?;
        let future: HandlerFuture = Box::pin(async move {
            handler.await.on_end(move |outcome: Outcome| {
                tell.lock().unwrap().push((id, outcome, begin.elapsed().as_secs()));
            })
        });
        Ok(future)
    };
    let skip = async |to: String| Streamed(gated(to.parse().unwrap()).skip(7));
    let router = Router::new()
        .method("echo", async |text: String| text)
        .method("refuse", async || Reply::err(Failure::new(Code::from_static("refused"), "")))
        .method("count", count)
        .method("skip", skip)
        .layer(layer);
    let server = PipeServer::with_config(router, ServerConfig::new().handler_time(secs(3)));
    let mut peer = server.connect().await;
    peer.send("1 echo a\n2 refuse\n3 count 2\n4 count 9\n5 count;window=1 3\n6 count;ttl=2500 9\n")
        .await;
    peer.send("7 count 9\n8 skip 20\n* count 3\n").await;
    soon(peer.expect("1 ok a\n2 err refused\n")).await;
    advance(Duration::from_millis(3_500)).await;
    peer.send("* /cancel 7\n").await;
    while soon(peer.line()).await.unwrap() != "4 err seven\n" {}
    drop(peer);
    settle().await;
    let mut told = told.lock().unwrap().clone();
    told.sort_by_key(|&(id, ..)| id);
    let outcomes: Vec<_> = told.iter().map(|&(id, outcome, _)| (id, outcome)).collect();
    let expected = [
        (0, Outcome::Ok),
        (1, Outcome::Ok),
        (2, Outcome::Err),
        (3, Outcome::Ok),
        (4, Outcome::Err),
        (5, Outcome::Cut),
        (6, Outcome::Cut),
        (7, Outcome::Cut),
        (8, Outcome::Cut),
    ];
    assert_eq!(outcomes, expected);
    let at = |id: usize| told[id].2;
    assert!(at(1) == 0 && at(3) >= 2 && at(4) >= 7 && at(5) >= 7, "{told:?}");
}

/// A watcher that panics does not affect others.
#[tokio::test]
async fn a_panicking_watcher_is_ignored() {
    let watched = async || logging().into_reply().on_end(|_| panic!("on purpose"));
    let server = PipeServer::start(Router::new().method("m", watched));
    let mut peer = server.connect().await;
    peer.ask("1 m\n2 m\n", "").await;
    let mut lines = Vec::new();
    for _ in 0..6 {
        lines.push(peer.line().await.unwrap());
    }
    lines.sort();
    assert_eq!(lines[2], "1 ok\n");
    assert_eq!(lines[5], "2 ok\n");
}

#[cfg(feature = "metrics")]
mod metrics_feature {
    use bellwire::metrics::Handlers;
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    fn ticks(to: u32) -> impl Stream<Item = String> {
        stream::iter(1..=to).then(async |number| {
            tokio::time::sleep(Duration::from_millis(50)).await;
            number.to_string()
        })
    }

    /// `bellwire_handler_seconds` of a stream measures its whole life, labelled with its terminal
    /// word.
    #[tokio::test]
    async fn handler_seconds_covers_the_whole_stream() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let _guard = ::metrics::set_default_local_recorder(&recorder);
        let router = Router::new()
            .method("ticks", async || Streamed(ticks(4)))
            .method("long", async || Streamed(ticks(1_000)))
            .layer(Handlers::new());
        let server = PipeServer::start(router);
        let client = client_of(&server);
        let all: Vec<_> = client.stream("ticks", "").collect().await;
        assert_eq!(all.len(), 4);
        let mut long = client.stream("long", "");
        long.next().await.unwrap().unwrap();
        drop(long);
        client.call("ticks", "").await.unwrap_err();
        while client.stats().in_flight > 0 {
            tokio::task::yield_now().await;
        }
        let text = handle.render();
        let value = |name: &str, labels: &str| {
            let is_it = |line: &&str| {
                line.starts_with(name) && labels.split(',').all(|label| line.contains(label))
            };
            let line = text.lines().find(is_it);
            let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            value.unwrap_or_else(|| panic!("{name} {labels} in\n{text}"))
        };
        let seconds = value("bellwire_handler_seconds_sum", r#"method="ticks",outcome="ok""#);
        assert!((0.2..60.0).contains(&seconds), "{seconds}");
        assert_eq!(value("bellwire_handler_seconds_count", r#"method="ticks",outcome="ok""#), 1.0);
        assert_eq!(value("bellwire_handler_seconds_count", r#"method="long",outcome="cut""#), 1.0);
        assert!(!text.contains(r#"outcome="more""#), "{text}");
    }
}

// The time of a method.

async fn forever() {
    std::future::pending::<()>().await;
}

fn silent() -> Streamed<impl Stream<Item = String>> {
    Streamed(stream::pending())
}

fn timed_router() -> Router {
    Router::new()
        .method("usual", forever)
        .method("long", handler(forever).handler_time(secs(100)))
        .method("short", handler(forever).handler_time(secs(5)))
        .method("endless", handler(forever).handler_time(None))
        .method("apart", handler(forever).handler_time(None).spawned())
        .method("tail", handler(async || silent()).handler_time(None))
        .method("tail-long", handler(async || silent()).handler_time(secs(100)))
        .method("tail-usual", async || silent())
        .method("echo", async |text: String| text)
}

fn timed() -> PipeServer {
    PipeServer::with_config(timed_router(), ServerConfig::new().handler_time(secs(30)).idle(None))
}

/// Expects `id cut deadline` when `after` has passed since `since`, not earlier and not much later.
async fn cut_after(peer: &mut Peer, id: u64, since: Instant, after: Duration) {
    soon(peer.expect(format!("{id} cut deadline\n"))).await;
    let late = since.elapsed().checked_sub(after).unwrap_or_else(|| panic!("{id} is early"));
    assert!(late <= LATE, "{id} is {late:?} late");
}

/// [S3.14] [S15.6] A method may have its own handler time, or none. A `ttl` still bounds it.
#[tokio::test(start_paused = true)]
async fn a_method_may_have_its_own_handler_time() {
    let server = timed();
    let mut peer = server.connect().await;
    let since = Instant::now();
    peer.send("1 usual\n2 long\n3 short\n4 endless\n5 tail\n6 tail-long\n7 tail-usual\n").await;
    peer.send("8 endless;ttl=200000\n9 tail;ttl=300000\n10 apart;ttl=400000\n11 long;ttl=1000\n")
        .await;
    peer.send("12 long;ttl=900000\n").await;
    cut_after(&mut peer, 11, since, secs(1)).await;
    cut_after(&mut peer, 3, since, secs(5)).await;
    for id in [1, 7] {
        cut_after(&mut peer, id, since, secs(30)).await;
    }
    for id in [2, 6, 12] {
        cut_after(&mut peer, id, since, secs(100)).await;
    }
    cut_after(&mut peer, 8, since, secs(200)).await;
    cut_after(&mut peer, 9, since, secs(300)).await;
    cut_after(&mut peer, 10, since, secs(400)).await;
    // Those without a limit are there after hours, and are cancelled like any other.
    advance(secs(20_000)).await;
    peer.expect_silence().await;
    peer.ask("* /cancel 4\n* /cancel 5\n", "4 cut cancelled\n5 cut cancelled\n").await;
}

/// After a half-close the client may be gone: the server's handler time applies from then on.
#[tokio::test(start_paused = true)]
async fn a_half_close_restores_the_servers_handler_time() {
    let server = timed();
    let mut peer = server.connect().await;
    peer.send("1 endless\n2 tail\n3 long\n").await;
    settle().await;
    advance(secs(50)).await;
    let since = Instant::now();
    peer.half_close().await;
    for id in [1, 2, 3] {
        cut_after(&mut peer, id, since, secs(30)).await;
    }
    soon(peer.expect_closed()).await;
}

/// [S18.10] When the application closes the session, the drain time bounds its requests.
#[tokio::test(start_paused = true)]
async fn a_closed_session_ends_methods_without_a_time_limit() {
    let server = timed();
    let mut peer = server.connect().await;
    peer.ask("1 endless\n2 tail\n3 echo a\n", "3 ok a\n").await;
    let since = Instant::now();
    server.handle.sessions().iter().for_each(|it| it.close(Code::from_static("banned")));
    soon(peer.expect("* /bye;last=3 banned\n")).await;
    soon(peer.expect("1 cut closing\n2 cut closing\n")).await;
    let late = since.elapsed().checked_sub(secs(10)).expect("not before its time");
    assert!(late <= LATE, "{late:?}");
    soon(peer.expect_closed()).await;
}

/// [S19.8] The authorization has the server's handler time, and the handler its own, both from when
/// the line was read.
#[tokio::test(start_paused = true)]
async fn a_methods_own_time_does_not_extend_its_authorization() {
    let allowed = Arc::new(tokio::sync::Notify::new());
    let gate = allowed.clone();
    let authorizer = move |_: &Principal, action: Action<'_>| match action {
        Action::Call("endless" | "long") => {
            let gate = gate.clone();
            Verdict::later(async move {
                gate.notified().await;
                true
            })
        }
        _ => Verdict::Allow,
    };
    let server = PipeServer::built(timed_router(), |server| {
        server.config(ServerConfig::new().handler_time(secs(30)).idle(None)).authorizer(authorizer)
    });
    let mut peer = server.connect().await;
    let since = Instant::now();
    peer.send("1 endless\n").await;
    soon(peer.expect("1 no deadline\n")).await;
    assert!((secs(30)..secs(30) + LATE).contains(&since.elapsed()), "{:?}", since.elapsed());
    let since = Instant::now();
    peer.send("2 endless\n3 long\n").await;
    settle().await;
    advance(secs(20)).await;
    allowed.notify_waiters();
    cut_after(&mut peer, 3, since, secs(100)).await;
    advance(secs(10_000)).await;
    peer.expect_silence().await;
    peer.ask("* /cancel 2\n", "2 cut cancelled\n").await;
}

// Credit that the application holds.

fn numbers() -> Streamed<impl Stream<Item = String>> {
    Streamed(stream::iter(1..=100).map(|number| number.to_string()))
}

/// Credit is returned when it is dropped, by the half window, and at once if none is left.
#[tokio::test(start_paused = true)]
async fn dropped_credit_is_returned() {
    const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60\n";
    let (near, far) = tokio::io::duplex(65_536);
    let (client, connection) = Client::new(near, ClientConfig::new());
    tokio::spawn(connection);
    let mut server = RawPeer::new(far);
    server.send(HELLO).await;
    client.connected().await.unwrap();
    let mut items = client.stream("m", "").window(4);
    assert!(timeout(Duration::ZERO, items.next()).await.is_err());
    server.expect("1 m;window=4\n").await;
    server.send("1 more a\n1 more b\n1 more c\n1 more d\n").await;
    let mut held = Vec::new();
    for expected in ["a", "b", "c"] {
        let (item, credit) = soon(items.next_with_credit()).await.unwrap().unwrap();
        assert_eq!(item, expected);
        held.push(credit);
    }
    server.expect_silence().await;
    // In any order.
    drop(held.remove(1));
    server.expect_silence().await;
    drop(held.remove(0));
    server.expect("* /more 1 2\n").await;
    // Both ways of taking go together.
    assert_eq!(soon(items.next()).await.unwrap().unwrap(), "d");
    server.send("1 more e\n1 more f\n").await;
    for _ in 0..2 {
        held.push(soon(items.next_with_credit()).await.unwrap().unwrap().1);
    }
    server.expect_silence().await;
    drop(held.pop());
    server.expect("* /more 1 2\n").await;
    // Behind the end, and behind the stream, it is of no use and does no harm.
    server.send("1 ok\n").await;
    assert!(soon(items.next_with_credit()).await.is_none());
    held.clear();
    server.expect_silence().await;
}

/// No more items are produced than the window allows, however many are passed on, and all of them
/// arrive.
#[tokio::test(start_paused = true)]
async fn items_in_processing_are_bounded_by_the_window() {
    let server = PipeServer::start(Router::new().method("numbers", async || numbers()));
    let client = client_of(&server);
    for window in [1, 2, 3, 8] {
        let mut items = client.request_stream::<(), u64>("numbers", &()).window(window);
        let (mut held, mut seen) = (std::collections::VecDeque::new(), 0);
        while let Some(item) = soon(items.next_with_credit()).await {
            let (number, credit) = item.unwrap();
            seen += 1;
            assert_eq!(number, seen);
            held.push_back(credit);
            if held.len() == window {
                // The server makes nothing while all of it is held.
                assert!(timeout(secs(100), items.next_with_credit()).await.is_err() || seen == 100);
                held.pop_front();
            }
        }
        assert_eq!(seen, 100, "window {window}");
    }
}

/// Credit is dropped without effect if its stream, its connection or its client is gone.
#[tokio::test(start_paused = true)]
async fn credit_may_outlive_its_stream_connection_and_client() {
    let server = PipeServer::start(Router::new().method("numbers", async || numbers()));
    let client = client_of(&server);
    let mut items = client.stream("numbers", "").window(4);
    let (_, credit) = soon(items.next_with_credit()).await.unwrap().unwrap();
    drop(items);
    drop(credit);
    assert!(client.call("nosuch", "").await.is_err());
    let mut items = client.stream("numbers", "").window(4);
    let (_, credit) = soon(items.next_with_credit()).await.unwrap().unwrap();
    drop((items, client));
    // It keeps no connection open.
    soon(async {
        while server.handle.stats().connections > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    drop(credit);
    let client = client_of(&server);
    let mut failed = client.stream("bad..name", "");
    assert!(matches!(failed.next_with_credit().await, Some(Err(CallError::NotSent(_)))));
    assert!(failed.next_with_credit().await.is_none());
}
