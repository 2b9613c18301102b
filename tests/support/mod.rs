//! What the integration tests share: raw peers, servers in memory and on sockets.

#![allow(dead_code, unreachable_pub, reason = "each test crate uses its part")]

pub mod bound;

use std::{fmt::Debug, io, net::SocketAddr};

use bellwire::{
    Listener, Publisher, Router, Server, ServerConfig, ServerHandle, server::PeerAddr,
    topic::TopicStore,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use self::bound::{bounded, watch};

/// What a duplex pipe holds in each direction, unless a test says otherwise.
pub const PIPE: usize = 64 * 1024;

/// Connections in memory, as a test makes them.
pub struct Pipes(mpsc::UnboundedReceiver<DuplexStream>);

impl Listener for Pipes {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
        match self.0.recv().await {
            Some(io) => Ok((io, PeerAddr::Other("pipe".into()))),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("pipe".into()))
    }
}

/// A server over pipes; it ends when dropped.
pub struct PipeServer {
    pub publisher: Publisher,
    pub handle: ServerHandle,
    connect: mpsc::UnboundedSender<DuplexStream>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<()>>,
}

/// Publishes to this store for a server that never serves, so that no server's end closes it.
pub fn publisher_to(store: impl TopicStore) -> Publisher {
    Server::new(Pipes(mpsc::unbounded_channel().1)).topics(store).publisher()
}

impl PipeServer {
    pub fn start<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Self {
        Self::with_config(router, ServerConfig::new())
    }

    pub fn with_config<S: Clone + Send + Sync + 'static>(
        router: Router<S>,
        config: ServerConfig,
    ) -> Self {
        let (connect, pipes) = mpsc::unbounded_channel();
        Self::serve(Server::new(Pipes(pipes)).config(config), connect, router)
    }

    /// A server whose topics are in this store.
    pub fn over<S: Clone + Send + Sync + 'static>(
        store: impl TopicStore,
        router: Router<S>,
        config: ServerConfig,
    ) -> Self {
        let (connect, pipes) = mpsc::unbounded_channel();
        Self::serve(Server::new(Pipes(pipes)).config(config).topics(store), connect, router)
    }

    /// A server that is set up by `build`.
    pub fn built<S: Clone + Send + Sync + 'static>(
        router: Router<S>,
        build: impl FnOnce(Server<Pipes>) -> Server<Pipes>,
    ) -> Self {
        let (connect, pipes) = mpsc::unbounded_channel();
        Self::serve(build(Server::new(Pipes(pipes))), connect, router)
    }

    fn serve<S: Clone + Send + Sync + 'static>(
        server: Server<Pipes>,
        connect: mpsc::UnboundedSender<DuplexStream>,
        router: Router<S>,
    ) -> Self {
        watch();
        let (stop, stopped) = oneshot::channel::<()>();
        Self {
            publisher: server.publisher(),
            handle: server.handle(),
            connect,
            stop: Some(stop),
            task: tokio::spawn(
                server
                    .serve(router)
                    .with_graceful_shutdown(async { drop(stopped.await) })
                    .into_future(),
            ),
        }
    }

    /// A connection that has read nothing yet, through a pipe of `size` bytes.
    pub fn connect_raw(&self, size: usize) -> RawPeer<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(size);
        self.connect.send(theirs).expect("server serves");
        RawPeer::new(ours)
    }

    /// A client's end of a new connection.
    pub fn pipe(&self) -> DuplexStream {
        self.connect_raw(PIPE).io
    }

    /// A connection whose `/hello` was read.
    pub async fn connect(&self) -> RawPeer<DuplexStream> {
        let mut peer = self.connect_raw(PIPE);
        peer.hello().await;
        peer
    }

    /// Begins a graceful shutdown.
    pub fn stop(&mut self) {
        self.stop.take();
    }

    /// Waits until the server has ended.
    pub async fn ended(mut self) {
        self.stop();
        bounded("the end of the server", &mut self.task)
            .await
            .expect("no panic")
            .expect("no error");
    }
}

