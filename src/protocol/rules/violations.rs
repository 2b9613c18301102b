//! The violations of one peer, counted over time.

use std::time::Duration;

use crate::protocol::Time;

/// Limits the violations of one peer with a token bucket. Each violation takes a token, and one
/// token returns in each period (docs/protocol/limits.md, section 20).
///
/// ```
/// use std::time::Duration;
/// use bellwire::{protocol::Time, unstable::rules::Violations};
///
/// let (limit, period) = (2, Duration::from_secs(10));
/// let at = Time::from_millis;
/// let (violations, _) = Violations::default().one_more(at(0), limit, period);
/// let (violations, is_over) = violations.one_more(at(0), limit, period);
/// assert!(!is_over);
/// assert!(violations.one_more(at(9_999), limit, period).1);
/// assert!(!violations.one_more(at(10_000), limit, period).1);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Violations {
    /// When all tokens will have returned. This is the whole state of the bucket.
    forgiven: Time,
}

impl Violations {
    /// Counts one violation at `now`. Returns whether it is one more than `limit` allows.
    #[must_use]
    pub fn one_more(self, now: Time, limit: u32, period: Duration) -> (Self, bool) {
        let forgiven = self.forgiven.max(now).after(period);
        let is_over = forgiven > now.after(period.saturating_mul(limit));
        (Self { forgiven }, is_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(10);

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    /// How many violations at these `times` are tolerated before one exceeds the limit.
    fn borne(limit: u32, times: impl IntoIterator<Item = u64>) -> usize {
        let mut violations = Violations::default();
        let mut is_borne = |millis| {
            let (next, is_over) = violations.one_more(at(millis), limit, PERIOD);
            violations = next;
            !is_over
        };
        times.into_iter().take_while(|&millis| is_borne(millis)).count()
    }

    #[test]
    fn the_limit_allows_a_burst_and_one_more_in_each_period() {
        assert_eq!(borne(32, [7; 40]), 32);
        assert_eq!(borne(0, [7; 40]), 0);
        assert_eq!(borne(3, [0, 0, 0, 9_999]), 3);
        assert_eq!(borne(3, [0, 0, 0, 10_000, 10_000]), 4);
        assert_eq!(borne(3, [0, 0, 0, 10_000, 19_999]), 4);
        assert_eq!(borne(3, [0, 0, 0, 30_000, 30_000, 30_000, 30_000]), 6);
        // No more tokens return than were taken.
        assert_eq!(borne(3, [0, 1_000_000, 1_000_000, 1_000_000, 1_000_000]), 4);
        assert_eq!(borne(1, (0..1_000).map(|n| n * 10_000)), 1_000);
    }

    #[test]
    fn violation_limit_holds_at_the_greatest_time() {
        let (violations, is_over) = Violations::default().one_more(at(u64::MAX), 1, PERIOD);
        assert!(!is_over);
        assert!(!violations.one_more(at(u64::MAX), 1, Duration::MAX).1);
        assert!(!Violations::default().one_more(at(5), u32::MAX, Duration::MAX).1);
    }
}
