//! The end of a server in two steps: what it still takes, what it finishes, and that it ends.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use bellwire::{
    Client, ClientConfig, ConnectionError, ConnectionEvent, Failure, NotSent, PublishError,
    Publisher, Random, Router, Server, ServerConfig, Session, Streamed, blocking, handler,
    protocol::Code,
    server::{Action, PeerAddr, Principal, Stopping, Verdict},
};
use bellwire_testkit::{PipeServer, RawPeer, load, process};
use futures::StreamExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet, yield_now},
    time::{Instant, advance, sleep, timeout_at},
};

const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=2;lease=60\n";

const SECOND: Duration = Duration::from_secs(1);

fn router() -> Router {
    Router::new()
        .method("echo", async |text: String| text)
        .method("forever", async || std::future::pending::<()>().await)
        .method("task", handler(async || std::future::pending::<()>().await).spawned())
}

type Driver = JoinHandle<Result<(), ConnectionError>>;

/// A client that was greeted, its driver's task, and the server's end of its connection.
async fn greeted() -> (Client, Driver, RawPeer<DuplexStream>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (client, connection) = Client::new(near, ClientConfig::default());
    let (driver, mut server) = (tokio::spawn(connection), RawPeer::new(far));
    server.send(HELLO).await;
    client.connected().await.unwrap();
    (client, driver, server)
}

/// [S18.1] [S18.2] During the grace period every request is handled. The `/bye` with `last` follows
/// at its end.
#[tokio::test(start_paused = true)]
async fn the_grace_period_accepts_every_kind_of_request() {
    let config = ServerConfig::new().grace(5 * SECOND).allow_publish(true);
    let mut server = PipeServer::with_config(router(), config);
    let mut peer = server.connect().await;
    let mut idle = server.connect().await;
    server.stop();
    peer.expect("* /bye shutdown\n").await;
    idle.expect("* /bye shutdown\n").await;
    advance(Duration::from_millis(4_900)).await;
    peer.ask("1 echo a\n2 forever\n* echo b\n", "1 ok a\n").await;
    peer.send("3 /subscribe t\n4 /publish t x\n").await;
    assert_eq!(peer.attribute("next").await, "1");
    assert_eq!(peer.attribute("seq").await, "1");
    peer.expect("* t 1 x\n").await;
    idle.expect_silence().await;
    advance(Duration::from_millis(200)).await;
    idle.expect("* /bye;last=0 shutdown\n").await;
    idle.expect_closed().await;
    peer.expect("* /bye;last=4 shutdown\n").await;
    peer.ask("5 echo c\n* /cancel 2\n", "5 no closing\n2 cut cancelled\n").await;
    peer.expect_closed().await;
}

/// A request that waits for a place when the `/bye` with `last` is written is above that `last`.
#[tokio::test(start_paused = true)]
async fn requests_waiting_for_a_place_are_refused_by_the_final_bye() {
    let mut server = PipeServer::with_config(router(), ServerConfig::new().in_flight(1));
    let mut peer = server.connect().await;
    peer.send("1 forever\n2 echo a\n3 echo b\n").await;
    server.stop();
    peer.expect("* /bye shutdown\n* /bye;last=1 shutdown\n2 no closing\n3 no closing\n").await;
    peer.expect("1 cut closing\n").await;
    peer.expect_closed().await;
}

/// Sessions get their `/bye` in the order of their ids: the same for the same seed, independent of
/// the order of the table.
#[tokio::test(start_paused = true)]
async fn byes_are_sent_in_a_reproducible_order() {
    let mut server = PipeServer::built(router(), |server| server.random(Random::seeded(7)));
    let ((say, said), mut heard) = (mpsc::channel(), JoinSet::new());
    for _ in 0..16 {
        let mut peer = server.connect_raw(64 * 1024);
        let session = peer.attribute("session").await;
        let say = say.clone();
        heard.spawn(async move {
            peer.expect("* /bye shutdown\n").await;
            say.send(session).unwrap();
            peer
        });
    }
    server.stop();
    let _peers = heard.join_all().await;
    drop(say);
    let order: Vec<_> = said.iter().collect();
    assert!(order.len() == 16 && order.is_sorted(), "{order:?}");
}

/// The drain does not wait without connections, or for peers that sent `/quit` or half-closed.
#[tokio::test(start_paused = true)]
async fn a_grace_ends_with_its_last_connection() {
    let begun = Instant::now();
    PipeServer::start(router()).ended().await;
    assert_eq!(begun.elapsed(), Duration::ZERO);

    let mut server = PipeServer::start(router());
    let (mut quitting, mut closing) = (server.connect().await, server.connect().await);
    server.stop();
    quitting.ask("1 /quit\n", "* /bye shutdown\n1 ok\n").await;
    closing.send("1 echo a\n").await;
    closing.half_close().await;
    closing.expect("* /bye shutdown\n1 ok a\n").await;
    closing.expect_closed().await;
    quitting.expect_closed().await;
    drop(quitting);
    server.ended().await;
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
}

