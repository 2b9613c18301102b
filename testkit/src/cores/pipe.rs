//! One direction of a transport: bytes in transit.

use std::collections::VecDeque;

/// The bytes in transit from one end to the other.
pub(super) struct Pipe {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// The writer has closed it, or it was cut. Further written bytes are dropped.
    is_shut: bool,
    /// The reader was dropped. Further written bytes are dropped, too.
    is_deaf: bool,
    was_eof_read: bool,
}

/// The result of a read.
pub(super) enum Read {
    Bytes(Vec<u8>),
    Eof,
    /// Nothing to read now.
    Pending,
}

impl Pipe {
    pub(super) fn new(capacity: usize) -> Self {
        let bytes = VecDeque::new();
        Self { bytes, capacity, is_shut: false, is_deaf: false, was_eof_read: false }
    }

    pub(super) fn room(&self) -> usize {
        match self.is_deaf || self.is_shut {
            true => usize::MAX,
            false => self.capacity.saturating_sub(self.bytes.len()),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        if !self.is_deaf && !self.is_shut {
            self.bytes.extend(bytes);
        }
    }

    /// Reads at most `most` bytes.
    pub(super) fn read(&mut self, most: usize) -> Read {
        if self.bytes.is_empty() {
            return match self.is_shut && !self.was_eof_read {
                true => {
                    self.was_eof_read = true;
                    Read::Eof
                }
                false => Read::Pending,
            };
        }
        Read::Bytes(self.bytes.drain(..most.min(self.bytes.len())).collect())
    }

    /// Whether a read returns bytes or the end.
    pub(super) fn is_readable(&self) -> bool {
        !self.bytes.is_empty() || (self.is_shut && !self.was_eof_read)
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn shut(&mut self) {
        self.is_shut = true;
    }

    /// Drops the reader.
    pub(super) fn deafen(&mut self) {
        self.is_deaf = true;
        self.bytes.clear();
    }

    /// Lets only `left` of the bytes in transit arrive.
    pub(super) fn cut(&mut self, left: usize) {
        self.bytes.truncate(left);
        self.shut();
    }
}
