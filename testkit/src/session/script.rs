//! What the client asks in the session, in which order and manner.

use std::time::Duration;

use crate::history::Outcome;

/// The topic that is read with a window.
pub(super) const NEWS: &str = "news";

/// The topic of which more is published than is retained; it is left, and come back to.
pub(super) const BRIEF: &str = "brief";

/// How long a slow handler takes.
pub(super) const SLOW: Duration = Duration::from_millis(5);

/// Items of a streamed reply.
pub(super) const ITEMS: usize = 3;

/// A call, by a number of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) number: u64,
    pub(super) method: &'static str,
    pub(super) manner: Manner,
}

/// How a caller goes about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Patient,
    /// It waits for no connection.
    FailFast,
    Deadline(Duration),
    /// It is dropped after this time.
    Dropped(Duration),
}

use Manner::{Deadline, Dropped, FailFast, Patient};

const SOON: Duration = Duration::from_millis(2);

/// A caller that waits for connections, burst by burst.
pub(super) const PATIENT: [&[(&str, Manner)]; 3] = [
    &[("echo", Patient), ("fail", Patient), ("strict", Patient)],
    &[("slow", Patient), ("list", Patient), ("slow", Deadline(SOON))],
    &[("slow", Dropped(SOON)), ("later", Patient), ("echo", Patient)],
];

/// A caller that does not wait.
pub(super) const HASTY: [&[(&str, Manner)]; 2] = [
    &[("echo", FailFast), ("slow", FailFast)],
    &[("later", FailFast), ("fail", FailFast), ("echo", Deadline(SOON))],
];

impl Ask {
    /// How it ends where nothing is cut; `None`: it is dropped before that.
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

/// A payload that begins with a number; some of them need stuffing.
pub(super) fn text(number: u64, length: usize) -> String {
    let begin = if number.is_multiple_of(5) { "CR \r LF \n DLE \x10" } else { "" };
    format!("{number} {begin}{}", "a flat in the 11e, ".repeat(length / 19))
}
