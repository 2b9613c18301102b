//! Notices, the protocol's own lines on the reserved channel, and notifications.

use std::{borrow::Cow, fmt};

use uuid::Uuid;

use crate::protocol::wire::{
    attribute::Attributes,
    code::Code,
    encode,
    id::{RequestId, parse_number},
    keys::KeyWindow,
    line::{DEFAULT_MAX_LINE, MIN_MAX_LINE},
    parse::{Line, Mark, Rest},
    position::{Epoch, Position},
    reply::Reason,
    word::is_name,
};

/// The version of the protocol that this crate speaks.
pub const VERSION: u64 = 1;

/// What a server announces in its first line (docs/protocol/reference.md, section 21).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hello {
    /// The protocol's version.
    pub version: u64,
    /// The session, unique to the connection; the nil UUID if the server sent none.
    pub session: Uuid,
    /// The longest line that the server accepts, LF included, in bytes.
    pub max_line: usize,
    /// The most requests that may be in flight at once.
    pub in_flight: usize,
    /// Seconds that a subscription lives without a renewal.
    pub lease: u64,
    /// Seconds after which the server closes a silent client; `None` for no limit.
    pub idle: Option<u64>,
    /// The schemes of `/auth`; empty if the server requires no authentication.
    pub auth: Vec<Code>,
    /// The table of keys; `None` if the server runs no keyed requests.
    pub keys: Option<KeyWindow>,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            version: VERSION,
            session: Uuid::nil(),
            max_line: DEFAULT_MAX_LINE,
            in_flight: 1_024,
            lease: 60,
            idle: None,
            auth: Vec::new(),
            keys: None,
        }
    }
}

impl Hello {
    /// Appends the `/hello`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Self { version, session, max_line, in_flight, lease, idle, auth, keys } = self;
        let head = format_args!(
            "/hello;version={version};session={session};max-line={max_line};in-flight={in_flight};lease={lease}"
        );
        let idle = idle.map(|idle| format!(";idle={idle}")).unwrap_or_default();
        let auth = Schemes(auth);
        let keys = keys.map(|keys| format!(";keys={keys}")).unwrap_or_default();
        let head = format_args!("{head}{idle}{auth}{keys}");
        encode::display(out, Mark::Reserved, head, format_args!(""));
    }

    /// Reads the attributes. `None` if one has an invalid value. For another version only `version`
    /// is read, because other attributes may have another meaning there.
    fn parse(attributes: Attributes<'_>) -> Option<Self> {
        let default = Self::default();
        let version = positive(parse_number(attributes.get("version")?.as_bytes())?)?;
        if version != VERSION {
            return Some(Self { version, ..default });
        }
        let number = |key, least, default| match optional_number(attributes, key)? {
            None => Some(default),
            Some(value) => (value >= least).then_some(value),
        };
        // A number that this platform cannot represent counts as no limit.
        let count = |key, least: usize, default: usize| {
            let count = number(key, least as u64, default as u64)?;
            Some(usize::try_from(count).unwrap_or(usize::MAX))
        };
        Some(Self {
            version,
            session: match attributes.get("session") {
                None => Uuid::nil(),
                Some(session) => session.parse().ok()?,
            },
            max_line: count("max-line", MIN_MAX_LINE, default.max_line)?,
            in_flight: count("in-flight", 1, default.in_flight)?,
            lease: number("lease", 1, default.lease)?,
            idle: optional_positive(attributes, "idle")?,
            auth: match attributes.get("auth") {
                None => Vec::new(),
                Some(schemes) => schemes.split(',').map(Code::new).collect::<Option<_>>()?,
            },
            keys: match attributes.get("keys") {
                None => None,
                Some(keys) => Some(keys.parse().ok()?),
            },
        })
    }
}

/// The attribute `auth`; empty if there are no schemes.
struct Schemes<'a>(&'a [Code]);

impl fmt::Display for Schemes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joints = std::iter::once(";auth=").chain(std::iter::repeat(","));
        joints.zip(self.0).try_for_each(|(joint, scheme)| write!(f, "{joint}{scheme}"))
    }
}

