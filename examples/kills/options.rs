//! The command line.

use std::path::PathBuf;

use bellwire::topic::sqlite;
use clap::{Parser, ValueEnum, value_parser};

/// Kills a server with topics and keys in a file under load, and checks that nothing is lost or
/// doubled.
#[derive(Clone, Debug, Parser)]
#[command(name = "kills", version)]
pub(crate) struct Options {
    /// How often the server is killed under load
    #[arg(long, default_value_t = 50)]
    pub(crate) kills: usize,

    /// Clients, each with a connection, two subscriptions, and five tasks that publish and call
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u64).range(1..=1_000))]
    pub(crate) clients: u64,

    /// The mean pause of each of these tasks between two requests, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pub(crate) pause: u64,

    /// The seed of the moments of the kills, and of what the clients do [default: random]
    #[arg(long, default_value_t = fastrand::u64(..), hide_default_value = true)]
    pub(crate) seed: u64,

    /// What a commit survives; a SIGKILL in both cases
    #[arg(long, value_enum, default_value_t)]
    pub(crate) durability: Durability,

    /// Be the server, on the address and with the files of this folder
    #[arg(long, hide = true, num_args = 2, value_names = ["ADDRESS", "FOLDER"])]
    pub(crate) serve: Option<Vec<PathBuf>>,
}

/// As the store's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    #[default]
    Power,
    Process,
}

impl Durability {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Power => "power",
            Self::Process => "process",
        }
    }
}

impl From<Durability> for sqlite::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Power => Self::Power,
            Durability::Process => Self::Process,
        }
    }
}
