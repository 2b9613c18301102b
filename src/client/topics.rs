//! The topics a client is subscribed to: one wire subscription each, shared by every stream.
//!
//! A topic lives on one connection at a time. When that is over it waits for the next, and goes on
//! from its own position; what other connections still say of it is passed over.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    task::Waker,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    client::{
        acks::{AckHandle, Acks},
        event::ConnectionEvent,
        inbox::{Delivery, Gap, GapCause, Inbox, Notification},
        link::{LinkId, SendError},
        shared::{Begun, Shared},
        stats::Tally,
        waiter::Waiter,
    },
    error::{CallError, ConnectionError, NotSent},
    protocol::{
        Action, Backoff, Code, Position, SubscriptionEvent, SubscriptionState, Terms, Topic,
    },
    sync::{Arc, Weak, oneshot},
};

/// Logs that a topic has left and remembers: those of as many servers, one after the other.
pub(crate) const REMEMBERED: usize = 8;

/// How long a subscription that a server has no room for at present leaves it alone, where the server
/// does not say.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) type Joined = Result<Position, CallError>;

/// Locked by handles that come and go, and by the driver for each notification. Lines are appended
/// while it is locked, so that they leave in the order of the transitions that asked for them.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    entries: HashMap<Topic, Entry>,
    /// The streams of all notifications.
    all: Vec<Weak<Inbox>>,
    /// Topics with an ack to be written, in the order in which they came due.
    acks_due: Vec<Topic>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Entry {
    state: SubscriptionState,
    /// Where its last `/subscribe` was sent.
    link: LinkId,
    inboxes: Vec<Arc<Inbox>>,
    /// Who waits for the subscription to be accepted.
    joining: Vec<Joining>,
    /// What those who have it now asked for.
    terms: Terms,
    /// What the last `/subscribe` asked for.
    asked: Terms,
    /// With a window: what is acknowledged.
    acks: Option<Box<Acks>>,
    /// Where the application stood in logs that were left for another, the last one at the back.
    left: VecDeque<Position>,
    /// It was accepted once since somebody wanted it: a refusal ends it for those who had it.
    has_begun: bool,
    /// While it is parked because it was refused for now: when to ask again.
    again: Option<Instant>,
}

/// Who waits for a subscription to be accepted.
#[derive(Debug)]
struct Joining {
    sender: oneshot::Sender<Joined>,
    /// How a `/subscribe` ended that left for it and is to be sent again: that is no "not sent" if
    /// there is no other connection (R2).
    failure: Option<CallError>,
}

/// What a stream asks of its topic.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    pub(crate) from: Option<Position>,
    pub(crate) terms: Terms,
}

/// An event, and what came with it.
pub(crate) struct Input<'a> {
    pub(crate) event: SubscriptionEvent,
    pub(crate) payload: Cow<'a, [u8]>,
    pub(crate) code: Code,
    pub(crate) failure: Option<CallError>,
}

impl From<SubscriptionEvent> for Input<'_> {
    fn from(event: SubscriptionEvent) -> Self {
        Self { event, payload: Cow::Borrowed(b""), code: Code::CLOSED, failure: None }
    }
}

/// Who is to be told, once no lock is held.
#[derive(Debug, Default)]
#[must_use = "nobody is told before `tell`"]
pub(crate) struct Told {
    wakers: Vec<Waker>,
    joined: Vec<(oneshot::Sender<Joined>, Joined)>,
    violations: Vec<Topic>,
    tally: Tally,
    /// When the driver is to ask again for what was refused for now.
    pub(crate) again: Option<Instant>,
}

impl Told {
    pub(crate) fn tell(mut self, shared: &Shared) {
        self.tell_all(shared);
    }

    fn ask_again(&mut self, at: Option<Instant>) {
        self.again = self.again.into_iter().chain(at).min();
    }

    /// Tells everybody, and keeps the space.
    pub(crate) fn tell_all(&mut self, shared: &Shared) {
        self.tally.violations += self.violations.len() as u64;
        shared.counters.fold(&mut self.tally);
        for (joining, outcome) in self.joined.drain(..) {
            let _ = joining.send(outcome);
        }
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
        for topic in self.violations.drain(..) {
            shared.events.emit(ConnectionEvent::Violation(topic));
        }
    }
}

