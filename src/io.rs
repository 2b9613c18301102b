//! The buffer that drivers read into.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

/// The most bytes that one read takes.
pub(crate) const SCRATCH: usize = 64 * 1024;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A read buffer that the thread lends out, so that connections need none of their own.
///
/// It is taken out of the thread while it is in use. User code that runs meanwhile may drive
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

    /// Reads once. Returns the bytes; none at the end of the stream.
    pub(crate) fn poll_read<'a, T: AsyncRead + Unpin>(
        &'a mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<&'a [u8]>> {
        self.poll_read_at_most(SCRATCH, io, cx)
    }

    /// As [`poll_read`](Self::poll_read), with at most this many bytes.
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
