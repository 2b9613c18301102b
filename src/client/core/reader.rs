//! A reader of a topic with a window.

use std::{fmt, num::NonZeroU64, time::Duration};

use crate::{
    client::core::overdue::Overdue,
    protocol::{Epoch, Handled, Position, Time},
    sync::{Arc, Mutex, Weak},
};

/// A reader of a topic with a window: which numbers were handed over to it, and which of them are
/// handled.
///
/// Each notification may hold a handle to it, so this module is below the topics. It therefore gets
/// a function that reports to its topic. The topic may hold a weak handle to it, and locks it while
/// the core is locked. So it never reports while it is locked.
pub(crate) struct Reader {
    manner: Manner,
    state: Mutex<State>,
    /// Reports to the topic.
    report: Box<dyn Fn(Report) + Send + Sync>,
}

/// How a reader acknowledges.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// Whether the application acknowledges by hand. Otherwise everything that was handed over is
    /// handled.
    pub(crate) by_hand: bool,
    /// Whether it gets again what it has not acknowledged.
    pub(crate) redelivers: bool,
    /// How long an item may stay unacknowledged before that is reported.
    pub(crate) within: Option<Duration>,
}

/// What a reader reports to its topic.
pub(crate) enum Report {
    /// All below this position is handled.
    Handled(Position),
    /// From this time on its lowest unacknowledged item is overdue.
    Watch(Time),
}

struct State {
    handled: Handled,
    /// Set if unacknowledged items are reported.
    overdue: Option<Box<Overdue>>,
}

impl Reader {
    pub(crate) fn new(
        window: NonZeroU64,
        manner: Manner,
        report: impl Fn(Report) + Send + Sync + 'static,
    ) -> Self {
        let within = manner.within.filter(|_| manner.by_hand);
        let overdue = within.map(|limit| Box::new(Overdue::new(limit)));
        let state = State { handled: Handled::new(window), overdue };
        Self { manner, state: Mutex::new(state), report: Box::new(report) }
    }

    /// Whether its topic has to know it: it redelivers, or reports unacknowledged items.
    pub(crate) fn is_known(&self) -> bool {
        let Manner { by_hand, redelivers, within } = self.manner;
        by_hand && (redelivers || within.is_some())
    }

    pub(crate) fn is_by_hand(&self) -> bool {
        self.manner.by_hand
    }

    pub(crate) fn redelivers(&self) -> bool {
        self.manner.redelivers
    }

    /// Takes in where the reader begins.
    pub(crate) fn begin(&self, position: Position) {
        if self.manner.by_hand {
            self.state.lock().handled.reset(position);
        }
    }

    /// Takes in that the numbers from `first` to `last` of a log were handed over. The time is only
    /// read if it is needed.
    pub(crate) fn hand_over(
        &self,
        epoch: Epoch,
        first: u64,
        last: u64,
        now: impl FnOnce() -> Time,
    ) {
        self.change(|state| {
            state.handled.hand_over(epoch, first, last);
            if !self.manner.by_hand {
                state.handled.ack(epoch, first, last);
            }
            if let Some(overdue) = &mut state.overdue {
                overdue.handed_over(epoch, last, now());
            }
        });
    }

    /// Takes in that a gap was handed over. A gap counts as handled.
    pub(crate) fn hand_over_gap(&self, epoch: Epoch, first: u64, last: u64) {
        self.change(|state| state.handled.hand_over_gap(epoch, first, last));
    }

    /// Takes in that a reset was handed over: the topic goes on at this position of another log.
    pub(crate) fn reset(&self, position: Position) {
        self.change(|state| state.handled.reset(position));
    }

    /// Takes in that the application has handled the numbers from `first` to `last`.
    pub(crate) fn ack(&self, epoch: Epoch, first: u64, last: u64) {
        if self.manner.by_hand {
            self.change(|state| state.handled.ack(epoch, first, last));
        }
    }

    /// The position below which everything is handled; `None` before the reader has begun.
    pub(crate) fn floor(&self) -> Option<Position> {
        self.state.lock().handled.floor()
    }

    /// Takes in that the wire subscription was resumed at `next`. Returns the position below which
    /// everything is handled.
    pub(crate) fn resume(&self, next: u64) -> Option<Position> {
        let mut state = self.state.lock();
        state.handled.resume(next);
        state.handled.floor()
    }

    /// The first run of numbers from `first` to `last` that are not handled, and whether its first
    /// number was handed over before.
    pub(crate) fn open(&self, epoch: Epoch, first: u64, last: u64) -> Option<(u64, u64, bool)> {
        let handled = &self.state.lock().handled;
        let (first, last) = handled.open(epoch, first, last)?;
        Some((first, last, handled.was_handed_over(epoch, first)))
    }

    /// Takes the lowest unacknowledged item if it is overdue, and the time at which to look again.
    pub(crate) fn look(&self, now: Time) -> (Option<Position>, Option<Time>) {
        let State { handled, overdue } = &mut *self.state.lock();
        let Some(overdue) = overdue else { return (None, None) };
        let lowest = handled.lowest();
        let late = overdue.take(lowest, now);
        let again = overdue.due(lowest);
        overdue.is_watched = again.is_some();
        (late, again)
    }

    /// Reports the handled position when it has risen enough, and an item that is to be watched.
    /// The report locks the topic, so it is made without this lock.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let due = state.handled.take_due();
        let watch = state.take_watch();
        drop(state);
        due.into_iter().for_each(|position| (self.report)(Report::Handled(position)));
        watch.into_iter().for_each(|time| (self.report)(Report::Watch(time)));
    }

    /// The handle with which a notification is acknowledged by hand. Without effect in other cases.
    pub(crate) fn handle(self: &Arc<Self>) -> AckHandle {
        AckHandle(self.manner.by_hand.then(|| Arc::downgrade(self)))
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("manner", &self.manner).finish_non_exhaustive()
    }
}

impl State {
    /// When the lowest unacknowledged item is overdue, if the topic has no timer for the reader yet.
    fn take_watch(&mut self) -> Option<Time> {
        let overdue = self.overdue.as_mut().filter(|overdue| !overdue.is_watched)?;
        let due = overdue.due(self.handled.lowest());
        overdue.is_watched = due.is_some();
        due
    }
}

/// The handle with which a notification is acknowledged by hand. It does not keep the subscription
/// alive.
#[derive(Clone, Default)]
pub(crate) struct AckHandle(Option<Weak<Reader>>);

impl AckHandle {
    pub(crate) fn ack(&self, epoch: Epoch, number: u64) {
        if let Some(reader) = self.0.as_ref().and_then(Weak::upgrade) {
            reader.ack(epoch, number, number);
        }
    }
}

/// Notifications are compared without their handles.
impl PartialEq for AckHandle {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for AckHandle {}

impl fmt::Debug for AckHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AckHandle")
    }
}
