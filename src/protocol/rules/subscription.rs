//! The client's side of a subscription, one per topic and connection. Pure transitions.

use std::iter::Flatten;

use crate::protocol::wire::{Epoch, Position};

/// The state of a client's subscription to a topic (docs/protocol/subscriptions.md, section 13).
///
/// ```
/// use bellwire::{
///     protocol::Position, unstable::rules::{Action, SubscriptionEvent as Event, SubscriptionState},
/// };
///
/// let next: Position = "k3f9:18".parse().unwrap();
/// let (state, mut actions) = SubscriptionState::Absent.on(Event::Join { from: None });
/// assert_eq!(actions.next(), Some(Action::Subscribe { from: None }));
/// let (state, _) = state.on(Event::Accepted(next));
/// let (state, mut actions) = state.on(Event::Notification(18));
/// assert_eq!(actions.next(), Some(Action::Deliver(Position { next: 18, ..next })));
/// assert_eq!(state, SubscriptionState::Live(Position { next: 19, ..next }));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SubscriptionState {
    /// Not subscribed, and no request in progress.
    #[default]
    Absent,
    /// The application wants the topic, but there is no connection.
    Parked {
        /// Where to begin; `None` begins behind the head.
        from: Option<Position>,
    },
    /// `/subscribe` was sent, and the client waits for its reply.
    Requested {
        /// Where the request asked to begin; `None` begins behind the head.
        from: Option<Position>,
        /// What to do after the reply.
        then: Then,
    },
    /// Subscribed; the next number to come.
    Live(Position),
    /// `/unsubscribe` was sent, and the client waits for its reply.
    Leaving {
        /// The application wants the topic again, from this position. After the reply the client
        /// subscribes.
        rejoin: Option<Option<Position>>,
    },
    /// The topic has another log, and the application wants only what is published after its head.
    /// The client first sends `/unsubscribe`, then `/subscribe` without a position.
    Skipping {
        /// The next number to come in the previous log.
        own: Position,
        /// `/unsubscribe` was answered, and `/subscribe` is sent.
        is_left: bool,
    },
}

/// What a [`SubscriptionState`] does after the reply to `/subscribe`. The application may have
/// changed its mind meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Then {
    /// The application still wants the topic.
    Stay,
    /// The application does not want the topic any more.
    Leave,
    /// The application wants the topic from another position: unsubscribe, and subscribe again.
    Again {
        /// Where to begin; `None` begins behind the head.
        from: Option<Position>,
    },
}

/// An event of a [`SubscriptionState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubscriptionEvent {
    /// The application wants the topic, from a position or from the head on.
    Join {
        /// Where to begin; `None` begins behind the head.
        from: Option<Position>,
    },
    /// As `Join`, on other terms than the request in progress, so that this request cannot be
    /// shared.
    JoinAnew {
        /// Where to begin; `None` begins behind the head.
        from: Option<Position>,
    },
    /// The application does not want the topic any more.
    Leave,
    /// `ok` to `/subscribe`: the epoch and the first number to come.
    Accepted(Position),
    /// `ok` to `/subscribe`, in a log that the client knows from earlier, with its position there.
    /// This happens if two servers have a log each, and the client is back at the first one.
    Returned(Position),
    /// `ok` to `/subscribe`, or `/reset`: another log goes on here, and the application wants only
    /// what comes behind its head.
    Foreign(Position),
    /// `/subscribe` was refused or failed.
    Refused,
    /// `/unsubscribe` was answered, by any reply.
    Left,
    /// A notification with this number.
    Notification(u64),
    /// `/gap`: numbers that will not come.
    Gap {
        /// The log.
        epoch: Epoch,
        /// The first number named.
        first: u64,
        /// The last number named.
        last: u64,
    },
    /// `/reset`: another log goes on here.
    Reset(Position),
    /// `/end … expired`: the lease ran out.
    Expired(Position),
    /// `/end` for any other reason.
    Ended,
    /// The position of the topic in the list of `/renew`; `None` if the topic is not in the list.
    Renewed(Option<Position>),
    /// The connection has ended, or there is none. Wanted topics wait for the next connection.
    Disconnected,
    /// There is a connection for requests.
    Connected,
}

/// What the client has to do after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send `/subscribe`.
    Subscribe {
        /// Where to begin; `None` begins behind the head.
        from: Option<Position>,
    },
    /// Send `/unsubscribe`.
    Unsubscribe,
    /// Deliver the notification. The position holds the notification's own number.
    Deliver(Position),
    /// Report to the application that these numbers will not come.
    Missed {
        /// The log.
        epoch: Epoch,
        /// The first number missed.
        first: u64,
        /// The last number missed.
        last: u64,
        /// Whether the server named the numbers in a `/gap`.
        named: bool,
    },
    /// Report to the application that another log goes on at this position.
    Reset(Position),
    /// Report to the application that the subscription has ended.
    End,
    /// The server broke the order of the topic: count the line, and ignore it.
    Violation,
}

