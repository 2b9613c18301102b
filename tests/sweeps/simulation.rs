//! Servers and clients over a simulated network, by seed: whatever happens to them, the history of
//! each run holds. A seed that fails is printed, with how to see its whole log.
//!
//! `scripts/simulate.sh` plays more of them.

use std::{
    any::Any,
    env, panic,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use bellwire_testkit::{history::Broken, simulation};

/// Seeds of the test command.
const SEEDS: u64 = 200;
/// Seeds that are played twice.
const REPLAYED: u64 = 6;
/// As many run at once.
const THREADS: usize = 2;

/// A number that whoever runs the tests gives.
fn given(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn histories_hold() {
    let first = given("BELLWIRE_FIRST").unwrap_or(0);
    let end = first + given("BELLWIRE_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let play = || {
        let seeds = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < end);
        std::iter::from_fn(seeds).filter(|seed| !holds(*seed)).collect::<Vec<_>>()
    };
    let failed: Vec<_> = thread::scope(|scope| {
        let threads = [(); THREADS].map(|()| scope.spawn(play));
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    println!("{} of {} seeds failed", failed.len(), end - first);
    assert!(failed.is_empty(), "seeds {failed:?} failed");
}

/// Whether a seed's history holds; says so if not.
fn holds(seed: u64) -> bool {
    let what = match panic::catch_unwind(|| simulation::run(seed).check()) {
        Ok(broken) if broken.is_empty() => return true,
        Ok(broken) => first_of(&broken),
        Err(panic) => format!("panicked: {}", text_of(&*panic)),
    };
    println!("seed {seed}: {what}");
    println!(
        "  BELLWIRE_SEED={seed} cargo test --all-features --test sweeps simulation::one_seed -- --nocapture"
    );
    false
}

fn first_of(broken: &[Broken]) -> String {
    let more = broken.len() - 1;
    format!("{}\n  and {more} more", broken[0])
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("with no text")
}

/// Prints the log of the seed that is given, and judges it.
#[test]
fn one_seed() {
    let Some(seed) = given("BELLWIRE_SEED") else { return };
    let history = simulation::run(seed);
    print!("{}", history.render());
    history.assert_holds();
}

#[test]
fn a_seed_replays_byte_for_byte() {
    for seed in 0..given("BELLWIRE_REPLAYED").unwrap_or(REPLAYED) {
        let [one, other] = [(); 2].map(|()| simulation::run(seed).render());
        let differs =
            one.lines().zip(other.lines()).enumerate().find(|(_, (one, other))| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert!(one == other, "seed {seed} ends otherwise");
    }
}
