//! The suite for topic stores: the stores here pass it, and each of its cases fails a store that is
//! wrong in one thing.

mod kept;
mod wrong;

use std::{collections::BTreeSet, pin::Pin, time::Duration};

use bellwire::topic::{
    MemoryTopics,
    suite::{self, Capabilities, CaseReport, Limits, Options, StoreUnderTest, Verdict, cases},
};
use futures::{StreamExt, stream};

use self::{
    kept::{Bug, Disk, Kept},
    wrong::{Fault, Wrong},
};

/// The bound of cases that are expected to hang.
const HANGS: Duration = Duration::from_secs(2);

struct Memory;

const fn of_memory() -> Capabilities {
    Capabilities::new().by_count().by_bytes().closing().counting().limiting().replacing()
}

const fn of_disk() -> Capabilities {
    of_memory().by_age().durable()
}

impl StoreUnderTest for Memory {
    type Store = MemoryTopics;

    fn capabilities(&self) -> Capabilities {
        of_memory()
    }

    async fn open(&mut self, limits: Limits) -> MemoryTopics {
        suite::memory(limits)
    }
}

/// The default store with a fault.
struct Faulty(Fault, Capabilities);

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self(fault, of_memory())
    }
}

impl StoreUnderTest for Faulty {
    type Store = Wrong;

    fn capabilities(&self) -> Capabilities {
        self.1
    }

    fn options(&self) -> Options {
        let is_slow = self.0 == Fault::PanicsAtClose;
        let is_slow = is_slow || self.1 != of_memory();
        Options::new().bound(if is_slow { Options::DEFAULT_BOUND } else { HANGS })
    }

    async fn open(&mut self, limits: Limits) -> Wrong {
        Wrong::new(limits, self.0)
    }
}

/// A durable store, with or without a bug.
struct Durable {
    disk: Disk,
    bug: Option<Bug>,
    capabilities: Capabilities,
}

impl Durable {
    fn new(bug: Option<Bug>) -> Self {
        Self { disk: Disk::new(Limits::new(), bug), bug, capabilities: of_disk() }
    }
}

impl StoreUnderTest for Durable {
    type Store = Kept;

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn options(&self) -> Options {
        let is_right = self.bug.is_none() || self.capabilities != of_disk();
        Options::new().bound(if is_right { Options::DEFAULT_BOUND } else { HANGS })
    }

    async fn open(&mut self, limits: Limits) -> Kept {
        self.disk = Disk::new(limits, self.bug);
        self.disk.start()
    }

    async fn reopen(&mut self, store: Kept) -> Kept {
        store.finish().await;
        self.disk.end(false);
        self.disk.start()
    }

    async fn kill(&mut self, store: Kept) -> Kept {
        self.disk.end(true);
        drop(store);
        self.disk.start()
    }

    fn advance(&mut self, time: Duration) {
        self.disk.advance(time);
    }
}

#[tokio::test]
async fn the_default_store_passes() {
    let report = suite::run(Memory).await;
    report.assert_passed();
    assert_eq!(report.cases().len(), cases().len());
}

/// Also within a runtime with threads, whose tasks run beside the cases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_store_passes() {
    let report = suite::run(Durable::new(None)).await;
    report.assert_passed();
    let passed = report.cases().iter().filter(|case| *case.verdict() == Verdict::Passed);
    assert_eq!(passed.count(), cases().len(), "{report}");
}

/// The cases need no runtime, unless the store does.
#[test]
fn a_case_runs_without_a_runtime() {
    let report = futures::executor::block_on(suite::run_case(Memory, "watch"));
    assert_eq!(*report.verdict(), Verdict::Passed);
}

