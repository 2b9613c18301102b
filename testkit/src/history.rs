//! The history checker: reads a log of plain events, and reports the rules that the log breaks. It
//! does not use the library. A test records what callers, handlers, subscribers and publishers see,
//! and what passes on the wire.
//!
//! The order of the log is the order of the events. So each actor records before it acts: a proxy
//! records a line before it passes it on, and a handler records its start first. The end of a
//! handler, a call or a subscription that is dropped is recorded by the `drop` of a guard, also in
//! a crash. Events that were recorded before a crash remain.
//!
//! [`Event::Quiet`] records that faults are over and that all had enough time since. For
//! subscriptions, publishes and connections, the checker reads the log up to the last `Quiet`, or
//! to its end if there is none. For calls it reads the whole log.

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

/// The rules, which follow from the guarantees of PROTOCOL.md, section 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A call is started at most once, however many lines it took. If it ended `Ok` or `Remote`, it
    /// was started exactly once, and before its end. If it ended `NotSent` or `Refused`, it was
    /// never started. Calls with one key are judged as one call: they have one start together
    /// (within one key table, which the checker assumes).
    Starts,
    /// A call that was begun ends once, in an outcome or by being dropped. No other call ends.
    Outcomes,
    /// The payload of an `Ok` names the call that it answers, or one with the same key.
    Replies,
    /// The wire confirms each outcome. No whole line passed of a call that ended `NotSent`. All
    /// lines of a call that ended `Refused` are proven not executed. A call that ended `Ok` or
    /// `Remote` got that reply. A line without an answer may still have run. So a call is sent
    /// again only if each earlier line got a `no`, or is above the last id of a `/bye`, or if the
    /// call has a key.
    Proof,
    /// The line of a one-way request passes at most once, over all connections. Its handler is
    /// started at most once, and not before the request was sent. If the request ended in an error,
    /// neither happens.
    OneWays,
    /// A terminal line comes after the handler has ended. For an `ok` or `err` the handler was
    /// started, for a `no` it was not. (Calls with a key are not judged, because other calls may
    /// share their run.)
    Terminals,
    /// The items of a subscription have no hole and no repetition. Each number, delivered or named
    /// in a gap, is the next one, counted from where the subscription began. A reset leads to
    /// another epoch: to number 1 if the subscription is there for the first time, and otherwise to
    /// the number at which it left that epoch (each of several servers has its own log). The
    /// position at its end is behind the last item, and nothing follows. When a wait for a number
    /// has ended, the subscription had got the number or had left its epoch.
    Subscriptions,
    /// An epoch and a number name one message, to every subscriber: the one that was confirmed
    /// under it.
    Messages,
    /// A message appears at most as often as it was published without an error that says it failed.
    Publishes,
    /// A confirmed message reaches every live subscription that is in its epoch and stood at or
    /// below it: delivered, or named in a gap.
    Confirmed,
    /// A live subscription stands at the head of a server's log. It got the last message before
    /// `Quiet`, and any reset to another epoch. (For topics whose heads are recorded.)
    CaughtUp,
    /// The server named on its connection all numbers that a subscriber saw as missed by the
    /// server. A live subscription saw all numbers that the server named as missed, unless the
    /// connection broke. Nothing is missed without a line from the server.
    Drops,
    /// On a connection, ids rise. Each id has at most one terminal line, none without a request,
    /// nothing after it, and one by the end if the connection lives. No line of a topic passes
    /// before the `ok` to `/subscribe`, or after an `/end` or the reply to `/unsubscribe`. The
    /// numbers of a topic rise.
    Order,
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Virtual milliseconds, only for people who read the log.
    pub at: u64,
    pub process: String,
    pub event: Event,
}

/// A log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    entries: Vec<Entry>,
}

/// A broken rule, where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub rule: Rule,
    /// The process of the call, subscription or connection.
    pub process: String,
    pub what: String,
    /// The events that show the fault, each with its line in the log.
    pub events: Vec<String>,
}

impl History {
    pub fn record(&mut self, at: u64, process: &str, event: Event) {
        self.entries.push(Entry { at, process: process.to_owned(), event });
    }

    /// The log as text, one line for each event. The same events give the same text.
    pub fn render(&self) -> String {
        self.entries.iter().map(|entry| format!("{entry}\n")).collect()
    }

    /// All broken rules, in the order of the rules.
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

    /// Panics if a rule is broken, and shows the faults.
    pub fn assert_holds(&self) {
        let broken = self.check();
        let shown: String = broken.iter().take(SHOWN).map(|broken| format!("{broken}\n")).collect();
        assert!(broken.is_empty(), "{} broken, the first of them:\n{shown}", broken.len());
    }
}

/// The most faults, and the most events of each, that are shown.
const SHOWN: usize = 10;

/// The faults found so far.
struct Findings<'a> {
    log: &'a [Entry],
    broken: Vec<Broken>,
}

impl Findings<'_> {
    /// Adds a fault with the events that show it, given by their indexes in the log. The first of
    /// them must belong to the process with the fault.
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
