//! Time as the core sees it: milliseconds since a start that the driver chose.

use std::time::Duration;

/// A moment, in milliseconds since the driver's own start. The core reads no clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// `millis` milliseconds after the start.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds after the start.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The duration from this moment until `later`; zero if `later` is earlier.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }

    /// The moment `duration` later; saturates at the greatest `Time`.
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}
