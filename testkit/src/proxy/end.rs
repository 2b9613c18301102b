//! The transports on both sides of the proxy, which can be reset, and a pipe in memory of that
//! kind.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::TcpStream,
};

/// A transport that needs no flush, and that may be able to signal a reset to its peer.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
    /// Closes it so that the peer's next write fails, and so does its next read after the delivered
    /// bytes. A transport without resets is closed by a drop.
    fn reset(self) {}
}

/// Its peer reads the end of the stream, and cannot write any more.
impl Transport for DuplexStream {}

impl Transport for TcpStream {
    fn reset(self) {
        // A close without lingering sends a RST. It fails on a socket that is reset already.
        let _ = SockRef::from(&self).set_linger(Some(Duration::ZERO));
    }
}

/// One end of a pipe in memory. It shows a reset as a socket does.
#[derive(Debug)]
pub struct End {
    io: DuplexStream,
    /// Shared by both ends of the pipe.
    is_reset: Arc<AtomicBool>,
}

/// A pipe that holds `size` bytes in each direction.
pub fn pipe(size: usize) -> (End, End) {
    let (one, other) = tokio::io::duplex(size);
    let is_reset = Arc::<AtomicBool>::default();
    (End { io: one, is_reset: is_reset.clone() }, End { io: other, is_reset })
}

impl Transport for End {
    fn reset(self) {
        // Before the drop, because the drop wakes the peer.
        self.is_reset.store(true, Ordering::Release);
    }
}

impl End {
    fn check(&self) -> io::Result<()> {
        match self.is_reset.load(Ordering::Acquire) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (this, before) = (self.get_mut(), buf.filled().len());
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let is_end = buf.filled().len() == before && buf.remaining() > 0;
        Poll::Ready(if is_end { this.check() } else { Ok(()) })
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        Pin::new(&mut this.io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}