/// Up to two actions, in order.
pub type Actions = Flatten<std::array::IntoIter<Option<Action>, 2>>;

fn none() -> Actions {
    [None, None].into_iter().flatten()
}

fn one(action: Action) -> Actions {
    [Some(action), None].into_iter().flatten()
}

impl SubscriptionState {
    /// The next number to come, or where the subscription is to begin, if that is known.
    pub fn next(self) -> Option<Position> {
        match self {
            Self::Live(next) => Some(next),
            Self::Requested { from, .. } | Self::Parked { from } => from,
            Self::Leaving { rejoin } => rejoin.flatten(),
            Self::Skipping { own, .. } => Some(own),
            Self::Absent => None,
        }
    }

    /// The state after `event`, and the actions.
    pub fn on(self, event: SubscriptionEvent) -> (Self, Actions) {
        use SubscriptionEvent as Event;
        match (self, event) {
            (Self::Requested { from, then: Then::Leave }, Event::JoinAnew { from: wish }) => {
                (Self::Requested { from, then: Then::Again { from: wish } }, none())
            }
            (_, Event::JoinAnew { from }) => self.on(Event::Join { from }),
            (_, Event::Disconnected) => self.disconnected(),
            (Self::Absent, Event::Join { from }) | (Self::Parked { from }, Event::Connected) => {
                Self::request(from)
            }
            (_, Event::Connected) => (self, none()),
            // The first stream decides the position.
            (Self::Parked { .. }, Event::Join { .. }) => (self, none()),
            (Self::Parked { .. }, Event::Leave) => (Self::Absent, none()),
            (Self::Requested { from, then }, Event::Join { from: wish }) => {
                let then = match then {
                    Then::Leave if wish == from => Then::Stay,
                    Then::Leave => Then::Again { from: wish },
                    // The first stream decides the position; later streams share it.
                    wanted => wanted,
                };
                (Self::Requested { from, then }, none())
            }
            (Self::Leaving { rejoin: Some(_) }, Event::Join { .. }) => (self, none()),
            (Self::Leaving { rejoin: None }, Event::Join { from }) => {
                (Self::Leaving { rejoin: Some(from) }, none())
            }
            (Self::Requested { from, .. }, Event::Leave) => {
                (Self::Requested { from, then: Then::Leave }, none())
            }
            (Self::Live(_), Event::Leave) => {
                (Self::Leaving { rejoin: None }, one(Action::Unsubscribe))
            }
            (Self::Leaving { .. }, Event::Leave) => (Self::Leaving { rejoin: None }, none()),
            (Self::Requested { from, then }, Event::Accepted(next)) => match then {
                Then::Stay => Self::accepted(from, next),
                Then::Leave => (Self::Leaving { rejoin: None }, one(Action::Unsubscribe)),
                Then::Again { from } => {
                    (Self::Leaving { rejoin: Some(from) }, one(Action::Unsubscribe))
                }
            },
            // The application has seen part of this log already. The client resumes behind that
            // part.
            (Self::Requested { then: Then::Stay, .. }, Event::Returned(seen)) => {
                let actions = [Some(Action::Reset(seen)), Some(Action::Unsubscribe)];
                (Self::Leaving { rejoin: Some(Some(seen)) }, actions.into_iter().flatten())
            }
            (Self::Requested { from: Some(own), then: Then::Stay }, Event::Foreign(_)) => {
                (Self::Skipping { own, is_left: false }, one(Action::Unsubscribe))
            }
            (Self::Requested { .. }, Event::Foreign(next)) => self.on(Event::Accepted(next)),
            (Self::Skipping { own, is_left }, event) => Self::on_skipping(own, is_left, event),
            (Self::Requested { .. }, Event::Returned(seen)) => self.on(Event::Accepted(seen)),
            (Self::Requested { then, .. }, Event::Refused) => match then {
                Then::Stay => (Self::Absent, one(Action::End)),
                Then::Leave => (Self::Absent, none()),
                Then::Again { from } => Self::request(from),
            },
            (Self::Leaving { rejoin: Some(from) }, Event::Left) => Self::request(from),
            (Self::Leaving { .. }, Event::Left) => (Self::Absent, none()),
            (Self::Live(next), event) => next.on_live(event),
            // Lines that were sent before the server read `/unsubscribe`, and events that change
            // nothing.
            (Self::Leaving { .. }, _) => (self, none()),
            (_, Event::Leave | Event::Left | Event::Refused | Event::Renewed(_)) => (self, none()),
            (_, _) => (self, one(Action::Violation)),
        }
    }

