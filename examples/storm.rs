//! All clients reconnect at once, at full size: `scripts/storm.sh`, which runs
//! `cargo run --release --example storm [SECONDS]...`
//!
//! SECURITY.md, threat 25. 2,000 clients are connected over TCP to a server in its own process. The
//! server is killed by SIGKILL and started again after each number of SECONDS (default 0, 1, 2, 5
//! and 10). Prints how and when the clients reconnect, and whether anything was lost. Ends with 1
//! if anything was lost, if a client reconnects later than its backoff allows, or if more than
//! three times the mean reconnect in any 100 ms. Linux, for the limit of files.

#[macro_use]
#[path = "shared/print.rs"]
mod print;
#[path = "measured/returns.rs"]
mod returns;
#[path = "measured/server_process.rs"]
mod server_process;
#[path = "measured/spread.rs"]
mod spread;

use std::{
    error::Error,
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwire::{Client, Delivery, Router, Server, Subscription};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
    time::{Instant, interval, sleep, timeout},
};

use crate::{
    returns::{BACKOFF, Return},
    server_process::{SERVER, ServerProcess, end_with_parent, raise_file_limit},
    spread::Spread,
};

type Failed = Box<dyn Error + Send + Sync>;

const CLIENTS: usize = 2_000;
/// Files that the process needs besides its connections.
const OTHER_FILES: u64 = 64;
/// How often the server publishes.
const PACE: Duration = Duration::from_millis(250);
/// The extra time that a busy machine may need to connect and to read the hello.
const SLACK: Duration = Duration::from_secs(1);
/// The bound on everything.
const PATIENCE: Duration = Duration::from_secs(90);
/// The number of parts into which the time is divided for the plot, and the width of the longest
/// bar.
const PARTS: usize = 10;
const WIDTH: usize = 60;

