//! Bytes that the kernel holds for a connection. No time is measured.
// SECURITY.md, threat 37.
#![cfg(any(target_os = "android", target_os = "linux"))]

use std::{
    io,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bellwire::{
    Client, ClientConfig, Connector, Publisher, Router, Server, ServerConfig, ServerHandle,
    server::PeerAddr,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::{JoinHandle, yield_now},
    time::timeout,
};

const KIB: u64 = 1_024;
/// What is offered to a peer that does not read.
const OFFERED: u64 = 16 * KIB * KIB;
/// What leaves for it: the limit, one segment, what its own system receives, all rounded up. Without the
/// limit several megabytes do over TCP.
const HELD: u64 = 512 * KIB;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

#[derive(Clone, Copy, Debug)]
enum Family {
    Tcp,
    Unix,
}

/// A server on a socket; it ends when dropped.
struct Serving {
    publisher: Publisher,
    handle: ServerHandle,
    address: PeerAddr,
    _folder: Option<tempfile::TempDir>,
    task: JoinHandle<io::Result<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Serving {
    async fn start(family: Family, config: ServerConfig) -> Self {
        match family {
            Family::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                Self::over(Server::new(listener), config, None)
            }
            Family::Unix => {
                let folder = tempfile::tempdir().expect("a folder");
                let listener = UnixListener::bind(folder.path().join("s")).expect("a socket");
                Self::over(Server::new(listener), config, Some(folder))
            }
        }
    }

    fn over<L: bellwire::Listener>(
        server: Server<L>,
        config: ServerConfig,
        folder: Option<tempfile::TempDir>,
    ) -> Self {
        let (server, router) = (server.config(config), Router::new());
        Self {
            publisher: server.publisher(),
            handle: server.handle(),
            address: server.local_addr().expect("an address"),
            _folder: folder,
            task: tokio::spawn(server.serve(router).into_future()),
        }
    }

    async fn connect(&self) -> Box<dyn Stream> {
        match &self.address {
            PeerAddr::Tcp(address) => Box::new(TcpStream::connect(address).await.expect("there")),
            PeerAddr::Unix(Some(path)) => Box::new(UnixStream::connect(path).await.expect("there")),
            other => panic!("{other}"),
        }
    }

    /// A subscriber that reads no notification.
    async fn unread(&self) -> Box<dyn Stream> {
        let mut io = self.connect().await;
        io.write_all(b"1 /subscribe t\n").await.expect("written");
        let (mut said, mut byte) = (Vec::new(), [0]);
        // The hello and the reply.
        while said.iter().filter(|&&byte| byte == b'\n').count() < 2 {
            let read = timeout(Duration::from_secs(60), io.read(&mut byte)).await;
            assert_eq!(read.expect("an answer").expect("read"), 1, "{said:?}");
            said.push(byte[0]);
        }
        io
    }

    /// Publishes until more than `enough` bytes have left, or [`OFFERED`] were published; how many have.
    async fn flood(&self, enough: u64) -> u64 {
        let before = self.handle.stats().bytes_out;
        let left = || self.handle.stats().bytes_out - before;
        for _ in 0..OFFERED / (8 * KIB) {
            self.publisher.publish("t", vec![b'x'; 8 * KIB as usize]).await.expect("published");
            yield_now().await;
            if left() > enough {
                break;
            }
        }
        left()
    }
}

/// [S7.3] SECURITY.md, threat 37. What a subscriber leaves unread stays in its topic's log, where a
/// bound is, and what it takes is progress: the server writes again once it has taken a few steps.
#[tokio::test]
async fn kernel_buffers_of_a_non_reading_subscriber_are_limited() {
    for family in [Family::Tcp, Family::Unix] {
        let server = Serving::start(family, ServerConfig::new()).await;
        let mut peer = server.unread().await;
        let left = server.flood(HELD).await;
        assert!(left <= HELD, "{family:?}: {left} bytes left for who does not read");

        let before = server.handle.stats().bytes_out;
        let length = left.min(256 * KIB);
        peer.read_exact(&mut vec![0; length as usize]).await.expect("read");
        let went_on = async {
            while server.handle.stats().bytes_out == before {
                yield_now().await;
            }
        };
        let went_on = timeout(Duration::from_secs(60), went_on).await;
        assert!(went_on.is_ok(), "{family:?}: {length} bytes were taken, and none written");
    }
}

/// `None` leaves the size to the system. This proves that the setting above is what limits it.
#[tokio::test]
async fn kernel_buffers_are_unlimited_without_the_setting() {
    let server = Serving::start(Family::Tcp, ServerConfig::new().unsent_bytes(None)).await;
    let _peer = server.unread().await;
    let left = server.flood(HELD).await;
    assert!(left > HELD, "{left} bytes left");
}

/// SECURITY.md, threat 37, from the client's side: what a server does not take waits in the client,
/// and is proven not sent when the connection is lost.
#[tokio::test]
async fn kernel_buffers_for_a_non_reading_server_are_limited() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let unix = UnixListener::bind(&path).expect("a socket");
    let address = tcp.local_addr().expect("an address");
    let (limited, unlimited) = (ClientConfig::new(), ClientConfig::new().unsent_bytes(None));

    let (connecting, accepting) = (Client::connect_with(address, limited.clone()), tcp.accept());
    let (client, _server) = greeted(connecting, async { accepting.await.map(|(io, _)| io) }).await;
    assert!(offered(&client).await <= HELD);

    let (connecting, accepting) = (Client::connect_unix_with(&path, limited), unix.accept());
    let (client, _server) = greeted(connecting, async { accepting.await.map(|(io, _)| io) }).await;
    assert!(offered(&client).await <= HELD);

    let (connecting, accepting) = (Client::connect_with(address, unlimited), tcp.accept());
    let (client, _server) = greeted(connecting, async { accepting.await.map(|(io, _)| io) }).await;
    assert!(offered(&client).await > HELD);
}

