//! Measures calls and notifications: throughput, latency, errors, CPU.
//!
//! ```text
//! bellwire bench --connections 8 --callers 64
//! bellwire bench --callers 64 --subscribers 100 --publish-rate 1000
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
//! bellwire bench --rate 20000 --duration 30 --report /tmp/load.html
//! ```
//!
//! `--report` writes one HTML file with plots and tables that needs no other file.
//!
//! Without `--addr` or `--context` the server runs in this process and **on the same runtime**, so
//! that `--workers` is all that both ends have, and the CPU time is that of both. To measure them
//! apart:
//!
//! ```text
//! bellwire bench --serve 127.0.0.1:7441
//! bellwire bench --addr 127.0.0.1:7441 --callers 64
//! ```
//!
//! The exit code is 0 without errors, 1 with any, and 2 for arguments that make no sense. A rate that
//! could not be held is printed, and is no error. The example `load_test` is this command, too.

mod args;
mod callers;
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
mod subscribers;
mod tally;
mod timeline;

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::{self, Runtime};

pub(crate) use args::Args;
use report::Report;
use report_file::ReportFile;

use crate::failed::Failed;

/// The kind of error of calls to a method that the server does not have.
const UNKNOWN_METHOD: &str = "refused unknown-method";

/// Measures calls and notifications over bellwire: throughput, latency, errors, CPU.
#[derive(Parser)]
#[command(name = "load_test", version)]
struct Program {
    #[command(flatten)]
    args: Args,
}

/// Runs the load test with the command line of this process.
pub fn main() -> ExitCode {
    run_command(&Program::parse().args).unwrap_or_else(|failed| failed.report())
}

/// Runs the load test. The exit code says whether everything went without errors.
pub(crate) fn run_command(args: &Args) -> Result<ExitCode, Failed> {
    args.check()?;
    let runtime = build_runtime(args.workers).map_err(Failed::other)?;
    if let Some(address) = &args.serve {
        runtime.block_on(server::serve(address)).map_err(Failed::other)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Before the run, so that a file that cannot be written is reported at once.
    let file = args.report.clone().map(ReportFile::create).transpose().map_err(Failed::other)?;
    let report = runtime.block_on(run::run(args))?;
    print(&report, args.json).map_err(Failed::other)?;
    if let Some(file) = file {
        file.write(&html::page(&report)).map_err(Failed::other)?;
    }
    if report.errors.iter().any(|(kind, _)| kind == UNKNOWN_METHOD) {
        eprintln!(
            "hint: the server has no method {}; --method calls another one, which has to answer with \
             its payload",
            args.method
        );
    }
    Ok(ExitCode::from(u8::from(!report.errors.is_empty())))
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
