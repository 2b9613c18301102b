//! Mistakes with requests and their outcomes.

use super::accepting::instead_of;
use super::parts::{
    code, has_id, is_call, is_ok_of, is_one_way, is_reply, is_terminal, mark, rest, with_rest,
    with_word, without, word,
};
use crate::server_proxy::Flow;

fn reword(flow: &mut Flow, line: &str, from: &str, to: &str) {
    match is_reply(line, from) {
        true => flow.client(&with_word(line, to)),
        false => flow.client(line),
    }
}

pub(super) fn err_for_no(flow: &mut Flow, line: &str) {
    reword(flow, line, "no", "err");
}

pub(super) fn no_for_err(flow: &mut Flow, line: &str) {
    reword(flow, line, "err", "no");
}

pub(super) fn no_for_cut(flow: &mut Flow, line: &str) {
    reword(flow, line, "cut", "no");
}

pub(super) fn ok_for_err(flow: &mut Flow, line: &str) {
    match is_reply(line, "err") {
        true => flow.client(&format!("{} ok", mark(line))),
        false => flow.client(line),
    }
}

pub(super) fn other_codes(flow: &mut Flow, line: &str) {
    match is_reply(line, "no") {
        true => flow.client(&with_rest(line, "refused")),
        false => flow.client(line),
    }
}

pub(super) fn other_error_codes(flow: &mut Flow, line: &str) {
    match word(line) {
        "/error" => flow.client(&with_rest(line, "refused")),
        _ => flow.client(line),
    }
}

pub(super) fn take_late_hello(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "out-of-order", "ok;version=1");
}

pub(super) fn take_any_version(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "bad-version", "ok;version=1");
}

pub(super) fn allow_all(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "forbidden", "ok");
}

pub(super) fn let_in(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "unauthenticated", "ok");
}

pub(super) fn serve_on(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "closing", "ok 4");
}

pub(super) fn forbid(flow: &mut Flow, line: &str) {
    match code(line) == "busy" && ["no", "/error"].contains(&word(line)) {
        true => flow.client(&with_rest(line, "forbidden")),
        false => flow.client(line),
    }
}

pub(super) fn short_names(flow: &mut Flow, line: &str) {
    match code(line) == "unknown-method" && flow.method(line).len() > 100 {
        true => flow.client(&with_rest(line, "malformed")),
        false => flow.client(line),
    }
}

pub(super) fn hide_errors(flow: &mut Flow, line: &str) {
    if word(line) != "/error" {
        flow.client(line);
    }
}

pub(super) fn hide_cuts(flow: &mut Flow, line: &str) {
    if !is_reply(line, "cut") {
        flow.client(line);
    }
}

pub(super) fn hide_oks(flow: &mut Flow, line: &str) {
    let is_needed = ["/auth", "/subscribe"].contains(&flow.method(line));
    if is_needed || !is_reply(line, "ok") {
        flow.client(line);
    }
}

pub(super) fn hide_retry(flow: &mut Flow, line: &str) {
    flow.client(&without(line, "retry"));
}

pub(super) fn hide_ids(flow: &mut Flow, line: &str) {
    flow.client(&without(line, "id"));
}

pub(super) fn close_at_faults(flow: &mut Flow, line: &str) {
    flow.client(line);
    flow.is_over |= code(line) == "malformed";
}

pub(super) fn close_at_refusals(flow: &mut Flow, line: &str) {
    flow.client(line);
    flow.is_over |= is_reply(line, "no");
}

pub(super) fn close_at_panics(flow: &mut Flow, line: &str) {
    flow.client(line);
    flow.is_over |= code(line) == "internal";
}

pub(super) fn answer_falling(flow: &mut Flow, line: &str) {
    match super::parts::attribute(line, "id") {
        Some(id) if code(line) == "id-order" => flow.client(&format!("{id} ok 4")),
        _ => flow.client(line),
    }
}

pub(super) fn lose_repeated(flow: &mut Flow, line: &str) {
    if let Some(id) = super::parts::attribute(line, "id") {
        flow.met.insert(id.to_owned());
    }
    if !flow.met.contains(mark(line)) {
        flow.client(line);
    }
}

pub(super) fn next_id(flow: &mut Flow, line: &str) {
    match is_terminal(line) {
        true => {
            let id = super::parts::increased(mark(line));
            flow.client(&format!("{id} {}", line.split_once(' ').map_or("", |(_, rest)| rest)));
        }
        false => flow.client(line),
    }
}

pub(super) fn answer_twice(flow: &mut Flow, line: &str) {
    flow.client(line);
    if is_terminal(line) {
        flow.client(line);
    }
}

