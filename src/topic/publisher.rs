//! The handle that publishes.

use std::{any::TypeId, fmt, future::poll_fn, time::Duration};

use bytes::Bytes;

use crate::{
    coop::{consume_budget, consume_message},
    guard::Guarded,
    protocol::{DEFAULT_MAX_LINE, Position, Topic, encode},
    sync::{Arc, AtomicUsize, Ordering},
    topic::{
        Confirmations, Confirmed, MemoryTopics, PublishError, Published, TopicStore, Unavailable,
        checked_end, checked_published, gate::Gate,
    },
};

/// Publishes to the topics of a server, from any task. Cheap to clone.
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
    /// The store is one of this crate, whose lines need no check.
    is_own: bool,
    /// Shared, because a server may be configured after its publisher was handed out.
    max_line: Arc<AtomicUsize>,
    /// Shut once the server has stopped.
    gate: Arc<Gate>,
    confirmations: Arc<Confirmations>,
}

impl Publisher {
    /// A publisher to a store that no server has, for tests of handlers and stores. The publisher
    /// of a server is [`Server::publisher`](crate::Server::publisher).
    ///
    /// It accepts lines of up to 65,535 bytes, and is never closed.
    ///
    /// ```
    /// use bellwire::{Publisher, Random, topic::MemoryTopics};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let publisher = Publisher::new(MemoryTopics::new(&Random::seeded(7)));
    /// assert_eq!(publisher.publish("offers", "one").await.unwrap().sequence, 1);
    /// # }
    /// ```
    pub fn new<S: TopicStore>(store: S) -> Self {
        let is_own = is_own::<S>();
        let max_line = Arc::new(AtomicUsize::new(DEFAULT_MAX_LINE));
        let (gate, confirmations) = Default::default();
        Self { store: Arc::new(store), is_own, max_line, gate, confirmations }
    }

    /// Whether its store is one of this crate.
    pub(crate) fn is_own(&self) -> bool {
        self.is_own
    }

    pub(crate) fn set_max_line(&self, max_line: usize) {
        self.max_line.store(max_line, Ordering::Relaxed);
    }

    pub(crate) fn store(&self) -> &dyn TopicStore {
        &*self.store
    }

    /// Publishes `payload`, any bytes, to `topic`. Returns the message's number once the log has
    /// accepted it.
    ///
    /// It never waits for subscribers. Messages that are published one after the other to one topic
    /// are numbered in that order. When a server stops, it still delivers every message that was
    /// accepted (docs/protocol/leaving.md, section 18).
    ///
    /// A task that publishes in a loop lets others run after every 32 messages or 64 KiB, because
    /// it takes part in tokio's cooperative budget. So connections on the same thread read and
    /// write meanwhile, and a subscriber that keeps up loses nothing. A subscriber that is behind
    /// by more than the topic retains gets a gap. Three settings belong together.
    /// [`ServerConfig::retained_bytes`](crate::ServerConfig::retained_bytes) limits how far a
    /// subscriber may be behind. [`ClientConfig::inbox_bytes`](crate::ClientConfig::inbox_bytes)
    /// limits how much a client holds for its application. With a
    /// [`window`](crate::Subscribe::window), further messages stay on the server. Outside of tasks,
    /// for example on a thread within `Handle::block_on`, the thread yields instead.
    ///
    /// To publish JSON, encode it: `publisher.publish("offers", serde_json::to_vec(&offer)?)`.
    ///
    /// To store and publish in one order, hold a lock of tokio around both steps. In a handler this
    /// needs a task of its own, because a [handler](crate::server::Handler) may be dropped between
    /// the steps:
    ///
    /// ```
    /// use std::sync::Arc;
    /// use bellwire::{PublishError, Published, Publisher};
    /// use tokio::{sync::Mutex, task::JoinError};
    /// use tracing::Instrument;
    ///
    /// async fn add(
    ///     store: Arc<Mutex<Vec<String>>>,
    ///     publisher: Publisher,
    ///     offer: String,
    /// ) -> Result<Result<Published, PublishError>, JoinError> {
    ///     let both = async move {
    ///         let mut store = store.lock().await; // until both steps are done
    ///         store.push(offer.clone());
    ///         publisher.publish("offers", offer).await
    ///     };
    ///     tokio::spawn(both.in_current_span()).await
    /// }
    /// ```
    ///
    /// # Errors
    /// [`PublishError`]: the topic's name is invalid, the line would be over `max-line`, there are
    /// too many topics, the server has stopped, or the store was busy or failed.
    ///
    /// # Cancel safety
    /// Once the future was polled, the message may be published even if the future is dropped,
    /// because it is appended first, and other tasks run after that.
    pub async fn publish(
        &self,
        topic: impl TryInto<Topic>,
        payload: impl Into<Bytes>,
    ) -> Result<Published, PublishError> {
        let payload = payload.into();
        let bytes = payload.len();
        // The number is taken at the first poll, before other tasks run. So futures that are polled
        // one after the other are numbered in that order.
        let published = self.append(topic, None, payload).await;
        consume_message(bytes).await;
        published
    }