/// The wrong stores in memory, and the cases that each of them has to fail.
const FAULTS: &[(Fault, &[&str])] = &[
    (Fault::SkipsANumber, &["dense-numbers"]),
    (Fault::NumbersAtThePoll, &["order-of-calls", "dropped-append"]),
    (Fault::NamesAnotherEpoch, &["one-epoch"]),
    (Fault::NumbersByThread, &["concurrent-appends"]),
    (Fault::WindowIsLate, &["windows"]),
    (Fault::CopiesAllLines, &["reads-behind-the-head"]),
    (Fault::CopiesAllBytes, &["reads-behind-the-head"]),
    (Fault::ServesTheLatestReader, &["two-readers"]),
    (Fault::NamesLargeAsRetention, &["too-large"]),
    (Fault::IgnoresTheEpoch, &["foreign-epoch"]),
    (Fault::GapToTheCursor, &["cursor-beyond-the-head"]),
    (Fault::TextOnly, &["payloads"]),
    (Fault::CutsNames, &["topic-names"]),
    (Fault::RetainsAll, &["retention-by-count", "retention-by-bytes"]),
    (Fault::RetainsFiveMore, &["retention-by-count"]),
    (Fault::GapOneTooLong, &["exact-gaps"]),
    (Fault::NeverWakes, &["watch"]),
    (Fault::WakesTheFirstWaker, &["watch"]),
    (Fault::RegistersLate, &["no-lost-wake-up"]),
    (Fault::OneEpochForEver, &["forgotten-log", "closed-log"]),
    (Fault::SweepsAll, &["log-in-use"]),
    (Fault::EndIsOneLess, &["closed-log"]),
    (Fault::AnyNumberOfTopics, &["limit-on-topics"]),
    (Fault::CountsReaders, &["topic-count"]),
    (Fault::CountsAnotherReader, &["topic-count"]),
    (Fault::KeepsReplaced, &["latest-per-key"]),
    (
        Fault::ForgetsKeys,
        &["latest-per-key", "latest-per-key-and-retention", "latest-per-key-and-bytes"],
    ),
    (Fault::RepeatsAPayload, &["random-run"]),
];

/// The wrong durable stores, and the cases that each of them has to fail.
const BUGS: &[(Bug, &[&str])] = &[
    (Bug::LosesTheLast, &["kill-keeps-acknowledged", "dense-numbers.killed"]),
    (Bug::NumbersAnew, &["kill-keeps-acknowledged", "random-lives", "clean-reopen"]),
    (Bug::ReadsTooEarly, &["kill-while-appending"]),
    (Bug::ForgetsCloses, &["kill-after-close", "closed-log.killed"]),
    (Bug::LosesAllToAKill, &["kill-keeps-acknowledged", "random-lives"]),
    (Bug::LosesTheFirst, &["random-lives"]),
    (Bug::KeepsTheOld, &["retention-by-age"]),
];

fn fails(report: CaseReport, store: &str) -> String {
    let Verdict::Failed { check, observed } = report.verdict() else {
        panic!("{store} was not found out: {report}");
    };
    assert!(!check.is_empty() && !observed.is_empty(), "{report}");
    assert!(!observed.contains("panicked"), "{store}: {report}");
    assert!(report.to_string().contains(report.name()), "{report}");
    report.name().to_owned()
}

/// A run of a case that has to fail. It gives the case's name.
type Failing = Pin<Box<dyn Future<Output = String> + Send>>;

/// The most runs of one case. Some faults show only if the threads of a store are fast enough.
const ATTEMPTS: usize = 20;

fn failing<S: StoreUnderTest>(
    store: impl Fn() -> S + Send + 'static,
    named: String,
    case: String,
) -> Failing {
    Box::pin(async move {
        let mut report = suite::run_case(store(), &case).await;
        for _ in 1..ATTEMPTS {
            if *report.verdict() == Verdict::Passed {
                report = suite::run_case(store(), &case).await;
            }
        }
        fails(report, &named)
    })
}

/// Several at once, because some hang until their bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_case_fails_a_wrong_store() {
    let mut runs = Vec::new();
    for (fault, cases) in FAULTS {
        let run =
            |case: &&str| failing(|| Faulty::new(*fault), format!("{fault:?}"), case.to_string());
        runs.extend(cases.iter().map(run));
    }
    for (bug, cases) in BUGS {
        let store = move || Durable::new(Some(*bug));
        let run = |case: &&str| failing(store, format!("{bug:?}"), case.to_string());
        runs.extend(cases.iter().map(run));
    }
    // A store that begins anew has forgotten what each of these has done before.
    let ending = cases().into_iter().map(|case| case.name()).filter(|name| name.contains('.'));
    let store = || Durable::new(Some(Bug::BeginsAnew));
    runs.extend(ending.map(|case| failing(store, "a store that begins anew".into(), case)));
    let failed: BTreeSet<_> = stream::iter(runs).buffer_unordered(8).collect().await;
    let all: BTreeSet<_> = cases().iter().map(|case| case.name()).collect();
    let never: Vec<_> = all.difference(&failed).collect();
    assert!(never.is_empty(), "no wrong store fails {never:?}");
}

