//! The outcome of a keyed run, as it is kept and given again.

use std::fmt;

use bytes::Bytes;

use crate::{
    protocol::{
        Code, Epoch, Line, Outcome, Position, Reason, Topic, parse_number, stuff, stuffed_len,
    },
    server::handlers::reply::{After, Answer, Ended, Failure, Reply},
    topic::Published,
};

/// The longest mark of a reply, with the word `ok`, its SPs and the LF.
const AROUND: usize = 21;

/// The outcome of a keyed run: an `ok`, an `err` or a `cut`. Cheap to clone.
///
/// A durable table stores [`encode`](Self::encode), and reads it with [`decode`](Self::decode). The
/// form is that of a reply line without its id and its LF, so it can be read by people, and later
/// versions read it too.
///
/// ```
/// use bellwire::{protocol::Code, server::keys::KeyedOutcome};
///
/// let paid = KeyedOutcome::ok("paid\n");
/// assert_eq!(paid.encode(), b"ok paid\x10J");
/// assert_eq!(KeyedOutcome::decode(b"ok paid\x10J"), Some(paid));
/// assert_eq!(KeyedOutcome::cut(Code::LOST).encode(), b"cut lost");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct KeyedOutcome(Kept);

#[derive(Clone, PartialEq, Eq)]
enum Kept {
    Ok(Bytes),
    /// With the position of the effect.
    After(Bytes, Box<str>, Position),
    Published(Published),
    Err(Failure),
    Cut(Code),
}

impl KeyedOutcome {
    /// `ok` with this payload.
    pub fn ok(payload: impl Into<Bytes>) -> Self {
        Self(Kept::Ok(payload.into()))
    }

    /// `err` with this code and text.
    pub fn err(failure: Failure) -> Self {
        Self(Kept::Err(failure))
    }

    /// `cut` with this code.
    pub fn cut(code: Code) -> Self {
        Self(Kept::Cut(code))
    }

    /// The word.
    pub fn outcome(&self) -> Outcome {
        match &self.0 {
            Kept::Ok(_) | Kept::After(..) | Kept::Published(_) => Outcome::Ok,
            Kept::Err(_) => Outcome::Err,
            Kept::Cut(_) => Outcome::Cut,
        }
    }

