//! One connection, without a transport and without a runtime.

use std::mem;

use uuid::Uuid;

use crate::{
    protocol::{DEFAULT_MAX_LINE, Hello, Lease, LineDecoder, Mark, Time, Violations, encode},
    server::{
        access::principal::Principal,
        core::{
            access::Access, active::Active, environment::Environment, in_flight::NEVER,
            state::FullState, subscriptions::Subscriptions, tiny_reads::TinyReads,
        },
        keys::runs::Keyed,
        peer_addr::PeerAddr,
        session::Session,
    },
    sync::Arc,
};

/// Reads per round, at most. Input is read before output is written, so that one write answers many
/// lines.
pub(in crate::server) const READS: u8 = 2;
/// Lines that are processed in a turn: as many short lines as one read brings. A line that takes
/// longer counts as several.
pub(super) const LINES: u16 = 2_048;

/// One connection of a server, without a transport and without a runtime.
///
/// A driver owns the connection together with a transport and a timer, and passes bytes and times
/// between them. The connection has no clock: each call that may need the time takes it as an
/// argument. Times are in milliseconds since the server began, and never go back.
///
/// The driver decides which connections it [accepts](Self::accept), once the handshake of the
/// transport is over, and which it [refuses](Self::refused). An
/// [`Upkeep`](crate::unstable::server::Upkeep) does the periodic work for all connections together.
///
/// # A turn of the driver
///
/// The driver takes a turn whenever the waker of [`handle_wakeups`](Self::handle_wakeups) was
/// woken, the transport can be read or written again, or the time of
/// [`next_timeout`](Self::next_timeout) has come. In this order:
///
/// 1. [`handle_wakeups`](Self::handle_wakeups), and [`handle_timeout`](Self::handle_timeout) if the
///    time has come.
/// 2. A round, or a few of them:
///    1. [`begin_round`](Self::begin_round) goes on with what waited.
///    2. While [`wants_input`](Self::wants_input) says so, and the transport has bytes:
///       [`handle_input`](Self::handle_input), or [`handle_eof`](Self::handle_eof) at its end.
///    3. [`advance`](Self::advance) does all else: streams, subscriptions, deadlines.
///    4. While there is [`output`](Self::output), write it, and report with
///       [`handle_written`](Self::handle_written), or
///       [`handle_write_blocked`](Self::handle_write_blocked) when the transport takes no more.
///       Where it [`needs_flush`](Self::needs_flush), flush the transport, and report with
///       [`handle_flushed`](Self::handle_flushed); a transport that does not flush reports at once.
///    5. [`end_round`](Self::end_round) tells whether another round would do something. If it
///       would, and the driver has had enough, it takes its next turn once other tasks had theirs.
/// 3. Look at the [`state`](Self::state). In `Closing`, close our direction of the transport, and
///    report with [`handle_shutdown`](Self::handle_shutdown). In `Closed`, drop the transport.
/// 4. Set the timer to [`next_timeout`](Self::next_timeout).
///
/// A transport that fails ends the connection: the driver drops it.
///
/// Wakers are woken from any thread. Time spent in a handler is time spent in the call that polls
/// it.
///
/// ```
/// use std::{sync::Arc, task::Waker};
/// use bellwire::{
///     Router, ServerConfig,
///     protocol::Time,
///     server::{PeerAddr, Principal},
///     unstable::server::{Connection, ConnectionState, Environment},
/// };
///
/// let router = Router::new().method("echo", async |text: String| text);
/// let environment = Arc::new(Environment::new(ServerConfig::new(), router));
/// let now = Time::from_millis(0);
/// let peer = PeerAddr::Other("a test".into());
/// let mut connection =
///     Connection::accept(&environment, 1, peer, Principal::anonymous(), now);
/// let (mut input, mut output) = (&b"1 echo hello\n"[..], Vec::new());
///
/// connection.handle_wakeups(Waker::noop(), now);
/// loop {
///     connection.begin_round(now);
///     while let Some(most) = connection.wants_input().filter(|_| !input.is_empty()) {
///         let (bytes, left) = input.split_at(most.min(input.len()));
///         connection.handle_input(bytes, now);
///         input = left;
///     }
///     connection.advance(now);
///     output.extend_from_slice(connection.output());
///     connection.handle_written(connection.output().len(), now);
///     connection.handle_flushed(now);
///     if !connection.end_round(now) {
///         break;
///     }
/// }
/// assert_eq!(connection.state(), ConnectionState::Open);
/// let said = String::from_utf8(output).unwrap();
/// assert!(said.starts_with("* /hello;version=1;"));
/// assert!(said.ends_with("\n1 ok hello\n"));
/// // The client has 120 s for its next line.
/// assert_eq!(connection.next_timeout(), Some(Time::from_millis(120_000)));
/// ```
pub struct Connection {
    pub(super) environment: Arc<Environment>,
    pub(super) session: Session,
    pub(super) state: FullState,
    pub(super) lines: LineDecoder,
    /// The longest line to be written, LF included.
    pub(super) client_max_line: usize,
    /// The last id that was read.
    pub(super) last_id: u64,
    /// Set when a deadline has passed: the number of rounds in which input that came before it may
    /// still be read. Not a part of the state, because it does not depend on what the peer was
    /// told.
    pub(super) due_within: Option<u8>,
    /// The bytes that the connection may hold in this turn. There is no bound unless all
    /// connections together hold more than the server's limit.
    pub(super) allowance: usize,
    pub(super) lease: Lease,
    pub(super) violations: Violations,
    /// When bytes were last received.
    pub(super) heard: Time,
    pub(super) tiny_reads: TinyReads,
    /// When the unfinished line began. The time of the first line counts from the start of the
    /// connection.
    pub(super) line_began: Time,
    /// The earliest deadline that was set, or [`NEVER`]. When it passes, all deadlines are checked,
    /// and the earliest one is set again.
    timeout: Time,
    /// The bytes that it holds, as it last reported them to the server's total.
    pub(super) buffered: usize,
    /// The time of this turn.
    pub(super) now: Time,
    /// Lines that may still be processed in this turn.
    pub(super) lines_left: u16,
    /// Reads that are left in this round.
    pub(super) reads_left: u8,
    /// There may be more to read.
    pub(super) more_input: bool,
    /// How many times it came to rest; 0 again when a busy connection frees its buffers.
    pub(super) rests: u8,
    /// The buffers and tables that an idle connection does not have.
    pub(super) active: Option<Box<Active>>,
    pub(super) subscriptions: Option<Box<Subscriptions>>,
}

