//! A connection that the server ends is closed within the drain time, whatever its peer does and
//! whatever is still running: each cause of a `/bye` with each of these.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    Router, ServerConfig, Streamed, handler,
    protocol::Code,
    server::{Principal, TokenAuthenticator},
};
use bellwire_testkit::{PipeServer, RawPeer};
use futures::stream;
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    task::yield_now,
    time::{Instant, sleep, timeout},
};

const TICK: Duration = Duration::from_millis(100);
const DRAIN: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(1);
/// The time to write out what was cut, the time to read on, and what the clock is coarse by.
const BEHIND: Duration = Duration::from_millis(2_100);
const IDLE: Duration = Duration::from_secs(3);

/// How a connection comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Idle,
    Violations,
    Closed,
    ClosedBehindQuit,
    LineTooLong,
    LineTooSlow,
    Shutdown,
}

const WAYS: [Way; 7] = [
    Way::Idle,
    Way::Violations,
    Way::Closed,
    Way::ClosedBehindQuit,
    Way::LineTooLong,
    Way::LineTooSlow,
    Way::Shutdown,
];

/// What it has under way: a name, and the lines that begin it.
const UNDER_WAY: [(&str, &str); 10] = [
    ("nothing", "1 echo a\n"),
    ("a stream with credit", "1 ticks;window=9007199254740991\n"),
    ("a stream without credit", "1 ticks;window=1\n"),
    ("a stream that waits for its item", "1 never\n"),
    ("a handler", "1 wait\n"),
    ("a spawned handler", "1 spawned\n"),
    ("a blocking stream of floods", "1 flood;window=9007199254740991\n"),
    ("lines that wait for a place", "1 wait\n2 wait\n3 wait\n4 wait\n5 wait\n6 wait\n* wait\n"),
    ("replies that are not read", "1 big\n2 big\n3 big\n4 big\n"),
    ("subscriptions", "1 /subscribe;window=2 t\n2 /subscribe u\n3 wait\n"),
];

struct Never;

impl futures::Stream for Never {
    type Item = String;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<String>> {
        Poll::Pending
    }
}

fn router() -> Router {
    let wait = async || std::future::pending::<()>().await;
    Router::new()
        .method("echo", async |payload: String| payload)
        .method("big", async || "x".repeat(60_000))
        .method("wait", wait)
        .method("spawned", handler(wait).spawned())
        .method("never", async || Streamed(Never))
        .method("flood", async || Streamed(stream::repeat("x".repeat(1_000))))
        .method("ticks", async || {
            Streamed(stream::unfold((), |()| async {
                sleep(Duration::from_secs(1)).await;
                Some(("tick".to_owned(), ()))
            }))
        })
}

fn config() -> ServerConfig {
    ServerConfig::new()
        .idle(IDLE)
        .line_time(IDLE)
        .violations(0)
        .in_flight(4)
        .grace(GRACE)
        .drain(DRAIN)
        .handler_time(Duration::from_secs(3_600))
        .write_progress(Duration::from_secs(3_600))
}

async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

/// Sets off the end; how long it takes until the server has decided on it.
async fn set_off(way: Way, server: &mut PipeServer, peer: &mut RawPeer<DuplexStream>) -> Duration {
    let session = || server.handle.sessions().pop().expect("a session");
    match way {
        Way::Idle => return IDLE,
        Way::LineTooSlow => {
            peer.send("9 ech").await;
            return IDLE;
        }
        Way::Violations => peer.send("\n").await,
        Way::LineTooLong => {
            // It may be read in part only, since the pipe is narrow and what was read is enough.
            let long = "x".repeat(70_000);
            let _ = timeout(TICK, peer.send(long)).await;
        }
        Way::Closed => session().close(Code::from_static("banned")),
        Way::ClosedBehindQuit => {
            peer.send("9 /quit\n").await;
            settle().await;
            session().close(Code::from_static("banned"));
        }
        Way::Shutdown => {
            server.stop();
            return GRACE;
        }
    }
    Duration::ZERO
}

