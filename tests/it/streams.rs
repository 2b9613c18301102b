//! Streamed replies: credit, turns and ends, on both sides (docs/protocol/streams.md, section 15);
//! and that what controls them is never stuck. SECURITY.md, threats 7 and 8.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, Failure, Json, NotSent, Router, ServerConfig, State, Streamed,
    Streaming, Unknown, blocking, handler, protocol::Code,
};
use bellwire_testkit::{PipeServer, RawPeer};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, stream};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream},
    sync::Notify,
    time::timeout,
};

/// What the handlers of these tests count, and wait for.
#[derive(Clone, Default)]
struct Seen(Arc<Counts>);

#[derive(Default)]
struct Counts {
    polls: AtomicUsize,
    alive: AtomicUsize,
    most_alive: AtomicUsize,
    gate: Notify,
}

impl Seen {
    fn polls(&self) -> usize {
        self.0.polls.load(Ordering::Relaxed)
    }

    fn alive(&self) -> usize {
        self.0.alive.load(Ordering::Relaxed)
    }
}

/// A stream that counts its polls, and how many like it are alive.
struct Counted<St> {
    seen: Seen,
    stream: St,
}

impl<St> Counted<St> {
    fn new(seen: Seen, stream: St) -> Self {
        let alive = seen.0.alive.fetch_add(1, Ordering::Relaxed) + 1;
        seen.0.most_alive.fetch_max(alive, Ordering::Relaxed);
        Self { seen, stream }
    }
}

impl<St: Stream + Unpin> Stream for Counted<St> {
    type Item = St::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<St::Item>> {
        self.seen.0.polls.fetch_add(1, Ordering::Relaxed);
        self.stream.poll_next_unpin(cx)
    }
}

impl<St> Drop for Counted<St> {
    fn drop(&mut self) {
        self.seen.0.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `N [SIZE]`: the numbers from 1 to N, each with SIZE bytes behind it.
async fn count(
    State(seen): State<Seen>,
    Json((to, size)): Json<(u64, usize)>,
) -> Streamed<impl Stream<Item = String>> {
    let padding = "x".repeat(size);
    let numbers = stream::iter(1..=to).map(move |number| format!("{number}{padding}"));
    Streamed(Counted::new(seen, numbers))
}

/// Ends with an error behind N items.
async fn fail(
    Json(after): Json<u64>,
) -> Result<Streamed<impl Stream<Item = Result<String, Failure>>>, Failure> {
    let failure = |code| Failure::new(Code::from_static(code), "as told");
    if after == 0 {
        return Err(failure("at-once"));
    }
    let items = stream::iter(1..).map(move |number| match number {
        number if number > after => Err(failure("later")),
        number => Ok(number.to_string()),
    });
    Ok(Streamed(items))
}

/// Panics at its N-th item, or, with 0, when it is dropped.
async fn panic(Json(at): Json<u64>) -> Streamed<impl Stream<Item = String>> {
    struct Bomb(bool);
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(!self.0, "dropped, as it is told to");
        }
    }
    let bomb = Bomb(at == 0);
    Streamed(stream::iter(1..).map(move |number: u64| {
        let _ = &bomb;
        assert!(number != at, "as it is told to");
        number.to_string()
    }))
}

/// A stream of one item, then none until the gate is opened, in each call.
async fn gated(State(seen): State<Seen>) -> Streamed<impl Stream<Item = String>> {
    let items = stream::unfold((seen.clone(), 1), async |(seen, number)| {
        if number > 1 {
            seen.0.gate.notified().await;
        }
        Some((number.to_string(), (seen, number + 1)))
    });
    Streamed(Counted::new(seen, Box::pin(items)))
}

/// Two items: the tasks that made them.
fn tasks() -> Streamed<impl Stream<Item = String>> {
    Streamed(stream::iter(0..2).map(|_| tokio::task::id().to_string()))
}

fn router(seen: &Seen) -> Router<Seen> {
    Router::with_state(seen.clone())
        .method("echo", async |payload: Bytes| payload)
        .method("forever", async || std::future::pending::<()>().await)
        .method("count", count)
        .method("count.spawned", handler(count).spawned())
        .method("count.blocking", blocking(|| Streamed(stream::iter(["a", "b"]))))
        .method("task", async || tasks())
        .method("task.spawned", handler(async || tasks()).spawned())
        .method("task.blocking", blocking(tasks))
        .method("fail", fail)
        .method("panic", panic)
        .method("panic.spawned", handler(panic).spawned())
        .method("gated", gated)
        .method("gated.spawned", handler(gated).spawned())
        .method("nested", async || {
            Streamed(stream::iter([0]).map(|_| Streamed(stream::iter(["a"]))))
        })
}

fn start() -> (PipeServer, Seen) {
    start_with(ServerConfig::new())
}

fn start_with(config: ServerConfig) -> (PipeServer, Seen) {
    let seen = Seen::default();
    (PipeServer::with_config(router(&seen), config), seen)
}

/// The lines `ID more N` for these.
fn items(id: u64, numbers: impl IntoIterator<Item = u64>) -> String {
    numbers.into_iter().map(|number| format!("{id} more {number}\n")).collect()
}