    /// Publishes as [`publish`](Self::publish) does, and the message takes the place of the message
    /// that was published to the topic with the same `key`.
    ///
    /// So the topic retains the latest message of each key, and those without a key. A late
    /// subscriber gets them with a large [`last`](crate::Subscribe::last), and then what is
    /// published. For numbers whose messages were replaced it gets a gap with the cause
    /// `replaced`, which is no [loss](crate::Subscribe::fail_on_loss): it also gets the message that
    /// replaced them. A subscriber that keeps up gets every message.
    ///
    /// All stores of this crate can do it. What was replaced stays so over restarts of a durable
    /// store. If that loses or damages a message, the gap has another cause.
    ///
    /// The limits on what a topic retains hold for the messages that it has not replaced. Over them
    /// the oldest leave, whatever their keys are. Subscribers do not see the key, so the payload has
    /// to name what the message is about.
    ///
    /// ```
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = bellwire::Server::bind("127.0.0.1:0").await?;
    /// let publisher = server.publisher();
    /// publisher.publish_latest("prices", "ACME", "ACME 12.50").await?;
    /// publisher.publish_latest("prices", "INIT", "INIT 7.00").await?;
    /// publisher.publish_latest("prices", "ACME", "ACME 12.75").await?; // the first one leaves
    /// # Ok(()) }
    /// # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`publish`](Self::publish); [`PublishError::Unsupported`] if the topic store is one of
    /// another crate and does not know keys. [`PublishError::TooLarge`] also if the key is longer than
    /// a line may be.
    ///
    /// # Cancel safety
    /// As `publish`.
    pub async fn publish_latest(
        &self,
        topic: impl TryInto<Topic>,
        key: impl Into<Bytes>,
        payload: impl Into<Bytes>,
    ) -> Result<Published, PublishError> {
        let (key, payload) = (key.into(), payload.into());
        let bytes = key.len() + payload.len();
        let published = self.append(topic, Some(key), payload).await;
        consume_message(bytes).await;
        published
    }

    /// Publishes as [`publish`](Self::publish) does, and then waits until the subscribers have
    /// acknowledged the message, for at most the time `within`.
    ///
    /// It counts the subscriptions with a [`window`](crate::Subscribe::window) that this server had
    /// for the topic when the call began: others need not acknowledge. It returns early once each
    /// of them has acknowledged the message, has got a gap in its place, or has ended. A client
    /// that reconnects meanwhile gets the message on a new subscription, which is not counted. A
    /// client acknowledges several messages together, after half of its window at the latest
    /// (docs/protocol/acks.md, section 16). So a subscriber that is to confirm each message at once
    /// asks for a window of 1 or 2.
    ///
    /// With a store that several servers share, subscribers of the other servers are not counted.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = bellwire::Server::bind("127.0.0.1:0").await?;
    /// let publisher = server.publisher();
    /// let confirmed =
    ///     publisher.publish_confirmed("doors", "lock", Duration::from_secs(5)).await?;
    /// if confirmed.acknowledged < confirmed.subscribers {
    ///     println!("{} of {} doors", confirmed.acknowledged, confirmed.subscribers);
    /// }
    /// # Ok(()) }
    /// # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`publish`](Self::publish). It is no error if acks are missing.
    ///
    /// # Panics
    /// Outside a tokio runtime with a timer, once the message was published.
    ///
    /// # Cancel safety
    /// As `publish`.
    pub async fn publish_confirmed(
        &self,
        topic: impl TryInto<Topic>,
        payload: impl Into<Bytes>,
        within: Duration,
    ) -> Result<Confirmed, PublishError> {
        let topic = topic.try_into().map_err(|_| PublishError::InvalidTopic)?;
        let expected = self.confirmations.expect(&topic);
        let published = self.publish(topic, payload).await?;
        expected.published(published);
        // What is missing then is not counted.
        let _ = tokio::time::timeout(within, poll_fn(|cx| expected.poll_all(cx))).await;
        Ok(expected.confirmed(published))
    }

