//! Where a client's connections come from.

use std::io;

#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::tcp;

/// How a client connects to an address: over TCP, to a Unix socket, or to anything else that is a
/// byte stream. The counterpart of a server's [`Listener`](crate::Listener).
///
/// Closures of an address that return a future of a stream are connectors:
///
/// ```
/// use std::io;
/// use bellwire::Client;
/// use tokio::io::DuplexStream;
///
/// # fn example(pipes: tokio::sync::mpsc::UnboundedSender<DuplexStream>) {
/// // In-memory connections, for tests.
/// let client = Client::builder().connector(move |_: &str| {
///     let (near, far) = tokio::io::duplex(64 * 1024);
///     let sent = pipes.send(far).map_err(|_| io::ErrorKind::ConnectionRefused.into());
///     async move { sent.map(|()| near) }
/// });
/// # drop(client);
/// # }
/// ```
pub trait Connector: Send + 'static {
    /// A connection's byte stream.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Opens a connection to `address`, as it was given to
    /// [`ClientBuilder::address`](crate::ClientBuilder::address), its transport's handshake included.
    ///
    /// # Errors
    /// The attempt failed; what comes next is for the client to say. A panic fails the attempt too, with
    /// [`ConnectionError::Panicked`](crate::ConnectionError::Panicked).
    ///
    /// # Cancel safety
    /// It is dropped when it takes longer than
    /// [`ClientConfig::connect_timeout`](crate::ClientConfig::connect_timeout), and when the client
    /// closes.
    fn connect(&mut self, address: &str) -> impl Future<Output = io::Result<Self::Io>> + Send;

    /// Limits what the system holds of a connection and has not sent: it is to accept no more while it
    /// holds `bytes`, which is [`ClientConfig::unsent_bytes`](crate::ClientConfig::unsent_bytes).
    /// Default: nothing is done, as for transports that hold little.
    ///
    /// It is called once per connection, and only where there is a limit. A connector around another one
    /// calls the other's.
    ///
    /// # Errors
    /// They go to the log, and the connection goes on.
    fn limit_unsent(_io: &Self::Io, _bytes: usize) -> io::Result<()> {
        Ok(())
    }
}

impl<F, Fut, Io> Connector for F
where
    F: FnMut(&str) -> Fut + Send + 'static,
    Fut: Future<Output = io::Result<Io>> + Send,
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Io = Io;

    fn connect(&mut self, address: &str) -> impl Future<Output = io::Result<Io>> + Send {
        self(address)
    }
}

/// Connects over TCP, with TCP_NODELAY, and with keep-alive, by which the system ends an idle connection
/// 20 s after its server's host has gone from the network. A name is looked up anew for each attempt,
/// and its addresses are tried one after the other.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TcpConnector;

impl Connector for TcpConnector {
    type Io = TcpStream;

    async fn connect(&mut self, address: &str) -> io::Result<TcpStream> {
        if address.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to"));
        }
        let stream = TcpStream::connect(address).await?;
        if let Err(error) = tcp::prepare_client(&stream) {
            tracing::debug!(%error, "cannot prepare the connection");
        }
        Ok(stream)
    }

    fn limit_unsent(io: &TcpStream, bytes: usize) -> io::Result<()> {
        tcp::limit_unsent(io, bytes)
    }
}

/// Connects to one Unix socket, whose path need not be UTF-8.
#[cfg(unix)]
pub(super) struct AtPath(pub(super) std::path::PathBuf);

#[cfg(unix)]
impl Connector for AtPath {
    type Io = UnixStream;

    async fn connect(&mut self, _: &str) -> io::Result<UnixStream> {
        UnixStream::connect(&self.0).await
    }

    fn limit_unsent(io: &UnixStream, bytes: usize) -> io::Result<()> {
        UnixConnector::limit_unsent(io, bytes)
    }
}

/// Connects to Unix sockets: an address is a path.
#[cfg(unix)]
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct UnixConnector;

#[cfg(unix)]
impl Connector for UnixConnector {
    type Io = UnixStream;

    async fn connect(&mut self, address: &str) -> io::Result<UnixStream> {
        UnixStream::connect(address).await
    }

    fn limit_unsent(io: &UnixStream, bytes: usize) -> io::Result<()> {
        tcp::limit_unsent_unix(io, bytes)
    }
}
