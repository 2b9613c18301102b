//! The callers of a client: one act after the other, until the run ends.

use std::time::Duration;

use bellwire::{CallError, protocol::Position};
use bytes::Bytes;
use fastrand::Rng;
use futures::future::join_all;
use tokio::time::{sleep, timeout};

use super::{TOPICS, between, client::User, recorder::Recorder};
use crate::{
    history::{Event, Outcome},
    lines::first_number,
    recorder::{failed, number, outcome},
};

/// How long a caller tries to publish.
const SOON: Duration = Duration::from_secs(5);

/// A call in progress, as its caller sees it.
struct Calling<'a> {
    recorder: &'a Recorder,
    number: u64,
    has_ended: bool,
}

impl<'a> Calling<'a> {
    fn begin(recorder: &'a Recorder) -> Self {
        Self::begin_with(recorder, |_| None)
    }

    /// A call whose key is its number.
    fn begin_keyed(recorder: &'a Recorder) -> Self {
        Self::begin_with(recorder, |number| Some(number.to_string()))
    }

    fn begin_with(recorder: &'a Recorder, key: impl FnOnce(u64) -> Option<String>) -> Self {
        let number = recorder.number();
        recorder.record(Event::Called { call: number, key: key(number) });
        Self { recorder, number, has_ended: false }
    }

    fn end(mut self, outcome: Outcome) {
        self.has_ended = true;
        self.recorder.record(Event::Ended { call: self.number, outcome });
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.recorder.record(Event::GivenUp { call: self.number });
        }
    }
}

pub(crate) async fn call(user: User, mut rng: Rng) {
    loop {
        sleep(between(&mut rng, 50..3_000)).await;
        if user.recorder.is_over() {
            return;
        }
        act(&user, &mut rng).await;
    }
}

async fn act(user: &User, rng: &mut Rng) {
    match rng.u8(..16) {
        0 => drop(ask(user, "slow", None).await),
        1 => drop(ask(user, "slow", Some(between(rng, 100..5_000))).await),
        2 => drop(ask(user, "brief", Some(between(rng, 10..400))).await),
        3 => drop(timeout(between(rng, 1..800), ask(user, "slow", None)).await),
        4 => drop(timeout(between(rng, 1..150), ask(user, "brief", None)).await),
        5 => stream(user, rng).await,
        6 => drop(timeout(between(rng, 1..800), stream(user, rng)).await),
        7 | 8 => drop(timeout(SOON, post(user, TOPICS[rng.usize(..TOPICS.len())])).await),
        9 => publish(user, rng).await,
        10 => drop(timeout(SOON, one_way(user, rng)).await),
        11 => drop(ask(user, ["fail", "moody", "nosuch", "spawned"][rng.usize(..4)], None).await),
        12 => drop(ask(user, "moody", Some(between(rng, 10..3_000))).await),
        14 => ask_once(user, rng).await,
        13 => drop(join_all((0..rng.usize(2..8)).map(|_| ask(user, "echo", None))).await),
        _ => drop(ask(user, "echo", None).await),
    }
}

pub(crate) async fn ask(
    user: &User,
    method: &str,
    deadline: Option<Duration>,
) -> Result<Bytes, CallError> {
    let calling = Calling::begin(&user.recorder);
    let mut call = user.client.call(method, calling.number.to_string());
    if let Some(deadline) = deadline {
        call = call.deadline(deadline);
    }
    let result = call.await;
    calling.end(outcome(&result));
    result
}

/// Calls with a key, which the client may send again after a lost connection.
async fn ask_once(user: &User, rng: &mut Rng) {
    let calling = Calling::begin_keyed(&user.recorder);
    let (number, methods) =
        (calling.number.to_string(), ["echo", "brief", "slow", "spawned", "fail"]);
    let mut call = user.client.call(methods[rng.usize(..methods.len())], &number).key(&number);
    if rng.bool() {
        call = call.deadline(between(rng, 100..20_000));
    }
    let result = match rng.u8(..4) {
        0 => match timeout(between(rng, 1..800), call).await {
            Ok(result) => result,
            Err(_) => return,
        },
        _ => call.await,
    };
    calling.end(outcome(&result));
}

/// A streamed reply names the call if all its items do.
async fn stream(user: &User, rng: &mut Rng) {
    let calling = Calling::begin(&user.recorder);
    let request = format!("{} {}", calling.number, rng.u8(1..6));
    let mut items = user.client.stream("count", request).window(rng.usize(1..4));
    let mut names = calling.number;
    while let Some(item) = items.next().await {
        match item {
            Ok(item) if first_number(&item) == Some(calling.number) => {}
            Ok(_) => names = 0,
            Err(error) => return calling.end(failed(&error)),
        }
        sleep(between(rng, 0..100)).await;
    }
    calling.end(Outcome::Ok { names });
}

/// Publishes by a call, and waits to see the message.
async fn post(user: &User, topic: &str) {
    let calling = Calling::begin(&user.recorder);
    let request = format!("{} {topic}", calling.number);
    let replied = user.client.call("post", request).replied().await;
    if let Ok(replied) = &replied
        && let Some(after) = &replied.after
    {
        leave_word(user, after.topic.as_str(), after.position);
    }
    calling.end(outcome(&replied.map(|replied| replied.value)));
}

fn leave_word(user: &User, topic: &str, position: Position) {
    if let Some(listener) = user.desk.lock().unwrap().get(topic) {
        let _ = listener.send(position);
    }
}

async fn publish(user: &User, rng: &mut Rng) {
    let topic = TOPICS[rng.usize(..TOPICS.len())].to_owned();
    let payload = format!("c{}", user.recorder.number());
    let (recorder, named) = (&user.recorder, (topic.clone(), payload.clone()));
    recorder.record(Event::Publishing { topic: named.0, payload: named.1 });
    let publishing = user.client.publish(&topic, &payload);
    // After this time the message may have been published.
    let published = timeout(between(rng, 50..5_000), publishing).await;
    match published {
        Ok(Ok(published)) => {
            let number = number(published.epoch, published.sequence);
            recorder.record(Event::Published { topic, number, payload });
        }
        Ok(Err(CallError::NotSent(_) | CallError::Refused { .. })) => {
            recorder.record(Event::Unpublished { topic, payload });
        }
        _ => {}
    }
}

/// A one-way request that publishes.
async fn one_way(user: &User, rng: &mut Rng) {
    let topic = TOPICS[rng.usize(..TOPICS.len())].to_owned();
    let one_way = user.recorder.number();
    let payload = format!("o{one_way}");
    let text = format!("{one_way} {topic} {payload}");
    let (recorder, named) = (&user.recorder, (topic.clone(), payload.clone()));
    recorder.record(Event::Publishing { topic: named.0, payload: named.1 });
    recorder.record(Event::Told { one_way });
    if user.client.one_way("note", text).await.is_err() {
        recorder.record(Event::Untold { one_way });
        recorder.record(Event::Unpublished { topic, payload });
    }
}
