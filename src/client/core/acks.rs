//! The acks of a topic in the client: what its readers have handled, and which ack was sent last.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU64,
};

use crate::{
    client::core::inbox::Inbox,
    protocol::{AckWindow, Epoch, MAX_NUMBER, Position, half_window},
    sync::Arc,
};

/// The acks of one wire subscription. The slowest reader decides which position is acknowledged.
#[derive(Debug)]
pub(crate) struct Acks {
    window: AckWindow,
    half: u64,
    /// The position behind all that the server has delivered or named on the present wire
    /// subscription; no ack goes above it. `None` while there is no wire subscription.
    wire: Option<Position>,
    /// The number of the last ack that was sent, in the epoch of `wire`.
    told: u64,
    readers: Readers,
    /// The driver was notified that there is an ack to write.
    is_due: bool,
}

impl Acks {
    pub(crate) fn new(size: NonZeroU64) -> Self {
        Self {
            window: AckWindow::new(size),
            half: half_window(size),
            wire: None,
            told: 0,
            readers: Readers::default(),
            is_due: false,
        }
    }

    /// Adds a reader that has handled all below `at`. With `None`, its position is not known yet.
    pub(crate) fn join(&mut self, inbox: Arc<Inbox>, at: Option<Position>) {
        self.readers.set(&inbox, at);
    }

    pub(crate) fn leave(&mut self, inbox: &Arc<Inbox>) {
        self.readers.remove(inbox);
    }

    /// A wire subscription, or another log on it, begins at `next`.
    pub(crate) fn begin(&mut self, next: Position) {
        self.window = AckWindow::new(self.window.size());
        self.wire = Some(next);
        self.told = next.next;
        self.readers.begin(next.epoch);
    }

    /// The wire subscription is over: nothing is acknowledged before the next begins.
    pub(crate) fn stop(&mut self) {
        self.wire = None;
        self.is_due = false;
    }

    /// Takes in a notification. Returns whether the window had room for it.
    pub(crate) fn delivered(&mut self, number: u64) -> bool {
        let Some(wire) = &mut self.wire else { return true };
        if number < wire.next {
            return true;
        }
        wire.next = number + 1;
        let has_room = !self.window.is_full();
        self.window.delivered(number, number);
        has_room
    }

    /// Takes in that the server has named all below `next` in a gap, or lists it as delivered.
    pub(crate) fn named(&mut self, next: Position) {
        if let Some(wire) = &mut self.wire
            && wire.epoch == next.epoch
        {
            wire.next = wire.next.max(next.next);
        }
    }

    /// Takes in that a reader has handled all below `position`. Reports may arrive out of order, so
    /// the greatest counts.
    pub(crate) fn handled(&mut self, inbox: &Arc<Inbox>, position: Position) {
        let Some(at) = self.readers.at(inbox) else { return };
        let is_current = self.wire.is_some_and(|wire| wire.epoch == position.epoch);
        let is_later = match at {
            Some(at) if at.epoch == position.epoch => position.next > at.next,
            // The reader's position is in another log. The log that the server is in now is the
            // later one.
            Some(_) => is_current,
            None => true,
        };
        if is_later {
            self.readers.set(inbox, Some(position));
        }
    }

    /// Whether an ack has just become due, so that the driver has to be notified. After a report of
    /// a reader (`reported`), any rise is enough, because the reader has already waited for half a
    /// window. Otherwise the position has to rise by half the window.
    pub(crate) fn comes_due(&mut self, reported: bool) -> bool {
        let least = if reported { 1 } else { self.half };
        let rise = self.target().map_or(0, |target| target.next - self.told);
        let comes = !self.is_due && rise >= least;
        self.is_due |= comes;
        comes
    }

    /// Takes the ack to be written, if one is due. It counts as sent.
    pub(crate) fn take_due(&mut self) -> Option<Position> {
        std::mem::take(&mut self.is_due).then(|| self.take()).flatten()
    }

    fn take(&mut self) -> Option<Position> {
        self.is_due = false;
        let target = self.target()?;
        self.told = target.next;
        self.window.acked(target.next);
        Some(target)
    }

