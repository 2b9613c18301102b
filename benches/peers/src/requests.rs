//! The rows that answer requests.

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    bare::{self, writer::Flush},
    load::{self, Plan},
    meter::Sample,
    peers::{bellwire, jsonrpsee, nats, redis, tarpc, tonic},
};

/// The rows of this work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// Bare, yields before the first write.
    BareYieldFirst,
    /// Bare, yields before each write.
    BareYieldEach,
    /// Bare, writes at once.
    BareAtOnce,
    Bellwire,
    RedisRs,
    Fred,
    Tarpc,
    Tonic,
    Jsonrpsee,
    AsyncNats,
}

impl Row {
    /// Whether its server can run a handler that takes 1 ms.
    pub fn has_handlers(self) -> bool {
        !matches!(self, Self::RedisRs | Self::Fred)
    }
}

pub async fn run(row: Row, plan: &Plan) -> Result<Sample> {
    match row {
        Row::BareYieldFirst => load::run(bare::start(Flush::YieldFirst, plan).await?, plan).await,
        Row::BareYieldEach => load::run(bare::start(Flush::YieldEach, plan).await?, plan).await,
        Row::BareAtOnce => load::run(bare::start(Flush::AtOnce, plan).await?, plan).await,
        Row::Bellwire => load::run(bellwire::start(plan).await?, plan).await,
        Row::RedisRs => load::run(redis::start_redis_rs(plan).await?, plan).await,
        Row::Fred => load::run(redis::start_fred(plan).await?, plan).await,
        Row::Tarpc => load::run(tarpc::start(plan).await?, plan).await,
        Row::Tonic => load::run(tonic::start(plan).await?, plan).await,
        Row::Jsonrpsee => load::run(jsonrpsee::start(plan).await?, plan).await,
        Row::AsyncNats => load::run(nats::start(plan).await?, plan).await,
    }
}