/// The end comes after the grace period, the drain time, and one second to write the cut replies.
#[tokio::test(start_paused = true)]
async fn a_drain_ends_whatever_peers_and_handlers_do() {
    for (lines, pipe) in [
        ("1 forever\n", 65_536),
        ("1 task\n", 65_536),
        ("1 forever\n2 task\n* forever\n3 forever\n", 65_536),
        // Peers that never read: their hello is not even out.
        ("", 1),
        ("1 forever\n2 echo aaaaaaaaaaaaaaaaaaaaaaa\n", 64),
        // What is published never gets out.
        ("1 /subscribe t\n", 64),
        // A line that does not end.
        ("1 echo aaa", 65_536),
    ] {
        let config = ServerConfig::new().drain(3 * SECOND).in_flight(3).reply_mark(64);
        let server = PipeServer::with_config(router(), config);
        let mut peer = server.connect_raw(pipe);
        peer.send(lines).await;
        settle().await;
        for _ in 0..10 {
            server.publisher.publish("t", "x".repeat(100)).await.unwrap();
        }
        let begun = Instant::now();
        server.ended().await;
        assert!(begun.elapsed() <= 5 * SECOND, "{lines}: {:?}", begun.elapsed());
    }
}

/// Other tasks have their turns.
async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

/// Published messages are delivered to a reader, however slow, before the connection is closed.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_every_message_before_the_close() {
    // The pipe takes more at once than the server has ready for it.
    let config = ServerConfig::new().notification_mark(1_000);
    let mut server = PipeServer::with_config(router(), config);
    let mut peer = server.connect_raw(8_000);
    peer.hello().await;
    peer.ask("1 /subscribe t\n", "").await;
    peer.attribute("next").await;
    let text = "x".repeat(1_000);
    for _ in 0..500 {
        server.publisher.publish("t", text.clone()).await.unwrap();
    }
    server.stop();
    // The line is drawn while the connection takes nothing.
    settle().await;
    advance(2 * SECOND).await;
    settle().await;
    let (mut read, mut chunk) = (Vec::new(), [0; 8_000]);
    loop {
        match peer.io.read(&mut chunk).await.unwrap() {
            0 => break,
            count => read.extend_from_slice(&chunk[..count]),
        }
    }
    let read = String::from_utf8(read).unwrap();
    assert!(read.contains("* /bye;last=1 shutdown\n"));
    let delivered = read.lines().filter_map(|line| line.strip_prefix("* t ")?.split(' ').next());
    assert!(delivered.eq((1..=500).map(|number| number.to_string())), "{} bytes", read.len());
    server.ended().await;
}

/// A method that publishes its payload to `t` after a number of milliseconds.
async fn later(publisher: Publisher, payload: String) -> Result<String, Failure> {
    let millis = payload.split(' ').next().and_then(|millis| millis.parse().ok());
    sleep(Duration::from_millis(millis.unwrap_or_default())).await;
    let failed = |error: PublishError| Failure::new(Code::from_static("failed"), error.to_string());
    let published = publisher.publish("t", payload).await.map_err(failed)?;
    Ok(published.sequence.to_string())
}

async fn subscribe(peer: &mut RawPeer<DuplexStream>, terms: &str) -> String {
    peer.send(format!("1 /subscribe{terms} t\n")).await;
    peer.attribute("epoch").await
}

/// [S18.6] Subscribers stay connected while requests of other connections are being finished.
#[tokio::test(start_paused = true)]
async fn messages_published_during_a_drain_are_delivered() {
    let mut server = PipeServer::start(Router::new().method("later", later));
    let (mut asking, mut listening) = (server.connect().await, server.connect().await);
    subscribe(&mut listening, "").await;
    asking
        .ask("1 later 3000 a\n2 later 9000 b\n* later 9500 c\n3 /renew\n", "3 ok;lease=60\n")
        .await;
    let begun = Instant::now();
    server.stop();
    listening.expect("* /bye shutdown\n* /bye;last=1 shutdown\n* t 1 3000 a\n").await;
    listening.expect("* t 2 9000 b\n* t 3 9500 c\n").await;
    listening.expect_closed().await;
    asking.expect("* /bye shutdown\n* /bye;last=3 shutdown\n1 ok 1\n2 ok 2\n").await;
    asking.expect_closed().await;
    drop((asking, listening));
    server.ended().await;
    let took = begun.elapsed();
    assert!((Duration::from_millis(9_500)..10 * SECOND).contains(&took), "{took:?}");
}

/// With nothing in flight, the drain ends with the grace period.
#[tokio::test(start_paused = true)]
async fn idle_subscribers_do_not_prolong_a_drain() {
    let mut server = PipeServer::start(router());
    let mut peer = server.connect().await;
    subscribe(&mut peer, "").await;
    let begun = Instant::now();
    server.stop();
    peer.expect("* /bye shutdown\n* /bye;last=1 shutdown\n").await;
    peer.expect_closed().await;
    drop(peer);
    server.ended().await;
    assert!(begun.elapsed() < SECOND + Duration::from_millis(50), "{:?}", begun.elapsed());
}

