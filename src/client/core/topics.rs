//! The topics that a client is subscribed to: one wire subscription for each, shared by all its
//! streams.
//!
//! A topic lives on one connection at a time. When that connection ends, the topic waits for the
//! next one, and resumes from its own position. What other connections still send for it is
//! ignored.

mod entry;
mod input;
mod redelivery;
mod watch;

use std::{borrow::Cow, collections::HashMap, time::Duration};

pub use self::input::AfterReset;
pub(crate) use self::input::{Input, Wish};
use self::{
    entry::{Acted, Entry, Joining},
    watch::Watch,
};
use crate::{
    client::{
        core::{
            delivery::Delivery,
            inbox::Inbox,
            key::LinkId,
            links::Links,
            outcome::Joined,
            payloads::Payloads,
            reader::Reader,
            step::{Effect, Step},
        },
        event::ConnectionEvent,
    },
    error::{CallError, ConnectionError, NotSent, Unknown},
    protocol::{Code, Position, SubscriptionEvent, SubscriptionState, Time, Topic},
    sync::{Arc, Weak, oneshot},
};

/// The lock of the core covers this. Lines are appended under the same lock as the transitions that
/// caused them, so they are sent in the order of the transitions.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    entries: HashMap<Topic, Entry>,
    /// The streams of all notifications.
    all: Vec<Weak<Inbox>>,
    /// Topics with an ack to be written, in the order in which the acks became due.
    acks_due: Vec<Topic>,
    /// When the first of the parked topics is subscribed again.
    again: Option<Time>,
    /// The streams whose unacknowledged items are reported.
    watch: Watch,
    ended: bool,
}

impl Topics {
    /// Adds a stream to a topic. The receiver gets the position where the stream begins.
    ///
    /// A stream without terms shares the terms of the others. A stream with a window takes part in
    /// the acks.
    pub(crate) fn join(
        &mut self,
        links: &mut Links,
        topic: &Topic,
        wish: Wish,
        (inbox, reader): (Arc<Inbox>, Option<&Arc<Reader>>),
        step: &mut Step,
    ) -> Result<oneshot::Receiver<Joined>, NotSent> {
        let terms = wish.terms;
        if wish.from.is_some_and(|from| !from.is_sendable()) {
            return Err(NotSent::Position);
        }
        // A live subscription can be shared. A stream that would need a `/subscribe` is not begun
        // after a `/bye`.
        let is_live = |entry: &Entry| matches!(entry.state, SubscriptionState::Live(_));
        let down = || links.current.state.down().cloned().filter(|_| links.config.fail_fast);
        if !self.entries.get(topic).is_some_and(is_live)
            && let Some(error) = links.refusal().or_else(down)
        {
            return Err(NotSent::Lost(error));
        }
        let entry = self.entries.entry(topic.clone()).or_default();
        entry.topic.get_or_insert_with(|| topic.clone());
        let event = entry.admit(wish)?;
        let fresh = entry.state == SubscriptionState::Absent;
        entry.joining.retain(|joining| !joining.sender.is_closed());
        let (sender, receiver) = oneshot::channel();
        match entry.state {
            SubscriptionState::Live(next) => {
                step.then(Effect::Joined(sender, Ok(entry.reached(next))));
            }
            _ => entry.joining.push(Joining { sender, inbox: inbox.clone(), failure: None }),
        }
        let at = match entry.state {
            SubscriptionState::Live(next) => Some(entry.reached(next)),
            _ => None,
        };
        if let Some(acks) = entry.acks.as_mut().filter(|_| terms.window.is_some()) {
            acks.join(inbox.clone(), at);
        }
        entry.know(&inbox, reader);
        entry.inboxes.push(inbox);
        let sent = self.on(links, topic, event.into(), step);
        if sent.is_err() && fresh {
            self.entries.remove(topic);
        }
        sent.map(|()| receiver)
    }

    /// The outcome that can be proven for a stream that stops waiting for its subscription
    /// (guarantee "one outcome").
    pub(crate) fn why_late(&self, links: &Links, topic: &Topic, inbox: &Arc<Inbox>) -> CallError {
        let entry = self.entries.get(topic);
        let mut joining = entry.into_iter().flat_map(|entry| &entry.joining);
        let own = joining.find(|joining| Arc::ptr_eq(&joining.inbox, inbox));
        match own.and_then(|own| own.failure.clone()) {
            Some(failure) => failure,
            None if entry.is_some_and(Entry::is_parked) => links.out_of_time().into(),
            None => Unknown::Deadline.into(),
        }
    }

