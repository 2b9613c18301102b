//! Frames: their headers, masks, and the reasons for which a connection is closed (RFC 6455).

use std::fmt;

/// The longest header: two bytes, eight of the length, four of the mask.
pub(crate) const MAX_HEADER: usize = 14;
/// The longest payload of a control frame.
pub(crate) const MAX_CONTROL: usize = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
/// Values of the 7-bit length that announce a longer one.
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// Which end of the connection this is. A client masks its frames, and a server does not.
/// Exhaustive: there are two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The end that opened the connection.
    Client,
    /// The end that accepted it.
    Server,
}

/// What a frame carries. Exhaustive: RFC 6455 reserves the other codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// A further part of a message.
    Continuation,
    /// The first part of a text message.
    Text,
    /// The first part of a binary message.
    Binary,
    /// The last frame of an end.
    Close,
    /// A request for a pong with the same payload.
    Ping,
    /// The answer to a ping.
    Pong,
}

impl Opcode {
    const ALL: [(Self, u8); 6] = [
        (Self::Continuation, 0),
        (Self::Text, 1),
        (Self::Binary, 2),
        (Self::Close, 8),
        (Self::Ping, 9),
        (Self::Pong, 10),
    ];

    fn of(bits: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == bits).map(|(opcode, _)| *opcode)
    }

    fn bits(self) -> u8 {
        Self::ALL.iter().find(|(opcode, _)| *opcode == self).map_or(0, |(_, bits)| *bits)
    }

    pub(crate) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Why a connection fails. Each has a close code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A reserved bit is set, and no extension is in use.
    ReservedBits,
    /// An opcode that RFC 6455 does not define.
    Opcode,
    /// A control frame in parts, or with more than 125 bytes.
    Control,
    /// A length that is not in its shortest form, or is over 2^63-1.
    Length,
    /// A frame of a client without a mask, or of a server with one.
    Mask,
    /// A part of a message where none has begun, or a new message within another one.
    Order,
    /// A close frame with a code that may not be sent.
    CloseCode,
    /// A reason in a close frame that is not UTF-8.
    Reason,
    /// A text message.
    Text,
    /// A message that does not end with a whole line. The empty message is one.
    PartialLine,
    /// A message over the limit.
    TooLong,
}

impl Fault {
    /// The close code: docs/protocol/websocket.md, section 24.
    pub fn code(self) -> u16 {
        match self {
            Self::Text => 1003,
            Self::Reason | Self::PartialLine => 1007,
            Self::TooLong => 1009,
            _ => 1002,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReservedBits => "a reserved bit of a frame is set",
            Self::Opcode => "unknown opcode",
            Self::Control => "a control frame is in parts or too long",
            Self::Length => "the length of a frame is not in its shortest form",
            Self::Mask => "only frames of a client are masked",
            Self::Order => "a frame is out of order",
            Self::CloseCode => "invalid close code",
            Self::Reason => "the reason for closing is not UTF-8",
            Self::Text => "messages have to be binary",
            Self::PartialLine => "a message has to end with a whole line",
            Self::TooLong => "a message is too long",
        })
    }
}

impl std::error::Error for Fault {}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) opcode: Opcode,
    /// Whether the frame is the last one of its message.
    pub(crate) is_last: bool,
    pub(crate) length: u64,
    pub(crate) mask: Option<[u8; 4]>,
}

impl Header {
    /// Parses a header. `None` if it is incomplete.
    ///
    /// # Errors
    /// As soon as the bytes cannot begin a header that `role` accepts.
    pub(crate) fn parse(bytes: &[u8], role: Role) -> Result<Option<Self>, Fault> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(Fault::ReservedBits);
        }
        let opcode = Opcode::of(first & 0x0f).ok_or(Fault::Opcode)?;
        let (is_last, short) = (first & FIN != 0, second & !MASKED);
        if opcode.is_control() && (!is_last || usize::from(short) > MAX_CONTROL) {
            return Err(Fault::Control);
        }
        if (second & MASKED != 0) != (role == Role::Server) {
            return Err(Fault::Mask);
        }
        let Some((length, rest)) = parse_length(short, rest)? else { return Ok(None) };
        let mask = match role {
            Role::Client => None,
            Role::Server => match rest.first_chunk() {
                Some(mask) => Some(*mask),
                None => return Ok(None),
            },
        };
        Ok(Some(Self { opcode, is_last, length, mask }))
    }

    /// The number of its bytes.
    pub(crate) fn len(&self) -> usize {
        let length = match self.length {
            0..=125 => 0,
            126..=0xffff => 2,
            _ => 8,
        };
        2 + length + self.mask.map_or(0, |mask| mask.len())
    }

    /// Appends the header.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let masked = if self.mask.is_some() { MASKED } else { 0 };
        out.push(self.opcode.bits() | if self.is_last { FIN } else { 0 });
        match (u8::try_from(self.length), u16::try_from(self.length)) {
            (Ok(length), _) if length < LENGTH_16 => out.push(masked | length),
            (_, Ok(length)) => {
                out.push(masked | LENGTH_16);
                out.extend_from_slice(&length.to_be_bytes());
            }
            _ => {
                out.push(masked | LENGTH_64);
                out.extend_from_slice(&self.length.to_be_bytes());
            }
        }
        out.extend(self.mask.into_iter().flatten());
    }
}

