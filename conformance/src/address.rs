//! The address of a server under test: `HOST:PORT`, or `ws://HOST:PORT/PATH`.

use std::{fmt, net::SocketAddr};

/// Where to connect, and by which transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub socket: SocketAddr,
    /// The path of a WebSocket; `None` for plain TCP.
    pub path: Option<String>,
}

impl Address {
    /// Looks an address up.
    ///
    /// # Errors
    /// It has another form, or does not resolve.
    pub async fn resolve(text: &str) -> Result<Self, String> {
        let (host, path) = match text.strip_prefix("ws://") {
            None => (text, None),
            Some(rest) => {
                let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                (host, Some(if path.is_empty() { "/" } else { path }.to_owned()))
            }
        };
        let found = tokio::net::lookup_host(host).await;
        let socket = found.ok().and_then(|mut found| found.next());
        let socket = socket.ok_or_else(|| {
            format!("{text:?} is no HOST:PORT or ws://HOST:PORT/PATH that resolves")
        })?;
        Ok(Self { socket, path })
    }

    pub fn is_websocket(&self) -> bool {
        self.path.is_some()
    }
}

impl From<SocketAddr> for Address {
    fn from(socket: SocketAddr) -> Self {
        Self { socket, path: None }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            None => write!(f, "{}", self.socket),
            Some(path) => write!(f, "ws://{}{path}", self.socket),
        }
    }
}
