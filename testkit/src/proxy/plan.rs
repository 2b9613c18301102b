//! What happens to one connection, by direction and byte.

use std::time::Duration;

use fastrand::Rng;

use super::{Both, Direction};

/// What happens to one connection; nothing by default. Each direction has one end (`cut`, `close`,
/// `go_dark`) and one black hole, of which the last one set counts, and any number of stalls.
///
/// Offsets count the bytes delivered in a direction: "at `k`" is after exactly `k` bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub(super) is_refusal: bool,
    /// The seed.
    pub(super) slices: Option<u64>,
    pub(super) scripts: Both<Script>,
}

/// What happens to bytes that are not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hole {
    /// The sender can write all of them.
    Swallows,
    /// The sender can write only as much as the transport holds.
    Blocks,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Reset,
    /// Each end reads the end of the stream.
    Close,
    /// Nothing passes any more, but neither end is closed.
    Dark,
}

impl Plan {
    /// Nothing happens.
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses the connection. It uses a number nevertheless.
    pub fn refusal(mut self) -> Self {
        self.is_refusal = true;
        self
    }

    /// Passes bytes on in pieces of 1 to 7, and lets other tasks run after each piece.
    pub fn slice(mut self, seed: u64) -> Self {
        self.slices = Some(seed);
        self
    }

    /// Resets both ends at `k`.
    pub fn cut(self, direction: Direction, k: usize) -> Self {
        self.end(direction, k, Fate::Reset)
    }

    /// Closes the connection at `k`, in an orderly way for both ends.
    pub fn close(self, direction: Direction, k: usize) -> Self {
        self.end(direction, k, Fate::Close)
    }

    /// Delivers nothing in either direction once this one is at `k`, and closes nothing.
    pub fn go_dark(self, direction: Direction, k: usize) -> Self {
        self.end(direction, k, Fate::Dark)
    }

    /// Delivers nothing in this direction from `k` on, not even its end. The other direction goes
    /// on.
    pub fn black_hole(mut self, direction: Direction, k: usize, hole: Hole) -> Self {
        self.scripts[direction].hole = Some((k, hole));
        self
    }

    /// Delays what comes at `k`, a byte or the end, by `time`, and everything behind it.
    pub fn stall(mut self, direction: Direction, k: usize, time: Duration) -> Self {
        self.scripts[direction].stalls.push((k, time));
        self
    }

    /// Delays the end of this direction by `time`: an orderly end, a reset, or the discovery that
    /// its sender has disappeared.
    pub fn slow_close(mut self, direction: Direction, time: Duration) -> Self {
        self.scripts[direction].slow_close = time;
        self
    }

    /// A random plan of slices, and up to two stalls in each direction, within its first `bytes`
    /// bytes and none longer than `longest`. It loses nothing.
    pub fn rough(seed: u64, bytes: usize, longest: Duration) -> Self {
        Self::new().roughen(&mut Rng::with_seed(seed), bytes, longest)
    }

    /// A random plan: rough, and in eight of ten cases with one more fault, which usually ends the
    /// connection.
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

/// In whole milliseconds, the resolution of tokio's clock.
fn up_to(rng: &mut Rng, longest: Duration) -> Duration {
    let longest = u64::try_from(longest.as_millis()).expect("less than an age");
    Duration::from_millis(rng.u64(..=longest))
}

/// The remaining faults of one direction.
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

    /// How many bytes may be delivered before the next fault.
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
