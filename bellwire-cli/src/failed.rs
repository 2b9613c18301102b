//! Failures: the exit code, what happened, and what to do.

use std::{fmt::Display, io::stderr, process::ExitCode};

use bellwire::{CallError, ConnectionError, NotSent, Unknown, protocol::Code};

use crate::{
    escape,
    style::{Style, Styled, is_colourful},
};

/// The exit codes, as the help shows them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    ok
  1    another failure: a file, a reply that is not JSON
  2    the command line makes no sense
  3    err: the method ran, and failed
  4    no: the server refused the request, and nothing ran
  5    cut: the server stopped the request; it may have run
  6    not sent: nothing ran, for example because there is no server
  7    lost: the connection was lost after the request was sent; it may have run
  8    timeout: the deadline passed after the request was sent; it may have run. Or `listen -C -W` had
       not received all messages in time
  130  interrupted
  141  the reader of the output has gone, as in `bellwire listen news | head -1`";

/// How the command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Other = 1,
    Usage = 2,
    Err = 3,
    No = 4,
    Cut = 5,
    NotSent = 6,
    Lost = 7,
    Timeout = 8,
    Interrupted = 130,
}

/// A failure of the command.
#[derive(Debug)]
pub(crate) struct Failed {
    exit: Exit,
    what: String,
    hint: Option<String>,
}

impl Failed {
    pub(crate) fn new(exit: Exit, what: impl Display) -> Self {
        Self { exit, what: what.to_string(), hint: None }
    }

    pub(crate) fn other(what: impl Display) -> Self {
        Self::new(Exit::Other, what)
    }

    pub(crate) fn usage(what: impl Display) -> Self {
        Self::new(Exit::Usage, what)
    }

    pub(crate) fn interrupted(what: impl Display) -> Self {
        Self::new(Exit::Interrupted, what)
    }

    /// What the user can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `before` and a colon before the text.
    pub(crate) fn within(mut self, before: impl Display) -> Self {
        self.what = format!("{before}: {}", self.what);
        self
    }

    /// What happened.
    pub(crate) fn text(&self) -> &str {
        &self.what
    }

    /// Prints it on stderr.
    pub(crate) fn report(&self) -> ExitCode {
        let is_on = is_colourful(&stderr());
        let label = |style, value| Styled { style, is_on, value };
        eprintln!("{} {}", label(Style::Red, "error:"), self.what);
        if let Some(hint) = &self.hint {
            eprintln!("{} {hint}", label(Style::Cyan, "hint:"));
        }
        ExitCode::from(self.exit as u8)
    }

    /// Why there is no connection. `place` says where the client tried to connect, and why there.
    pub(crate) fn connecting(error: &ConnectionError, place: &str) -> Self {
        let failed = Self::new(Exit::NotSent, format!("no connection to {place}: {error}"));
        match hint_of_connection(error) {
            Some(hint) => failed.hint(hint),
            None => failed,
        }
    }
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        let what = match &error {
            CallError::Unknown(Unknown::Streamed) => {
                "the reply is a stream, and one line was expected; the request was cancelled, and may \
                 have run"
                    .into()
            }
            _ => error.to_string(),
        };
        let failed = Self::new(exit_of(&error), what);
        match hint_of(&error) {
            Some(hint) => failed.hint(hint),
            None => failed,
        }
    }
}

fn exit_of(error: &CallError) -> Exit {
    match error {
        CallError::Remote(_) => Exit::Err,
        CallError::Refused { .. } => Exit::No,
        CallError::NotSent(NotSent::Name(_) | NotSent::Attribute(_) | NotSent::Position) => {
            Exit::Usage
        }
        CallError::NotSent(_) | CallError::Encode(_) => Exit::NotSent,
        CallError::Unknown(Unknown::Deadline) => Exit::Timeout,
        CallError::Unknown(Unknown::Lost(_)) => Exit::Lost,
        CallError::Unknown(_) => Exit::Cut,
        _ => Exit::Other,
    }
}

fn hint_of(error: &CallError) -> Option<String> {
    match error {
        CallError::Refused { reason, retry: Some(after) } if reason.code == Code::BUSY => {
            Some(format!("try again in {} ms", after.as_millis()))
        }
        CallError::Refused { reason, .. } => hint_of_code(&reason.code).map(Into::into),
        CallError::NotSent(NotSent::NoKeys) => {
            Some("call it without --key; then it may run twice if you repeat it".into())
        }
        CallError::NotSent(NotSent::Lost(error) | NotSent::Deadline(Some(error))) => {
            hint_of_connection(error)
        }
        CallError::Unknown(Unknown::Streamed) => Some("add --stream".into()),
        CallError::Unknown(Unknown::Deadline) => Some(
            "it may have run; give it more time with --deadline, and repeat it only if running \
             twice does no harm"
                .into(),
        ),
        CallError::Unknown(_) => Some(
            "it may have run; repeat it only if running twice does no harm. With --key the server \
             runs it once, with --idempotent it is repeated for you"
                .into(),
        ),
        _ => None,
    }
}

