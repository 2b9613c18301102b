//! The open loop: requests are due at fixed times, whatever the replies do.
//!
//! A closed loop stops asking while the server stalls, so the stall appears in one latency per
//! caller (coordinated omission). Here each request has a time at which it is due, and its latency
//! is counted from that time. A request that waits for a free caller shows this wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use crate::bench::{args::Args, latency::Latency};

/// A thread sleeps about 0.05 ms longer than it asks for; a shorter pause would gain nothing.
const SHORTEST_PAUSE: Duration = Duration::from_micros(50);
/// How soon the pacing thread notices that the run is over.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// A request that starts later than this after it was due counts as late.
const TOLERANCE: Duration = Duration::from_millis(10);
/// The rate was held if at most this share of the requests was late or did not start.
const MOST_LATE: f64 = 0.01;

/// The requests of a run with `--rate`: when each is due, and which one is next.
#[derive(Debug)]
pub(crate) struct Schedule {
    began: Instant,
    rate: f64,
    /// The first of all requests are the warm-up, and are not counted.
    warm_up: u64,
    total: u64,
    /// The request that starts next.
    next: AtomicU64,
    /// A permit for each request that is due and has not started.
    due: Semaphore,
}

/// One request of the schedule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) due: Instant,
    pub(crate) is_measured: bool,
}

impl Schedule {
    /// Starts the clock and the thread that follows it. A thread is needed because the runtime's
    /// timers have a resolution of 1 ms. `None` without `--rate`.
    pub(crate) fn start(args: &Args) -> Option<Arc<Self>> {
        let rate = f64::from(args.rate?);
        let warm_up = (rate * args.warm_up().as_secs_f64()).round() as u64;
        let longest = (rate * args.duration().as_secs_f64()).ceil() as u64;
        let measured = args.requests.map_or(longest, |requests| requests.min(longest));
        let schedule = Arc::new(Self {
            began: Instant::now(),
            rate,
            warm_up,
            total: warm_up + measured,
            next: AtomicU64::new(0),
            due: Semaphore::new(0),
        });
        let pacing = schedule.clone();
        let callers = usize::from(args.connections) * usize::from(args.callers);
        thread::spawn(move || pacing.keep_pace(callers));
        Some(schedule)
    }

    /// Waits until a request is due that was not started; `None` when there are no more.
    pub(crate) async fn next(&self) -> Option<Turn> {
        loop {
            self.due.acquire().await.ok()?.forget();
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.total {
                return None;
            }
            let is_measured = number >= self.warm_up;
            // Requests that the warm-up did not start must not delay the first measured ones.
            if is_measured || self.began.elapsed() < self.offset(self.warm_up) {
                return Some(Turn { due: self.began + self.offset(number), is_measured });
            }
        }
    }

    /// Starts no further request.
    pub(crate) fn close(&self) {
        self.due.close();
    }

    /// How long each measured request that was due by `now` and did not start has waited.
    pub(crate) fn unstarted(&self, now: Instant) -> impl Iterator<Item = Duration> {
        let first = self.next.load(Ordering::Relaxed).max(self.warm_up);
        let elapsed = now.saturating_duration_since(self.began);
        (first..self.count_due(elapsed)).map(move |number| elapsed - self.offset(number))
    }

    fn keep_pace(&self, callers: usize) {
        let mut released = 0;
        while released < self.total && !self.due.is_closed() {
            let due = self.count_due(self.began.elapsed());
            self.due.add_permits((due - released) as usize);
            released = due;
            let pause = self.offset(released).saturating_sub(self.began.elapsed());
            thread::sleep(pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
        }
        // Each caller gets one more permit, finds no request for it, and ends.
        self.due.add_permits(callers);
    }

    /// When request `number` is due, from 0.
    fn offset(&self, number: u64) -> Duration {
        Duration::from_secs_f64(number as f64 / self.rate)
    }

    /// How many requests are due at this time after the beginning.
    fn count_due(&self, elapsed: Duration) -> u64 {
        let estimate = (elapsed.as_secs_f64() * self.rate) as u64;
        // The estimate may be one too high by rounding.
        let last = estimate - u64::from(estimate > 0 && self.offset(estimate) > elapsed);
        self.total.min(last + 1)
    }
}

/// When the requests of a schedule started, beside when they were due.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    pub(crate) started: u64,
    pub(crate) late: u64,
    pub(crate) unstarted: u64,
    pub(crate) longest_wait: Duration,
    /// From the time when the first measured request was due to the last start.
    last: Duration,
    /// From the start to the reply, without the wait for the start.
    pub(crate) uncorrected: Latency,
}

impl Starts {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.started += other.started;
        self.late += other.late;
        self.unstarted += other.unstarted;
        self.longest_wait = self.longest_wait.max(other.longest_wait);
        self.last = self.last.max(other.last);
        self.uncorrected.merge(&other.uncorrected);
    }

    pub(crate) fn count(&mut self, schedule: &Schedule, due: Instant, started: Instant) {
        let wait = started.saturating_duration_since(due);
        let first = schedule.began + schedule.offset(schedule.warm_up);
        self.started += 1;
        self.late += u64::from(wait > TOLERANCE);
        self.longest_wait = self.longest_wait.max(wait);
        self.last = self.last.max(started.saturating_duration_since(first));
    }

    /// Requests started per second: exactly `rate` if each started when it was due.
    pub(crate) fn achieved(&self, rate: f64) -> f64 {
        self.started as f64 / (self.last.as_secs_f64() + 1.0 / rate)
    }

    pub(crate) fn is_held(&self) -> bool {
        let due = self.started + self.unstarted;
        (self.late + self.unstarted) as f64 <= due as f64 * MOST_LATE
    }
}
