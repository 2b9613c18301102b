//! A turn of a connection's driver: reading, processing and writing.
//!
//! Each round has the same short steps: poll the handlers that were woken, read what has arrived
//! and process it line by line, copy from the topics, write once. No step blocks another. Work that
//! is not ready keeps its state, and its waker schedules the next turn.

use std::{task::Waker, time::Duration};

use crate::{
    coop::has_budget_remaining,
    io::SCRATCH,
    protocol::{Code, LeaseEvent, Time},
    server::{
        core::{
            active::Active,
            connection::{Connection, LINES, READS},
            state::{ConnectionState, FullState},
        },
        mailbox::{ALARM, COMMANDS, CUT, DRAIN, LAST, LINE, NEWS, SHED},
    },
    topic::Room,
};

/// A connection that came to rest this many times is busy.
const BUSY: u8 = 8;
/// How long a busy connection keeps its buffers and tables after its last input.
const KEPT_FOR: Duration = Duration::from_secs(1);
/// The most that it keeps, in bytes. They are not counted as held, because they are needed again
/// for the next exchange.
pub(super) const KEPT: usize = 4 * 1024;

/// The steps in which a server stops (docs/protocol/leaving.md, section 18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopStep {
    /// Each client is sent `/bye`, and its connection goes on as before.
    Goodbye,
    /// The grace is over. Each client is sent `/bye;last=N`, and later requests are refused.
    Line,
    /// Nothing more will be published. A connection may end once its subscriptions have delivered
    /// everything.
    Last,
    /// The drain time is over. What still runs is cut.
    Cut,
}

impl Connection {
    /// Begins a turn: takes the messages that handlers, publishers and the application left for the
    /// connection. `waker` is woken when they leave more.
    pub fn handle_wakeups(&mut self, waker: &Waker, now: Time) {
        self.handle_mail(waker, now);
    }

    /// As [`handle_wakeups`](Self::handle_wakeups). Returns whether an alarm was raised.
    pub(in crate::server) fn handle_mail(&mut self, waker: &Waker, now: Time) -> bool {
        (self.now, self.lines_left) = (now, LINES);
        self.look_at_share();
        let mailbox = self.session.mailbox();
        let flags = match &mut self.active {
            Some(active) => mailbox.take(waker, &mut active.woken),
            // Without active state there are no handlers that could have been woken.
            None => mailbox.take(waker, &mut Vec::new()),
        };
        let has_rung = flags & ALARM != 0;
        if has_rung {
            self.handle_timeout(now);
        }
        match self.state.is_closing() {
            true => self.handle_late_mail(flags),
            false => self.handle_flags(flags),
        }
        has_rung
    }

    fn handle_flags(&mut self, flags: u8) {
        if flags & (DRAIN | LINE | CUT) != 0 {
            self.session.ending().stop();
        }
        if flags & DRAIN != 0 {
            self.say_goodbye();
        }
        if flags & LINE != 0 {
            self.draw_the_line(&Code::SHUTDOWN);
        }
        if flags & LAST != 0 {
            self.expect_last();
        }
        if flags & CUT != 0 {
            self.cut();
        }
        if flags & COMMANDS != 0 {
            self.obey_commands();
        }
        if flags & SHED != 0 {
            self.shed();
        }
        if flags & NEWS != 0 {
            self.on_news();
        }
        self.end_overdue();
    }

    /// The server stops, or has reached a further step of its stop.
    pub fn handle_stop(&mut self, step: StopStep, now: Time) {
        self.now = now;
        let flag = match step {
            StopStep::Goodbye => DRAIN,
            StopStep::Line => LINE,
            StopStep::Last => LAST,
            StopStep::Cut => CUT,
        };
        match self.state.is_closing() {
            true => self.handle_late_mail(flag),
            false => self.handle_flags(flag),
        }
    }

    fn on_news(&mut self) {
        if let Some(subscriptions) = &mut self.subscriptions {
            subscriptions.look(self.session.mailbox());
        }
        self.poll_opening();
    }

    /// Begins a round: continues with lines and handlers that waited, before anything is read.
    pub fn begin_round(&mut self, now: Time) {
        (self.now, self.reads_left, self.more_input) = (now, READS, false);
        if self.state.is_closing() {
            return;
        }
        if self.active.as_deref().is_none_or(Active::is_at_rest) {
            // The common case of a request that is answered at once: nothing waits.
            self.active.iter_mut().for_each(|active| active.unwritten_before = 0);
            self.turn_away_banned();
            return;
        }
        self.poll_streams_first();
        if let Some(active) = &mut self.active {
            active.unwritten_before = active.out.len();
        }
        self.poll_handlers();
        self.turn_away_banned();
        // Set again below if the client still does not read. Otherwise a connection would never
        // rest.
        let was_held = self.active.as_mut().is_some_and(|on| std::mem::take(&mut on.is_held));
        self.start_parked();
        self.go_on_listing();
        self.go_on_with_deferred();
        self.go_on_with_unread();
        if was_held && self.state.is_reading() && !self.is_stalled() {
            // The client could not complete the unfinished line while it was not read, so its time
            // restarts.
            self.line_began = now;
        }
    }

