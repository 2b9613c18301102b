//! A topic that a client is subscribed to.

use std::{collections::VecDeque, num::NonZeroU64, time::Duration};

use crate::{
    client::{
        config::ClientConfig,
        core::{
            acks::Acks,
            delivery::{Delivery, Gap, GapCause, Notification, REMEMBERED},
            inbox::Inbox,
            key::LinkId,
            links::{Links, SendError},
            outcome::Joined,
            payloads::{Payloads, Run},
            reader::Reader,
            step::{Effect, Step},
            topics::{
                input::{AfterReset, Input, Wish},
                redelivery::Redelivery,
            },
            waiter::Waiter,
        },
    },
    error::{CallError, ConnectionError, NotSent},
    protocol::{
        Action, Backoff, Code, Position, Repeats, SubscriptionEvent, SubscriptionState, Terms,
        Then, Time, Topic,
    },
    sync::{Arc, Weak, oneshot},
};

/// The result of an action on a topic.
pub(super) enum Acted {
    Stays,
    /// The topic is left: no `/unsubscribe` is needed.
    Left,
}

#[derive(Debug, Default)]
pub(super) struct Entry {
    /// The name of the topic, once a stream has joined.
    pub(super) topic: Option<Topic>,
    /// The state, with the next position on the wire. The positions of the streams, and of the
    /// acks, may be lower.
    pub(super) state: SubscriptionState,
    /// The connection on which the last `/subscribe` was sent.
    pub(super) link: LinkId,
    pub(super) inboxes: Vec<Arc<Inbox>>,
    /// The streams that wait until the server has accepted the subscription.
    pub(super) joining: Vec<Joining>,
    /// The terms of the present streams.
    terms: Terms,
    /// The terms of the last `/subscribe`.
    sent_terms: Terms,
    /// With how many of the newest messages the present streams begin.
    last: Option<NonZeroU64>,
    /// The acks, if the subscription has a window.
    pub(super) acks: Option<Box<Acks>>,
    /// Set if a stream redelivers, or reports unacknowledged items.
    redelivery: Option<Box<Redelivery>>,
    /// The positions in logs that were left for another one, the latest at the back.
    left: VecDeque<Position>,
    /// The server has accepted a subscription for the present streams. A later refusal ends these
    /// streams.
    pub(super) has_begun: bool,
    /// What the present streams asked for in case of a new log.
    after_reset: AfterReset,
    /// The position behind the last message of the present log, if a stopping server has sent a
    /// `head`.
    pub(super) tail: Option<Position>,
    /// The list of the `/renew` that is being read contains this topic.
    pub(super) is_listed: bool,
    /// When a parked topic is subscribed again: after a refusal, or after a subscription that ended
    /// too soon.
    pub(super) again: Option<Time>,
    /// How often in a row this client has subscribed again by itself.
    repeats: Repeats,
    /// Since when the subscription is live.
    live_since: Option<Time>,
}

/// A stream that waits until the server has accepted the subscription.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) sender: oneshot::Sender<Joined>,
    pub(super) inbox: Arc<Inbox>,
    /// The failure of a `/subscribe` that was sent for it and is to be repeated. If there is no
    /// other connection, this is the outcome, and not "not sent" (guarantee "one outcome").
    pub(super) failure: Option<CallError>,
}

impl Entry {
    /// Checks whether a stream can begin at this position and with these terms. Returns the event
    /// for the state. The first stream sets the terms; later ones share them, or are rejected.
    pub(super) fn admit(
        &mut self,
        Wish { from, last, terms, after_reset }: Wish,
    ) -> Result<SubscriptionEvent, NotSent> {
        if !self.inboxes.is_empty() {
            let shares = from.is_none()
                && last.is_none()
                && (terms == Terms::default() || terms == self.terms)
                && after_reset.is_none_or(|after_reset| after_reset == self.after_reset);
            let join = SubscriptionEvent::Join { from };
            return if shares { Ok(join) } else { Err(NotSent::AlreadySubscribed) };
        }
        self.left.clear();
        let sends_the_same = self.sent_terms == terms && self.last.is_none() && last.is_none();
        (self.terms, self.after_reset) = (terms, after_reset.unwrap_or_default());
        self.last = last;
        self.acks = terms.window.map(|size| Box::new(Acks::new(size)));
        self.redelivery = None;
        Ok(match sends_the_same {
            true => SubscriptionEvent::Join { from },
            false => SubscriptionEvent::JoinAnew { from },
        })
    }

