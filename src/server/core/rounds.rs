//! A turn of a connection's driver: what it takes in, and what it gives out.
//!
//! Each round goes through the same short steps: poll the handlers that were woken, read all there is
//! and obey it line by line, copy from the topics, write once. No step blocks another: work that is
//! not ready keeps its state, and its waker schedules the next turn.

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

/// How often a connection comes to rest before it is busy.
const BUSY: u8 = 8;
/// How long a busy connection keeps what an idle one does without, after its last input.
const KEPT_FOR: Duration = Duration::from_secs(1);
/// How much of it, in bytes. It does not count as held: it is the room of short exchanges.
pub(super) const KEPT: usize = 4 * 1024;

/// The steps in which a server stops (docs/protocol/leaving.md, section 18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopStep {
    /// The client is told, and the connection goes on as before.
    Goodbye,
    /// The grace is over: nothing that comes now is started.
    Line,
    /// Nothing more will be published: a subscriber that has had everything may leave.
    Last,
    /// The time to drain is over: what still runs is cut.
    Cut,
}

impl Connection {
    /// Begins a turn: takes what handlers, publishers and the application left for the connection.
    /// From here on `waker` is woken when they leave more.
    pub fn handle_wakeups(&mut self, waker: &Waker, now: Time) {
        self.handle_mail(waker, now);
    }

    /// As [`handle_wakeups`](Self::handle_wakeups); whether an alarm rang.
    pub(in crate::server) fn handle_mail(&mut self, waker: &Waker, now: Time) -> bool {
        (self.now, self.lines_left) = (now, LINES);
        self.look_at_share();
        let mailbox = self.session.mailbox();
        let flags = match &mut self.active {
            Some(active) => mailbox.take(waker, &mut active.woken),
            // Without anything active no handler can be woken.
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

    /// The server stops, or has gone further in it.
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

    /// Begins a round: goes on with what waited, before anything is read.
    pub fn begin_round(&mut self, now: Time) {
        (self.now, self.reads_left, self.more_input) = (now, READS, false);
        if self.state.is_closing() {
            return;
        }
        if self.active.as_deref().is_none_or(Active::is_at_rest) {
            // Nothing has waited: the common case of a request that is answered at once.
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
        // Unless it turns out again below: a connection held for ever would never rest.
        let was_held = self.active.as_mut().is_some_and(|on| std::mem::take(&mut on.is_held));
        self.start_parked();
        self.go_on_listing();
        self.go_on_with_deferred();
        self.go_on_with_unread();
        if was_held && self.state.is_reading() && !self.is_stalled() {
            // An unfinished line could not continue meanwhile, so its time is restarted.
            self.line_began = now;
        }
    }

    /// How many bytes may be read now at most; `None` for none.
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

    /// Takes bytes that were read.
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

    /// Does all that a round is for but to read and to write.
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

    /// Whether there may be more to be read, of which nothing else tells.
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

    /// Whether all output is written, and the transport is to be flushed.
    pub fn needs_flush(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.out.needs_flush())
    }

    /// The transport is flushed.
    pub fn handle_flushed(&mut self, now: Time) {
        self.now = now;
        self.active.iter_mut().for_each(|active| active.out.flushed());
    }

    /// So many bytes of the output were written.
    pub fn handle_written(&mut self, count: usize, now: Time) {
        self.now = now;
        if let Some(active) = &mut self.active {
            active.out.wrote(count);
            self.environment.totals.wrote(self.session.id(), count);
        }
    }

    /// Bytes wait, and the transport takes no more, or has not passed on what it took. One that takes
    /// none for too long ends the connection.
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

    /// Ends a round; whether another one would do something that no waker announces.
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

    /// Where the connection stands.
    pub fn state(&self) -> ConnectionState {
        self.state.shown()
    }

    /// Why a connection that is closed was given up, if it was.
    pub fn lost(&self) -> Option<&'static str> {
        match self.state {
            FullState::Closed { lost } => lost,
            _ => None,
        }
    }

    /// Whether another line may be obeyed in this turn.
    pub(super) fn has_turn(&self) -> bool {
        self.lines_left > 0 && has_budget_remaining()
    }

    /// Polls what was woken, unless the peer does not read what is finished, and while there is budget.
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
                // A reply that was taken from its task makes no room for the next before it is out.
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

    /// Drives the lease; past its end, every subscription is told so.
    pub(super) fn lease_event(&mut self, event: LeaseEvent) {
        // Behind the line no client may renew it: the drain bounds what is left.
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

    /// Whether another round would do something that no waker announces.
    fn can_go_on(&mut self) -> bool {
        let can_start = self.can_start_parked() || self.can_go_on_with_deferred();
        let Some(active) = &self.active else {
            return false;
        };
        // What is held goes on with what is parked before it, or with a verdict.
        let has_lines = active.held.is_none() && !active.unread.is_empty();
        let can_copy = active.out.len() < self.notification_mark()
            && self.subscriptions.as_ref().is_some_and(|list| list.is_ready());
        let can_reply = !active.woken.is_empty() || active.listing.is_some();
        let can_poll = active.out.len() < self.reply_mark() && can_reply;
        let can_read = (has_lines || active.is_held) && !self.is_over_mark() && !self.is_waiting();
        can_start || can_read || can_copy || can_poll || self.can_stream()
    }

    /// Gives back what an idle connection does without. A busy one keeps it for [`KEPT_FOR`], so that
    /// it need not be made again for each exchange.
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

    /// Gives back what a busy connection has kept, once it is not busy any more.
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
