//! The fault proxy and the transport that fails at a byte: the test tools themselves.

use std::{
    collections::HashSet,
    future::{pending, ready},
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bellwire::{Router, Server};
use bellwire_testkit::{
    PipeServer, RawPeer,
    cutting::{CutIo, Reads},
    doors,
    proxy::{
        Direction::{self, ToClient, ToServer},
        End, Hole, Plan, Proxy, Transport, pipe,
    },
};
use fastrand::Rng;
use futures::FutureExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    runtime::Handle as Runtime,
    task::{JoinHandle, yield_now},
    time::{Instant, sleep, timeout},
};

const SESSION: &[u8] = b"1 random 6\n2 offers.get 42\n3 ping\n";

/// Longer than any wait of these tests.
const AGE: Duration = Duration::from_secs(86_400);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Fails where it would hang else.
async fn soon<T>(event: impl Future<Output = T>) -> T {
    timeout(secs(60), event).await.expect("it comes")
}

async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

/// The two ends of a connection through a proxy, over pipes of `size` bytes.
fn through(proxy: &Proxy, size: usize) -> (End, End) {
    let ((client, near), (far, server)) = (pipe(size), pipe(size));
    proxy.between(near, far);
    (client, server)
}

/// All that comes, and how it ends.
async fn rest(io: &mut impl Transport) -> (Vec<u8>, Result<(), ErrorKind>) {
    let mut read = Vec::new();
    let end = soon(io.read_to_end(&mut read)).await;
    (read, end.map(drop).map_err(|error| error.kind()))
}

async fn exactly(io: &mut impl Transport, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    soon(io.read_exact(&mut bytes)).await.expect("so many bytes");
    bytes
}

/// Nothing comes for an age: no byte, no end.
async fn is_silent(io: &mut impl Transport) -> bool {
    timeout(AGE, io.read_u8()).await.is_err()
}

fn bytes(rng: &mut Rng, most: usize) -> Vec<u8> {
    let length = rng.usize(..most);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

/// Writes all this in random pieces, and after some of them pauses for up to this many
/// milliseconds; then the end. Meanwhile it reads to the end.
async fn chat(io: impl Transport, bytes: &[u8], mut rng: Rng, pause: u64) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(io);
    let write = async {
        let mut left = bytes;
        while !left.is_empty() {
            let piece;
            (piece, left) = left.split_at(rng.usize(1..=100).min(left.len()));
            writer.write_all(piece).await.expect("written");
            match rng.u8(..4) {
                0 if pause > 0 => sleep(Duration::from_millis(rng.u64(..pause))).await,
                1 => yield_now().await,
                _ => {}
            }
        }
        writer.shutdown().await.expect("shut down");
    };
    let mut read = Vec::new();
    let (_, end) = tokio::join!(write, reader.read_to_end(&mut read));
    end.expect("an orderly end");
    read
}

/// Gives back whatever it reads; what it read and how that ended.
async fn echo(mut io: impl Transport) -> (Vec<u8>, ErrorKind) {
    let mut read = Vec::new();
    loop {
        let mut chunk = [0; 256];
        let end = match io.read(&mut chunk).await {
            Ok(0) => ErrorKind::UnexpectedEof,
            Ok(count) => {
                read.extend_from_slice(&chunk[..count]);
                match io.write_all(&chunk[..count]).await {
                    Ok(()) => continue,
                    Err(error) => error.kind(),
                }
            }
            Err(error) => error.kind(),
        };
        // A reset that a write has met leaves what came before to be read.
        let _ = io.read_to_end(&mut read).await;
        return (read, end);
    }
}

/// Writes the session and reads until that ends; what it read and how that ended.
async fn ask(mut io: impl Transport) -> (Vec<u8>, ErrorKind) {
    let written = io.write_all(SESSION).await;
    let mut read = Vec::new();
    let end = io.read_to_end(&mut read).await;
    let error = written.err().or(end.err());
    (read, error.map_or(ErrorKind::UnexpectedEof, |error| error.kind()))
}

// What passes.