    /// Removes a stream from a topic. When the last one leaves, the client unsubscribes.
    pub(crate) fn leave(
        &mut self,
        links: &mut Links,
        topic: &Topic,
        inbox: &Arc<Inbox>,
        step: &mut Step,
    ) {
        self.watch.remove(inbox);
        let Some(entry) = self.entries.get_mut(topic) else {
            return;
        };
        entry.forget(inbox);
        let before = entry.inboxes.len();
        entry.inboxes.retain(|other| !Arc::ptr_eq(other, inbox));
        if let Some(acks) = &mut entry.acks {
            acks.leave(inbox);
            // The stream that has left may have been the slowest reader.
            if !entry.inboxes.is_empty() && acks.comes_due(true) {
                self.acks_due.push(topic.clone());
                links.announce_acks(entry.link, step);
            }
        }
        if entry.inboxes.is_empty() && before > 0 {
            let _ = self.on(links, topic, SubscriptionEvent::Leave.into(), step);
        }
    }

    /// A reader with a window has handled all below `position`.
    pub(crate) fn handled(
        &mut self,
        links: &mut Links,
        topic: &Topic,
        inbox: &Arc<Inbox>,
        position: Position,
        step: &mut Step,
    ) {
        let Some(entry) = self.entries.get_mut(topic) else { return };
        let Some(acks) = &mut entry.acks else { return };
        acks.handled(inbox, position);
        if acks.comes_due(true) {
            self.acks_due.push(topic.clone());
            links.announce_acks(entry.link, step);
        }
    }

    /// From `at` on, the lowest unacknowledged item of a reader is overdue.
    pub(crate) fn watch(&mut self, topic: &Topic, inbox: &Arc<Inbox>, at: Time) {
        if self.entries.get(topic).is_some_and(|entry| entry.reader(inbox).is_some()) {
            self.watch.add(topic.clone(), inbox.clone(), at);
        }
    }

    /// Reports the items that have stayed unacknowledged for too long.
    fn report_overdue(&mut self, step: &mut Step) {
        while let Some((topic, inbox)) = self.watch.take_due(step.now) {
            let entry = self.entries.get(&topic);
            let Some(reader) = entry.and_then(|entry| entry.reader(&inbox)) else { continue };
            let (late, again) = reader.look(step.now);
            if let Some(Position { epoch, next: sequence }) = late {
                let topic = topic.clone();
                step.emit(ConnectionEvent::Unacknowledged { topic, epoch, sequence });
            }
            if let Some(again) = again {
                self.watch.add(topic, inbox, again);
            }
        }
    }

    /// Appends the acks that are due, one per topic.
    pub(crate) fn write_acks(&mut self, links: &mut Links, step: &mut Step) {
        for topic in self.acks_due.drain(..) {
            let Some(entry) = self.entries.get_mut(&topic) else { continue };
            // An ack may have become due on a wire subscription that has ended since. It is not
            // written then.
            if let Some(position) = entry.acks.as_mut().and_then(|acks| acks.take_due()) {
                links.append_ack(entry.link, &topic, position, step);
            }
        }
    }

    /// Adds a stream of all notifications.
    pub(crate) fn join_all(&mut self, inbox: &Arc<Inbox>) {
        if self.ended {
            let _ = inbox.close();
            return;
        }
        self.all.retain(|inbox| inbox.strong_count() > 0);
        self.all.push(Arc::downgrade(inbox));
    }

    /// Whether a topic is subscribed, or being subscribed, on this connection. Parked topics do not
    /// count.
    pub(crate) fn has_any_on(&self, link: LinkId) -> bool {
        self.entries.values().any(|entry| entry.link == link && !entry.is_parked())
    }