/// Whether a line was processed. If not, it has to wait for room to be parked, or for a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    No,
}

impl Connection {
    /// Creates an accepted connection from `peer`. Its first output is the `/hello`, with
    /// `session` as the id of its session. The id must be unique in the environment.
    ///
    /// `principal` is who the peer is, if its transport has proven it, as TLS may. If it is
    /// [anonymous](Principal::anonymous) and there is an authenticator, the peer has to `/auth`.
    pub fn accept(
        environment: &Arc<Environment>,
        session: u128,
        peer: PeerAddr,
        principal: Principal,
        now: Time,
    ) -> Self {
        let session = environment.session(Uuid::from_u128(session), peer, now);
        if !principal.is_anonymous() {
            session.set_principal(principal);
        }
        environment.let_in(&session);
        Self::new(environment.clone(), session, now)
    }

    /// Creates a connection over the limit, with `session` as the id of its session, which has to
    /// differ from those of the others. Its output is the `/hello` and `/bye;last=0` with the reason
    /// `busy`. The driver drives it like any other, but drops it if that takes more than
    /// about a second.
    pub fn refused(
        environment: &Arc<Environment>,
        session: u128,
        peer: PeerAddr,
        now: Time,
    ) -> Self {
        let session = environment.session(Uuid::from_u128(session), peer, now);
        Self::new_refused(environment.clone(), session, now)
    }

    /// Creates a connection of this session.
    pub(in crate::server) fn new(
        environment: Arc<Environment>,
        session: Session,
        now: Time,
    ) -> Self {
        let config = &environment.config;
        let must_auth =
            environment.hooks.authenticator.is_some() && session.principal().is_anonymous();
        let (access, longest) = match must_auth {
            true => (
                Some(Access::stranger(now.after(config.auth_time))),
                config.max_line.min(config.max_line_before_auth),
            ),
            false => (None, config.max_line),
        };
        let timeout = access.as_ref().map_or(NEVER, Access::deadline);
        let mut connection = Self {
            state: FullState::new(access.map(Box::new)),
            lines: LineDecoder::new(longest),
            client_max_line: config.max_line.min(DEFAULT_MAX_LINE),
            last_id: 0,
            due_within: None,
            allowance: usize::MAX,
            buffered: 0,
            lease: Lease::Idle,
            violations: Violations::default(),
            heard: now,
            tiny_reads: TinyReads::default(),
            line_began: now,
            timeout,
            now,
            lines_left: LINES,
            reads_left: READS,
            more_input: false,
            rests: 0,
            active: None,
            subscriptions: None,
            environment,
            session,
        };
        if connection.session.set_may_publish(true) {
            connection.environment.publishing.begin();
        }
        connection.say_hello();
        connection
    }

