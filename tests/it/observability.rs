//! Counters, events, logs and statistics of a connection, and what they must not show.
// SECURITY.md, threats 11, 12, 22 and 34.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, ConnectionError, ConnectionEvent, NotSent, Publisher, Router,
    ServerConfig, SessionStats, Unknown, handler,
    protocol::{Code, RequestId, TraceParent},
    server::{Principal, Reply, Request, TokenAuthenticator},
};
use bellwire_testkit::{PipeServer, RawPeer};
use bytes::Bytes;
use proptest::prelude::*;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    task::JoinHandle,
};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, Registry, layer, layer::SubscriberExt, registry::LookupSpan};

const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60\n";

type Driver = JoinHandle<Result<(), ConnectionError>>;
type Called = JoinHandle<Result<Bytes, CallError>>;

/// A client, its driver's task, and the server's end of its connection, behind the hello.
async fn greeted(config: ClientConfig) -> (Client, Driver, RawPeer<DuplexStream>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (client, connection) = Client::new(near, config);
    let driver = tokio::spawn(connection);
    let mut server = RawPeer::new(far);
    server.send(HELLO).await;
    client.connected().await.unwrap();
    (client, driver, server)
}

fn spawn_call(client: &Client, payload: &str) -> Called {
    let (client, payload) = (client.clone(), payload.to_owned());
    tokio::spawn(async move { client.call("m", payload).await })
}

fn id(id: u64) -> RequestId {
    RequestId::new(id).unwrap()
}

fn broken(what: &str) -> ConnectionError {
    ConnectionError::Protocol(what.to_owned())
}

/// [C3.4] [C3.5] Late, duplicate and unexpected replies have separate counters and events, and
/// reach no caller. SECURITY.md, threat 11.
#[tokio::test(start_paused = true)]
async fn late_duplicate_and_unexpected_replies_are_distinguished() {
    let (client, _driver, mut server) = greeted(ClientConfig::new()).await;
    let mut events = client.events();
    let (kept, dropped) = (spawn_call(&client, "a"), spawn_call(&client, "b"));
    server.expect("1 m a\n2 m b\n").await;
    dropped.abort();
    server.expect("* /cancel 2\n").await;
    server.send("1 ok x\n1 ok y\n1 more z\n2 cut cancelled\n2 ok late\n3 ok early\n").await;
    assert_eq!(kept.await.unwrap().unwrap(), "x");
    for event in [
        ConnectionEvent::DoubledReply(id(1)),
        ConnectionEvent::DoubledReply(id(1)),
        ConnectionEvent::LateReply(id(2)),
        ConnectionEvent::DoubledReply(id(2)),
        ConnectionEvent::UnaskedReply(id(3)),
    ] {
        assert_eq!(events.next().await, Some(event));
    }
    let stats = client.stats();
    assert_eq!((stats.late_replies, stats.doubled_replies, stats.unasked_replies), (1, 3, 1));
    assert_eq!((stats.requests, stats.ok, stats.cut, stats.pending), (2, 1, 1, 0));
    let next = spawn_call(&client, "c");
    server.expect("3 m c\n").await;
    server.send("3 ok mine\n").await;
    assert_eq!(next.await.unwrap().unwrap(), "mine");
}

/// [C12.1] A strict client closes the connection on a reply to a request that was never sent, or a
/// second reply. Lines before it are handled, lines after it are not. SECURITY.md, threat 11.
#[tokio::test(start_paused = true)]
async fn a_strict_client_closes_on_an_unexpected_reply() {
    for (unmatched, what) in [
        ("7 ok", "a reply to 7, which was not sent"),
        ("7 more", "a reply to 7, which was not sent"),
        ("1 err x", "a second reply to 1"),
        ("1 more x", "a second reply to 1"),
    ] {
        for behind in ["2 ok\n", "* /error busy\n2 ok\n", ""] {
            let (client, driver, mut server) = greeted(ClientConfig::new().strict(true)).await;
            let mut events = client.events();
            let (first, second) = (spawn_call(&client, "a"), spawn_call(&client, "b"));
            server.expect("1 m a\n2 m b\n").await;
            server.send(format!("1 ok x\n{unmatched}\n{behind}")).await;
            assert_eq!(driver.await.unwrap(), Err(broken(what)), "{unmatched}");
            assert_eq!(first.await.unwrap().unwrap(), "x");
            let lost = CallError::Unknown(Unknown::Lost(broken(what)));
            assert_eq!(second.await.unwrap().unwrap_err(), lost);
            let event = events.next().await.unwrap();
            assert!(matches!(
                event,
                ConnectionEvent::DoubledReply(_) | ConnectionEvent::UnaskedReply(_)
            ));
            assert_eq!(events.next().await, Some(ConnectionEvent::Ended(broken(what))));
            assert_eq!(events.next().await, None);
        }
    }
}

/// [C12.2] A late reply is valid: a strict client goes on.
#[tokio::test(start_paused = true)]
async fn a_strict_client_accepts_late_replies() {
    let (client, _driver, mut server) = greeted(ClientConfig::new().strict(true)).await;
    let call = spawn_call(&client, "a");
    server.expect("1 m a\n").await;
    call.abort();
    server.expect("* /cancel 1\n").await;
    server.send("1 more x\n1 ok y\n").await;
    let next = spawn_call(&client, "b");
    server.expect("2 m b\n").await;
    server.send("2 ok mine\n").await;
    assert_eq!(next.await.unwrap().unwrap(), "mine");
    assert_eq!(client.stats().late_replies, 1);
}

