//! The requests of the client in the session, with their order and manner.

use std::time::Duration;

use crate::history::Outcome;

/// The topic that is read with a window.
pub(super) const NEWS: &str = "news";

/// A topic with more messages than are retained. The client leaves it and subscribes again.
pub(super) const BRIEF: &str = "brief";

/// How long a slow handler takes.
pub(super) const SLOW: Duration = Duration::from_millis(5);

/// The number of items of a streamed reply.
pub(super) const ITEMS: usize = 3;

/// A call, identified by a number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) number: u64,
    pub(super) method: &'static str,
    pub(super) manner: Manner,
}

/// How a caller makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Patient,
    /// The call does not wait for a connection.
    FailFast,
    Deadline(Duration),
    /// The call is dropped after this time.
    Dropped(Duration),
}

use Manner::{Deadline, Dropped, FailFast, Patient};

const SOON: Duration = Duration::from_millis(2);

/// The calls of a caller that waits for connections, in bursts.
pub(super) const PATIENT: [&[(&str, Manner)]; 3] = [
    &[("echo", Patient), ("fail", Patient), ("strict", Patient)],
    &[("slow", Patient), ("list", Patient), ("slow", Deadline(SOON))],
    &[("slow", Dropped(SOON)), ("later", Patient), ("echo", Patient)],
];

/// The calls of a caller that does not wait.
pub(super) const HASTY: [&[(&str, Manner)]; 2] = [
    &[("echo", FailFast), ("slow", FailFast)],
    &[("later", FailFast), ("fail", FailFast), ("echo", Deadline(SOON))],
];

impl Ask {
    /// How the call ends in an uncut session; `None` if it is dropped before its end.
    pub(super) fn expected(self) -> Option<Outcome> {
        match (self.manner, self.method) {
            (Dropped(_), "slow") => None,
            (Deadline(_), "slow") => Some(Outcome::Unknown),
            (_, "fail") => Some(Outcome::Remote),
            (FailFast, "later") | (_, "strict") => Some(Outcome::Refused),
            _ => Some(Outcome::Ok { names: self.number }),
        }
    }
}

/// A payload that begins with a number. Some payloads need stuffing.
pub(super) fn text(number: u64, length: usize) -> String {
    let begin = if number.is_multiple_of(5) { "CR \r LF \n DLE \x10" } else { "" };
    format!("{number} {begin}{}", "a flat in the 11e, ".repeat(length / 19))
}
