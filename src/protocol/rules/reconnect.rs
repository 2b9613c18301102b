//! When, and in what order, a client tries its addresses again. Pure.

use std::time::Duration;

use crate::protocol::{
    Time,
    rules::{Backoff, Repeats},
};

/// Schedules the attempts of a client without a connection (docs/protocol/reconnecting.md, section
/// 14).
///
/// Windows of min(max, base · 2^n) follow one another from the moment the connection was lost. In
/// each window there is one round through the addresses. It begins at a random point, which is the
/// same in all windows until the next loss. n counts the windows since a connection last held for
/// [`Backoff::stable`].
///
/// Because of that fixed point, a client whose round failed in one window comes back in the next
/// one. The next window is twice as long and the clients come in the same order, so the peak load
/// is little more than twice the mean. With a new random point in each window, some clients would
/// come only at the end of the next window, even if little of this one was left. The server would
/// see a peak, and then a long tail.
///
/// The very first round begins at once. An address with a retry hint is left out until its time is
/// over. If all addresses have a hint, the windows go on when the first of them may be tried, with
/// a window at least as long as that wait.
///
/// The caller asks when a round is [`due`](Self::due) and then begins the [`round`](Self::round).
/// It reports how the round ended: [`failed`](Self::failed), or [`opened`](Self::opened) and later
/// [`lost`](Self::lost). It reports a server's retry hint, at any time, with
/// [`retry_after`](Self::retry_after).
///
/// ```
/// use std::time::Duration;
/// use bellwire::{protocol::Time, unstable::rules::{Backoff, Reconnect}};
///
/// let second = Duration::from_secs(1);
/// let backoff = Backoff { base: second, max: 30 * second, stable: 10 * second };
/// let mut reconnect = Reconnect::new(2, backoff);
/// let at = Time::from_millis;
/// let half = || 1 << 63; // jitter: the middle of what is random
/// assert_eq!(reconnect.due(half), at(0));
/// assert_eq!(reconnect.round(at(0)), [0, 1]);
/// reconnect.failed(at(5));
/// assert_eq!(reconnect.due(half), at(555));
/// assert_eq!(reconnect.round(at(555)), [0, 1]);
/// reconnect.failed(at(555));
/// // The second window is from 1,005 to 3,005.
/// assert_eq!(reconnect.due(half), at(2_105));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reconnect {
    backoff: Backoff,
    /// Until when each address must not be tried, as its server asked.
    not_before: Vec<Time>,
    /// The address of the last connection. Before the first connection it is the last of the list.
    last: usize,
    /// The first round has not begun yet.
    is_new: bool,
    windows: Repeats,
    /// The random number that fixes the point in every window since the last loss, once it is
    /// drawn.
    place: Option<u64>,
    /// When the window of the last round ends.
    window_end: Time,
    /// When the last round, or the last connection, ended.
    free: Time,
    opened: Option<Time>,
}

impl Reconnect {
    /// The schedule for this many addresses; at least 1.
    pub fn new(addresses: usize, backoff: Backoff) -> Self {
        let not_before = vec![Time::default(); addresses.max(1)];
        let last = not_before.len() - 1;
        let (windows, window_end, free) = Default::default();
        let (is_new, place, opened) = (true, None, None);
        Self { backoff, not_before, last, is_new, windows, place, window_end, free, opened }
    }

    /// When the next round is due. `jitter` is called once for each loss and returns any random
    /// number, which fixes the point in all windows.
    pub fn due(&mut self, jitter: impl FnOnce() -> u64) -> Time {
        if self.is_new {
            return self.soonest();
        }
        let place = *self.place.get_or_insert_with(jitter);
        let (begin, window) = self.window();
        begin.after(Backoff { base: window, max: window, ..self.backoff }.pause(0, place))
    }

    /// When the window of the next round begins, and how long it is. It begins behind the last
    /// window, or behind the last round if that took longer. If all addresses have a retry hint, it
    /// is at least as long as the wait for the first of them, because all clients may have received
    /// the same hint.
    fn window(&self) -> (Time, Duration) {
        let (window, begin) =
            (self.backoff.window(self.windows.level()), self.window_end.max(self.free));
        let asked = begin.until(self.soonest());
        (begin.max(self.soonest()), window.max(asked.min(self.backoff.max)))
    }

    /// When the retry hints first allow an address to be tried.
    pub fn soonest(&self) -> Time {
        self.not_before.iter().min().copied().unwrap_or_default()
    }

