//! The topics a client is subscribed to: one wire subscription each, shared by every stream.
//!
//! A topic lives on one connection at a time. When that is over it waits for the next, and goes on
//! from its own position; what other connections still say of it is passed over.

mod entry;
mod input;

use std::{borrow::Cow, collections::HashMap, time::Duration};

use self::entry::{Acted, Entry, Joining};
pub use self::input::AfterReset;
pub(crate) use self::input::{Input, Wish};
use crate::{
    client::core::{
        delivery::Delivery,
        inbox::Inbox,
        key::LinkId,
        links::Links,
        outcome::Joined,
        payloads::Payloads,
        step::{Effect, Step},
    },
    error::{CallError, ConnectionError, NotSent, Unknown},
    protocol::{Code, Position, SubscriptionEvent, SubscriptionState, Time, Topic},
    sync::{Arc, Weak, oneshot},
};

/// Locked by handles that come and go, and by the driver for each notification. Lines are appended
/// while it is locked, so that they leave in the order of the transitions that asked for them.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    entries: HashMap<Topic, Entry>,
    /// The streams of all notifications.
    all: Vec<Weak<Inbox>>,
    /// Topics with an ack to be written, in the order in which they came due.
    acks_due: Vec<Topic>,
    /// When the first of the topics is to be asked for again.
    again: Option<Time>,
    ended: bool,
}

