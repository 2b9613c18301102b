//! The time for which items of a stream have stayed unacknowledged.

use std::{collections::VecDeque, time::Duration};

use crate::protocol::{Epoch, Position, Time};

/// The most spans that are kept. With twice as many as fit into the limit, the two oldest are both
/// overdue.
const MAX_SPANS: usize = 2 * PARTS + 2;

/// Items that were handed over within this part of the limit count as handed over together.
const PARTS: usize = 16;

/// When the numbers of a stream were handed over, as precisely as a sixteenth of the limit, and
/// which of them were reported as unacknowledged.
///
/// Its size does not depend on the window. Items that came within a sixteenth of the limit have the
/// time of the last of them, so no item is reported too early.
#[derive(Debug)]
pub(crate) struct Overdue {
    limit: Duration,
    epoch: Option<Epoch>,
    /// In rising order. The last one has the newest number.
    spans: VecDeque<Span>,
    /// The highest number that was reported.
    reported: u64,
    /// The topic has a timer for this stream.
    pub(crate) is_watched: bool,
}

/// Numbers that were handed over together.
#[derive(Debug)]
struct Span {
    last: u64,
    began: Time,
    ended: Time,
}

impl Overdue {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, epoch: None, spans: VecDeque::new(), reported: 0, is_watched: false }
    }

    /// Notes that `number` was handed over, for the first time or again. Only the first time counts.
    pub(crate) fn handed_over(&mut self, epoch: Epoch, number: u64, now: Time) {
        if self.epoch.replace(epoch) != Some(epoch) {
            self.spans.clear();
            self.reported = 0;
        }
        let part = self.limit / PARTS as u32;
        match self.spans.back_mut() {
            Some(span) if number <= span.last => {}
            Some(span) if span.began.until(now) < part => {
                (span.last, span.ended) = (number, now);
            }
            _ => self.spans.push_back(Span { last: number, began: now, ended: now }),
        }
        if self.spans.len() > MAX_SPANS {
            self.spans.pop_front();
        }
    }

    /// When the lowest unacknowledged item is overdue. `None` if it was reported, or there is none.
    pub(crate) fn due(&mut self, lowest: Option<Position>) -> Option<Time> {
        let lowest = lowest.filter(|lowest| Some(lowest.epoch) == self.epoch);
        // What is below was acknowledged.
        let below = lowest.map_or(u64::MAX, |lowest| lowest.next);
        while self.spans.front().is_some_and(|span| span.last < below) {
            self.spans.pop_front();
        }
        let span = self.spans.front()?;
        (below > self.reported).then(|| span.ended.after(self.limit))
    }

    /// Takes the lowest unacknowledged item, if it is overdue. It is not returned again.
    pub(crate) fn take(&mut self, lowest: Option<Position>, now: Time) -> Option<Position> {
        let lowest = lowest.filter(|_| self.due(lowest).is_some_and(|due| due <= now))?;
        self.reported = lowest.next;
        Some(lowest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    fn second(seconds: u64) -> Time {
        Time::from_millis(1_000 * seconds)
    }

    fn hand_over(overdue: &mut Overdue, numbers: std::ops::RangeInclusive<u64>, now: Time) {
        numbers.for_each(|number| overdue.handed_over(at("e:1").epoch, number, now));
    }

    #[test]
    fn the_lowest_item_is_reported_once_and_not_too_early() {
        let mut overdue = Overdue::new(Duration::from_secs(16));
        hand_over(&mut overdue, 1..=1, second(0));
        hand_over(&mut overdue, 2..=2, second(5));
        assert_eq!(overdue.due(Some(at("e:1"))), Some(second(16)));
        assert_eq!(overdue.take(Some(at("e:1")), Time::from_millis(15_999)), None);
        assert_eq!(overdue.take(Some(at("e:1")), second(16)), Some(at("e:1")));
        assert_eq!(overdue.take(Some(at("e:1")), second(99)), None);
        assert_eq!(overdue.due(Some(at("e:2"))), Some(second(21)));
        assert_eq!(overdue.take(Some(at("e:2")), second(21)), Some(at("e:2")));
        // It comes again, and was reported.
        hand_over(&mut overdue, 2..=2, second(30));
        assert_eq!(overdue.due(Some(at("e:2"))), None);
        assert_eq!((overdue.due(None), overdue.spans.len()), (None, 0));
    }

    /// Items that come close together have the time of the last one.
    #[test]
    fn spans_are_never_early_and_bounded() {
        let mut overdue = Overdue::new(Duration::from_secs(16));
        hand_over(&mut overdue, 1..=1, second(0));
        hand_over(&mut overdue, 2..=2, Time::from_millis(999));
        assert_eq!(overdue.due(Some(at("e:1"))), Some(Time::from_millis(16_999)));
        for number in 3..10_000 {
            hand_over(&mut overdue, number..=number, second(number));
            assert!(overdue.spans.len() <= MAX_SPANS);
            assert!(overdue.due(Some(at("e:1"))) <= Some(second(number)) || number < 40);
        }
    }

    #[test]
    fn a_new_log_starts_over() {
        let mut overdue = Overdue::new(Duration::from_secs(16));
        hand_over(&mut overdue, 7..=7, second(0));
        assert_eq!(overdue.take(Some(at("e:7")), second(20)), Some(at("e:7")));
        overdue.handed_over(at("f:1").epoch, 1, second(21));
        assert_eq!(overdue.due(Some(at("e:7"))), None);
        overdue.handed_over(at("f:1").epoch, 1, second(21));
        assert_eq!(overdue.due(Some(at("f:1"))), Some(second(37)));
    }
}