    /// Begins a round. Returns the addresses that may be tried at `now`, in order, from the one
    /// behind the last connection's. Before [`soonest`](Self::soonest) the list is empty and no
    /// round has begun.
    pub fn round(&mut self, now: Time) -> Vec<usize> {
        let count = self.not_before.len();
        let order = (1..=count).map(|step| (self.last + step) % count);
        let order: Vec<_> = order.filter(|&address| self.may_try(address, now)).collect();
        if !order.is_empty() && !std::mem::take(&mut self.is_new) {
            // A round that begins before it is due uses up its window, too.
            let (begin, window) = self.window();
            self.windows.next_level();
            self.window_end = begin.after(window);
        }
        order
    }

    /// Records that the server at this address asks not to be tried before `not_before`.
    pub fn retry_after(&mut self, address: usize, not_before: Time) {
        if let Some(own) = self.not_before.get_mut(address) {
            *own = not_before.max(*own);
        }
    }

    /// Whether the retry hint of an address allows it to be tried at `now`.
    pub fn may_try(&self, address: usize, now: Time) -> bool {
        self.not_before.get(address).is_none_or(|&not_before| not_before <= now)
    }

    /// Records that the round ended without a connection.
    pub fn failed(&mut self, now: Time) {
        self.free = now;
    }

    /// Records that the round opened a connection to this address.
    pub fn opened(&mut self, address: usize, now: Time) {
        let last = self.not_before.len().saturating_sub(1);
        (self.last, self.opened) = (address.min(last), Some(now));
    }

    /// Records that the connection has ended or accepts nothing new. The windows begin here.
    pub fn lost(&mut self, now: Time) {
        if let Some(opened) = self.opened.take() {
            self.windows.lasted(opened.until(now), self.backoff);
        }
        (self.free, self.window_end, self.place) = (now, now, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        base: Duration::from_millis(250),
        max: Duration::from_secs(30),
        stable: Duration::from_secs(10),
    };
    const HALF: u64 = 1 << 63;

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    /// A schedule that lost its first connection at 0.
    fn after_a_loss(addresses: usize) -> Reconnect {
        let mut reconnect = Reconnect::new(addresses, BACKOFF);
        reconnect.round(at(0));
        reconnect.opened(0, at(0));
        reconnect.lost(at(0));
        reconnect
    }

    /// Begins the round that is due. `jitter` fixes its point if it is the first round since a
    /// loss.
    fn next(reconnect: &mut Reconnect, jitter: u64) -> (Vec<usize>, u64) {
        let due = reconnect.due(|| jitter);
        (reconnect.round(due), due.as_millis())
    }

    /// 2,000 clients lose their server at the same time, and it is reachable again after a while.
    /// No tenth of a second has more than three times its share of the reconnects. SECURITY.md,
    /// threat 25.
    #[test]
    fn simultaneous_losses_lead_to_spread_reconnects() {
        for (away, seed) in [0, 20, 300, 1_000, 2_000, 5_000, 10_000, 40_000].into_iter().zip(1..) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut back: Vec<_> = (0..2_000).map(|_| comes_back(away, &mut random)).collect();
            back.sort_unstable();
            let spread = back[1_999] - back[0];
            let within = |at: u64| back.iter().filter(|back| (at..at + 100).contains(back)).count();
            let peak = back.iter().map(|&at| within(at)).max().unwrap();
            let mean = 2_000.0 * 100.0 / spread as f64;
            assert!(peak as f64 <= 3.0 * mean, "{away} ms: {peak} of {mean}");
            // A client that was refused in this window is back in the next.
            let level = BACKOFF.level(Duration::from_millis(away));
            assert!(back[1_999] <= away + BACKOFF.window(level + 1).as_millis() as u64);
        }
    }

    /// When a client is connected again, if its server was `away` for this many milliseconds.
    fn comes_back(away: u64, random: &mut fastrand::Rng) -> u64 {
        let mut reconnect = after_a_loss(1);
        loop {
            let (_, now) = next(&mut reconnect, random.u64(..));
            if now >= away {
                return now;
            }
            reconnect.failed(at(now));
        }
    }

    /// [C5.3] The example of docs/protocol/reconnecting.md, section 14.
    #[test]
    fn reconnect_times_match_the_documented_example() {
        let mut reconnect = Reconnect::new(1, BACKOFF);
        assert_eq!(next(&mut reconnect, 0), (vec![0], 0));
        reconnect.opened(0, at(0));
        // The connection is lost at 60,000. The server is away, and each round fails at once.
        reconnect.lost(at(60_000));
        let mut rounds = [0; 8].map(|_| {
            let (_, at_millis) = next(&mut reconnect, HALF);
            reconnect.failed(at(at_millis));
            at_millis - 60_000
        });
        assert_eq!(rounds, [137, 525, 1_300, 2_850, 5_950, 12_150, 24_550, 48_250]);
        // The ninth round connects, and the server closes the connection at once: the windows go
        // on.
        let (_, back) = next(&mut reconnect, HALF);
        assert_eq!(back - 60_000, 78_250);
        reconnect.opened(0, at(back));
        reconnect.lost(at(back));
        let (_, again) = next(&mut reconnect, 0);
        assert_eq!(again - back, 3_000);
        // The connection held for 10 s.
        reconnect.opened(0, at(again));
        reconnect.lost(at(again + 10_000));
        assert_eq!(next(&mut reconnect, 0).1 - again, 10_025);
        // Each connection is closed at once: the same windows, each counted from the loss.
        let (mut reconnect, mut now) = (Reconnect::new(1, BACKOFF), 0);
        rounds = [0; 8].map(|_| {
            reconnect.round(at(now));
            reconnect.opened(0, at(now));
            reconnect.lost(at(now));
            let from = now;
            now = reconnect.due(|| HALF).as_millis();
            now - from
        });
        assert_eq!(rounds, [137, 275, 550, 1_100, 2_200, 4_400, 8_800, 16_500]);
    }

