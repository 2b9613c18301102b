//! Where connections come from.

use std::{
    fmt, io,
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};

#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, lookup_host},
};

use crate::{
    server::{access::principal::Principal, peer_addr::PeerAddr},
    tcp,
};

/// The source of a server's connections: TCP, a Unix socket, or anything else that yields byte
/// streams.
///
/// ```
/// use std::io;
/// use bellwire::{Listener, server::PeerAddr};
/// use tokio::{io::DuplexStream, sync::mpsc};
///
/// /// In-memory connections, for tests.
/// struct Pipes(mpsc::Receiver<DuplexStream>);
///
/// impl Listener for Pipes {
///     type Io = DuplexStream;
///
///     async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
///         match self.0.recv().await {
///             Some(io) => Ok((io, PeerAddr::Other("pipe".into()))),
///             None => std::future::pending().await,
///         }
///     }
///
///     fn local_addr(&self) -> io::Result<PeerAddr> {
///         Ok(PeerAddr::Other("pipe".into()))
///     }
/// }
/// ```
pub trait Listener: Send + 'static {
    /// A connection's byte stream.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection.
    ///
    /// # Errors
    /// The server goes on after any error. It goes on at once after an error of a single connection
    /// (aborted, refused, reset). After any other error it pauses, for 50 ms at first, doubling up
    /// to 1 s. A panic counts as such an error.
    ///
    /// # Cancel safety
    /// It must be cancel safe: a future that is dropped before it ended must not lose a connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, PeerAddr)>> + Send;

    /// The address that it listens on.
    ///
    /// # Errors
    /// The system's.
    fn local_addr(&self) -> io::Result<PeerAddr>;

    /// Prepares an accepted connection: within `timeout`, its transport should give up a peer that
    /// is gone from the network. `timeout` is
    /// [`ServerConfig::tcp_user_timeout`](crate::ServerConfig::tcp_user_timeout). Default: does
    /// nothing, for transports without a network in between.
    ///
    /// It is called once per connection, before its handshake. A listener around another one calls
    /// the other's. The one for TCP also sets TCP_NODELAY.
    ///
    /// # Errors
    /// They are logged, and the connection goes on.
    fn prepare(_io: &Self::Io, _timeout: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    /// Limits what the system holds unsent for an accepted connection to `bytes`, which is
    /// [`ServerConfig::unsent_bytes`](crate::ServerConfig::unsent_bytes). Default: does nothing,
    /// for transports that hold little.
    ///
    /// It is called once per connection, after [`prepare`](Self::prepare), and only if there is a
    /// limit. A listener around another one calls the other's.
    ///
    /// # Errors
    /// They are logged, and the connection goes on.
    fn limit_unsent(_io: &Self::Io, _bytes: usize) -> io::Result<()> {
        Ok(())
    }

    /// Continues the handshake of the transport, if it has one. Returns who the peer is, if the
    /// handshake proves it. Default: there is none, and the peer is anonymous.
    ///
    /// It is called in the connection's own task, before anything is written, until it is ready,
    /// for at most [`handshake_time`](crate::ServerConfig::handshake_time).
    ///
    /// # Errors
    /// The connection is dropped.
    fn poll_handshake(_io: &mut Self::Io, _cx: &mut Context<'_>) -> Poll<io::Result<Principal>> {
        Poll::Ready(Ok(Principal::anonymous()))
    }

    /// Whether connections may come over a network that can read and change what they carry.
    /// Default: whether [`local_addr`](Self::local_addr) is of TCP and beyond loopback.
    ///
    /// A server logs a warning if its listener is exposed and it has no
    /// [`Authenticator`](crate::server::Authenticator).
    fn is_exposed(&self) -> bool {
        self.local_addr().is_ok_and(|address| address.is_beyond_loopback())
    }
}

/// Listens on the first of the endpoints of `address` that it can listen on.
///
/// # Errors
/// If the lookup fails, the text begins with the address. If listening fails, it begins with the
/// endpoints.
pub(in crate::server) async fn listen(address: &str) -> io::Result<TcpListener> {
    let found = lookup_host(address).await.map_err(|error| tcp::at(address, error))?;
    let endpoints: Vec<_> = found.collect();
    TcpListener::bind(&endpoints[..]).await.map_err(|error| match endpoints.is_empty() {
        true => tcp::at(address, error),
        false => tcp::at(Endpoints(&endpoints), error),
    })
}

/// Displays the endpoints with commas between them.
struct Endpoints<'a>(&'a [SocketAddr]);

impl fmt::Display for Endpoints<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joints = std::iter::once("").chain(std::iter::repeat(", "));
        joints.zip(self.0).try_for_each(|(joint, endpoint)| write!(f, "{joint}{endpoint}"))
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, PeerAddr)> {
        let (io, address) = TcpListener::accept(self).await?;
        Ok((io, address.into()))
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        TcpListener::local_addr(self).map(PeerAddr::Tcp)
    }

    fn prepare(io: &TcpStream, timeout: Option<Duration>) -> io::Result<()> {
        tcp::prepare(io, timeout)
    }

    fn limit_unsent(io: &TcpStream, bytes: usize) -> io::Result<()> {
        tcp::limit_unsent(io, bytes)
    }
}

#[cfg(unix)]
impl Listener for UnixListener {
    type Io = UnixStream;

    async fn accept(&mut self) -> io::Result<(UnixStream, PeerAddr)> {
        let (io, address) = UnixListener::accept(self).await?;
        Ok((io, unix_addr(&address)))
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        UnixListener::local_addr(self).map(|address| unix_addr(&address))
    }

    fn limit_unsent(io: &UnixStream, bytes: usize) -> io::Result<()> {
        tcp::limit_unsent_unix(io, bytes)
    }
}

#[cfg(unix)]
fn unix_addr(address: &tokio::net::unix::SocketAddr) -> PeerAddr {
    PeerAddr::Unix(address.as_pathname().map(Into::into))
}

/// Whether an error of `accept` concerns only one connection, so that the next one may succeed.
pub(in crate::server) fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
