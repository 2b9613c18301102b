//! Splits bytes into lines, incrementally. Both ends read with it.

use std::fmt;

use memchr::memchr;

/// The longest line that both sides accept by default, LF included.
pub const DEFAULT_MAX_LINE: usize = 65_535;
/// The least `max-line` that a peer may announce. Every line of the protocol itself fits.
pub const MIN_MAX_LINE: usize = 1_024;

/// Splits a byte stream at each LF, however the stream is cut into pieces (PROTOCOL.md, section 2).
///
/// Feed it each piece by calling [`next`](Self::next) until that returns `None`. A line that lies
/// in one piece is returned in place. Only an unfinished line is copied and kept. Every byte is
/// scanned once, and at most `max_line` bytes are held.
///
/// ```
/// use bellwire::protocol::LineDecoder;
///
/// let mut lines = LineDecoder::new(64);
/// let mut piece = &b"1 random 6\n2 ran"[..];
/// assert_eq!(lines.next(&mut piece).unwrap(), Some(&b"1 random 6"[..]));
/// assert_eq!(lines.next(&mut piece).unwrap(), None);
/// let mut piece = &b"dom\n"[..];
/// assert_eq!(lines.next(&mut piece).unwrap(), Some(&b"2 random"[..]));
/// ```
#[derive(Debug, Default)]
pub struct LineDecoder {
    /// The unfinished line. **Invariant:** it holds no LF, and fewer than `max_line` bytes.
    tail: Vec<u8>,
    /// The tail was returned as a whole line, and the next call drops it.
    handed_out: bool,
    max_line: usize,
    line_start: u64,
    /// Bytes that were scanned for an LF.
    #[cfg(test)]
    scanned: usize,
}

/// A line reached its limit without an LF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LineTooLong {
    /// The limit, LF included, in bytes.
    pub max_line: usize,
    /// The offset in the stream of the first byte over the limit.
    pub offset: u64,
}

impl fmt::Display for LineTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line longer than {} bytes", self.max_line)
    }
}

impl std::error::Error for LineTooLong {}

impl LineDecoder {
    /// A decoder for lines of at most `max_line` bytes, LF included.
    pub fn new(max_line: usize) -> Self {
        Self { max_line, ..Self::default() }
    }

    /// The next line, without its LF; `None` when `input` is used up.
    ///
    /// # Errors
    /// [`LineTooLong`] at the first byte over the limit. Each later call returns the same error.
    pub fn next<'line, 'input: 'line>(
        &'line mut self,
        input: &mut &'input [u8],
    ) -> Result<Option<&'line [u8]>, LineTooLong> {
        if self.handed_out {
            self.handed_out = false;
            self.tail = Vec::new();
        }
        let room = self.max_line - self.tail.len();
        let window = input.get(..room).unwrap_or(input);
        let found = memchr(b'\n', window);
        #[cfg(test)]
        {
            self.scanned += found.map_or(window.len(), |at| at + 1);
        }
        let Some(at) = found else {
            return self.keep_tail(input, room);
        };
        let (line, from_lf) = input.split_at(at);
        *input = from_lf.get(1..).unwrap_or_default();
        self.line_start += (self.tail.len() + at + 1) as u64;
        if self.tail.is_empty() {
            return Ok(Some(line));
        }
        self.reserve(line.len());
        self.tail.extend_from_slice(line);
        self.handed_out = true;
        Ok(Some(&self.tail))
    }

    fn keep_tail(
        &mut self,
        input: &mut &[u8],
        room: usize,
    ) -> Result<Option<&'static [u8]>, LineTooLong> {
        if input.len() >= room {
            let offset = self.line_start + self.max_line as u64 - 1;
            return Err(LineTooLong { max_line: self.max_line, offset });
        }
        self.reserve(input.len());
        self.tail.extend_from_slice(input);
        *input = &[];
        Ok(None)
    }

    /// Makes room for `more` bytes of the line. The capacity doubles each time, up to the limit.
    fn reserve(&mut self, more: usize) {
        let (len, capacity) = (self.tail.len(), self.tail.capacity());
        if capacity - len < more {
            let capacity = capacity.saturating_mul(2).min(self.max_line).max(len + more);
            self.tail.reserve_exact(capacity - len);
        }
    }

    /// Changes the limit for later lines. The unfinished line must be within it.
    pub(crate) fn set_max_line(&mut self, max_line: usize) {
        debug_assert!(self.pending() < max_line);
        self.max_line = max_line;
    }

    /// The bytes of the unfinished line.
    pub fn pending(&self) -> usize {
        if self.handed_out { 0 } else { self.tail.len() }
    }
}

