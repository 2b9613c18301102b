//! The claims of SECURITY.md about slow peers, measured: `scripts/slow_peers.sh`, which runs
//! `cargo run --release --example slow_peers [RUNS]`
//!
//! Slow first lines, one subscriber that stops among a hundred, and a server that is suspended;
//! each against a server in a process of its own. RUNS (default 5) is for the second. Ends with 1 if
//! a bound is broken. Linux: it reads /proc.

#[macro_use]
#[path = "shared/print.rs"]
mod print;
#[path = "measured/server_process.rs"]
mod server_process;

use std::{
    error::Error,
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use bellwire::{Client, ClientConfig, Publisher, Router, Server, ServerConfig};
use hdrhistogram::Histogram;
use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::Barrier,
    task::JoinSet,
    time::{interval, sleep, timeout},
};

use crate::server_process::{SERVER, ServerProcess, end_with_parent, raise_file_limit};

type Failed = Box<dyn Error + Send + Sync>;

/// Connections that send their first line very slowly.
const DRIBBLING: usize = 2_000;
/// Subscribers of one topic, the number of messages of 1 KiB that each of them gets, and their
/// pace.
const SUBSCRIBERS: usize = 100;
const MESSAGES: usize = 2_000;
const PACE: Duration = Duration::from_millis(1);
/// How long the server is suspended: longer than its lease.
const SUSPENDED: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Result<ExitCode, Failed> {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some(SERVER) {
        return serve().await.map(|()| ExitCode::SUCCESS);
    }
    raise_file_limit()?;
    let runs = argument.map_or(Ok(5), |runs| runs.parse::<usize>())?;
    let mut is_good = slow_first_lines().await?;
    is_good &= one_that_stops(runs).await?;
    is_good &= suspended().await?;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn serve() -> Result<(), Failed> {
    end_with_parent();
    raise_file_limit()?;
    let server = Server::bind("127.0.0.1:0").await?.config(ServerConfig::new().lease(LEASE));
    println!("listening on {}", server.local_addr()?);
    let router = Router::new().method("tell", async |publisher: Publisher, text: String| {
        publisher.publish("t", text).await.map_or_else(|error| error.to_string(), |_| String::new())
    });
    Ok(server.serve(router).await?)
}

fn verdict(name: &str, is_good: bool, said: &str) -> bool {
    println!("{name}: {said}: {}", if is_good { "pass" } else { "FAIL" });
    is_good
}

/// SECURITY.md, threat 5.
async fn slow_first_lines() -> Result<bool, Failed> {
    let server = ServerProcess::start(SERVER)?;
    let _client = Client::connect(server.address).await?;
    let before = server.resident()?;
    let mut dribbling = JoinSet::new();
    for _ in 0..DRIBBLING {
        let io = TcpStream::connect(server.address).await?;
        dribbling.spawn(dribble(io, Instant::now()));
    }
    sleep(Duration::from_secs(5)).await;
    let each = server.resident()?.saturating_sub(before) / DRIBBLING as u64;
    let mut longest = Duration::ZERO;
    while let Some(lived) = dribbling.join_next().await {
        longest = longest.max(lived??);
    }
    let is_good = longest < Duration::from_secs(11) && each <= 8 * 1024;
    let said = format!(
        "{DRIBBLING} connections, the last gone after {:.1} s, {each} bytes resident each",
        longest.as_secs_f64()
    );
    Ok(verdict("slow first lines", is_good, &said))
}

/// Writes a byte every 4 s until the server closes. Returns after how long it closed.
async fn dribble(io: TcpStream, begun: Instant) -> std::io::Result<Duration> {
    let (mut read, mut write) = io.into_split();
    let writing = tokio::spawn(async move {
        let mut ticks = interval(Duration::from_secs(4));
        loop {
            ticks.tick().await;
            if write.write_all(b"1").await.is_err() {
                return;
            }
        }
    });
    let mut buffer = [0; 256];
    while matches!(read.read(&mut buffer).await, Ok(1..)) {}
    writing.abort();
    Ok(begun.elapsed())
}

/// SECURITY.md, threat 28: the percentile while all subscribers read, then with one that does not.
async fn one_that_stops(runs: usize) -> Result<bool, Failed> {
    let (mut ratios, mut all_came) = (Vec::new(), true);
    for run in 1..=runs {
        let (all, every_one) = told(0).await?;
        let (others, none_lost) = told(1).await?;
        all_came &= every_one && none_lost;
        ratios.push(others.as_secs_f64() / all.as_secs_f64());
        let (all, others) = (all.as_micros(), others.as_micros());
        println!(
            "  run {run}: p99 {all} us with all reading, {others} us of the others with one not"
        );
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).copied().unwrap_or_default();
    let said = format!("all told in full: {all_came}; p99 is {median:.2} times, in the median");
    Ok(verdict("one that stops", all_came && median <= 1.2, &said))
}

/// The 99th percentile from publish to read, for the subscribers that read, and whether they got
/// all messages.
async fn told(deaf: usize) -> Result<(Duration, bool), Failed> {
    let server = ServerProcess::start(SERVER)?;
    let publisher = Client::connect(server.address).await?;
    let (begun, ready) = (Instant::now(), Arc::new(Barrier::new(SUBSCRIBERS - deaf + 1)));
    let mut silent = Vec::new();
    for _ in 0..deaf {
        let mut io = TcpStream::connect(server.address).await?;
        io.write_all(b"1 /subscribe t\n").await?;
        silent.push(io);
    }
    let mut readers = JoinSet::new();
    for _ in deaf..SUBSCRIBERS {
        readers.spawn(read_all(server.address, begun, ready.clone()));
    }
    ready.wait().await;
    let (mut ticks, padding) = (interval(PACE), "x".repeat(1_024));
    for _ in 0..MESSAGES {
        ticks.tick().await;
        publisher.one_way("tell", format!("{} {padding}", begun.elapsed().as_nanos())).await?;
    }
    let (mut micros, mut came) = (Histogram::<u64>::new(3)?, 0);
    while let Some(read) = timeout(Duration::from_secs(60), readers.join_next()).await? {
        let read = read??;
        came += read.len();
        micros.add(&read)?;
    }
    let is_whole = came as usize == MESSAGES * (SUBSCRIBERS - deaf);
    Ok((Duration::from_micros(micros.value_at_quantile(0.99)), is_whole))
}

async fn read_all(
    address: SocketAddr,
    begun: Instant,
    ready: Arc<Barrier>,
) -> Result<Histogram<u64>, Failed> {
    let mut micros = Histogram::new(3)?;
    let mut io = BufReader::new(TcpStream::connect(address).await?);
    io.write_all(b"1 /subscribe t\n").await?;
    let mut line = String::new();
    // The hello and the reply.
    for _ in 0..2 {
        io.read_line(&mut line).await?;
    }
    ready.wait().await;
    for _ in 0..MESSAGES {
        line.clear();
        io.read_line(&mut line).await?;
        let sent: u128 = line.split(' ').nth(3).ok_or("no notification")?.parse()?;
        let took = begun.elapsed().as_nanos().saturating_sub(sent) / 1_000;
        micros.record(u64::try_from(took)?)?;
    }
    Ok(micros)
}

/// SECURITY.md, threat 30: renewals that came while the server was suspended are not late.
async fn suspended() -> Result<bool, Failed> {
    let server = ServerProcess::start(SERVER)?;
    let publisher =
        Client::connect_with(server.address, ClientConfig::new().dead(10 * SUSPENDED)).await?;
    let ready = Arc::new(Barrier::new(SUBSCRIBERS + 1));
    let mut listening = JoinSet::new();
    for _ in 0..SUBSCRIBERS {
        listening.spawn(renew_all_along(server.address, ready.clone()));
    }
    ready.wait().await;
    server.signal(Signal::STOP)?;
    sleep(SUSPENDED).await;
    server.signal(Signal::CONT)?;
    publisher.call("tell", "x").await?;
    let mut kept = 0;
    while let Some(is_told) = timeout(Duration::from_secs(30), listening.join_next()).await? {
        kept += usize::from(is_told??);
    }
    let said = format!(
        "{} s with a lease of {} s: {kept} of {SUBSCRIBERS} subscriptions went on",
        SUSPENDED.as_secs(),
        LEASE.as_secs()
    );
    Ok(verdict("a suspended server", kept == SUBSCRIBERS, &said))
}

/// Renews in time. Returns whether the notification came without an end before it.
async fn renew_all_along(address: SocketAddr, ready: Arc<Barrier>) -> Result<bool, Failed> {
    let (read, mut write) = TcpStream::connect(address).await?.into_split();
    write.write_all(b"1 /subscribe t\n").await?;
    let mut lines = BufReader::new(read).lines();
    while lines.next_line().await?.is_some_and(|line| !line.starts_with("1 ok")) {}
    ready.wait().await;
    let renewing = tokio::spawn(async move {
        let mut ticks = interval(LEASE / 3);
        for id in 2.. {
            ticks.tick().await;
            if write.write_all(format!("{id} /renew\n").as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let is_told = loop {
        match lines.next_line().await? {
            Some(line) if line.starts_with("* t ") => break true,
            Some(line) if !line.starts_with("* ") => {}
            _ => break false,
        }
    };
    renewing.abort();
    Ok(is_told)
}