impl Drop for PipeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server on a free TCP port; it ends when dropped.
pub struct TcpServer {
    pub address: SocketAddr,
    pub publisher: Publisher,
    task: JoinHandle<io::Result<()>>,
}

impl TcpServer {
    pub async fn start<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Self {
        let server = Server::bind("127.0.0.1:0").await.expect("a free port");
        let Ok(PeerAddr::Tcp(address)) = server.local_addr() else {
            panic!("not a TCP address");
        };
        Self {
            address,
            publisher: server.publisher(),
            task: tokio::spawn(server.serve(router).into_future()),
        }
    }

    pub async fn connect(&self) -> RawPeer<TcpStream> {
        let io = TcpStream::connect(self.address);
        let io = bounded("a connection", io).await.expect("connected");
        let mut peer = RawPeer::new(io);
        peer.hello().await;
        peer
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A peer that speaks bytes.
pub struct RawPeer<T> {
    pub io: T,
    read: Vec<u8>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> RawPeer<T> {
    pub fn new(io: T) -> Self {
        watch();
        Self { io, read: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        bounded("room to write", self.io.write_all(bytes.as_ref())).await.expect("written");
    }

    /// The next line, with its LF; `None` at the end of the stream.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.read.iter().position(|&byte| byte == b'\n') {
                let line = self.read.drain(..=at).collect();
                return Some(String::from_utf8(line).expect("UTF-8"));
            }
            if self.read_more("a line, or the end").await == 0 {
                assert!(self.read.is_empty(), "the last line is whole");
                return None;
            }
        }
    }

    async fn read_more(&mut self, what: &str) -> usize {
        bounded(what, self.io.read_buf(&mut self.read)).await.expect("read")
    }

    /// Reads the server's `/hello`.
    pub async fn hello(&mut self) -> String {
        let line = self.line().await.expect("a first line");
        assert!(line.starts_with("* /hello;version=1;"), "{line}");
        line
    }

    /// Expects these lines next, exactly.
    pub async fn expect(&mut self, lines: impl AsRef<str> + Debug) {
        for expected in lines.as_ref().split_inclusive('\n') {
            assert_eq!(self.line().await.as_deref(), Some(expected));
        }
    }

    /// Expects the end of the stream, with nothing before it.
    pub async fn expect_closed(&mut self) {
        assert_eq!(self.line().await, None);
    }

    /// The next `count` bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(self.read_more("more bytes").await > 0, "the peer closed");
        }
        self.read.drain(..count).collect()
    }

    /// Waits until there is something to be read, without reading it.
    pub async fn expect_something(&mut self) {
        if self.read.is_empty() {
            assert!(self.read_more("a byte").await > 0, "the peer closed");
        }
    }

    /// Expects nothing to be there, once every other task has had its turns.
    pub async fn expect_silence(&mut self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let mut byte = [0];
        let is_silent = futures::poll!(std::pin::pin!(self.io.read(&mut byte))).is_pending();
        assert!(is_silent && self.read.is_empty(), "the peer wrote {byte:?} {:?}", self.read);
    }

    /// Sends `bytes`, then expects these lines.
    pub async fn ask(&mut self, bytes: impl AsRef<[u8]>, lines: impl AsRef<str> + Debug) {
        self.send(bytes).await;
        self.expect(lines).await;
    }

    /// Ends this direction; what was sent is still answered.
    pub async fn half_close(&mut self) {
        bounded("the half-close", self.io.shutdown()).await.expect("shut down");
    }

    /// The value of an attribute of the next line.
    pub async fn attribute(&mut self, key: &str) -> String {
        let line = self.line().await.expect("a line");
        let head = line.trim_end().split(' ').take(2).last().expect("a head");
        let mut attributes = head.split(';').filter_map(|one| one.split_once('='));
        let found = attributes.find(|(found, _)| *found == key);
        found.unwrap_or_else(|| panic!("{key} in {line}")).1.to_owned()
    }
}
