//! Reads the head of an HTTP message: all up to the empty line.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use memchr::memmem;
use tokio::io::{AsyncRead, ReadBuf};

/// The end of a head.
const END: &[u8] = b"\r\n\r\n";
/// How much is read at once.
const PIECE: usize = 1024;
/// The most headers of a head.
pub(crate) const MAX_HEADERS: usize = 100;

/// A head that is being read.
#[derive(Debug)]
pub(crate) struct Head {
    bytes: Vec<u8>,
    /// The bytes that it has to begin with.
    begin: &'static [u8],
}

/// What a head was read to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// The head with its empty line, and what was read behind it.
    Whole {
        /// The head.
        head: Vec<u8>,
        /// What came with it.
        rest: Vec<u8>,
    },
    /// It is over the limit.
    TooLong,
    /// Its first bytes are others, or a line ends with a LF alone. The peer does not speak HTTP.
    Foreign,
}

impl Head {
    /// A head that begins with `begin`.
    pub(crate) fn new(begin: &'static [u8]) -> Self {
        Self { bytes: Vec::new(), begin }
    }

    /// Reads until the head is complete, or over `max` bytes.
    ///
    /// # Errors
    /// The transport's; `UnexpectedEof` if it ends before.
    pub(crate) fn poll_read<T: AsyncRead + Unpin>(
        &mut self,
        max: usize,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Read>> {
        loop {
            let mut piece = [0; PIECE];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if let Some(read) = self.take(piece.filled(), max) {
                return Poll::Ready(Ok(read));
            }
        }
    }

    fn take(&mut self, piece: &[u8], max: usize) -> Option<Read> {
        // The end may have begun in the bytes before.
        let before = self.bytes.len();
        let from = before.saturating_sub(END.len() - 1);
        if self.bytes.capacity() - before < piece.len() {
            // Doubling would hold up to twice the limit.
            self.bytes.reserve_exact(PIECE);
        }
        self.bytes.extend_from_slice(piece);
        if self.bytes.iter().zip(self.begin).any(|(byte, expected)| byte != expected) {
            return Some(Read::Foreign);
        }
        let end = memmem::find(&self.bytes[from..], END).map(|at| from + at + END.len());
        // Parsers differ in what they take for the end of such a line, or of the head.
        let lines = &self.bytes[before.saturating_sub(1)..end.unwrap_or(self.bytes.len())];
        if lines.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r') {
            return Some(Read::Foreign);
        }
        match end {
            Some(end) if end <= max => {
                let rest = self.bytes.split_off(end);
                Some(Read::Whole { head: std::mem::take(&mut self.bytes), rest })
            }
            None if self.bytes.len() < max => None,
            _ => Some(Read::TooLong),
        }
    }
}

/// Whether a list of tokens, separated by commas, has this one. Case does not count.
pub(crate) fn has_token(list: &[u8], token: &str) -> bool {
    list.split(|byte| *byte == b',')
        .any(|one| one.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_with_an_empty_line() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nmore";
        for size in 1..bytes.len() {
            let mut head = Head::new(b"GET ");
            let mut pieces = bytes.chunks(size);
            let found = pieces.find_map(|piece| head.take(piece, 64));
            let Some(Read::Whole { head, rest }) = found else { panic!("{found:?}") };
            let left: usize = pieces.map(<[u8]>::len).sum();
            assert_eq!(head, bytes[..bytes.len() - 4]);
            assert_eq!(rest.len() + left, 4);
        }
    }

    #[test]
    fn a_head_is_bounded() {
        let mut head = Head::new(b"x");
        assert_eq!(head.take(&[b'x'; 63], 64), None);
        assert_eq!(head.take(b"x", 64), Some(Read::TooLong));
        assert_eq!(Head::new(b"").take(b"12345\r\n\r\n", 8), Some(Read::TooLong));
    }

    #[test]
    fn a_peer_that_does_not_speak_http_is_known_by_its_first_bytes() {
        assert_eq!(Head::new(b"GET ").take(b"1 echo", 64), Some(Read::Foreign));
        let mut head = Head::new(b"HTTP/");
        assert_eq!(head.take(b"HT", 64), None);
        assert_eq!(head.take(b"ML", 64), Some(Read::Foreign));
    }

    /// A lenient parser would take the first of these for a whole head, and lose the rest.
    #[test]
    fn a_line_ends_with_cr_and_lf() {
        for bytes in ["GET /\n\nGET /\r\n\r\n", "GET / \r\nHost: a\nX: b\r\n\r\n"] {
            for size in 1..bytes.len() {
                let mut head = Head::new(b"GET ");
                let found = bytes.as_bytes().chunks(size).find_map(|piece| head.take(piece, 64));
                assert_eq!(found, Some(Read::Foreign), "{size}");
            }
        }
        // What follows the head is free.
        let whole = Head::new(b"GET ").take(b"GET /\r\n\r\n\n\n", 64);
        assert!(matches!(whole, Some(Read::Whole { rest, .. }) if rest == b"\n\n"));
    }

    #[test]
    fn tokens_are_separated_by_commas() {
        assert!(has_token(b"keep-alive, Upgrade", "upgrade"));
        assert!(!has_token(b"keep-alive, Upgraded", "upgrade"));
        assert!(!has_token(b"", "upgrade"));
    }
}