impl Topics {
    /// Adds a stream to a topic. The receiver hears where it begins.
    ///
    /// Who asks for nothing shares what there is; who asks for a window has a say in the acks.
    pub(crate) fn join(
        &mut self,
        shared: &Shared,
        topic: &Topic,
        Wish { from, terms }: Wish,
        inbox: Arc<Inbox>,
        told: &mut Told,
    ) -> Result<oneshot::Receiver<Joined>, NotSent> {
        if from.is_some_and(|from| !from.is_sendable()) {
            return Err(NotSent::Position);
        }
        // What lives can be shared; what would need a line is not begun after a goodbye.
        let is_live = |entry: &Entry| matches!(entry.state, SubscriptionState::Live(_));
        let down = || shared.down().filter(|_| shared.config.fail_fast);
        if !self.entries.get(topic).is_some_and(is_live)
            && let Some(error) = shared.refusal_error().or_else(down)
        {
            return Err(NotSent::Lost(error));
        }
        let entry = self.entries.entry(topic.clone()).or_default();
        let event = entry.admit(from, terms)?;
        let fresh = entry.state == SubscriptionState::Absent;
        entry.joining.retain(|joining| !joining.sender.is_closed());
        let (sender, receiver) = oneshot::channel();
        match entry.state {
            SubscriptionState::Live(next) => told.joined.push((sender, Ok(next))),
            _ => entry.joining.push(Joining { sender, failure: None }),
        }
        if let Some(acks) = entry.acks.as_mut().filter(|_| terms.window.is_some()) {
            let at = Some(entry.state).filter(|state| matches!(state, SubscriptionState::Live(_)));
            acks.join(inbox.clone(), at.and_then(SubscriptionState::next));
        }
        entry.inboxes.push(inbox);
        let sent = self.on(shared, topic, event.into(), told);
        if sent.is_err() && fresh {
            self.entries.remove(topic);
        }
        sent.map(|()| receiver)
    }

