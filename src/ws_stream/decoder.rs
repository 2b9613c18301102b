//! The decoder of frames. It takes bytes in any pieces, and unmasks payloads in place.

use std::ops::Range;

use crate::ws_stream::frame::{
    Fault, Header, MAX_CONTROL, MAX_HEADER, Opcode, Role, apply, is_sendable,
};

/// Decodes the frames that one end receives.
///
/// It holds no payload but that of an unfinished control frame, of at most 125 bytes. Call
/// [`step`](Self::step) until all bytes are taken. After an error nothing more can be decoded.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    max_message: u64,
    accepts_text: bool,
    /// The first bytes of the next header.
    header: [u8; MAX_HEADER],
    header_len: usize,
    frame: Option<Frame>,
    message: Option<Message>,
    /// The payload of the current control frame.
    control: Vec<u8>,
}

/// A frame whose header was decoded.
#[derive(Debug)]
struct Frame {
    header: Header,
    /// How much of its payload was decoded.
    at: u64,
}

/// A message in progress.
#[derive(Clone, Copy, Debug)]
struct Message {
    is_text: bool,
    /// The bytes of its frames, including the current one.
    length: u64,
}

/// What a call of [`Decoder::step`] has found. Exhaustive: RFC 6455 has no other frames.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet: more bytes are needed.
    More,
    /// A part of a message's payload, unmasked, at this range of the bytes that were passed in. It
    /// may be empty.
    Data {
        /// Where the payload is.
        range: Range<usize>,
        /// Whether the message is a text.
        is_text: bool,
        /// Whether the message ends here.
        is_end: bool,
    },
    /// A ping. It has to be answered with a pong that carries the same payload.
    Ping(Vec<u8>),
    /// A pong.
    Pong,
    /// The peer's last frame, with its code if it has one.
    Close(Option<u16>),
}

impl Decoder {
    /// The decoder for the end `role`, with messages of at most `max_message` bytes.
    pub fn new(role: Role, max_message: u64) -> Self {
        Self {
            role,
            max_message,
            accepts_text: false,
            header: [0; MAX_HEADER],
            header_len: 0,
            frame: None,
            message: None,
            control: Vec::new(),
        }
    }

    /// Accepts text messages, too. It does not check that they are UTF-8.
    #[must_use]
    pub fn with_text(mut self) -> Self {
        self.accepts_text = true;
        self
    }

    /// Decodes from the beginning of `bytes`. Returns how many of them it has taken, and what it
    /// has found. It takes at least one byte if there is one.
    ///
    /// # Errors
    /// The first fault, as soon as it can be known.
    pub fn step(&mut self, bytes: &mut [u8]) -> Result<(usize, Step), Fault> {
        let mut taken = 0;
        if self.frame.is_none() {
            taken = self.take_header(bytes)?;
        }
        let Some(frame) = &mut self.frame else { return Ok((taken, Step::More)) };
        let rest = bytes.get_mut(taken..).unwrap_or_default();
        let left = frame.header.length - frame.at;
        let count = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        let payload = &mut rest[..count];
        if let Some(mask) = frame.header.mask {
            apply(mask, frame.at, payload);
        }
        frame.at += count as u64;
        let (header, is_end) = (frame.header, frame.at == frame.header.length);
        if is_end {
            self.frame = None;
        }
        let step = match header.opcode.is_control() {
            true => {
                self.control.extend_from_slice(payload);
                if is_end { self.end_of_control(header.opcode)? } else { Step::More }
            }
            false => self.data(taken..taken + count, is_end && header.is_last),
        };
        Ok((taken + count, step))
    }

    /// Takes bytes of a header. If it is complete, begins its frame.
    fn take_header(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let before = self.header_len;
        let count = bytes.len().min(MAX_HEADER - before);
        self.header[before..before + count].copy_from_slice(&bytes[..count]);
        let Some(header) = Header::parse(&self.header[..before + count], self.role)? else {
            self.header_len += count;
            return Ok(count);
        };
        self.header_len = 0;
        self.begin(header)?;
        self.frame = Some(Frame { header, at: 0 });
        Ok(header.len() - before)
    }

    /// Checks a frame against the message that it belongs to.
    fn begin(&mut self, header: Header) -> Result<(), Fault> {
        let message = match (header.opcode, self.message) {
            (opcode, _) if opcode.is_control() => return Ok(()),
            (Opcode::Continuation, Some(message)) => message,
            (Opcode::Continuation, None) | (_, Some(_)) => return Err(Fault::Order),
            (Opcode::Text, None) if !self.accepts_text => return Err(Fault::Text),
            (opcode, None) => Message { is_text: opcode == Opcode::Text, length: 0 },
        };
        let length = message.length.saturating_add(header.length);
        if length > self.max_message {
            return Err(Fault::TooLong);
        }
        self.message = Some(Message { length, ..message });
        Ok(())
    }

