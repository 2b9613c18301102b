//! Plays seeds of both cores on all processors: see scripts/cores.sh.
//!
//!     cores SEEDS FIRST        plays these seeds; prints seeds per second, and the first that fails
//!     cores show SEED          prints the log of one

use std::{
    any::Any,
    env, panic,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use bellwire_testkit::cores;

/// Seeds that a thread takes at once.
const BATCH: u64 = 64;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    match arguments.first().map(String::as_str) {
        Some("show") => show(number(1).expect("a seed")),
        _ => play(number(1).unwrap_or(0), number(0).unwrap_or(1_000_000)),
    }
}

fn show(seed: u64) -> ExitCode {
    let run = cores::run(seed);
    print!("{}", run.history.render());
    println!("hash {:016x}", run.hash);
    let wrong = run.check();
    wrong.iter().for_each(|what| println!("wrong: {what}"));
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn play(first: u64, seeds: u64) -> ExitCode {
    // A panic is a result here; its text is printed with the seed.
    panic::set_hook(Box::new(|_| {}));
    let (next, end) = (AtomicU64::new(first), first.saturating_add(seeds));
    let failed = AtomicU64::new(u64::MAX);
    let begun = Instant::now();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&next, end, &failed));
        }
    });
    let (failed, seconds) = (failed.into_inner(), begun.elapsed().as_secs_f64());
    let played = next.into_inner().min(end) - first;
    println!("{played} seeds in {seconds:.1} s: {:.0} seeds/s", played as f64 / seconds);
    if failed == u64::MAX {
        return ExitCode::SUCCESS;
    }
    println!("the first that fails: {failed}; its log: scripts/cores.sh show {failed}");
    ExitCode::FAILURE
}

/// Plays batches until one fails: each seed below it is then played to its end.
fn work(next: &AtomicU64, end: u64, failed: &AtomicU64) {
    loop {
        let from = next.fetch_add(BATCH, Ordering::Relaxed);
        if from >= end || failed.load(Ordering::Relaxed) < from {
            return;
        }
        for seed in from..end.min(from + BATCH) {
            if let Some(what) = wrong(seed) {
                println!("seed {seed}: {what}");
                failed.fetch_min(seed, Ordering::Relaxed);
                break;
            }
        }
    }
}

/// What is wrong with a seed.
fn wrong(seed: u64) -> Option<String> {
    match panic::catch_unwind(|| cores::run(seed).check()) {
        Ok(wrong) => wrong.into_iter().next(),
        Err(panic) => Some(format!("panicked: {}", text_of(&*panic))),
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("with no text")
}
