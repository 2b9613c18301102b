//! A session of 10 kB is cut at every byte, in each direction: every call ends as the guarantee
//! "one outcome" allows, no subscriber misses anything or sees it twice, nothing hangs, nothing is
//! left.
//!
//! A case that fails is printed, and can be played alone, with its history:
//!
//!     BELLWIRE_CUT='reset to-client 1234' cargo test --all-features --test sweeps cuts::one_case

use std::{
    collections::BTreeMap,
    env,
    num::NonZero,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use bellwire_testkit::{
    case::{Case, Failure, How, Uncut},
    history::Outcome,
    proxy::Direction::{self, ToClient, ToServer},
    session::Report,
};

/// In samples, the bytes from one cut to the next.
const STEP: usize = 47;

/// After so many failures a sweep is given up.
const FAILURES: usize = 5;

#[test]
fn the_session_is_of_10_kb() {
    let uncut = Uncut::new();
    let [to_server, to_client] = Direction::BOTH.map(|direction| uncut.length(direction));
    println!("{to_server} bytes to the server, {to_client} to the client");
    assert!((10_000..10_500).contains(&(to_server + to_client)));
    for report in &uncut.0 {
        assert_eq!((report.stats.connections, report.stats.gaps, report.afters), (1, 0, 2));
    }
}

#[test]
fn a_reset_at_any_byte_to_the_server() {
    let uncut = Uncut::new();
    sweep(&uncut, &uncut.cases(How::Reset, ToServer, 1)).assert_varied();
}

#[test]
fn a_reset_at_any_byte_to_the_client() {
    let uncut = Uncut::new();
    sweep(&uncut, &uncut.cases(How::Reset, ToClient, 1)).assert_varied();
}

/// Offered is what a slice showed to the transport, whether or not it took that. Reads go on or
/// fail by turns, or both at every byte for who has the time.
#[test]
fn a_transport_that_fails_after_any_byte() {
    let uncut = Uncut::new();
    let hows = [How::Writes, How::Fails];
    let mut cases = hows.map(|how| uncut.cases(how, ToServer, 1)).concat();
    cases.retain(|case| step() == 1 || case.how == hows[case.k % 2]);
    sweep(&uncut, &cases).assert_varied();
}

#[test]
fn a_cut_of_any_kind() {
    let hows = [How::Wide, How::Sliced, How::Twice, How::Close, How::Dark];
    sample(&hows).assert_varied();
}

/// It is unknown what the first server ran, and its logs end by a reset.
#[test]
fn a_cut_with_a_different_server_afterwards() {
    let tally = sample(&[How::Restart]);
    assert!(tally.resets > 0, "{tally:?}");
}

/// The case that `BELLWIRE_CUT` names.
#[test]
fn one_case() {
    let name = env::var("BELLWIRE_CUT").unwrap_or("reset to-client 1234".into());
    let case: Case = name.parse().unwrap();
    assert_eq!(case.to_string(), name);
    if let Err(Failure { what, log }) = case.play(&Uncut::new()) {
        panic!("{log}{case}: {what}");
    }
}

/// Plays such cases at every so many bytes of both directions.
fn sample(hows: &[How]) -> Tally {
    let uncut = Uncut::new();
    let each = |&how| Direction::BOTH.map(|direction| uncut.cases(how, direction, step())).concat();
    let cases: Vec<_> = hows.iter().flat_map(each).collect();
    sweep(&uncut, &cases)
}

/// `BELLWIRE_CUTS_STEP` says another.
fn step() -> usize {
    env::var("BELLWIRE_CUTS_STEP").map_or(STEP, |step| step.parse().expect("a number"))
}

/// Plays these cases on all processors; panics with those that fail.
fn sweep(uncut: &Uncut, cases: &[Case]) -> Tally {
    let next = AtomicUsize::new(0);
    let (tally, failed) = (Mutex::new(Tally::default()), Mutex::new(Vec::new()));
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            match case.play(uncut) {
                Ok(report) => tally.lock().unwrap().add(&report),
                Err(failure) => failed.lock().unwrap().push(format!("{case}: {}", failure.what)),
            }
            if failed.lock().unwrap().len() >= FAILURES {
                return;
            }
        }
    };
    thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        (0..processors).for_each(|_| drop(scope.spawn(work)));
    });
    let (tally, failed) = (tally.into_inner().unwrap(), failed.into_inner().unwrap());
    assert!(failed.is_empty(), "after {} good ones:\n{}", tally.sessions, failed.join("\n"));
    println!("{tally:?}");
    tally
}

/// What the sessions of a sweep came to, together.
#[derive(Debug, Default)]
struct Tally {
    sessions: usize,
    /// `None`: dropped.
    outcomes: BTreeMap<Option<&'static str>, usize>,
    /// Calls that one connection was not offered, and another was.
    carried: usize,
    gaps: u64,
    resets: usize,
    connections: u64,
    /// The longest.
    took: Duration,
}

impl Tally {
    fn add(&mut self, report: &Report) {
        self.sessions += 1;
        for outcome in &report.outcomes {
            *self.outcomes.entry(outcome.map(name)).or_default() += 1;
        }
        self.carried += report.carried;
        self.gaps += report.stats.gaps;
        self.resets += report.resets;
        self.connections += report.stats.connections;
        self.took = self.took.max(report.took);
    }

    /// Every outcome that there is was seen, and gaps, and calls that went on by proof.
    fn assert_varied(&self) {
        let outcomes: Vec<_> = self.outcomes.keys().copied().collect();
        let all = ["not sent", "ok", "refused", "remote", "unknown"].map(Some);
        assert_eq!(outcomes, [&[None], &all[..]].concat());
        assert!(self.gaps > 0 && self.carried > 0, "{self:?}");
    }
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok { .. } => "ok",
        Outcome::Remote => "remote",
        Outcome::Refused => "refused",
        Outcome::NotSent => "not sent",
        Outcome::Unknown => "unknown",
    }
}
