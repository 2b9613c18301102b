//! The bytes that a connection has to write.

use std::mem;

use crate::protocol::Time;

/// The most room that an empty buffer keeps.
const KEPT: usize = 64 * 1024;

/// Bytes to be written, and how many of them are already written.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    written: usize,
    /// Whether the transport took bytes since it was last blocked.
    has_moved: bool,
    /// Since when the transport has taken none of the waiting bytes.
    stuck: Option<Time>,
    /// Whether the transport took bytes since it was last flushed.
    is_unflushed: bool,
}

impl Output {
    /// The buffer that encoders append to.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Bytes not yet written.
    pub(super) fn unwritten(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The allocated room, in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether everything is written and flushed.
    pub(super) fn is_done(&self) -> bool {
        self.is_empty() && !self.is_unflushed
    }

    /// Since when the transport has taken none of the waiting bytes.
    pub(super) fn stuck(&self) -> Option<Time> {
        self.stuck
    }

    /// Drops all lines except the first, which may be partly written.
    pub(super) fn cut(&mut self) {
        let left = self.unwritten();
        let line = memchr::memchr(b'\n', left).map_or(left.len(), |at| at + 1);
        self.bytes.truncate(self.written + line);
        self.bytes.shrink_to_fit();
    }

    /// Frees room that is kept for later output.
    pub(super) fn shrink(&mut self) {
        if self.bytes.capacity() > 2 * self.bytes.len() {
            self.bytes.shrink_to_fit();
        }
    }

    /// Whether everything is written, and the transport may still hold some of it.
    pub(super) fn needs_flush(&self) -> bool {
        self.is_empty() && self.is_unflushed
    }

    /// The transport was flushed.
    pub(super) fn flushed(&mut self) {
        self.is_unflushed = false;
        if self.is_empty() {
            self.stuck = None;
        }
    }

    /// The transport took `count` bytes.
    pub(super) fn wrote(&mut self, count: usize) {
        self.written += count.min(self.len());
        (self.has_moved, self.is_unflushed) = (true, true);
        if self.is_empty() {
            self.bytes.clear();
            self.written = 0;
            self.bytes.shrink_to(KEPT);
        } else if self.written > self.bytes.len() / 2 {
            // Written bytes are removed once they are the larger part of the buffer.
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    /// The transport takes nothing more at `now`. Returns since when it has taken nothing.
    pub(super) fn blocked(&mut self, now: Time) -> Time {
        if mem::take(&mut self.has_moved) {
            self.stuck = None;
        }
        *self.stuck.get_or_insert(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_transport_without_progress_is_stuck() {
        let at = Time::from_millis;
        let mut output = Output::default();
        output.bytes().extend_from_slice(b"1 ok a\n2 ok b\n");
        assert_eq!(output.blocked(at(1)), at(1));
        assert_eq!(output.blocked(at(2)), at(1));
        output.wrote(3);
        assert_eq!(output.unwritten(), b"k a\n2 ok b\n");
        assert_eq!(output.blocked(at(3)), at(3));
        output.cut();
        assert_eq!(output.unwritten(), b"k a\n");
        output.wrote(4);
        // The transport took everything, and is not yet flushed.
        assert!(output.needs_flush() && !output.is_done());
        assert_eq!(output.blocked(at(5)), at(5));
        output.flushed();
        assert!(output.is_done() && output.stuck().is_none());
    }
}