/// What a server and the callers do, by turns.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Call,
    /// A caller goes away: which, counted from the oldest that is left.
    Cancel(usize),
    /// A terminal line, for one of all ids there were and the next.
    Reply(usize),
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        3 => Just(Turn::Call),
        2 => (0_usize..64).prop_map(Turn::Cancel),
        4 => (0_usize..64).prop_map(Turn::Reply),
    ];
    prop::collection::vec(turn, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever replies are cancelled, duplicated, late or invented, in whatever order, no reply
    /// reaches another caller, and the counters add up. SECURITY.md, threat 12.
    #[test]
    fn no_reply_reaches_another_caller(turns in turns()) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap().block_on(play(turns));
    }
}

async fn settle() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

async fn play(turns: Vec<Turn>) {
    let (client, _driver, mut server) = greeted(ClientConfig::new()).await;
    let mut callers: Vec<(u64, Called)> = Vec::new();
    // Of each id: whether it had its terminal line.
    let mut answered: Vec<bool> = Vec::new();
    let (mut replied, mut doubled, mut unasked) = (0, 0, 0);
    for turn in turns {
        match turn {
            Turn::Call => {
                answered.push(false);
                let number = answered.len() as u64;
                callers.push((number, spawn_call(&client, &number.to_string())));
            }
            Turn::Cancel(which) if !callers.is_empty() => {
                let (number, caller) = callers.remove(which % callers.len());
                if caller.is_finished() {
                    let reply = caller.await.unwrap().unwrap();
                    assert_eq!(reply, format!("to {number}"));
                } else {
                    caller.abort();
                }
            }
            Turn::Cancel(_) => {}
            Turn::Reply(which) => {
                let number = which % (answered.len() + 1);
                server.send(format!("{} ok to {}\n", number + 1, number + 1)).await;
                match answered.get_mut(number) {
                    None => unasked += 1,
                    Some(true) => doubled += 1,
                    Some(over) => (*over, replied) = (true, replied + 1),
                }
            }
        }
        settle().await;
    }
    let stats = client.stats();
    assert_eq!((stats.requests, stats.ok), (answered.len() as u64, replied));
    assert_eq!((stats.doubled_replies, stats.unasked_replies), (doubled, unasked));
    assert_eq!(stats.pending as u64, stats.requests - replied);
    for (number, caller) in callers {
        match answered[number as usize - 1] {
            true => assert_eq!(caller.await.unwrap().unwrap(), format!("to {number}")),
            false => assert!(!caller.is_finished()),
        }
    }
}

/// The queue of events is bounded, and reports how many it dropped.
#[tokio::test(start_paused = true)]
async fn unread_events_are_bounded_and_counted() {
    events_are_held(ClientConfig::new(), 256).await;
    events_are_held(ClientConfig::new().held_events(7), 7).await;
}

async fn events_are_held(config: ClientConfig, held: u64) {
    let (client, driver, mut server) = greeted(config).await;
    let mut events = client.events();
    for unmatched in 1..=300 {
        server.send(format!("{unmatched} ok\n")).await;
    }
    drop(server);
    driver.await.unwrap().unwrap_err();
    // 300 and the end, of which the newest are held.
    let missed = 301 - held;
    assert_eq!(events.next().await, Some(ConnectionEvent::Missed(missed)));
    for unmatched in missed + 1..=300 {
        assert_eq!(events.next().await, Some(ConnectionEvent::UnaskedReply(id(unmatched))));
    }
    let end = ConnectionEvent::Ended(ConnectionError::ClosedByPeer);
    assert_eq!(events.next().await, Some(end));
    assert_eq!(events.next().await, None);
}

/// Each counter of a client, with lines that change only that counter.
#[tokio::test(start_paused = true)]
async fn each_client_counter_counts() {
    let (client, _driver, mut server) = greeted(ClientConfig::new()).await;
    let calls: Vec<_> = (0..5).map(|_| spawn_call(&client, "")).collect();
    settle().await;
    client.one_way("m", "x").await.unwrap();
    server.expect("1 m\n2 m\n3 m\n4 m\n5 m\n* m x\n").await;
    let stats = client.stats();
    assert_eq!((stats.requests, stats.one_ways, stats.pending, stats.in_flight), (5, 1, 5, 5));
    assert_eq!(stats.bytes_out, 5 * 4 + 6);
    let replies = "1 ok\n2 err x\n3 no x\n4 cut x\n";
    server.send(replies).await;
    for call in calls.into_iter().take(4) {
        drop(call.await.unwrap());
    }
    let stats = client.stats();
    assert_eq!((stats.ok, stats.err, stats.no, stats.cut), (1, 1, 1, 1));
    assert_eq!((stats.pending, stats.in_flight), (1, 1));
    assert_eq!(stats.bytes_in, (HELLO.len() + replies.len()) as u64);

    let (subscription, ()) = tokio::join!(client.subscribe("t").into_future(), async {
        server.expect("6 /subscribe t\n").await;
        server.send("6 ok;epoch=e;next=1;head=0;lease=60\n").await;
    });
    let mut deliveries = subscription.unwrap();
    server.send("* t 1 a\n* /gap t e 2 4 retention\n* t 7 b\n* t 7 b\n* other 1 c\n").await;
    for _ in 0..4 {
        deliveries.next().await.unwrap();
    }
    settle().await;
    let stats = client.stats();
    assert_eq!((stats.notifications, stats.gaps, stats.missed), (4, 2, 5));
    assert_eq!((stats.violations, stats.requests, stats.in_flight), (2, 6, 1));
}

