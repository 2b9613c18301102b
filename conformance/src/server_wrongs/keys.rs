//! Mistakes with keyed requests.

use super::parts::{attribute, code, is_reply, mark, without, word};
use crate::server_proxy::Flow;

pub(super) fn hide_keys(flow: &mut Flow, line: &str) {
    match word(line) {
        "/hello" => flow.client(&without(line, "keys")),
        _ => flow.client(line),
    }
}

pub(super) fn forget_keys(flow: &mut Flow, line: &str) {
    flow.server(&without(line, "key"));
}

pub(super) fn ignore_mismatch(flow: &mut Flow, line: &str) {
    match is_reply(line, "no") && code(line) == "key-mismatch" {
        true => flow.client(&format!("{} ok", mark(line))),
        false => flow.client(line),
    }
}

/// Remembers the keys of refused requests.
pub(super) fn note_refused(flow: &mut Flow, line: &str) {
    if is_reply(line, "no")
        && let Some(asked) = flow.asked.get(mark(line))
        && let Some(key) = attribute(asked, "key")
    {
        let key = key.to_owned();
        flow.met.insert(key);
    }
    flow.client(line);
}

pub(super) fn refuse_noted(flow: &mut Flow, line: &str) {
    match attribute(line, "key").is_some_and(|key| flow.met.contains(key)) {
        true => flow.client(&format!("{} no key-mismatch", mark(line))),
        false => flow.server(line),
    }
}
