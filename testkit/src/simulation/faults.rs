//! What happens to the network and to the servers, and when: drawn from the seed.

use std::ops::Range;

use fastrand::Rng;

/// Something that is done to the world, to hosts by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing passes between a server and these, until it is healed; then all does.
    Hold(String, Vec<String>),
    /// All that passes between a server and these is gone, until it is healed.
    Partition(String, Vec<String>),
    /// The same in one direction.
    OneWay {
        server: String,
        clients: Vec<String>,
        to_server: bool,
    },
    Heal(String, Vec<String>),
    Crash(String),
    /// A crash, or a host that is down, and a start.
    Bounce(String),
    /// A planned shutdown, upon which it starts again by itself.
    Stop(String),
}

/// Faults by virtual milliseconds, in order.
pub(crate) type Schedule = Vec<(u64, Fault)>;

/// How long a fault lasts that a connection may outlive, and one that it hardly does, in
/// milliseconds.
const SHORT: Range<u64> = 50..8_000;
const LONG: Range<u64> = 500..20_000;

/// Faults, and the ends of those that last, before `until`.
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

/// A fault; and after how long which other ends it, if it does not end by itself.
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

/// One of them, some, or all.
fn some(rng: &mut Rng, all: &[String]) -> Vec<String> {
    match rng.u8(..3) {
        0 => vec![pick(rng, all)],
        1 => all.iter().filter(|_| rng.bool()).cloned().collect(),
        _ => all.to_vec(),
    }
}
