//! The server's side of a subscription: a cursor into a topic's log. Pure transitions.

use std::{fmt, mem};

use crate::protocol::wire::{Epoch, Position, parse_number};

/// What a log holds: the numbers `first..next` of one epoch.
///
/// Exhaustive: your own store constructs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// The log.
    pub epoch: Epoch,
    /// The oldest number still held; equal to `next` if none is held.
    pub first: u64,
    /// The number that the next message will have.
    pub next: u64,
}

impl Window {
    /// The last number that exists; 0 if the log never had a message.
    pub fn head(&self) -> u64 {
        self.next.saturating_sub(1)
    }
}

/// Where a subscription stands in its topic's log. All numbers below `next` were delivered or
/// named.
///
/// **Invariant:** `next` only rises within an epoch, and changes epoch only by a
/// [`Step::Reset`], so every number is delivered or named exactly once (order, no silent loss).
///
/// ```
/// use bellwire::protocol::{Cursor, Epoch, Position, Step, Window};
///
/// let epoch = Epoch::new("k3f9").unwrap();
/// let window = Window { epoch, first: 11, next: 14 };
/// let from = Position { epoch, next: 9 };
/// let cursor = Cursor::start(window, Some(from)).unwrap();
/// let (cursor, step) = cursor.step(window);
/// assert_eq!(step, Step::Gap { epoch, first: 9, last: 10 });
/// assert_eq!(cursor.step(window).1, Step::Read { first: 11, last: 13 });
/// ```
///
/// Exhaustive: a cursor is a position, and your own store may construct it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The next number to deliver or name, and its log.
    pub position: Position,
}

/// Where a subscription asks to begin: the attributes `from` and `last` of a `/subscribe`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Behind the newest message.
    #[default]
    Head,
    /// At this position.
    From(Position),
    /// With so many of the newest messages.
    Last(u64),
}

impl Begin {
    /// Reads one attribute; `None` if the value is invalid, or the other one was there already.
    pub(crate) fn read(&mut self, key: &str, value: &str) -> Option<()> {
        let read = match key {
            "from" => Self::From(value.parse().ok()?),
            _ => Self::Last(parse_number(value.as_bytes()).filter(|&last| last > 0)?),
        };
        (mem::replace(self, read) == Self::Head).then_some(())
    }

    /// The cursor of a subscription that begins there.
    ///
    /// # Errors
    /// [`BadPosition`] when the position lies beyond the next number of the current epoch.
    pub(crate) fn cursor(self, window: Window) -> Result<Cursor, BadPosition> {
        match self {
            Self::Head => Cursor::start(window, None),
            Self::From(from) => Cursor::start(window, Some(from)),
            Self::Last(last) => {
                let Window { epoch, first, next } = window;
                let next = next.saturating_sub(last).max(first);
                Ok(Cursor { position: Position { epoch, next } })
            }
        }
    }
}

/// The next step of a cursor.
///
/// Exhaustive: your own store has to do each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Nothing to do: the cursor stands at the head.
    CaughtUp,
    /// The topic has another log: send a reset.
    Reset(Position),
    /// Numbers have left the log: name them in a gap.
    Gap {
        /// The log.
        epoch: Epoch,
        /// The first number gone.
        first: u64,
        /// The last number gone.
        last: u64,
    },
    /// These numbers can be delivered. Call [`Cursor::delivered`] for those that were.
    Read {
        /// The first number that can be delivered.
        first: u64,
        /// The last number that can be delivered.
        last: u64,
    },
}

/// A position that its epoch has not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPosition;

impl fmt::Display for BadPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the epoch has not reached the position")
    }
}

impl std::error::Error for BadPosition {}

impl Cursor {
    /// Returns where a new subscription begins: behind the head, or at `from`. If `from` is of
    /// another epoch, the subscription begins at 1 of the current epoch.
    ///
    /// # Errors
    /// [`BadPosition`] when `from` lies beyond the next number of the current epoch.
    pub fn start(window: Window, from: Option<Position>) -> Result<Self, BadPosition> {
        let epoch = window.epoch;
        let next = match from {
            None => window.next,
            Some(from) if from.epoch != epoch => 1,
            Some(from) if from.next > window.next => return Err(BadPosition),
            Some(from) => from.next,
        };
        Ok(Self { position: Position { epoch, next } })
    }