    /// The position of the next ack, if it is above the last one.
    fn target(&self) -> Option<Position> {
        let wire = self.wire?;
        let handled = match self.readers.slowest() {
            Slowest::Nobody => wire.next,
            Slowest::Elsewhere => self.told,
            Slowest::At(next) => next,
        };
        // A server at the last number there is leaves none to name.
        let next = handled.min(wire.next).min(MAX_NUMBER);
        (next > self.told).then_some(Position { next, ..wire })
    }
}

/// The readers of a topic, with the position of each. The cost of a change does not depend on the
/// number of readers.
#[derive(Debug, Default)]
struct Readers {
    /// By the address of the inbox. The entry holds the inbox, so that its address is not reused.
    all: HashMap<usize, (Arc<Inbox>, Option<Position>)>,
    /// The log that the server is in.
    epoch: Option<Epoch>,
    /// For each number, how many readers are at it. Only readers whose position is in this log.
    places: BTreeMap<u64, usize>,
    /// The number of readers whose position is in this log.
    counted: usize,
}

/// The position of the slowest reader.
enum Slowest {
    /// There is no reader.
    Nobody,
    /// Some reader has not reached this log yet.
    Elsewhere,
    At(u64),
}

impl Readers {
    /// The server is in this log now.
    fn begin(&mut self, epoch: Epoch) {
        if self.epoch.replace(epoch) == Some(epoch) {
            return;
        }
        self.places.clear();
        self.counted = 0;
        let all: Vec<_> = self.all.values().map(|(_, at)| *at).collect();
        all.into_iter().for_each(|at| self.count(at));
    }

    fn at(&self, inbox: &Arc<Inbox>) -> Option<Option<Position>> {
        self.all.get(&key(inbox)).map(|(_, at)| *at)
    }

    /// Adds a reader, or moves it.
    fn set(&mut self, inbox: &Arc<Inbox>, at: Option<Position>) {
        if let Some((_, before)) = self.all.insert(key(inbox), (inbox.clone(), at)) {
            self.uncount(before);
        }
        self.count(at);
    }

    fn remove(&mut self, inbox: &Arc<Inbox>) {
        if let Some((_, at)) = self.all.remove(&key(inbox)) {
            self.uncount(at);
        }
    }

    fn slowest(&self) -> Slowest {
        match self.places.first_key_value() {
            _ if self.all.is_empty() => Slowest::Nobody,
            Some((&next, _)) if self.counted == self.all.len() => Slowest::At(next),
            _ => Slowest::Elsewhere,
        }
    }

    fn count(&mut self, at: Option<Position>) {
        if let Some(at) = at.filter(|at| Some(at.epoch) == self.epoch) {
            *self.places.entry(at.next).or_default() += 1;
            self.counted += 1;
        }
    }

    fn uncount(&mut self, at: Option<Position>) {
        let Some(at) = at.filter(|at| Some(at.epoch) == self.epoch) else { return };
        self.counted -= 1;
        if let Some(count) = self.places.get_mut(&at.next) {
            *count -= 1;
            if *count == 0 {
                self.places.remove(&at.next);
            }
        }
    }
}