/// [S15.1] [S15.2] The server sends as many items as there is credit for, and the next ones after
/// more credit.
#[tokio::test]
async fn the_server_sends_exactly_the_credited_items() {
    let (server, seen) = start();
    let mut peer = server.connect().await;
    peer.ask("1 count;window=3 [8,0]\n", items(1, 1..=3)).await;
    peer.expect_silence().await;
    assert_eq!(seen.polls(), 3, "not polled without credit");
    peer.ask("* /more 1 2\n", items(1, 4..=5)).await;
    peer.expect_silence().await;
    peer.ask("* /more 1 1\n* /more 1 1\n", items(1, 6..=7)).await;
    peer.expect_silence().await;
    peer.ask("* /more 1 9007199254740991\n", items(1, 8..=8)).await;
    peer.expect("1 ok\n").await;
    assert_eq!((seen.polls(), seen.alive()), (9, 0));
}

#[tokio::test]
async fn a_request_without_a_window_has_a_credit_of_32() {
    let (server, seen) = start();
    let mut peer = server.connect().await;
    peer.ask("1 count [40,0]\n", items(1, 1..=32)).await;
    peer.expect_silence().await;
    assert_eq!(seen.polls(), 32);
    peer.ask("* /more 1 9\n", items(1, 33..=40)).await;
    peer.expect("1 ok\n").await;
}

/// [S15.3] Streams take turns, and plain replies do not wait for them; each keeps its own order.
#[tokio::test]
async fn streams_and_plain_replies_interleave() {
    let (server, _) = start();
    let mut peer = server.connect().await;
    peer.send("1 count;window=3 [9,0]\n2 count;window=2 [9,0]\n3 echo x\n").await;
    peer.expect("3 ok x\n1 more 1\n2 more 1\n1 more 2\n2 more 2\n1 more 3\n").await;
    peer.ask("* /more 2 1\n4 echo y\n* /more 1 1\n", "4 ok y\n2 more 3\n1 more 4\n").await;
    peer.expect_silence().await;
    peer.ask("* /cancel 1\n* /more 2 99\n", "1 cut cancelled\n").await;
    peer.expect(items(2, 4..=9)).await;
    peer.expect("2 ok\n").await;
}

/// [S3.5] [S3.15] A cancelled stream is dropped, waiting for credit or for its next item.
#[tokio::test]
async fn a_cancelled_stream_is_dropped() {
    let (server, seen) = start();
    let mut peer = server.connect().await;
    peer.ask("1 count;window=1 [9,0]\n2 gated\n3 gated.spawned\n", items(1, [1])).await;
    let mut first = [peer.line().await.unwrap(), peer.line().await.unwrap()];
    first.sort();
    assert_eq!(first, ["2 more 1\n", "3 more 1\n"]);
    for id in [1, 2, 3] {
        peer.ask(format!("* /cancel {id}\n"), format!("{id} cut cancelled\n")).await;
        assert_eq!(seen.alive(), 3 - id);
    }
    peer.send("* /cancel 1\n* /more 2 5\n").await;
    peer.expect_silence().await;
}

/// [S3.4] An item that is an error is the last.
#[tokio::test]
async fn an_error_item_ends_the_stream() {
    let (server, _) = start();
    let mut peer = server.connect().await;
    peer.ask("1 fail 0\n", "1 err at-once as told\n").await;
    peer.ask("2 fail 2\n", "2 more 1\n2 more 2\n2 err later as told\n").await;
    peer.ask("3 fail x\n", "3 no bad-arguments expected value at line 1 column 1\n").await;
    peer.ask("4 nested\n", "4 err internal an item is a stream\n").await;
}

#[tokio::test]
async fn every_handler_mode_may_stream() {
    let (server, seen) = start();
    let mut peer = server.connect().await;
    peer.ask("1 count.spawned;window=2 [3,0]\n", items(1, 1..=2)).await;
    peer.expect_silence().await;
    assert_eq!(seen.polls(), 2);
    peer.ask("* /more 1 2\n", "1 more 3\n1 ok\n").await;
    peer.ask("2 count.blocking\n", "2 more a\n2 more b\n2 ok\n").await;
}

/// The items of a spawned handler, and of a blocking one, are made in tasks of their own.
#[tokio::test]
async fn a_spawned_stream_does_not_run_in_the_connection() {
    let (server, _) = start();
    let mut peer = server.connect().await;
    for (id, method, is_one) in
        [(1, "task", true), (2, "task.spawned", false), (3, "task.blocking", false)]
    {
        peer.send(format!("{id} {method}\n")).await;
        let [a, b] = [peer.line().await.unwrap(), peer.line().await.unwrap()];
        assert!(a.starts_with(&format!("{id} more ")) && (a == b) == is_one, "{method}: {a}{b}");
        peer.expect(format!("{id} ok\n")).await;
    }
}

/// [S3.7] A panic in a stream, or in its drop, affects only its own request.
#[tokio::test]
async fn a_stream_panic_affects_only_its_request() {
    let (server, _) = start();
    let mut peer = server.connect().await;
    peer.ask("1 count;window=1 [2,0]\n", items(1, [1])).await;
    peer.ask("2 panic 3\n", "2 more 1\n2 more 2\n2 err internal\n").await;
    peer.ask("3 panic.spawned 2\n", "3 more 1\n3 err internal\n").await;
    // Its drop panics when it is cancelled. The items before that are delivered nevertheless.
    peer.ask("4 panic;window=1 0\n", "4 more 1\n").await;
    peer.ask("* /cancel 4\n", "4 cut cancelled\n").await;
    peer.send("* panic 0\n").await;
    peer.ask("* /more 1 5\n", "1 more 2\n1 ok\n").await;
}

