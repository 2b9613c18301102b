//! This program, started again in its own process, and the lines that it prints.

use std::{
    io,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::Failed;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(90);

/// A process. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts it, on this host or in another network namespace.
    pub(crate) fn start(host: Option<&str>, arguments: &[&str]) -> io::Result<Self> {
        let program = std::env::current_exe()?;
        let mut command = match host {
            Some(host) => {
                let mut ip = Command::new("ip");
                // `exec` replaces the shell by the program, so signals reach the program.
                ip.args(["netns", "exec", host]).arg(program);
                ip
            }
            None => Command::new(program),
        };
        let piped = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.kill_on_drop(true).spawn()?;
        let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, lines: BufReader::new(out).lines() })
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        Ok(kill_process(pid.ok_or(io::ErrorKind::NotFound)?, signal)?)
    }

    /// Waits for a line with this prefix. Returns when it was printed, and the rest of it.
    ///
    /// # Errors
    /// The line does not come, or the process reported a missed message before it.
    pub(crate) async fn until(&mut self, begin: &str) -> Result<(Instant, String), Failed> {
        timeout(PATIENCE, self.find(begin)).await.map_err(|_| format!("never says {begin:?}"))?
    }

    async fn find(&mut self, begin: &str) -> Result<(Instant, String), Failed> {
        while let Some(line) = self.lines.next_line().await? {
            if let Some(rest) = line.strip_prefix(begin) {
                return Ok((Instant::now(), rest.to_owned()));
            }
            if line.starts_with("missed") {
                return Err(line.into());
            }
        }
        Err(format!("ended before it said {begin:?}").into())
    }
}
