//! What the proxy stands between: transports that can be reset, and such a pipe in memory.

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

/// A transport that needs no flush, and may be able to tell its peer of a reset.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
    /// Closes it so that the peer's next read, past what was delivered, and next write fail. What
    /// cannot do that is closed as by a drop.
    fn reset(self) {}
}

/// Its peer reads an end, and can write no more.
impl Transport for DuplexStream {}

impl Transport for TcpStream {
    fn reset(self) {
        // A close that waits for nothing is a RST; it fails on what is reset already.
        let _ = SockRef::from(&self).set_linger(Some(Duration::ZERO));
    }
}

/// One end of a pipe in memory that shows a reset as a socket does.
#[derive(Debug)]
pub struct End {
    io: DuplexStream,
    /// Of the pipe, so of both ends.
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
        // Before the drop, which wakes the peer.
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
