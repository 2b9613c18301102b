//! Servers in memory and on sockets. They end when they are dropped.

use std::{io, net::SocketAddr};

use bellwire::{
    Listener, Publisher, Router, Server, ServerConfig, ServerHandle, server::PeerAddr,
    topic::TopicStore,
};
use tokio::{
    io::DuplexStream,
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    bound::{bounded, watch},
    raw_peer::RawPeer,
};

/// The default capacity of a duplex pipe in each direction.
pub const PIPE: usize = 64 * 1024;

/// In-memory connections, which a test creates.
pub struct Pipes(pub(crate) mpsc::UnboundedReceiver<DuplexStream>);

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

/// A server over pipes. It ends when this is dropped.
pub struct PipeServer {
    pub publisher: Publisher,
    pub handle: ServerHandle,
    connect: mpsc::UnboundedSender<DuplexStream>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<()>>,
}

/// A publisher to this store from a server that never serves, so that no server's end closes it.
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

    /// Starts a server whose topics are in this store.
    pub fn over<S: Clone + Send + Sync + 'static>(
        store: impl TopicStore,
        router: Router<S>,
        config: ServerConfig,
    ) -> Self {
        let (connect, pipes) = mpsc::unbounded_channel();
        Self::serve(Server::new(Pipes(pipes)).config(config).topics(store), connect, router)
    }

    /// Starts a server that `build` configures.
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

    /// Gives the server a new connection.
    pub fn accept(&self, io: DuplexStream) {
        self.connect.send(io).expect("server serves");
    }

    /// A connection through a pipe of `size` bytes, of which nothing was read yet.
    pub fn connect_raw(&self, size: usize) -> RawPeer<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(size);
        self.accept(theirs);
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

/// A server on a free TCP port. It ends when this is dropped.
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
