//! What a channel announces: messages of a topic, or the end of its log.

use std::iter;

use crate::protocol::Position;

/// `KIND EPOCH NUMBER FIRST LENGTHS LF PAYLOADS`
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Notice<'a> {
    /// The position of the first message, or the end of the log.
    pub(super) at: Position,
    /// The oldest number that is retained.
    pub(super) first: u64,
    pub(super) what: What<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What<'a> {
    Messages { lengths: &'a str, payloads: &'a [u8] },
    Closed,
}

impl<'a> Notice<'a> {
    /// The notice; `None` if another program published it.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let end = memchr::memchr(b'\n', bytes)?;
        let (head, payloads) = bytes.split_at(end);
        let mut words = std::str::from_utf8(head).ok()?.split(' ');
        let (kind, epoch, next, first) =
            (words.next()?, words.next()?, words.next()?, words.next()?);
        let (at, lengths) = (format!("{epoch}:{next}").parse().ok()?, words.next()?);
        let what = match kind {
            "m" => What::Messages { lengths, payloads: payloads.get(1..)? },
            "c" => What::Closed,
            _ => return None,
        };
        Some(Self { at, first: first.parse().ok()?, what })
    }

    /// The messages with their positions.
    pub(super) fn messages(&self) -> impl Iterator<Item = (Position, &'a [u8])> + use<'a> {
        let (lengths, mut rest) = match self.what {
            What::Messages { lengths, payloads } => (lengths, payloads),
            What::Closed => ("", &[][..]),
        };
        let (Position { epoch, next }, mut lengths) = (self.at, lengths.split(','));
        let mut number = next;
        iter::from_fn(move || {
            let (payload, behind) = rest.split_at_checked(lengths.next()?.parse().ok()?)?;
            let at = Position { epoch, next: number };
            (rest, number) = (behind, number + 1);
            Some((at, payload))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_notice_follow_one_another() {
        let notice = Notice::parse(b"m e5 7 3 3,0,2\none\n\n").unwrap();
        assert_eq!((notice.at.to_string(), notice.first), ("e5:7".into(), 3));
        let messages: Vec<_> = notice.messages().map(|(at, it)| (at.to_string(), it)).collect();
        let expected = [("e5:7", &b"one"[..]), ("e5:8", b""), ("e5:9", b"\n\n")];
        assert_eq!(messages, expected.map(|(at, it)| (at.to_owned(), it)));
    }

    #[test]
    fn an_end_has_no_messages() {
        let notice = Notice::parse(b"c e5 7 1 \n").unwrap();
        assert_eq!((&notice.what, notice.messages().count()), (&What::Closed, 0));
    }

    #[test]
    fn other_texts_are_no_notices() {
        for text in ["", "\n", "m", "m e 1 1\n", "m e 0x 1 1\n", "x e 1 1 \n", "m ! 1 1 \n"] {
            assert_eq!(Notice::parse(text.as_bytes()), None, "{text:?}");
        }
        // Lengths that are wrong end the list.
        let notice = Notice::parse(b"m e 1 1 1,9\nxy").unwrap();
        assert_eq!(notice.messages().count(), 1);
    }
}