    fn data(&mut self, range: Range<usize>, is_end: bool) -> Step {
        let is_text = self.message.is_some_and(|message| message.is_text);
        if is_end {
            self.message = None;
        }
        Step::Data { range, is_text, is_end }
    }

    fn end_of_control(&mut self, opcode: Opcode) -> Result<Step, Fault> {
        debug_assert!(self.control.len() <= MAX_CONTROL);
        let payload = std::mem::take(&mut self.control);
        match opcode {
            Opcode::Ping => Ok(Step::Ping(payload)),
            Opcode::Close => parse_close(&payload).map(Step::Close),
            _ => Ok(Step::Pong),
        }
    }
}

/// The code of a close frame.
fn parse_close(payload: &[u8]) -> Result<Option<u16>, Fault> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(Fault::Control) };
    };
    let code = u16::from_be_bytes(*code);
    if !is_sendable(code) {
        return Err(Fault::CloseCode);
    }
    std::str::from_utf8(reason).map_err(|_| Fault::Reason)?;
    Ok(Some(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws_stream::frame::encode;

    const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

    /// The payload, and the other steps, of bytes that come in pieces.
    fn decode(bytes: &[u8], size: usize, max: u64) -> (Vec<u8>, Vec<Step>, Option<Fault>) {
        let mut decoder = Decoder::new(Role::Server, max);
        let (mut payload, mut steps) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            let mut piece = piece.to_vec();
            let mut piece = &mut piece[..];
            while !piece.is_empty() {
                let (taken, step) = match decoder.step(piece) {
                    Ok(step) => step,
                    Err(fault) => return (payload, steps, Some(fault)),
                };
                assert!(taken > 0);
                match step {
                    Step::More => {}
                    Step::Data { range, is_end, .. } => {
                        payload.extend_from_slice(&piece[range]);
                        if is_end {
                            payload.push(b'|');
                        }
                    }
                    step => steps.push(step),
                }
                piece = &mut piece[taken..];
            }
        }
        (payload, steps, None)
    }

    #[test]
    fn pieces_of_any_size_give_the_same_result() {
        let mut bytes = Vec::new();
        encode(&mut bytes, Opcode::Binary, false, b"hello ", MASK);
        encode(&mut bytes, Opcode::Ping, true, b"there?", MASK);
        encode(&mut bytes, Opcode::Continuation, false, b"", MASK);
        encode(&mut bytes, Opcode::Continuation, true, b"world", MASK);
        encode(&mut bytes, Opcode::Binary, true, &[b'x'; 300], MASK);
        encode(&mut bytes, Opcode::Pong, true, b"", MASK);
        encode(&mut bytes, Opcode::Close, true, b"\x03\xe8bye", MASK);
        let payload = [b"hello world|", &[b'x'; 300][..], b"|"].concat();
        let steps = vec![Step::Ping(b"there?".to_vec()), Step::Pong, Step::Close(Some(1000))];
        for size in 1..=bytes.len() {
            assert_eq!(decode(&bytes, size, 300), (payload.clone(), vec_of(&steps), None));
        }
    }

    fn vec_of(steps: &[Step]) -> Vec<Step> {
        let copy = |step: &Step| match step {
            Step::Ping(payload) => Step::Ping(payload.clone()),
            Step::Close(code) => Step::Close(*code),
            _ => Step::Pong,
        };
        steps.iter().map(copy).collect()
    }

    #[test]
    fn frames_out_of_order_are_refused() {
        let frames = |frames: &[(Opcode, bool, &[u8])]| {
            let mut bytes = Vec::new();
            for (opcode, is_last, payload) in frames {
                encode(&mut bytes, *opcode, *is_last, payload, MASK);
            }
            decode(&bytes, 3, 10).2
        };
        use Opcode::{Binary, Close, Continuation, Text};
        assert_eq!(frames(&[(Continuation, true, b"x")]), Some(Fault::Order));
        assert_eq!(frames(&[(Binary, false, b"x"), (Binary, true, b"x")]), Some(Fault::Order));
        assert_eq!(frames(&[(Text, true, b"x")]), Some(Fault::Text));
        assert_eq!(frames(&[(Binary, true, b"12345678901")]), Some(Fault::TooLong));
        let parts: [(_, _, &[u8]); 2] =
            [(Binary, false, b"123456"), (Continuation, true, b"78901")];
        assert_eq!(frames(&parts), Some(Fault::TooLong));
        assert_eq!(frames(&[(Close, true, b"\x03")]), Some(Fault::Control));
        assert_eq!(frames(&[(Close, true, b"\x03\xed")]), Some(Fault::CloseCode));
        assert_eq!(frames(&[(Close, true, b"\x03\xe8\xff")]), Some(Fault::Reason));
        assert_eq!(frames(&[(Close, true, b"")]), None);
    }
}