pub(super) fn hold_calls(flow: &mut Flow, line: &str) {
    if flow.count > 0 {
        flow.held.push(line.to_owned());
        return;
    }
    flow.server(line);
    flow.count = usize::from(is_call(line));
}

pub(super) fn release_calls(flow: &mut Flow, line: &str) {
    flow.client(line);
    if !is_terminal(line) || flow.method(line).starts_with('/') {
        return;
    }
    flow.count = 0;
    while flow.count == 0 && !flow.held.is_empty() {
        let next = flow.held.remove(0);
        hold_calls(flow, &next);
    }
}

pub(super) fn refuse_second(flow: &mut Flow, line: &str) {
    if is_call(line) && flow.count > 0 {
        flow.client(&format!("{} no busy", mark(line)));
        return;
    }
    flow.count += usize::from(is_call(line));
    flow.server(line);
}

pub(super) fn count_down(flow: &mut Flow, line: &str) {
    if is_terminal(line) && !flow.method(line).starts_with('/') {
        flow.count = flow.count.saturating_sub(1);
    }
    flow.client(line);
}

pub(super) fn echo_at_once(flow: &mut Flow, line: &str) {
    match is_call(line) && word(line) == "echo" {
        true => flow.client(&with_rest(&with_word(line, "ok"), rest(line))),
        false => flow.server(line),
    }
}

pub(super) fn drop_rest(flow: &mut Flow, line: &str) {
    match word(line) {
        "/renew" | "/methods" | "/quit" => flow.server(&with_rest(line, "")),
        _ => flow.server(line),
    }
}

pub(super) fn tell_of_one_ways(flow: &mut Flow, line: &str) {
    if mark(line) == "*" && !word(line).starts_with('/') {
        flow.client("* /error internal");
    }
    flow.server(line);
}

pub(super) fn swap_notes(flow: &mut Flow, line: &str) {
    if !is_one_way(line, "note") {
        flow.server(line);
    } else if let Some(held) = flow.held.pop() {
        flow.server(line);
        flow.server(&held);
    } else {
        flow.held.push(line.to_owned());
    }
}

pub(super) fn note_twice(flow: &mut Flow, line: &str) {
    flow.server(line);
    if is_one_way(line, "note") {
        flow.server(line);
    }
}

pub(super) fn unsort_methods(flow: &mut Flow, line: &str) {
    if flow.method(line) == "/methods" {
        if is_reply(line, "more") && flow.held.is_empty() {
            flow.held.push(line.to_owned());
            return;
        }
        if is_reply(line, "ok") {
            let held = std::mem::take(&mut flow.held);
            held.iter().for_each(|first| flow.client(first));
        }
    }
    flow.client(line);
}

pub(super) fn forget_ttl(flow: &mut Flow, line: &str) {
    flow.server(&without(line, "ttl"));
}

pub(super) fn drop_cancels(flow: &mut Flow, line: &str) {
    if !is_one_way(line, "/cancel") {
        flow.server(line);
    }
}

pub(super) fn cancel_itself(flow: &mut Flow, line: &str) {
    match is_one_way(line, "/cancel") {
        true => flow.client(&format!("{} cut cancelled", rest(line))),
        false => flow.server(line),
    }
}

pub(super) fn answer_cancels(flow: &mut Flow, line: &str) {
    if is_one_way(line, "/cancel") {
        flow.client("* /error bad-arguments");
    }
    flow.server(line);
}

pub(super) fn quit_early(flow: &mut Flow, line: &str) {
    if has_id(line) && word(line) == "/quit" {
        flow.client(&format!("{} ok", mark(line)));
    }
    flow.server(line);
}

pub(super) fn delay_quit(flow: &mut Flow, line: &str) {
    if word(line) == "/quit" {
        flow.held.push(line.to_owned());
        return;
    }
    flow.server(line);
    let held = std::mem::take(&mut flow.held);
    held.iter().for_each(|quit| flow.server(quit));
}

pub(super) fn over(flow: &mut Flow, _: &str) {
    flow.is_over = true;
}

pub(super) fn look_ahead(flow: &mut Flow, line: &str) {
    match is_call(line) {
        true => flow.client(&format!("{} no unauthenticated", mark(line))),
        false => flow.server(line),
    }
}

pub(super) fn swap_renewals(flow: &mut Flow, line: &str) {
    if is_ok_of(flow, line, "/renew") && flow.held.is_empty() {
        flow.held.push(line.to_owned());
        return;
    }
    flow.client(line);
    if is_terminal(line) {
        let held = std::mem::take(&mut flow.held);
        held.iter().for_each(|renewal| flow.client(renewal));
    }
}
