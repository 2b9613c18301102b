//! The listener of WebSockets that another HTTP server has upgraded.

use std::{fmt, io};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

use crate::{
    coop::consume_budget,
    server::{driver::listener::Listener, peer_addr::PeerAddr},
    sync::Arc,
    ws_stream::{
        frame::Role,
        limits::WsConfig,
        request::{Accepted, Refusal, check_headers},
        stream::WsStream,
    },
};

/// The connections that may wait to be accepted.
const BACKLOG: usize = 128;

/// Returns a listener for connections that an existing HTTP server upgrades, and the handle through
/// which they come. `T` is the byte stream behind an upgrade.
///
/// 1. The HTTP server gets a request of HTTP/1.1 by GET, and not by HEAD. It lets
///    [`Upgrades::check`] check the headers.
/// 2. It answers with the status 101 and the headers of [`Accepted`], or with the [`Refusal`].
/// 3. It passes the byte stream behind the answer to [`Upgrades::accept`].
///
/// `examples/axum_ws.rs` does this with axum. The path of `config` has no effect, because the HTTP
/// server decides which paths lead here.
///
/// ```
/// use bellwire::{Router, Server, ws::{WsConfig, upgraded}};
/// use tokio::io::DuplexStream;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let (listener, upgrades) = upgraded::<DuplexStream>(WsConfig::new());
/// tokio::spawn(Server::new(listener).serve(Router::<()>::new()).into_future());
///
/// let headers: [(&str, &[u8]); 1] = [("host", b"offers.example")];
/// assert_eq!(upgrades.check(headers).unwrap_err().status(), 426);
/// # }
/// ```
pub fn upgraded<T>(config: WsConfig) -> (UpgradedListener<T>, Upgrades<T>) {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    (UpgradedListener(receiver), Upgrades { sender, config: Arc::new(config) })
}

/// The listener of [`upgraded`].
pub struct UpgradedListener<T>(mpsc::Receiver<(WsStream<T>, PeerAddr)>);

impl<T> fmt::Debug for UpgradedListener<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UpgradedListener")
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Listener for UpgradedListener<T> {
    type Io = WsStream<T>;

    async fn accept(&mut self) -> io::Result<(Self::Io, PeerAddr)> {
        match self.0.recv().await {
            Some(connection) => Ok(connection),
            // All handles are gone. The connections that exist go on.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("upgraded".into()))
    }
}

/// Passes upgraded connections to a server: see [`upgraded`].
pub struct Upgrades<T> {
    sender: mpsc::Sender<(WsStream<T>, PeerAddr)>,
    config: Arc<WsConfig>,
}

impl<T> Upgrades<T> {
    /// Checks the headers of a request of HTTP/1.1 by GET, as pairs of a name and a value.
    ///
    /// # Errors
    /// Why the request is refused. [`Refusal`] has the status, the headers and the text to answer
    /// with.
    pub fn check<'a>(
        &self,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Accepted, Refusal> {
        check_headers(headers, self.config.get_origins())
    }

    /// Passes the byte stream behind the answer 101 to the server. `peer` is the address of the
    /// client, as the server's sessions and logs name it.
    ///
    /// # Errors
    /// `ConnectionAborted` if the server has stopped.
    ///
    /// # Cancel safety
    /// If the future is dropped before it ends, the connection is dropped, too.
    pub async fn accept(&self, io: T, peer: impl Into<PeerAddr>) -> io::Result<()> {
        consume_budget().await;
        let max_message = self.config.get_max_message();
        let stream = WsStream::opened(io, Role::Server, max_message, Vec::new());
        let sent = self.sender.send((stream, peer.into())).await;
        sent.map_err(|_| io::ErrorKind::ConnectionAborted.into())
    }
}

impl<T> Clone for Upgrades<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), config: self.config.clone() }
    }
}

impl<T> fmt::Debug for Upgrades<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrades").field("config", &self.config).finish_non_exhaustive()
    }
}
