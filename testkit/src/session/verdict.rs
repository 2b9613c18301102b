//! Decides which outcomes a caller may get, from what the transports were offered and what the
//! client read (guarantees "at most once" and "one outcome").

use std::{
    collections::BTreeMap,
    io::BufRead,
    sync::{Arc, Mutex},
};

use crate::{
    cutting::Written,
    history::{Line, Outcome, Word},
    lines::{self, Way, first_number},
    proxy::{Direction::ToClient, Wire},
    session::script::{Ask, Manner},
};

/// What the transports of a client's connections were offered, in order.
pub(super) type Offered = Vec<Arc<Mutex<Written>>>;

/// A line of a call, offered to a transport with its LF.
#[derive(Clone, Copy, Debug)]
struct Sent {
    /// Its terminal line, if the client has read it.
    answer: Option<Word>,
    /// Whether the client opened another connection after the one of this line.
    is_lost: bool,
}

/// The lines of each call and each one-way request, by number.
#[derive(Default)]
pub(super) struct Evidence {
    calls: BTreeMap<u64, Vec<Sent>>,
    one_ways: BTreeMap<u64, Vec<Sent>>,
}

impl Evidence {
    pub(super) fn new(wire: &Wire, offered: &Offered) -> Self {
        let mut evidence = Self::default();
        for (connection, written) in offered.iter().enumerate() {
            let written = written.lock().unwrap();
            assert!(written.withdrawn.is_empty(), "what was offered once is offered again");
            let answers = answers(&wire.delivered(connection, ToClient)[..written.read]);
            let is_lost = connection + 1 < offered.len();
            for line in whole_lines(&written.offered) {
                evidence.add(&line, &answers, is_lost);
            }
        }
        evidence
    }

    fn add(&mut self, line: &[u8], answers: &BTreeMap<u64, Word>, is_lost: bool) {
        let Some((number, id)) = call(line) else { return };
        let answer = id.and_then(|id| answers.get(&id)).copied();
        let lines = if id.is_some() { &mut self.calls } else { &mut self.one_ways };
        lines.entry(number).or_default().push(Sent { answer, is_lost });
    }

    /// Panics if a call must not have ended like this, or must not have been dropped.
    pub(super) fn judge(&self, ask: Ask, outcome: Option<Outcome>) {
        let lines = self.calls.get(&ask.number).map_or(&[][..], |lines| lines);
        if let Err(why) = verdict(ask, outcome, lines) {
            panic!("{ask:?} ended {outcome:?}, and {why}: {lines:?}");
        }
    }

    /// How many lines of a call were refused for now. Such a refusal does not end the call.
    pub(super) fn refused(&self, ask: Ask) -> usize {
        let is_refused = |sent: &&Sent| sent.answer == Some(Word::No);
        let lines =
            self.calls.get(&ask.number).filter(|_| ask.expected() != Some(Outcome::Refused));
        lines.map_or(0, |lines| lines.iter().filter(is_refused).count())
    }

    /// Panics if a one-way request was offered twice, or if its handler must not have been started
    /// that often. Returns 1 if its line was never written, which the client has to count.
    pub(super) fn judge_one_way(&self, number: u64, starts: usize) -> u64 {
        let lines = self.one_ways.get(&number).map_or(&[][..], |lines| lines);
        let holds = match lines {
            [] => starts == 0,
            [sent] => starts == 1 || starts == 0 && sent.is_lost,
            _ => false,
        };
        assert!(holds, "one-way {number} was started {starts} times: {lines:?}");
        u64::from(lines.is_empty())
    }
}

/// The terminal lines in what a client has read, by their ids.
fn answers(read: &[u8]) -> BTreeMap<u64, Word> {
    let answer = |line: Vec<u8>| match lines::read(Way::ToClient, &line) {
        Some(Line::Reply { id, word }) if word != Word::More => Some((id, word)),
        _ => None,
    };
    whole_lines(read).filter_map(answer).collect()
}

/// The whole lines, without their LF. (`split_inclusive` is slow in unoptimised builds.)
fn whole_lines(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |lf| lf + 1);
    BufRead::split(&bytes[..whole], b'\n').map(|line| line.expect("in memory"))
}

/// The number that a line carries, and its id, unless it is a one-way request.
fn call(line: &[u8]) -> Option<(u64, Option<u64>)> {
    let mut words = line.splitn(4, |&byte| byte == b' ');
    let (mark, method, first) = (words.next()?, words.next()?, words.next()?);
    let number = match method {
        b"/publish" => first_number(words.next()?),
        [b'/', ..] => None,
        _ => first_number(first),
    };
    Some((number?, first_number(mark)))
}

fn verdict(ask: Ask, outcome: Option<Outcome>, lines: &[Sent]) -> Result<(), &'static str> {
    let is_refused = |sent: &Sent| sent.answer == Some(Word::No);
    let last = lines.split_last().map(|(last, earlier)| (last, earlier.iter().all(is_refused)));
    if last.is_some_and(|(_, proven)| !proven) {
        return Err("what may have run was sent again");
    }
    let (answer, is_lost) = last.map_or((None, false), |(last, _)| (last.answer, last.is_lost));
    let is_local = matches!(ask.manner, Manner::Deadline(_) | Manner::Dropped(_));
    let holds = match outcome {
        None => matches!(ask.manner, Manner::Dropped(_)),
        Some(Outcome::NotSent) => last.is_none() && ask.manner != Manner::Patient,
        Some(Outcome::Unknown) if answer.is_none() => is_lost || is_local && last.is_some(),
        Some(Outcome::Unknown) => answer == Some(Word::Cut) || is_local,
        Some(outcome) => answer == Some(word(outcome)) && ask.expected() == Some(outcome),
    };
    if holds { Ok(()) } else { Err("these are its lines") }
}

/// The word of the reply that leads to this outcome.
fn word(outcome: Outcome) -> Word {
    match outcome {
        Outcome::Ok { .. } => Word::Ok,
        Outcome::Remote => Word::Err,
        Outcome::Refused | Outcome::NotSent => Word::No,
        Outcome::Unknown => Word::Cut,
    }
}
