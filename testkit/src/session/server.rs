//! The session's server: its handlers, and what it retains.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwire::{
    Failure, Publisher, Random, Router, Server, ServerConfig, ServerHandle, Streamed,
    protocol::Code,
    server::{FromRequest, IntoReply, Rejection, Reply, RequestParts, State},
    topic::{PublishError, Published},
};
use bytes::Bytes;
use futures::stream::{self, Stream};
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    doors::{Door, door},
    history::{Event, Number},
    lines::first_number,
    proxy::End,
    recorder::{Ending, Process, number},
    session::{
        LEASE,
        script::{ITEMS, NEWS, SLOW, text},
    },
};

/// The messages that a topic retains.
const RETAINED: usize = 3;

/// A server. It ends with all its connections when this is dropped.
pub(super) struct Backend {
    pub(super) desk: Desk,
    pub(super) handle: ServerHandle,
    door: Door,
    task: JoinHandle<io::Result<()>>,
}

/// The state that the handlers share.
#[derive(Clone)]
pub(super) struct Desk {
    process: Process,
    publisher: Publisher,
    /// How often each number was seen, for calls that are refused at first and for one-way
    /// requests.
    seen: Arc<Mutex<BTreeMap<u64, usize>>>,
}

impl Backend {
    pub(super) fn start(process: Process, seed: u64) -> Self {
        let (door, doorway) = door();
        let server = Server::new(doorway).config(config()).random(Random::seeded(seed));
        let desk = Desk { process, publisher: server.publisher(), seen: Arc::default() };
        let handle = server.handle();
        let task = tokio::spawn(server.serve(router(desk.clone())).into_future());
        Self { desk, handle, door, task }
    }

    /// A client's end of a new connection.
    pub(super) fn pipe(&self, size: usize) -> io::Result<End> {
        self.door.pipe(size)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Desk {
    /// Publishes to a topic; `None` if the server has ended.
    pub(super) async fn publish(&self, topic: &str, payload: String) -> Option<Published> {
        let topic = topic.to_owned();
        self.process.record(Event::Publishing { topic: topic.clone(), payload: payload.clone() });
        match self.publisher.publish(topic.as_str(), payload.clone()).await {
            Ok(published) => {
                let number = number(published.epoch, published.sequence);
                self.process.record(Event::Published { topic, number, payload });
                Some(published)
            }
            Err(PublishError::Closed) => {
                self.process.record(Event::Unpublished { topic, payload });
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Records that this message is the last one of its log.
    pub(super) fn head(&self, topic: &str, last: Published) {
        let Number { epoch, seq } = number(last.epoch, last.sequence);
        let next = Number { epoch, seq: seq + 1 };
        self.process.record(Event::Head { topic: topic.to_owned(), next });
    }

    /// How often this number was seen.
    pub(super) fn seen(&self, number: u64) -> usize {
        self.seen.lock().unwrap().get(&number).copied().unwrap_or_default()
    }

    fn see(&self, number: u64) {
        *self.seen.lock().unwrap().entry(number).or_default() += 1;
    }
}

fn config() -> ServerConfig {
    ServerConfig::new()
        .allow_publish(true)
        .retained_messages(RETAINED)
        .lease(LEASE)
        .idle(Duration::from_secs(25))
}

fn router(desk: Desk) -> Router<Desk> {
    Router::with_state(desk)
        .method("echo", async |call: Call| call.start().answer())
        .method("fail", async |call: Call| call.start().fail())
        .method("strict", async |_: Refused, call: Call| call.start().answer())
        .method("later", async |_: Later, call: Call| call.start().answer())
        .method("slow", slow)
        .method("list", list)
        .method("post", post)
        .method("tell", async |State(desk): State<Desk>, payload: Bytes| {
            desk.see(first_number(&payload).expect("a number"));
        })
}

async fn slow(call: Call) -> String {
    let running = call.start();
    sleep(SLOW).await;
    running.answer()
}

async fn list(call: Call) -> Streamed<impl Stream<Item = String>> {
    let first = (call.start(), 0);
    Streamed(stream::unfold(first, async |(running, count)| {
        let item = text(running.number, 160);
        (count < ITEMS).then_some((item, (running, count + 1)))
    }))
}

/// Publishes, and answers with the position of the message.
async fn post(State(desk): State<Desk>, call: Call) -> Result<Reply, Failure> {
    let running = call.start();
    match desk.publish(NEWS, format!("{} is posted", running.number)).await {
        Some(published) => Ok(running.answer().into_reply().after(NEWS, published)),
        None => Err(Failure::new(Code::CLOSING, "the server has ended")),
    }
}

/// A call, identified by its number.
struct Call {
    number: u64,
    process: Process,
}

impl Call {
    fn start(self) -> Running {
        Running { number: self.number, _ending: self.process.start(self.number) }
    }
}

/// A call with a running handler.
struct Running {
    number: u64,
    _ending: Ending,
}

impl Running {
    fn answer(&self) -> String {
        text(self.number, 210)
    }

    fn fail(&self) -> Result<(), Failure> {
        Err(Failure::new(Code::from_static("sold"), text(self.number, 160)))
    }
}

impl FromRequest<Desk> for Call {
    fn from_request(parts: &RequestParts<'_>, desk: &Desk) -> Result<Self, Rejection> {
        Ok(Self { number: number_of(parts), process: desk.process.clone() })
    }
}

/// An extractor that refuses every call.
struct Refused;

impl<S> FromRequest<S> for Refused {
    fn from_request(_: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        Err(Rejection::bad_arguments("it is never right"))
    }
}

/// An extractor that accepts a call only when it comes for the second time.
struct Later;

impl FromRequest<Desk> for Later {
    fn from_request(parts: &RequestParts<'_>, desk: &Desk) -> Result<Self, Rejection> {
        let number = number_of(parts);
        desk.see(number);
        match desk.seen(number) {
            1 => Err(Rejection::busy("come again").retry(Duration::from_millis(2))),
            _ => Ok(Self),
        }
    }
}

fn number_of(parts: &RequestParts<'_>) -> u64 {
    first_number(&parts.payload()).expect("the payload begins with a number")
}