    /// The bytes of its payload or text, in memory.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Kept::Ok(payload) => payload.len(),
            Kept::After(payload, topic, _) => payload.len() + topic.len(),
            Kept::Err(failure) => failure.text.len(),
            Kept::Published(_) | Kept::Cut(_) => 0,
        }
    }

    /// The outcome as on the wire: `WORD[;ATTRIBUTES] [BODY]`.
    pub fn encode(&self) -> Vec<u8> {
        let (head, body): (String, &[u8]) = match &self.0 {
            Kept::Ok(payload) => ("ok".into(), payload),
            Kept::After(payload, topic, position) => {
                (format!("ok;after={topic}:{position}"), payload)
            }
            Kept::Published(at) => (format!("ok;epoch={};seq={}", at.epoch, at.sequence), b""),
            Kept::Err(Failure { code, text }) => (format!("err {code}"), text.as_bytes()),
            Kept::Cut(code) => (format!("cut {code}"), b""),
        };
        let mut line = head.into_bytes();
        if !body.is_empty() {
            line.push(b' ');
            stuff(body, &mut line);
        }
        line
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` if it is no such outcome.
    pub fn decode(encoded: &[u8]) -> Option<Self> {
        let line = [b"1 ", encoded].concat();
        let line = Line::parse(&line).ok()?;
        Some(Self(match Outcome::from_word(line.word)? {
            Outcome::Ok => decode_ok(&line)?,
            Outcome::Err => {
                let Reason { code, text, .. } = Reason::parse(line.rest)?;
                Kept::Err(Failure { code, text })
            }
            Outcome::Cut => Kept::Cut(Reason::parse(line.rest)?.code),
            Outcome::More | Outcome::No => return None,
        }))
    }

    /// The outcome of a handler that has ended; `None` if the request was refused, which is not
    /// kept.
    ///
    /// It is a copy, because the bytes of a reply may belong to a larger buffer, and dropping them
    /// may run user code.
    pub(super) fn of(ended: &Ended, max_line: usize) -> Option<Self> {
        let kept = match ended {
            Ended::Replied(Reply(answer)) => of_answer(answer, max_line)?,
            Ended::Refused(_) => return None,
            Ended::Panicked => Kept::Err(Failure::new(Code::INTERNAL, "")),
            Ended::Starved | Ended::Aborted { .. } => Kept::Cut(Code::LOST),
        };
        Some(Self(kept))
    }

    /// The answer to a request that waited for this outcome.
    pub(super) fn to_reply(&self) -> Reply {
        Reply(match self.0.clone() {
            Kept::Ok(payload) => Answer::Ok(payload),
            Kept::After(payload, topic, position) => {
                Answer::After(Box::new(After { payload, topic, position }))
            }
            Kept::Published(published) => Answer::Published(published),
            Kept::Err(failure) => Answer::Err(failure),
            Kept::Cut(code) => Answer::Cut(code),
        })
    }
}

/// Shows only the length of a payload, which may be secret.
impl fmt::Debug for KeyedOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_reply().fmt(f)
    }
}

fn of_answer(answer: &Answer, max_line: usize) -> Option<Kept> {
    let copy = |payload: &Bytes| match stuffed_len(payload) + AROUND > max_line {
        false => Ok(Bytes::copy_from_slice(payload)),
        true => Err(Kept::Err(Failure::new(Code::TOO_LARGE, format!("max-line is {max_line}")))),
    };
    Some(match answer {
        Answer::Ok(payload) => copy(payload).map_or_else(|error| error, Kept::Ok),
        Answer::After(after) => match copy(&after.payload) {
            Ok(payload) => Kept::After(payload, after.topic.clone(), after.position),
            Err(error) => error,
        },
        Answer::Published(published) => Kept::Published(*published),
        Answer::Stream(_) => {
            Kept::Err(Failure::new(Code::INTERNAL, "a keyed request has one reply"))
        }
        Answer::Err(failure) => {
            let mut end = failure.text.len().min(max_line);
            while !failure.text.is_char_boundary(end) {
                end -= 1;
            }
            let text = failure.text.get(..end).unwrap_or_default();
            Kept::Err(Failure::new(failure.code.clone(), text))
        }
        Answer::Cut(code) => Kept::Cut(code.clone()),
        Answer::No(_) => return None,
    })
}

fn decode_ok(line: &Line<'_>) -> Option<Kept> {
    let payload = Bytes::from(line.rest.plain().into_owned());
    let (after, epoch) = (line.attributes.get("after"), line.attributes.get("epoch"));
    Some(match (after, epoch) {
        (Some(after), _) => {
            let (topic, position) = after.split_once(':')?;
            Kept::After(payload, Topic::new(topic).ok()?.as_str().into(), position.parse().ok()?)
        }
        (None, Some(epoch)) => {
            let sequence = parse_number(line.attributes.get("seq")?.as_bytes())?;
            Kept::Published(Published::new(Epoch::new(epoch)?, sequence))
        }
        (None, None) => Kept::Ok(payload),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position() -> Position {
        "e:8".parse().unwrap()
    }

    #[test]
    fn outcomes_are_read_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        for kept in [
            Kept::Ok(Bytes::new()),
            Kept::Ok(bytes.clone().into()),
            Kept::After(bytes.into(), "a/b".into(), position()),
            Kept::Published(Published::new(position().epoch, 7)),
            Kept::Err(Failure::new(Code::from_static("not-found"), "no\noffer \u{e9} ")),
            Kept::Err(Failure::new(Code::INTERNAL, "")),
            Kept::Cut(Code::LOST),
        ] {
            let outcome = KeyedOutcome(kept);
            let encoded = outcome.encode();
            assert!(!encoded.contains(&b'\n'));
            assert_eq!(KeyedOutcome::decode(&encoded), Some(outcome));
        }
    }

    #[test]
    fn other_bytes_are_no_outcome() {
        for bad in ["", "no busy", "more 1", "cut", "err", "ok;epoch=e", "ok;after=x", "ok\n", "x"]
        {
            assert_eq!(KeyedOutcome::decode(bad.as_bytes()), None, "{bad}");
        }
    }

    /// What is kept never exceeds the bound that a table was told.
    #[test]
    fn outcomes_are_bounded() {
        let of = |reply: Reply, max_line| KeyedOutcome::of(&Ended::Replied(reply), max_line);
        let published = Published::new(position().epoch, 7);
        let fits = Reply::ok("x".repeat(1_024 - AROUND)).after("t", published);
        assert_eq!(of(fits, 1_024).unwrap().outcome(), Outcome::Ok);
        for over in ["x".repeat(1_025 - AROUND), "\n".repeat(512)] {
            let kept = of(Reply::ok(over), 1_024).unwrap();
            assert_eq!(kept.encode(), b"err too-large max-line is 1024");
        }
        let text = "\u{e9}".repeat(1_000);
        let kept = of(Reply::err(Failure::new(Code::INTERNAL, text)), 1_025).unwrap();
        assert_eq!(kept.bytes(), 1_024);
    }
}
