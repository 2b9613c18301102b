//! Acks on the client's side: what each reader of a topic has handled, and what the server is told.

use std::{collections::BTreeMap, fmt, num::NonZeroU64};

use crate::{
    client::{
        inbox::{Delivery, Gap, Inbox, Notification},
        subscription::Membership,
    },
    protocol::{AckWindow, Position},
    sync::{Arc, Mutex, Weak},
};

/// How far behind the server may be: half the window, so that it never waits for more.
fn half(window: NonZeroU64) -> u64 {
    (window.get() / 2).max(1)
}

/// One reader of a topic with a window: what it was handed, and what of that is handled.
#[derive(Debug)]
pub(crate) struct Reader {
    /// The application says what is handled; else what was handed over is.
    pub(crate) by_hand: bool,
    half: u64,
    handled: Mutex<Handled>,
}

impl Reader {
    pub(crate) fn new(window: NonZeroU64, by_hand: bool) -> Self {
        Self { by_hand, half: half(window), handled: Mutex::default() }
    }

    /// A delivery was handed over; the position to report, when there is enough to say.
    pub(crate) fn handed_over(&self, delivery: &Delivery) -> Option<Position> {
        let mut handled = self.handled.lock();
        handled.hand_over(delivery, self.by_hand);
        handled.take_report(self.half)
    }

    /// One notification is handled.
    pub(crate) fn ack(&self, at: Position) -> Option<Position> {
        self.ack_between(at, at.next, at.next)
    }

    /// All that was handed over below `position` is handled.
    pub(crate) fn ack_below(&self, position: Position) -> Option<Position> {
        self.ack_between(position, 1, position.next - 1)
    }

    fn ack_between(&self, at: Position, first: u64, last: u64) -> Option<Position> {
        let mut handled = self.handled.lock();
        if handled.floor?.epoch != at.epoch {
            return None;
        }
        handled.ack(first, last);
        handled.take_report(self.half)
    }
}

/// **Invariant:** `floor.next` ≤ `handed`, and what is in `above` lies between them, in runs that
/// touch neither each other nor `floor`. There are at most as many as numbers that are not handled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Handled {
    /// All below was handled; `None` before the first delivery.
    floor: Option<Position>,
    /// All below was handed over.
    handed: u64,
    /// Handled out of order: the first number of each run, and its last.
    above: BTreeMap<u64, u64>,
    /// The last number of the newest gap.
    gap: u64,
    /// The floor that was reported last.
    reported: u64,
}

impl Handled {
    fn begin(&mut self, at: Position) {
        let next = at.next;
        *self = Self { floor: Some(at), handed: next, reported: next, ..Self::default() };
    }

    fn hand_over(&mut self, delivery: &Delivery, by_hand: bool) {
        let (epoch, first, last, is_gap) = match delivery {
            Delivery::Notification(Notification { epoch, sequence, .. }) => {
                (*epoch, *sequence, *sequence, false)
            }
            Delivery::Gap(Gap { epoch, first, last, .. }) => (*epoch, *first, *last, true),
            Delivery::Reset { position, .. } => return self.begin(*position),
            Delivery::End { .. } => return,
        };
        if self.floor.is_none_or(|floor| floor.epoch != epoch) {
            self.begin(Position { epoch, next: first });
        }
        self.handed = last + 1;
        if is_gap {
            self.gap = last;
        }
        if is_gap || !by_hand {
            self.ack(first, last);
        }
    }

    /// What of `first` to `last` was handed over is handled.
    fn ack(&mut self, first: u64, last: u64) {
        let Some(floor) = &mut self.floor else { return };
        let (mut first, mut last) = (first.max(floor.next), last.min(self.handed - 1));
        if first > last {
            return;
        }
        // Joined with the runs that it touches or covers.
        while let Some((&begin, &end)) = self.above.range(..=last + 1).next_back() {
            if end + 1 < first {
                break;
            }
            self.above.remove(&begin);
            (first, last) = (first.min(begin), last.max(end));
        }
        match first == floor.next {
            true => floor.next = last + 1,
            false => drop(self.above.insert(first, last)),
        }
    }

    /// The floor, if it moved over `half` numbers since the last report, or over the newest gap.
    fn take_report(&mut self, half: u64) -> Option<Position> {
        let floor = self.floor?;
        let passed_gap = (self.reported..floor.next).contains(&self.gap);
        let is_due = passed_gap || floor.next - self.reported >= half;
        is_due.then(|| {
            self.reported = floor.next;
            floor
        })
    }
}

