//! The number of answered calls over time.

use std::{iter, time::Duration};

/// The initial width of a slot.
const NARROWEST: Duration = Duration::from_millis(10);
/// Above this many slots, they are merged in pairs. So a timeline is bounded however long the run
/// is.
const MOST_SLOTS: usize = 128;

/// Counts in slots of equal width, which doubles as the run goes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timeline {
    slots: Vec<u64>,
    /// The width is [`NARROWEST`] doubled this many times.
    doublings: u32,
}

impl Timeline {
    /// Counts one call, `time` after the beginning.
    pub(crate) fn count(&mut self, time: Duration) {
        let mut slot = self.slot_of(time);
        while slot >= MOST_SLOTS {
            self.widen();
            slot = self.slot_of(time);
        }
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, 0);
        }
        self.slots[slot] += 1;
    }

    pub(crate) fn merge(&mut self, mut other: Self) {
        while other.doublings < self.doublings {
            other.widen();
        }
        while self.doublings < other.doublings {
            self.widen();
        }
        let longer = self.slots.len().max(other.slots.len());
        self.slots.resize(longer, 0);
        iter::zip(&mut self.slots, other.slots).for_each(|(sum, count)| *sum += count);
    }

    /// The middle of each slot in seconds, and its count per second, over a run of `seconds`.
    pub(crate) fn rates(&self, seconds: f64) -> Vec<(f64, f64)> {
        let width = self.width().as_secs_f64();
        let slots = self.slots.iter().enumerate().map(|(slot, count)| {
            let from = slot as f64 * width;
            // The run ends within the last slot.
            let until = (from + width).min(seconds.max(from + NARROWEST.as_secs_f64()));
            ((from + until) / 2.0, *count as f64 / (until - from))
        });
        slots.collect()
    }

    fn width(&self) -> Duration {
        NARROWEST * 2_u32.pow(self.doublings)
    }

    fn slot_of(&self, time: Duration) -> usize {
        (time.as_nanos() / self.width().as_nanos()) as usize
    }

    fn widen(&mut self) {
        self.slots = self.slots.chunks(2).map(|pair| pair.iter().sum()).collect();
        self.doublings += 1;
    }
}