/// A frozen peer has written something, and then neither reads, nor writes, nor closes.
#[tokio::test(start_paused = true)]
async fn a_frozen_peer_is_closed_within_the_drain() {
    for way in WAYS {
        for (name, lines) in UNDER_WAY {
            for pipe in [300, 65_536] {
                let mut server = PipeServer::with_config(router(), config());
                let mut peer = server.connect_raw(pipe);
                peer.send(lines).await;
                settle().await;
                server.publisher.publish("u", "x".repeat(10_000)).await.expect("published");
                settle().await;
                let begun = Instant::now();
                let decided = set_off(way, &mut server, &mut peer).await;
                let bound = decided + DRAIN + BEHIND;
                while server.handle.stats().connections > 0 {
                    let took = begun.elapsed();
                    assert!(took <= bound, "{way:?}, {name}, {pipe}: still there after {took:?}");
                    sleep(TICK).await;
                }
            }
        }
    }
}

/// A peer that writes without end and reads nothing is closed as well.
#[tokio::test(start_paused = true)]
async fn a_peer_that_keeps_sending_is_closed_within_the_drain() {
    for (name, lines) in UNDER_WAY {
        let server = PipeServer::with_config(router(), config().violations(1_000_000));
        let mut peer = server.connect_raw(65_536);
        peer.send(lines).await;
        settle().await;
        let begun = Instant::now();
        server.handle.sessions().pop().expect("a session").close(Code::from_static("banned"));
        while server.handle.stats().connections > 0 {
            let took = begun.elapsed();
            assert!(took <= DRAIN + BEHIND, "{name}: still there after {took:?}");
            sleep(TICK).await;
            let _ = timeout(TICK, peer.io.write_all(b"* echo x\n* /more 1 9\n")).await;
        }
    }
}

/// Running requests have the whole drain time, and are cut at its end.
#[tokio::test(start_paused = true)]
async fn running_requests_are_cut_at_the_end_of_the_drain() {
    for way in [Way::Idle, Way::Violations, Way::Closed, Way::LineTooLong] {
        for (name, lines) in UNDER_WAY.iter().filter(|(name, _)| {
            ["a stream with credit", "a handler", "a spawned handler"].contains(name)
        }) {
            let mut server = PipeServer::with_config(router(), config());
            let mut peer = server.connect_raw(65_536 * 2);
            peer.send(lines).await;
            settle().await;
            let begun = Instant::now();
            let decided = set_off(way, &mut server, &mut peer).await;
            let mut last = String::new();
            while let Some(line) = timeout(Duration::from_secs(60), peer.line()).await.expect(name)
            {
                last = line;
            }
            let took = begun.elapsed();
            assert_eq!(last, "1 cut closing\n", "{way:?}, {name}");
            let bounds = decided + DRAIN..=decided + DRAIN + TICK;
            assert!(bounds.contains(&took), "{way:?}, {name}: {took:?}");
        }
    }
}

/// Requests that end within the drain time are answered, and their connection closes without
/// waiting longer.
#[tokio::test(start_paused = true)]
async fn requests_that_end_within_the_drain_are_answered() {
    let router = router().method("soon", async || sleep(DRAIN - TICK).await);
    let server = PipeServer::with_config(router, config());
    let mut peer = server.connect().await;
    peer.send("1 soon\n\n").await;
    peer.expect("* /error malformed byte 0: empty line\n* /bye;last=1 violations\n1 ok\n").await;
    peer.expect_closed().await;
}

/// The peer freezes before it has authenticated.
#[tokio::test(start_paused = true)]
async fn a_frozen_unauthenticated_peer_is_closed_within_the_drain() {
    for lines in ["", "1 /auth token wrong\n", "1 nosuch\n2 /auth token wr"] {
        let config = config().auth_tries(1).auth_time(IDLE).first_line(IDLE);
        let tokens = TokenAuthenticator::new().token("secret", Principal::new("ada"));
        let server =
            PipeServer::built(router(), |server| server.config(config).authenticator(tokens));
        let mut peer = server.connect_raw(100);
        peer.send(lines).await;
        settle().await;
        let begun = Instant::now();
        while server.handle.stats().connections > 0 {
            let took = begun.elapsed();
            assert!(took <= IDLE + DRAIN + BEHIND, "{lines:?}: still there after {took:?}");
            sleep(TICK).await;
        }
    }
}
