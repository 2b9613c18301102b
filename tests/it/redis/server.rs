//! A `redis-server` of its own for each test, and a relay before it.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use bellwire_testkit::bound::bounded;
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream as AsyncStream},
    task::{JoinHandle, JoinSet},
};

/// A server in a folder of its own. It is killed when it is dropped.
pub(super) struct Redis {
    folder: TempDir,
    process: Child,
    settings: Vec<String>,
}

impl Redis {
    /// A server with a Unix socket and without a port.
    pub(super) fn start() -> Self {
        Self::start_with(&["--port", "0"])
    }

    /// A server that replicas can reach, and its port.
    pub(super) fn with_port(settings: &[&str]) -> (Self, u16) {
        on_free_port(|port| {
            let all = [&["--port", port, "--bind", "127.0.0.1"], settings].concat();
            Self::try_start(&all)
        })
    }

    /// A node of a cluster, its port, and that for other nodes.
    pub(super) fn in_cluster() -> (Self, u16, u16) {
        let ((node, port), bus) = on_free_port(|bus| {
            let port = free_port();
            let own = ["--port", &port.to_string(), "--bind", "127.0.0.1"];
            let cluster = ["--cluster-enabled", "yes", "--cluster-port", bus];
            Self::try_start(&[own, cluster].concat()).map(|node| (node, port))
        });
        (node, port, bus)
    }

    /// A server that speaks TLS only, and its port. The files are those of its certificate, its
    /// key, and the certificate by which it knows clients.
    #[cfg(feature = "tls")]
    pub(super) fn with_tls([certificate, key, clients]: [&str; 3]) -> (Self, u16) {
        on_free_port(|port| {
            let port = ["--port", "0", "--bind", "127.0.0.1", "--tls-port", port];
            let files = ["--tls-cert-file", certificate, "--tls-key-file", key];
            let clients = ["--tls-ca-cert-file", clients];
            Self::try_start(&[&port[..], &files, &clients].concat())
        })
    }

    pub(super) fn start_with(settings: &[&str]) -> Self {
        Self::try_start(settings).unwrap_or_else(|log| panic!("redis-server ended:\n{log}"))
    }

    fn try_start(settings: &[&str]) -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let settings: Vec<_> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let process = spawn(&folder, &settings)?;
        Ok(Self { folder, process, settings })
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// Ends the server by SIGKILL.
    pub(super) fn kill(&mut self) {
        self.process.kill().expect("a process");
        self.process.wait().expect("its end");
    }

    /// Starts it again, with the data that it had saved.
    pub(super) fn restart(&mut self) {
        self.process = spawn(&self.folder, &self.settings).expect("redis-server");
    }

