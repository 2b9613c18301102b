//! SIGKILL of a server with topics and keys in a file, under load: `scripts/kills.sh`, which runs
//! `cargo run --release --features sqlite --example kills -- [OPTIONS]`
//!
//! Starts itself as the server, with [`SqliteTopics`](bellwire::topic::sqlite::SqliteTopics) and
//! [`SqliteKeys`](bellwire::server::keys::SqliteKeys) on a file in a temporary folder. Clients
//! publish, publish through a handler, call and listen, with and without keys. The server is killed
//! at random moments and started again on the same port and file. The clients reconnect by
//! themselves, and send again what has a key. At the end all topics are read from their first
//! message. The history checker of the testkit then looks for lost, doubled and changed messages,
//! and for calls and keys that ran twice. Prints the figures; ends with 1 if anything is wrong, and
//! then keeps the folder, with the history in it. Linux.

#[macro_use]
#[path = "shared/print.rs"]
mod print;
#[path = "kills/audit.rs"]
mod audit;
#[path = "kills/crowd.rs"]
mod crowd;
#[path = "kills/lives.rs"]
mod lives;
#[path = "kills/log.rs"]
mod log;
#[path = "kills/methods.rs"]
mod methods;
#[path = "kills/options.rs"]
mod options;
#[path = "measured/parent.rs"]
mod parent;
#[path = "kills/report.rs"]
mod report;
#[path = "kills/server.rs"]
mod server;
#[path = "kills/work.rs"]
mod work;

use std::{error::Error, fs, path::Path, process::ExitCode, time::Duration};

use clap::Parser;
use fastrand::Rng;
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    time::{sleep, timeout},
};

use crate::{
    crowd::Crowd, lives::Lives, log::Log, options::Options, report::Report, server::STARTS,
};

type Failed = Box<dyn Error + Send + Sync>;

/// The bound on each wait, long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// The topics that the clients share.
const TOPICS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn main() -> Result<ExitCode, Failed> {
    let options = Options::parse();
    if let Some(serve) = &options.serve {
        Runtime::new()?.block_on(server::serve(serve, options.durability.into()))?;
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

/// Runs the clients and kills the server. Some lives are so short that the server may still be
/// opening its file. The last kill comes after the load, so that the server has everything that is
/// read at the end from the file.
async fn run(options: &Options, folder: &Path) -> Result<Report, Failed> {
    let mut rng = Rng::with_seed(options.seed);
    let log = Log::new();
    let durability = options.durability.name();
    let own = [folder.into(), "--durability".into(), durability.into()];
    let mut lives = Lives::begin(&own, log.process("server"))?;
    let addresses = [lives.address()];
    let gathered = Crowd::gather(options, &addresses, &log, &mut rng);
    let mut crowd = timeout(PATIENCE, gathered).await.map_err(|_| "no client can subscribe")??;
    for _ in 0..options.kills {
        if rng.u8(..5) == 0 {
            lives.live_shortly(Duration::from_micros(rng.u64(..50_000))).await?;
        }
        lives.live(moment(&mut rng)).await?;
    }
    lives.listening().await?;
    sleep(moment(&mut rng)).await;
    crowd.stop_work().await;
    lives.restart().await?;
    let heads = timeout(PATIENCE, audit::heads(&addresses)).await;
    let heads = heads.map_err(|_| "the server does not come back")??;
    crowd.settle(&heads).await;
    audit::read_all(&addresses, &heads, &log).await?;
    audit::conclude(&heads, &log);
    lives.end().await?;
    let faults = [lives.faults(), crowd.faults()].concat();
    let (log, times) = (log.merge(&folder.join(STARTS))?, crowd.times());
    Ok(Report::new(log, lives.kills(), times, crowd.resent(), faults))
}

/// A random time from when the server listens.
fn moment(rng: &mut Rng) -> Duration {
    Duration::from_millis(rng.u64(50..=1_500))
}

/// Keeps the files of the run, for whoever looks for the fault.
fn keep(folder: TempDir, report: &Report) -> Result<(), Failed> {
    let folder = folder.keep();
    fs::write(folder.join("history"), report.history())?;
    println!("everything is in {}", folder.display());
    Ok(())
}