#[tokio::main]
async fn main() -> Result<ExitCode, Failed> {
    let mut arguments = std::env::args().skip(1).peekable();
    let limit = raise_file_limit()?;
    if arguments.next_if(|argument| argument == SERVER).is_some() {
        return serve(&arguments.next().ok_or("where to listen?")?).await;
    }
    if limit < CLIENTS as u64 + OTHER_FILES {
        return Err(format!("{limit} open files are too few for {CLIENTS} clients").into());
    }
    let mut outages = Vec::new();
    for seconds in arguments {
        outages.push(Duration::try_from_secs_f64(seconds.parse()?)?);
    }
    if outages.is_empty() {
        outages = [0, 1, 2, 5, 10].map(Duration::from_secs).into();
    }
    let is_good = Crowd::gather().await?.endure(&outages).await?;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Answers calls, and publishes one number after the other.
async fn serve(address: &str) -> Result<ExitCode, Failed> {
    end_with_parent();
    let server = Server::bind(address).await?;
    println!("listening on {}", server.local_addr()?);
    let publisher = server.publisher();
    tokio::spawn(async move {
        let mut ticks = interval(PACE);
        loop {
            ticks.tick().await;
            publisher.publish("t", "").await.expect("an empty payload fits");
        }
    });
    server.serve(Router::new().method("echo", async |text: String| text)).await?;
    Ok(ExitCode::SUCCESS)
}

/// The clients and their server.
struct Crowd {
    address: SocketAddr,
    server: Option<ServerProcess>,
    clients: Vec<Client>,
    listeners: Vec<Arc<Mutex<Heard>>>,
    returns: mpsc::UnboundedReceiver<Return>,
    restarts: usize,
}

/// What one client received on the topic.
#[derive(Default)]
struct Heard {
    /// Logs that the client saw as new ones.
    resets: usize,
    /// The next number.
    next: u64,
    /// Numbers that were named as gone, or came out of order.
    lost: u64,
}

impl Crowd {
    async fn gather() -> Result<Self, Failed> {
        let server = ServerProcess::start(SERVER)?;
        let address = server.address;
        let clients: Vec<_> = stream::iter((0..CLIENTS).map(|_| Client::connect(address)))
            .buffer_unordered(100)
            .try_collect()
            .await?;
        let (told, returns) = mpsc::unbounded_channel();
        let mut listeners = Vec::new();
        for client in &clients {
            let heard = Arc::default();
            tokio::spawn(listen(client.subscribe("t").await?, Arc::clone(&heard)));
            tokio::spawn(returns::tell(client.events(), told.clone()));
            listeners.push(heard);
        }
        Ok(Self { address, server: Some(server), clients, listeners, returns, restarts: 0 })
    }

    /// Whether every outage passed.
    async fn endure(&mut self, outages: &[Duration]) -> Result<bool, Failed> {
        let mut is_good = true;
        for outage in outages {
            sleep(BACKOFF.stable).await;
            is_good &= self.storm(*outage).await?;
        }
        Ok(is_good)
    }

    /// Kills the server and starts it again. Returns whether all checks hold.
    async fn storm(&mut self, outage: Duration) -> Result<bool, Failed> {
        drop(self.server.take());
        let killed = Instant::now();
        let calls = self.call_each();
        sleep(outage).await;
        let address = self.address;
        let server = spawn_blocking(move || ServerProcess::start_at(SERVER, address)).await??;
        let since = Instant::now();
        (self.server, self.restarts) = (Some(server), self.restarts + 1);
        println!("killed, and started again {:.2} s later", (since - killed).as_secs_f64());
        let back = timeout(PATIENCE, self.all_back()).await?;
        let times = || back.iter().map(|back| back.took(since));
        let spread = Spread::of(times());
        show(&spread, times());
        let in_time = back.iter().filter(|back| back.took(since) <= back.window() + SLACK).count();
        println!("  {in_time} of {CLIENTS} within their window");
        let answered = timeout(PATIENCE, calls.join_all()).await?.into_iter().filter(|&is| is);
        let (answered, lost) = (answered.count(), timeout(PATIENCE, self.lost()).await?);
        println!("  {answered} of {CLIENTS} calls of the outage answered");
        println!("  all told of {} new logs, and {lost} numbers lost", self.restarts);
        let is_spread = spread.ratio() <= 3.0;
        Ok(in_time == CLIENTS && is_spread && answered == CLIENTS && lost == 0)
    }

    /// Makes a call of each client while there is no server. Returns how many were answered.
    fn call_each(&self) -> JoinSet<bool> {
        let calls =
            (0..).zip(self.clients.clone()).map(|(number, client): (usize, _)| async move {
                let reply = client.call("echo", number.to_string()).await;
                reply.is_ok_and(|reply| reply == number.to_string())
            });
        calls.collect()
    }

    async fn all_back(&mut self) -> Vec<Return> {
        let mut back = Vec::new();
        self.returns.recv_many(&mut back, CLIENTS).await;
        while back.len() < CLIENTS {
            self.returns.recv_many(&mut back, CLIENTS).await;
        }
        back
    }

    /// Waits until each client has seen each new log, and has received a message of the last one.
    /// Returns how many numbers were lost.
    async fn lost(&self) -> u64 {
        let mut lost = 0;
        for listener in &self.listeners {
            while !listener.lock().is_ok_and(|heard| heard.is_up_to_date(self.restarts)) {
                sleep(PACE).await;
            }
            lost += listener.lock().map_or(0, |heard| heard.lost);
        }
        lost
    }
}

impl Heard {
    fn is_up_to_date(&self, restarts: usize) -> bool {
        self.resets == restarts && self.next > 1
    }

    fn on(&mut self, delivery: &Delivery) {
        match delivery {
            Delivery::Notification(told) => {
                self.lost += u64::from(self.next > 0 && told.sequence != self.next);
                self.next = told.sequence + 1;
            }
            Delivery::Reset { position, .. } => {
                self.resets += 1;
                self.next = position.next;
            }
            Delivery::Gap(gap) => {
                self.lost += gap.last + 1 - gap.first;
                self.next = gap.last + 1;
            }
            _ => self.lost += 1,
        }
    }
}

async fn listen(mut subscription: Subscription, heard: Arc<Mutex<Heard>>) {
    while let Some(delivery) = subscription.next().await {
        if let Ok(mut heard) = heard.lock() {
            heard.on(&delivery);
        }
    }
}

fn show(spread: &Spread, times: impl Iterator<Item = Duration>) {
    let Spread { count, first, last, peak } = *spread;
    let part = ((last - first) / PARTS as u32).max(Duration::from_millis(1));
    let mut parts = [0; PARTS];
    for time in times {
        let at = (time - first).div_duration_f64(part) as usize;
        parts[at.min(PARTS - 1)] += 1;
    }
    let most = parts.iter().copied().max().unwrap_or_default().max(1);
    for (number, came) in (0..).zip(parts) {
        let begin = (first + part * number).as_secs_f64();
        println!("  {begin:7.2} s {came:5} {}", "#".repeat(came * WIDTH / most));
    }
    let (last, mean, ratio) = (last.as_secs_f64(), spread.mean(), spread.ratio());
    println!("  {count} are back, the last after {last:.2} s");
    println!("  peak in 100 ms {peak}, mean {mean:.1}: {ratio:.2} times");
}
