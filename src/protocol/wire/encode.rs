//! Encodes lines into a buffer of the caller. Names are validated and the body is stuffed, so a
//! line has exactly one LF, at its end.

use std::fmt::{self, Write as _};

use crate::protocol::wire::{
    attribute::Attributes, id::RequestId, name::Topic, parse::Mark, position::Position, rest,
    word::Word,
};

/// Appends a whole line: `mark SP word attributes [SP body] LF`. `plain_rest` is the body, not
/// stuffed.
///
/// ```
/// use bellwire::protocol::{Attributes, Mark, RequestId, Word, encode};
///
/// let mut out = Vec::new();
/// let id = Mark::Id(RequestId::new(1).unwrap());
/// encode::line(&mut out, id, Word::new("ok").unwrap(), Attributes::NONE, b"4");
/// assert_eq!(out, b"1 ok 4\n");
/// ```
pub fn line(
    out: &mut Vec<u8>,
    mark: Mark,
    word: Word<'_>,
    attributes: Attributes<'_>,
    plain_rest: &[u8],
) {
    self::mark(out, mark);
    body(out, word, attributes, plain_rest);
}

/// Appends the mark and its SP. The mark of a request is known last, so it is written on its own.
pub fn mark(out: &mut Vec<u8>, mark: Mark) {
    match mark {
        Mark::Id(id) => number(out, id.get()),
        Mark::Reserved => out.push(b'*'),
    }
    out.push(b' ');
}

/// Appends all that follows the mark: `word attributes [SP body] LF`. `plain_rest` is the body, not
/// stuffed.
pub fn body(out: &mut Vec<u8>, word: Word<'_>, attributes: Attributes<'_>, plain_rest: &[u8]) {
    out.extend_from_slice(word.as_bytes());
    out.extend_from_slice(attributes.as_str().as_bytes());
    end(out, plain_rest);
}

/// Appends `ID ok [payload] LF`.
pub(crate) fn ok(out: &mut Vec<u8>, id: RequestId, payload: &[u8]) {
    number(out, id.get());
    out.extend_from_slice(b" ok");
    end(out, payload);
}

/// Appends `ID ok;after=TOPIC:POSITION [payload] LF`. Even the longest topic and position stay
/// within the limits of a value and of a head.
pub(crate) fn ok_after(
    out: &mut Vec<u8>,
    id: RequestId,
    topic: &str,
    position: Position,
    payload: &[u8],
) {
    number(out, id.get());
    let _ = write!(Raw(out), " ok;after={topic}:{position}");
    end(out, payload);
}

/// Appends `ID more [payload] LF`.
pub(crate) fn more(out: &mut Vec<u8>, id: RequestId, payload: &[u8]) {
    number(out, id.get());
    out.extend_from_slice(b" more");
    end(out, payload);
}

/// Appends a notification: `* TOPIC SEQ [payload] LF`.
pub fn notification(out: &mut Vec<u8>, topic: &Topic, sequence: u64, payload: &[u8]) {
    out.extend_from_slice(b"* ");
    out.extend_from_slice(topic.as_str().as_bytes());
    out.push(b' ');
    number(out, sequence);
    end(out, payload);
}

/// Whether the line that [`notification`] writes for these has at most `max_line` bytes, LF
/// included, whatever its number is.
pub(crate) fn notification_fits(topic: &Topic, payload: &[u8], max_line: usize) -> bool {
    const MARK_SPACES_NUMBER_LF: usize = 2 + 1 + 16 + 1 + 1;
    let Some(room) = max_line.checked_sub(MARK_SPACES_NUMBER_LF + topic.as_str().len()) else {
        return false;
    };
    // Stuffing at most doubles a payload, so a short one need not be scanned.
    payload.len() <= room / 2 || rest::stuffed_len(payload) <= room
}

