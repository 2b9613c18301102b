//! The limits of one connection in time and number, each at its edge, and transports that fail.
// SECURITY.md, threats 3, 4, 5, 6, 10, 21, 30 and 31.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, ConnectionError, Delivery, Gap, NotSent, Publisher, Router,
    Server, ServerConfig, Subscription, Unknown,
    protocol::{Line, Position},
    server::{FromRequest, Rejection, RequestParts, ServerHandle},
};
use bellwire_testkit::{
    PIPE, PipeServer, RawPeer,
    faulty::{Fault, Faulty, FaultyIo},
    methods::{Waiting, router},
};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep},
};

/// What the server's timers may be late by.
const TICK: Duration = Duration::from_millis(10);

type Peer = RawPeer<DuplexStream>;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn serve(config: ServerConfig) -> (PipeServer, Waiting) {
    let waiting = Waiting::default();
    (PipeServer::with_config(router(waiting.clone()), config), waiting)
}

/// A connection on which the first line was answered; its ids go on at 2.
async fn begun(server: &PipeServer) -> Peer {
    let mut peer = server.connect().await;
    peer.ask("1 echo a\n", "1 ok a\n").await;
    peer
}

/// Other tasks have their turns; no time passes.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Time passes, deadline by deadline: a jump of the clock is another matter.
async fn pass(time: Duration) {
    settle().await;
    sleep(time).await;
}

/// The peer is closed, without a further word, `after` from `since`.
async fn closes(mut peer: Peer, since: Instant, after: Duration) {
    peer.expect_closed().await;
    let took = since.elapsed();
    assert!(after <= took && took <= after + TICK, "closed after {took:?}, not {after:?}");
}

// The first line.

/// [S7.2] The time does not restart with each byte.
#[tokio::test(start_paused = true)]
async fn the_first_line_has_ten_seconds_from_the_accept() {
    let (server, _) = serve(ServerConfig::new());
    let since = Instant::now();
    let [silent, mut slow, mut late] =
        [server.connect().await, server.connect().await, server.connect().await];
    slow.send("1 ec").await;
    late.send("1 echo ").await;
    pass(millis(9_999)).await;
    slow.send("h").await;
    late.ask("a\n", "1 ok a\n").await;
    closes(silent, since, secs(10)).await;
    closes(slow, since, secs(10)).await;
    late.ask("2 echo b\n", "2 ok b\n").await;
}

#[tokio::test(start_paused = true)]
async fn the_time_of_the_first_line_is_configured() {
    let (server, _) = serve(ServerConfig::new().first_line(millis(500)));
    let since = Instant::now();
    closes(server.connect().await, since, millis(500)).await;
}

/// 2,000 peers send their first line slowly. SECURITY.md, threat 5.
#[tokio::test(start_paused = true)]
async fn two_thousand_slow_first_lines_are_closed_in_ten_seconds() {
    let (server, _) = serve(ServerConfig::new());
    let since = Instant::now();
    let mut peers = Vec::new();
    for _ in 0..2_000 {
        let mut peer = server.connect_raw(256);
        peer.hello().await;
        peers.push(peer);
    }
    for _ in 0..3 {
        for peer in &mut peers {
            peer.send("1").await;
        }
        settle().await;
        assert_eq!(server.handle.stats().connections, 2_000);
        pass(if since.elapsed() < secs(8) { secs(4) } else { secs(2) }).await;
    }
    for mut peer in peers {
        peer.expect_closed().await;
    }
    assert!(since.elapsed() <= secs(10) + TICK, "{:?}", since.elapsed());
    assert_eq!(server.handle.stats().connections, 0);
}

/// A peer that does not even read the hello has the same time.
#[tokio::test(start_paused = true)]
async fn a_missing_first_line_ends_a_blocked_hello() {
    let config = ServerConfig::new().write_progress(secs(3_600));
    let (server, _) = serve(config);
    let _peer = server.connect_raw(16);
    pass(secs(10) + TICK).await;
    settle().await;
    assert_eq!(server.handle.stats().connections, 0);
}

/// [S2.5] A peer that speaks another protocol gets no answer. SECURITY.md, threat 21.
#[tokio::test(start_paused = true)]
async fn other_protocols_are_closed_without_an_echo() {
    let (server, _) = serve(ServerConfig::new());
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 random \x10\x20\xc0\x2f\x00\x00";
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"POST /x HTTP/1.1\r\nContent-Length: 11\r\n\r\n1 random 6\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"EHLO example.org\r\nMAIL FROM:<a@example.org>\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"PING\r\n",
        tls,
        &[&tls[..], b"\n1 random 6\n"].concat(),
        b"\n",
        b"\r\n1 random 6\n",
    ] {
        let since = Instant::now();
        let mut peer = server.connect().await;
        peer.send(bytes).await;
        peer.expect_closed().await;
        assert!(since.elapsed() <= secs(10) + TICK);
    }
}

// Later lines.

