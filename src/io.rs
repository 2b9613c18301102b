//! Bytes between a transport and a driver: the scratch buffer to read into, the buffer to write.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one read takes at most.
pub(crate) const SCRATCH: usize = 64 * 1024;

/// A buffer that is empty keeps no more than this.
const KEPT: usize = 64 * 1024;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A read buffer lent out by the thread, so that no connection owns one.
///
/// It is taken out of the thread for as long as it is held: user code that runs meanwhile may drive
/// another connection on the same thread, which then gets a buffer of its own.
pub(crate) struct Scratch(Vec<u8>);

impl Scratch {
    pub(crate) fn take() -> Self {
        let mut buffer = SPARE.take();
        if buffer.is_empty() {
            buffer = vec![0; SCRATCH];
        }
        Self(buffer)
    }

    /// Reads once; the bytes that came, none at the end of the stream.
    pub(crate) fn poll_read<'a, T: AsyncRead + Unpin>(
        &'a mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<&'a [u8]>> {
        self.poll_read_at_most(SCRATCH, io, cx)
    }

    /// As [`poll_read`](Self::poll_read), of so many bytes at most.
    pub(crate) fn poll_read_at_most<'a, T: AsyncRead + Unpin>(
        &'a mut self,
        bytes: usize,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<&'a [u8]>> {
        let bytes = bytes.clamp(1, self.0.len());
        let mut buffer = ReadBuf::new(&mut self.0[..bytes]);
        loop {
            match ready!(Pin::new(&mut *io).poll_read(cx, &mut buffer)) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let filled = buffer.filled().len();
        Poll::Ready(Ok(self.0.get(..filled).unwrap_or_default()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        SPARE.set(std::mem::take(&mut self.0));
    }
}

/// Bytes on their way out, and how many of them are out.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    bytes: Vec<u8>,
    written: usize,
    /// Something was written since the last flush that ended.
    unflushed: bool,
}

impl WriteBuffer {
    /// Where encoders append.
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Bytes not yet written.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes until all is out or the transport takes no more, then flushes.
    ///
    /// `Pending` means that bytes are left, and that `cx` is woken when more can be written. How
    /// many were written on the way shows in [`len`](Self::len).
    pub(crate) fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let left = self.bytes.get(self.written..).unwrap_or_default();
            match ready!(Pin::new(&mut *io).poll_write(cx, left)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    self.written += count;
                    self.unflushed = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            self.compact();
        }
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether nothing is left to write or to flush.
    pub(crate) fn is_done(&self) -> bool {
        self.is_empty() && !self.unflushed
    }

    /// Forgets what is written, once it is all or the larger part.
    fn compact(&mut self) {
        if self.is_empty() {
            self.bytes.clear();
            self.written = 0;
            self.bytes.shrink_to(KEPT);
        } else if self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    /// Takes the bytes of `other` if this one is empty; `other` gets this one's space.
    pub(crate) fn refill(&mut self, other: &mut Vec<u8>) {
        if self.is_empty() {
            self.bytes.clear();
            self.written = 0;
            std::mem::swap(&mut self.bytes, other);
        }
    }
}
