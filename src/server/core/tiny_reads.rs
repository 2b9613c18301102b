//! Floods of tiny writes: each costs a wake-up, and few of them make a line.
//!
//! After enough of them the connection is read only once per tick of the timers, so that a flood of
//! tiny writes takes little processor time. Other peers are not delayed: one that writes whole
//! lines, or large pieces of one, is read at once.

use std::time::Duration;

use crate::protocol::Time;

/// A read of fewer bytes, with no end of a line among them, is tiny.
const TINY: usize = 256;
/// Tiny reads that are borne before there is a pause.
const BORNE: u8 = 32;
/// What any other read makes good: a line may come in five pieces for ever.
const MADE_GOOD: u8 = 4;
/// How long the bytes are left to gather: a tick of the timers.
const PAUSE: Duration = Duration::from_millis(10);

/// How many tiny reads there were, and until when nothing is read for it.
#[derive(Debug, Default)]
pub(super) struct TinyReads {
    count: u8,
    /// Zero for no pause.
    pause: Time,
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
            self.pause = now.after(PAUSE);
        }
    }

    /// Whether there is a pause whose end was not looked at.
    pub(super) fn is_pausing(&self) -> bool {
        self.pause > Time::default()
    }

    /// Whether nothing is to be read at `now`.
    pub(super) fn is_pausing_at(&self, now: Time) -> bool {
        now < self.pause
    }

    /// Until when nothing is to be read; forgets a pause that is over at `now`.
    pub(super) fn pause(&mut self, now: Time) -> Option<Time> {
        if now >= self.pause {
            self.pause = Time::default();
        }
        Some(self.pause).filter(|&until| now < until)
    }
}
