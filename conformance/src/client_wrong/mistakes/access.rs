//! Mistakes in authenticating.

use super::{Mistake, keep, word};
use crate::client_wrong::memory::Lane::{ToClient, ToServer};

pub(super) const MISTAKES: &[Mistake] = &[
    Mistake {
        name: "speaks-before-auth",
        about: "sends a request before its /auth is accepted",
        lanes: &[ToServer],
        make: |memory, lane, line| match word(&line) {
            "/auth" => vec![(lane, line), (lane, format!("{} m", memory.last_id + 1))],
            _ => keep(lane, line),
        },
    },
    Mistake {
        name: "sends-credentials-anywhere",
        about: "sends its credentials whatever the server offers",
        lanes: &[ToClient],
        make: |memory, lane, line| match memory.lines_to_client {
            1 => keep(lane, super::without(&line, "auth") + ";auth=token"),
            _ => keep(lane, line),
        },
    },
    Mistake {
        name: "ignores-refused-credentials",
        about: "goes on though its credentials were refused",
        lanes: &[ToClient],
        make: |_, lane, line| keep(lane, line.replace(" no unauthenticated", " ok")),
    },
    Mistake {
        name: "never-authenticates",
        about: "closes at a server that asks for credentials",
        lanes: &[ToClient],
        make: |_, lane, line| super::break_off_if(line.contains(";auth="), lane, line),
    },
];
