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
//! With `--rate` requests start at that rate instead (open loop), and the callers of a connection are
//! the most that it has in flight. Each latency counts from when the request was due, so that a server
//! that stalls delays all requests of that time and not only one per caller (coordinated omission).
//! The threads of the system sleep about 0.1 ms too long, and this is part of these latencies:
//!
//! ```text
//! cargo run --release --example load_test -- --rate 20000 --duration 30 --report /tmp/load.html
//! ```
//!
//! `--report` writes one HTML file with plots and tables that needs no other file.
//!
//! Without `--addr` the server runs in this process and **on the same runtime**, so that `--workers`
//! is all that both ends have, and the CPU time is that of both. To measure them apart:
//!
//! ```text
//! cargo run --release --example load_test -- --serve 127.0.0.1:7441
//! cargo run --release --example load_test -- --addr 127.0.0.1:7441 --callers 64
//! ```
//!
//! The exit code is 0 without errors, 1 with any, and 2 for arguments that make no sense. A rate that
//! could not be held is printed, and is no error.

#[macro_use]
#[path = "../shared/print.rs"]
mod print;
mod args;
mod callers;
#[path = "../shared/chart.rs"]
mod chart;
mod control;
mod cpu;
mod errors;
mod html;
mod latency;
mod progress;
mod report;
mod report_file;
mod run;
mod schedule;
mod server;
#[path = "../shared/stop.rs"]
mod stop;
mod subscribers;
mod tally;
mod timeline;

use std::{error::Error, process::ExitCode};

use tokio::runtime::{self, Runtime};

use crate::{args::Args, report::Report, report_file::ReportFile};

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
    // Before the run, so that a file that cannot be written is reported at once.
    let file = args.report.clone().map(ReportFile::create).transpose()?;
    let report = runtime.block_on(run::run(&args))?;
    print(&report, args.json)?;
    if let Some(file) = file {
        file.write(&html::page(&report))?;
    }
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
