//! The bounds of a WebSocket.

use crate::ws_stream::origin::Origins;

/// The most bytes of a message that an end accepts, by default.
const MAX_MESSAGE: u64 = 1024 * 1024;
/// The most bytes of the request or of the response that opens a connection, by default.
const MAX_HEAD: usize = 16 * 1024;

/// The bounds of the WebSockets of a server or a client, and which web pages may connect.
///
/// A connection holds at most `max_head` and 1 KiB until it is open, and then at most 36 KiB, while
/// the peer does not read. [`ServerConfig::worst_case_bytes`](crate::ServerConfig::worst_case_bytes)
/// does not include them.
///
/// ```
/// use bellwire::ws::{Origins, WsConfig};
///
/// let origins = Origins::list(["https://offers.example"]);
/// let config = WsConfig::new().path("/bellwire").origins(origins);
/// assert_eq!(config.get_max_message(), 1_048_576);
/// ```
#[derive(Clone, Debug)]
pub struct WsConfig {
    origins: Origins,
    path: Option<String>,
    max_message: u64,
    max_head: usize,
}

impl WsConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self { origins: Origins::Same, path: None, max_message: MAX_MESSAGE, max_head: MAX_HEAD }
    }

    /// Sets which web pages may connect to the server. Default: those of the [same
    /// origin](Origins::Same). A client does not use it.
    #[must_use]
    pub fn origins(mut self, origins: Origins) -> Self {
        self.origins = origins;
        self
    }

    /// Sets the only path that the server accepts, without a query. Requests for other paths get
    /// the status 404. Default: none, and every path is accepted. A client does not use it, and
    /// neither do [`Upgrades`](crate::ws::Upgrades).
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Sets the most payload bytes of a received message. A longer one ends the connection, with
    /// the close code 1009. Default: 1 MiB. At least 1.
    ///
    /// It bounds no memory, because messages are processed as they arrive. A single line may need
    /// as much as [`max_line`](crate::ServerConfig::max_line).
    #[must_use]
    pub fn max_message(mut self, bytes: u64) -> Self {
        self.max_message = bytes.max(1);
        self
    }

    /// Sets the most bytes of the request that opens a connection; of a client, of the response. A
    /// longer request gets the status 431. Default: 16 KiB. At least 512. A connection holds these
    /// bytes until it is open.
    #[must_use]
    pub fn max_head(mut self, bytes: usize) -> Self {
        self.max_head = bytes.max(512);
        self
    }

    /// See [`origins`](Self::origins).
    pub fn get_origins(&self) -> &Origins {
        &self.origins
    }

    /// See [`path`](Self::path).
    pub fn get_path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// See [`max_message`](Self::max_message).
    pub fn get_max_message(&self) -> u64 {
        self.max_message
    }

    /// See [`max_head`](Self::max_head).
    pub fn get_max_head(&self) -> usize {
        self.max_head
    }
}

impl Default for WsConfig {
    fn default() -> Self {
        Self::new()
    }
}
