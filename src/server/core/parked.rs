//! Application lines that were read and wait for a place in flight (docs/protocol/calls.md, section
//! 12).
//!
//! When there is no place for a line, the connection goes on reading, within
//! [`parked_bytes`](crate::ServerConfig::parked_bytes). The protocol's own lines are processed, and
//! application lines wait here. So a `/cancel` reaches its handler, and a `/renew` renews the
//! lease, however many requests wait.

use std::{collections::VecDeque, mem};

use crate::{
    protocol::{RequestId, Time},
    server::core::{access::Permission, in_flight::NEVER},
};

/// The memory of a line here, besides its bytes.
const LINE: usize = size_of::<ParkedLine>();

/// Lines that need a place, in line order. Each has passed the checks that need no place.
#[derive(Default)]
pub(super) struct Parked {
    pub(super) lines: VecDeque<ParkedLine>,
    bytes: usize,
}

pub(super) struct ParkedLine {
    /// `None` for a one-way request.
    pub(super) id: Option<RequestId>,
    /// The line, without its LF.
    pub(super) bytes: Vec<u8>,
    /// The end of its `ttl`, or [`NEVER`].
    pub(super) until: Time,
    /// Whether the line is a `/publish`, which cannot be cancelled.
    pub(super) is_publish: bool,
    /// The open decision about a `/publish` whose turn has come, if the authorizer takes time.
    pub(super) permission: Option<Permission>,
}

impl Parked {
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The id of the first request that has one.
    pub(super) fn first_id(&self) -> Option<RequestId> {
        self.lines.iter().find_map(|line| line.id)
    }

    /// The bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a line of `line` bytes may wait here. A single line always may.
    pub(super) fn has_room(&self, line: usize, bound: usize) -> bool {
        self.is_empty() || self.bytes.saturating_add(line + LINE) <= bound
    }

    pub(super) fn push_back(&mut self, line: ParkedLine) {
        self.bytes += line.bytes.len() + LINE;
        self.lines.push_back(line);
    }

    pub(super) fn push_front(&mut self, line: ParkedLine) {
        self.bytes += line.bytes.len() + LINE;
        self.lines.push_front(line);
    }

    pub(super) fn pop_front(&mut self) -> Option<ParkedLine> {
        let line = self.lines.pop_front()?;
        self.bytes -= line.bytes.len() + LINE;
        Some(line)
    }

    /// Whether the first line waits for the authorizer.
    pub(super) fn is_asking(&mut self) -> bool {
        let permission = self.lines.front_mut().and_then(|line| line.permission.as_mut());
        permission.is_some_and(|permission| !permission.is_decided())
    }

    /// Removes the application request `id`. Returns whether it was here.
    pub(super) fn cancel(&mut self, id: RequestId) -> bool {
        let is_it = |line: &ParkedLine| line.id == Some(id) && !line.is_publish;
        let Some(at) = self.lines.iter().position(is_it) else { return false };
        let line = self.lines.remove(at);
        self.bytes -= line.map_or(0, |line| line.bytes.len() + LINE);
        true
    }

    /// Stops waiting for the authorizer, if its deadline has passed.
    pub(super) fn give_up_late(&mut self, now: Time) {
        let permission = self.lines.front_mut().and_then(|line| line.permission.as_mut());
        permission.filter(|it| it.deadline() <= now).into_iter().for_each(Permission::give_up);
    }

    /// Removes the lines whose `ttl` is over.
    pub(super) fn expire(&mut self, now: Time) -> Vec<ParkedLine> {
        let is_due = |line: &ParkedLine| line.until <= now;
        if !self.lines.iter().any(is_due) {
            return Vec::new();
        }
        let (due, left) = mem::take(&mut self.lines).into_iter().partition(is_due);
        self.lines = left;
        self.bytes = self.lines.iter().map(|line| line.bytes.len() + LINE).sum();
        Vec::from_iter::<VecDeque<_>>(due)
    }

    /// The earliest deadline of a `ttl` or a permission.
    pub(super) fn earliest_deadline(&self) -> Option<Time> {
        let permission = self.lines.front().and_then(|line| line.permission.as_ref());
        let permission = permission.filter(|permission| permission.ruling().is_none());
        let each = self.lines.iter().map(|line| line.until);
        let earliest = each.chain(permission.map(|permission| permission.deadline())).min();
        earliest.filter(|&deadline| deadline < NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u64, bytes: usize, until: u64) -> ParkedLine {
        let (id, until) = (RequestId::new(id), Time::from_millis(until));
        ParkedLine { id, bytes: vec![b'x'; bytes], until, is_publish: false, permission: None }
    }

    /// A line frees its bytes in whichever way it is removed.
    #[test]
    fn a_removed_parked_line_frees_its_bytes() {
        let (mut parked, mut rng) = (Parked::default(), fastrand::Rng::with_seed(1));
        for id in 1..5_000 {
            parked.push_back(line(id, rng.usize(..300), rng.u64(id..id + 40)));
            match rng.u8(..6) {
                0 => drop(parked.pop_front()),
                1 => {
                    let first = parked.pop_front();
                    first.into_iter().for_each(|line| parked.push_front(line));
                }
                2 => _ = parked.cancel(RequestId::new(rng.u64(1..=id)).unwrap()),
                3 => assert!(
                    parked
                        .expire(Time::from_millis(id))
                        .iter()
                        .all(|it| it.until.as_millis() <= id)
                ),
                _ => {}
            }
            let held = parked.lines.iter().map(|line| line.bytes.len() + LINE);
            assert_eq!(parked.bytes(), held.sum::<usize>());
        }
    }

    /// The bound includes the memory that each line takes besides its bytes. A single line always
    /// fits.
    #[test]
    fn parked_bytes_bound_is_exact() {
        let mut parked = Parked::default();
        assert!(parked.has_room(1_000, 0));
        parked.push_back(line(1, 100, 9));
        let bound = 2 * (100 + LINE);
        assert!(parked.has_room(100, bound) && !parked.has_room(101, bound));
    }
}
