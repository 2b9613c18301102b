//! The list of all cases.

use crate::topic::suite::{
    bench::Bench,
    cases::{
        bounds, contents, durable, lives, numbers, random, reads, replacing, retention, watching,
    },
    check::Checked,
    harness::{Ending, Local},
    under_test::Capabilities,
};

type Run = for<'a> fn(&'a mut Bench) -> Local<'a, Checked>;

/// A capability that a case needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Count,
    Bytes,
    Age,
    Closing,
    Counting,
    Limiting,
    Replacing,
    Durable,
}

/// A case, before it is known how often the store ends within it.
pub(super) struct Base {
    name: &'static str,
    contract: &'static str,
    needs: &'static [Need],
    /// Whether it has points at which a durable store may end.
    has_checkpoints: bool,
    run: Run,
}

/// One case of the suite.
#[derive(Clone, Copy)]
pub struct Case {
    base: &'static Base,
    pub(super) ending: Option<Ending>,
}

/// All cases, in the order in which [`run`](crate::topic::suite::run) runs them.
pub fn cases() -> Vec<Case> {
    let endings = [None, Some(Ending::Clean), Some(Ending::Kill)];
    let of = |ending: Option<Ending>| {
        let bases = CASES.iter().filter(move |base| ending.is_none() || base.has_checkpoints);
        bases.map(move |base| Case { base, ending })
    };
    endings.into_iter().flat_map(of).collect()
}

impl Case {
    /// The name, by which [`run_case`](crate::topic::suite::run_case) finds it.
    pub fn name(&self) -> String {
        match self.ending {
            None => self.base.name.to_owned(),
            Some(Ending::Clean) => format!("{}.reopened", self.base.name),
            Some(Ending::Kill) => format!("{}.killed", self.base.name),
        }
    }

    /// What the contract says.
    pub fn contract(&self) -> &'static str {
        self.base.contract
    }

    /// Why a store with these capabilities does not need to pass it; `None` if it has to.
    pub(super) fn lacks(&self, store: &Capabilities) -> Option<String> {
        let reopens = self.ending.map(|_| Need::Durable);
        let needs = self.base.needs.iter().copied().chain(reopens);
        if self.ending == Some(Ending::Kill) && store.anew {
            return Some("a log may come back under a new epoch after a kill".into());
        }
        needs.into_iter().find_map(|need| need.lacks(store)).map(Into::into)
    }

    pub(super) fn run<'a>(&self, bench: &'a mut Bench) -> Local<'a, Checked> {
        (self.base.run)(bench)
    }
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Case({})", self.name())
    }
}

impl Need {
    fn lacks(self, store: &Capabilities) -> Option<&'static str> {
        let (has, lacks) = match self {
            Self::Count => (store.by_count, "the store does not limit the messages of a log"),
            Self::Bytes => (store.by_bytes, "the store does not limit the bytes of a log"),
            Self::Age => (store.by_age, "the store does not limit the age of messages"),
            Self::Closing => (store.closing, "the store does not close logs"),
            Self::Counting => (store.counting, "the store does not count its logs"),
            Self::Limiting => (store.limiting, "the store does not limit the number of logs"),
            Self::Replacing => (store.replacing, "the store does not know keys"),
            Self::Durable => (store.durable, "the store is not durable"),
        };
        (!has).then_some(lacks)
    }
}

macro_rules! case {
    ($name:literal, $contract:literal, $needs:expr, $has_checkpoints:literal, $run:path) => {
        Base {
            name: $name,
            contract: $contract,
            needs: $needs,
            has_checkpoints: $has_checkpoints,
            run: |bench| Box::pin($run(bench)),
        }
    };
}

