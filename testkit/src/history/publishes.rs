//! Checks the messages of publishers and subscribers: each number has one message, each message is
//! there once, and it reaches every subscriber.

use std::collections::BTreeMap;

use super::{Entry, Event, Findings, Number, Rule, subscriptions::Subscription};

/// A message, with the first event that named it.
struct Message<'a> {
    at: usize,
    payload: &'a str,
    confirmed: Option<usize>,
}

/// An event that gives a payload its number.
struct Named<'a> {
    at: usize,
    topic: &'a str,
    number: &'a Number,
    payload: &'a str,
    /// Whether the server confirmed it; otherwise a client received it.
    is_confirmed: bool,
}

/// The events of one payload of a topic.
#[derive(Default)]
struct Payload<'a> {
    tried: Vec<usize>,
    failed: Vec<usize>,
    /// The numbers of the payload, each with the first event that had it.
    numbers: BTreeMap<&'a Number, usize>,
}

/// The events of all messages.
#[derive(Default)]
struct Messages<'a> {
    /// By topic and number.
    numbered: BTreeMap<&'a str, BTreeMap<&'a Number, Message<'a>>>,
    /// By topic and payload.
    payloads: BTreeMap<(&'a str, &'a str), Payload<'a>>,
    /// The latest head, by topic and process.
    heads: BTreeMap<&'a str, BTreeMap<&'a str, (usize, &'a Number)>>,
}

pub(super) fn check(log: &[Entry], all: &[Subscription<'_>], findings: &mut Findings<'_>) {
    let messages = gather(log, findings);
    messages.payloads.values().for_each(|payload| publishes(payload, findings));
    for subscription in all.iter().filter(|subscription| !subscription.is_over) {
        messages.confirmed(subscription, findings);
        messages.caught_up(subscription, findings);
    }
}

fn gather<'a>(log: &'a [Entry], findings: &mut Findings<'_>) -> Messages<'a> {
    let mut topics = BTreeMap::new();
    let mut messages = Messages::default();
    for (at, Entry { process, event, .. }) in log.iter().enumerate() {
        match event {
            Event::Subscribed { subscription, topic, .. } => {
                topics.insert((process, subscription), topic);
            }
            Event::Delivered { subscription, number, payload } => {
                if let Some(topic) = topics.get(&(process, subscription)) {
                    let is_confirmed = false;
                    messages.name(Named { at, topic, number, payload, is_confirmed }, findings);
                }
            }
            Event::Published { topic, number, payload } => {
                let is_confirmed = true;
                messages.name(Named { at, topic, number, payload, is_confirmed }, findings);
            }
            Event::Publishing { topic, payload } => messages.payload(topic, payload).tried.push(at),
            Event::Unpublished { topic, payload } => {
                messages.payload(topic, payload).failed.push(at);
            }
            Event::Head { topic, next } => {
                messages.heads.entry(topic).or_default().insert(process, (at, next));
            }
            _ => {}
        }
    }
    messages
}

impl<'a> Messages<'a> {
    fn payload(&mut self, topic: &'a str, payload: &'a str) -> &mut Payload<'a> {
        self.payloads.entry((topic, payload)).or_default()
    }

    /// Records that an event gives a payload its number.
    fn name(&mut self, named: Named<'a>, findings: &mut Findings<'_>) {
        let Named { at, topic, number, payload, is_confirmed } = named;
        self.payload(topic, payload).numbers.entry(number).or_insert(at);
        let numbered = self.numbered.entry(topic).or_default();
        let first = Message { at, payload, confirmed: None };
        let message = numbered.entry(number).or_insert(first);
        if message.payload != payload || (is_confirmed && message.confirmed.is_some()) {
            let what = format!("{number} of {topic} names two messages");
            findings.add(Rule::Messages, [message.confirmed.unwrap_or(message.at), at], what);
        }
        if is_confirmed {
            message.confirmed.get_or_insert(at);
        }
    }

    fn confirmed(&self, subscription: &Subscription<'_>, findings: &mut Findings<'_>) {
        let Subscription { topic, next, last, .. } = subscription;
        let Some(numbered) = self.numbered.get(topic) else { return };
        let behind = numbered.range::<&Number, _>(next..);
        let behind = behind.take_while(|(number, _)| number.epoch == next.epoch);
        let missing: Vec<_> = behind.filter_map(|(_, message)| message.confirmed).collect();
        if !missing.is_empty() {
            let count = missing.len();
            let what = format!("{count} messages of {topic} did not come, and {next} is expected");
            findings.add(Rule::Confirmed, [*last].into_iter().chain(missing), what);
        }
    }

    fn caught_up(&self, subscription: &Subscription<'_>, findings: &mut Findings<'_>) {
        let Subscription { topic, next, last, .. } = subscription;
        let Some(heads) = self.heads.get(topic) else { return };
        if heads.values().all(|(_, head)| *head != next) {
            let what = format!("{next} of {topic} is expected, and is no server's next");
            let heads = heads.values().map(|(at, _)| *at);
            findings.add(Rule::CaughtUp, [*last].into_iter().chain(heads), what);
        }
    }
}

fn publishes(payload: &Payload<'_>, findings: &mut Findings<'_>) {
    let Payload { tried, failed, numbers } = payload;
    if numbers.len() + failed.len() > tried.len() {
        let (numbers, tried) = (numbers.len(), tried.len());
        let what = format!(
            "a message is there {numbers} times; published {tried} times, failed {}",
            failed.len()
        );
        let events = payload.tried.iter().chain(failed).chain(payload.numbers.values()).copied();
        findings.add(Rule::Publishes, events, what);
    }
}
