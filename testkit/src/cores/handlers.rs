//! The server's handlers. A payload begins with the number of its call, and so does the reply.

use std::{future::pending, panic::resume_unwind};

use bellwire::{
    Failure, Publisher, Router, State, Streamed,
    protocol::Code,
    server::{FromRequest, IntoReply, Rejection, Reply, RequestParts},
};
use futures::stream::{self, Stream};

use super::world::World;
use crate::{
    asked::Asked,
    history::{Event, Number},
};

const SERVER: &str = "server";

/// An extractor that refuses a call.
struct No;

/// A running handler.
struct Running {
    world: World,
    call: u64,
}

impl Running {
    fn begin(world: &World, call: u64) -> Self {
        world.record(SERVER, Event::Started { call });
        Self { world: world.clone(), call }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.world.record(SERVER, Event::Finished { call: self.call });
    }
}

impl FromRequest<World> for No {
    fn from_request(_: &RequestParts<'_>, world: &World) -> Result<Self, Rejection> {
        match world.below(2) {
            0 => Err(Rejection::forbidden("not you")),
            _ => Err(Rejection::forbidden("not now")),
        }
    }
}

pub(super) fn router(world: &World) -> Router<World> {
    Router::with_state(world.clone())
        .method("echo", echo)
        .method("brief", brief)
        .method("slow", slow)
        .method("never", never)
        .method("fail", fail)
        .method("panic", panic)
        .method("refuse", refuse)
        .method("count", count)
        .method("post", post)
        .method("note", note)
}

async fn echo(State(world): State<World>, Asked { call, text }: Asked) -> String {
    let _running = Running::begin(&world, call);
    format!("{call} {text}")
}

async fn brief(State(world): State<World>, Asked { call, .. }: Asked) -> String {
    let _running = Running::begin(&world, call);
    world.sleep(world.below(3) as u64).await;
    call.to_string()
}

async fn slow(State(world): State<World>, Asked { call, .. }: Asked) -> String {
    let _running = Running::begin(&world, call);
    world.sleep(1 + world.below(8_000) as u64).await;
    call.to_string()
}

async fn never(State(world): State<World>, Asked { call, .. }: Asked) -> String {
    let _running = Running::begin(&world, call);
    pending().await
}

async fn fail(State(world): State<World>, Asked { call, .. }: Asked) -> Result<String, Failure> {
    let _running = Running::begin(&world, call);
    Err(Failure::new(Code::from_static("sorry"), call.to_string()))
}

/// Panics without the output of the panic hook.
async fn panic(State(world): State<World>, Asked { call, .. }: Asked) -> String {
    let _running = Running::begin(&world, call);
    world.sleep(world.below(3) as u64).await;
    resume_unwind(Box::new("as it was told"))
}

async fn refuse(_: No, world: State<World>, asked: Asked) -> String {
    echo(world, asked).await
}

/// Streams as many items as the payload says.
async fn count(
    State(world): State<World>,
    Asked { call, text }: Asked,
) -> Streamed<impl Stream<Item = String>> {
    let (running, to) = (Running::begin(&world, call), text.parse().unwrap_or(3));
    Streamed(stream::unfold((world, running, 0), move |(world, running, number)| async move {
        if number == to {
            return None;
        }
        world.sleep([0, 0, 1, 300][world.below(4)]).await;
        Some((format!("{call} {number}"), (world, running, number + 1)))
    }))
}

/// `CALL TOPIC`: publishes, and answers with the position of the message.
async fn post(
    State(world): State<World>,
    publisher: Publisher,
    Asked { call, text: topic }: Asked,
) -> Result<Reply, Failure> {
    let _running = Running::begin(&world, call);
    world.sleep(world.below(2) as u64).await;
    let payload = format!("p{call}");
    world.record(SERVER, Event::Publishing { topic: topic.clone(), payload: payload.clone() });
    let published = publisher.publish(topic.as_str(), payload.clone()).await;
    let published = published.map_err(|_| Failure::new(Code::from_static("full"), ""))?;
    let number = Number::new(published.epoch.to_string(), published.sequence);
    world.record(SERVER, Event::Published { topic: topic.clone(), number, payload });
    Ok(call.to_string().into_reply().after(topic, published))
}

/// `NUMBER TOPIC`, one-way.
async fn note(State(world): State<World>, Asked { call, .. }: Asked) {
    world.record(SERVER, Event::Heard { one_way: call });
    world.sleep(world.below(3) as u64).await;
}
