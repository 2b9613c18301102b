//! The limits on what a connection holds: its own marks, and its share of the server's limit.
//!
//! While all connections together hold more than the server's limit, each has an allowance
//! ([`Buffered::allowance`]). A connection above it refuses application requests, and the allowance
//! replaces its marks. A connection below it is served as before.
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

/// Unwritten bytes past which no line is processed for a peer that has not yet authenticated. That
/// is room for some answers to `/hello` and `/auth`, and for refusals up to one violation over the
/// limit.
const STRANGER_MARK: usize = 4 * 1024;

impl Connection {
    /// Whether the server's buffers are full and this connection holds more than its share.
    pub(super) fn is_busy(&self) -> bool {
        self.allowance < usize::MAX && self.held() + self.finished() > self.allowance
    }

    /// Unwritten bytes past which replies wait.
    pub(super) fn reply_mark(&self) -> usize {
        self.environment.config.reply_mark.min(self.allowance)
    }

    /// Unwritten bytes past which notifications wait. On a connection above its share, each
    /// notification waits until the one before it is written.
    pub(super) fn notification_mark(&self) -> usize {
        match self.is_busy() {
            true => 1,
            false => self.environment.config.notification_mark.min(self.allowance),
        }
    }

    /// Whether the peer leaves so much unread that none of its lines is processed, including the
    /// protocol's own: otherwise their answers would pile up without bound.
    pub(super) fn is_over_mark(&self) -> bool {
        let mark = match self.is_stranger() {
            true => STRANGER_MARK,
            false => self.environment.config.reply_mark.saturating_mul(2),
        };
        self.unwritten() >= mark.min(self.allowance)
    }

    /// How many bytes are read at once. Bytes after an `/auth` have to be kept until it is
    /// answered, so before authentication this is at most one line.
    pub(super) fn read_at_most(&self) -> usize {
        match self.is_stranger() {
            true => self.environment.config.max_line_before_auth,
            false => SCRATCH,
        }
    }

    /// Drops what the connection holds, and closes it, because it holds more than its share and its
    /// peer does not read. If the client reads later, it gets a `/bye` with the reason.
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

    /// The bytes of replies whose tasks have ended and that the connection has not taken.
    pub(super) fn finished(&self) -> usize {
        self.session.holding().finished()
    }
}

impl Connection {
    /// Sets the allowance for this turn. When the server's buffers are full, spare room is freed
    /// first.
    pub(super) fn look_at_share(&mut self) {
        self.allowance =
            self.environment.buffered.allowance(self.environment.config.buffered_bytes_total);
        if self.allowance == usize::MAX {
            return;
        }
        self.active.iter_mut().for_each(|active| active.out.shrink());
        self.environment.buffered.report_full();
    }

    /// The bytes of its buffers and of the payloads of its requests.
    fn held(&self) -> usize {
        let room = |active: &Active| match active.buffered() {
            // Room that a busy connection keeps for a short time does not count.
            ..=KEPT if active.is_idle() => 0,
            bytes => bytes,
        };
        self.lines.pending() + self.active.as_deref().map_or(0, room)
    }

    /// Updates the server's total if the bytes of this connection have changed.
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