    #[test]
    fn one_round_tries_every_address() {
        let mut reconnect = Reconnect::new(3, BACKOFF);
        let mut begun = || {
            let round = next(&mut reconnect, u64::MAX);
            reconnect.failed(at(round.1));
            round
        };
        let all = vec![0, 1, 2];
        let rounds = [begun(), begun(), begun()];
        assert_eq!(rounds, [(all.clone(), 0), (all.clone(), 250), (all, 750)]);
    }

    /// A client has one round in each window, at the same point in all of them. The next loss has
    /// its own point.
    #[test]
    fn a_client_uses_the_same_jitter_in_all_windows() {
        let mut reconnect = after_a_loss(1);
        let rounds = [HALF, 0, u64::MAX, 0].map(|jitter| next(&mut reconnect, jitter).1);
        assert_eq!(rounds, [137, 525, 1_300, 2_850]);
        reconnect.opened(0, at(2_850));
        reconnect.lost(at(3_850));
        assert_eq!(next(&mut reconnect, 0).1, 3_850 + 400);
    }

    /// If a round took longer than its window, the next window begins when the round ends.
    #[test]
    fn a_long_round_delays_the_next_window() {
        let mut reconnect = after_a_loss(1);
        assert_eq!(next(&mut reconnect, 0).1, 25);
        reconnect.failed(at(10_025));
        assert_eq!(next(&mut reconnect, 0).1, 10_075);
        reconnect.failed(at(10_075));
        assert_eq!(next(&mut reconnect, 0).1, 10_625);
    }

    #[test]
    fn after_a_loss_the_next_address_is_tried_first_and_after_a_pause() {
        let mut reconnect = after_a_loss(2);
        assert_eq!(next(&mut reconnect, u64::MAX), (vec![1, 0], 250));
    }

    /// [C5.4] An address is skipped until its retry hint has expired. If all addresses wait, the
    /// windows wait.
    #[test]
    fn an_address_with_a_retry_hint_is_skipped() {
        let mut reconnect = after_a_loss(2);
        reconnect.retry_after(0, at(9_000));
        assert_eq!(next(&mut reconnect, u64::MAX), (vec![1], 250));
        reconnect.failed(at(251));
        reconnect.retry_after(1, at(3_001));
        assert!(!reconnect.may_try(1, at(3_000)) && reconnect.may_try(1, at(3_001)));
        assert!(reconnect.round(at(3_000)).is_empty());
        // Both addresses have a hint. The round begins when the shorter one is over, spread over a
        // window as long as that wait.
        assert_eq!(next(&mut reconnect, u64::MAX), (vec![1], 5_751));
        reconnect.failed(at(5_751));
        // The other address joins the first round after its hint is over.
        assert_eq!(next(&mut reconnect, u64::MAX), (vec![1], 6_751));
        reconnect.failed(at(6_751));
        assert_eq!(next(&mut reconnect, u64::MAX), (vec![1], 8_751));
        reconnect.failed(at(8_751));
        assert_eq!(next(&mut reconnect, u64::MAX), (vec![1, 0], 12_751));
    }

    /// The latest hint of an address counts, in whichever order the hints came.
    #[test]
    fn the_latest_retry_hint_of_an_address_counts() {
        let mut reconnect = after_a_loss(1);
        reconnect.retry_after(0, at(9_000));
        reconnect.retry_after(0, at(1_000));
        assert_eq!(reconnect.soonest(), at(9_000));
    }

    /// A second call of `due` does not move the round.
    #[test]
    fn calling_due_again_does_not_move_the_round() {
        let mut reconnect = after_a_loss(1);
        assert_eq!([1, 2, 3].map(|jitter| reconnect.due(|| jitter << 62)), [at(81); 3]);
        // A round that begins early, as with a manual reconnect, uses up its window.
        assert_eq!(reconnect.round(at(10)), [0]);
        reconnect.failed(at(11));
        assert_eq!(reconnect.due(|| 0), at(250 + 162));
    }
}
