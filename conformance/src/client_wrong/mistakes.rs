//! The mistakes of wrong clients, each a short function over lines.
//!
//! A line is text of which each char is a byte. Where a mistake makes a client close that should
//! go on, the proxy gives it a malformed line; where it makes a client go on that should close,
//! the proxy keeps the line from it.

mod access;
mod calls;
mod connections;
mod keys;
mod lines;
mod notifications;
mod streams;
pub(super) mod websockets;

use crate::client_wrong::memory::{Lane, Memory};

/// What becomes of a line: lines, and where they go.
pub(super) type Outcome = Vec<(Lane, String)>;

/// A mistake.
#[derive(Clone, Copy)]
pub(super) struct Mistake {
    pub(super) name: &'static str,
    /// What the wrong client does.
    pub(super) about: &'static str,
    /// The lanes whose lines it is given; those of the others go on as they are.
    pub(super) lanes: &'static [Lane],
    pub(super) make: fn(&mut Memory, Lane, String) -> Outcome,
}

/// None: shows that it is not the proxy that fails the cases.
pub(super) const NO_MISTAKE: Mistake =
    Mistake { name: "none", about: "makes no mistake", lanes: &[], make: |_, _, _| Vec::new() };

/// All mistakes.
pub(super) const MISTAKES: &[Mistake] = &ALL;

const COUNT: usize = access::MISTAKES.len()
    + calls::MISTAKES.len()
    + connections::MISTAKES.len()
    + keys::MISTAKES.len()
    + lines::MISTAKES.len()
    + notifications::MISTAKES.len()
    + streams::MISTAKES.len()
    + websockets::MISTAKES.len();

const ALL: [Mistake; COUNT] = joined([
    calls::MISTAKES,
    lines::MISTAKES,
    notifications::MISTAKES,
    connections::MISTAKES,
    streams::MISTAKES,
    access::MISTAKES,
    keys::MISTAKES,
    websockets::MISTAKES,
]);

const fn joined(groups: [&[Mistake]; 8]) -> [Mistake; COUNT] {
    let mut all = [groups[0][0]; COUNT];
    let (mut group, mut at) = (0, 0);
    while group < groups.len() {
        let mut one = 0;
        while one < groups[group].len() {
            all[at] = groups[group][one];
            at += 1;
            one += 1;
        }
        group += 1;
    }
    all
}

/// The line goes on as it is.
fn keep(lane: Lane, line: String) -> Outcome {
    vec![(lane, line)]
}

/// The line is lost.
fn lose() -> Outcome {
    Vec::new()
}

/// The client reads a malformed line instead, and closes.
fn break_off() -> Outcome {
    vec![(Lane::ToClient, "nonsense".to_owned())]
}

/// The line goes on if `keeps`, and is lost otherwise.
fn keep_if(keeps: bool, lane: Lane, line: String) -> Outcome {
    if keeps { keep(lane, line) } else { lose() }
}

/// The client breaks off if `breaks`, and reads the line otherwise.
fn break_off_if(breaks: bool, lane: Lane, line: String) -> Outcome {
    if breaks { break_off() } else { keep(lane, line) }
}

/// The word behind the mark or the tag, without attributes.
fn word(line: &str) -> &str {
    line.split(' ').nth(1).unwrap_or_default().split(';').next().unwrap_or_default()
}

/// The words of a line.
fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// The id of a line, if its mark is one.
fn id(line: &str) -> Option<u64> {
    line.split(' ').next()?.parse().ok()
}

/// An event with another payload.
fn with_payload(line: String, change: impl Fn(&str) -> String) -> Outcome {
    let at = match word(&line) {
        "reply" | "item" => 2,
        "message" => 3,
        _ => return keep(Lane::Event, line),
    };
    let head: Vec<_> = line.splitn(at + 1, ' ').take(at).collect();
    let payload = line.splitn(at + 1, ' ').nth(at).unwrap_or_default();
    keep(Lane::Event, format!("{} {}", head.join(" "), change(payload)))
}

/// The line without the attribute `key`.
fn without(line: &str, key: &str) -> String {
    let Some(begin) = line.find(&format!(";{key}=")) else { return line.to_owned() };
    let length = line[begin + 1..].find([';', ' ']).map_or(line.len() - begin, |end| end + 1);
    format!("{}{}", &line[..begin], &line[begin + length..])
}
