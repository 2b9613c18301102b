//! A server: topics and keys in Redis, and two methods.

use std::path::PathBuf;

use bellwire::{
    Server, ServerConfig,
    server::keys::{KeysConfig, RedisKeys},
    topic::redis::RedisTopics,
};

use crate::{Failed, engine::socket, log::Starts, methods::router, parent::end_with_parent};

/// The file of the starts of handlers, in the folder. All servers append to it.
pub(crate) const STARTS: &str = "starts";

/// Serves on an address, with the Redis of a folder, until it is killed.
pub(crate) async fn serve(arguments: &[PathBuf]) -> Result<(), Failed> {
    let [address, folder] = arguments else { return Err("where to serve?".into()) };
    end_with_parent();
    let starts = Starts::open(&folder.join(STARTS))?;
    let topics = RedisTopics::connect(&format!("unix://{}", socket(folder).display())).await?;
    // All keys of a run, because no key leaves within it; and as much again, because a single owner
    // gets half.
    let config = KeysConfig::new().entries(2_000_000).bytes(2 << 30);
    let keys = RedisKeys::open(&topics, config).await?;
    let config = ServerConfig::new().allow_publish(true);
    let server = Server::bind(address.display()).await?.config(config).topics(topics).keys(keys);
    println!("listening on {}", server.local_addr()?);
    let publisher = server.publisher();
    Ok(server.serve(router(starts, publisher)).await?)
}
