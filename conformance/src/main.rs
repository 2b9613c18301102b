//! The conformance kit on the command line: `cargo run -p bellwire-conformance -- --help`.

use std::{
    io::{Write, stderr},
    process::ExitCode,
};

use bellwire_conformance::{
    client_run, client_testee, client_wrong, hostile, list, server_run, server_test, server_wrong,
};
use clap::{Parser, Subcommand};

/// Judges servers and clients of the bellwire protocol, in any language.
///
/// conformance/README.md says what a server or a client under test has to offer.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the test server: the methods of PROTOCOL.md's transcripts, and the control methods.
    Server(server_test::Args),
    /// Start the test server behind a proxy that makes one mistake.
    WrongServer(server_wrong::Args),
    /// Start a hostile server, for authors of clients.
    Hostile(hostile::Args),
    /// Start the Rust testee behind a proxy that makes one mistake.
    WrongClient(client_wrong::Args),
    /// Start the Rust testee: it takes commands on stdin and reports events on stdout.
    Testee(client_testee::Args),
    /// Run the cases against a server or a client.
    #[command(subcommand)]
    Run(Run),
    /// List all cases with their levels and rules.
    List(list::Args),
}

#[derive(Subcommand)]
enum Run {
    /// Run the server cases against a server.
    Server(server_run::Args),
    /// Run the client cases against a client, by way of its testee.
    Client(client_run::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Args::parse().command {
        Command::Server(args) => server_test::main(args).await,
        Command::WrongServer(args) => server_wrong::main(args).await,
        Command::Hostile(args) => hostile::main(args).await,
        Command::WrongClient(args) => client_wrong::main(args).await,
        Command::Testee(args) => client_testee::main(args).await,
        Command::Run(Run::Server(args)) => server_run::main(args).await,
        Command::Run(Run::Client(args)) => client_run::main(args).await,
        Command::List(args) => list::main(&args),
    };
    ended.unwrap_or_else(|why| {
        // Nobody is left to be told if this fails.
        let _ = writeln!(stderr(), "error: {why}");
        ExitCode::FAILURE
    })
}
