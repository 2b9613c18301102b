//! What happens to one connection, by direction and byte.

use std::time::Duration;

use fastrand::Rng;

use super::{Both, Direction};

/// What happens to one connection: nothing, unless it is said. Each direction has one end (`cut`,
/// `close`, `go_dark`) and one black hole, of which the last said counts, and any number of stalls.
///
/// Offsets count the bytes delivered in a direction: "at `k`" is after exactly `k` of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub(super) is_refusal: bool,
    /// The seed.
    pub(super) slices: Option<u64>,
    pub(super) scripts: Both<Script>,
}

/// What becomes of bytes that are not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hole {
    /// The sender may write them, all.
    Swallows,
    /// The sender can write no more than the transport holds.
    Blocks,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Reset,
    /// Each end reads the end of the stream.
    Close,
    /// Nothing passes any more, and neither end is closed.
    Dark,
}

impl Plan {
    /// Nothing happens.
    pub fn new() -> Self {
        Self::default()
    }

    /// The connection is refused. It has a number all the same.
    pub fn refusal(mut self) -> Self {
        self.is_refusal = true;
        self
    }

    /// What is passed on goes in pieces of 1 to 7 bytes, others having their turn after each.
    pub fn slice(mut self, seed: u64) -> Self {
        self.slices = Some(seed);
        self
    }

    /// Both ends are reset at `k`.
    pub fn cut(self, direction: Direction, k: usize) -> Self {
        self.end(direction, k, Fate::Reset)
    }

    /// The connection is closed at `k`, in an orderly way to both ends.
    pub fn close(self, direction: Direction, k: usize) -> Self {
        self.end(direction, k, Fate::Close)
    }

    /// Nothing is delivered in either direction once this one is at `k`, and nothing is closed.
    pub fn go_dark(self, direction: Direction, k: usize) -> Self {
        self.end(direction, k, Fate::Dark)
    }

    /// Nothing is delivered in this direction from `k` on, and no end of it; the other lives.
    pub fn black_hole(mut self, direction: Direction, k: usize, hole: Hole) -> Self {
        self.scripts[direction].hole = Some((k, hole));
        self
    }

    /// What comes at `k`, a byte or the end, waits for so long, and all behind it with it.
    pub fn stall(mut self, direction: Direction, k: usize, time: Duration) -> Self {
        self.scripts[direction].stalls.push((k, time));
        self
    }

    /// The end of this direction is passed on so much later than it comes: an orderly one, a reset,
    /// or that its sender turns out to be gone.
    pub fn slow_close(mut self, direction: Direction, time: Duration) -> Self {
        self.scripts[direction].slow_close = time;
        self
    }

    /// By chance: slices, and up to two stalls in each direction, within the first `bytes` of it
    /// and none longer than `longest`. It loses nothing.
    pub fn rough(seed: u64, bytes: usize, longest: Duration) -> Self {
        Self::new().roughen(&mut Rng::with_seed(seed), bytes, longest)
    }

    /// By chance: rough, and in eight of ten cases one thing more, which most often ends it.
    pub fn random(seed: u64, bytes: usize, longest: Duration) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Self::new().roughen(&mut rng, bytes, longest);
        let (direction, k) = (Direction::BOTH[rng.usize(..2)], rng.usize(..=bytes));
        match rng.u8(..10) {
            0..=2 => plan.cut(direction, k),
            3 => plan.close(direction, k),
            4 => plan.go_dark(direction, k),
            5 => plan.black_hole(direction, k, [Hole::Swallows, Hole::Blocks][rng.usize(..2)]),
            6 => plan.slow_close(direction, up_to(&mut rng, longest)),
            7 => plan.refusal(),
            _ => plan,
        }
    }

    fn roughen(mut self, rng: &mut Rng, bytes: usize, longest: Duration) -> Self {
        if rng.bool() {
            self = self.slice(rng.u64(..));
        }
        for direction in Direction::BOTH {
            for _ in 0..rng.usize(..3) {
                self = self.stall(direction, rng.usize(..=bytes), up_to(rng, longest));
            }
        }
        self
    }

    fn end(mut self, direction: Direction, k: usize, fate: Fate) -> Self {
        self.scripts[direction].fate = Some((k, fate));
        self
    }
}

/// In whole milliseconds, which is what tokio's clock counts.
fn up_to(rng: &mut Rng, longest: Duration) -> Duration {
    let longest = u64::try_from(longest.as_millis()).expect("less than an age");
    Duration::from_millis(rng.u64(..=longest))
}

/// What is left to happen in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Script {
    fate: Option<(usize, Fate)>,
    hole: Option<(usize, Hole)>,
    stalls: Vec<(usize, Duration)>,
    pub(super) slow_close: Duration,
}

impl Script {
    pub(super) fn darken(&mut self) {
        self.hole = Some((0, Hole::Swallows));
    }

    pub(super) fn take_fate(&mut self, passed: usize) -> Option<Fate> {
        self.fate.take_if(|(at, _)| *at <= passed).map(|(_, fate)| fate)
    }

    pub(super) fn take_stall(&mut self, passed: usize) -> Option<Duration> {
        let at = self.stalls.iter().position(|(at, _)| *at <= passed)?;
        Some(self.stalls.swap_remove(at).1)
    }

    pub(super) fn hole(&self, passed: usize) -> Option<Hole> {
        self.hole.filter(|(at, _)| *at <= passed).map(|(_, hole)| hole)
    }

    /// How many bytes may be delivered before something happens.
    pub(super) fn reach(&self, passed: usize) -> usize {
        let stalls = self.stalls.iter().map(|(at, _)| *at);
        let fate = self.fate.map(|(at, _)| at);
        let ahead = stalls.chain(fate).chain(self.hole.map(|(at, _)| at));
        ahead.map(|at| at - passed).min().unwrap_or(usize::MAX)
    }

    /// How many bytes may be taken.
    pub(super) fn room(&self, passed: usize) -> usize {
        match self.hole {
            Some((at, Hole::Blocks)) => at - passed,
            _ => usize::MAX,
        }
    }
}
