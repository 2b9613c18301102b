//! Runs cases, each on a thread of its own. A case must make progress within a bound in real time.

use std::{
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use tokio::runtime::Handle;

use crate::{
    guard::caught,
    sync::{Arc, Mutex, oneshot},
    topic::suite::{
        bench::Bench,
        catalogue::{Case, cases},
        check::Checked,
        harness::Erased,
        report::{CaseReport, Report, Verdict},
        threads::Stop,
        under_test::StoreUnderTest,
    },
};

/// How long a case that was stopped may take to end, before its thread counts as blocked.
const GRACE: Duration = Duration::from_secs(5);

/// How a case ended: nothing if it was stopped, and the message if the store panicked.
type Ran = Result<Option<Checked>, String>;

/// Runs all cases on the store that `harness` opens.
///
/// It never fails by itself: see [`Report::assert_passed`].
pub async fn run<H: StoreUnderTest>(harness: H) -> Report {
    let mut bench = Some(Bench::new(Box::new(Erased::new(harness))));
    let mut reports = Vec::new();
    for case in cases() {
        reports.push(report(&mut bench, case).await);
    }
    Report { cases: reports }
}

/// Runs one case, so that each can be a test.
///
/// # Panics
/// No case has this name.
pub async fn run_case<H: StoreUnderTest>(harness: H, name: &str) -> CaseReport {
    let case = cases().into_iter().find(|case| case.name() == name);
    let case = case.unwrap_or_else(|| panic!("the suite has no case {name:?}"));
    report(&mut Some(Bench::new(Box::new(Erased::new(harness)))), case).await
}

/// Runs a case. The bench is gone if the store blocked its thread.
async fn report(bench: &mut Option<Bench>, case: Case) -> CaseReport {
    let verdict = match bench.take() {
        None => Verdict::Failed {
            check: "the case was not run".into(),
            observed: "an earlier case still blocks its thread".into(),
        },
        Some(kept) => match case.lacks(&kept.capabilities()) {
            Some(why) => {
                *bench = Some(kept);
                Verdict::NotApplicable(why)
            }
            None => {
                let verdict;
                (*bench, verdict) = supervised(kept, case).await;
                verdict
            }
        },
    };
    CaseReport { name: case.name(), contract: case.contract(), verdict }
}

/// Runs a case on its thread, and a second thread that waits for it.
async fn supervised(bench: Bench, case: Case) -> (Option<Bench>, Verdict) {
    let (done, outcome) = oneshot::channel();
    thread::spawn(move || _ = done.send(supervise(bench, case)));
    outcome.await.expect("the suite's thread sends an outcome")
}

fn supervise(mut bench: Bench, case: Case) -> (Option<Bench>, Verdict) {
    bench.stop = Stop::default();
    bench.at_checkpoints = case.ending;
    bench.check("opening the store");
    let (stop, checking) = (bench.stop.clone(), bench.checking.clone());
    let (bound, (done, outcome)) = (bench.options().bound, mpsc::channel());
    let named = thread::Builder::new().name(case.name());
    let started = named.spawn(move || _ = done.send(run_here(bench, case)));
    drop(started.expect("a thread for the case"));
    match received(&outcome, bound, &stop) {
        Ok((bench, checked)) => (Some(bench), verdict(&checking, checked)),
        Err(RecvTimeoutError::Disconnected) => {
            (None, failed(&checking, "the harness panicked when it was dropped".into()))
        }
        Err(RecvTimeoutError::Timeout) => {
            let grace = GRACE.min(bound);
            let check = checking.lock().clone();
            stop.stop();
            let (bench, how) = stopped(outcome.recv_timeout(grace).ok());
            let observed = format!("the case made no progress for {bound:?}: {how}");
            (bench, Verdict::Failed { check, observed })
        }
    }
}

/// Waits until the case has ended, or has made no progress for so long.
fn received(
    outcome: &Receiver<(Bench, Ran)>,
    bound: Duration,
    stop: &Stop,
) -> Result<(Bench, Ran), RecvTimeoutError> {
    loop {
        let before = stop.progress();
        match outcome.recv_timeout(bound) {
            Err(RecvTimeoutError::Timeout) if stop.progress() != before => {}
            received => return received,
        }
    }
}

/// What a case did that was stopped.
fn stopped(ran: Option<(Bench, Ran)>) -> (Option<Bench>, String) {
    match ran {
        None => (None, "the store blocked the thread".into()),
        Some((bench, Ok(Some(Err(failure))))) => (Some(bench), failure.to_string()),
        Some((bench, _)) => (Some(bench), "it waited".into()),
    }
}

/// The case itself, within the runtime of the test: `None` if it was stopped.
fn run_here(mut bench: Bench, case: Case) -> (Bench, Ran) {
    let runtime = bench.runtime.clone();
    let _entered = runtime.as_ref().map(Handle::enter);
    let stop = bench.stop.clone();
    let ran = caught(|| stop.block_on(case.run(&mut bench)));
    // Threads beside a case that failed end, too.
    stop.stop();
    let ended = caught(|| bench.end());
    let ran = ran.and_then(|checked| ended.map(|()| checked));
    (bench, ran)
}

fn verdict(checking: &Arc<Mutex<String>>, ran: Ran) -> Verdict {
    match ran {
        Ok(Some(Ok(()))) => Verdict::Passed,
        Ok(Some(Err(failure))) => failed(checking, failure.to_string()),
        Ok(None) => failed(checking, "it did not end".into()),
        Err(panic) => failed(checking, format!("the store panicked: {panic}")),
    }
}

fn failed(checking: &Arc<Mutex<String>>, observed: String) -> Verdict {
    Verdict::Failed { check: checking.lock().clone(), observed }
}
