//! Mistakes with streamed replies, and with the end of a server.

use super::parts::{
    attribute, has_id, is_call, is_one_way, is_reply, is_terminal, mark, one_more, rest, without,
    word,
};
use crate::server_proxy::Flow;

pub(super) fn swap_items(flow: &mut Flow, line: &str) {
    if is_reply(line, "more") && flow.held.is_empty() {
        flow.held.push(line.to_owned());
        return;
    }
    flow.client(line);
    let held = std::mem::take(&mut flow.held);
    held.iter().for_each(|item| flow.client(item));
}

pub(super) fn forget_windows(flow: &mut Flow, line: &str) {
    flow.server(&without(line, "window"));
}

pub(super) fn give_credit(flow: &mut Flow, line: &str) {
    flow.server(line);
    if is_call(line) {
        flow.server(&format!("* /more {} 100", mark(line)));
    }
}

pub(super) fn drop_credit(flow: &mut Flow, line: &str) {
    if !is_one_way(line, "/more") {
        flow.server(line);
    }
}

pub(super) fn end_at_three(flow: &mut Flow, line: &str) {
    flow.client(line);
    if is_reply(line, "more") && rest(line) == "3" {
        flow.client(&format!("{} ok", mark(line)));
    }
}

pub(super) fn hold_replies(flow: &mut Flow, line: &str) {
    if is_reply(line, "more") {
        flow.met.insert(mark(line).to_owned());
    } else if has_id(line) && !flow.met.is_empty() {
        flow.held.push(line.to_owned());
        if flow.met.remove(mark(line)) {
            let held = std::mem::take(&mut flow.held);
            held.iter().for_each(|reply| flow.client(reply));
        }
        return;
    }
    flow.client(line);
}

pub(super) fn hold_items(flow: &mut Flow, line: &str) {
    if is_reply(line, "more") {
        flow.held.push(line.to_owned());
        return;
    }
    if is_terminal(line) {
        let held = std::mem::take(&mut flow.held);
        held.iter().for_each(|item| flow.client(item));
    }
    flow.client(line);
}

pub(super) fn answer_credit(flow: &mut Flow, line: &str) {
    if is_one_way(line, "/more") {
        flow.client("* /error bad-arguments");
    }
    flow.server(line);
}

pub(super) fn refuse_windows(flow: &mut Flow, line: &str) {
    match is_call(line) && attribute(line, "window").is_some() {
        true => flow.client(&format!("{} no unknown-attribute window", mark(line))),
        false => flow.server(line),
    }
}

fn is_bye(line: &str) -> bool {
    mark(line) == "*" && word(line) == "/bye"
}

pub(super) fn hide_last(flow: &mut Flow, line: &str) {
    if !is_bye(line) || attribute(line, "last").is_none() {
        flow.client(line);
    }
}

pub(super) fn hide_first(flow: &mut Flow, line: &str) {
    if !is_bye(line) || attribute(line, "last").is_some() {
        flow.client(line);
    }
}

pub(super) fn wrong_last(flow: &mut Flow, line: &str) {
    match is_bye(line) {
        true => flow.client(&one_more(line, "last")),
        false => flow.client(line),
    }
}

pub(super) fn draw_at_once(flow: &mut Flow, line: &str) {
    flow.client(line);
    if is_bye(line) && attribute(line, "last").is_none() {
        flow.client("* /bye;last=1 shutdown");
    }
}
