//! The client's `/auth`, before any other request (PROTOCOL.md, section 8.11).

use crate::{
    client::{
        core::reader::Reader,
        core::waiter::{CallResult, Waiter},
    },
    credentials::Credentials,
    error::{CallError, ConnectionError, Unknown},
    protocol::{Attributes, Code, DEFAULT_MAX_LINE, Hello, Mark, Reason, VERSION, Word, encode},
};

/// What a client begins with, once it knows what the server wants.
#[derive(Default)]
pub(crate) struct Admission {
    /// Lines to be written before all others.
    pub(crate) lines: Vec<u8>,
    /// They end with `/auth`: nothing else may be written before its reply.
    pub(crate) is_asked_for: bool,
}

/// A client's credentials by scheme, in the order of preference.
pub(crate) type Ways = Vec<(Code, Credentials)>;

impl Reader {
    /// What is to be said first.
    ///
    /// # Errors
    /// When the server wants credentials that this client has not.
    pub(crate) fn admission(&self, hello: &Hello) -> Result<Admission, ConnectionError> {
        let mut lines = Vec::new();
        let offered = || hello.auth.clone();
        if hello.auth.is_empty() {
            self.first_hello(&mut lines);
            return Ok(Admission { lines, is_asked_for: false });
        }
        if self.ways.is_empty() {
            return Err(ConnectionError::AuthRequired { offered: offered() });
        }
        let Some((scheme, credentials)) =
            self.ways.iter().find(|(way, _)| hello.auth.contains(way))
        else {
            return Err(ConnectionError::NoCommonScheme { offered: offered() });
        };
        self.first_hello(&mut lines);
        let arguments = [scheme.as_str().as_bytes(), b" ", credentials.as_bytes()].concat();
        self.first_auth(&mut lines, &arguments);
        Ok(Admission { lines, is_asked_for: true })
    }

    /// Tells the server of a line limit that is not the default.
    fn first_hello(&self, lines: &mut Vec<u8>) {
        let max_line = self.shared.config.max_line;
        if max_line == DEFAULT_MAX_LINE {
            return;
        }
        let Some(id) = self.shared.first_id(self.link, Waiter::Hello) else { return };
        let head = format_args!("/hello;version={VERSION};max-line={max_line}");
        encode::display(lines, Mark::Id(id), head, format_args!(""));
    }

    fn first_auth(&self, lines: &mut Vec<u8>, arguments: &[u8]) {
        let (id, word) = (self.shared.first_id(self.link, Waiter::Auth), Word::new("/auth"));
        if let (Some(id), Some(word)) = (id, word) {
            encode::line(lines, Mark::Id(id), word, Attributes::default(), arguments);
        }
    }

    /// The server has answered `/auth`: opens the gates, or ends.
    pub(crate) fn on_admission(&mut self, result: CallResult) {
        match result {
            Ok(_) => self.is_admitted = true,
            Err(error) => {
                if let CallError::Refused { retry, .. } = error {
                    self.hint.give(retry);
                }
                self.not_admitted = Some(ConnectionError::AuthRefused(reason_of(error)));
            }
        }
    }
}

fn reason_of(error: CallError) -> Reason {
    match error {
        CallError::Refused { reason, .. }
        | CallError::Remote(reason)
        | CallError::Unknown(Unknown::Cut(reason)) => reason,
        other => Reason::new(Code::UNAUTHENTICATED, other.to_string()),
    }
}