    /// How many bytes may be read now at most; `None` to read nothing.
    pub fn wants_input(&self) -> Option<usize> {
        if self.reads_left == 0 {
            return None;
        }
        if matches!(self.state, FullState::Lingering { .. }) {
            return Some(SCRATCH);
        }
        let has_room = self.state.is_reading()
            && !self.is_stalled()
            && !self.tiny_reads.is_pausing_at(self.now)
            && self.has_turn();
        has_room.then(|| self.read_at_most())
    }

    /// Processes bytes that were read.
    pub fn handle_input(&mut self, bytes: &[u8], now: Time) {
        self.now = now;
        self.reads_left = self.reads_left.saturating_sub(1);
        match &self.state {
            FullState::Lingering { .. } => self.heard = now,
            _ => self.on_bytes(bytes),
        }
    }

    /// The peer has closed its direction of the transport.
    pub fn handle_eof(&mut self, now: Time) {
        self.now = now;
        self.reads_left = self.reads_left.saturating_sub(1);
        match &self.state {
            FullState::Lingering { .. } => self.state = FullState::Closed { lost: None },
            _ => self.on_eof(),
        }
    }

    /// Does everything in a round except reading and writing: hooks, deadlines, subscriptions,
    /// streams.
    pub fn advance(&mut self, now: Time) {
        self.now = now;
        if self.state.is_closing() {
            return;
        }
        self.more_input = self.ends_with_more_input() | self.poll_access();
        self.more_input |= self.fire_deadlines(self.more_input);
        self.say_hold();
        self.poll_subscriptions();
        self.poll_streams();
        self.answer_quit();
        self.count();
    }

    /// Whether there may be more input although no waker will tell.
    fn ends_with_more_input(&mut self) -> bool {
        if self.reads_left == 0 {
            return true;
        }
        if !self.state.is_reading() || self.is_stalled() {
            let is_held = self.is_over_mark();
            self.active.iter_mut().for_each(|active| active.is_held = is_held);
            return false;
        }
        if let Some(until) = self.tiny_reads.pause(self.now) {
            self.set_timeout(until);
            return false;
        }
        !self.has_turn()
    }

    /// The bytes to be written.
    pub fn output(&self) -> &[u8] {
        match (&self.active, &self.state) {
            (None, _) | (_, FullState::Closed { .. }) => &[],
            (Some(active), _) => active.out.unwritten(),
        }
    }

