//! Mistakes with subscriptions and notifications.

use super::parts::{
    attribute, code, increased, is_call, is_notification, is_ok_of, is_terminal, mark, one_more,
    rest, with_attributes, with_rest, without, word,
};
use crate::server_proxy::Flow;

pub(super) fn forget_some(flow: &mut Flow, line: &str) {
    if is_notification(line) {
        flow.count += 1;
        if flow.count % 2 == 1 {
            return;
        }
    }
    flow.client(line);
}

pub(super) fn double(flow: &mut Flow, line: &str) {
    flow.client(line);
    if is_notification(line) {
        flow.client(line);
    }
}

pub(super) fn shift(flow: &mut Flow, line: &str) {
    match is_notification(line) {
        true => {
            let (seq, payload) = rest(line).split_once(' ').unwrap_or((rest(line), ""));
            flow.client(&with_rest(line, format!("{} {payload}", increased(seq)).trim_end()));
        }
        false => flow.client(line),
    }
}

/// Passes `line` on, with the number of `key` one higher if it is the `ok` of `method`.
fn wrong_number(flow: &mut Flow, line: &str, method: &str, key: &str) {
    match is_ok_of(flow, line, method) {
        true => flow.client(&one_more(line, key)),
        false => flow.client(line),
    }
}

pub(super) fn wrong_head(flow: &mut Flow, line: &str) {
    wrong_number(flow, line, "/subscribe", "head");
}

pub(super) fn wrong_next(flow: &mut Flow, line: &str) {
    wrong_number(flow, line, "/subscribe", "next");
}

pub(super) fn wrong_lease(flow: &mut Flow, line: &str) {
    wrong_number(flow, line, "/subscribe", "lease");
}

pub(super) fn wrong_seq(flow: &mut Flow, line: &str) {
    wrong_number(flow, line, "/publish", "seq");
}

pub(super) fn wrong_left(flow: &mut Flow, line: &str) {
    wrong_number(flow, line, "/unsubscribe", "next");
}

pub(super) fn wrong_end(flow: &mut Flow, line: &str) {
    match word(line) {
        "/end" => flow.client(&increased(line)),
        _ => flow.client(line),
    }
}

pub(super) fn hold_resumed(flow: &mut Flow, line: &str) {
    let is_resume = flow.asked.get(mark(line)).is_some_and(|asked| asked.contains(";from="));
    if is_resume && is_ok_of(flow, line, "/subscribe") {
        flow.held.push(line.to_owned());
        return;
    }
    flow.client(line);
    if is_notification(line) {
        let held = std::mem::take(&mut flow.held);
        held.iter().for_each(|reply| flow.client(reply));
    }
}

pub(super) fn notify_left(flow: &mut Flow, line: &str) {
    flow.client(line);
    if is_ok_of(flow, line, "/unsubscribe") {
        let topic = flow.asked.get(mark(line)).map_or("", |asked| rest(asked)).to_owned();
        flow.client(&format!("* {topic} 99 x"));
    }
}

pub(super) fn notify_ended(flow: &mut Flow, line: &str) {
    flow.client(line);
    if word(line) == "/end" {
        flow.client(&format!("* {} 99 x", code(line)));
    }
}

pub(super) fn notify_all(flow: &mut Flow, line: &str) {
    flow.client(line);
    if is_notification(line) || is_ok_of(flow, line, "/renew") {
        flow.client("* other 9 z");
    }
}

pub(super) fn notify_late(flow: &mut Flow, _: &str) {
    flow.client("* offers 1 late");
}

pub(super) fn end_doubled(flow: &mut Flow, line: &str) {
    if code(line) == "already-subscribed" {
        flow.met.insert("over".to_owned());
    }
    if !(is_notification(line) && flow.met.contains("over")) {
        flow.client(line);
    }
}

pub(super) fn count_calls(flow: &mut Flow, line: &str) {
    flow.count += usize::from(is_call(line));
    flow.server(line);
}

pub(super) fn hold_notifications(flow: &mut Flow, line: &str) {
    if is_notification(line) && flow.count > 0 {
        flow.held.push(line.to_owned());
        return;
    }
    flow.client(line);
    if is_terminal(line) && !flow.method(line).starts_with('/') {
        flow.count = 0;
        let held = std::mem::take(&mut flow.held);
        held.iter().for_each(|notification| flow.client(notification));
    }
}

pub(super) fn swap_payloads(flow: &mut Flow, line: &str) {
    if word(line) != "/publish" {
        flow.server(line);
    } else if let Some(held) = flow.held.pop() {
        flow.server(&with_rest(&held, rest(line)));
        flow.server(&with_rest(line, rest(&held)));
    } else {
        flow.held.push(line.to_owned());
    }
}

