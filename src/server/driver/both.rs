//! Two listeners of one server.

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::server::{
    access::principal::Principal, driver::listener::Listener, peer_addr::PeerAddr,
};

/// A [`Listener`] with the connections of two others, so that one server, with its topics and its
/// bounds, has clients of both. For more than two, put one `Both` into another.
///
/// When both have a connection, they take turns. An error of one pauses both, as described at
/// [`accept`](Listener::accept): most such errors are the system's, as when there are no more file
/// descriptors.
///
/// ```no_run
/// use bellwire::{Router, Server, server::Both};
/// use tokio::net::{TcpListener, UnixListener};
///
/// # async fn run() -> std::io::Result<()> {
/// let anyone = TcpListener::bind("0.0.0.0:7440").await?;
/// let local = UnixListener::bind("/run/offers.sock")?;
/// Server::new(Both::new(anyone, local)).serve(Router::new()).await
/// # }
/// ```
pub struct Both<A, B> {
    first: A,
    second: B,
    /// Which one is asked first next time.
    is_seconds_turn: bool,
}

impl<A: Listener, B: Listener> Both<A, B> {
    /// The connections of `first` and of `second`. Its [address](Listener::local_addr) is that of
    /// `first`.
    pub fn new(first: A, second: B) -> Self {
        Self { first, second, is_seconds_turn: false }
    }
}

impl<A: fmt::Debug, B: fmt::Debug> fmt::Debug for Both<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Both").field(&self.first).field(&self.second).finish()
    }
}

impl<A: Listener, B: Listener> Listener for Both<A, B> {
    type Io = Either<A::Io, B::Io>;

    async fn accept(&mut self) -> io::Result<(Self::Io, PeerAddr)> {
        let is_seconds_turn = self.is_seconds_turn;
        self.is_seconds_turn = !is_seconds_turn;
        let mut first = pin!(self.first.accept());
        let mut second = pin!(self.second.accept());
        // The one that is not ready is dropped, and loses nothing: `accept` is cancel safe.
        poll_fn(|cx| {
            let mut poll = |is_second| match is_second {
                false => first.as_mut().poll(cx).map_ok(|(io, peer)| (Either::First(io), peer)),
                true => second.as_mut().poll(cx).map_ok(|(io, peer)| (Either::Second(io), peer)),
            };
            match poll(is_seconds_turn) {
                Poll::Pending => poll(!is_seconds_turn),
                ready => ready,
            }
        })
        .await
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        self.first.local_addr()
    }

    fn prepare(io: &Self::Io, timeout: Option<Duration>) -> io::Result<()> {
        match io {
            Either::First(io) => A::prepare(io, timeout),
            Either::Second(io) => B::prepare(io, timeout),
        }
    }

    fn limit_unsent(io: &Self::Io, bytes: usize) -> io::Result<()> {
        match io {
            Either::First(io) => A::limit_unsent(io, bytes),
            Either::Second(io) => B::limit_unsent(io, bytes),
        }
    }

    fn poll_handshake(io: &mut Self::Io, cx: &mut Context<'_>) -> Poll<io::Result<Principal>> {
        match io {
            Either::First(io) => A::poll_handshake(io, cx),
            Either::Second(io) => B::poll_handshake(io, cx),
        }
    }

    fn is_exposed(&self) -> bool {
        self.first.is_exposed() || self.second.is_exposed()
    }
}

/// A connection of a [`Both`].
///
/// Exhaustive: a pair has no third part.
#[derive(Debug)]
pub enum Either<A, B> {
    /// A connection of the first listener.
    First(A),
    /// A connection of the second listener.
    Second(B),
}

impl<A: AsyncRead + Unpin, B: AsyncRead + Unpin> AsyncRead for Either<A, B> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::First(io) => Pin::new(io).poll_read(cx, buffer),
            Self::Second(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl<A: AsyncWrite + Unpin, B: AsyncWrite + Unpin> AsyncWrite for Either<A, B> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::First(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Second(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::First(io) => Pin::new(io).poll_flush(cx),
            Self::Second(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::First(io) => Pin::new(io).poll_shutdown(cx),
            Self::Second(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
