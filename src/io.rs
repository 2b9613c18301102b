//! The buffer that drivers read into.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

/// What one read takes at most.
pub(crate) const SCRATCH: usize = 64 * 1024;

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
