//! Mistakes at the end of a connection, and on the next one.

use super::{Mistake, Outcome, id, keep, keep_if, lose, without, word};
use crate::client_wrong::memory::Lane::{Close, Command, Dial, Event, ToClient, ToServer};

/// The refusal of an application's request becomes one that is to be repeated.
fn repeat(line: String, word: &str) -> Outcome {
    let is_it = id(&line).is_some() && super::word(&line) == word;
    match is_it {
        true => keep(ToClient, format!("{} no;retry=1 busy", line.split(' ').next().unwrap_or(""))),
        false => keep(ToClient, line),
    }
}

pub(super) const MISTAKES: &[Mistake] = &[
    Mistake {
        name: "never-reconnects",
        about: "does not connect again",
        lanes: &[Command],
        make: |_, lane, line| keep(lane, without(&line, "reconnect")),
    },
    Mistake {
        name: "reconnects-at-once",
        about: "connects again without a pause",
        lanes: &[Close],
        make: |_, _, _| (0..20).map(|_| (Dial, String::new())).collect(),
    },
    Mistake {
        name: "sends-lost-calls-again",
        about: "sends a call again that was lost with its connection",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            let is_hello = memory.connections > 1 && memory.lines_to_client == 1;
            match memory.last_request.clone().filter(|_| is_hello) {
                Some(request) => vec![(ToServer, request), (lane, line)],
                None => keep(lane, line),
            }
        },
    },
    Mistake {
        name: "sends-cut-calls-again",
        about: "sends a call again that was cut",
        lanes: &[ToClient],
        make: |_, _, line| repeat(line, "cut"),
    },
    Mistake {
        name: "sends-failed-calls-again",
        about: "sends a call again that was answered with an err",
        lanes: &[ToClient],
        make: |_, _, line| repeat(line, "err"),
    },
    Mistake {
        name: "sends-refused-calls-again",
        about: "sends a call again that was refused for good",
        lanes: &[ToClient],
        make: |_, _, line| repeat(line, "no"),
    },
    Mistake {
        name: "repeats-calls-without-a-pause",
        about: "sends a call again at once, for ever",
        lanes: &[ToServer],
        make: |_, lane, line| match id(&line).filter(|_| !word(&line).starts_with('/')) {
            Some(own) => {
                let request = line.split_once(' ').map_or("", |(_, request)| request).to_owned();
                (own..own + 40).map(|id| (lane, format!("{id} {request}"))).collect()
            }
            None => keep(lane, line),
        },
    },
    Mistake {
        name: "forgets-deadlines",
        about: "lets a call that is sent again outlast its deadline",
        lanes: &[Event],
        make: |memory, lane, line| match line.starts_with("a ") {
            true => {
                memory.held = Some(line);
                lose()
            }
            false => keep(lane, line),
        },
    },
    Mistake {
        name: "takes-refused-calls-for-unknown",
        about: "says of a call above the last of a /bye that it may have run",
        lanes: &[Event],
        make: |_, lane, line| keep(lane, line.replace(" refused closing", " unknown")),
    },
    Mistake {
        name: "takes-unknown-calls-for-refused",
        about: "says of a call up to the last of a /bye that it has not run",
        lanes: &[Event],
        make: |_, lane, line| keep(lane, line.replace(" unknown", " refused closing")),
    },
    Mistake {
        name: "leaves-at-once",
        about: "reads nothing behind a /bye",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            let keeps = !memory.flag;
            memory.flag |= line.starts_with("* /bye");
            keep_if(keeps, lane, line)
        },
    },
    Mistake {
        name: "ignores-byes",
        about: "goes on as if there had been no /bye",
        lanes: &[ToClient],
        make: |_, lane, line| keep_if(!line.starts_with("* /bye"), lane, line),
    },
    Mistake {
        name: "knows-one-address",
        about: "connects to the first of its addresses only",
        lanes: &[Command],
        make: |_, lane, line| match line.starts_with("connect") {
            true => keep(lane, line.split(' ').take(2).collect::<Vec<_>>().join(" ")),
            false => keep(lane, line),
        },
    },
    Mistake {
        name: "quits-behind-the-line",
        about: "sends a /quit behind a /bye with last",
        lanes: &[ToClient],
        make: |memory, lane, line| match line.starts_with("* /bye;last=") {
            true => {
                let quit = format!("{} /quit", memory.last_id + 1);
                vec![(ToServer, quit), (lane, line)]
            }
            false => keep(lane, line),
        },
    },
    Mistake {
        name: "subscribes-from-nowhere",
        about: "resumes without a position",
        lanes: &[ToServer],
        make: |_, lane, line| match word(&line) == "/subscribe" {
            true => keep(lane, without(&line, "from")),
            false => keep(lane, line),
        },
    },
];
