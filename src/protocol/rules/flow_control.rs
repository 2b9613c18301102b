//! What a subscription asks for beside its place, and how that holds its cursor. Pure.

use std::{fmt, num::NonZeroU64};

use crate::protocol::{
    rules::{
        ack_window::AckWindow,
        cursor::{Cursor, Window},
    },
    wire::parse_number,
};

/// What becomes of a subscriber that does not keep up (docs/protocol/acks.md, section 16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Slow {
    /// It gets all that is still retained when it goes on; a gap names the rest. The default.
    #[default]
    Gap,
    /// When it goes on after it had to wait, it gets the newest message; a gap with the reason
    /// `slow` names those before it.
    Latest,
    /// Its subscription ends, with the reason `slow`, where a gap would name what is no longer
    /// retained.
    Close,
}

impl Slow {
    /// As it stands in the attribute `slow`.
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
    /// What becomes of it when it does not keep up.
    pub slow: Slow,
}

impl Terms {
    /// Takes one attribute; `None` when the value is not of its kind, or the key of no term.
    pub fn read(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "window" => self.window = Some(NonZeroU64::new(parse_number(value.as_bytes())?)?),
            "slow" => self.slow = Slow::parse(value)?,
            _ => return None,
        }
        Some(())
    }
}

/// As attributes; what is the default is left out.
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

/// What holds a [`Cursor`], and what it does when it goes on: the server's side of [`Terms`].
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
    /// Numbers below had left the log before the subscription began: it is not slow because of
    /// them.
    gone: u64,
    has_waited: bool,
}

/// What is to be done about numbers that have left the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overtaken {
    /// Name them, up to this one.
    Name(u64),
    /// End the subscription.
    End,
}

impl FlowControl {
    /// The flow of a subscription that begins, given what the log holds.
    pub fn new(terms: Terms, log: Window) -> Self {
        let window = terms.window.map(AckWindow::new);
        Self { slow: terms.slow, window, gone: log.first, has_waited: false }
    }

    /// How many numbers may be delivered now.
    pub fn room(&self) -> u64 {
        self.window.as_ref().map_or(u64::MAX, AckWindow::room)
    }

    /// The cursor has to wait: for room in the window, or for the peer to read.
    pub fn waits(&mut self) {
        self.has_waited = true;
    }

    /// The cursor stands at the head: it waits for nothing but a message.
    pub fn caught_up(&mut self) {
        self.has_waited = false;
    }

    /// Whether [`skip`](Self::skip) has to be asked before the cursor goes on.
    pub fn may_skip(&self) -> bool {
        self.has_waited && self.slow == Slow::Latest
    }

    /// The last number to be skipped, and named, before the cursor goes on.
    pub fn skip(&mut self, cursor: Cursor, log: Window) -> Option<u64> {
        let newest = log.next.saturating_sub(1);
        // A reset to another log comes first. The subscriber misses more by that than by any skip.
        let skips =
            self.may_skip() && cursor.position.epoch == log.epoch && cursor.position.next < newest;
        self.has_waited = false;
        skips.then(|| newest - 1)
    }

    /// The numbers from the cursor to `last` have left the log.
    pub fn overtaken(&self, cursor: Cursor, last: u64) -> Overtaken {
        match self.slow {
            Slow::Gap | Slow::Latest => Overtaken::Name(last),
            Slow::Close if cursor.position.next < self.gone => {
                Overtaken::Name(last.min(self.gone - 1))
            }
            Slow::Close => Overtaken::End,
        }
    }

    /// These were delivered.
    pub fn delivered(&mut self, first: u64, last: u64) {
        if let Some(window) = &mut self.window {
            window.delivered(first, last);
        }
    }

    /// All below `next` are handled; whether the cursor can go on that could not before.
    pub fn acked(&mut self, next: u64) -> bool {
        let was_full = self.room() == 0;
        if let Some(window) = &mut self.window {
            window.acked(next);
        }
        was_full && self.room() > 0
    }

    /// Another log goes on from its beginning: the window is empty again.
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
    fn terms_are_numbers_and_words() {
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
    fn the_latest_is_skipped_to_only_after_a_wait_and_over_more_than_one() {
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
    fn only_what_left_since_it_began_ends_a_subscription() {
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