/// [S4.12] [S18.6] After the `/bye` with `last` a client may not renew. Neither the lease nor the
/// idle limit ends what it waits for.
#[tokio::test(start_paused = true)]
async fn neither_lease_nor_idle_limit_applies_after_the_final_bye() {
    let config = ServerConfig::new().lease(3 * SECOND).idle(4 * SECOND);
    let mut server = PipeServer::with_config(Router::new().method("later", later), config);
    let (mut asking, mut listening) = (server.connect().await, server.connect().await);
    subscribe(&mut listening, "").await;
    asking.send("1 later 8000 a\n").await;
    server.stop();
    listening.expect("* /bye shutdown\n* /bye;last=1 shutdown\n* t 1 8000 a\n").await;
    listening.expect_closed().await;
}

/// [S18.8] Acks are awaited within the drain time. Messages that are not acknowledged by then are
/// reported.
#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_acks_and_reports_what_is_left() {
    for acks in [true, false] {
        let mut server = PipeServer::start(router());
        let mut peer = server.connect().await;
        let e = subscribe(&mut peer, ";window=1").await;
        for payload in ["a", "b", "c"] {
            server.publisher.publish("t", payload).await.unwrap();
        }
        peer.expect("* t 1 a\n").await;
        let begun = Instant::now();
        server.stop();
        peer.expect("* /bye shutdown\n* /bye;last=1 shutdown\n").await;
        if acks {
            sleep(5 * SECOND).await;
            peer.ask(format!("* /ack t {e}:2\n"), "* t 2 b\n").await;
            // The last one needs no ack.
            peer.ask(format!("* /ack t {e}:3\n"), "* t 3 c\n").await;
        } else {
            peer.expect(format!("* /end;head=3 t shutdown {e}:2\n")).await;
        }
        peer.expect_closed().await;
        drop(peer);
        server.ended().await;
        let took = begun.elapsed();
        assert!(took < if acks { 7 * SECOND } else { 12 * SECOND }, "{took:?}");
    }
}

/// [S18.7] If a handler outlives the drain time, its publish fails.
#[tokio::test(start_paused = true)]
async fn publishing_fails_after_the_drain_time() {
    let config = ServerConfig::new().drain(2 * SECOND);
    let mut server = PipeServer::with_config(Router::new().method("later", later), config);
    let (mut asking, mut listening) = (server.connect().await, server.connect().await);
    subscribe(&mut listening, "").await;
    asking.send("1 later 2900 a\n2 later 3100 b\n").await;
    server.stop();
    asking.expect("* /bye shutdown\n* /bye;last=2 shutdown\n1 ok 1\n2 cut closing\n").await;
    listening.expect("* /bye shutdown\n* /bye;last=1 shutdown\n* t 1 2900 a\n").await;
    listening.expect_closed().await;
}

/// After the server has ended, or its future was dropped, a publish fails.
#[tokio::test(start_paused = true)]
async fn publishing_to_a_server_that_has_ended_fails() {
    let server = PipeServer::start(router());
    let publisher = server.publisher.clone();
    publisher.publish("t", "a").await.unwrap();
    server.ended().await;
    assert_eq!(publisher.publish("t", "b").await, Err(PublishError::Closed));
    assert_eq!(publisher.close("t").await, Err(PublishError::Closed));
    let server = PipeServer::start(router());
    let publisher = server.publisher.clone();
    settle().await;
    drop(server);
    settle().await;
    assert_eq!(publisher.publish("t", "b").await, Err(PublishError::Closed));
}

/// A subscriber by hand: what it was given of a topic, and where what it was not given begins.
#[derive(Default)]
struct Given {
    epoch: String,
    first: u64,
    /// All below was delivered or named.
    next: u64,
    delivered: u64,
    /// The last number of an `/end`.
    head: Option<u64>,
}

/// Reads to the end in pieces of this many bytes, with a pause after each. Acknowledges each number
/// if requested.
async fn listen<T>(
    mut peer: RawPeer<T>,
    topic: &'static str,
    pause: Duration,
    window: Option<u64>,
) -> Given
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let terms = window.map(|window| format!(";window={window}")).unwrap_or_default();
    peer.send(format!("1 /subscribe{terms} {topic}\n")).await;
    let accepted = peer.line().await.unwrap();
    let attribute = |line: &str, key: &str| -> Option<String> {
        let head = line.split(' ').nth(1)?;
        head.split(';').find_map(|one| one.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
    };
    let epoch = attribute(&accepted, "epoch").unwrap();
    let next = attribute(&accepted, "next").unwrap().parse().unwrap();
    let mut given = Given { epoch, first: next, next, ..Given::default() };
    while let Some(line) = peer.line().await {
        let words: Vec<_> = line.trim_end().split(' ').collect();
        match words[1] {
            word if word == topic => {
                let number: u64 = words[2].parse().unwrap();
                assert_eq!(number, given.next, "{line}");
                (given.next, given.delivered) = (number + 1, given.delivered + 1);
                if window.is_some() {
                    // The server may have closed behind it.
                    let ack = format!("* /ack {topic} {}:{}\n", given.epoch, given.next);
                    let _ = peer.io.write_all(ack.as_bytes()).await;
                }
            }
            "/gap" => {
                assert_eq!(words[4].parse::<u64>().unwrap(), given.next);
                given.next = words[5].parse::<u64>().unwrap() + 1;
            }
            word if word.starts_with("/end") => {
                assert_eq!(words[4], format!("{}:{}", given.epoch, given.next));
                given.head = attribute(&line, "head").map(|head| head.parse().unwrap());
            }
            _ => {}
        }
        if pause > Duration::ZERO {
            sleep(pause).await;
        }
    }
    given
}