/// A line on the reserved channel, as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice<'a> {
    /// The server's first line.
    Hello(Hello),
    /// Numbers that will not be delivered, from `first` to `last`.
    Gap {
        /// The topic.
        topic: &'a str,
        /// The log.
        epoch: Epoch,
        /// The first number named.
        first: u64,
        /// The last number named.
        last: u64,
        /// The reason.
        reason: Code,
    },
    /// The log has ended. A new log goes on at this position.
    Reset {
        /// The topic.
        topic: &'a str,
        /// The new log, and its next number.
        position: Position,
    },
    /// The subscription has ended. It may be resumed from this position.
    End {
        /// The topic.
        topic: &'a str,
        /// The reason.
        reason: Code,
        /// Where to resume.
        position: Position,
        /// The last number of the log, if the server says that it has not delivered all numbers.
        head: Option<u64>,
    },
    /// An error that belongs to no request.
    Error {
        /// The id of the faulty line, if the server could read one.
        id: Option<RequestId>,
        /// What was wrong.
        reason: Reason,
    },
    /// The server is going away.
    Bye {
        /// The last application id that the server executes; `None` in the first step of a drain.
        last: Option<u64>,
        /// How long the client must not connect again, in milliseconds.
        retry: Option<u64>,
        /// The reason.
        reason: Reason,
    },
    /// The server is alive, but does not read for now.
    Hold,
    /// A notice that this version does not know. The client ignores it.
    Unknown,
}

impl<'a> Notice<'a> {
    /// Reads a line of the reserved channel whose word belongs to the protocol.
    ///
    /// `None` if the line is a malformed notice of this version: a required argument or attribute
    /// is absent, or one is invalid or out of range (docs/protocol/reference.md, section 21).
    pub fn parse(line: &Line<'a>) -> Option<Self> {
        let rest = line.rest;
        match line.word.as_str() {
            "/hello" => Hello::parse(line.attributes).map(Self::Hello),
            "/gap" => parse_gap(rest),
            "/reset" => parse_reset(rest),
            "/end" => parse_end(line),
            "/error" => {
                let id = optional_positive(line.attributes, "id")?;
                Some(Self::Error { id: id.and_then(RequestId::new), reason: Reason::parse(rest)? })
            }
            "/bye" => {
                let last = optional_number(line.attributes, "last")?;
                let retry = optional_positive(line.attributes, "retry")?;
                let reason = match rest.is_empty() {
                    true if last.is_none() => Reason::new(Code::CLOSING, ""),
                    _ => Reason::parse(rest)?,
                };
                Some(Self::Bye { last, retry, reason })
            }
            "/hold" => Some(Self::Hold),
            _ => Some(Self::Unknown),
        }
    }
}

/// The number under `key`. `Some(None)` if it is absent, `None` if it is not a number.
fn optional_number(attributes: Attributes<'_>, key: &str) -> Option<Option<u64>> {
    match attributes.get(key) {
        None => Some(None),
        Some(value) => parse_number(value.as_bytes()).map(Some),
    }
}

/// As [`optional_number`], for a number that must not be 0.
fn optional_positive(attributes: Attributes<'_>, key: &str) -> Option<Option<u64>> {
    match optional_number(attributes, key)? {
        None => Some(None),
        Some(number) => positive(number).map(Some),
    }
}

fn positive(number: u64) -> Option<u64> {
    (number > 0).then_some(number)
}

fn parse_gap(rest: Rest<'_>) -> Option<Notice<'_>> {
    let (topic, rest) = topic_argument(rest)?;
    let (epoch, rest) = text_argument(rest)?;
    let (first, rest) = text_argument(rest)?;
    let (last, rest) = text_argument(rest)?;
    let (first, last) = (parse_number(first.as_bytes())?, parse_number(last.as_bytes())?);
    let gap = Notice::Gap { topic, epoch: Epoch::new(epoch)?, first, last, reason: code(rest)? };
    (1..=last).contains(&first).then_some(gap)
}

fn parse_reset(rest: Rest<'_>) -> Option<Notice<'_>> {
    let (topic, rest) = topic_argument(rest)?;
    let (position, _) = text_argument(rest)?;
    Some(Notice::Reset { topic, position: position.parse().ok()? })
}

fn parse_end<'a>(line: &Line<'a>) -> Option<Notice<'a>> {
    let head = optional_number(line.attributes, "head")?;
    let (topic, rest) = topic_argument(line.rest)?;
    let (reason, rest) = text_argument(rest)?;
    let (position, _) = text_argument(rest)?;
    let (reason, position) = (Code::new(reason)?, position.parse().ok()?);
    Some(Notice::End { topic, reason, position, head })
}

fn topic_argument(rest: Rest<'_>) -> Option<(&str, Rest<'_>)> {
    text_argument(rest).filter(|(topic, _)| is_name(topic.as_bytes()))
}

fn text_argument(rest: Rest<'_>) -> Option<(&str, Rest<'_>)> {
    let (argument, rest) = rest.split_argument();
    let argument = std::str::from_utf8(argument).ok()?;
    (!argument.is_empty()).then_some((argument, rest))
}

fn code(rest: Rest<'_>) -> Option<Code> {
    text_argument(rest).and_then(|(code, _)| Code::new(code))
}

