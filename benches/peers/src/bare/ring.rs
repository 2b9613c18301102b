//! The bare fan-out. A connection is subscribed as soon as it is accepted, and a notification is
//! `* tick <payload>`, encoded once. Lines gather in a tail. The first connection that needs them
//! seals them into a chunk that all others share, so a connection clones one `Bytes` for each
//! batch.

use std::{
    collections::VecDeque,
    io::IoSlice,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    bare,
    fanout::{Message, Publish},
};

/// The chunks that are kept. A connection that falls further behind ends the run with an error.
const CHUNKS: usize = 1024;
const TAIL: usize = 64 * 1024;
/// The most slices in one vectored write.
const SLICES: usize = 64;

/// A server of one topic.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    ring: Arc<Ring>,
    subscribed: Arc<AtomicUsize>,
}

impl Server {
    pub async fn start() -> Result<Self> {
        let (listener, address) = bare::listen().await?;
        let (ring, subscribed) = (Arc::new(Ring::new()), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(accept(listener, ring.clone(), subscribed.clone()));
        Ok(Self { address, ring, subscribed })
    }

    /// The publisher, as soon as this many connections are subscribed.
    pub async fn publisher(&self, connections: usize) -> Result<Publisher> {
        let all = async {
            while self.subscribed.load(Ordering::Acquire) < connections {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(10), all).await.context("not all were accepted")?;
        Ok(Publisher(self.ring.clone()))
    }
}

async fn accept(
    listener: TcpListener,
    ring: Arc<Ring>,
    subscribed: Arc<AtomicUsize>,
) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let cursor = ring.state.lock().end();
        tokio::spawn(serve(stream, ring.clone(), cursor));
        subscribed.fetch_add(1, Ordering::Release);
    }
}

async fn serve(mut stream: TcpStream, ring: Arc<Ring>, mut cursor: u64) -> Result<()> {
    let mut published = ring.published.subscribe();
    let mut chunks = VecDeque::new();
    loop {
        ring.state.lock().take(&mut cursor, &mut chunks)?;
        while !chunks.is_empty() {
            write_some(&mut stream, &mut chunks).await?;
        }
        published.changed().await?;
    }
}

async fn write_some(stream: &mut TcpStream, chunks: &mut VecDeque<Bytes>) -> Result<()> {
    let slices: Vec<_> = chunks.iter().take(SLICES).map(|chunk| IoSlice::new(chunk)).collect();
    let mut written = stream.write_vectored(&slices).await?;
    while let Some(front) = chunks.front_mut().filter(|_| written > 0) {
        let taken = written.min(front.len());
        front.advance(taken);
        written -= taken;
        if front.is_empty() {
            chunks.pop_front();
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Ring {
    state: Mutex<State>,
    published: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    sealed: VecDeque<Bytes>,
    /// The number of `sealed[0]`.
    first: u64,
    tail: BytesMut,
}

impl Ring {
    fn new() -> Self {
        let tail = BytesMut::with_capacity(TAIL);
        let state = State { sealed: VecDeque::new(), first: 0, tail };
        Self { state: Mutex::new(state), published: watch::Sender::new(()) }
    }
}

impl State {
    /// Behind the last chunk, with the tail sealed.
    fn end(&mut self) -> u64 {
        if !self.tail.is_empty() {
            self.sealed.push_back(self.tail.split().freeze());
        }
        if self.sealed.len() > CHUNKS {
            self.sealed.pop_front();
            self.first += 1;
        }
        self.first + self.sealed.len() as u64
    }

    /// Takes all chunks from `cursor` on. It always seals the tail, because the wake-up may have
    /// announced lines that are still there, and no other wake-up comes for them.
    fn take(&mut self, cursor: &mut u64, out: &mut VecDeque<Bytes>) -> Result<()> {
        let end = self.end();
        let skipped =
            cursor.checked_sub(self.first).context("a connection fell out of the ring")?;
        out.extend(self.sealed.iter().skip(skipped as usize).cloned());
        *cursor = end;
        Ok(())
    }
}

/// Publishes to all connections.
#[derive(Debug)]
pub struct Publisher(Arc<Ring>);

impl Publish for Publisher {
    fn publish(&mut self, message: &Message) -> Result<()> {
        let tail = &mut self.0.state.lock().tail;
        for part in [&b"* tick "[..], message, b"\n"] {
            tail.extend_from_slice(part);
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        self.0.published.send_replace(());
        Ok(())
    }
}
