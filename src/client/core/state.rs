//! The state of one connection (docs/protocol/leaving.md, section 18).

use crate::{
    error::ConnectionError,
    protocol::{Hello, Reason},
};

/// The state of a connection, for its driver and for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// The server has not accepted this client yet.
    Connected,
    /// Requests are sent.
    Open,
    /// The server has sent `/bye`: no application request and no subscription begins here any more.
    Leaving,
    /// The server has sent `/bye;last=N`: no request is sent any more.
    Left,
    /// This side closes.
    Quitting,
    /// The connection is over.
    Closed,
}

/// The part of a connection's state that only its driver uses: before the server has accepted this
/// client, and after the end. In between, the handles use the connection too, so its state is in
/// the core: a [`LinkState`].
///
/// So each state is a variant of one of the two. The driver reads this one for each line and at
/// each poll, and needs no lock for it.
#[derive(Debug, Default)]
pub(crate) enum DriverState {
    /// CONNECTED: the server has not sent `/hello`.
    #[default]
    Connected,
    /// CONNECTED: the server asks for credentials, and `/auth` is sent and not answered.
    Authenticating(Hello),
    /// CONNECTED: the server has accepted this client. The connection opens once everything that
    /// arrived with the `/hello` is processed, which may include a `/bye`.
    Greeted(Hello),
    /// CONNECTED: the server has refused the credentials. The connection ends once everything that
    /// arrived with the refusal is processed, which may include a `/bye` with a `retry`.
    Rejected(ConnectionError),
    /// OPEN, LEAVING, LEFT or QUITTING: see its [`LinkState`]. Only [`admit`](Self::admit) leads to
    /// this state, and the `/hello` that it returns opens the link.
    Admitted {
        /// What the server has announced.
        hello: Hello,
        /// The server has sent `/bye`: the link has left OPEN for good.
        has_left: bool,
    },
    /// CLOSED. The link is gone.
    Closed {
        /// Why it is over.
        error: ConnectionError,
        /// What the server had announced, if it had accepted this client.
        hello: Option<Hello>,
    },
}

impl DriverState {
    /// What the server has announced, once it has accepted this client.
    pub(crate) fn hello(&self) -> Option<&Hello> {
        match self {
            Self::Admitted { hello, .. } => Some(hello),
            Self::Closed { hello, .. } => hello.as_ref(),
            _ => None,
        }
    }

    /// Whether the server has accepted this client, and the connection is not over.
    pub(crate) fn is_admitted(&self) -> bool {
        matches!(self, Self::Admitted { .. })
    }

    /// Whether the server has sent `/bye`, so that no request begins here any more.
    pub(crate) fn has_left(&self) -> bool {
        matches!(self, Self::Admitted { has_left: true, .. })
    }