/// [S15.5] An item over the line limit ends the reply. Earlier items remain valid.
#[tokio::test]
async fn an_item_that_is_too_large_ends_the_stream() {
    let (server, seen) = start();
    let mut peer = server.connect().await;
    peer.ask("1 /hello;version=1;max-line=1024\n", "1 ok;version=1\n").await;
    let line =
        |id: u64, number: u64, size: usize| format!("{id} more {number}{}\n", "x".repeat(size));
    // `2 more 1`, the padding, LF: 1,024 bytes.
    peer.ask("2 count [1,1015]\n", line(2, 1, 1_015)).await;
    peer.expect("2 ok\n").await;
    peer.ask("3 count [10,1014]\n", (1..=9).map(|n| line(3, n, 1_014)).collect::<String>()).await;
    peer.expect(line(3, 10, 1_014)).await;
    peer.expect("3 ok\n").await;
    peer.ask("4 count [11,1015]\n", (1..=9).map(|n| line(4, n, 1_015)).collect::<String>()).await;
    peer.expect("4 err too-large max-line is 1024\n").await;
    assert_eq!(seen.alive(), 0);
}

/// [S3.14] [S15.6] The handler time applies to each item, and runs only while there is credit.
#[tokio::test(start_paused = true)]
async fn each_item_has_the_handler_time() {
    let config = ServerConfig::new().handler_time(Duration::from_secs(10));
    let (server, seen) = start_with(config);
    let mut peer = server.connect().await;
    peer.ask("1 gated;window=3\n", items(1, [1])).await;
    for number in [2, 3] {
        tokio::time::advance(Duration::from_secs(9)).await;
        seen.0.gate.notify_waiters();
        peer.expect(items(1, [number])).await;
    }
    // Without credit it may wait for ever.
    tokio::time::advance(Duration::from_secs(1_000)).await;
    peer.ask("2 echo x\n", "2 ok x\n").await;
    peer.send("* /more 1 1\n3 echo x\n").await;
    peer.expect("3 ok x\n").await;
    tokio::time::advance(Duration::from_secs(9)).await;
    peer.expect_silence().await;
    tokio::time::advance(Duration::from_secs(2)).await;
    peer.expect("1 cut deadline\n").await;
    assert_eq!(seen.alive(), 0);
}

/// [S3.14] The `ttl` bounds the whole reply, with and without credit.
#[tokio::test(start_paused = true)]
async fn a_ttl_bounds_the_whole_stream() {
    let (server, seen) = start();
    let mut peer = server.connect().await;
    peer.send("1 count;window=1;ttl=5000 [9,0]\n2 gated;ttl=6000\n").await;
    peer.expect("1 more 1\n2 more 1\n").await;
    for _ in 0..4 {
        tokio::time::advance(Duration::from_secs(1)).await;
        peer.expect_silence().await;
        seen.0.gate.notify_waiters();
        assert!(peer.line().await.unwrap().starts_with("2 more "));
    }
    peer.expect("1 cut deadline\n2 cut deadline\n").await;
    assert_eq!(seen.alive(), 0);
}

/// [S15.2] If a client gives credit and does not read, the server holds at most what the mark
/// allows, and the stream waits. Its handler time does not run meanwhile. SECURITY.md, threat 7.
#[tokio::test(start_paused = true)]
async fn a_stream_waits_instead_of_buffering_items() {
    const PIPE: usize = 512;
    let mark = 4_096;
    let config = ServerConfig::new().reply_mark(mark).handler_time(Duration::from_secs(10));
    let (server, seen) = start_with(config.write_progress(Duration::from_secs(600)));
    let mut peer = server.connect_raw(PIPE);
    peer.hello().await;
    peer.send("1 count;window=1000000 [2000,90]\n").await;
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(9)).await;
        tokio::task::yield_now().await;
    }
    // What is unwritten, what is in the pipe, and the one over the mark.
    let least_line = "1 more 1\n".len() + 90;
    let (polls, most) = (seen.polls(), (mark + PIPE) / least_line + 1);
    assert!((10..=most).contains(&polls), "{polls} items for {most}");
    for number in 1..=2_000 {
        assert!(peer.line().await.unwrap().starts_with(&format!("1 more {number}x")));
    }
    peer.expect("1 ok\n").await;
    assert_eq!(seen.polls(), 2_001);
}

/// [S15.6] A stream is not late if its next item is ready while the peer does not read.
#[tokio::test(start_paused = true)]
async fn handler_time_does_not_run_while_the_peer_does_not_read() {
    let config = ServerConfig::new().reply_mark(4_096).handler_time(Duration::from_secs(10));
    let (server, seen) = start_with(config.write_progress(Duration::from_secs(600)));
    let mut peer = server.connect_raw(512);
    peer.hello().await;
    peer.ask("1 gated\n", items(1, [1])).await;
    peer.send("2 count;window=1000 [200,90]\n").await;
    for _ in 0..2 {
        tokio::time::advance(Duration::from_secs(4)).await;
        tokio::task::yield_now().await;
    }
    seen.0.gate.notify_one();
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(4)).await;
        tokio::task::yield_now().await;
    }
    let (mut one, mut two) = (0, 0);
    while two < 200 {
        let line = peer.line().await.unwrap();
        one += usize::from(line == "1 more 2\n");
        two += usize::from(line.starts_with("2 more "));
    }
    peer.expect("2 ok\n").await;
    assert_eq!(one, 1, "it came beside the other");
}

