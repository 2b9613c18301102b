//! bellwire's targets, and what it reached.

use crate::{
    results::{Figure, Results},
    work::{AUDIENCES, DEPTHS, SUBSCRIPTIONS, THINKING, Work},
};

pub const BELLWIRE: &str = "bellwire";
pub const BARE: [&str; 3] = ["bare-yield-first", "bare-yield-each", "bare-at-once"];
pub const PEERS: [&str; 6] = ["redis-rs", "fred", "tarpc", "tonic", "jsonrpsee", "async-nats"];

/// One target.
#[derive(Debug)]
pub struct Target {
    pub what: String,
    pub reached: Option<f64>,
    pub limit: Limit,
}

#[derive(Clone, Copy, Debug)]
pub enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    pub fn is_met(&self) -> Option<bool> {
        self.reached.map(|reached| match self.limit {
            Limit::AtLeast(limit) => reached >= limit,
            Limit::AtMost(limit) => reached <= limit,
        })
    }
}

pub fn all(results: &Results) -> Vec<Target> {
    let mut targets = Vec::new();
    targets.extend(against_bare(results));
    targets.extend(against_peers(results));
    targets.extend(fan_out(results));
    targets.extend(memory(results));
    targets
}

fn against_bare(results: &Results) -> Vec<Target> {
    let requests = |work: Work, least: f64| Target {
        what: format!("requests/s against the best bare row, {}", work.title()),
        reached: results.ratio(work, BELLWIRE, &BARE, Figure::PerSecond),
        limit: Limit::AtLeast(least),
    };
    let cpu = |depth| {
        let work = Work::InFlight(depth);
        Target {
            what: format!("CPU against the best bare row, {}", work.title()),
            reached: results.ratio(work, BELLWIRE, &BARE, Figure::CpuPerMillion),
            limit: Limit::AtMost(1.3),
        }
    };
    let least = [0.9, 0.8, 0.8, 0.75, 0.75];
    let depths =
        DEPTHS.iter().zip(least).map(|(depth, least)| requests(Work::InFlight(*depth), least));
    let thinking = THINKING.map(|callers| requests(Work::Thinking(callers), 0.9));
    let slow = requests(Work::SlowHandlers, 0.9);
    depths.chain(DEPTHS.map(cpu)).chain(thinking).chain([slow, spread(results)]).collect()
}

fn spread(results: &Results) -> Target {
    let at = |figure| results.median(Work::InFlight(64), BELLWIRE, figure);
    Target {
        what: "p99 against p50, 64 in flight".into(),
        reached: at(Figure::P99).zip(at(Figure::P50)).map(|(p99, p50)| p99 / p50),
        limit: Limit::AtMost(2.0),
    }
}

fn against_peers(results: &Results) -> Vec<Target> {
    let works = [
        (Work::InFlight(1), 1.5),
        (Work::InFlight(64), 2.5),
        (Work::InFlight(256), 4.0),
        (Work::InFlight(1024), 4.0),
        (Work::ManyConnections, 3.0),
    ];
    let target = |(work, least): (Work, f64)| Target {
        what: format!("requests/s against the best peer, {}", work.title()),
        reached: results.ratio(work, BELLWIRE, &PEERS, Figure::PerSecond),
        limit: Limit::AtLeast(least),
    };
    works.map(target).into()
}

fn fan_out(results: &Results) -> Vec<Target> {
    let of = |count| {
        let work = Work::FanOut(count);
        let per_second = Figure::PerSecond;
        let sockets = Target {
            what: format!(
                "deliveries/s to counting sockets against the bare ring, {}",
                work.title()
            ),
            reached: results.ratio(work, "bellwire-sockets", &["bare-ring"], per_second),
            limit: Limit::AtLeast(0.9),
        };
        let clients = Target {
            what: format!("CPU s per million deliveries to its own clients, {}", work.title()),
            reached: results.median(work, "bellwire-clients", Figure::CpuPerMillion),
            limit: Limit::AtMost(0.4),
        };
        [sockets, clients]
    };
    AUDIENCES.into_iter().flat_map(of).collect()
}

fn memory(results: &Results) -> Vec<Target> {
    let connection = Target {
        what: "bytes for each idle subscribed connection".into(),
        reached: results.median(Work::Memory(1), BELLWIRE, Figure::Bytes),
        limit: Limit::AtMost(1536.0),
    };
    let subscription = Target {
        what: "bytes for each further subscription".into(),
        reached: further_subscription(results, BELLWIRE),
        limit: Limit::AtMost(300.0),
    };
    vec![connection, subscription]
}

/// The memory that each further subscription adds to a connection.
pub fn further_subscription(results: &Results, row: &str) -> Option<f64> {
    let one = results.median(Work::Memory(1), row, Figure::Bytes)?;
    let many = results.median(Work::Memory(SUBSCRIPTIONS), row, Figure::Bytes)?;
    Some((many - one) / (SUBSCRIPTIONS - 1) as f64)
}
