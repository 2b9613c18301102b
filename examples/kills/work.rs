//! What a client does: it publishes and calls, and records how that ended.

use std::{
    str,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bellwire::{CallError, Client, Progress, Replied, protocol::Position};
use bellwire_testkit::{
    history::{Event, Number},
    recorder::{failed, number, outcome},
};
use fastrand::Rng;
use tokio::time::{sleep, timeout};

use crate::{PATIENCE, TOPICS, log::Process};

/// What a task of a client does again and again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// `/publish`, to any topic.
    Publish,
    /// A call whose handler publishes, to a topic to which the client is subscribed.
    PublishByHandler,
    /// A call whose handler publishes nothing.
    Call,
    /// A call with a key. The client repeats it after a kill. If it does not learn the outcome, the
    /// application repeats it, too.
    KeyedCall,
    /// `/publish` with a key, repeated in the same way.
    KeyedPublish,
}

/// What the tasks of each client do.
pub(crate) const KINDS: [Kind; 5] =
    [Kind::Publish, Kind::PublishByHandler, Kind::Call, Kind::KeyedCall, Kind::KeyedPublish];

/// How often the application sends a request with a key.
const ATTEMPTS: usize = 3;

/// A client, and what its tasks share.
#[derive(Clone)]
pub(crate) struct Desk {
    client: Client,
    process: Process,
    /// The topics to which the client is subscribed.
    own: Vec<(&'static str, Progress)>,
    /// The last number of a call or a message, of all clients together. Numbers are the payloads.
    numbers: Arc<AtomicU64>,
    /// The mean pause between two requests.
    pause: Duration,
}

impl Desk {
    pub(crate) fn new(
        client: Client,
        process: Process,
        own: Vec<(&'static str, Progress)>,
        numbers: &Arc<AtomicU64>,
        pause: Duration,
    ) -> Self {
        Self { client, process, own, numbers: numbers.clone(), pause }
    }

    /// Does this, with pauses, until it is over.
    pub(crate) async fn work(self, kind: Kind, is_over: Arc<AtomicBool>, mut rng: Rng) {
        while !is_over.load(Ordering::Relaxed) {
            let number = self.next_number();
            let topic = rng.choice(TOPICS).unwrap_or("a");
            match kind {
                Kind::Publish => self.publish(topic, number).await,
                Kind::PublishByHandler => {
                    let own = rng.usize(..self.own.len());
                    self.publish_by_handler(own, number).await;
                }
                Kind::Call => self.call(number).await,
                Kind::KeyedCall => self.call_with_key(number).await,
                Kind::KeyedPublish => self.publish_with_key(topic, number).await,
            }
            sleep(self.pause.mul_f64(2.0 * rng.f64())).await;
        }
    }

    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    async fn publish(&self, topic: &str, message: u64) {
        let payload = message.to_string();
        self.record_publishing(topic, message);
        match self.client.publish(topic, &payload).await {
            Ok(published) => {
                self.record_published(topic, message, number(published.epoch, published.sequence));
            }
            Err(error) => self.record_unpublished(topic, message, &error),
        }
    }

    /// The message is the number of the call.
    async fn publish_by_handler(&self, own: usize, call: u64) {
        let (topic, progress) = &self.own[own];
        self.process.record(Event::Called { call, key: None });
        self.record_publishing(topic, call);
        let replied = self.client.call("publish", format!("{call} {topic}")).replied().await;
        let payload = replied.as_ref().map(|replied| replied.value.clone()).map_err(Clone::clone);
        self.process.record(Event::Ended { call, outcome: outcome(&payload) });
        match replied {
            Ok(replied) => {
                let position = position(&replied);
                self.record_published(topic, call, before(position));
                self.see(own as u64, progress, &replied).await;
            }
            Err(error) => self.record_unpublished(topic, call, &error),
        }
    }

    async fn call(&self, call: u64) {
        self.process.record(Event::Called { call, key: None });
        let result = self.client.call("call", call.to_string()).await;
        self.process.record(Event::Ended { call, outcome: outcome(&result) });
    }

    /// The payload is the number of the first attempt, and so is the key. Each attempt is a call of
    /// its own; the checker knows by the key that they run once together.
    async fn call_with_key(&self, first: u64) {
        let (payload, mut call) = (first.to_string(), first);
        for _ in 0..ATTEMPTS {
            self.process.record(Event::Called { call, key: Some(payload.clone()) });
            let result = self.client.call("call", &payload).key(first).await;
            self.process.record(Event::Ended { call, outcome: outcome(&result) });
            if !matches!(result, Err(CallError::Unknown(_))) {
                return;
            }
            call = self.next_number();
        }
    }

    /// It is certain that the message was not published only if that is certain after the first
    /// attempt.
    async fn publish_with_key(&self, topic: &str, message: u64) {
        let payload = message.to_string();
        self.record_publishing(topic, message);
        for attempt in 0..ATTEMPTS {
            match self.client.publish(topic, &payload).key(message).await {
                Ok(at) => {
                    let number = number(at.epoch, at.sequence);
                    return self.record_published(topic, message, number);
                }
                Err(CallError::Unknown(_)) => {}
                Err(error) if attempt == 0 => {
                    return self.record_unpublished(topic, message, &error);
                }
                Err(_) => return,
            }
        }
    }

    /// Waits until the subscription has seen the message of a reply, if the reply says where it is.
    async fn see(&self, subscription: u64, progress: &Progress, replied: &Replied) {
        let Some(after) = &replied.after else { return };
        if timeout(PATIENCE, progress.seen(after.position)).await == Ok(true) {
            let number = before(after.position);
            self.process.record(Event::Seen { subscription, number });
        }
    }

    fn record_publishing(&self, topic: &str, message: u64) {
        let (topic, payload) = (topic.to_owned(), message.to_string());
        self.process.record(Event::Publishing { topic, payload });
    }

    fn record_published(&self, topic: &str, message: u64, number: Number) {
        let (topic, payload) = (topic.to_owned(), message.to_string());
        self.process.record(Event::Published { topic, number, payload });
    }

    /// Records that a message was not published, if that is certain.
    fn record_unpublished(&self, topic: &str, message: u64, error: &CallError) {
        if error.is_safe_to_retry() {
            let (topic, payload) = (topic.to_owned(), message.to_string());
            self.process.record(Event::Unpublished { topic, payload });
        }
        self.process.record(Event::Note(format!("{message} ended {}: {error}", failed(error))));
    }
}

/// The position in the reply of the handler that publishes.
fn position(replied: &Replied) -> Position {
    let text = str::from_utf8(&replied.value).ok();
    let position = text.and_then(|text| text.split_once(' ')?.1.parse().ok());
    position.expect("the handler returns a position")
}

/// The number of the last message before a position.
fn before(position: Position) -> Number {
    number(position.epoch, position.next - 1)
}
