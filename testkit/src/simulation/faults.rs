//! The faults of the network and of the servers, and their times, drawn from the seed.

use std::ops::Range;

use fastrand::Rng;

/// An action on the network or on hosts, which are given by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Holds all packets between a server and these clients until it is healed, and then delivers
    /// them.
    Hold(String, Vec<String>),
    /// Loses all packets between a server and these clients until it is healed.
    Partition(String, Vec<String>),
    /// As `Partition`, in one direction.
    OneWay {
        server: String,
        clients: Vec<String>,
        to_server: bool,
    },
    Heal(String, Vec<String>),
    Crash(String),
    /// A crash of a host, unless it is down, and a start.
    Bounce(String),
    /// A planned shutdown. The server starts again by itself.
    Stop(String),
}

/// Faults by virtual time in milliseconds, in order.
pub(crate) type Schedule = Vec<(u64, Fault)>;

/// The durations of faults that a connection may survive, and of faults that it usually does not,
/// in milliseconds.
const SHORT: Range<u64> = 50..8_000;
const LONG: Range<u64> = 500..20_000;

/// Draws faults, and the ends of those that last, before `until`.
pub(crate) fn draw(rng: &mut Rng, servers: &[String], clients: &[String], until: u64) -> Schedule {
    let mut schedule = Schedule::new();
    for _ in 0..rng.usize(4..12) {
        let at = rng.u64(1_000..until);
        let (fault, end) = one(rng, servers, clients);
        schedule.push((at, fault));
        schedule.extend(end.map(|(after, end)| ((at + after).min(until), end)));
    }
    schedule.sort_by_key(|(at, _)| *at);
    schedule
}

/// Draws a fault. If it does not end by itself, returns also the fault that ends it, and after how
/// long.
fn one(rng: &mut Rng, servers: &[String], clients: &[String]) -> (Fault, Option<(u64, Fault)>) {
    let (server, clients) = (pick(rng, servers), some(rng, clients));
    let mut heal = |lasts| (rng.u64(lasts), Fault::Heal(server.clone(), clients.clone()));
    let (short, long) = (heal(SHORT), heal(LONG));
    match rng.u8(..10) {
        0 | 1 => (Fault::Hold(server, clients), Some(short)),
        2 | 3 => (Fault::Partition(server, clients), Some(long)),
        4 => (Fault::OneWay { server, clients, to_server: rng.bool() }, Some(long)),
        5 => (Fault::Crash(server.clone()), Some((short.0, Fault::Bounce(server)))),
        6 => (Fault::Bounce(server), None),
        _ => (Fault::Stop(server), None),
    }
}

fn pick(rng: &mut Rng, all: &[String]) -> String {
    all[rng.usize(..all.len())].clone()
}

/// One of the names, some of them, or all.
fn some(rng: &mut Rng, all: &[String]) -> Vec<String> {
    match rng.u8(..3) {
        0 => vec![pick(rng, all)],
        1 => all.iter().filter(|_| rng.bool()).cloned().collect(),
        _ => all.to_vec(),
    }
}