/// [S3.16] [S15.7] After a half-close, a stream continues as far as its credit.
#[tokio::test]
async fn a_half_close_ends_streams_that_need_credit() {
    let (server, seen) = start();
    let mut peer = server.connect().await;
    peer.send("1 count [5,0]\n2 count;window=2 [5,0]\n3 gated;window=2\n").await;
    peer.half_close().await;
    peer.expect("1 more 1\n2 more 1\n3 more 1\n1 more 2\n2 more 2\n").await;
    peer.expect("2 cut lost no credit can come any more\n1 more 3\n1 more 4\n1 more 5\n1 ok\n")
        .await;
    peer.expect_silence().await;
    seen.0.gate.notify_waiters();
    peer.expect("3 more 2\n3 cut lost no credit can come any more\n").await;
    peer.expect_closed().await;
    assert_eq!(seen.alive(), 0);
}

/// [S3.17] [S15.7] `/quit` is answered after the streams, which cannot get further credit.
#[tokio::test]
async fn quit_ends_streams_that_wait_for_credit() {
    let (server, seen) = start();
    let mut peer = server.connect().await;
    peer.ask("1 count;window=2 [5,0]\n", items(1, 1..=2)).await;
    peer.ask("2 /quit\n* /more 1 9\n", "1 cut lost no credit can come any more\n2 ok\n").await;
    peer.expect_closed().await;
    assert_eq!(seen.alive(), 0);
}

/// [S18.5] While a server drains, it still accepts credit. Streams that wait at the end of the
/// drain are cut.
#[tokio::test(start_paused = true)]
async fn a_drain_cuts_streams_at_its_end() {
    let config = ServerConfig::new().drain(Duration::from_secs(10));
    let (mut server, seen) = start_with(config);
    let mut peer = server.connect().await;
    peer.send("1 count;window=1 [3,0]\n2 count;window=1 [3,0]\n").await;
    peer.expect("1 more 1\n2 more 1\n").await;
    server.stop();
    while !peer.line().await.unwrap().starts_with("* /bye;last=2 ") {}
    peer.ask("* /more 1 9\n", "1 more 2\n1 more 3\n1 ok\n").await;
    tokio::time::advance(Duration::from_secs(8)).await;
    peer.expect_silence().await;
    peer.expect("2 cut closing\n").await;
    peer.expect_closed().await;
    assert_eq!(seen.alive(), 0);
}

/// A connection that is lost takes its streams with it.
#[tokio::test]
async fn a_lost_connection_drops_its_streams() {
    let (server, seen) = start();
    let mut peer = server.connect().await;
    peer.ask("1 count;window=1 [3,0]\n2 gated\n", "1 more 1\n2 more 1\n").await;
    assert_eq!(seen.alive(), 2);
    drop(peer);
    while seen.alive() > 0 {
        tokio::task::yield_now().await;
    }
}

/// [S3.9] [S15.9] The items of a one-way request would reach no reader.
#[tokio::test]
async fn a_one_way_stream_is_dropped_unpolled() {
    let (server, seen) = start();
    let mut peer = server.connect().await;
    peer.ask("* count [5,0]\n* count.spawned;window=3 [5,0]\n1 echo x\n", "1 ok x\n").await;
    peer.expect_silence().await;
    while seen.alive() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!((seen.polls(), seen.0.most_alive.load(Ordering::Relaxed) > 0), (0, true));
}

/// [S15.8] A window is understood wherever an application request is.
#[tokio::test]
async fn a_window_is_accepted_on_every_application_request() {
    let (server, _) = start_with(ServerConfig::new().allow_publish(true));
    let mut peer = server.connect().await;
    peer.ask("1 echo;window=1 x\n* echo;window=5\n", "1 ok x\n").await;
    peer.ask("2 count;window=0 [1,0]\n", "2 no bad-attribute window\n").await;
    peer.ask("3 count;window=x [1,0]\n", "3 no bad-attribute window\n").await;
    peer.ask("* count;window=-1 [1,0]\n", "* /error bad-attribute window\n").await;
    peer.ask("4 count;window=9007199254740992 [1,0]\n", "4 no bad-attribute window\n").await;
    peer.ask("5 count;window=9007199254740991 [1,0]\n", "5 more 1\n5 ok\n").await;
    peer.ask("6 /publish;window=1 t\n", "6 no unknown-attribute window\n").await;
}

/// [S3.10] [S15.10] Credit for a request that is not a stream, or has ended, has no effect. Credit
/// with bad arguments is refused.
#[tokio::test]
async fn credit_without_a_stream_is_ignored() {
    let (server, seen) = start();
    let mut peer = server.connect().await;
    peer.ask("1 echo x\n2 /methods\n", "1 ok x\n").await;
    while peer.line().await.unwrap() != "2 ok\n" {}
    peer.send("3 forever\n* /more 1 5\n* /more 2 5\n* /more 3 5\n* /more 77 5\n").await;
    peer.expect_silence().await;
    for arguments in ["", " 1", " 1 0", " 1 x", " x 1", " 0 1", " 1 9007199254740992", " 1 2 3"] {
        let line = format!("* /more{arguments}\n");
        peer.ask(line, "* /error bad-arguments usage: /more ID N\n").await;
    }
    peer.ask("* /more;window=1 1 1\n", "* /error unknown-attribute window\n").await;
    peer.ask("4 /more 1 1\n", "4 no bad-form /more is one-way\n").await;
    // Credit may come before the handler has begun to stream.
    peer.ask("5 count;window=1 [3,0]\n* /more 5 2\n", items(5, 1..=3)).await;
    peer.expect_silence().await;
    assert_eq!(seen.polls(), 3);
}

