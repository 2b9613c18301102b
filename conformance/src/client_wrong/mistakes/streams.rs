//! Mistakes in streamed replies, acknowledgements, and `after`.

use super::{Mistake, id, keep, keep_if, lose, without, word, words};
use crate::client_wrong::memory::Lane::{Event, ToClient, ToServer};

pub(super) const MISTAKES: &[Mistake] = &[
    Mistake {
        name: "loses-items",
        about: "does not hand over the first item of a streamed reply",
        lanes: &[ToClient],
        make: |_, lane, line| keep_if(!line.contains(" more a"), lane, line),
    },
    Mistake {
        name: "mixes-streams",
        about: "gives the item of one streamed reply to another",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            let Some(own) = id(&line).filter(|_| word(&line) == "more") else {
                return keep(lane, line);
            };
            match memory.pending.keys().copied().filter(|&other| other != own).max() {
                Some(other) => keep(lane, line.replacen(&own.to_string(), &other.to_string(), 1)),
                None => keep(lane, line),
            }
        },
    },
    Mistake {
        name: "ends-streams-in-order",
        about: "takes the failure of a streamed reply for its orderly end",
        lanes: &[Event],
        make: |_, lane, line| match words(&line)[..] {
            [tag, "error" | "refused" | "unknown", ..] => keep(lane, format!("{tag} end")),
            _ => keep(lane, line),
        },
    },
    Mistake {
        name: "ends-streams-as-unknown",
        about: "takes the orderly end of a streamed reply for a failure",
        lanes: &[Event],
        make: |_, lane, line| match line.ends_with(" end") {
            true => keep(lane, line.replace(" end", " unknown")),
            false => keep(lane, line),
        },
    },
    Mistake {
        name: "stops-reading-at-items",
        about: "reads nothing while it holds an item that was not taken",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            memory.flag |= word(&line) == "more";
            keep_if(!memory.flag, lane, line)
        },
    },
    Mistake {
        name: "loses-the-item-of-an-ok",
        about: "does not hand over the payload of an ok at the end of a stream",
        lanes: &[ToClient],
        make: |_, lane, line| match line.contains(" ok last") {
            true => keep(lane, line.replace(" ok last", " ok")),
            false => keep(lane, line),
        },
    },
    Mistake {
        name: "keeps-its-window-to-itself",
        about: "does not tell the server its window",
        lanes: &[ToServer],
        make: |_, lane, line| keep(lane, without(&line, "window")),
    },
    Mistake {
        name: "gives-no-credit",
        about: "sends no /more",
        lanes: &[ToServer],
        make: |_, lane, line| keep_if(!line.starts_with("* /more"), lane, line),
    },
    Mistake {
        name: "takes-items-without-credit",
        about: "takes items for which it gave no credit",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            let items = id(&line).and_then(|id| memory.items.get(&id)).copied().unwrap_or(0);
            keep_if(word(&line) != "more" || items <= 2, lane, line)
        },
    },
    Mistake {
        name: "never-acknowledges",
        about: "sends no /ack",
        lanes: &[ToServer],
        make: |_, lane, line| keep_if(word(&line) != "/ack", lane, line),
    },
    Mistake {
        name: "acknowledges-too-much",
        about: "acknowledges one more than was delivered",
        lanes: &[ToServer],
        make: |_, lane, line| match (word(&line), line.rsplit_once(':')) {
            ("/ack", Some((before, next))) => {
                let next: u64 = next.parse().unwrap_or(0);
                keep(lane, format!("{before}:{}", next + 1))
            }
            _ => keep(lane, line),
        },
    },
    Mistake {
        name: "acknowledges-the-last",
        about: "acknowledges the last number instead of the next",
        lanes: &[ToServer],
        make: |_, lane, line| match (word(&line), line.rsplit_once(':')) {
            ("/ack", Some((before, next))) => {
                let next: u64 = next.parse().unwrap_or(0);
                keep(lane, format!("{before}:{}", next - 1))
            }
            _ => keep(lane, line),
        },
    },
    Mistake {
        name: "acknowledges-the-old-epoch",
        about: "acknowledges in the epoch from before a /reset",
        lanes: &[ToServer],
        make: |_, lane, line| keep(lane, line.replace("/ack offers f:", "/ack offers e:")),
    },
    Mistake {
        name: "forgets-its-terms",
        about: "resumes without its window and its policy",
        lanes: &[ToServer],
        make: |_, lane, line| match line.contains(";from=") {
            true => keep(lane, without(&without(&line, "window"), "slow")),
            false => keep(lane, line),
        },
    },
    Mistake {
        name: "drops-what-is-beyond-its-window",
        about: "drops what is delivered beyond its window",
        lanes: &[Event],
        make: |_, lane, line| keep_if(!line.contains(" message 3"), lane, line),
    },
    Mistake {
        name: "marks-nothing-as-redelivered",
        about: "delivers messages again as if they were new",
        lanes: &[Event],
        make: |_, lane, line| keep(lane, line.replace(" again ", " message ")),
    },
    Mistake {
        name: "delivers-what-was-acknowledged",
        about: "delivers a message again that was acknowledged",
        lanes: &[Event],
        make: |_, lane, line| match line.strip_suffix(" again 2 b") {
            Some(tag) => vec![(lane, format!("{tag} again 1 a")), (lane, line.clone())],
            None => keep(lane, line),
        },
    },
    Mistake {
        name: "is-satisfied-too-early",
        about: "takes an after as satisfied as soon as it has read it",
        lanes: &[Event],
        make: |_, lane, line| match line.contains(" reply;after=") {
            true => vec![(lane, line), (lane, "w satisfied".to_owned())],
            false => keep(lane, line),
        },
    },
    Mistake {
        name: "is-never-satisfied",
        about: "waits for an after for ever",
        lanes: &[Event],
        make: |_, lane, line| match line.ends_with(" satisfied") {
            true => lose(),
            false => keep(lane, line),
        },
    },
    Mistake {
        name: "loses-after",
        about: "does not tell of an after",
        lanes: &[Event],
        make: |_, lane, line| keep(lane, without(&line, "after")),
    },
    Mistake {
        name: "loses-methods",
        about: "lists no method",
        lanes: &[Event],
        make: |_, lane, line| keep_if(!line.contains(" item offers.get"), lane, line),
    },
];
