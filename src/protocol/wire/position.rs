//! Positions: a log, and the next number in it.

use std::{fmt, str::FromStr};

use crate::protocol::wire::id::{MAX_NUMBER, parse_number};

/// The longest epoch, in bytes.
pub const MAX_EPOCH: usize = 32;

/// The identity of a topic's log: 1 to 32 of `A-Z a-z 0-9` (PROTOCOL.md, section 4).
///
/// An epoch and a sequence number together never name two different messages.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    len: u8,
    bytes: [u8; MAX_EPOCH],
}

impl Epoch {
    /// The epoch; `None` if `epoch` breaks the syntax of epochs.
    pub fn new(epoch: &str) -> Option<Self> {
        let mut bytes = [0; MAX_EPOCH];
        let legal = !epoch.is_empty() && epoch.bytes().all(|byte| byte.is_ascii_alphanumeric());
        bytes.get_mut(..epoch.len())?.copy_from_slice(epoch.as_bytes());
        legal.then_some(Self { len: epoch.len() as u8, bytes })
    }

    /// Makes an epoch of 13 characters from 64 random bits.
    pub fn from_bits(bits: u64) -> Self {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let mut bytes = [0; MAX_EPOCH];
        for (n, byte) in bytes.iter_mut().take(13).enumerate() {
            let digit = (bits >> (5 * n)) & 31;
            *byte = DIGITS.get(digit as usize).copied().unwrap_or(b'0');
        }
        Self { len: 13, bytes }
    }

    /// The epoch as on the wire.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `EPOCH:SEQ`: a place in a topic's log. It names the *next* number.
///
/// ```
/// use bellwire::protocol::Position;
///
/// let position: Position = "k3f9:19".parse().unwrap();
/// assert_eq!((position.epoch.as_str(), position.next), ("k3f9", 19));
/// assert!("k3f9:0".parse::<Position>().is_err());
/// ```
///
/// Exhaustive: it has two parts on the wire, and applications construct it to resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The log.
    pub epoch: Epoch,
    /// The next sequence number, from 1 to 2^53-1.
    pub next: u64,
}

impl Position {
    /// Whether the position can be sent. There is no position behind the last number of an epoch.
    pub(crate) fn is_sendable(self) -> bool {
        (1..=MAX_NUMBER).contains(&self.next)
    }
}

/// A text that is not a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidPosition;

impl fmt::Display for InvalidPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a position: EPOCH:SEQ, 1 to 32 letters or digits and a number from 1")
    }
}

impl std::error::Error for InvalidPosition {}

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let (epoch, next) = text.split_once(':').ok_or(InvalidPosition)?;
        let epoch = Epoch::new(epoch).ok_or(InvalidPosition)?;
        let next = parse_number(next.as_bytes()).filter(|&next| next > 0).ok_or(InvalidPosition)?;
        Ok(Self { epoch, next })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_have_one_spelling() {
        let longest = format!("{}:9007199254740991", "e".repeat(MAX_EPOCH));
        for good in ["a:1", "K3f9:18", longest.as_str()] {
            assert_eq!(good.parse::<Position>().unwrap().to_string(), good);
        }
        let too_long = format!("{}:1", "e".repeat(MAX_EPOCH + 1));
        for bad in ["", ":", "a", "a:", ":1", "a:0", "a:01", "a:1:2", "a-b:1", too_long.as_str()] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }

    #[test]
    fn random_epochs_are_legal_and_distinct() {
        let epochs = [0, 1, 1 << 63, u64::MAX].map(Epoch::from_bits);
        for (n, epoch) in epochs.iter().enumerate() {
            assert_eq!(Epoch::new(epoch.as_str()), Some(*epoch));
            assert!(!epochs[..n].contains(epoch));
        }
    }
}
