//! Mistakes that break one rule about what a subscription delivers, and where it begins.

use std::sync::atomic::Ordering::Relaxed;

use super::parts::{
    attribute, code, is_notification, is_ok_of, is_reply, is_terminal, mark, one_more,
    with_attributes, without, word,
};
use crate::server_proxy::Flow;

fn sequence(line: &str) -> Option<&str> {
    is_notification(line).then(|| code(line))
}

/// Remembers the epoch of the newest subscription as the one held line.
fn note_epoch(flow: &mut Flow, line: &str) {
    if is_ok_of(flow, line, "/subscribe") {
        flow.held = attribute(line, "epoch").into_iter().map(str::to_owned).collect();
    }
}

fn epoch(flow: &Flow) -> String {
    flow.held.first().cloned().unwrap_or_default()
}

pub(super) fn lose_behind_a_reply(flow: &mut Flow, line: &str) {
    if is_terminal(line) && !flow.method(line).starts_with('/') {
        flow.met.insert("reply".to_owned());
    }
    if !(is_notification(line) && flow.met.remove("reply")) {
        flow.client(line);
    }
}

pub(super) fn stop_short_of_the_head(flow: &mut Flow, line: &str) {
    if is_ok_of(flow, line, "/subscribe") {
        flow.met.extend(attribute(line, "head").map(str::to_owned));
    }
    if !sequence(line).is_some_and(|seq| flow.met.contains(seq)) {
        flow.client(line);
    }
}

pub(super) fn leave_for_all(flow: &mut Flow, line: &str) {
    if is_ok_of(flow, line, "/unsubscribe") {
        flow.shared.fetch_add(1, Relaxed);
    }
    if !(is_notification(line) && flow.shared.load(Relaxed) > 0) {
        flow.client(line);
    }
}

/// Only the connection that subscribed first is delivered anything.
pub(super) fn serve_the_first(flow: &mut Flow, line: &str) {
    if is_ok_of(flow, line, "/subscribe") {
        flow.count = 1 + flow.shared.fetch_add(1, Relaxed);
    }
    if !(is_notification(line) && flow.count > 1) {
        flow.client(line);
    }
}

pub(super) fn own_epochs(flow: &mut Flow, line: &str) {
    if !is_ok_of(flow, line, "/subscribe") {
        return flow.client(line);
    }
    let connection = flow.shared.fetch_add(1, Relaxed);
    flow.client(&with_attributes(line, |one| match one.strip_prefix("epoch=") {
        Some(epoch) => Some(format!("epoch={epoch}{connection}")),
        None => Some(one.to_owned()),
    }));
}

/// From the second message on.
pub(super) fn name_instead(flow: &mut Flow, line: &str) {
    note_epoch(flow, line);
    match sequence(line) {
        Some(seq) if seq != "1" => {
            let (topic, epoch) = (word(line), epoch(flow));
            flow.client(&format!("* /gap {topic} {epoch} {seq} {seq} slow"));
        }
        _ => flow.client(line),
    }
}

pub(super) fn end_what_waits(flow: &mut Flow, line: &str) {
    note_epoch(flow, line);
    match sequence(line) {
        Some("2") => flow.client(&format!("* /end {} slow {}:2", word(line), epoch(flow))),
        _ => flow.client(line),
    }
}

pub(super) fn stop_at_the_line(flow: &mut Flow, line: &str) {
    if word(line) == "/bye" && attribute(line, "last").is_some() {
        flow.met.insert("over".to_owned());
    }
    if !(is_notification(line) && flow.met.contains("over")) {
        flow.client(line);
    }
}

/// What is delivered of one topic uses the window of all.
pub(super) fn share_the_window(flow: &mut Flow, line: &str) {
    if !is_notification(line) {
        return flow.client(line);
    }
    flow.met.insert(word(line).to_owned());
    if flow.met.len() == 1 {
        flow.client(line);
    }
}

/// A second subscription to a topic begins with the window of the first.
pub(super) fn keep_windows(flow: &mut Flow, line: &str) {
    flow.count += usize::from(is_ok_of(flow, line, "/subscribe"));
    if !(is_notification(line) && flow.count > 1) {
        flow.client(line);
    }
}

pub(super) fn count_gaps(flow: &mut Flow, line: &str) {
    if word(line) == "/gap" {
        flow.met.insert("gap".to_owned());
    }
    if !(is_notification(line) && flow.met.remove("gap")) {
        flow.client(line);
    }
}

pub(super) fn hide_what_is_large(flow: &mut Flow, line: &str) {
    if !(word(line) == "/gap" && line.ends_with("too-large")) {
        flow.client(line);
    }
}

pub(super) fn hide_head_of_ends(flow: &mut Flow, line: &str) {
    match word(line) {
        "/end" => flow.client(&without(line, "head")),
        _ => flow.client(line),
    }
}

pub(super) fn list_an_empty_page(flow: &mut Flow, line: &str) {
    if is_ok_of(flow, line, "/renew") {
        flow.client(&format!("{} more", mark(line)));
    }
    flow.client(line);
}

// Where it begins.

pub(super) fn resume_one_late(flow: &mut Flow, line: &str) {
    flow.server(&one_more(line, "from"));
}

pub(super) fn replay_from_1(flow: &mut Flow, line: &str) {
    flow.server(&with_attributes(line, |one| {
        let from = one.strip_prefix("from=").and_then(|from| from.split(':').next());
        Some(from.map_or_else(|| one.to_owned(), |epoch| format!("from={epoch}:1")))
    }));
}

pub(super) fn replay_without_window(flow: &mut Flow, line: &str) {
    match attribute(line, "from") {
        Some(_) => flow.server(&without(line, "window")),
        None => flow.server(line),
    }
}

/// A position of an epoch that begins like the topic's own.
pub(super) fn compare_beginnings(flow: &mut Flow, line: &str) {
    let own = epoch(flow);
    flow.server(&with_attributes(line, |one| match one.strip_prefix("from=") {
        Some(from) if !own.is_empty() && from.starts_with(&own) => {
            Some(format!("from={own}:{}", from.rsplit(':').next().unwrap_or_default()))
        }
        _ => Some(one.to_owned()),
    }));
}

pub(super) fn know_epoch(flow: &mut Flow, line: &str) {
    note_epoch(flow, line);
    flow.client(line);
}

pub(super) fn go_to_the_head(flow: &mut Flow, line: &str) {
    match is_reply(line, "no") && code(line) == "bad-position" {
        true => flow.client(&format!("{} ok;epoch=e;next=3;head=1;lease=60", mark(line))),
        false => flow.client(line),
    }
}
