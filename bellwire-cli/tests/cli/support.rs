//! What the tests share: the command as a process, and a server to run it against.

use std::{
    net::TcpListener as StdListener,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use bellwire::{
    Failure, Publisher, Router, Server, ServerConfig, ServerHandle, Session, Streamed, handler,
    protocol::Code,
    server::{HandlerFuture, Next, Rejection, RequestParts},
};
use bytes::Bytes;
use futures::stream;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    task::AbortHandle,
    time::timeout,
};

/// Longer than anything here takes on a busy machine.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

pub(crate) async fn bounded<T>(what: &str, event: impl Future<Output = T>) -> T {
    timeout(BOUND, event).await.unwrap_or_else(|_| panic!("{what} does not come"))
}

/// Waits until `is_so`.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    bounded(what, wait).await;
}

/// The command, with a configuration of its own.
pub(crate) struct Cli {
    pub(crate) home: TempDir,
    variables: Vec<(&'static str, String)>,
}

/// How a command has ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Checks that it has failed with this code, and that its text names all of `parts`.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in {self:?}");
        }
    }

    /// Checks that it has succeeded. Returns what it has printed.
    #[track_caller]
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.stdout
    }
}

impl Cli {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().expect("a folder"), variables: Vec::new() }
    }

    /// A command that connects to this address.
    pub(crate) fn at(address: &str) -> Self {
        Self::new().with("BELLWIRE_ADDR", address)
    }

    pub(crate) fn with(mut self, variable: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((variable, value.into()));
        self
    }

    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, content).expect("a file");
        path.to_str().expect("a path").into()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellwire"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BELLWIRE_") {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .current_dir(self.home.path())
            .env("XDG_CONFIG_HOME", self.home.path())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with(arguments, b"").await
    }

    /// As [`run`](Self::run), with this stdin.
    pub(crate) async fn run_with(&self, arguments: &[&str], stdin: &[u8]) -> Outcome {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().expect("a process");
        let mut writer = child.stdin.take().expect("piped");
        let stdin = stdin.to_vec();
        tokio::spawn(async move {
            // The command may end before it has read all.
            let _ = writer.write_all(&stdin).await;
        });
        let output = bounded(arguments[0], child.wait_with_output()).await.expect("an output");
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts a command that goes on.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().expect("a process");
        let stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
        let stderr = BufReader::new(child.stderr.take().expect("piped")).lines();
        Running { stdin: child.stdin.take(), stdout: Some(stdout), stderr, child }
    }

    /// Starts a `serve` on a free port. Returns it with its address.
    pub(crate) async fn serve(&self, arguments: &[&str]) -> (Running, String) {
        let all = [&["serve", "--listen", "127.0.0.1:0"], arguments].concat();
        let mut server = self.start(&all);
        let line = server.line().await;
        let address = line.strip_prefix("listening on ").expect("an address").to_owned();
        (server, address)
    }
}

/// A command that goes on. It is killed when it is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Option<Lines<BufReader<ChildStdout>>>,
    pub(crate) stderr: Lines<BufReader<ChildStderr>>,
}

impl Running {
    /// The next line on stdout.
    pub(crate) async fn line(&mut self) -> String {
        let lines = self.stdout.as_mut().expect("it is open");
        let line = bounded("a line on stdout", lines.next_line()).await.expect("text");
        match line {
            Some(line) => line,
            None => panic!("it has ended: {:?}", self.stderr.next_line().await),
        }
    }

    /// The next line on stderr.
    pub(crate) async fn remark(&mut self) -> String {
        let line = bounded("a line on stderr", self.stderr.next_line()).await;
        line.expect("text").expect("it has ended")
    }

    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("sh").args(["-c", r#"kill -s "$0" "$1""#, name, &pid]).status();
        assert!(sent.await.expect("a shell").success());
    }

    pub(crate) async fn end(&mut self) -> ExitStatus {
        bounded("its end", self.child.wait()).await.expect("a status")
    }
}

/// A server in this process. It ends when it is dropped.
pub(crate) struct TestServer {
    pub(crate) address: String,
    pub(crate) publisher: Publisher,
    pub(crate) handle: ServerHandle,
    task: AbortHandle,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TestServer {
    /// A server with the methods of [`router`]. Clients may publish.
    pub(crate) async fn start() -> Self {
        Self::with(|server| server.config(ServerConfig::new().allow_publish(true))).await
    }

    pub(crate) async fn with(settings: impl FnOnce(Server) -> Server) -> Self {
        let server = settings(Server::bind("127.0.0.1:0").await.expect("a free port"));
        let address = server.local_addr().expect("an address").to_string();
        let (publisher, handle) = (server.publisher(), server.handle());
        let task = tokio::spawn(server.serve(router()).into_future()).abort_handle();
        Self { address, publisher, handle, task }
    }

    /// Publishes the numbers as text.
    pub(crate) async fn publish(&self, topic: &str, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            self.publisher.publish(topic, number.to_string()).await.expect("published");
        }
    }

    /// Waits until a client subscribes.
    pub(crate) async fn subscribed(&self, subscriptions: usize) {
        until("a subscription", || self.handle.stats().subscriptions == subscriptions).await;
    }
}

fn router() -> Router {
    let fail = async || Err::<String, _>(Failure::new(Code::from_static("broken"), "as planned"));
    let wait = async || std::future::pending::<String>().await;
    let count = async |to: String| {
        Streamed(stream::iter((1..=to.parse().unwrap_or(u64::MAX)).map(|n| n.to_string())))
    };
    Router::new()
        .method("echo", handler(async |payload: Bytes| payload).doc("BYTES: the same again"))
        .method("fail", fail)
        .method("wait", wait)
        .method("late", handler(wait).handler_time(Duration::from_millis(20)))
        .method("count", count)
        .method("session", async |session: Session| session.id().to_string())
        .method("once", async || run_number())
        .layer(refuse_if_asked)
}

/// Refuses requests with the attribute `app.refuse`.
fn refuse_if_asked(request: &RequestParts<'_>, next: Next<'_>) -> Result<HandlerFuture, Rejection> {
    match request.attributes().get("app.refuse") {
        Some(_) => Err(Rejection::bad_attribute("refused as asked for")),
        None => next.run(),
    }
}

/// A number that differs from run to run of a handler.
fn run_number() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static RUNS: AtomicU64 = AtomicU64::new(0);
    RUNS.fetch_add(1, Ordering::Relaxed).to_string()
}

/// An address on which nothing listens.
pub(crate) fn nobody() -> String {
    let listener = StdListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").to_string()
}

/// A certificate for localhost, and its key, in files.
pub(crate) fn certificate(cli: &Cli) -> [String; 2] {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    [cli.file("cert.pem", &made.cert.pem()), cli.file("key.pem", &made.signing_key.serialize_pem())]
}