    /// Takes a stream off a topic; the last one unsubscribes.
    pub(crate) fn leave(
        &mut self,
        shared: &Shared,
        topic: &Topic,
        inbox: &Arc<Inbox>,
        told: &mut Told,
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
                told.wakers.extend(shared.announce_acks(entry.link));
            }
        }
        if entry.inboxes.is_empty() && before > 0 {
            let _ = self.on(shared, topic, SubscriptionEvent::Leave.into(), told);
        }
    }

    /// A reader with a window has handled all below `position`.
    pub(crate) fn handled(
        &mut self,
        shared: &Shared,
        topic: &Topic,
        inbox: &Arc<Inbox>,
        position: Position,
        told: &mut Told,
    ) {
        let Some(entry) = self.entries.get_mut(topic) else { return };
        let Some(acks) = &mut entry.acks else { return };
        acks.handled(inbox, position);
        if acks.comes_due(true) {
            self.acks_due.push(topic.clone());
            told.wakers.extend(shared.announce_acks(entry.link));
        }
    }

    /// Appends the acks that are due, one per topic. The drivers to wake, the caller among them.
    pub(crate) fn write_acks(&mut self, shared: &Shared) -> Vec<Waker> {
        let mut drivers = Vec::new();
        for topic in self.acks_due.drain(..) {
            let Some(entry) = self.entries.get_mut(&topic) else { continue };
            if let Some(position) = entry.acks.as_mut().and_then(|acks| acks.take()) {
                drivers.extend(shared.append_ack(entry.link, &topic, position));
            }
        }
        drivers
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

    /// Whether a topic has to do with this connection.
    pub(crate) fn has_any_on(&self, link: LinkId) -> bool {
        self.entries.values().any(|entry| entry.link == link)
    }

    /// Moves a topic by what the server of a connection sent.
    pub(crate) fn on_line(
        &mut self,
        shared: &Shared,
        link: LinkId,
        topic: &str,
        input: Input<'_>,
        told: &mut Told,
    ) {
        match self.entries.get_key_value(topic) {
            Some((topic, entry)) if entry.link == link => {
                let topic = topic.clone();
                if entry.is_refused_for_now(shared, &input) {
                    input.failure.iter().for_each(|failure| self.failed(&topic, failure));
                    return self.on_refused_for_now(shared, link, &topic, input.retry(), told);
                }
                // A subscription that cannot be renewed ends with the connection, and says so.
                let _ = self.on(shared, &topic, input, told);
            }
            // What has moved to another connection, or was given up on this one, goes on or ends
            // there: a server that is left may say what it likes of it.
            Some(_) => {}
            None if !shared.is_current(link) => {}
            None => told.violations.extend(Topic::new(topic)),
        }
    }

    /// There is a connection to ask on: what waited for one is subscribed.
    pub(crate) fn connected(&mut self, shared: &Shared, told: &mut Told) {
        let is_parked = |entry: &Entry| matches!(entry.state, SubscriptionState::Parked { .. });
        for topic in self.topics_where(is_parked) {
            let _ = self.on(shared, &topic, SubscriptionEvent::Connected.into(), told);
        }
    }

    /// A connection is over: what lived there waits for the next, or goes on at once where there is
    /// one.
    pub(crate) fn disconnected(&mut self, shared: &Shared, link: LinkId, told: &mut Told) {
        for topic in self.topics_where(|entry| entry.link == link) {
            self.move_on(shared, link, &topic, told);
        }
    }

    /// A topic cannot go on with this connection; it does with the next, or with the one there is.
    pub(crate) fn move_on(
        &mut self,
        shared: &Shared,
        link: LinkId,
        topic: &Topic,
        told: &mut Told,
    ) {
        let Some(entry) = self.entries.get_mut(topic).filter(|entry| entry.link == link) else {
            return;
        };
        if shared.config.fail_fast {
            let down = shared.down().unwrap_or(ConnectionError::Closed);
            entry.give_up(&NotSent::Lost(down), told);
        }
        let _ = self.on(shared, topic, SubscriptionEvent::Disconnected.into(), told);
        let _ = self.on(shared, topic, SubscriptionEvent::Connected.into(), told);
    }

    fn on_refused_for_now(
        &mut self,
        shared: &Shared,
        link: LinkId,
        topic: &Topic,
        retry: Option<Duration>,
        told: &mut Told,
    ) {
        match retry {
            None => self.move_on(shared, link, topic, told),
            Some(retry) => {
                let _ = self.on(shared, topic, SubscriptionEvent::Disconnected.into(), told);
                if let Some(entry) = self.entries.get_mut(topic) {
                    entry.again = Instant::now().checked_add(spread(retry, shared));
                    told.ask_again(entry.again);
                }
            }
        }
    }

    /// Asks again for what was refused for now, as far as its time has come.
    pub(crate) fn ask_again(&mut self, shared: &Shared, now: Instant, told: &mut Told) {
        let is_due = |entry: &Entry| entry.again.is_some_and(|again| again <= now);
        for topic in self.topics_where(is_due) {
            let _ = self.on(shared, &topic, SubscriptionEvent::Connected.into(), told);
        }
        self.entries.values().for_each(|entry| told.ask_again(entry.again));
    }

    /// Topics in an order that does not depend on the map's.
    fn topics_where(&self, is_wanted: impl Fn(&Entry) -> bool) -> Vec<Topic> {
        let wanted = self.entries.iter().filter(|(_, entry)| is_wanted(entry));
        let mut topics: Vec<_> = wanted.map(|(topic, _)| topic.clone()).collect();
        topics.sort_unstable();
        topics
    }

    /// The reply to `/renew`: what it lists, and what it leaves out.
    pub(crate) fn renewed(
        &mut self,
        shared: &Shared,
        link: LinkId,
        listed: &HashMap<&str, Position>,
        told: &mut Told,
    ) {
        let is_live =
            |entry: &Entry| entry.link == link && matches!(entry.state, SubscriptionState::Live(_));
        for topic in self.topics_where(is_live) {
            let position = listed.get(topic.as_str()).copied();
            let _ = self.on(shared, &topic, SubscriptionEvent::Renewed(position).into(), told);
        }
    }

    fn on(
        &mut self,
        shared: &Shared,
        topic: &Topic,
        input: Input<'_>,
        told: &mut Told,
    ) -> Result<(), NotSent> {
        let Some(entry) = self.entries.get_mut(topic) else {
            return Ok(());
        };
        let next_before = entry.state.next();
        let input = Input { event: entry.recall(input.event), ..input };
        let (state, actions) = entry.state.on(input.event);
        entry.state = state;
        entry.again = entry.again.filter(|_| matches!(state, SubscriptionState::Parked { .. }));
        entry.remember(next_before);
        if entry.acks.is_some() {
            entry.keep_acks(&mut self.acks_due, shared, topic, input.event, told);
        }
        match (state, input.event) {
            (SubscriptionState::Live(_), _) => entry.has_begun = true,
            (_, SubscriptionEvent::Leave) => entry.has_begun = false,
            _ => {}
        }
        // What the server repeats, to begin further back, is seen.
        if let (SubscriptionEvent::Accepted(_), SubscriptionState::Live(next)) =
            (input.event, state)
        {
            told.joined.extend(entry.joining.drain(..).map(|joining| (joining.sender, Ok(next))));
        }
        let (mut outcome, mut is_left) = (Ok(()), false);
        for action in actions {
            match action {
                Action::Subscribe { from } => {
                    entry.asked = entry.terms;
                    match send_subscribe(shared, topic, from, entry.terms) {
                        Ok(Begun { link, driver, .. }) => {
                            entry.link = link;
                            told.wakers.extend(driver);
                        }
                        Err(SendError::Refused(error)) => {
                            entry.give_up(&error, told);
                            outcome = Err(error);
                        }
                        // There is no connection: it is subscribed on the next one.
                        Err(_) => entry.state = entry.state.on(SubscriptionEvent::Disconnected).0,
                    }
                }
                Action::Unsubscribe => match send_unsubscribe(shared, entry.link, topic) {
                    Some(driver) => told.wakers.extend(driver),
                    // It ends with that connection, and nobody has to wait for that.
                    None => is_left = !shared.is_current(entry.link),
                },
                Action::Violation => told.violations.push(topic.clone()),
                Action::End if !entry.joining.is_empty() => {
                    // It never began: only who waits for it hears of it.
                    let error = input.failure.clone().unwrap_or(CallError::NotSent(NotSent::Lost(
                        ConnectionError::ClosedByPeer,
                    )));
                    entry.fail_joining(&error, told);
                    if entry.has_begun {
                        let end = input.delivery(topic, Action::End, next_before);
                        entry.deliver(&mut self.all, end, &mut told.wakers);
                    }
                    entry.inboxes.clear();
                }
                action => {
                    if let Action::Missed { first, last, .. } = action {
                        told.tally.gaps += 1;
                        told.tally.missed += last - first + 1;
                    }
                    let delivery = input.delivery(topic, action, next_before);
                    entry.deliver(&mut self.all, delivery, &mut told.wakers);
                }
            }
        }
        if entry.state == SubscriptionState::Absent {
            self.entries.remove(topic);
        }
        if is_left {
            return self.on(shared, topic, SubscriptionEvent::Left.into(), told);
        }
        outcome
    }

    /// A `/subscribe` that left ended like this.
    pub(crate) fn failed(&mut self, topic: &Topic, failure: &CallError) {
        let joining = self.entries.get_mut(topic).into_iter().flat_map(|entry| &mut entry.joining);
        joining.for_each(|joining| joining.failure = Some(failure.clone()));
    }

    /// All is over: every stream ends, those of topics saying from where to resume.
    pub(crate) fn end(&mut self, error: &ConnectionError) -> Told {
        let mut told = Told::default();
        self.ended = true;
        let mut entries: Vec<_> = self.entries.drain().collect();
        entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (topic, mut entry) in entries {
            entry.fail_joining(&NotSent::Lost(error.clone()).into(), &mut told);
            let position = entry.state.next();
            let end = Delivery::End { topic, reason: Code::LOST, position };
            entry.deliver(&mut self.all, end, &mut told.wakers);
        }
        let all = self.all.drain(..).filter_map(|inbox| inbox.upgrade()?.close());
        told.wakers.extend(all);
        told
    }
}

