//! One connection: a hand-written future that reads, obeys, copies and writes.
//!
//! Each poll goes through the same short steps: take the mail, poll the handlers that were woken,
//! read all there is and obey it line by line, copy from the topics, write once. Nothing waits for
//! anything else: what cannot go on says where it stands, and its waker brings the next poll.

mod access;
mod answer;
mod closing;
mod control;
mod lines;
mod orders;
mod requests;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite};

use self::{access::Access, closing::Phase};
use crate::{
    io::{Scratch, WriteBuffer},
    protocol::{Code, DEFAULT_MAX_LINE, Hello, Lease, LeaseEvent, LineDecoder, Time},
    server::{
        Shared,
        in_flight::InFlight,
        mailbox::{ALARM, CUT, DRAIN, NEWS, ORDERS},
        session::Session,
        subscriptions::Subscriptions,
        wheel::Alarm,
    },
    sync::Arc,
    topic::Room,
};

/// Reads per round: everything that is there is read before anything is written, within reason.
const READS: usize = 4;
/// Rounds per poll, after which other tasks of the runtime have their turn.
const ROUNDS: usize = 4;

/// The driver of one connection. It ends when the connection is closed.
pub(super) struct Connection<T> {
    io: T,
    shared: Arc<Shared>,
    session: Session,
    lines: LineDecoder,
    /// The longest line to be written, LF included.
    client_max_line: usize,
    /// The last id read.
    last_id: u64,
    /// No line was read yet.
    is_first: bool,
    is_draining: bool,
    phase: Phase,
    lease: Lease,
    /// The earliest deadline, registered with the wheel.
    alarm: Alarm,
    /// The time of this poll, once it was asked for.
    now: Option<Time>,
    /// What an idle connection does without.
    active: Option<Box<Active>>,
    subscriptions: Option<Box<Subscriptions>>,
    access: Option<Box<Access>>,
}

/// What a connection owns while something is under way.
#[derive(Default)]
struct Active {
    out: WriteBuffer,
    in_flight: InFlight,
    /// Slots whose handlers were woken and are still to be polled.
    woken: Vec<usize>,
    /// A line that waits for a place in flight.
    parked: Option<Vec<u8>>,
    /// What was read behind it, and from where on it is still to be looked at.
    unread: Vec<u8>,
    unread_at: usize,
    /// Reading stopped since the peer does not read: nothing but the next write brings it on.
    is_held: bool,
}

