//! A look at a server from outside.

use std::fmt;

use dashmap::DashMap;
use uuid::Uuid;

use crate::{
    server::{buffered::Buffered, session::Session},
    sync::Arc,
    topic::MemoryTopics,
};

/// The open connections of a server.
pub(super) type Sessions = DashMap<Uuid, Session>;

/// A look at a server, before, while and after it serves; cheap to clone.
///
/// ```
/// use bellwire::Server;
///
/// # async fn run() -> std::io::Result<()> {
/// let server = Server::bind("127.0.0.1:0").await?;
/// let handle = server.handle();
/// assert_eq!(handle.stats().connections, 0);
/// # Ok(()) }
/// # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Clone)]
pub struct ServerHandle {
    sessions: Arc<Sessions>,
    buffered: Arc<Buffered>,
    memory: MemoryTopics,
}

/// What a server is doing, as [`ServerHandle::stats`] found it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Connections that are open, or were closed and are not gone yet; without those that were one
    /// too many.
    pub connections: usize,
    /// Requests that take a place in flight, one-ways and `/publish` included, over all
    /// connections. One that is answered at once never takes one, and none is counted any more
    /// once its terminal line could be read, or its connection is gone.
    pub in_flight: usize,
    /// Bytes that the connections hold, of
    /// [`buffered_bytes_total`](crate::ServerConfig::buffered_bytes_total).
    pub buffered_bytes: usize,
    /// Bytes that the topics hold, of
    /// [`retained_bytes_total`](crate::ServerConfig::retained_bytes_total); 0 with a store of one's
    /// own.
    pub retained_bytes: usize,
    /// Topics with a log; 0 with a store of one's own.
    pub topics: usize,
}

impl ServerHandle {
    pub(super) fn new(
        sessions: Arc<Sessions>,
        buffered: Arc<Buffered>,
        memory: MemoryTopics,
    ) -> Self {
        Self { sessions, buffered, memory }
    }

    /// Counts, in time proportional to the connections; the serving is not held up.
    ///
    /// The figures are taken one connection after the other: they are exact only while nothing
    /// moves.
    pub fn stats(&self) -> ServerStats {
        let mut stats = ServerStats {
            buffered_bytes: self.buffered.bytes(),
            retained_bytes: self.memory.retained_bytes(),
            topics: self.memory.born(),
            ..ServerStats::default()
        };
        for session in self.sessions.iter() {
            stats.connections += 1;
            stats.in_flight += session.in_flight();
        }
        stats
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerHandle").field(&self.stats()).finish()
    }
}