#[tokio::test(start_paused = true)]
async fn bytes_pass_unchanged_under_slices_and_stalls() {
    for seed in 0..400 {
        let mut rng = Rng::with_seed(seed);
        let size = if rng.bool() { rng.usize(1..=64) } else { 65_536 };
        let (up, down) = (bytes(&mut rng, 3_000), bytes(&mut rng, 3_000));
        let proxy = Proxy::new([Plan::rough(seed, 3_000, secs(5))]);
        let (client, server) = through(&proxy, size);
        let (at_client, at_server) = timeout(AGE, async {
            tokio::join!(chat(client, &up, rng.fork(), 100), chat(server, &down, rng.fork(), 100))
        })
        .await
        .unwrap_or_else(|_| panic!("seed {seed} hangs"));
        assert!(at_client == down && at_server == up, "seed {seed}");
        let wire = proxy.wire();
        assert!(wire.delivered(0, ToServer) == up && wire.taken(0, ToServer) == up);
        assert!(wire.delivered(0, ToClient) == down && wire.taken(0, ToClient) == down);
        soon(wire.until(|wire| !wire.is_open(0))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn slices_are_of_1_to_7_bytes() {
    let proxy = Proxy::new([Plan::new().slice(3)]);
    let (mut client, mut server) = through(&proxy, 4_096);
    client.write_all(&[7; 2_000]).await.unwrap();
    client.shutdown().await.unwrap();
    // A task has its turn after each piece; the test itself would see several at once.
    let reader = tokio::spawn(async move {
        let mut seen = Vec::new();
        loop {
            match server.read(&mut [0; 100]).await.unwrap() {
                0 => return seen,
                count => seen.push(count),
            }
        }
    });
    let seen = soon(reader).await.unwrap();
    assert_eq!(seen.iter().sum::<usize>(), 2_000);
    assert_eq!(seen.into_iter().collect::<HashSet<_>>(), (1..=7).collect());
}

#[tokio::test(start_paused = true)]
async fn a_stall_delays_the_bytes_from_its_offset() {
    let plan = Plan::new().stall(ToServer, 3, secs(2)).stall(ToServer, 5, secs(7));
    let proxy = Proxy::new([plan.stall(ToClient, 0, secs(1))]);
    let (mut client, mut server) = through(&proxy, 64);
    let start = Instant::now();
    client.write_all(b"abcdefg").await.unwrap();
    assert_eq!(exactly(&mut server, 3).await, b"abc");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(exactly(&mut server, 1).await, b"d");
    assert_eq!(start.elapsed(), secs(2));
    assert_eq!(exactly(&mut server, 3).await, b"efg");
    assert_eq!(start.elapsed(), secs(9));
    // The time runs from when something is there to wait, and an end waits like a byte.
    server.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, (vec![], Ok(())));
    assert_eq!(start.elapsed(), secs(10));
}

#[tokio::test(start_paused = true)]
async fn one_direction_ends_while_the_other_goes_on() {
    let proxy = Proxy::new([Plan::new().slice(1)]);
    let (mut client, mut server) = through(&proxy, 64);
    client.write_all(b"all of it").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut server).await, (b"all of it".to_vec(), Ok(())));
    server.write_all(b"an answer").await.unwrap();
    assert_eq!(exactly(&mut client, 9).await, b"an answer");
    assert!(proxy.wire().is_open(0));
    server.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, (vec![], Ok(())));
    soon(proxy.wire().until(|wire| !wire.is_open(0))).await;
}

