//! One connection: a hand-written future that reads, obeys, copies and writes.
//!
//! Each poll goes through the same short steps: take the mail, poll the handlers that were woken,
//! read all there is and obey it line by line, copy from the topics, write once. Nothing waits for
//! anything else: what cannot go on says where it stands, and its waker brings the next poll.

use std::{
    io, mem,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::yield_now,
};

use crate::{
    coop::has_budget_remaining,
    io::{Scratch, WriteBuffer},
    protocol::{Code, DEFAULT_MAX_LINE, Hello, Lease, LeaseEvent, LineDecoder, Time, Violations},
    server::{
        Shared,
        core::{
            auth::Access,
            closing::{Phase, has_answered},
            deferred::Deferred,
            in_flight::{InFlight, NEVER},
            listing::Listing,
            parked::Parked,
            subscriptions::Subscriptions,
            tiny_reads::TinyReads,
        },
        driver::timers::Alarm,
        mailbox::{ALARM, COMMANDS, CUT, DRAIN, LAST, LINE, NEWS, SHED},
        session::Session,
        stats::Tally,
    },
    sync::Arc,
    topic::Room,
};

/// Reads per round: everything that is there is read before anything is written, within reason.
pub(super) const READS: usize = 2;
/// Rounds per poll, after which other tasks of the runtime have their turn.
///
/// With [`READS`], 256 KiB of input at most: thousands of requests in few milliseconds, which is
/// what a flood may keep the others of its thread waiting (tests/memory.rs counts it).
pub(super) const ROUNDS: usize = 2;
/// Lines that are obeyed in a poll: as many as one read brings of short ones. A line that takes longer
/// to obey counts as several.
pub(super) const LINES: u16 = 2_048;

/// The driver of one connection. It ends when the connection is closed.
pub(in crate::server) struct Connection<T> {
    pub(super) io: T,
    pub(super) shared: Arc<Shared>,
    pub(super) session: Session,
    pub(super) lines: LineDecoder,
    /// The longest line to be written, LF included.
    pub(super) client_max_line: usize,
    /// The last id read.
    pub(super) last_id: u64,
    /// No line was read yet.
    pub(super) is_first: bool,
    /// The line is drawn: no application request is started any more.
    pub(super) is_draining: bool,
    /// One violation too many was read, or another fault for which it is closed.
    pub(super) is_banned: bool,
    /// An alarm rang, and what was received before it is still to be read: in so many rounds at
    /// most.
    pub(super) due_within: Option<u8>,
    /// What it may hold, as of this poll: without bound, unless the connections of the server hold
    /// more than they may together.
    pub(super) allowance: usize,
    pub(super) phase: Phase,
    pub(super) lease: Lease,
    pub(super) violations: Violations,
    /// When bytes came last.
    pub(super) heard: Time,
    pub(super) tiny_reads: TinyReads,
    /// When the unfinished line began; the first one begins when the connection does.
    pub(super) line_began: Time,
    /// The earliest deadline, registered with the timers.
    pub(super) alarm: Alarm,
    /// What it holds, as it told the server.
    pub(super) buffered: usize,
    /// The time of this poll, once it was asked for.
    pub(super) now: Option<Time>,
    /// Lines that may still be obeyed in this poll.
    pub(super) lines_left: u16,
    /// What an idle connection does without.
    pub(super) active: Option<Box<Active>>,
    pub(super) subscriptions: Option<Box<Subscriptions>>,
    pub(super) access: Option<Box<Access>>,
}

/// What a connection owns while something is under way.
#[derive(Default)]
pub(super) struct Active {
    /// Once the server ends the connection: when it cuts what still runs, or, if that `is_cut`, drops
    /// the connection.
    pub(super) ends: Option<Time>,
    pub(super) is_cut: bool,
    pub(super) out: WriteBuffer,
    pub(super) in_flight: InFlight,
    /// What was done since it was last counted.
    pub(super) tally: Tally,
    /// Slots whose handlers were woken and are still to be polled.
    pub(super) woken: Vec<usize>,
    /// Application lines that wait for a place in flight.
    pub(super) parked: Parked,
    /// Protocol requests that wait behind a `/subscribe`.
    pub(super) deferred: Deferred,
    /// The line at which reading stopped: no more may be parked, or it waits for the authoriser.
    pub(super) held: Option<Vec<u8>>,
    /// When the peer is to be told that nothing is read.
    pub(super) hold_at: Option<Time>,
    /// What was received behind it, and from where on it is still to be looked at.
    pub(super) unread: Vec<u8>,
    pub(super) unread_at: usize,
    /// Reading stopped since the peer does not read: nothing but the next write brings it on.
    pub(super) is_held: bool,
    /// A `/methods` whose answer is not written whole.
    pub(super) listing: Option<Listing>,
    /// Since when bytes wait and the transport takes none of them.
    pub(super) stuck: Option<Time>,
    /// The streams were left without a turn, all else having had one.
    pub(super) streams_first: bool,
}

