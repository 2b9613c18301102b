//! Connectors: how a client opens its transports.

use std::{future::Future, io, net::SocketAddr, pin::Pin};

#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::{
    client::driver::race::{Endpoint, Race, RaceEvent, interleave},
    error::ConnectionError,
    tcp,
};

/// A future of the endpoints of an address: see [`Connector::resolve`].
pub type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<String>>> + Send>>;
/// A future of a connected transport, whose own handshake is still to be done: see
/// [`Connector::begin`].
pub type Connecting<Io> = Pin<Box<dyn Future<Output = io::Result<Finishing<Io>>> + Send>>;
/// A future of a transport that is ready to use: see [`Connector::begin`].
pub type Finishing<Io> = Pin<Box<dyn Future<Output = io::Result<Io>> + Send>>;

/// How a client connects to an address: over TCP, to a Unix socket, or to any other byte stream.
/// The counterpart of a server's [`Listener`](crate::Listener).
///
/// A closure that takes an address and returns a future of a stream is a connector:
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

    /// Opens a connection to `address`, including the handshake of the transport. The address is
    /// one that [`resolve`](Self::resolve) returned.
    ///
    /// # Errors
    /// The attempt failed, and the client goes on with the next. `InvalidInput` means that the
    /// address is invalid, so that no later attempt can succeed. A panic fails the attempt, too,
    /// with [`ConnectionError::Panicked`](crate::ConnectionError::Panicked).
    ///
    /// # Cancel safety
    /// It is dropped when its time is over
    /// ([`ClientConfig::connect_timeout`](crate::ClientConfig::connect_timeout)), and when the
    /// client closes.
    fn connect(&mut self, address: &str) -> impl Future<Output = io::Result<Self::Io>> + Send;

    /// Limits the unsent bytes that the system may hold for a connection to `bytes`, which is
    /// [`ClientConfig::unsent_bytes`](crate::ClientConfig::unsent_bytes). Default: does nothing,
    /// for transports that hold little.
    ///
    /// It is called once per connection, and only if there is a limit. A connector around another
    /// one calls the other's.
    ///
    /// # Errors
    /// They are logged, and the connection goes on.
    fn limit_unsent(_io: &Self::Io, _bytes: usize) -> io::Result<()> {
        Ok(())
    }

    /// Checks an address before the first attempt. If it is invalid, the client ends at once with
    /// [`ConnectionError::Address`](crate::ConnectionError::Address). Default: all are valid.
    ///
    /// # Errors
    /// What is wrong with it.
    fn check(&self, _address: &str) -> Result<(), String> {
        Ok(())
    }

    /// Returns the endpoints of an address, the best one first. Each is then given to
    /// [`connect`](Self::connect) or [`begin`](Self::begin). Default: the address itself.
    fn resolve(&mut self, address: &str) -> Resolving {
        Box::pin(std::future::ready(Ok(vec![address.to_owned()])))
    }

    /// Begins to connect as [`connect`](Self::connect) does, but without borrowing the connector,
    /// so that several endpoints can be raced: each is 250 ms ahead of the next, and all but the
    /// first that is connected are dropped (RFC 8305). The handshake of the transport is not part
    /// of the race: the first future connects, and returns the second, which does the handshake.
    ///
    /// Default: `None`, not supported. Endpoints are then tried one after the other by
    /// [`connect`](Self::connect), each for its share of the remaining time. Closures support it.
    fn begin(&mut self, _address: &str) -> Option<Connecting<Self::Io>> {
        None
    }
}

impl<F, Fut, Io> Connector for F
where
    F: FnMut(&str) -> Fut + Send + 'static,
    Fut: Future<Output = io::Result<Io>> + Send + 'static,
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Io = Io;

    fn connect(&mut self, address: &str) -> impl Future<Output = io::Result<Io>> + Send {
        self(address)
    }

    fn begin(&mut self, address: &str) -> Option<Connecting<Io>> {
        let connecting = self(address);
        Some(Box::pin(async move { Ok(finished(connecting.await?)) }))
    }
}

/// Wraps a transport that has no further handshake.
pub(crate) fn finished<Io: Send + 'static>(io: Io) -> Finishing<Io> {
    Box::pin(std::future::ready(Ok(io)))
}

/// Connects over TCP, with TCP_NODELAY and with keep-alive. Keep-alive ends an idle connection 20 s
/// after the server's host has gone from the network. Make one with `TcpConnector::default()`.
///
/// An address is `HOST:PORT`: a name, an IPv4 address, or an IPv6 address in brackets. A name is
/// looked up for each attempt. All its endpoints are raced, IPv6 and IPv4 in turns, each 250 ms
/// ahead of the next (RFC 8305).
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TcpConnector;

impl Connector for TcpConnector {
    type Io = TcpStream;

    async fn connect(&mut self, address: &str) -> io::Result<TcpStream> {
        self.check(address).map_err(|reason| invalid(address, reason))?;
        race(self.resolve(address).await?).await
    }

    fn check(&self, address: &str) -> Result<(), String> {
        if address.is_empty() {
            return Err("there is no address to connect to".into());
        }
        match is_host_and_port(address) {
            true => Ok(()),
            false => Err("it is not HOST:PORT, as in offers.example:7440 or [::1]:7440".into()),
        }
    }