    /// Returns the next step, given what the log holds. A reset or a gap counts as done.
    #[must_use]
    pub fn step(self, window: Window) -> (Self, Step) {
        let Position { epoch, next } = self.position;
        if epoch != window.epoch {
            let position = Position { epoch: window.epoch, next: 1 };
            return (Self { position }, Step::Reset(position));
        }
        if next < window.first {
            let gap = Step::Gap { epoch, first: next, last: window.first - 1 };
            return (self.delivered(window.first - 1), gap);
        }
        if next < window.next {
            return (self, Step::Read { first: next, last: window.next - 1 });
        }
        (self, Step::CaughtUp)
    }

    /// The cursor after all numbers up to `last` were delivered or named.
    #[must_use]
    pub fn delivered(self, last: u64) -> Self {
        let next = self.position.next.max(last.saturating_add(1));
        Self { position: Position { next, ..self.position } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(name: &str) -> Epoch {
        Epoch::new(name).unwrap()
    }

    fn window(first: u64, next: u64) -> Window {
        Window { epoch: epoch("e"), first, next }
    }

    fn start(name: &str, next: u64, window: Window) -> Option<u64> {
        let from = Position { epoch: epoch(name), next };
        Cursor::start(window, Some(from)).ok().map(|cursor| cursor.position.next)
    }

    #[test]
    fn the_last_messages_are_those_that_are_retained() {
        for (last, next) in [(1, 13), (3, 11), (4, 11), (u64::MAX, 11)] {
            let cursor = Begin::Last(last).cursor(window(11, 14)).unwrap();
            assert_eq!(cursor.position, Position { epoch: epoch("e"), next }, "{last}");
        }
        for empty in [window(1, 1), window(9, 9)] {
            let cursor = Begin::Last(5).cursor(empty).unwrap();
            assert_eq!(cursor.position.next, empty.next);
        }
    }

    #[test]
    fn from_and_last_exclude_each_other() {
        let read = |attributes: &[(&str, &str)]| {
            let mut begin = Begin::default();
            attributes.iter().try_for_each(|(key, value)| begin.read(key, value)).map(|()| begin)
        };
        assert_eq!(read(&[("last", "9007199254740991")]), Some(Begin::Last(9_007_199_254_740_991)));
        assert_eq!(read(&[("from", "e:3")]), Some(Begin::From("e:3".parse().unwrap())));
        for wrong in ["0", "01", "-1", "", "two", "9007199254740992"] {
            assert_eq!(read(&[("last", wrong)]), None, "{wrong}");
        }
        assert_eq!(read(&[("from", "e:3"), ("last", "1")]), None);
        assert_eq!(read(&[("last", "1"), ("from", "e:3")]), None);
    }

    #[test]
    fn a_subscription_starts_where_it_asks() {
        let fresh = Cursor::start(window(3, 8), None).unwrap();
        assert_eq!(fresh.position.next, 8);
        assert_eq!(start("e", 1, window(3, 8)), Some(1));
        assert_eq!(start("e", 8, window(3, 8)), Some(8));
        assert_eq!(start("e", 9, window(3, 8)), None);
        assert_eq!(start("f", 99, window(3, 8)), Some(1));
        assert_eq!(start("e", 1, window(1, 1)), Some(1));
    }

    #[test]
    fn every_number_is_delivered_or_in_a_gap_once() {
        let mut cursor = Cursor::start(window(1, 1), None).unwrap();
        assert_eq!(cursor.step(window(1, 1)).1, Step::CaughtUp);
        assert_eq!(cursor.step(window(1, 4)).1, Step::Read { first: 1, last: 3 });
        cursor = cursor.delivered(2);
        let (next, step) = cursor.step(window(6, 9));
        assert_eq!(step, Step::Gap { epoch: epoch("e"), first: 3, last: 5 });
        assert_eq!(next.step(window(6, 9)).1, Step::Read { first: 6, last: 8 });
        assert_eq!(next.delivered(8).step(window(6, 9)).1, Step::CaughtUp);
        let (emptied, _) = next.step(window(9, 9));
        assert_eq!(emptied.position.next, 9);
    }

    #[test]
    fn a_different_log_resets_the_cursor_to_its_beginning() {
        let cursor = Cursor::start(window(3, 8), None).unwrap();
        let other = Window { epoch: epoch("f"), first: 2, next: 4 };
        let (cursor, step) = cursor.step(other);
        assert_eq!(step, Step::Reset(Position { epoch: epoch("f"), next: 1 }));
        let gap = Step::Gap { epoch: epoch("f"), first: 1, last: 1 };
        assert_eq!(cursor.step(other).1, gap);
    }
}
