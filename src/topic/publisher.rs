//! The handle that publishes.

use std::{any::TypeId, fmt};

use bytes::Bytes;

use crate::{
    coop::consume_message,
    guard::Guarded,
    protocol::{DEFAULT_MAX_LINE, Topic, encode},
    sync::{Arc, AtomicUsize, Ordering},
    topic::{MemoryTopics, PublishError, Published, TopicStore, Unavailable, checked_published},
};

/// Publishes to the topics of a server, from any task; cheap to clone.
///
/// ```
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let server = bellwire::Server::bind("127.0.0.1:0").await?;
/// let publisher = server.publisher();
/// let published = publisher.publish("offers", r#"{"id":43}"#).await?;
/// assert_eq!(published.sequence, 1);
/// # Ok(()) }
/// # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Clone)]
pub struct Publisher {
    store: Arc<dyn TopicStore>,
    /// The store is [`MemoryTopics`] itself, whose lines need no check.
    is_own: bool,
    /// Shared, since a server may be configured after its publisher was handed out.
    max_line: Arc<AtomicUsize>,
}

impl Publisher {
    pub(crate) fn new<S: TopicStore>(store: S) -> Self {
        let is_own = TypeId::of::<S>() == TypeId::of::<MemoryTopics>();
        let max_line = Arc::new(AtomicUsize::new(DEFAULT_MAX_LINE));
        Self { store: Arc::new(store), is_own, max_line }
    }

    /// Whether its store is the default one.
    pub(crate) fn is_own(&self) -> bool {
        self.is_own
    }

    pub(crate) fn set_max_line(&self, max_line: usize) {
        self.max_line.store(max_line, Ordering::Relaxed);
    }

    pub(crate) fn store(&self) -> &dyn TopicStore {
        &*self.store
    }

    /// Publishes `payload`, any bytes, to `topic`; its number, once the log has accepted it.
    ///
    /// It never waits for subscribers. Messages published one after the other to one topic are
    /// numbered in that order.
    ///
    /// A task that publishes in a loop lets others run after every 32 messages, or 64 KiB: it takes part
    /// in tokio's cooperative budget. So connections on the same thread read and write meanwhile, and a
    /// subscriber that keeps up loses nothing. One that is behind by more than the topic retains is told
    /// so by a gap: [`ServerConfig::retained_bytes`](crate::ServerConfig::retained_bytes) says how far
    /// that is, [`ClientConfig::inbox_bytes`](crate::ClientConfig::inbox_bytes) how much a client holds
    /// for its application, and a [`window`](crate::Subscribe::window) leaves on the server what that
    /// has not handled. Outside of tasks, as on a thread within `Handle::block_on`, the thread is
    /// yielded instead.
    ///
    /// # Errors
    /// [`PublishError`]: the topic's name is none, the line would be over `max-line`, there are too
    /// many topics, or the store failed.
    ///
    /// # Cancel safety
    /// Once polled, the message may be published though the future is dropped: it is appended first, and
    /// others run then.
    pub async fn publish(
        &self,
        topic: impl TryInto<Topic>,
        payload: impl Into<Bytes>,
    ) -> Result<Published, PublishError> {
        let payload = payload.into();
        let bytes = payload.len();
        // The number is taken at the first poll, and then others have their turn: so futures that are
        // polled one after the other are numbered in that order.
        let published = self.append(topic, payload).await;
        consume_message(bytes).await;
        published
    }

    async fn append(
        &self,
        topic: impl TryInto<Topic>,
        payload: Bytes,
    ) -> Result<Published, PublishError> {
        let topic = topic.try_into().map_err(|_| PublishError::InvalidTopic)?;
        self.check_size(&topic, &payload)?;
        let appended = Guarded::new(|| self.store.append(&topic, payload)).await;
        appended
            .unwrap_or_else(|panic| Err(PublishError::Unavailable(Unavailable(panic))))
            .and_then(checked_published)
    }

    pub(crate) fn check_size(&self, topic: &Topic, payload: &[u8]) -> Result<(), PublishError> {
        let max_line = self.max_line.load(Ordering::Relaxed);
        match encode::notification_len(topic, payload) > max_line {
            true => Err(PublishError::TooLarge { max_line }),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Publisher")
    }
}