/// With the capability that says so, a store may retain more, or lose all to a kill.
#[tokio::test]
async fn a_store_may_do_what_it_says() {
    for case in ["retention-by-count", "exact-gaps", "random-run"] {
        let store = Faulty(Fault::RetainsFiveMore, of_memory().extra_messages(5));
        assert_eq!(*suite::run_case(store, case).await.verdict(), Verdict::Passed, "{case}");
    }
    let mut store = Durable::new(Some(Bug::LosesAllToAKill));
    store.capabilities = store.capabilities.new_epoch_after_kill();
    let report = suite::run(store).await;
    report.assert_passed();
    let skipped = |case: &&CaseReport| matches!(case.verdict(), Verdict::NotApplicable(_));
    let mut skipped = report.cases().iter().filter(skipped).map(CaseReport::name);
    assert!(skipped.all(|name| name.ends_with(".killed")), "{report}");
}

#[tokio::test]
async fn a_store_that_panics_fails_and_the_others_run() {
    let report = suite::run(Faulty::new(Fault::PanicsAtClose)).await;
    let failed: Vec<_> = report.failed().map(|case| case.name()).collect();
    assert_eq!(failed, ["closed-log", "limit-on-topics", "topic-count", "random-run"]);
    assert!(report.to_string().contains("the store panicked: on purpose"), "{report}");
}

/// The thread that a store blocks is left behind, and the cases after it are not run.
#[tokio::test]
async fn a_store_that_blocks_its_thread_fails() {
    let report = suite::run(Faulty::new(Fault::BlocksAtSweep)).await;
    let mut failed = report.failed();
    let blocked = failed.next().map(ToString::to_string).unwrap_or_default();
    assert!(blocked.contains("FAIL  one-epoch"), "{report}");
    assert!(blocked.contains("made no progress for 2s: the store blocked the thread"), "{report}");
    assert!(failed.all(|case| case.to_string().contains("the case was not run")), "{report}");
}

#[tokio::test]
async fn the_report_says_what_was_observed() {
    let report = suite::run_case(Faulty::new(Fault::SkipsANumber), "dense-numbers").await;
    let expected = "FAIL  dense-numbers\n      \
        contract: The messages of a topic are numbered 1, 2, 3 and so on, each topic on its own.\n      \
        check:    numbers begin at 1 and have no hole\n      \
        observed: the number of a message: found 10, expected 9";
    assert_eq!(report.to_string(), expected);
    let report = suite::run_case(Memory, "clean-reopen").await;
    assert_eq!(report.to_string(), "n/a   clean-reopen: the store is not durable");
    let report = suite::run_case(Faulty::new(Fault::NeverWakes), "watch").await;
    assert!(report.to_string().contains("made no progress for 2s: it waited"), "{report}");
    let report = suite::run_case(Faulty::new(Fault::RetainsAll), "retention-by-count").await;
    let window = "made no progress for 2s: the window stayed Window { epoch: Epoch(";
    assert!(report.to_string().contains(window), "{report}");
}

#[tokio::test]
#[should_panic(expected = "observed: the number of a message: found 10, expected 9")]
async fn a_failed_case_fails_its_test() {
    suite::run_case(Faulty::new(Fault::SkipsANumber), "dense-numbers").await.assert_passed();
}

#[tokio::test]
#[should_panic(expected = "the suite has no case \"dense\"")]
async fn a_case_that_is_not_there_is_named() {
    suite::run_case(Memory, "dense").await;
}

#[test]
fn cases_have_names_of_their_own() {
    let names: BTreeSet<_> = cases().iter().map(|case| case.name()).collect();
    assert_eq!(names.len(), cases().len());
    assert!(cases().iter().all(|case| case.contract().ends_with('.')));
}
