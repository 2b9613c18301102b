//! The `redis-server` that the servers share.

use std::{
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use crate::Failed;

/// A `redis-server` with a Unix socket and without a port. It is killed when this is dropped.
pub(crate) struct Engine(Child);

impl Engine {
    /// Starts it in a folder, and waits until it listens.
    pub(crate) fn start(folder: &Path) -> Result<Self, Failed> {
        let mut command = Command::new("redis-server");
        command.current_dir(folder).args(["--port", "0", "--unixsocket", SOCKET, "--save", ""]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let process = process.map_err(|error| format!("redis-server, 7 or later: {error}"))?;
        let mut engine = Self(process);
        let mut lines = BufReader::new(engine.0.stdout.take().ok_or("no output")?).lines();
        let is_ready =
            lines.any(|line| line.is_ok_and(|line| line.contains("eady to accept connections")));
        if !is_ready {
            return Err("redis-server does not start".into());
        }
        thread::spawn(move || lines.map_while(io::Result::ok).for_each(drop));
        Ok(engine)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SOCKET: &str = "redis.sock";

/// Its socket in this folder.
pub(crate) fn socket(folder: &Path) -> PathBuf {
    folder.join(SOCKET)
}
