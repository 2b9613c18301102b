//! The timers of one connection: for the `/hello`, the renewal of the lease, the keep-alive, and
//! closing.

use std::{task::Waker, time::Duration};

use crate::{
    client::{
        config::ClientConfig,
        core::{
            Core, connection::Connection, key::LinkId, link::Link, state::LinkState, step::Step,
        },
    },
    error::ConnectionError,
    protocol::{Hello, KeepAlive, Renewal, Time, Verdict},
};

/// How long a client that has nothing to send delays its first line. By default, a server closes a
/// connection without a first line after twice this time.
const FIRST_LINE: Duration = Duration::from_secs(5);

/// The timers of a connection. No timer is reset when a line is read: when a timer is due, the
/// connection checks how long ago the last line was.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// The deadline of the server's `/hello`, if no supervisor has a timer for it.
    greeting: Option<Time>,
    /// The timers that run from the `/hello` on.
    running: Option<Running>,
    /// Since when this side waits for the server to close.
    closing: Option<Time>,
    /// The time of the last byte since a `/bye` with `last`.
    silent: Option<Time>,
}

#[derive(Debug)]
struct Running {
    renewal: Renewal,
    /// When a first line is sent, if there was none.
    first_line: Option<Time>,
    /// Whether the server closes idle connections.
    has_idle: bool,
    keepalive: KeepAlive,
    /// When the keep-alive is checked next.
    look: Time,
    probe: Duration,
}

impl Timers {
    pub(crate) fn new(greeting: Option<Time>) -> Self {
        Self { greeting, ..Self::default() }
    }

    /// Starts the timers: the server has accepted this client.
    pub(crate) fn on_hello(&mut self, hello: &Hello, config: &ClientConfig, now: Time) {
        let (lease, idle) = (Duration::from_secs(hello.lease), hello.idle.map(Duration::from_secs));
        let renewal = Renewal::new(lease, idle, now, config.random.next_u64());
        let mut keepalive = KeepAlive::default();
        keepalive.heard(now);
        self.greeting = None;
        self.running = Some(Running {
            renewal,
            first_line: Some(now.after(FIRST_LINE)),
            has_idle: hello.idle.is_some(),
            keepalive,
            look: now.after(config.probe),
            probe: config.probe,
        });
    }

    /// Notes that bytes have arrived.
    pub(crate) fn heard(&mut self, now: Time) {
        if let Some(running) = &mut self.running
            && running.keepalive.heard(now)
        {
            // These bytes answer a probe, so the next check is due earlier.
            running.look = now.after(running.probe);
        }
        if let Some(silent) = &mut self.silent {
            *silent = now;
        }
    }

    /// Notes that the transport takes bytes again after it was blocked.
    pub(crate) fn on_progress(&mut self, now: Time) {
        if let Some(running) = &mut self.running {
            running.keepalive.heard(now);
        }
    }

    /// Takes in a `/bye`. `has_drawn_the_line` says whether it has a `last`.
    pub(crate) fn on_bye(&mut self, has_drawn_the_line: bool, now: Time) {
        if has_drawn_the_line {
            self.silent.get_or_insert(now);
        }
    }
}

impl Connection {
    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn next_timeout(&self) -> Option<Time> {
        let timeout = self.locked.config.close_timeout;
        let Timers { greeting, running, closing, silent } = &self.timers;
        let silent = silent.filter(|_| closing.is_none());
        let ends = [*closing, silent].map(|since| since.map(|since| since.after(timeout)));
        let running = running.iter().flat_map(|running| {
            [
                running.look,
                running.first_line.unwrap_or(running.renewal.due()).min(running.renewal.due()),
            ]
        });
        let own = greeting.iter().copied().chain(ends.into_iter().flatten()).chain(running);
        own.chain(self.client_timeout).min()
    }