    /// Parks a topic that the application wants. A topic that is being left is gone.
    fn disconnected(self) -> (Self, Actions) {
        let parked = match self {
            // Nothing follows the last number of an epoch, so there is no position to resume from.
            Self::Live(next) if !next.is_sendable() => return (Self::Absent, one(Action::End)),
            Self::Live(next) => Self::Parked { from: Some(next) },
            Self::Requested { from, then: Then::Stay }
            | Self::Requested { then: Then::Again { from }, .. }
            | Self::Leaving { rejoin: Some(from) }
            | Self::Parked { from } => Self::Parked { from },
            Self::Skipping { own, .. } => Self::Parked { from: Some(own) },
            Self::Absent
            | Self::Requested { then: Then::Leave, .. }
            | Self::Leaving { rejoin: None } => Self::Absent,
        };
        (parked, none())
    }

    fn on_skipping(own: Position, is_left: bool, event: SubscriptionEvent) -> (Self, Actions) {
        use SubscriptionEvent as Event;
        let same = Self::Skipping { own, is_left };
        match event {
            Event::Left if !is_left => {
                let subscribe = one(Action::Subscribe { from: None });
                (Self::Skipping { own, is_left: true }, subscribe)
            }
            Event::Leave if !is_left => (Self::Leaving { rejoin: None }, none()),
            Event::Leave => (Self::Requested { from: None, then: Then::Leave }, none()),
            Event::Join { .. } | Event::Left | Event::Renewed(_) => (same, none()),
            // Lines that were sent before the server read `/unsubscribe`.
            _ if !is_left => (same, none()),
            Event::Accepted(next) | Event::Foreign(next) | Event::Returned(next) => {
                Self::accepted(Some(own), next)
            }
            Event::Refused => (Self::Absent, one(Action::End)),
            _ => (same, one(Action::Violation)),
        }
    }

    fn request(from: Option<Position>) -> (Self, Actions) {
        (Self::Requested { from, then: Then::Stay }, one(Action::Subscribe { from }))
    }

    /// Handles the `ok` of `/subscribe`. Numbers between the requested and the given position are
    /// missed.
    fn accepted(from: Option<Position>, next: Position) -> (Self, Actions) {
        match from {
            Some(from) if from.epoch != next.epoch => (Self::Live(next), one(Action::Reset(next))),
            Some(from) if from.next < next.next => from.missed(next.next - 1, false),
            Some(from) => (Self::Live(from), none()),
            None => (Self::Live(next), none()),
        }
    }
}

impl Position {
    fn on_live(self, event: SubscriptionEvent) -> (SubscriptionState, Actions) {
        use SubscriptionEvent as Event;
        let live = SubscriptionState::Live(self);
        match event {
            Event::Notification(number) => self.notified(number),
            Event::Gap { epoch, first, last } if epoch == self.epoch && last >= self.next => {
                self.gap(first, last)
            }
            Event::Reset(next) if next.epoch != self.epoch => {
                (SubscriptionState::Live(next), one(Action::Reset(next)))
            }
            Event::Foreign(next) if next.epoch != self.epoch => {
                let skipping = SubscriptionState::Skipping { own: self, is_left: false };
                (skipping, one(Action::Unsubscribe))
            }
            // Nothing follows the last number of an epoch, so there is no position to resume from.
            Event::Expired(_) | Event::Renewed(None) if !self.is_sendable() => {
                (SubscriptionState::Absent, one(Action::End))
            }
            Event::Expired(_) | Event::Renewed(None) => SubscriptionState::request(Some(self)),
            Event::Ended => (SubscriptionState::Absent, one(Action::End)),
            Event::Renewed(Some(next)) if next.epoch == self.epoch && next.next > self.next => {
                self.missed(next.next - 1, false)
            }
            Event::Renewed(Some(_)) | Event::Join { .. } => (live, none()),
            _ => (live, one(Action::Violation)),
        }
    }

    fn notified(self, number: u64) -> (SubscriptionState, Actions) {
        if number < self.next {
            return (SubscriptionState::Live(self), one(Action::Violation));
        }
        let deliver = Action::Deliver(Self { next: number, ..self });
        let missed = (number > self.next).then(|| self.missed_action(number - 1, false));
        let actions = match missed {
            None => [Some(deliver), None],
            Some(missed) => [Some(missed), Some(deliver)],
        };
        let next = number.saturating_add(1);
        (SubscriptionState::Live(Self { next, ..self }), actions.into_iter().flatten())
    }

