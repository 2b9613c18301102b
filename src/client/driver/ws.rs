//! WebSockets on the client's side.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
#[cfg(feature = "tls")]
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, pki_types::ServerName},
};

#[cfg(feature = "tls")]
use crate::sync::Arc;
use crate::{
    client::{
        Connector, TcpConnector,
        driver::connector::{Connecting, Finishing, Resolving},
    },
    coop::consume_budget,
    ws_stream::{limits::WsConfig, response, stream::WsStream, url::WsUrl},
};

/// What stands between an address and one of its endpoints.
const AT: &str = " at ";

/// Connects to WebSockets (docs/protocol/websocket.md, section 24). An address is
/// `ws://HOST[:PORT]/PATH`; with [`tls`](Self::tls) also `wss://HOST[:PORT]/PATH`. The ports are 80
/// and 443 by default.
///
/// All endpoints of a host are raced, as those of [`TcpConnector`] are. An address must not have
/// credentials: see [`ClientConfig::auth`](crate::ClientConfig::auth).
///
/// ```no_run
/// use bellwire::{Client, ws::WsConnector};
///
/// # async fn run() -> Result<(), bellwire::ConnectionError> {
/// let client = Client::builder()
///     .address("ws://offers.example/bellwire")
///     .connector(WsConnector::new())
///     .connect()
///     .await?;
/// # drop(client);
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct WsConnector {
    tcp: TcpConnector,
    config: WsConfig,
    #[cfg(feature = "tls")]
    tls: Option<TlsConnector>,
}

impl WsConnector {
    /// A connector for addresses that begin with `ws`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the bounds. Default: [`WsConfig::new`].
    #[must_use]
    pub fn config(mut self, config: WsConfig) -> Self {
        self.config = config;
        self
    }

    /// Accepts addresses that begin with `wss`, too. `tls` has the certificates that the client
    /// trusts. The server's certificate must contain the host of the address. Feature `tls`.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: Arc<ClientConfig>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    fn has_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        return false;
    }

    /// Completes the handshakes over a connected socket.
    async fn finish(self, tcp: TcpStream, address: String) -> io::Result<WsStream<WsTransport>> {
        let url = WsUrl::parse(&address).map_err(invalid)?;
        let io = match url.is_tls {
            false => WsTransport(Stream::Plain(tcp)),
            true => self.encrypt(tcp, &url).await?,
        };
        response::open(io, &url, &self.config).await
    }

    #[cfg(feature = "tls")]
    async fn encrypt(&self, tcp: TcpStream, url: &WsUrl<'_>) -> io::Result<WsTransport> {
        let name = ServerName::try_from(url.name().to_owned()).map_err(invalid)?;
        let tls = self.tls.as_ref().ok_or_else(|| invalid(NO_TLS))?;
        let stream = tls.connect(name, tcp).await?;
        Ok(WsTransport(Stream::Tls(Box::new(stream))))
    }

    #[cfg(not(feature = "tls"))]
    async fn encrypt(&self, _: TcpStream, _: &WsUrl<'_>) -> io::Result<WsTransport> {
        Err(invalid(NO_TLS))
    }
}

const NO_TLS: &str = "it begins with wss, and the connector has no TLS: see WsConnector::tls";

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

impl std::fmt::Debug for WsConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WsConnector").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Connector for WsConnector {
    type Io = WsStream<WsTransport>;

    async fn connect(&mut self, address: &str) -> io::Result<Self::Io> {
        let (url, endpoint) = match address.rsplit_once(AT) {
            Some((url, endpoint)) => (url, endpoint.to_owned()),
            None => (address, WsUrl::parse(address).map_err(invalid)?.host_and_port()),
        };
        let tcp = self.tcp.connect(&endpoint).await?;
        self.clone().finish(tcp, url.to_owned()).await
    }

    fn limit_unsent(io: &Self::Io, bytes: usize) -> io::Result<()> {
        TcpConnector::limit_unsent(io.get_ref().socket(), bytes)
    }

    fn check(&self, address: &str) -> Result<(), String> {
        let url = WsUrl::parse(address)?;
        match url.is_tls && !self.has_tls() {
            true => Err(NO_TLS.into()),
            false => Ok(()),
        }
    }

    /// Each endpoint is the address, and the endpoint of its host.
    fn resolve(&mut self, address: &str) -> Resolving {
        let url = address.to_owned();
        let found = WsUrl::parse(address).map(|url| self.tcp.resolve(&url.host_and_port()));
        Box::pin(async move {
            let found = found.map_err(invalid)?.await?;
            Ok(found.into_iter().map(|endpoint| format!("{url}{AT}{endpoint}")).collect())
        })
    }

    /// Only the TCP connections are raced.
    fn begin(&mut self, address: &str) -> Option<Connecting<Self::Io>> {
        let (url, endpoint) = address.rsplit_once(AT)?;
        let (connecting, connector) = (self.tcp.begin(endpoint)?, self.clone());
        let url = url.to_owned();
        Some(Box::pin(async move {
            let tcp = connecting.await?;
            let finishing = async move { connector.finish(tcp.await?, url).await };
            Ok(Box::pin(finishing) as Finishing<Self::Io>)
        }))
    }
}

/// Opens a WebSocket to `url` over a byte stream that is connected already: for connectors of your
/// own, which connect through a proxy, for example. If the address begins with `wss`, `io` has to
/// be encrypted already.
///
/// ```
/// use bellwire::{Client, Router, Server, memory, ws::{self, WsConfig, WsListener}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), bellwire::CallError> {
/// let (listener, pipes) = memory::pair();
/// let router = Router::new().method("greet", async |name: String| format!("hello, {name}"));
/// let server = Server::new(WsListener::new(listener, WsConfig::new()));
/// tokio::spawn(server.serve(router).into_future());
///
/// let connector = move |url: &str| {
///     let (pipes, url) = (pipes.clone(), url.to_owned());
///     async move { ws::open(pipes.open().await?, &url, &WsConfig::new()).await }
/// };
/// let client = Client::builder().address("ws://any/").connector(connector).connect_lazily();
/// assert_eq!(client.call("greet", "Ada").await?, "hello, Ada");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `InvalidInput` for an invalid address; the errors of the stream; and
/// [`NoWebSocket`](crate::ws::NoWebSocket), of the kind `ConnectionRefused` or `InvalidData`.
///
/// # Cancel safety
/// If the future is dropped before it ends, the stream is dropped, too.
pub async fn open<T>(io: T, url: &str, config: &WsConfig) -> io::Result<WsStream<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    consume_budget().await;
    response::open(io, &WsUrl::parse(url).map_err(invalid)?, config).await
}

/// The transport of a client's WebSocket: TCP, or TLS over TCP.
#[derive(Debug)]
pub struct WsTransport(Stream);

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<TcpStream>>),
}

impl WsTransport {
    fn socket(&self) -> &TcpStream {
        match &self.0 {
            Stream::Plain(tcp) => tcp,
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.get_ref().0,
        }
    }

    fn with<R>(self: Pin<&mut Self>, poll: impl FnOnce(Pin<&mut dyn Duplex>) -> R) -> R {
        match &mut self.get_mut().0 {
            Stream::Plain(tcp) => poll(Pin::new(tcp)),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => poll(Pin::new(&mut **tls)),
        }
    }
}

/// Both directions of a transport.
trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl AsyncRead for WsTransport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_read(cx, buffer))
    }
}

impl AsyncWrite for WsTransport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_shutdown(cx))
    }
}