/// The length of a frame, and the bytes after it. `None` if it is incomplete.
fn parse_length(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, Fault> {
    let (length, rest, least) = match short {
        LENGTH_16 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest, 126),
            None => return Ok(None),
        },
        LENGTH_64 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest, 0x1_0000),
            None => return Ok(None),
        },
        _ => (u64::from(short), rest, 0),
    };
    match length < least || length > i64::MAX as u64 {
        true => Err(Fault::Length),
        false => Ok(Some((length, rest))),
    }
}

/// Appends a whole frame to `out`. A client has to give a `mask`, and a server none.
pub fn encode(
    out: &mut Vec<u8>,
    opcode: Opcode,
    is_last: bool,
    payload: &[u8],
    mask: Option<[u8; 4]>,
) {
    let length = payload.len() as u64;
    Header { opcode, is_last, length, mask }.encode(out);
    let begin = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply(mask, 0, &mut out[begin..]);
    }
}

/// Masks or unmasks bytes that begin at offset `at` of a payload.
pub(crate) fn apply(mut mask: [u8; 4], at: u64, bytes: &mut [u8]) {
    mask.rotate_left((at % 4) as usize);
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    rest.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

/// Whether an end may send this close code.
pub(crate) fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(length: u64, mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut out = Vec::new();
        Header { opcode: Opcode::Binary, is_last: true, length, mask }.encode(&mut out);
        out
    }

    #[test]
    fn headers_are_read_as_they_were_written() {
        for length in [0, 125, 126, 127, 0xffff, 0x1_0000, i64::MAX as u64] {
            for (mask, role) in [(None, Role::Client), (Some([1, 2, 3, 4]), Role::Server)] {
                let bytes = header(length, mask);
                let parsed = Header::parse(&bytes, role).unwrap().unwrap();
                assert_eq!((parsed.length, parsed.mask, parsed.len()), (length, mask, bytes.len()));
                for cut in 0..bytes.len() {
                    assert_eq!(Header::parse(&bytes[..cut], role), Ok(None), "{cut} of {length}");
                }
            }
        }
    }

    #[test]
    fn invalid_headers_are_refused() {
        for (bytes, fault) in [
            (&[0xc2, 0x00][..], Fault::ReservedBits),
            (&[0x83, 0x00], Fault::Opcode),
            (&[0x09, 0x00], Fault::Control),
            (&[0x89, 0x7e], Fault::Control),
            (&[0x82, 0x80], Fault::Mask),
            (&[0x82, 0x7e, 0, 125], Fault::Length),
            (&[0x82, 0x7f, 0, 0, 0, 0, 0, 0, 0xff, 0xff], Fault::Length),
            (&[0x82, 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0], Fault::Length),
        ] {
            assert_eq!(Header::parse(bytes, Role::Client), Err(fault), "{bytes:?}");
        }
        assert_eq!(Header::parse(&[0x82, 0x00], Role::Server), Err(Fault::Mask));
    }

    #[test]
    fn a_mask_continues_over_pieces() {
        let mask = [7, 11, 13, 17];
        let plain: Vec<u8> = (0..100).collect();
        let mut whole = plain.clone();
        apply(mask, 0, &mut whole);
        let expected: Vec<u8> = plain.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
        assert_eq!(whole, expected);
        for size in 1..30 {
            let mut pieces = plain.clone();
            for (index, piece) in pieces.chunks_mut(size).enumerate() {
                apply(mask, (index * size) as u64, piece);
            }
            assert_eq!(pieces, whole, "{size}");
        }
    }
}
