//! The proxy around a testee: its stdin, its stdout and the connections of its client, line by
//! line, through one mistake.

use std::{
    process::{ExitCode, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{
        AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, stdin,
        stdout,
    },
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};

use crate::{
    client_run::text::{escape, unescape},
    client_wrong::{Memory, Mistake, memory::Lane, mistakes::websockets},
    server_ws_proxy,
};

/// After so long without the end of a line, a mistake may act on its beginning.
const PART: Duration = Duration::from_millis(40);

/// Where lines go that have passed the mistake.
struct Outs {
    mistake: &'static Mistake,
    memory: Mutex<Memory>,
    to_testee: UnboundedSender<String>,
    to_runner: UnboundedSender<String>,
}

/// The two directions of one connection; a line, or its end.
#[derive(Clone)]
struct Wires {
    to_server: UnboundedSender<Option<String>>,
    to_client: UnboundedSender<Option<String>>,
    server: String,
}

/// Runs the testee of `command` with the mistake until its commands end.
pub(super) async fn relay(
    mistake: &'static Mistake,
    command: &[String],
) -> Result<ExitCode, String> {
    let mut child = start(command)?;
    let (to_testee, commands) = unbounded_channel();
    let (to_runner, events) = unbounded_channel();
    let outs = Arc::new(Outs { mistake, memory: Mutex::default(), to_testee, to_runner });
    tokio::spawn(write_text(child.stdin.take().ok_or("no stdin")?, commands));
    tokio::spawn(write_text(stdout(), events));
    let events = child.stdout.take().ok_or("no stdout")?;
    tokio::spawn(outs.clone().read_text(Lane::Event, events));
    outs.read_text(Lane::Command, stdin()).await;
    // What was reported is on its way.
    tokio::time::sleep(PART).await;
    Ok(ExitCode::SUCCESS)
}

fn start(command: &[String]) -> Result<Child, String> {
    let (program, arguments) = command.split_first().ok_or("no command for the testee")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().map_err(|error| format!("cannot start the testee {program:?}: {error}"))
}

/// Writes commands or events until nobody reads them.
async fn write_text(mut out: impl AsyncWrite + Unpin, mut lines: UnboundedReceiver<String>) {
    while let Some(line) = lines.recv().await {
        let line = escape(&to_bytes(&line)) + "\n";
        if out.write_all(line.as_bytes()).await.is_err() || out.flush().await.is_err() {
            return;
        }
    }
}

impl Outs {
    /// Passes commands or events on until they end.
    async fn read_text(self: Arc<Self>, lane: Lane, source: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(source).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.pass(lane, from_bytes(&unescape(&line)), None);
        }
    }

    /// Passes a line through the mistake, and on.
    fn pass(self: &Arc<Self>, lane: Lane, line: String, wires: Option<&Wires>) {
        let lines = {
            let mut memory = self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            memory.note(lane, &line);
            let lines = match self.mistake.lanes.contains(&lane) {
                true => (self.mistake.make)(&mut memory, lane, line.clone()),
                false if matches!(lane, Lane::Open | Lane::Part | Lane::Close) => Vec::new(),
                false => vec![(lane, line.clone())],
            };
            if lane == Lane::ToClient {
                memory.settle(&line);
            }
            lines
        };
        for (lane, line) in lines {
            self.put(lane, line, wires);
        }
    }

    fn put(self: &Arc<Self>, lane: Lane, line: String, wires: Option<&Wires>) {
        // Whatever has gone needs no lines.
        match (lane, wires) {
            (Lane::Command, _) => {
                let line = self.with_own_addresses(&line);
                let _ = self.to_testee.send(line);
            }
            (Lane::Event, _) => _ = self.to_runner.send(line),
            (Lane::ToServer, Some(wires)) => _ = wires.to_server.send(Some(line)),
            (Lane::ToClient, Some(wires)) => _ = wires.to_client.send(Some(line)),
            (Lane::Dial, Some(wires)) => {
                let server = wires.server.clone();
                tokio::spawn(async move { TcpStream::connect(server).await });
            }
            _ => {}
        }
    }

    /// A `connect` that leads here.
    fn with_own_addresses(self: &Arc<Self>, line: &str) -> String {
        if !line.starts_with("connect") {
            return line.to_owned();
        }
        let mut words = line.split(' ').map(str::to_owned);
        let mut own: Vec<_> = words.by_ref().take(1).collect();
        own.extend(words.map(|server| self.listen_for(&server).unwrap_or(server)));
        own.join(" ")
    }

    /// An address here whose connections go on to `server`.
    fn listen_for(self: &Arc<Self>, server: &str) -> Option<String> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").ok()?;
        listener.set_nonblocking(true).ok()?;
        let address = listener.local_addr().ok()?;
        let listener = TcpListener::from_std(listener).ok()?;
        let url = server.strip_prefix("ws://").and_then(|rest| rest.split_once('/'));
        if let Some((target, path)) = url {
            let (target, act) = (target.parse().ok()?, websockets::act(self.mistake.name));
            tokio::spawn(server_ws_proxy::serve(listener, target, act));
            return Some(format!("ws://{address}/{path}"));
        }
        let (outs, server) = (self.clone(), server.to_owned());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Where nobody listens, the client finds its connection closed.
                if let Ok(stream) = TcpStream::connect(&server).await {
                    outs.connect(client, stream, &server);
                }
            }
        });
        Some(address.to_string())
    }

    fn connect(self: &Arc<Self>, client: TcpStream, server: TcpStream, address: &str) {
        // It only makes lines come later.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, client_half) = client.into_split();
        let (from_server, server_half) = server.into_split();
        let (to_server, lines_to_server) = unbounded_channel();
        let (to_client, lines_to_client) = unbounded_channel();
        let wires = Wires { to_server, to_client, server: address.to_owned() };
        self.pass(Lane::Open, String::new(), Some(&wires));
        tokio::spawn(write(server_half, lines_to_server));
        tokio::spawn(write(client_half, lines_to_client));
        tokio::spawn(self.clone().read(from_client, Lane::ToServer, wires.clone()));
        tokio::spawn(self.clone().read(from_server, Lane::ToClient, wires));
    }

    async fn read(self: Arc<Self>, mut reader: impl AsyncRead + Unpin, lane: Lane, wires: Wires) {
        let (mut bytes, mut chunk) = (Vec::new(), vec![0; 65_536]);
        loop {
            let read = match timeout(PART, reader.read(&mut chunk)).await {
                Ok(read) => read.unwrap_or(0),
                Err(_) => {
                    self.act_on_part(lane, &mut bytes, &wires);
                    continue;
                }
            };
            if read == 0 {
                break;
            }
            bytes.extend_from_slice(&chunk[..read]);
            let Some(last) = bytes.iter().rposition(|&byte| byte == b'\n') else { continue };
            let left = bytes.split_off(last + 1);
            for (number, line) in bytes[..last].split(|&byte| byte == b'\n').enumerate() {
                self.remember_first(lane, number == 0);
                self.pass(lane, from_bytes(line), Some(&wires));
            }
            bytes = left;
        }
        self.act_on_part(lane, &mut bytes, &wires);
        if lane == Lane::ToClient {
            self.pass(Lane::Close, String::new(), Some(&wires));
        }
        // Its writer may have ended.
        let _ = match lane {
            Lane::ToServer => wires.to_server.send(None),
            _ => wires.to_client.send(None),
        };
    }

    fn remember_first(&self, lane: Lane, is_first: bool) {
        if lane == Lane::ToClient {
            let mut memory = self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            memory.is_first_of_read = is_first;
        }
    }

    fn act_on_part(self: &Arc<Self>, lane: Lane, bytes: &mut Vec<u8>, wires: &Wires) {
        if lane == Lane::ToClient && !bytes.is_empty() && self.mistake.lanes.contains(&Lane::Part) {
            self.pass(Lane::Part, from_bytes(bytes), Some(wires));
            bytes.clear();
        }
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut lines: UnboundedReceiver<Option<String>>) {
    while let Some(Some(line)) = lines.recv().await {
        let mut bytes = to_bytes(&line);
        bytes.push(b'\n');
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // The peer may have closed it.
    let _ = writer.shutdown().await;
}

fn from_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn to_bytes(line: &str) -> Vec<u8> {
    // Each char was a byte.
    line.chars().map(|one| u8::try_from(u32::from(one)).unwrap_or(b'?')).collect()
}
