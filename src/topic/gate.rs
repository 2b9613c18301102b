//! Lets publishes in, and waits for those in progress when the server stops.

use std::pin::pin;

use tokio::sync::Notify;

use crate::sync::{AtomicUsize, Ordering};

const SHUT: usize = 1;
const ONE: usize = 2;

/// Counts the publishes in progress. Once the gate is shut, it admits no more.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// [`SHUT`], and [`ONE`] for each publish in progress.
    state: AtomicUsize,
    idle: Notify,
}

/// A publish in progress.
pub(super) struct Passage<'a>(&'a Gate);

impl Gate {
    /// Begins a publish, unless the gate is shut.
    pub(super) fn enter(&self) -> Option<Passage<'_>> {
        let pass = Passage(self);
        let before = self.state.fetch_add(ONE, Ordering::AcqRel);
        (before & SHUT == 0).then_some(pass)
    }

    /// Admits no more publishes.
    pub(super) fn shut(&self) {
        self.state.fetch_or(SHUT, Ordering::AcqRel);
    }

    /// Waits until the publishes that began before the gate was shut have ended.
    pub(super) async fn idle(&self) {
        let mut idle = pin!(self.idle.notified());
        idle.as_mut().enable();
        while self.state.load(Ordering::Acquire) >= ONE {
            idle.as_mut().await;
            idle.set(self.idle.notified());
            idle.as_mut().enable();
        }
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        if self.0.state.fetch_sub(ONE, Ordering::AcqRel) == ONE | SHUT {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shut_gate_is_idle_once_the_last_publish_has_ended() {
        let gate = Gate::default();
        let (one, two) = (gate.enter().unwrap(), gate.enter().unwrap());
        gate.shut();
        assert!(gate.enter().is_none());
        let mut idle = pin!(gate.idle());
        assert!(futures::poll!(&mut idle).is_pending());
        drop(one);
        assert!(futures::poll!(&mut idle).is_pending());
        drop(two);
        assert!(futures::poll!(idle).is_ready() && futures::poll!(pin!(gate.idle())).is_ready());
    }
}
