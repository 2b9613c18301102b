//! Where and when a client tries again to connect. Pure.

use std::time::Duration;

use crate::protocol::Time;

/// How long a client waits before it tries again (PROTOCOL.md, section 3.5): full jitter, so that the
/// clients of one server do not come back together.
///
/// Windows of min(max, base · 2^n) stand one behind the other from when the connection was lost. A
/// client comes once in each, at a place that is random, uniform, and the same in all of them; it is
/// drawn anew for each connection that is lost. So whenever the server is back, those who were refused
/// in this window come in the next, half as thick, in the order in which they were refused, and the
/// peak is at most twice the mean. To draw each place by itself would have some of them come at the end
/// of the next window, however little of this one was left: a peak, then a long tail. To count failures
/// instead of time would drive apart who began together: whoever draws short pauses fails more often,
/// and ends up in a window many times longer than what has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backoff {
    /// The first window; each is twice as long as the one before.
    pub base: Duration,
    /// The longest window.
    pub max: Duration,
    /// How long a connection has to have been open for the window to be the first again.
    pub stable: Duration,
}

impl Backoff {
    /// In which window a client is that has been without a connection for so long.
    pub fn level(self, down: Duration) -> u32 {
        let windows = down.as_micros().checked_div(self.base.as_micros());
        windows.map_or(0, |windows| (windows + 1).ilog2())
    }

    /// The length of the window: min(max, base · 2^level).
    pub fn window(self, level: u32) -> Duration {
        self.base.saturating_mul(2_u32.saturating_pow(level)).min(self.max)
    }

    /// A pause: uniform in the window, by `jitter`, any random number.
    pub fn pause(self, level: u32, jitter: u64) -> Duration {
        let micros = u64::try_from(self.window(level).as_micros()).unwrap_or(u64::MAX);
        // The high half of the product: uniform without a division.
        let scaled = (u128::from(jitter) * (u128::from(micros) + 1)) >> 64;
        Duration::from_micros(u64::try_from(scaled).unwrap_or(u64::MAX))
    }
}

/// A client's way along its list of addresses (PROTOCOL.md, section 12).
///
/// Addresses are tried in rounds, each once per round, in the order of the list, from the one behind
/// the last on, and one round in each window of the [`Backoff`]. An address that asked to be left alone for a while
/// is passed over for so long; if all did, the one that may be tried soonest is next.
///
/// The caller asks for the [`next`](Self::next) attempt, makes it, and, if it fails, asks for the one
/// behind it; else it says that the connection [`opened`](Self::opened) and, in the end, that it was
/// [`lost`](Self::lost). What a server asks for, at any time, is [`asked`](Self::asked).
///
/// ```
/// use std::time::Duration;
/// use bellwire::protocol::{Backoff, Reconnect, Time};
///
/// let second = Duration::from_secs(1);
/// let backoff = Backoff { base: second, max: 30 * second, stable: 10 * second };
/// let mut reconnect = Reconnect::new(2, backoff);
/// let at = Time::from_millis;
/// let greatest = u64::MAX; // jitter
/// assert_eq!(reconnect.next(at(0), greatest), (0, at(0)));
/// assert_eq!(reconnect.next(at(5), greatest), (1, at(5)));
/// assert_eq!(reconnect.next(at(9), greatest), (0, at(1_009)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reconnect {
    backoff: Backoff,
    addresses: Vec<Address>,
    /// The address of the last attempt; before the first, the last of all.
    last: usize,
    /// How long there was no connection, since one was stable; without the time since `down_since`.
    down: Duration,
    down_since: Time,
    /// The random number that is its place in every window since then, once it is drawn.
    place: Option<u64>,
    /// When this round begins.
    due: Time,
    /// When the window is over in which it begins.
    window_end: Time,
    opened: Option<Time>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Address {
    is_tried: bool,
    not_before: Time,
}

impl Reconnect {
    /// The way along so many addresses; at least 1.
    pub fn new(addresses: usize, backoff: Backoff) -> Self {
        let addresses = vec![Address::default(); addresses.max(1)];
        let last = addresses.len() - 1;
        let (down, down_since, due, window_end) = Default::default();
        let (place, opened) = (None, None);
        Self { backoff, addresses, last, down, down_since, place, due, window_end, opened }
    }

