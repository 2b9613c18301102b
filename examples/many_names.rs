//! What a server still holds after a million topic names: `scripts/names.sh [NAMES]`
//!
//! SECURITY.md, threat 15. Clients subscribe to names and leave them, then publish to them, far
//! over the limit on topics. Then the unused logs are dropped. The program prints the allocated
//! bytes and the resident memory after each step. It fails if more than 5 % of the peak is still
//! allocated at the end. The system's allocator keeps pages for later use. So there are several
//! rounds, to show that resident memory does not accumulate.

#[macro_use]
#[path = "shared/print.rs"]
mod print;

use std::{alloc::System, error::Error, fs, io, time::Duration};

use bellwire::{
    PublishError, Publisher, Router, Server, ServerConfig,
    server::{PeerAddr, ServerHandle},
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::sleep,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The subscriptions that a connection may have.
const AT_ONCE: usize = 128;
const ROUNDS: usize = 3;
const IDLE_LOG: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let names = std::env::args().nth(1).map_or(Ok(1_000_000), |names| names.parse())?;
    let server = Server::bind("127.0.0.1:0").await?.config(ServerConfig::new().idle_log(IDLE_LOG));
    let PeerAddr::Tcp(address) = server.local_addr()? else { return Err("no TCP".into()) };
    let (publisher, handle) = (server.publisher(), server.handle());
    tokio::spawn(server.serve(Router::new()).into_future());
    let mut subscriber = Subscriber::connect(address).await?;
    let base = show("at first", &handle)?;
    for round in 1..=ROUNDS {
        println!("round {round}");
        subscriber.hear(names, round).await?;
        show("subscribed to and left", &handle)?;
        let refused = publish(&publisher, names, round).await?;
        let height = show("published to", &handle)?;
        println!("  {refused} names refused");
        while handle.stats().topics > 0 {
            sleep(IDLE_LOG / 10).await;
        }
        let left = show("given up", &handle)?.saturating_sub(base);
        let share = left as f64 / (height - base) as f64 * 100.0;
        println!("  {share:.1} % of it left");
        if share > 5.0 {
            return Err("names pile up".into());
        }
    }
    Ok(())
}

/// A connection that subscribes and unsubscribes.
struct Subscriber {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    id: usize,
}

impl Subscriber {
    async fn connect(address: std::net::SocketAddr) -> Result<Self, Box<dyn Error>> {
        let (reader, writer) = TcpStream::connect(address).await?.into_split();
        let mut lines = BufReader::new(reader).lines();
        lines.next_line().await?;
        Ok(Self { lines, writer, id: 0 })
    }

    async fn hear(&mut self, names: usize, round: usize) -> Result<(), Box<dyn Error>> {
        for begin in (0..names).step_by(AT_ONCE) {
            let batch = begin..names.min(begin + AT_ONCE);
            for method in ["/subscribe", "/unsubscribe"] {
                let mut asked = String::new();
                for name in batch.clone() {
                    self.id += 1;
                    asked += &format!("{} {method} {name}.{round}\n", self.id);
                }
                self.writer.write_all(asked.as_bytes()).await?;
                for _ in batch.clone() {
                    let line = self.lines.next_line().await?.ok_or("the server closed")?;
                    if !line.contains(" ok;") {
                        return Err(line.into());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Publishes to each name once. Returns how many were refused as too many.
async fn publish(publisher: &Publisher, names: usize, round: usize) -> Result<usize, PublishError> {
    let mut refused = 0;
    for name in 0..names {
        match publisher.publish(&*format!("{name}.{round}"), "0123456789abcdef").await {
            Ok(_) => {}
            Err(PublishError::TooMany) => refused += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}

/// Prints the current figures. Returns the allocated bytes.
fn show(when: &str, handle: &ServerHandle) -> io::Result<usize> {
    let stats = ALLOCATOR.stats();
    let bytes = stats.bytes_allocated - stats.bytes_deallocated;
    let (kib, resident, topics) = (bytes / 1_024, resident()?, handle.stats().topics);
    println!("  {when:<22} {topics:>6} topics {kib:>8} KiB allocated {resident:>8} KiB resident");
    Ok(bytes)
}

/// The resident memory of the process, in KiB.
fn resident() -> io::Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.ok_or_else(|| io::Error::other("no VmRSS in /proc/self/status"))
}