/// [S18.6] [S18.7] [S18.8] Every message whose publish was confirmed is delivered to every
/// subscriber, or reported: in a gap, or by the `/end` with the position. By seed.
#[tokio::test(start_paused = true)]
async fn every_message_of_a_drain_is_delivered_or_reported() {
    let mut totals = [0; 3];
    for seed in 0..60 {
        let (published, delivered, named) = drain_under_load(seed).await;
        totals = [totals[0] + published, totals[1] + delivered, totals[2] + named];
    }
    println!("{totals:?} published, delivered, named");
    assert!(totals[0] > 5_000 && totals[1] > 5_000 && totals[2] > 0, "{totals:?}");
}

async fn drain_under_load(seed: u64) -> (u64, u64, u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let config = ServerConfig::new()
        .allow_publish(true)
        .notification_mark(500)
        .retained_messages(if seed.is_multiple_of(3) { 20 } else { 1_000 })
        .drain(Duration::from_millis(rng.u64(1..4_000)));
    let mut server = PipeServer::with_config(Router::new().method("later", later), config);
    let mut listeners = JoinSet::new();
    for (pause, window) in
        [(0, None), (0, Some(rng.u64(1..9))), (rng.u64(1..12), None), (rng.u64(1..12), Some(1))]
    {
        // What is in it at the end is read within the last second.
        let mut peer = server.connect_raw(64);
        peer.hello().await;
        listeners.spawn(listen(peer, "t", Duration::from_millis(pause), window));
    }
    settle().await;
    let mut publishers = JoinSet::new();
    for _ in 0..3 {
        publishers.spawn(ask(server.connect().await, rng.fork()));
    }
    publishers.spawn(publish(server.publisher.clone(), rng.fork()));
    sleep(Duration::from_millis(rng.u64(..500))).await;
    server.stop();
    let published: Vec<_> = publishers.join_all().await.into_iter().flatten().collect();
    let (mut delivered, mut named) = (0, 0);
    for given in listeners.join_all().await {
        let last = published.iter().copied().max().unwrap_or_default();
        let is_all = given.next > last || given.head.is_some_and(|head| head >= last);
        assert!(is_all, "seed {seed}: {last} published, {} and {:?}", given.next, given.head);
        delivered += given.delivered;
        let end = given.head.map_or(given.next, |head| head + 1);
        named += end - given.first - given.delivered;
    }
    server.ended().await;
    (published.len() as u64, delivered, named)
}

/// Makes calls and `/publish`es until the server refuses. Returns the confirmed numbers.
async fn ask(mut peer: RawPeer<DuplexStream>, mut rng: fastrand::Rng) -> Vec<u64> {
    let (mut told, mut id) = (Vec::new(), 0);
    loop {
        let mut lines = String::new();
        for _ in 0..rng.u64(1..5) {
            id += 1;
            match rng.bool() {
                true => lines += &format!("{id} later {} x\n", rng.u64(..300)),
                false => lines += &format!("{id} /publish t x\n"),
            }
        }
        if peer.io.write_all(lines.as_bytes()).await.is_err() {
            break;
        }
        let pause = Duration::from_millis(rng.u64(1..60));
        let end = Instant::now() + pause;
        while let Ok(line) = timeout_at(end, peer.line()).await {
            let Some(line) = line else { return told };
            let number = line.trim_end().rsplit(['=', ' ']).next().unwrap();
            if line.split(' ').nth(1).is_some_and(|word| word.starts_with("ok")) {
                told.push(number.parse().unwrap());
            }
        }
    }
    while let Some(line) = peer.line().await {
        let number = line.trim_end().rsplit(['=', ' ']).next().unwrap();
        if line.split(' ').nth(1).is_some_and(|word| word.starts_with("ok")) {
            told.push(number.parse().unwrap());
        }
    }
    told
}

/// Publishes from the server's own process until that fails.
async fn publish(publisher: Publisher, mut rng: fastrand::Rng) -> Vec<u64> {
    let mut told = Vec::new();
    while let Ok(published) = publisher.publish("t", "x").await {
        told.push(published.sequence);
        sleep(Duration::from_millis(rng.u64(..30))).await;
    }
    told
}

