//! Copies payloads out of the read buffer.

use bytes::{Bytes, BytesMut};

/// The longest payload that shares an allocation with others.
const SHORT: usize = 128;
/// The maximum size of an allocation that short payloads share. Each of its payloads keeps it
/// alive.
const BLOCK: usize = 512;

/// A sequence of lines whose payloads may share allocations. Payloads of different runs share none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    Replies,
    /// The notifications of one topic, identified by the address of its state.
    Notifications(usize),
}

/// Copies the payloads of one read. Short payloads of a run share allocations, because they are
/// often dropped together, and by another thread.
///
/// A shared allocation is never larger than the payloads that the run had before it. So a queue
/// that holds a whole run uses at most about twice the bytes of its payloads.
#[derive(Debug)]
pub(super) struct Payloads {
    run: Run,
    /// Payload bytes of the run so far.
    so_far: usize,
    /// Space for the next payloads.
    block: BytesMut,
}

impl Payloads {
    /// Begins a read.
    pub(super) fn new() -> Self {
        Self { run: Run::Replies, so_far: 0, block: BytesMut::new() }
    }

    /// Copies the next payload of a run.
    pub(super) fn copy(&mut self, run: Run, payload: &[u8]) -> Bytes {
        if self.run != run {
            *self = Self { run, ..Self::new() };
        }
        let len = payload.len();
        if len > SHORT || len == 0 {
            return Bytes::copy_from_slice(payload);
        }
        let room = self.so_far.min(BLOCK);
        self.so_far += len;
        if self.block.capacity() < len {
            if room < 2 * len {
                return Bytes::copy_from_slice(payload);
            }
            self.block = BytesMut::with_capacity(room);
        }
        self.block.extend_from_slice(payload);
        self.block.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of payloads in each allocation.
    fn shared(copies: &[Bytes]) -> Vec<usize> {
        let is_next = |one: &Bytes, other: &Bytes| {
            one.as_ptr().wrapping_add(one.len()) == other.as_ptr() && !other.is_unique()
        };
        copies.chunk_by(is_next).map(<[Bytes]>::len).collect()
    }

    #[test]
    fn short_payloads_share_blocks_of_bounded_size() {
        let mut payloads = Payloads::new();
        let copies: Vec<_> = (0..64_u8).map(|n| payloads.copy(Run::Replies, &[n; 32])).collect();
        for (n, copy) in (0..).zip(&copies) {
            assert_eq!(copy, &[n; 32][..]);
        }
        assert_eq!(shared(&copies), [1, 1, 2, 4, 8, 16, 16, 16]);
        assert!(copies[..2].iter().all(Bytes::is_unique));
    }

    #[test]
    fn long_payloads_and_separate_batches_share_no_block() {
        let mut payloads = Payloads::new();
        let topics = [Run::Notifications(1), Run::Notifications(2), Run::Replies];
        let copies: Vec<_> =
            topics.repeat(50).into_iter().map(|run| payloads.copy(run, b"x")).collect();
        assert!(copies.iter().all(Bytes::is_unique));
        assert!(payloads.copy(Run::Replies, &[b'x'; SHORT + 1]).is_unique());
        assert!(payloads.copy(Run::Replies, b"").is_empty());
    }
}
