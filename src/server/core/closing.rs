//! How a connection ends: the line is drawn, what runs is finished, both directions are closed.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    io::Scratch,
    protocol::{
        Code, Lease, LineDecoder, Mark, RequestId, Time, encode, encode_bye, encode_goodbye,
    },
    server::{
        Shared,
        core::{
            connection::{Active, Connection, READS, give_way},
            deferred::Deferred,
            subscriptions::Subscriptions,
        },
        mailbox::{ALARM, COMMANDS, CUT},
        session::Session,
    },
    sync::Arc,
};

/// A connection that was closed is read on until its peer has sent nothing for so long: closing a
/// socket with unread bytes resets it, and what the system has still to send is lost.
const LINGER: Duration = Duration::from_secs(1);
/// How long a connection whose time is over has to write out what was cut.
pub(in crate::server) const LAST_WRITE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// No line is looked at any more; what runs is finished, then `/quit` is answered.
    Finishing {
        quit: Option<RequestId>,
        eof: bool,
    },
    /// Everything is written.
    Closing {
        eof: bool,
        until: Time,
    },
    /// Closed in our direction; what still comes is thrown away.
    Lingering {
        /// However much comes.
        end: Time,
    },
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    /// A connection that is one too many: told so, and closed.
    pub(in crate::server) fn refused(io: T, shared: Arc<Shared>, session: Session) -> Self {
        let mut connection = Self::new(io, shared, session);
        let head = format_args!("/bye;last=0;retry=1000");
        encode::display(connection.out(), Mark::Reserved, head, format_args!("busy"));
        connection.stop_reading(None);
        connection
    }

    /// The first step of a drain: the peer is told, and what it has sent until it knows is still
    /// taken.
    pub(super) fn say_goodbye(&mut self) {
        if self.phase == Phase::Open && !self.is_draining {
            encode_goodbye(self.out(), &Code::SHUTDOWN);
        }
    }

    /// The second step: nothing behind this is started.
    pub(super) fn draw_the_line(&mut self, reason: &Code) {
        if self.phase == Phase::Open && !self.is_draining {
            self.is_draining = true;
            self.say_last(reason);
            self.abandon_asking();
        }
    }

    /// Says why nothing more is read; what was read is still finished and answered.
    pub(super) fn turn_away(&mut self, code: &Code) {
        self.session.ending().stop();
        if !self.is_draining {
            self.say_last(code);
        }
        self.stop_reading(None);
    }

    /// Draws the line before the first request that waits for a place: what has not started by now
    /// is refused, so that its client can ask elsewhere at once.
    pub(super) fn say_last(&mut self, reason: &Code) {
        let waiting = self.active.as_ref().and_then(|active| active.parked.first_id());
        let last = waiting.map_or(self.last_id, |id| id.get() - 1);
        encode_bye(self.out(), last, reason);
        self.give_up_parked(&Code::CLOSING);
        self.bound_end();
    }

    /// From here on the connection lasts no longer than a drain, because it is the server that ends
    /// it. A frozen peer, its streams and its handlers cannot keep it.
    pub(super) fn bound_end(&mut self) {
        let at = self.now().after(self.shared.config.drain);
        let active = self.active();
        let at = active.ends.map_or(at, |ends| ends.min(at));
        active.ends = Some(at);
        self.set_alarm(at);
    }

    /// When the connection is cut or dropped, if the server ends it.
    pub(super) fn ends(&self) -> Option<Time> {
        self.active.as_ref().and_then(|active| active.ends)
    }

    /// Cuts what runs when the time of a connection that ends is over; whether even the time to write
    /// that out is.
    pub(super) fn is_overdue(&mut self) -> bool {
        if self.ends().is_none_or(|ends| self.now() < ends) {
            return false;
        }
        if self.active.as_ref().is_some_and(|active| active.is_cut) {
            return true;
        }
        tracing::debug!("not ended in time: cut");
        self.cut();
        false
    }

    pub(super) fn cut(&mut self) {
        let ends = self.now().after(LAST_WRITE);
        let active = self.active();
        (active.ends, active.is_cut) = (Some(ends), true);
        self.set_alarm(ends);
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
        if self.phase == Phase::Open {
            self.end_subscriptions();
            self.stop_reading(None);
        }
    }

    /// Nothing more will be published: subscriptions that have had all there is need not be kept.
    pub(super) fn expect_last(&mut self) {
        if let Some(subscriptions) = &mut self.subscriptions {
            subscriptions.expect_last();
        }
    }

    /// Delivers what there is room for, and names the rest.
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
        if let Phase::Finishing { eof, .. } = &mut self.phase {
            *eof = true;
        }
    }

    /// Looks at no further line. Those that are parked were read: they are still started.
    pub(super) fn stop_reading(&mut self, quit: Option<RequestId>) {
        match (quit, &mut self.active) {
            (None, _) => self.give_up_deferred(&Code::BUSY),
            // Nothing behind a `/quit` is looked at.
            (Some(_), Some(active)) => active.deferred = Deferred::default(),
            (Some(_), None) => {}
        }
        self.phase = Phase::Finishing { quit, eof: false };
        self.lines = LineDecoder::default();
        self.subscriptions = None;
        self.access = None;
        self.lease = Lease::Idle;
        if let Some(active) = &mut self.active {
            active.held = None;
            (active.unread, active.unread_at) = (Vec::new(), 0);
        }
        self.end_starved_streams();
        self.shorten_handlers();
    }

    /// A client that reads no further may be gone, which looks no different: methods that may take
    /// longer than usual may so no more.
    fn shorten_handlers(&mut self) {
        let (now, limit) = (self.now(), self.shared.config.handler_time);
        let active = self.active.as_mut();
        if active.is_some_and(|active| active.in_flight.shorten(now, limit)) {
            self.set_alarm(now.after(limit));
        }
    }

    /// The last line of the connection, once all others are there.
    pub(super) fn answer_quit(&mut self) {
        if let Phase::Finishing { quit, .. } = &mut self.phase
            && self.active.as_deref().is_none_or(has_answered)
            && let Some(id) = quit.take()
        {
            self.answer_ok(id, format_args!(""));
        }
    }

    /// Whether all is done that this connection will do.
    pub(super) fn is_finished(&self) -> bool {
        let is_drained = || {
            let has_obeyed = !self.is_stalled() && !self.is_subscribing() && !self.has_deferred();
            self.is_draining && has_obeyed && !self.is_delivering()
        };
        let is_ending = self.phase != Phase::Open || is_drained();
        let is_done = |active: &Active| has_answered(active) && active.out.is_done();
        is_ending && self.active.as_deref().is_none_or(is_done)
    }

    /// Whether subscriptions are still owed something: what other connections may publish, and what
    /// has not been taken or acknowledged. They are kept for as long as the drain may last.
    fn is_delivering(&self) -> bool {
        self.subscriptions.as_deref().is_some_and(Subscriptions::are_owed)
    }

    /// Closes our direction, then reads on for a while unless the peer has closed its own.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.phase {
            Phase::Open => self.begin_closing(false),
            Phase::Finishing { eof, .. } => self.begin_closing(eof),
            Phase::Closing { .. } | Phase::Lingering { .. } => {}
        }
        if let Phase::Closing { eof, until } = self.phase {
            if self.has_waited(cx, until) {
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            if eof {
                return Poll::Ready(Ok(()));
            }
            self.begin_lingering(until);
        }
        self.poll_linger(cx)
    }

    fn begin_closing(&mut self, eof: bool) {
        self.stop_reading(None);
        let until = self.now().after(self.shared.config.write_progress);
        let until = self.ends().map_or(until, |ends| ends.min(until));
        self.phase = Phase::Closing { eof, until };
        self.active = None;
    }

    /// A peer that goes on sending may not have read to the end yet: it has until `closed`, as one that
    /// takes nothing. One that is closed for its own faults has no more than the last line to read.
    fn begin_lingering(&mut self, closed: Time) {
        self.heard = self.now();
        let until = self.heard.after(LINGER);
        let end = if self.is_banned { until } else { until.max(closed) };
        self.phase = Phase::Lingering { end };
    }

    /// Whether this is as long as a connection that has nothing more to say stays.
    fn has_waited(&mut self, cx: &mut Context<'_>, until: Time) -> bool {
        let flags = self.session.mailbox().take(cx.waker(), &mut Vec::new());
        if flags & ALARM != 0 {
            self.shared.timers.clear(&mut self.alarm);
        }
        if flags & COMMANDS != 0 {
            // It is too late for them, and they must not pile up.
            drop(self.session.mailbox().take_commands());
        }
        if flags & CUT != 0 || self.now() >= until {
            return true;
        }
        self.set_alarm(until);
        false
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Phase::Lingering { end } = self.phase else { return Poll::Ready(Ok(())) };
        if self.has_waited(cx, self.heard.after(LINGER).min(end)) {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = Scratch::take();
        for _ in 0..READS {
            if ready!(scratch.poll_read(&mut self.io, cx))?.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.heard = self.now();
        }
        give_way(cx);
        Poll::Pending
    }
}

/// Whether every request that was read has its terminal line.
pub(super) fn has_answered(active: &Active) -> bool {
    active.in_flight.len() == 0 && active.parked.is_empty() && active.listing.is_none()
}
