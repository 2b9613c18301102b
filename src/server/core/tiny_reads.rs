//! Protection against floods of tiny writes: each costs a wake-up, and many of them make one line.
//!
//! After too many tiny reads the connection is read only once per tick of the timers, so that the
//! flood takes little processor time. Peers that write whole lines, or large pieces of one, are not
//! delayed.

use std::time::Duration;

use crate::protocol::Time;

/// A read of fewer bytes, without the end of a line, is tiny.
const TINY: usize = 256;
/// Tiny reads that are allowed before there is a pause.
const BORNE: u8 = 32;
/// How many tiny reads any other read makes up for. So a peer may send every line in five pieces.
const MADE_GOOD: u8 = 4;
/// The length of a pause: a tick of the timers.
const PAUSE: Duration = Duration::from_millis(10);

/// Counts tiny reads, and keeps the end of the pause. Every connection has one, so it is small.
#[derive(Debug, Default)]
pub(super) struct TinyReads {
    count: u8,
    /// Whether there is a pause whose end has not been noticed.
    is_pausing: bool,
    /// The end of the pause: the lower half of a time, which is enough because a pause is at most
    /// [`PAUSE`].
    until: u32,
}

impl TinyReads {
    /// Counts a read of these bytes.
    pub(super) fn count(&mut self, bytes: &[u8], now: Time) {
        let is_tiny = bytes.len() < TINY && memchr::memchr(b'\n', bytes).is_none();
        if !is_tiny {
            self.count = self.count.saturating_sub(MADE_GOOD);
        } else if self.count < BORNE {
            self.count += 1;
        } else {
            (self.is_pausing, self.until) = (true, lower_half(now.after(PAUSE)));
        }
    }

    /// Whether there is a pause whose end has not been noticed.
    pub(super) fn is_pausing(&self) -> bool {
        self.is_pausing
    }

    /// Whether `now` is in a pause.
    pub(super) fn is_pausing_at(&self, now: Time) -> bool {
        self.is_pausing && !self.left(now).is_zero()
    }

    /// The end of the pause; `None` if there is none, or if it is over at `now`.
    pub(super) fn pause(&mut self, now: Time) -> Option<Time> {
        self.is_pausing = self.is_pausing_at(now);
        self.is_pausing.then(|| now.after(self.left(now)))
    }

    /// The time that is left of a pause that began before `now`.
    fn left(&self, now: Time) -> Duration {
        let left = Duration::from_millis(self.until.wrapping_sub(lower_half(now)).into());
        if left <= PAUSE { left } else { Duration::ZERO }
    }
}

fn lower_half(time: Time) -> u32 {
    (time.as_millis() & u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pause begins after one tiny read too many, and lasts 10 ms, also if the lower half of the
    /// time wraps.
    #[test]
    fn tiny_reads_pause_lasts_one_tick() {
        for start in [0, 1_000, u64::from(u32::MAX) - 4, 1 << 40] {
            let at = |millis| Time::from_millis(start + millis);
            let mut reads = TinyReads::default();
            for _ in 0..BORNE {
                reads.count(b"x", at(0));
                assert_eq!((reads.is_pausing(), reads.pause(at(0))), (false, None));
            }
            reads.count(b"x", at(0));
            for millis in 0..10 {
                assert!(reads.is_pausing_at(at(millis)));
                assert_eq!(reads.pause(at(millis)), Some(at(10)));
            }
            assert!(!reads.is_pausing_at(at(10)) && reads.is_pausing());
            assert_eq!((reads.pause(at(10)), reads.is_pausing()), (None, false));
            reads.count(b"x", at(20));
            assert!(!reads.is_pausing_at(at(1_000_000)), "nobody looked at its end");
        }
    }
}
