//! What many topics in Redis cost: `scripts/topics.sh [TOPICS]`
//!
//! Starts `redis-server` in a temporary folder, publishes one message of 16 bytes to each topic,
//! connects again, and reads all topics from their first message. Prints the memory of Redis, the
//! resident memory of this process, and how long each step took. Linux; needs `redis-server`, 7 or
//! later.

#[macro_use]
#[path = "shared/print.rs"]
mod print;
#[path = "cluster/engine.rs"]
mod engine;

use std::{
    error::Error,
    fs,
    future::poll_fn,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Instant,
};

use bellwire::{
    Publisher,
    protocol::{Cursor, Position, Topic},
    topic::{
        Read, Room, TopicReader, TopicStore,
        redis::{RedisConfig, RedisTopics},
    },
};
use futures::{StreamExt, TryStreamExt, stream};

use crate::engine::{Engine, socket};

type Failed = Box<dyn Error + Send + Sync>;

const PAYLOAD: &str = "0123456789abcdef";
/// Publishers and readers at a time.
const AT_ONCE: usize = 1_000;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let count: usize = std::env::args().nth(1).map_or(Ok(100_000), |topics| topics.parse())?;
    let folder = tempfile::tempdir()?;
    let _engine = Engine::start(folder.path())?;
    let (url, config) = (format!("unix://{}", socket(folder.path()).display()), RedisConfig::new());
    let config = config.topics(count);

    let mut step = Step::begin(folder.path())?;
    let store = RedisTopics::connect_with(&url, config.clone()).await?;
    step.end("connected, empty")?;
    let publisher = Publisher::new(store.clone());
    let publishing = (0..count).map(|n| publisher.publish(name(n), PAYLOAD));
    stream::iter(publishing).buffer_unordered(AT_ONCE).try_for_each(async |_| Ok(())).await?;
    step.end("published to all topics")?;
    store.shutdown().await;
    step.end("shut down")?;
    let store = RedisTopics::connect_with(&url, config).await?;
    step.end("connected again")?;
    if store.topics() != count {
        return Err(format!("{} topics", store.topics()).into());
    }
    let reading = (0..count).map(|n| read(&store, n));
    let readers: Vec<_> = stream::iter(reading).buffer_unordered(AT_ONCE).try_collect().await?;
    step.end("a reader of each topic")?;
    drop(readers);
    Ok(())
}

fn name(n: usize) -> String {
    format!("topic.{n}")
}

/// Reads the first message of a topic. The reader stays and listens.
async fn read(store: &RedisTopics, n: usize) -> Result<Box<dyn TopicReader>, Failed> {
    let (topic, mut lines) = (Topic::new(&name(n))?, Vec::new());
    let mut reader = store.open(&topic);
    let window = poll_fn(|cx| reader.poll_window(cx)).await.map_err(|error| error.to_string())?;
    let cursor = Cursor { position: Position { epoch: window.epoch, next: 1 } };
    let room = Room::new(4_096, 1, 65_535);
    let read = poll_fn(|cx| reader.poll_read(cx, cursor, room, &mut lines)).await;
    match read.map_err(|error| error.to_string())? {
        Read::Copied { last: 1 } => Ok(reader),
        other => Err(format!("{other:?}").into()),
    }
}

/// What passes between two lines of the output.
struct Step<'a> {
    folder: &'a Path,
    since: Instant,
}

impl<'a> Step<'a> {
    fn begin(folder: &'a Path) -> Result<Self, Failed> {
        Ok(Self { folder, since: Instant::now() })
    }

    fn end(&mut self, what: &str) -> Result<(), Failed> {
        let (took, redis, own) =
            (self.since.elapsed().as_secs_f64(), used_memory(self.folder)?, resident()?);
        let (redis, own) = (redis >> 20, own >> 10);
        println!("{what:<24} {took:>7.3} s   Redis {redis:>4} MiB   this process {own:>4} MiB");
        self.since = Instant::now();
        Ok(())
    }
}

/// The memory that Redis uses, in bytes.
fn used_memory(folder: &Path) -> Result<usize, Failed> {
    let mut stream = UnixStream::connect(socket(folder))?;
    stream.write_all(b"INFO memory\r\n")?;
    for line in BufReader::new(stream).lines() {
        if let Some(bytes) = line?.strip_prefix("used_memory:") {
            return Ok(bytes.parse()?);
        }
    }
    Err("no used_memory".into())
}

/// The resident memory of this process, in KiB.
fn resident() -> io::Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.ok_or_else(|| io::Error::other("no VmRSS in /proc/self/status"))
}
