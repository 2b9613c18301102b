//! Mistakes in calls and their outcomes.

use super::{Mistake, break_off_if, id, keep, keep_if, word, words};
use crate::client_wrong::memory::Lane::{self, Command, Event, ToClient, ToServer};

fn is_terminal(line: &str) -> bool {
    id(line).is_some() && ["ok", "err", "no", "cut"].contains(&word(line))
}

/// The event with its outcome, `from`, replaced.
fn outcome(line: String, from: &str, to: &str) -> super::Outcome {
    let words = words(&line);
    match words[..] {
        [tag, outcome, ..] if outcome == from => keep(Event, format!("{tag} {to}")),
        _ => keep(Event, line),
    }
}

pub(super) const MISTAKES: &[Mistake] = &[
    Mistake {
        name: "loses-replies",
        about: "ends calls as unknown though their replies came",
        lanes: &[Event],
        make: |_, _, line| outcome(line, "reply", "unknown"),
    },
    Mistake {
        name: "swaps-replies",
        about: "gives a reply to another call that waits",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            let Some(own) = id(&line) else { return keep(lane, line) };
            match memory.pending.keys().copied().filter(|&other| other != own).max() {
                Some(other) => keep(lane, line.replacen(&own.to_string(), &other.to_string(), 1)),
                None => keep(lane, line),
            }
        },
    },
    Mistake {
        name: "one-line-per-read",
        about: "acts on the first line of each read only",
        lanes: &[ToClient],
        make: |memory, lane, line| keep_if(memory.is_first_of_read, lane, line),
    },
    Mistake {
        name: "acts-on-partial-lines",
        about: "acts on a line before its LF has come",
        lanes: &[Lane::Part],
        make: |_, _, line| keep(ToClient, line),
    },
    Mistake {
        name: "takes-errors-for-replies",
        about: "takes an err for a reply",
        lanes: &[Event],
        make: |_, _, line| outcome(line, "error", "reply"),
    },
    Mistake {
        name: "takes-refusals-for-unknown",
        about: "says of a refused call that it may have run",
        lanes: &[Event],
        make: |_, _, line| outcome(line, "refused", "unknown"),
    },
    Mistake {
        name: "takes-cuts-for-refusals",
        about: "says of a cut call that it has not run",
        lanes: &[ToClient],
        make: |_, lane, line| keep(lane, line.replacen(" cut ", " no ", 1)),
    },
    Mistake {
        name: "decides-by-code",
        about: "takes an err for a refusal, and the reverse, by its code",
        lanes: &[Event],
        make: |_, lane, line| {
            let line = line.replace(" error unknown-method", " refused unknown-method");
            keep(lane, line.replace(" refused internal", " error internal"))
        },
    },
    Mistake {
        name: "rejects-unknown-codes",
        about: "closes at a code that it does not know",
        lanes: &[ToClient],
        make: |_, lane, line| {
            let is_unknown = line.contains("never-heard-of") || line.contains("cccc");
            break_off_if(is_unknown, lane, line)
        },
    },
    Mistake {
        name: "takes-texts-for-codes",
        about: "takes the first word of the text into the code",
        lanes: &[ToClient],
        make: |_, lane, line| keep(lane, line.replacen(" err app ", " err app-", 1)),
    },
    Mistake {
        name: "takes-lost-calls-for-unsent",
        about: "says of a call that was lost with its connection that it was not sent",
        lanes: &[Event],
        make: |_, _, line| outcome(line, "unknown", "not-sent"),
    },
    Mistake {
        name: "uses-ids-again",
        about: "gives every second request the id of the one before",
        lanes: &[ToServer],
        make: |_, lane, line| match id(&line).filter(|id| id % 2 == 0) {
            Some(id) => keep(lane, line.replacen(&id.to_string(), &(id - 1).to_string(), 1)),
            None => keep(lane, line),
        },
    },
    Mistake {
        name: "loses-attributes",
        about: "does not send the attributes of the application",
        lanes: &[ToServer],
        make: |_, lane, line| keep(lane, super::without(&line, "app.tenant")),
    },
    Mistake {
        name: "gives-one-ways-an-id",
        about: "sends a one-way request with an id",
        lanes: &[ToServer],
        make: |_, lane, line| match line.strip_prefix("* ").filter(|head| !head.starts_with('/')) {
            Some(head) => keep(lane, format!("900 {head}")),
            None => keep(lane, line),
        },
    },
    Mistake {
        name: "closes-at-errors",
        about: "closes at every /error",
        lanes: &[ToClient],
        make: |_, lane, line| break_off_if(line.starts_with("* /error"), lane, line),
    },
    Mistake {
        name: "takes-items-for-replies",
        about: "takes a more for the reply of a plain call",
        lanes: &[ToClient],
        make: |_, lane, line| keep(lane, line.replacen(" more", " ok", 1)),
    },
    Mistake {
        name: "never-cancels",
        about: "sends no /cancel",
        lanes: &[ToServer],
        make: |_, lane, line| keep_if(!line.starts_with("* /cancel"), lane, line),
    },
    Mistake {
        name: "never-frees-places",
        about: "holds the place of a call that was given up for ever",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            let is_late = id(&line).is_some_and(|id| memory.cancelled.contains(&id));
            keep_if(!is_late, lane, line)
        },
    },
    Mistake {
        name: "says-more-behind-quit",
        about: "sends a request behind its /quit",
        lanes: &[ToServer],
        make: |_, lane, line| match id(&line).filter(|_| word(&line) == "/quit") {
            Some(id) => vec![(lane, line), (lane, format!("{} m", id + 1))],
            None => keep(lane, line),
        },
    },
    Mistake {
        name: "wakes-twice",
        about: "gives a second terminal line to the call that had the first",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            let is_doubled =
                is_terminal(&line) && id(&line).is_some_and(|id| !memory.pending.contains_key(&id));
            match is_doubled {
                true => keep(Event, "a reply second".to_owned()),
                false => keep(lane, line),
            }
        },
    },
    Mistake {
        name: "closes-at-strays",
        about: "closes at a reply that it has no call for, though it is not strict",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            let is_stray = id(&line).is_some_and(|id| !memory.pending.contains_key(&id));
            break_off_if(is_stray, lane, line)
        },
    },
    Mistake {
        name: "is-not-strict",
        about: "goes on at a stray reply, though it is to be strict",
        lanes: &[Command],
        make: |_, lane, line| keep(lane, super::without(&line, "strict")),
    },
    Mistake {
        name: "closes-at-late-replies",
        about: "closes at the reply of a call that was given up",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            let is_late = id(&line).is_some_and(|id| memory.cancelled.contains(&id));
            break_off_if(is_late, lane, line)
        },
    },
    Mistake {
        name: "counts-nothing",
        about: "does not count what it ignores",
        lanes: &[Event],
        make: |_, lane, line| match line.starts_with("counts ") {
            true => keep(lane, "counts 0 0".to_owned()),
            false => keep(lane, line),
        },
    },
    Mistake {
        name: "ignores-id-order",
        about: "goes on at an id-order error",
        lanes: &[ToClient],
        make: |_, lane, line| keep_if(!line.contains(" id-order"), lane, line),
    },
];
