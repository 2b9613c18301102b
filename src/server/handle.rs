//! A handle for the statistics and sessions of a server.

use std::fmt;

use crate::{
    guard::guarded,
    server::{
        buffered::Buffered,
        session::Session,
        sessions::Sessions,
        stats::{ServerStats, Totals},
    },
    sync::Arc,
    topic::{MemoryTopics, Publisher, TopicStats},
};

/// Shows the state of a server, before, while and after it serves; cheap to clone.
///
/// It cannot stop the server: [`with_graceful_shutdown`] does.
///
/// [`with_graceful_shutdown`]: crate::server::Serve::with_graceful_shutdown
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
    totals: Arc<Totals>,
    buffered: Arc<Buffered>,
    memory: MemoryTopics,
    publisher: Publisher,
}

impl ServerHandle {
    pub(super) fn new(
        sessions: Arc<Sessions>,
        totals: Arc<Totals>,
        buffered: Arc<Buffered>,
        memory: MemoryTopics,
        publisher: Publisher,
    ) -> Self {
        Self { sessions, totals, buffered, memory, publisher }
    }

    /// Counters and gauges. This takes time in proportion to the number of connections, and does
    /// not delay the server.
    ///
    /// The connections are read one after the other, so the values are consistent only while
    /// nothing changes.
    pub fn stats(&self) -> ServerStats {
        let mut stats = ServerStats {
            buffered_bytes: self.buffered.bytes(),
            retained_bytes: self.memory.retained_bytes(),
            topics: guarded(|| self.publisher.store().topics()).unwrap_or_default(),
            ..self.totals.stats()
        };
        self.sessions.add_to(&mut stats);
        stats
    }

    /// The topics that have a log, in no particular order, with what the store holds of each.
    ///
    /// [`MemoryTopics`] and the store in a file list all topics, and the store in Redis lists those
    /// that have subscribers at this server. A store of another crate may list none. If it panics,
    /// the list is empty.
    ///
    /// This takes time in proportion to the topics, and locks each of them for a moment. They are
    /// read one after the other, so the values are consistent only while nothing changes.
    ///
    /// ```
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = bellwire::Server::bind("127.0.0.1:0").await?;
    /// server.publisher().publish("offers", "one").await?;
    /// for topic in server.handle().topics() {
    ///     println!("{}: {} subscribers, at {}", topic.topic, topic.subscribers, topic.end);
    /// }
    /// # Ok(()) }
    /// # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
    /// ```
    pub fn topics(&self) -> Vec<TopicStats> {
        guarded(|| self.publisher.store().topic_stats()).unwrap_or_default()
    }

    /// The open sessions, in no particular order; takes time in proportion to them. It includes
    /// those of peers that are not yet authenticated, which are anonymous.
    ///
    /// To ban a user, first make the authenticator refuse, then close the open sessions.
    ///
    /// ```
    /// use bellwire::{ServerHandle, protocol::Code};
    ///
    /// fn cut_off(server: &ServerHandle, name: &str) {
    ///     for session in server.sessions_of(name) {
    ///         session.close(Code::from_static("banned"));
    ///     }
    /// }
    /// ```
    pub fn sessions(&self) -> Vec<Session> {
        self.sessions.all()
    }

    /// The sessions whose principal has this name.
    pub fn sessions_of(&self, name: &str) -> Vec<Session> {
        let is_theirs = |session: &Session| session.principal().name() == Some(name);
        self.sessions.all().into_iter().filter(is_theirs).collect()
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerHandle").field(&self.stats()).finish()
    }
}
