//! A window of time in which completions are counted.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::cpu::{self, CpuClock};

/// Latencies in nanoseconds. Longer ones count as this long.
const LONGEST: u64 = 60_000_000_000;
const SHORTEST: u64 = 100;
/// Two digits, which is a precision of 1 %.
const DIGITS: u8 = 2;
/// More than the runtime has workers, so that each has a histogram of its own.
const SHARDS: usize = 8;

/// How long to warm up and to measure.
#[derive(clap::Args, Clone, Debug)]
pub struct Window {
    #[arg(long, default_value_t = 500)]
    pub warm_up_ms: u64,
    #[arg(long, default_value_t = 1500)]
    pub window_ms: u64,
}

/// What was measured in one window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Replies or deliveries per second.
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// CPU seconds per million, in user mode and in the kernel, of this process and of the server.
    pub cpu_per_million: f64,
    /// Cores that other programs kept busy.
    pub foreign_cores: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Open,
    Closed,
}

/// Counts what completes while the window is open.
#[derive(Debug)]
pub struct Meter {
    phase: AtomicU8,
    /// One for each thread, so that its lock is never contended.
    shards: Vec<Mutex<Histogram<u64>>>,
}

impl Meter {
    pub fn new() -> Arc<Self> {
        let shard = || Histogram::new_with_bounds(SHORTEST, LONGEST, DIGITS).expect("constants");
        let shards = (0..SHARDS).map(|_| Mutex::new(shard())).collect();
        Arc::new(Self { phase: AtomicU8::new(Phase::WarmUp as u8), shards })
    }

    /// Counts `count` completions. Returns `false` once the window is closed.
    pub fn note(&self, count: u64, latency: Duration) -> bool {
        let phase = self.phase.load(Ordering::Relaxed);
        if phase == Phase::Open as u8 {
            let nanoseconds = latency.as_nanos() as u64;
            self.shards[shard_of_thread()].lock().saturating_record_n(nanoseconds, count);
        }
        phase != Phase::Closed as u8
    }

    /// Warms up, opens the window, closes it and sums up. `counter` counts the completions where
    /// [`Meter::note`] is not called for each.
    pub async fn run(
        &self,
        window: &Window,
        clock: &CpuClock,
        counter: Option<&(dyn Fn() -> u64 + Sync)>,
    ) -> Result<Sample> {
        let count = || counter.map(|counter| counter());
        sleep(Duration::from_millis(window.warm_up_ms)).await;
        let (machine_before, cpu_before) = (cpu::of_machine()?, clock.total()?);
        let (count_before, opened) = (count(), Instant::now());
        self.phase.store(Phase::Open as u8, Ordering::Relaxed);
        sleep(Duration::from_millis(window.window_ms)).await;
        self.phase.store(Phase::Closed as u8, Ordering::Relaxed);
        let (seconds, count_after) = (opened.elapsed().as_secs_f64(), count());
        let cpu = (clock.total()? - cpu_before).as_secs_f64();
        let machine = (cpu::of_machine()? - machine_before).as_secs_f64();

        let latencies = self.sum()?;
        let counted = count_after.zip(count_before).map(|(after, before)| after - before);
        let completed = counted.unwrap_or(latencies.len());
        ensure!(completed > 0, "nothing completed while the window was open");
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        Ok(Sample {
            per_second: completed as f64 / seconds,
            p50_us: at(0.5),
            p99_us: at(0.99),
            cpu_per_million: cpu * 1e6 / completed as f64,
            foreign_cores: (machine - cpu).max(0.0) / seconds,
        })
    }

    fn sum(&self) -> Result<Histogram<u64>> {
        let mut sum = self.shards[0].lock().clone();
        for shard in &self.shards[1..] {
            sum.add(&*shard.lock())?;
        }
        Ok(sum)
    }
}

fn shard_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
    }
    let new = || NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    SHARD.with(|shard| {
        let number = shard.get().unwrap_or_else(new);
        shard.set(Some(number));
        number
    })
}
