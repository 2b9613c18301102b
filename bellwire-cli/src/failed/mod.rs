//! Failures: the exit code, what happened, and what to do.

mod connection;

use std::{
    fmt::Display,
    io::{self, stderr},
    process::ExitCode,
};

use bellwire::{
    CallError, NotSent, Unknown,
    protocol::{Code, Reason},
};

use self::connection::{hint_of_connection, of_connection};
use crate::{
    escape,
    style::{Style, Styled, is_colourful},
    transport::UNIX,
};

/// The exit codes, as the help shows them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    ok
  1    another failure, as of a file, or a reply that is not JSON
  2    the command line is invalid, or an address
  3    err: the method ran, and failed
  4    no: the server refused the request, and nothing ran
  5    cut: the server stopped the request; it may have run
  6    not sent: nothing ran, for example because there is no server
  7    lost: the connection was lost after the request was sent; it may have run
  8    timeout: no reply by the deadline, and it may have run; or messages that `listen -C -W` lacks
  130  interrupted
  141  the reader of the output has gone, as in `bellwire listen news | head -1`";

/// The bytes of a server's text that are shown.
const TEXT_SHOWN: usize = 1_000;

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

    /// Puts a semicolon and `after` behind the text.
    pub(crate) fn behind(mut self, after: impl Display) -> Self {
        self.what = format!("{}; {after}", self.what);
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
        // Names of files and addresses, which the text quotes, may have control characters.
        let shown = |text: &str| escape::shown(text.as_bytes(), &[]);
        eprintln!("{} {}", label(Style::Red, "error:"), shown(&self.what));
        if let Some(hint) = &self.hint {
            eprintln!("{} {}", label(Style::Cyan, "hint:"), shown(hint));
        }
        ExitCode::from(self.exit as u8)
    }
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        let failed = Self::new(exit_of(&error), text_of(&error));
        match hint_of(&error) {
            Some(hint) => failed.hint(hint),
            None => failed,
        }
    }
}

/// The error as text, with the reasons of the server in full.
fn text_of(error: &CallError) -> String {
    match error {
        CallError::Remote(reason) => format!("the method failed: {}", of_reason(reason)),
        CallError::Refused { reason, .. } => format!("refused: {}", of_reason(reason)),
        CallError::NotSent(NotSent::Lost(error)) => format!("not sent: {}", of_connection(error)),
        CallError::NotSent(NotSent::Deadline(Some(error))) => {
            format!("not sent: the deadline passed without a connection: {}", of_connection(error))
        }
        CallError::NotSent(NotSent::Deadline(None)) => {
            "not sent: the deadline passed before it could be sent".into()
        }
        CallError::NotSent(NotSent::Attribute(_)) => {
            "not sent: an attribute or a key is invalid".into()
        }
        CallError::NotSent(NotSent::NoKeys) => {
            "not sent: the server keeps no keys, so a request with --key could run twice".into()
        }
        CallError::Unknown(Unknown::Cut(reason)) => {
            format!("the server has stopped the request: {}", of_reason(reason))
        }
        CallError::Unknown(Unknown::Lost(error)) => {
            format!("the connection was lost before the reply: {}", of_connection(error))
        }
        CallError::Unknown(Unknown::Deadline) => "no reply before the deadline".into(),
        CallError::Unknown(Unknown::Streamed) => {
            "the reply is a stream, and one line was expected; the request was cancelled, and may \
             have run"
                .into()
        }
        other => other.to_string(),
    }
}

/// The code, and the text for people.
pub(crate) fn of_reason(reason: &Reason) -> String {
    match reason.text.is_empty() {
        true => reason.code.to_string(),
        false => format!("{}: {}", reason.code, escape::cut(reason.text.as_bytes(), TEXT_SHOWN)),
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
        CallError::NotSent(NotSent::Attribute(_)) => {
            Some("in --key and --attr, use printable ASCII without spaces and semicolons".into())
        }
        CallError::NotSent(NotSent::NoKeys) => {
            Some("call it without --key; then it may run twice if you repeat it".into())
        }
        CallError::NotSent(NotSent::Lost(error) | NotSent::Deadline(Some(error))) => {
            hint_of_connection(error)
        }
        CallError::NotSent(NotSent::TooLarge { .. }) => Some(
            "send less at once; ServerConfig::max_line of the server is the limit of a line".into(),
        ),
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
        "bad-position" => Some("no message has this number yet; leave out --from"),
        "bad-arguments" => Some("`bellwire methods` shows what the method expects"),
        _ => None,
    }
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
    let error = error.to_string();
    let error = error.strip_prefix("I/O error: ").unwrap_or(&error);
    Failed::other(format!("cannot {what} {path}: {}", without_number(error)))
}

/// Why a server cannot listen on `address`, which comes from `option`.
pub(crate) fn of_listening(address: &str, option: &str, error: &io::Error) -> Failed {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another program uses the address; {option} takes another one, and port 0 a free one"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("this user may not; {option} takes another address, as with a port above 1023")
        }
        io::ErrorKind::NotFound => "the folder of a Unix socket has to be there".into(),
        _ => format!("{option} takes an address of this machine, as in 127.0.0.1:7440"),
    };
    let text = error.to_string();
    let path = address.strip_prefix(UNIX).unwrap_or(address);
    let text = text.strip_prefix(path).and_then(|text| text.strip_prefix(": ")).unwrap_or(&text);
    Failed::other(format!("cannot listen on {address}: {}", without_number(text))).hint(hint)
}

/// The text of a system's error without the number behind it.
pub(crate) fn without_number(text: &str) -> &str {
    text.rsplit_once(" (os error ").map_or(text, |(text, _)| text)
}

#[cfg(test)]
mod tests {
    use bellwire::{ConnectionError, protocol::Reason};

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
