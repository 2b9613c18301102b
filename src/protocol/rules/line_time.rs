//! How long a line may take from its first byte to its last.

use std::time::Duration;

use crate::protocol::Time;

/// The time limit of a line, from its first byte to its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LineTime {
    /// The time that every line has.
    pub base: Duration,
    /// How many received bytes add one second to the time; at least 1.
    pub bytes_per_second: usize,
}

impl LineTime {
    /// When a line that began at `began`, and of which `received` bytes have come, has to be
    /// complete.
    pub fn deadline(self, began: Time, received: usize) -> Time {
        let millis =
            (received as u64).saturating_mul(1_000) / (self.bytes_per_second.max(1) as u64);
        began.after(self.base.saturating_add(Duration::from_millis(millis)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(10);

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn line_time_grows_with_the_bytes_received() {
        let time = LineTime { base: PERIOD, bytes_per_second: 16 * 1024 };
        assert_eq!(time.deadline(at(5), 0), at(10_005));
        assert_eq!(time.deadline(at(5), 8 * 1024), at(10_505));
        assert_eq!(time.deadline(at(5), 64 * 1024), at(14_005));
        let endless = LineTime { base: Duration::MAX, bytes_per_second: 0 };
        assert_eq!(endless.deadline(at(5), usize::MAX), at(u64::MAX));
    }
}
