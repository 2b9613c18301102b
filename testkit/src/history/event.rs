//! The events of a log. Each is plain data, and one line of text.

use std::fmt;

/// Something that happened at a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A caller begins a call. Its payload begins with a number that no other call of the log has.
    Called { call: u64, key: Option<String> },
    /// The caller learns how the call ended.
    Ended { call: u64, outcome: Outcome },
    /// The future of the call was dropped before it ended.
    GivenUp { call: u64 },
    /// A handler begins, with a payload that names this call.
    Started { call: u64 },
    /// The handler returned, panicked, or was dropped.
    Finished { call: u64 },

    /// A one-way request begins. Its payload begins with a number that nothing else of the log has.
    Told { one_way: u64 },
    /// The request ended in an error: it was not sent, and will not be.
    Untold { one_way: u64 },
    /// A handler begins, with a payload that names this one-way request.
    Heard { one_way: u64 },

    /// A subscription begins, under a number that its process chose. The position is the one that
    /// it asked for, or else the one that it was given. (A subscription that fetched the state by
    /// other means goes on as another one, from the position of that state.)
    Subscribed { subscription: u64, topic: String, from: Number },
    /// The application got a notification.
    Delivered { subscription: u64, number: Number, payload: String },
    /// The application got a gap.
    Missed { subscription: u64, span: Span, cause: Cause },
    /// The application learned that another log goes on from this position.
    Reset { subscription: u64, next: Number },
    /// The application learned that the subscription has ended, and where to resume it.
    Over { subscription: u64, next: Number },
    /// The application dropped the subscription.
    Left { subscription: u64 },
    /// A wait for the message of this number has ended: the subscription has seen it.
    Seen { subscription: u64, number: Number },

    /// A publisher begins. The payload is the message's identity: no two messages have the same
    /// payload. Each publish to a recorded topic is recorded.
    Publishing { topic: String, payload: String },
    /// The publish was confirmed, under this number.
    Published { topic: String, number: Number, payload: String },
    /// The publish ended `NotSent` or `Refused`: it did not take effect.
    Unpublished { topic: String, payload: String },
    /// The head of a server's log of the topic. It is recorded when all is over, before
    /// [`Event::Quiet`].
    Head { topic: String, next: Number },

    /// A server records which numbers it named as gone, to this process. (On the wire it is
    /// [`Line::Gap`].)
    Dropped { to: String, connection: u64, topic: String, span: Span },
    /// A whole line, its LF included, is passed on, as seen between the two ends. The event's
    /// process is the client's; connections have numbers of their own.
    Wire { connection: u64, line: Line },

    /// Faults are over, and all had time to settle since then.
    Quiet,
    /// A note for people, such as a crash or a partition. It has no effect on the checks.
    Note(String),
}

/// How a call ended. (A typed call's `Encode` counts as `NotSent`, its `Decode` as `Remote`.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a reply whose payload names this call, or 0 if it names none.
    Ok {
        names: u64,
    },
    Remote,
    Refused,
    NotSent,
    Unknown,
}

/// Why a subscriber missed numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The server named them.
    Server,
    /// Neither end named them.
    Lost,
    /// The client dropped them, because its application was too slow.
    Lagged,
}

/// A line on the wire. The protocol's own one-way requests, and notices that are not listed, are
/// not recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// To the server: a request, of any method.
    Request { id: u64, asks: Asked },
    /// To the server: a one-way request of the application, with a payload that names it.
    OneWay { one_way: u64 },
    /// To the client: a reply.
    Reply { id: u64, word: Word },
    /// To the client: a notification.
    Notification { topic: String, seq: u64 },
    /// To the client: `/gap`.
    Gap { topic: String, span: Span },
    /// To the client: `/reset`.
    Reset { topic: String },
    /// To the client: `/end`. The end of a drain names the numbers that stay undelivered.
    End { topic: String, undelivered: Option<Span> },
    /// To the client: `/bye;last=`.
    Bye { last: u64 },
    /// Not a line: nothing passes any more, in either direction. It is also recorded for a
    /// connection that is stuck, once the client has given it up.
    Closed,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// An application method, with a payload that names the call.
    Call(u64),
    Subscribe(String),
    Unsubscribe(String),
    /// Any other method.
    Other,
}