    /// Handles a `/gap`: reports the named numbers, and before them those that the server left out.
    fn gap(self, first: u64, last: u64) -> (SubscriptionState, Actions) {
        if first <= self.next {
            return self.missed(last, true);
        }
        let lost = self.missed_action(first - 1, false);
        let (live, _) = self.missed(last, true);
        let named = Self { next: first, ..self }.missed_action(last, true);
        (live, [Some(lost), Some(named)].into_iter().flatten())
    }

    fn missed(self, last: u64, named: bool) -> (SubscriptionState, Actions) {
        let live = SubscriptionState::Live(Self { next: last.saturating_add(1), ..self });
        (live, one(self.missed_action(last, named)))
    }

    fn missed_action(self, last: u64, named: bool) -> Action {
        Action::Missed { epoch: self.epoch, first: self.next, last, named }
    }
}

#[cfg(test)]
mod tests {
    use super::{SubscriptionEvent as Event, SubscriptionState as State, *};

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    fn on(state: State, event: Event) -> (State, Vec<Action>) {
        let (state, actions) = state.on(event);
        (state, actions.collect())
    }

    fn missed(first: u64, last: u64, named: bool) -> Action {
        Action::Missed { epoch: at("e:1").epoch, first, last, named }
    }

    #[test]
    fn a_subscription_is_accepted_delivers_and_unsubscribes() {
        let (state, actions) = on(State::Absent, Event::Join { from: None });
        assert_eq!(actions, [Action::Subscribe { from: None }]);
        let (state, actions) = on(state, Event::Accepted(at("e:18")));
        assert_eq!((state, actions), (State::Live(at("e:18")), vec![]));
        let (state, actions) = on(state, Event::Notification(18));
        assert_eq!(actions, [Action::Deliver(at("e:18"))]);
        let (state, actions) = on(state, Event::Leave);
        assert_eq!(actions, [Action::Unsubscribe]);
        // A notification that was sent before the server read `/unsubscribe` is dropped without a
        // violation.
        let (state, actions) = on(state, Event::Notification(19));
        assert_eq!(actions, []);
        assert_eq!(on(state, Event::Left), (State::Absent, vec![]));
    }

    #[test]
    fn a_missing_number_is_reported_as_a_gap() {
        let live = State::Live(at("e:5"));
        let (state, actions) = on(live, Event::Notification(8));
        assert_eq!(actions, [missed(5, 7, false), Action::Deliver(at("e:8"))]);
        assert_eq!(state, State::Live(at("e:9")));
        let (_, actions) = on(live, Event::Notification(6));
        assert_eq!(actions, [missed(5, 5, false), Action::Deliver(at("e:6"))]);
        let epoch = at("e:1").epoch;
        let (state, actions) = on(live, Event::Gap { epoch, first: 5, last: 6 });
        assert_eq!((state, actions), (State::Live(at("e:7")), vec![missed(5, 6, true)]));
        let (state, actions) = on(live, Event::Gap { epoch, first: 7, last: 8 });
        assert_eq!(state, State::Live(at("e:9")));
        assert_eq!(actions, [missed(5, 6, false), missed(7, 8, true)]);
        let (state, actions) = on(live, Event::Renewed(Some(at("e:6"))));
        assert_eq!((state, actions), (State::Live(at("e:6")), vec![missed(5, 5, false)]));
        assert_eq!(on(live, Event::Renewed(Some(at("e:5")))), (live, vec![]));
    }

    #[test]
    fn numbers_below_the_expected_next_are_violations() {
        let live = State::Live(at("e:5"));
        assert_eq!(on(live, Event::Notification(4)), (live, vec![Action::Violation]));
        let epoch = at("e:1").epoch;
        let old = Event::Gap { epoch, first: 1, last: 4 };
        assert_eq!(on(live, old), (live, vec![Action::Violation]));
    }

    #[test]
    fn an_expired_subscription_resumes_and_any_other_end_is_final() {
        let live = State::Live(at("e:5"));
        let resume = Action::Subscribe { from: Some(at("e:5")) };
        let (state, actions) = on(live, Event::Expired(at("e:5")));
        assert_eq!(actions, [resume]);
        assert_eq!(on(live, Event::Renewed(None)).1, [resume]);
        assert_eq!(on(state, Event::Accepted(at("e:5"))), (live, vec![]));
        let (state, actions) = on(state, Event::Accepted(at("e:7")));
        assert_eq!((state, actions), (State::Live(at("e:7")), vec![missed(5, 6, false)]));
        assert_eq!(on(live, Event::Ended), (State::Absent, vec![Action::End]));
    }