/// [S15.10] A flood of credit takes no memory and wakes no task. SECURITY.md, threat 8.
#[tokio::test]
async fn a_flood_of_credit_takes_no_memory() {
    let (server, seen) = start();
    let mut peer = server.connect().await;
    peer.ask("1 gated;window=1\n2 count;window=1 [3,0]\n", "1 more 1\n2 more 1\n").await;
    let polls = seen.polls();
    let most = u64::pow(2, 53) - 1;
    for _ in 0..100 {
        peer.send(format!("* /more 1 {most}\n* /more 99 1\n").repeat(100)).await;
    }
    peer.ask("3 echo x\n", "3 ok x\n").await;
    assert_eq!(seen.polls(), polls + 1, "polled once for the first, and waiting since");
    peer.ask("* /more 2 1\n", "2 more 2\n").await;
    peer.expect_silence().await;
}

/// There are at most as many live streams as places in flight, whatever is cancelled. SECURITY.md,
/// threat 8.
#[tokio::test]
async fn cancelled_streams_never_exceed_the_places_in_flight() {
    let (server, seen) = start_with(ServerConfig::new().in_flight(8));
    let mut peer = server.connect().await;
    for batch in 0..100 {
        let ids = batch * 50 + 1..=batch * 50 + 50;
        let line = |id| format!("{id} count;window=1 [9,0]\n* /cancel {id}\n");
        peer.send(ids.clone().map(line).collect::<String>()).await;
        let mut over = 0;
        while over < 50 {
            over += usize::from(peer.line().await.unwrap().ends_with(" cut cancelled\n"));
        }
    }
    let most = seen.0.most_alive.load(Ordering::Relaxed);
    assert!((1..=8).contains(&most) && seen.alive() == 0, "{most}");
}

/// [S15.4] A stream that always has a next item, and endless credit, starves no other request, even
/// if the peer reads so slowly that there is never room for everything.
#[tokio::test]
async fn an_endless_stream_starves_no_request() {
    let config = ServerConfig::new().reply_mark(4_096).notification_mark(1_024);
    let (server, seen) = start_with(config);
    let mut peer = server.connect_raw(256);
    peer.hello().await;
    peer.ask("1 /subscribe t\n", "").await;
    assert!(peer.line().await.unwrap().starts_with("1 ok;"));
    peer.send("2 count;window=9007199254740991 [1000000000,50]\n").await;
    peer.send("3 count;window=9007199254740991 [1000000000,50]\n4 gated;window=99\n").await;
    while peer.line().await.unwrap() != "4 more 1\n" {}
    let mut sequence = 0;
    for id in (5..105).step_by(2) {
        for _ in 0..4 {
            server.publisher.publish("t", "x".repeat(300)).await.unwrap();
        }
        seen.0.gate.notify_one();
        peer.send(format!("{id} echo x\n{} /renew\n", id + 1)).await;
        let mut owed = [true; 3];
        let last = sequence + 4;
        let (mut lines, mut streamed) = (0, [0; 2]);
        while owed != [false; 3] || sequence < last {
            let line = peer.line().await.unwrap();
            lines += 1;
            match line.split(' ').collect::<Vec<_>>()[..] {
                [_, "ok\n"] | [_, "ok", ..] => owed[0] = false,
                [_, head, ..] if head.starts_with("ok;lease") => owed[1] = false,
                ["4", "more", ..] => owed[2] = false,
                ["*", "t", number, ..] => {
                    sequence += 1;
                    assert_eq!(number, sequence.to_string());
                }
                ["2", ..] => streamed[0] += 1,
                ["3", ..] => streamed[1] += 1,
                _ => panic!("{line}"),
            }
            assert!(lines < 500, "{owed:?}, {sequence} of {last}");
        }
        let [a, b] = streamed;
        assert!(usize::abs_diff(a, b) <= 1, "the streams take turns: {a}, {b}");
    }
}

/// [S15.4] Notifications or requests that fill all the room do not starve a stream, either.
#[tokio::test]
async fn a_stream_is_not_starved() {
    let config = ServerConfig::new().reply_mark(2_048).notification_mark(1_024);
    let (server, _) = start_with(config);
    for _ in 0..1_000 {
        server.publisher.publish("t", "x".repeat(300)).await.unwrap();
    }
    let mut peer = server.connect_raw(256);
    peer.hello().await;
    peer.send("1 count;window=1000 [1000,50]\n2 /subscribe;from=x:1 t\n").await;
    let (mut streamed, mut told) = (0, 0);
    while told < 200 {
        let line = peer.line().await.unwrap();
        streamed += usize::from(line.starts_with("1 more "));
        told += usize::from(line.starts_with("* t "));
    }
    assert!(streamed >= 50, "{streamed} items beside {told} notifications");

    let mut peer = server.connect_raw(256);
    peer.hello().await;
    peer.send("1 count;window=1000 [1000,50]\n").await;
    let (mut read, mut write) = tokio::io::split(peer.io);
    let requests = (2..1_000).map(|id| format!("{id} echo {}\n", "x".repeat(300)));
    let requests: String = requests.collect();
    let writing = tokio::spawn(async move { write.write_all(requests.as_bytes()).await });
    let mut lines = BufReader::new(&mut read).lines();
    let (mut streamed, mut answered) = (0, 0);
    while answered < 200 {
        let line = lines.next_line().await.unwrap().unwrap();
        streamed += usize::from(line.starts_with("1 more "));
        answered += usize::from(line.contains(" ok "));
    }
    assert!(streamed >= 50, "{streamed} items beside {answered} replies");
    writing.abort();
}

