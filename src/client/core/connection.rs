//! One connection of a client, without its transport.

use std::{fmt, task::Waker};

use tracing::Span;

use crate::{
    client::core::{
        cell::RequestCell,
        key::LinkId,
        locked::Locked,
        outcome::KeptResult,
        retry_after::RetryAfter,
        state::{ConnectionState, DriverState, LinkState, Outage},
        step::Step,
        timers::Timers,
    },
    credentials::Credentials,
    error::ConnectionError,
    guard::{Held, InSpan, guarded},
    outbound::Outbound,
    protocol::{Code, LineDecoder, Outcome, RequestId, Time},
    sync::{Arc, AtomicU64, Ordering},
};

/// The part of a connection that only its driver touches: what was read and is not handled, what is
/// on its way out, and its timers. What the handles share with it is in the core.
///
/// A driver, whenever it runs:
///
/// 1. passes what it reads to [`handle_input`](Self::handle_input), or
///    [`handle_eof`](Self::handle_eof) at the end, and then calls
///    [`finish_input`](Self::finish_input) once. Requests get their replies there;
/// 2. calls [`handle_timeout`](Self::handle_timeout), if that time has come;
/// 3. asks [`poll_output`](Self::poll_output) what is to be done, until there is nothing. To write is to
///    give [`output`](Self::output) to the transport, and to pass on how much it took to
///    [`handle_written`](Self::handle_written). Once nothing is left of it, and it
///    [`needs_flush`](Self::needs_flush), the transport is flushed, and
///    [`handle_flushed`](Self::handle_flushed) is told. If the transport takes no more,
///    [`handle_write_blocked`](Self::handle_write_blocked) is told, and the driver waits for it;
/// 4. sets its timer to [`next_timeout`](Self::next_timeout).
///
/// Reading never waits for writing: two ends that both wait to write would wait for ever. An error of
/// any of these ends the connection: the driver passes it to [`end`](Self::end). Dropping the
/// connection ends it with [`ConnectionError::Closed`].
pub struct Connection {
    pub(crate) locked: Arc<Locked>,
    pub(crate) link: LinkId,
    pub(crate) state: DriverState,
    /// The credentials, by scheme.
    pub(crate) credentials: CredentialsByScheme,
    /// The connection's span. It has no parent, because it outlives the task that connects. Its
    /// session is known from the hello on.
    pub(crate) span: Held<Span>,
    /// How long the server asks to be left alone.
    pub(crate) retry_after: Arc<RetryAfter>,
    lines: LineDecoder,
    /// Empty between two calls. It keeps the allocation.
    pub(super) terminals: Vec<Terminal>,
    out: Outbound,
    /// The transport did not take all of the output.
    is_blocked: bool,
    pub(crate) timers: Timers,
    /// When the timers of the client are due, if this connection looks after them.
    pub(crate) client_timeout: Option<Time>,
    /// The step that this driver is in. It keeps the allocations.
    pub(crate) step: Step,
    /// Calls completed since the last write: as many callers may be about to call again.
    pub(crate) completed: usize,
    /// What is to be written before all else.
    pub(crate) first_lines: Vec<u8>,
    pub(crate) renewals: Renewals,
    /// Where its handles look for the time, if it is driven by hand.
    pub(crate) time: Option<Arc<AtomicU64>>,
}

/// A client's credentials by scheme, in the order of preference.
pub(crate) type CredentialsByScheme = Vec<(Code, Credentials)>;

/// A parsed terminal line that waits for the lock.
#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) id: RequestId,
    pub(super) outcome: Outcome,
    /// Until it is passed on.
    pub(super) result: Option<KeptResult>,
    /// The call that it is for, from then on.
    pub(super) call: Option<Arc<RequestCell>>,
}

/// The `/renew` requests of a connection.
#[derive(Debug, Default)]
pub(crate) struct Renewals {
    /// Sent and not answered.
    pub(crate) pending: usize,
    pub(crate) listing: Listing,
}

