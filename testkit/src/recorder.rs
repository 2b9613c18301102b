//! Records a history: what the application of each process sees, and the lines that a proxy passes
//! on.

use std::sync::{Arc, Mutex, PoisonError};

use bellwire::{
    CallError, Delivery, Gap, GapCause,
    protocol::{Epoch, Position},
    topic::Published,
};
use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    history::{Cause, Event, History, Line, Number, Outcome, Span},
    lines::{self, Way},
    proxy::{Direction, Wire},
};

/// A history that many tasks write to.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    history: Mutex<History>,
    begun: Instant,
}

impl Recorder {
    /// An empty history. Its time begins now.
    pub fn new() -> Self {
        Self(Arc::new(Inner { history: Mutex::default(), begun: Instant::now() }))
    }

    pub fn process(&self, name: &str) -> Process {
        Process { recorder: self.clone(), name: name.into() }
    }

    /// Records the lines of this wire's connections, all of which belong to this client. Takes the
    /// place of the wire's observer.
    pub fn watch(&self, wire: &Wire, client: &Process) {
        let client = client.clone();
        wire.observe(move |connection, direction, line| {
            let way = match direction {
                Direction::ToServer => Way::ToServer,
                Direction::ToClient => Way::ToClient,
            };
            if let Some(line) = lines::read(way, line) {
                client.record(Event::Wire { connection: connection as u64, line });
            }
        });
    }

    /// Records the end of all closed connections, and of those before the last one, which the
    /// client has given up.
    pub fn close(&self, wire: &Wire, client: &Process) {
        let count = wire.connections();
        for connection in (0..count).filter(|&n| n + 1 < count || !wire.is_open(n)) {
            client.record(Event::Wire { connection: connection as u64, line: Line::Closed });
        }
    }

    pub fn history(&self) -> History {
        self.lock(|history| history.clone())
    }

    /// Panics with what is broken.
    pub fn assert_holds(&self) {
        self.lock(|history| history.assert_holds());
    }

    /// A panic of a writing thread must not hide the log.
    fn lock<R>(&self, look: impl FnOnce(&mut History) -> R) -> R {
        look(&mut self.0.history.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A process that records what it sees.
#[derive(Clone)]
pub struct Process {
    recorder: Recorder,
    name: Arc<str>,
}

impl Process {
    pub fn record(&self, event: Event) {
        let at = self.recorder.0.begun.elapsed().as_millis() as u64;
        self.recorder.lock(|history| history.record(at, &self.name, event));
    }

    /// Records this event when the returned value is dropped.
    pub fn until_dropped(&self, event: Event) -> Ending {
        Ending { process: self.clone(), event: Some(event) }
    }

    /// Records that a handler begins. Its end is recorded when the returned value is dropped.
    pub fn start(&self, call: u64) -> Ending {
        self.record(Event::Started { call });
        self.until_dropped(Event::Finished { call })
    }

    /// Makes a call. If this future is dropped before it has ended, the call is recorded as
    /// dropped.
    pub async fn call(
        &self,
        call: u64,
        asked: impl Future<Output = Result<Bytes, CallError>>,
    ) -> Outcome {
        self.record(Event::Called { call, key: None });
        let ending = self.until_dropped(Event::GivenUp { call });
        let outcome = outcome(&asked.await);
        ending.instead(Event::Ended { call, outcome });
        outcome
    }

    /// Publishes.
    pub async fn publish(
        &self,
        topic: &str,
        payload: &str,
        asked: impl Future<Output = Result<Published, CallError>>,
    ) -> Result<Published, CallError> {
        let (topic, payload) = (topic.to_owned(), payload.to_owned());
        self.record(Event::Publishing { topic: topic.clone(), payload: payload.clone() });
        let result = asked.await;
        match &result {
            Ok(Published { epoch, sequence, .. }) => {
                let number = number(*epoch, *sequence);
                self.record(Event::Published { topic, number, payload });
            }
            Err(error) if error.is_safe_to_retry() => {
                self.record(Event::Unpublished { topic, payload });
            }
            Err(_) => {}
        }
        result
    }

    /// Records an item that a subscription has delivered.
    pub fn deliver(&self, subscription: u64, delivery: &Delivery) {
        self.record(told(subscription, delivery));
    }
}

/// An event that is recorded when this is dropped, unless another event replaces it.
pub struct Ending {
    process: Process,
    event: Option<Event>,
}

impl Ending {
    pub fn instead(mut self, event: Event) {
        self.event = Some(event);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            self.process.record(event);
        }
    }
}

pub fn number(epoch: Epoch, seq: u64) -> Number {
    Number::new(epoch.as_str(), seq)
}

/// The number of this position.
pub fn behind(position: Position) -> Number {
    number(position.epoch, position.next)
}

/// How a call ended. The payload of its reply begins with the number of the call.
pub fn outcome(result: &Result<Bytes, CallError>) -> Outcome {
    match result {
        Ok(reply) => Outcome::Ok { names: lines::first_number(reply).unwrap_or_default() },
        Err(error) => failed(error),
    }
}

/// The outcome of a call that failed.
pub fn failed(error: &CallError) -> Outcome {
    match error {
        CallError::Remote(_) | CallError::Decode(_) => Outcome::Remote,
        CallError::Refused { .. } => Outcome::Refused,
        CallError::NotSent(_) | CallError::Encode(_) => Outcome::NotSent,
        _ => Outcome::Unknown,
    }
}

/// The event for a delivery to the application.
pub fn told(subscription: u64, delivery: &Delivery) -> Event {
    match delivery {
        Delivery::Notification(one) => Event::Delivered {
            subscription,
            number: number(one.epoch, one.sequence),
            payload: String::from_utf8_lossy(&one.payload).into(),
        },
        Delivery::Gap(Gap { epoch, first, last, cause, .. }) => Event::Missed {
            subscription,
            span: Span::new(epoch.as_str(), *first, *last),
            cause: match cause {
                GapCause::Server(_) => Cause::Server,
                GapCause::Lagged => Cause::Lagged,
                _ => Cause::Lost,
            },
        },
        Delivery::Reset { position, .. } => Event::Reset { subscription, next: behind(*position) },
        Delivery::End { position: Some(position), .. } => {
            Event::Over { subscription, next: behind(*position) }
        }
        other => panic!("what is to be recorded of {other:?}?"),
    }
}
