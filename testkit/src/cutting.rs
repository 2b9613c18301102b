//! A transport that takes a number of bytes and then fails, and records what it was offered.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What happens to reads once the transport has taken all its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    GoOn,
    /// They fail with `ConnectionReset`.
    Fail,
}

/// Takes exactly `k` bytes; each write after that fails with `BrokenPipe`.
pub struct CutIo<T> {
    io: T,
    left: usize,
    reads: Reads,
    written: Arc<Mutex<Written>>,
    /// The task that waits to read. It is woken when reads begin to fail.
    reader: Option<Waker>,
}

/// What was written to a transport, or offered to it, and how much was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// All bytes of the stream that were ever offered: those that were taken, and those that stood
    /// behind them in the slice of any write, also of one that failed or waited.
    pub offered: Vec<u8>,
    /// How many of these bytes were taken.
    pub taken: usize,
    /// Bytes that were once offered and then replaced by others.
    pub withdrawn: Vec<Vec<u8>>,
    /// How many writes failed.
    pub failed: usize,
    /// How many bytes were read.
    pub read: usize,
}

impl Written {
    pub fn taken(&self) -> &[u8] {
        &self.offered[..self.taken]
    }

    fn offer(&mut self, bytes: &[u8]) {
        let known = &self.offered[self.taken..];
        if known.starts_with(bytes) {
            return;
        }
        if !bytes.starts_with(known) {
            self.withdrawn.push(known.to_vec());
        }
        self.offered.truncate(self.taken);
        self.offered.extend_from_slice(bytes);
    }
}

impl<T> CutIo<T> {
    pub fn new(io: T, k: usize, reads: Reads) -> Self {
        Self { io, left: k, reads, written: Arc::default(), reader: None }
    }

    /// The record, which can be read while the transport is used elsewhere.
    pub fn written(&self) -> Arc<Mutex<Written>> {
        self.written.clone()
    }

    fn reads_fail(&self) -> bool {
        self.left == 0 && self.reads == Reads::Fail
    }

    fn take(&mut self, count: usize) {
        self.left -= count;
        self.written.lock().unwrap().taken += count;
        if self.reads_fail()
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for CutIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.reads_fail() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        this.reader = Some(cx.waker().clone());
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        this.written.lock().unwrap().read += buf.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for CutIo<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.written.lock().unwrap().offer(bytes);
        if this.left == 0 {
            this.written.lock().unwrap().failed += 1;
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = this.left.min(bytes.len());
        let count = ready!(Pin::new(&mut this.io).poll_write(cx, &bytes[..room]))?;
        this.take(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