impl Active {
    /// What it holds, in bytes: room that is kept counts, whatever stands in it.
    pub(super) fn buffered(&self) -> usize {
        let held = self.held.as_ref().map_or(0, Vec::capacity);
        let lines = self.parked.bytes() + self.deferred.bytes() + held + self.unread.capacity();
        self.out.capacity() + lines + self.in_flight.bytes()
    }
}

/// Whether a line was read, or has to be looked at again: for room to be parked, or a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    No,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Connection<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        (this.now, this.lines_left) = (None, LINES);
        this.look_at_share();
        let polled = this.poll_rounds(cx);
        this.count_buffered();
        polled.map(|closed| match closed {
            Ok(()) => tracing::debug!("closed"),
            Err(error) => tracing::debug!(%error, "connection lost"),
        })
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    pub(in crate::server) fn new(io: T, shared: Arc<Shared>, session: Session) -> Self {
        let (config, now) = (&shared.config, shared.timers.now());
        let access = Access::at_first(&shared, &session);
        let longest = match &access {
            Some(_) => config.max_line.min(config.max_line_before_auth),
            None => config.max_line,
        };
        let mut connection = Self {
            io,
            lines: LineDecoder::new(longest),
            client_max_line: config.max_line.min(DEFAULT_MAX_LINE),
            last_id: 0,
            is_first: true,
            is_draining: false,
            is_banned: false,
            due_within: None,
            allowance: usize::MAX,
            buffered: 0,
            phase: Phase::Open,
            lease: Lease::Idle,
            violations: Violations::default(),
            heard: now,
            tiny_reads: TinyReads::default(),
            line_began: now,
            alarm: shared.timers.new_alarm(),
            now: None,
            lines_left: LINES,
            active: None,
            subscriptions: None,
            access,
            shared,
            session,
        };
        if connection.session.set_may_publish(true) {
            connection.shared.publishing.begin();
        }
        connection.say_hello();
        let deadline = connection.access.as_ref().map(|access| access.deadline());
        deadline.into_iter().for_each(|deadline| connection.set_alarm(deadline));
        connection
    }

    pub(super) fn say_hello(&mut self) {
        let config = &self.shared.config;
        let hello = Hello {
            session: self.session.id(),
            max_line: config.max_line,
            in_flight: config.in_flight,
            lease: config.lease.as_secs(),
            idle: config.idle.map(|idle| idle.as_secs()),
            auth: match self.is_stranger() {
                true => self.shared.hooks.schemes.clone(),
                false => Vec::new(),
            },
            ..Hello::default()
        };
        hello.encode(self.out());
    }

    pub(super) fn poll_rounds(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Phase::Closing { .. } | Phase::Lingering { .. } = self.phase {
            return self.poll_close(cx);
        }
        self.take_mail(cx);
        if self.is_overdue() {
            let text = "the peer does not read what was cut";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        for _ in 0..ROUNDS {
            self.poll_streams_first();
            let before = self.unwritten();
            self.poll_handlers();
            self.turn_away_banned();
            let mut more_input = self.poll_input(cx)? | self.poll_access();
            more_input |= self.fire_deadlines(more_input);
            self.say_hold();
            self.poll_subscriptions();
            self.poll_streams(before);
            self.answer_quit();
            self.count();
            self.poll_write(cx)?;
            if self.is_finished() {
                return self.poll_close(cx);
            }
            let is_at_rest = !more_input && !self.free_a_place() && !self.can_go_on();
            if is_at_rest {
                self.arm();
                self.rest();
                return Poll::Pending;
            }
        }
        give_way(cx);
        Poll::Pending
    }

    pub(super) fn take_mail(&mut self, cx: &mut Context<'_>) {
        let mailbox = self.session.mailbox();
        let flags = match &mut self.active {
            Some(active) => mailbox.take(cx.waker(), &mut active.woken),
            // Without anything active no handler can be woken.
            None => mailbox.take(cx.waker(), &mut Vec::new()),
        };
        if flags & ALARM != 0 {
            self.on_alarm();
        }
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
    }

    pub(super) fn on_news(&mut self) {
        if let Some(subscriptions) = &mut self.subscriptions {
            subscriptions.look(self.session.mailbox());
        }
        self.poll_opening();
    }

    /// Polls what was woken, unless the peer does not read what is finished, and while there is budget.
    pub(super) fn poll_handlers(&mut self) {
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

    /// Reads and obeys; whether there may be more to read.
    pub(super) fn poll_input(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if let Some(active) = &mut self.active {
            // Unless it turns out again below: a connection held for ever would never rest.
            active.is_held = false;
        }
        self.start_parked();
        self.go_on_listing();
        self.go_on_with_deferred();
        self.go_on_with_unread();
        for _ in 0..READS {
            if self.phase != Phase::Open || self.is_stalled() {
                self.hold();
                return Ok(false);
            }
            if self.is_pausing() {
                return Ok(false);
            }
            if !self.has_turn() {
                return Ok(true);
            }
            self.go_on();
            let mut scratch = Scratch::take();
            match scratch.poll_read_at_most(self.read_at_most(), &mut self.io, cx)? {
                Poll::Pending => return Ok(false),
                Poll::Ready([]) => self.on_eof(),
                Poll::Ready(bytes) => self.on_bytes(bytes),
            }
        }
        Ok(true)
    }

    /// Whether another line may be obeyed in this poll.
    pub(super) fn has_turn(&self) -> bool {
        self.lines_left > 0 && has_budget_remaining()
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
        let event = if self.is_draining { LeaseEvent::Emptied } else { event };
        let (now, length) = (self.now(), self.shared.config.lease);
        let (lease, has_expired) = self.lease.on(event, now, length);
        self.lease = lease;
        if let Some(deadline) = lease.deadline() {
            self.set_alarm(deadline);
        }
        if has_expired && let Some(subscriptions) = &mut self.subscriptions {
            let active = self.active.get_or_insert_default();
            subscriptions.end_all(&Code::EXPIRED, active.out.bytes());
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(active) = self.active.as_mut().filter(|active| !active.out.is_done()) else {
            return Ok(());
        };
        let before = active.out.len();
        let written = active.out.poll_write(&mut self.io, cx);
        self.shared.sessions.totals.wrote(self.session.id(), before - active.out.len());
        match written {
            Poll::Ready(written) => self.on_written(written),
            Poll::Pending => self.on_write_blocked(),
        }
    }

    /// Whether another round would do something that no waker announces.
    pub(super) fn can_go_on(&mut self) -> bool {
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

    /// Gives back what an idle connection does without.
    pub(super) fn rest(&mut self) {
        let is_idle = |active: &mut Box<Active>| {
            active.ends.is_none()
                && active.out.is_done()
                && active.in_flight.len() == 0
                && active.parked.is_empty()
                && active.deferred.is_empty()
                && active.held.is_none()
                && active.unread.is_empty()
                && active.listing.is_none()
        };
        if self.active.take_if(is_idle).is_some() {
            self.session.mailbox().shrink();
        }
        self.subscriptions.take_if(|list| list.is_empty());
    }

    /// Whether lines have to wait: for room to be parked, for the authenticator, or for a list to be
    /// written.
    pub(super) fn is_stalled(&self) -> bool {
        self.is_waiting()
            || self.is_over_mark()
            || self.active.as_ref().is_some_and(|active| active.held.is_some())
    }

    pub(super) fn unwritten(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.out.len())
    }

    pub(super) fn hold(&mut self) {
        let is_held = self.is_over_mark();
        if let Some(active) = &mut self.active {
            active.is_held = is_held;
        }
    }

    /// Reads again. An unfinished line could not continue meanwhile, so its time is restarted.
    pub(super) fn go_on(&mut self) {
        if let Some(active) = &mut self.active
            && mem::take(&mut active.is_held)
        {
            self.line_began = self.now();
        }
    }

    /// Whether no line is looked at, whatever it is.
    pub(super) fn is_waiting(&self) -> bool {
        let has_ended = |active: &Active| active.deferred.has_ended();
        self.is_trying() || self.is_listing() || self.active.as_deref().is_some_and(has_ended)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining
    }

    pub(super) fn active(&mut self) -> &mut Active {
        self.active.get_or_insert_default()
    }

    /// Where lines to the client are appended.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        self.active().out.bytes()
    }

    pub(super) fn now(&mut self) -> Time {
        *self.now.get_or_insert_with(|| self.shared.timers.now())
    }

    pub(super) fn set_alarm(&mut self, deadline: Time) {
        if deadline < NEVER && self.alarm.is_later_than(deadline) {
            self.shared.timers.set(&mut self.alarm, deadline, self.session.mailbox());
        }
    }
}

impl<T> Connection<T> {
    /// Counts what runs and what was done, before a peer can learn of it.
    pub(super) fn count(&mut self) {
        let subscriptions = self.subscriptions.as_ref().map_or(0, |list| list.len());
        let mut in_flight = 0;
        if let Some(active) = &mut self.active {
            in_flight = active.in_flight.len();
            self.shared.sessions.totals.fold(self.session.id(), &mut active.tally);
        }
        self.session.set_gauges(in_flight, subscriptions);
        let is_behind = self.subscriptions.as_ref().is_some_and(|list| list.are_behind());
        self.session.set_behind(is_behind, || self.shared.timers.now());
        let takes_requests = self.phase == Phase::Open && !self.is_draining;
        if !takes_requests && self.active.as_deref().is_none_or(has_answered) {
            self.publishes_no_more();
        }
    }

    pub(super) fn publishes_no_more(&self) {
        if self.session.set_may_publish(false) {
            self.shared.publishing.end();
        }
    }
}

/// Wakes the task once the runtime has looked for news of others.
///
/// A task that wakes itself is polled again before that, dozens of times. A flood would then delay
/// connections whose bytes the runtime has not seen yet.
pub(super) fn give_way(cx: &mut Context<'_>) {
    let yielding = pin!(yield_now());
    let _ = yielding.poll(cx);
}

impl<T> Drop for Connection<T> {
    fn drop(&mut self) {
        self.shared.timers.clear(&mut self.alarm);
        self.session.holding().change(self.buffered, 0);
        self.count();
        self.publishes_no_more();
        self.session.forget();
        self.shared.sessions.remove(&self.session);
        self.session.mailbox().close();
        self.session.ending().close();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Wake, Waker},
        time::Duration,
    };

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use uuid::Uuid;

    use super::*;
    use crate::{
        random::Random,
        server::{
            PeerAddr, Router, ServerConfig, access::hooks::Hooks, driver::timers::Timers,
            publishing::Publishing,
        },
        sync::{AtomicUsize, Ordering},
        topic::{MemoryTopics, Publisher},
    };

    #[test]
    fn an_idle_connection_is_small() {
        let size = size_of::<Connection<()>>();
        assert!(size <= 256, "{size} bytes");
    }

    fn shared() -> Arc<Shared> {
        let random = Random::seeded(1);
        Arc::new(Shared {
            config: ServerConfig::new(),
            methods: Router::new().method("echo", async |payload: String| payload).into_methods(),
            publisher: Publisher::new(MemoryTopics::new(&random)),
            sessions: Arc::default(),
            buffered: Arc::default(),
            random,
            timers: Timers::new(),
            hooks: Hooks::default(),
            publishing: Publishing::default(),
        })
    }

    fn poll<T>(connection: &mut Connection<T>) -> Poll<()>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        Pin::new(connection).poll(&mut Context::from_waker(Waker::noop()))
    }

    /// [M146] Row 30 of the threats: all deadlines of an hour are over when the process goes on, and
    /// what the peer sent in time is there.
    #[tokio::test(start_paused = true)]
    async fn what_was_received_is_read_before_deadlines_fire() {
        let hour = Duration::from_secs(3_600);
        for is_read in [true, false] {
            let (mut peer, io) = tokio::io::duplex(1_024);
            let shared = shared();
            let session = Session::new(Uuid::nil(), PeerAddr::Other("test".into()), &shared);
            let mailbox = session.mailbox().clone();
            let mut connection = Connection::new(io, shared, session);
            peer.write_all(b"1 /subscribe t\n2 ech").await.unwrap();
            assert!(poll(&mut connection).is_pending());
            assert_eq!(connection.lines.pending(), 5);
            tokio::time::advance(hour).await;
            if is_read {
                peer.write_all(b"o a\n3 /renew\n").await.unwrap();
            }
            mailbox.raise(ALARM);
            assert!(poll(&mut connection).is_pending());
            assert_eq!(connection.phase == Phase::Open, is_read);
            let mut said = vec![0; 1_024];
            let length = peer.read(&mut said).await.unwrap();
            let said = String::from_utf8_lossy(&said[..length]).into_owned();
            assert_eq!(said.contains("2 ok a\n3 ok;lease=60 t:"), is_read, "{said}");
            assert_eq!(said.contains("* /end t expired "), !is_read, "{said}");
        }
    }

    /// A waker that counts.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Row 31 of the threats: a connection that was held back once does not wake itself for ever.
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_goes_on_comes_to_rest() {
        let mut shared = Arc::into_inner(shared()).unwrap();
        shared.config = ServerConfig::new().reply_mark(100);
        let wait = async || std::future::pending::<()>().await;
        shared.methods = Router::new().method("wait", wait).into_methods();
        let (mut peer, io) = tokio::io::duplex(1_024);
        let session = Session::new(Uuid::nil(), PeerAddr::Other("test".into()), &shared);
        let mut connection = Connection::new(io, Arc::new(shared), session);
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let cx = &mut Context::from_waker(&waker);
        peer.write_all(b"1 wait\n").await.unwrap();
        for id in 2..100 {
            peer.write_all(format!("{id} /renew\n").as_bytes()).await.unwrap();
            assert!(Pin::new(&mut connection).poll(cx).is_pending());
        }
        assert!(connection.is_over_mark());
        let mut said = vec![0; 1_024];
        while futures::poll!(pin!(peer.read(&mut said))).is_ready() {
            assert!(Pin::new(&mut connection).poll(cx).is_pending());
        }
        assert!(connection.last_id == 99 && connection.active.is_some());
        let before = wakes.0.load(Ordering::Relaxed);
        assert!(Pin::new(&mut connection).poll(cx).is_pending());
        assert_eq!(wakes.0.load(Ordering::Relaxed), before);
    }

    /// Whatever was said before: all that is left of it is in the struct itself.
    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_owns_nothing_but_itself() {
        let (mut peer, io) = tokio::io::duplex(1_024);
        let shared = shared();
        let session = Session::new(Uuid::nil(), PeerAddr::Other("test".into()), &shared);
        let mut connection = Connection::new(io, shared, session);
        let cx = &mut Context::from_waker(Waker::noop());
        for lines in ["", "1 echo a\n", "2 /subscribe t\n3 /unsubscribe t\n", "4 nosuch\n\n"] {
            peer.write_all(lines.as_bytes()).await.unwrap();
            assert!(Pin::new(&mut connection).poll(cx).is_pending());
            assert!(connection.active.is_none() && connection.subscriptions.is_none(), "{lines}");
        }
        assert_eq!(connection.lines.pending(), 0);
        peer.write_all(b"5 unfinished").await.unwrap();
        assert!(Pin::new(&mut connection).poll(cx).is_pending());
        assert!(connection.active.is_none() && connection.lines.pending() == 12);
    }

    /// What stopped for a peer that did not read goes on with it, and then rests like any other.
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_held_rests_again() {
        let (mut peer, io) = tokio::io::duplex(1_024);
        let mut shared = shared();
        Arc::get_mut(&mut shared).unwrap().config = ServerConfig::new().reply_mark(64);
        let session = Session::new(Uuid::nil(), PeerAddr::Other("test".into()), &shared);
        let mut connection = Connection::new(io, shared, session);
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..100 {
            peer.write_all(b"* nosuch\n").await.unwrap();
            assert!(Pin::new(&mut connection).poll(cx).is_pending());
        }
        assert!(connection.active.as_ref().unwrap().is_held);
        for _ in 0..100 {
            let mut read = [0; 1_024];
            let _ = futures::poll!(std::pin::pin!(peer.read(&mut read)));
            assert!(Pin::new(&mut connection).poll(cx).is_pending());
        }
        assert!(connection.active.is_none());
    }
}
