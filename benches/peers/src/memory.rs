//! Memory: what idle subscribed connections add to a server's resident memory. The server is a
//! process of its own, and its connections are plain sockets that did the handshake by hand. Memory of
//! the kernel is not part of it.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::{
    bare, child, cpu,
    peers::{bellwire, jsonrpsee, nats, redis},
};

/// Connections that are set up at the same time.
const AT_ONCE: usize = 64;
/// The time after which a server has freed what only the handshakes needed.
const REST: Duration = Duration::from_millis(2500);

/// The rows of this work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// One task for each connection, which waits until it is readable. Not subscribed.
    Bare,
    Bellwire,
    RedisServer,
    NatsServer,
    Jsonrpsee,
}

#[derive(clap::Args, Clone, Debug)]
pub struct Plan {
    #[arg(long, default_value_t = 10_000)]
    pub connections: usize,
    /// Topics to which each connection is subscribed
    #[arg(long, default_value_t = 1)]
    pub subscriptions: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemorySample {
    pub bytes_per_connection: f64,
}

pub async fn run(row: Row, plan: &Plan) -> Result<MemorySample> {
    let server = Server::start(row)?;
    let (address, pid) = (server.address(), server.pid());
    // What the first connection sets up once is not counted.
    let _first = connect(row, address, plan.subscriptions).await?;
    sleep(REST).await;
    let before = cpu::resident_bytes(pid)?;
    let connections: Vec<_> = stream::iter(0..plan.connections)
        .map(|_| connect(row, address, plan.subscriptions))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    sleep(REST).await;
    let added = cpu::resident_bytes(pid)? as f64 - before as f64;
    let open_files = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    ensure!(open_files > plan.connections, "the server has only {open_files} open files");
    Ok(MemorySample { bytes_per_connection: added / connections.len() as f64 })
}

async fn connect(row: Row, address: SocketAddr, topics: usize) -> Result<TcpStream> {
    match row {
        Row::Bare => bare::connect(address).await,
        Row::Bellwire => bellwire::subscribe_socket(address, topics).await,
        Row::RedisServer => redis::subscribe_socket(address, topics).await,
        Row::NatsServer => nats::subscribe_socket(address, topics).await,
        Row::Jsonrpsee => jsonrpsee::subscribe_socket(address, topics).await,
    }
}

#[derive(Debug)]
enum Server {
    Program(child::Server),
    /// This program again, as `serve`.
    Own(Child, SocketAddr),
}

impl Server {
    fn start(row: Row) -> Result<Self> {
        match row {
            Row::NatsServer => return Ok(Self::Program(child::nats()?)),
            Row::RedisServer => return Ok(Self::Program(child::redis()?)),
            Row::Bare | Row::Bellwire | Row::Jsonrpsee => {}
        }
        let name = row.to_possible_value().context("a row has a name")?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", "--row", name.get_name()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
        Ok(Self::Own(child, line.trim().parse().context("the server printed no address")?))
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Program(server) => server.address,
            Self::Own(_, address) => *address,
        }
    }

    fn pid(&self) -> u32 {
        match self {
            Self::Program(server) => server.pid(),
            Self::Own(child, _) => child.id(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Self::Own(child, _) = self {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Serves until the process is ended; prints its address.
pub async fn serve(row: Row) -> Result<()> {
    let mut publisher = None;
    let address = match row {
        Row::Bare => {
            let (listener, address) = bare::listen().await?;
            tokio::spawn(accept(listener));
            address
        }
        Row::Bellwire => {
            let (address, kept) = bellwire::serve().await?;
            publisher = Some(kept);
            address
        }
        Row::Jsonrpsee => jsonrpsee::serve_forever().await?,
        Row::RedisServer | Row::NatsServer => bail!("a program of its own"),
    };
    println!("{address}");
    std::future::pending::<()>().await;
    drop(publisher);
    Ok(())
}

async fn accept(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(wait(stream));
    }
}

async fn wait(stream: TcpStream) -> Result<()> {
    let mut byte = [0];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut byte) {
            Ok(0) => return Ok(()),
            // The socket may be reported as readable although there is nothing to read.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
    }
}
