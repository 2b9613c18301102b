//! A reader of a topic with a window.

use std::{fmt, num::NonZeroU64};

use crate::{
    protocol::{Epoch, Handled, Position},
    sync::{Arc, Mutex, Weak},
};

/// A reader of a topic with a window: which numbers were handed over to it, and which of them are
/// handled.
///
/// Each notification may hold a handle to it, so this module is below the topics. It therefore gets
/// a function that reports to its topic.
pub(crate) struct Reader {
    /// Whether the application acknowledges by hand. Otherwise everything that was handed over is
    /// handled.
    by_hand: bool,
    handled: Mutex<Handled>,
    /// Reports to the topic that all below a position is handled.
    report: Box<dyn Fn(Position) + Send + Sync>,
}

impl Reader {
    pub(crate) fn new(
        window: NonZeroU64,
        by_hand: bool,
        report: impl Fn(Position) + Send + Sync + 'static,
    ) -> Self {
        let handled = Mutex::new(Handled::new(window));
        Self { by_hand, handled, report: Box::new(report) }
    }

    /// Takes in that the numbers from `first` to `last` of a log were handed over.
    pub(crate) fn hand_over(&self, epoch: Epoch, first: u64, last: u64) {
        self.change(|handled| {
            handled.hand_over(epoch, first, last);
            if !self.by_hand {
                handled.ack(epoch, first, last);
            }
        });
    }

    /// Takes in that a gap was handed over. A gap counts as handled.
    pub(crate) fn hand_over_gap(&self, epoch: Epoch, first: u64, last: u64) {
        self.change(|handled| handled.hand_over_gap(epoch, first, last));
    }

    /// Takes in that a reset was handed over: the topic goes on at this position of another log.
    pub(crate) fn reset(&self, position: Position) {
        self.change(|handled| handled.reset(position));
    }

    /// Takes in that the application has handled the numbers from `first` to `last`.
    pub(crate) fn ack(&self, epoch: Epoch, first: u64, last: u64) {
        if self.by_hand {
            self.change(|handled| handled.ack(epoch, first, last));
        }
    }

    /// Reports the handled position when it has risen enough. The report locks the topic, so it is
    /// made without this lock.
    fn change(&self, change: impl FnOnce(&mut Handled)) {
        let mut handled = self.handled.lock();
        change(&mut handled);
        let due = handled.take_due();
        drop(handled);
        due.into_iter().for_each(&self.report);
    }

    /// The handle with which a notification is acknowledged by hand. Without effect in other cases.
    pub(crate) fn handle(self: &Arc<Self>) -> AckHandle {
        AckHandle(self.by_hand.then(|| Arc::downgrade(self)))
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
