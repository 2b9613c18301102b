//! The lives of the server: processes that are killed, one after the other, on one port.

use std::{
    ffi::OsString,
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use bellwire_testkit::history::Event;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{Failed, PATIENCE, log::Process};

/// The lives of a server, the current one included.
pub(crate) struct Lives {
    arguments: Vec<OsString>,
    current: Child,
    address: SocketAddr,
    /// Holds the port between two lives: no other program can get it.
    _port: Socket,
    process: Process,
    kills: Kills,
    faults: Vec<String>,
}

/// The kills so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kills {
    pub(crate) under_load: usize,
    /// Those of a server that was perhaps still opening its file.
    pub(crate) early: usize,
}

impl fmt::Display for Kills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { under_load, early } = self;
        write!(f, "{under_load} under load, {early} more within 50 ms of a start")
    }
}

impl Lives {
    /// Begins the first life, on a free port. The arguments behind that are the server's own.
    pub(crate) fn begin(own: &[OsString], process: Process) -> Result<Self, Failed> {
        let (port, address) = hold_port()?;
        let mut arguments: Vec<OsString> = vec!["--serve".into(), address.to_string().into()];
        arguments.extend_from_slice(own);
        let current = start(&arguments)?;
        let (kills, faults) = Default::default();
        Ok(Self { arguments, current, address, _port: port, process, kills, faults })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets the server live so long from when it listens.
    pub(crate) async fn live(&mut self, time: Duration) -> Result<(), Failed> {
        self.listening().await?;
        sleep(time).await;
        self.kills.under_load += 1;
        self.restart().await
    }

    /// Lets the server live so long from its start.
    #[allow(dead_code, reason = "each program uses its part")]
    pub(crate) async fn live_shortly(&mut self, time: Duration) -> Result<(), Failed> {
        sleep(time).await;
        self.kills.early += 1;
        self.restart().await
    }

    /// Waits until the server listens.
    pub(crate) async fn listening(&mut self) -> Result<(), Failed> {
        let Some(out) = &mut self.current.stdout else { return Ok(()) };
        let read = timeout(PATIENCE, out.read(&mut [0; 64])).await;
        match read.map_err(|_| "the server does not listen")?? {
            0 => Err("the server does not start".into()),
            _ => Ok(()),
        }
    }

    /// Kills the server and starts it again.
    pub(crate) async fn restart(&mut self) -> Result<(), Failed> {
        self.end().await?;
        self.current = start(&self.arguments)?;
        Ok(())
    }

    /// Kills the server.
    pub(crate) async fn end(&mut self) -> Result<(), Failed> {
        if let Some(status) = self.current.try_wait()? {
            self.faults.push(format!("the server ended by itself: {status}"));
        }
        self.process.record(Event::Note("killed".into()));
        timeout(PATIENCE, self.current.kill()).await.map_err(|_| "the server lives on")??;
        Ok(())
    }

    /// The kills so far.
    pub(crate) fn kills(&self) -> Kills {
        self.kills
    }

    /// What went wrong with them so far.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.faults.clone()
    }
}

/// Starts a server. It is killed when the returned value is dropped.
fn start(arguments: &[OsString]) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.kill_on_drop(true).spawn()
}

/// A socket with a port of its own that does not listen. Others may use the port only if they name
/// it.
fn hold_port() -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((socket, address))
}
