//! Mistakes about when requests begin and end, what may hold them up, and the end of a connection.

use std::sync::atomic::Ordering::Relaxed;

use super::parts::{
    attribute, code, is_call, is_ok_of, is_reply, is_terminal, mark, one_more, rest, with_rest,
    word,
};
use crate::server_proxy::Flow;

pub(super) fn wait_for_items(flow: &mut Flow, line: &str) {
    let is_first = flow.method(line) == "count" && flow.met.insert(mark(line).to_owned());
    if !(is_first && is_reply(line, "ok")) {
        flow.client(line);
    }
}

pub(super) fn cut_in_time(flow: &mut Flow, line: &str) {
    let has_ttl = flow.asked.get(mark(line)).is_some_and(|asked| asked.contains(";ttl="));
    match has_ttl && is_reply(line, "ok") {
        true => flow.client(&format!("{} cut deadline", mark(line))),
        false => flow.client(line),
    }
}

pub(super) fn drop_waiting(flow: &mut Flow, line: &str) {
    if !flow.is_over {
        flow.client(line);
    }
    flow.is_over |= flow.met.contains("fault") && is_terminal(line);
    if code(line) == "line-too-long" {
        flow.met.insert("fault".to_owned());
    }
}

pub(super) fn close_at_the_line(flow: &mut Flow, line: &str) {
    flow.client(line);
    flow.is_over |= word(line) == "/bye" && attribute(line, "last").is_some();
}

/// Takes no call while one of another connection is not answered.
pub(super) fn take_no_other(flow: &mut Flow, line: &str) {
    if is_call(line) {
        if flow.shared.load(Relaxed) > flow.count {
            return;
        }
        flow.count += 1;
        flow.shared.fetch_add(1, Relaxed);
    }
    flow.server(line);
}

pub(super) fn take_others_again(flow: &mut Flow, line: &str) {
    if is_terminal(line) && !flow.method(line).starts_with('/') {
        flow.count -= 1;
        flow.shared.fetch_sub(1, Relaxed);
    }
    flow.client(line);
}

/// Of a long reply the server makes a byte, so that nothing fills, and `lengthen` makes the rest.
pub(super) fn shorten(flow: &mut Flow, line: &str) {
    match is_call(line) && word(line) == "size" {
        true => flow.server(&with_rest(line, "1")),
        false => flow.server(line),
    }
}

pub(super) fn lengthen(flow: &mut Flow, line: &str) {
    match is_ok_of(flow, line, "size") {
        true => {
            let size = flow.asked.get(mark(line)).and_then(|asked| rest(asked).parse().ok());
            flow.client(&with_rest(line, &"x".repeat(size.unwrap_or_default())));
        }
        false => flow.client(line),
    }
}

pub(super) fn ask_ahead(flow: &mut Flow, line: &str) {
    match is_call(line) {
        true => flow.server(&one_more(line, "window")),
        false => flow.server(line),
    }
}

pub(super) fn cut_at_the_lease(flow: &mut Flow, line: &str) {
    if word(line) == "/end" {
        flow.met.insert("expired".to_owned());
    }
    match flow.met.contains("expired") && is_ok_of(flow, line, "wait") {
        true => flow.client(&format!("{} cut lost", mark(line))),
        false => flow.client(line),
    }
}
