//! A server in its own process: the same program, started again.

#[path = "parent.rs"]
mod parent;

use std::{
    fs,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

pub(crate) use self::parent::end_with_parent;

/// The argument that makes the program a server.
pub(crate) const SERVER: &str = "--server";

/// A server's process. It is killed when this is dropped.
pub(crate) struct ServerProcess {
    child: Child,
    /// The address on which it listens.
    pub(crate) address: SocketAddr,
}

impl ServerProcess {
    /// Starts this program again, as a server, and waits until it listens.
    #[allow(dead_code, reason = "one of the programs wants to say where")]
    pub(crate) fn start(argument: &str) -> io::Result<Self> {
        Self::start_at(argument, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// As [`start`](Self::start), with a second argument that gives the address to listen on.
    pub(crate) fn start_at(argument: &str, address: SocketAddr) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([argument, &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let address = line.trim().strip_prefix("listening on ").and_then(|at| at.parse().ok());
        let address = address.ok_or_else(|| io::Error::other("the server does not listen"))?;
        Ok(Self { child, address })
    }

    /// Sends a signal to the process.
    #[allow(dead_code, reason = "one of the programs does")]
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Resident memory, in bytes.
    #[allow(dead_code, reason = "most of the programs do")]
    pub(crate) fn resident(&self) -> io::Result<u64> {
        resident(self.child.id())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory of a process, in bytes, as the kernel counts it.
fn resident(process: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no VmRSS in the process's status"))
}

/// Raises the soft limit of open files to the hard limit. Returns the limit.
pub(crate) fn raise_file_limit() -> io::Result<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.unwrap_or(u64::MAX))
}
