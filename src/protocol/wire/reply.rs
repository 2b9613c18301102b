//! Replies: the lines to the client that carry an id.

use std::{fmt, num::NonZeroU64};

use crate::protocol::wire::{
    code::Code,
    encode,
    escape::Escaped,
    id::RequestId,
    outcome::Outcome,
    parse::{Line, Mark, Rest},
};

/// The code of a request that did not succeed, and a text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reason {
    /// Explains the outcome, but never decides it.
    pub code: Code,
    /// A text for people. It comes from the peer, so show it escaped.
    pub text: String,
}

impl Reason {
    /// A reason from its parts.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// Reads `CODE [text]`. `None` if there is no code: the line is then malformed.
    pub fn parse(rest: Rest<'_>) -> Option<Self> {
        let (code, text) = rest.split_argument();
        let code = Code::new(std::str::from_utf8(code).ok()?)?;
        let text = String::from_utf8_lossy(&text.plain()).into_owned();
        Some(Self { code, text })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            return self.code.fmt(f);
        }
        write!(f, "{}: {}", self.code, Escaped(self.text.as_bytes()))
    }
}

/// Appends a terminal line that is not `ok`: `ID WORD CODE [text] LF`.
pub(crate) fn encode_failure(
    out: &mut Vec<u8>,
    id: RequestId,
    outcome: Outcome,
    code: &Code,
    text: fmt::Arguments<'_>,
) {
    let head = format_args!("{outcome} {code}");
    encode::display(out, Mark::Id(id), head, text);
}

/// Appends `ID no;retry=MS CODE [text] LF`: a refusal with a retry hint.
pub(crate) fn encode_refusal(
    out: &mut Vec<u8>,
    id: RequestId,
    retry: NonZeroU64,
    code: &Code,
    text: fmt::Arguments<'_>,
) {
    let head = format_args!("{};retry={retry} {code}", Outcome::No);
    encode::display(out, Mark::Id(id), head, text);
}

/// A line from the server, by its mark.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Incoming<'a> {
    Reply(RequestId, Outcome, Line<'a>),
    Notice(Line<'a>),
    Notification(Line<'a>),
    /// A line with an id whose word is not one of the five of replies.
    Unknown(RequestId),
}

impl<'a> From<Line<'a>> for Incoming<'a> {
    fn from(line: Line<'a>) -> Self {
        match line.mark {
            Mark::Id(id) => match Outcome::from_word(line.word) {
                Some(outcome) => Self::Reply(id, outcome, line),
                None => Self::Unknown(id),
            },
            Mark::Reserved if line.word.is_protocol() => Self::Notice(line),
            Mark::Reserved => Self::Notification(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(line: &[u8]) -> Reason {
        parse(line).unwrap()
    }

    fn parse(line: &[u8]) -> Option<Reason> {
        Reason::parse(Line::parse(line).unwrap().rest)
    }

    #[test]
    fn a_reason_is_parsed_into_code_and_text() {
        assert_eq!(reason(b"1 no busy"), Reason::new(Code::BUSY, ""));
        let full = reason(b"1 err not-found no offer \x1b[1m 7");
        assert_eq!(full.code, "not-found");
        assert_eq!(full.to_string(), r"not-found: no offer \x1b[1m 7");
        assert_eq!(parse(b"1 err Not_A_Code x"), None);
        assert_eq!(parse(b"1 err"), None);
    }

    #[test]
    fn a_failure_stays_on_one_line_for_any_text() {
        let mut out = Vec::new();
        let text = format_args!("a\nb");
        encode_failure(&mut out, RequestId::FIRST, Outcome::Cut, &Code::LOST, text);
        assert_eq!(out, b"1 cut lost a\x10Jb\n");
    }
}