    /// Adds a stream, if its reader has to be known here.
    pub(super) fn know(&mut self, inbox: &Arc<Inbox>, reader: Option<&Arc<Reader>>) {
        if let Some(reader) = reader.filter(|reader| reader.is_known()) {
            let known = self.redelivery.get_or_insert_default();
            known.join(inbox.clone(), Arc::downgrade(reader));
        }
    }

    /// Removes a stream that leaves.
    pub(super) fn forget(&mut self, inbox: &Arc<Inbox>) {
        if let Some(known) = &mut self.redelivery {
            known.leave(inbox);
        }
    }

    /// The reader of a present stream, if it is known here.
    pub(super) fn reader(&self, inbox: &Arc<Inbox>) -> Option<Arc<Reader>> {
        let is_present = self.inboxes.iter().any(|other| Arc::ptr_eq(other, inbox));
        self.redelivery.as_ref().filter(|_| is_present)?.reader(inbox)
    }

    /// The position that a live topic has reached. While numbers come again, `next` is below it.
    pub(super) fn reached(&self, next: Position) -> Position {
        let reached = self.redelivery.as_ref().and_then(|redelivery| redelivery.reached());
        reached.filter(|reached| reached.next > next.next).unwrap_or(next)
    }

    /// Moves the topic back when a resume was accepted after which numbers come again, and forward
    /// when the wire subscription is over before all of them have come. Other streams have them, so
    /// they are not the topic's own position.
    pub(super) fn turn_back(&mut self, event: SubscriptionEvent) {
        use SubscriptionEvent as Event;
        let Some(redelivery) = &mut self.redelivery else { return };
        match (self.state, event) {
            (
                SubscriptionState::Requested { from: Some(own), then: Then::Stay },
                Event::Accepted(next),
            ) => {
                if let Some(from) = redelivery.accepted(own, next) {
                    let (from, then) = (Some(from), Then::Stay);
                    self.state = SubscriptionState::Requested { from, then };
                }
            }
            (SubscriptionState::Live(next), _) if is_over(event, next) => {
                self.state = SubscriptionState::Live(self.reached(next));
            }
            _ => {}
        }
    }

    /// Whether the `/subscribe` is repeated after this refusal. It is repeated after `closing` from a
    /// server that the client has left. If the subscription was accepted before, it is also repeated
    /// after `busy`, or a refusal with a `retry`.
    pub(super) fn is_refused_for_now(&self, links: &Links, input: &Input<'_>) -> bool {
        let Some(CallError::Refused { reason, retry }) = &input.failure else { return false };
        let is_left = reason.code == Code::CLOSING && !links.is_current(self.link);
        is_left || self.has_begun && (retry.is_some() || reason.code == Code::BUSY)
    }

    /// Whether this event would repeat a subscription that began only recently, so that a pause is
    /// needed first. Subscriptions that the application has just requested need no pause.
    pub(super) fn comes_too_soon(
        &self,
        event: SubscriptionEvent,
        backoff: Backoff,
        now: Time,
    ) -> bool {
        use SubscriptionEvent as Event;
        let repeats = match self.state {
            SubscriptionState::Live(_) => matches!(event, Event::Expired(_) | Event::Renewed(None)),
            SubscriptionState::Leaving { rejoin: Some(_) } => event == Event::Left,
            _ => false,
        };
        let lasted = self.live_since.map(|since| since.until(now));
        repeats && self.has_begun && lasted.is_none_or(|lasted| lasted < backoff.stable)
    }

    /// Sets the time at which a parked topic is subscribed again: after the `hint` of the server,
    /// if there was one, and a pause.
    pub(super) fn pause(&mut self, hint: Option<Duration>, config: &ClientConfig, now: Time) {
        if !self.is_parked() {
            return;
        }
        let (backoff, jitter) = (config.backoff(), config.random.next_u64());
        let pause = self.repeats.pause_after(hint.unwrap_or_default(), backoff, jitter);
        self.again = Some(now.after(pause));
    }

