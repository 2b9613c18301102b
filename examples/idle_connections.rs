//! The cost of connections that only subscribe:
//! `cargo run --release --example idle_connections [N]`
//!
//! Holds N (default 10,000) subscribed connections to a server in its own process, publishes once,
//! and checks that each connection got the message. Prints the growth of the server's memory per
//! connection: as its allocator counts it, and resident. Ends with 1 if one got nothing, or costs
//! more than 2,048 bytes. Linux: it reads /proc.

#[macro_use]
#[path = "shared/print.rs"]
mod print;
#[path = "measured/server_process.rs"]
mod server_process;

use std::{alloc::System, error::Error, process::ExitCode, time::Duration};

use bellwire::{Client, Failure, Publisher, Router, Server, ServerConfig, protocol::Code};
use futures::{StreamExt, TryStreamExt, stream};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::server_process::{SERVER, ServerProcess, end_with_parent, raise_file_limit};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The most that a connection may cost, in bytes.
const TARGET: i64 = 2_048;
/// Files that the process needs besides its connections.
const OTHER_FILES: u64 = 64;
/// The bound on everything, with all connections at once.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        Some(SERVER) => serve().await.map(|()| ExitCode::SUCCESS),
        Some(count) => measure(count.parse()?).await,
        None => measure(10_000).await,
    }
}

async fn serve() -> Result<(), Box<dyn Error>> {
    end_with_parent();
    raise_file_limit()?;
    // These clients do not renew their leases.
    let config = ServerConfig::new().connections(1_000_000).lease(Duration::from_secs(3_600));
    let server = Server::bind("127.0.0.1:0").await?.config(config);
    println!("listening on {}", server.local_addr()?);
    let router = Router::new().method("memory", memory).method("tell", tell);
    Ok(server.serve(router).await?)
}

/// The allocated bytes.
async fn memory() -> String {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated).to_string()
}

async fn tell(publisher: Publisher, payload: String) -> Result<(), Failure> {
    let published = publisher.publish("news", payload).await;
    published.map(drop).map_err(|error| Failure::new(Code::INTERNAL, error.to_string()))
}

async fn measure(count: usize) -> Result<ExitCode, Box<dyn Error>> {
    let files = raise_file_limit()?;
    if files < count as u64 + OTHER_FILES {
        return Err(format!("{count} connections need more than {files} open files").into());
    }
    let server = ServerProcess::start(SERVER)?;
    let control = Client::connect(server.address).await?;
    // What the process allocates once, for the first connection, is not counted.
    drop(listen(&server).await?);
    let before = Memory::of(&server, &control).await?;
    let listening = stream::iter(0..count).map(|_| listen(&server)).buffer_unordered(64);
    let mut listeners: Vec<_> = timeout(PATIENCE, listening.try_collect()).await??;
    let idle = Memory::of(&server, &control).await?;
    control.call("tell", "it rains").await?;
    let told = listeners.iter_mut().map(|one| is_told(one, "it rains"));
    let told: Vec<_> = timeout(PATIENCE, stream::iter(told).buffered(64).collect()).await?;
    let told = told.into_iter().filter(|&is_told| is_told).count();
    let after = Memory::of(&server, &control).await?;

    println!("{count} subscribed connections, {told} of them told");
    let mut is_good = told == count;
    for (when, now) in [("idle", idle), ("after a notification", after)] {
        let [allocated, resident] = now.per_connection(before, count);
        println!("{when}: {allocated} bytes each by the allocator, {resident} bytes resident");
        is_good &= allocated <= TARGET && (resident <= TARGET || count < 1_000);
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The memory of the server's process.
#[derive(Clone, Copy)]
struct Memory {
    allocated: i64,
    resident: i64,
}

impl Memory {
    async fn of(server: &ServerProcess, control: &Client) -> Result<Self, Box<dyn Error>> {
        let allocated = control.call("memory", "").await?;
        let allocated = std::str::from_utf8(&allocated)?.parse()?;
        Ok(Self { allocated, resident: i64::try_from(server.resident()?)? })
    }

    fn per_connection(self, before: Self, count: usize) -> [i64; 2] {
        let count = i64::try_from(count.max(1)).unwrap_or(i64::MAX);
        [(self.allocated - before.allocated) / count, (self.resident - before.resident) / count]
    }
}

/// A subscribed connection, driven by hand, because the client's memory is not measured.
type Listener = BufReader<TcpStream>;

async fn listen(server: &ServerProcess) -> std::io::Result<Listener> {
    let mut io = BufReader::with_capacity(256, TcpStream::connect(server.address).await?);
    io.write_all(b"1 /subscribe news\n").await?;
    while !line(&mut io).await?.starts_with("1 ok;") {}
    Ok(io)
}

/// Whether the next line is this notification.
async fn is_told(io: &mut Listener, payload: &str) -> bool {
    line(io).await.is_ok_and(|line| line == format!("* news 1 {payload}\n"))
}

/// Reads a line, with its LF; an error at the end.
async fn line(io: &mut Listener) -> std::io::Result<String> {
    let mut line = String::new();
    match io.read_line(&mut line).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line),
    }
}