// What controls a connection, while everything on it is busy.

/// [S3.12] All places are taken, by handlers that never end and by streams without credit: the
/// protocol's own methods are answered and obeyed all the same.
#[tokio::test]
async fn protocol_methods_work_while_all_places_are_taken() {
    let (server, seen) = start_with(ServerConfig::new().in_flight(4));
    let mut peer = server.connect().await;
    let requests =
        "1 forever\n2 forever\n3 count;window=1 [3,0]\n4 count;window=1 [3,0]\n5 /subscribe t\n";
    peer.send(requests).await;
    let accepted = peer.line().await.unwrap();
    let epoch = accepted.strip_prefix("5 ok;epoch=").and_then(|line| line.split_once(';'));
    let (epoch, _) = epoch.unwrap_or_else(|| panic!("{accepted}"));
    peer.expect("3 more 1\n4 more 1\n").await;
    peer.send("6 /renew\n").await;
    assert!(peer.line().await.unwrap().starts_with("6 ok;lease=60 t:"));
    peer.send("7 /methods\n").await;
    while peer.line().await.unwrap() != "7 ok\n" {}
    server.publisher.publish("t", "news").await.unwrap();
    peer.expect("* t 1 news\n").await;
    peer.ask(&format!("8 /ack t {epoch}:2\n"), "8 ok\n").await;
    peer.ask(&format!("* /ack t {epoch}:9\n"), &format!("* /error bad-ack next is {epoch}:2\n"))
        .await;
    peer.send("9 /unsubscribe t\n").await;
    assert!(peer.line().await.unwrap().starts_with("9 ok;next="));
    peer.ask("* /more 3 1\n", "3 more 2\n").await;
    peer.ask("* /cancel 1\n10 echo x\n", "1 cut cancelled\n10 ok x\n").await;
    peer.ask(
        "* /cancel 4\n11 /quit\n",
        "4 cut cancelled\n3 cut lost no credit can come any more\n",
    )
    .await;
    peer.expect_silence().await;
    assert_eq!(seen.alive(), 0);
}

/// The library's client renews, cancels and lists methods while all its places are taken.
#[tokio::test(start_paused = true)]
async fn the_client_controls_a_connection_whose_places_are_taken() {
    let config = ServerConfig::new().in_flight(3).lease(Duration::from_secs(20));
    let (server, _) = start_with(config.handler_time(Duration::from_secs(3_600)));
    let client = connect(&server, 64 * 1024);
    let mut news = client.subscribe("t").await.unwrap();
    let mut idle = client.stream("count", "[9,0]").window(1);
    assert_eq!(idle.next().await.unwrap().unwrap(), "1");
    let mut dropped = client.stream("gated", "");
    assert_eq!(dropped.next().await.unwrap().unwrap(), "1");
    let forever = spawn_call(&client, "forever", "");
    let waiting = spawn_call(&client, "echo", "x");
    // Five leases; each renewal is answered, or the subscription would end.
    tokio::time::sleep(Duration::from_secs(100)).await;
    server.publisher.publish("t", "news").await.unwrap();
    let told = news.next().await.unwrap().into_notification().expect("no gap, no end");
    assert_eq!(told.payload, "news");
    assert!(client.methods().await.unwrap().len() > 5);
    assert!(!waiting.is_finished() && client.stats().pending == 3);
    drop(dropped);
    assert_eq!(waiting.await.unwrap().unwrap(), "x");
    forever.abort();
    drop((idle, news));
}

// The client, against a server made of raw bytes.

const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60\n";

/// On the paused clock, so that what never comes fails a test instead of stopping it.
const PATIENCE: Duration = Duration::from_secs(120);

type Raw = RawPeer<DuplexStream>;

async fn greeted() -> (Client, Raw) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (client, connection) = Client::new(near, ClientConfig::new());
    tokio::spawn(connection);
    let mut server = RawPeer::new(far);
    server.send(HELLO).await;
    client.connected().await.unwrap();
    (client, server)
}

fn connect(server: &PipeServer, pipe: usize) -> Client {
    let config = ClientConfig::new().deadline(None);
    let (client, connection) = Client::new(server.connect_raw(pipe).io, config);
    tokio::spawn(connection);
    client
}

fn spawn_call(
    client: &Client,
    method: &'static str,
    payload: &'static str,
) -> tokio::task::JoinHandle<Result<Bytes, CallError>> {
    let client = client.clone();
    tokio::spawn(async move { client.call(method, payload).await })
}

/// Polls once: what is there, if anything is.
fn now(items: &mut Streaming) -> Option<Option<Result<Bytes, CallError>>> {
    items.next().now_or_never()
}

async fn item(items: &mut Streaming) -> Bytes {
    last(items).await.expect("no error")
}

/// The next item, which may be an error.
async fn last(items: &mut Streaming) -> Result<Bytes, CallError> {
    timeout(PATIENCE, items.next()).await.expect("no item comes").expect("an item")
}

async fn expect(server: &mut Raw, line: impl AsRef<str> + std::fmt::Debug) {
    timeout(PATIENCE, server.expect(line)).await.expect("the client wrote nothing");
}

/// Sends on its first poll, and not before; `line` is what the server reads.
async fn begin(items: &mut Streaming, server: &mut Raw, line: &str) {
    assert!(now(items).is_none());
    expect(server, line).await;
}