impl Entry {
    /// Whether a stream can be had from there and on these terms, and what that means for what is
    /// under way. The first of several says; who comes later shares, or is refused.
    fn admit(
        &mut self,
        from: Option<Position>,
        terms: Terms,
    ) -> Result<SubscriptionEvent, NotSent> {
        if !self.inboxes.is_empty() {
            let shares = from.is_none() && (terms == Terms::default() || terms == self.terms);
            let join = SubscriptionEvent::Join { from };
            return if shares { Ok(join) } else { Err(NotSent::AlreadySubscribed) };
        }
        self.left.clear();
        self.terms = terms;
        self.acks = terms.window.map(|size| Box::new(Acks::new(size)));
        Ok(match self.asked == terms {
            true => SubscriptionEvent::Join { from },
            false => SubscriptionEvent::JoinAnew { from },
        })
    }

    /// Whether a refusal of its `/subscribe` says nothing against a later one: that of a server that
    /// this client has left; and, of one that was accepted before, a lack of room.
    fn is_refused_for_now(&self, shared: &Shared, input: &Input<'_>) -> bool {
        let Some(CallError::Refused { reason, retry }) = &input.failure else { return false };
        match reason.code == Code::CLOSING {
            true => !shared.is_current(self.link),
            false => self.has_begun && (retry.is_some() || reason.code == Code::BUSY),
        }
    }

