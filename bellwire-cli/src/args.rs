//! The command line: the subcommands, and what is common to all of them.

use clap::{Parser, Subcommand};

use crate::{bench, call, context, failed, listen, methods, monitor, publish, serve, shell, top};

/// Calls, listens and publishes over bellwire, and watches its servers.
///
/// Where to connect: --addr, else BELLWIRE_ADDR, else the context, else 127.0.0.1:7440. A context is
/// a set of connection options with a name: see `bellwire context --help`.
#[derive(Parser)]
#[command(name = "bellwire", version, after_long_help = failed::EXIT_CODES, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    Call(call::CallArgs),
    Listen(listen::ListenArgs),
    Publish(publish::PublishArgs),
    Methods(methods::MethodsArgs),
    Monitor(monitor::MonitorArgs),
    Top(top::TopArgs),
    /// Measures calls and notifications: throughput, latency, errors, CPU
    ///
    /// Without --addr or --context it starts a server in this process. The environment and the current
    /// context do not count here, so that no server is loaded by accident.
    Bench(bench::Args),
    Serve(serve::ServeArgs),
    Context(context::ContextArgs),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
