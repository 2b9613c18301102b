//! An `offers_server` in its own process, as cargo built it beside the tests.
//!
//! A plain `cargo test` builds the examples, too. If only one test crate is run, it uses the
//! examples of the last build, so run `cargo build --examples` first.

use std::{
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// Longer than any step takes on a busy machine.
pub const BOUND: Duration = Duration::from_secs(60);

/// A running server. It is killed when this is dropped.
pub struct Process {
    child: Child,
    pub address: String,
}

impl Process {
    /// Starts a server on a free port. `limits` are shell commands that run before it.
    pub async fn start(limits: &str) -> Self {
        let server = path_of("offers_server");
        let script = format!(r#"{limits} exec "$0" --listen 127.0.0.1:0 --random-every 0"#);
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .arg(&server)
            .env("RUST_LOG", "off")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a shell");
        let stdout = child.stdout.take().expect("piped");
        let mut lines = BufReader::new(stdout).lines();
        let first = timeout(BOUND, lines.next_line()).await.expect("it says where it listens");
        let first = first.expect("text").unwrap_or_else(|| panic!("no {}", server.display()));
        let address = first.strip_prefix("listening on ").expect("an address").to_owned();
        Self { child, address }
    }

    pub async fn terminate(&self) {
        let pid = self.child.id().expect("it was not waited for").to_string();
        let sent = Command::new("sh").args(["-c", r#"kill -s TERM "$0""#, &pid]).status();
        assert!(sent.await.expect("a shell").success());
    }

    pub async fn end(&mut self) -> ExitStatus {
        timeout(BOUND, self.child.wait()).await.expect("it does not end").expect("waited for")
    }
}

fn path_of(name: &str) -> PathBuf {
    let deps = std::env::current_exe().expect("a test is a file");
    deps.ancestors().nth(2).expect("target/debug").join("examples").join(name)
}