    /// An `ok` that begins a log anew of which the application has seen a part, as that.
    fn recall(&self, event: SubscriptionEvent) -> SubscriptionEvent {
        let SubscriptionEvent::Accepted(next) = event else { return event };
        let from = self.state.next().filter(|from| from.epoch != next.epoch);
        let seen = from.and_then(|_| self.left.iter().rfind(|left| left.epoch == next.epoch));
        match seen {
            Some(seen) if seen.next > next.next => SubscriptionEvent::Returned(*seen),
            _ => event,
        }
    }

    /// Remembers where a log was left, if it was.
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

    /// Its `/subscribe` cannot be sent any more. Who waits for it hears of that now; who has had the
    /// topic before, when the connection ends.
    fn give_up(&mut self, error: &NotSent, told: &mut Told) {
        self.fail_joining(&error.clone().into(), told);
        if !self.has_begun {
            self.inboxes.clear();
            self.state = SubscriptionState::Absent;
        }
    }

    fn fail_joining(&mut self, error: &CallError, told: &mut Told) {
        let failed = self.joining.drain(..).map(|Joining { sender, failure }| {
            let failure = failure.filter(|_| matches!(error, CallError::NotSent(_)));
            (sender, Err(failure.unwrap_or_else(|| error.clone())))
        });
        told.joined.extend(failed);
    }

    /// Keeps the acks with what the server said. One that was due on a wire subscription that is over
    /// is not written: the next one has its own.
    fn keep_acks(
        &mut self,
        due: &mut Vec<Topic>,
        shared: &Shared,
        topic: &Topic,
        event: SubscriptionEvent,
        told: &mut Told,
    ) {
        if let SubscriptionState::Live(own) = self.state {
            if self.track(own, event, topic, told) {
                due.push(topic.clone());
                told.wakers.extend(shared.announce_acks(self.link));
            }
        } else if self.acks.as_mut().is_some_and(|acks| acks.stop()) {
            due.retain(|due| due != topic);
        }
    }

