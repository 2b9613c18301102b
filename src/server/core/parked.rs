//! Application lines that were read and wait for a place in flight (PROTOCOL.md, section 7.5).
//!
//! Behind a line for which there is no place the connection reads on, within
//! [`parked_bytes`](crate::ServerConfig::parked_bytes): the protocol's own lines are obeyed, and
//! application lines line up here. So a `/cancel` reaches a handler, and a `/renew` the lease,
//! however many requests wait.

use std::{collections::VecDeque, mem, time::Duration};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    coop::has_budget_remaining,
    protocol::{Code, Line, RequestId, Time, encode_hold},
    server::core::{
        auth::Permission,
        closing::Phase,
        connection::{Connection, Taken},
        control::publish_arguments,
        in_flight::NEVER,
    },
};

/// How often a peer is told that it is not read; clients that hear nothing for 10 s ask whether the
/// server is there.
const HOLD: Duration = Duration::from_secs(5);

/// What a line takes here beside its bytes.
const LINE: usize = size_of::<ParkedLine>();

/// Lines that need a place, in line order. Each passed the checks that need no place when it was
/// read.
#[derive(Default)]
pub(super) struct Parked {
    lines: VecDeque<ParkedLine>,
    bytes: usize,
}

pub(super) struct ParkedLine {
    /// `None` for a one-way request.
    pub(super) id: Option<RequestId>,
    /// Without its LF.
    pub(super) bytes: Vec<u8>,
    /// The end of its `ttl`, or [`NEVER`].
    pub(super) until: Time,
    /// A `/publish` is the protocol's own, and has no `/cancel`.
    pub(super) is_publish: bool,
    /// What the authoriser says of a `/publish` that has reached its turn, and takes its time.
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

    /// What it holds, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a line of so many bytes may wait here; the only one always may.
    fn has_room(&self, line: usize, bound: usize) -> bool {
        self.is_empty() || self.bytes.saturating_add(line + LINE) <= bound
    }

    fn push_back(&mut self, line: ParkedLine) {
        self.bytes += line.bytes.len() + LINE;
        self.lines.push_back(line);
    }

    fn push_front(&mut self, line: ParkedLine) {
        self.bytes += line.bytes.len() + LINE;
        self.lines.push_front(line);
    }

    fn pop_front(&mut self) -> Option<ParkedLine> {
        let line = self.lines.pop_front()?;
        self.bytes -= line.bytes.len() + LINE;
        Some(line)
    }

    /// Whether the first line waits for the authoriser.
    fn is_asking(&mut self) -> bool {
        let permission = self.lines.front_mut().and_then(|line| line.permission.as_mut());
        permission.is_some_and(|permission| !permission.is_decided())
    }

    /// Takes out the application request `id`.
    fn cancel(&mut self, id: RequestId) -> bool {
        let is_it = |line: &ParkedLine| line.id == Some(id) && !line.is_publish;
        let Some(at) = self.lines.iter().position(is_it) else { return false };
        let line = self.lines.remove(at);
        self.bytes -= line.map_or(0, |line| line.bytes.len() + LINE);
        true
    }

    /// Waits no longer for a permission that is due and not decided.
    fn give_up_late(&mut self, now: Time) {
        let permission = self.lines.front_mut().and_then(|line| line.permission.as_mut());
        permission.filter(|it| it.deadline() <= now).into_iter().for_each(Permission::give_up);
    }

    /// Takes out the lines whose `ttl` is over.
    fn expire(&mut self, now: Time) -> Vec<ParkedLine> {
        let is_due = |line: &ParkedLine| line.until <= now;
        if !self.lines.iter().any(is_due) {
            return Vec::new();
        }
        let (due, left) = mem::take(&mut self.lines).into_iter().partition(is_due);
        self.lines = left;
        self.bytes = self.lines.iter().map(|line| line.bytes.len() + LINE).sum();
        Vec::from_iter::<VecDeque<_>>(due)
    }

