//! A connection of a client, without its transport.

use std::{fmt, task::Waker};

use tracing::Span;

use crate::{
    client::{
        clock::pass_time,
        core::{
            cell::RequestCell,
            key::LinkId,
            locked::Locked,
            outcome::KeptResult,
            retry_after::RetryAfter,
            state::{ConnectionState, DriverState, LinkState, Outage},
            step::Step,
            timers::Timers,
        },
    },
    credentials::Credentials,
    error::ConnectionError,
    guard::{Held, InSpan, guarded},
    outbound::Outbound,
    protocol::{Code, LineDecoder, Outcome, RequestId, Time},
    sync::{Arc, AtomicU64},
};

/// The part of a connection that only its driver uses: bytes that were read and not processed,
/// bytes to be written, and timers. The part that it shares with the handles is in the core.
///
/// A driver, whenever it runs:
///
/// 1. passes what it reads to [`handle_input`](Self::handle_input), or calls
///    [`handle_eof`](Self::handle_eof) at the end of the stream, and then calls
///    [`finish_input`](Self::finish_input) once. Requests get their replies there;
/// 2. calls [`handle_timeout`](Self::handle_timeout), if that time has come;
/// 3. calls [`poll_output`](Self::poll_output) until it returns [`Output::Nothing`]. To write, it
///    passes [`output`](Self::output) to the transport, and the number of bytes that the transport
///    took to [`handle_written`](Self::handle_written). If all is written and the connection
///    [`needs_flush`](Self::needs_flush), it flushes the transport and calls
///    [`handle_flushed`](Self::handle_flushed). If the transport takes no more, it calls
///    [`handle_write_blocked`](Self::handle_write_blocked) and waits for the transport;
/// 4. sets its timer to [`next_timeout`](Self::next_timeout).
///
/// A driver must not wait for a write before it reads: two peers that both wait to write would wait
/// for ever. An error of any of these functions ends the connection: the driver passes it to
/// [`end`](Self::end). Dropping the connection ends it with [`ConnectionError::Closed`].
pub struct Connection {
    pub(crate) locked: Arc<Locked>,
    pub(crate) link: LinkId,
    pub(crate) state: DriverState,
    /// The credentials, by scheme.
    pub(crate) credentials: CredentialsByScheme,
    /// The connection's span. It has no parent, because it outlives the task that connects. Its
    /// session is recorded when the `/hello` arrives.
    pub(crate) span: Held<Span>,
    /// The last `retry` of the server.
    pub(crate) retry_after: Arc<RetryAfter>,
    lines: LineDecoder,
    /// Empty between two calls. It is kept for its allocation.
    pub(super) terminals: Vec<Terminal>,
    out: Outbound,
    /// The transport did not take all of the output.
    is_blocked: bool,
    pub(crate) timers: Timers,
    /// When the timers of the client are due, if this connection handles them.
    pub(crate) client_timeout: Option<Time>,
    /// The step that this driver is in. It is kept for its allocations.
    pub(crate) step: Step,
    /// Calls completed since the last write. Their callers may be about to make further calls.
    pub(crate) completed: usize,
    /// Lines to be written before all others.
    pub(crate) first_lines: Vec<u8>,
    pub(crate) renewals: Renewals,
    /// Where the handles read the time, if the connection is driven by hand.
    pub(crate) time: Option<Arc<AtomicU64>>,
}

/// A client's credentials by scheme, in the order of preference.
pub(crate) type CredentialsByScheme = Vec<(Code, Credentials)>;

/// A parsed terminal line that waits for the lock.
#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) id: RequestId,
    pub(super) outcome: Outcome,
    /// The outcome, until it is moved into the cell of the call.
    pub(super) result: Option<KeptResult>,
    /// The call, once the core has found it by its id.
    pub(super) call: Option<Arc<RequestCell>>,
}

/// The `/renew` requests of a connection.
#[derive(Debug, Default)]
pub(crate) struct Renewals {
    /// Renewals that were sent and not answered.
    pub(crate) pending: usize,
    pub(crate) listing: Listing,
}

/// How the client asks for the list in the reply to `/renew`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Listing {
    /// In one line, which every server supports.
    #[default]
    Line,
    /// In several `more` lines, because the list was too long for one line.
    Pages,
    /// In one line even if it is too long: the server does not support `list=more`.
    LineOnly,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("state", &self.state).finish_non_exhaustive()
    }
}