    /// Which address to try next, and when. `jitter` is any random number; the first since a connection
    /// was lost is the place in all windows.
    pub fn next(&mut self, now: Time, jitter: u64) -> (usize, Time) {
        let place = *self.place.get_or_insert(jitter);
        let due = self.due.max(now);
        let is_free = |address: &Address| !address.is_tried && address.not_before <= due;
        if !self.addresses.iter().any(is_free) {
            self.addresses.iter_mut().for_each(|address| address.is_tried = false);
            // An attempt may have taken longer than was left of its window.
            let begin = self.window_end.max(now);
            let level = self.level(begin);
            self.due = begin.after(self.backoff.pause(level, place));
            self.window_end = begin.after(self.backoff.window(level));
        }
        let due = self.due.max(now);
        let (at, not_before) = self.choose(due);
        // Whoever was asked to stay away until then is not to come with all the others, either: it comes
        // in as long a window as there is by then.
        let pause = || self.backoff.pause(self.level(not_before), jitter);
        let when = if not_before > due { not_before.after(pause()) } else { due };
        self.last = at;
        if let Some(address) = self.addresses.get_mut(at) {
            address.is_tried = true;
        }
        (at, when)
    }

    /// Whether every address was tried in this round.
    pub fn is_round_over(&self) -> bool {
        self.addresses.iter().all(|address| address.is_tried)
    }

    fn level(&self, now: Time) -> u32 {
        self.backoff.level(self.down.saturating_add(self.down_since.until(now)))
    }

    /// Of those left in this round, the first that may be tried at `due`, or else the one that may be
    /// tried soonest.
    fn choose(&self, due: Time) -> (usize, Time) {
        let count = self.addresses.len();
        let order = (1..=count).map(|step| (self.last + step) % count);
        let left = order.filter_map(|at| {
            let address = self.addresses.get(at).filter(|address| !address.is_tried)?;
            Some((at, address.not_before))
        });
        let first = left.min_by_key(|(_, not_before)| (*not_before).max(due));
        first.unwrap_or((self.last, due))
    }

    /// An address asks to be left alone until then.
    pub fn asked(&mut self, address: usize, not_before: Time) {
        if let Some(address) = self.addresses.get_mut(address) {
            address.not_before = address.not_before.max(not_before);
        }
    }

    /// Whether an address, for all that it asked, may be tried at `now`.
    pub fn may_try(&self, address: usize, now: Time) -> bool {
        self.addresses.get(address).is_none_or(|address| address.not_before <= now)
    }

    /// The attempt succeeded.
    pub fn opened(&mut self, now: Time) {
        self.down = self.down.saturating_add(self.down_since.until(now));
        (self.down_since, self.opened) = (now, Some(now));
    }

