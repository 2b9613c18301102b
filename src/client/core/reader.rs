//! One reader of a topic with a window: what it was handed, and what of that is handled.

use std::{fmt, num::NonZeroU64};

use crate::{
    protocol::{Epoch, Handled, Position},
    sync::{Arc, Mutex, Weak},
};

/// One reader of a topic with a window: what it was handed, and what of that is handled.
///
/// It is below all that notifications go through, since each may hold a handle to it. So it is given
/// what tells the topic.
pub(crate) struct Reader {
    /// The application says what is handled; else what was handed over is.
    by_hand: bool,
    handled: Mutex<Handled>,
    /// Tells the topic that all below a position is handled.
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

    /// The numbers from `first` to `last` of a log were handed over.
    pub(crate) fn hand_over(&self, epoch: Epoch, first: u64, last: u64) {
        self.change(|handled| {
            handled.hand_over(epoch, first, last);
            if !self.by_hand {
                handled.ack(epoch, first, last);
            }
        });
    }

    /// A gap was handed over, which is handled.
    pub(crate) fn hand_over_gap(&self, epoch: Epoch, first: u64, last: u64) {
        self.change(|handled| handled.hand_over_gap(epoch, first, last));
    }

    /// A reset was handed over: the topic goes on at this position of another log.
    pub(crate) fn reset(&self, position: Position) {
        self.change(|handled| handled.reset(position));
    }

    /// The application says that it has handled the numbers from `first` to `last`.
    pub(crate) fn ack(&self, epoch: Epoch, first: u64, last: u64) {
        if self.by_hand {
            self.change(|handled| handled.ack(epoch, first, last));
        }
    }

    /// Reports what is handled when there is enough to say. The topic is behind another lock.
    fn change(&self, change: impl FnOnce(&mut Handled)) {
        let mut handled = self.handled.lock();
        change(&mut handled);
        let due = handled.take_due();
        drop(handled);
        due.into_iter().for_each(&self.report);
    }

    /// What a notification is acknowledged with, if that is by hand.
    pub(crate) fn handle(self: &Arc<Self>) -> AckHandle {
        AckHandle(self.by_hand.then(|| Arc::downgrade(self)))
    }
}

/// What a notification needs to be acknowledged by hand; it does not keep its subscription alive.
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
