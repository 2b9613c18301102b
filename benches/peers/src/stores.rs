//! Messages that a store accepts per second, beside a Redis stream and a JetStream stream. Each
//! publisher waits for its message to be accepted before it publishes the next one.
//!
//! All rows of one round follow one another in this process, so that a noisy minute does not fall on
//! one row alone. The table has the median of the rounds.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use bellwire::{
    Publisher, Random,
    topic::{
        MemoryTopics,
        redis::{RedisConfig, RedisTopics},
        sqlite::{Durability, SqliteConfig, SqliteTopics},
    },
};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use crate::{child, machine};

const PUBLISHERS: [usize; 3] = [1, 16, 256];
const PAYLOAD: usize = 128;
/// What each row keeps.
const RETAINED: usize = 65_536;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Row {
    Memory,
    SqliteProcess,
    Sqlite,
    Redis,
    RedisStream,
    RedisStreamSynced,
    JetStream,
}

#[derive(Debug, Args)]
pub struct Options {
    /// Rounds
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rows to measure; all by default
    #[arg(long, value_delimiter = ',')]
    rows: Vec<Row>,
    /// The folder for the files of the stores, on the disk to be measured
    #[arg(long, default_value = "target/stores")]
    dir: PathBuf,
    /// The file to which the table is written
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Row {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "bellwire, memory",
            Self::SqliteProcess => "bellwire, SQLite, `Durability::Process`",
            Self::Sqlite => "bellwire, SQLite, `Durability::Power`",
            Self::Redis => "bellwire, Redis without a file",
            Self::RedisStream => "Redis stream, synced every second",
            Self::RedisStreamSynced => "Redis stream, synced at each write",
            Self::JetStream => "JetStream in a file",
        }
    }

    /// What an accepted message survives.
    fn promise(self) -> &'static str {
        match self {
            Self::Memory => "nothing: it is in the memory of the server",
            Self::SqliteProcess => "the end of the process; a power failure ends the epoch",
            Self::Sqlite => "the end of the process, and a power failure",
            Self::Redis => {
                "the end of the server; the end of redis-server, and a failover, end the epoch"
            }
            Self::RedisStream => {
                "the end of redis-server; the last second is lost with the power, in silence"
            }
            Self::RedisStreamSynced => "the end of redis-server, and a power failure",
            Self::JetStream => {
                "the end of nats-server; by default it syncs every two minutes, and what came since is lost with the power"
            }
        }
    }
}

/// Where messages go.
#[derive(Clone)]
enum Target {
    Bellwire(Publisher),
    Redis(MultiplexedConnection),
    JetStream(jetstream::Context),
}

/// A target, with what has to live as long.
struct Started {
    target: Target,
    _server: Option<child::Server>,
    sqlite: Option<SqliteTopics>,
}

impl Target {
    async fn publish(&mut self, payload: &Bytes) -> Result<()> {
        match self {
            Self::Bellwire(publisher) => drop(publisher.publish("t", payload.clone()).await?),
            Self::Redis(connection) => {
                let mut add = redis::cmd("XADD");
                add.arg("t")
                    .arg("MAXLEN")
                    .arg("~")
                    .arg(RETAINED)
                    .arg("*")
                    .arg("m")
                    .arg(&payload[..]);
                add.query_async::<String>(connection).await?;
            }
            Self::JetStream(context) => drop(context.publish("t", payload.clone()).await?.await?),
        }
        Ok(())
    }
}

async fn start(row: Row, dir: &Path) -> Result<Started> {
    let only = |target| Started { target, _server: None, sqlite: None };
    match row {
        Row::Memory => {
            let store = MemoryTopics::new(&Random::default());
            Ok(only(Target::Bellwire(Publisher::new(store))))
        }
        Row::SqliteProcess => sqlite(dir, Durability::Process).await,
        Row::Sqlite => sqlite(dir, Durability::Power).await,
        Row::Redis => redis_topics().await,
        Row::RedisStream => redis_stream(dir, "everysec").await,
        Row::RedisStreamSynced => redis_stream(dir, "always").await,
        Row::JetStream => jet_stream(dir).await,
    }
}

async fn sqlite(dir: &Path, durability: Durability) -> Result<Started> {
    let config = SqliteConfig::new().durability(durability).retained_messages(RETAINED as u64);
    let store = SqliteTopics::open_with(dir.join("topics.db"), config).await?;
    let target = Target::Bellwire(Publisher::new(store.clone()));
    Ok(Started { target, _server: None, sqlite: Some(store) })
}

