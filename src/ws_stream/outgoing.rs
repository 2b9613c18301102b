//! The frames that wait to be written.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use crate::ws_stream::frame::{MAX_HEADER, Opcode, encode};

/// The most payload bytes of one data frame.
pub(super) const FRAME: usize = 16 * 1024;
/// The most bytes of pongs that wait behind a data frame. Beyond it, only the last ping is
/// answered.
const MAX_PONGS: usize = 1024;
/// The capacity of a buffer that is used again.
const KEPT: usize = FRAME + MAX_HEADER + MAX_PONGS;

thread_local! {
    /// An empty buffer. Connections whose frames are written at once have none of their own.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Encoded frames, at most one of them with data, and at most [`FRAME`] bytes and the pongs.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    /// How many of the bytes are pongs.
    pongs: usize,
    /// The payload of the last ping that is not answered yet.
    last_ping: Option<Vec<u8>>,
}

impl Outgoing {
    /// Bytes that precede all frames.
    pub(super) fn raw(bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.last_ping.is_none()
    }

    /// Appends a frame.
    pub(super) fn push(
        &mut self,
        opcode: Opcode,
        is_last: bool,
        payload: &[u8],
        mask: Option<[u8; 4]>,
    ) {
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.take();
        }
        encode(&mut self.bytes, opcode, is_last, payload, mask);
    }

    /// Answers a ping. RFC 6455, section 5.5.3, allows to leave out all but the last of several.
    pub(super) fn pong(&mut self, payload: Vec<u8>, mask: impl FnOnce() -> Option<[u8; 4]>) {
        if self.pongs >= MAX_PONGS {
            self.last_ping = Some(payload);
            return;
        }
        let before = self.bytes.len();
        self.push(Opcode::Pong, true, &payload, mask());
        self.pongs += self.bytes.len() - before;
    }

    /// Writes all that waits.
    pub(super) fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
        mut mask: impl FnMut() -> Option<[u8; 4]>,
    ) -> Poll<io::Result<()>> {
        loop {
            while let Some(rest @ [_, ..]) = self.bytes.get(self.written..) {
                match ready!(Pin::new(&mut *io).poll_write(cx, rest)) {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Ok(count) => self.written += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            self.release();
            match self.last_ping.take() {
                Some(payload) => self.pong(payload, &mut mask),
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Gives the buffer back, as all of it is written.
    fn release(&mut self) {
        (self.written, self.pongs) = (0, 0);
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        if bytes.capacity() <= 2 * KEPT {
            SPARE.set(bytes);
        }
    }
}

/// How many of these bytes the next data frame takes, and whether its message ends with it.
///
/// **Invariant:** a message ends with a whole line. A line that is longer than a frame is split
/// over several frames of one message.
pub(super) fn next_frame(bytes: &[u8]) -> (usize, bool) {
    let most = bytes.len().min(FRAME);
    match memchr::memrchr(b'\n', bytes.get(..most).unwrap_or_default()) {
        Some(at) => (at + 1, true),
        None => (most, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_ends_with_a_line() {
        assert_eq!(next_frame(b"1 a\n2 b\n3"), (8, true));
        assert_eq!(next_frame(b"3 c"), (3, false));
        let long = [&[b'x'; FRAME][..], b"\n1 a\n"].concat();
        assert_eq!(next_frame(&long), (FRAME, false));
        assert_eq!(next_frame(&long[FRAME..]), (5, true));
    }

    #[test]
    fn pongs_are_bounded_and_the_last_ping_is_answered() {
        let mut outgoing = Outgoing::default();
        for number in 0..1_000_u32 {
            outgoing.pong(number.to_be_bytes().to_vec(), || None);
        }
        assert!(outgoing.bytes.len() < MAX_PONGS + 128);
        let (mut written, mut cx) = (Vec::new(), Context::from_waker(std::task::Waker::noop()));
        assert!(outgoing.poll_write(&mut written, &mut cx, || None).is_ready());
        assert!(written.ends_with(&999_u32.to_be_bytes()) && outgoing.is_empty());
    }
}