/// The acks of one wire subscription: its slowest reader says what is handled.
#[derive(Debug)]
pub(crate) struct Acks {
    window: AckWindow,
    half: u64,
    /// What the server has delivered or named on the present wire subscription; no ack goes above.
    /// `None` while there is none.
    wire: Option<Position>,
    /// What the server was told last, in the epoch of `wire`.
    told: u64,
    readers: Vec<(Arc<Inbox>, Option<Position>)>,
    /// The driver was told that there is an ack to write.
    is_due: bool,
}

impl Acks {
    pub(crate) fn new(size: NonZeroU64) -> Self {
        Self {
            window: AckWindow::new(size),
            half: half(size),
            wire: None,
            told: 0,
            readers: Vec::new(),
            is_due: false,
        }
    }

    /// Adds a reader, which has handled all below `at`; without it, all that came before.
    pub(crate) fn join(&mut self, inbox: Arc<Inbox>, at: Option<Position>) {
        self.readers.push((inbox, at));
    }

    pub(crate) fn leave(&mut self, inbox: &Arc<Inbox>) {
        self.readers.retain(|(other, _)| !Arc::ptr_eq(other, inbox));
    }

    /// A wire subscription, or another log on it, begins at `next`.
    pub(crate) fn begin(&mut self, next: Position) {
        self.window = AckWindow::new(self.window.size());
        self.wire = Some(next);
        self.told = next.next;
    }

    /// The wire subscription is over: nothing is acknowledged before the next begins.
    pub(crate) fn stop(&mut self) {
        self.wire = None;
    }

    /// A notification came; whether the window had room for it.
    pub(crate) fn delivered(&mut self, number: u64) -> bool {
        let Some(wire) = &mut self.wire else { return true };
        if number < wire.next {
            return true;
        }
        wire.next = number + 1;
        let has_room = self.window.room() > 0;
        self.window.delivered(number, number);
        has_room
    }

    /// The server has named, or claims to have delivered, all below `next`.
    pub(crate) fn named(&mut self, next: Position) {
        if let Some(wire) = &mut self.wire
            && wire.epoch == next.epoch
        {
            wire.next = wire.next.max(next.next);
        }
    }

    /// A reader has handled all below `position`. Reports may overtake each other: the greatest
    /// counts.
    pub(crate) fn handled(&mut self, inbox: &Arc<Inbox>, position: Position) {
        let mut readers = self.readers.iter_mut();
        let Some((_, at)) = readers.find(|(other, _)| Arc::ptr_eq(other, inbox)) else { return };
        let is_current = self.wire.is_some_and(|wire| wire.epoch == position.epoch);
        match at {
            Some(at) if at.epoch == position.epoch => at.next = at.next.max(position.next),
            // Of two logs the one that the server is at is the later one.
            Some(_) if !is_current => {}
            at => *at = Some(position),
        }
    }

    /// Whether an ack came due that the driver has not heard of: what readers have `reported` is
    /// enough to be told, what no reader waits for is told by halves of the window.
    pub(crate) fn comes_due(&mut self, reported: bool) -> bool {
        let least = if reported { 1 } else { self.half };
        let rise = self.target().map_or(0, |target| target.next - self.told);
        let comes = !self.is_due && rise >= least;
        self.is_due |= comes;
        comes
    }

    /// The ack to be written, which counts as told.
    pub(crate) fn take(&mut self) -> Option<Position> {
        self.is_due = false;
        let target = self.target()?;
        self.told = target.next;
        self.window.acked(target.next);
        Some(target)
    }

    /// What may be told now, if it is more than was.
    fn target(&self) -> Option<Position> {
        let wire = self.wire?;
        let handled = self.readers.iter().map(|(_, at)| match at {
            Some(at) if at.epoch == wire.epoch => at.next,
            _ => self.told,
        });
        let next = handled.min().unwrap_or(wire.next).min(wire.next);
        (next > self.told).then_some(Position { next, ..wire })
    }
}

/// What a notification needs to be acknowledged by hand; it does not keep its subscription alive.
#[derive(Clone, Default)]
pub(crate) struct AckHandle(Option<Weak<Membership>>);

impl AckHandle {
    pub(crate) fn of(membership: &Arc<Membership>) -> Self {
        Self(Some(Arc::downgrade(membership)))
    }

    pub(crate) fn ack(&self, at: Position) {
        if let Some(membership) = self.0.as_ref().and_then(Weak::upgrade) {
            membership.ack(at);
        }
    }
}

