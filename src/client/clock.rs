//! The client's time: what its core is told.

use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::Time;

/// A time that does not come.
const NEVER: Time = Time::from_millis(u64::MAX);

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
        self.now_and_rest().0
    }

    /// The time, in whole milliseconds, and whether a part of the next one has passed.
    fn now_and_rest(self) -> (Time, bool) {
        let elapsed = self.start.elapsed();
        let (millis, nanos) = (elapsed.subsec_millis(), elapsed.subsec_nanos());
        let time = Time::from_millis(elapsed.as_secs() * 1_000 + u64::from(millis));
        (time, nanos % 1_000_000 > 0)
    }

    /// The time, and when `limit` from now on is over: never too early.
    pub(crate) fn now_and_expiry(self, limit: Option<Duration>) -> (Time, Option<Time>) {
        let (now, is_between) = self.now_and_rest();
        let expiry = |limit: Duration| {
            let has_rest = is_between || limit.subsec_nanos() % 1_000_000 > 0;
            now.after(limit).after(Duration::from_millis(has_rest.into()))
        };
        (now, limit.map(expiry).filter(|expiry| *expiry < NEVER))
    }

    pub(crate) fn instant(self, time: Time) -> Option<Instant> {
        self.start.checked_add(Duration::from_millis(time.as_millis()))
    }
}
