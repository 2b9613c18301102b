//! Compares the numbers that the server named as gone with those that subscribers saw as missed.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Cause, Entry, Event, Findings, Line, Rule, Span, numbers::Numbers, subscriptions::Subscription,
};

/// Numbers that the server named as gone on a connection.
struct Dropped<'a> {
    at: usize,
    connection: u64,
    span: &'a Span,
}

/// The numbers named as gone, by process and topic, in order.
type All<'a> = BTreeMap<(&'a str, &'a str), Vec<Dropped<'a>>>;

pub(super) fn check(log: &[Entry], all: &[Subscription<'_>], findings: &mut Findings<'_>) {
    let (dropped, closed) = gather(log);
    let undelivered = undelivered(log);
    let none = Vec::new();
    for subscription in all {
        let of = (subscription.process, subscription.topic);
        let dropped = dropped.get(&of).map_or(&[][..], |dropped| dropped);
        let undelivered = undelivered.get(&of).unwrap_or(&none);
        let named: Vec<_> = named_to(subscription, dropped, undelivered).collect();
        were_named(subscription, &by_epoch(named.iter()), findings);
        if !subscription.is_over {
            were_told(subscription, dropped, &closed, findings);
        }
    }
}

/// The numbers named as gone, and the connections that broke.
fn gather(log: &[Entry]) -> (All<'_>, BTreeSet<u64>) {
    let (mut all, mut closed) = (All::new(), BTreeSet::new());
    for (at, Entry { process, event, .. }) in log.iter().enumerate() {
        let (to, connection, topic, span) = match event {
            Event::Dropped { to, connection, topic, span } => (to, *connection, topic, span),
            Event::Wire { connection, line: Line::Gap { topic, span } } => {
                (process, *connection, topic, span)
            }
            Event::Wire { connection, line: Line::Closed } => {
                closed.insert(*connection);
                continue;
            }
            _ => continue,
        };
        all.entry((to, topic)).or_default().push(Dropped { at, connection, span });
    }
    (all, closed)
}

/// The numbers that the ends of drains left undelivered, by process and topic. A subscriber misses
/// them only if it does not find the log again elsewhere.
fn undelivered(log: &[Entry]) -> All<'_> {
    let mut all = All::new();
    for (at, Entry { process, event, .. }) in log.iter().enumerate() {
        let Event::Wire { connection, line } = event else { continue };
        if let Line::End { topic, undelivered: Some(span) } = line {
            let undelivered = Dropped { at, connection: *connection, span };
            all.entry((process, topic)).or_default().push(undelivered);
        }
    }
    all
}

/// The numbers that were named to a subscription. A subscription that begins behind the end of a
/// drain also asks for numbers that passed before it, because the head in the `/end` shows that
/// they exist.
fn named_to<'a>(
    subscription: &Subscription<'_>,
    dropped: &[Dropped<'a>],
    undelivered: &[Dropped<'a>],
) -> impl Iterator<Item = Span> {
    let left = |Dropped { at, span, .. }: &Dropped<'_>| match subscription.begun > *at {
        true => Span { first: 1, ..(*span).clone() },
        false => (*span).clone(),
    };
    let dropped = dropped.iter().map(|dropped| dropped.span.clone());
    dropped.chain(undelivered.iter().map(left))
}

/// Checks that the server named all numbers that the subscriber saw as missed by the server.
fn were_named(
    subscription: &Subscription<'_>,
    named: &BTreeMap<&str, Numbers>,
    findings: &mut Findings<'_>,
) {
    let gaps = subscription.gaps.iter().filter(|(_, _, cause)| *cause != Cause::Lagged);
    for &(at, span, cause) in gaps {
        let named = named.get(span.epoch.as_str()).filter(|_| cause == Cause::Server);
        let seen = Numbers::from_iter([(span.first, span.last)]);
        let unnamed = named.map_or(seen.clone(), |named| seen.without(named));
        if !unnamed.is_empty() {
            let what = format!("{unnamed} of {} went without a word", subscription.topic);
            findings.add(Rule::Drops, [at], what);
        }
    }
}

/// Checks that a live subscription saw all numbers as missed that the server named in its current
/// epoch. The cause may differ, because a client that lags merges gaps.
fn were_told(
    subscription: &Subscription<'_>,
    dropped: &[Dropped<'_>],
    closed: &BTreeSet<u64>,
    findings: &mut Findings<'_>,
) {
    let Subscription { topic, next, entered, begun, gaps, .. } = subscription;
    let seen = by_epoch(gaps.iter().map(|(_, span, _)| *span));
    let none = Numbers::default();
    let seen = seen.get(next.epoch.as_str()).unwrap_or(&none);
    let concerns = |dropped: &&Dropped<'_>| {
        dropped.at > *begun
            && dropped.span.epoch == next.epoch
            && !closed.contains(&dropped.connection)
    };
    for Dropped { at, span, .. } in dropped.iter().filter(concerns) {
        let named = Numbers::from_iter([(span.first.max(*entered), span.last)]);
        let untold = named.without(seen);
        if !untold.is_empty() {
            let what = format!("{untold} of {topic} was named as gone, and not told");
            findings.add(Rule::Drops, [*at, *begun], what);
        }
    }
}

fn by_epoch<'a>(spans: impl Iterator<Item = &'a Span>) -> BTreeMap<&'a str, Numbers> {
    let mut ranges: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    for Span { epoch, first, last } in spans {
        ranges.entry(epoch).or_default().push((*first, *last));
    }
    let sets = ranges.into_iter().map(|(epoch, ranges)| (epoch, ranges.into_iter().collect()));
    sets.collect()
}