    /// The connection is over, or is not to be used for anything new: a pause comes first.
    pub fn lost(&mut self, now: Time) {
        if self.opened.take().is_some_and(|opened| now >= opened.after(self.backoff.stable)) {
            self.down = Duration::ZERO;
        }
        (self.down_since, self.window_end, self.place) = (now, now, None);
        self.addresses.iter_mut().for_each(|address| address.is_tried = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff =
        Backoff { base: Duration::from_millis(250), max: Duration::from_secs(30), stable: SECOND };
    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn the_window_doubles_up_to_its_bound() {
        let windows: Vec<_> = (0..9).map(|n| BACKOFF.window(n).as_millis()).collect();
        assert_eq!(windows, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert_eq!(BACKOFF.window(u32::MAX), BACKOFF.max);
        let endless = Backoff { base: Duration::MAX, ..BACKOFF };
        assert_eq!(endless.window(3), BACKOFF.max);
    }

    #[test]
    fn the_pause_is_uniform_in_the_window() {
        assert_eq!(BACKOFF.pause(0, 0), Duration::ZERO);
        assert_eq!(BACKOFF.pause(0, u64::MAX), BACKOFF.base);
        let mut random = fastrand::Rng::with_seed(1);
        let mut tenths = [0_u32; 10];
        for _ in 0..10_000 {
            let pause = BACKOFF.pause(2, random.u64(..)).as_millis();
            tenths[(pause as usize / 100).min(9)] += 1;
        }
        assert!(tenths.iter().all(|&count| (900..1_100).contains(&count)), "{tenths:?}");
        let none = Backoff { base: Duration::ZERO, ..BACKOFF };
        assert_eq!(none.pause(9, u64::MAX), Duration::ZERO);
    }

    #[test]
    fn a_level_lasts_as_long_as_its_window() {
        let level = |millis| BACKOFF.level(Duration::from_millis(millis));
        for (first, last, expected) in [(0, 249, 0), (250, 749, 1), (750, 1_749, 2)] {
            assert_eq!((level(first), level(last)), (expected, expected));
        }
        assert_eq!(BACKOFF.window(BACKOFF.level(Duration::MAX)), BACKOFF.max);
        assert_eq!(Backoff { base: Duration::ZERO, ..BACKOFF }.level(SECOND), 0);
    }

    /// Threat 25: of 2,000 clients that lose their server together and find it again after a while, no
    /// tenth of a second has more than three times its share.
    #[test]
    fn clients_that_were_lost_together_come_back_spread() {
        for (away, seed) in [0, 20, 300, 1_000, 2_000, 5_000, 10_000, 40_000].into_iter().zip(1..) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut back: Vec<_> = (0..2_000).map(|_| comes_back(away, &mut random)).collect();
            back.sort_unstable();
            let spread = back[1_999] - back[0];
            let within = |at: u64| back.iter().filter(|back| (at..at + 100).contains(back)).count();
            let peak = back.iter().map(|&at| within(at)).max().unwrap();
            let mean = 2_000.0 * 100.0 / spread as f64;
            assert!(peak as f64 <= 3.0 * mean, "{away} ms: {peak} of {mean}");
            // Who was refused in this window is back in the next.
            let level = BACKOFF.level(Duration::from_millis(away));
            assert!(back[1_999] <= away + BACKOFF.window(level + 1).as_millis() as u64);
        }
    }

    /// When a client is back whose server was `away` for so many milliseconds.
    fn comes_back(away: u64, random: &mut fastrand::Rng) -> u64 {
        let mut reconnect = Reconnect::new(1, BACKOFF);
        reconnect.next(at(0), 0);
        reconnect.opened(at(0));
        reconnect.lost(at(0));
        let mut now = at(0);
        loop {
            (_, now) = reconnect.next(now, random.u64(..));
            if now >= at(away) {
                return now.as_millis();
            }
        }
    }

    #[test]
    fn each_address_has_its_turn_before_a_pause() {
        let mut reconnect = Reconnect::new(3, BACKOFF);
        let mut now = at(0);
        let tried = [(); 7].map(|()| {
            let (address, when) = reconnect.next(now, u64::MAX);
            now = when;
            (address, when.as_millis())
        });
        assert_eq!(tried, [(0, 0), (1, 0), (2, 0), (0, 250), (1, 250), (2, 250), (0, 750)]);
    }

    /// Once in each window, at one place in all of them; the next loss has its own.
    #[test]
    fn a_client_has_one_place_in_all_windows() {
        let mut reconnect = Reconnect::new(1, BACKOFF);
        let half = 1 << 63;
        let mut now = at(0);
        let mut tried = |reconnect: &mut Reconnect, jitter| {
            (_, now) = reconnect.next(now, jitter);
            now.as_millis()
        };
        reconnect.next(at(0), 7);
        reconnect.opened(at(0));
        reconnect.lost(at(0));
        let first = [half, 0, u64::MAX, 0].map(|jitter| tried(&mut reconnect, jitter));
        assert_eq!(first, [125, 500, 1_250, 2_750]);
        reconnect.opened(at(2_750));
        reconnect.lost(at(3_750));
        assert_eq!(reconnect.next(at(3_750), 0), (0, at(3_750)));
        // An attempt that took longer than its window, and the two after it.
        assert_eq!(reconnect.next(at(13_750), half), (0, at(13_750)));
        assert_eq!(reconnect.next(at(13_750), half), (0, at(21_750)));
    }

    #[test]
    fn a_lost_connection_is_sought_elsewhere_first_and_after_a_pause() {
        let mut reconnect = Reconnect::new(2, BACKOFF);
        assert_eq!(reconnect.next(at(0), 0).0, 0);
        reconnect.opened(at(10));
        reconnect.lost(at(20));
        assert_eq!(reconnect.next(at(20), u64::MAX), (1, at(270)));
        assert_eq!(reconnect.next(at(270), u64::MAX), (0, at(270)));
    }

    #[test]
    fn only_a_stable_while_brings_the_first_window_back() {
        let mut reconnect = Reconnect::new(1, BACKOFF);
        let mut now = 0;
        let mut pause_after = |open: u64| {
            let (_, when) = reconnect.next(at(now), u64::MAX);
            let pause = when.as_millis() - now;
            now += pause;
            reconnect.opened(at(now));
            now += open;
            reconnect.lost(at(now));
            pause
        };
        let pauses: Vec<_> = [0, 0, 999, 1_000, 0].into_iter().map(&mut pause_after).collect();
        assert_eq!(pauses, [0, 250, 500, 1_000, 250]);
    }

    #[test]
    fn who_asks_for_patience_is_passed_over() {
        let mut reconnect = Reconnect::new(2, BACKOFF);
        reconnect.next(at(0), 0);
        reconnect.opened(at(0));
        reconnect.lost(at(0));
        reconnect.asked(0, at(9_000));
        assert_eq!(reconnect.next(at(0), u64::MAX), (1, at(250)));
        reconnect.asked(1, at(3_001));
        assert!(!reconnect.may_try(1, at(3_000)) && reconnect.may_try(1, at(3_001)));
        // Both want patience: the sooner one, at its time and spread behind it.
        assert_eq!(reconnect.next(at(251), u64::MAX), (1, at(5_001)));
        // One that asks for nothing more is tried as often as if it were alone.
        assert_eq!(reconnect.next(at(5_001), u64::MAX), (0, at(9_001)));
        assert_eq!(reconnect.next(at(9_001), u64::MAX), (1, at(9_001)));
    }
}
