//! Checks the items of each subscription: consecutive numbers, from its beginning to its end.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cause, Entry, Event, Findings, Number, Rule, Span};

/// The items of a subscription, up to where the log counts.
pub(super) struct Subscription<'a> {
    pub(super) process: &'a str,
    pub(super) topic: &'a str,
    /// The number that it expects.
    pub(super) next: Number,
    /// The number with which it began in its epoch.
    pub(super) entered: u64,
    /// The indexes of its beginning and of its last item in the log.
    pub(super) begun: usize,
    pub(super) last: usize,
    /// Its gaps, of all epochs, each with its index in the log.
    pub(super) gaps: Vec<(usize, &'a Span, Cause)>,
    /// Whether it ended or was left.
    pub(super) is_over: bool,
    /// The epochs that it has left, with the next number in each.
    left: BTreeMap<String, u64>,
}

/// The subscriptions of all processes, in the order of their first events.
pub(super) fn check<'a>(log: &'a [Entry], findings: &mut Findings<'_>) -> Vec<Subscription<'a>> {
    let mut all: Vec<Subscription<'_>> = Vec::new();
    let mut places = BTreeMap::new();
    for (at, entry) in log.iter().enumerate() {
        let Some(number) = subscription(&entry.event) else { continue };
        let place = places.get(&(&entry.process, number)).copied();
        let result = match (&entry.event, place) {
            (Event::Subscribed { topic, from, .. }, None) => {
                places.insert((&entry.process, number), all.len());
                all.push(Subscription::new(at, &entry.process, topic, from));
                Ok(())
            }
            (Event::Subscribed { .. }, Some(place)) => Err(all[place].broken("began before")),
            (event, Some(place)) => all[place].take(at, event),
            (_, None) => Err((at, "was not begun".to_owned())),
        };
        if let Err((before, what)) = result {
            let what = format!("subscription {number} {what}");
            findings.add(Rule::Subscriptions, BTreeSet::from([before, at]), what);
        }
    }
    all
}

/// The subscription that an event belongs to.
fn subscription(event: &Event) -> Option<u64> {
    match event {
        Event::Subscribed { subscription, .. }
        | Event::Delivered { subscription, .. }
        | Event::Missed { subscription, .. }
        | Event::Reset { subscription, .. }
        | Event::Over { subscription, .. }
        | Event::Left { subscription }
        | Event::Seen { subscription, .. } => Some(*subscription),
        _ => None,
    }
}

/// The index in the log of the event that contradicts it, and what is wrong.
type Fault = (usize, String);

impl<'a> Subscription<'a> {
    fn new(at: usize, process: &'a str, topic: &'a str, from: &Number) -> Self {
        Self {
            process,
            topic,
            next: from.clone(),
            entered: from.seq,
            begun: at,
            last: at,
            gaps: Vec::new(),
            is_over: false,
            left: BTreeMap::new(),
        }
    }

    fn take(&mut self, at: usize, event: &'a Event) -> Result<(), Fault> {
        if let Event::Seen { number, .. } = event {
            return self.check_seen(number);
        }
        if self.is_over {
            return Err(self.broken("is over, and goes on"));
        }
        let taken = match event {
            Event::Delivered { number, .. } => self.step(&number.epoch, number.seq, number.seq),
            Event::Missed { span, cause, .. } => {
                self.gaps.push((at, span, *cause));
                self.step(&span.epoch, span.first, span.last)
            }
            Event::Reset { next, .. } => self.reset(next),
            Event::Over { next, .. } => self.end(next),
            _ => {
                self.is_over = true;
                Ok(())
            }
        };
        self.last = at;
        taken
    }

    /// Goes on behind these numbers, whether or not they are the next ones, so that each fault is
    /// reported once.
    fn step(&mut self, epoch: &str, first: u64, last: u64) -> Result<(), Fault> {
        let is_next = epoch == self.next.epoch && first == self.next.seq && first <= last;
        let fault = self.broken(&format!("is at {epoch}:{first}, and {} is next", self.next));
        if epoch == self.next.epoch {
            self.next.seq = self.next.seq.max(last + 1);
        }
        if is_next { Ok(()) } else { Err(fault) }
    }

    fn reset(&mut self, next: &Number) -> Result<(), Fault> {
        let fault = self.broken(&format!("is reset to {next} from {}", self.next));
        let is_another = next.epoch != self.next.epoch;
        let before = std::mem::replace(&mut self.next, next.clone());
        self.left.insert(before.epoch, before.seq);
        let was_left = self.left.remove(&next.epoch);
        self.entered = next.seq;
        if is_another && next.seq == was_left.unwrap_or(1) { Ok(()) } else { Err(fault) }
    }

    fn end(&mut self, next: &Number) -> Result<(), Fault> {
        self.is_over = true;
        match *next == self.next {
            true => Ok(()),
            false => Err(self.broken(&format!("ends at {next}, and {} is next", self.next))),
        }
    }

    fn check_seen(&self, number: &Number) -> Result<(), Fault> {
        let is_behind = number.epoch == self.next.epoch && number.seq < self.next.seq;
        match is_behind || self.is_over || self.left.contains_key(&number.epoch) {
            true => Ok(()),
            false => Err(self.broken(&format!("has seen {number}, and {} is next", self.next))),
        }
    }

    fn broken(&self, what: &str) -> Fault {
        (self.last, what.to_owned())
    }
}
