//! The attributes `window` and `slow` of a subscription, and how they hold its cursor back. Pure.

use std::{fmt, num::NonZeroU64};

use crate::protocol::{
    rules::{
        ack_window::AckWindow,
        cursor::{Cursor, Window},
    },
    wire::parse_number,
};

/// What the server does about a subscriber that does not keep up (docs/protocol/acks.md, section
/// 16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Slow {
    /// The subscriber gets all messages that are still retained; a gap names the others. The
    /// default.
    #[default]
    Gap,
    /// After the subscriber had to wait, it gets only the newest message. A gap with the reason
    /// `slow` names the messages before it.
    Latest,
    /// The subscription ends with the reason `slow` when messages that were not delivered have left
    /// the log.
    Close,
}

impl Slow {
    /// The value of the attribute `slow`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Latest => "latest",
            Self::Close => "close",
        }
    }

    fn parse(value: &str) -> Option<Self> {
        [Self::Gap, Self::Latest, Self::Close].into_iter().find(|slow| slow.as_str() == value)
    }
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The attributes `window` and `slow` of a `/subscribe`.
///
/// ```
/// use bellwire::{Slow, unstable::rules::Terms};
///
/// let mut terms = Terms::default();
/// assert_eq!(terms.read("window", "2"), Some(()));
/// assert_eq!(terms.read("slow", "latest"), Some(()));
/// assert_eq!(terms.to_string(), ";window=2;slow=latest");
/// assert_eq!(terms.read("window", "0"), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Terms {
    /// How many numbers may be delivered beyond the last ack; `None` for no acks at all.
    pub window: Option<NonZeroU64>,
    /// What the server does if the subscriber does not keep up.
    pub slow: Slow,
}

impl Terms {
    /// Reads one attribute; `None` if the value is invalid, or the key is neither `window` nor
    /// `slow`.
    pub fn read(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "window" => self.window = Some(NonZeroU64::new(parse_number(value.as_bytes())?)?),
            "slow" => self.slow = Slow::parse(value)?,
            _ => return None,
        }
        Some(())
    }
}

/// Writes the attributes; those with the default value are left out.
impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(window) = self.window {
            write!(f, ";window={window}")?;
        }
        match self.slow {
            Slow::Gap => Ok(()),
            slow => write!(f, ";slow={slow}"),
        }
    }
}

/// Holds a [`Cursor`] back, and lets it skip: the server's side of [`Terms`].
///
/// ```
/// use bellwire::{
///     protocol::{Cursor, Epoch, Window}, unstable::rules::{FlowControl, Terms},
/// };
///
/// let epoch = Epoch::new("k3f9").unwrap();
/// let mut terms = Terms::default();
/// terms.read("window", "1");
/// terms.read("slow", "latest");
/// let log = Window { epoch, first: 1, next: 1 };
/// let cursor = Cursor::start(log, None).unwrap();
/// let mut flow = FlowControl::new(terms, log);
///
/// flow.delivered(1, 1);
/// assert_eq!(flow.room(), 0);
/// flow.waits();
/// flow.acked(2);
/// // Meanwhile 2 to 5 were published: it skips to 5.
/// let log = Window { epoch, first: 1, next: 6 };
/// assert_eq!(flow.skip(cursor.delivered(1), log), Some(4));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FlowControl {
    slow: Slow,
    window: Option<AckWindow>,
    /// Numbers below this had left the log before the subscription began. The subscriber does not
    /// count as slow because of them.
    gone: u64,
    has_waited: bool,
}

/// What the server does about numbers that have left the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overtaken {
    /// Name the numbers in a gap, up to this one.
    Name(u64),
    /// End the subscription.
    End,
}

impl FlowControl {
    /// The flow control of a subscription that begins, given what the log holds.
    pub fn new(terms: Terms, log: Window) -> Self {
        let window = terms.window.map(AckWindow::new);
        Self { slow: terms.slow, window, gone: log.first, has_waited: false }
    }

    /// How many numbers may be delivered now.
    pub fn room(&self) -> u64 {
        self.window.as_ref().map_or(u64::MAX, AckWindow::room)
    }

    /// Records that the cursor has to wait, for room in the window or for the peer to read.
    pub fn waits(&mut self) {
        self.has_waited = true;
    }

    /// Records that the cursor stands at the head, where it waits only for the next message.
    pub fn caught_up(&mut self) {
        self.has_waited = false;
    }

    /// Whether the caller must call [`skip`](Self::skip) before the cursor goes on.
    pub fn may_skip(&self) -> bool {
        self.has_waited && self.slow == Slow::Latest
    }

