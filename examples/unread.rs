//! The cost of peers that do not read, or read slowly: `scripts/unread.sh`, which runs
//! `cargo run --release --example unread [SECONDS]`
//!
//! TCP memory of subscribers that never read, the delay of a reply and of the latest message on a
//! connection that is read slowly, and how long slow readers stay connected. Each is measured with
//! the default limit on unsent bytes, and with the system's own limit. The server runs in its own
//! process. SECONDS (default 120) is how long the slow readers read. Ends with 1 if a bound is
//! broken. Linux: it reads /proc.

#[path = "measured/server_process.rs"]
mod server_process;

use std::{
    error::Error,
    fs,
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bellwire::{Publisher, Router, Server, ServerConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{interval, sleep, timeout},
};

use crate::server_process::{SERVER, ServerProcess, end_with_parent, raise_file_limit};

/// The argument for a server that does not limit the unsent bytes.
const UNLIMITED: &str = "--server-without-limit";

type Failed = Box<dyn Error + Send + Sync>;

const TOPIC: &str = "flood0";
/// Each message has this many bytes, and there are this many in a millisecond.
const MESSAGE: usize = 1_024;
const AT_ONCE: usize = 8;
/// Subscribers that never read, and the bytes that the system may hold for each: the limit, a
/// segment, and what the peer's system has received.
const SUBSCRIBERS: usize = 500;
const HELD: u64 = 400 * 1024;
/// The bytes that a slow reader of a flood reads in a second, for how long, and the bound on the
/// delay of replies.
const SLOW: usize = 1_000_000;
const WATCHED: Duration = Duration::from_secs(20);
const LATE: Duration = Duration::from_millis(300);
/// The bytes that readers read in a second which must stay connected.
const STEADY: [usize; 3] = [10_000, 30_000, 60_000];
/// After how long a peer that reads nothing is closed: `write_progress` and `tcp_user_timeout`, and
/// the time in which the buffers fill.
const GONE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<ExitCode, Failed> {
    let argument = std::env::args().nth(1);
    match argument.as_deref() {
        Some(SERVER) => return serve(ServerConfig::new()).await.map(|()| ExitCode::SUCCESS),
        Some(UNLIMITED) => {
            let config = ServerConfig::new().unsent_bytes(None);
            return serve(config).await.map(|()| ExitCode::SUCCESS);
        }
        _ => {}
    }
    raise_file_limit()?;
    let seconds = argument.map_or(Ok(120), |seconds| seconds.parse())?;
    let (mut is_good, seconds) = (true, Duration::from_secs(seconds));
    for (limit, server) in [("the system's", UNLIMITED), ("64 KiB", SERVER)] {
        println!("unsent bytes: {limit}");
        let mut all = never_read(server).await?;
        all &= slowly_read(server).await?;
        all &= slow_readers(server, seconds).await?;
        // The figures without the limit are only for comparison.
        is_good &= all || server == UNLIMITED;
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn serve(config: ServerConfig) -> Result<(), Failed> {
    end_with_parent();
    raise_file_limit()?;
    let server = Server::bind("127.0.0.1:0").await?.config(config);
    println!("listening on {}", server.local_addr()?);
    tokio::spawn(flood(server.publisher()));
    let router = Router::new().method("echo", async |payload: String| payload);
    Ok(server.serve(router).await?)
}

/// Publishes without end. Each message contains its time.
async fn flood(publisher: Publisher) {
    let (mut ticks, padding) = (interval(Duration::from_millis(1)), "x".repeat(MESSAGE));
    loop {
        ticks.tick().await;
        for _ in 0..AT_ONCE {
            let _ = publisher.publish(TOPIC, format!("{} {padding}", micros())).await;
        }
    }
}

/// A clock that two processes share, in microseconds.
fn micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()
}

fn verdict(name: &str, is_good: bool, said: &str) -> bool {
    println!("  {name}: {said}: {}", if is_good { "pass" } else { "FAIL" });
    is_good
}

async fn subscribe(address: SocketAddr, attributes: &str) -> Result<TcpStream, Failed> {
    let mut io = TcpStream::connect(address).await?;
    io.write_all(format!("1 /subscribe{attributes} {TOPIC}\n").as_bytes()).await?;
    Ok(io)
}

/// SECURITY.md, threat 37: the bytes held for peers that never read, by the server and by the
/// system.
async fn never_read(server: &str) -> Result<bool, Failed> {
    let server = ServerProcess::start(server)?;
    let (resident, before) = (server.resident()?, tcp_memory()?);
    let mut unread = Vec::new();
    for _ in 0..SUBSCRIBERS {
        unread.push(subscribe(server.address, "").await?);
    }
    let mut most = 0;
    for _ in 0..16 {
        sleep(Duration::from_millis(500)).await;
        most = most.max(tcp_memory()?.saturating_sub(before));
    }
    let resident = server.resident()?.saturating_sub(resident) >> 20;
    let bound = SUBSCRIBERS as u64 * HELD;
    let said = format!(
        "{SUBSCRIBERS} unread subscribers: {} MiB of TCP memory (bound {} MiB), {resident} MiB resident",
        most >> 20,
        bound >> 20
    );
    Ok(verdict("never read", most <= bound, &said))
}

/// The system's memory for TCP, both directions of both ends, in bytes.
fn tcp_memory() -> Result<u64, Failed> {
    let stat = fs::read_to_string("/proc/net/sockstat")?;
    let line = stat.lines().find(|line| line.starts_with("TCP:")).ok_or("no TCP in sockstat")?;
    let pages = line.split(' ').skip_while(|&word| word != "mem").nth(1).ok_or("no mem")?;
    Ok(pages.parse::<u64>()? * rustix::param::page_size() as u64)
}

/// The delay of replies behind a flood, and the age of its messages with `slow=latest`.
async fn slowly_read(server: &str) -> Result<bool, Failed> {
    let server = ServerProcess::start(server)?;
    let (replies, _) = delays(server.address, "").await?;
    let (latest_replies, ages) = delays(server.address, ";slow=latest").await?;
    let said = format!(
        "read at 1 MB/s: a reply comes after {} ms at most, beside `slow=latest` after {} ms, \
         whose messages are {} ms old at most (bound {} ms)",
        replies.as_millis(),
        latest_replies.as_millis(),
        ages.as_millis(),
        LATE.as_millis()
    );
    Ok(verdict("slowly read", replies.max(latest_replies).max(ages) <= LATE, &said))
}

/// The longest time a reply takes, and the greatest age of a message, once the flood has filled all
/// buffers.
async fn delays(address: SocketAddr, attributes: &str) -> Result<(Duration, Duration), Failed> {
    let mut io = subscribe(address, attributes).await?;
    let (begun, mut id, mut asked) = (Instant::now(), 1, Instant::now());
    let (mut reply, mut age, mut waits) = (Duration::ZERO, Duration::ZERO, false);
    let (mut ticks, mut buffer, mut rest) = (interval(TICK), vec![0; SLOW / 100], Vec::new());
    while begun.elapsed() < WATCHED {
        ticks.tick().await;
        if !waits && asked.elapsed() > Duration::from_millis(100) {
            (id, asked, waits) = (id + 1, Instant::now(), true);
            io.write_all(format!("{id} echo x\n").as_bytes()).await?;
        }
        let count = io.read(&mut buffer).await?;
        rest.extend_from_slice(&buffer[..count]);
        let is_full = begun.elapsed() > WATCHED / 4;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(&rest[..end]).into_owned();
            rest.drain(..=end);
            if line.starts_with(&format!("{id} ok")) && waits {
                waits = false;
                reply = reply.max(if is_full { asked.elapsed() } else { Duration::ZERO });
            } else if let Some(sent) = line.strip_prefix("* flood0 ")
                && is_full
            {
                age = age.max(since(sent)?);
            }
        }
    }
    // A reply that has not come yet has taken at least this long.
    Ok((if waits { reply.max(asked.elapsed()) } else { reply }, age))
}

/// How long ago the message of this `SEQ MICROS PADDING` was published.
fn since(message: &str) -> Result<Duration, Failed> {
    let sent: u128 = message.split(' ').nth(1).ok_or("no time")?.parse()?;
    Ok(Duration::from_micros(u64::try_from(micros().saturating_sub(sent))?))
}

const TICK: Duration = Duration::from_millis(10);

/// A slow reader stays connected, but a peer that reads nothing does not.
async fn slow_readers(server: &str, time: Duration) -> Result<bool, Failed> {
    let server = ServerProcess::start(server)?;
    let mut readers = JoinSet::new();
    for rate in STEADY {
        readers.spawn(read_steadily(subscribe(server.address, "").await?, rate, time));
    }
    let dead = server.address;
    let gone = tokio::spawn(async move { until_gone(dead).await });
    let mut is_good = true;
    while let Some(read) = readers.join_next().await {
        let (rate, lived) = read??;
        let said =
            format!("{} KB/s: lived {} of {} s", rate / 1_000, lived.as_secs(), time.as_secs());
        is_good &= verdict("slow reader", lived >= time, &said);
    }
    let gone = gone.await??;
    let said = format!("gone after {:.1} s (bound {} s)", gone.as_secs_f64(), GONE.as_secs());
    Ok(is_good & verdict("reads nothing", gone <= GONE, &said))
}

/// Reads at that rate for `time`, or until the server closes. Returns how long it was connected.
async fn read_steadily(
    mut io: TcpStream,
    rate: usize,
    time: Duration,
) -> Result<(usize, Duration), Failed> {
    let (begun, mut renewed, mut id) = (Instant::now(), Instant::now(), 1);
    let (mut ticks, mut buffer) = (interval(Duration::from_millis(50)), vec![0; rate / 20]);
    while begun.elapsed() < time {
        ticks.tick().await;
        if !matches!(io.read(&mut buffer).await, Ok(1..)) {
            return Ok((rate, begun.elapsed()));
        }
        if renewed.elapsed() > Duration::from_secs(15) {
            (id, renewed) = (id + 1, Instant::now());
            io.write_all(format!("{id} /renew\n").as_bytes()).await?;
        }
    }
    Ok((rate, time))
}

/// Subscribes, and writes `/renew` without reading, until the server has closed.
async fn until_gone(address: SocketAddr) -> Result<Duration, Failed> {
    let (begun, mut io) = (Instant::now(), subscribe(address, "").await?);
    for id in 2..1_000 {
        sleep(Duration::from_millis(100)).await;
        let line = format!("{id} /renew\n");
        let write = timeout(Duration::from_secs(1), io.write_all(line.as_bytes())).await;
        if matches!(write, Ok(Err(_))) {
            return Ok(begun.elapsed());
        }
    }
    Ok(begun.elapsed())
}
