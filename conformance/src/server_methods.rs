//! The methods of the test server: those of PROTOCOL.md's transcripts, and some for further cases.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bellwire::{
    Failure, Publisher, Router, State, Streamed, handler,
    protocol::Code,
    server::{FromRequest, Rejection, Reply, RequestParts},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::sync::{Notify, oneshot};

/// The methods that a server under test has to have.
pub const METHODS: [&str; 18] = [
    "add",
    "asked",
    "closed",
    "count",
    "count.fail",
    "echo",
    "fail",
    "note",
    "offers.get",
    "offers.list",
    "panic",
    "random",
    "refuse",
    "size",
    "sizes",
    "steps",
    "unsure",
    "wait",
];

/// What the handlers of one server share with its control methods.
#[derive(Clone, Default)]
pub struct Shared(Arc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: Mutex<HashMap<String, Vec<oneshot::Sender<()>>>>,
    begun: Notify,
    notes: Mutex<Vec<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

impl Shared {
    /// Ends once `name` is told to finish.
    pub async fn wait(&self, name: &str) {
        let (tell, told) = oneshot::channel();
        locked(&self.0.waiting).entry(name.to_owned()).or_default().push(tell);
        self.0.begun.notify_waiters();
        // A server that is dropped finishes nothing.
        let _ = told.await;
    }

    /// Lets the oldest handler that waits under `name` finish, as soon as there is one.
    pub async fn finish(&self, name: &str) {
        loop {
            let begun = self.0.begun.notified();
            let mut begun = std::pin::pin!(begun);
            begun.as_mut().enable();
            if let Some(tell) = self.take(name) {
                if tell.send(()).is_ok() {
                    return;
                }
                continue;
            }
            begun.await;
        }
    }

    fn take(&self, name: &str) -> Option<oneshot::Sender<()>> {
        let mut waiting = locked(&self.0.waiting);
        let tells = waiting.get_mut(name)?;
        tells.retain(|tell| !tell.is_closed());
        if tells.is_empty() { None } else { Some(tells.remove(0)) }
    }

    /// The names under which a handler waits, sorted.
    pub fn waits(&self) -> Vec<String> {
        let is_alive =
            |tells: &Vec<oneshot::Sender<()>>| tells.iter().any(|tell| !tell.is_closed());
        let waiting = locked(&self.0.waiting);
        let alive = waiting.iter().filter(|(_, tells)| is_alive(tells));
        let mut names: Vec<_> = alive.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// What `note` was called with, in the order in which the handlers ran.
    pub fn notes(&self) -> Vec<String> {
        locked(&self.0.notes).clone()
    }
}

async fn wait(State(shared): State<Shared>, name: String) -> Reply {
    shared.wait(&name).await;
    Reply::ok(format!("done {name}"))
}

async fn note(State(shared): State<Shared>, text: String) {
    locked(&shared.0.notes).push(text);
}

async fn echo(payload: Bytes) -> Bytes {
    payload
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

/// A number as the whole payload.
struct Number(u64);

impl<S> FromRequest<S> for Number {
    fn from_request(parts: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        let payload = parts.payload();
        let number = str::from_utf8(&payload).ok().and_then(|text| text.parse().ok());
        number.map(Self).ok_or_else(|| Rejection::bad_arguments("usage: N"))
    }
}

async fn count(Number(items): Number) -> Streamed<impl Stream<Item = String>> {
    Streamed(stream::iter(1..=items).map(|item| item.to_string()))
}

async fn count_and_fail(
    Number(items): Number,
) -> Streamed<impl Stream<Item = Result<String, Failure>>> {
    let broken = Failure::new(Code::from_static("broken"), "as it is told to");
    let items = stream::iter(1..=items).map(|item| Ok(item.to_string()));
    Streamed(items.chain(stream::iter([Err(broken)])))
}

/// Each item is made once its name is told to finish: `NAME.1`, `NAME.2`, …
async fn steps(
    State(shared): State<Shared>,
    name: String,
) -> Streamed<impl Stream<Item = String> + Send> {
    Streamed(stream::unfold(1_u64, move |step| {
        let (shared, name) = (shared.clone(), format!("{name}.{step}"));
        async move {
            shared.wait(&name).await;
            Some((name, step + 1))
        }
    }))
}

async fn size(Number(bytes): Number) -> String {
    "x".repeat(bytes as usize)
}

async fn sizes(Number(bytes): Number) -> Streamed<impl Stream<Item = String>> {
    Streamed(stream::iter(["first".to_owned(), "x".repeat(bytes as usize), "last".to_owned()]))
}

async fn fail(Number(bytes): Number) -> Result<(), Failure> {
    Err(Failure::new(Code::from_static("broken"), "x".repeat(bytes as usize)))
}

async fn panic() {
    // Without the hook, which would print a backtrace each time.
    std::panic::resume_unwind(Box::new("as it is told to"));
}

async fn add(publisher: Publisher, offer: Bytes) -> Result<Reply, Failure> {
    let full = |error| Failure::new(Code::from_static("full"), format!("{error}"));
    let published = publisher.publish("offers", offer).await.map_err(full)?;
    Ok(Reply::ok("").after("offers", published))
}

/// Refuses before its handler starts: `busy` with a hint, and any other with the code it is given.
struct Refusal;

impl<S> FromRequest<S> for Refusal {
    fn from_request(parts: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        Err(match &*parts.payload() {
            b"busy" => Rejection::busy("as it is told to").retry(Duration::from_millis(250)),
            b"forbidden" => Rejection::forbidden("as it is told to"),
            b"too-many" => Rejection::too_many("as it is told to"),
            b"too-large" => Rejection::too_large("as it is told to"),
            _ => Rejection::bad_arguments("busy, forbidden, too-many or too-large"),
        })
    }
}

/// All of them.
pub fn router(shared: Shared) -> Router<Shared> {
    Router::with_state(shared)
        .method("random", handler(async || "4").doc("[MAX]: a random number below MAX"))
        .method("offers.get", handler(get).doc("ID: one offer"))
        .method("offers.list", handler(list).doc("all offers, one by one"))
        .method("echo", handler(echo).doc("answer with the payload"))
        .method("wait", handler(wait).doc("X: answer when told"))
        .method("panic", handler(panic).doc("always fails"))
        .method("add", handler(add).doc("publish an offer"))
        .method("note", handler(note).doc("TEXT: remember that it was called"))
        .method("count", handler(count).doc("N: stream the numbers from 1 to N"))
        .method("count.fail", handler(count_and_fail).doc("N: the same, then fail"))
        .method("steps", handler(steps).doc("X: stream an item each time when told"))
        .method("size", handler(size).doc("N: answer with N bytes"))
        .method("sizes", handler(sizes).doc("N: stream an item, one of N bytes, and another"))
        .method("fail", handler(fail).doc("N: fail with a text of N bytes"))
        .method("closed", handler(echo).doc("the same as echo; forbidden with `auth`"))
        .method("unsure", handler(echo).doc("the same as echo; refused as busy with `auth`"))
        .method("asked", handler(note).doc("the same as note; allowed when told with `auth`"))
        .method("refuse", handler(async |_: Refusal| ()).doc("CODE: refuse with it"))
}
