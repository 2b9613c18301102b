//! The payloads of what was read.

use bytes::{Bytes, BytesMut};

/// The longest payload that shares an allocation with others.
const SHORT: usize = 128;
/// The most bytes of an allocation that short payloads share. Who keeps one of them keeps it all.
const BLOCK: usize = 512;

/// Copies payloads out of a piece of input. Short ones share allocations: many come in one read, and
/// are dropped by other threads soon.
#[derive(Debug)]
pub(super) struct Payloads {
    /// Room for the next ones.
    block: BytesMut,
    /// Bytes of the input that are still to be handled: no more room is needed.
    pub(super) left: usize,
}

impl Payloads {
    /// For an input of so many bytes.
    pub(super) fn new(input: usize) -> Self {
        Self { block: BytesMut::new(), left: input }
    }

    /// A payload of its own, or one that shares an allocation of at most [`BLOCK`] bytes.
    pub(super) fn copy(&mut self, payload: &[u8]) -> Bytes {
        let len = payload.len();
        if len > SHORT || len == 0 {
            return Bytes::copy_from_slice(payload);
        }
        if self.block.capacity() < len {
            if self.left <= len {
                return Bytes::copy_from_slice(payload);
            }
            self.block = BytesMut::with_capacity(BLOCK.min(len + self.left));
        }
        self.block.extend_from_slice(payload);
        self.block.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_payloads_share_bounded_blocks() {
        let mut payloads = Payloads::new(100_000);
        let copies: Vec<_> = (0..100_u8).map(|n| payloads.copy(&[n; SHORT])).collect();
        for (n, copy) in (0..).zip(&copies) {
            assert_eq!(copy, &[n; SHORT][..]);
        }
        let in_a_row = |two: &[Bytes]| two[0].as_ptr().wrapping_add(SHORT) == two[1].as_ptr();
        let blocks: Vec<_> = copies.chunks(BLOCK / SHORT).collect();
        assert!(blocks.iter().all(|block| block.windows(2).all(in_a_row)));
        let edges =
            blocks.windows(2).map(|two| [two[0].last(), two[1].first()].map(Option::unwrap));
        assert!(edges.into_iter().all(|edge| !in_a_row(&edge.map(Bytes::clone))));
    }

    #[test]
    fn a_long_payload_and_the_last_of_a_read_have_their_own() {
        let mut payloads = Payloads::new(1_000);
        assert!(payloads.copy(&[b'x'; SHORT + 1]).is_unique());
        payloads.left = 0;
        assert!(payloads.copy(b"last").is_unique());
        assert!(payloads.copy(b"").is_empty());
    }
}
