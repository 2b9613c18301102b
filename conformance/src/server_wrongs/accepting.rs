//! Mistakes that break one rule about refusals: one code is forgotten, or one kind of line.

use super::parts::{
    attribute, code, has_id, is_one_way, is_reply, mark, rest, with_attributes, with_rest,
    with_word, word,
};
use crate::server_proxy::Flow;

/// Passes `line` on, but says `instead` where it is a refusal with `refusal`.
pub(super) fn instead_of(flow: &mut Flow, line: &str, refusal: &str, instead: &str) {
    match is_reply(line, "no") && code(line) == refusal {
        true => flow.client(&format!("{} {instead}", mark(line))),
        false => flow.client(line),
    }
}

/// Passes `line` on, if it is no error with this code.
fn without_error(flow: &mut Flow, line: &str, hidden: &str) {
    if !(word(line) == "/error" && code(line) == hidden) {
        flow.client(line);
    }
}

// What is refused.

pub(super) fn malformed(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "malformed", "ok");
}

pub(super) fn long_heads(flow: &mut Flow, line: &str) {
    let asked = flow.asked.get(mark(line)).map_or(0, String::len);
    match asked > 2_000 {
        true => malformed(flow, line),
        false => flow.client(line),
    }
}

pub(super) fn repeated_keys(flow: &mut Flow, line: &str) {
    let met = std::cell::RefCell::new(std::collections::HashSet::new());
    let is_first = |one: &str| met.borrow_mut().insert(one.split('=').next().map(str::to_owned));
    flow.server(&with_attributes(line, |one| is_first(one).then(|| one.to_owned())));
}

pub(super) fn five_words(flow: &mut Flow, line: &str) {
    match ["ok", "more", "err", "no", "cut"].contains(&flow.method(line)) {
        true => instead_of(flow, line, "malformed", "no unknown-method"),
        false => flow.client(line),
    }
}

pub(super) fn keys(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "unknown-attribute", "ok");
}

pub(super) fn values(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "bad-attribute", "ok");
}

pub(super) fn arguments(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "bad-arguments", "ok");
}

pub(super) fn values_first(flow: &mut Flow, line: &str) {
    let asked = flow.asked.get(mark(line)).map_or(0, |asked| asked.matches(';').count());
    match asked > 1 {
        true => instead_of(flow, line, "unknown-attribute", "no bad-attribute"),
        false => flow.client(line),
    }
}

pub(super) fn everybody(flow: &mut Flow, line: &str) {
    match flow.method(line) {
        "/auth" => instead_of(flow, line, "unknown-method", "ok"),
        _ => flow.client(line),
    }
}

pub(super) fn second_auth(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "out-of-order", "ok");
}

pub(super) fn publishing(flow: &mut Flow, line: &str) {
    match flow.method(line) {
        "/publish" => instead_of(flow, line, "forbidden", "ok;epoch=e;seq=1"),
        _ => flow.client(line),
    }
}

pub(super) fn large_payloads(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "too-large", "ok;epoch=e;seq=2");
}

pub(super) fn too_many(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "too-many", "ok;epoch=e;next=1;head=0;lease=60");
}

pub(super) fn when_full(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "busy", "ok");
}

pub(super) fn without_log(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "busy", "ok;epoch=e;next=1;head=0;lease=60");
}

pub(super) fn revoked(flow: &mut Flow, line: &str) {
    match flow.method(line) {
        "/subscribe" => {
            instead_of(flow, line, "forbidden", "ok;epoch=e;next=1;head=0;lease=60");
        }
        _ => flow.client(line),
    }
}

pub(super) fn second_subscribe(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "already-subscribed", "ok;epoch=e;next=1;head=0;lease=60");
}

pub(super) fn void_unsubscribe(flow: &mut Flow, line: &str) {
    instead_of(flow, line, "not-subscribed", "ok;next=e:1");
}