    /// The last number that the cursor has to skip, and to name, before it goes on.
    pub fn skip(&mut self, cursor: Cursor, log: Window) -> Option<u64> {
        let newest = log.next.saturating_sub(1);
        // A reset to another log comes first. The subscriber misses more by that than by any skip.
        let skips =
            self.may_skip() && cursor.position.epoch == log.epoch && cursor.position.next < newest;
        self.has_waited = false;
        skips.then(|| newest - 1)
    }

    /// Decides what to do if the numbers from the cursor to `last` have left the log.
    pub fn overtaken(&self, cursor: Cursor, last: u64) -> Overtaken {
        match self.slow {
            Slow::Gap | Slow::Latest => Overtaken::Name(last),
            Slow::Close if cursor.position.next < self.gone => {
                Overtaken::Name(last.min(self.gone - 1))
            }
            Slow::Close => Overtaken::End,
        }
    }

    /// Records that these numbers were delivered.
    pub fn delivered(&mut self, first: u64, last: u64) {
        if let Some(window) = &mut self.window {
            window.delivered(first, last);
        }
    }

    /// Records that all numbers below `next` are handled. Returns whether the cursor was held and
    /// can go on now.
    pub fn acked(&mut self, next: u64) -> bool {
        let was_full = self.room() == 0;
        if let Some(window) = &mut self.window {
            window.acked(next);
        }
        was_full && self.room() > 0
    }

    /// Empties the window, because another log goes on from its beginning.
    pub fn reset(&mut self) {
        self.window = self.window.take().map(|window| AckWindow::new(window.size()));
        self.gone = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Epoch, Position};

    fn log(first: u64, next: u64) -> Window {
        Window { epoch: Epoch::new("e").unwrap(), first, next }
    }

    fn at(next: u64) -> Cursor {
        Cursor { position: Position { epoch: Epoch::new("e").unwrap(), next } }
    }

    fn flow(terms: &[(&str, &str)], log: Window) -> FlowControl {
        let mut all = Terms::default();
        terms.iter().for_each(|(key, value)| all.read(key, value).unwrap());
        FlowControl::new(all, log)
    }

    #[test]
    fn flow_control_terms_are_parsed_and_written() {
        let mut terms = Terms::default();
        for (key, value) in [
            ("window", "0"),
            ("window", "01"),
            ("window", "9007199254740992"),
            ("window", "two"),
            ("slow", "Gap"),
            ("slow", ""),
            ("from", "e:1"),
        ] {
            assert_eq!(terms.read(key, value), None, "{key}={value}");
        }
        assert_eq!(terms, Terms::default());
        assert_eq!(terms.to_string(), "");
        terms.read("window", "9007199254740991").unwrap();
        terms.read("slow", "close").unwrap();
        assert_eq!(terms.to_string(), ";window=9007199254740991;slow=close");
    }

    #[test]
    fn slow_latest_skips_only_after_a_wait_and_with_several_left() {
        let mut flow = flow(&[("slow", "latest")], log(1, 1));
        assert_eq!(flow.skip(at(1), log(1, 9)), None);
        for (next, head, skipped) in [(1, 8, Some(7)), (7, 8, Some(7)), (8, 8, None), (9, 8, None)]
        {
            flow.waits();
            assert_eq!(flow.skip(at(next), log(1, head + 1)), skipped);
            assert!(!flow.may_skip());
        }
        flow.waits();
        let other = Window { epoch: Epoch::new("f").unwrap(), ..log(1, 9) };
        assert_eq!(flow.skip(at(1), other), None);
    }

    #[test]
    fn slow_close_ignores_drops_before_the_subscription() {
        let strict = flow(&[("slow", "close")], log(5, 9));
        assert_eq!(strict.overtaken(at(2), 4), Overtaken::Name(4));
        assert_eq!(strict.overtaken(at(2), 7), Overtaken::Name(4));
        assert_eq!(strict.overtaken(at(5), 7), Overtaken::End);
        assert_eq!(flow(&[], log(5, 9)).overtaken(at(5), 7), Overtaken::Name(7));
    }

    #[test]
    fn a_reset_empties_the_window() {
        let mut flow = flow(&[("window", "2")], log(1, 1));
        flow.delivered(1, 2);
        assert!(!flow.acked(1));
        flow.reset();
        assert_eq!(flow.room(), 2);
        flow.delivered(1, 2);
        assert!(flow.acked(2));
        assert!(!flow.acked(3));
    }
}