    /// Takes in a notification. The next number of a live topic takes a shorter path.
    pub(super) fn on_notification(
        &mut self,
        links: &mut Links,
        link: LinkId,
        topic: &str,
        (number, payload): (u64, Cow<'_, [u8]>),
        payloads: &mut Payloads,
        step: &mut Step,
    ) {
        step.tally().notifications += 1;
        if let Some(entry) = self.entries.get_mut(topic)
            && entry.link == link
            && let Some(delivery) = entry.next_notification(number, &payload, payloads)
        {
            return entry.deliver(&mut self.all, delivery, &[], step);
        }
        let event = SubscriptionEvent::Notification(number);
        self.on_line(links, link, topic, Input { payload, ..event.into() }, step);
    }

    /// Takes in what the server of a connection has sent for a topic.
    pub(crate) fn on_line(
        &mut self,
        links: &mut Links,
        link: LinkId,
        topic: &str,
        input: Input<'_>,
        step: &mut Step,
    ) {
        // A parked topic has no subscription and no request on any connection, so it counts as
        // absent.
        match self.entries.get_key_value(topic).filter(|(_, entry)| !entry.is_parked()) {
            Some((topic, entry)) if entry.link == link => {
                let topic = topic.clone();
                if entry.is_refused_for_now(links, &input) {
                    input.failure.iter().for_each(|failure| self.failed(&topic, failure));
                    return self.on_refused_for_now(links, link, &topic, input.retry(), step);
                }
                // A subscription that cannot be renewed ends, and its streams get the end.
                let _ = self.on(links, &topic, input, step);
            }
            // The topic has moved to another connection. What the server of this one still sends
            // for it has no effect.
            Some(_) => {}
            None if !links.is_current(link) => {}
            None => Topic::new(topic).into_iter().for_each(|topic| step.violation(topic)),
        }
    }

    /// Subscribes to the parked topics on a new connection, except for those that still have to
    /// pause.
    pub(crate) fn connected(&mut self, links: &mut Links, step: &mut Step) {
        let now = step.now;
        self.subscribe_where(links, |entry| entry.is_parked() && !entry.waits(now), step);
    }

    /// Moves the topics of a connection that has ended. They wait for the next connection, or go on
    /// at once if there is one.
    pub(crate) fn disconnected(&mut self, links: &mut Links, link: LinkId, step: &mut Step) {
        for topic in self.topics_where(|entry| entry.link == link) {
            self.move_on(links, link, &topic, step);
        }
    }

    /// Moves a topic that cannot go on with this connection to the next one, or to the current one.
    pub(crate) fn move_on(
        &mut self,
        links: &mut Links,
        link: LinkId,
        topic: &Topic,
        step: &mut Step,
    ) {
        let Some(entry) = self.entries.get_mut(topic).filter(|entry| entry.link == link) else {
            return;
        };
        if links.config.fail_fast {
            let down = links.current.state.down().cloned().unwrap_or(ConnectionError::Closed);
            entry.give_up(&NotSent::Lost(down), step);
        }
        let _ = self.on(links, topic, SubscriptionEvent::Disconnected.into(), step);
        let Some(entry) = self.entries.get(topic) else { return };
        match entry.waits(step.now) {
            true => self.again = self.again.into_iter().chain(entry.again).min(),
            false => drop(self.on(links, topic, SubscriptionEvent::Connected.into(), step)),
        }
    }

    fn on_refused_for_now(
        &mut self,
        links: &mut Links,
        link: LinkId,
        topic: &Topic,
        (goes_elsewhere, retry): (bool, Option<Duration>),
        step: &mut Step,
    ) {
        match goes_elsewhere {
            true => self.move_on(links, link, topic, step),
            false => {
                let _ = self.on(links, topic, SubscriptionEvent::Disconnected.into(), step);
                self.pause(links, topic, retry, step);
            }
        }
    }

    /// Lets a parked topic pause before it is subscribed again.
    fn pause(&mut self, links: &mut Links, topic: &Topic, hint: Option<Duration>, step: &mut Step) {
        if let Some(entry) = self.entries.get_mut(topic) {
            entry.pause(hint, &links.config, step.now);
            self.again = self.again.into_iter().chain(entry.again).min();
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.again.into_iter().chain(self.watch.next_timeout()).min()
    }

    /// Subscribes again to topics whose pause is over, and reports what is unacknowledged.
    pub(crate) fn handle_timeout(&mut self, links: &mut Links, step: &mut Step) {
        let now = step.now;
        self.report_overdue(step);
        if self.again.is_some_and(|again| again <= now) {
            self.subscribe_where(links, |entry| entry.again.is_some() && !entry.waits(now), step);
        }
    }

    /// Subscribes to the topics for which `is_wanted` holds.
    fn subscribe_where(
        &mut self,
        links: &mut Links,
        is_wanted: impl Fn(&Entry) -> bool,
        step: &mut Step,
    ) {
        for topic in self.topics_where(is_wanted) {
            let _ = self.on(links, &topic, SubscriptionEvent::Connected.into(), step);
        }
        self.again = self.entries.values().filter_map(|entry| entry.again).min();
    }

    /// The topics for which `is_wanted` holds, sorted, so that their order does not depend on the
    /// hash map.
    fn topics_where(&self, is_wanted: impl Fn(&Entry) -> bool) -> Vec<Topic> {
        let wanted = self.entries.iter().filter(|(_, entry)| is_wanted(entry));
        let mut topics: Vec<_> = wanted.map(|(topic, _)| topic.clone()).collect();
        topics.sort_unstable();
        topics
    }

    /// Takes in a part of the list of a `/renew`: the positions of topics on their server.
    pub(crate) fn listed<'a>(
        &mut self,
        links: &mut Links,
        link: LinkId,
        list: impl IntoIterator<Item = (&'a str, Position)>,
        step: &mut Step,
    ) {
        for (topic, position) in list {
            let Some((topic, entry)) = self.entries.get_key_value(topic) else { continue };
            if entry.link == link && matches!(entry.state, SubscriptionState::Live(_)) {
                let topic = topic.clone();
                let renewed = SubscriptionEvent::Renewed(Some(position));
                let _ = self.on(links, &topic, renewed.into(), step);
                let entry = self.entries.get_mut(&topic);
                entry.into_iter().for_each(|entry| entry.is_listed = true);
            }
        }
    }

    /// Takes in the end of the list of a `/renew`. Subscriptions that were not listed have ended.
    pub(crate) fn renewed(&mut self, links: &mut Links, link: LinkId, step: &mut Step) {
        let is_live =
            |entry: &Entry| entry.link == link && matches!(entry.state, SubscriptionState::Live(_));
        for topic in self.topics_where(is_live) {
            let entry = self.entries.get_mut(&topic);
            if entry.is_some_and(|entry| !std::mem::take(&mut entry.is_listed)) {
                let _ = self.on(links, &topic, SubscriptionEvent::Renewed(None).into(), step);
            }
        }
    }

    fn on(
        &mut self,
        links: &mut Links,
        topic: &Topic,
        input: Input<'_>,
        step: &mut Step,
    ) -> Result<(), NotSent> {
        let Self { entries, all, acks_due, again, .. } = self;
        let Some(entry) = entries.get_mut(topic) else {
            return Ok(());
        };
        let input = Input { event: entry.recall(input.event), ..input };
        entry.turn_back(input.event);
        let next = entry.state.next();
        entry.tail = input.tail.or(entry.tail);
        let newcomers = entry.newcomers();
        let backoff = links.backoff();
        let waits = entry.comes_too_soon(input.event, backoff, step.now);
        let input = match waits {
            true => Input { event: SubscriptionEvent::Disconnected, ..input },
            false => input,
        };
        let (state, actions) = entry.state.on(input.event);
        entry.moved(input.event, state, backoff, step);
        if entry.acks.is_some() {
            entry.keep_acks(acks_due, links, topic, input.event, step);
        }
        if waits {
            entry.pause(None, &links.config, step.now);
            *again = again.iter().copied().chain(entry.again).min();
        }
        let mut acted = Ok(Acted::Stays);
        for action in actions {
            acted = entry.act(all, links, topic, action, (&input, next, &newcomers), step);
        }
        let (state, link) = (entry.state, entry.link);
        match state {
            SubscriptionState::Live(_) => entry.tail = None,
            SubscriptionState::Absent => drop(entries.remove(topic)),
            _ => {}
        }
        match (acted?, state) {
            (Acted::Stays, _) => {}
            // The next server may be at another position, so the topic moves to it.
            (Acted::Left, SubscriptionState::Skipping { .. }) => {
                self.move_on(links, link, topic, step);
            }
            (Acted::Left, _) => {
                return self.on(links, topic, SubscriptionEvent::Left.into(), step);
            }
        }
        Ok(())
    }

    /// Notes the failure of a `/subscribe` that was sent.
    pub(crate) fn failed(&mut self, topic: &Topic, failure: &CallError) {
        let joining = self.entries.get_mut(topic).into_iter().flat_map(|entry| &mut entry.joining);
        joining.for_each(|joining| joining.failure = Some(failure.clone()));
    }

    /// Ends all streams. An end of a topic has the position from which to resume.
    pub(crate) fn end(&mut self, error: &ConnectionError, step: &mut Step) {
        self.ended = true;
        let mut entries: Vec<_> = self.entries.drain().collect();
        entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (topic, mut entry) in entries {
            entry.fail_joining(&NotSent::Lost(error.clone()).into(), step);
            let position = entry.state.next().map(|next| entry.reached(next));
            let end = Delivery::End { topic, reason: Code::LOST, position };
            entry.deliver(&mut self.all, end, &[], step);
        }
        let all = self.all.drain(..).filter_map(|inbox| inbox.upgrade()?.close());
        step.wake(all);
        self.again = None;
        self.watch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_broadcast_streams_do_not_accumulate() {
        let mut topics = Topics::default();
        let kept = Arc::new(Inbox::new(1, 1));
        topics.join_all(&kept);
        (0..100).for_each(|_| topics.join_all(&Arc::new(Inbox::new(1, 1))));
        assert_eq!(topics.all.len(), 2, "the one that is kept, and the last");
        let end =
            Delivery::End { topic: Topic::new("t").unwrap(), reason: Code::CLOSED, position: None };
        Entry::default().deliver(&mut topics.all, end, &[], &mut Step::default());
        assert_eq!(topics.all.len(), 1);
    }
}