    /// Creates a connection over the limit. It is sent `/bye` and closed.
    pub(in crate::server) fn new_refused(
        environment: Arc<Environment>,
        session: Session,
        now: Time,
    ) -> Self {
        environment.count_refused(&session);
        let mut connection = Self::new(environment, session, now);
        let head = format_args!("/bye;last=0;retry=1000");
        encode::display(connection.out(), Mark::Reserved, head, format_args!("busy"));
        connection.stop_reading(None);
        connection
    }

    fn say_hello(&mut self) {
        let keys = self.environment.keyed.as_ref().and_then(Keyed::announce);
        let keys = keys.map(|(window, number)| {
            self.session.set_key_store(number);
            window
        });
        let config = &self.environment.config;
        let hello = Hello {
            session: self.session.id(),
            max_line: config.max_line,
            in_flight: config.in_flight,
            lease: config.lease.as_secs(),
            idle: config.idle.map(|idle| idle.as_secs()),
            auth: match self.is_stranger() {
                true => self.environment.hooks.schemes.clone(),
                false => Vec::new(),
            },
            keys,
            ..Hello::default()
        };
        hello.encode(self.out());
    }

    /// The session, as handlers see it.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The earliest deadline that is set.
    pub fn next_timeout(&self) -> Option<Time> {
        Some(self.timeout).filter(|&timeout| timeout < NEVER)
    }

    /// Sets a deadline: all deadlines are checked at this time or earlier.
    pub(super) fn set_timeout(&mut self, deadline: Time) {
        self.timeout = self.timeout.min(deadline);
    }

    /// Clears the earliest deadline before all deadlines are checked. Those that have not passed
    /// are set again.
    pub(super) fn take_timeout(&mut self) {
        self.timeout = NEVER;
    }

    /// Whether lines have to wait: for room to be parked, for the authenticator, or until a list is
    /// complete.
    pub(super) fn is_stalled(&self) -> bool {
        self.is_waiting()
            || self.is_over_mark()
            || self.active.as_ref().is_some_and(|active| active.held.is_some())
    }

    /// Whether no line at all is processed.
    pub(super) fn is_waiting(&self) -> bool {
        let has_ended = |active: &Active| active.deferred.has_ended();
        self.is_trying() || self.is_listing() || self.active.as_deref().is_some_and(has_ended)
    }

    /// Bytes that wait to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.out.len())
    }

    pub(super) fn active(&mut self) -> &mut Active {
        self.active.get_or_insert_default()
    }

    /// Where lines to the client are appended.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        self.active().out.bytes()
    }

    /// Updates the shared counters, before the peer can see the effect of what was counted.
    pub(super) fn count(&mut self) {
        let subscriptions = self.subscriptions.as_ref().map_or(0, |list| list.len());
        let mut in_flight = 0;
        if let Some(active) = &mut self.active {
            in_flight = active.in_flight.len();
            self.environment.totals.fold(self.session.id(), &mut active.tally);
        }
        self.session.set_gauges(in_flight, subscriptions);
        let is_behind = self.subscriptions.as_ref().is_some_and(|list| list.are_behind());
        self.session.set_behind(is_behind, || self.now);
        let takes_requests = self.state.is_reading() && !self.state.is_line_drawn();
        if !takes_requests && self.active.as_deref().is_none_or(Active::has_answered) {
            self.publishes_no_more();
        }
    }

    fn publishes_no_more(&self) {
        if self.session.set_may_publish(false) {
            self.environment.publishing.end();
        }
    }

    /// Removes the connection from all counts. Call this when the connection is over.
    pub(in crate::server) fn settle(&mut self) {
        self.session.holding().change(mem::take(&mut self.buffered), 0);
        self.count();
        self.publishes_no_more();
        self.session.forget();
        self.environment.sessions.remove(&self.session);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.settle();
        self.active = None;
        // Keyed runs go on. Their tasks no longer wait for a client that does not read.
        self.session.holding().set_unwritten(0);
        self.session.holding().pass_on();
        self.session.mailbox().close();
        self.session.ending().close();
    }
}
