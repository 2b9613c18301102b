//! The proxy that makes a right server wrong: between one client and the server it passes lines on,
//! and lets one function drop, double, alter or add some.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, mpsc},
};

use crate::server_wrong::Wrong;

/// What the functions of one connection see and do. Lines are without their LF, one character for
/// each byte, so that nothing is lost in them.
#[derive(Default)]
pub struct Flow {
    /// The client's lines by their id, those that are answered included.
    pub asked: HashMap<String, String>,
    /// Lines that were held back.
    pub held: Vec<String>,
    /// Whatever a function counts.
    pub count: usize,
    /// Whatever a function has met before.
    pub met: HashSet<String>,
    /// Counts for all connections of the server.
    pub shared: Arc<AtomicUsize>,
    /// The connection is closed behind what is to be written.
    pub is_over: bool,
    client: Vec<u8>,
    server: Vec<u8>,
}

impl Flow {
    /// Writes a line to the client.
    pub fn client(&mut self, line: &str) {
        self.client.extend(bytes(line));
        self.client.push(b'\n');
    }

    /// Writes a line to the server.
    pub fn server(&mut self, line: &str) {
        self.server.extend(bytes(line));
        self.server.push(b'\n');
    }

    /// The method that was asked for under the mark of a line of the server's.
    pub fn method(&self, line: &str) -> &str {
        let id = line.split(' ').next().unwrap_or_default();
        let asked = self.asked.get(id).map_or("", |asked| asked);
        let head = asked.split(' ').nth(1).unwrap_or_default();
        head.split(';').next().unwrap_or_default()
    }

    fn note_asked(&mut self, line: &str) {
        if let Some((mark, _)) = line.split_once(' ') {
            let is_id = !mark.is_empty() && mark.bytes().all(|byte| byte.is_ascii_digit());
            if is_id && !self.asked.contains_key(mark) {
                self.asked.insert(mark.to_owned(), line.to_owned());
            }
        }
    }
}

fn bytes(text: &str) -> impl Iterator<Item = u8> {
    // Each character was made of one byte.
    text.chars().map(|one| one as u8)
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// Accepts connections for ever, and gives each a connection to the server at `target`.
pub async fn serve(listener: TcpListener, target: SocketAddr, wrong: &'static Wrong) {
    let mut connections = tokio::task::JoinSet::new();
    let shared = Arc::<AtomicUsize>::default();
    while let Ok((client, _)) = listener.accept().await {
        let flow = Flow { shared: shared.clone(), ..Flow::default() };
        connections.spawn(async move {
            // A server that is not there any more refuses the client, too.
            if let Ok(server) = TcpStream::connect(target).await {
                pass(client, server, wrong, flow).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// How many bytes the system may hold for one direction of a connection.
const PASSED: usize = 64 * 1024;

#[derive(Clone)]
struct Pipe {
    flow: Arc<Mutex<Flow>>,
    wrong: &'static Wrong,
    client: mpsc::Sender<Out>,
    server: mpsc::Sender<Out>,
}

enum Out {
    Bytes(Vec<u8>),
    End,
    Reset,
}

async fn pass(client: TcpStream, server: TcpStream, wrong: &'static Wrong, flow: Flow) {
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    // That a client reads nothing has to reach the server soon.
    let _ = socket2::SockRef::from(&client).set_send_buffer_size(PASSED);
    let _ = socket2::SockRef::from(&server).set_recv_buffer_size(PASSED);
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let (client, client_out) = mpsc::channel(1);
    let (server, server_out) = mpsc::channel(1);
    let is_reset = Notify::new();
    let pipe = Pipe { flow: Arc::new(Mutex::new(flow)), wrong, client, server };
    let passing = async {
        tokio::join!(
            write(to_client, client_out, &is_reset),
            write(to_server, server_out, &is_reset),
            pipe.clone().read_client(from_client),
            pipe.read_server(from_server),
        )
    };
    // Both halves of a socket have to be dropped before it is reset.
    tokio::select! {
        _ = passing => {}
        () = is_reset.notified() => {}
    }
}

async fn write(mut to: OwnedWriteHalf, mut out: mpsc::Receiver<Out>, is_reset: &Notify) {
    while let Some(next) = out.recv().await {
        match next {
            Out::Bytes(bytes) if to.write_all(&bytes).await.is_ok() => {}
            Out::Bytes(_) | Out::End => break,
            Out::Reset => {
                // Without it the server sees a half-close, and the case fails.
                let _ = socket2::SockRef::from(to.as_ref()).set_linger(Some(Duration::ZERO));
                // Dropping it would end its direction first.
                to.forget();
                is_reset.notify_one();
                return;
            }
        }
    }
    // The peer may be gone.
    let _ = to.shutdown().await;
}

impl Pipe {
    async fn read_client(self, mut from: OwnedReadHalf) {
        let mut unread = Vec::new();
        loop {
            let taken = unread.len();
            let read = from.read_buf(&mut unread).await;
            if !matches!(read, Ok(1..)) {
                let left = text(&unread);
                self.act(|flow, wrong| (wrong.at_client_end)(flow, &left)).await;
                let end = if read.is_err() { Out::Reset } else { Out::End };
                if !self.wrong.ignores_client_end {
                    let _ = self.server.send(end).await;
                }
                return;
            }
            let fresh = unread[taken..].to_vec();
            let lines = lines_of(&mut unread);
            self.act(|flow, wrong| {
                lines.iter().for_each(|line| flow.note_asked(line));
                match (wrong.chunks, wrong.client) {
                    (Some(act), _) => act(flow, &text(&fresh)),
                    (None, Some(act)) => lines.iter().for_each(|line| act(flow, line)),
                    (None, None) => flow.server.extend(fresh),
                }
            })
            .await;
        }
    }

    async fn read_server(self, mut from: OwnedReadHalf) {
        let mut unread = Vec::new();
        while let Ok(1..) = from.read_buf(&mut unread).await {
            let lines = lines_of(&mut unread);
            self.act(|flow, wrong| match wrong.server {
                Some(act) => lines.iter().for_each(|line| act(flow, line)),
                None => lines.iter().for_each(|line| flow.client(line)),
            })
            .await;
        }
        if !self.wrong.ignores_server_end {
            let _ = self.client.send(Out::End).await;
        }
    }

    /// Lets a function act, and writes what it wants written.
    async fn act(&self, act: impl FnOnce(&mut Flow, &'static Wrong)) {
        let (client, server, is_over) = {
            let mut flow = self.flow.lock().expect("no holder panics");
            act(&mut flow, self.wrong);
            let server = std::mem::take(&mut flow.server);
            (std::mem::take(&mut flow.client), server, flow.is_over)
        };
        for (to, bytes) in [(&self.client, client), (&self.server, server)] {
            if !bytes.is_empty() {
                let _ = to.send(Out::Bytes(bytes)).await;
            }
        }
        if is_over {
            let _ = self.client.send(Out::End).await;
        }
    }
}

/// Takes the whole lines out of `unread`.
fn lines_of(unread: &mut Vec<u8>) -> Vec<String> {
    let Some(end) = unread.iter().rposition(|&byte| byte == b'\n') else { return Vec::new() };
    let whole: Vec<u8> = unread.drain(..=end).collect();
    whole[..end].split(|&byte| byte == b'\n').map(text).collect()
}
