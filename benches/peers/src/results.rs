//! The measurements of a run, and what is computed from them.

use std::{fmt, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{meter::Sample, work::Work};

/// One measurement, a line of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub work: Work,
    pub row: String,
    pub round: usize,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Outcome {
    Rate(Sample),
    /// For each connection.
    Bytes(f64),
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(Sample { per_second, p50_us, p99_us, cpu_per_million, foreign_cores }) => {
                write!(
                    f,
                    "{per_second:.0}/s, p50 {p50_us:.1} µs, p99 {p99_us:.1} µs, \
                     {cpu_per_million:.3} CPU s per million, others {foreign_cores:.2} cores"
                )
            }
            Self::Bytes(bytes) => write!(f, "{bytes:.0} bytes for each connection"),
            Self::Failed(message) => write!(f, "failed: {message}"),
        }
    }
}

/// A figure of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    PerSecond,
    CpuPerMillion,
    P50,
    P99,
    Bytes,
}

impl Figure {
    fn of(self, outcome: &Outcome) -> Option<f64> {
        match (self, outcome) {
            (Self::PerSecond, Outcome::Rate(sample)) => Some(sample.per_second),
            (Self::CpuPerMillion, Outcome::Rate(sample)) => Some(sample.cpu_per_million),
            (Self::P50, Outcome::Rate(sample)) => Some(sample.p50_us),
            (Self::P99, Outcome::Rate(sample)) => Some(sample.p99_us),
            (Self::Bytes, Outcome::Bytes(bytes)) => Some(*bytes),
            _ => None,
        }
    }
}

/// All measurements of a run.
#[derive(Debug)]
pub struct Results(Vec<Entry>);

impl Results {
    pub fn read(log: &Path) -> Result<Self> {
        let text = fs::read_to_string(log).with_context(|| format!("no log {}", log.display()))?;
        let entries = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(Self(entries))
    }

    /// How many rounds there were.
    pub fn rounds(&self) -> usize {
        self.0.iter().map(|entry| entry.round + 1).max().unwrap_or(0)
    }

    /// The median over all rounds.
    pub fn median(&self, work: Work, row: &str, figure: Figure) -> Option<f64> {
        let rounds = 0..self.rounds();
        median(rounds.filter_map(|round| self.value(work, row, round, figure)).collect())
    }

    /// The ratio of `row` to the best of `others` in the same round, as the median over all rounds.
    /// The best has the most requests, or the least of every other figure.
    pub fn ratio(&self, work: Work, row: &str, others: &[&str], figure: Figure) -> Option<f64> {
        let ratio_of = |round| {
            let own = self.value(work, row, round, figure)?;
            let values = others.iter().filter_map(|other| self.value(work, other, round, figure));
            let best = match figure {
                Figure::PerSecond => values.reduce(f64::max)?,
                _ => values.reduce(f64::min)?,
            };
            Some(own / best)
        };
        median((0..self.rounds()).filter_map(ratio_of).collect())
    }

    fn value(&self, work: Work, row: &str, round: usize, figure: Figure) -> Option<f64> {
        let is_it = |entry: &&Entry| entry.work == work && entry.row == row && entry.round == round;
        figure.of(&self.0.iter().find(is_it)?.outcome)
    }

    /// Whether `row` was measured at all in this work.
    pub fn has(&self, work: Work, row: &str) -> bool {
        self.0.iter().any(|entry| entry.work == work && entry.row == row)
    }

    pub fn failures(&self) -> impl Iterator<Item = (&Entry, &str)> {
        self.0.iter().filter_map(|entry| match &entry.outcome {
            Outcome::Failed(message) => Some((entry, message.as_str())),
            _ => None,
        })
    }

    /// The most cores that other programs kept busy during a measurement.
    pub fn most_foreign_cores(&self) -> f64 {
        let foreign = self.0.iter().filter_map(|entry| match &entry.outcome {
            Outcome::Rate(sample) => Some(sample.foreign_cores),
            _ => None,
        });
        foreign.fold(0.0, f64::max)
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get((values.len().max(1) - 1) / 2)?;
    Some((upper + lower) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work = Work::InFlight(1);

    #[test]
    fn ratio_compares_within_each_round() {
        // The best of the others may be a different one in each round.
        let results = Results(vec![
            entry("bellwire", 0, 90.0),
            entry("one", 0, 100.0),
            entry("other", 0, 50.0),
            entry("bellwire", 1, 40.0),
            entry("one", 1, 20.0),
            entry("other", 1, 50.0),
        ]);
        let ratio = |figure| results.ratio(WORK, "bellwire", &["one", "other"], figure);
        assert_eq!(ratio(Figure::PerSecond), Some((0.9 + 0.8) / 2.0));
        assert_eq!(ratio(Figure::P50), Some((1.8 + 2.0) / 2.0));
        assert_eq!(results.ratio(WORK, "bellwire", &["none"], Figure::P50), None);
    }

    #[test]
    fn median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    fn entry(row: &str, round: usize, value: f64) -> Entry {
        let sample = Sample {
            per_second: value,
            p50_us: value,
            p99_us: value,
            cpu_per_million: value,
            foreign_cores: 0.0,
        };
        Entry { work: WORK, row: row.into(), round, outcome: Outcome::Rate(sample) }
    }
}
