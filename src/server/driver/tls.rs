//! TLS for servers: a listener over a listener, and its streams.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{
    Accept, TlsAcceptor,
    rustls::{ServerConfig, pki_types::CertificateDer},
    server,
};

use crate::{
    server::{
        access::{authenticator::Denied, principal::Principal},
        driver::listener::Listener,
        peer_addr::PeerAddr,
    },
    sync::Arc,
};

/// A [`Listener`] whose connections speak TLS from the first byte (docs/protocol/grammar.md,
/// section 11), over those of an inner listener.
///
/// The handshake happens in the connection's own task and may take
/// [`handshake_time`](crate::ServerConfig::handshake_time).
///
/// ```no_run
/// use std::sync::Arc;
/// use bellwire::{Router, Server, tls::{TlsListener, rustls}};
/// use tokio::net::TcpListener;
///
/// # async fn run(config: rustls::ServerConfig) -> std::io::Result<()> {
/// let listener = TlsListener::new(TcpListener::bind("0.0.0.0:7440").await?, Arc::new(config));
/// Server::new(listener).serve(Router::new()).await
/// # }
/// ```
pub struct TlsListener<L> {
    listener: L,
    acceptor: TlsAcceptor,
    identify: Option<Identify>,
}

type Identify = Arc<dyn Fn(&[CertificateDer<'_>]) -> Result<Principal, Denied> + Send + Sync>;

impl<L: Listener> TlsListener<L> {
    /// TLS over the connections of `listener`. `config` decides whether clients may or must have
    /// certificates, and which.
    pub fn new(listener: L, config: Arc<ServerConfig>) -> Self {
        Self { listener, acceptor: config.into(), identify: None }
    }

    /// Sets how a client is identified by its certificate chain, which `config` has verified. The
    /// client's own certificate comes first. Default: certificates identify no client.
    ///
    /// A client that is identified need not `/auth`. For a client without a certificate, `identify`
    /// is not called, and the client is anonymous. `identify` is called within the connection's
    /// driver, so it must not block. If it returns [`Denied`] or panics, the connection is dropped.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use bellwire::{server::{Denied, Principal}, tls::{TlsListener, rustls}};
    ///
    /// # fn name_of(_: &[u8]) -> Option<String> { None }
    /// # fn run(listener: tokio::net::TcpListener, config: Arc<rustls::ServerConfig>) {
    /// let listener = TlsListener::new(listener, config).identify(|chain| {
    ///     // With a parser of certificates, or by a table of fingerprints.
    ///     name_of(&chain[0]).map(Principal::new).ok_or(Denied::Credentials)
    /// });
    /// # }
    /// ```
    #[must_use]
    pub fn identify(
        mut self,
        identify: impl Fn(&[CertificateDer<'_>]) -> Result<Principal, Denied> + Send + Sync + 'static,
    ) -> Self {
        self.identify = Some(Arc::new(identify));
        self
    }
}

impl<L: fmt::Debug> fmt::Debug for TlsListener<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsListener").field(&self.listener).finish()
    }
}

impl<L: Listener> Listener for TlsListener<L> {
    type Io = TlsStream<L::Io>;

    async fn accept(&mut self) -> io::Result<(Self::Io, PeerAddr)> {
        let (io, peer) = self.listener.accept().await?;
        let stage = TlsStage::Handshake(self.acceptor.accept(io));
        Ok((TlsStream { stage: Box::new(stage), identify: self.identify.clone() }, peer))
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        self.listener.local_addr()
    }

    fn is_exposed(&self) -> bool {
        false
    }

    fn prepare(io: &Self::Io, timeout: Option<Duration>) -> io::Result<()> {
        io.transport().map_or(Ok(()), |io| L::prepare(io, timeout))
    }

    fn limit_unsent(io: &Self::Io, bytes: usize) -> io::Result<()> {
        io.transport().map_or(Ok(()), |io| L::limit_unsent(io, bytes))
    }

    fn poll_handshake(io: &mut Self::Io, cx: &mut Context<'_>) -> Poll<io::Result<Principal>> {
        ready!(io.poll_stream(cx))?;
        Poll::Ready(io.principal())
    }
}

/// A connection of a [`TlsListener`], its handshake included.
pub struct TlsStream<T> {
    /// Boxed, because rustls keeps about a kilobyte in it.
    stage: Box<TlsStage<T>>,
    identify: Option<Identify>,
}

enum TlsStage<T> {
    Handshake(Accept<T>),
    Open(server::TlsStream<T>),
    Failed,
}

impl<T> fmt::Debug for TlsStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsStream")
    }
}

impl<T> TlsStream<T> {
    /// The transport below TLS.
    fn transport(&self) -> Option<&T> {
        match &*self.stage {
            TlsStage::Handshake(accept) => accept.get_ref(),
            TlsStage::Open(stream) => Some(stream.get_ref().0),
            TlsStage::Failed => None,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> TlsStream<T> {
    /// Polls the handshake. Returns the stream once it is complete.
    fn poll_stream(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Pin<&mut server::TlsStream<T>>>> {
        if let TlsStage::Handshake(accept) = &mut *self.stage {
            let accepted = ready!(Pin::new(accept).poll(cx));
            *self.stage = TlsStage::Failed;
            *self.stage = TlsStage::Open(accepted?);
        }
        Poll::Ready(match &mut *self.stage {
            TlsStage::Open(stream) => Ok(Pin::new(stream)),
            TlsStage::Handshake(_) | TlsStage::Failed => Err(io::ErrorKind::NotConnected.into()),
        })
    }

    fn principal(&self) -> io::Result<Principal> {
        let TlsStage::Open(stream) = &*self.stage else { return Ok(Principal::anonymous()) };
        match (&self.identify, stream.get_ref().1.peer_certificates()) {
            (Some(identify), Some(chain)) => identify(chain).map_err(io::Error::other),
            _ => Ok(Principal::anonymous()),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.get_mut().poll_stream(cx))?.poll_read(cx, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.get_mut().poll_stream(cx))?.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.get_mut().poll_stream(cx))?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.get_mut().poll_stream(cx))?.poll_shutdown(cx)
    }
}