#[tokio::test(start_paused = true)]
async fn a_write_to_a_closed_end_is_reset() {
    let proxy = Proxy::new([]);
    let (client, mut server) = through(&proxy, 64);
    drop(client);
    assert_eq!(rest(&mut server).await, (vec![], Ok(())));
    server.write_all(b"nobody reads").await.unwrap();
    soon(proxy.wire().until(|wire| !wire.is_open(0))).await;
    assert_eq!(server.write(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    // What was sent before a reset of the sender's arrives.
    let (mut client, mut server) = through(&proxy, 64);
    client.write_all(b"last words").await.unwrap();
    client.reset();
    assert_eq!(rest(&mut server).await, (b"last words".to_vec(), Err(ErrorKind::ConnectionReset)));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_after_both_ends_close() {
    let proxy = Proxy::new([]);
    let (mut client, mut server) = through(&proxy, 4);
    // More than the pipes take: both directions hold something when it happens.
    tokio::select! {
        biased;
        _ = client.write_all(&[1; 10_000]) => panic!("nobody reads"),
        _ = server.write_all(&[2; 10_000]) => panic!("nobody reads"),
        () = settle() => {}
    }
    drop((client, server));
    soon(proxy.wire().until(|wire| !wire.is_open(0))).await;
}

// What is cut.

#[tokio::test(start_paused = true)]
async fn a_cut_delivers_exactly_so_many_bytes_and_resets_both_ends() {
    for direction in Direction::BOTH {
        for k in 0..=SESSION.len() {
            let plan = Plan::new().cut(direction, k);
            let proxy = Proxy::new([if k % 2 == 0 { plan } else { plan.slice(k as u64) }]);
            let (client, server) = through(&proxy, 64);
            let (at_client, at_server) =
                soon(async { tokio::join!(ask(client), echo(server)) }).await;
            assert_eq!(
                (at_client.1, at_server.1),
                (ErrorKind::ConnectionReset, ErrorKind::ConnectionReset)
            );
            let wire = proxy.wire();
            assert_eq!(wire.count(0, direction), k);
            assert_eq!(at_client.0, wire.delivered(0, ToClient), "{direction:?} {k}");
            assert_eq!(at_server.0, wire.delivered(0, ToServer), "{direction:?} {k}");
            assert!(SESSION.starts_with(&at_client.0) && SESSION.starts_with(&at_server.0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_fails_reads_and_writes_of_both_ends() {
    let proxy = Proxy::new([Plan::new().cut(ToServer, 2)]);
    let (mut client, mut server) = through(&proxy, 64);
    client.write_all(b"abc").await.unwrap();
    assert_eq!(rest(&mut server).await, (b"ab".to_vec(), Err(ErrorKind::ConnectionReset)));
    assert_eq!(rest(&mut client).await, (vec![], Err(ErrorKind::ConnectionReset)));
    for end in [&mut client, &mut server] {
        assert_eq!(end.write(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(rest(end).await, (vec![], Err(ErrorKind::ConnectionReset)));
    }
    assert_eq!(proxy.wire().taken(0, ToServer), b"abc");
}

#[tokio::test(start_paused = true)]
async fn a_close_at_a_byte_is_an_end_to_both() {
    for direction in Direction::BOTH {
        for k in 0..=SESSION.len() {
            let proxy = Proxy::new([Plan::new().close(direction, k)]);
            let (client, server) = through(&proxy, 64);
            let (at_client, at_server) =
                soon(async { tokio::join!(ask(client), echo(server)) }).await;
            // A later write fails, because the other end does not read any more.
            for end in [at_client.1, at_server.1] {
                assert!(matches!(end, ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe), "{end}");
            }
            assert_eq!(proxy.wire().count(0, direction), k);
            assert_eq!(at_client.0, proxy.wire().delivered(0, ToClient));
            assert_eq!(at_server.0, proxy.wire().delivered(0, ToServer));
        }
    }
}

/// A transport that cannot show a reset shows an end of file.
#[tokio::test(start_paused = true)]
async fn a_cut_is_an_end_of_file_on_a_plain_pipe() {
    let proxy = Proxy::new([Plan::new().cut(ToServer, 4)]);
    let (far, mut server) = duplex(64);
    let mut client = proxy.dial(|| Ok(far)).unwrap();
    client.write_all(b"4 bytes").await.unwrap();
    assert_eq!(rest(&mut server).await, (b"4 by".to_vec(), Ok(())));
    assert_eq!(rest(&mut client).await.1, Err(ErrorKind::ConnectionReset));
}

// What vanishes.

#[tokio::test(start_paused = true)]
async fn a_black_hole_accepts_all_bytes_and_delivers_none() {
    let proxy = Proxy::new([Plan::new().black_hole(ToServer, 3, Hole::Swallows)]);
    let (mut client, mut server) = through(&proxy, 64);
    soon(client.write_all(&[9; 10_000])).await.unwrap();
    assert_eq!(exactly(&mut server, 3).await, [9; 3]);
    assert!(is_silent(&mut server).await);
    soon(server.write_all(b"heard")).await.unwrap();
    assert_eq!(exactly(&mut client, 5).await, b"heard");
    client.shutdown().await.unwrap();
    assert!(is_silent(&mut server).await && is_silent(&mut client).await);
    // Not even that the client is gone gets through.
    drop(client);
    server.write_all(b"heard?").await.unwrap();
    assert!(is_silent(&mut server).await);
    assert_eq!(proxy.wire().taken(0, ToServer).len(), 10_000);
    assert_eq!(proxy.wire().count(0, ToServer), 3);
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_may_accept_no_bytes() {
    let proxy = Proxy::new([Plan::new().black_hole(ToServer, 3, Hole::Blocks)]);
    let (mut client, mut server) = through(&proxy, 64);
    assert!(timeout(AGE, client.write_all(&[9; 68])).await.is_err());
    assert_eq!(exactly(&mut server, 3).await, [9; 3]);
    assert!(is_silent(&mut server).await);
    assert_eq!(proxy.wire().taken(0, ToServer), [9; 3]);
    soon(server.write_all(b"heard")).await.unwrap();
    assert_eq!(exactly(&mut client, 5).await, b"heard");
}

/// The paused clock would stop under a proxy that retries without end.
#[tokio::test(start_paused = true)]
async fn a_blocked_close_is_tried_once() {
    let proxy = Proxy::new([Plan::new().black_hole(ToClient, 0, Hole::Swallows)]);
    let (mut client, server) = through(&proxy, 64);
    server.reset();
    settle().await;
    client.shutdown().await.unwrap();
    assert!(is_silent(&mut client).await);
}

#[tokio::test(start_paused = true)]
async fn a_two_way_black_hole_passes_nothing() {
    let plan = Plan::new().go_dark(ToServer, 5);
    let proxy = Proxy::new([plan.clone(), plan.slice(1)]);
    for number in 0..2 {
        let (mut client, mut server) = through(&proxy, 64);
        server.write_all(b"before").await.unwrap();
        assert_eq!(exactly(&mut client, 6).await, b"before");
        client.write_all(b"5 and more").await.unwrap();
        assert_eq!(exactly(&mut server, 5).await, b"5 and");
        soon(server.write_all(&[1; 1_000])).await.unwrap();
        soon(client.write_all(&[2; 1_000])).await.unwrap();
        assert!(is_silent(&mut client).await && is_silent(&mut server).await);
        drop(client);
        assert!(is_silent(&mut server).await);
        assert_eq!(proxy.wire().count(number, ToClient), 6);
    }
}

// What comes late.

#[tokio::test(start_paused = true)]
async fn a_slow_close_is_forwarded_after_its_delay() {
    let plan = Plan::new().slow_close(ToServer, secs(30));
    let proxy = Proxy::new([plan.clone(), plan.clone(), plan]);
    // An orderly end; bytes do not wait.
    let (mut client, mut server) = through(&proxy, 64);
    client.write_all(b"bytes").await.unwrap();
    sleep(secs(3)).await;
    let start = Instant::now();
    client.shutdown().await.unwrap();
    assert_eq!(exactly(&mut server, 5).await, b"bytes");
    assert_eq!(start.elapsed(), Duration::ZERO);
    server.write_all(b"answer").await.unwrap();
    assert_eq!(exactly(&mut client, 6).await, b"answer");
    assert_eq!(rest(&mut server).await, (vec![], Ok(())));
    assert_eq!(start.elapsed(), secs(30));
    // A reset.
    let (client, mut server) = through(&proxy, 64);
    let start = Instant::now();
    client.reset();
    assert_eq!(rest(&mut server).await, (vec![], Err(ErrorKind::ConnectionReset)));
    assert_eq!(start.elapsed(), secs(30));
    // The client is gone, which shows twice: by the end of what it sends, and 5 s later by its taking
    // nothing.
    let (client, mut server) = through(&proxy, 64);
    let start = Instant::now();
    drop(client);
    sleep(secs(5)).await;
    server.write_all(b"hello?").await.unwrap();
    assert_eq!(rest(&mut server).await, (vec![], Ok(())));
    assert_eq!(start.elapsed(), secs(30));
    soon(proxy.wire().until(|wire| !wire.is_open(2))).await;
    assert_eq!(start.elapsed(), secs(35));
    assert_eq!(rest(&mut server).await.1, Err(ErrorKind::ConnectionReset));
}

/// That the server is gone shows by its not taking what the client writes, while bytes of its own
/// are still on their way.
#[tokio::test(start_paused = true)]
async fn bytes_in_transit_do_not_wait_for_a_slow_close() {
    let proxy = Proxy::new([Plan::new().slow_close(ToClient, secs(30))]);
    let (mut client, mut server) = through(&proxy, 4);
    server.write_all(b"123456789abc").await.unwrap();
    settle().await;
    drop(server);
    client.write_all(b"x").await.unwrap();
    settle().await;
    let start = Instant::now();
    assert_eq!(exactly(&mut client, 12).await, b"123456789abc");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(rest(&mut client).await, (vec![], Err(ErrorKind::ConnectionReset)));
    assert_eq!(start.elapsed(), secs(30));
}

#[tokio::test(start_paused = true)]
async fn a_slow_close_affects_one_direction_only() {
    let proxy = Proxy::new([Plan::new().slow_close(ToServer, secs(30))]);
    let (mut client, mut server) = through(&proxy, 64);
    let start = Instant::now();
    server.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, (vec![], Ok(())));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

// Refused connections.

#[tokio::test(start_paused = true)]
async fn a_refused_dial_fails_without_contacting_the_server() {
    let proxy = Proxy::new([Plan::new(), Plan::new().refusal(), Plan::new().close(ToClient, 1)]);
    let asked = AtomicUsize::new(0);
    let dial = || {
        proxy.dial(|| {
            asked.fetch_add(1, Ordering::Relaxed);
            let (far, mut server) = duplex(64);
            tokio::spawn(async move { server.write_all(b"hi").await });
            Ok(far)
        })
    };
    assert_eq!(rest(&mut dial().unwrap()).await, (b"hi".to_vec(), Ok(())));
    assert_eq!(dial().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(!proxy.wire().is_open(1) && proxy.wire().connections() == 2);
    // A command takes no plan.
    proxy.refuse(true);
    assert_eq!(dial().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    proxy.refuse(false);
    assert_eq!(rest(&mut dial().unwrap()).await, (b"h".to_vec(), Ok(())));
    assert_eq!((asked.into_inner(), proxy.wire().connections()), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn a_dial_to_an_absent_server_fails_with_its_error() {
    let proxy = Proxy::new([]);
    let away = || Err::<DuplexStream, _>(io::Error::from(ErrorKind::NotFound));
    assert_eq!(proxy.dial(away).unwrap_err().kind(), ErrorKind::NotFound);
    let ((mut client, near), (far, mut server)) = (pipe(64), pipe(64));
    proxy.refuse(true);
    proxy.between(near, far);
    assert_eq!(rest(&mut client).await.1, Err(ErrorKind::ConnectionReset));
    assert_eq!(rest(&mut server).await.1, Err(ErrorKind::ConnectionReset));
}

// What is commanded.

#[tokio::test(start_paused = true)]
async fn commands_apply_to_every_open_connection() {
    let proxy = Proxy::new([]);
    let (mut a, mut b) = (through(&proxy, 64), through(&proxy, 64));
    proxy.cut();
    for end in [&mut a.0, &mut a.1, &mut b.0, &mut b.1] {
        assert_eq!(rest(end).await, (vec![], Err(ErrorKind::ConnectionReset)));
    }
    let (mut a, mut b) = (through(&proxy, 64), through(&proxy, 64));
    proxy.connection(2).cut();
    assert_eq!(rest(&mut a.1).await.1, Err(ErrorKind::ConnectionReset));
    b.0.write_all(b"alive").await.unwrap();
    assert_eq!(exactly(&mut b.1, 5).await, b"alive");
    proxy.handle().close();
    assert_eq!(rest(&mut b.0).await, (vec![], Ok(())));
    assert_eq!(rest(&mut b.1).await, (vec![], Ok(())));
}

#[tokio::test(start_paused = true)]
async fn a_commanded_stall_lasts_until_resume() {
    let proxy = Proxy::new([]);
    let (mut client, mut server) = through(&proxy, 64);
    settle().await;
    proxy.stall();
    let (mut late_client, mut late_server) = through(&proxy, 64);
    for (client, server) in [(&mut client, &mut server), (&mut late_client, &mut late_server)] {
        client.write_all(b"waits").await.unwrap();
        client.shutdown().await.unwrap();
        assert!(is_silent(server).await);
    }
    proxy.go_on();
    for server in [&mut server, &mut late_server] {
        assert_eq!(rest(server).await, (b"waits".to_vec(), Ok(())));
    }
    // What is cut in the meantime is cut.
    proxy.stall();
    client.write_all(b"lost").await.unwrap_err();
    server.write_all(b"lost").await.unwrap();
    settle().await;
    proxy.cut();
    assert_eq!(rest(&mut client).await, (vec![], Err(ErrorKind::ConnectionReset)));
}

#[tokio::test(start_paused = true)]
async fn a_commanded_black_hole_spares_later_connections() {
    let proxy = Proxy::new([]);
    let (mut client, mut server) = through(&proxy, 64);
    client.write_all(b"before").await.unwrap();
    assert_eq!(exactly(&mut server, 6).await, b"before");
    proxy.black_hole();
    soon(client.write_all(&[0; 1_000])).await.unwrap();
    soon(server.write_all(&[0; 1_000])).await.unwrap();
    assert!(is_silent(&mut client).await && is_silent(&mut server).await);
    let (mut later, mut server) = through(&proxy, 64);
    later.write_all(b"after").await.unwrap();
    assert_eq!(exactly(&mut server, 5).await, b"after");
    // It can be cut still.
    proxy.connection(0).cut();
    assert_eq!(rest(&mut client).await, (vec![], Err(ErrorKind::ConnectionReset)));
}

// What is seen.

#[tokio::test(start_paused = true)]
async fn observers_get_whole_lines_in_the_order_of_delivery() {
    let proxy = Proxy::new([Plan::new().slice(1), Plan::new().stall(ToServer, 0, secs(1))]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (told, wire) = (seen.clone(), proxy.wire().clone());
    proxy.wire().observe(move |connection, direction, line| {
        let line = String::from_utf8(line.to_vec()).unwrap();
        assert!(wire.lines(connection, direction).contains(&line.clone().into()), "it is there");
        told.lock().unwrap().push((connection, direction, line));
    });
    let (mut a, mut b) = (through(&proxy, 64), through(&proxy, 64));
    b.0.write_all(b"late\nend").await.unwrap();
    a.0.write_all(b"one\n\ntwo\nthr").await.unwrap();
    exactly(&mut a.1, 12).await;
    a.1.write_all(b"four\n").await.unwrap();
    exactly(&mut a.0, 5).await;
    a.0.write_all(b"ee\n").await.unwrap();
    exactly(&mut b.1, 8).await;
    let expected = [
        (0, ToServer, "one"),
        (0, ToServer, ""),
        (0, ToServer, "two"),
        (0, ToClient, "four"),
        (0, ToServer, "three"),
        (1, ToServer, "late"),
    ];
    assert_eq!(*seen.lock().unwrap(), expected.map(|(n, way, line)| (n, way, line.to_owned())));
    assert_eq!(proxy.wire().lines(0, ToServer), [&b"one"[..], b"", b"two", b"three"]);
    assert_eq!(proxy.wire().lines(1, ToServer), [b"late"]);
    assert_eq!(proxy.wire().delivered(1, ToServer), b"late\nend");
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "seen")]
async fn an_observer_that_panics_fails_the_test() {
    let proxy = Proxy::new([]);
    proxy.wire().observe(|_, _, _| panic!("seen"));
    let (mut client, mut server) = through(&proxy, 64);
    client.write_all(b"line\n").await.unwrap();
    rest(&mut server).await.1.unwrap();
}

// What chance draws.

#[test]
fn random_plans_are_reproducible_and_of_every_kind() {
    let plans = || (0..1_000).map(|seed| Plan::random(seed, 50, secs(3)));
    let all = plans().collect::<Vec<_>>();
    assert!(plans().eq(all.iter().cloned()));
    let debug = all.iter().map(|plan| format!("{plan:?}")).collect::<HashSet<_>>();
    assert!(debug.len() > 950, "{}", debug.len());
    for kind in ["is_refusal: true", "slices: Some", "Reset", "Close", "Dark", "Swallows", "Blocks"]
    {
        assert!(debug.iter().any(|plan| plan.contains(kind)), "{kind}");
    }
}

/// What a session comes to that is played by the plan of this seed: when each line was delivered, how
/// far each direction came, and how it ended for either end.
async fn played(seed: u64) -> String {
    let proxy = Proxy::new([Plan::random(seed, SESSION.len(), secs(3))]);
    let log = Arc::new(Mutex::new(String::new()));
    let (told, start) = (log.clone(), Instant::now());
    proxy.wire().observe(move |_, direction, line| {
        let (at, line) = (start.elapsed(), line.escape_ascii());
        *told.lock().unwrap() += &format!("{at:?} {direction:?} {line}\n");
    });
    let (client, server) = through(&proxy, 16);
    let ends = timeout(secs(60), async { tokio::join!(ask(client), echo(server)) }).await.ok();
    let counts = Direction::BOTH.map(|direction| proxy.wire().count(0, direction));
    let log = log.lock().unwrap();
    format!("{log}{counts:?} {ends:?}")
}

#[tokio::test(start_paused = true)]
async fn a_random_plan_replays_identically() {
    let mut all = HashSet::new();
    for seed in 0..200 {
        let first = played(seed).await;
        assert_eq!(played(seed).await, first, "seed {seed}");
        all.insert(first);
    }
    assert!(all.len() > 100, "{}", all.len());
}

// What is left.

#[tokio::test(start_paused = true)]
async fn no_task_is_left_after_the_proxy_is_dropped() {
    let before = Runtime::current().metrics().num_alive_tasks();
    let proxy = Proxy::new([Plan::new().go_dark(ToServer, 0)]);
    proxy.listen(|| panic!("nobody comes")).await.unwrap();
    let (mut a, mut b) = (through(&proxy, 64), through(&proxy, 64));
    b.0.write_all(b"x").await.unwrap();
    settle().await;
    assert_eq!(Runtime::current().metrics().num_alive_tasks(), before + 3);
    let (handle, wire) = (proxy.handle(), proxy.wire().clone());
    drop(proxy);
    settle().await;
    assert_eq!(Runtime::current().metrics().num_alive_tasks(), before);
    assert_eq!(rest(&mut a.0).await, (vec![], Ok(())));
    assert_eq!(rest(&mut b.1).await, (b"x".to_vec(), Ok(())));
    assert!(!wire.is_open(0) && !wire.is_open(1));
    let refused = handle.dial(|| Ok(duplex(64).0)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

/// Connections that end take their tasks with them.
#[tokio::test(start_paused = true)]
async fn an_ended_connection_leaves_no_task() {
    let before = Runtime::current().metrics().num_alive_tasks();
    let proxy = Proxy::new([Plan::new().cut(ToServer, 0)]);
    let cut = through(&proxy, 64);
    let (a, b) = through(&proxy, 64);
    drop((a, b));
    settle().await;
    assert_eq!(Runtime::current().metrics().num_alive_tasks(), before);
    drop(cut);
}

// Over TCP: the clock is real.

type Served = JoinHandle<Vec<(Vec<u8>, ErrorKind)>>;

/// Echoes this many connections, one after the other.
async fn echo_server(connections: usize) -> (SocketAddr, Served) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async move {
        let mut served = Vec::new();
        for _ in 0..connections {
            served.push(echo(listener.accept().await.unwrap().0).await);
        }
        served
    };
    (address, tokio::spawn(serve))
}

#[tokio::test]
async fn over_tcp_a_cut_is_a_reset_at_its_byte() {
    let ks = [0, 1, 7, 11, SESSION.len() - 1, SESSION.len()];
    let cuts = Direction::BOTH.into_iter().flat_map(|way| ks.map(|k| (way, k))).collect::<Vec<_>>();
    let (server, served) = echo_server(cuts.len()).await;
    let plans = cuts.clone().into_iter().map(|(direction, k)| Plan::new().cut(direction, k));
    let proxy = Proxy::new(plans);
    let address = proxy.listen(move || server).await.unwrap();
    for (number, (direction, k)) in cuts.into_iter().enumerate() {
        let io = TcpStream::connect(address).await.unwrap();
        let (read, end) = soon(ask(io)).await;
        assert_eq!(end, ErrorKind::ConnectionReset, "{direction:?} {k}");
        assert_eq!(read, proxy.wire().delivered(number, ToClient));
        assert_eq!(proxy.wire().count(number, direction), k);
    }
    for (number, (read, end)) in soon(served).await.unwrap().into_iter().enumerate() {
        assert_eq!(end, ErrorKind::ConnectionReset);
        assert_eq!(read, proxy.wire().delivered(number, ToServer));
    }
}

#[tokio::test]
async fn over_tcp_bytes_pass_unchanged_in_slices() {
    let mut rng = Rng::with_seed(7);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let proxy = Proxy::new((0..).map(|seed| Plan::rough(seed, 2_000, Duration::from_millis(20))));
    let address = proxy.listen(move || server).await.unwrap();
    for _ in 0..10 {
        let (up, down) = (bytes(&mut rng, 5_000), bytes(&mut rng, 5_000));
        let client = TcpStream::connect(address).await.unwrap();
        let (server, _) = soon(listener.accept()).await.unwrap();
        let (a, b) = (rng.fork(), rng.fork());
        let chats = async { tokio::join!(chat(client, &up, a, 0), chat(server, &down, b, 0)) };
        assert!(soon(chats).await == (down, up));
    }
}

#[tokio::test]
async fn over_tcp_a_close_is_an_end() {
    let (server, served) = echo_server(1).await;
    let proxy = Proxy::new([Plan::new().close(ToClient, 12)]);
    let address = proxy.listen(move || server).await.unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(SESSION).await.unwrap();
    assert_eq!(rest(&mut client).await, (SESSION[..12].to_vec(), Ok(())));
    assert_eq!(soon(served).await.unwrap(), [(SESSION.to_vec(), ErrorKind::UnexpectedEof)]);
}

/// Tasks, commands and connections each run on their own thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_byte_or_wakeup_is_lost_across_threads() {
    let mut rng = Rng::with_seed(3);
    let proxy = Proxy::new((0..).map(|seed| Plan::new().slice(seed)));
    let chats = (0..30).map(|_| {
        let (up, down) = (bytes(&mut rng, 2_000), bytes(&mut rng, 2_000));
        let (client, server) = through(&proxy, rng.usize(1..100));
        let (a, b) = (rng.fork(), rng.fork());
        tokio::spawn(async move {
            let chats = async { tokio::join!(chat(client, &up, a, 0), chat(server, &down, b, 0)) };
            assert!(soon(chats).await == (down, up));
        })
    });
    let chats = chats.collect::<Vec<_>>();
    while !chats.iter().all(JoinHandle::is_finished) {
        proxy.stall();
        yield_now().await;
        proxy.go_on();
        yield_now().await;
    }
    for chat in chats {
        chat.await.unwrap();
    }
}

/// The proxy has not read every byte when it closes, which by itself would cause a reset.
#[tokio::test]
async fn over_tcp_a_close_with_unread_bytes_is_an_end() {
    let (server, served) = echo_server(1).await;
    let proxy = Proxy::new([Plan::new().close(ToServer, 5)]);
    let address = proxy.listen(move || server).await.unwrap();
    proxy.stall();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(&[b'x'; 20_000]).await.unwrap();
    proxy.go_on();
    assert_eq!(rest(&mut client).await, (vec![], Ok(())));
    assert_eq!(soon(served).await.unwrap()[0].0, b"xxxxx");
}

#[tokio::test]
async fn over_tcp_a_refusal_is_a_reset_at_once() {
    let (server, served) = echo_server(1).await;
    let proxy = Proxy::new([Plan::new().refusal()]);
    let address = proxy.listen(move || server).await.unwrap();
    // Nothing is written: a socket that is dropped with bytes unread is reset by itself.
    let refused = async || {
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(rest(&mut client).await, (vec![], Err(ErrorKind::ConnectionReset)));
    };
    refused().await;
    proxy.refuse(true);
    refused().await;
    proxy.refuse(false);
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(SESSION).await.unwrap();
    assert_eq!(exactly(&mut client, SESSION.len()).await, SESSION);
    drop(client);
    soon(served).await.unwrap();
    // No server listens there any more.
    refused().await;
}

// A server that can tell a reset from an end.

#[tokio::test(start_paused = true)]
async fn a_reset_reaches_a_server_behind_an_in_memory_listener() {
    let (door, doorway) = doors::door();
    let (started, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (starts, drops) = (started.clone(), dropped.clone());
    let router = Router::new().method("wait", move || {
        starts.fetch_add(1, Ordering::Relaxed);
        let guard = Dropped(drops.clone());
        async move {
            let _guard = guard;
            pending::<()>().await;
        }
    });
    tokio::spawn(Server::new(doorway).serve(router).into_future());
    let proxy = Proxy::new([]);
    let mut peer = RawPeer::new(proxy.dial(|| door.pipe(1_024)).unwrap());
    peer.hello().await;
    peer.send("1 wait\n").await;
    settle().await;
    assert_eq!((started.load(Ordering::Relaxed), dropped.load(Ordering::Relaxed)), (1, 0));
    proxy.cut();
    settle().await;
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// As a client does that dials by address.
async fn dialled<F, Fut>(mut dial: F) -> RawPeer<End>
where
    F: FnMut(&str) -> Fut + Send + 'static,
    Fut: Future<Output = io::Result<End>> + Send,
{
    RawPeer::new(dial("anywhere").await.expect("connected"))
}

#[tokio::test(start_paused = true)]
async fn the_proxy_connects_to_a_server_over_plain_pipes() {
    let server = Arc::new(PipeServer::start(Router::new().method("six", async || "6")));
    let proxy = Proxy::new([Plan::new().slice(1)]);
    let (handle, up) = (proxy.handle(), server.clone());
    let mut peer = dialled(move |_: &str| ready(handle.dial(|| Ok(up.pipe())))).await;
    peer.hello().await;
    peer.ask("1 six\n", "1 ok 6\n").await;
    assert_eq!(proxy.wire().lines(0, ToServer), [b"1 six"]);
    assert_eq!(proxy.wire().lines(0, ToClient)[1..], [b"1 ok 6"]);
}

// The transport that is cut.

#[tokio::test]
async fn a_cut_transport_takes_exactly_so_many_bytes() {
    for k in 0..=SESSION.len() {
        let (near, mut far) = duplex(1_024);
        let mut io = CutIo::new(near, k, Reads::GoOn);
        let written = io.written();
        // As writers do: from where the last write came to.
        let mut left = SESSION;
        let error = loop {
            match io.write(&left[..left.len().min(10)]).await {
                Ok(count) => left = &left[count..],
                Err(error) => break error.kind(),
            }
            if left.is_empty() {
                break ErrorKind::WriteZero;
            }
        };
        let is_cut = k < SESSION.len();
        assert_eq!(error == ErrorKind::BrokenPipe, is_cut);
        // Taken are `k`, and the write that failed offered ten more.
        let seen = written.lock().unwrap().clone();
        assert_eq!((seen.taken(), seen.failed), (&SESSION[..k], usize::from(is_cut)));
        assert_eq!(seen.offered, SESSION[..SESSION.len().min(k + 10)]);
        assert_eq!(io.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        far.write_all(b"reads go on").await.unwrap();
        assert_eq!(io.read(&mut [0; 20]).await.unwrap(), 11);
        assert_eq!(written.lock().unwrap().read, 11);
        drop(io);
        let mut arrived = Vec::new();
        far.read_to_end(&mut arrived).await.unwrap();
        assert_eq!(arrived, SESSION[..k]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_transport_may_fail_reads() {
    let (near, mut far) = duplex(64);
    far.write_all(b"unread").await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(CutIo::new(near, 5, Reads::Fail));
    reader.read_exact(&mut [0; 6]).await.unwrap();
    let waiting = tokio::spawn(async move { reader.read(&mut [0; 10]).await });
    settle().await;
    assert_eq!(writer.write(b"1234").await.unwrap(), 4);
    settle().await;
    assert!(!waiting.is_finished());
    assert_eq!(writer.write(b"5678").await.unwrap(), 1);
    let error = soon(waiting).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn bytes_that_a_transport_rejected_count_as_offered() {
    let (near, mut far) = duplex(4);
    let mut io = CutIo::new(near, 100, Reads::GoOn);
    let written = io.written();
    assert_eq!(io.write(b"abcdef").await.unwrap(), 4);
    assert_eq!(written.lock().unwrap().offered, b"abcdef");
    // One that waits, and is given up.
    assert!(io.write(b"efgh").now_or_never().is_none());
    assert!(io.write(b"e").now_or_never().is_none());
    assert_eq!(written.lock().unwrap().offered, b"abcdefgh");
    assert!(written.lock().unwrap().withdrawn.is_empty());
    assert!(io.write(b"eXY").now_or_never().is_none());
    far.read_exact(&mut [0; 4]).await.unwrap();
    assert_eq!(io.write(b"eXY").await.unwrap(), 3);
    let seen = written.lock().unwrap().clone();
    assert_eq!((&seen.offered[..], seen.taken().len()), (&b"abcdeXY"[..], 7));
    assert_eq!((seen.withdrawn, seen.failed), (vec![b"efgh".to_vec()], 0));
}
