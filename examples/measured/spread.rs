//! How events spread over time: the peak against the mean.

use std::time::Duration;

/// The length of the interval for the peak.
const WINDOW: Duration = Duration::from_millis(100);

/// The events, from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) count: usize,
    pub(crate) first: Duration,
    pub(crate) last: Duration,
    /// The most events in any 100 ms.
    pub(crate) peak: usize,
}

impl Spread {
    /// Computes this from the times of the events, in any order.
    pub(crate) fn of(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut times: Vec<_> = times.into_iter().collect();
        times.sort_unstable();
        let first = times.first().copied().unwrap_or_default();
        let last = times.last().copied().unwrap_or_default();
        Self { count: times.len(), first, last, peak: peak(&times) }
    }

    /// The mean in 100 ms, from the first event to the last; all events if that takes no longer.
    pub(crate) fn mean(&self) -> f64 {
        let time = (self.last - self.first).max(WINDOW);
        self.count as f64 / time.div_duration_f64(WINDOW)
    }

    /// The ratio of peak to mean.
    pub(crate) fn ratio(&self) -> f64 {
        self.peak as f64 / self.mean()
    }
}

/// For each event: how many events the 100 ms up to it contain.
fn peak(times: &[Duration]) -> usize {
    let mut begin = 0;
    let held = times.iter().enumerate().map(|(at, &time)| {
        while times[begin] + WINDOW <= time {
            begin += 1;
        }
        at + 1 - begin
    });
    held.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(millis: &[u64]) -> Spread {
        Spread::of(millis.iter().map(|&millis| Duration::from_millis(millis)))
    }

    #[test]
    fn a_peak_is_found_wherever_it_begins() {
        assert_eq!(of(&[0, 99, 198, 297]).peak, 2);
        assert_eq!(of(&[0, 100, 200]).peak, 1);
        assert_eq!(of(&[900, 0, 350, 360, 449, 450]).peak, 3);
        assert_eq!(of(&[7; 5]).peak, 5);
    }

    #[test]
    fn an_even_spread_peaks_at_its_mean() {
        let even: Vec<_> = (0..1_000).collect();
        assert!((of(&even).ratio() - 1.0).abs() < 0.01);
        assert_eq!(of(&[0, 0, 0, 1_000]).ratio(), 3.0 / 0.4);
        assert_eq!(of(&[5, 6, 7]).ratio(), 1.0);
        assert_eq!(of(&[]).peak, 0);
    }
}