/// The word of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    More,
    Ok,
    Err,
    No,
    Cut,
}

/// A number of a log: a message's own, or the next one of a position.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number {
    pub epoch: String,
    pub seq: u64,
}

/// Numbers of a log, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub epoch: String,
    pub first: u64,
    pub last: u64,
}

impl Number {
    pub fn new(epoch: impl Into<String>, seq: u64) -> Self {
        Self { epoch: epoch.into(), seq }
    }
}

impl Span {
    pub fn new(epoch: impl Into<String>, first: u64, last: u64) -> Self {
        Self { epoch: epoch.into(), first, last }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Called { call, key: None } => write!(f, "called {call}"),
            Self::Called { call, key: Some(key) } => write!(f, "called {call} key={key}"),
            Self::Ended { call, outcome } => write!(f, "ended {call} {outcome}"),
            Self::GivenUp { call } => write!(f, "given-up {call}"),
            Self::Started { call } => write!(f, "started {call}"),
            Self::Finished { call } => write!(f, "finished {call}"),
            Self::Told { one_way } => write!(f, "told {one_way}"),
            Self::Untold { one_way } => write!(f, "untold {one_way}"),
            Self::Heard { one_way } => write!(f, "heard {one_way}"),
            Self::Subscribed { subscription, topic, from } => {
                write!(f, "subscribed {subscription} {topic} {from}")
            }
            Self::Delivered { subscription, number, payload } => {
                write!(f, "delivered {subscription} {number} {}", payload.escape_debug())
            }
            Self::Missed { subscription, span, cause } => {
                write!(f, "missed {subscription} {span} {cause}")
            }
            Self::Reset { subscription, next } => write!(f, "reset {subscription} {next}"),
            Self::Over { subscription, next } => write!(f, "over {subscription} {next}"),
            Self::Left { subscription } => write!(f, "left {subscription}"),
            Self::Seen { subscription, number } => write!(f, "seen {subscription} {number}"),
            Self::Publishing { topic, payload } => {
                write!(f, "publishing {topic} {}", payload.escape_debug())
            }
            Self::Published { topic, number, payload } => {
                write!(f, "published {topic} {number} {}", payload.escape_debug())
            }
            Self::Unpublished { topic, payload } => {
                write!(f, "unpublished {topic} {}", payload.escape_debug())
            }
            Self::Head { topic, next } => write!(f, "head {topic} {next}"),
            Self::Dropped { to, connection, topic, span } => {
                write!(f, "dropped {to} {connection} {topic} {span}")
            }
            Self::Wire { connection, line } => write!(f, "wire {connection} {line}"),
            Self::Quiet => f.write_str("quiet"),
            Self::Note(text) => write!(f, "note {}", text.escape_debug()),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { id, asks } => write!(f, "> {id} {asks}"),
            Self::OneWay { one_way } => write!(f, "> * tell {one_way}"),
            Self::Reply { id, word } => write!(f, "< {id} {word}"),
            Self::Notification { topic, seq } => write!(f, "< * {topic} {seq}"),
            Self::Gap { topic, span } => write!(f, "< * /gap {topic} {span}"),
            Self::Reset { topic } => write!(f, "< * /reset {topic}"),
            Self::End { topic, undelivered: None } => write!(f, "< * /end {topic}"),
            Self::End { topic, undelivered: Some(span) } => write!(f, "< * /end {topic} {span}"),
            Self::Bye { last } => write!(f, "< * /bye last={last}"),
            Self::Closed => f.write_str("closed"),
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(call) => write!(f, "call {call}"),
            Self::Subscribe(topic) => write!(f, "/subscribe {topic}"),
            Self::Unsubscribe(topic) => write!(f, "/unsubscribe {topic}"),
            Self::Other => f.write_str("other"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok { names } => write!(f, "ok names={names}"),
            Self::Remote => f.write_str("remote"),
            Self::Refused => f.write_str("refused"),
            Self::NotSent => f.write_str("not-sent"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Lost => "lost",
            Self::Lagged => "lagged",
        })
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::More => "more",
            Self::Ok => "ok",
            Self::Err => "err",
            Self::No => "no",
            Self::Cut => "cut",
        })
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.seq)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}-{}", self.epoch, self.first, self.last)
    }
}
