//! Mistakes in keyed requests.

use super::{Mistake, Outcome, keep, without};
use crate::client_wrong::memory::{
    Lane::{Event, ToClient, ToServer},
    Memory, attribute,
};

/// The hello of a connection with another announcement of keys.
fn hello(memory: &Memory, line: String, keys: impl FnOnce(Option<String>) -> String) -> Outcome {
    match memory.lines_to_client == 1 && line.starts_with("* /hello;") {
        true => {
            let keys = keys(attribute(&line, "keys"));
            keep(ToClient, format!("{};keys={keys}", without(&line, "keys")))
        }
        false => keep(ToClient, line),
    }
}

pub(super) const MISTAKES: &[Mistake] = &[
    Mistake {
        name: "sends-keys-nowhere",
        about: "does not send the key of a call",
        lanes: &[ToServer],
        make: |_, lane, line| keep(lane, without(&line, "key")),
    },
    Mistake {
        name: "sends-keys-everywhere",
        about: "sends a key to a server that announces none",
        lanes: &[ToClient],
        make: |memory, _, line| hello(memory, line, |keys| keys.unwrap_or("b7q2:300".to_owned())),
    },
    Mistake {
        name: "repeats-without-the-key",
        about: "sends a call again without its key",
        lanes: &[ToServer],
        make: |memory, lane, line| match memory.connections > 1 {
            true => keep(lane, without(&line, "key")),
            false => keep(lane, line),
        },
    },
    Mistake {
        name: "repeats-at-any-store",
        about: "sends a keyed call again whatever table of keys the server has",
        lanes: &[ToClient],
        make: |memory, _, line| hello(memory, line, |_| "b7q2:300".to_owned()),
    },
    Mistake {
        name: "repeats-for-ever",
        about: "sends a keyed call again however much later",
        lanes: &[ToClient],
        make: |memory, _, line| hello(memory, line, |_| "b7q2:9999".to_owned()),
    },
    Mistake {
        name: "believes-refused-repeats",
        about: "says of a call that it has not run because its repeat was refused",
        lanes: &[Event],
        make: |_, lane, line| keep(lane, line.replace(" unknown", " refused busy")),
    },
];