    /// Takes the notification `number`, if it is the next one of a live topic without acks and
    /// without joining streams.
    pub(super) fn next_notification(
        &mut self,
        number: u64,
        payload: &[u8],
        payloads: &mut Payloads,
    ) -> Option<Delivery> {
        let SubscriptionState::Live(next) = &mut self.state else { return None };
        if next.next != number || self.acks.is_some() || !self.joining.is_empty() {
            return None;
        }
        let topic = self.topic.clone()?;
        let run = Run::Notifications(std::ptr::from_ref(next).addr());
        next.next += 1;
        self.tail = None;
        let payload = payloads.copy(run, payload);
        Some(Delivery::Notification(Notification::received(topic, next.epoch, number, payload)))
    }

    /// Whether it waits for a connection, or for the end of a pause.
    pub(super) fn is_parked(&self) -> bool {
        matches!(self.state, SubscriptionState::Parked { .. })
    }

    /// Whether its pause is not over.
    pub(super) fn waits(&self, now: Time) -> bool {
        self.again.is_some_and(|again| again > now)
    }

    /// Translates an `ok` or a `/reset` with another log. If the application has seen a part of
    /// that log before, the topic goes on from there. In a log that is new, the application may
    /// want to begin after the head.
    pub(super) fn recall(&self, event: SubscriptionEvent) -> SubscriptionEvent {
        use SubscriptionEvent as Event;
        if let Event::Notification(_) = event {
            return event;
        }
        let own = self.state.next();
        let is_other = |next: Position| own.is_some_and(|own| own.epoch != next.epoch);
        match (self.state, event) {
            (SubscriptionState::Requested { .. }, Event::Accepted(next)) if is_other(next) => {
                match self.left.iter().rfind(|left| left.epoch == next.epoch) {
                    Some(seen) if seen.next > next.next => Event::Returned(*seen),
                    None if self.after_reset == AfterReset::Head => Event::Foreign(next),
                    _ => event,
                }
            }
            (SubscriptionState::Live(_), Event::Reset(next))
                if is_other(next) && self.after_reset == AfterReset::Head =>
            {
                Event::Foreign(next)
            }
            _ => event,
        }
    }

    /// The gap up to the `head` that a stopping server has sent. These messages cannot come any
    /// more, because the topic is in another log now.
    pub(super) fn unread(&mut self, topic: &Topic, next: Position) -> Option<Gap> {
        let tail = self.tail.take()?;
        let cause = GapCause::Server(Code::SHUTDOWN);
        let (topic, epoch, first) = (topic.clone(), next.epoch, next.next);
        let is_unread = tail.epoch == epoch && tail.next > first;
        is_unread.then(|| Gap { topic, epoch, first, last: tail.next - 1, cause })
    }

    /// Sets the state after an event.
    pub(super) fn moved(
        &mut self,
        event: SubscriptionEvent,
        state: SubscriptionState,
        backoff: Backoff,
        step: &mut Step,
    ) {
        if let (SubscriptionState::Live(_), SubscriptionEvent::Notification(_)) = (state, event) {
            // A notification changes nothing but the position, and only a live topic accepts one.
            self.state = state;
            return;
        }
        let before = self.own_next();
        let is_live = |state| matches!(state, SubscriptionState::Live(_));
        match (is_live(self.state), is_live(state)) {
            (false, true) => self.live_since = Some(step.now),
            (true, false) => {
                let lasted = self.live_since.take().map(|since| since.until(step.now));
                self.repeats.lasted(lasted.unwrap_or_default(), backoff);
            }
            _ => {}
        }
        self.state = state;
        self.again = self.again.filter(|_| matches!(state, SubscriptionState::Parked { .. }));
        self.remember(before);
        match (state, event) {
            (SubscriptionState::Live(_), _) => self.has_begun = true,
            (_, SubscriptionEvent::Leave) => self.has_begun = false,
            _ => {}
        }
        // The joining streams begin here. Messages that the server repeats for an earlier position
        // are ignored.
        if let (SubscriptionEvent::Accepted(_), SubscriptionState::Live(next)) = (event, state) {
            let next = self.reached(next);
            for joining in self.joining.drain(..) {
                step.then(Effect::Joined(joining.sender, Ok(next)));
            }
        }
    }

