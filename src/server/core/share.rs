//! What a connection holds, against its own marks and its share of what all may hold together.
//!
//! While the connections of the server hold more than they may, each has an allowance: its share, or
//! a little in any case ([`Buffered::allowance`]). Above it, application requests are refused; its
//! marks fall to it. A connection below it goes on as ever.
//!
//! [`Buffered::allowance`]: crate::server::buffered::Buffered::allowance

use crate::{
    io::SCRATCH,
    protocol::Code,
    server::core::{
        active::Active, connection::Connection, deferred::Deferred, in_flight::InFlight,
        rounds::KEPT,
    },
};

/// Unwritten bytes past which no line is looked at of a peer that has still to `/auth`: some answers
/// to `/hello` and `/auth`, and the refusals that it takes to be one violation over the limit.
const STRANGER_MARK: usize = 4 * 1024;

impl Connection {
    /// Whether the connection holds more than its share, with the server's buffers full.
    pub(super) fn is_busy(&self) -> bool {
        self.allowance < usize::MAX && self.held() + self.finished() > self.allowance
    }

    /// Unwritten bytes past which replies wait.
    pub(super) fn reply_mark(&self) -> usize {
        self.environment.config.reply_mark.min(self.allowance)
    }

    /// Unwritten bytes past which notifications wait. Above its share they go one at a time: each
    /// when the one before is out.
    pub(super) fn notification_mark(&self) -> usize {
        match self.is_busy() {
            true => 1,
            false => self.environment.config.notification_mark.min(self.allowance),
        }
    }

    /// Whether the peer leaves so much unread that none of its lines is processed, also not the
    /// protocol's own: their answers would pile up without bound.
    pub(super) fn is_over_mark(&self) -> bool {
        let mark = match self.is_stranger() {
            true => STRANGER_MARK,
            false => self.environment.config.reply_mark.saturating_mul(2),
        };
        self.unwritten() >= mark.min(self.allowance)
    }

    /// How much is read at once. What a stranger sends behind its `/auth` is kept until that is
    /// answered: a line of its at most.
    pub(super) fn read_at_most(&self) -> usize {
        match self.is_stranger() {
            true => self.environment.config.max_line_before_auth,
            false => SCRATCH,
        }
    }

    /// Gives up what the connection holds, and closes it: it holds more than its share, and takes
    /// nothing of it. If the client ever reads on, a `/bye` says why.
    pub(super) fn shed(&mut self) {
        let was_told = self.state.is_line_drawn() || !self.state.is_reading();
        let bytes = self.session.holding().bytes();
        tracing::info!(bytes, "closed: the server's buffers are full, and this peer does not read");
        let active = self.active();
        active.tally.shed += 1;
        active.in_flight = InFlight::default();
        active.listing = None;
        active.deferred = Deferred::default();
        active.out.cut();
        match was_told {
            true => self.give_up_parked(&Code::CLOSING),
            false => self.say_last(&Code::SLOW),
        }
        self.stop_reading(None);
    }

    /// Replies of tasks that have ended and were not taken yet, in bytes.
    pub(super) fn finished(&self) -> usize {
        self.session.holding().finished()
    }
}

impl Connection {
    /// Finds out what the connection may hold. With the server's buffers full, room that is kept for
    /// later is given back first.
    pub(super) fn look_at_share(&mut self) {
        self.allowance =
            self.environment.buffered.allowance(self.environment.config.buffered_bytes_total);
        if self.allowance == usize::MAX {
            return;
        }
        self.active.iter_mut().for_each(|active| active.out.shrink());
        self.environment.buffered.report_full();
    }

    /// What its buffers hold, and the payloads of its requests.
    fn held(&self) -> usize {
        let room = |active: &Active| match active.buffered() {
            // Room that a busy connection keeps for a moment.
            ..=KEPT if active.is_idle() => 0,
            bytes => bytes,
        };
        self.lines.pending() + self.active.as_deref().map_or(0, room)
    }

    /// Tells the server what this connection holds, where it has changed.
    pub(super) fn count_buffered(&mut self) {
        let bytes = self.held();
        let holding = self.session.holding();
        if bytes != self.buffered {
            holding.change(self.buffered, bytes);
            self.buffered = bytes;
        }
        holding.set_unwritten(self.active.as_ref().map_or(0, |active| active.out.len()));
        let stuck = self.active.as_ref().and_then(|active| active.out.stuck());
        holding.set_stuck(stuck.map(|since| since.as_millis()));
        holding.set_mark(self.environment.config.reply_mark.min(self.allowance));
        holding.pass_on();
    }
}