    #[test]
    fn a_different_epoch_is_reported_as_a_reset() {
        let resumed = State::Requested { from: Some(at("e:5")), then: Then::Stay };
        let (state, actions) = on(resumed, Event::Accepted(at("f:1")));
        assert_eq!((state, actions), (State::Live(at("f:1")), vec![Action::Reset(at("f:1"))]));
        let (state, actions) = on(State::Live(at("e:5")), Event::Reset(at("f:1")));
        assert_eq!((state, actions), (State::Live(at("f:1")), vec![Action::Reset(at("f:1"))]));
    }

    #[test]
    fn a_known_log_resumes_at_the_position_seen_before() {
        let requested = State::Requested { from: Some(at("f:3")), then: Then::Stay };
        let (state, actions) = on(requested, Event::Returned(at("e:5")));
        assert_eq!(actions, [Action::Reset(at("e:5")), Action::Unsubscribe]);
        assert_eq!(state.next(), Some(at("e:5")));
        // The replay from the beginning of the log holds only what the application has seen.
        assert_eq!(on(state, Event::Notification(1)), (state, vec![]));
        let (state, actions) = on(state, Event::Left);
        assert_eq!(actions, [Action::Subscribe { from: Some(at("e:5")) }]);
        assert_eq!(on(state, Event::Accepted(at("e:5"))), (State::Live(at("e:5")), vec![]));
        let unwanted = State::Requested { from: Some(at("f:3")), then: Then::Leave };
        assert_eq!(on(unwanted, Event::Returned(at("e:5"))).1, [Action::Unsubscribe]);
    }

    #[test]
    fn joins_and_leaves_during_a_request_take_effect_after_the_reply() {
        let (state, _) = on(State::Absent, Event::Join { from: None });
        let (state, actions) = on(state, Event::Leave);
        assert_eq!(actions, []);
        let (back, _) = on(state, Event::Join { from: None });
        assert_eq!(on(back, Event::Accepted(at("e:1"))).0, State::Live(at("e:1")));
        let (state, actions) = on(state, Event::Accepted(at("e:1")));
        assert_eq!(actions, [Action::Unsubscribe]);
        let (state, actions) = on(state, Event::Join { from: None });
        assert_eq!(actions, []);
        assert_eq!(on(state, Event::Left).1, [Action::Subscribe { from: None }]);
    }

    #[test]
    fn joining_again_on_other_terms_makes_a_new_request() {
        let (state, _) = on(State::Absent, Event::JoinAnew { from: None });
        assert_eq!(state, State::Requested { from: None, then: Then::Stay });
        let (state, _) = on(state, Event::Leave);
        let (state, _) = on(state, Event::JoinAnew { from: None });
        let (state, actions) = on(state, Event::Accepted(at("e:1")));
        assert_eq!(actions, [Action::Unsubscribe]);
        assert_eq!(on(state, Event::Left).1, [Action::Subscribe { from: None }]);
    }

    #[test]
    fn a_lost_connection_parks_wanted_topics() {
        let from = Some(at("e:5"));
        let parked = State::Parked { from };
        for wanted in [
            State::Live(at("e:5")),
            State::Requested { from, then: Then::Stay },
            State::Requested { from: None, then: Then::Again { from } },
            State::Leaving { rejoin: Some(from) },
            parked,
        ] {
            assert_eq!(on(wanted, Event::Disconnected), (parked, vec![]), "{wanted:?}");
        }
        for unwanted in [
            State::Absent,
            State::Requested { from, then: Then::Leave },
            State::Leaving { rejoin: None },
        ] {
            assert_eq!(on(unwanted, Event::Disconnected), (State::Absent, vec![]), "{unwanted:?}");
        }
        assert_eq!(on(parked, Event::Join { from: None }), (parked, vec![]));
        assert_eq!(on(parked, Event::Leave), (State::Absent, vec![]));
        let (state, actions) = on(parked, Event::Connected);
        assert_eq!(actions, [Action::Subscribe { from }]);
        assert_eq!(on(state, Event::Connected), (state, vec![]));
        assert_eq!(on(state, Event::Accepted(at("f:1"))).1, [Action::Reset(at("f:1"))]);
    }

    #[test]
    fn a_notification_before_the_reply_is_a_violation() {
        let (state, _) = on(State::Absent, Event::Join { from: None });
        assert_eq!(on(state, Event::Notification(1)), (state, vec![Action::Violation]));
        assert_eq!(on(State::Absent, Event::Notification(1)).1, [Action::Violation]);
    }
}