/// Removes the one CR that may stand directly before the LF, as telnet and `nc -C` send it.
///
/// A server calls this. A client does not, because no encoder writes a CR.
pub fn strip_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]], max: usize) -> (Vec<Vec<u8>>, Option<u64>) {
        let mut lines = LineDecoder::new(max);
        let mut found = Vec::new();
        for mut piece in pieces.iter().copied() {
            loop {
                match lines.next(&mut piece) {
                    Ok(Some(line)) => found.push(line.to_vec()),
                    Ok(None) => break,
                    Err(error) => return (found, Some(error.offset)),
                }
            }
        }
        (found, None)
    }

    #[test]
    fn any_split_gives_the_same_lines() {
        let stream = b"1 a\n\n2 bc x\ntail";
        let whole = split(&[stream], 64);
        assert_eq!(whole.0, [&b"1 a"[..], b"", b"2 bc x"]);
        for cut in 0..stream.len() {
            let (left, right) = stream.split_at(cut);
            assert_eq!(split(&[left, right], 64), whole, "cut at {cut}");
        }
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(split(&single, 64), whole);
    }

    #[test]
    fn the_limit_includes_the_lf_and_the_error_names_the_first_byte_over() {
        assert_eq!(split(&[b"1234567\n"], 8), (vec![b"1234567".to_vec()], None));
        assert_eq!(split(&[b"a\n12345678\n"], 8), (vec![b"a".to_vec()], Some(9)));
        let single: Vec<&[u8]> = b"a\n12345678".chunks(1).collect();
        assert_eq!(split(&single, 8), (vec![b"a".to_vec()], Some(9)));
    }

    /// 100 MB without an LF, in writes of 1 KiB. SECURITY.md, threat 3.
    #[test]
    fn buffer_of_an_unterminated_line_stays_within_the_limit() {
        for max_line in [DEFAULT_MAX_LINE, 65_536, 10_000_019] {
            let mut lines = LineDecoder::new(max_line);
            let mut errors = 0;
            for _ in 0..100_000 {
                errors += usize::from(lines.next(&mut &[b'x'; 1_024][..]).is_err());
                assert!(lines.pending() < max_line && lines.tail.capacity() <= max_line);
            }
            assert_eq!(errors, 100_000 - (max_line - 1) / 1_024);
        }
    }

    /// SECURITY.md, threat 4: no byte is scanned twice, however the lines are cut.
    #[test]
    fn no_byte_is_scanned_twice() {
        for (piece, line) in [(1, 60_000), (7, 60_000), (1, 1), (3, 2), (1_000, 60_000)] {
            let mut lines = LineDecoder::new(DEFAULT_MAX_LINE);
            let stream = [vec![b'x'; line], vec![b'\n']].concat().repeat(120_000 / (line + 1));
            for mut piece in stream.chunks(piece) {
                while lines.next(&mut piece).unwrap().is_some() {}
            }
            assert_eq!(lines.scanned, stream.len(), "lines of {line} in pieces of {piece}");
        }
    }

    #[test]
    fn complete_lines_leave_no_buffer_and_partial_ones_are_bounded() {
        let mut lines = LineDecoder::new(100_000);
        for _ in 0..99 {
            let mut piece = &[b'x'; 1_000][..];
            assert_eq!(lines.next(&mut piece), Ok(None));
        }
        assert_eq!(lines.pending(), 99_000);
        assert!(lines.next(&mut &[b'x'; 1_000][..]).is_err());
        assert_eq!(lines.pending(), 99_000);
        let mut end = &b"\n"[..];
        assert_eq!(lines.next(&mut end).unwrap().map(<[u8]>::len), Some(99_000));
        assert_eq!(lines.next(&mut end), Ok(None));
        assert_eq!((lines.pending(), lines.tail.capacity()), (0, 0));
    }
}