    /// The subscribers that acknowledge, for the connections of its server.
    pub(crate) fn confirmations(&self) -> &Arc<Confirmations> {
        &self.confirmations
    }

    async fn append(
        &self,
        topic: impl TryInto<Topic>,
        key: Option<Bytes>,
        payload: Bytes,
    ) -> Result<Published, PublishError> {
        let topic = topic.try_into().map_err(|_| PublishError::InvalidTopic)?;
        self.check_size(&topic, &payload)?;
        let max_line = self.max_line.load(Ordering::Relaxed);
        if key.as_ref().is_some_and(|key| key.len() > max_line) {
            return Err(PublishError::TooLarge { max_line });
        }
        let _pass = self.gate.enter().ok_or(PublishError::Closed)?;
        let append = || match key {
            Some(key) => self.store.append_latest(&topic, key, payload),
            None => self.store.append(&topic, payload),
        };
        let appended = Guarded::new(append).await;
        appended
            .unwrap_or_else(|panic| Err(PublishError::Unavailable(Unavailable(panic))))
            .and_then(checked_published)
    }

    /// Ends the log of a topic that is over, such as that of a finished job. Returns where the log
    /// ended; `None` if nothing was published to the topic since it was last closed.
    ///
    /// Its subscribers get the remaining messages, and then [`Delivery::End`] with the reason
    /// `closed`. The log is dropped, and no longer counts against
    /// [`ServerConfig::topics`](crate::ServerConfig::topics). A later message begins a new log,
    /// under a new epoch.
    ///
    /// ```
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = bellwire::Server::bind("127.0.0.1:0").await?;
    /// let publisher = server.publisher();
    /// publisher.publish("jobs.17", "done").await?;
    /// let end = publisher.close("jobs.17").await?;
    /// assert_eq!(end.map(|end| end.next), Some(2));
    /// assert_eq!(publisher.close("jobs.17").await?, None);
    /// # Ok(()) }
    /// # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// [`Delivery::End`]: crate::Delivery::End
    ///
    /// # Errors
    /// [`PublishError`]: the topic's name is invalid, the server has stopped, or the store failed
    /// or does not close logs.
    ///
    /// # Cancel safety
    /// Once the future was polled, the log may be closed even if the future is dropped.
    pub async fn close(
        &self,
        topic: impl TryInto<Topic>,
    ) -> Result<Option<Position>, PublishError> {
        let closed = self.close_log(topic).await;
        consume_budget().await;
        closed
    }

    async fn close_log(
        &self,
        topic: impl TryInto<Topic>,
    ) -> Result<Option<Position>, PublishError> {
        let topic = topic.try_into().map_err(|_| PublishError::InvalidTopic)?;
        let _pass = self.gate.enter().ok_or(PublishError::Closed)?;
        let closed = Guarded::new(|| self.store.close(&topic)).await;
        closed
            .unwrap_or_else(|panic| Err(Unavailable(panic)))
            .map_err(PublishError::Unavailable)
            .and_then(checked_end)
    }

    /// Refuses every later publish.
    pub(crate) fn shut(&self) {
        self.gate.shut();
    }

    /// Refuses every later publish, and waits until those in progress have ended.
    pub(crate) async fn finish(&self) {
        self.gate.shut();
        self.gate.idle().await;
    }

    pub(crate) fn check_size(&self, topic: &Topic, payload: &[u8]) -> Result<(), PublishError> {
        let max_line = self.max_line.load(Ordering::Relaxed);
        match encode::notification_fits(topic, payload, max_line) {
            true => Ok(()),
            false => Err(PublishError::TooLarge { max_line }),
        }
    }
}

/// Whether the lines of this store are encoded by this crate.
fn is_own<S: TopicStore>() -> bool {
    #[cfg(feature = "sqlite")]
    if TypeId::of::<S>() == TypeId::of::<crate::topic::sqlite::SqliteTopics>() {
        return true;
    }
    TypeId::of::<S>() == TypeId::of::<MemoryTopics>()
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Publisher")
    }
}