/// A notification's number and payload: `SEQ [payload]`.
pub(crate) fn parse_notification(rest: Rest<'_>) -> Option<(u64, Cow<'_, [u8]>)> {
    let (sequence, payload) = rest.split_argument();
    let sequence = parse_number(sequence).filter(|&sequence| sequence > 0)?;
    Some((sequence, payload.plain()))
}

/// Appends `* /gap TOPIC EPOCH FIRST LAST REASON`.
pub fn encode_gap(
    out: &mut Vec<u8>,
    topic: &crate::protocol::Topic,
    epoch: Epoch,
    numbers: std::ops::RangeInclusive<u64>,
    reason: &Code,
) {
    let (first, last) = (numbers.start(), numbers.end());
    let text = format_args!("{topic} {epoch} {first} {last} {reason}");
    encode::display(out, Mark::Reserved, format_args!("/gap"), text);
}

/// Appends `* /reset TOPIC EPOCH:NEXT`.
pub fn encode_reset(out: &mut Vec<u8>, topic: &crate::protocol::Topic, position: Position) {
    let text = format_args!("{topic} {position}");
    encode::display(out, Mark::Reserved, format_args!("/reset"), text);
}

/// Appends `* /end TOPIC REASON EPOCH:NEXT`.
pub fn encode_end(
    out: &mut Vec<u8>,
    topic: &crate::protocol::Topic,
    reason: &Code,
    position: Position,
) {
    let text = format_args!("{topic} {reason} {position}");
    encode::display(out, Mark::Reserved, format_args!("/end"), text);
}

/// Appends `* /end;head=HEAD TOPIC shutdown EPOCH:NEXT`: the server stops and has not delivered the
/// numbers from NEXT to HEAD.
pub fn encode_end_unread(
    out: &mut Vec<u8>,
    topic: &crate::protocol::Topic,
    position: Position,
    head: u64,
) {
    let text = format_args!("{topic} {} {position}", Code::SHUTDOWN);
    encode::display(out, Mark::Reserved, format_args!("/end;head={head}"), text);
}

/// Appends `* /error[;id=N] CODE [text]`.
pub fn encode_error(
    out: &mut Vec<u8>,
    id: Option<RequestId>,
    code: &Code,
    text: fmt::Arguments<'_>,
) {
    match id {
        None => encode::display(out, Mark::Reserved, format_args!("/error {code}"), text),
        Some(id) => {
            encode::display(out, Mark::Reserved, format_args!("/error;id={id} {code}"), text);
        }
    }
}

/// Appends `* /hold`: the server does not read for now.
pub fn encode_hold(out: &mut Vec<u8>) {
    encode::display(out, Mark::Reserved, format_args!("/hold"), format_args!(""));
}

/// Appends `* /bye REASON`: the first step of a drain.
pub fn encode_goodbye(out: &mut Vec<u8>, reason: &Code) {
    encode::display(out, Mark::Reserved, format_args!("/bye {reason}"), format_args!(""));
}