fn hint_of_code(code: &Code) -> Option<&'static str> {
    match code.as_str() {
        "unknown-method" => Some("`bellwire methods` lists the methods of this server"),
        "forbidden" => Some(
            "the server does not allow this to you; with a token it may: see --token-file and \
             `bellwire context`",
        ),
        "busy" => Some("try again later"),
        "key-mismatch" => Some("this key was used for another request; take a new one"),
        "too-large" => Some("send less at once: a line of this server is shorter than that"),
        "bad-position" => Some("the position is beyond what was published; leave out --from"),
        "bad-arguments" => Some("`bellwire methods` shows what the method expects"),
        _ => None,
    }
}

fn hint_of_connection(error: &ConnectionError) -> Option<String> {
    let hint = match error {
        ConnectionError::Io { .. } | ConnectionError::ConnectTimeout => {
            "is the server running, and is the address right? It comes from --addr, BELLWIRE_ADDR \
             or the context"
        }
        ConnectionError::AuthRequired { .. } => {
            "give it a token: --token-file FILE, BELLWIRE_TOKEN, or a context with a token file"
        }
        ConnectionError::AuthRefused(_) => {
            "is the token right, and still valid? It comes from --token-file, BELLWIRE_TOKEN, \
             BELLWIRE_TOKEN_FILE or the context"
        }
        ConnectionError::NoCommonScheme { .. } => {
            "this command knows only tokens; use a client that knows the server's scheme"
        }
        ConnectionError::HandshakeTimeout => "if the server expects TLS, add --tls",
        ConnectionError::ClosedByPeer => {
            "is it a bellwire server? If it expects TLS, add --tls; if it is full, try again later"
        }
        ConnectionError::TlsTimeout => "if the server does not use TLS, leave out --tls",
        ConnectionError::Tls(_) => {
            "does the server use TLS, does --tls-name match its certificate, and is its issuer \
             trusted? --ca FILE trusts another one"
        }
        ConnectionError::Protocol(_) | ConnectionError::Version(_) => "is it a bellwire server?",
        ConnectionError::Address { .. } => {
            "an address is HOST:PORT, or unix:PATH for a Unix socket"
        }
        _ => return None,
    };
    Some(hint.into())
}

/// What a subscription's end with this reason means.
pub(crate) fn of_end(topic: &str, reason: &Code) -> Failed {
    let failed = |exit, what: &str| {
        Failed::new(exit, format!("the subscription to {topic} has ended: {reason}: {what}"))
    };
    match reason.as_str() {
        "closed" => failed(Exit::No, "the topic is over"),
        "revoked" | "forbidden" => failed(Exit::No, "the server does not allow it any more"),
        "slow" => failed(Exit::Lost, "it was read too slowly")
            .hint("resume it with --from or --resume, and read faster"),
        "lost" => failed(Exit::Lost, "the client cannot connect any more"),
        _ => failed(Exit::No, "the server ended it"),
    }
}

/// The text of a file's error.
pub(crate) fn of_file(what: &str, path: &std::path::Path, error: impl Display) -> Failed {
    let path = escape::shown(path.as_os_str().as_encoded_bytes(), &[]);
    Failed::other(format!("cannot {what} {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use bellwire::protocol::Reason;

    use super::*;

    #[test]
    fn each_outcome_has_its_exit_code() {
        let reason = || Reason::new(Code::BUSY, "");
        let lost = ConnectionError::ClosedByPeer;
        let codes = [
            (CallError::Remote(reason()), Exit::Err),
            (CallError::Refused { reason: reason(), retry: None }, Exit::No),
            (CallError::Unknown(Unknown::Cut(reason())), Exit::Cut),
            (CallError::NotSent(NotSent::Lost(lost.clone())), Exit::NotSent),
            (CallError::Unknown(Unknown::Lost(lost)), Exit::Lost),
            (CallError::Unknown(Unknown::Deadline), Exit::Timeout),
        ];
        for (error, exit) in codes {
            assert_eq!(Failed::from(error).exit, exit);
            assert!(EXIT_CODES.contains(&format!("\n  {}    ", exit as u8)));
        }
    }
}
