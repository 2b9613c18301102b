//! A frame of RFC 6455 as it travels, right or wrong, independently of the crate.

/// A binary message, or its first frame, without the bit that ends a message.
pub const BINARY: u8 = 0x02;
/// The bit that ends a message.
pub const FIN: u8 = 0x80;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;

/// What masks a frame of the kit. Any four bytes will do.
const MASK: [u8; 4] = [0x5a, 0x01, 0xff, 0x10];

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its end bit, its reserved bits and its opcode.
    pub first: u8,
    pub is_masked: bool,
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame as a client has to send it.
    pub fn masked(first: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { first, is_masked: true, payload: payload.into() }
    }

    /// A frame as a server has to send it.
    pub fn bare(first: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { first, is_masked: false, payload: payload.into() }
    }

    pub fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    pub fn is_control(&self) -> bool {
        self.opcode() & 0x08 != 0
    }

    pub fn is_last(&self) -> bool {
        self.first & FIN != 0
    }

    /// Takes the first frame out of `bytes`; `None` if it is incomplete.
    pub fn take(bytes: &mut Vec<u8>) -> Option<Self> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (length, at) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
            short => (u64::from(short), 2),
        };
        let is_masked = second & 0x80 != 0;
        let mask: [u8; 4] = match is_masked {
            true => *bytes.get(at..)?.first_chunk()?,
            false => [0; 4],
        };
        let begin = at + if is_masked { 4 } else { 0 };
        let end = begin.checked_add(usize::try_from(length).ok()?)?;
        let mut payload = bytes.get(begin..end)?.to_vec();
        apply(mask, &mut payload);
        bytes.drain(..end);
        Some(Self { first, is_masked, payload })
    }

    /// Whether `bytes` begin with a frame that no end can send: its length is over 2^63-1.
    pub fn is_endless(bytes: &[u8]) -> bool {
        bytes.get(1..3).is_some_and(|it| it[0] & 0x7f == 127 && it[1] >= 0x80)
    }

    pub fn encode(&self) -> Vec<u8> {
        let masked = if self.is_masked { 0x80 } else { 0 };
        let mut bytes = vec![self.first];
        match self.payload.len() {
            short @ 0..126 => bytes.push(masked | short as u8),
            long @ 126..0x1_0000 => {
                bytes.push(masked | 126);
                bytes.extend((long as u16).to_be_bytes());
            }
            long => {
                bytes.push(masked | 127);
                bytes.extend((long as u64).to_be_bytes());
            }
        }
        let mut payload = self.payload.clone();
        if self.is_masked {
            bytes.extend(MASK);
            apply(MASK, &mut payload);
        }
        bytes.extend(payload);
        bytes
    }
}

fn apply(mask: [u8; 4], bytes: &mut [u8]) {
    bytes.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_as_it_was_encoded() {
        for length in [0, 125, 126, 0xffff, 0x1_0000] {
            for is_masked in [false, true] {
                let frame = Frame { first: 0x82, is_masked, payload: vec![b'x'; length] };
                let whole = frame.encode();
                let mut cut = whole[..whole.len() - 1].to_vec();
                assert_eq!(Frame::take(&mut cut), None);
                let mut more = [&whole[..], b"more"].concat();
                assert_eq!(Frame::take(&mut more), Some(frame));
                assert_eq!(more, b"more");
            }
        }
    }
}