// What handlers learn of it.

/// An endless stream that ends on command, or never.
fn ticks(stopping: Option<Stopping>) -> Streamed<impl futures::Stream<Item = String>> {
    let ticks = futures::stream::unfold(0, async |n: u64| {
        sleep(SECOND).await;
        Some((n.to_string(), n + 1))
    });
    let stopping = async {
        match stopping {
            Some(stopping) => stopping.await,
            None => std::future::pending().await,
        }
    };
    Streamed(ticks.take_until(Box::pin(stopping)))
}

/// A stream that ends itself on the stop signal ends the drain. A stream that ignores it gets the
/// drain time.
#[tokio::test(start_paused = true)]
async fn a_stream_that_observes_the_stop_ends_the_drain_early() {
    let router = || {
        Router::new()
            .method("polite", async |stopping: Stopping| ticks(Some(stopping)))
            .method("session", async |session: Session| ticks(Some(session.stopping())))
            .method("deaf", async || ticks(None))
    };
    for (method, end, limit) in
        [("polite", "1 ok", 1_100), ("session", "1 ok", 1_100), ("deaf", "1 cut closing", 11_100)]
    {
        let mut server = PipeServer::start(router());
        let mut peer = server.connect().await;
        peer.ask(format!("1 {method}\n"), "1 more 0\n1 more 1\n").await;
        let begun = Instant::now();
        server.stop();
        let mut last = String::new();
        while let Some(line) = peer.line().await {
            if line.starts_with("1 ") {
                last = line;
            }
        }
        assert_eq!(last.trim_end(), end);
        drop(peer);
        server.ended().await;
        let took = begun.elapsed();
        assert!(took >= SECOND && took < Duration::from_millis(limit), "{method}: {took:?}");
    }
}

/// Handlers are notified of the stop when the grace period begins, not when it is over.
#[tokio::test(start_paused = true)]
async fn handlers_are_notified_when_the_grace_period_begins() {
    let (say, said) = mpsc::channel();
    let watch = move |stopping: Stopping| {
        let say = say.clone();
        async move {
            stopping.await;
            say.send(Instant::now()).unwrap();
        }
    };
    let config = ServerConfig::new().grace(5 * SECOND);
    let mut server = PipeServer::with_config(Router::new().method("watch", watch), config);
    let mut peer = server.connect().await;
    peer.send("1 watch\n").await;
    settle().await;
    let begun = Instant::now();
    server.stop();
    sleep(SECOND).await;
    assert_eq!(said.try_recv(), Ok(begun));
}

/// A list that its client has not read at the end of the drain still gets a terminal line.
#[tokio::test(start_paused = true)]
async fn an_unread_list_is_cut_at_the_end_of_the_drain() {
    let router = (0..500)
        .fold(Router::new(), |router, n| router.method(&format!("method-{n:0100}"), async || {}));
    let config = ServerConfig::new().reply_mark(1_000).drain(5 * SECOND);
    let mut server = PipeServer::with_config(router, config);
    let mut peer = server.connect_raw(256);
    peer.hello().await;
    peer.send("1 /methods\n").await;
    settle().await;
    server.stop();
    sleep(6 * SECOND + Duration::from_millis(100)).await;
    let mut last = String::new();
    while let Some(line) = peer.line().await {
        last = line;
    }
    assert_eq!(last, "1 cut closing\n");
}

/// A `/subscribe` whose authorization is pending is refused by the `/bye` with `last`, and does not
/// delay the drain.
#[tokio::test(start_paused = true)]
async fn the_final_bye_refuses_an_unauthorized_pending_subscribe() {
    let never = |_: &Principal, _: Action<'_>| Verdict::later(std::future::pending());
    let mut server = PipeServer::built(router(), |server| server.authorizer(never));
    let mut peer = server.connect().await;
    peer.send("1 /subscribe t\n").await;
    settle().await;
    let begun = Instant::now();
    server.stop();
    let mut lines = Vec::new();
    while let Some(line) = peer.line().await {
        lines.push(line);
    }
    assert!(lines.contains(&"1 no closing\n".to_owned()), "{lines:?}");
    assert!(begun.elapsed() < 2 * SECOND, "{:?}", begun.elapsed());
}

/// After the `/bye` with `last`, too many violations stop the reading, and no other `/bye` is sent.
#[tokio::test(start_paused = true)]
async fn violations_after_the_final_bye_cause_no_other_bye() {
    let config = ServerConfig::new().violations(1);
    let mut server = PipeServer::with_config(router(), config);
    let mut peer = server.connect().await;
    peer.send("1 forever\n").await;
    settle().await;
    server.stop();
    peer.expect("* /bye shutdown\n* /bye;last=1 shutdown\n").await;
    peer.send("2 \n3 \n4 \n5 \n").await;
    let mut refused = 0;
    while let Some(line) = peer.line().await {
        refused += usize::from(line.contains(" no malformed"));
        assert!(!line.contains("/bye"), "{line}");
    }
    assert_eq!(refused, 2);
}

