//! Measures calls and notifications: throughput, latency, errors, CPU.
//!
//! ```text
//! cargo run --release --example load_test -- --connections 8 --callers 64
//! cargo run --release --example load_test -- --callers 64 --subscribers 100 --publish-rate 1000
//! ```
//!
//! Each caller makes one call after the other, so the callers of a connection are its depth in
//! flight. Every call carries a number of its own, and its reply must be the same bytes.
//!
//! Without `--addr` the server runs in this process and **on the same runtime**, so that `--workers`
//! is all that both ends have, and the CPU time is that of both. To measure them apart:
//!
//! ```text
//! cargo run --release --example load_test -- --serve 127.0.0.1:7441
//! cargo run --release --example load_test -- --addr 127.0.0.1:7441 --callers 64
//! ```
//!
//! The exit code is 0 without errors, 1 with any, and 2 for arguments that make no sense.

#[macro_use]
#[path = "../shared/print.rs"]
mod print;
mod args;
mod callers;
mod control;
mod cpu;
mod errors;
mod latency;
mod progress;
mod report;
mod run;
mod server;
#[path = "../shared/stop.rs"]
mod stop;
mod subscribers;
mod tally;

use std::{error::Error, process::ExitCode};

use tokio::runtime::{self, Runtime};

use crate::{args::Args, report::Report};

fn main() -> ExitCode {
    let args = Args::of_process();
    match start(args) {
        Ok(is_without_errors) => ExitCode::from(u8::from(!is_without_errors)),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything went without errors.
fn start(args: Args) -> Result<bool, Box<dyn Error>> {
    let runtime = build_runtime(args.workers)?;
    if let Some(address) = &args.serve {
        runtime.block_on(server::serve(address))?;
        return Ok(true);
    }
    let report = runtime.block_on(run::run(&args))?;
    print(&report, args.json)?;
    Ok(report.errors.is_empty())
}

fn build_runtime(workers: usize) -> std::io::Result<Runtime> {
    runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
}

fn print(report: &Report, json: bool) -> Result<(), serde_json::Error> {
    match json {
        true => println!("{}", serde_json::to_string(report)?),
        false => print!("{report}"),
    }
    Ok(())
}
