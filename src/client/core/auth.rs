//! The client's `/auth`, before any other request (docs/protocol/access.md, section 19).

use crate::{
    client::core::{connection::Connection, waiter::Waiter},
    error::ConnectionError,
    protocol::{Attributes, DEFAULT_MAX_LINE, Hello, Mark, RequestId, VERSION, Word, encode},
};

/// What a client sends first, once it has the server's `/hello`.
#[derive(Default)]
pub(crate) struct Admission {
    /// Lines to be written before all others.
    pub(crate) lines: Vec<u8>,
    /// The last of these lines is `/auth`: nothing else may be written before its reply.
    pub(crate) is_asked_for: bool,
}

impl Connection {
    /// Returns the lines to be sent first.
    ///
    /// # Errors
    /// If the server asks for credentials, and this client has none for the offered schemes.
    pub(crate) fn admission(&mut self, hello: &Hello) -> Result<Admission, ConnectionError> {
        let mut lines = Vec::new();
        let offered = || hello.auth.clone();
        if hello.auth.is_empty() {
            self.first_hello(&mut lines);
            return Ok(Admission { lines, is_asked_for: false });
        }
        if self.credentials.is_empty() {
            return Err(ConnectionError::AuthRequired { offered: offered() });
        }
        let Some((scheme, credentials)) =
            self.credentials.iter().find(|(way, _)| hello.auth.contains(way))
        else {
            return Err(ConnectionError::NoCommonScheme { offered: offered() });
        };
        let arguments = [scheme.as_str().as_bytes(), b" ", credentials.as_bytes()].concat();
        self.first_hello(&mut lines);
        self.first_auth(&mut lines, &arguments);
        Ok(Admission { lines, is_asked_for: true })
    }

    /// Tells the server of a line limit that is not the default.
    fn first_hello(&mut self, lines: &mut Vec<u8>) {
        let max_line = self.locked.config.max_line;
        if max_line == DEFAULT_MAX_LINE {
            return;
        }
        let Some(id) = self.first_id(Waiter::Ignored) else { return };
        let head = format_args!("/hello;version={VERSION};max-line={max_line}");
        encode::display(lines, Mark::Id(id), head, format_args!(""));
    }

    fn first_auth(&mut self, lines: &mut Vec<u8>, arguments: &[u8]) {
        let (id, word) = (self.first_id(Waiter::Auth), Word::new("/auth"));
        if let (Some(id), Some(word)) = (id, word) {
            encode::line(lines, Mark::Id(id), word, Attributes::default(), arguments);
        }
    }

    fn first_id(&mut self, waiter: Waiter) -> Option<RequestId> {
        let link = self.link;
        self.with(|core, _| core.links.first_id(link, waiter))
    }
}