/// Appends `* /bye;last=N REASON`: the second step of a drain, which names the last id to be
/// executed.
pub fn encode_bye(out: &mut Vec<u8>, last: u64, reason: &Code) {
    let head = format_args!("/bye;last={last}");
    encode::display(out, Mark::Reserved, head, format_args!("{reason}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Topic;

    fn notice(line: &[u8]) -> Option<Notice<'_>> {
        Notice::parse(&Line::parse(line.strip_suffix(b"\n").unwrap_or(line)).unwrap())
    }

    #[test]
    fn hello_round_trips() {
        let hello = Hello { idle: Some(120), session: Uuid::from_u128(7), ..Hello::default() };
        let mut out = Vec::new();
        hello.encode(&mut out);
        assert_eq!(notice(&out), Some(Notice::Hello(hello.clone())));
        let auth = vec![Code::from_static("token"), Code::from_static("x-1")];
        let hello = Hello { auth, ..hello };
        out.clear();
        hello.encode(&mut out);
        assert!(out.ends_with(b";idle=120;auth=token,x-1\n"));
        assert_eq!(notice(&out), Some(Notice::Hello(hello.clone())));
        let hello = Hello { keys: Some("b7q2:300".parse().unwrap()), ..hello };
        out.clear();
        hello.encode(&mut out);
        assert!(out.ends_with(b";idle=120;auth=token,x-1;keys=b7q2:300\n"));
        assert_eq!(notice(&out), Some(Notice::Hello(hello)));
        assert_eq!(notice(b"* /hello;version=1;keys=b7q2:0"), None);
        assert_eq!(notice(b"* /hello;version=1;auth=token,"), None);
        assert!(matches!(notice(b"* /hello;version=1;new=x"), Some(Notice::Hello(_))));
        assert_eq!(notice(b"* /hello;version=one"), None);
        assert_eq!(notice(b"* /hello;version=1;lease=soon"), None);
        assert_eq!(notice(b"* /hello"), None);
        let greatest = b"* /hello;version=1;max-line=9007199254740991;in-flight=4294967295";
        let Some(Notice::Hello(hello)) = notice(greatest) else { panic!("a hello") };
        assert_eq!(hello.max_line as u64, (usize::MAX as u64).min(9_007_199_254_740_991));
        assert_eq!(hello.in_flight, 4_294_967_295);
    }

    #[test]
    fn notices_round_trip() {
        let topic = Topic::new("offers").unwrap();
        let position: Position = "e:8".parse().unwrap();
        let mut out = Vec::new();
        encode_gap(&mut out, &topic, position.epoch, 3..=7, &Code::RETENTION);
        encode_reset(&mut out, &topic, position);
        encode_end(&mut out, &topic, &Code::EXPIRED, position);
        encode_end_unread(&mut out, &topic, position, 12);
        encode_error(&mut out, RequestId::new(4), &Code::ID_ORDER, format_args!("not above 5"));
        encode_goodbye(&mut out, &Code::SHUTDOWN);
        encode_bye(&mut out, 9, &Code::SHUTDOWN);
        let lines: Vec<_> = out.split_inclusive(|&byte| byte == b'\n').map(notice).collect();
        let topic = topic.as_str();
        let epoch = position.epoch;
        let expected = [
            Notice::Gap { topic, epoch, first: 3, last: 7, reason: Code::RETENTION },
            Notice::Reset { topic, position },
            Notice::End { topic, reason: Code::EXPIRED, position, head: None },
            Notice::End { topic, reason: Code::SHUTDOWN, position, head: Some(12) },
            Notice::Error {
                id: RequestId::new(4),
                reason: Reason::new(Code::ID_ORDER, "not above 5"),
            },
            Notice::Bye { last: None, retry: None, reason: Reason::new(Code::SHUTDOWN, "") },
            Notice::Bye { last: Some(9), retry: None, reason: Reason::new(Code::SHUTDOWN, "") },
        ];
        assert_eq!(lines, expected.map(Some));
    }

    /// One rule holds for all values: a value out of range is as malformed as one of another form.
    #[test]
    fn values_out_of_range_are_malformed() {
        let over = "9007199254740992";
        let table = [
            ("/hello;version=1;KEY=1024", "/hello;version=1;KEY=1023", "max-line"),
            ("/hello;version=1;KEY=1", "/hello;version=1;KEY=0", "in-flight"),
            ("/hello;version=1;KEY=1", "/hello;version=1;KEY=0", "lease"),
            ("/hello;version=1;KEY=1", "/hello;version=1;KEY=0", "idle"),
            ("/hello;KEY=1", "/hello;KEY=0", "version"),
            ("/hello;version=2;lease=0", "/hello;lease=0", ""),
            ("/bye;KEY=1", "/bye;KEY=0", "retry"),
            ("/bye;KEY=0 x", "/bye;KEY=0", "last"),
            ("/bye;last=9 x", "/bye;last=9;retry=1", ""),
            ("/error;KEY=1 x", "/error;KEY=0 x", "id"),
            ("/gap a e 1 1 x", "/gap a e 0 1 x", ""),
            ("/gap a e 1 9007199254740991 x", "/gap a e 1 9007199254740992 x", ""),
            ("/gap a e 2 2 x", "/gap a e 2 1 x", ""),
            ("/reset a e:9007199254740991", "/reset a e:9007199254740992", ""),
            ("/end a x e:9007199254740991", "/end a x e:9007199254740992", ""),
            ("/end a x e:1", "/end a x e:0", ""),
        ];
        for (good, bad, key) in table {
            let read =
                |line: &str| notice(format!("* {}", line.replace("KEY", key)).as_bytes()).is_some();
            assert!(read(good) && !read(bad), "{key}: {good}, {bad}");
            if !key.is_empty() {
                for value in [over, "-1", "01", "x", "1.5"] {
                    let (at, _) = good.split_once("KEY=").unwrap();
                    assert!(!read(&format!("{at}KEY={value} x")), "{key}={value}");
                }
            }
        }
    }

    #[test]
    fn bad_arguments_are_malformed_and_unknown_notices_are_not() {
        assert_eq!(notice(b"* /weather;x=1 fine"), Some(Notice::Unknown));
        for bad in ["/gap a e 3 2 x", "/gap a e 0 2 x", "/gap a e 1 x", "/end a b", "/reset a e:0"]
        {
            assert_eq!(notice(format!("* {bad}").as_bytes()), None, "{bad}");
        }
        assert_eq!(notice(b"* /bye;last=x"), None);
    }
}