static CASES: &[Base] = &[
    case!(
        "dense-numbers",
        "The messages of a topic are numbered 1, 2, 3 and so on, each topic on its own.",
        &[],
        true,
        numbers::dense
    ),
    case!(
        "order-of-calls",
        "Messages of a topic are numbered in the order of the calls of `append`, not of polls.",
        &[],
        false,
        numbers::order_of_calls
    ),
    case!(
        "one-epoch",
        "A log has one epoch. It is named before the first message, and stays the same until then.",
        &[],
        true,
        numbers::one_epoch
    ),
    case!(
        "concurrent-appends",
        "Concurrent appends get dense numbers, and each task's messages keep their order.",
        &[],
        true,
        numbers::concurrent
    ),
    case!(
        "dropped-append",
        "Dropping the future of an append does not take the message back, and disturbs no other.",
        &[],
        false,
        numbers::dropped
    ),
    case!(
        "windows",
        "A window holds every message whose append has ended.",
        &[],
        true,
        reads::windows
    ),
    case!(
        "reads-behind-the-head",
        "A reader copies the next lines from its cursor on, until its room is used up.",
        &[],
        true,
        reads::behind_the_head
    ),
    case!(
        "two-readers",
        "Readers of one topic do not disturb each other, and a dropped one disturbs none.",
        &[],
        false,
        reads::two_readers
    ),
    case!(
        "too-large",
        "Lines over `max_line`, and only those, are named in a gap with the reason `too-large`.",
        &[],
        true,
        reads::too_large
    ),
    case!(
        "foreign-epoch",
        "A cursor of another epoch gets a reset to number 1 of the topic's log.",
        &[],
        true,
        reads::foreign_epoch
    ),
    case!(
        "cursor-beyond-the-head",
        "A cursor that the log has not reached gets no lines and no gap. Later it gets its number.",
        &[],
        true,
        reads::beyond_the_head
    ),
    case!(
        "payloads",
        "A payload is any bytes, and is read as it was published.",
        &[],
        true,
        contents::payloads
    ),
    case!(
        "topic-names",
        "Each valid name, of up to 128 bytes, has a log of its own.",
        &[],
        true,
        contents::names
    ),
    case!(
        "retention-by-count",
        "A log over its limit of messages drops the oldest, and only those.",
        &[Need::Count],
        true,
        retention::by_count
    ),
    case!(
        "retention-by-bytes",
        "A log over its limit of bytes drops the oldest messages. The newest one always stays.",
        &[Need::Bytes],
        true,
        retention::by_bytes
    ),
    case!(
        "retention-by-age",
        "Messages over their age are dropped by a sweep. The log goes on with its next number.",
        &[Need::Age],
        true,
        retention::by_age
    ),
    case!(
        "exact-gaps",
        "Every number is read once or named once in a gap, also while messages are dropped.",
        &[Need::Count],
        true,
        retention::exact_gaps
    ),
    case!(
        "latest-per-key",
        "A message with a key replaces the one with the same key, whose number is named as \
         `replaced`.",
        &[Need::Replacing],
        true,
        replacing::latest
    ),
    case!(
        "latest-per-key-and-retention",
        "A log of keys over its limit of messages drops the oldest of those that it has.",
        &[Need::Replacing, Need::Count],
        true,
        replacing::over_the_limit
    ),
    case!(
        "latest-per-key-and-bytes",
        "A log of keys over its limit of bytes drops the oldest of the messages that it has.",
        &[Need::Replacing, Need::Bytes],
        true,
        replacing::over_the_bytes
    ),
    case!(
        "watch",
        "The next message wakes every reader that waits at the head, by its latest waker.",
        &[],
        false,
        watching::watch
    ),
    case!(
        "no-lost-wake-up",
        "A message that comes while a reader begins to wait wakes it.",
        &[],
        false,
        watching::race
    ),
    case!(
        "forgotten-log",
        "A log that was dropped goes on with its next number, or returns under a new epoch.",
        &[],
        true,
        lives::forgotten
    ),
    case!(
        "log-in-use",
        "A sweep does not drop a log that has a reader.",
        &[],
        false,
        lives::in_use
    ),
    case!(
        "closed-log",
        "Readers of a closed log get the rest, and then its end. The topic gets a new epoch.",
        &[Need::Closing],
        true,
        lives::closed
    ),
    case!(
        "limit-on-topics",
        "Over the limit, a new log is refused with `TooMany` and leaves nothing behind.",
        &[Need::Limiting],
        true,
        bounds::topics
    ),
    case!(
        "topic-count",
        "`topics` counts the topics with a log, whatever readers there are.",
        &[Need::Counting],
        true,
        bounds::count
    ),
    case!(
        "random-run",
        "Any sequence of appends, reads, closes and sweeps agrees with a model of the logs.",
        &[],
        false,
        random::one_life
    ),
    case!(
        "clean-reopen",
        "After it ended in order, a durable store has the same logs.",
        &[Need::Durable],
        false,
        durable::clean_reopen
    ),
    case!(
        "kill-keeps-acknowledged",
        "A message whose append has ended is still there after a kill.",
        &[Need::Durable],
        false,
        durable::keeps_acknowledged
    ),
    case!(
        "kill-while-appending",
        "Of the appends that a kill interrupts, a log has the first ones, and gives no other \
         message a number that was read.",
        &[Need::Durable],
        false,
        durable::while_appending
    ),
    case!(
        "kill-after-close",
        "A log whose close has ended does not come back after a kill.",
        &[Need::Durable, Need::Closing],
        false,
        durable::after_close
    ),
    case!(
        "random-lives",
        "Any sequence of appends, reads, closes, sweeps, reopens and kills agrees with a model.",
        &[Need::Durable],
        false,
        random::many_lives
    ),
];
