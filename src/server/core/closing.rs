//! How a connection ends: `/bye;last=N` is sent, requests up to N are finished, and both directions
//! are closed.

use std::time::Duration;

use crate::{
    protocol::{Code, Lease, LineDecoder, RequestId, Time, encode_bye, encode_goodbye},
    server::{
        core::{
            active::Active,
            connection::Connection,
            deferred::Deferred,
            state::{End, FullState},
            subscriptions::Subscriptions,
        },
        mailbox::{COMMANDS, CUT},
    },
};

/// The connection is read until its peer has sent nothing for this time. Closing a socket with
/// unread bytes resets it, and bytes that the system has not sent yet are lost.
const LINGER: Duration = Duration::from_secs(1);
/// How long a connection whose time is over has to write out what was cut.
pub(in crate::server) const LAST_WRITE: Duration = Duration::from_secs(1);

impl Connection {
    /// The first step of a drain: sends `/bye`. Requests that the client sent before it read it are
    /// still accepted.
    pub(super) fn say_goodbye(&mut self) {
        if self.state.is_reading() && !self.state.is_line_drawn() {
            encode_goodbye(self.out(), &Code::SHUTDOWN);
            self.state.begin_grace();
        }
    }

    /// The second step: sends `/bye;last=N`. Later requests are not started.
    pub(super) fn draw_the_line(&mut self, reason: &Code) {
        if self.state.is_reading() && !self.state.is_line_drawn() {
            self.say_last(reason);
            self.abandon_asking();
        }
    }

    /// Sends `/bye;last=N` with the reason, and stops reading. Requests that were read are still
    /// finished and answered.
    pub(super) fn turn_away(&mut self, code: &Code) {
        self.session.ending().stop();
        if !self.state.is_line_drawn() {
            self.say_last(code);
        }
        self.stop_reading(None);
    }

    /// Sends `/bye;last=N` with the last id before the first request that waits for a place.
    /// Requests that have not started are refused, so that the client can send them elsewhere at
    /// once.
    pub(super) fn say_last(&mut self, reason: &Code) {
        let waiting = self.active.as_ref().and_then(|active| active.parked.first_id());
        let last = waiting.map_or(self.last_id, |id| id.get() - 1);
        encode_bye(self.out(), last, reason);
        self.give_up_parked(&Code::CLOSING);
        self.state.draw_line(self.now.after(self.environment.config.drain));
        self.bound_end();
    }

    /// Limits the rest of the connection to the drain time, because the server ends it. A client
    /// that does not read, its streams and its handlers cannot keep it longer.
    pub(super) fn bound_end(&mut self) {
        let at = self.now.after(self.environment.config.drain);
        self.state.bound_end(at);
        self.state.end().into_iter().for_each(|end| self.set_timeout(end.time()));
    }

    /// Cuts what still runs when the drain time is over. Drops the connection when the time to
    /// write that is over, too.
    pub(super) fn end_overdue(&mut self) {
        match self.state.end() {
            Some(End::Cut(at)) if at <= self.now => {
                tracing::debug!("drain time is over: cutting what still runs");
                self.cut();
            }
            Some(End::Drop(at)) if at <= self.now => {
                self.state =
                    FullState::Closed { lost: Some("the peer did not read its last lines") };
            }
            _ => {}
        }
    }

    pub(super) fn cut(&mut self) {
        if let Some(active) = &mut self.active {
            let over = active.in_flight.cut_all();
            over.into_iter().for_each(|over| self.finish(over));
        }
        self.give_up_parked(&Code::CLOSING);
        self.cut_listing();
        self.give_up_opening(&Code::CLOSING);
        self.abandon_asking();
        self.go_on_with_deferred();
        self.abandon_auth();
        if self.state.is_reading() {
            self.end_subscriptions();
            self.stop_reading(None);
        }
        let end = self.now.after(LAST_WRITE);
        self.state.drop_at(end);
        self.set_timeout(end);
    }

    /// Nothing more will be published. Subscriptions that have delivered everything no longer keep
    /// the connection open.
    pub(super) fn expect_last(&mut self) {
        if let Some(subscriptions) = &mut self.subscriptions {
            subscriptions.expect_last();
        }
    }

    /// Delivers what there is room for. A subscription that has more to deliver gets an `/end` with
    /// `head`.
    fn end_subscriptions(&mut self) {
        self.expect_last();
        self.poll_subscriptions();
        let Some(subscriptions) = &mut self.subscriptions else { return };
        subscriptions.end_unread(self.active.get_or_insert_default().out.bytes());
    }

