//! The methods of a server: `call`, and `publish`.

use std::{str::FromStr, sync::Arc, time::Duration};

use bellwire::{
    Failure, Publisher, Router,
    protocol::Code,
    server::{IntoReply, Reply},
};
use tokio::time::sleep;

use crate::log::Starts;

/// The payload of each call begins with its number. `call` returns it. `publish` has a topic behind
/// it, publishes the number there, and returns it with the position behind the message.
pub(crate) fn router(starts: Starts, publisher: Publisher) -> Router {
    let starts = Arc::new(starts);
    let of_calls = starts.clone();
    let call = move |payload: String| call(of_calls.clone(), payload);
    let publish = move |payload: String| publish(starts.clone(), publisher.clone(), payload);
    Router::new().method("call", call).method("publish", publish)
}

async fn call(starts: Arc<Starts>, payload: String) -> Result<String, Failure> {
    let number: u64 = parse(&payload)?;
    starts.note(number).map_err(failure)?;
    // Some of them run for a while, so that kills meet them.
    sleep(Duration::from_millis(number % 8)).await;
    Ok(payload)
}

async fn publish(
    starts: Arc<Starts>,
    publisher: Publisher,
    payload: String,
) -> Result<Reply, Failure> {
    let (number, topic) = payload.split_once(' ').ok_or_else(|| failure("no topic"))?;
    starts.note(parse(number)?).map_err(failure)?;
    let published = publisher.publish(topic, number.to_owned()).await.map_err(failure)?;
    let position = published.position().ok_or_else(|| failure("the last number"))?;
    Ok(format!("{number} {position}").into_reply().after(topic, published))
}

fn parse<T: FromStr<Err: ToString>>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(failure)
}

fn failure(error: impl ToString) -> Failure {
    Failure::new(Code::from_static("failed"), error.to_string())
}
