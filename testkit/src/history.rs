//! The history checker: reads a log of plain events, and reports the rules that the log breaks. It
//! does not use the library. A test records what callers, handlers, subscribers and publishers see,
//! and what passes on the wire.
//!
//! The order of the log is the order of the events. So each actor records before it acts: a proxy
//! records a line before it passes it on, and a handler records its start first. The end of a
//! handler, a call or a subscription that is dropped is recorded by the `drop` of a guard, also in
//! a crash. Events that were recorded before a crash remain.
//!
//! [`Event::Quiet`] says that faults are over, and that there was enough time since. For
//! subscriptions, publishes and connections the log counts up to the last `Quiet`, or to its end if
//! there is none. For calls all of it counts.

mod calls;
mod drops;
mod event;
mod lines;
pub mod numbers;
mod one_ways;
mod order;
mod publishes;
mod subscriptions;

use std::fmt;

pub use self::event::{Asked, Cause, Event, Line, Number, Outcome, Span, Word};

/// What must hold, of the guarantees of PROTOCOL.md, section 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A call is started at most once, however many lines it took: exactly once, and before, if it
    /// ended `Ok` or `Remote`; never, if it ended `NotSent` or `Refused`. Calls with one key are
    /// judged as one call: among them there is one start (within one key table, which is taken for
    /// granted).
    Starts,
    /// A call that was begun ends once, in an outcome or by being dropped; no other call ends.
    Outcomes,
    /// The payload of an `Ok` names the call that it answers, or one with the same key.
    Replies,
    /// The wire bears an outcome out: of a call that ended `NotSent` no whole line passed, all
    /// those of one that ended `Refused` are proven not executed, and one that ended `Ok` or
    /// `Remote` was told so. A line that answers nothing yet may have run: the call is sent again
    /// only if each earlier line got a `no`, or stands above the last id of a `/bye` (or if it has
    /// a key).
    Proof,
    /// The line of a one-way request passes at most once, over all connections, and its handler is
    /// started at most once, and not before it was sent. Neither happens to one that ended in an
    /// error.
    OneWays,
    /// A terminal line comes when the handler has ended. At an `ok` or `err` it was started, at a
    /// `no` it was not. (Not judged for calls with a key: others may share their run.)
    Terminals,
    /// What a subscription is given has no hole and no repetition: each number, delivered or named
    /// in a gap, is the next one, from where it began; a reset leads to another epoch, to number 1
    /// of one that it was not in before, and else to the number at which it left that (of several
    /// servers each has a log of its own); the position at its end is behind the last item, and
    /// nothing follows. Who was told that a number was seen had got it, or its epoch had been left.
    Subscriptions,
    /// An epoch and a number name one message: the one confirmed under it, to every subscriber.
    Messages,
    /// A message is there at most as often as it was published without an error that says it
    /// failed.
    Publishes,
    /// A confirmed message reaches every subscription that lives, and stands in its epoch at or
    /// below it: delivered, or named in a gap.
    Confirmed,
    /// A subscription that lives stands at the head of a log that a server has: it was told of the
    /// last message before the silence, and that its epoch had ended. (For topics whose heads are
    /// recorded.)
    CaughtUp,
    /// What a subscriber saw as missed by the server's doing, the server named on its connection;
    /// and what was named there, a subscription that lives saw as missed, unless the connection
    /// broke. Nothing is missed without a word from the server.
    Drops,
    /// On a connection, ids rise; each has at most one terminal line, none without a request,
    /// nothing after it, and one by the end if the connection lives. Of a topic nothing passes
    /// before the `ok` to `/subscribe`, nor after an `/end` or the reply to `/unsubscribe`; its
    /// numbers rise.
    Order,
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Virtual milliseconds; for the reader only.
    pub at: u64,
    pub process: String,
    pub event: Event,
}

/// A log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    entries: Vec<Entry>,
}

/// A rule that does not hold, where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub rule: Rule,
    /// The process of the call, subscription or connection.
    pub process: String,
    pub what: String,
    /// The events that show it, each with its line in the log.
    pub events: Vec<String>,
}

impl History {
    pub fn record(&mut self, at: u64, process: &str, event: Event) {
        self.entries.push(Entry { at, process: process.to_owned(), event });
    }

    /// The log as text, one line an event: the same for the same events.
    pub fn render(&self) -> String {
        self.entries.iter().map(|entry| format!("{entry}\n")).collect()
    }

    /// All that is broken, rule by rule.
    pub fn check(&self) -> Vec<Broken> {
        let log = &self.entries[..];
        let quiet = log.iter().rposition(|entry| entry.event == Event::Quiet);
        let settled = &log[..quiet.unwrap_or(log.len())];
        let mut findings = Findings { log, broken: Vec::new() };
        calls::check(log, &mut findings);
        lines::check(log, &mut findings);
        one_ways::check(log, &mut findings);
        order::check(settled, &mut findings);
        let subscriptions = subscriptions::check(settled, &mut findings);
        publishes::check(settled, &subscriptions, &mut findings);
        drops::check(settled, &subscriptions, &mut findings);
        findings.broken.sort_by_key(|broken| broken.rule);
        findings.broken
    }

    /// Panics with what is broken.
    pub fn assert_holds(&self) {
        let broken = self.check();
        let shown: String = broken.iter().take(SHOWN).map(|broken| format!("{broken}\n")).collect();
        assert!(broken.is_empty(), "{} broken, the first of them:\n{shown}", broken.len());
    }
}

/// How many broken rules, and how many events of each, are shown.
const SHOWN: usize = 10;

/// What the rules found so far.
struct Findings<'a> {
    log: &'a [Entry],
    broken: Vec<Broken>,
}

impl Findings<'_> {
    /// Adds what these events show, given by their places in the log; the first is at the process
    /// that it is about.
    fn add(&mut self, rule: Rule, events: impl IntoIterator<Item = usize>, what: String) {
        let mut events = events.into_iter().peekable();
        let first = events.peek().and_then(|&at| self.log.get(at));
        let process = first.map_or_else(String::new, |entry| entry.process.clone());
        let line = |at: usize| format!("line {}: {}", at + 1, self.log[at]);
        self.broken.push(Broken { rule, process, what, events: events.map(line).collect() });
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.at, self.process, self.event)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.rule, self.process, self.what)?;
        for event in self.events.iter().take(SHOWN) {
            write!(f, "\n    {event}")?;
        }
        match self.events.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n    and {more} more"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starts => "starts",
            Self::Outcomes => "outcomes",
            Self::Replies => "replies",
            Self::Proof => "proof",
            Self::OneWays => "one-ways",
            Self::Terminals => "terminals",
            Self::Subscriptions => "subscriptions",
            Self::Messages => "messages",
            Self::Publishes => "publishes",
            Self::Confirmed => "confirmed",
            Self::CaughtUp => "caught-up",
            Self::Drops => "drops",
            Self::Order => "order",
        })
    }
}
