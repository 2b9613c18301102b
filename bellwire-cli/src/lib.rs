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

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime;

use crate::{
    args::{Args, Command},
    failed::Failed,
};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(failed) => failed.report(),
    }
}

fn run(Args { command }: Args) -> Result<ExitCode, Failed> {
    // Connections and a screen need no second thread; only `bench` and `serve` have more work.
    let threads = match &command {
        Command::Bench(args) => return bench::run_command(args),
        Command::Serve(_) => runtime::Builder::new_multi_thread().enable_all().build(),
        _ => runtime::Builder::new_current_thread().enable_all().build(),
    };
    let runtime = threads.map_err(|error| Failed::other(format!("no runtime: {error}")))?;
    let code = runtime.block_on(start(command));
    // A blocking read of stdin cannot be stopped, so it must not delay the end.
    runtime.shutdown_background();
    code
}

async fn start(command: Command) -> Result<ExitCode, Failed> {
    match command {
        Command::Call(args) => call::run(args).await,
        Command::Listen(args) => listen::run(args).await,
        Command::Publish(args) => publish::run(args).await,
        Command::Methods(args) => methods::run(args).await,
        Command::Monitor(args) => monitor::run(args).await,
        Command::Top(args) => top::run(args).await,
        Command::Bench(args) => bench::run_command(&args),
        Command::Serve(args) => serve::run(args).await,
        Command::Context(args) => context::run(args),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
    }
}
