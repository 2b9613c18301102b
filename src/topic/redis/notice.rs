//! What a channel announces: messages of a topic, or the end of its log.

use std::iter;

use crate::protocol::Position;

/// `KIND EPOCH NUMBER FIRST LENGTHS LF PAYLOADS`. The length of a payload that is followed by its
/// key is `PAYLOAD+KEY`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Notice<'a> {
    /// The position of the first message, or the end of the log.
    pub(super) at: Position,
    /// The oldest number that is retained, or was replaced.
    pub(super) first: u64,
    pub(super) what: What<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What<'a> {
    Messages { lengths: &'a str, payloads: &'a [u8] },
    Closed,
}

/// Its position, its key and its payload.
type Message<'a> = (Position, Option<&'a [u8]>, &'a [u8]);

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

    /// The messages with their positions, and the keys of those that have one.
    pub(super) fn messages(&self) -> impl Iterator<Item = Message<'a>> + use<'a> {
        let (lengths, mut rest) = match self.what {
            What::Messages { lengths, payloads } => (lengths, payloads),
            What::Closed => ("", &[][..]),
        };
        let (Position { epoch, next }, mut lengths) = (self.at, lengths.split(','));
        let mut number = next;
        iter::from_fn(move || {
            let length = lengths.next()?;
            let (length, key) =
                length.split_once('+').map_or((length, None), |(a, b)| (a, Some(b)));
            let (payload, behind) = rest.split_at_checked(length.parse().ok()?)?;
            let (key, behind) = match key {
                Some(length) => {
                    let (key, behind) = behind.split_at_checked(length.parse().ok()?)?;
                    (Some(key), behind)
                }
                None => (None, behind),
            };
            let at = Position { epoch, next: number };
            (rest, number) = (behind, number + 1);
            Some((at, key, payload))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_notice_follow_one_another() {
        let notice = Notice::parse(b"m e5 7 3 3,0+1,2\nonek\n\n").unwrap();
        assert_eq!((notice.at.to_string(), notice.first), ("e5:7".into(), 3));
        let messages = notice.messages().map(|(at, key, it)| (at.to_string(), key, it));
        let expected =
            [("e5:7", None, &b"one"[..]), ("e5:8", Some(&b"k"[..]), b""), ("e5:9", None, b"\n\n")];
        assert!(messages.eq(expected.map(|(at, key, it)| (at.to_owned(), key, it))));
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
        for text in ["m e 1 1 1,9\nxy", "m e 1 1 1,1+1\nxy", "m e 1 1 1,1+x\nxyz"] {
            let notice = Notice::parse(text.as_bytes()).unwrap();
            assert_eq!(notice.messages().count(), 1, "{text:?}");
        }
    }
}