    fn resolve(&mut self, address: &str) -> Resolving {
        let address = address.to_owned();
        Box::pin(async move {
            // An IP address needs no lookup.
            if address.parse::<SocketAddr>().is_ok() {
                return Ok(vec![address]);
            }
            let found = tokio::net::lookup_host(&address).await;
            let found = found.map_err(|error| tcp::at(&address, error))?.collect();
            endpoints(&address, found)
        })
    }

    fn limit_unsent(io: &TcpStream, bytes: usize) -> io::Result<()> {
        tcp::limit_unsent(io, bytes)
    }

    fn begin(&mut self, address: &str) -> Option<Connecting<TcpStream>> {
        let address = address.to_owned();
        Some(Box::pin(async move { Ok(finished(open(&address).await?)) }))
    }
}

/// The error for an address that a check has rejected for this reason.
fn invalid(address: &str, reason: String) -> io::Error {
    let error = ConnectionError::Address { address: address.to_owned(), reason };
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// The endpoints that a lookup of `address` found, in the order in which they are raced.
///
/// # Errors
/// `NotFound` if there are none.
fn endpoints(address: &str, found: Vec<SocketAddr>) -> io::Result<Vec<String>> {
    if found.is_empty() {
        let error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        return Err(tcp::at(address, error));
    }
    let found = interleave(found, |one, other| one.is_ipv4() == other.is_ipv4());
    Ok(found.iter().map(SocketAddr::to_string).collect())
}

/// Whether the address is `HOST:PORT`.
fn is_host_and_port(address: &str) -> bool {
    if address.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let is_name = |byte: u8| !byte.is_ascii_whitespace() && !b":/[]@\0".contains(&byte);
    port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok()
        && !host.is_empty()
        && host.bytes().all(is_name)
}

/// Connects to the first endpoint that answers. If there is none, returns the error of the last
/// one.
async fn race(endpoints: Vec<String>) -> io::Result<TcpStream> {
    let mut race = Race::new();
    let endpoint = |name| Endpoint { address: 0, name, is_slow: false };
    race.add(endpoints.into_iter().map(endpoint));
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    loop {
        match std::future::poll_fn(|cx| race.poll_step(cx)).await {
            RaceEvent::Begin(endpoint) => {
                let address = endpoint.name.clone();
                race.run(endpoint, Box::pin(async move { open(&address).await }));
            }
            RaceEvent::Failed(_, error) => last = error,
            RaceEvent::Won(_, stream) => return Ok(stream),
            RaceEvent::Over => return Err(last),
        }
    }
}

async fn open(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await.map_err(|error| tcp::at(address, error))?;
    if let Err(error) = tcp::prepare_client(&stream) {
        tracing::debug!(%error, "cannot prepare the connection");
    }
    Ok(stream)
}

/// Connects to one Unix socket, whose path need not be UTF-8.
#[cfg(unix)]
pub(crate) struct AtPath(pub(crate) std::path::PathBuf);

#[cfg(unix)]
impl Connector for AtPath {
    type Io = UnixStream;

    async fn connect(&mut self, _: &str) -> io::Result<UnixStream> {
        let path = &self.0;
        UnixStream::connect(path).await.map_err(|error| tcp::at(path.display(), error))
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
        open_unix(address).await
    }

    fn limit_unsent(io: &UnixStream, bytes: usize) -> io::Result<()> {
        tcp::limit_unsent_unix(io, bytes)
    }

    fn check(&self, path: &str) -> Result<(), String> {
        let is_path =
            !path.is_empty() && std::os::unix::net::SocketAddr::from_pathname(path).is_ok();
        if is_path { Ok(()) } else { Err("it is not the path of a Unix socket".into()) }
    }

    fn begin(&mut self, address: &str) -> Option<Connecting<UnixStream>> {
        let address = address.to_owned();
        Some(Box::pin(async move { Ok(finished(open_unix(&address).await?)) }))
    }
}

#[cfg(unix)]
async fn open_unix(path: &str) -> io::Result<UnixStream> {
    UnixStream::connect(path).await.map_err(|error| tcp::at(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in [
            "127.0.0.1:7440",
            "[::1]:7440",
            "[fe80::1%2]:7440",
            "localhost:0",
            "offers-1.example:65535",
            "a_b.internal:1",
            "bücher.example:7440",
        ] {
            assert_eq!(TcpConnector.check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1",
            "localhost",
            "localhost:",
            ":7440",
            "localhost:65536",
            "localhost:+80",
            "localhost:http",
            "::1:7440",
            "[::1]",
            "[::1]x:7440",
            "http://localhost:7440",
            "local host:7440",
            "me@localhost:7440",
        ] {
            assert!(TcpConnector.check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_lookup_that_finds_nothing_names_the_address() {
        let error = endpoints("offers.example:7440", Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(error.to_string(), "offers.example:7440: the host has no address");
        let found = ["127.0.0.1:7440", "127.0.0.2:7440", "[::1]:7440"];
        let found = found.map(|endpoint| endpoint.parse().unwrap()).to_vec();
        let raced = endpoints("offers.example:7440", found).unwrap();
        assert_eq!(raced, ["127.0.0.1:7440", "[::1]:7440", "127.0.0.2:7440"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_unix_address_is_a_path() {
        assert_eq!(UnixConnector.check("/run/offers.sock"), Ok(()));
        assert!(UnixConnector.check("").is_err() && UnixConnector.check(&"x".repeat(200)).is_err());
    }
}
