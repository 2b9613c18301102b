//! bellwire beside the bare multiplexers and its peers, on the same work. `run.sh` builds and starts
//! it; `run.sh --help` shows the options.
//!
//! `all` measures each row of each work in a fresh process, one row after the other, so that a noisy
//! minute does not fall on one row alone; then it writes the tables and plots. The other subcommands
//! are those processes: each measures once and prints one line of JSON.
//!
//! Both ends share one process and one runtime of two workers. redis-server and nats-server are
//! processes of their own, on the same cores. All connections are on the loopback device, with
//! TCP_NODELAY. CPU time is that of all these processes, the load included.

mod all;
mod bare;
mod chart;
mod child;
mod cpu;
mod fanout;
mod load;
mod machine;
mod memory;
mod meter;
mod peers;
mod requests;
mod results;
mod stores;
mod tables;
mod targets;
mod work;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Workers of the runtime that both ends share.
const WORKERS: usize = 2;

#[derive(Debug, Parser)]
#[command(about = "Measures bellwire beside the bare multiplexers and its peers")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures all rows and writes tables and plots
    All(all::Options),
    /// Measures one row that answers requests
    Requests {
        #[arg(long)]
        row: requests::Row,
        #[command(flatten)]
        plan: load::Plan,
    },
    /// Measures one row of the fan-out
    FanOut {
        #[arg(long)]
        row: fanout::Row,
        #[command(flatten)]
        plan: fanout::Plan,
    },
    /// Measures the memory of one server
    Memory {
        #[arg(long)]
        row: memory::Row,
        #[command(flatten)]
        plan: memory::Plan,
    },
    /// Measures how many messages stores accept, and prints a table
    Stores(stores::Options),
    /// The server of `memory`
    Serve {
        #[arg(long)]
        row: memory::Row,
    },
}

fn main() -> Result<()> {
    cpu::raise_open_files();
    match Arguments::parse().command {
        Command::All(options) => all::run(&options),
        Command::Requests { row, plan } => print(&on_runtime(requests::run(row, &plan))?),
        Command::FanOut { row, plan } => print(&on_runtime(fanout::run(row, &plan))?),
        Command::Memory { row, plan } => print(&on_runtime(memory::run(row, &plan))?),
        Command::Stores(options) => on_runtime(stores::run(&options)),
        Command::Serve { row } => on_runtime(memory::serve(row)),
    }
}

fn print(sample: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(sample)?);
    Ok(())
}

fn on_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    let result = runtime.block_on(work);
    // Tasks of servers do not end by themselves.
    runtime.shutdown_background();
    result
}
