//! The outgoing bytes of a connection, and how many of them are written.

/// The most capacity that an empty buffer keeps.
const KEPT: usize = 64 * 1024;

/// Outgoing bytes.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    bytes: Vec<u8>,
    written: usize,
    /// The transport took bytes since its last flush.
    is_unflushed: bool,
}

impl Outbound {
    /// Where encoders append.
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Bytes not yet written.
    pub(crate) fn unwritten(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Whether all bytes are written and flushed.
    pub(crate) fn is_done(&self) -> bool {
        self.is_empty() && !self.is_unflushed
    }

    /// Whether all bytes are written, but not flushed.
    pub(crate) fn needs_flush(&self) -> bool {
        self.is_empty() && self.is_unflushed
    }

    /// Records that the transport was flushed.
    pub(crate) fn flushed(&mut self) {
        self.is_unflushed = false;
    }

    /// Records that the transport took this many bytes.
    pub(crate) fn wrote(&mut self, count: usize) {
        self.written = self.bytes.len().min(self.written + count);
        self.is_unflushed = true;
        if self.is_empty() {
            self.bytes.clear();
            self.written = 0;
            self.bytes.shrink_to(KEPT);
        } else if self.written > self.bytes.len() / 2 {
            // The written bytes are removed once they are the larger part.
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    /// Takes the bytes of `other` if this buffer is empty; `other` gets this buffer's space.
    pub(crate) fn refill(&mut self, other: &mut Vec<u8>) {
        if self.is_empty() {
            self.bytes.clear();
            self.written = 0;
            std::mem::swap(&mut self.bytes, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_bytes_are_removed_and_the_others_stay() {
        let mut out = Outbound::default();
        assert!(out.is_done());
        out.bytes().extend_from_slice(b"abcdef");
        out.wrote(2);
        assert_eq!(out.unwritten(), b"cdef");
        out.bytes().push(b'g');
        out.wrote(3);
        assert_eq!(out.unwritten(), b"fg");
        assert!(!out.needs_flush());
        out.wrote(2);
        assert!(out.needs_flush() && !out.is_done());
        out.flushed();
        assert!(out.is_done());
    }

    #[test]
    fn an_empty_buffer_takes_over_the_bytes_of_another() {
        let (mut out, mut lines) = (Outbound::default(), b"lines".to_vec());
        out.refill(&mut lines);
        assert_eq!((out.unwritten(), lines.len()), (&b"lines"[..], 0));
        lines.extend_from_slice(b"more");
        out.refill(&mut lines);
        assert_eq!((out.unwritten(), &lines[..]), (&b"lines"[..], &b"more"[..]));
    }
}
