//! Parses a line into its parts. One parser serves both directions.

use std::{borrow::Cow, fmt};

use memchr::memchr;

use crate::protocol::wire::{
    attribute::Attributes, id::RequestId, limits::MAX_HEAD, line::strip_cr, outcome::Outcome, rest,
    word::Word,
};

/// The mark that a line begins with.
///
/// Exhaustive: version 1 of the protocol has no other marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// A request's id.
    Id(RequestId),
    /// `*`, the reserved channel.
    Reserved,
}

impl Mark {
    /// The request's id; `None` for the reserved channel.
    pub fn id(self) -> Option<RequestId> {
        match self {
            Self::Id(id) => Some(id),
            Self::Reserved => None,
        }
    }
}

/// The body of a line, still stuffed. **Invariant:** no LF, no raw CR, no invalid DLE pair.
#[derive(Clone, Copy, Eq)]
pub struct Rest<'a> {
    bytes: &'a [u8],
    /// Whether the body may hold stuffed bytes. The check finds this out, so it is not searched
    /// again.
    has_pairs: bool,
}

impl<'a> Rest<'a> {
    const EMPTY: Rest<'static> = Rest { bytes: &[], has_pairs: false };

    /// The bytes as on the wire.
    pub fn stuffed(self) -> &'a [u8] {
        self.bytes
    }

    /// The plain bytes; borrowed from the line if nothing was stuffed.
    pub fn plain(self) -> Cow<'a, [u8]> {
        match self.has_pairs {
            true => rest::unstuff(self.bytes),
            false => Cow::Borrowed(self.bytes),
        }
    }

    /// Whether the body is empty. An absent body counts as empty.
    pub fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// Splits at the first SP. Returns the argument before it, and the part of the body behind it.
    ///
    /// Stuffing never adds or hides an SP, so it makes no difference that the body is split before
    /// it is unstuffed.
    pub fn split_argument(self) -> (&'a [u8], Rest<'a>) {
        match memchr(b' ', self.bytes) {
            Some(at) => {
                let (argument, from_space) = self.bytes.split_at(at);
                (argument, Self { bytes: from_space.get(1..).unwrap_or_default(), ..self })
            }
            None => (self.bytes, Self::EMPTY),
        }
    }
}

impl PartialEq for Rest<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

/// Shows only the length on the wire, because a payload may be secret.
impl fmt::Debug for Rest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rest({} bytes)", self.bytes.len())
    }
}

/// The parts of a line, borrowed from its bytes: `mark SP word attributes [SP body]`.
///
/// ```
/// use bellwire::protocol::{Line, Mark, RequestId};
///
/// let line = Line::parse(b"7 offers.get;ttl=500 42").unwrap();
/// assert_eq!(line.mark, Mark::Id(RequestId::new(7).unwrap()));
/// assert_eq!(line.word.as_str(), "offers.get");
/// assert_eq!(line.attributes.get("ttl"), Some("500"));
/// assert_eq!(line.rest.plain().as_ref(), b"42");
///
/// let fault = Line::parse(b"8 offers.get;TTL=1").unwrap_err();
/// assert_eq!((fault.at, fault.id.map(RequestId::get)), (13, Some(8)));
/// ```
///
/// Exhaustive: a line of version 1 of the protocol has no other parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The id, or the reserved channel.
    pub mark: Mark,
    /// A method, a topic, `ok`, or another word of the protocol.
    pub word: Word<'a>,
    /// The attributes of the head.
    pub attributes: Attributes<'a>,
    /// The body.
    pub rest: Rest<'a>,
}

/// A line that breaks the syntax (PROTOCOL.md, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Malformed {
    /// The offset of the first byte that is wrong, counted from 0.
    pub at: usize,
    /// What is wrong with it.
    pub what: &'static str,
    /// The id that the line begins with, if it is valid.
    pub id: Option<RequestId>,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.at, self.what)
    }
}

impl std::error::Error for Malformed {}

impl<'a> Line<'a> {
    /// Parses a line, given without its LF. It does not allocate.
    ///
    /// # Errors
    /// [`Malformed`], with the offset of the first fault.
    pub fn parse(line: &'a [u8]) -> Result<Self, Malformed> {
        let (mark, head_at) = parse_mark(line)?;
        let id = mark.id();
        let fault = |at, what| Malformed { at: head_at + at, what, id };
        let after = line.get(head_at..).unwrap_or_default();
        let (word, behind) = Word::split(after).ok_or_else(|| fault(0, "bad method"))?;
        let word_len = word.as_bytes().len();
        let (attributes, rest) = match behind {
            [] => (Attributes::NONE, &[][..]),
            [b' ', rest @ ..] => (Attributes::NONE, rest),
            _ => {
                let (attributes, rest) = split_attributes(behind);
                let attributes = Attributes::parse(attributes)
                    .map_err(|f| fault(word_len + f.at, f.what).capped())?;
                (attributes, rest)
            }
        };
        if head_at + word_len + attributes.as_str().len() > MAX_HEAD {
            return Err(fault(0, "").head_too_long());
        }
        let has_pairs =
            rest::check(rest).map_err(|(at, what)| fault(after.len() - rest.len() + at, what))?;
        Ok(Self { mark, word, attributes, rest: Rest { bytes: rest, has_pairs } })
    }

