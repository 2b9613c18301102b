//! The deadlines of a connection, and its count of violations (docs/protocol/limits.md, section
//! 20).
//!
//! No timer is reset per message. The connection keeps the time of the last byte and of the
//! unfinished line's first byte. When it comes to rest, it gives the driver its earliest deadline.
//! When that passes, all deadlines are checked again.

use crate::{
    protocol::{Code, LeaseEvent, Time},
    server::core::connection::Connection,
};

/// Rounds of reading after a deadline, in which input that arrived before it is read. The buffers
/// usually need fewer. A peer that sends without pause must not delay the deadlines for longer.
const BACKLOG: u8 = 64;

impl Connection {
    /// A deadline may have passed. Handlers whose time is over are ended at once. The peer's
    /// deadlines are checked only when all input that had arrived is read: if this process was
    /// stopped, the peer may have sent its line in time.
    pub fn handle_timeout(&mut self, now: Time) {
        self.now = now;
        self.take_timeout();
        if self.state.is_closing() {
            self.wait_for_close();
            return;
        }
        self.due_within.get_or_insert(BACKLOG);
        self.put_off_streams();
        if let Some(active) = &mut self.active {
            let over = active.in_flight.expire(now);
            let deadline = active.in_flight.earliest_deadline();
            over.into_iter().for_each(|over| self.finish(over));
            deadline.into_iter().for_each(|at| self.set_timeout(at));
        }
        self.expire_parked(now);
        self.check_opening();
        self.release_kept();
        self.end_overdue();
    }

    /// Checks the peer's deadlines, once the input that arrived before them is read. Returns
    /// whether a deferred line can go on.
    pub(super) fn fire_deadlines(&mut self, more_input: bool) -> bool {
        let Some(rounds) = self.due_within else { return false };
        self.due_within = rounds.checked_sub(1).filter(|_| more_input);
        if self.due_within.is_some() {
            return false;
        }
        self.lease_event(LeaseEvent::Tick);
        let now = self.now;
        let has_decided = self.on_access_alarm(now);
        self.fire_peers_deadlines(now);
        has_decided
    }

    fn fire_peers_deadlines(&mut self, now: Time) {
        if !self.listens() {
            return;
        }
        if self.line_deadline().is_some_and(|at| at <= now) {
            tracing::debug!(is_first = self.state.is_first(), "line not finished in time");
            self.hang_up();
        } else if self.idle_deadline().is_some_and(|at| at <= now) {
            tracing::debug!("idle");
            self.turn_away(&Code::IDLE);
        }
    }

    /// Sets the timeout to the earliest of the peer's deadlines and of the connection's end.
    pub(super) fn arm(&mut self) {
        self.state.end().into_iter().for_each(|end| self.set_timeout(end.time()));
        if self.listens() {
            let deadlines = [self.line_deadline(), self.idle_deadline()];
            deadlines.into_iter().flatten().for_each(|at| self.set_timeout(at));
        }
    }

    /// Whether the peer's deadlines apply. They do not while the server itself does not read.
    fn listens(&self) -> bool {
        self.state.is_reading()
            && !self.is_stalled()
            && !self.is_subscribing()
            && !self.tiny_reads.is_pausing()
    }

    /// When the unfinished line has to be complete.
    fn line_deadline(&self) -> Option<Time> {
        let config = &self.environment.config;
        match self.lines.pending() {
            _ if self.state.is_first() => Some(self.line_began.after(config.first_line)),
            0 => None,
            received => Some(config.line_time.deadline(self.line_began, received)),
        }
    }

    /// `None` after `/bye;last` if there are subscriptions: a client that only listens has nothing
    /// to send then.
    fn idle_deadline(&self) -> Option<Time> {
        if self.state.is_line_drawn() && self.subscriptions.is_some() {
            return None;
        }
        self.environment.config.idle.map(|idle| self.heard.after(idle))
    }

    /// Stops reading after a line that was not complete in time. If it is the first line, the
    /// connection is closed and nothing is written.
    fn hang_up(&mut self) {
        if self.state.is_first() {
            self.count();
            self.active = None;
            self.on_eof();
        } else {
            self.stop_reading(None);
            self.bound_end();
        }
    }

    /// Counts a violation of the protocol: a malformed line, an id that is not above the last, a
    /// faulty ack, or a one-way request at fault. Call this after the violation is answered. The
    /// one above the limit ends the connection after the current line, or before the next one.
    pub(super) fn violation(&mut self) {
        let (now, config) = (self.now, &self.environment.config);
        let (violations, is_over) =
            self.violations.one_more(now, config.violations, config.violation_return);
        self.violations = violations;
        if is_over {
            self.state.ban();
        }
    }
}
