//! The outcomes of a call without a reply, distinguished by whether its handler may have run.

mod cause;

use std::{fmt, io, time::Duration};

pub use self::cause::Cause;
use crate::protocol::{Code, Escaped, InvalidAttribute, InvalidName, Reason};

/// Why a call has no reply (PROTOCOL.md, section 3; guarantee "one outcome").
///
/// The variant alone tells whether the handler may have run: see [`may_have_run`] and
/// [`is_safe_to_retry`]. One failure reaches every caller it concerns, so errors are `Clone`.
///
/// [`may_have_run`]: Self::may_have_run
/// [`is_safe_to_retry`]: Self::is_safe_to_retry
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// `err`: the handler ran and failed.
    Remote(Reason),
    /// `no`: the server did not start the handler.
    Refused {
        /// Why.
        reason: Reason,
        /// How long the server asks to wait before a retry.
        retry: Option<Duration>,
    },
    /// The request was not sent: nothing ran.
    NotSent(NotSent),
    /// The request may have run, and the client cannot know whether it did.
    Unknown(Unknown),
    /// The arguments could not be encoded; nothing was sent.
    Encode(Cause),
    /// The reply could not be decoded; the handler ran.
    Decode(Cause),
}

impl CallError {
    /// Whether the handler may have been started.
    pub fn may_have_run(&self) -> bool {
        matches!(self, Self::Remote(_) | Self::Unknown(_) | Self::Decode(_))
    }

    /// Whether the same call can be made again without running its handler twice.
    ///
    /// It does not say that a retry can succeed. A client that has ended (refused credentials, an
    /// invalid address, closed) answers every call with [`NotSent::Lost`]:
    /// [`Client::ended`](crate::Client::ended) tells.
    pub fn is_safe_to_retry(&self) -> bool {
        !self.may_have_run()
    }

    /// The code that the server gave, if it ended the call.
    pub fn code(&self) -> Option<&Code> {
        match self {
            Self::Remote(reason) | Self::Refused { reason, .. } => Some(&reason.code),
            Self::Unknown(Unknown::Cut(reason)) => Some(&reason.code),
            _ => None,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(reason) => write!(f, "the handler failed: {reason}"),
            Self::Refused { reason, .. } => write!(f, "refused: {reason}"),
            Self::NotSent(why) => write!(f, "not sent: {why}"),
            Self::Unknown(why) => write!(f, "outcome unknown: {why}"),
            Self::Encode(what) => write!(f, "arguments cannot be encoded: {what}"),
            // The text of a decoder's error may quote the reply, so it is escaped.
            Self::Decode(what) => {
                write!(f, "reply cannot be decoded: {}", Escaped(what.as_str().as_bytes()))
            }
        }
    }
}

impl std::error::Error for CallError {
    /// The error that caused it, if there is one: a [`ConnectionError`], the error of a name or an
    /// attribute, or the codec's error.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotSent(why) => why.source(),
            Self::Unknown(why) => why.source(),
            Self::Encode(cause) | Self::Decode(cause) => cause.source(),
            _ => None,
        }
    }
}

impl From<NotSent> for CallError {
    fn from(why: NotSent) -> Self {
        Self::NotSent(why)
    }
}

impl From<Unknown> for CallError {
    fn from(why: Unknown) -> Self {
        Self::Unknown(why)
    }
}

