//! What a case works with: the open store, and the short forms of what a server does with it.

use std::{thread, time::Duration};

use bytes::Bytes;
use tokio::runtime::Handle;

use crate::{
    protocol::{Position, Topic, Window},
    sync::{Arc, Mutex},
    topic::{
        BoxFuture, PublishError, Published, TopicStore,
        suite::{
            check::{Checked, require, same},
            harness::{Ending, Harness},
            probe::{ALL, Item, Probe, numbered},
            threads::{Beside, Stop},
            under_test::{Capabilities, Limits, Options},
        },
    },
};

/// How long a case pauses before it asks again. The case's own thread sleeps, no other.
const PAUSE: Duration = Duration::from_millis(1);

/// The store, and what a case has to know of it.
pub(super) struct Bench {
    pub(super) harness: Box<dyn Harness>,
    store: Option<Arc<dyn TopicStore>>,
    /// What happens at each checkpoint of the case.
    pub(super) at_checkpoints: Option<Ending>,
    /// What the case checks now, for the report.
    pub(super) checking: Arc<Mutex<String>>,
    pub(super) stop: Stop,
    pub(super) runtime: Option<Handle>,
}

impl Bench {
    pub(super) fn new(harness: Box<dyn Harness>) -> Self {
        Self {
            harness,
            store: None,
            at_checkpoints: None,
            checking: Arc::default(),
            stop: Stop::default(),
            runtime: Handle::try_current().ok(),
        }
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        self.harness.capabilities()
    }

    pub(super) fn options(&self) -> Options {
        self.harness.options()
    }

    /// Begins the next part of the case.
    pub(super) fn check(&self, what: impl Into<String>) {
        self.stop.advances();
        *self.checking.lock() = what.into();
    }

    /// Opens a fresh store.
    pub(super) async fn open(&mut self, limits: Limits) {
        self.store = None;
        self.store = Some(self.harness.open(limits).await);
    }

    /// Drops the store.
    pub(super) fn end(&mut self) {
        self.store = None;
        self.harness.end();
    }

    pub(super) fn store(&self) -> &Arc<dyn TopicStore> {
        self.store.as_ref().expect("the case has opened a store")
    }

    /// Ends the store and opens it again, if the case runs for that. The case must have dropped its
    /// readers, and the futures of its appends.
    pub(super) async fn checkpoint(&mut self) {
        if let Some(ending) = self.at_checkpoints {
            self.again(ending).await;
        }
    }

    /// Ends the store and opens it again.
    pub(super) async fn again(&mut self, ending: Ending) {
        self.store = None;
        self.store = Some(self.harness.again(ending).await);
    }

    /// Runs a part of the case on a thread of its own.
    pub(super) fn beside<F, T>(
        &self,
        part: impl FnOnce(Arc<dyn TopicStore>) -> F + Send + 'static,
    ) -> Beside<T>
    where
        F: Future<Output = Checked<T>>,
        T: Send + 'static,
    {
        let store = self.store().clone();
        Beside::spawn(&self.stop, self.runtime.as_ref(), move || part(store))
    }

    pub(super) async fn publish(
        &self,
        topic: &Topic,
        payload: impl Into<Bytes>,
    ) -> Checked<Published> {
        publish(&**self.store(), &self.stop, topic, payload.into()).await
    }

    /// Publishes a message with a key, which has to get this number.
    pub(super) async fn publish_latest(
        &self,
        topic: &Topic,
        key: &'static str,
        (number, payload): (u64, &'static str),
    ) -> Checked {
        let append = || self.store().append_latest(topic, key.into(), payload.into());
        let published = again_while_busy(&self.stop, append).await?;
        same("the number of a message", published.sequence, number)
    }

    /// Publishes the decimal numbers `from..=to`, each of which has to get that number.
    pub(super) async fn publish_numbers(&self, topic: &Topic, from: u64, to: u64) -> Checked {
        for number in from..=to {
            let published = self.publish(topic, number.to_string()).await?;
            same("the number of a message", published.sequence, number)?;
        }
        Ok(())
    }

    pub(super) fn probe(&self, topic: &Topic) -> Probe {
        Probe::open(&**self.store(), topic)
    }

    /// A reader that stands at the number `next` of the log.
    pub(super) async fn probe_at(&self, topic: &Topic, next: u64) -> Checked<Probe> {
        let mut probe = self.probe(topic);
        let epoch = probe.window().await?.epoch;
        probe.position = Some(Position { epoch, next });
        Ok(probe)
    }

    pub(super) async fn window(&self, topic: &Topic) -> Checked<Window> {
        self.probe(topic).window().await
    }

    /// Checks that the log holds the messages `first..next`, and no other.
    pub(super) async fn holds(&self, topic: &Topic, first: u64, next: u64) -> Checked {
        let window = self.window(topic).await?;
        same("the window (first, next)", (window.first, window.next), (first, next))
    }

    /// Checks that the whole log has these payloads.
    pub(super) async fn has<T: AsRef<[u8]>>(&self, topic: &Topic, payloads: &[T]) -> Checked {
        let next = payloads.len() as u64 + 1;
        self.holds(topic, 1, next).await?;
        let found = self.probe_at(topic, 1).await?.read_to(next, ALL).await?;
        same_items(&found, &numbered(1, payloads))
    }

    /// Closes a log.
    pub(super) async fn close(&self, topic: &Topic) -> Checked<Option<Position>> {
        Ok(self.store().close(topic).await?)
    }

    /// Asks again and again until the first number held is right. A store may drop messages a little
    /// later.
    pub(super) async fn until(
        &self,
        topic: &Topic,
        next: u64,
        is_right: impl Fn(u64) -> bool,
    ) -> Checked<Window> {
        loop {
            let window = self.window(topic).await?;
            same("the next number", window.next, next)?;
            if is_right(window.first) {
                return Ok(window);
            }
            let found = || format!("the window stayed {window:?}");
            require(!self.stop.is_stopped(), found)?;
            thread::sleep(PAUSE);
        }
    }
}

/// Publishes, again while the store is busy.
pub(super) async fn publish(
    store: &dyn TopicStore,
    stop: &Stop,
    topic: &Topic,
    payload: Bytes,
) -> Checked<Published> {
    again_while_busy(stop, || store.append(topic, payload.clone())).await
}

async fn again_while_busy(
    stop: &Stop,
    append: impl Fn() -> BoxFuture<Result<Published, PublishError>>,
) -> Checked<Published> {
    loop {
        match append().await {
            Err(PublishError::Busy(_)) if !stop.is_stopped() => thread::sleep(PAUSE),
            published => {
                stop.advances();
                return Ok(published?);
            }
        }
    }
}

/// Fails with the first item that differs.
pub(super) fn same_items(found: &[Item], expected: &[Item]) -> Checked {
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    let at = differs.unwrap_or(found.len().min(expected.len()));
    require(at == found.len().max(expected.len()), || match (found.get(at), expected.get(at)) {
        (Some(found), Some(expected)) => format!("read {found:?}, expected {expected:?}"),
        (Some(found), None) => format!("read {found:?} behind the last one"),
        (None, expected) => format!("read no {expected:?}"),
    })
}

/// A topic of a case.
pub(super) fn topic(name: &str) -> Topic {
    Topic::new(name).expect("a valid name of a case")
}
