//! Request ids: 1 to 2^53-1, rising on a connection, never reused.

use std::{fmt, num::NonZeroU64};

/// The greatest number of the protocol. It is the greatest integer that every JSON reader
/// represents exactly.
pub const MAX_NUMBER: u64 = (1 << 53) - 1;

/// The id of a request: 1 to 2^53-1 (PROTOCOL.md, section 3).
///
/// ```
/// use bellwire::protocol::RequestId;
///
/// assert_eq!(RequestId::new(7).unwrap().get(), 7);
/// assert!(RequestId::new(0).is_none());
/// assert!(RequestId::new(1 << 53).is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(NonZeroU64);

impl RequestId {
    /// The first id that bellwire's client uses on a connection.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// An id; `None` if `value` is not in 1 to 2^53-1.
    pub const fn new(value: u64) -> Option<Self> {
        if value > MAX_NUMBER {
            return None;
        }
        match NonZeroU64::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The id after this one; `None` after 2^53-1.
    pub const fn next(self) -> Option<Self> {
        Self::new(self.get() + 1)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads a number of the protocol: decimal, without a sign or a leading zero, at most 2^53-1.
pub fn parse_number(bytes: &[u8]) -> Option<u64> {
    let (&first, _) = bytes.split_first()?;
    if bytes.len() > 16 || (first == b'0' && bytes.len() > 1) {
        return None;
    }
    let mut value = 0u64;
    for byte in bytes {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u64::from(digit);
    }
    (value <= MAX_NUMBER).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_spelling_and_an_upper_bound() {
        assert_eq!(parse_number(b"0"), Some(0));
        assert_eq!(parse_number(b"9007199254740991"), Some(MAX_NUMBER));
        for bad in
            ["", "01", "00", "+1", "-1", " 1", "1 ", "9007199254740992", "1e3", "99999999999999999"]
        {
            assert_eq!(parse_number(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn the_last_id_is_the_greatest_number() {
        let last = RequestId::new(MAX_NUMBER).unwrap();
        assert_eq!(last.next(), None);
        assert_eq!(RequestId::FIRST.next().map(RequestId::get), Some(2));
    }
}
