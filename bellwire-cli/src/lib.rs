//! The command `bellwire`, and the load test as a library, so that an example runs it, too.
//!
//! `main` parses the command line (`args`) and runs one subcommand, each in its own module. A
//! subcommand that connects takes its settings from `target`, and its client from `connect`. Every
//! failure is a `Failed`, which has the exit code, the text and what to do.

#[macro_use]
#[path = "../../examples/shared/print.rs"]
mod print;
mod args;
pub mod bench;
mod call;
#[path = "../../examples/shared/chart.rs"]
mod chart;
mod connect;
mod context;
mod duration;
mod escape;
mod failed;
#[path = "../../examples/offers/follow.rs"]
mod follow;
mod listen;
mod methods;
mod monitor;
mod payload;
mod publish;
mod serve;
mod shell;
#[path = "../../examples/shared/stop.rs"]
mod stop;
mod style;
mod target;
mod tls;
mod top;
mod transport;

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime;

use crate::{
    args::{Args, Command},
    failed::Failed,
};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    if let Some(code) = serve::run_as_watch() {
        return code;
    }
    match run(Args::parse()) {
        Ok(code) => code,
        Err(failed) => failed.report(),
    }
}

fn run(Args { command }: Args) -> Result<ExitCode, Failed> {
    match command {
        Command::Call(args) => block_on(call::run(args)),
        Command::Listen(args) => block_on(listen::run(args)),
        Command::Publish(args) => block_on(publish::run(args)),
        Command::Methods(args) => block_on(methods::run(args)),
        Command::Monitor(args) => block_on(monitor::run(args)),
        Command::Top(args) => block_on(top::run(args)),
        Command::Bench(args) => bench::run_command(&args),
        Command::Serve(args) => block_on(serve::run(args)),
        Command::Context(args) => context::run(args),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
    }
}

/// Runs a subcommand. One thread is enough: what takes long waits for the network, and the commands
/// of `serve` are processes.
fn block_on(
    subcommand: impl Future<Output = Result<ExitCode, Failed>>,
) -> Result<ExitCode, Failed> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failed::other(format!("no runtime: {error}")))?;
    let ended = runtime.block_on(subcommand);
    // A blocking read of stdin cannot be stopped, so it must not delay the end.
    runtime.shutdown_background();
    ended
}
