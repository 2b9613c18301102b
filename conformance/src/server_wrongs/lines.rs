//! Mistakes with lines, stuffing and limits.

use super::parts::{code, is_reply, mark, rest, with_attributes, with_rest, without, word};
use crate::server_proxy::Flow;

pub(super) fn hold_hello(flow: &mut Flow, line: &str) {
    match word(line) {
        "/hello" => flow.held.push(line.to_owned()),
        _ => flow.client(line),
    }
}

pub(super) fn say_hello(flow: &mut Flow, line: &str) {
    let held = std::mem::take(&mut flow.held);
    held.iter().for_each(|hello| flow.client(hello));
    flow.server(line);
}

pub(super) fn hide_places(flow: &mut Flow, line: &str) {
    match word(line) {
        "/hello" => flow.client(&without(line, "in-flight")),
        _ => flow.client(line),
    }
}

pub(super) fn stuff_twice(flow: &mut Flow, line: &str) {
    flow.client(&line.replace('\x10', "\x10P"));
}

pub(super) fn leave_plain(flow: &mut Flow, line: &str) {
    flow.client(&line.replace("\x10M", "\r").replace("\x10P", "\x10"));
}

pub(super) fn unstuff_twice(flow: &mut Flow, line: &str) {
    flow.server(&line.replace("\x10PJ", "\x10J"));
}

pub(super) fn stuff_nul(flow: &mut Flow, line: &str) {
    flow.client(&line.replace('\0', "\x10@"));
}

pub(super) fn lose_high_bytes(flow: &mut Flow, line: &str) {
    flow.client(&line.replace(|one| one > '\x7e', "?"));
}

pub(super) fn collapse(flow: &mut Flow, line: &str) {
    let words: Vec<_> = rest(line).split(' ').filter(|word| !word.is_empty()).collect();
    flow.server(&with_rest(line, &words.join(" ")));
}

pub(super) fn add_sp(flow: &mut Flow, line: &str) {
    let is_empty = match (mark(line), word(line)) {
        (_, "/hello") => false,
        ("*", topic) if !topic.starts_with('/') => !rest(line).contains(' '),
        _ => rest(line).is_empty(),
    };
    flow.client(&if is_empty { format!("{line} ") } else { line.to_owned() });
}

pub(super) fn keep_cr(flow: &mut Flow, line: &str) {
    match line.strip_suffix('\r') {
        Some(line) => flow.server(&format!("{line}\x10M")),
        None => flow.server(line),
    }
}

pub(super) fn drop_crs(flow: &mut Flow, line: &str) {
    flow.server(line.trim_end_matches('\r'));
}

pub(super) fn take_raw_crs(flow: &mut Flow, line: &str) {
    flow.server(&line.replace('\r', "\x10M"));
}

pub(super) fn add_cr(flow: &mut Flow, line: &str) {
    let cr = if word(line) == "/hello" { "" } else { "\r" };
    flow.client(&format!("{line}{cr}"));
}

pub(super) fn split_at_vt(flow: &mut Flow, line: &str) {
    line.split('\x0b').for_each(|piece| flow.server(piece));
}

pub(super) fn first_line_only(flow: &mut Flow, chunk: &str) {
    if let Some((line, _)) = chunk.split_once('\n') {
        flow.server(line);
    }
}

pub(super) fn end_at_writes(flow: &mut Flow, chunk: &str) {
    flow.server(chunk.strip_suffix('\n').unwrap_or(chunk));
}

pub(super) fn complete(flow: &mut Flow, left: &str) {
    if !left.is_empty() {
        // The bytes themselves were passed on before.
        flow.server("");
    }
}

pub(super) fn drop_long(flow: &mut Flow, line: &str) {
    if line.len() < 900 {
        flow.client(line);
    }
}

pub(super) fn forget_max_line(flow: &mut Flow, line: &str) {
    match word(line) {
        "/hello" => flow.server(&without(line, "max-line")),
        _ => flow.server(line),
    }
}

pub(super) fn send_all(flow: &mut Flow, line: &str) {
    match is_reply(line, "err") && code(line) == "too-large" {
        true => flow.client(&format!("{} ok {}", mark(line), "x".repeat(70_000))),
        false => flow.client(line),
    }
}

pub(super) fn rename_dotted(flow: &mut Flow, line: &str) {
    flow.server(&with_attributes(line, |one| match one.split_once('=') {
        Some((key, value)) => Some(format!("{}={value}", key.replace('.', ""))),
        None => Some(one.to_owned()),
    }));
}

pub(super) fn answer_first(flow: &mut Flow, line: &str) {
    let is_bad = line.is_empty() || line.contains("..") || line.starts_with("GET");
    if flow.count == 0 && is_bad {
        flow.client("* /error malformed");
    }
    flow.count += 1;
    flow.server(line);
}
