//! The command line.

use std::path::PathBuf;

use clap::{Parser, value_parser};

/// Kills servers that share topics and keys in Redis, and checks that nothing is lost or doubled.
#[derive(Clone, Debug, Parser)]
#[command(name = "cluster", version)]
pub(crate) struct Options {
    /// How long servers are killed
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,

    /// Servers
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u64).range(1..=100))]
    pub(crate) servers: u64,

    /// Clients, each with a connection, two subscriptions, and five tasks that publish and call
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u64).range(1..=1_000))]
    pub(crate) clients: u64,

    /// The longest time between two kills, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 3_000, value_parser = value_parser!(u64).range(50..))]
    pub(crate) every: u64,

    /// The mean pause of each task of a client between two requests, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pub(crate) pause: u64,

    /// The seed of the moments of the kills, and of what the clients do [default: random]
    #[arg(long, default_value_t = fastrand::u64(..), hide_default_value = true)]
    pub(crate) seed: u64,

    /// Be a server, on the address and with the files of this folder
    #[arg(long, hide = true, num_args = 2, value_names = ["ADDRESS", "FOLDER"])]
    pub(crate) serve: Option<Vec<PathBuf>>,
}