pub(super) fn acks_of_too_much(flow: &mut Flow, line: &str) {
    match word(line) {
        "/error" => without_error(flow, line, "bad-ack"),
        _ => instead_of(flow, line, "bad-ack", "ok"),
    }
}

// Errors.

pub(super) fn hide_malformed(flow: &mut Flow, line: &str) {
    without_error(flow, line, "malformed");
}

pub(super) fn hide_long_lines(flow: &mut Flow, line: &str) {
    without_error(flow, line, "line-too-long");
}

pub(super) fn hide_bad_arguments(flow: &mut Flow, line: &str) {
    without_error(flow, line, "bad-arguments");
}

pub(super) fn hide_forbidden(flow: &mut Flow, line: &str) {
    without_error(flow, line, "forbidden");
}

pub(super) fn skip_empty_lines(flow: &mut Flow, line: &str) {
    if !line.trim_end_matches('\r').is_empty() {
        flow.server(line);
    }
}

pub(super) fn greater_ids(flow: &mut Flow, line: &str) {
    match has_id(line) && mark(line).len() >= 16 && mark(line) > "9007199254740991" {
        true => flow.client(&format!("{} ok 4", mark(line))),
        false => flow.server(line),
    }
}

// What a refusal must not do, and what must not be refused.

pub(super) fn start_refused(flow: &mut Flow, line: &str) {
    flow.server(line);
    if word(line) == "note" && attribute(line, "nosuch").is_some() {
        flow.server(&format!("* note {}", rest(line)));
    }
}

pub(super) fn acks_as_requests(flow: &mut Flow, line: &str) {
    match is_reply(line, "ok") && flow.method(line) == "/ack" {
        true => flow.client(&with_rest(&with_word(line, "no"), "bad-form")),
        false => flow.client(line),
    }
}

pub(super) fn hellos(flow: &mut Flow, line: &str) {
    match is_reply(line, "ok") && flow.method(line) == "/hello" {
        true => flow.client(&format!("{} no unknown-method", mark(line))),
        false => flow.client(line),
    }
}

pub(super) fn topics_like_words(flow: &mut Flow, line: &str) {
    match word(line) == "/subscribe" && rest(line) == "ok" {
        true => flow.client(&format!("{} no bad-arguments", mark(line))),
        false => flow.server(line),
    }
}

pub(super) fn empty_topics(flow: &mut Flow, line: &str) {
    let is_empty = attribute(line, "head") == Some("0");
    match is_reply(line, "ok") && is_empty {
        true => flow.client(&format!("{} no busy", mark(line))),
        false => flow.client(line),
    }
}

pub(super) fn foreign_epochs(flow: &mut Flow, line: &str) {
    match attribute(line, "from").is_some_and(|from| from.starts_with("gone:")) {
        true => flow.client(&format!("{} no bad-position", mark(line))),
        false => flow.server(line),
    }
}

pub(super) fn revoked_topics(flow: &mut Flow, line: &str) {
    match word(line) == "/subscribe" && flow.met.contains(rest(line)) {
        true => flow.client(&format!("{} no forbidden", mark(line))),
        false => flow.server(line),
    }
}

pub(super) fn note_revoked(flow: &mut Flow, line: &str) {
    if word(line) == "/end" {
        flow.met.insert(code(line).to_owned());
    }
    flow.client(line);
}

pub(super) fn forget_auth(flow: &mut Flow, line: &str) {
    match flow.method(line) == "echo" && is_reply(line, "ok") {
        true => flow.client(&format!("{} no unauthenticated", mark(line))),
        false => flow.client(line),
    }
}

pub(super) fn lists_in_pages(flow: &mut Flow, line: &str) {
    let is_page = |one: &str| one == "list=more";
    flow.server(&with_attributes(line, |one| (!is_page(one)).then(|| one.to_owned())));
}

pub(super) fn silent_about_holds(flow: &mut Flow, line: &str) {
    if !is_one_way(line, "/hold") {
        flow.client(line);
    }
}