    /// Why the connection is over; `None` while it is not.
    pub(crate) fn ended(&self) -> Option<&ConnectionError> {
        match self {
            Self::Closed { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Goes on after an accepted `/hello`. Returns the `/hello`, so that the caller can open the
    /// link.
    ///
    /// # Errors
    /// If the server has refused the credentials.
    pub(super) fn admit(&mut self) -> Result<Option<Hello>, ConnectionError> {
        match self {
            Self::Greeted(hello) => {
                let hello = hello.clone();
                *self = Self::Admitted { hello: hello.clone(), has_left: false };
                Ok(Some(hello))
            }
            Self::Rejected(error) => Err(error.clone()),
            _ => Ok(None),
        }
    }

    /// Takes in a `/bye`. Returns whether the server had accepted this client.
    pub(super) fn on_bye(&mut self) -> bool {
        let Self::Admitted { has_left, .. } = self else { return false };
        *has_left = true;
        true
    }

    /// Ends the connection.
    pub(super) fn close(&mut self, error: ConnectionError) {
        let hello = self.hello().cloned();
        *self = Self::Closed { error, hello };
    }
}

/// The part of a connection's state that its handles use too, behind the lock of the core. Before
/// the server has accepted this client, and after the end, its [`DriverState`] is more precise.
#[derive(Clone, Debug)]
pub(crate) enum LinkState {
    /// CONNECTED, or there is no connection yet.
    Awaited(Outage),
    /// OPEN: requests are sent.
    Open {
        /// The longest line that the server accepts.
        max_line: usize,
    },
    /// LEAVING: the server has sent `/bye`. No application request and no subscription begins here
    /// any more. Everything else goes on, including requests of the protocol itself.
    Leaving {
        /// The longest line that the server accepts.
        max_line: usize,
        /// The reason of the `/bye`.
        bye: Reason,
    },
    /// LEFT: the server has sent `/bye;last=N`. No request is sent any more.
    Left {
        /// The last id that the server executes.
        last: u64,
        /// The reason of the `/bye`.
        bye: Reason,
    },
    /// QUITTING: this side has sent `/quit`, or closes without it. No request is sent any more.
    Quitting {
        /// The reason of a `/bye`, which may arrive before or after the `/quit`.
        bye: Option<Reason>,
        /// The last id that the server executes, if it has sent a `/bye` with `last`.
        last: Option<u64>,
        /// The reply to `/quit` has arrived. It is the last line of the connection.
        is_answered: bool,
    },
}

/// Why there is no connection, while the client waits for one.
#[derive(Clone, Debug, Default)]
pub(crate) enum Outage {
    /// The client waits for the first one, and no attempt has failed.
    #[default]
    Begin,
    /// The client waits for the first one. The first round of attempts is under way, and this was
    /// the last failure.
    Attempted(ConnectionError),
    /// A connection was lost or replaced after a `/bye`, a round of attempts has failed, or an
    /// attempt has failed that had a transport.
    /// Requests with `fail_fast` fail.
    Down {
        /// Why.
        why: ConnectionError,
        /// The last failure: at first the same, later that of an attempt to connect.
        last: ConnectionError,
    },
}

impl Outage {
    /// There is no connection, for this reason.
    pub(crate) fn down(why: ConnectionError) -> Self {
        Self::Down { last: why.clone(), why }
    }
}

impl LinkState {
    /// Whether the server has sent `/hello`, and has accepted the credentials if it asked for them.
    pub(crate) fn is_admitted(&self) -> bool {
        !matches!(self, Self::Awaited(_))
    }

    /// The state of the connection, if its driver has no more precise one.
    pub(super) fn connection_state(&self) -> ConnectionState {
        match self {
            Self::Awaited(_) => ConnectionState::Connected,
            Self::Open { .. } => ConnectionState::Open,
            Self::Leaving { .. } => ConnectionState::Leaving,
            Self::Left { .. } => ConnectionState::Left,
            Self::Quitting { .. } => ConnectionState::Quitting,
        }
    }

    /// Why there is no connection, once one was lost or a round of attempts has failed.
    pub(crate) fn down(&self) -> Option<&ConnectionError> {
        match self {
            Self::Awaited(Outage::Down { why, .. }) => Some(why),
            _ => None,
        }
    }

    /// The last failure since there was a connection: the loss of that one, or a failed attempt to
    /// connect.
    pub(crate) fn last_failure(&self) -> Option<&ConnectionError> {
        match self {
            Self::Awaited(Outage::Attempted(last) | Outage::Down { last, .. }) => Some(last),
            _ => None,
        }
    }

    /// Notes that an attempt to connect failed. Other attempts may be under way.
    pub(crate) fn on_failed_attempt(&mut self, error: ConnectionError) {
        match self {
            Self::Awaited(Outage::Down { last, .. }) => *last = error,
            Self::Awaited(outage) => *outage = Outage::Attempted(error),
            _ => {}
        }
    }

    /// Whether requests of the protocol itself can be sent.
    pub(crate) fn takes_controls(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::Leaving { .. })
    }

    /// Why no application request begins here any more; `None` if it can begin now or later.
    pub(crate) fn refusal(&self) -> Option<ConnectionError> {
        match self {
            Self::Awaited(_) | Self::Open { .. } => None,
            Self::Leaving { bye, .. } | Self::Left { bye, .. } => {
                Some(ConnectionError::Bye(bye.clone()))
            }
            Self::Quitting { .. } => Some(ConnectionError::Closed),
        }
    }

    /// The longest line that the server accepts, while requests can be sent.
    pub(crate) fn max_line(&self) -> Option<usize> {
        match self {
            Self::Open { max_line } | Self::Leaving { max_line, .. } => Some(*max_line),
            _ => None,
        }
    }

    /// The reason of the server's `/bye`.
    pub(crate) fn bye(&self) -> Option<&Reason> {
        match self {
            Self::Leaving { bye, .. } | Self::Left { bye, .. } => Some(bye),
            Self::Quitting { bye, .. } => bye.as_ref(),
            _ => None,
        }
    }

    /// The last id that the server executes, once it has sent a `/bye` with `last`.
    pub(crate) fn last_executed(&self) -> Option<u64> {
        match self {
            Self::Left { last, .. } => Some(*last),
            Self::Quitting { last, .. } => *last,
            _ => None,
        }
    }

    /// Takes in a `/bye`, with or without `last`.
    pub(crate) fn on_bye(&mut self, last: Option<u64>, bye: Reason) {
        // A later `/bye` cannot revoke what an earlier one has accepted.
        let last = last.max(self.last_executed());
        *self = match (&*self, last) {
            (Self::Quitting { is_answered, .. }, last) => {
                Self::Quitting { bye: Some(bye), last, is_answered: *is_answered }
            }
            (_, Some(last)) => Self::Left { last, bye },
            (state, None) => match state.max_line() {
                Some(max_line) => Self::Leaving { max_line, bye },
                None => return,
            },
        };
    }

    /// Notes that this side sends `/quit`, unless it has done so before.
    pub(crate) fn on_quit(&mut self) {
        if let Self::Quitting { .. } = self {
            return;
        }
        let (bye, last) = (self.bye().cloned(), self.last_executed());
        *self = Self::Quitting { bye, last, is_answered: false };
    }

    /// Notes that the reply to `/quit` has arrived.
    pub(crate) fn on_quit_answered(&mut self) {
        if let Self::Quitting { is_answered, .. } = self {
            *is_answered = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Code;

    fn reason(text: &str) -> Reason {
        Reason::new(Code::SHUTDOWN, text)
    }

    #[test]
    fn byes_lead_from_open_to_leaving_to_left() {
        let mut state = LinkState::Open { max_line: 100 };
        state.on_bye(None, reason("a"));
        assert!(state.takes_controls() && state.refusal().is_some());
        state.on_bye(Some(7), reason("b"));
        assert!(!state.takes_controls());
        assert_eq!((state.last_executed(), state.bye()), (Some(7), Some(&reason("b"))));
        state.on_bye(Some(5), reason("c"));
        assert_eq!(state.last_executed(), Some(7), "no later line takes back what was accepted");
    }

    #[test]
    fn last_executed_id_is_known_while_quitting() {
        let mut state = LinkState::Left { last: 3, bye: reason("") };
        state.on_quit();
        assert_eq!(state.last_executed(), Some(3));
        state.on_bye(Some(4), reason(""));
        assert!(matches!(state, LinkState::Quitting { last: Some(4), .. }));
        assert_eq!(state.refusal(), Some(ConnectionError::Closed));
        state.on_quit_answered();
        state.on_quit();
        assert!(matches!(state, LinkState::Quitting { is_answered: true, .. }));
    }

    fn lost(text: &str) -> ConnectionError {
        ConnectionError::Protocol(text.to_owned())
    }

    /// A failed attempt changes the last failure, and not the reason of the outage.
    #[test]
    fn an_outage_keeps_its_reason_and_the_last_failure() {
        let mut state = LinkState::Awaited(Outage::Begin);
        assert_eq!((state.down(), state.last_failure()), (None, None));
        state.on_failed_attempt(lost("a"));
        assert_eq!((state.down(), state.last_failure()), (None, Some(&lost("a"))));
        state = LinkState::Awaited(Outage::down(lost("b")));
        state.on_failed_attempt(lost("c"));
        assert_eq!((state.down(), state.last_failure()), (Some(&lost("b")), Some(&lost("c"))));
        state = LinkState::Open { max_line: 100 };
        state.on_failed_attempt(lost("d"));
        assert_eq!((state.down(), state.last_failure()), (None, None));
    }

    /// A connection opens once, and what the server announced is known after its end.
    #[test]
    fn a_connection_is_admitted_once() {
        let mut state = DriverState::Rejected(lost("a"));
        assert_eq!(state.admit(), Err(lost("a")));
        assert!(!state.on_bye() && state.hello().is_none());
        state.close(lost("b"));
        assert_eq!((state.ended(), state.hello()), (Some(&lost("b")), None));
        assert_eq!(state.admit(), Ok(None));
    }
}
