//! Connections in memory: a server and its clients in one process, without a port.
//!
//! This is for tests of a service, and for programs that contain both ends. Everything works as over
//! TCP: deadlines, reconnecting, draining. Tests can pause tokio's clock, because no socket is
//! involved.
//!
//! ```
//! use bellwire::{Client, Router, Server, memory};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), bellwire::CallError> {
//! let (listener, connector) = memory::pair();
//! let router = Router::new().method("echo", async |text: String| text);
//! tokio::spawn(Server::new(listener).serve(router).into_future());
//!
//! let client = Client::builder().address("memory").connector(connector).connect_lazily();
//! assert_eq!(client.call("echo", "hello").await?, "hello");
//! # Ok(())
//! # }
//! ```
//!
//! A test can restart the server. Each server has a pair of its own, and the client's connector is
//! a closure that opens a connection to the current one:
//!
//! ```
//! use std::{io, sync::{Arc, Mutex}};
//! use bellwire::{Client, ConnectionEvent, Router, Server, memory};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), bellwire::CallError> {
//! let current = Arc::new(Mutex::new(None::<memory::MemoryConnector>));
//! let start = || {
//!     let (listener, connector) = memory::pair();
//!     *current.lock().unwrap() = Some(connector);
//!     let router = Router::new().method("echo", async |text: String| text);
//!     tokio::spawn(Server::new(listener).serve(router).into_future())
//! };
//! let to = current.clone();
//! let connector = move |_: &str| {
//!     let connector = to.lock().unwrap().clone();
//!     async move { connector.ok_or(io::ErrorKind::ConnectionRefused)?.open().await }
//! };
//!
//! let server = start();
//! let client = Client::builder().address("memory").connector(connector).connect_lazily();
//! let mut events = client.events();
//! assert_eq!(client.call("echo", "one").await?, "one");
//!
//! server.abort(); // drops its connections
//! while !matches!(events.next().await, Some(ConnectionEvent::Disconnected { .. })) {}
//! let _server = start();
//! assert_eq!(client.call("echo", "two").await?, "two");
//! # Ok(())
//! # }
//! ```

use std::io;

use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc,
};

pub use crate::server::driver::memory::MemoryListener;
use crate::{Connecting, Connector, client::driver::connector::finished, coop::consume_budget};

/// The bytes that a connection holds in each direction. A writer waits while it is full.
const PIPE: usize = 64 * 1024;
/// The connections that may wait to be accepted. A connector waits while there are as many.
const BACKLOG: usize = 128;

/// Returns a listener for a server, and a connector for its clients.
///
/// Connections from the connector arrive at the listener. Each of them buffers 64 KiB in each
/// direction. Up to 128 connections wait to be accepted; a further one waits until there is room.
pub fn pair() -> (MemoryListener, MemoryConnector) {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    (MemoryListener::new(receiver), MemoryConnector(sender))
}

/// The connector of a [`pair`]. Clones connect to the same listener.
///
/// Every address leads to that listener, so any address will do for a client. Once the listener is
/// dropped, connecting fails with [`io::ErrorKind::ConnectionRefused`].
#[derive(Clone, Debug)]
pub struct MemoryConnector(mpsc::Sender<DuplexStream>);

impl MemoryConnector {
    /// Opens a connection, for a test that reads and writes the protocol's bytes itself.
    ///
    /// # Errors
    /// `ConnectionRefused` if the listener was dropped.
    ///
    /// # Cancel safety
    /// If the future is dropped before it ends, no connection was opened.
    pub async fn open(&self) -> io::Result<DuplexStream> {
        consume_budget().await;
        let place = self.0.reserve().await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        let (near, far) = duplex(PIPE);
        place.send(far);
        // A listener that is dropped at this moment may not see the connection.
        if self.0.is_closed() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(near)
    }
}

impl Connector for MemoryConnector {
    type Io = DuplexStream;

    async fn connect(&mut self, _address: &str) -> io::Result<DuplexStream> {
        self.open().await
    }

    fn begin(&mut self, _address: &str) -> Option<Connecting<DuplexStream>> {
        let connector = self.clone();
        Some(Box::pin(async move { Ok(finished(connector.open().await?)) }))
    }
}