    /// Whether an ack came due by what the server said.
    fn track(
        &mut self,
        own: Position,
        event: SubscriptionEvent,
        topic: &Topic,
        told: &mut Told,
    ) -> bool {
        use SubscriptionEvent as Event;
        let Some(acks) = &mut self.acks else { return false };
        match event {
            Event::Accepted(next) => acks.begin(next),
            Event::Reset(next) if next == own => acks.begin(next),
            // Handed over all the same: the application loses nothing by the fault.
            Event::Notification(number) if !acks.delivered(number) => {
                told.violations.push(topic.clone());
            }
            Event::Gap { epoch, last, .. } => acks.named(Position { epoch, next: last + 1 }),
            Event::Renewed(Some(next)) => acks.named(next),
            _ => {}
        }
        acks.comes_due(matches!(event, Event::Gap { .. }))
    }

    /// Gives a delivery to every stream of the topic, and to those of all topics. Costs a copy of
    /// handles for each stream but the last.
    fn deliver(&mut self, all: &mut Vec<Weak<Inbox>>, delivery: Delivery, wakers: &mut Vec<Waker>) {
        if !all.is_empty() {
            all.retain(|inbox| inbox.strong_count() > 0);
            for inbox in all.iter().filter_map(Weak::upgrade) {
                wakers.extend(inbox.push(delivery.clone()));
            }
        }
        let end = matches!(delivery, Delivery::End { .. });
        if let Some((last, others)) = self.inboxes.split_last() {
            for inbox in others {
                wakers.extend(inbox.push(delivery.clone()));
            }
            wakers.extend(last.push(delivery));
        }
        if end {
            wakers.extend(self.inboxes.drain(..).filter_map(|inbox| inbox.close()));
        }
    }
}

impl Input<'_> {
    /// How long to wait before what was refused for now is asked for again.
    fn retry(&self) -> Option<Duration> {
        match &self.failure {
            Some(CallError::Refused { reason, retry }) if reason.code != Code::CLOSING => {
                Some(retry.unwrap_or(PAUSE))
            }
            _ => None,
        }
    }

    /// What the streams of a topic get for `action`.
    fn delivery(&self, topic: &Topic, action: Action, next: Option<Position>) -> Delivery {
        let topic = topic.clone();
        match action {
            Action::Deliver(Position { epoch, next: sequence }) => {
                let payload = Bytes::copy_from_slice(&self.payload);
                let ack = AckHandle::default();
                Delivery::Notification(Notification { topic, epoch, sequence, payload, ack })
            }
            Action::Missed { epoch, first, last, named } => {
                let cause = match named {
                    true => GapCause::Server(self.code.clone()),
                    false => GapCause::Lost,
                };
                Delivery::Gap(Gap { topic, epoch, first, last, cause })
            }
            Action::Reset(position) => Delivery::Reset { topic, position },
            _ => Delivery::End { topic, reason: self.code.clone(), position: next },
        }
    }
}

/// A time and up to as much more, so that not all clients of a server come back at once.
fn spread(time: Duration, shared: &Shared) -> Duration {
    let backoff = Backoff { base: time, max: time, stable: time };
    time.saturating_add(backoff.pause(0, shared.config.random.next_u64()))
}

fn send_subscribe(
    shared: &Shared,
    topic: &Topic,
    from: Option<Position>,
    terms: Terms,
) -> Result<Begun, SendError> {
    let waiter = Waiter::Subscribe(topic.clone());
    let arguments = format_args!("{topic}");
    match from {
        None => shared.begin_control(waiter, format_args!("/subscribe{terms}"), arguments),
        Some(from) => {
            let head = format_args!("/subscribe;from={from}{terms}");
            shared.begin_control(waiter, head, arguments)
        }
    }
}

/// The driver to wake, if there is one; `None` once the connection takes no line any more.
fn send_unsubscribe(shared: &Shared, link: LinkId, topic: &Topic) -> Option<Option<Waker>> {
    let waiter = Waiter::Unsubscribe(topic.clone());
    let (head, arguments) = (format_args!("/unsubscribe"), format_args!("{topic}"));
    shared.send_control(link, waiter, head, arguments)
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
        Entry::default().deliver(&mut topics.all, end, &mut Vec::new());
        assert_eq!(topics.all.len(), 1);
    }
}