/// Why a request was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotSent {
    /// The method or topic is not a valid name.
    Name(InvalidName),
    /// An attribute cannot be written.
    Attribute(InvalidAttribute),
    /// With the longest possible id and deadline, the line would exceed the server's limit.
    TooLarge {
        /// The server's limit, LF included, in bytes.
        max_line: usize,
    },
    /// The number of the position to subscribe from is invalid: 0, or above 2^53-1. Nothing follows
    /// the last number of an epoch, so it has no position behind it.
    Position,
    /// This client is already subscribed to the topic, from another position or with other settings
    /// ([`window`](crate::Subscribe::window), [`slow`](crate::Subscribe::slow),
    /// [`after_reset`](crate::Subscribe::after_reset)).
    AlreadySubscribed,
    /// The subscription is to [`redeliver`](crate::Subscribe::redeliver), and has no
    /// [`window`](crate::Subscribe::window), so nothing is acknowledged.
    NoWindow,
    /// The request has a key, and the server announces no table of keys, so it would not run the
    /// request at most once.
    NoKeys,
    /// The deadline passed while the request waited for a connection, or for a place in flight. If
    /// there was no connection, the error says why: the last failure to connect, or how the last
    /// connection ended.
    Deadline(Option<ConnectionError>),
    /// The connection ended before the line was offered to it.
    ///
    /// A client that has ended (refused credentials, an invalid address, closed) answers every call
    /// with this error, so a retry cannot succeed. With
    /// [`fail_fast`](crate::ClientConfig::fail_fast) it also means that there is no connection now.
    /// [`Client::ended`](crate::Client::ended) tells the two apart.
    Lost(ConnectionError),
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Attribute(error) => error.fmt(f),
            Self::TooLarge { max_line } => {
                write!(f, "the line would exceed the server's limit of {max_line} bytes")
            }
            Self::Position => f.write_str("the number of the position must be 1 to 2^53-1"),
            Self::AlreadySubscribed => f.write_str(
                "this client is already subscribed to the topic, from another position or with \
                 other settings; drop that subscription first",
            ),
            Self::NoWindow => f.write_str(
                "a subscription that redelivers needs a window, so that something is acknowledged",
            ),
            Self::NoKeys => f.write_str(
                "the request has a key, and the server announces no keys: it may not run it at most once",
            ),
            Self::Deadline(None) => f.write_str(
                "the deadline passed while the request waited for a connection or for a place in \
                 flight",
            ),
            Self::Deadline(Some(error)) => {
                write!(f, "the deadline passed before there was a connection: {error}")
            }
            Self::Lost(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NotSent {
    /// The error that caused it, if there is one.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Name(error) => Some(error),
            Self::Attribute(error) => Some(error),
            Self::Deadline(Some(error)) | Self::Lost(error) => Some(error),
            _ => None,
        }
    }
}

/// Why the outcome of a request is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unknown {
    /// `cut`: the server stopped it, or lost it, after it may have started.
    Cut(Reason),
    /// The deadline passed before its reply came.
    Deadline,
    /// The connection ended after the line was offered to it.
    Lost(ConnectionError),
    /// The server answered with a stream where one line was expected. The client cancelled the
    /// request.
    Streamed,
    /// The server sent more items of a streamed reply than it had credit for. The client cancelled
    /// the request.
    Overrun,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(reason) => write!(f, "the server stopped the request: {reason}"),
            Self::Deadline => f.write_str("the deadline passed before the reply"),
            Self::Lost(error) => error.fmt(f),
            Self::Overrun => f.write_str("the server sent more items than it had credit for"),
            Self::Streamed => {
                f.write_str("the reply is a stream; call the method with `Client::stream`")
            }
        }
    }
}

impl std::error::Error for Unknown {
    /// The [`ConnectionError`] that caused it, if there is one.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Lost(error) => Some(error),
            _ => None,
        }
    }
}

/// Why a connection ended. Every waiting call gets the same error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionError {
    /// This side closed it.
    Closed,
    /// The server closed it without a `/bye`.
    ClosedByPeer,
    /// The server sent a `/bye`.
    Bye(Reason),
    /// The transport failed.
    Io {
        /// The kind of failure.
        kind: io::ErrorKind,
        /// The transport's error.
        cause: Cause,
    },
    /// The server broke the protocol.
    Protocol(String),
    /// The server speaks another version.
    Version(u64),
    /// The address is invalid. The client does not try to connect.
    Address {
        /// The address as given.
        address: String,
        /// Why it is invalid.
        reason: String,
    },
    /// No address answered in time, so there was no connection.
    ConnectTimeout,
    /// The connection was made, but the handshake of TLS, or of another transport, did not end in
    /// time.
    TlsTimeout,
    /// The connection was made, but the server did not send its `/hello` or answer `/auth` in time.
    /// A server that expects TLS sends no `/hello`.
    HandshakeTimeout,
    /// The server owed an answer, was silent for too long, and did not answer a probe.
    Silent,
    /// The server requires authentication, and the configuration has no credentials.
    AuthRequired {
        /// The schemes that the server offers.
        offered: Vec<Code>,
    },
    /// The server requires authentication by schemes for which the configuration has no
    /// credentials.
    NoCommonScheme {
        /// The schemes that the server offers.
        offered: Vec<Code>,
    },
    /// The server refused the credentials.
    AuthRefused(Reason),
    /// The hook that provides credentials failed.
    Credentials(String),
    /// The TLS handshake failed, or a TLS record was invalid, for example because the server does
    /// not speak TLS.
    Tls(Cause),
    /// This side closed the connection, but the server did not finish in time.
    CloseTimeout,
    /// User code that the client runs for a connection panicked. The attempt to connect failed, or
    /// the connection has ended, and the client tries again as after any other failure. This needs
    /// panics that unwind; with `panic = "abort"` the process ends.
    Panicked {
        /// The code that panicked: `connector`, `transport`, `credentials hook` or `client`.
        what: &'static str,
        /// The message of the panic.
        message: String,
    },
}