fn key(inbox: &Arc<Inbox>) -> usize {
    Arc::as_ptr(inbox).addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    fn size(window: u64) -> NonZeroU64 {
        NonZeroU64::new(window).unwrap()
    }

    fn inbox() -> Arc<Inbox> {
        Arc::new(Inbox::new(1, 1))
    }

    #[test]
    fn acks_follow_the_slowest_reader() {
        let mut acks = Acks::new(size(4));
        let (one, two) = (inbox(), inbox());
        acks.join(one.clone(), None);
        acks.begin(at("e:5"));
        (5..9).for_each(|n| assert!(acks.delivered(n)));
        assert!(!acks.delivered(9), "beyond the window");
        acks.join(two.clone(), Some(at("e:7")));
        acks.handled(&two, at("e:9"));
        assert!(!acks.comes_due(true));
        acks.handled(&one, at("e:99"));
        acks.handled(&one, at("e:6"));
        assert!(acks.comes_due(true));
        assert!(!acks.comes_due(true), "once is enough");
        assert_eq!(acks.take(), Some(at("e:9")));
        acks.leave(&two);
        assert_eq!(acks.take(), Some(at("e:10")), "no more than was delivered");
    }

    /// Compares with the least of all positions, over many schedules.
    #[test]
    fn the_slowest_reader_has_the_lowest_position() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..200 {
            let mut acks = Acks::new(size(u64::MAX));
            let mut plain: Vec<(Arc<Inbox>, u64)> = Vec::new();
            acks.begin(at("e:1"));
            acks.named(at("e:1000"));
            for _ in 0..60 {
                let position = Position { next: random.u64(1..50), ..at("e:1") };
                let some = (!plain.is_empty()).then(|| random.usize(..plain.len()));
                match (random.u8(..3), some) {
                    (0, Some(at)) => acks.leave(&plain.swap_remove(at).0),
                    (1, Some(at)) => {
                        let (inbox, next) = &mut plain[at];
                        acks.handled(inbox, position);
                        *next = position.next.max(*next);
                    }
                    _ => {
                        let inbox = inbox();
                        acks.join(inbox.clone(), Some(position));
                        plain.push((inbox, position.next));
                    }
                }
                let least = plain.iter().map(|(_, next)| *next).min().unwrap_or(1_000);
                let target = acks.target().map_or(1, |target| target.next);
                assert_eq!(target, least.max(1));
            }
        }
    }

    #[test]
    fn acks_restart_on_each_wire_subscription() {
        let mut acks = Acks::new(size(4));
        let reader = inbox();
        acks.join(reader.clone(), None);
        acks.begin(at("e:1"));
        (1..4).for_each(|n| assert!(acks.delivered(n)));
        acks.handled(&reader, at("e:3"));
        assert!(acks.comes_due(true));
        acks.stop();
        assert_eq!(acks.take_due(), None, "it is not written on the next one");
        assert_eq!(acks.take(), None);
        acks.begin(at("e:4"));
        acks.handled(&reader, at("e:4"));
        assert_eq!(acks.take(), None);
        assert!(acks.delivered(4));
        acks.handled(&reader, at("e:5"));
        assert_eq!(acks.take(), Some(at("e:5")));
        acks.begin(at("f:1"));
        assert!(acks.delivered(1));
        acks.handled(&reader, at("e:6"));
        assert_eq!(acks.take(), None);
        acks.handled(&reader, at("f:2"));
        assert_eq!(acks.take(), Some(at("f:2")));
    }

    /// A position in a log counts once the server is in that log, also if it was reported before.
    #[test]
    fn a_position_ahead_of_the_server_counts_once_it_is_in_that_log() {
        let mut acks = Acks::new(size(4));
        let (one, two) = (inbox(), inbox());
        acks.join(one.clone(), Some(at("f:3")));
        acks.join(two.clone(), Some(at("f:3")));
        acks.begin(at("e:1"));
        assert!(acks.delivered(1));
        assert_eq!(acks.take(), None);
        acks.begin(at("f:3"));
        assert!(acks.delivered(3));
        acks.handled(&one, at("f:4"));
        assert_eq!(acks.take(), None, "the other one has still to handle it");
        acks.handled(&two, at("f:4"));
        assert_eq!(acks.take(), Some(at("f:4")));
    }

    #[test]
    fn acks_never_exceed_the_last_received_number() {
        let mut acks = Acks::new(size(4));
        let last = Position { next: MAX_NUMBER, ..at("e:1") };
        acks.begin(last);
        assert!(acks.delivered(MAX_NUMBER));
        assert_eq!(acks.take(), None);
    }

    #[test]
    fn without_readers_received_messages_are_acknowledged() {
        let mut acks = Acks::new(size(4));
        acks.begin(at("e:1"));
        acks.delivered(1);
        assert!(!acks.comes_due(false));
        acks.delivered(2);
        assert!(acks.comes_due(false));
        assert_eq!(acks.take(), Some(at("e:3")));
    }
}
