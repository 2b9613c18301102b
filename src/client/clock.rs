//! The client's time: what its core is told.

use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::Time;

/// Counts from when the client was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(self) -> Time {
        Time::default().after(self.start.elapsed())
    }

    pub(crate) fn instant(self, time: Time) -> Option<Instant> {
        self.start.checked_add(Duration::from_millis(time.as_millis()))
    }

    /// The time of `instant`, rounded up: never earlier.
    pub(crate) fn time(self, instant: Instant) -> Time {
        let millis = instant.saturating_duration_since(self.start).as_nanos().div_ceil(1_000_000);
        Time::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}