async fn redis_topics() -> Result<Started> {
    let server = child::redis()?;
    let config = RedisConfig::new().retained_messages(RETAINED);
    let url = format!("redis://{}/", server.address);
    let target = Target::Bellwire(Publisher::new(RedisTopics::connect_with(&url, config).await?));
    Ok(Started { target, _server: Some(server), sqlite: None })
}

async fn redis_stream(dir: &Path, sync: &str) -> Result<Started> {
    let server = child::redis_in(dir, sync)?;
    let client = redis::Client::open(format!("redis://{}/", server.address))?;
    let target = Target::Redis(client.get_multiplexed_async_connection().await?);
    Ok(Started { target, _server: Some(server), sqlite: None })
}

async fn jet_stream(dir: &Path) -> Result<Started> {
    let server = child::nats_in(dir)?;
    let context = jetstream::new(async_nats::connect(format!("nats://{}", server.address)).await?);
    let config = jetstream::stream::Config {
        name: "t".into(),
        subjects: vec!["t".into()],
        max_messages: RETAINED as i64,
        storage: jetstream::stream::StorageType::File,
        ..Default::default()
    };
    context.create_stream(config).await?;
    Ok(Started { target: Target::JetStream(context), _server: Some(server), sqlite: None })
}

/// Messages per second that `publishers` tasks get accepted.
async fn measure(target: &Target, publishers: usize, time: Duration) -> Result<f64> {
    let (stop, payload) = (Arc::new(AtomicBool::new(false)), Bytes::from(vec![b'x'; PAYLOAD]));
    let mut tasks = JoinSet::new();
    let begin = Instant::now();
    for _ in 0..publishers {
        let (mut target, stop, payload) = (target.clone(), stop.clone(), payload.clone());
        tasks.spawn(async move {
            let mut count = 0u64;
            while !stop.load(Ordering::Relaxed) {
                target.publish(&payload).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = 0;
    while let Some(count) = tasks.join_next().await {
        all += count??;
    }
    Ok(all as f64 / begin.elapsed().as_secs_f64())
}

async fn round(row: Row, options: &Options) -> Result<[f64; PUBLISHERS.len()]> {
    let dir = options.dir.join(format!("{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let started = start(row, &dir).await.with_context(|| format!("cannot start {}", row.name()))?;
    let time = Duration::from_secs_f64(options.seconds);
    measure(&started.target, 16, time / 4).await?;
    let mut rates = [0.0; PUBLISHERS.len()];
    for (rate, publishers) in rates.iter_mut().zip(PUBLISHERS) {
        *rate = measure(&started.target, publishers, time).await?;
    }
    if let Some(sqlite) = &started.sqlite {
        sqlite.shutdown().await?;
    }
    drop(started);
    fs::remove_dir_all(&dir)?;
    Ok(rates)
}

pub async fn run(options: &Options) -> Result<()> {
    let rows = match &options.rows[..] {
        [] => Row::value_variants(),
        rows => rows,
    };
    let mut all = vec![Vec::new(); rows.len()];
    for number in 1..=options.runs {
        for (rates, &row) in all.iter_mut().zip(rows) {
            let found = round(row, options).await?;
            eprintln!("round {number}: {}: {found:.0?}", row.name());
            rates.push(found);
        }
    }
    let table = table(rows, &all);
    println!("{table}");
    if let Some(out) = &options.out {
        let head = "# Messages per second that a store accepts\n\nWritten by `benches/peers/stores.sh`; its source, \
                    `benches/peers/src/stores.rs`, says how it measures.\n\n";
        fs::write(out, format!("{head}{}\n{table}", machine::describe()))?;
    }
    Ok(())
}

fn table(rows: &[Row], all: &[Vec<[f64; PUBLISHERS.len()]>]) -> String {
    let mut table = String::from("| messages per second, at so many publishers |");
    PUBLISHERS.iter().for_each(|publishers| _ = write!(table, " {publishers} |"));
    table.push_str(" an accepted message survives |\n|---|---:|---:|---:|---|\n");
    for (row, rates) in rows.iter().zip(all) {
        let _ = write!(table, "| {} |", row.name());
        for at in 0..PUBLISHERS.len() {
            let mut rates: Vec<_> = rates.iter().map(|rates| rates[at]).collect();
            rates.sort_by(f64::total_cmp);
            let _ = write!(table, " {:.0} |", rates[rates.len() / 2]);
        }
        let _ = writeln!(table, " {} |", row.promise());
    }
    table
}