    /// The earliest deadline: of a `ttl`, or of a permission.
    fn earliest_deadline(&self) -> Option<Time> {
        let permission = self.lines.front().and_then(|line| line.permission.as_ref());
        let permission = permission.filter(|permission| !permission.has_ruling());
        let each = self.lines.iter().map(|line| line.until);
        let earliest = each.chain(permission.map(|permission| permission.deadline())).min();
        earliest.filter(|&deadline| deadline < NEVER)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    /// Whether a line that needs a place has to wait: there is none, or others wait already.
    pub(super) fn must_park(&self) -> bool {
        let is_behind = self.active.as_ref().is_some_and(|active| !active.parked.is_empty());
        is_behind || !self.has_place()
    }

    /// Puts a line behind the others; [`Taken::No`] when they take the room that there is.
    pub(super) fn park(&mut self, line: ParkedLine) -> Taken {
        let bound = self.shared.config.parked_bytes;
        let active = self.active.get_or_insert_default();
        if !active.parked.has_room(line.bytes.len(), bound) {
            return Taken::No;
        }
        let deadline = line.until;
        active.parked.push_back(line);
        if deadline < NEVER {
            self.set_alarm(deadline);
        }
        Taken::Yes
    }

    /// Starts what waits, in line order, as far as there are places.
    pub(super) fn start_parked(&mut self) {
        while has_budget_remaining() && self.can_start_parked() {
            let Some(line) = self.active().parked.pop_front() else { break };
            if let Some(line) = self.start_parked_line(line) {
                self.active().parked.push_front(line);
            }
        }
        self.turn_away_banned();
    }

    /// Whether the first line that waits could be started now.
    pub(super) fn can_start_parked(&mut self) -> bool {
        let Some(active) = &mut self.active else { return false };
        !active.parked.is_empty()
            && !active.parked.is_asking()
            && self.has_place()
            && !self.is_over_mark()
    }

    /// Starts a line that has waited; gives it back if it has to wait for the authoriser.
    fn start_parked_line(&mut self, mut parked: ParkedLine) -> Option<ParkedLine> {
        let bytes = mem::take(&mut parked.bytes);
        // It was read before.
        let Ok(line) = Line::parse_request(&bytes) else { return None };
        let Some(id) = parked.id.filter(|_| parked.is_publish) else {
            self.start_parked_application(&line, parked.until);
            return None;
        };
        let arguments = publish_arguments(&line).ok()?;
        let permission = parked.permission.take();
        match self.start_publish(id, &arguments, parked.until, permission) {
            Ok(None) => None,
            Ok(permission) => {
                drop(arguments);
                Some(ParkedLine { bytes, permission, ..parked })
            }
            Err((code, text)) => {
                self.refuse(id, &code, format_args!("{text}"));
                None
            }
        }
    }

    /// Whether reading stopped at a line that has no place and no room to wait, or lines wait behind a
    /// `/subscribe`.
    fn is_full(&self) -> bool {
        let is_held = self.active.as_ref().is_some_and(|active| active.held.is_some());
        (is_held || self.is_holding_up()) && self.phase == Phase::Open && !self.is_waiting()
    }

    /// While nothing is read, or protocol requests wait, tells the peer so every [`HOLD`]: its probe
    /// cannot be answered.
    pub(super) fn say_hold(&mut self) {
        if !self.is_full() {
            self.active.iter_mut().for_each(|active| active.hold_at = None);
            return;
        }
        let now = self.now();
        let active = self.active();
        let at = active.hold_at.get_or_insert(now.after(HOLD));
        if *at <= now {
            *at = now.after(HOLD);
            encode_hold(active.out.bytes());
        }
        let at = *at;
        self.set_alarm(at);
    }

    /// Ends the application request `id` if it waits for a place; whether it did.
    pub(super) fn cancel_parked(&mut self, id: RequestId) -> bool {
        let active = self.active.as_mut();
        let is_cancelled = active.is_some_and(|active| active.parked.cancel(id));
        if is_cancelled {
            self.refuse(id, &Code::CANCELLED, format_args!(""));
        }
        is_cancelled
    }

    /// Refuses what has waited longer than its `ttl`, and looks again at the next such time.
    pub(super) fn expire_parked(&mut self, now: Time) {
        let Some(active) = &mut self.active else { return };
        active.parked.give_up_late(now);
        let due = active.parked.expire(now);
        let next = active.parked.earliest_deadline();
        self.refuse_parked(due, &Code::DEADLINE);
        next.into_iter().for_each(|at| self.set_alarm(at));
    }

    /// Refuses everything that waits: the connection ends before there can be a place.
    pub(super) fn give_up_parked(&mut self, code: &Code) {
        let Some(active) = &mut self.active else { return };
        let lines = mem::take(&mut active.parked).lines;
        self.refuse_parked(lines, code);
    }

    /// One-ways pass in silence (PROTOCOL.md, section 7.3).
    fn refuse_parked(&mut self, lines: impl IntoIterator<Item = ParkedLine>, code: &Code) {
        lines.into_iter().filter_map(|line| line.id).for_each(|id| {
            self.refuse(id, code, format_args!(""));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u64, bytes: usize, until: u64) -> ParkedLine {
        let (id, until) = (RequestId::new(id), Time::from_millis(until));
        ParkedLine { id, bytes: vec![b'x'; bytes], until, is_publish: false, permission: None }
    }

    /// Whichever way a line leaves, it gives back the room that it took.
    #[test]
    fn a_line_that_leaves_gives_its_room_back() {
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

    /// The bound is for the lines and for what is noted of each; one line always fits.
    #[test]
    fn the_bound_is_held_to_the_byte() {
        let mut parked = Parked::default();
        assert!(parked.has_room(1_000, 0));
        parked.push_back(line(1, 100, 9));
        let bound = 2 * (100 + LINE);
        assert!(parked.has_room(100, bound) && !parked.has_room(101, bound));
    }
}