/// Credit may outlive its stream. It is not used for any later request.
#[tokio::test(start_paused = true)]
async fn credit_of_a_dropped_stream_is_not_used_for_another() {
    let (client, mut server) = greeted().await;
    let mut dropped = client.stream("a", "").window(1);
    begin(&mut dropped, &mut server, "1 a;window=1\n").await;
    server.send("1 more x\n").await;
    let taken = timeout(PATIENCE, dropped.next_with_credit()).await.expect("no item comes");
    let (_, credit) = taken.expect("an item").expect("no error");
    drop(dropped);
    expect(&mut server, "* /cancel 1\n").await;
    let mut other = client.stream("b", "").window(1);
    begin(&mut other, &mut server, "2 b;window=1\n").await;
    drop(credit);
    server.expect_silence().await;
}

/// Credit is given back as items are taken, by the half window, and not before.
#[tokio::test(start_paused = true)]
async fn a_client_gives_credit_back_as_it_takes_items() {
    let (client, mut server) = greeted().await;
    let mut items = client.stream("count", "9").window(4);
    server.expect_silence().await;
    begin(&mut items, &mut server, "1 count;window=4 9\n").await;
    server.send("1 more a\n1 more\n1 more c\n1 more d\n").await;
    assert_eq!(item(&mut items).await, "a");
    server.expect_silence().await;
    assert_eq!(item(&mut items).await, "");
    expect(&mut server, "* /more 1 2\n").await;
    assert_eq!(item(&mut items).await, "c");
    assert_eq!(item(&mut items).await, "d");
    expect(&mut server, "* /more 1 2\n").await;
    server.send("1 more e\n1 ok\n").await;
    assert_eq!(item(&mut items).await, "e");
    assert!(items.next().await.is_none() && items.next().await.is_none());
    drop(items);
    server.expect_silence().await;
    assert_eq!(client.stats().pending, 0);
}

#[tokio::test(start_paused = true)]
async fn the_default_window_is_not_written() {
    let (client, mut server) = greeted().await;
    let mut items = client.stream("count", "").attribute("app.x", 1);
    begin(&mut items, &mut server, "1 count;app.x=1\n").await;
    server.send("1 more x\n".repeat(32)).await;
    for _ in 0..15 {
        item(&mut items).await;
    }
    server.expect_silence().await;
    item(&mut items).await;
    expect(&mut server, "* /more 1 16\n").await;
    let mut faulty = client.stream("count", "").attribute("nodot", 1);
    let error = faulty.next().await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Attribute(_))), "{error}");
    let error = client.stream("no name", "").next().await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Name(_))), "{error}");
}

/// Dropping a stream cancels it on the wire. Its place is held until the terminal line (guarantee
/// "cancelling is free").
#[tokio::test(start_paused = true)]
async fn a_dropped_stream_is_cancelled() {
    let (client, mut server) = greeted().await;
    drop(client.stream("count", "unsent"));
    let mut items = client.stream("count", "");
    begin(&mut items, &mut server, "1 count\n").await;
    server.send("1 more a\n1 more b\n").await;
    assert_eq!(item(&mut items).await, "a");
    drop(items);
    expect(&mut server, "* /cancel 1\n").await;
    server.send("1 more c\n").await;
    let echo = spawn_call(&client, "echo", "x");
    expect(&mut server, "2 echo x\n").await;
    assert_eq!(client.stats().pending, 2);
    server.send("1 cut cancelled\n2 ok x\n").await;
    echo.await.unwrap().unwrap();
    let stats = client.stats();
    assert_eq!((stats.pending, stats.late_replies, stats.unasked_replies), (0, 1, 0));
    server.expect_silence().await;
}

/// The deadline bounds the whole reply, also between two items.
#[tokio::test(start_paused = true)]
async fn a_deadline_bounds_the_whole_stream() {
    let (client, mut server) = greeted().await;
    let mut items = client.stream("count", "").deadline(Duration::from_secs(3));
    begin(&mut items, &mut server, "1 count;ttl=3000\n").await;
    for _ in 0..2 {
        tokio::time::advance(Duration::from_secs(1)).await;
        server.send("1 more x\n").await;
        assert_eq!(item(&mut items).await, "x");
    }
    let error = last(&mut items).await.unwrap_err();
    assert_eq!(error, Unknown::Deadline.into());
    assert!(items.next().await.is_none());
    expect(&mut server, "* /cancel 1\n").await;
    let mut late = client.stream("count", "").deadline(Duration::ZERO);
    assert_eq!(late.next().await.unwrap().unwrap_err(), NotSent::Deadline(None).into());
}

/// [C15.1] If a server sends more items than its credit, the call ends, and the client does not
/// buffer them.
#[tokio::test(start_paused = true)]
async fn a_server_that_exceeds_its_credit_ends_the_call() {
    let (client, mut server) = greeted().await;
    let mut items = client.stream("count", "").window(2);
    begin(&mut items, &mut server, "1 count;window=2\n").await;
    server.send("1 more x\n".repeat(1_000)).await;
    expect(&mut server, "* /cancel 1\n").await;
    assert_eq!(item(&mut items).await, "x");
    assert_eq!(item(&mut items).await, "x");
    assert_eq!(last(&mut items).await.unwrap_err(), Unknown::Overrun.into());
    assert!(items.next().await.is_none());
    assert_eq!((client.stats().violations, client.stats().pending), (1, 1));
    server.send("1 more x\n1 cut cancelled\n").await;
    let echo = spawn_call(&client, "echo", "x");
    expect(&mut server, "2 echo x\n").await;
    server.send("2 ok\n").await;
    echo.await.unwrap().unwrap();
    assert_eq!(client.stats().pending, 0);
}