async fn panics() {
    panic!("as it is told to");
}

async fn get(id: String) -> Result<String, bellwire::Failure> {
    match id.as_str() {
        "" => Err(bellwire::Failure::new(Code::from_static("not-found"), "")),
        _ => Ok(id),
    }
}

/// Each counter of a server, with lines that change only that counter.
#[tokio::test(start_paused = true)]
async fn each_server_counter_counts() {
    let router = Router::new()
        .method("get", get)
        .method("panic", panics)
        .method("wait", async || std::future::pending::<()>().await);
    let config = ServerConfig::new().connections(2).allow_publish(true).retained_messages(2);
    let server = PipeServer::with_config(router, config);
    let stats = || server.handle.stats();
    let (mut peer, quiet) = (server.connect().await, server.connect().await);
    let mut refused = server.connect_raw(1_024);
    refused.hello().await;
    refused.expect("* /bye;last=0;retry=1000 busy\n").await;
    assert_eq!((stats().connections, stats().accepted, stats().refused), (2, 2, 1));
    drop(quiet);

    let before = stats();
    let sent = "1 get a\n2 get\n3 panic\n4 nosuch\n* get b\n5 wait\n6 wait\n* /cancel 5\n";
    let answers = "1 ok a\n2 err not-found\n3 err internal\n\
                   4 no unknown-method no method \"nosuch\"; ask /methods\n5 cut cancelled\n";
    peer.ask(sent, answers).await;
    let now = stats();
    assert_eq!(now.started - before.started, 6);
    assert_eq!((now.ok, now.err, now.no, now.cut), (before.ok + 1, 2, 1, 1));
    assert_eq!((now.panics, now.in_flight), (1, 1));
    assert_eq!(now.bytes_in - before.bytes_in, sent.len() as u64);

    peer.send("7 bad..name\nbad\n7 get\n").await;
    peer.expect("7 no malformed byte 2: bad method\n* /error malformed byte 0: bad mark\n").await;
    peer.expect("* /error;id=7 id-order last is 7\n").await;
    assert_eq!(stats().malformed, 3);

    peer.send("8 /publish t a\n").await;
    let epoch = peer.attribute("epoch").await;
    peer.ask("9 /publish t b\n", format!("9 ok;epoch={epoch};seq=2\n")).await;
    peer.ask("10 /publish t c\n", format!("10 ok;epoch={epoch};seq=3\n")).await;
    peer.send(format!("11 /subscribe;from={epoch}:1 t\n")).await;
    assert_eq!(peer.attribute("head").await, "3");
    peer.expect(format!("* /gap t {epoch} 1 1 retention\n* t 2 b\n* t 3 c\n")).await;
    let now = stats();
    assert_eq!((now.subscriptions, now.gaps, now.notifications), (1, 1, 2));
    assert_eq!(now.topics, 1);
    let [topic] = &server.handle.topics()[..] else { panic!("one topic has a log") };
    assert_eq!((topic.topic.as_str(), topic.end.to_string()), ("t", format!("{epoch}:4")));
    assert_eq!((topic.retained_bytes, topic.subscribers), (now.retained_bytes, 1));
    assert_eq!(now.ok, before.ok + 5);
    peer.ask("* /cancel 6\n12 /quit\n", "6 cut cancelled\n12 ok\n").await;
    drop(peer);
    settle().await;
    let now = stats();
    assert_eq!((now.connections, now.subscriptions, now.in_flight, now.accepted), (0, 0, 0, 2));
}

/// Both ends count the same bytes and the same outcomes.
#[tokio::test(start_paused = true)]
async fn counters_of_both_ends_agree() {
    let server = PipeServer::start(Router::new().method("get", get));
    let (client, connection) = Client::new(server.connect_raw(256).io, ClientConfig::new());
    tokio::spawn(connection);
    for payload in ["a", "", "b"] {
        drop(client.call("get", payload).await);
    }
    let subscription = client.subscribe("t").await.unwrap();
    server.publisher.publish("t", "x").await.unwrap();
    settle().await;
    let (near, far) = (client.stats(), server.handle.stats());
    assert_eq!((near.ok, near.err, near.no, near.cut), (far.ok, far.err, far.no, far.cut));
    assert_eq!((near.bytes_in, near.bytes_out), (far.bytes_out, far.bytes_in));
    assert_eq!((near.notifications, far.notifications, far.subscriptions), (1, 1, 1));
    drop(subscription);
}

/// Everything that is logged, in the words of the values alone: nothing is escaped on the way.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// Level and fields of each event, and of each span.
    lines: Vec<(tracing::Level, String)>,
    spans: Vec<(u64, String)>,
    /// Each event's innermost span.
    within: Vec<String>,
}