/// What a driver has to do about its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// There is nothing to write.
    Nothing,
    /// Write [`Connection::output`].
    Write,
    /// Other tasks are about to append lines: call again after they have run, so that a burst costs
    /// one write.
    Gather,
}

impl Connection {
    /// Begins a connection whose transport is ready at `now`. Its link is the current one.
    pub(crate) fn new(
        locked: Arc<Locked>,
        credentials: CredentialsByScheme,
        greeting: Option<Time>,
        now: Time,
    ) -> Self {
        let span = guarded(
            || tracing::info_span!(parent: None, "client", session = tracing::field::Empty),
        );
        let link = locked.look(|core| core.links.current.id);
        let step = Step::of_driver(link, now);
        Self {
            lines: LineDecoder::new(locked.config.max_line),
            terminals: Vec::new(),
            locked,
            link,
            state: DriverState::default(),
            credentials,
            span: Held::new(span.unwrap_or_else(Span::none)),
            retry_after: Arc::default(),
            out: Outbound::default(),
            is_blocked: false,
            timers: Timers::new(greeting),
            client_timeout: None,
            step,
            completed: 0,
            first_lines: Vec::new(),
            renewals: Renewals::default(),
            time: None,
        }
    }

    /// Processes bytes that were read at `now`.
    ///
    /// # Errors
    /// Why the connection is over.
    pub fn handle_input(&mut self, mut bytes: &[u8], now: Time) -> Result<(), ConnectionError> {
        self.set_time(now);
        self.step.tally().bytes_in += bytes.len() as u64;
        self.timers.heard(now);
        let mut lines = std::mem::take(&mut self.lines);
        let handled = self.handle_lines(&mut lines, &mut bytes);
        self.lines = lines;
        handled
    }

    /// The server has closed its direction of the stream. Returns why the connection ended.
    pub fn handle_eof(&mut self) -> ConnectionError {
        let is_unknown = matches!(self.state, DriverState::Connected);
        match self.end_of_stream() {
            // A server that has not sent `/hello` may speak another protocol.
            ConnectionError::ClosedByPeer if is_unknown => ConnectionError::Protocol(
                "it closed before it sent /hello; does it expect TLS?".into(),
            ),
            error => error,
        }
    }

    /// Delivers the outcomes and wakes the tasks that waited for something in the input.
    ///
    /// # Errors
    /// Why the connection is over.
    pub fn finish_input(&mut self) -> Result<(), ConnectionError> {
        let admitted = self.admit();
        self.run();
        admitted
    }

    /// Returns what to do about the output. If there is nothing to write, `waker` is woken when
    /// there is. `was_gathered` says whether the last call returned [`Output::Gather`].
    ///
    /// # Errors
    /// Why the connection is over: this side has closed it.
    pub fn poll_output(
        &mut self,
        was_gathered: bool,
        waker: &Waker,
        now: Time,
    ) -> Result<Output, ConnectionError> {
        if !self.out.is_done() {
            return Ok(Output::Write);
        }
        if !self.first_lines.is_empty() {
            self.out.bytes().append(&mut self.first_lines);
            return Ok(Output::Write);
        }
        self.set_time(now);
        let is_admitted = self.state.is_admitted();
        let Self { locked, link: id, step, out, completed, client_timeout, .. } = self;
        let (output, closing) = locked.with(step, |core, step| {
            let closing = core.poll_closing(*id, step);
            core.write_acks(*id, step);
            if !core.links.link(*id).is_some_and(|link| link.has_outbound()) {
                locked.driver_waits(core, *id, waker, step);
            }
            let Some(link) = core.links.link(*id) else { return (Output::Nothing, closing) };
            if !is_admitted || !link.has_outbound() {
                link.wait(waker, false, step);
                *client_timeout = core.client_timeout(*id, waker, step);
                return (Output::Nothing, closing);
            }
            let is_burst = link.pending.len() > 1 || *completed > 1;
            if is_burst && !was_gathered {
                return (Output::Gather, closing);
            }
            link.take_outbound(out);
            core.send_waiting(step);
            (Output::Write, closing)
        });
        if output == Output::Write {
            self.completed = 0;
        }
        self.run();
        self.on_closing(closing)?;
        Ok(output)
    }

