//! Keep-alive: when a client probes a silent server, and when it closes the connection.

use std::time::Duration;

use crate::protocol::Time;

/// The client's keep-alive. It detects a server that owes an answer and is silent. The client first
/// sends a probe, and closes the connection only if the probe is not answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeepAlive {
    heard: Time,
    probed: Option<Time>,
    due: Time,
}

/// What the client has to do, as [`KeepAlive::look`] decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// Send a request that the server answers.
    Probe,
    /// Close the connection.
    Dead,
}

impl KeepAlive {
    /// A check that runs later than this shows that this process was stopped. It then says nothing
    /// about the server.
    const LATE: Duration = Duration::from_secs(1);

    /// Records that bytes came at `now`. Returns whether they answer a probe. If so, the next check
    /// is due earlier, `probe` after `now`.
    pub fn heard(&mut self, now: Time) -> bool {
        self.heard = now;
        self.probed.take().is_some()
    }

    /// Checks the server at `now`. `awaits` says whether the server owes an answer. The verdict is
    /// to probe after `probe` of silence, and to close if no answer comes within `answer`.
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

    /// When the next check is due.
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

    #[test]
    fn a_silent_server_is_probed_before_it_is_declared_dead() {
        let mut keepalive = KeepAlive::default();
        let look = |keepalive: &mut KeepAlive, millis, awaits| {
            let verdict = keepalive.look(at(millis), awaits, PERIOD, PERIOD);
            (verdict, keepalive.due().as_millis())
        };
        keepalive.heard(at(1_000));
        assert_eq!(look(&mut keepalive, 0, true), (Verdict::Wait, 11_000));
        assert_eq!(look(&mut keepalive, 10_999, true), (Verdict::Wait, 11_000));
        assert_eq!(look(&mut keepalive, 11_000, true), (Verdict::Probe, 21_000));
        assert_eq!(look(&mut keepalive, 20_999, true), (Verdict::Wait, 21_000));
        assert_eq!(look(&mut keepalive, 21_000, true).0, Verdict::Dead);
        // The process itself was stopped, so the client probes once more.
        assert_eq!(look(&mut keepalive, 22_001, true), (Verdict::Probe, 32_001));
        keepalive.heard(at(32_000));
        assert_eq!(look(&mut keepalive, 32_001, true), (Verdict::Wait, 42_000));
        assert_eq!(look(&mut keepalive, 42_000, true), (Verdict::Probe, 52_000));
        assert_eq!(look(&mut keepalive, 52_000, true).0, Verdict::Dead);
        keepalive.heard(at(80_000));
        // An answer that is awaited only after a long silence is not late at once.
        assert_eq!(look(&mut keepalive, 90_000, false), (Verdict::Wait, 100_000));
        assert_eq!(look(&mut keepalive, 100_000, true), (Verdict::Probe, 110_000));
        assert_eq!(look(&mut keepalive, 110_000, true).0, Verdict::Dead);
    }
}
