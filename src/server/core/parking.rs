//! How application lines wait for a place in flight, and are started (docs/protocol/calls.md,
//! section 12).

use std::{mem, time::Duration};

use crate::{
    coop::has_budget_remaining,
    protocol::{Code, Line, RequestId, Time, encode_hold},
    server::core::{
        arguments::publish_arguments,
        connection::{Connection, Taken},
        in_flight::NEVER,
        parked::ParkedLine,
    },
};

/// How often a peer is sent `/hold` while its lines are not read. A client that receives nothing
/// for 10 s probes the server.
const HOLD: Duration = Duration::from_secs(5);

impl Connection {
    /// Whether a line that needs a place has to wait, because there is none or other lines wait
    /// already.
    pub(super) fn must_park(&self) -> bool {
        let is_behind = self.active.as_ref().is_some_and(|active| !active.parked.is_empty());
        is_behind || !self.has_place()
    }

    /// Parks a line after the others. Returns [`Taken::No`] if there is no room for it.
    pub(super) fn park(&mut self, line: ParkedLine) -> Taken {
        let bound = self.environment.config.parked_bytes;
        let active = self.active.get_or_insert_default();
        if !active.parked.has_room(line.bytes.len(), bound) {
            return Taken::No;
        }
        let deadline = line.until;
        active.parked.push_back(line);
        if deadline < NEVER {
            self.set_timeout(deadline);
        }
        Taken::Yes
    }

    /// Starts parked lines, in line order, while there are places.
    pub(super) fn start_parked(&mut self) {
        while has_budget_remaining() && self.can_start_parked() {
            let Some(line) = self.active().parked.pop_front() else { break };
            if let Some(line) = self.start_parked_line(line) {
                self.active().parked.push_front(line);
            }
        }
        self.turn_away_banned();
    }

    /// Whether the first parked line can be started now.
    pub(super) fn can_start_parked(&mut self) -> bool {
        let Some(active) = &mut self.active else { return false };
        !active.parked.is_empty()
            && !active.parked.is_asking()
            && self.has_place()
            && !self.is_over_mark()
    }

    /// Starts a parked line. Returns it if it has to wait for the authorizer.
    fn start_parked_line(&mut self, mut parked: ParkedLine) -> Option<ParkedLine> {
        let bytes = mem::take(&mut parked.bytes);
        // The line was parsed before, so it is valid. A parsed line borrows its bytes, so only the
        // bytes were kept.
        let Ok(line) = Line::parse_request(&bytes) else { return None };
        let Some(id) = parked.id.filter(|_| parked.is_publish) else {
            self.start_parked_application(&line, &bytes, parked.until);
            return None;
        };
        let arguments = publish_arguments(&line, self.has_keys()).ok()?;
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

    /// Whether reading stopped at a line that can neither start nor be parked, or requests wait for
    /// an earlier `/subscribe`.
    fn is_full(&self) -> bool {
        let is_held = self.active.as_ref().is_some_and(|active| active.held.is_some());
        (is_held || self.is_holding_up()) && self.state.is_reading() && !self.is_waiting()
    }

    /// While lines are not read, or protocol requests wait, sends the peer a `/hold` every
    /// [`HOLD`], because its probe cannot be answered.
    pub(super) fn say_hold(&mut self) {
        if !self.is_full() {
            self.active.iter_mut().for_each(|active| active.hold_at = None);
            return;
        }
        let now = self.now;
        let active = self.active();
        let at = active.hold_at.get_or_insert(now.after(HOLD));
        if *at <= now {
            *at = now.after(HOLD);
            encode_hold(active.out.bytes());
        }
        let at = *at;
        self.set_timeout(at);
    }

    /// Refuses the application request `id` if it is parked. Returns whether it was.
    pub(super) fn cancel_parked(&mut self, id: RequestId) -> bool {
        let active = self.active.as_mut();
        let is_cancelled = active.is_some_and(|active| active.parked.cancel(id));
        if is_cancelled {
            self.refuse(id, &Code::CANCELLED, format_args!(""));
        }
        is_cancelled
    }

    /// Refuses the parked lines whose `ttl` is over, and sets the next deadline.
    pub(super) fn expire_parked(&mut self, now: Time) {
        let Some(active) = &mut self.active else { return };
        active.parked.give_up_late(now);
        let due = active.parked.expire(now);
        let next = active.parked.earliest_deadline();
        self.refuse_parked(due, &Code::DEADLINE);
        next.into_iter().for_each(|at| self.set_timeout(at));
    }

    /// Refuses all parked lines, because the connection ends.
    pub(super) fn give_up_parked(&mut self, code: &Code) {
        let Some(active) = &mut self.active else { return };
        let lines = mem::take(&mut active.parked).lines;
        self.refuse_parked(lines, code);
    }

    /// Refused one-way requests are not reported (docs/protocol/calls.md, section 12).
    fn refuse_parked(&mut self, lines: impl IntoIterator<Item = ParkedLine>, code: &Code) {
        lines.into_iter().filter_map(|line| line.id).for_each(|id| {
            self.refuse(id, code, format_args!(""));
        });
    }
}