/// [S7.2] From its first byte, whatever other lines come before it ends.
#[tokio::test(start_paused = true)]
async fn a_begun_line_must_end_within_ten_seconds() {
    let (server, _) = serve(ServerConfig::new());
    let [mut slow, mut late] = [begun(&server).await, begun(&server).await];
    pass(secs(60)).await;
    let since = Instant::now();
    slow.send("2 echo").await;
    late.ask("2 echo b\n3 ech", "2 ok b\n").await;
    for _ in 0..3 {
        pass(secs(3)).await;
        slow.send(" ").await;
    }
    pass(millis(999)).await;
    late.ask("o c\n", "3 ok c\n").await;
    closes(slow, since, secs(10)).await;
    late.ask("4 echo d\n", "4 ok d\n").await;
}

/// [S7.2] One second more for each 16 KiB received.
#[tokio::test(start_paused = true)]
async fn a_long_line_has_more_time() {
    let (server, _) = serve(ServerConfig::new());
    let mut peer = begun(&server).await;
    let since = Instant::now();
    peer.send([b"2 echo ", &[b'x'; 16 * 1024 - 7][..]].concat()).await;
    pass(secs(9)).await;
    peer.send([b'x'; 16 * 1024]).await;
    closes(peer, since, secs(12)).await;

    let (server, _) = serve(ServerConfig::new().line_time(secs(1)).line_rate(4));
    let mut peer = begun(&server).await;
    let since = Instant::now();
    peer.send("2 echo a").await;
    closes(peer, since, secs(3)).await;
}

/// [S7.2] Requests that were read before are still answered.
#[tokio::test(start_paused = true)]
async fn a_late_line_does_not_cut_running_requests() {
    let (server, waiting) = serve(ServerConfig::new());
    let mut peer = begun(&server).await;
    peer.send("2 wait a\n3 echo").await;
    pass(secs(10) + TICK).await;
    settle().await;
    peer.send(" b\n").await;
    waiting.finish(2).await.unwrap();
    peer.expect("2 ok done a\n").await;
    peer.expect_closed().await;
}

/// [S7.2] While the server itself does not read, no line is late.
#[tokio::test(start_paused = true)]
async fn line_time_pauses_while_the_server_does_not_read() {
    let config = ServerConfig::new().in_flight(1).handler_time(secs(600)).idle(secs(60));
    let (server, waiting) = serve(config.parked_bytes(0));
    let mut peer = begun(&server).await;
    peer.send("2 wait a\n3 wait b\n4 wait c\n5 echo").await;
    pass(secs(300)).await;
    // It says meanwhile that it does not read.
    peer.expect("* /hold\n".repeat(60)).await;
    peer.expect_silence().await;
    waiting.finish(2).await.unwrap();
    peer.expect("2 ok done a\n").await;
    peer.send(" d\n").await;
    waiting.finish(3).await.unwrap();
    peer.expect("3 ok done b\n").await;
    waiting.finish(4).await.unwrap();
    peer.expect("4 ok done c\n5 ok d\n").await;
}

/// [S2.9] [B2.8] 100 MB without an LF, in writes of 1 KiB. A test in src/protocol/wire/line.rs
/// checks that the buffer never exceeds the limit. SECURITY.md, threat 3.
#[tokio::test(start_paused = true)]
async fn an_unterminated_line_is_not_read_past_its_limit() {
    let (server, _) = serve(ServerConfig::new());
    let mut peer = begun(&server).await;
    let mut taken = 0;
    for _ in 0..100_000 {
        if peer.io.write_all(&[b'x'; 1_024]).await.is_err() {
            break;
        }
        taken += 1_024;
        sleep(millis(1)).await;
        if taken == 65_535 / 1_024 * 1_024 {
            peer.expect_silence().await;
        }
    }
    // Read on, and thrown away, for a second.
    assert!(taken <= 65_535 + 1_011 * 1_024, "{taken}");
    peer.expect("* /error line-too-long max-line is 65535\n").await;
    peer.expect_closed().await;
}

// Writing.

/// A server whose reply is larger than a pipe, with one asked for: 2 is answered, 3 runs.
async fn blocked(config: ServerConfig) -> (PipeServer, Waiting, Peer) {
    let (server, waiting) = serve(config);
    let mut peer = server.connect_raw(256);
    peer.hello().await;
    peer.ask("1 echo a\n", "1 ok a\n").await;
    let payload = "x".repeat(1_000);
    peer.send(format!("2 wait\n3 echo {payload}\n")).await;
    settle().await;
    (server, waiting, peer)
}

/// [S7.3] Two cases: the peer takes nothing at all; it takes one byte just in time.
#[tokio::test(start_paused = true)]
async fn a_write_without_progress_for_twenty_seconds_drops_the_peer() {
    let (server, waiting, _peer) = blocked(ServerConfig::new()).await;
    pass(millis(19_999)).await;
    settle().await;
    assert!(server.handle.stats().connections == 1 && waiting.waits(2));
    pass(TICK).await;
    settle().await;
    assert!(server.handle.stats().connections == 0 && !waiting.waits(2));

    let (server, _, mut peer) = blocked(ServerConfig::new().write_progress(secs(3))).await;
    pass(millis(2_990)).await;
    peer.bytes(1).await;
    settle().await;
    pass(millis(2_990)).await;
    settle().await;
    assert_eq!(server.handle.stats().connections, 1);
    pass(TICK * 2).await;
    settle().await;
    assert_eq!(server.handle.stats().connections, 0);
}

