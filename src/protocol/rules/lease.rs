//! The lease of a connection's subscriptions, as each end sees it: pure transitions.
//!
//! The server ends subscriptions when the lease runs out, and the client renews well before that.
//! Each end uses its own clock. The client counts from when it *sent* a renewal, which is never
//! later than when the server read it. So the next renewal is in time unless its transit takes too
//! long.

use std::time::Duration;

use crate::protocol::Time;

/// The server's side: one lease for all subscriptions of a connection (PROTOCOL.md, section 4).
///
/// ```
/// use std::time::Duration;
/// use bellwire::{protocol::Time, unstable::rules::{Lease, LeaseEvent}};
///
/// let length = Duration::from_secs(60);
/// let at = Time::from_millis;
/// let (lease, _) = Lease::Idle.on(LeaseEvent::Renewed, at(0), length);
/// let (lease, expired) = lease.on(LeaseEvent::Tick, at(59_999), length);
/// assert!(!expired);
/// let (lease, expired) = lease.on(LeaseEvent::Tick, at(60_000), length);
/// assert_eq!((lease, expired), (Lease::Idle, true));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Lease {
    /// Nothing is subscribed, so nothing can expire.
    #[default]
    Idle,
    /// The subscriptions live until this time.
    Until(Time),
}

/// An event of a [`Lease`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseEvent {
    /// A `/subscribe` was accepted, or a `/renew` came while something is subscribed.
    Renewed,
    /// The last subscription has ended.
    Emptied,
    /// Time has passed.
    Tick,
}

impl Lease {
    /// The lease after `event` at `now`, and whether all subscriptions have to end.
    pub fn on(self, event: LeaseEvent, now: Time, length: Duration) -> (Self, bool) {
        match (self, event) {
            (_, LeaseEvent::Renewed) => (Self::Until(now.after(length)), false),
            (_, LeaseEvent::Emptied) => (Self::Idle, false),
            (Self::Until(end), LeaseEvent::Tick) if now >= end => (Self::Idle, true),
            (same, LeaseEvent::Tick) => (same, false),
        }
    }

    /// When the lease runs out.
    pub fn deadline(self) -> Option<Time> {
        match self {
            Self::Idle => None,
            Self::Until(end) => Some(end),
        }
    }
}

/// The client's side: when to send `/renew`, at 50 to 80 % of the lesser of lease and idle limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Renewal {
    period: Duration,
    due: Time,
}

impl Renewal {
    /// The renewals for the times that `/hello` announced, counted from `now`.
    ///
    /// `jitter` is any random number. It spreads the renewals of the clients of one server.
    pub fn new(lease: Duration, idle: Option<Duration>, now: Time, jitter: u64) -> Self {
        let period = idle.map_or(lease, |idle| idle.min(lease));
        let mut renewal = Self { period, due: now };
        renewal.sent(now, jitter);
        renewal
    }

    /// Records that a renewal was sent at `now`.
    pub fn sent(&mut self, now: Time, jitter: u64) {
        let percent = 50 + (jitter % 31) as u32;
        self.due = now.after(self.period.saturating_mul(percent) / 100);
    }

    /// When the next renewal is due.
    pub fn due(&self) -> Time {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(60);

    #[test]
    fn a_renewal_moves_the_deadline_and_an_empty_lease_has_none() {
        let (lease, _) = Lease::Idle.on(LeaseEvent::Renewed, Time::from_millis(5), LENGTH);
        assert_eq!(lease.deadline(), Some(Time::from_millis(60_005)));
        let (lease, _) = lease.on(LeaseEvent::Renewed, Time::from_millis(50_000), LENGTH);
        let (lease, expired) = lease.on(LeaseEvent::Tick, Time::from_millis(109_999), LENGTH);
        assert_eq!((lease.deadline(), expired), (Some(Time::from_millis(110_000)), false));
        let (lease, _) = lease.on(LeaseEvent::Emptied, Time::from_millis(109_999), LENGTH);
        assert_eq!(
            lease.on(LeaseEvent::Tick, Time::from_millis(u64::MAX), LENGTH),
            (Lease::Idle, false)
        );
    }

    #[test]
    fn a_client_renews_between_half_and_four_fifths() {
        for jitter in [0, 15, 30, 31, u64::MAX] {
            let renewal = Renewal::new(LENGTH, None, Time::from_millis(1_000), jitter);
            let after = renewal.due().as_millis() - 1_000;
            assert!((30_000..=48_000).contains(&after), "{after}");
        }
        let idle = Some(Duration::from_secs(10));
        assert_eq!(Renewal::new(LENGTH, idle, Time::default(), 0).due(), Time::from_millis(5_000));
    }
}