    /// Does what is due at `now`.
    ///
    /// # Errors
    /// Why the connection is over.
    pub fn handle_timeout(&mut self, now: Time) -> Result<(), ConnectionError> {
        self.set_time(now);
        if self.timers.greeting.is_some_and(|greeting| greeting <= now) {
            return Err(ConnectionError::HandshakeTimeout);
        }
        if self.client_timeout.take_if(|due| *due <= now).is_some() {
            self.with(|core, step| core.handle_timeout(step));
        }
        self.keep_alive(now)?;
        self.renew_if_due(now);
        self.run();
        let timeout = self.locked.config.close_timeout;
        let is_over = |since: Option<Time>| since.is_some_and(|since| since.after(timeout) <= now);
        match &self.timers {
            Timers { closing, .. } if is_over(*closing) => Err(ConnectionError::CloseTimeout),
            Timers { closing: None, silent, .. } if is_over(*silent) => Err(self.end_of_stream()),
            _ => Ok(()),
        }
    }

    /// Probes a silent server that owes a reply or notifications, and ends the connection if it
    /// does not answer.
    fn keep_alive(&mut self, now: Time) -> Result<(), ConnectionError> {
        let config = &self.locked.config;
        let answer = config.get_dead().saturating_sub(config.probe);
        let Some(running) = self.timers.running.as_mut().filter(|running| running.look <= now)
        else {
            return Ok(());
        };
        let (link, probe) = (self.link, running.probe);
        let awaits = self.locked.look(|core| core.awaits(link));
        let verdict = running.keepalive.look(now, awaits, probe, answer);
        running.look = running.keepalive.due();
        match verdict {
            Verdict::Wait => Ok(()),
            Verdict::Probe => {
                running.renewal.sent(now, config.random.next_u64());
                self.renew(true);
                Ok(())
            }
            Verdict::Dead => Err(ConnectionError::Silent),
        }
    }

    /// Renews the lease well before it expires, while there is something to keep alive.
    fn renew_if_due(&mut self, now: Time) {
        let Some(running) = &mut self.timers.running else { return };
        let has_idle = running.has_idle;
        if running.renewal.due() <= now {
            running.first_line = None;
            running.renewal.sent(now, self.locked.config.random.next_u64());
            self.renew(has_idle);
        } else if running.first_line.is_some_and(|first| first <= now) {
            running.first_line = None;
            self.say_something();
        }
    }

    /// Closes the connection, if this side has to.
    ///
    /// # Errors
    /// Why the connection is over.
    pub(super) fn on_closing(&mut self, closing: Closing) -> Result<(), ConnectionError> {
        match closing {
            Closing::No => Ok(()),
            Closing::Answered => Err(ConnectionError::Closed),
            // A server that has not sent `/hello` has nothing to finish.
            Closing::Yes if !self.state.is_admitted() => Err(ConnectionError::Closed),
            Closing::Yes => {
                self.timers.closing.get_or_insert(self.step.now);
                Ok(())
            }
        }
    }
}

/// Whether a connection is being closed by this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    No,
    Yes,
    /// The server has answered `/quit`.
    Answered,
}

impl Core {
    /// Whether this side closes the connection. If the server has sent `/bye` and nothing is in
    /// flight here any more, this function sends `/quit`.
    pub(super) fn poll_closing(&mut self, id: LinkId, step: &mut Step) -> Closing {
        let is_closing = self.links.closing.is_some();
        let reconnects = self.links.reconnects;
        let Some(link) = self.links.link(id) else { return Closing::No };
        let closing = match link.state {
            LinkState::Quitting { is_answered: true, .. } => return Closing::Answered,
            LinkState::Quitting { .. } => true,
            LinkState::Leaving { .. } if reconnects => is_closing || self.quit_if_idle(id, step),
            _ => is_closing,
        };
        match closing {
            true => Closing::Yes,
            false => Closing::No,
        }
    }

    /// Appends the acks that are due on a connection.
    pub(super) fn write_acks(&mut self, id: LinkId, step: &mut Step) {
        if self.links.link(id).is_some_and(Link::take_acks_due) {
            self.topics.write_acks(&mut self.links, step);
        }
    }

    /// When the timers of the client are due, if this connection handles them. The connection on
    /// which new requests begin does.
    pub(super) fn client_timeout(
        &mut self,
        id: LinkId,
        waker: &Waker,
        step: &mut Step,
    ) -> Option<Time> {
        match self.links.is_current(id) {
            true => self.next_timeout(waker, step),
            false => None,
        }
    }
}