/// Whatever ends the reply, earlier items are delivered, and the error comes last.
#[tokio::test(start_paused = true)]
async fn an_error_is_the_last_item() {
    let (client, mut server) = greeted().await;
    for (id, line, is_right) in [
        (1, "1 err busy x\n", (|e| matches!(e, CallError::Remote(_))) as fn(&CallError) -> bool),
        (2, "2 no busy\n", |e| matches!(e, CallError::Refused { .. })),
        (3, "3 cut lost\n", |e| matches!(e, CallError::Unknown(Unknown::Cut(_)))),
    ] {
        let mut items = client.stream("count", "");
        begin(&mut items, &mut server, &format!("{id} count\n")).await;
        server.send(format!("{id} more a\n{line}")).await;
        assert_eq!(item(&mut items).await, "a");
        let error = last(&mut items).await.unwrap_err();
        assert!(is_right(&error), "{error}");
        assert!(items.next().await.is_none());
    }
    let mut items = client.stream("count", "");
    begin(&mut items, &mut server, "4 count\n").await;
    server.send("4 more a\n").await;
    drop(server);
    assert_eq!(item(&mut items).await, "a");
    let error = last(&mut items).await.unwrap_err();
    assert!(matches!(error, CallError::Unknown(Unknown::Lost(_))), "{error}");
    assert!(items.next().await.is_none());
    let error = client.stream("count", "").next().await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Lost(_))), "{error}");
}

/// A method that answers with one payload gives a stream of it.
#[tokio::test(start_paused = true)]
async fn a_plain_reply_is_a_stream_of_one_item() {
    let (client, mut server) = greeted().await;
    let mut items = client.stream("random", "6").window(1);
    begin(&mut items, &mut server, "1 random;window=1 6\n").await;
    server.send("1 ok 4\n").await;
    assert_eq!(item(&mut items).await, "4");
    assert!(items.next().await.is_none());
}

/// An unread streamed reply does not delay anything else. SECURITY.md, threat 14.
#[tokio::test(start_paused = true)]
async fn an_unread_stream_delays_no_call() {
    let (server, seen) = start();
    let client = connect(&server, 1_024);
    let mut unread = client.stream("count", "[1000,500]").window(8);
    assert!(item(&mut unread).await.starts_with(b"1x"));
    for _ in 0..200 {
        assert_eq!(client.call("echo", "x").await.unwrap(), "x");
    }
    assert_eq!(seen.polls(), 8, "the window, and no more");
    assert!(item(&mut unread).await.starts_with(b"2x"));
    drop(unread);
    assert_eq!(client.call("echo", "x").await.unwrap(), "x");
    client.close().await.unwrap();
    assert_eq!(seen.alive(), 0);
}

/// Both ends, whatever the window and however narrow the pipe: all items, in order, once.
#[tokio::test(start_paused = true)]
async fn every_item_arrives_once_and_in_order() {
    for (window, pipe, method) in
        [(1, 64, "count"), (3, 64, "count"), (32, 7, "count"), (1_000, 4_096, "count.spawned")]
    {
        let (server, seen) = start();
        let client = connect(&server, pipe);
        let streams = (0..3).map(|_| async {
            let items = client.stream(method, "[500,0]").window(window);
            let numbers = items.map(|item| String::from_utf8(item.unwrap().into()).unwrap());
            let expected: Vec<_> = (1..=500).map(|number| number.to_string()).collect();
            assert_eq!(numbers.collect::<Vec<_>>().await, expected);
        });
        futures::future::join_all(streams).await;
        assert_eq!((seen.alive(), client.stats().pending), (0, 0));
        client.close().await.unwrap();
    }
}

/// A single call to a method that streams ends, and is cancelled.
#[tokio::test(start_paused = true)]
async fn a_call_to_a_method_that_streams_is_cancelled() {
    let (server, seen) = start();
    let client = connect(&server, 1_024);
    let error = client.call("count", "[1000,0]").await.unwrap_err();
    assert_eq!(error, Unknown::Streamed.into());
    assert_eq!(client.call("echo", "x").await.unwrap(), "x");
    assert_eq!((seen.alive(), client.stats().pending), (0, 0));
}

/// Typed items; one that does not decode is the last, and cancels the rest.
#[tokio::test(start_paused = true)]
async fn items_may_be_typed() {
    let (server, seen) = start();
    let client = connect(&server, 1_024);
    let numbers = client.request_stream::<_, u64>("count", &(5, 0));
    let sum: u64 = numbers.map(|number| number.unwrap()).collect::<Vec<_>>().await.iter().sum();
    assert_eq!(sum, 15);
    let mut texts = client.request_stream::<_, String>("count", &(50, 0)).window(2);
    let error = texts.next().await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Decode(_)), "{error}");
    assert!(texts.next().await.is_none());
    assert_eq!(client.call("echo", "x").await.unwrap(), "x");
    assert_eq!(seen.alive(), 0);
}

/// On close a stream continues as far as its credit, and then is cut.
#[tokio::test(start_paused = true)]
async fn closing_ends_a_stream_at_its_credit() {
    let (server, seen) = start();
    let client = connect(&server, 1_024);
    let mut items = client.stream("count", "[100,0]").window(4);
    assert_eq!(item(&mut items).await, "1");
    client.close().await.unwrap();
    assert_eq!(seen.alive(), 0);
    for number in 2..=4 {
        assert_eq!(item(&mut items).await, number.to_string());
    }
    let error = last(&mut items).await.unwrap_err();
    assert_eq!(error.code(), Some(&Code::LOST));
}