/// Whether a line was obeyed, or has to wait for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Yes,
    No,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Connection<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.now = None;
        this.poll_rounds(cx).map(|closed| match closed {
            Ok(()) => tracing::debug!("closed"),
            Err(error) => tracing::debug!(%error, "connection lost"),
        })
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    pub(super) fn new(io: T, shared: Arc<Shared>, session: Session) -> Self {
        let config = &shared.config;
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
            phase: Phase::Open,
            lease: Lease::Idle,
            alarm: shared.wheel.new_alarm(),
            now: None,
            active: None,
            subscriptions: None,
            access,
            shared,
            session,
        };
        connection.say_hello();
        let deadline = connection.access.as_ref().map(|access| access.deadline());
        deadline.into_iter().for_each(|deadline| connection.set_alarm(deadline));
        connection
    }

    fn say_hello(&mut self) {
        let config = &self.shared.config;
        let hello = Hello {
            session: self.session.id(),
            max_line: config.max_line,
            in_flight: config.in_flight,
            lease: config.lease.as_secs(),
            auth: match self.is_stranger() {
                true => self.shared.hooks.schemes.clone(),
                false => Vec::new(),
            },
            ..Hello::default()
        };
        hello.encode(self.out());
    }

    fn poll_rounds(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Phase::Closing { .. } | Phase::Lingering { .. } = self.phase {
            return self.poll_close(cx);
        }
        self.take_mail(cx);
        for _ in 0..ROUNDS {
            self.poll_handlers();
            let more_input = self.poll_input(cx)? | self.poll_access();
            self.poll_subscriptions();
            self.answer_quit();
            self.count();
            self.poll_write(cx)?;
            if self.is_finished() {
                return self.poll_close(cx);
            }
            if !more_input && !self.can_go_on() {
                self.rest();
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Counts what runs, before its caller can learn that it has ended.
    fn count(&self) {
        self.session.set_in_flight(self.active.as_ref().map_or(0, |active| active.in_flight.len()));
    }

    fn take_mail(&mut self, cx: &mut Context<'_>) {
        let mailbox = self.session.mailbox();
        let flags = match &mut self.active {
            Some(active) => mailbox.take(cx.waker(), &mut active.woken),
            // Without anything active no handler can be woken.
            None => mailbox.take(cx.waker(), &mut Vec::new()),
        };
        if flags & ALARM != 0 {
            self.on_alarm();
        }
        if flags & DRAIN != 0 {
            self.draw_the_line(&Code::SHUTDOWN);
        }
        if flags & CUT != 0 {
            self.cut();
        }
        if flags & ORDERS != 0 {
            self.obey_orders();
        }
        if flags & NEWS != 0 {
            self.on_news();
        }
    }

    fn on_alarm(&mut self) {
        self.shared.wheel.clear(&mut self.alarm);
        let now = self.now();
        if let Some(active) = &mut self.active {
            let over = active.in_flight.expire(now);
            let deadline = active.in_flight.earliest_deadline();
            over.into_iter().for_each(|over| self.finish(over));
            deadline.into_iter().for_each(|at| self.set_alarm(at));
        }
        self.lease_event(LeaseEvent::Tick);
        self.on_access_alarm(now);
    }

    fn on_news(&mut self) {
        if let Some(subscriptions) = &mut self.subscriptions {
            subscriptions.look();
        }
        self.poll_opening();
    }

    /// Polls what was woken, unless the peer does not read what is finished.
    fn poll_handlers(&mut self) {
        let mut polled = 0;
        while let Some(active) = &mut self.active {
            let is_full = active.out.len() >= self.shared.config.reply_mark;
            let Some(&slot) = active.woken.get(polled).filter(|_| !is_full) else {
                active.woken.drain(..polled);
                return;
            };
            polled += 1;
            if let Some(over) = active.in_flight.poll(slot) {
                self.finish(over);
            }
        }
    }

    /// Reads and obeys; whether there may be more to read.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        self.go_on_with_unread();
        for _ in 0..READS {
            if self.phase != Phase::Open || self.is_stalled() {
                self.hold();
                return Ok(false);
            }
            let mut scratch = Scratch::take();
            match scratch.poll_read(&mut self.io, cx)? {
                Poll::Pending => return Ok(false),
                Poll::Ready([]) => self.on_eof(),
                Poll::Ready(bytes) => self.on_bytes(bytes),
            }
        }
        Ok(true)
    }

    fn poll_subscriptions(&mut self) {
        if !self.subscriptions.as_ref().is_some_and(|list| list.is_ready()) {
            return;
        }
        if self.session.mailbox().has_orders() {
            self.obey_orders();
        }
        let Some(subscriptions) = &mut self.subscriptions else { return };
        let mark = self.shared.config.notification_mark;
        let active = self.active.get_or_insert_default();
        let bytes = mark.saturating_sub(active.out.len());
        if bytes > 0 {
            let room = Room { bytes, max_line: self.client_max_line };
            subscriptions.copy(room, active.out.bytes());
        }
    }

    /// Drives the lease; past its end, every subscription is told so.
    fn lease_event(&mut self, event: LeaseEvent) {
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

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match &mut self.active {
            Some(active) if !active.out.is_done() => {
                match active.out.poll_write(&mut self.io, cx) {
                    Poll::Ready(written) => written,
                    Poll::Pending => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Whether another round would do something that no waker announces.
    fn can_go_on(&self) -> bool {
        let Some(active) = &self.active else {
            return false;
        };
        let config = &self.shared.config;
        let has_lines = active.parked.is_some() || !active.unread.is_empty();
        let can_copy = active.out.len() < config.notification_mark
            && self.subscriptions.as_ref().is_some_and(|list| list.is_ready());
        let can_poll = active.out.len() < config.reply_mark && !active.woken.is_empty();
        let can_read = (has_lines && self.has_place() || active.is_held) && !self.is_over_mark();
        can_read && !self.is_opening() || can_copy || can_poll
    }

    /// Gives back what an idle connection does without.
    fn rest(&mut self) {
        let is_idle = |active: &mut Box<Active>| {
            active.out.is_done()
                && active.in_flight.len() == 0
                && active.parked.is_none()
                && active.unread.is_empty()
        };
        if self.active.take_if(is_idle).is_some() {
            self.session.mailbox().shrink();
        }
        self.subscriptions.take_if(|list| list.is_empty());
    }

    /// Whether lines have to wait: for a place, for a store to open a topic, or for a hook.
    fn is_stalled(&self) -> bool {
        self.is_opening()
            || self.is_over_mark()
            || self.active.as_ref().is_some_and(|active| active.parked.is_some())
    }

    /// Whether the peer leaves so much unread that none of its lines is looked at, the protocol's
    /// own neither: their answers would pile up without bound.
    fn is_over_mark(&self) -> bool {
        let mark = self.shared.config.reply_mark.saturating_mul(2);
        self.active.as_ref().is_some_and(|active| active.out.len() >= mark)
    }

    fn hold(&mut self) {
        let is_held = self.is_over_mark();
        if let Some(active) = &mut self.active {
            active.is_held = is_held;
        }
    }

    fn is_opening(&self) -> bool {
        self.subscriptions.as_ref().is_some_and(|list| list.is_opening()) || self.is_asking()
    }

    fn is_draining(&self) -> bool {
        self.is_draining
    }

    fn active(&mut self) -> &mut Active {
        self.active.get_or_insert_default()
    }

    /// Where lines to the client are appended.
    fn out(&mut self) -> &mut Vec<u8> {
        self.active().out.bytes()
    }

    fn now(&mut self) -> Time {
        *self.now.get_or_insert_with(|| self.shared.wheel.now())
    }

    fn set_alarm(&mut self, deadline: Time) {
        if self.alarm.is_later_than(deadline) {
            self.shared.wheel.set(&mut self.alarm, deadline, self.session.mailbox());
        }
    }
}

impl<T> Drop for Connection<T> {
    fn drop(&mut self) {
        self.shared.wheel.clear(&mut self.alarm);
        self.shared.sessions.remove(&self.session.id());
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use uuid::Uuid;

    use super::*;
    use crate::{
        random::Random,
        server::{PeerAddr, Router, ServerConfig, hooks::Hooks, wheel::Wheel},
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
            publisher: Publisher::new(Arc::new(MemoryTopics::new(&random))),
            sessions: Arc::default(),
            random,
            wheel: Wheel::new(),
            hooks: Hooks::default(),
        })
    }

    /// Whatever was said before: all that is left of it is in the struct itself.
    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_owns_nothing_but_itself() {
        let (mut peer, io) = tokio::io::duplex(1_024);
        let session = Session::new(Uuid::nil(), PeerAddr::Other("test".into()));
        let mut connection = Connection::new(io, shared(), session);
        let cx = &mut Context::from_waker(std::task::Waker::noop());
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
}