impl Topics {
    /// Adds a stream to a topic. The receiver gets the position where it begins.
    ///
    /// A stream that asks for no terms shares those there are. A stream that asks for a window
    /// takes part in the acks.
    pub(crate) fn join(
        &mut self,
        links: &mut Links,
        topic: &Topic,
        wish: Wish,
        inbox: Arc<Inbox>,
        step: &mut Step,
    ) -> Result<oneshot::Receiver<Joined>, NotSent> {
        let terms = wish.terms;
        if wish.from.is_some_and(|from| !from.is_sendable()) {
            return Err(NotSent::Position);
        }
        // What lives can be shared; what would need a line is not begun after a goodbye.
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
            SubscriptionState::Live(next) => step.then(Effect::Joined(sender, Ok(next))),
            _ => entry.joining.push(Joining { sender, inbox: inbox.clone(), failure: None }),
        }
        if let Some(acks) = entry.acks.as_mut().filter(|_| terms.window.is_some()) {
            let at = Some(entry.state).filter(|state| matches!(state, SubscriptionState::Live(_)));
            acks.join(inbox.clone(), at.and_then(SubscriptionState::next));
        }
        entry.inboxes.push(inbox);
        let sent = self.on(links, topic, event.into(), step);
        if sent.is_err() && fresh {
            self.entries.remove(topic);
        }
        sent.map(|()| receiver)
    }

    /// How a subscription ends whose stream gives up waiting for it: what can be proven (one
    /// outcome).
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

    /// Takes a stream off a topic; the last one unsubscribes.
    pub(crate) fn leave(
        &mut self,
        links: &mut Links,
        topic: &Topic,
        inbox: &Arc<Inbox>,
        step: &mut Step,
    ) {
        let Some(entry) = self.entries.get_mut(topic) else {
            return;
        };
        let before = entry.inboxes.len();
        entry.inboxes.retain(|other| !Arc::ptr_eq(other, inbox));
        if let Some(acks) = &mut entry.acks {
            acks.leave(inbox);
            // Who goes may have been the slowest.
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

    /// Appends the acks that are due, one per topic.
    pub(crate) fn write_acks(&mut self, links: &mut Links, step: &mut Step) {
        for topic in self.acks_due.drain(..) {
            let Some(entry) = self.entries.get_mut(&topic) else { continue };
            // One that was due on a wire subscription that is over is due no more, though it is listed.
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

    /// Whether a topic has to do with this connection. What waits for another, or to be asked for
    /// again, has not.
    pub(crate) fn has_any_on(&self, link: LinkId) -> bool {
        self.entries.values().any(|entry| entry.link == link && !entry.is_parked())
    }

    /// A notification came. The next one of a topic that is live takes the short way.
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

    /// Moves a topic by what the server of a connection sent.
    pub(crate) fn on_line(
        &mut self,
        links: &mut Links,
        link: LinkId,
        topic: &str,
        input: Input<'_>,
        step: &mut Step,
    ) {
        // Nothing is under way of a topic that waits: it is as good as not there.
        match self.entries.get_key_value(topic).filter(|(_, entry)| !entry.is_parked()) {
            Some((topic, entry)) if entry.link == link => {
                let topic = topic.clone();
                if entry.is_refused_for_now(links, &input) {
                    input.failure.iter().for_each(|failure| self.failed(&topic, failure));
                    return self.on_refused_for_now(links, link, &topic, input.retry(), step);
                }
                // A subscription that cannot be renewed ends with the connection, and says so.
                let _ = self.on(links, &topic, input, step);
            }
            // What has moved to another connection, or was given up on this one, goes on or ends
            // there: a server that is left may say what it likes of it.
            Some(_) => {}
            None if !links.is_current(link) => {}
            None => Topic::new(topic).into_iter().for_each(|topic| step.violation(topic)),
        }
    }

    /// There is a connection to ask on: what waited for one is subscribed, but for what was refused
    /// for now, and has to wait longer.
    pub(crate) fn connected(&mut self, links: &mut Links, step: &mut Step) {
        let now = step.now;
        self.subscribe_where(links, |entry| entry.is_parked() && !entry.waits(now), step);
    }

    /// A connection is over: what lived there waits for the next, or goes on at once where there is
    /// one.
    pub(crate) fn disconnected(&mut self, links: &mut Links, link: LinkId, step: &mut Step) {
        for topic in self.topics_where(|entry| entry.link == link) {
            self.move_on(links, link, &topic, step);
        }
    }

    /// A topic cannot go on with this connection; it does with the next, or with the one there is.
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

    /// Asks again for a parked topic after a pause.
    fn pause(&mut self, links: &mut Links, topic: &Topic, hint: Option<Duration>, step: &mut Step) {
        if let Some(entry) = self.entries.get_mut(topic) {
            entry.pause(hint, &links.config, step.now);
            self.again = self.again.into_iter().chain(entry.again).min();
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.again
    }

    /// Asks again for what was refused for now, as far as its time has come.
    pub(crate) fn handle_timeout(&mut self, links: &mut Links, step: &mut Step) {
        let now = step.now;
        if self.again.is_some_and(|again| again <= now) {
            self.subscribe_where(links, |entry| entry.again.is_some() && !entry.waits(now), step);
        }
    }

    /// Subscribes to what is parked and wanted now; what has to wait longer is asked for in its time.
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

    /// Topics in an order that does not depend on the map's.
    fn topics_where(&self, is_wanted: impl Fn(&Entry) -> bool) -> Vec<Topic> {
        let wanted = self.entries.iter().filter(|(_, entry)| is_wanted(entry));
        let mut topics: Vec<_> = wanted.map(|(topic, _)| topic.clone()).collect();
        topics.sort_unstable();
        topics
    }

    /// A part of the reply to `/renew`: where its server says that these topics stand.
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

    /// The end of the reply to `/renew`: what it did not list has ended.
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
        let next = entry.state.next();
        let input = Input { event: entry.recall(input.event), ..input };
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
            // Where the next server stands is another question.
            (Acted::Left, SubscriptionState::Skipping { .. }) => {
                self.move_on(links, link, topic, step);
            }
            (Acted::Left, _) => {
                return self.on(links, topic, SubscriptionEvent::Left.into(), step);
            }
        }
        Ok(())
    }

    /// A `/subscribe` that left ended like this.
    pub(crate) fn failed(&mut self, topic: &Topic, failure: &CallError) {
        let joining = self.entries.get_mut(topic).into_iter().flat_map(|entry| &mut entry.joining);
        joining.for_each(|joining| joining.failure = Some(failure.clone()));
    }

    /// All is over: every stream ends, those of topics saying from where to resume.
    pub(crate) fn end(&mut self, error: &ConnectionError, step: &mut Step) {
        self.ended = true;
        let mut entries: Vec<_> = self.entries.drain().collect();
        entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (topic, mut entry) in entries {
            entry.fail_joining(&NotSent::Lost(error.clone()).into(), step);
            let position = entry.state.next();
            let end = Delivery::End { topic, reason: Code::LOST, position };
            entry.deliver(&mut self.all, end, &[], step);
        }
        let all = self.all.drain(..).filter_map(|inbox| inbox.upgrade()?.close());
        step.wake(all);
        self.again = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_streams_of_all_notifications_do_not_pile_up() {
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
