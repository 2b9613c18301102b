//! The parts of a line, for the functions that alter some. A line that has other parts than a
//! function expects is passed on.

use crate::server_proxy::Flow;

/// What stands before the first SP.
pub(super) fn mark(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

/// Word and attributes.
fn head(line: &str) -> &str {
    line.split(' ').nth(1).unwrap_or_default()
}

pub(super) fn word(line: &str) -> &str {
    head(line).split(';').next().unwrap_or_default()
}

/// What follows the head; empty if nothing does.
pub(super) fn rest(line: &str) -> &str {
    line.splitn(3, ' ').nth(2).unwrap_or_default()
}

/// `line` with another head.
fn with_head(line: &str, head: &str) -> String {
    match line.splitn(3, ' ').nth(2) {
        Some(rest) => format!("{} {head} {rest}", mark(line)),
        None => format!("{} {head}", mark(line)),
    }
}

/// `line` with another rest.
pub(super) fn with_rest(line: &str, rest: &str) -> String {
    match rest.is_empty() {
        true => format!("{} {}", mark(line), head(line)),
        false => format!("{} {} {rest}", mark(line), head(line)),
    }
}

/// `line` with another word.
pub(super) fn with_word(line: &str, word: &str) -> String {
    let attributes = head(line).find(';').map_or("", |at| &head(line)[at..]);
    with_head(line, &format!("{word}{attributes}"))
}

/// `line` with `edit` applied to each attribute; what it makes `None` is left out.
pub(super) fn with_attributes(line: &str, edit: impl Fn(&str) -> Option<String>) -> String {
    let mut parts = head(line).split(';');
    let mut edited = parts.next().unwrap_or_default().to_owned();
    for attribute in parts.filter_map(edit) {
        edited += &format!(";{attribute}");
    }
    with_head(line, &edited)
}

/// `line` without the attribute `key`.
pub(super) fn without(line: &str, key: &str) -> String {
    let is_its = |one: &str| one.split('=').next() == Some(key);
    with_attributes(line, |one| (!is_its(one)).then(|| one.to_owned()))
}

/// `line` with the number that ends the attribute `key` one higher.
pub(super) fn one_more(line: &str, key: &str) -> String {
    with_attributes(line, |one| match one.split_once('=') {
        Some((found, value)) if found == key => Some(format!("{key}={}", increased(value))),
        _ => Some(one.to_owned()),
    })
}

/// `text` with the number at its end one higher.
pub(super) fn increased(text: &str) -> String {
    let digits = text.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (before, number) = text.split_at(text.len() - digits);
    format!("{before}{}", number.parse::<u64>().unwrap_or_default() + 1)
}

/// The value of the attribute `key`.
pub(super) fn attribute<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let mut found = head(line).split(';').filter_map(|one| one.split_once('='));
    found.find(|(name, _)| *name == key).map(|(_, value)| value)
}

pub(super) fn has_id(line: &str) -> bool {
    !mark(line).is_empty() && mark(line).bytes().all(|byte| byte.is_ascii_digit())
}

/// A reply with one of the four terminal words.
pub(super) fn is_terminal(line: &str) -> bool {
    has_id(line) && ["ok", "err", "no", "cut"].contains(&word(line))
}

/// A line under an id with this word.
pub(super) fn is_reply(line: &str, as_word: &str) -> bool {
    has_id(line) && word(line) == as_word
}

/// The `ok` of this method.
pub(super) fn is_ok_of(flow: &Flow, line: &str, method: &str) -> bool {
    is_reply(line, "ok") && flow.method(line) == method
}

pub(super) fn is_notification(line: &str) -> bool {
    mark(line) == "*" && !word(line).starts_with('/')
}

/// A line of the client's for an application method, with an id.
pub(super) fn is_call(line: &str) -> bool {
    has_id(line) && !word(line).starts_with('/') && !word(line).is_empty()
}

/// A one-way line of the client's with this word.
pub(super) fn is_one_way(line: &str, as_word: &str) -> bool {
    mark(line) == "*" && word(line) == as_word
}

/// The code behind the word of a refusal or an error.
pub(super) fn code(line: &str) -> &str {
    rest(line).split(' ').next().unwrap_or_default()
}