/// Two notifications are equal whoever got them.
impl PartialEq for AckHandle {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for AckHandle {}

impl fmt::Debug for AckHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AckHandle")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::GapCause, protocol::Topic};

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    fn size(window: u64) -> NonZeroU64 {
        NonZeroU64::new(window).unwrap()
    }

    fn inbox() -> Arc<Inbox> {
        Arc::new(Inbox::new(1, 1))
    }

    fn item(position: &str) -> Delivery {
        let Position { epoch, next: sequence } = at(position);
        let (topic, ack) = (Topic::new("t").unwrap(), AckHandle::default());
        Delivery::Notification(Notification {
            topic,
            epoch,
            sequence,
            payload: bytes::Bytes::new(),
            ack,
        })
    }

    fn gap(first: u64, last: u64) -> Delivery {
        let (topic, epoch) = (Topic::new("t").unwrap(), at("e:1").epoch);
        Delivery::Gap(Gap { topic, epoch, first, last, cause: GapCause::Lagged })
    }

    #[test]
    fn what_is_handed_over_is_told_by_halves() {
        let reader = Reader::new(size(5), false);
        let reports: Vec<_> =
            (3..9).map(|n| reader.handed_over(&item(&format!("e:{n}")))).collect();
        let [a, b, c] = ["e:5", "e:7", "e:9"].map(|text| Some(at(text)));
        assert_eq!(reports, [None, a, None, b, None, c]);
        assert_eq!(Reader::new(size(1), false).handed_over(&item("e:1")), Some(at("e:2")));
    }

    #[test]
    fn by_hand_the_lowest_that_is_left_counts() {
        let reader = Reader::new(size(2), true);
        for number in 1..=6 {
            assert_eq!(reader.handed_over(&item(&format!("e:{number}"))), None);
        }
        for (ack, report) in [("e:2", None), ("e:4", None), ("e:9", None), ("f:1", None)] {
            assert_eq!(reader.ack(at(ack)), report, "{ack}");
        }
        assert_eq!(reader.ack(at("e:1")), Some(at("e:3")));
        assert_eq!(reader.ack(at("e:1")), None);
        assert_eq!(reader.ack(at("e:3")), Some(at("e:5")));
        assert_eq!(reader.ack_below(at("e:99")), Some(at("e:7")), "no more than was handed over");
        assert!(reader.handled.lock().above.is_empty());
    }

    #[test]
    fn a_gap_is_handled_when_it_is_handed_over_and_told_at_once() {
        let reader = Reader::new(size(100), true);
        assert_eq!(reader.handed_over(&item("e:1")), None);
        assert_eq!(reader.handed_over(&gap(2, 4)), None);
        assert_eq!(reader.handed_over(&item("e:5")), None);
        assert_eq!(reader.ack(at("e:1")), Some(at("e:5")));
        let position = at("f:1");
        let reset = Delivery::Reset { topic: Topic::new("t").unwrap(), position };
        assert_eq!(reader.handed_over(&reset), None);
        assert_eq!(reader.ack(at("e:5")), None);
        assert_eq!(reader.handled.lock().floor, Some(position));
    }

    /// Against the plain set of numbers, in any order.
    #[test]
    fn the_floor_is_that_of_a_set() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let (mut handled, mut left) = (Handled::default(), Vec::new());
            (1..=30).for_each(|n| handled.hand_over(&item(&format!("e:{n}")), true));
            left.extend(1..=30u64);
            random.shuffle(&mut left);
            while let Some(number) = left.pop() {
                handled.ack(number, number);
                let floor = left.iter().copied().min().unwrap_or(31);
                assert_eq!(handled.floor.unwrap().next, floor);
                assert!(handled.above.len() <= left.len());
            }
        }
    }

    #[test]
    fn the_slowest_reader_says_and_the_wire_bounds_it() {
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

    #[test]
    fn a_new_wire_subscription_is_acknowledged_from_its_beginning() {
        let mut acks = Acks::new(size(4));
        let reader = inbox();
        acks.join(reader.clone(), None);
        acks.begin(at("e:1"));
        (1..4).for_each(|n| assert!(acks.delivered(n)));
        acks.stop();
        acks.handled(&reader, at("e:3"));
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

    #[test]
    fn without_a_reader_that_asked_for_it_receipt_is_enough() {
        let mut acks = Acks::new(size(4));
        acks.begin(at("e:1"));
        acks.delivered(1);
        assert!(!acks.comes_due(false));
        acks.delivered(2);
        assert!(acks.comes_due(false));
        assert_eq!(acks.take(), Some(at("e:3")));
    }
}