/// A client, and a server that has said hello and reads nothing.
async fn greeted<T: AsyncWrite + Unpin>(
    connecting: impl Future<Output = Result<Client, bellwire::ConnectionError>>,
    accepting: impl Future<Output = io::Result<T>>,
) -> (Client, T) {
    const HELLO: &[u8] = b"* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;\
        max-line=65535;in-flight=1024;lease=60\n";
    let greeting = async {
        let mut io = accepting.await.expect("accepted");
        io.write_all(HELLO).await.expect("written");
        io
    };
    let both = async { tokio::join!(connecting, greeting) };
    let (client, io) = timeout(Duration::from_secs(60), both).await.expect("connected");
    (client.expect("connected"), io)
}

/// How many of many bytes the client writes, until it stops or has written more than [`HELD`].
async fn offered(client: &Client) -> u64 {
    let payload = vec![b'x'; 8 * KIB as usize];
    let before = client.stats().bytes_out;
    let left = || client.stats().bytes_out - before;
    for _ in 0..OFFERED / (8 * KIB) {
        let mut asking = pin!(client.one_way("m", payload.clone()).into_future());
        let mut turns = 0;
        // Where no place is free for a thousand turns, there is none.
        while turns < 1_000 && futures::poll!(asking.as_mut()).is_pending() {
            yield_now().await;
            turns += 1;
        }
        if left() > HELD || turns == 1_000 {
            break;
        }
    }
    left()
}

/// A custom connector is asked to apply the configured limit once per connection. If that fails or
/// panics, the connection is still used.
#[tokio::test]
async fn a_connector_applies_the_unsent_limit() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);

    struct Asked(PathBuf);

    impl Connector for Asked {
        type Io = UnixStream;

        async fn connect(&mut self, _: &str) -> io::Result<UnixStream> {
            UnixStream::connect(&self.0).await
        }

        fn limit_unsent(_: &UnixStream, bytes: usize) -> io::Result<()> {
            match ASKED.swap(bytes, Ordering::Relaxed) {
                0 => Err(io::ErrorKind::Unsupported.into()),
                _ => panic!("as it is told to"),
            }
        }
    }

    let server = Serving::start(Family::Unix, ServerConfig::new()).await;
    let PeerAddr::Unix(Some(path)) = &server.address else { panic!("no path") };
    for bytes in [7, 8] {
        let config = ClientConfig::new().unsent_bytes(bytes);
        let builder = Client::builder().connector(Asked(path.clone())).config(config);
        builder.connect().await.expect("connected");
        assert_eq!(ASKED.load(Ordering::Relaxed), bytes);
    }
    let config = ClientConfig::new().unsent_bytes(None);
    let builder = Client::builder().connector(Asked(path.clone())).config(config);
    let _client = Arc::new(builder.connect().await.expect("connected"));
    assert_eq!(ASKED.load(Ordering::Relaxed), 8);
}
