//! The numbers of an acknowledged topic that a client has handled, in any order. Pure.

use std::{collections::BTreeMap, num::NonZeroU64};

use crate::protocol::wire::{Epoch, Position};

/// Tracks which numbers were handed over to a reader, and which of them the reader has handled: the
/// client's side of acknowledgements (docs/protocol/acks.md, section 16).
///
/// Numbers may be handled in any order. An ack names the lowest number that is not handled. It is
/// due after each half of the window, so that the server never waits for a full window, and after
/// each gap.
///
/// A reader may be handed numbers again that it has not handled. [`open`](Self::open) says which
/// numbers it still wants, and [`was_handed_over`](Self::was_handed_over) which of them come again.
///
/// **Invariant:** `floor.next` ≤ `handed`. The runs in `above` lie between them, and do not touch
/// each other or `floor`. There are at most as many as there are numbers not handled.
///
/// ```
/// use std::num::NonZeroU64;
/// use bellwire::{protocol::{Epoch, Position}, unstable::rules::Handled};
///
/// let epoch = Epoch::new("k3f9").unwrap();
/// let at = |next| Position { epoch, next };
/// let mut handled = Handled::new(NonZeroU64::new(4).unwrap());
/// (7..=9).for_each(|number| handled.hand_over(epoch, number, number));
/// handled.ack(epoch, 8, 8);
/// assert_eq!(handled.take_due(), None);
/// handled.ack(epoch, 7, 7);
/// assert_eq!(handled.take_due(), Some(at(9)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Handled {
    half: u64,
    /// All numbers below this were handled; `None` before the first number.
    floor: Option<Position>,
    /// All numbers below this were handed over.
    handed: u64,
    /// Runs that were handled out of order: the first number of each run, and its end.
    above: BTreeMap<u64, RunEnd>,
    /// A gap is below the floor, and no ack was taken since.
    has_passed_gap: bool,
    /// The floor of the last ack that was taken.
    taken: u64,
}

/// The end of a run of handled numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct RunEnd {
    /// The last number.
    last: u64,
    /// Some of the numbers were named in a gap.
    has_gap: bool,
}

impl Handled {
    /// The state of a reader that has received nothing yet.
    pub fn new(window: NonZeroU64) -> Self {
        Self {
            half: half(window),
            floor: None,
            handed: 0,
            above: BTreeMap::new(),
            has_passed_gap: false,
            taken: 0,
        }
    }

    /// Starts over, because another log goes on at `position`.
    pub fn reset(&mut self, position: Position) {
        self.above.clear();
        (self.floor, self.has_passed_gap) = (Some(position), false);
        (self.handed, self.taken) = (position.next, position.next);
    }

    /// Records that the next numbers, from `first` to `last`, were handed over, or earlier ones
    /// again.
    pub fn hand_over(&mut self, epoch: Epoch, first: u64, last: u64) {
        if self.floor.is_none_or(|floor| floor.epoch != epoch) {
            self.reset(Position { epoch, next: first });
        }
        self.handed = self.handed.max(last.saturating_add(1));
    }

    /// Records that the next numbers, from `first` to `last`, were named in a gap. They count as
    /// handled.
    pub fn hand_over_gap(&mut self, epoch: Epoch, first: u64, last: u64) {
        self.hand_over(epoch, first, last);
        self.handle(epoch, first, last, true);
    }

    /// Records that the server delivers from `next` on once more, and counts acks from there.
    pub fn resume(&mut self, next: u64) {
        self.taken = next;
    }

    /// The position below which all numbers are handled; `None` before the first number.
    pub fn floor(&self) -> Option<Position> {
        self.floor
    }

    /// The lowest number that was handed over and is not handled.
    pub fn lowest(&self) -> Option<Position> {
        self.floor.filter(|floor| floor.next < self.handed)
    }

    /// Whether a number of this log was handed over before.
    pub fn was_handed_over(&self, epoch: Epoch, number: u64) -> bool {
        self.floor.is_some_and(|floor| floor.epoch == epoch) && number < self.handed
    }

    /// The first run of numbers from `first` to `last` that are not handled: its first number and
    /// its last.
    pub fn open(&self, epoch: Epoch, first: u64, last: u64) -> Option<(u64, u64)> {
        let Some(floor) = self.floor.filter(|floor| floor.epoch == epoch) else {
            return Some((first, last));
        };
        let mut first = first.max(floor.next);
        if let Some((_, end)) = self.above.range(..=first).next_back() {
            first = first.max(end.last.saturating_add(1));
        }
        let next = self.above.range(first..).next().map(|(&begin, _)| begin - 1);
        (first <= last).then(|| (first, next.map_or(last, |next| next.min(last))))
    }

    /// Records that the numbers from `first` to `last` are handled, as far as they were handed
    /// over. A call for another log has no effect.
    pub fn ack(&mut self, epoch: Epoch, first: u64, last: u64) {
        self.handle(epoch, first, last, false);
    }

    fn handle(&mut self, epoch: Epoch, first: u64, last: u64, mut has_gap: bool) {
        let Some(floor) = self.floor.as_mut().filter(|floor| floor.epoch == epoch) else {
            return;
        };
        let handed = self.handed.saturating_sub(1);
        let (mut first, mut last) = (first.max(floor.next), last.min(handed));
        if first > last {
            // A gap that was named before.
            self.has_passed_gap |= has_gap;
            return;
        }
        // Merges the runs that this one touches or covers.
        while let Some((&begin, &end)) = self.above.range(..=last.saturating_add(1)).next_back() {
            if end.last.saturating_add(1) < first {
                break;
            }
            self.above.remove(&begin);
            (first, last) = (first.min(begin), last.max(end.last));
            has_gap |= end.has_gap;
        }
        if first == floor.next {
            floor.next = last.saturating_add(1);
            self.has_passed_gap |= has_gap;
        } else {
            self.above.insert(first, RunEnd { last, has_gap });
        }
    }