/// [S7.3] A peer that reads, however slowly, is not dropped.
#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_slowly_is_served() {
    let (_server, waiting, mut peer) = blocked(ServerConfig::new().idle(None)).await;
    let mut read = Vec::new();
    while !read.ends_with(b"\n") {
        pass(secs(19)).await;
        let count = if read.len() < 900 { 100 } else { 1 };
        read.extend(peer.bytes(count).await);
        if read.len() == 100 {
            // A request that the handlers' deadline ends is answered when there is room.
            waiting.finish(2).await.unwrap();
        }
    }
    assert!(read.starts_with(b"3 ok xxx") && read.len() == 1_006);
    peer.expect("2 ok done \n".trim_end_matches([' ', '\n']).to_owned() + " \n").await;
}

/// [S7.3] The limit also holds while a connection finishes, and while the server drains.
#[tokio::test(start_paused = true)]
async fn write_progress_applies_while_a_connection_finishes() {
    for ends_by in ["/quit", "eof", "drain"] {
        let config = ServerConfig::new().drain(secs(600));
        let (mut server, waiting, mut peer) = blocked(config).await;
        waiting.finish(2).await.unwrap();
        match ends_by {
            "/quit" => peer.send("4 /quit\n").await,
            "eof" => peer.half_close().await,
            _ => server.stop(),
        }
        pass(millis(19_999)).await;
        settle().await;
        assert_eq!(server.handle.stats().connections, 1, "{ends_by}");
        pass(TICK).await;
        settle().await;
        assert_eq!(server.handle.stats().connections, 0, "{ends_by}");
    }
}

// Violations.

/// [S7.4] 32 violations are tolerated; the next one is answered and ends the connection.
#[tokio::test(start_paused = true)]
async fn violations_are_tolerated_up_to_their_limit() {
    let (server, waiting) = serve(ServerConfig::new());
    let mut peer = begun(&server).await;
    peer.send("2 wait a\n").await;
    for n in 0..32 {
        let (line, answer) = match n % 4 {
            0 => ("\n", "* /error malformed byte 0: empty line"),
            1 => ("2 echo twice\n", "* /error;id=2 id-order last is 2"),
            2 => ("* nosuch\n", "* /error unknown-method no method \"nosuch\"; ask /methods"),
            _ => ("* /cancel x\n", "* /error bad-arguments usage: /cancel ID"),
        };
        peer.ask(line, format!("{answer}\n")).await;
    }
    peer.ask("3 echo b\n", "3 ok b\n").await;
    // SECURITY.md, threat 10: the one in flight is untouched by all those of its own id.
    peer.send("4 bad..name\n5 echo c\n").await;
    peer.expect("4 no malformed byte 2: bad method\n* /bye;last=4 violations\n").await;
    peer.expect_silence().await;
    waiting.finish(2).await.unwrap();
    peer.expect("2 ok done a\n").await;
    peer.expect_closed().await;
}

