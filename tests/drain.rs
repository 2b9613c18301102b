//! The end of a server in two steps: what it still takes, what it finishes, and that it ends.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use bellwire::{
    Client, ClientConfig, ConnectionError, ConnectionEvent, NotSent, Random, Router, Server,
    ServerConfig, blocking, handler, server::PeerAddr,
};
use futures::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpSocket,
    sync::Semaphore,
    task::{JoinHandle, JoinSet, yield_now},
    time::{Instant, advance},
};

#[cfg(unix)]
#[path = "support/load.rs"]
mod load;
#[cfg(unix)]
#[path = "support/process.rs"]
mod process;
mod support;

use support::{PipeServer, RawPeer};

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

/// [M148] [M149] Whatever comes during the grace is obeyed, and the line comes at its end.
#[tokio::test(start_paused = true)]
async fn the_grace_takes_every_kind_of_request() {
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

/// A line that waits for a place when the line is drawn is behind it.
#[tokio::test(start_paused = true)]
async fn what_waits_for_a_place_is_behind_the_line() {
    let mut server = PipeServer::with_config(router(), ServerConfig::new().in_flight(1));
    let mut peer = server.connect().await;
    peer.send("1 forever\n2 echo a\n3 echo b\n").await;
    server.stop();
    peer.expect("* /bye shutdown\n* /bye;last=1 shutdown\n2 no closing\n3 no closing\n").await;
    peer.expect("1 cut closing\n").await;
    peer.expect_closed().await;
}

/// Goodbye is said in the order of the sessions' ids: the same for the same seed, whatever the
/// table's.
#[tokio::test(start_paused = true)]
async fn goodbye_is_said_in_an_order_that_repeats() {
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

/// Nobody waits for who is not there, nor for who has said that it wants nothing more.
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

/// Whatever a peer or a handler does, the end comes: after the grace, the drain, and the second in
/// which to write what was cut.
#[tokio::test(start_paused = true)]
async fn every_end_is_finite() {
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

/// What was published is delivered to who reads it, however slowly, before the connection is closed.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_given_all_there_is() {
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

/// A handler that blocks its thread cannot be stopped, and is not waited for either.
#[tokio::test]
async fn a_blocking_handler_does_not_hold_up_the_end() {
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

/// [M95] Behind the first goodbye nothing is begun, and what is under way goes on, the protocol's
/// own requests with it.
#[tokio::test(start_paused = true)]
async fn a_client_begins_nothing_behind_the_first_goodbye() {
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

/// A client that closes behind the first goodbye quits, as at any time; and a server that is gone
/// without the second has said goodbye all the same.
#[tokio::test]
async fn a_client_may_quit_behind_the_first_goodbye() {
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

/// A peer that asks on behind the line, and reads slowly, gets all that it is owed: its connection is
/// not reset, with what the system has still to send, while it may be read.
#[tokio::test]
async fn who_asks_on_and_reads_slowly_loses_no_reply() {
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
            tokio::time::sleep(Duration::from_millis(10)).await;
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
        tokio::time::sleep(Duration::from_millis(20)).await;
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

// threats: 29

/// Row 29 of the threats: SIGTERM to a server under pipelined load, at a moment that is chance. No
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