/// Appends `[SP body] LF`. `plain_rest` is the body, not stuffed.
fn end(out: &mut Vec<u8>, plain_rest: &[u8]) {
    if !plain_rest.is_empty() {
        out.push(b' ');
        rest::stuff(plain_rest, out);
    }
    out.push(b'\n');
}

/// Appends a line of the protocol itself. Its parts are written with `Display`.
///
/// `head` is the word and its attributes. The text after it is stuffed.
pub(crate) fn display(
    out: &mut Vec<u8>,
    mark: Mark,
    head: fmt::Arguments<'_>,
    text: fmt::Arguments<'_>,
) {
    self::mark(out, mark);
    let _ = Raw(out).write_fmt(head);
    let text_at = out.len();
    out.push(b' ');
    let _ = Stuffed(out).write_fmt(text);
    if out.len() == text_at + 1 {
        out.truncate(text_at);
    }
    out.push(b'\n');
}

/// Appends `value` in decimal.
pub(crate) fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

struct Raw<'a>(&'a mut Vec<u8>);

impl fmt::Write for Raw<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

struct Stuffed<'a>(&'a mut Vec<u8>);

impl fmt::Write for Stuffed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        rest::stuff(text.as_bytes(), self.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Epoch, Line, MAX_EPOCH, MAX_NAME, MAX_NUMBER};

    #[test]
    fn an_encoded_line_is_parsed_back() {
        let mut out = Vec::new();
        let id = Mark::Id(RequestId::new(12).unwrap());
        let attributes = Attributes::parse(b";ttl=5").unwrap();
        line(&mut out, id, Word::new("a.b").unwrap(), attributes, b"x\r\n\x10");
        assert_eq!(out, b"12 a.b;ttl=5 x\x10M\x10J\x10P\n");
        let read = Line::parse(out.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!((read.mark, read.word.as_str(), read.attributes), (id, "a.b", attributes));
        assert_eq!(read.rest.plain().as_ref(), b"x\r\n\x10");
    }

    #[test]
    fn an_empty_rest_has_no_space() {
        let mut out = Vec::new();
        let id = RequestId::FIRST;
        ok(&mut out, id, b"");
        notification(&mut out, &Topic::new("t").unwrap(), 3, b"");
        display(&mut out, Mark::Reserved, format_args!("/bye"), format_args!(""));
        display(&mut out, Mark::Id(id), format_args!("no x"), format_args!("a\nb"));
        assert_eq!(out, b"1 ok\n* t 3\n* /bye\n1 no x a\x10Jb\n");
    }

    /// [B2.2] Even the longest topic, epoch and number stay within the limits of a value and of a
    /// head.
    #[test]
    fn the_longest_after_attribute_is_well_formed() {
        let (topic, epoch) = ("t".repeat(MAX_NAME), "e".repeat(MAX_EPOCH));
        let position = Position { epoch: Epoch::new(&epoch).unwrap(), next: MAX_NUMBER };
        let mut out = Vec::new();
        ok_after(&mut out, RequestId::new(MAX_NUMBER).unwrap(), &topic, position, b"a\nb");
        let line = Line::parse(out.strip_suffix(b"\n").unwrap()).unwrap();
        let after = format!("{topic}:{epoch}:9007199254740991");
        assert_eq!(line.attributes.get("after"), Some(after.as_str()));
        assert_eq!(line.rest.plain().as_ref(), b"a\nb");
    }

    #[test]
    fn a_notification_fits_if_its_line_with_the_longest_number_does() {
        let topic = Topic::new("t").unwrap();
        for payload in [&b""[..], b"a", b"a\nb", b"\n\n\n", &[b'x'; 100], &[b'\n'; 100]] {
            let mut out = Vec::new();
            notification(&mut out, &topic, MAX_NUMBER, payload);
            let longest = out.len() + usize::from(payload.is_empty()); // a space is assumed
            for max_line in 0..=longest + 100 {
                let fits = notification_fits(&topic, payload, max_line);
                assert_eq!(fits, longest <= max_line, "{payload:?} in {max_line}");
            }
        }
    }
}