/// [S7.4] One violation is forgiven every 10 s.
#[tokio::test(start_paused = true)]
async fn violations_are_forgiven_with_time() {
    const BAD: &str = "* /error malformed byte 0: empty line\n";
    for (wait, borne) in [(9_999, 0), (10_000, 1), (29_999, 2), (600_000, 32)] {
        let (server, _) = serve(ServerConfig::new().idle(None));
        let mut peer = begun(&server).await;
        peer.ask("\n".repeat(32), BAD.repeat(32)).await;
        pass(millis(wait)).await;
        peer.ask("\n".repeat(borne + 1), BAD.repeat(borne + 1)).await;
        peer.expect("* /bye;last=1 violations\n").await;
        peer.expect_closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_on_violations_is_configured() {
    let config = ServerConfig::new().violations(0).violation_return(secs(3));
    let (server, _) = serve(config.clone());
    let mut peer = begun(&server).await;
    peer.ask("1 echo b\n", "* /error;id=1 id-order last is 1\n* /bye;last=1 violations\n").await;
    let (server, _) = serve(config.violations(1));
    let mut peer = begun(&server).await;
    for _ in 0..3 {
        peer.ask("1 echo b\n", "* /error;id=1 id-order last is 1\n").await;
        pass(secs(3)).await;
    }
}

/// Refusals that are not the peer's fault, or that affect no request, are not counted.
#[tokio::test(start_paused = true)]
async fn refusals_do_not_count_as_violations() {
    struct Full;

    impl<S> FromRequest<S> for Full {
        fn from_request(_: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
            Err(Rejection::busy("full"))
        }
    }

    let router = Router::new()
        .method("full", async |_: Full| ())
        .method("echo", async |payload: Bytes| payload);
    let server = PipeServer::with_config(router, ServerConfig::new().violations(0));
    let mut peer = begun(&server).await;
    for id in 2..40 {
        let refused = format!(
            "* /error busy full\n{id} no unknown-method no method \"nosuch\"; ask /methods\n"
        );
        peer.ask(format!("* full\n{id} nosuch\n"), refused).await;
    }
}

/// A flood of empty lines costs other clients nothing, and soon costs the server nothing.
/// SECURITY.md, threat 6.
#[tokio::test(start_paused = true)]
async fn a_flood_of_empty_lines_ends_its_connection() {
    let (server, _) = serve(ServerConfig::new());
    let mut other = begun(&server).await;
    let mut peer = begun(&server).await;
    let mut taken = 0;
    while peer.io.write_all(&[b'\n'; 1_000]).await.is_ok() {
        taken += 1_000;
        sleep(millis(1)).await;
    }
    // Read on for a second, so that the answers are not lost by a reset.
    assert!(taken <= 1_011 * 1_000, "{taken}");
    let mut answer = String::new();
    peer.io.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer.lines().count(), 33 + 1);
    assert!(answer.ends_with("* /bye;last=1 violations\n"));
    other.ask("2 echo b\n", "2 ok b\n").await;
}

/// Connections take turns, however small the writes are. SECURITY.md, threat 6.
#[tokio::test(start_paused = true)]
async fn tiny_writes_do_not_delay_other_connections() {
    let (server, _) = serve(ServerConfig::new());
    let (mut other, tiny) = (begun(&server).await, begun(&server).await);
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let flood = tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(tiny.io);
        tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
        for id in 2.. {
            for byte in format!("{id} echo\n").bytes() {
                write.write_all(&[byte]).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    });
    for id in 2.. {
        if written.load(Ordering::Relaxed) > 10_000 {
            break;
        }
        let before = written.load(Ordering::Relaxed);
        other.ask(format!("{id} echo b\n"), format!("{id} ok b\n")).await;
        assert!(written.load(Ordering::Relaxed) - before < 100);
    }
    flood.abort();
}

/// A peer that makes tiny writes is read once per tick, and no byte is lost. A line in a few pieces
/// is never delayed. Virtual time advances only by the ticks. SECURITY.md, threat 6.
#[tokio::test(start_paused = true)]
async fn tiny_reads_are_batched_without_delaying_whole_lines() {
    let (server, _) = serve(ServerConfig::new());
    let (mut peer, since) = (begun(&server).await, Instant::now());
    for id in 2..500 {
        for piece in [format!("{id}"), " ec".into(), "ho".into(), " x".into(), "\n".into()] {
            peer.send(piece).await;
            yield_often().await;
        }
        peer.expect(format!("{id} ok x\n")).await;
    }
    assert_eq!(since.elapsed(), Duration::ZERO);
    for byte in (500..1_000).map(|id| format!("{id} echo x\n")).collect::<String>().bytes() {
        peer.send([byte]).await;
        yield_often().await;
    }
    for id in 500..1_000 {
        peer.expect(format!("{id} ok x\n")).await;
    }
    // All of it was written before the clock could move: it was read in the ticks behind.
    let waited = since.elapsed();
    assert!((TICK..TICK * 3).contains(&waited), "{waited:?}");
}

/// The server's tasks have their turns, and no time passes.
async fn yield_often() {
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
}

// Silence.

/// [S20.2] [S7.4] The limit is announced and enforced. One byte restarts it, and finished requests
/// are answered.
#[tokio::test(start_paused = true)]
async fn a_silent_client_gets_bye_at_the_idle_limit() {
    let (server, waiting) = serve(ServerConfig::new().keys(0).handler_time(secs(600)));
    let mut peer = server.connect_raw(PIPE);
    assert!(peer.hello().await.ends_with(";lease=60;idle=120\n"));
    peer.ask("1 echo a\n2 wait b\n", "1 ok a\n").await;
    pass(millis(119_990)).await;
    peer.ask("3 echo b\n", "3 ok b\n").await;
    let since = Instant::now();
    peer.expect("* /bye;last=3 idle\n").await;
    let took = since.elapsed();
    assert!(secs(120) <= took && took <= secs(120) + TICK, "{took:?}");
    peer.send("4 echo c\n").await;
    waiting.finish(2).await.unwrap();
    peer.expect("2 ok done b\n").await;
    peer.expect_closed().await;
}

/// [S20.2] A limit that is off is not announced.
#[tokio::test(start_paused = true)]
async fn the_idle_limit_is_configurable() {
    let (server, _) = serve(ServerConfig::new().keys(0).idle(None));
    let mut peer = server.connect_raw(PIPE);
    assert!(peer.hello().await.ends_with(";lease=60\n"));
    peer.ask("1 echo a\n", "1 ok a\n").await;
    for _ in 0..48 {
        pass(secs(1_800)).await;
        settle().await;
    }
    peer.ask("2 echo b\n", "2 ok b\n").await;
    let (server, _) = serve(ServerConfig::new().keys(0).idle(millis(2_900)));
    let mut peer = server.connect_raw(PIPE);
    assert!(peer.hello().await.ends_with(";idle=2\n"));
    peer.ask("1 echo a\n", "1 ok a\n").await;
    peer.expect("* /bye;last=1 idle\n").await;
    peer.expect_closed().await;
}

/// [C4.4] The client keeps the connection alive, without subscriptions.
#[tokio::test(start_paused = true)]
async fn an_idle_client_stays_connected_for_hours() {
    for config in [
        ServerConfig::new(),
        ServerConfig::new().idle(secs(7)),
        ServerConfig::new().lease(secs(2)).idle(secs(1)),
    ] {
        let (server, _) = serve(config);
        let (client, driver) = connected(&server).await;
        let since = Instant::now();
        pass(secs(5 * 3_600)).await;
        assert_eq!(client.call("echo", "still here").await.unwrap(), "still here");
        assert!(since.elapsed() < secs(5 * 3_600 + 1) && !driver.is_finished());
    }
}

/// A client over a pipe, and its driver.
async fn connected(server: &PipeServer) -> (Client, JoinHandle<Result<(), ConnectionError>>) {
    let peer = server.connect_raw(PIPE);
    let (client, connection) = Client::new(peer.io, ClientConfig::new());
    let driver = tokio::spawn(connection);
    client.connected().await.unwrap();
    (client, driver)
}

/// [C7.1] A server that has fallen silent while it owes a reply is probed, and then the client
/// closes the connection. SECURITY.md, threat 23.
#[tokio::test(start_paused = true)]
async fn a_silent_server_is_probed_and_then_closed() {
    let (client, driver, mut server) = greeted().await;
    let since = Instant::now();
    let call = tokio::spawn(async move { client.call("m", "a").await });
    server.expect("1 m a\n").await;
    pass(millis(9_999)).await;
    server.expect_silence().await;
    server.expect("2 /renew\n").await;
    assert!(since.elapsed() <= secs(10) + TICK);
    pass(secs(9)).await;
    server.send("2 ok;lease=60\n").await;
    server.expect("3 /renew\n").await;
    assert_eq!(driver.await.unwrap(), Err(ConnectionError::Silent));
    let took = since.elapsed();
    assert!(secs(39) <= took && took <= secs(39) + TICK, "{took:?}");
    let lost = CallError::Unknown(Unknown::Lost(ConnectionError::Silent));
    assert_eq!(call.await.unwrap().unwrap_err(), lost);
}

/// A server that owes no reply is not probed, except by the client's own renewals.
#[tokio::test(start_paused = true)]
async fn a_server_without_pending_requests_may_be_silent() {
    let (client, driver, mut server) = greeted().await;
    client.one_way("m", "a").await.unwrap();
    server.expect("* m a\n").await;
    pass(secs(600)).await;
    server.expect_silence().await;
    assert!(!driver.is_finished());
}

// Payload in flight.

/// [S20.3] At the limit the next request waits, and all requests behind it.
#[tokio::test(start_paused = true)]
async fn payload_in_flight_is_bounded() {
    let (server, waiting) = serve(ServerConfig::new().payload_bytes(100).allow_publish(true));
    let mut peer = begun(&server).await;
    peer.send(format!("2 wait {}\n* wait {}\n3 wait b\n", "x".repeat(60), "x".repeat(39))).await;
    settle().await;
    assert!(waiting.waits(2) && waiting.waits(0) && waiting.waits(3));
    peer.ask("4 wait c\n5 /publish t d\n6 /renew\n", "6 ok;lease=60\n").await;
    peer.expect_silence().await;
    assert!(!waiting.waits(4));
    waiting.finish(3).await.unwrap();
    peer.expect("3 ok done b\n").await;
    settle().await;
    // At 100 again.
    assert!(waiting.waits(4));
    peer.expect_silence().await;
    waiting.finish(2).await.unwrap();
    peer.expect(format!("2 ok done {}\n", "x".repeat(60))).await;
    assert!(peer.line().await.unwrap().starts_with("5 ok;"));
}

/// [S20.3] A payload that alone exceeds the limit runs with no other request.
#[tokio::test(start_paused = true)]
async fn a_payload_over_the_limit_runs_alone() {
    for limit in [0, 1, 100] {
        let (server, waiting) = serve(ServerConfig::new().payload_bytes(limit));
        let mut peer = begun(&server).await;
        let large = "x".repeat(1_000);
        peer.send(format!("2 wait {large}\n3 echo {large}\n")).await;
        peer.expect_silence().await;
        assert!(waiting.waits(2));
        waiting.finish(2).await.unwrap();
        peer.expect(format!("2 ok done {large}\n3 ok {large}\n")).await;
    }
}

// The client's own lines.

const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60\n";

/// A client, and the server's end of its connection.
async fn greeted() -> (Client, JoinHandle<Result<(), ConnectionError>>, Peer) {
    let (near, far) = tokio::io::duplex(PIPE);
    let (client, connection) = Client::new(near, ClientConfig::new());
    let (driver, mut server) = (tokio::spawn(connection), RawPeer::new(far));
    server.send(HELLO).await;
    client.connected().await.unwrap();
    (client, driver, server)
}

/// Attributes that take `length` bytes of a head.
fn attributes(length: usize) -> Vec<(String, String)> {
    let count = length / 200;
    let one = |n: usize, length: usize| (format!("a.{n:02}"), "v".repeat(length - 6));
    let last = length - 200 * (count - 1);
    (1..count).map(|n| one(n, 200)).chain([one(count, last)]).collect()
}

fn is_attribute(result: &Result<Bytes, CallError>) -> bool {
    matches!(result, Err(CallError::NotSent(NotSent::Attribute(_))))
}

/// [B2.2] Counted with the longest id and deadline that are possible.
#[tokio::test(start_paused = true)]
async fn a_client_sends_no_head_over_its_limit() {
    let (client, _driver, mut server) = greeted().await;
    // 16 digits, a SP, one letter; and `;ttl=` with 16 digits.
    for (length, deadline, is_sent) in [
        (2_029, None, true),
        (2_030, None, true),
        (2_031, None, false),
        (2_009, Some(secs(1)), true),
        (2_010, Some(secs(1)), false),
    ] {
        let mut call = client.call("m", "payload");
        for (key, value) in attributes(length) {
            call = call.attribute(&key, value);
        }
        if let Some(deadline) = deadline {
            call = call.deadline(deadline);
        }
        if !is_sent {
            assert!(is_attribute(&call.await), "{length}");
            server.expect_silence().await;
            continue;
        }
        let (reply, ()) = tokio::join!(call, async {
            let line = server.line().await.unwrap();
            let request = Line::parse_request(line.trim_end().as_bytes()).expect("well-formed");
            let head = line.len() - " payload\n".len();
            assert!(request.rest.plain() == &b"payload"[..] && head <= 2_048, "{length}");
            let id = line.split(' ').next().unwrap();
            server.send(format!("{id} ok\n")).await;
        });
        reply.unwrap();
    }
}

/// [B2.1] The deadline counts as an attribute.
#[tokio::test(start_paused = true)]
async fn a_client_respects_the_limit_on_attributes() {
    let (client, _driver, mut server) = greeted().await;
    let with = |count: usize| {
        let all = (0..count).map(|n| format!("a.{n}"));
        all.fold(client.call("m", ""), |call, key| call.attribute(&key, 1))
    };
    assert!(is_attribute(&with(33).await));
    assert!(is_attribute(&with(32).deadline(secs(1)).await));
    server.expect_silence().await;
    for call in [with(32), with(31).deadline(secs(1))] {
        let (reply, ()) = tokio::join!(call, async {
            let line = server.line().await.unwrap();
            Line::parse_request(line.trim_end().as_bytes()).expect("well-formed");
            server.send(format!("{} ok\n", line.split(' ').next().unwrap())).await;
        });
        reply.unwrap();
    }
}

/// [B2.1] There is no position after the greatest number.
#[tokio::test(start_paused = true)]
async fn a_client_does_not_send_a_position_past_the_last_number() {
    const LAST: u64 = (1 << 53) - 1;
    let (client, _driver, mut server) = greeted().await;
    let at = |next: u64| Position { next, ..format!("e:{LAST}").parse().unwrap() };
    for next in [0, LAST + 1, u64::MAX] {
        let error = client.subscribe("t").from(at(next)).await.unwrap_err();
        assert_eq!(error, CallError::NotSent(NotSent::Position), "{next}");
    }
    server.expect_silence().await;
    let (subscription, ()) =
        tokio::join!(client.subscribe("t").from(at(LAST)).into_future(), async {
            server.expect(format!("1 /subscribe;from=e:{LAST} t\n")).await;
            server.send(format!("1 ok;epoch=e;next={LAST};head={LAST};lease=60\n")).await;
        });
    let mut subscription = subscription.unwrap();
    server.send(format!("* t {LAST} x\n* /end t expired e:{LAST}\n")).await;
    let Some(Delivery::Notification(last)) = subscription.next().await else { panic!("the last") };
    assert_eq!(last.sequence, LAST);
    assert!(matches!(subscription.next().await, Some(Delivery::End { .. })));
    server.expect_silence().await;
}

/// [C2.2] Limits above `usize::MAX` are no limit, on every machine.
#[tokio::test(start_paused = true)]
async fn a_hello_may_announce_the_greatest_numbers() {
    for max in ["4294967295", "4294967296", "9007199254740991"] {
        let (near, far) = tokio::io::duplex(PIPE);
        let (client, connection) = Client::new(near, ClientConfig::new());
        let (_driver, mut server) = (tokio::spawn(connection), RawPeer::new(far));
        let hello = format!("max-line={max};in-flight={max};lease={max};idle={max}");
        server.send(format!("* /hello;version=1;{hello}\n")).await;
        client.connected().await.unwrap();
        client.one_way("m", "a").await.unwrap();
        let (reply, ()) = tokio::join!(client.call("m", "b"), async {
            server.expect("* m a\n1 m b\n").await;
            server.send("1 ok c\n").await;
        });
        assert_eq!(reply.unwrap(), "c");
    }
}

// Transports that fail.

fn echoes() -> Router {
    Router::new()
        .method("echo", async |payload: Bytes| payload)
        .method("later", async |payload: Bytes| {
            tokio::task::yield_now().await;
            payload
        })
        .method("add", async |publisher: Publisher, payload: Bytes| {
            publisher.publish("t", payload).await.map(drop).map_err(|_| Rejection::busy("")).ok();
        })
}

/// A server over transports that fail.
struct FaultyServer {
    connect: mpsc::UnboundedSender<FaultyIo>,
    handle: ServerHandle,
    _task: JoinHandle<std::io::Result<()>>,
}

impl FaultyServer {
    fn start() -> Self {
        let (connect, pipes) = mpsc::unbounded_channel();
        let server = Server::new(Faulty(pipes));
        let handle = server.handle();
        Self { connect, handle, _task: tokio::spawn(server.serve(echoes()).into_future()) }
    }
}

/// What a client of about 10 kB of session writes.
fn session_lines() -> String {
    let mut lines = String::from("1 /subscribe t\n");
    let payload = "p".repeat(200);
    for id in 2..30 {
        let method = ["echo", "later", "add", "nosuch"][id % 4];
        lines += &format!("{id} {method} {payload}{id}\n");
    }
    lines + "\n30 /unsubscribe t\n31 /methods\n32 /quit\n"
}

/// One session against a server whose transport fails so; what the server wrote, and how many bytes
/// passed.
async fn against_server(
    server: &FaultyServer,
    make: impl FnOnce(DuplexStream) -> FaultyIo,
) -> String {
    let (near, far) = tokio::io::duplex(1 << 16);
    let io = make(far);
    server.connect.send(io).unwrap_or_else(|_| panic!("the server serves"));
    let (mut read, mut write) = tokio::io::split(near);
    // A server that is gone already is part of the game.
    let _ = write.write_all(session_lines().as_bytes()).await;
    let mut written = Vec::new();
    let _ = read.read_to_end(&mut written).await;
    for _ in 0..10_000 {
        if server.handle.stats().connections == 0 {
            return String::from_utf8(written).unwrap();
        }
        pass(secs(1)).await;
    }
    panic!("the connection does not end")
}

/// Each line the server wrote is one that the whole session has, in order per id.
fn legal_answers(written: &str, whole: &[String]) {
    let mut seen = std::collections::HashSet::new();
    for line in written.split_inclusive('\n').skip(1) {
        let Some(line) = line.strip_suffix('\n') else { continue };
        // The epoch is a new one in each session.
        let is_known = line.contains("ok;") || line.starts_with("* t ");
        let is_bye = line == "* /bye;last=32 idle" || line.starts_with("* /bye;last=");
        assert!(is_known || is_bye || whole.iter().any(|known| known == line), "{line}");
        assert!(
            line.contains(" more ")
                || line.starts_with('*')
                || seen.insert(line.split(' ').next().unwrap().to_owned()),
            "twice: {line}"
        );
    }
}

/// The server's side. SECURITY.md, threat 31.
#[tokio::test(start_paused = true)]
async fn a_server_survives_a_transport_that_fails_at_any_byte() {
    let server = FaultyServer::start();
    let whole = against_server(&server, |io| FaultyIo::new(io, Fault::None, usize::MAX)).await;
    assert!(whole.ends_with("\n32 ok\n"), "{whole}");
    let total = whole.len() + session_lines().len();
    assert!(total > 8_000, "{total}");
    let slow = |io| FaultyIo::new(io, Fault::None, usize::MAX).stuttering();
    let slow = against_server(&server, slow).await;
    // Notifications come as far as the unsubscription leaves them time.
    let answers = |all: &str| all.lines().filter(|line| !line.starts_with("* t ")).count();
    assert_eq!(answers(&slow), answers(&whole));
    let whole: Vec<_> = whole.lines().map(str::to_owned).collect();
    for at in 0..=total {
        let reset = |io| FaultyIo::new(io, Fault::Reset, at);
        legal_answers(&against_server(&server, reset).await, &whole);
    }
    for at in (0..=total).step_by(13) {
        for fault in [Fault::Zero, Fault::Stuck] {
            let broken = |io| FaultyIo::new(io, fault, at);
            legal_answers(&against_server(&server, broken).await, &whole);
        }
    }
    for at in (0..=total).step_by(499) {
        for fault in [Fault::Reset, Fault::Zero, Fault::Stuck] {
            let broken = |io| FaultyIo::new(io, fault, at).stuttering();
            legal_answers(&against_server(&server, broken).await, &whole);
        }
    }
}

/// A session of a client whose transport fails like this. Each caller gets one outcome, and the
/// session ends.
async fn against_client(server: &PipeServer, make: impl FnOnce(DuplexStream) -> FaultyIo) -> usize {
    let io = make(server.connect_raw(1 << 16).io);
    let (polls, is_stuck) = (io.polls(), io.is_stuck());
    let config = ClientConfig::new().close_timeout(secs(5));
    let (client, connection) = Client::new(io, config);
    let driver = tokio::spawn(connection);
    let listening = tokio::spawn({
        let client = client.clone();
        async move {
            if let Ok(subscription) = client.subscribe("t").await {
                contiguous(subscription).await;
            }
        }
    });
    let calls = (0..28).map(|n| {
        let (client, method) = (client.clone(), ["echo", "later", "add", "nosuch"][n % 4]);
        tokio::spawn(async move {
            let payload = format!("{}{n}", "p".repeat(200));
            let reply = client.call(method, &payload).deadline(secs(60)).await;
            legal_outcome(method, &payload, reply)
        })
    });
    let calls: Vec<_> = calls.collect();
    let mut replies = 0;
    for call in calls {
        replies += usize::from(call.await.expect("a legal outcome"));
    }
    let _ = client.close().await;
    let ended = driver.await.expect("no panic");
    listening.await.expect("no panic, no hole");
    assert!(client.stats().pending == 0 && polls.load(Ordering::Relaxed) > 0);
    // A transport that is stuck ends by this side's closing, whatever came of the calls.
    assert!(ended.is_err() || is_stuck || replies == 28, "{replies}");
    replies
}

/// Whether the call was answered; what it ends in otherwise is no outcome of a handler's.
fn legal_outcome(method: &str, payload: &str, reply: Result<Bytes, CallError>) -> bool {
    match reply {
        Ok(reply) => {
            let own = if method == "add" { "" } else { payload };
            assert!(method != "nosuch" && reply == own, "{method}: {reply:?}");
            true
        }
        Err(CallError::Refused { reason, .. }) => {
            assert!(method == "nosuch" && reason.code.as_str() == "unknown-method");
            true
        }
        Err(CallError::NotSent(NotSent::Lost(_) | NotSent::Deadline(_)))
        | Err(CallError::Unknown(Unknown::Lost(_) | Unknown::Deadline)) => false,
        Err(error) => panic!("{method}: {error}"),
    }
}

/// Every number is delivered or named once, in order.
async fn contiguous(mut subscription: Subscription) {
    let mut expected = subscription.position();
    while let Some(delivery) = subscription.next().await {
        let (epoch, first, last) = match delivery {
            Delivery::Notification(one) => (one.epoch, one.sequence, one.sequence),
            Delivery::Gap(Gap { epoch, first, last, .. }) => (epoch, first, last),
            Delivery::Reset { position, .. } => {
                expected = position;
                continue;
            }
            _ => return,
        };
        assert_eq!((epoch, first), (expected.epoch, expected.next));
        expected.next = last + 1;
    }
}

/// The client's side. SECURITY.md, threat 31.
#[tokio::test(start_paused = true)]
async fn a_client_survives_a_transport_that_fails_at_any_byte() {
    const TOTAL: usize = 10_000;
    let server = PipeServer::start(echoes());
    let none = |io| FaultyIo::new(io, Fault::None, usize::MAX);
    assert_eq!(against_client(&server, none).await, 28);
    assert_eq!(against_client(&server, |io| none(io).stuttering()).await, 28);
    for at in 0..TOTAL {
        against_client(&server, |io| FaultyIo::new(io, Fault::Reset, at)).await;
    }
    for at in (0..TOTAL).step_by(13) {
        for fault in [Fault::Zero, Fault::Stuck] {
            against_client(&server, |io| FaultyIo::new(io, fault, at)).await;
        }
    }
    for at in (0..TOTAL).step_by(499) {
        for fault in [Fault::Reset, Fault::Zero, Fault::Stuck] {
            against_client(&server, |io| FaultyIo::new(io, fault, at).stuttering()).await;
        }
    }
}

/// How many of a flood of such lines are answered in one turn of the connection, at most.
async fn answered_in_a_turn(line: impl Fn(u64) -> String) -> u64 {
    const COUNT: u64 = 20_000;
    let (server, _) = serve(ServerConfig::new());
    let mut hostile = server.connect_raw(2 << 20);
    hostile.hello().await;
    hostile.ask("1 /hello;version=1;max-line=1024\n", "1 ok;version=1\n").await;
    for id in 2..130 {
        hostile.send(format!("{id} /subscribe topic.{id:0120}\n")).await;
        hostile.attribute("epoch").await;
    }
    let flood: String = (0..COUNT).map(|n| line(n + 200)).collect();
    let answered = || {
        let stats = server.handle.stats();
        stats.ok + stats.err + stats.no
    };
    let (first, mut most) = (answered(), 0);
    hostile.send(flood).await;
    while answered() < first + COUNT {
        let before = answered();
        tokio::task::yield_now().await;
        most = most.max(answered() - before);
    }
    most
}

/// The work of a connection in one turn is bounded by the cost of its lines, not only by their
/// bytes: a short request may list all subscriptions. SECURITY.md, threat 6.
#[tokio::test]
async fn expensive_short_lines_do_not_delay_other_connections() {
    // One poll of the connection may lie before this task's, and one behind.
    let floods = async {
        let echoes = answered_in_a_turn(|id| format!("{id} echo\n")).await;
        assert!((1_000..=2 * 2_048).contains(&echoes), "{echoes} calls in one turn");
        let renewals = answered_in_a_turn(|id| format!("{id} /renew\n")).await;
        assert!((100..=1_024).contains(&renewals), "{renewals} renewals in one turn");
    };
    // What `block_on` polls itself has fewer turns than a task.
    tokio::spawn(floods).await.unwrap();
}