    /// Performs an action. `next` is the position before the input, and `newcomers` are the streams
    /// that were joining then.
    pub(super) fn act(
        &mut self,
        all: &mut Vec<Weak<Inbox>>,
        links: &mut Links,
        topic: &Topic,
        action: Action,
        (input, next, newcomers): (&Input<'_>, Option<Position>, &[Arc<Inbox>]),
        step: &mut Step,
    ) -> Result<Acted, NotSent> {
        match action {
            Action::Subscribe { from } => self.subscribe(links, topic, from, step)?,
            Action::Unsubscribe => {
                let is_sent = send_unsubscribe(links, self.link, topic, step);
                // Without the line, the subscription ends with its connection, and no task has to
                // wait for that.
                if !is_sent && !links.is_current(self.link) {
                    return Ok(Acted::Left);
                }
            }
            Action::Violation => step.violation(topic.clone()),
            Action::End if !self.joining.is_empty() => {
                // The subscription was not accepted, so only the joining streams get the failure.
                let lost = || NotSent::Lost(ConnectionError::ClosedByPeer).into();
                self.fail_joining(&input.failure.clone().unwrap_or_else(lost), step);
                if self.has_begun {
                    let end = input.delivery(topic, Action::End, next);
                    self.pass_on(all, end, newcomers, step);
                }
                self.inboxes.clear();
            }
            action => {
                if let (Action::Reset(_), Some(next)) = (action, next)
                    && let Some(unread) = self.unread(topic, next)
                {
                    step.missed(unread.first, unread.last);
                    let unread = Delivery::Gap(unread);
                    self.pass_on(all, unread, newcomers, step);
                }
                if let Action::Missed { first, last, .. } = action {
                    step.missed(first, last);
                }
                let delivery = input.delivery(topic, action, next);
                self.pass_on(all, delivery, newcomers, step);
            }
        }
        Ok(Acted::Stays)
    }

    /// Sends its `/subscribe` on the current connection, or parks the topic until there is one.
    pub(super) fn subscribe(
        &mut self,
        links: &mut Links,
        topic: &Topic,
        from: Option<Position>,
        step: &mut Step,
    ) -> Result<(), NotSent> {
        self.sent_terms = self.terms;
        let from = self.ask(from);
        // Later it begins anew behind the head, where it has no position.
        let last = self.last.filter(|_| !self.has_begun);
        match send_subscribe(links, topic, (from, last), self.terms, step) {
            Ok(link) => self.link = link,
            Err(SendError::Refused(error)) => {
                self.give_up(&error, step);
                return Err(error);
            }
            Err(SendError::Wait) => self.state = self.state.on(SubscriptionEvent::Disconnected).0,
        }
        Ok(())
    }

    /// Where a `/subscribe` asks to begin: at `own`, or lower if a stream redelivers.
    fn ask(&mut self, own: Option<Position>) -> Option<Position> {
        let Some(redelivery) = &mut self.redelivery else { return own };
        match own {
            Some(own) => Some(redelivery.ask(own)),
            None => {
                redelivery.ask_nothing();
                None
            }
        }
    }

    /// Where the present streams expect to go on; `None` if the request in progress is for streams
    /// that have left.
    fn own_next(&self) -> Option<Position> {
        match self.state {
            SubscriptionState::Requested { then: Then::Leave | Then::Again { .. }, .. } => None,
            state => state.next(),
        }
    }

    /// Remembers the position in a log, if the topic has left it.
    fn remember(&mut self, before: Option<Position>) {
        let now = match self.state {
            SubscriptionState::Live(now) => Some(now),
            SubscriptionState::Leaving { rejoin } => rejoin.flatten(),
            _ => None,
        };
        let (Some(before), Some(now)) = (before, now) else { return };
        if before.epoch != now.epoch {
            self.left.retain(|left| left.epoch != before.epoch);
            if self.left.len() == REMEMBERED {
                self.left.pop_front();
            }
            self.left.push_back(before);
        }
    }

    /// Handles that its `/subscribe` can no longer be sent. Joining streams fail now. Other streams
    /// get their end when the connection ends.
    pub(super) fn give_up(&mut self, error: &NotSent, step: &mut Step) {
        self.fail_joining(&error.clone().into(), step);
        if !self.has_begun {
            self.inboxes.clear();
            self.state = SubscriptionState::Absent;
        }
    }

    pub(super) fn fail_joining(&mut self, error: &CallError, step: &mut Step) {
        for Joining { sender, failure, .. } in self.joining.drain(..) {
            let failure = failure.filter(|_| matches!(error, CallError::NotSent(_)));
            let error = failure.unwrap_or_else(|| error.clone());
            step.then(Effect::Joined(sender, Err(error)));
        }
    }

    /// Updates the acks after an event. If the subscription is not live, pending acks are dropped,
    /// because the next wire subscription begins with an empty window.
    pub(super) fn keep_acks(
        &mut self,
        due: &mut Vec<Topic>,
        links: &mut Links,
        topic: &Topic,
        event: SubscriptionEvent,
        step: &mut Step,
    ) {
        if let SubscriptionState::Live(own) = self.state {
            if self.track(own, event, topic, step) {
                due.push(topic.clone());
                links.announce_acks(self.link, step);
            }
        } else if let Some(acks) = &mut self.acks {
            acks.stop();
        }
    }

    /// Updates the acks of a live subscription. Returns whether an ack has become due.
    fn track(
        &mut self,
        own: Position,
        event: SubscriptionEvent,
        topic: &Topic,
        step: &mut Step,
    ) -> bool {
        use SubscriptionEvent as Event;
        let Some(acks) = &mut self.acks else { return false };
        match event {
            Event::Accepted(next) => {
                acks.begin(next);
                let resumed = self.redelivery.as_mut().map(|it| it.resumed(next.next));
                for (inbox, at) in resumed.into_iter().flatten() {
                    acks.handled(&inbox, at);
                }
            }
            Event::Reset(next) if next == own => acks.begin(next),
            // It is beyond the window, but is handed over anyway, so that the application loses
            // nothing.
            Event::Notification(number) if !acks.delivered(number) => {
                step.violation(topic.clone());
            }
            Event::Gap { epoch, last, .. } => acks.named(Position { epoch, next: last + 1 }),
            Event::Renewed(Some(next)) => acks.named(next),
            _ => {}
        }
        acks.comes_due(matches!(event, Event::Gap { .. }))
    }

    /// The joining streams of a subscription that others had before. A loss of the others is not a
    /// loss of these streams.
    pub(super) fn newcomers(&self) -> Vec<Arc<Inbox>> {
        let joining = self.joining.iter().filter(|_| self.has_begun);
        joining.map(|joining| joining.inbox.clone()).collect()
    }

    /// Passes a delivery on. While numbers come again, only some streams get them.
    fn pass_on(
        &mut self,
        all: &mut Vec<Weak<Inbox>>,
        delivery: Delivery,
        newcomers: &[Arc<Inbox>],
        step: &mut Step,
    ) {
        let divided = match &mut self.redelivery {
            Some(redelivery) => redelivery.divide(delivery),
            None => Err(delivery),
        };
        let new = match divided {
            Ok(divided) => {
                for delivery in divided.again {
                    let copies = divided.streams.iter().map(|inbox| inbox.push(delivery.clone()));
                    step.wake(copies.flatten());
                }
                divided.new
            }
            Err(delivery) => Some(delivery),
        };
        if let Some(new) = new {
            self.deliver(all, new, newcomers, step);
        }
    }

    /// Passes a delivery to every stream of the topic except the newcomers, and to the streams of
    /// all notifications. Costs a copy of handles for each stream but the last.
    pub(super) fn deliver(
        &mut self,
        all: &mut Vec<Weak<Inbox>>,
        delivery: Delivery,
        newcomers: &[Arc<Inbox>],
        step: &mut Step,
    ) {
        if !all.is_empty() {
            all.retain(|inbox| inbox.strong_count() > 0);
            for inbox in all.iter().filter_map(Weak::upgrade) {
                step.wake(inbox.push(delivery.clone()));
            }
        }
        let end = matches!(delivery, Delivery::End { .. });
        let is_old = |inbox: &&Arc<Inbox>| !newcomers.iter().any(|new| Arc::ptr_eq(new, inbox));
        if !newcomers.is_empty() {
            for inbox in self.inboxes.iter().filter(is_old) {
                step.wake(inbox.push(delivery.clone()));
            }
        } else if let Some((last, others)) = self.inboxes.split_last() {
            for inbox in others {
                step.wake(inbox.push(delivery.clone()));
            }
            step.wake(last.push(delivery));
        }
        if end {
            step.wake(self.inboxes.drain(..).filter_map(|inbox| inbox.close()));
        }
    }
}

/// Whether an event ends the wire subscription of a live topic at `next`, or its log.
fn is_over(event: SubscriptionEvent, next: Position) -> bool {
    use SubscriptionEvent as Event;
    match event {
        Event::Reset(to) | Event::Foreign(to) => to.epoch != next.epoch,
        Event::Leave | Event::Disconnected | Event::Expired(_) | Event::Ended => true,
        Event::Renewed(at) => at.is_none(),
        _ => false,
    }
}

fn send_subscribe(
    links: &mut Links,
    topic: &Topic,
    begin: (Option<Position>, Option<NonZeroU64>),
    terms: Terms,
    step: &mut Step,
) -> Result<LinkId, SendError> {
    match begin {
        (None, None) => links.send_subscribe(topic, format_args!("/subscribe{terms}"), step),
        (None, Some(last)) => {
            links.send_subscribe(topic, format_args!("/subscribe;last={last}{terms}"), step)
        }
        (Some(from), _) => {
            links.send_subscribe(topic, format_args!("/subscribe;from={from}{terms}"), step)
        }
    }
}

/// Returns whether the connection accepts lines.
fn send_unsubscribe(links: &mut Links, link: LinkId, topic: &Topic, step: &mut Step) -> bool {
    let waiter = Waiter::Unsubscribe(topic.clone());
    let (head, arguments) = (format_args!("/unsubscribe"), format_args!("{topic}"));
    links.send_control(link, waiter, head, arguments, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    fn live(entry: &mut Entry, next: Position) {
        let before = entry.own_next();
        entry.state = SubscriptionState::Live(next);
        entry.remember(before);
    }

    /// A log is remembered once, with its last position. Of many logs the last ones are remembered.
    #[test]
    fn the_most_recent_logs_are_remembered_once_each() {
        let mut entry = Entry::default();
        for next in 1..=3 {
            live(&mut entry, at(&format!("e:{next}")));
            live(&mut entry, at(&format!("f:{next}")));
        }
        assert_eq!(entry.left, [at("f:2"), at("e:3")]);
        for n in 0..20 {
            live(&mut entry, at(&format!("g{n}:1")));
            assert!(entry.left.len() <= REMEMBERED);
        }
        assert_eq!((entry.left.len(), entry.left.back()), (REMEMBERED, Some(&at("g18:1"))));
    }

    /// A new stream gets nothing of what earlier streams had or asked for, once these have left.
    #[test]
    fn a_new_stream_has_no_state_of_earlier_streams() {
        let mut entry = Entry::default();
        let head = Wish { after_reset: Some(AfterReset::Head), ..Wish::default() };
        entry.admit(head).unwrap();
        assert_eq!(entry.after_reset, AfterReset::Head);
        live(&mut entry, at("e:1"));
        live(&mut entry, at("f:1"));
        entry.admit(Wish::default()).unwrap();
        assert_eq!((entry.after_reset, entry.left.len()), (AfterReset::Start, 0));
    }

    /// After a subscription that has lasted, pauses begin with the first window again.
    #[test]
    fn backoff_restarts_after_a_long_lived_subscription() {
        let config = ClientConfig::new();
        let (backoff, accepted) = (config.backoff(), SubscriptionEvent::Accepted(at("e:1")));
        for (lasted, level) in [(backoff.stable, 0), (backoff.stable - Duration::from_millis(1), 3)]
        {
            let (mut entry, step) = (Entry::default(), &mut Step::default());
            entry.state = SubscriptionState::Parked { from: None };
            (0..3).for_each(|_| entry.pause(None, &config, step.now));
            entry.moved(accepted, SubscriptionState::Live(at("e:1")), backoff, step);
            step.now = step.now.after(lasted);
            let parked = SubscriptionState::Parked { from: None };
            entry.moved(SubscriptionEvent::Disconnected, parked, backoff, step);
            assert_eq!(entry.repeats.level(), level);
        }
    }
}