    /// Returns the position below which all numbers are handled, if an ack is due. It is due once
    /// the position has moved over half the window, or over a gap, since it was last taken.
    pub fn take_due(&mut self) -> Option<Position> {
        let floor = self.floor?;
        let is_due = self.has_passed_gap || floor.next.saturating_sub(self.taken) >= self.half;
        is_due.then(|| {
            (self.taken, self.has_passed_gap) = (floor.next, false);
            floor
        })
    }
}

/// How many newly handled numbers make an ack due.
pub(crate) fn half(window: NonZeroU64) -> u64 {
    (window.get() / 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(name: &str) -> Epoch {
        Epoch::new(name).unwrap()
    }

    fn handled(window: u64) -> Handled {
        Handled::new(NonZeroU64::new(window).unwrap())
    }

    fn due(handled: &mut Handled) -> Option<u64> {
        handled.take_due().map(|position| position.next)
    }

    #[test]
    fn an_ack_is_due_when_the_floor_moves_by_half_the_window() {
        let (mut all, e) = (handled(5), epoch("e"));
        all.hand_over(e, 3, 9);
        for (number, taken) in [(3, None), (5, None), (4, Some(6)), (6, None), (8, None)] {
            all.ack(e, number, number);
            assert_eq!(due(&mut all), taken, "{number}");
        }
        all.ack(e, 7, 99);
        assert_eq!(due(&mut all), Some(10), "no more than was handed over");
        assert!(all.above.is_empty());
        let mut one = handled(1);
        one.hand_over(e, 1, 1);
        one.ack(e, 1, 1);
        assert_eq!(due(&mut one), Some(2));
    }

    #[test]
    fn a_gap_counts_as_handled_and_makes_an_ack_due() {
        let (mut all, e) = (handled(100), epoch("e"));
        all.hand_over(e, 1, 1);
        all.hand_over_gap(e, 2, 4);
        all.hand_over(e, 5, 5);
        assert_eq!(due(&mut all), None);
        all.ack(e, 1, 1);
        assert_eq!(due(&mut all), Some(5));
        all.reset(Position { epoch: epoch("f"), next: 1 });
        all.ack(e, 5, 5);
        assert_eq!((due(&mut all), all.floor.unwrap().next), (None, 1));
    }

    /// Each of several gaps makes an ack due once it is below the floor, and when it is named again.
    #[test]
    fn every_gap_makes_an_ack_due() {
        let (mut all, e) = (handled(100), epoch("e"));
        all.hand_over(e, 1, 1);
        all.hand_over_gap(e, 2, 3);
        all.hand_over(e, 4, 5);
        all.hand_over_gap(e, 6, 7);
        all.hand_over(e, 8, 8);
        for (number, taken) in [(5, None), (1, Some(4)), (4, Some(8)), (8, None)] {
            all.ack(e, number, number);
            assert_eq!(due(&mut all), taken, "{number}");
        }
        all.resume(9);
        all.hand_over_gap(e, 6, 7);
        assert_eq!((due(&mut all), due(&mut all)), (Some(9), None));
    }

    /// Compares with a plain set, for all ranges.
    #[test]
    fn open_numbers_match_a_plain_set() {
        let mut random = fastrand::Rng::with_seed(4);
        for _ in 0..100 {
            let (mut all, e) = (handled(7), epoch("e"));
            all.hand_over(e, 1, 12);
            let mut left: Vec<u64> = (1..=15).collect();
            for _ in 0..random.u8(..12) {
                let number = random.u64(1..=12);
                all.ack(e, number, number);
                left.retain(|left| *left != number);
            }
            for (first, last) in (1..=15).flat_map(|first| (first..=15).map(move |l| (first, l))) {
                let begin = left.iter().copied().find(|number| (first..=last).contains(number));
                let end = begin.map(|begin| {
                    (begin..=last).take_while(|number| left.contains(number)).last().unwrap()
                });
                assert_eq!(all.open(e, first, last), begin.zip(end), "{first} to {last}: {left:?}");
            }
            assert_eq!(all.lowest().map(|at| at.next), left.first().copied().filter(|at| *at < 13));
            assert!(all.was_handed_over(e, 12) && !all.was_handed_over(e, 13));
            assert_eq!(all.open(epoch("f"), 1, 9), Some((1, 9)));
        }
    }

    /// Numbers that come again do not lower what was handed over. Acks count from the resume.
    #[test]
    fn numbers_that_are_handed_over_again_make_acks_due_anew() {
        let (mut all, e) = (handled(4), epoch("e"));
        all.hand_over(e, 1, 6);
        all.ack(e, 1, 4);
        assert_eq!(due(&mut all), Some(5));
        all.resume(3);
        all.hand_over(e, 5, 5);
        assert!(all.was_handed_over(e, 6));
        assert_eq!(due(&mut all), Some(5), "the server has to know again what is handled");
        all.ack(e, 5, 5);
        assert_eq!((due(&mut all), all.lowest().unwrap().next), (None, 6));
    }

    /// Compares the floor with a plain set of numbers, in any order.
    #[test]
    fn the_floor_matches_a_plain_set() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let (mut all, e) = (handled(7), epoch("e"));
            all.hand_over(e, 1, 30);
            let mut left: Vec<u64> = (1..=30).collect();
            random.shuffle(&mut left);
            while let Some(number) = left.pop() {
                all.ack(e, number, number);
                let floor = left.iter().copied().min().unwrap_or(31);
                assert_eq!(all.floor.unwrap().next, floor);
                assert!(all.above.len() <= left.len());
            }
        }
    }
}