/// The application closes it, the server rejects it, or it is dropped. A `/quit` or half-close of
/// the client does not count until the connection is gone.
#[tokio::test(start_paused = true)]
async fn handlers_are_notified_of_every_end_of_their_connection() {
    for how in ["close", "idle", "dropped", "half-close", "quit"] {
        let (say, said) = mpsc::channel();
        let watch = move |session: Session, stopping: Stopping| {
            let say = say.clone();
            async move {
                assert!(!stopping.is_stopping());
                let stopped = stopping.clone();
                tokio::spawn(async move {
                    let begun = Instant::now();
                    stopped.await;
                    say.send(("stopping", begun.elapsed())).unwrap();
                    session.closed().await;
                    say.send(("closed", begun.elapsed())).unwrap();
                });
                sleep(20 * SECOND).await;
                stopping.is_stopping().to_string()
            }
        };
        let config = ServerConfig::new().idle(5 * SECOND);
        let mut server =
            Some(PipeServer::with_config(Router::new().method("watch", watch), config));
        let mut peer = server.as_ref().unwrap().connect().await;
        peer.send("1 watch\n").await;
        settle().await;
        match how {
            "close" => {
                let sessions = server.as_ref().unwrap().handle.sessions();
                sessions[0].close(Code::from_static("test"));
            }
            "half-close" => peer.half_close().await,
            "quit" => peer.send("2 /quit\n").await,
            "dropped" => drop(server.take()),
            _ => {}
        }
        sleep(30 * SECOND).await;
        let (first, second) = (said.try_recv().unwrap(), said.try_recv().unwrap());
        assert_eq!((first.0, second.0), ("stopping", "closed"), "{how}");
        let seconds = (first.1.as_secs(), second.1.as_secs());
        let expected = match how {
            // The time of a drain, and one to read on.
            "close" => (0, 11),
            "idle" => (5, 16),
            "dropped" => (0, 0),
            _ => (20, 20),
        };
        assert!(
            seconds.0.abs_diff(expected.0) <= 1 && seconds.1.abs_diff(expected.1) <= 1,
            "{how}: {seconds:?}"
        );
    }
}

/// A handler that blocks its thread cannot be stopped, and the server does not wait for it.
#[tokio::test]
async fn a_blocking_handler_does_not_delay_the_end() {
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let block = move || _ = released.lock().unwrap().recv();
    let router = Router::new().method("block", blocking(block));
    let config = ServerConfig::new().grace(Duration::ZERO).drain(Duration::ZERO);
    let mut server = PipeServer::with_config(router, config);
    let mut peer = server.connect().await;
    peer.send("1 block\n2 /renew\n").await;
    peer.expect("2 ok;lease=60\n").await;
    server.stop();
    peer.expect("* /bye shutdown\n* /bye;last=2 shutdown\n").await;
    let answer = peer.line().await.unwrap();
    // Not started, if the runtime had no thread for it yet.
    assert!(["1 cut closing\n", "1 no closing\n"].contains(&&*answer), "{answer}");
    peer.expect_closed().await;
    drop(peer);
    server.ended().await;
    drop(release);
}

/// [C18.1] After the first `/bye` the client begins no request. Requests in flight and protocol
/// requests continue.
#[tokio::test(start_paused = true)]
async fn a_client_begins_nothing_after_the_first_bye() {
    let (client, driver, mut server) = greeted().await;
    let mut events = client.events();
    let (offers, ()) = tokio::join!(client.subscribe("offers").into_future(), async {
        server.expect("1 /subscribe offers\n").await;
        server.send("1 ok;epoch=e;next=1;head=0;lease=60\n").await;
    });
    let call = |client: &Client| {
        let client = client.clone();
        tokio::spawn(async move { client.call("m", "").await })
    };
    let (first, second) = (call(&client), call(&client));
    server.expect("2 m\n3 m\n").await;
    let waiting = call(&client);
    server.expect_silence().await;

    server.send("* /bye shutdown\n").await;
    let Some(ConnectionEvent::Leaving(reason)) = events.next().await else { panic!() };
    assert_eq!(reason.code.as_str(), "shutdown");
    let is_leaving =
        |error: NotSent| matches!(error, NotSent::Lost(ConnectionError::Bye(why)) if why == reason);
    let not_sent = |error: bellwire::CallError| match error {
        bellwire::CallError::NotSent(error) => is_leaving(error),
        _ => false,
    };
    assert!(not_sent(waiting.await.unwrap().unwrap_err()));
    assert!(not_sent(client.call("m", "").await.unwrap_err()));
    assert!(not_sent(client.publish("t", "").await.unwrap_err()));
    assert!(not_sent(client.subscribe("t").await.unwrap_err()));
    assert!(is_leaving(client.one_way("m", "").await.unwrap_err()));
    server.expect_silence().await;

    // The lease is kept, a call cancelled, a topic left; and what is in flight is answered.
    server.expect("4 /renew\n").await;
    second.abort();
    server.expect("* /cancel 3\n").await;
    drop(offers);
    server.expect("5 /unsubscribe offers\n").await;
    server.send("2 ok a\n* /bye;last=5 shutdown\n").await;
    assert_eq!(first.await.unwrap().unwrap(), "a");
    assert!(matches!(events.next().await, Some(ConnectionEvent::Bye(_))));
    drop(server);
    assert!(matches!(driver.await.unwrap(), Err(ConnectionError::Bye(_))));
}

