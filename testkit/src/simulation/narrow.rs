//! A transport that takes few bytes at a time, with pauses. Lines are cut anywhere, and some wait
//! to be written when their connection is lost.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::between;

pub(crate) struct Narrow<T> {
    io: T,
    /// The bytes at a time, and the pause after them; `None` if it takes all bytes.
    width: Option<(usize, Duration)>,
    rest: Option<Pin<Box<Sleep>>>,
}

impl<T> Narrow<T> {
    /// One of four transports is narrow.
    pub(crate) fn new(io: T, rng: &mut Rng) -> Self {
        let width = (rng.u8(..4) == 0).then(|| (rng.usize(4..60), between(rng, 1..150)));
        Self { io, width, rest: None }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Narrow<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some((width, pause)) = this.width else {
            return Pin::new(&mut this.io).poll_write(cx, bytes);
        };
        if let Some(rest) = &mut this.rest {
            ready!(rest.as_mut().poll(cx));
            this.rest = None;
        }
        let count =
            ready!(Pin::new(&mut this.io).poll_write(cx, &bytes[..bytes.len().min(width)]))?;
        this.rest = Some(Box::pin(sleep(pause)));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Narrow<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}
