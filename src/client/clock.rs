//! The clock of a client, which gives the core its time.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    protocol::Time,
    sync::{Arc, AtomicU64, Ordering},
};

/// A time that is never reached.
const NEVER: Time = Time::from_millis(u64::MAX);

/// The time since the client was made.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    /// The runtime's time. It counts from this instant.
    Runtime(Instant),
    /// The latest time that the driver has passed, in milliseconds.
    ByHand(Arc<AtomicU64>),
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self::Runtime(Instant::now())
    }

    pub(crate) fn now(&self) -> Time {
        self.now_and_rest().0
    }

    /// The time in whole milliseconds, and whether a part of the next millisecond has passed.
    fn now_and_rest(&self) -> (Time, bool) {
        let start = match self {
            Self::Runtime(start) => start,
            Self::ByHand(millis) => {
                return (Time::from_millis(millis.load(Ordering::Relaxed)), false);
            }
        };
        let elapsed = start.elapsed();
        let (millis, nanos) = (elapsed.subsec_millis(), elapsed.subsec_nanos());
        let time = Time::from_millis(elapsed.as_secs() * 1_000 + u64::from(millis));
        (time, !nanos.is_multiple_of(1_000_000))
    }

    /// The time, and when `limit` from now on has passed. The second is rounded up, so that a limit
    /// is never shortened.
    pub(crate) fn now_and_expiry(&self, limit: Option<Duration>) -> (Time, Option<Time>) {
        let (now, is_between) = self.now_and_rest();
        let expiry = |limit: Duration| {
            let has_rest = is_between || !limit.subsec_nanos().is_multiple_of(1_000_000);
            now.after(limit).after(Duration::from_millis(has_rest.into()))
        };
        (now, limit.map(expiry).filter(|expiry| *expiry < NEVER))
    }

    /// The time that the driver passed last, if the client is driven by hand.
    pub(crate) fn by_hand(&self) -> Option<&Arc<AtomicU64>> {
        match self {
            Self::Runtime(_) => None,
            Self::ByHand(time) => Some(time),
        }
    }

    /// The instant of `time` in the runtime's time; `None` if it is never reached, or the client
    /// has no runtime.
    pub(crate) fn instant(&self, time: Time) -> Option<Instant> {
        match self {
            Self::Runtime(start) => start.checked_add(Duration::from_millis(time.as_millis())),
            Self::ByHand(_) => None,
        }
    }
}

/// Sets the time of a client that is driven by hand to `now`, and returns it. Several connections
/// share that time, and it never goes back: if a later time was passed before, that stays.
pub(crate) fn pass_time(time: &AtomicU64, now: Time) -> Time {
    let before = time.fetch_max(now.as_millis(), Ordering::Relaxed);
    now.max(Time::from_millis(before))
}