    /// The transport takes no more at `now`. `waker` is woken if this side closes, and for each new
    /// call, because a call has a deadline.
    ///
    /// # Errors
    /// Why the connection is over: this side has closed it.
    pub fn handle_write_blocked(
        &mut self,
        waker: &Waker,
        now: Time,
    ) -> Result<(), ConnectionError> {
        self.is_blocked = true;
        self.set_time(now);
        let (id, locked) = (self.link, self.locked.clone());
        let (closing, client_timeout) = self.with(|core, step| {
            locked.driver_waits(core, id, waker, step);
            if let Some(link) = core.links.link(id) {
                link.wait(waker, true, step);
            }
            (core.poll_closing(id, step), core.client_timeout(id, waker, step))
        });
        self.client_timeout = client_timeout;
        self.run();
        self.on_closing(closing)
    }

    /// Until when the server asks clients not to connect again, if it does. It may ask when it
    /// refuses the credentials, and with each `/bye`.
    pub fn retry_after(&self) -> Option<Time> {
        self.retry_after.until()
    }

    /// The bytes to be written next. If there are none, the transport has to be flushed.
    pub fn output(&self) -> &[u8] {
        self.out.unwritten()
    }

    /// Takes in that the transport took this number of bytes at `now`.
    pub fn handle_written(&mut self, bytes: usize, now: Time) {
        self.step.tally().bytes_out += bytes as u64;
        self.out.wrote(bytes);
        if std::mem::take(&mut self.is_blocked) {
            // The peer's system is alive. A probe would wait behind these bytes and could not be
            // answered.
            self.timers.on_progress(now);
        }
    }

    /// Whether all bytes are written, but the transport may still buffer some of them.
    pub fn needs_flush(&self) -> bool {
        self.out.needs_flush()
    }

    /// Takes in that the transport was flushed.
    pub fn handle_flushed(&mut self) {
        self.out.flushed();
    }

    /// Sets the time of the step that begins.
    pub(super) fn set_time(&mut self, now: Time) {
        self.step.now = self.time.as_ref().map_or(now, |time| pass_time(time, now));
    }

    /// The state of the connection.
    pub fn connection_state(&self) -> ConnectionState {
        match &self.state {
            DriverState::Connected
            | DriverState::Authenticating(_)
            | DriverState::Greeted(_)
            | DriverState::Rejected(_) => ConnectionState::Connected,
            DriverState::Admitted { .. } => self.look(LinkState::connection_state),
            DriverState::Closed { .. } => ConnectionState::Closed,
        }
    }

    /// Reads the state of the link. If the link is gone, `f` gets an empty state.
    fn look<R>(&self, f: impl FnOnce(&LinkState) -> R) -> R {
        self.locked.look(|core| match core.links.link(self.link) {
            Some(link) => f(&link.state),
            None => f(&LinkState::Awaited(Outage::default())),
        })
    }

    /// Why the stream ended.
    pub(crate) fn end_of_stream(&mut self) -> ConnectionError {
        self.look(|state| match state {
            LinkState::Quitting { is_answered: true, .. } => ConnectionError::Closed,
            state => match state.bye() {
                Some(bye) => ConnectionError::Bye(bye.clone()),
                None => ConnectionError::ClosedByPeer,
            },
        })
    }

    /// Why the transport failed. After a `/bye` the server may reset the connection, so the `/bye`
    /// is then the reason.
    pub(crate) fn broken(&mut self, error: ConnectionError) -> ConnectionError {
        match self.end_of_stream() {
            ConnectionError::ClosedByPeer => error,
            known => known,
        }
    }

    /// Ends the connection at `now` with this error, unless it has already ended. Each waiting
    /// request gets the outcome that can be proven.
    pub fn end(&mut self, error: &ConnectionError, now: Time) {
        if self.state.ended().is_none() {
            self.state.close(error.clone());
            guarded(|| tracing::debug!(%error, "connection ended"));
            self.set_time(now);
            let link = self.link;
            self.with(|core, step| core.lose(link, error, step));
            self.run();
        }
    }

    /// Runs `f` on the core, as a part of this step.
    pub(crate) fn with<R>(&mut self, f: impl FnOnce(&mut super::Core, &mut Step) -> R) -> R {
        self.locked.with(&mut self.step, f)
    }

    /// Runs the effects that this step has collected.
    pub(crate) fn run(&mut self) {
        self.step.run();
    }
}

/// Dropping a connection ends everything that waits for it.
impl Drop for Connection {
    fn drop(&mut self) {
        let _entered = InSpan::enter(&self.span);
        let now = self.step.now;
        self.end(&ConnectionError::Closed, now);
    }
}

pub(crate) fn broken_line(what: &dyn fmt::Display) -> ConnectionError {
    ConnectionError::Protocol(what.to_string())
}
