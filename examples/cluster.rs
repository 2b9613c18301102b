//! SIGKILL of servers that share topics and keys in Redis:
//! `cargo run --release --features redis --example cluster -- [OPTIONS]`
//!
//! Starts `redis-server` in a temporary folder, and itself as several servers, with
//! [`RedisTopics`](bellwire::topic::redis::RedisTopics) and
//! [`RedisKeys`](bellwire::server::keys::RedisKeys) on it. Clients publish, publish through a
//! handler, call and listen, with keys and without. One server after the other is killed at a random
//! moment and started again, and its clients go on at another one. At the end all topics are read
//! from their first message. The history checker of the testkit then looks for lost, doubled and
//! changed messages, and for calls and keys that ran twice. Prints the figures; ends with 1 if
//! anything is wrong, and then keeps the folder, with the history in it. Linux; needs `redis-server`,
//! 7 or later.

#[macro_use]
#[path = "shared/print.rs"]
mod print;
#[path = "kills/audit.rs"]
mod audit;
#[path = "kills/crowd.rs"]
mod crowd;
#[path = "cluster/engine.rs"]
mod engine;
#[path = "kills/lives.rs"]
mod lives;
#[path = "kills/log.rs"]
mod log;
#[path = "kills/methods.rs"]
mod methods;
#[path = "cluster/options.rs"]
mod options;
#[path = "measured/parent.rs"]
mod parent;
#[path = "kills/report.rs"]
mod report;
#[path = "cluster/server.rs"]
mod server;
#[path = "kills/work.rs"]
mod work;

use std::{error::Error, ffi::OsString, fs, path::Path, process::ExitCode, time::Duration};

use clap::Parser;
use fastrand::Rng;
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    time::{Instant, timeout},
};

use crate::{
    crowd::Crowd,
    engine::Engine,
    lives::{Kills, Lives},
    log::Log,
    options::Options,
    report::Report,
    server::STARTS,
};

type Failed = Box<dyn Error + Send + Sync>;

/// The bound on each wait, long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// The topics that the clients share.
const TOPICS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn main() -> Result<ExitCode, Failed> {
    let options = Options::parse();
    if let Some(serve) = &options.serve {
        Runtime::new()?.block_on(server::serve(serve))?;
        return Ok(ExitCode::SUCCESS);
    }
    let folder = tempfile::tempdir()?;
    // On one thread, so that nothing comes between a delivery and its record.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(run(&options, folder.path()))?;
    report.print();
    if report.is_good() {
        return Ok(ExitCode::SUCCESS);
    }
    keep(folder, &report)?;
    Ok(ExitCode::FAILURE)
}

/// Runs the clients and kills servers.
async fn run(options: &Options, folder: &Path) -> Result<Report, Failed> {
    let mut rng = Rng::with_seed(options.seed);
    let (log, _engine) = (Log::new(), Engine::start(folder)?);
    let own: [OsString; 1] = [folder.into()];
    let servers = (1..=options.servers).map(|n| Lives::begin(&own, log.process(&format!("s{n}"))));
    let mut servers = servers.collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<_> = servers.iter().map(Lives::address).collect();
    let gathered = Crowd::gather(options, &addresses, &log, &mut rng);
    let mut crowd = timeout(PATIENCE, gathered).await.map_err(|_| "no client can subscribe")??;
    let end = Instant::now() + Duration::from_secs(options.seconds);
    while Instant::now() < end {
        let server = rng.usize(..servers.len());
        servers[server].live(Duration::from_millis(rng.u64(50..=options.every))).await?;
    }
    crowd.stop_work().await;
    let heads = timeout(PATIENCE, audit::heads(&addresses)).await;
    let heads = heads.map_err(|_| "no server comes back")??;
    crowd.settle(&heads).await;
    audit::read_all(&addresses, &heads, &log).await?;
    audit::conclude(&heads, &log);
    let (mut kills, mut faults) = (Kills::default(), crowd.faults());
    for server in &mut servers {
        server.end().await?;
        kills.under_load += server.kills().under_load;
        faults.extend(server.faults());
    }
    let (log, times) = (log.merge(&folder.join(STARTS))?, crowd.times());
    Ok(Report::new(log, kills, times, crowd.resent(), faults))
}

/// Keeps the files of the run, for whoever looks for the fault.
fn keep(folder: TempDir, report: &Report) -> Result<(), Failed> {
    let folder = folder.keep();
    fs::write(folder.join("history"), report.history())?;
    println!("everything is in {}", folder.display());
    Ok(())
}