impl ConnectionError {
    pub(crate) fn panicked(what: &'static str, message: String) -> Self {
        Self::Panicked { what, message }
    }
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        #[cfg(feature = "tls")]
        if let Some(cause) = Cause::of_tls(&error) {
            return Self::Tls(cause);
        }
        Self::Io { kind: error.kind(), cause: Cause::of_io(error) }
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the client closed the connection"),
            Self::ClosedByPeer => f.write_str("the server closed the connection"),
            Self::Bye(reason) => write!(f, "the server sent /bye: {reason}"),
            Self::Io { cause, .. } => write!(f, "the connection failed: {cause}"),
            Self::Protocol(what) => write!(f, "the server broke the protocol: {what}"),
            Self::Version(version) => {
                write!(f, "the server speaks version {version} of the protocol, the client only 1")
            }
            Self::Address { address, reason } => {
                write!(f, "the address \"{}\" is invalid: {reason}", Escaped(address.as_bytes()))
            }
            Self::ConnectTimeout => {
                f.write_str("no connection was made in time: no answer from the address")
            }
            Self::TlsTimeout => f.write_str(
                "the handshake of TLS or of a WebSocket did not end in time; does the server \
                 speak it?",
            ),
            Self::HandshakeTimeout => f.write_str(
                "the server did not send /hello, or answer /auth, in time; does it expect TLS?",
            ),
            Self::Silent => f.write_str("the server stopped answering"),
            Self::AuthRequired { offered } => {
                let offered = Schemes(offered);
                write!(f, "the server requires credentials, by {offered}, and none are configured")
            }
            Self::NoCommonScheme { offered } => {
                let offered = Schemes(offered);
                write!(f, "no credentials are configured for what the server accepts: {offered}")
            }
            Self::AuthRefused(reason) => write!(f, "the server refused the credentials: {reason}"),
            Self::Credentials(what) => write!(f, "the credentials hook failed: {what}"),
            Self::Tls(what) => write!(f, "TLS failed: {what}"),
            Self::CloseTimeout => {
                f.write_str("the client closed, and the server did not finish in time")
            }
            Self::Panicked { what, message } => {
                write!(f, "the {what} panicked: {}", Escaped(message.as_bytes()))
            }
        }
    }
}

impl std::error::Error for ConnectionError {
    /// The error of the system or of TLS, if it was one of them that failed.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { cause, .. } | Self::Tls(cause) => cause.source(),
            _ => None,
        }
    }
}

/// Codes, separated by commas.
struct Schemes<'a>(&'a [Code]);

impl fmt::Display for Schemes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joints = std::iter::once("").chain(std::iter::repeat(", "));
        joints.zip(self.0).try_for_each(|(joint, scheme)| write!(f, "{joint}{scheme}"))
    }
}

impl From<ConnectionError> for io::Error {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Io { kind, cause } => Self::new(kind, cause.as_str()),
            other => Self::other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_is_safe_only_if_the_handler_did_not_run() {
        let reason = Reason::new(Code::BUSY, "");
        let lost = ConnectionError::ClosedByPeer;
        let ran = [
            CallError::Remote(reason.clone()),
            CallError::Unknown(Unknown::Lost(lost.clone())),
            CallError::Decode("".into()),
        ];
        assert!(ran.iter().all(|error| error.may_have_run() && !error.is_safe_to_retry()));
        let idle = [
            CallError::Refused { reason, retry: None },
            CallError::NotSent(NotSent::Lost(lost)),
            CallError::Encode("".into()),
        ];
        assert!(idle.iter().all(|error| !error.may_have_run() && error.is_safe_to_retry()));
    }
}