/// How the list in the reply to `/renew` is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Listing {
    /// In one line, which every server knows.
    #[default]
    Line,
    /// In lines of its own, since one line was too long.
    Pages,
    /// In one line, too long or not: the server knows no other way.
    LineOnly,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("state", &self.state).finish_non_exhaustive()
    }
}

/// What a driver is to do about its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Nothing is to be written.
    Nothing,
    /// Write [`Connection::output`].
    Write,
    /// Others are about to append lines: look again after they have run, so that a burst costs one
    /// write.
    Gather,
}

impl Connection {
    /// A connection whose transport is there at `now`. It takes the place of the current link.
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

    /// Takes in what was read at `now`.
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

    /// The server has closed its direction. Returns why the connection is over.
    pub fn handle_eof(&mut self) -> ConnectionError {
        let is_unknown = matches!(self.state, DriverState::Connected);
        match self.end_of_stream() {
            // A server that never said hello may be no server of this kind.
            ConnectionError::ClosedByPeer if is_unknown => ConnectionError::Protocol(
                "it closed before it said hello; does it expect TLS?".into(),
            ),
            error => error,
        }
    }

    /// Wakes the tasks that were waiting for something in the input.
    ///
    /// # Errors
    /// Why the connection is over.
    pub fn finish_input(&mut self) -> Result<(), ConnectionError> {
        let admitted = self.admit();
        self.run();
        admitted
    }

    /// Looks for something to be written. If there is nothing, `waker` is woken when there is.
    /// `was_gathered` says whether the last call returned [`Output::Gather`].
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

    /// The transport takes no more at `now`. `waker` is woken if this side closes, and if there are new
    /// calls, since these have deadlines.
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

    /// Until when the server asks not to be connected to, if it does. It may ask at any time: before it
    /// has accepted the credentials, and with a `/bye`.
    pub fn retry_after(&self) -> Option<Time> {
        self.retry_after.until()
    }

    /// The bytes to be written next. With none, the transport is to be flushed.
    pub fn output(&self) -> &[u8] {
        self.out.unwritten()
    }

    /// The transport took so many bytes at `now`.
    pub fn handle_written(&mut self, bytes: usize, now: Time) {
        self.step.tally().bytes_out += bytes as u64;
        self.out.wrote(bytes);
        if std::mem::take(&mut self.is_blocked) {
            // The peer's system is there. A probe that stands behind these bytes could not be answered.
            self.timers.on_progress(now);
        }
    }

    /// Whether all is written, and the transport may still hold some of it.
    pub fn needs_flush(&self) -> bool {
        self.out.needs_flush()
    }

    /// The transport has passed on all that it took.
    pub fn handle_flushed(&mut self) {
        self.out.flushed();
    }

    /// The time of the step that begins.
    pub(super) fn set_time(&mut self, now: Time) {
        self.step.now = now;
        if let Some(time) = &self.time {
            time.store(now.as_millis(), Ordering::Relaxed);
        }
    }

    /// Where the connection stands.
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

    /// Looks at the state of the link, or, once that is gone, at one that says nothing.
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

    /// Why the transport failed: a server that said goodbye may reset what it no longer reads.
    pub(crate) fn broken(&mut self, error: ConnectionError) -> ConnectionError {
        match self.end_of_stream() {
            ConnectionError::ClosedByPeer => error,
            known => known,
        }
    }

    /// It is over at `now`, for this reason, unless it was before. Everything that waits on it gets the
    /// outcome that can be proven.
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

    /// Does something with the core, as a part of this step.
    pub(crate) fn with<R>(&mut self, f: impl FnOnce(&mut super::Core, &mut Step) -> R) -> R {
        self.locked.with(&mut self.step, f)
    }

    /// Does what follows from the step so far.
    pub(crate) fn run(&mut self) {
        self.step.run();
    }
}

/// A connection that is dropped ends everything that waits on it.
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
