//! Which connections are closed when all together hold more than the server's limit.

use std::{cmp::Reverse, time::Duration};

use uuid::Uuid;

use crate::{
    protocol::Time,
    server::{core::environment::Environment, mailbox::SHED, session::Session},
};

/// When the server's buffers are full, a connection above its share may take none of its waiting
/// bytes for this time, or for the time for write progress if that is less.
const STUCK_FOR: Duration = Duration::from_secs(2);
/// How often the connections are checked while the server's buffers are full.
const LOOK: Duration = Duration::from_millis(100);

/// When the connections were last checked.
#[derive(Debug, Default)]
pub(in crate::server) struct Shedding {
    looked_at: Option<Time>,
}

impl Shedding {
    /// When the connections have to be checked next; `None` while they are within the limit.
    pub(in crate::server) fn next_look(&self, environment: &Environment) -> Option<Time> {
        let next = || self.looked_at.map_or(Time::default(), |at| at.after(LOOK));
        (excess(environment) > 0).then(next)
    }

    /// If it is time, chooses the connections to shed, and tells them to drop what they hold.
    pub(in crate::server) fn look(&mut self, environment: &Environment, now: Time) {
        if self.next_look(environment).is_none_or(|at| now < at) {
            return;
        }
        self.looked_at = Some(now);
        let config = &environment.config;
        let shortage = Shortage {
            excess: excess(environment),
            allowance: environment.buffered.allowance(config.buffered_bytes_total),
            stuck_for: STUCK_FOR.min(config.write_progress),
        };
        let holders = environment.sessions.all().iter().map(Holder::of).collect();
        let shed = to_shed(holders, shortage, now).into_iter();
        shed.filter_map(|id| environment.sessions.get(id))
            .for_each(|session| session.mailbox().raise(SHED));
    }
}

/// The bytes that the connections hold above the limit.
fn excess(environment: &Environment) -> usize {
    environment.buffered.bytes().saturating_sub(environment.config.buffered_bytes_total)
}

/// How much has to be dropped, and by which connections.
#[derive(Clone, Copy)]
struct Shortage {
    excess: usize,
    /// Connections that hold no more than this are not shed.
    allowance: usize,
    /// Connections are shed only if their peers have taken nothing for this time.
    stuck_for: Duration,
}

/// A connection, and what it holds.
struct Holder {
    id: Uuid,
    bytes: usize,
    /// Since when its peer has taken none of the waiting bytes.
    stuck_since: Option<Time>,
}

impl Holder {
    fn of(session: &Session) -> Self {
        let holding = session.holding();
        let stuck_since = holding.stuck().map(Time::from_millis);
        Self { id: session.id(), bytes: holding.bytes(), stuck_since }
    }
}

/// The connections that hold more than their share and whose peers take nothing, the largest first,
/// as many as are needed to get within the limit. Of equally large ones, those come first whose
/// peers have taken nothing for longest.
fn to_shed(mut holders: Vec<Holder>, shortage: Shortage, now: Time) -> Vec<Uuid> {
    let Shortage { mut excess, allowance, stuck_for } = shortage;
    let is_deaf = |since: Time| since.after(stuck_for) <= now;
    holders.retain(|one| one.bytes > allowance && one.stuck_since.is_some_and(is_deaf));
    holders.sort_unstable_by_key(|one| (Reverse(one.bytes), one.stuck_since, one.id));
    let is_needed = |one: &Holder| {
        let is_short = excess > 0;
        excess = excess.saturating_sub(one.bytes);
        is_short
    };
    holders.into_iter().take_while(is_needed).map(|one| one.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORTAGE: Shortage =
        Shortage { excess: 1, allowance: 100, stuck_for: Duration::from_millis(20) };

    /// Each holder is given as its bytes, and since when it is stuck; its index is its id. Returns
    /// the ids of those that are shed at 50.
    fn shed(holders: &[(usize, Option<u64>)], shortage: Shortage) -> Vec<u128> {
        let holder = |(place, &(bytes, since)): (usize, &(usize, Option<u64>))| Holder {
            id: Uuid::from_u128(place as u128),
            bytes,
            stuck_since: since.map(Time::from_millis),
        };
        let holders = holders.iter().enumerate().map(holder).collect();
        let shed = to_shed(holders, shortage, Time::from_millis(50));
        shed.into_iter().map(|id| id.as_u128()).collect()
    }

    #[test]
    fn only_stuck_connections_above_their_share_are_shed() {
        let all = [(1_000, None), (1_000, Some(31)), (100, Some(0)), (101, Some(30))];
        assert_eq!(shed(&all, SHORTAGE), [3]);
        assert_eq!(shed(&all[..3], SHORTAGE), [0; 0]);
    }

    #[test]
    fn the_largest_are_shed_first_and_only_as_many_as_needed() {
        let all = [(200, Some(0)), (400, Some(9)), (300, Some(5))];
        for (excess, expected) in
            [(0, &[][..]), (1, &[1]), (400, &[1]), (401, &[1, 2]), (701, &[1, 2, 0])]
        {
            assert_eq!(shed(&all, Shortage { excess, ..SHORTAGE }), expected, "{excess}");
        }
    }

    #[test]
    fn ties_are_shed_by_time_stuck_and_then_by_lowest_id() {
        let all = [(200, Some(9)), (200, Some(8)), (200, Some(7)), (200, Some(7))];
        let shortage = Shortage { excess: 10_000, ..SHORTAGE };
        assert_eq!(shed(&all, shortage), [2, 3, 1, 0]);
    }
}
