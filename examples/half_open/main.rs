//! How soon each end notices that the other is silently gone, in seconds and with processes:
//! `scripts/half_open.sh`, which runs `cargo run --release --example half_open [RUNS]`
//!
//! SECURITY.md, threat 23. A server is stopped by SIGSTOP, with and without another server in the
//! client's list. A client is stopped, and continued. The network between two hosts loses all
//! packets. A host is unplugged. Each end has to notice within 21 s. After the client has connected
//! again, it has to get all messages that were published meanwhile. Does all of this RUNS times
//! (default 2), and prints the times; ends with 1 if a bound is missed. Linux: the hosts are
//! network namespaces, which need root. Without them it says so, and runs the other cases.

#[macro_use]
#[path = "../shared/print.rs"]
mod print;
mod network;
#[path = "../measured/parent.rs"]
mod parent;
mod peers;
mod process;

use std::{
    error::Error,
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::time::sleep;

use crate::{
    network::Network,
    peers::{CLIENT, SERVER},
    process::Process,
};

type Failed = Box<dyn Error>;

/// The time within which each end must notice.
const BOUND: Duration = Duration::from_secs(21);
/// The silence limit of a server in trials that set one, in seconds; otherwise the default holds.
const IDLE: u64 = 20;
const DEFAULT_IDLE: u64 = 120;
/// The time between two messages, in milliseconds: of a server that publishes, and of one that does
/// not.
const PACE: u64 = 100;
const NEVER: u64 = 0;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Failed> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == SERVER => peers::serve(rest).await?,
        Some((first, rest)) if first == CLIENT => peers::listen(rest).await?,
        Some((runs, _)) => return measure(runs.parse()?).await,
        None => return measure(2).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(runs: usize) -> Result<ExitCode, Failed> {
    let mut is_good = true;
    for run in 1..=runs {
        println!("run {run} of {runs}");
        // Each of them waits most of the time.
        let verdicts = tokio::join!(
            said("a server is stopped", stopped_server()),
            said("a server is stopped, another is not", stopped_server_of_two()),
            said("a client is stopped", stopped_client()),
            said("all is lost on the way", lost(Fault::Swallow, PACE)),
            said("all is lost on the way, and nothing told", lost(Fault::Swallow, NEVER)),
            said("a host is unplugged", lost(Fault::Unplug, PACE)),
        );
        is_good &= <[bool; 6]>::from(verdicts).iter().all(|&is_good| is_good);
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The result of a trial.
enum Outcome {
    Done {
        noticed: Vec<(&'static str, Duration)>,
        then: String,
    },
    /// The trial cannot run on this machine.
    Skipped(String),
}

/// Prints the result. Returns whether it is good.
async fn said(name: &str, trial: impl Future<Output = Result<Outcome, Failed>>) -> bool {
    match trial.await {
        Ok(Outcome::Done { noticed, then }) => {
            let is_good = noticed.iter().all(|(_, time)| *time <= BOUND);
            let seconds =
                |(who, time): &(_, Duration)| format!("{who} {:.2} s", time.as_secs_f64());
            let noticed: Vec<_> = noticed.iter().map(seconds).collect();
            let verdict = if is_good { "pass" } else { "FAIL" };
            println!("  {name}: noticed by the {}; {then}: {verdict}", noticed.join(", by the "));
            is_good
        }
        Ok(Outcome::Skipped(why)) => {
            println!("  {name}: SKIPPED: {why}");
            true
        }
        Err(error) => {
            println!("  {name}: {error}: FAIL");
            false
        }
    }
}

/// The client notices, and reconnects when the server continues.
async fn stopped_server() -> Result<Outcome, Failed> {
    let (server, address) = start_server(None, "127.0.0.1:0", PACE, DEFAULT_IDLE).await?;
    let mut client = start_client(None, &[address]).await?;
    server.signal(Signal::STOP)?;
    let stopped = Instant::now();
    let client_at = client.until("lost").await?.0;
    server.signal(Signal::CONT)?;
    let then = back(&mut client, Instant::now()).await?;
    Ok(Outcome::Done { noticed: vec![("client", client_at - stopped)], then })
}

/// The client connects to the other server.
async fn stopped_server_of_two() -> Result<Outcome, Failed> {
    let (first, address) = start_server(None, "127.0.0.1:0", PACE, DEFAULT_IDLE).await?;
    let (_second, other) = start_server(None, "127.0.0.1:0", PACE, DEFAULT_IDLE).await?;
    let mut client = start_client(None, &[address, other]).await?;
    first.signal(Signal::STOP)?;
    let stopped = Instant::now();
    let client_at = client.until("lost").await?.0;
    let connected = client.until("connected").await?.0;
    client.until("another log").await?;
    let then = format!(
        "connected to the other {:.2} s later, and told of its log",
        (connected - client_at).as_secs_f64()
    );
    Ok(Outcome::Done { noticed: vec![("client", client_at - stopped)], then })
}

/// The server notices, and the client reconnects when it continues.
async fn stopped_client() -> Result<Outcome, Failed> {
    let (mut server, address) = start_server(None, "127.0.0.1:0", PACE, IDLE).await?;
    let mut client = start_client(None, &[address]).await?;
    client.signal(Signal::STOP)?;
    let stopped = Instant::now();
    let server_at = server.until("listening: 0").await?.0;
    client.signal(Signal::CONT)?;
    let then = back(&mut client, Instant::now()).await?;
    Ok(Outcome::Done { noticed: vec![("server", server_at - stopped)], then })
}

/// A fault of a network.
#[derive(Clone, Copy)]
enum Fault {
    Swallow,
    Unplug,
}

/// Both ends notice, and the client reconnects when the network works again.
async fn lost(fault: Fault, pace: u64) -> Result<Outcome, Failed> {
    let network = match Network::new() {
        Ok(network) => network,
        Err(error) => return Ok(Outcome::Skipped(error.to_string())),
    };
    let (server_host, client_host) = (Some(network.server()), Some(network.client()));
    let at = format!("{}:0", network::SERVER);
    let (mut server, address) = start_server(server_host, &at, pace, DEFAULT_IDLE).await?;
    let mut client = start_client(client_host, &[address]).await?;
    match fault {
        Fault::Swallow => network.swallow()?,
        Fault::Unplug => network.unplug()?,
    }
    let gone = Instant::now();
    let (client_at, server_at) = tokio::join!(client.until("lost"), server.until("listening: 0"));
    let noticed = vec![("client", client_at?.0 - gone), ("server", server_at?.0 - gone)];
    match fault {
        Fault::Swallow => network.deliver()?,
        Fault::Unplug => network.plug()?,
    }
    let then = back(&mut client, Instant::now()).await?;
    Ok(Outcome::Done { noticed, then })
}

/// A server and its address.
async fn start_server(
    host: Option<&str>,
    address: &str,
    pace: u64,
    idle: u64,
) -> Result<(Process, SocketAddr), Failed> {
    let (pace, idle) = (pace.to_string(), idle.to_string());
    let mut server = Process::start(host, &[SERVER, address, &pace, &idle])?;
    let address = server.until("listening on ").await?.1.parse()?;
    Ok((server, address))
}

/// Starts a client, waits for its first message, and then waits for a random time, so that a fault
/// comes at a random point between renewals and messages.
async fn start_client(host: Option<&str>, addresses: &[SocketAddr]) -> Result<Process, Failed> {
    let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    let arguments = std::iter::once(CLIENT).chain(addresses.iter().map(String::as_str));
    let mut client = Process::start(host, &arguments.collect::<Vec<_>>())?;
    client.until("told").await?;
    sleep(Duration::from_millis(fastrand::u64(..8_000))).await;
    Ok(client)
}

/// Waits until the client has reconnected and received a message. Returns how long that took, as
/// text.
async fn back(client: &mut Process, since: Instant) -> Result<String, Failed> {
    let connected = client.until("connected").await?.0;
    client.until("told").await?;
    let took = (connected - since).as_secs_f64();
    Ok(format!("together again {took:.2} s after it was over, nothing missed"))
}
