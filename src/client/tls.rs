//! TLS on the client's side.

use tokio::net::{TcpStream, ToSocketAddrs};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, pki_types::ServerName},
};

use crate::{
    client::{Client, ClientConfig, within},
    error::ConnectionError,
    sync::Arc,
};

impl Client {
    /// Connects over TLS, as [`connect_with`](Self::connect_with) does over TCP. `tls` says whom the
    /// client trusts, and its own certificate, if it has one; the server's has to name `name`.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use bellwire::{Client, ClientConfig, tls::rustls};
    ///
    /// # async fn run(roots: rustls::RootCertStore) -> Result<(), Box<dyn std::error::Error>> {
    /// let tls = rustls::ClientConfig::builder()
    ///     .with_root_certificates(roots)
    ///     .with_no_client_auth();
    /// let name = "offers.example".try_into()?;
    /// let address = "offers.example:7440";
    /// let client = Client::connect_tls(address, name, Arc::new(tls), ClientConfig::new()).await?;
    /// # drop(client);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`connect`](Self::connect); [`ConnectionError::Tls`] where the handshake fails, as with a
    /// certificate that is not trusted, or a server without TLS. A server that does not accept the
    /// client's certificate may say so only when the handshake is over for the client: the error
    /// is the same.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn connect_tls(
        address: impl ToSocketAddrs,
        name: ServerName<'static>,
        tls: Arc<rustls::ClientConfig>,
        config: ClientConfig,
    ) -> Result<Self, ConnectionError> {
        let timeout = config.connect_timeout;
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let stream = TlsConnector::from(tls).connect(name, stream).await?;
            Self::spawn(stream, config).await
        };
        within(timeout, connecting).await
    }
}
