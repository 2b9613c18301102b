//! Checks the lines of each connection: ids, terminal lines, and the order of a topic's lines.

use std::collections::BTreeMap;

use super::{Asked, Entry, Event, Findings, Line, Rule, Word};

/// A request, and its terminal line.
struct Request<'a> {
    at: usize,
    asks: &'a Asked,
    answered: Option<usize>,
}

/// The state of a connection.
#[derive(Default)]
struct Connection<'a> {
    requests: BTreeMap<u64, Request<'a>>,
    /// The last number that passed of each subscribed topic; 0 before the first.
    topics: BTreeMap<&'a str, u64>,
    is_closed: bool,
}

pub(super) fn check(log: &[Entry], findings: &mut Findings<'_>) {
    let mut connections: BTreeMap<u64, Connection<'_>> = BTreeMap::new();
    for (at, entry) in log.iter().enumerate() {
        let Event::Wire { connection: number, line } = &entry.event else { continue };
        let connection = connections.entry(*number).or_default();
        if let Err((before, what)) = connection.pass(at, line) {
            let what = format!("connection {number}: {what}");
            findings.add(Rule::Order, before.into_iter().chain([at]), what);
        }
    }
    for (number, connection) in connections.iter().filter(|(_, one)| !one.is_closed) {
        let open = connection.requests.values().filter(|request| request.answered.is_none());
        for request in open {
            let what = format!("connection {number}: this request has no terminal line");
            findings.add(Rule::Order, [request.at], what);
        }
    }
}

/// What is wrong, and the index of the earlier line that shows it.
type Fault = (Option<usize>, String);

impl<'a> Connection<'a> {
    fn pass(&mut self, at: usize, line: &'a Line) -> Result<(), Fault> {
        if self.is_closed && *line != Line::Closed {
            return fault(None, "a line passes behind its end");
        }
        match line {
            Line::Request { id, asks } => self.ask(at, *id, asks),
            Line::OneWay { .. } => Ok(()),
            Line::Reply { id, word } => self.answer(at, *id, *word),
            Line::Notification { topic, seq } => self.number(topic, *seq, *seq),
            Line::Gap { topic, span } => self.number(topic, span.first, span.last),
            Line::Reset { topic } => self.topic(topic).map(|last| *last = 0),
            Line::End { topic, .. } => self.topic(topic).map(drop).map(|()| self.leave(topic)),
            Line::Bye { .. } => Ok(()),
            Line::Closed => {
                self.is_closed = true;
                Ok(())
            }
        }
    }

    fn ask(&mut self, at: usize, id: u64, asks: &'a Asked) -> Result<(), Fault> {
        let last = self.requests.last_key_value().map(|(last, request)| (*last, request.at));
        self.requests.entry(id).or_insert(Request { at, asks, answered: None });
        match last {
            Some((last, before)) if last >= id => fault(Some(before), "its ids do not rise"),
            _ => Ok(()),
        }
    }

    fn answer(&mut self, at: usize, id: u64, word: Word) -> Result<(), Fault> {
        let Some(request) = self.requests.get_mut(&id) else {
            return fault(None, "a reply without a request");
        };
        if let Some(before) = request.answered {
            return fault(Some(before), "a reply behind the terminal line");
        }
        if word == Word::More {
            return Ok(());
        }
        request.answered = Some(at);
        match request.asks {
            Asked::Subscribe(topic) if word == Word::Ok => drop(self.topics.insert(topic, 0)),
            Asked::Unsubscribe(topic) => self.leave(topic),
            _ => {}
        }
        Ok(())
    }

    fn number(&mut self, topic: &str, first: u64, last: u64) -> Result<(), Fault> {
        let before = self.topic(topic)?;
        if first <= *before || last < first {
            return fault(None, &format!("{first} of {topic} passes behind {before}"));
        }
        *before = last;
        Ok(())
    }

    /// The last number of a subscribed topic.
    fn topic(&mut self, topic: &str) -> Result<&mut u64, Fault> {
        let what = || format!("{topic} passes without a subscription");
        self.topics.get_mut(topic).ok_or_else(|| (None, what()))
    }

    fn leave(&mut self, topic: &str) {
        self.topics.remove(topic);
    }
}

fn fault<T>(before: Option<usize>, what: &str) -> Result<T, Fault> {
    Err((before, what.to_owned()))
}
