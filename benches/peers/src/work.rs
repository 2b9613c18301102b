//! The works, and the rows that do each of them.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{all::Options, fanout, memory, requests};

/// The callers on the one connection if handlers are slow.
const CALLERS_OF_SLOW: usize = 64;
const CONNECTIONS: usize = 100;
const CALLERS_EACH: usize = 16;
/// A caller that thinks computes for at most this many microseconds, about as long as a request
/// takes.
const THINK_US: u64 = 20;
/// The second measurement of memory has this many subscriptions instead of one.
pub const SUBSCRIPTIONS: usize = 9;

/// One column of the tables: the same work for all rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// This many callers on one connection, each with one request in flight.
    InFlight(usize),
    /// This many callers on one connection, which compute between two requests.
    Thinking(usize),
    /// The handler of one request in ten takes 1 ms.
    SlowHandlers,
    ManyConnections,
    /// This many subscribers.
    FanOut(usize),
    /// This many subscriptions on each connection.
    Memory(usize),
}

/// Works of one kind, for `--work`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    InFlight,
    Thinking,
    SlowHandlers,
    ManyConnections,
    FanOut,
    Memory,
}

pub const DEPTHS: [usize; 5] = [1, 16, 64, 256, 1024];
pub const THINKING: [usize; 3] = [3, 7, 200];
pub const AUDIENCES: [usize; 2] = [100, 1000];

impl Work {
    pub fn all() -> Vec<Self> {
        let depths = DEPTHS.map(Self::InFlight);
        let thinking = THINKING.map(Self::Thinking);
        let others = [Self::SlowHandlers, Self::ManyConnections];
        let audiences = AUDIENCES.map(Self::FanOut);
        let memory = [1, SUBSCRIPTIONS].map(Self::Memory);
        [&depths[..], &thinking, &others, &audiences, &memory].concat()
    }

    pub fn kind(self) -> Kind {
        match self {
            Self::InFlight(_) => Kind::InFlight,
            Self::Thinking(_) => Kind::Thinking,
            Self::SlowHandlers => Kind::SlowHandlers,
            Self::ManyConnections => Kind::ManyConnections,
            Self::FanOut(_) => Kind::FanOut,
            Self::Memory(_) => Kind::Memory,
        }
    }

    /// The heading of its column.
    pub fn title(self) -> String {
        match self {
            Self::InFlight(count) => format!("{count} in flight"),
            Self::Thinking(count) => format!("{count} that think"),
            Self::SlowHandlers => "slow handlers".into(),
            Self::ManyConnections => format!("{CONNECTIONS} x {CALLERS_EACH}"),
            Self::FanOut(count) => format!("{count} subscribers"),
            Self::Memory(1) => "1 subscription".into(),
            Self::Memory(count) => format!("{count} subscriptions"),
        }
    }

    /// The names of the rows that can do this work.
    pub fn rows(self) -> Vec<String> {
        match self {
            Self::FanOut(_) => fanout::Row::value_variants().iter().map(name).collect(),
            // A bare connection has no subscriptions.
            Self::Memory(SUBSCRIPTIONS) => {
                let rows = memory::Row::value_variants().iter();
                rows.filter(|row| **row != memory::Row::Bare).map(name).collect()
            }
            Self::Memory(_) => memory::Row::value_variants().iter().map(name).collect(),
            Self::SlowHandlers => {
                let rows = requests::Row::value_variants().iter();
                rows.filter(|row| row.has_handlers()).map(name).collect()
            }
            _ => requests::Row::value_variants().iter().map(name).collect(),
        }
    }

    /// The arguments of the process that measures `row`.
    pub fn arguments(self, row: &str, options: &Options) -> Vec<String> {
        let (warm_up, window) = (options.warm_up_ms(), options.window_ms());
        let window = format!("--warm-up-ms {warm_up} --window-ms {window}");
        let line = match self {
            Self::InFlight(callers) => format!("requests --callers {callers} {window}"),
            Self::Thinking(callers) => {
                format!("requests --callers {callers} --think-us {THINK_US} {window}")
            }
            Self::SlowHandlers => {
                format!("requests --callers {CALLERS_OF_SLOW} --slow-handlers {window}")
            }
            Self::ManyConnections => {
                format!("requests --connections {CONNECTIONS} --callers {CALLERS_EACH} {window}")
            }
            Self::FanOut(count) => format!("fan-out --subscribers {count} {window}"),
            Self::Memory(count) => {
                let connections = options.connections();
                format!("memory --connections {connections} --subscriptions {count}")
            }
        };
        format!("{line} --row {row}").split(' ').map(String::from).collect()
    }
}

fn name<T: ValueEnum>(row: &T) -> String {
    let value = row.to_possible_value();
    value.map(|value| value.get_name().to_owned()).unwrap_or_default()
}
