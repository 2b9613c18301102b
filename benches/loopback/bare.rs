//! The minimal multiplexer: what a round trip costs on this machine before any guarantee.
//!
//! One lock over a map of id to one-shot and the bytes to write; a task that writes, a task that
//! reads; a server that echoes lines. No limits, no errors, no cancelling, no parsing to speak of.

use std::{
    collections::HashMap,
    io::Write,
    sync::{Arc, Mutex},
};

use memchr::memchr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, oneshot},
};

const BUFFER: usize = 64 * 1024;

#[derive(Clone, Default)]
pub(crate) struct Multiplexer {
    state: Arc<Mutex<State>>,
    written: Arc<Notify>,
}

#[derive(Default)]
struct State {
    out: Vec<u8>,
    pending: HashMap<u64, oneshot::Sender<Vec<u8>>>,
    last_id: u64,
}

impl Multiplexer {
    pub(crate) async fn connect() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { echo(listener.accept().await.expect("a client").0).await });
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).expect("a socket");
        let (read, write) = stream.into_split();
        let multiplexer = Self::default();
        tokio::spawn(multiplexer.clone().read(read));
        tokio::spawn(multiplexer.clone().write(write));
        multiplexer
    }

    pub(crate) async fn call(&self, payload: &[u8]) -> Vec<u8> {
        let (sender, receiver) = oneshot::channel();
        let was_empty = {
            let mut state = self.state.lock().expect("no panic");
            state.last_id += 1;
            let id = state.last_id;
            state.pending.insert(id, sender);
            let was_empty = state.out.is_empty();
            write!(state.out, "{id} echo ").expect("memory");
            state.out.extend_from_slice(payload);
            state.out.push(b'\n');
            was_empty
        };
        if was_empty {
            self.written.notify_one();
        }
        receiver.await.expect("a reply")
    }

    async fn write(self, mut stream: OwnedWriteHalf) {
        loop {
            self.written.notified().await;
            let waiting = self.state.lock().expect("no panic").pending.len();
            if waiting > 1 {
                tokio::task::yield_now().await;
            }
            let out = std::mem::take(&mut self.state.lock().expect("no panic").out);
            if stream.write_all(&out).await.is_err() {
                return;
            }
        }
    }

    async fn read(self, mut stream: OwnedReadHalf) {
        let mut buffer = vec![0; BUFFER];
        let (mut filled, mut replies) = (0, Vec::new());
        while let Ok(count @ 1..) = stream.read(&mut buffer[filled..]).await {
            filled += count;
            let mut state = self.state.lock().expect("no panic");
            let left = each_line(&buffer[..filled], |id, line| {
                let id = std::str::from_utf8(id).expect("digits").parse().expect("an id");
                let caller = state.pending.remove(&id).expect("a caller");
                replies.push((caller, line[" ok ".len()..].to_vec()));
            });
            drop(state);
            for (caller, reply) in replies.drain(..) {
                let _ = caller.send(reply);
            }
            buffer.copy_within(filled - left..filled, 0);
            filled = left;
        }
    }
}

async fn echo(mut stream: TcpStream) {
    stream.set_nodelay(true).expect("a socket");
    let (mut buffer, mut out) = (vec![0; BUFFER], Vec::new());
    let mut filled = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer[filled..]).await {
        filled += count;
        let left = each_line(&buffer[..filled], |id, line| {
            out.extend_from_slice(id);
            out.extend_from_slice(b" ok");
            out.extend_from_slice(&line[" echo".len()..]);
            out.push(b'\n');
        });
        buffer.copy_within(filled - left..filled, 0);
        filled = left;
        if stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
    }
}

/// Calls `take` for each whole line, with the id and the bytes behind it. Returns how many bytes
/// are left over.
fn each_line(mut bytes: &[u8], mut take: impl FnMut(&[u8], &[u8])) -> usize {
    while let Some(end) = memchr(b'\n', bytes) {
        let line = &bytes[..end];
        let (id, behind) = line.split_at(memchr(b' ', line).expect("an id"));
        take(id, behind);
        bytes = &bytes[end + 1..];
    }
    bytes.len()
}
