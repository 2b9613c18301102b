//! How long a client pauses before it repeats something by itself. Pure.

use std::time::Duration;

/// The pauses of everything that a client repeats by itself (docs/protocol/reconnecting.md, section
/// 14).
///
/// Pause n is random in the window of min(max, base · 2^n): at least a tenth of the window, at most
/// all of it. The least pause bounds how often a client repeats something, whatever a server
/// answers. The random part keeps the clients of one server from returning together.
///
/// Exhaustive: it is constructed from the three settings of PROTOCOL.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backoff {
    /// The first window; each is twice as long as the one before.
    pub base: Duration,
    /// The longest window.
    pub max: Duration,
    /// How long a success has to last until the next window is the first again.
    pub stable: Duration,
}

impl Backoff {
    /// The index of the window that a client is in after `down` without a connection, if windows
    /// follow one another without a pause.
    pub fn level(self, down: Duration) -> u32 {
        let windows = down.as_micros().checked_div(self.base.as_micros());
        windows.map_or(0, |windows| (windows + 1).ilog2())
    }

    /// The length of the window: min(max, base · 2^level).
    pub fn window(self, level: u32) -> Duration {
        self.base.saturating_mul(2_u32.saturating_pow(level)).min(self.max)
    }

    /// The shortest pause in a window: a tenth of it.
    pub fn least(self, level: u32) -> Duration {
        self.window(level) / 10
    }

    /// A random pause: uniform between the least pause and the end of the window. `jitter` is any
    /// random number.
    pub fn pause(self, level: u32, jitter: u64) -> Duration {
        let least = self.least(level);
        let spread = self.window(level).saturating_sub(least);
        let micros = u64::try_from(spread.as_micros()).unwrap_or(u64::MAX);
        // The high half of the product: uniform without a division.
        let scaled = (u128::from(jitter) * (u128::from(micros) + 1)) >> 64;
        least.saturating_add(Duration::from_micros(u64::try_from(scaled).unwrap_or(u64::MAX)))
    }
}

/// Counts how often in a row something was repeated.
///
/// ```
/// use std::time::Duration;
/// use bellwire::unstable::rules::{Backoff, Repeats};
///
/// let second = Duration::from_secs(1);
/// let backoff = Backoff { base: second, max: 3 * second, stable: 10 * second };
/// let mut repeats = Repeats::default();
/// let mut longest = || repeats.pause(backoff, u64::MAX).as_secs();
/// assert_eq!([longest(), longest(), longest()], [1, 2, 3]);
/// repeats.lasted(9 * second, backoff);
/// assert_eq!(repeats.level(), 3);
/// repeats.lasted(10 * second, backoff);
/// assert_eq!(repeats.level(), 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Repeats {
    level: u32,
}

impl Repeats {
    /// The index of the next window.
    pub fn level(self) -> u32 {
        self.level
    }

    /// Returns the pause before the next repetition. The next window is twice as long.
    pub fn pause(&mut self, backoff: Backoff, jitter: u64) -> Duration {
        backoff.pause(self.next_level(), jitter)
    }

    /// As [`pause`](Self::pause), after a `retry` hint, for a repetition that no caller waits for.
    /// All clients may have received the same hint, so the window is at least as long as the hint.
    pub fn pause_after(&mut self, hint: Duration, backoff: Backoff, jitter: u64) -> Duration {
        let base = backoff.window(self.next_level()).max(hint.min(backoff.max));
        hint.saturating_add(Backoff { base, max: base, ..backoff }.pause(0, jitter))
    }

    /// Returns the index of the next window, and counts it as used.
    pub(crate) fn next_level(&mut self) -> u32 {
        let level = self.level;
        self.level = level.saturating_add(1);
        level
    }

    /// Records a success that lasted for `time`. After [`Backoff::stable`] the next window is the
    /// first.
    pub fn lasted(&mut self, time: Duration, backoff: Backoff) {
        if time >= backoff.stable {
            self.level = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const BACKOFF: Backoff =
        Backoff { base: Duration::from_millis(250), max: Duration::from_secs(30), stable: SECOND };

    #[test]
    fn the_window_doubles_up_to_its_bound() {
        let windows: Vec<_> = (0..9).map(|n| BACKOFF.window(n).as_millis()).collect();
        assert_eq!(windows, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert_eq!(BACKOFF.window(u32::MAX), BACKOFF.max);
        let endless = Backoff { base: Duration::MAX, ..BACKOFF };
        assert_eq!(endless.window(3), BACKOFF.max);
    }

    #[test]
    fn the_pause_is_uniform_between_the_minimum_and_the_window() {
        assert_eq!(BACKOFF.pause(0, 0), BACKOFF.base / 10);
        assert_eq!(BACKOFF.pause(0, u64::MAX), BACKOFF.base);
        let mut random = fastrand::Rng::with_seed(1);
        let mut ninths = [0_u32; 9];
        for _ in 0..9_000 {
            let pause = BACKOFF.pause(2, random.u64(..)).as_millis();
            ninths[((pause as usize - 100) / 100).min(8)] += 1;
        }
        assert!(ninths.iter().all(|&count| (900..1_100).contains(&count)), "{ninths:?}");
        let none = Backoff { base: Duration::ZERO, ..BACKOFF };
        assert_eq!(none.pause(9, u64::MAX), Duration::ZERO);
    }

    #[test]
    fn a_backoff_level_lasts_as_long_as_its_window() {
        let level = |millis| BACKOFF.level(Duration::from_millis(millis));
        for (first, last, expected) in [(0, 249, 0), (250, 749, 1), (750, 1_749, 2)] {
            assert_eq!((level(first), level(last)), (expected, expected));
        }
        assert_eq!(BACKOFF.window(BACKOFF.level(Duration::MAX)), BACKOFF.max);
        assert_eq!(Backoff { base: Duration::ZERO, ..BACKOFF }.level(SECOND), 0);
    }

    /// The number of retries in a given time is bounded for all answers and all jitter.
    /// SECURITY.md, threat 40.
    #[test]
    fn retries_are_bounded_by_the_minimum_pauses() {
        let mut repeats = Repeats::default();
        let (mut count, mut time) = (0, Duration::ZERO);
        while time <= 30 * SECOND {
            time += repeats.pause(BACKOFF, 0);
            count += 1;
        }
        assert_eq!(count, 16);
        repeats.lasted(SECOND - Duration::from_nanos(1), BACKOFF);
        assert_eq!(repeats.level(), 16);
        repeats.lasted(SECOND, BACKOFF);
        assert_eq!(repeats.pause(BACKOFF, 0), Duration::from_millis(25));
    }

    #[test]
    fn a_pause_adds_jitter_after_the_retry_hint() {
        let after = |hint: u64, jitter| {
            let mut repeats = Repeats { level: 1 };
            repeats.pause_after(Duration::from_millis(hint), BACKOFF, jitter).as_millis()
        };
        assert_eq!((after(1, 0), after(1, u64::MAX)), (51, 501));
        assert_eq!((after(5_000, 0), after(5_000, u64::MAX)), (5_500, 10_000));
        assert_eq!((after(60_000, 0), after(60_000, u64::MAX)), (63_000, 90_000));
        let endless = Repeats::default().pause_after(Duration::MAX, BACKOFF, 7);
        assert_eq!(endless, Duration::MAX);
    }
}
