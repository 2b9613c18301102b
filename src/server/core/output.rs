//! The bytes that a connection has to write.

use std::mem;

use crate::protocol::Time;

/// A buffer that is empty keeps no more than this.
const KEPT: usize = 64 * 1024;

/// Bytes on their way out, and how many of them are out.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    written: usize,
    /// The transport took something since it was last blocked.
    has_moved: bool,
    /// Since when bytes wait and the transport takes none of them.
    stuck: Option<Time>,
    /// The transport took bytes since it last passed on all that it had.
    is_unflushed: bool,
}

impl Output {
    /// Where encoders append.
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

    /// Bytes there is room for.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether nothing is left to be written, and nothing that was is still on its way.
    pub(super) fn is_done(&self) -> bool {
        self.is_empty() && !self.is_unflushed
    }

    /// Since when the transport has taken none of what waits.
    pub(super) fn stuck(&self) -> Option<Time> {
        self.stuck
    }

    /// Drops all lines but the one that may be written in part.
    pub(super) fn cut(&mut self) {
        let left = self.unwritten();
        let line = memchr::memchr(b'\n', left).map_or(left.len(), |at| at + 1);
        self.bytes.truncate(self.written + line);
        self.bytes.shrink_to_fit();
    }

    /// Gives back the room that is kept for what is to come.
    pub(super) fn shrink(&mut self) {
        if self.bytes.capacity() > 2 * self.bytes.len() {
            self.bytes.shrink_to_fit();
        }
    }

    /// Whether all is written, and the transport may still hold some of it.
    pub(super) fn needs_flush(&self) -> bool {
        self.is_empty() && self.is_unflushed
    }

    /// The transport has passed on all that it took.
    pub(super) fn flushed(&mut self) {
        self.is_unflushed = false;
        if self.is_empty() {
            self.stuck = None;
        }
    }

    /// The transport took so many bytes.
    pub(super) fn wrote(&mut self, count: usize) {
        self.written += count.min(self.len());
        (self.has_moved, self.is_unflushed) = (true, true);
        if self.is_empty() {
            self.bytes.clear();
            self.written = 0;
            self.bytes.shrink_to(KEPT);
        } else if self.written > self.bytes.len() / 2 {
            // What is written is forgotten once it is the larger part.
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    /// The transport takes nothing more at `now`; since when.
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
    fn only_a_transport_that_takes_nothing_is_stuck() {
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
        // All is taken, and still on its way.
        assert!(output.needs_flush() && !output.is_done());
        assert_eq!(output.blocked(at(5)), at(5));
        output.flushed();
        assert!(output.is_done() && output.stuck().is_none());
    }
}
