//! redis-server and nats-server as child processes on free ports.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

/// How long a server may take until it accepts connections.
const START: Duration = Duration::from_secs(10);

/// A server that runs until this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts `program`, with the port that it is to use behind `arguments`, and waits until it accepts
    /// connections.
    fn start(program: &str, arguments: &[&str], port_option: &str) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let child = Command::new(program)
            .args(arguments)
            .args([port_option, &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let server = Self { child, address };
        let deadline = Instant::now() + START;
        while TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < deadline, "{program} does not listen on {address}");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Without persistence, and without a bound for subscribers that read slowly.
pub fn redis() -> Result<Server> {
    let arguments = [
        &["--bind", "127.0.0.1", "--daemonize", "no", "--appendonly", "no", "--save", ""][..],
        &["--maxclients", "15000", "--client-output-buffer-limit", "pubsub 0 0 0"],
    ];
    Server::start("redis-server", &arguments.concat(), "--port")
}

/// With a file in `dir` to which each write is appended, and synced as `sync` says.
pub fn redis_in(dir: &Path, sync: &str) -> Result<Server> {
    let dir = dir.to_string_lossy();
    let arguments = [
        &["--bind", "127.0.0.1", "--daemonize", "no", "--save", "", "--dir", &dir][..],
        &["--appendonly", "yes", "--appendfsync", sync],
    ];
    Server::start("redis-server", &arguments.concat(), "--port")
}

/// With streams in `dir`.
pub fn nats_in(dir: &Path) -> Result<Server> {
    let dir = dir.to_string_lossy();
    let arguments = ["-a", "127.0.0.1", "-l", "/dev/null", "-js", "-sd", &dir];
    Server::start("nats-server", &arguments, "-p")
}

/// Without a log in the measured path.
pub fn nats() -> Result<Server> {
    Server::start("nats-server", &["-a", "127.0.0.1", "-l", "/dev/null"], "-p")
}