    pub(super) fn on_eof(&mut self) {
        if self.defer_eof() {
            return;
        }
        self.stop_reading(None);
        if let FullState::Finishing { eof, .. } = &mut self.state {
            *eof = true;
        }
    }

    /// Stops processing lines. Parked lines were read, so they are still started.
    pub(super) fn stop_reading(&mut self, quit: Option<RequestId>) {
        match (quit, &mut self.active) {
            (None, _) => self.give_up_deferred(&Code::BUSY),
            // Lines after a `/quit` are not processed.
            (Some(_), Some(active)) => active.deferred = Deferred::default(),
            (Some(_), None) => {}
        }
        self.state.finish(quit);
        self.lines = LineDecoder::default();
        self.subscriptions = None;
        self.lease = Lease::Idle;
        if let Some(active) = &mut self.active {
            active.held = None;
            (active.unread, active.unread_at) = (Vec::new(), 0);
        }
        self.end_starved_streams();
        self.shorten_handlers();
    }

    /// Limits all handlers to the usual handler time. A client that has ended its direction cannot
    /// be told from a client that is gone, so longer limits no longer apply.
    fn shorten_handlers(&mut self) {
        let (now, limit) = (self.now, self.environment.config.handler_time);
        let active = self.active.as_mut();
        if active.is_some_and(|active| active.in_flight.shorten(now, limit)) {
            self.set_timeout(now.after(limit));
        }
    }

    /// Answers `/quit`, once all other requests are answered.
    pub(super) fn answer_quit(&mut self) {
        if let FullState::Finishing { quit, .. } = &mut self.state
            && self.active.as_deref().is_none_or(Active::has_answered)
            && let Some(id) = quit.take()
        {
            self.answer_ok(id, format_args!(""));
        }
    }

    /// Whether the connection has nothing left to do but close.
    pub(super) fn is_finished(&self) -> bool {
        let is_drained = || {
            let has_obeyed = !self.is_stalled() && !self.is_subscribing() && !self.has_deferred();
            self.state.is_line_drawn() && has_obeyed && !self.is_delivering()
        };
        let is_ending = !self.state.is_reading() || is_drained();
        let is_done = |active: &Active| active.has_answered() && active.out.is_done();
        is_ending && self.active.as_deref().is_none_or(is_done)
    }

    /// Whether subscriptions may still have something to deliver: messages that other connections
    /// may publish, or messages that were not taken or acknowledged. Such subscriptions keep the
    /// connection open, at most for the drain time.
    fn is_delivering(&self) -> bool {
        self.subscriptions.as_deref().is_some_and(Subscriptions::are_owed)
    }

    /// Everything is written, and the driver has to close its direction of the transport.
    pub(super) fn begin_closing(&mut self) {
        let until = self.now.after(self.environment.config.write_progress);
        let until = self.state.end().map_or(until, |end| end.time().min(until));
        let eof = matches!(self.state, FullState::Finishing { eof: true, .. });
        self.stop_reading(None);
        self.state = FullState::Closing { eof, until, is_banned: self.state.is_banned() };
        self.active = None;
        self.set_timeout(until);
    }

    /// The driver has closed its direction of the transport. A peer that goes on sending may not
    /// have read everything yet, so it has as much time as a peer that reads nothing. If the
    /// connection ends because of a violation, the peer has only the short linger time.
    pub fn handle_shutdown(&mut self, now: Time) {
        self.now = now;
        let FullState::Closing { eof, until, is_banned } = self.state else { return };
        if eof {
            self.state = FullState::Closed { lost: None };
            return;
        }
        self.heard = now;
        let lingers = now.after(LINGER);
        let end = if is_banned { lingers } else { lingers.max(until) };
        self.state = FullState::Lingering { end };
        self.wait_for_close();
    }

    /// Handles wake-ups of a connection that writes nothing more.
    pub(super) fn handle_late_mail(&mut self, flags: u8) {
        if flags & COMMANDS != 0 {
            // The commands can have no effect now. They are dropped, so that they do not pile up.
            drop(self.session.mailbox().take_commands());
        }
        match flags & CUT {
            0 => self.wait_for_close(),
            _ => self.state = FullState::Closed { lost: None },
        }
    }

    /// Closes the connection once it has waited long enough for the peer.
    pub(super) fn wait_for_close(&mut self) {
        let until = match self.state {
            FullState::Closing { until, .. } => until,
            FullState::Lingering { end } => self.heard.after(LINGER).min(end),
            _ => return,
        };
        match self.now < until {
            true => self.set_timeout(until),
            false => self.state = FullState::Closed { lost: None },
        }
    }
}