    /// Sends SIGSTOP, or SIGCONT.
    pub(super) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, signal).expect("a process");
    }

    /// Runs a command. Returns the answer as text.
    pub(super) fn run(&self, words: &[&str]) -> String {
        run(UnixStream::connect(self.socket()).expect("redis-server"), words)
    }

    /// Waits until this replica has what its master has.
    pub(super) async fn is_in_sync(&self) {
        let is_up = |info: &str| info.contains("master_link_status:up");
        self.until(&["INFO", "replication"], is_up).await;
    }

    /// Waits until a command has this answer.
    pub(super) async fn until(&self, words: &[&str], is_right: impl Fn(&str) -> bool) {
        let right = async {
            while !is_right(&self.run(words)) {
                tokio::task::yield_now().await;
            }
        };
        bounded(&words.join(" "), right).await;
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts something on a free port. Another process may take the port before.
fn on_free_port<T>(start: impl Fn(&str) -> Result<T, String>) -> (T, u16) {
    let mut log = String::new();
    for _ in 0..20 {
        let port = free_port();
        match start(&port.to_string()) {
            Ok(started) => return (started, port),
            Err(why) => log = why,
        }
    }
    panic!("redis-server ended:\n{log}")
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// A sentinel that promotes the replica of the master `shop` when the master is silent.
pub(super) struct Sentinel(Child, u16);

impl Sentinel {
    pub(super) fn start(folder: &Path, master: u16) -> Self {
        let file = folder.join("sentinel.conf");
        let (process, port) = on_free_port(|port| {
            let settings = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor shop 127.0.0.1 {master} 1\n\
                 sentinel down-after-milliseconds shop 500\nsentinel failover-timeout shop 3000\n"
            );
            std::fs::write(&file, settings).expect("a file");
            let mut command = Command::new("redis-server");
            command.current_dir(folder).arg(&file).arg("--sentinel");
            listen(&mut command, "+monitor master")
        });
        Self(process, port)
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.1)
    }

    /// Waits until it knows a replica.
    pub(super) async fn knows_a_replica(&self) {
        let known = async {
            loop {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.1)).expect("a sentinel");
                if run(stream, &["SENTINEL", "REPLICAS", "shop"]).contains("127.0.0.1") {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        bounded("the replica", known).await;
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(folder: &TempDir, settings: &[String]) -> Result<Child, String> {
    let mut command = Command::new("redis-server");
    command
        .current_dir(folder.path())
        .args(["--unixsocket", "redis.sock", "--save", "", "--appendonly", "no"])
        .args(["--repl-backlog-ttl", "0", "--repl-diskless-sync-delay", "0"])
        .args(settings);
    listen(&mut command, "ready to accept connections")
}

/// Starts a process, and waits until its log has these words.
fn listen(command: &mut Command, words: &str) -> Result<Child, String> {
    let mut process = match command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("redis-server 7 or later is missing: `apt-get install redis-server`")
        }
        spawned => spawned.expect("a process"),
    };
    let mut output = BufReader::new(process.stdout.take().expect("its output"));
    let mut log = String::new();
    while !log.to_lowercase().contains(words) {
        if output.read_line(&mut log).expect("a line") == 0 {
            let _ = process.wait();
            return Err(log);
        }
    }
    thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    Ok(process)
}

/// Runs a command on a connection. Returns the answer as text.
fn run(mut stream: impl Read + Write, words: &[&str]) -> String {
    let mut request = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| request += &format!("${}\r\n{word}\r\n", word.len()));
    stream.write_all(request.as_bytes()).expect("a request");
    answer(&mut BufReader::new(stream))
}

fn answer(input: &mut impl BufRead) -> String {
    let mut line = String::new();
    input.read_line(&mut line).expect("an answer");
    let (kind, rest) = line.trim_end().split_at(1);
    match kind {
        "$" if rest == "-1" => String::new(),
        "$" => {
            let mut text = vec![0; rest.parse::<usize>().expect("a length") + 2];
            input.read_exact(&mut text).expect("a text");
            String::from_utf8_lossy(&text[..text.len() - 2]).into_owned()
        }
        "*" => {
            let answers = (0..rest.parse().expect("a length")).map(|_| answer(input));
            answers.collect::<Vec<_>>().join("\n")
        }
        _ => line.trim_end().to_owned(),
    }
}

/// Passes connections on, until it is cut.
pub(super) struct Relay {
    folder: TempDir,
    target: Arc<Mutex<PathBuf>>,
    task: JoinHandle<()>,
}

impl Relay {
    pub(super) fn to(redis: &Redis) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let target = Arc::new(Mutex::new(redis.socket()));
        let listener = UnixListener::bind(folder.path().join("relay.sock")).expect("a socket");
        let task = tokio::spawn(relay(listener, target.clone()));
        Self { folder, target, task }
    }

    pub(super) fn url(&self) -> String {
        format!("unix://{}", self.folder.path().join("relay.sock").display())
    }

    /// Later connections go to another server.
    pub(super) fn turn_to(&self, redis: &Redis) {
        *self.target.lock().expect("no panic") = redis.socket();
    }

    /// Ends all connections, and accepts no more.
    pub(super) async fn cut(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|error| error.is_cancelled()));
    }
}

async fn relay(listener: UnixListener, target: Arc<Mutex<PathBuf>>) {
    let mut connections = JoinSet::new();
    loop {
        let (mut client, _) = listener.accept().await.expect("a connection");
        let target = target.lock().expect("no panic").clone();
        connections.spawn(async move {
            let Ok(mut server) = AsyncStream::connect(target).await else { return };
            // One of them has ended it.
            let _ = copy_bidirectional(&mut client, &mut server).await;
        });
    }
}
