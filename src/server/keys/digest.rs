//! The digest of a payload: FNV-1a with 128 bits.
//!
//! It tells by mistake a key that is used for another payload. It need not resist an attack: a
//! client that constructs two payloads with one digest, and sends both with one key of its own,
//! gets the outcome of the first for the second.

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

pub(super) fn digest(payload: &[u8]) -> u128 {
    payload.iter().fold(OFFSET, |hash, &byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Durable tables store digests, so they must never change.
    #[test]
    fn digests_are_those_of_fnv() {
        assert_eq!(digest(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(digest(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        assert_eq!(digest(b"foobar"), 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
    }
}
