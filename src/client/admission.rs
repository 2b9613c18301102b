//! Saying who this client is, before anything else is said (PROTOCOL.md, section 8.11).

use crate::{
    client::{
        reader::Reader,
        shared::Shared,
        waiter::{CallResult, Entry, Waiter},
    },
    error::{CallError, ConnectionError, Unknown},
    protocol::{
        Attributes, Code, DEFAULT_MAX_LINE, Hello, Mark, Reason, RequestId, VERSION, Word, encode,
    },
};

/// The ids of `/hello` and `/auth` on a client with credentials. They are kept free for these two
/// from the start, since both precede what the application asks for before the server's hello.
const HELLO_ID: u64 = 1;
pub(crate) const AUTH_ID: u64 = 2;

/// What a client begins with, once it knows what the server wants.
#[derive(Default)]
pub(crate) struct Admission {
    /// Lines to be written before all others.
    pub(crate) lines: Vec<u8>,
    /// They end with `/auth`: nothing else may be written before its reply.
    pub(crate) is_asked_for: bool,
}

impl Shared {
    /// What is to be said first.
    ///
    /// # Errors
    /// When the server wants credentials that the configuration has not.
    pub(crate) fn admission(&self, hello: &Hello) -> Result<Admission, ConnectionError> {
        let ways = &self.config.auth;
        if ways.is_empty() {
            return match hello.auth.is_empty() {
                true => Ok(Admission::default()),
                false => Err(ConnectionError::AuthRequired { offered: hello.auth.clone() }),
            };
        }
        let mut lines = Vec::new();
        if self.config.max_line != DEFAULT_MAX_LINE {
            self.first_hello(&mut lines);
        }
        if hello.auth.is_empty() {
            return Ok(Admission { lines, is_asked_for: false });
        }
        let Some((scheme, credentials)) = ways.iter().find(|(way, _)| hello.auth.contains(way))
        else {
            return Err(ConnectionError::NoCommonScheme { offered: hello.auth.clone() });
        };
        let arguments = [scheme.as_str().as_bytes(), b" ", credentials.as_bytes()].concat();
        self.first_auth(&mut lines, &arguments);
        Ok(Admission { lines, is_asked_for: true })
    }

    fn first_hello(&self, lines: &mut Vec<u8>) {
        let Some(id) = self.expect_reply(HELLO_ID, Waiter::Hello) else { return };
        let max_line = self.config.max_line;
        let head = format_args!("/hello;version={VERSION};max-line={max_line}");
        encode::display(lines, Mark::Id(id), head, format_args!(""));
    }

    fn first_auth(&self, lines: &mut Vec<u8>, arguments: &[u8]) {
        let (id, word) = (self.expect_reply(AUTH_ID, Waiter::Auth), Word::new("/auth"));
        if let (Some(id), Some(word)) = (id, word) {
            encode::line(lines, Mark::Id(id), word, Attributes::default(), arguments);
        }
    }

    /// It does not go through the outbound buffer, so it counts as offered from the beginning.
    fn expect_reply(&self, id: u64, waiter: Waiter) -> Option<RequestId> {
        let mut state = self.state.lock();
        state.use_id(id);
        state.pending.insert(id, Entry { waiter, line_end: 0, bytes: 0 });
        RequestId::new(id)
    }
}

impl Reader {
    /// The server has answered `/auth`: opens the gates, or ends.
    pub(crate) fn on_admission(&mut self, result: CallResult) {
        match (result, self.unadmitted.take()) {
            (Ok(_), Some(hello)) => self.open(hello),
            (Err(error), _) => {
                self.not_admitted = Some(ConnectionError::AuthRefused(reason_of(error)));
            }
            (Ok(_), None) => {}
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
