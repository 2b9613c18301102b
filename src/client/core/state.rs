//! The state of one connection (PROTOCOL.md, section 14).

use crate::{
    error::ConnectionError,
    protocol::{Hello, Reason},
};

/// The state of a connection, for its driver and for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// The server has not admitted this client yet.
    Connected,
    /// Requests are sent.
    Open,
    /// The server has said `/bye`: no application request and no subscription begins here any more.
    Leaving,
    /// The server has said `/bye;last=N`: no request is sent any more.
    Left,
    /// This side closes.
    Quitting,
    /// It is over.
    Closed,
}

/// Where a connection stands, as the client sees it. Once it is CLOSED its [`Link`] is gone.
///
/// [`Link`]: crate::client::core::link::Link
#[derive(Clone, Debug, Default)]
pub(crate) enum State {
    /// CONNECTED: the server has not said `/hello`.
    #[default]
    Connected,
    /// CONNECTED, with a server that asks for credentials: `/auth` is sent and not answered.
    Authenticating(Hello),
    /// CONNECTED, with a server that has admitted this client. The connection opens once everything is
    /// handled that came with the hello: it may be a `/bye`.
    Greeted(Hello),
    /// OPEN: requests are sent.
    Open {
        /// The longest line that the server takes.
        max_line: usize,
    },
    /// LEAVING: the server has said `/bye`. No application request and no subscription begins here
    /// any more. Everything else goes on, the protocol's own requests included.
    Leaving {
        /// The longest line that the server takes.
        max_line: usize,
        /// Why the server leaves.
        bye: Reason,
    },
    /// LEFT: the server has said `/bye;last=N`. No request is sent any more.
    Left {
        /// The last id that the server executes.
        last: u64,
        /// Why the server leaves.
        bye: Reason,
    },
    /// QUITTING: this side has sent `/quit`, or closes without it. No request is sent any more.
    Quitting {
        /// What the server has said with `/bye`, before or after.
        bye: Option<Reason>,
        /// The last id that the server executes, if it has said so.
        last: Option<u64>,
        /// The reply to `/quit` came. It is the last line of the connection.
        is_answered: bool,
    },
}

impl State {
    /// Whether the server has said hello, and has accepted the credentials if it asked for them.
    pub(crate) fn is_admitted(&self) -> bool {
        !matches!(self, Self::Connected | Self::Authenticating(_) | Self::Greeted(_))
    }

    /// Whether requests of the protocol's own are sent.
    pub(crate) fn takes_controls(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::Leaving { .. })
    }

    /// Why no application request begins here any more; `None` while it does, or will.
    pub(crate) fn refusal(&self) -> Option<ConnectionError> {
        match self {
            Self::Connected | Self::Authenticating(_) | Self::Greeted(_) | Self::Open { .. } => {
                None
            }
            Self::Leaving { bye, .. } | Self::Left { bye, .. } => {
                Some(ConnectionError::Bye(bye.clone()))
            }
            Self::Quitting { .. } => Some(ConnectionError::Closed),
        }
    }

    /// The longest line that the server takes, while it takes requests.
    pub(crate) fn max_line(&self) -> Option<usize> {
        match self {
            Self::Open { max_line } | Self::Leaving { max_line, .. } => Some(*max_line),
            _ => None,
        }
    }

    /// What the server has said with `/bye`.
    pub(crate) fn bye(&self) -> Option<&Reason> {
        match self {
            Self::Leaving { bye, .. } | Self::Left { bye, .. } => Some(bye),
            Self::Quitting { bye, .. } => bye.as_ref(),
            _ => None,
        }
    }

    /// The last id that the server executes, once it has said so.
    pub(crate) fn last_executed(&self) -> Option<u64> {
        match self {
            Self::Left { last, .. } => Some(*last),
            Self::Quitting { last, .. } => *last,
            _ => None,
        }
    }

    /// The server says `/bye`, with `last` or without.
    pub(crate) fn on_bye(&mut self, last: Option<u64>, bye: Reason) {
        // A later `/bye` cannot take back what an earlier one has accepted.
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

    /// This side quits.
    pub(crate) fn on_quit(&mut self) {
        let (bye, last) = (self.bye().cloned(), self.last_executed());
        *self = Self::Quitting { bye, last, is_answered: false };
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
    fn a_goodbye_goes_from_open_to_leaving_to_left() {
        let mut state = State::Open { max_line: 100 };
        state.on_bye(None, reason("a"));
        assert!(state.takes_controls() && state.refusal().is_some());
        state.on_bye(Some(7), reason("b"));
        assert!(!state.takes_controls());
        assert_eq!((state.last_executed(), state.bye()), (Some(7), Some(&reason("b"))));
        state.on_bye(Some(5), reason("c"));
        assert_eq!(state.last_executed(), Some(7), "no later line takes back what was accepted");
    }

    #[test]
    fn what_the_server_executes_is_known_while_this_side_quits() {
        let mut state = State::Left { last: 3, bye: reason("") };
        state.on_quit();
        assert_eq!(state.last_executed(), Some(3));
        state.on_bye(Some(4), reason(""));
        assert!(matches!(state, State::Quitting { last: Some(4), .. }));
        assert_eq!(state.refusal(), Some(ConnectionError::Closed));
    }
}
