//! The methods of the server that the transcripts are played against
//! (docs/protocol/transcripts.md).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bellwire::{
    Failure, Publisher, Router, State, handler,
    protocol::Code,
    server::{Reply, Request, Streamed},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::sync::oneshot;

/// The requests whose handlers wait until the test lets them finish.
#[derive(Clone, Default)]
pub struct Waiting(Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>);

impl Waiting {
    /// Lets the waiting handler of `id` finish.
    pub async fn finish(&self, id: u64) -> Result<(), String> {
        for _ in 0..1_000 {
            if let Some(told) = self.0.lock().unwrap().remove(&id) {
                return told.send(()).map_err(|()| format!("{id} waits no more"));
            }
            tokio::task::yield_now().await;
        }
        Err(format!("the handler of {id} does not wait"))
    }

    /// How many handlers wait, or waited and were cancelled.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Whether the handler of `id` waits now.
    pub fn waits(&self, id: u64) -> bool {
        self.0.lock().unwrap().get(&id).is_some_and(|told| !told.is_closed())
    }
}

async fn wait(State(waiting): State<Waiting>, request: Request) -> Reply {
    let (told, finished) = oneshot::channel();
    let id = request.id.map_or(0, |id| id.get());
    waiting.0.lock().unwrap().insert(id, told);
    let _ = finished.await;
    Reply::ok([b"done ", &request.payload[..]].concat())
}

async fn get(id: String) -> Result<String, Failure> {
    match id.parse() {
        Ok(1..=99) => Ok(format!(r#"{{"id":{id},"title":"Nice flat in the 11e","rent":900}}"#)),
        _ => Err(Failure::new(Code::from_static("not-found"), format!("no offer {id}"))),
    }
}

async fn list() -> Streamed<impl Stream<Item = String>> {
    Streamed(stream::iter(1..=3).map(|id| format!(r#"{{"id":{id}}}"#)))
}

async fn add(publisher: Publisher, offer: Bytes) -> Reply {
    let published = publisher.publish("offers", offer).await.expect("published");
    Reply::ok("").after("offers", published)
}

async fn panic() {
    panic!("as it is told to");
}

/// The methods of the transcripts.
pub fn router(waiting: Waiting) -> Router<Waiting> {
    Router::with_state(waiting)
        .method("random", handler(async || "4").doc("[MAX]: a random number below MAX"))
        .method("offers.get", handler(get).doc("ID: one offer"))
        .method("offers.list", handler(list).doc("all offers, one by one"))
        .method("echo", handler(async |payload: Bytes| payload).doc("answer with the payload"))
        .method("wait", handler(wait).doc("X: answer when told"))
        .method("panic", handler(panic).doc("always fails"))
        .method("add", handler(add).doc("publish an offer"))
}