/// A client that closes after the first `/bye` sends `/quit` as usual. A server that closes without
/// the second `/bye` counts as having sent it.
#[tokio::test]
async fn a_client_may_quit_after_the_first_bye() {
    let (client, _driver, mut server) = greeted().await;
    let mut events = client.events();
    server.send("* /bye shutdown\n").await;
    assert!(matches!(events.next().await, Some(ConnectionEvent::Leaving(_))));
    let (closed, ()) = tokio::join!(client.close(), async {
        server.expect("1 /quit\n").await;
        server.send("1 ok\n").await;
    });
    assert_eq!(closed, Ok(()));

    let (client, driver, mut server) = greeted().await;
    server.send("* /bye\n").await;
    drop(server);
    let Err(ConnectionError::Bye(reason)) = driver.await.unwrap() else { panic!() };
    assert_eq!(reason.code.as_str(), "closing");
    drop(client);
}

/// A peer that sends on after the `/bye` with `last` and reads slowly gets every reply: its
/// connection is not reset while the kernel still has bytes to send and the peer may read them.
#[tokio::test]
async fn a_slow_reader_that_keeps_sending_loses_no_reply() {
    let big = async || "x".repeat(1_000);
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let Ok(PeerAddr::Tcp(address)) = server.local_addr() else { panic!("not a TCP address") };
    let server = server.config(ServerConfig::new().grace(Duration::from_millis(100)));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = server.serve(Router::new().method("big", big));
    let serving = serving.with_graceful_shutdown(async { drop(stopped.await) });
    let serving = tokio::spawn(serving.into_future());
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8_192).unwrap();
    let (mut read, mut write) = socket.connect(address).await.unwrap().into_split();
    let asking = tokio::spawn(async move {
        let burst: String = (1..=80).map(|id| format!("{id} big\n")).collect();
        write.write_all(burst.as_bytes()).await.unwrap();
        for id in 81.. {
            sleep(Duration::from_millis(10)).await;
            if write.write_all(format!("{id} big\n").as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let (mut all, mut stop) = (Vec::new(), Some(stop));
    let mut piece = [0; 512];
    loop {
        match read.read(&mut piece).await.expect("no reset") {
            0 => break,
            length => all.extend_from_slice(&piece[..length]),
        }
        // It is to stop while nearly all of the replies are on their way.
        if all.len() > 5_000 {
            stop.take();
        }
        sleep(Duration::from_millis(20)).await;
    }
    asking.abort();
    let all = String::from_utf8(all).expect("text");
    let (_, last) = all.split_once("* /bye;last=").expect("the line was drawn");
    let last: u64 = last.split(' ').next().and_then(|last| last.parse().ok()).expect("an id");
    assert!(last >= 80, "{last}");
    let answered = all.lines().filter(|line| line.ends_with("xxx")).count() as u64;
    assert_eq!(answered, last);
    serving.await.unwrap().unwrap();
}

// SECURITY.md, threat 29.

/// SECURITY.md, threat 29: SIGTERM to a server under pipelined load, at a moment that is chance. No
/// request that was accepted stays without its terminal line.
///
/// 20 runs, or as many as `BELLWIRE_SIGTERM_RUNS` says: scripts/sigterm.sh.
#[cfg(unix)]
#[tokio::test]
async fn sigterm_under_load_leaves_nothing_unanswered() {
    let runs = std::env::var("BELLWIRE_SIGTERM_RUNS").map_or(20, |runs| runs.parse().unwrap());
    let tallies = futures::stream::iter(0..runs).map(sigterm).buffer_unordered(4);
    let tallies: Vec<_> = tallies.collect().await;
    let total = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    println!(
        "{runs} runs: {} requests of raw clients, {} calls of library clients, {} lines drawn",
        total(|tally| tally.asked),
        total(|tally| tally.calls),
        total(|tally| tally.lines),
    );
    assert!(total(|tally| tally.lines) > 0);
}

/// [S18.6] SIGTERM to a server to which clients publish by calls, at a moment that is chance: every
/// message whose call was answered `ok` reaches the subscribers on other connections, or is named.
///
/// 5 runs, or as many as `BELLWIRE_SIGTERM_RUNS` says: scripts/sigterm.sh.
#[cfg(unix)]
#[tokio::test]
async fn sigterm_while_clients_publish_loses_no_message() {
    let runs = std::env::var("BELLWIRE_SIGTERM_RUNS").map_or(5, |runs| runs.parse().unwrap());
    let tallies = futures::stream::iter(0..runs).map(sigterm_publishing).buffer_unordered(2);
    let tallies: Vec<_> = tallies.collect().await;
    let total = |of: fn(&(u64, u64, u64)) -> u64| tallies.iter().map(of).sum::<u64>();
    let (answered, delivered, named) = (total(|one| one.0), total(|one| one.1), total(|one| one.2));
    println!("{runs} runs: {answered} answered ok = {delivered} delivered + {named} named");
    assert!(answered > 0 && answered == delivered + named);
}

/// Messages that were answered `ok`, and that a subscriber was given and named.
#[cfg(unix)]
async fn sigterm_publishing(seed: u64) -> (u64, u64, u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut server = process::Process::start("").await;
    let connect = async || {
        let stream = TcpStream::connect(&server.address).await.unwrap();
        let mut peer = RawPeer::new(stream);
        peer.hello().await;
        peer
    };
    let (quick, window) = (connect().await, connect().await);
    let quick = tokio::spawn(listen(quick, "offers", Duration::ZERO, None));
    let window = tokio::spawn(listen(window, "offers", Duration::ZERO, Some(8)));
    let answered = Arc::new(Semaphore::new(0));
    let mut adders = JoinSet::new();
    for _ in 0..4 {
        adders.spawn(add_offers(connect().await, answered.clone()));
    }
    answered.acquire_many(rng.u32(1..3_000)).await.unwrap().forget();
    server.terminate().await;
    let answered: u64 = adders.join_all().await.into_iter().sum();
    let (quick, window) = (quick.await.unwrap(), window.await.unwrap());
    assert!(server.end().await.success());
    for given in [&quick, &window] {
        let end = given.head.map_or(given.next, |head| head + 1);
        assert_eq!(end - 1, answered, "seed {seed}: {} delivered", given.delivered);
    }
    // Those before its first number came before its subscription.
    let delivered = given_since(&quick);
    (answered, delivered, answered - delivered)
}

/// What was delivered, and what was there before the subscription.
#[cfg(unix)]
fn given_since(given: &Given) -> u64 {
    given.first - 1 + given.delivered
}

/// Adds offers as fast as they are answered until the server closes; how many were answered `ok`.
#[cfg(unix)]
async fn add_offers(mut peer: RawPeer<TcpStream>, told: Arc<Semaphore>) -> u64 {
    // What is in flight when the line is drawn.
    const BURST: usize = 256;
    let (mut answered, mut id) = (0, 0);
    let mut is_open = true;
    loop {
        let lines: String = (0..BURST)
            .map(|_| {
                id += 1;
                format!("{id} offers.add {{\"title\":\"x\",\"rent\":1}}\n")
            })
            .collect();
        is_open = is_open && peer.io.write_all(lines.as_bytes()).await.is_ok();
        for _ in 0..BURST {
            let Some(line) = peer.line().await else { return answered };
            if line.split(' ').nth(1).is_some_and(|word| word.starts_with("ok")) {
                answered += 1;
                told.add_permits(1);
            }
        }
    }
}

/// What the clients of one run asked, none of which was lost.
#[cfg(unix)]
struct Tally {
    asked: u64,
    calls: u64,
    lines: u64,
}

#[cfg(unix)]
async fn sigterm(seed: u64) -> Tally {
    use load::Manners::{Deaf, Good, HalfCloses};

    let mut rng = fastrand::Rng::with_seed(seed);
    let mut server = process::Process::start("").await;
    let replied = Arc::new(Semaphore::new(0));
    let mut raw = JoinSet::new();
    for (manners, receives) in
        [(Good, 1 << 20), (Deaf, 1 << 20), (HalfCloses, 16_384), (Deaf, 16_384)]
    {
        let socket = TcpSocket::new_v4().unwrap();
        // Where little is taken in, the server's own buffers are full when it ends.
        socket.set_recv_buffer_size(receives).unwrap();
        let stream = socket.connect(server.address.parse().unwrap()).await.unwrap();
        raw.spawn(load::raw(stream, rng.u64(..), manners, replied.clone()));
    }
    let mut library = JoinSet::new();
    for _ in 0..2 {
        // No other server follows.
        let builder = Client::builder().address(&server.address).reconnect(false);
        let client = builder.connect().await.unwrap();
        library.spawn(load::library(client, replied.clone()));
    }
    let enough = rng.u32(1..10_000);
    replied.acquire_many(enough).await.unwrap().forget();
    server.terminate().await;
    let (records, calls) = tokio::join!(raw.join_all(), library.join_all());
    records.iter().for_each(|record| record.check());
    assert!(server.end().await.success());
    Tally {
        asked: records.iter().map(load::Record::asked).sum(),
        calls: calls.iter().sum(),
        lines: records.iter().filter(|record| record.has_line()).count() as u64,
    }
}
