//! A session whose connection is cut: where and how, and the check of its result.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    str::FromStr,
    time::Duration,
};

use fastrand::Rng;
use tokio::{runtime, time::timeout};

use crate::{
    cutting::Reads,
    proxy::{
        Direction::{self, ToClient, ToServer},
        Plan,
    },
    recorder::Recorder,
    session::{self, Report, Trouble},
};

/// The capacity of a narrow pipe. It is less than a burst, so lines wait to be offered.
const NARROW: usize = 300;

/// The capacity of a wide pipe, more than is ever sent.
const WIDE: usize = 64 * 1024;

/// The number of seeds for the client's jitter.
const SEEDS: u64 = 8;

/// A session, and what happens to its first connection after `k` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub how: How,
    pub direction: Direction,
    pub k: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Both ends are reset.
    Reset,
    /// As `Reset`, with pipes that hold all bytes.
    Wide,
    /// As `Reset`, with bytes that are passed on in slices.
    Sliced,
    /// As `Reset`, and the next connection is reset, too, at a random point.
    Twice,
    /// As `Reset`, and another server takes over then.
    Restart,
    /// Both ends read the end of the stream.
    Close,
    /// Nothing passes any more, but neither end is closed.
    Dark,
    /// Writes of the client's transport fail, but its reads go on.
    Writes,
    /// Writes and reads of the client's transport fail.
    Fails,
}

const HOWS: [(How, &str); 9] = [
    (How::Reset, "reset"),
    (How::Wide, "wide"),
    (How::Sliced, "sliced"),
    (How::Twice, "twice"),
    (How::Restart, "restart"),
    (How::Close, "close"),
    (How::Dark, "dark"),
    (How::Writes, "writes"),
    (How::Fails, "fails"),
];

const DIRECTIONS: [(Direction, &str); 2] = [(ToServer, "to-server"), (ToClient, "to-client")];

/// What is wrong with a session, and its history.
pub struct Failure {
    pub what: String,
    pub log: String,
}

impl Case {
    /// Plays the session. Up to the cut it must deliver the same bytes as the uncut session.
    pub fn play(self, uncut: &Uncut) -> Result<Report, Failure> {
        let report = play(&self.trouble(), self.bound())?;
        let is_exact = !matches!(self.how, How::Wide | How::Sliced | How::Writes | How::Fails);
        let delivered = &report.delivered[self.direction as usize];
        let expected = &uncut.0[self.seed() as usize].delivered[self.direction as usize];
        if is_exact && *delivered != expected[..self.k.min(expected.len())] {
            let what = format!("{} bytes were delivered, or others", delivered.len());
            return Err(Failure { what, log: String::new() });
        }
        Ok(report)
    }

    fn trouble(self) -> Trouble {
        let Self { how, direction, k } = self;
        let cut = Plan::new().cut(direction, k);
        let plans = match how {
            How::Reset | How::Wide | How::Restart => vec![cut],
            How::Sliced => vec![cut.slice(k as u64)],
            How::Twice => vec![cut, second_cut(k as u64)],
            How::Close => vec![Plan::new().close(direction, k)],
            How::Dark => vec![Plan::new().go_dark(direction, k)],
            How::Writes | How::Fails => vec![],
        };
        let takes = match how {
            How::Writes => Some((k, Reads::GoOn)),
            How::Fails => Some((k, Reads::Fail)),
            _ => None,
        };
        let pipe = if how == How::Wide { WIDE } else { NARROW };
        Trouble { plans, takes, restarts: how == How::Restart, seed: self.seed(), pipe }
    }

    fn seed(self) -> u64 {
        self.k as u64 % SEEDS
    }

    /// The longest virtual time that the session may take.
    fn bound(self) -> Duration {
        match self.how {
            // A silence is noticed after 20 s; a close waits for 40 s.
            How::Dark => Duration::from_secs(65),
            _ => Duration::from_secs(3),
        }
    }
}

fn second_cut(seed: u64) -> Plan {
    let mut rng = Rng::with_seed(seed);
    Plan::new().cut(Direction::BOTH[rng.usize(..2)], rng.usize(..4_000))
}

/// The uncut sessions, by seed.
pub struct Uncut(pub Vec<Report>);

impl Uncut {
    pub fn new() -> Self {
        Self((0..SEEDS).map(uncut).collect())
    }

    /// The length of the longest session in this direction, in bytes.
    pub fn length(&self, direction: Direction) -> usize {
        let lengths = self.0.iter().map(|report| report.delivered[direction as usize].len());
        lengths.max().expect("one at least")
    }

    /// One case for every `step` bytes of a direction.
    pub fn cases(&self, how: How, direction: Direction, step: usize) -> Vec<Case> {
        let at = (0..=self.length(direction)).step_by(step);
        at.map(|k| Case { how, direction, k }).collect()
    }
}

fn uncut(seed: u64) -> Report {
    let trouble = Trouble { plans: vec![], takes: None, restarts: false, seed, pipe: NARROW };
    let played = play(&trouble, Duration::from_secs(2));
    played.unwrap_or_else(|Failure { what, log }| panic!("{log}seed {seed}: {what}"))
}

/// Plays a session in its own runtime.
fn play(trouble: &Trouble, bound: Duration) -> Result<Report, Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let recorder = {
        let _clock = runtime.enter();
        Recorder::new()
    };
    let session = async { timeout(bound, session::play(trouble, &recorder)).await };
    let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(session)));
    let what = match played {
        Ok(Ok(report)) => return Ok(report),
        Ok(Err(_)) => "it hangs".to_owned(),
        Err(panic) => words(&*panic),
    };
    Err(Failure { what, log: recorder.history().render() })
}

/// The message of a panic.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = HOWS.iter().find(|(how, _)| *how == self.how).map_or("", |(_, name)| name);
        let direction = DIRECTIONS.iter().find(|(direction, _)| *direction == self.direction);
        write!(f, "{how} {} {}", direction.map_or("", |(_, name)| name), self.k)
    }
}

impl FromStr for Case {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let [how, direction, k] = text.split(' ').collect::<Vec<_>>()[..] else {
            return Err("a case is: HOW DIRECTION K");
        };
        let how = HOWS.iter().find(|(_, name)| *name == how).ok_or("how?")?.0;
        let direction = DIRECTIONS.iter().find(|(_, name)| *name == direction).ok_or("where?")?.0;
        Ok(Self { how, direction, k: k.parse().map_err(|_| "behind how many bytes?")? })
    }
}
