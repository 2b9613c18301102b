//! Deadlines and counts after which one end gives up the other: pure functions of events and times.

use std::time::Duration;

use crate::protocol::Time;

/// The violations of one peer: a bucket from which each takes one, and to which one returns with
/// every period (PROTOCOL.md, section 12).
///
/// ```
/// use std::time::Duration;
/// use bellwire::protocol::{Time, Violations};
///
/// let (limit, period) = (2, Duration::from_secs(10));
/// let at = Time::from_millis;
/// let (violations, _) = Violations::default().one_more(at(0), limit, period);
/// let (violations, is_over) = violations.one_more(at(0), limit, period);
/// assert!(!is_over);
/// assert!(violations.one_more(at(9_999), limit, period).1);
/// assert!(!violations.one_more(at(10_000), limit, period).1);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Violations {
    /// When all of them will have returned: the whole state of such a bucket.
    forgiven: Time,
}

impl Violations {
    /// After one more at `now`; and whether it is one over `limit`.
    #[must_use]
    pub fn one_more(self, now: Time, limit: u32, period: Duration) -> (Self, bool) {
        let forgiven = self.forgiven.max(now).after(period);
        let is_over = forgiven > now.after(period.saturating_mul(limit));
        (Self { forgiven }, is_over)
    }
}

/// How long a line may take from its first byte on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LineTime {
    /// Any line.
    pub base: Duration,
    /// Bytes of it, received, that give it one more second each time; at least 1.
    pub bytes_per_second: usize,
}

impl LineTime {
    /// When a line that began at `began`, and of which `received` bytes are there, has to be whole.
    pub fn deadline(self, began: Time, received: usize) -> Time {
        let millis =
            (received as u64).saturating_mul(1_000) / (self.bytes_per_second.max(1) as u64);
        began.after(self.base.saturating_add(Duration::from_millis(millis)))
    }
}

/// The client's side: a server that owes something, and is silent. It is probed first, and given up
/// only if it does not answer that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Silence {
    heard: Time,
    probed: Option<Time>,
    due: Time,
}

/// What a client does about a [`Silence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// Send something that is answered.
    Probe,
    /// Give the server up.
    Dead,
}

impl Silence {
    /// Who looks later than this was stopped itself, and knows nothing of the server.
    const LATE: Duration = Duration::from_secs(1);

    /// Bytes came at `now`. Whether that answers a probe: the next look is due sooner then, `probe`
    /// from `now`.
    pub fn heard(&mut self, now: Time) -> bool {
        self.heard = now;
        self.probed.take().is_some()
    }

    /// Looks at `now`. `awaits` is whether the server owes anything; it is probed after `probe` of
    /// silence, and given up `answer` later.
    pub fn look(&mut self, now: Time, awaits: bool, probe: Duration, answer: Duration) -> Verdict {
        if !awaits {
            self.probed = None;
            self.due = now.after(probe);
            return Verdict::Wait;
        }
        let end = match self.probed {
            Some(at) => at.after(answer),
            None => self.heard.after(probe),
        };
        self.due = end;
        match self.probed {
            _ if now < end => Verdict::Wait,
            Some(_) if now <= end.after(Self::LATE) => Verdict::Dead,
            _ => {
                self.probed = Some(now);
                self.due = now.after(answer);
                Verdict::Probe
            }
        }
    }

    /// When to look again.
    pub fn due(&self) -> Time {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(10);

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    /// How many of those at `times` are borne before one is over.
    fn borne(limit: u32, times: impl IntoIterator<Item = u64>) -> usize {
        let mut violations = Violations::default();
        let mut is_borne = |millis| {
            let (next, is_over) = violations.one_more(at(millis), limit, PERIOD);
            violations = next;
            !is_over
        };
        times.into_iter().take_while(|&millis| is_borne(millis)).count()
    }

    #[test]
    fn so_many_are_borne_at_once_and_one_more_with_every_period() {
        assert_eq!(borne(32, [7; 40]), 32);
        assert_eq!(borne(0, [7; 40]), 0);
        assert_eq!(borne(3, [0, 0, 0, 9_999]), 3);
        assert_eq!(borne(3, [0, 0, 0, 10_000, 10_000]), 4);
        assert_eq!(borne(3, [0, 0, 0, 10_000, 19_999]), 4);
        assert_eq!(borne(3, [0, 0, 0, 30_000, 30_000, 30_000, 30_000]), 6);
        // No more returns than were taken.
        assert_eq!(borne(3, [0, 1_000_000, 1_000_000, 1_000_000, 1_000_000]), 4);
        assert_eq!(borne(1, (0..1_000).map(|n| n * 10_000)), 1_000);
    }

    #[test]
    fn the_end_of_time_is_no_end_of_patience() {
        let (violations, is_over) = Violations::default().one_more(at(u64::MAX), 1, PERIOD);
        assert!(!is_over);
        assert!(!violations.one_more(at(u64::MAX), 1, Duration::MAX).1);
        assert!(!Violations::default().one_more(at(5), u32::MAX, Duration::MAX).1);
    }

    #[test]
    fn a_silent_server_is_probed_before_it_is_given_up() {
        let mut silence = Silence::default();
        let look = |silence: &mut Silence, millis, awaits| {
            let verdict = silence.look(at(millis), awaits, PERIOD, PERIOD);
            (verdict, silence.due().as_millis())
        };
        silence.heard(at(1_000));
        assert_eq!(look(&mut silence, 0, true), (Verdict::Wait, 11_000));
        assert_eq!(look(&mut silence, 10_999, true), (Verdict::Wait, 11_000));
        assert_eq!(look(&mut silence, 11_000, true), (Verdict::Probe, 21_000));
        assert_eq!(look(&mut silence, 20_999, true), (Verdict::Wait, 21_000));
        assert_eq!(look(&mut silence, 21_000, true).0, Verdict::Dead);
        // Who was stopped itself asks once more.
        assert_eq!(look(&mut silence, 22_001, true), (Verdict::Probe, 32_001));
        silence.heard(at(32_000));
        assert_eq!(look(&mut silence, 32_001, true), (Verdict::Wait, 42_000));
        assert_eq!(look(&mut silence, 42_000, true), (Verdict::Probe, 52_000));
        assert_eq!(look(&mut silence, 52_000, true).0, Verdict::Dead);
        silence.heard(at(80_000));
        // What began to be awaited after a long silence is not late at once.
        assert_eq!(look(&mut silence, 90_000, false), (Verdict::Wait, 100_000));
        assert_eq!(look(&mut silence, 100_000, true), (Verdict::Probe, 110_000));
        assert_eq!(look(&mut silence, 110_000, true).0, Verdict::Dead);
    }

    #[test]
    fn a_long_line_gets_a_second_for_so_many_bytes() {
        let time = LineTime { base: PERIOD, bytes_per_second: 16 * 1024 };
        assert_eq!(time.deadline(at(5), 0), at(10_005));
        assert_eq!(time.deadline(at(5), 8 * 1024), at(10_505));
        assert_eq!(time.deadline(at(5), 64 * 1024), at(14_005));
        let endless = LineTime { base: Duration::MAX, bytes_per_second: 0 };
        assert_eq!(endless.deadline(at(5), usize::MAX), at(u64::MAX));
    }
}
