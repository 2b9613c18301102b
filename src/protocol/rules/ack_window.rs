//! The window of an acknowledged subscription: what was delivered and not acknowledged. Pure.

use std::{collections::VecDeque, num::NonZeroU64};

/// Limits what may be delivered beyond the last ack (docs/protocol/acks.md, section 16).
///
/// An ack is cumulative and names the *next* number: all numbers below it are handled. Numbers that
/// were named in a gap take no room, because they were not delivered. An ack costs as much as the
/// number of runs that it frees, and only gaps make new runs. So each ack of a flood costs one
/// comparison.
///
/// ```
/// use std::num::NonZeroU64;
/// use bellwire::unstable::rules::AckWindow;
///
/// let mut window = AckWindow::new(NonZeroU64::new(3).unwrap());
/// window.delivered(1, 2);
/// window.delivered(7, 7); // 3 to 6 were named in a gap
/// assert_eq!(window.room(), 0);
/// window.acked(5);
/// assert_eq!(window.room(), 2);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AckWindow {
    size: NonZeroU64,
    /// **Invariant:** the count of the numbers in `runs`.
    open: u64,
    /// The numbers that were delivered and not acknowledged, in rising order. Two runs never touch.
    runs: VecDeque<Run>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Run {
    first: u64,
    last: u64,
}

impl AckWindow {
    /// The most runs of unacknowledged numbers that are kept. With this many runs, the window
    /// counts as full.
    ///
    /// Each gap begins a new run. So only a peer that acknowledges nothing over as many gaps
    /// reaches this limit. The limit bounds a window to 1 KiB, whatever its size.
    pub const MAX_RUNS: usize = 64;

    /// An empty window, for a subscription that begins or that goes on in another log.
    pub fn new(size: NonZeroU64) -> Self {
        Self { size, open: 0, runs: VecDeque::new() }
    }

    /// How many numbers may be unacknowledged at once.
    pub fn size(&self) -> NonZeroU64 {
        self.size
    }

    /// Whether as many numbers as the size allows are unacknowledged.
    pub fn is_full(&self) -> bool {
        self.open >= self.size.get()
    }

    /// How many more numbers may be delivered before the next ack.
    pub fn room(&self) -> u64 {
        match self.runs.len() < Self::MAX_RUNS {
            true => self.size.get().saturating_sub(self.open),
            false => 0,
        }
    }

    /// Records that the numbers from `first` to `last` were delivered. `first` must be above all
    /// earlier numbers.
    ///
    /// The count must be within [`room`](Self::room). A call with more numbers is ignored.
    pub fn delivered(&mut self, first: u64, last: u64) {
        let count = last.saturating_add(1).saturating_sub(first);
        if count == 0 || count > self.room() {
            return;
        }
        match self.runs.back_mut() {
            Some(run) if run.last.checked_add(1) == Some(first) => run.last = last,
            _ => self.runs.push_back(Run { first, last }),
        }
        self.open += count;
    }

    /// Records that all numbers below `next` are handled. An ack below an earlier one changes
    /// nothing.
    pub fn acked(&mut self, next: u64) {
        while let Some(run) = self.runs.front_mut() {
            if next <= run.last {
                let freed = next.saturating_sub(run.first);
                run.first += freed;
                self.open -= freed;
                return;
            }
            self.open -= run.last.saturating_add(1) - run.first;
            self.runs.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(size: u64) -> AckWindow {
        AckWindow::new(NonZeroU64::new(size).unwrap())
    }

    #[test]
    fn acks_are_cumulative_and_free_room() {
        let mut window = window(3);
        window.delivered(5, 7);
        for (ack, room) in [(5, 0), (6, 1), (6, 1), (2, 1), (8, 3), (8, 3), (99, 3)] {
            window.acked(ack);
            assert_eq!(window.room(), room, "{ack}");
        }
        assert!(window.runs.is_empty());
    }

    /// Compares the window with a plain set of numbers, over many random schedules.
    #[test]
    fn the_window_count_matches_a_plain_set() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..500 {
            let size = random.u64(1..9);
            let (mut window, mut set) = (window(size), std::collections::BTreeSet::new());
            let mut next = 1;
            for _ in 0..60 {
                if random.bool() && window.room() > 0 {
                    let first = next + random.u64(..3);
                    let last = first + random.u64(..window.room());
                    window.delivered(first, last);
                    set.extend(first..=last);
                    next = last + 1;
                } else {
                    let ack = random.u64(1..=next);
                    window.acked(ack);
                    set.retain(|&number| number >= ack);
                }
                assert_eq!(window.open, set.len() as u64);
                assert_eq!(window.room(), size - window.open);
            }
        }
    }

    #[test]
    fn memory_is_bounded_for_any_window_size() {
        let mut window = window(u64::MAX);
        let mut number = 1;
        while window.room() > 0 {
            window.delivered(number, number);
            number += 2;
        }
        assert_eq!(window.runs.len(), AckWindow::MAX_RUNS);
        window.delivered(number, number);
        window.delivered(number, number - 1);
        assert_eq!(
            (window.runs.len(), window.open),
            (AckWindow::MAX_RUNS, AckWindow::MAX_RUNS as u64)
        );
        window.acked(2);
        assert_eq!(window.room(), u64::MAX - (AckWindow::MAX_RUNS as u64 - 1));
    }
}