    /// Whether all output is written and the transport has to be flushed.
    pub fn needs_flush(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.out.needs_flush())
    }

    /// The transport was flushed.
    pub fn handle_flushed(&mut self, now: Time) {
        self.now = now;
        self.active.iter_mut().for_each(|active| active.out.flushed());
    }

    /// `count` bytes of the output were written.
    pub fn handle_written(&mut self, count: usize, now: Time) {
        self.now = now;
        if let Some(active) = &mut self.active {
            active.out.wrote(count);
            self.environment.totals.wrote(self.session.id(), count);
        }
    }

    /// Output waits, and the transport takes no more, or is not yet flushed. If the transport has
    /// taken nothing for too long, the connection ends.
    pub fn handle_write_blocked(&mut self, now: Time) {
        self.now = now;
        let Some(active) = &mut self.active else { return };
        let since = active.out.blocked(now);
        let deadline = since.after(self.environment.config.write_progress);
        match deadline <= now {
            true => self.state = FullState::Closed { lost: Some("the peer does not read") },
            false => self.set_timeout(deadline),
        }
    }

    /// Ends a round. Returns whether another round has work that no waker will announce.
    pub fn end_round(&mut self, now: Time) -> bool {
        self.now = now;
        let goes_on = self.goes_on();
        self.count_buffered();
        goes_on
    }

    fn goes_on(&mut self) -> bool {
        match &self.state {
            FullState::Lingering { .. } => {
                self.wait_for_close();
                return self.reads_left == 0;
            }
            FullState::Closing { .. } | FullState::Closed { .. } => return false,
            _ => {}
        }
        if self.is_finished() {
            self.begin_closing();
            return false;
        }
        if self.more_input || self.free_a_place() || self.can_go_on() {
            return true;
        }
        self.arm();
        self.rest();
        false
    }

    /// The state of the connection.
    pub fn state(&self) -> ConnectionState {
        self.state.shown()
    }

    /// Why a closed connection was dropped; `None` if it ended in order.
    pub fn lost(&self) -> Option<&'static str> {
        match self.state {
            FullState::Closed { lost } => lost,
            _ => None,
        }
    }

    /// Whether another line may be processed in this turn.
    pub(super) fn has_turn(&self) -> bool {
        self.lines_left > 0 && has_budget_remaining()
    }

    /// Polls the handlers that were woken, while there is budget and the unwritten replies are
    /// below the mark.
    fn poll_handlers(&mut self) {
        let (mut polled, mark) = (0, self.reply_mark());
        while let Some(active) = &mut self.active {
            let may_go_on = active.out.len() < mark && has_budget_remaining();
            let Some(&slot) = active.woken.get(polled).filter(|_| may_go_on) else {
                active.woken.drain(..polled);
                return;
            };
            polled += 1;
            if let Some(over) = active.in_flight.poll(slot) {
                self.finish(over);
                // The reply now counts as unwritten, so that no other task goes on too early.
                self.session.holding().set_unwritten(self.unwritten());
            }
        }
    }

    pub(super) fn poll_subscriptions(&mut self) {
        if !self.subscriptions.as_ref().is_some_and(|list| list.is_ready()) {
            return;
        }
        if self.session.mailbox().has_commands() {
            self.obey_commands();
        }
        let mark = self.notification_mark();
        let Some(subscriptions) = &mut self.subscriptions else { return };
        let active = self.active.get_or_insert_default();
        match mark.saturating_sub(active.out.len()) {
            0 => subscriptions.wait(),
            bytes => {
                let room = Room { bytes, lines: u64::MAX, max_line: self.client_max_line };
                subscriptions.copy(room, active.out.bytes(), &mut active.tally);
            }
        }
    }

    /// Applies an event to the lease. When the lease has run out, all subscriptions end with
    /// `/end`.
    pub(super) fn lease_event(&mut self, event: LeaseEvent) {
        // After `/bye;last` the client cannot renew the lease, and the drain time bounds its
        // subscriptions.
        let event = if self.state.is_line_drawn() { LeaseEvent::Emptied } else { event };
        let (now, length) = (self.now, self.environment.config.lease);
        let (lease, has_expired) = self.lease.on(event, now, length);
        self.lease = lease;
        if let Some(deadline) = lease.deadline() {
            self.set_timeout(deadline);
        }
        if has_expired && let Some(subscriptions) = &mut self.subscriptions {
            let active = self.active.get_or_insert_default();
            subscriptions.end_all(&Code::EXPIRED, active.out.bytes());
        }
    }

    /// Whether another round has work that no waker will announce.
    fn can_go_on(&mut self) -> bool {
        let can_start = self.can_start_parked() || self.can_go_on_with_deferred();
        let Some(active) = &self.active else {
            return false;
        };
        // A held line continues when parked lines have left, or with a verdict.
        let has_lines = active.held.is_none() && !active.unread.is_empty();
        let can_copy = active.out.len() < self.notification_mark()
            && self.subscriptions.as_ref().is_some_and(|list| list.is_ready());
        let can_reply = !active.woken.is_empty() || active.listing.is_some();
        let can_poll = active.out.len() < self.reply_mark() && can_reply;
        let can_read = (has_lines || active.is_held) && !self.is_over_mark() && !self.is_waiting();
        can_start || can_read || can_copy || can_poll || self.can_stream()
    }

    /// Frees the buffers and tables of a connection at rest. A busy connection keeps them for
    /// [`KEPT_FOR`], so that they are not allocated again for each exchange.
    fn rest(&mut self) {
        let Some(active) = self.active.as_deref().filter(|active| active.is_idle()) else {
            self.subscriptions.take_if(|list| list.is_empty());
            return;
        };
        if self.rests < BUSY || active.buffered() > KEPT {
            self.rests = self.rests.saturating_add(1);
            self.release();
        } else {
            self.set_timeout(self.now.after(KEPT_FOR));
        }
    }

    fn release(&mut self) {
        self.active = None;
        self.session.mailbox().shrink();
        self.subscriptions.take_if(|list| list.is_empty());
        self.subscriptions.iter_mut().for_each(|list| list.shrink());
    }

    /// Frees the buffers and tables of a busy connection, once it has been idle for long enough.
    pub(super) fn release_kept(&mut self) {
        if self.rests < BUSY || !self.active.as_deref().is_some_and(Active::is_idle) {
            return;
        }
        let until = self.heard.after(KEPT_FOR);
        match self.now < until {
            true => self.set_timeout(until),
            false => {
                self.rests = 0;
                self.release();
            }
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("session", &self.session.id())
            .field("state", &self.state())
            .field("unwritten", &self.unwritten())
            .finish_non_exhaustive()
    }
}
