//! WebSockets for servers: a listener over a listener.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    server::{access::principal::Principal, driver::listener::Listener, peer_addr::PeerAddr},
    sync::Arc,
    ws_stream::{limits::WsConfig, stream::WsStream},
};

/// A [`Listener`] whose connections are WebSockets (docs/protocol/websocket.md, section 24), over
/// those of an inner listener. Over a [`TlsListener`](crate::tls::TlsListener), clients use `wss`.
///
/// The opening handshake happens in the connection's own task. Together with the handshake of TLS
/// it may take [`handshake_time`](crate::ServerConfig::handshake_time). It speaks HTTP/1.1, and
/// serves nothing but WebSockets: for a server that has other pages, see
/// [`upgraded`](crate::ws::upgraded).
///
/// ```no_run
/// use bellwire::{Router, Server, ws::{Origins, WsConfig, WsListener}};
/// use tokio::net::TcpListener;
///
/// # async fn run() -> std::io::Result<()> {
/// let config = WsConfig::new().origins(Origins::list(["https://offers.example"]));
/// let listener = WsListener::new(TcpListener::bind("0.0.0.0:7441").await?, config);
/// Server::new(listener).serve(Router::new()).await
/// # }
/// ```
#[derive(Debug)]
pub struct WsListener<L> {
    listener: L,
    config: Arc<WsConfig>,
}

impl<L: Listener> WsListener<L> {
    /// WebSockets over the connections of `listener`.
    pub fn new(listener: L, config: WsConfig) -> Self {
        Self { listener, config: Arc::new(config) }
    }
}

impl<L: Listener> Listener for WsListener<L> {
    type Io = WsConnection<L::Io>;

    async fn accept(&mut self) -> io::Result<(Self::Io, PeerAddr)> {
        let (io, peer) = self.listener.accept().await?;
        let stream = WsStream::accepting(io, self.config.clone());
        Ok((WsConnection { stream, principal: None }, peer))
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        self.listener.local_addr()
    }

    fn is_exposed(&self) -> bool {
        self.listener.is_exposed()
    }

    fn prepare(io: &Self::Io, timeout: Option<Duration>) -> io::Result<()> {
        L::prepare(io.stream.get_ref(), timeout)
    }

    fn limit_unsent(io: &Self::Io, bytes: usize) -> io::Result<()> {
        L::limit_unsent(io.stream.get_ref(), bytes)
    }

    fn poll_handshake(io: &mut Self::Io, cx: &mut Context<'_>) -> Poll<io::Result<Principal>> {
        if io.principal.is_none() {
            let principal = ready!(L::poll_handshake(io.stream.transport(), cx))?;
            io.principal = Some(principal);
        }
        ready!(io.stream.poll_open(cx))?;
        Poll::Ready(Ok(io.principal.take().unwrap_or_else(Principal::anonymous)))
    }
}

/// A connection of a [`WsListener`], its handshakes included.
#[derive(Debug)]
pub struct WsConnection<T> {
    stream: WsStream<T>,
    /// Who the handshake of the inner listener has found, until the WebSocket is open.
    principal: Option<Principal>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsConnection<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsConnection<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