    /// Parses a line as a server reads it. One CR before its LF is dropped. Its word must be a
    /// method, so the words of replies are refused.
    ///
    /// # Errors
    /// [`Malformed`], as [`parse`](Self::parse).
    pub fn parse_request(line: &'a [u8]) -> Result<Self, Malformed> {
        let line = Self::parse(strip_cr(line))?;
        if Outcome::from_word(line.word).is_none() {
            return Ok(line);
        }
        let (at, id) = match line.mark {
            Mark::Id(id) => (id.to_string().len() + 1, Some(id)),
            Mark::Reserved => (2, None),
        };
        Err(Malformed { at, what: "bad method", id })
    }
}

impl Malformed {
    /// Only the first fault is reported, so nothing after the longest head is checked.
    fn capped(self) -> Self {
        if self.at < MAX_HEAD { self } else { self.head_too_long() }
    }

    fn head_too_long(self) -> Self {
        Self { at: MAX_HEAD, what: "head too long", ..self }
    }
}

fn split_attributes(behind: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr(b' ', behind).unwrap_or(behind.len());
    let (attributes, from_space) = behind.split_at(end);
    (attributes, from_space.get(1..).unwrap_or_default())
}

/// The mark, and the offset of the word.
fn parse_mark(line: &[u8]) -> Result<(Mark, usize), Malformed> {
    let fault = |what| Malformed { at: 0, what, id: None };
    let mut id = 0;
    for (at, &byte) in line.iter().enumerate().take(MARK_DIGITS + 1) {
        match byte {
            b'0'..=b'9' if at > 0 || byte != b'0' => id = id * 10 + u64::from(byte - b'0'),
            b'*' if line.starts_with(b"* ") => return Ok((Mark::Reserved, 2)),
            b' ' => match RequestId::new(id) {
                Some(id) => return Ok((Mark::Id(id), at + 1)),
                None => break,
            },
            _ => break,
        }
    }
    Err(fault(if line.is_empty() { "empty line" } else { "bad mark" }))
}

/// The digits of the greatest id.
const MARK_DIGITS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: &[u8]) -> (usize, Option<u64>) {
        let fault = Line::parse(line).unwrap_err();
        (fault.at, fault.id.map(RequestId::get))
    }

    #[test]
    fn a_line_is_parsed_into_its_parts() {
        let line = Line::parse(b"* offers 18 {\"id\":43}").unwrap();
        assert_eq!((line.mark, line.word.as_str()), (Mark::Reserved, "offers"));
        let (seq, payload) = line.rest.split_argument();
        assert_eq!((seq, payload.stuffed()), (&b"18"[..], &b"{\"id\":43}"[..]));
        for line in [&b"1 a"[..], b"1 a "] {
            assert!(Line::parse(line).unwrap().rest.is_empty());
        }
        assert_eq!(Line::parse(b"1 a  x").unwrap().rest.stuffed(), b" x");
        assert_eq!(Line::parse(b"1 a x\x10Jy").unwrap().rest.plain().as_ref(), b"x\ny");
    }

    #[test]
    fn a_fault_before_the_id_has_no_id() {
        let lines: [&[u8]; 11] = [
            b"",
            b"1",
            b"*",
            b"*a",
            b"01 a",
            b"0 a",
            b"9007199254740992 a",
            b" 1 a",
            b"1\ta",
            b"GET / HTTP/1.1",
            b"-1 a",
        ];
        for line in lines {
            assert_eq!(fault(line), (0, None), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_fault_behind_the_id_names_the_id() {
        for (line, at) in [
            (&b"7 "[..], 2),
            (b"7  a", 2),
            (b"7 a..b", 2),
            (b"7 /", 2),
            (b"7 \xc3\xa9", 2),
            (b"7 a\x01 x", 2),
            (b"7 a;", 4),
            (b"7 a;k=1;k=2", 8),
            (b"7 a x\ry", 5),
            (b"7 a x\x10", 5),
            (b"7 a\rb", 2),
        ] {
            assert_eq!(fault(line), (at, Some(7)), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn reply_words_are_not_method_names() {
        let fault = Line::parse_request(b"12 ok x").unwrap_err();
        assert_eq!((fault.at, fault.id.map(RequestId::get)), (3, Some(12)));
        assert!(Line::parse(b"12 ok x").is_ok());
        assert!(Line::parse_request(b"12 okay x\r").is_ok());
    }

    #[test]
    fn the_head_has_a_limit() {
        let mut line = b"7 a".to_vec();
        for n in 0..9 {
            line.extend(format!(";k{n}={}", "v".repeat(250)).bytes());
        }
        line.truncate(MAX_HEAD);
        assert!(Line::parse(&line).is_ok());
        line.push(b'v');
        assert_eq!(fault(&line), (MAX_HEAD, Some(7)));
        line.pop();
        line.extend(b" and a rest of any length");
        assert!(Line::parse(&line).is_ok());
    }
}
