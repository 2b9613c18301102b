//! `bellwire top`: a live screen of a server.

mod data;
mod screen;
mod table;

use std::{process::ExitCode, time::Duration};

use bellwire::ClientConfig;
use clap::{Args, ValueEnum};

use crate::{duration, failed::Failed, target::TargetArgs};
use data::Source;

/// Shows a server live: sessions, slow clients, memory, and topics by rate
///
/// The server has to offer the method bellwire.stats (Server::stats_method, feature stats-method), and
/// its authorizer has to allow it to you. Keys: q quits, s sorts the sessions, p pauses.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct TopArgs {
    /// How often the figures are read
    #[arg(long, short, value_name = "TIME", default_value = "1s", value_parser = duration::parse)]
    interval: Duration,
    /// The order of the sessions
    #[arg(long, short, value_enum, default_value_t = Order::Lag)]
    sort: Order,
    /// How many sessions and topics are shown
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    lines: u16,
    /// Prints the figures once, as text. This takes one interval, because rates need two readings
    #[arg(long, short = '1')]
    once: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// The order of the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// Those that keep notifications waiting, or read nothing
    Lag,
    /// Those that hold most memory
    Memory,
    /// Those with most requests in flight
    InFlight,
    /// The oldest
    Age,
}

pub(crate) async fn run(args: TopArgs) -> Result<ExitCode, Failed> {
    if !args.once {
        screen::check_terminal()?;
    }
    let target = args.target.resolve()?;
    // A server that is away is to be shown as such at once.
    let client = target.connect(ClientConfig::new().fail_fast(true)).await?;
    let mut source = Source::new(&client, args.lines);
    let mut view = source.look().await?;
    match args.once {
        true => {
            // Rates need two looks.
            tokio::time::sleep(args.interval).await;
            view = source.look().await?;
            view.sort(args.sort);
            print!("{}", table::text(&view));
        }
        false => screen::run(&mut source, view, &args, &target.place).await?,
    }
    // Nothing is owed, whatever becomes of the connection.
    let _ = client.close().await;
    Ok(ExitCode::SUCCESS)
}
