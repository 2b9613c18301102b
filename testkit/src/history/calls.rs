//! Checks the events of callers and handlers: starts, outcomes, replies.

use std::collections::BTreeMap;

use super::{Entry, Event, Findings, Outcome, Rule};

/// All events of one call, by their indexes in the log.
#[derive(Default)]
struct Call<'a> {
    begun: Vec<usize>,
    key: Option<&'a str>,
    started: Vec<usize>,
    /// `None` if the call was dropped.
    ended: Vec<(usize, Option<Outcome>)>,
}

/// What is started at most once.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Run<'a> {
    Call(u64),
    Key(&'a str),
}

type Calls<'a> = BTreeMap<u64, Call<'a>>;

impl Call<'_> {
    /// Whether an outcome says that the call was not started.
    fn is_void(&self) -> bool {
        matches!(self.ended[..], [(_, Some(Outcome::NotSent | Outcome::Refused))])
    }
}

pub(super) fn check(log: &[Entry], findings: &mut Findings<'_>) {
    let calls = gather(log);
    let mut runs: BTreeMap<Run<'_>, Vec<(u64, &Call<'_>)>> = BTreeMap::new();
    for (&number, call) in &calls {
        outcomes(number, call, findings);
        replies(number, call, &calls, findings);
        let run = call.key.map_or(Run::Call(number), Run::Key);
        runs.entry(run).or_default().push((number, call));
    }
    runs.values().for_each(|calls| starts(calls, findings));
}

fn gather(log: &[Entry]) -> Calls<'_> {
    let mut calls = Calls::new();
    for (at, entry) in log.iter().enumerate() {
        match &entry.event {
            Event::Called { call, key } => {
                let call = calls.entry(*call).or_default();
                call.begun.push(at);
                call.key = key.as_deref();
            }
            Event::Started { call } => calls.entry(*call).or_default().started.push(at),
            Event::Ended { call, outcome } => {
                calls.entry(*call).or_default().ended.push((at, Some(*outcome)));
            }
            Event::GivenUp { call } => calls.entry(*call).or_default().ended.push((at, None)),
            _ => {}
        }
    }
    calls
}

fn outcomes(number: u64, call: &Call<'_>, findings: &mut Findings<'_>) {
    let ended = call.ended.iter().map(|&(at, _)| at);
    let what = match (&call.begun[..], &call.ended[..]) {
        ([], []) => return,
        ([begun], [(ended, _)]) if begun < ended => return,
        ([], _) => "ended, and was not begun",
        ([_], []) => "has no outcome",
        ([_], [_]) => "ended before it was begun",
        ([_], _) => "has more than one outcome",
        _ => "was begun more than once",
    };
    let events = call.begun.iter().copied().chain(ended);
    findings.add(Rule::Outcomes, events, format!("call {number} {what}"));
}

fn replies(number: u64, call: &Call<'_>, calls: &Calls<'_>, findings: &mut Findings<'_>) {
    for &(at, outcome) in &call.ended {
        let Some(Outcome::Ok { names }) = outcome else { continue };
        let named = calls.get(&names);
        let shares_key = call.key.is_some() && named.is_some_and(|named| named.key == call.key);
        if names != number && !shares_key {
            let what = format!("call {number} got the reply to {names}");
            findings.add(Rule::Replies, [at], what);
        }
    }
}

/// Checks the calls of one run: one call, or all calls with one key.
fn starts(calls: &[(u64, &Call<'_>)], findings: &mut Findings<'_>) {
    let started: Vec<_> = calls.iter().flat_map(|(_, call)| call.started.clone()).collect();
    let ended = || calls.iter().flat_map(|(_, call)| &call.ended);
    let answered = ended().filter(|(_, outcome)| was_answered(*outcome)).map(|&(at, _)| at).min();
    let is_void = calls.iter().all(|(_, call)| call.is_void());
    let begun = calls.iter().flat_map(|(_, call)| call.begun.clone()).min();
    let what = match (started.first(), begun, answered) {
        (Some(start), begun, _) if begun.is_none_or(|begun| *start < begun) => {
            "was started, and was not begun"
        }
        _ if started.len() > 1 => "was started more than once",
        (None, _, Some(_)) => "was answered, and never started",
        (Some(start), _, Some(answer)) if *start > answer => "was answered before it was started",
        (Some(_), _, _) if is_void => "was started, and is said not to have been",
        _ => return,
    };
    let events = begun.into_iter().chain(started).chain(ended().map(|&(at, _)| at));
    let numbers: Vec<_> = calls.iter().map(|(number, _)| number.to_string()).collect();
    findings.add(Rule::Starts, events, format!("call {} {what}", numbers.join(", ")));
}

fn was_answered(outcome: Option<Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Ok { .. } | Outcome::Remote))
}
