//! A server's handlers. A payload begins with the number of its call, and so does the reply.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwire::{
    Failure, Publisher, Router, State, Streamed, handler,
    protocol::Code,
    server::{FromRequest, IntoReply, Rejection, Reply, RequestParts},
};
use fastrand::Rng;
use futures::stream::{self, Stream};
use tokio::time::sleep;

use super::{between, recorder::Recorder};
use crate::{
    asked::Asked,
    history::{Event, Number},
};

/// The state that all handlers of a server share.
#[derive(Clone)]
pub(crate) struct App {
    recorder: Recorder,
    rng: Arc<Mutex<Rng>>,
}

/// An extractor that refuses two of three calls for now.
struct Mood;

/// A running handler.
struct Running {
    recorder: Recorder,
    call: u64,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.recorder.record(Event::Finished { call: self.call });
    }
}

impl App {
    fn start(&self, call: u64) -> Running {
        let recorder = self.recorder.clone();
        recorder.record(Event::Started { call });
        Running { recorder, call }
    }

    fn pause(&self, millis: std::ops::Range<u64>) -> tokio::time::Sleep {
        sleep(between(&mut self.rng.lock().unwrap(), millis))
    }
}

impl FromRequest<App> for Mood {
    fn from_request(_: &RequestParts<'_>, app: &App) -> Result<Self, Rejection> {
        let mut rng = app.rng.lock().unwrap();
        match rng.u8(..3) {
            0 => Ok(Self),
            1 => Err(Rejection::busy("not now").retry(between(&mut rng, 1..1_000))),
            _ => Err(Rejection::forbidden("not you")),
        }
    }
}

pub(crate) fn router(recorder: Recorder, rng: Rng) -> Router<App> {
    Router::with_state(App { recorder, rng: Arc::new(Mutex::new(rng)) })
        .method("echo", echo)
        .method("spawned", handler(brief).spawned())
        .method("brief", brief)
        .method("slow", slow)
        .method("fail", fail)
        .method("moody", moody)
        .method("count", count)
        .method("post", post)
        .method("note", note)
}

async fn echo(State(app): State<App>, Asked { call, .. }: Asked) -> String {
    let _running = app.start(call);
    call.to_string()
}

async fn brief(State(app): State<App>, Asked { call, .. }: Asked) -> String {
    let _running = app.start(call);
    app.pause(1..50).await;
    call.to_string()
}

async fn slow(State(app): State<App>, Asked { call, .. }: Asked) -> String {
    let _running = app.start(call);
    app.pause(200..6_000).await;
    call.to_string()
}

async fn fail(State(app): State<App>, Asked { call, .. }: Asked) -> Result<String, Failure> {
    let _running = app.start(call);
    Err(Failure::new(Code::from_static("sorry"), call.to_string()))
}

async fn moody(_: Mood, app: State<App>, asked: Asked) -> String {
    brief(app, asked).await
}

/// Streams items of some kilobytes, so that the stream has to wait for credit.
async fn count(
    State(app): State<App>,
    Asked { call, text }: Asked,
) -> Streamed<impl Stream<Item = String>> {
    let (running, to) = (app.start(call), text.parse().unwrap_or(3));
    Streamed(stream::unfold((app, running, 0), move |(app, running, number)| async move {
        if number == to {
            return None;
        }
        app.pause(1..300).await;
        Some((format!("{call} {}", "x".repeat(200)), (app, running, number + 1)))
    }))
}

/// `CALL TOPIC`: publishes, and answers with the position of the message.
async fn post(
    State(app): State<App>,
    publisher: Publisher,
    Asked { call, text: topic }: Asked,
) -> Result<Reply, Failure> {
    let _running = app.start(call);
    app.pause(1..50).await;
    let payload = format!("p{call}");
    let publishing = Event::Publishing { topic: topic.clone(), payload: payload.clone() };
    app.recorder.record(publishing);
    let published = publisher.publish(topic.as_str(), payload.clone()).await;
    let published = published.map_err(|_| Failure::new(Code::from_static("full"), ""))?;
    let number = Number::new(published.epoch.to_string(), published.sequence);
    app.recorder.record(Event::Published { topic: topic.clone(), number, payload });
    Ok(call.to_string().into_reply().after(topic, published))
}

/// `NUMBER TOPIC PAYLOAD`, one-way: publishes what its sender has recorded.
async fn note(State(app): State<App>, publisher: Publisher, text: String) {
    let (number, text) = text.split_once(' ').unwrap_or_default();
    let one_way = number.parse().expect("the number that its sender gave it");
    app.recorder.record(Event::Heard { one_way });
    let (topic, payload) = text.split_once(' ').unwrap_or_default();
    let (topic, payload) = (topic.to_owned(), payload.to_owned());
    if let Ok(published) = publisher.publish(topic.as_str(), payload.clone()).await {
        let number = Number::new(published.epoch.to_string(), published.sequence);
        app.recorder.record(Event::Published { topic, number, payload });
    }
    sleep(Duration::from_millis(1)).await;
}
