//! The phase of a run, which the callers check before each call.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// The phases of a run, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Calls are made, but not counted.
    WarmUp,
    Measured,
    /// No further call is made.
    Over,
}

/// The phase of a run. It is an atomic beside the channel, so that the callers read a value that is
/// almost never written.
#[derive(Debug)]
pub(crate) struct Control {
    phase: AtomicU8,
    measured_from: OnceLock<Instant>,
    over: watch::Sender<bool>,
}

impl Control {
    pub(crate) fn new() -> Self {
        Self {
            phase: AtomicU8::new(Phase::WarmUp as u8),
            measured_from: OnceLock::new(),
            over: watch::Sender::new(false),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::WarmUp,
            1 => Phase::Measured,
            _ => Phase::Over,
        }
    }

    /// Begins to measure at `now`, unless the run has ended.
    pub(crate) fn measure(&self, now: Instant) {
        // Only the one task that drives the run calls this.
        let _ = self.measured_from.set(now);
        self.phase.fetch_max(Phase::Measured as u8, Ordering::Relaxed);
    }

    /// How long the run had been measured at `time`; zero before that.
    pub(crate) fn measured_for(&self, time: Instant) -> Duration {
        let from = self.measured_from.get();
        from.map_or(Duration::ZERO, |from| time.saturating_duration_since(*from))
    }

    pub(crate) fn end(&self) {
        self.phase.store(Phase::Over as u8, Ordering::Relaxed);
        self.over.send_replace(true);
    }

    /// Waits until it is over.
    pub(crate) async fn ended(&self) {
        // The sender is `self`, so it cannot be gone.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }
}
