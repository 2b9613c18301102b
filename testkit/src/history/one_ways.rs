//! Checks the events of one-way requests: of senders, handlers and the wire.

use std::collections::BTreeMap;

use super::{Entry, Event, Findings, Line, Rule};

/// All events of one request, by their indexes in the log.
#[derive(Default)]
struct OneWay {
    told: Vec<usize>,
    untold: Vec<usize>,
    /// Its line passed to a server.
    passed: Vec<usize>,
    heard: Vec<usize>,
}

pub(super) fn check(log: &[Entry], findings: &mut Findings<'_>) {
    let mut all: BTreeMap<u64, OneWay> = BTreeMap::new();
    for (at, entry) in log.iter().enumerate() {
        match &entry.event {
            Event::Told { one_way } => all.entry(*one_way).or_default().told.push(at),
            Event::Untold { one_way } => all.entry(*one_way).or_default().untold.push(at),
            Event::Heard { one_way } => all.entry(*one_way).or_default().heard.push(at),
            Event::Wire { line: Line::OneWay { one_way }, .. } => {
                all.entry(*one_way).or_default().passed.push(at);
            }
            _ => {}
        }
    }
    for (number, one) in &all {
        if let Some(what) = one.fault() {
            let each = [&one.told, &one.untold, &one.passed, &one.heard];
            let mut events: Vec<_> = each.into_iter().flatten().copied().collect();
            events.sort_unstable();
            findings.add(Rule::OneWays, events, format!("one-way {number} {what}"));
        }
    }
}

impl OneWay {
    fn fault(&self) -> Option<&'static str> {
        let first = self.passed.iter().chain(&self.heard).min();
        match (&self.told[..], first) {
            ([], _) => Some("was not begun"),
            ([_, _, ..], _) => Some("was begun more than once"),
            ([told], Some(first)) if first < told => Some("passed before it was begun"),
            _ if self.passed.len() > 1 => Some("passed more than once"),
            _ if self.heard.len() > 1 => Some("was started more than once"),
            (_, Some(_)) if !self.untold.is_empty() => Some("passed, and is said not to have"),
            _ => None,
        }
    }
}
