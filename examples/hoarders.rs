//! Peers that make a server hold as much as they can, at full size: `scripts/hoarders.sh`, which runs
//! `cargo run --release --example hoarders`
//!
//! Replies of all kinds of handlers that are never read, payloads in slow handlers, unauthenticated
//! peers that read nothing, and all of these together. Each runs against a server in its own
//! process. The program prints the server's resident memory, the bytes that the server says it
//! holds, and the outcome of a clean client's calls meanwhile. Ends with 1 if a bound is broken.
//! Linux: it reads /proc.

#[path = "measured/server_process.rs"]
mod server_process;

use std::{
    error::Error,
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use bellwire::{
    CallError, Client, ClientConfig, Router, Server, ServerConfig, ServerHandle, State, Streamed,
    blocking, handler,
    protocol::Code,
    server::{Principal, TokenAuthenticator},
};
use bytes::Bytes;
use futures::stream::{self, Stream};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::server_process::{SERVER, ServerProcess, end_with_parent, raise_file_limit};

type Failed = Box<dyn Error + Send + Sync>;

/// The argument that makes the program a server whose peers must authenticate.
const GUARDED: &str = "--guarded";
const TOKEN: &str = "a-token";
const MIB: u64 = 1024 * 1024;
/// The length of a reply, and of a payload.
const BIG: usize = 60_000;
/// 1.5 times what a connection may cost with the default limits (SECURITY.md), because buffers grow
/// by doubling.
const BUDGET: u64 = (2 * 262_144 + 65_535 + 2 * 65_535 + 65_536 + 1_024 * 512) * 3 / 2;
/// The default limit of the whole server.
const LIMIT: u64 = 512 * MIB;
/// The duration of each attack.
const TIME: Duration = Duration::from_secs(12);
/// The pause before a peer that was closed reconnects.
const PAUSE: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<ExitCode, Failed> {
    let argument = std::env::args().nth(1);
    if let Some(kind @ (SERVER | GUARDED)) = argument.as_deref() {
        return serve(kind == GUARDED).await.map(|()| ExitCode::SUCCESS);
    }
    raise_file_limit()?;
    let mut is_good = true;
    for method in ["spawned", "later", "blocking", "items", "inline"] {
        is_good &= unread_replies(method).await?;
    }
    is_good &= payloads().await?;
    is_good &= strangers().await?;
    is_good &= mixture().await?;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn big() -> Bytes {
    vec![b'x'; BIG].into()
}

async fn later() -> Bytes {
    sleep(Duration::from_millis(5)).await;
    big()
}

async fn items() -> Streamed<impl Stream<Item = Bytes>> {
    Streamed(stream::iter(std::iter::repeat_with(big)))
}

async fn hold(payload: Bytes) -> String {
    sleep(Duration::from_secs(20)).await;
    payload.len().to_string()
}

async fn serve(is_guarded: bool) -> Result<(), Failed> {
    end_with_parent();
    raise_file_limit()?;
    let mut server = Server::bind("127.0.0.1:0").await?.config(ServerConfig::new());
    println!("listening on {}", server.local_addr()?);
    if is_guarded {
        let tokens = TokenAuthenticator::new().token(TOKEN, Principal::new("clean"));
        server = server.authenticator(tokens);
    }
    let router = Router::with_state(server.handle())
        .method("spawned", handler(async || big()).spawned())
        .method("later", handler(later).spawned())
        .method("blocking", blocking(big))
        .method("items", handler(items).spawned())
        .method("inline", later)
        .method("hold", hold)
        .method("echo", async |payload: Bytes| payload)
        .method("held", async |State(handle): State<ServerHandle>| {
            handle.stats().buffered_bytes.to_string()
        });
    Ok(server.serve(router).await?)
}

/// The result of a clean client, and the most memory that its server took meanwhile.
#[derive(Default)]
struct Fared {
    answered: u64,
    refused: u64,
    failed: u64,
    slowest: Duration,
    resident: u64,
    held: u64,
}

/// Makes one call after the other for some time, every tenth with a large payload.
async fn clean_calls(client: &Client, server: &ServerProcess) -> Result<Fared, Failed> {
    let (begun, mut fared) = (Instant::now(), Fared::default());
    for n in 0.. {
        if begun.elapsed() >= TIME {
            break;
        }
        let asked = Instant::now();
        let payload = if n % 10 == 0 { big() } else { Bytes::from_static(b"x") };
        match timeout(Duration::from_secs(5), client.call("echo", payload)).await {
            Ok(Ok(_)) => fared.answered += 1,
            Ok(Err(CallError::Refused { .. })) => fared.refused += 1,
            Ok(Err(_)) | Err(_) => fared.failed += 1,
        }
        fared.slowest = fared.slowest.max(asked.elapsed());
        if let Ok(held) = client.call("held", "").await {
            fared.held = fared.held.max(String::from_utf8(held.to_vec())?.parse()?);
        }
        fared.resident = fared.resident.max(server.resident()?);
        sleep(Duration::from_millis(5)).await;
    }
    Ok(fared)
}

fn judge(name: &str, before: u64, most: u64, fared: &Fared) -> bool {
    let grown = fared.resident.saturating_sub(before);
    let is_good = grown <= most && fared.refused + fared.failed == 0 && fared.answered > 0;
    let Fared { answered, refused, failed, slowest, held, .. } = fared;
    println!(
        "{name}: resident +{} MiB of {} MiB, the server says {} MiB; a clean client: {answered} \
         answered, {refused} refused, {failed} failed, slowest {} ms: {}",
        grown / MIB,
        most / MIB,
        held / MIB,
        slowest.as_millis(),
        if is_good { "pass" } else { "FAIL" }
    );
    is_good
}

/// Writes `lines`, reads nothing, and stays connected. Reconnects after a pause if it is closed.
async fn hoard(address: SocketAddr, lines: Bytes) {
    loop {
        if let Ok(mut io) = TcpStream::connect(address).await {
            let mut is_open = io.write_all(&lines).await.is_ok();
            while is_open {
                sleep(PAUSE).await;
                is_open = io.write_all(b"* /cancel 1\n").await.is_ok();
            }
        }
        sleep(PAUSE).await;
    }
}

/// This many peers that each write this many lines.
fn hoarders(
    address: SocketAddr,
    count: usize,
    lines: u64,
    line: impl Fn(u64) -> Vec<u8>,
) -> JoinSet<()> {
    let mut bytes = Vec::new();
    (1..=lines).for_each(|id| bytes.extend_from_slice(&line(id)));
    let bytes = Bytes::from(bytes);
    (0..count).map(|_| hoard(address, bytes.clone())).collect()
}

async fn connect(server: &ServerProcess, config: ClientConfig) -> Result<(Client, u64), Failed> {
    let client = Client::builder().address(server.address).config(config).connect().await?;
    for _ in 0..100 {
        client.call("echo", big()).await?;
    }
    Ok((client, server.resident()?))
}

/// SECURITY.md, threat 35.
async fn unread_replies(method: &'static str) -> Result<bool, Failed> {
    const PEERS: usize = 20;
    let server = ServerProcess::start(SERVER)?;
    let (client, before) = connect(&server, ClientConfig::new()).await?;
    let line = move |id| format!("{id} {method}\n").into_bytes();
    let _hoarders = hoarders(server.address, PEERS, 5_000, line);
    let fared = clean_calls(&client, &server).await?;
    let name = format!("{PEERS} peers that read none of their replies, {method}");
    Ok(judge(&name, before, PEERS as u64 * BUDGET, &fared))
}

/// A payload in a slow handler.
fn held_line(id: u64) -> Vec<u8> {
    let mut line = format!("{id} hold ").into_bytes();
    line.resize(line.len() + BIG, b'x');
    line.push(b'\n');
    line
}

/// A small payload in a slow handler.
fn small_line(id: u64) -> Vec<u8> {
    let mut line = held_line(id);
    line.truncate(30_000);
    line.push(b'\n');
    line
}

fn inline_line(id: u64) -> Vec<u8> {
    format!("{id} inline\n").into_bytes()
}

/// A line that an unauthenticated peer may not send. Its answer is nearly as long.
fn barred_line(id: u64) -> Vec<u8> {
    format!("{id} echo\n").into_bytes()
}

/// SECURITY.md, threat 36.
async fn payloads() -> Result<bool, Failed> {
    const PEERS: usize = 140;
    let server = ServerProcess::start(SERVER)?;
    let (client, before) = connect(&server, ClientConfig::new()).await?;
    let _hoarders = hoarders(server.address, PEERS, 100, held_line);
    let fared = clean_calls(&client, &server).await?;
    let most = LIMIT + PEERS as u64 * BUDGET;
    Ok(judge(&format!("{PEERS} peers with payloads in a slow handler"), before, most, &fared))
}

/// SECURITY.md, threat 36.
async fn strangers() -> Result<bool, Failed> {
    const PEERS: usize = 1_400;
    let server = ServerProcess::start(GUARDED)?;
    let (client, before) =
        connect(&server, ClientConfig::new().auth(Code::from_static("token"), TOKEN)).await?;
    let _hoarders = hoarders(server.address, PEERS, 20_000, barred_line);
    let fared = clean_calls(&client, &server).await?;
    // 16 KiB each: two short lines, 4 KiB of answers, and the connection itself.
    let most = PEERS as u64 * 16 * 1024 + 8 * MIB;
    Ok(judge(&format!("{PEERS} strangers that read nothing"), before, most, &fared))
}

/// SECURITY.md, threat 36: peers that read nothing, peers with payloads, and many that hold little.
async fn mixture() -> Result<bool, Failed> {
    const PEERS: usize = 900;
    let server = ServerProcess::start(SERVER)?;
    let (client, before) = connect(&server, ClientConfig::new()).await?;
    let _deaf = hoarders(server.address, PEERS, 2_000, inline_line);
    let _holding = hoarders(server.address, 100, 100, held_line);
    let _small = hoarders(server.address, PEERS, 1, small_line);
    let fared = clean_calls(&client, &server).await?;
    let most = LIMIT + (2 * PEERS as u64 + 100) * BUDGET / 2;
    Ok(judge(&format!("{} peers of all kinds", 2 * PEERS + 100), before, most, &fared))
}
