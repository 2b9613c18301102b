//! Reads the lines of one connection as they pass, for the wire events of a history. It follows
//! PROTOCOL.md and uses nothing of the library.

use crate::history::{Asked, Line, Span, Word};

/// The direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

/// The bytes of one direction that do not form a whole line yet.
pub struct LineReader {
    way: Way,
    unfinished: Vec<u8>,
}

impl LineReader {
    pub fn new(way: Way) -> Self {
        Self { way, unfinished: Vec::new() }
    }

    /// Takes further bytes, and passes on each whole line that a history records.
    pub fn pass(&mut self, bytes: &[u8], mut record: impl FnMut(Line)) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.unfinished.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.unfinished);
                read(self.way, &line[..line.len() - 1]).into_iter().for_each(&mut record);
            }
        }
    }
}

/// The event of a line, given without its LF; `None` if a history does not record it. The payload
/// of a call, and of a one-way request, begins with its number.
pub fn read(way: Way, line: &[u8]) -> Option<Line> {
    let text = String::from_utf8_lossy(line);
    let (mark, text) = text.split_once(' ')?;
    let (head, rest) = text.split_once(' ').unwrap_or((text, ""));
    let (word, attributes) = head.split_once(';').unwrap_or((head, ""));
    match (way, mark.parse()) {
        (Way::ToServer, Ok(id)) => Some(Line::Request { id, asks: asked(word, rest) }),
        (Way::ToServer, Err(_)) if word.starts_with('/') => None,
        (Way::ToServer, Err(_)) => {
            first_number(rest.as_bytes()).map(|one_way| Line::OneWay { one_way })
        }
        (Way::ToClient, Ok(id)) => Some(Line::Reply { id, word: outcome(word)? }),
        (Way::ToClient, Err(_)) => told(word, attributes, rest),
    }
}

/// The number that a payload begins with.
pub fn first_number(payload: &[u8]) -> Option<u64> {
    let first = payload.split(|&byte| byte == b' ').next()?;
    std::str::from_utf8(first).ok()?.parse().ok()
}

fn asked(method: &str, rest: &str) -> Asked {
    let first = || rest.split(' ').next().unwrap_or_default().to_owned();
    match method {
        "/subscribe" => Asked::Subscribe(first()),
        "/unsubscribe" => Asked::Unsubscribe(first()),
        _ if method.starts_with('/') => Asked::Other,
        _ => first_number(rest.as_bytes()).map_or(Asked::Other, Asked::Call),
    }
}

fn outcome(word: &str) -> Option<Word> {
    Some(match word {
        "more" => Word::More,
        "ok" => Word::Ok,
        "err" => Word::Err,
        "no" => Word::No,
        "cut" => Word::Cut,
        _ => return None,
    })
}

/// A line of the reserved channel.
fn told(word: &str, attributes: &str, rest: &str) -> Option<Line> {
    let mut arguments = rest.split(' ');
    let first = arguments.next().unwrap_or_default();
    let topic = || first.to_owned();
    match word {
        "/gap" => {
            let epoch = arguments.next()?;
            let mut number = || arguments.next()?.parse().ok();
            Some(Line::Gap { topic: topic(), span: Span::new(epoch, number()?, number()?) })
        }
        "/reset" => Some(Line::Reset { topic: topic() }),
        "/end" => {
            let undelivered = undelivered(attributes, arguments.next_back());
            Some(Line::End { topic: topic(), undelivered })
        }
        "/bye" => {
            let last = attributes.split(';').find_map(|attribute| attribute.strip_prefix("last="));
            Some(Line::Bye { last: last?.parse().ok()? })
        }
        _ if word.starts_with('/') => None,
        _ => Some(Line::Notification { topic: word.to_owned(), seq: first.parse().ok()? }),
    }
}

/// The numbers that an `/end` with a head leaves undelivered: from its position to the head.
fn undelivered(attributes: &str, position: Option<&str>) -> Option<Span> {
    let last = attributes.split(';').find_map(|attribute| attribute.strip_prefix("head="))?;
    let (epoch, next) = position?.split_once(':')?;
    let (first, last) = (next.parse().ok()?, last.parse().ok()?);
    (first <= last).then(|| Span::new(epoch, first, last))
}