struct Capturing {
    captured: Captured,
    most: tracing::Level,
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capturing {
    fn enabled(&self, metadata: &Metadata<'_>, _: layer::Context<'_, S>) -> bool {
        let target = metadata.target();
        let is_ours = target.starts_with("bellwire") || target == "seen";
        is_ours && *metadata.level() <= self.most
    }

    fn on_new_span(&self, span: &Attributes<'_>, id: &Id, _: layer::Context<'_, S>) {
        let mut seen = self.captured.0.lock().unwrap();
        let metadata = span.metadata();
        let mut text = metadata.name().to_owned();
        span.record(&mut Fields(&mut text));
        seen.lines.push((*metadata.level(), text.clone()));
        seen.spans.push((id.into_u64(), text));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: layer::Context<'_, S>) {
        let mut seen = self.captured.0.lock().unwrap();
        let mut spans = seen.spans.iter_mut().rev();
        let (_, text) = spans.find(|(known, _)| *known == id.into_u64()).unwrap();
        values.record(&mut Fields(text));
    }

    fn on_event(&self, event: &Event<'_>, context: layer::Context<'_, S>) {
        let mut seen = self.captured.0.lock().unwrap();
        let mut text = String::new();
        event.record(&mut Fields(&mut text));
        seen.lines.push((*event.metadata().level(), text));
        let innermost = context.lookup_current().map(|span| span.id().into_u64());
        let known = seen.spans.iter().rev().find(|(id, _)| Some(*id) == innermost);
        let within = known.map(|(_, text)| text.clone()).unwrap_or_default();
        seen.within.push(within);
    }
}

fn capture(most: tracing::Level) -> (Captured, tracing::subscriber::DefaultGuard) {
    let captured = Captured::default();
    let layer = Capturing { captured: captured.clone(), most };
    (captured, bellwire_testkit::logs::capture(Registry::default().with(layer)))
}

impl Captured {
    fn all(&self) -> Vec<String> {
        let seen = self.0.lock().unwrap();
        let lines = seen.lines.iter().map(|(_, text)| text.clone());
        lines.chain(seen.spans.iter().map(|(_, text)| text.clone())).collect()
    }
}

/// Printable, and no longer than what the crate itself says with 64 bytes of a peer's escaped.
fn assert_fit_for_a_log(text: &str, secret: &str) {
    assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{text:?}");
    assert!(!text.contains(secret), "{text}");
    assert!(text.len() < 600, "{text}");
}

const WILD: &str = "\u{1b}[31mred\u{7}\u{85}\u{202e}\u{9b}31m";

/// CR, LF, ESC and the like, wherever a client can put bytes, reach the server's log escaped or not
/// at all. No part of a payload reaches it. SECURITY.md, threats 22 and 34.
#[tokio::test(start_paused = true)]
async fn a_hostile_client_cannot_inject_into_logs() {
    let (captured, _guard) = capture(tracing::Level::TRACE);
    let router = Router::new()
        .method("get", get)
        .method("panic", async |text: String| assert!(text.is_empty()));
    let config = ServerConfig::new().max_line(1_024).allow_publish(true);
    let server = PipeServer::with_config(router, config);
    let stuffed = "\u{10}M\u{10}J";
    let long = "x".repeat(200);
    for line in [
        format!("1 {WILD} secret"),
        format!("{WILD} m secret"),
        WILD.to_owned(),
        format!("1 /auth;{WILD}=1 token secret"),
        format!("1 /auth token secret\r{WILD}"),
        format!("1 get;a={WILD} secret"),
        format!("1 get \r{WILD}secret"),
        format!("1 get \u{10}x{WILD}secret"),
        format!("1 get {stuffed}{WILD}secret"),
        format!("1 panic {stuffed}{WILD}secret"),
        format!("1 /subscribe {stuffed}{WILD}secret"),
        format!("1 /publish {WILD} secret"),
        format!("1 get;trace={WILD} secret"),
        format!("* {WILD} secret"),
        format!("0 get {WILD}secret"),
        format!("{long}{WILD} m secret"),
        format!("1 {long} {WILD}secret"),
        format!("1 get {}secret", "x".repeat(2_000)),
    ] {
        let mut peer = server.connect().await;
        peer.send(format!("1 get;app.a=1 hi\n1{line}\n1 get secret\n{line}\n")).await;
        peer.half_close().await;
        while peer.line().await.is_some() {}
    }
    settle().await;
    let all = captured.all();
    assert!(all.iter().any(|line| line.contains("malformed line")), "{all:#?}");
    assert!(all.iter().any(|line| line.starts_with("handler method=\"get\" id=1")), "{all:#?}");
    all.iter().for_each(|line| assert_fit_for_a_log(line, "secret"));
}

/// The client's log, its errors and its events. SECURITY.md, threat 22.
#[tokio::test(start_paused = true)]
async fn a_hostile_server_cannot_inject_into_logs() {
    let (captured, _guard) = capture(tracing::Level::TRACE);
    let long = "x".repeat(120);
    let stuffed = "\u{10}M\u{10}J";
    let mut shown = Vec::new();
    for line in [
        format!("* /bye;last=0 closing {stuffed}{WILD}secret{long}"),
        format!("* /error busy {stuffed}{WILD}"),
        format!("* /error id-order {stuffed}{WILD}"),
        format!("* /error {WILD}"),
        format!("* /gap {WILD}"),
        format!("* /{long}{WILD} x"),
        format!("* /end {long}"),
        format!("1 err {WILD} x"),
        format!("1 err bad {stuffed}{WILD}"),
        format!("1 no;retry={WILD} bad"),
        format!("1 {WILD} x"),
        format!("1 ok {stuffed}{WILD}"),
        WILD.to_owned(),
        format!("* topic {WILD}"),
        format!("* {long} x{WILD}"),
        format!("* /hello;session={WILD}"),
        long.clone(),
    ] {
        let (client, driver, mut server) = greeted(ClientConfig::new().strict(true)).await;
        let call = tokio::spawn({
            let client = client.clone();
            async move { client.request::<_, Strict>("m", &()).await }
        });
        server.expect("1 m null\n").await;
        server.send(format!("{line}\n")).await;
        server.half_close().await;
        shown.extend(driver.await.unwrap().err().map(|error| error.to_string()));
        shown.push(call.await.unwrap().unwrap_err().to_string());
    }
    let all = captured.all();
    assert!(all.iter().any(|line| line.contains("connection ended")), "{all:#?}");
    let named = "client session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11";
    assert!(all.iter().any(|line| line == named), "{all:#?}");
    all.iter().chain(&shown).for_each(|line| assert_fit_for_a_log(line, &long[..80]));
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {}

/// The error of a decoder may quote the reply. When displayed, it is escaped and truncated.
#[tokio::test(start_paused = true)]
async fn decode_errors_that_quote_the_reply_are_escaped() {
    let (client, _driver, mut server) = greeted(ClientConfig::new()).await;
    let (reply, ()) = tokio::join!(client.request::<_, Strict>("m", &()).into_future(), async {
        server.expect("1 m null\n").await;
        server.send("1 ok {\"\\u001b[31m\\r\\nred\":1}\n").await;
    });
    let text = reply.unwrap_err().to_string();
    assert!(text.contains(r"\x1b[31m\r\nred"), "{text}");
    assert_fit_for_a_log(&text, "\u{1b}");
}

/// Regular lines log nothing above trace, with any subscriber. A handler's span exists only for
/// subscribers that enable it.
#[tokio::test(start_paused = true)]
async fn regular_traffic_logs_nothing_above_trace() {
    for (most, spans) in [(tracing::Level::INFO, 0), (tracing::Level::DEBUG, 20)] {
        let (captured, _guard) = capture(most);
        let server = PipeServer::start(Router::new().method("get", get));
        let (client, connection) = Client::new(server.connect_raw(256).io, ClientConfig::new());
        let driver = tokio::spawn(connection);
        client.connected().await.unwrap();
        settle().await;
        let before = captured.0.lock().unwrap().lines.len();
        let mut subscription = client.subscribe("t").await.unwrap();
        for n in 0..20 {
            assert_eq!(client.call("get", n.to_string()).await.unwrap(), n.to_string());
            server.publisher.publish("t", "x").await.unwrap();
            subscription.next().await.unwrap();
        }
        let lines = captured.0.lock().unwrap().lines.split_off(before);
        assert!(lines.iter().all(|(_, text)| text.starts_with("handler method=\"get\" id=")));
        assert_eq!(lines.len(), spans, "{lines:#?}");
        drop(subscription);
        client.close().await.unwrap();
        driver.await.unwrap().unwrap();
    }
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A call's trace context reaches the span of its handler, inline or in a task, and the handler.
#[tokio::test(start_paused = true)]
async fn a_trace_reaches_the_handler() {
    let (captured, _guard) = capture(tracing::Level::TRACE);
    let work = async |request: Request| {
        tracing::info!(target: "seen", "working");
        let attributes = request.attributes.as_attributes();
        Reply::ok(attributes.get("trace").unwrap_or("-").to_owned())
    };
    let router = Router::new().method("a", work).method("b", handler(work).spawned());
    let server = PipeServer::start(router);
    let (client, connection) = Client::new(server.connect_raw(256).io, ClientConfig::new());
    tokio::spawn(connection);
    let parent: TraceParent = TRACE.parse().unwrap();
    assert_eq!(client.call("a", "").trace(parent).await.unwrap(), TRACE);
    assert_eq!(client.call("b", "").trace(parent).await.unwrap(), TRACE);
    assert_eq!(client.call("a", "").await.unwrap(), "-");
    let seen = captured.0.lock().unwrap();
    let spans = seen.spans.iter().filter(|(_, span)| span.starts_with("handler"));
    assert_eq!(spans.count(), 3);
    let within = seen.within.iter();
    let working: Vec<_> = within.filter_map(|within| within.strip_prefix("handler ")).collect();
    let expected = [
        format!("method=\"a\" id=1 trace={TRACE}"),
        format!("method=\"b\" id=2 trace={TRACE}"),
        "method=\"a\" id=3".to_owned(),
    ];
    assert_eq!(working, expected);
}

/// [S2.10] A malformed trace context is refused and its handler not started. `/publish` accepts
/// none.
#[tokio::test(start_paused = true)]
async fn a_malformed_trace_context_is_refused() {
    let config = ServerConfig::new().allow_publish(true);
    let server = PipeServer::with_config(Router::new().method("get", get), config);
    let mut peer = server.connect().await;
    peer.ask(format!("1 get;trace={TRACE} a\n"), "1 ok a\n").await;
    peer.ask(format!("2 get;trace={TRACE}0 a\n"), "2 no bad-attribute trace\n").await;
    peer.ask("3 get;trace=1 a\n", "3 no bad-attribute trace\n").await;
    peer.ask("* get;trace=1 a\n", "* /error bad-attribute trace\n").await;
    peer.ask(format!("4 /publish;trace={TRACE} t\n"), "4 no unknown-attribute trace\n").await;
}

/// `Debug` output shows the length of a payload, not its content. SECURITY.md, threat 34.
#[test]
fn debug_shows_no_payload() {
    let reply = format!("{:?}", Reply::ok("secret"));
    let line = bellwire::protocol::Line::parse(b"1 /auth token secret").unwrap();
    let line = format!("{line:?}");
    assert!(!reply.contains("secret") && reply.contains('6'), "{reply}");
    assert!(!line.contains("secret") && line.contains("12 bytes"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_printed_without_its_payload() {
    let show = async |request: Request, _: Publisher| format!("{request:?}");
    let server = PipeServer::start(Router::new().method("m", show));
    let mut peer = server.connect().await;
    peer.send("1 m secret\n").await;
    let line = peer.line().await.unwrap();
    assert!(line.contains("6 bytes") && !line.contains("secret"), "{line}");
}

/// A transport whose write fails, upon which there is something to read.
struct Refusing {
    text: &'static [u8],
    last: &'static [u8],
    failed: bool,
}

impl AsyncRead for Refusing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let text = match self.failed {
            false => std::mem::take(&mut self.text),
            true => std::mem::take(&mut self.last),
        };
        if text.is_empty() {
            return Poll::Pending;
        }
        buffer.put_slice(text);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Refusing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.failed = true;
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A server sends `/bye` or a reply, and closes. Its lines are read although the write failed, and
/// callers get them.
#[tokio::test(start_paused = true)]
async fn lines_read_after_a_failed_write_count() {
    let run = async |last: &'static str| {
        let io = Refusing { text: HELLO.as_bytes(), last: last.as_bytes(), failed: false };
        let (client, connection) = Client::new(io, ClientConfig::new());
        let driver = tokio::spawn(connection);
        let outcome = client.call("m", "").await;
        (outcome, driver.await.unwrap().unwrap_err())
    };
    let (outcome, error) = run("* /bye;last=0 shutdown\n").await;
    let CallError::Refused { reason, .. } = outcome.unwrap_err() else { panic!("not refused") };
    assert_eq!(reason.code, Code::CLOSING);
    assert!(matches!(&error, ConnectionError::Bye(reason) if reason.code == Code::SHUTDOWN));

    let (outcome, error) = run("* /bye;last=1 shutdown\n").await;
    assert_eq!(outcome.unwrap_err(), CallError::Unknown(Unknown::Lost(error.clone())));
    assert!(matches!(error, ConnectionError::Bye(_)));

    let (outcome, error) = run("1 ok done\n").await;
    assert_eq!(outcome.unwrap(), "done");
    assert!(matches!(error, ConnectionError::Io { kind: io::ErrorKind::BrokenPipe, .. }));
}

/// Event streams that were created before the end end with `Ended`. Those created after it end at
/// once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_streams_created_around_the_end_terminate() {
    for _ in 0..50 {
        let (client, driver, server) = greeted(ClientConfig::new()).await;
        let asking = tokio::task::spawn_blocking({
            let client = client.clone();
            move || {
                let mut all = Vec::new();
                while !driver.is_finished() && all.len() < 10_000 {
                    all.push(client.events());
                }
                all.push(client.events());
                all
            }
        });
        drop(server);
        let all = asking.await.unwrap();
        let mut is_over = false;
        for mut events in all {
            let first = tokio::time::timeout(Duration::from_secs(30), events.next()).await.unwrap();
            is_over |= first.is_none();
            let end = ConnectionEvent::Ended(ConnectionError::ClosedByPeer);
            assert_eq!(first, (!is_over).then_some(end));
            assert_eq!(events.next().await, None);
        }
    }
}

/// [C2.4] A `/subscribe` is in flight when the connection ends: its caller gets the same error as
/// for a call.
#[tokio::test(start_paused = true)]
async fn a_pending_subscribe_ends_like_a_call() {
    let subscribing = |client: &Client| {
        let client = client.clone();
        tokio::spawn(async move { client.subscribe("t").await.map(drop) })
    };
    let closed = ConnectionError::ClosedByPeer;

    // Offered, and lost.
    let (client, _driver, mut server) = greeted(ClientConfig::new()).await;
    let subscribe = subscribing(&client);
    server.expect("1 /subscribe t\n").await;
    drop(server);
    let lost = CallError::Unknown(Unknown::Lost(closed.clone()));
    assert_eq!(subscribe.await.unwrap().unwrap_err(), lost);

    // Above the line that was drawn.
    let (client, _driver, mut server) = greeted(ClientConfig::new()).await;
    let subscribe = subscribing(&client);
    server.expect("1 /subscribe t\n").await;
    server.send("* /bye;last=0 shutdown\n").await;
    drop(server);
    let error = subscribe.await.unwrap().unwrap_err();
    assert!(matches!(&error, CallError::Refused { .. }), "{error:?}");
    assert!(error.is_safe_to_retry());

    // Never offered: the server does not say hello.
    let (near, far) = tokio::io::duplex(1_024);
    let (client, connection) = Client::new(near, ClientConfig::new());
    tokio::spawn(connection);
    let subscribe = subscribing(&client);
    settle().await;
    drop(far);
    let why = "it closed before it sent /hello; does it expect TLS?";
    let unsent = CallError::NotSent(NotSent::Lost(ConnectionError::Protocol(why.into())));
    assert_eq!(subscribe.await.unwrap().unwrap_err(), unsent);
}

// Which client is it?

const LATE: Duration = Duration::from_millis(50);

/// What the open sessions say of which this holds.
fn stats_of(server: &PipeServer, is_it: impl Fn(&SessionStats) -> bool) -> Vec<SessionStats> {
    server.handle.sessions().iter().map(|session| session.stats()).filter(is_it).collect()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A subscription that ended with a full window no longer counts in `longest_lag`.
#[tokio::test(start_paused = true)]
async fn an_ended_subscription_does_not_count_as_lagging() {
    let server = PipeServer::with_config(Router::new(), ServerConfig::new().idle(None));
    let mut peer = server.connect().await;
    for (id, line) in [(1, "/subscribe;window=1 t"), (2, "/subscribe u")] {
        peer.send(format!("{id} {line}\n")).await;
        assert!(peer.line().await.unwrap().starts_with(&format!("{id} ok;")));
    }
    for _ in 0..3 {
        server.publisher.publish("t", "x").await.unwrap();
    }
    peer.expect("* t 1 x\n").await;
    tokio::time::advance(secs(5)).await;
    settle().await;
    assert!(server.handle.stats().longest_lag >= secs(4));
    peer.send("3 /unsubscribe t\n").await;
    assert!(peer.line().await.unwrap().starts_with("3 ok;"));
    settle().await;
    assert_eq!(server.handle.stats().longest_lag, Duration::ZERO);
}

/// The statistics identify a slow client by its unread and its unacknowledged data, and by how long
/// that has been so.
#[tokio::test(start_paused = true)]
async fn stats_identify_a_slow_client() {
    let config =
        ServerConfig::new().notification_mark(2_000).write_progress(secs(3_600)).idle(None);
    let server = PipeServer::with_config(Router::new(), config.lease(secs(3_600)));
    let mut quick = server.connect().await;
    let mut slow = server.connect_raw(256);
    slow.hello().await;
    let mut silent = server.connect().await;
    for (peer, terms) in [(&mut quick, ";window=9"), (&mut silent, ";window=1")] {
        peer.send(format!("1 /subscribe{terms} t\n")).await;
        assert!(peer.line().await.unwrap().starts_with("1 ok;"));
    }
    slow.send("1 /subscribe t\n").await;
    assert!(slow.line().await.unwrap().starts_with("1 ok;"));
    assert_eq!(stats_of(&server, |stats| stats.subscriptions == 1).len(), 3);
    tokio::time::advance(secs(5)).await;
    assert_eq!(server.handle.stats().longest_lag, Duration::ZERO);
    // 9 messages of 1 kB: one reads, one does not, one does not acknowledge.
    for number in 1..=9 {
        server.publisher.publish("t", "x".repeat(1_000)).await.unwrap();
        assert!(quick.line().await.unwrap().starts_with(&format!("* t {number} x")));
    }
    quick.send("2 /renew\n").await;
    let renewed = quick.line().await.unwrap();
    let position = renewed.trim_end().rsplit("t:").next().unwrap();
    quick.ask(format!("3 /ack t {position}\n"), "3 ok\n").await;
    settle().await;
    tokio::time::advance(secs(7)).await;
    settle().await;
    let behind = stats_of(&server, |stats| stats.lag > Duration::ZERO);
    assert_eq!(behind.len(), 2, "{behind:?}");
    for stats in &behind {
        assert!((secs(7)..secs(7) + LATE).contains(&stats.lag), "{stats:?}");
        assert!(stats.connected >= secs(12), "{stats:?}");
    }
    let stuck: Vec<_> = behind.iter().filter(|stats| stats.stuck > Duration::ZERO).collect();
    assert_eq!(stuck.len(), 1);
    assert!(stuck[0].unwritten_bytes >= 2_000 && stuck[0].held_bytes >= 2_000, "{stuck:?}");
    assert!((secs(7)..secs(7) + LATE).contains(&server.handle.stats().longest_lag));
    // A subscriber that reads and acknowledges keeps up again.
    for number in 1..=9 {
        assert!(slow.line().await.unwrap().starts_with(&format!("* t {number} x")));
        assert!(silent.line().await.unwrap().starts_with(&format!("* t {number} x")));
        let next = position.replace(":10", &format!(":{}", number + 1));
        silent.send(format!("* /ack t {next}\n")).await;
        settle().await;
    }
    settle().await;
    let all = stats_of(&server, |_| true);
    assert!(all.iter().all(|stats| stats.lag.is_zero() && stats.stuck.is_zero()), "{all:?}");
    assert_eq!(server.handle.stats().longest_lag, Duration::ZERO);
}

/// The statistics identify a client that holds memory by its payloads in flight and its parked
/// lines.
#[tokio::test(start_paused = true)]
async fn stats_identify_a_client_that_holds_memory() {
    let router = Router::new().method("hold", async |_: Bytes| std::future::pending::<()>().await);
    let server = PipeServer::with_config(router, ServerConfig::new().in_flight(2));
    let mut peers = Vec::new();
    for size in [10, 10_000, 1_000] {
        let mut peer = server.connect().await;
        let payload = "x".repeat(size);
        for id in 1..=4 {
            peer.send(format!("{id} hold {payload}\n")).await;
        }
        peers.push(peer);
    }
    settle().await;
    let mut sessions = server.handle.sessions();
    sessions.sort_by_key(|session| std::cmp::Reverse(session.stats().held_bytes));
    let held: Vec<_> = sessions.iter().map(|session| session.stats().held_bytes).collect();
    assert!(held[0] >= 40_000 && (4_000..20_000).contains(&held[1]) && held[2] < 4_000, "{held:?}");
    assert!(sessions.iter().all(|session| session.stats().in_flight == 2));
    let stats = server.handle.stats();
    assert_eq!(stats.largest_held_bytes, held[0]);
    assert_eq!(stats.buffered_bytes, held.iter().sum::<usize>());
    let largest = sessions.remove(0);
    largest.close(Code::from_static("too-much"));
    settle().await;
    peers.remove(1);
    // What runs ends in the time of a handler.
    tokio::time::advance(secs(31)).await;
    settle().await;
    tokio::time::advance(secs(2)).await;
    settle().await;
    let left = largest.stats();
    assert_eq!((left.held_bytes, left.in_flight, left.unwritten_bytes), (0, 0, 0));
    assert_eq!(server.handle.stats().connections, 2);
}

/// Wrong credentials are counted. Credentials that could not be checked are not.
#[tokio::test(start_paused = true)]
async fn refused_tokens_are_counted() {
    let tokens = || TokenAuthenticator::new().token("secret", Principal::new("ada"));
    let server = PipeServer::built(Router::new(), |server| server.authenticator(tokens()));
    let mut peer = server.connect().await;
    peer.ask("1 /auth token wrong\n", "1 no unauthenticated\n").await;
    peer.ask("2 /auth nosuch wrong\n", "2 no unauthenticated no such scheme\n").await;
    peer.ask("3 /auth token secret\n", "3 ok\n").await;
    assert_eq!(server.handle.stats().auth_refused, 2);
}

#[cfg(feature = "metrics")]
mod metrics_feature {
    use bellwire::metrics::{Handlers, describe, record_client, record_server};
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::{
        io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
        net::TcpStream,
        process::Command,
    };

    use super::*;

    /// The statistics have their documented names, and no label that a peer chose.
    #[tokio::test(start_paused = true)]
    async fn stats_are_exported_under_documented_names() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let _guard = ::metrics::set_default_local_recorder(&recorder);
        describe();
        let router = Router::new().method("get", get).layer(Handlers::new());
        let server = PipeServer::start(router);
        let (client, connection) = Client::new(server.connect_raw(256).io, ClientConfig::new());
        tokio::spawn(connection);
        for payload in ["a", "b", ""] {
            drop(client.call("get", payload).await);
        }
        client.call("made-up", "").await.unwrap_err();
        record_server("s", &server.handle.stats());
        record_client("c", &client.stats());
        record_client("c", &client.stats());
        let text = recorder.handle().render();
        for line in [
            "bellwire_server_connections{server=\"s\"} 1",
            "bellwire_server_connections_total{server=\"s\",result=\"accepted\"} 1",
            "bellwire_server_buffered_bytes{server=\"s\"} 0",
            "bellwire_server_retained_bytes{server=\"s\"} 0",
            "bellwire_server_largest_held_bytes{server=\"s\"} 0",
            "bellwire_server_longest_lag_seconds{server=\"s\"} 0",
            "bellwire_server_auth_refused_total{server=\"s\"} 0",
            "bellwire_server_started_total{server=\"s\"} 3",
            "bellwire_server_replies_total{server=\"s\",outcome=\"no\"} 1",
            "bellwire_client_requests_total{client=\"c\"} 4",
            "bellwire_client_replies_total{client=\"c\",outcome=\"ok\"} 2",
            "bellwire_client_unmatched_replies_total{client=\"c\",kind=\"late\"} 0",
            "bellwire_handler_seconds_count{method=\"get\",outcome=\"ok\"} 2",
            "bellwire_handler_seconds_count{method=\"get\",outcome=\"err\"} 1",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in\n{text}");
        }
        assert!(!text.contains("made-up"), "{text}");
        let described = |line: &str| line.starts_with("bellwire_");
        let names: Vec<_> = text.lines().filter(|line| described(line)).collect();
        let mut typed = names.iter().map(|line| line.split(['{', ' ']).next().unwrap());
        assert!(typed.all(|name| {
            let name = name.trim_end_matches("_count").trim_end_matches("_sum");
            text.contains(&format!("# HELP {name} "))
        }));
    }

    /// `examples/prometheus.rs`, as a process of its own.
    #[tokio::test]
    async fn the_prometheus_example_serves() {
        let deps = std::env::current_exe().unwrap();
        let program = deps.ancestors().nth(2).unwrap().join("examples/prometheus");
        let mut example = Command::new(program)
            .args(["127.0.0.1:0", "127.0.0.1:0"])
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("is it built? cargo build --examples");
        let mut lines = BufReader::new(example.stdout.take().unwrap()).lines();
        let mut address = async |prefix: &str| {
            let line = lines.next_line().await.unwrap().unwrap();
            line.strip_prefix(prefix).unwrap().to_owned()
        };
        let (server, metrics) = (address("listening on ").await, address("metrics on ").await);
        let client = Client::connect(server).await.unwrap();
        assert_eq!(client.call("echo", "a").await.unwrap(), "a");
        let mut scrape = TcpStream::connect(metrics).await.unwrap();
        scrape.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut text = String::new();
        scrape.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        let replies = "bellwire_server_replies_total{server=\"example\",outcome=\"ok\"} 1";
        assert!(text.contains(replies), "{text}");
        assert!(text.contains("bellwire_handler_seconds"), "{text}");
    }
}
