//! The floods of SECURITY.md at full size: `scripts/floods.sh`, which runs
//! `cargo run --release --example floods [SCALE]`
//!
//! Each runs against a server in a process of its own, whose resident memory is read before and
//! after; SCALE (default 1) multiplies the counts. Ends with 1 if a bound is broken. Linux: it reads
//! /proc.

#[macro_use]
#[path = "shared/print.rs"]
mod print;
#[path = "measured/server_process.rs"]
mod server_process;

use std::{
    error::Error,
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bellwire::{
    Client, Failure, Publisher, Router, Server, ServerConfig, State, handler, protocol::Code,
};
use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

use crate::server_process::{SERVER, ServerProcess, end_with_parent, raise_file_limit};

/// The argument that makes the program a server that only reads.
const SINK: &str = "--sink";

type Failed = Box<dyn Error + Send + Sync>;

const MIB: u64 = 1024 * 1024;
/// 1.5 times what a connection may cost with the default limits (SECURITY.md): answers, lines, one
/// read, and 1,024 handlers without a payload.
const BUDGET: u64 = (2 * 262_144 + 65_535 + 2 * 65_535 + 65_536 + 1_024 * 512) * 3 / 2;
/// Requests in flight, by default.
const PLACES: usize = 1_024;
/// The bytes that the handlers of [`pairs`] need themselves, because each is a task: 512 bytes,
/// times 1.5.
const TASKS: u64 = PLACES as u64 * 512 * 3 / 2;
/// Requests of [`pairs`] before their cancels. There are fewer than places in flight; otherwise the
/// cancels would never be read.
const BATCH: usize = 1_000;
/// A server that takes nothing for this long has stopped reading.
const STALL: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<ExitCode, Failed> {
    let argument = std::env::args().nth(1);
    match argument.as_deref() {
        Some(SERVER) => return serve().await.map(|()| ExitCode::SUCCESS),
        Some(SINK) => return sink().await.map(|()| ExitCode::SUCCESS),
        _ => {}
    }
    let scale: f64 = argument.map_or(Ok(1.0), |scale| scale.parse())?;
    let times = |count: f64| (count * scale) as usize;
    let mut is_good = true;
    is_good &= endless_line(times(100e6)).await?;
    is_good &= unread_requests(times(1e6)).await?;
    is_good &= pairs(times(1e6)).await?;
    is_good &= bad_lines(times(1e6)).await?;
    is_good &= slow_consumer(times(1e6)).await?;
    is_good &= tiny_writes(times(10e6)).await?;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Live handlers, and the most so far.
type Alive = Arc<[AtomicUsize; 2]>;

struct Guard(Alive);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0[0].fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve() -> Result<(), Failed> {
    end_with_parent();
    raise_file_limit()?;
    let server = Server::bind("127.0.0.1:0").await?.config(ServerConfig::new());
    println!("listening on {}", server.local_addr()?);
    let router = Router::with_state(Alive::default())
        .method("echo", async |payload: String| payload)
        .method("wait", handler(wait).spawned())
        .method("most", async |State(alive): State<Alive>| {
            alive[1].load(Ordering::Relaxed).to_string()
        })
        .method("publish", publish);
    Ok(server.serve(router).await?)
}

/// Reads one connection and does nothing else. It shows how much processor time a flood takes from
/// a clean client in any case.
async fn sink() -> Result<(), Failed> {
    end_with_parent();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    let (mut io, _) = listener.accept().await?;
    let mut buffer = vec![0; 65_536];
    while io.read(&mut buffer).await? > 0 {}
    std::future::pending().await
}

/// A handler that runs as a task, and ends some time after it was cancelled.
async fn wait(State(alive): State<Alive>) {
    let now = alive[0].fetch_add(1, Ordering::Relaxed) + 1;
    alive[1].fetch_max(now, Ordering::Relaxed);
    let _guard = Guard(alive);
    std::future::pending::<()>().await;
}

/// Publishes this many KiB.
async fn publish(publisher: Publisher, count: String) -> Result<(), Failure> {
    let fail = |text: String| Failure::new(Code::INTERNAL, text);
    let count: usize = count.parse().map_err(|_| fail(count))?;
    for _ in 0..count {
        let published = publisher.publish("t", "x".repeat(1_024)).await;
        published.map_err(|error| fail(error.to_string()))?;
    }
    Ok(())
}

/// A server after its warm-up, and its resident memory then.
async fn warm() -> Result<(ServerProcess, Client, u64), Failed> {
    let server = ServerProcess::start(SERVER)?;
    let client = Client::connect(server.address).await?;
    for _ in 0..1_000 {
        client.call("echo", "x").await?;
    }
    client.call("publish", "2048").await?;
    let before = server.resident()?;
    Ok((server, client, before))
}

/// Prints the growth, and whether it is within `most` and the flood's own bound `holds`.
fn judge(
    name: &str,
    server: &ServerProcess,
    [before, most]: [u64; 2],
    holds: bool,
    said: &str,
) -> Result<bool, Failed> {
    let after = server.resident()?;
    let grown = after.saturating_sub(before);
    let is_good = grown <= most && holds;
    let verdict = if is_good { "pass" } else { "FAIL" };
    println!(
        "{name}: {said}; resident {} KiB before, {} KiB after, +{} KiB of {} KiB: {verdict}",
        before / 1024,
        after / 1024,
        grown / 1024,
        most / 1024
    );
    Ok(is_good)
}

async fn connect(address: SocketAddr, receive: Option<u32>) -> Result<TcpStream, Failed> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = receive {
        socket.set_recv_buffer_size(bytes)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The result of a flood.
#[derive(Default)]
struct Fared {
    written: usize,
    connections: usize,
    stalled: bool,
}

/// Writes pieces until there are none left or the server takes no more. Reconnects if the server
/// closes. Connections stay open until the end of the measurement.
async fn flood(
    address: SocketAddr,
    receive: Option<u32>,
    first: &[u8],
    pieces: impl Iterator<Item = Vec<u8>>,
) -> Result<(Fared, TcpStream), Failed> {
    let mut fared = Fared { connections: 1, ..Fared::default() };
    let mut io = connect(address, receive).await?;
    io.write_all(first).await?;
    for piece in pieces {
        match timeout(STALL, io.write_all(&piece)).await {
            Err(_) => {
                fared.stalled = true;
                break;
            }
            Ok(Ok(())) => fared.written += piece.len(),
            Ok(Err(_)) => {
                io = connect(address, receive).await?;
                io.write_all(first).await?;
                fared.connections += 1;
            }
        }
    }
    Ok((fared, io))
}

/// SECURITY.md, threat 3.
async fn endless_line(bytes: usize) -> Result<bool, Failed> {
    let (server, _client, before) = warm().await?;
    let pieces = (0..bytes / 1_024).map(|_| vec![b'x'; 1_024]);
    let (fared, _io) = flood(server.address, None, b"1 echo\n", pieces).await?;
    let said = format!("{} bytes over {} connections", fared.written, fared.connections);
    judge("endless line", &server, [before, 2 * MIB], true, &said)
}

/// SECURITY.md, threat 7.
async fn unread_requests(count: usize) -> Result<bool, Failed> {
    let (server, _client, before) = warm().await?;
    let pieces = (0..count / 100).map(|n| {
        let ids = 100 * n + 2..100 * n + 102;
        ids.map(|id| format!("{id} echo {id}\n")).collect::<String>().into_bytes()
    });
    let (fared, _io) = flood(server.address, None, b"1 echo\n", pieces).await?;
    let said = format!("{} bytes taken, stalled: {}", fared.written, fared.stalled);
    judge("requests never read", &server, [before, BUDGET], true, &said)
}

/// SECURITY.md, threat 8: slightly fewer requests than places in flight, then their cancels.
async fn pairs(count: usize) -> Result<bool, Failed> {
    let (server, client, before) = warm().await?;
    let (mut read, mut write) = connect(server.address, None).await?.into_split();
    let reading = tokio::spawn(async move {
        let (mut lines, mut buffer) = (0, vec![0; 65_536]);
        // The hello comes before the answers.
        while lines < count / BATCH * BATCH + 1 {
            let got = read.read(&mut buffer).await?;
            if got == 0 {
                break;
            }
            lines += memchr::memchr_iter(b'\n', &buffer[..got]).count();
        }
        Ok::<_, std::io::Error>(lines - 1)
    });
    for n in 0..count / BATCH {
        let ids = || BATCH * n + 1..=BATCH * (n + 1);
        let requests = ids().map(|id| format!("{id} wait\n"));
        let pairs: String = requests.chain(ids().map(|id| format!("* /cancel {id}\n"))).collect();
        write.write_all(pairs.as_bytes()).await?;
    }
    let answered = timeout(Duration::from_secs(60), reading).await???;
    let most = String::from_utf8(client.call("most", "").await?.to_vec())?;
    let said = format!("{answered} pairs answered, {most} handlers alive at most");
    let is_bounded = most.parse::<usize>()? <= PLACES && answered == count / BATCH * BATCH;
    judge("pairs", &server, [before, BUDGET + TASKS], is_bounded, &said)
}

/// SECURITY.md, threat 9.
async fn bad_lines(count: usize) -> Result<bool, Failed> {
    let (server, _client, before) = warm().await?;
    let pieces = (0..count / 100).map(|_| b"bad\n".repeat(100));
    let (fared, _io) = flood(server.address, Some(4_096), b"1 echo\n", pieces).await?;
    let (lines, connections) = (fared.written / 4, fared.connections);
    let said = format!("{lines} taken over {connections} connections, stalled: {}", fared.stalled);
    judge("bad lines never read", &server, [before, BUDGET], true, &said)
}

/// SECURITY.md, threat 27.
async fn slow_consumer(count: usize) -> Result<bool, Failed> {
    let (server, client, before) = warm().await?;
    let mut slow = connect(server.address, Some(4_096)).await?;
    slow.write_all(b"1 /subscribe t\n").await?;
    for _ in 0..count / 10_000 {
        client.call("publish", "10000").await?;
    }
    let said = format!("{} notifications of 1 KiB", count / 10_000 * 10_000);
    judge("notifications never read", &server, [before, BUDGET], true, &said)
}

/// SECURITY.md, threat 6. The same flood also runs against another server that only reads. It shows
/// how long a clean client waits because of the machine, and not because of this server.
async fn tiny_writes(count: usize) -> Result<bool, Failed> {
    let (server, client, before) = warm().await?;
    let quiet = p99(&client, Duration::from_secs(5), || false).await?;
    let sink = ServerProcess::start(SINK)?;
    let (_, elsewhere) = p99_beside(&client, sink.address, count / 4).await?;
    drop(sink);
    let (written, flooded) = p99_beside(&client, server.address, count).await?;
    let said = format!(
        "{written} writes of a byte; p99 of a clean client {} us without, {} us beside, {} us \
         beside a flood of a server that only reads",
        quiet.as_micros(),
        flooded.as_micros(),
        elsewhere.as_micros()
    );
    // At most twice the wait that the machine alone causes.
    let is_good = flooded <= 2 * quiet.max(elsewhere);
    judge("tiny writes", &server, [before, BUDGET], is_good, &said)
}

/// A percentile of a clean client while `address` is flooded, and the bytes of the flood.
async fn p99_beside(
    client: &Client,
    address: SocketAddr,
    count: usize,
) -> Result<(usize, Duration), Failed> {
    let flooding = tokio::spawn(async move {
        let mut requests = (1..).flat_map(|id| format!("* echo {id}\n").into_bytes());
        let pieces = (0..count).map(move |_| vec![requests.next().unwrap_or(b'\n')]);
        flood(address, None, b"", pieces).await.map(|(fared, _)| fared.written)
    });
    let p99 = p99(client, Duration::from_secs(600), || flooding.is_finished()).await?;
    Ok((flooding.await??, p99))
}

/// The 99th percentile of calls that are made one after the other.
async fn p99(
    client: &Client,
    time: Duration,
    is_over: impl Fn() -> bool,
) -> Result<Duration, Failed> {
    let (begun, mut micros) = (Instant::now(), Histogram::<u64>::new(3)?);
    while begun.elapsed() < time && !is_over() {
        let asked = Instant::now();
        client.call("echo", "clean").await?;
        micros.record(u64::try_from(asked.elapsed().as_micros())?)?;
    }
    Ok(Duration::from_micros(micros.value_at_quantile(0.99)))
}
