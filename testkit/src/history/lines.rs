//! Compares the lines of calls on the wire with how the calls ended, and with when their handlers
//! ran.

use std::collections::BTreeMap;

use super::{Asked, Entry, Event, Findings, Line, Outcome, Rule, Word};

/// A request line that passed to the server.
struct Sent {
    at: usize,
    connection: u64,
    id: u64,
    /// Its terminal line, once that passed to the client.
    answer: Option<(usize, Word)>,
}

/// The state of a call.
#[derive(Default)]
struct Call {
    is_keyed: bool,
    started: Vec<usize>,
    finished: Vec<usize>,
    sent: Vec<Sent>,
    ended: Option<(usize, Outcome)>,
}

/// The state of the wire.
#[derive(Default)]
struct Wire {
    calls: BTreeMap<u64, Call>,
    /// The call that an id of a connection belongs to, and the index of that line among the call's
    /// lines.
    owners: BTreeMap<(u64, u64), (u64, usize)>,
    /// For each connection, the last id that its `/bye` allows to run.
    last_ids: BTreeMap<u64, u64>,
}

pub(super) fn check(log: &[Entry], findings: &mut Findings<'_>) {
    let mut wire = Wire::default();
    for (at, entry) in log.iter().enumerate() {
        match &entry.event {
            Event::Called { call, key } => wire.call(*call).is_keyed = key.is_some(),
            Event::Started { call } => wire.call(*call).started.push(at),
            Event::Finished { call } => wire.call(*call).finished.push(at),
            Event::Ended { call, outcome } => {
                wire.call(*call).ended.get_or_insert((at, *outcome));
            }
            Event::Wire { connection, line } => wire.pass(at, *connection, line, findings),
            _ => {}
        }
    }
    wire.calls.iter().for_each(|(number, call)| wire.outcome(*number, call, findings));
}

impl Call {
    /// What is wrong with a terminal line that passes now, as the answer to this line of the call.
    fn fault_of(&self, line: usize, word: Word) -> Option<&'static str> {
        let is_started = !self.started.is_empty();
        let runs = self.finished.len() < self.started.len();
        match word {
            _ if self.is_keyed => None,
            Word::Ok | Word::Err if !is_started => Some("is answered before it was started"),
            Word::Ok | Word::Err | Word::Cut => runs.then_some("is answered while it runs"),
            // An earlier line may be refused while a later one already runs.
            Word::No if line + 1 < self.sent.len() => None,
            Word::No => is_started.then_some("is answered as not started, and was"),
            Word::More => None,
        }
    }

    /// Whether a terminal line with this word passed before an index of the log.
    fn was_told(&self, word: Word, before: usize) -> bool {
        self.sent.iter().any(|sent| sent.answer.is_some_and(|(at, w)| w == word && at < before))
    }
}

impl Wire {
    fn call(&mut self, call: u64) -> &mut Call {
        self.calls.entry(call).or_default()
    }

    fn pass(&mut self, at: usize, connection: u64, line: &Line, findings: &mut Findings<'_>) {
        match *line {
            Line::Request { id, asks: Asked::Call(call) } => {
                self.send(call, Sent { at, connection, id, answer: None }, findings);
            }
            Line::Reply { word: Word::More, .. } => {}
            Line::Reply { id, word } => self.answer(at, (connection, id), word, findings),
            Line::Bye { last } => drop(self.last_ids.insert(connection, last)),
            _ => {}
        }
    }

    fn send(&mut self, call: u64, line: Sent, findings: &mut Findings<'_>) {
        let open = self.open(call);
        let sent = &mut self.calls.entry(call).or_default().sent;
        self.owners.insert((line.connection, line.id), (call, sent.len()));
        let at = line.at;
        sent.push(line);
        if !open.is_empty() && !self.call(call).is_keyed {
            let what = format!("call {call} is sent again, though it may have run");
            findings.add(Rule::Proof, open.into_iter().chain([at]), what);
        }
    }

    fn answer(&mut self, at: usize, id: (u64, u64), word: Word, findings: &mut Findings<'_>) {
        let Some(&(number, line)) = self.owners.get(&id) else { return };
        let call = self.call(number);
        let sent = &mut call.sent[line];
        sent.answer.get_or_insert((at, word));
        let events = [sent.at, at];
        if let Some(what) = call.fault_of(line, word) {
            let events = events.into_iter().chain(call.started.clone());
            findings.add(Rule::Terminals, events, format!("call {number} {what}"));
        }
    }

    /// Checks how a call ended, when all its lines are known.
    fn outcome(&self, number: u64, call: &Call, findings: &mut Findings<'_>) {
        let Some((ended, outcome)) = call.ended.filter(|_| !call.sent.is_empty()) else { return };
        let is_borne_out = match outcome {
            Outcome::NotSent => false,
            Outcome::Refused => self.open(number).is_empty(),
            Outcome::Ok { .. } => call.was_told(Word::Ok, ended),
            Outcome::Remote => call.was_told(Word::Err, ended),
            Outcome::Unknown => true,
        };
        if !is_borne_out {
            let answer = |sent: &Sent| sent.answer.map(|(at, _)| at);
            let passed = call.sent.iter().flat_map(|sent| [Some(sent.at), answer(sent)]);
            let what = format!("call {number} ended {outcome}, and the wire says otherwise");
            findings.add(Rule::Proof, [ended].into_iter().chain(passed.flatten()), what);
        }
    }

    /// The lines of a call that are not proven not executed.
    fn open(&self, call: u64) -> Vec<usize> {
        let is_open = |sent: &&Sent| match sent.answer {
            Some((_, word)) => word != Word::No,
            None => self.last_ids.get(&sent.connection).is_none_or(|last| sent.id <= *last),
        };
        let sent = self.calls.get(&call).map_or(&[][..], |call| &call.sent);
        sent.iter().filter(is_open).map(|sent| sent.at).collect()
    }
}
