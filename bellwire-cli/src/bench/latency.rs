//! Latencies: recorded in nanoseconds, reported in microseconds.

use std::{collections::BTreeMap, fmt, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer durations count as this long.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Two digits, which is a precision of 1 %. A histogram is then 18 KiB, and there may be thousands
/// of callers with one each.
const DIGITS: u8 = 2;
/// Points of a curve each time that the remaining share halves.
const TICKS: u32 = 8;
/// Bars of a plot for each power of ten.
const BARS_PER_DECADE: f64 = 12.0;

/// A histogram of durations. It uses no memory before the first one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latency(Option<Histogram<u32>>);

impl Latency {
    pub(crate) fn record(&mut self, duration: Duration) {
        self.0.get_or_insert_with(empty).saturating_record(duration.as_nanos() as u64);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if let Some(other) = &other.0 {
            self.0.get_or_insert_with(empty).add(other).expect("the bounds are the same");
        }
    }

    /// `None` if nothing was recorded.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        let histogram = self.0.as_ref()?;
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Some(Percentiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: at(1.0),
        })
    }

    /// The share of durations beyond each point, and the point in microseconds. The longest
    /// duration comes last, with the share of one duration.
    pub(crate) fn curve(&self) -> Vec<(f64, f64)> {
        let Some(histogram) = &self.0 else { return Vec::new() };
        let least = 1.0 / histogram.len() as f64;
        let points = histogram.iter_quantiles(TICKS);
        points
            .map(|point| (1.0 - point.quantile_iterated_to(), point.value_iterated_to()))
            .map(|(beyond, value)| (beyond.max(least), value as f64 / 1_000.0))
            .collect()
    }

    /// The bounds of each bar in microseconds, and its share of all durations; the bars have the same
    /// width on a logarithmic scale.
    pub(crate) fn bars(&self) -> Vec<(f64, f64, f64)> {
        let Some(histogram) = &self.0 else { return Vec::new() };
        let mut counts = BTreeMap::<i32, u64>::new();
        for step in histogram.iter_recorded() {
            let microseconds = (step.value_iterated_to() as f64 / 1_000.0).max(0.001);
            let bar = (microseconds.log10() * BARS_PER_DECADE).floor() as i32;
            *counts.entry(bar).or_default() += step.count_since_last_iteration();
        }
        let bound = |bar: i32| 10_f64.powf(f64::from(bar) / BARS_PER_DECADE);
        let share = |count: u64| count as f64 / histogram.len() as f64;
        counts.into_iter().map(|(bar, n)| (bound(bar), bound(bar + 1), share(n))).collect()
    }
}

fn empty() -> Histogram<u32> {
    let longest = LONGEST.as_nanos() as u64;
    Histogram::new_with_max(longest, DIGITS).expect("the bounds are constants")
}

/// In microseconds, within 1 %.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p99_9, max } = self;
        write!(f, "p50 {p50:.1}  p90 {p90:.1}  p99 {p99:.1}  p99.9 {p99_9:.1}  max {max:.1} µs")
    }
}
