//! The server: topics and keys in a file, and two methods.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use bellwire::{
    Failure, Publisher, Router, Server, ServerConfig,
    protocol::Code,
    server::{
        IntoReply, Reply,
        keys::{KeysConfig, SqliteKeys},
    },
    topic::sqlite::{Durability, SqliteConfig, SqliteTopics},
};
use tokio::time::sleep;

use crate::{Failed, log::Starts, parent::end_with_parent};

/// The file of the starts of handlers, in the folder.
pub(crate) const STARTS: &str = "starts";

/// Serves on an address, with the files of a folder, until it is killed.
///
/// The payload of each call begins with its number. `call` returns it. `publish` has a topic behind
/// it, publishes the number there, and returns it with the position behind the message.
pub(crate) async fn serve(arguments: &[PathBuf], durability: Durability) -> Result<(), Failed> {
    let [address, folder] = arguments else { return Err("where to serve?".into()) };
    end_with_parent();
    let starts = Arc::new(Starts::open(&folder.join(STARTS))?);
    let topics = open(folder, durability).await?;
    // All keys of a run, because no key leaves within it; and as much again, because a single owner
    // gets half.
    let config = KeysConfig::new().entries(2_000_000).bytes(2 << 30);
    let keys = SqliteKeys::open(&topics, config).await?;
    let config = ServerConfig::new().allow_publish(true);
    let server = Server::bind(address.display()).await?.config(config).topics(topics).keys(keys);
    println!("listening on {}", server.local_addr()?);
    let publisher = server.publisher();
    let of_calls = starts.clone();
    let call = move |payload: String| call(of_calls.clone(), payload);
    let publish = move |payload: String| publish(starts.clone(), publisher.clone(), payload);
    Ok(server.serve(Router::new().method("call", call).method("publish", publish)).await?)
}

async fn open(folder: &Path, durability: Durability) -> Result<SqliteTopics, Failed> {
    let config = SqliteConfig::new().durability(durability);
    Ok(SqliteTopics::open_with(folder.join("topics.db"), config).await?)
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
