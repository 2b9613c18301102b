//! TLS on the client's side.

use std::io;

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector as Handshake,
    client::TlsStream,
    rustls::{self, pki_types::ServerName},
};

use crate::{
    client::{
        Client, ClientBuilder, ClientConfig, Connector, TcpConnector,
        driver::connector::{Connecting, Finishing, Resolving},
    },
    error::ConnectionError,
    sync::Arc,
};

/// Connects over TCP and TLS: see [`ClientBuilder::tls`].
#[derive(Clone)]
pub struct TlsConnector {
    tcp: TcpConnector,
    name: ServerName<'static>,
    handshake: Handshake,
}

impl Connector for TlsConnector {
    type Io = TlsStream<TcpStream>;

    async fn connect(&mut self, address: &str) -> io::Result<Self::Io> {
        let stream = self.tcp.connect(address).await?;
        self.handshake.connect(self.name.clone(), stream).await
    }

    fn limit_unsent(io: &Self::Io, bytes: usize) -> io::Result<()> {
        TcpConnector::limit_unsent(io.get_ref().0, bytes)
    }

    fn check(&self, address: &str) -> Result<(), String> {
        self.tcp.check(address)
    }

    fn resolve(&mut self, address: &str) -> Resolving {
        self.tcp.resolve(address)
    }

    /// Only the TCP connections are raced.
    fn begin(&mut self, address: &str) -> Option<Connecting<Self::Io>> {
        let (tcp, name) = (self.tcp.begin(address)?, self.name.clone());
        let handshake = self.handshake.clone();
        Some(Box::pin(async move {
            let tcp = tcp.await?;
            let finishing = async move { handshake.connect(name, tcp.await?).await };
            Ok(Box::pin(finishing) as Finishing<Self::Io>)
        }))
    }
}

impl std::fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsConnector").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// Connects over TLS. `tls` has the certificates that the client trusts, and its own
    /// certificate, if it has one. The servers' certificates must contain `name`, whatever the
    /// addresses are.
    pub fn tls(
        self,
        name: ServerName<'static>,
        tls: Arc<rustls::ClientConfig>,
    ) -> ClientBuilder<TlsConnector> {
        let handshake = Handshake::from(tls);
        self.connector(TlsConnector { tcp: TcpConnector, name, handshake })
    }
}

impl Client {
    /// Connects with TLS, as [`connect`](Self::connect) does over TCP. `tls` has the certificates
    /// that the client trusts, and its own certificate, if it has one. The server's certificate
    /// must contain `name`.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use bellwire::{Client, tls::rustls};
    ///
    /// # async fn run(roots: rustls::RootCertStore) -> Result<(), Box<dyn std::error::Error>> {
    /// let tls = rustls::ClientConfig::builder()
    ///     .with_root_certificates(roots)
    ///     .with_no_client_auth();
    /// let name = "offers.example".try_into()?;
    /// let address = "offers.example:7440";
    /// let client = Client::connect_tls(address, name, Arc::new(tls)).await?;
    /// # drop(client);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`connect`](Self::connect). [`ConnectionError::Tls`] if the handshake fails, for example
    /// because a certificate is not trusted, or the server does not use TLS. A server that rejects
    /// the client's certificate may report it only when the handshake is over for the client. The
    /// error is the same.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn connect_tls(
        address: impl ToString,
        name: ServerName<'static>,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<Self, ConnectionError> {
        Self::connect_tls_with(address, name, tls, ClientConfig::default()).await
    }

    /// As [`connect_tls`](Self::connect_tls), with your own limits.
    ///
    /// # Errors
    /// As [`connect_tls`](Self::connect_tls).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn connect_tls_with(
        address: impl ToString,
        name: ServerName<'static>,
        tls: Arc<rustls::ClientConfig>,
        config: ClientConfig,
    ) -> Result<Self, ConnectionError> {
        Self::builder().address(address).config(config).tls(name, tls).connect().await
    }
}