fn hide(flow: &mut Flow, line: &str, notice: &str) {
    if word(line) != notice {
        flow.client(line);
    }
}

pub(super) fn hide_gaps(flow: &mut Flow, line: &str) {
    hide(flow, line, "/gap");
}

pub(super) fn hide_resets(flow: &mut Flow, line: &str) {
    hide(flow, line, "/reset");
}

pub(super) fn hide_ends(flow: &mut Flow, line: &str) {
    hide(flow, line, "/end");
}

pub(super) fn short_gaps(flow: &mut Flow, line: &str) {
    let words: Vec<_> = rest(line).split(' ').collect();
    match (word(line), &words[..]) {
        ("/gap", [topic, epoch, first, _, reason]) => {
            flow.client(&with_rest(line, &format!("{topic} {epoch} {first} {first} {reason}")));
        }
        _ => flow.client(line),
    }
}

pub(super) fn unsort_list(flow: &mut Flow, line: &str) {
    match is_ok_of(flow, line, "/renew") {
        true => {
            let list: Vec<_> = rest(line).split(' ').rev().collect();
            flow.client(&with_rest(line, &list.join(" ")));
        }
        false => flow.client(line),
    }
}

pub(super) fn list_too_much(flow: &mut Flow, line: &str) {
    match is_ok_of(flow, line, "/renew") {
        true => flow.client(&increased(line)),
        false => flow.client(line),
    }
}

pub(super) fn note_epoch(flow: &mut Flow, line: &str) {
    if let (Some(epoch), Some(lease)) = (attribute(line, "epoch"), attribute(line, "lease")) {
        flow.held = vec![format!("ok;lease={lease} offers:{epoch}:1")];
    }
    flow.client(line);
}

pub(super) fn renew_itself(flow: &mut Flow, line: &str) {
    match (word(line), flow.held.first()) {
        ("/renew", Some(reply)) => {
            let reply = format!("{} {reply}", mark(line));
            flow.client(&reply);
        }
        _ => flow.server(line),
    }
}

fn with_epoch(line: &str, edit: impl Fn(&str) -> String) -> String {
    with_attributes(line, |one| match one.strip_prefix("epoch=") {
        Some(epoch) => Some(format!("epoch={}", edit(epoch))),
        None => Some(one.to_owned()),
    })
}

pub(super) fn one_epoch(flow: &mut Flow, line: &str) {
    flow.client(&with_epoch(line, |_| "same".to_owned()));
}

pub(super) fn new_epochs(flow: &mut Flow, line: &str) {
    flow.count += 1;
    let (count, changed) = (flow.count, is_ok_of(flow, line, "/subscribe"));
    match changed {
        true => flow.client(&with_epoch(line, |epoch| format!("{epoch}{count}"))),
        false => flow.client(line),
    }
}

pub(super) fn forget_from(flow: &mut Flow, line: &str) {
    flow.server(&without(line, "from"));
}

pub(super) fn forget_last(flow: &mut Flow, line: &str) {
    flow.server(&without(line, "last"));
}

pub(super) fn forget_slow(flow: &mut Flow, line: &str) {
    flow.server(&without(line, "slow"));
}

pub(super) fn end_at_quit(flow: &mut Flow, line: &str) {
    if is_ok_of(flow, line, "/quit") {
        flow.client("* /end offers closed e:1");
    }
    flow.client(line);
}

pub(super) fn drop_acks(flow: &mut Flow, line: &str) {
    if word(line) != "/ack" {
        flow.server(line);
    }
}

pub(super) fn answer_acks(flow: &mut Flow, line: &str) {
    if word(line) == "/ack" {
        flow.client("* /error bad-ack");
    }
    flow.server(line);
}

pub(super) fn hold_echo(flow: &mut Flow, line: &str) {
    if is_ok_of(flow, line, "echo") {
        flow.held.push(line.to_owned());
        return;
    }
    flow.client(line);
    if is_notification(line) && rest(line).starts_with("100 ") {
        let held = std::mem::take(&mut flow.held);
        held.iter().for_each(|reply| flow.client(reply));
    }
}

pub(super) fn hide_after(flow: &mut Flow, line: &str) {
    flow.client(&without(line, "after"));
}

pub(super) fn add_after(flow: &mut Flow, line: &str) {
    match is_ok_of(flow, line, "add") && attribute(line, "after").is_none() {
        true => flow.client(&format!("{line};after=offers:e:2")),
        false => flow.client(line),
    }
}
