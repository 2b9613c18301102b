//! Runs of servers and clients over a simulated network, in virtual time. Everything in a run,
//! including its faults, is drawn from its seed.

mod callers;
mod client;
mod faults;
mod handlers;
mod manner;
mod narrow;
mod recorder;
mod server;
mod subscribers;
mod tap;

use std::{ops::Range, sync::Arc, time::Duration};

use fastrand::Rng;
use turmoil::Sim;

use self::{
    faults::{Fault, Schedule},
    recorder::Recorder,
    server::Host,
};
use crate::history::{Event, History};

const TOPICS: [&str; 4] = ["a", "b", "c", "d"];
const CLIENTS: usize = 20;

/// The virtual time of one turn of the simulation, in milliseconds.
const TICK: u64 = 40;
/// Faults happen up to this time.
const FAULTS: u64 = 60_000;
/// How long a run has to settle after nothing new begins. In this time a silent server is noticed,
/// its clients connect elsewhere, and a lease is renewed.
const SETTLE: u64 = 24_000;
/// How much longer a run may take until no request is in progress and all subscribers have caught
/// up.
const PATIENCE: u64 = 60_000;

struct World<'a> {
    sim: Sim<'a>,
    recorder: Recorder,
    servers: Vec<(String, Arc<Host>)>,
    clients: Vec<String>,
    now: u64,
}

/// The history of the run of a seed.
pub fn run(seed: u64) -> History {
    let mut rng = Rng::with_seed(seed);
    let mut world = World::new(&mut rng);
    let names: Vec<_> = world.servers.iter().map(|(name, _)| name.clone()).collect();
    let schedule = faults::draw(&mut rng, &names, &world.clients, FAULTS);
    world.play(schedule);
    world.heal();
    world.recorder.call_it_a_day();
    world.run_until(FAULTS + SETTLE);
    while world.recorder.is_busy() && world.now < FAULTS + SETTLE + PATIENCE {
        world.turn();
    }
    world.recorder.record_heads();
    world.recorder.record(Event::Quiet);
    // Drops from here on are not part of the run.
    world.recorder.take()
}

/// A random time.
fn between(rng: &mut Rng, millis: Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(millis))
}

impl World<'_> {
    fn new(rng: &mut Rng) -> Self {
        let mut sim = network(rng);
        let recorder = Recorder::new();
        let names = |kind: &str, count| (1..=count).map(|n| format!("{kind}{n}")).collect();
        let servers: Vec<String> = names("s", if rng.bool() { 1 } else { 3 });
        let clients: Vec<String> = names("c", CLIENTS);
        let hosts = servers.iter().map(|name| {
            let host = Arc::new(Host::new(recorder.of(name), rng));
            let running = host.clone();
            sim.host(name.as_str(), move || running.clone().run());
            (name.clone(), host)
        });
        let hosts = hosts.collect();
        for name in &clients {
            sim.client(name.as_str(), client::run(servers.clone(), recorder.of(name), rng.fork()));
        }
        Self { sim, recorder, servers: hosts, clients, now: 0 }
    }

    fn play(&mut self, schedule: Schedule) {
        for (at, fault) in schedule {
            self.run_until(at);
            self.recorder.note(format!("{fault:?}"));
            self.inflict(fault);
        }
        self.run_until(FAULTS);
    }

    fn inflict(&mut self, fault: Fault) {
        let sim = &self.sim;
        match &fault {
            Fault::Hold(server, clients) => each(clients, |client| sim.hold(&**server, client)),
            Fault::Partition(server, clients) => {
                each(clients, |client| sim.partition(&**server, client));
            }
            Fault::OneWay { server, clients, to_server: true } => {
                each(clients, |client| sim.partition_oneway(client, &**server));
            }
            Fault::OneWay { server, clients, .. } => {
                each(clients, |client| sim.partition_oneway(&**server, client));
            }
            // This also ends a partition: packets that are held are released, and lost packets stay
            // lost.
            Fault::Heal(server, clients) => each(clients, |client| sim.release(&**server, client)),
            Fault::Crash(server) => self.crash(server),
            Fault::Bounce(server) => {
                self.crash(server);
                self.sim.bounce(&**server);
            }
            Fault::Stop(server) => self.host(server).stop(),
        }
    }

    fn crash(&mut self, server: &str) {
        self.host(server).crash();
        self.turn();
        self.sim.crash(server);
    }

    fn host(&self, server: &str) -> &Host {
        let host = self.servers.iter().find(|(name, _)| name == server);
        &host.expect("faults are of servers there are").1
    }

    /// Repairs the network, and starts every server that is down.
    fn heal(&mut self) {
        self.recorder.note("all is well");
        for (server, _) in &self.servers {
            each(&self.clients, |client| self.sim.release(server.as_str(), client));
            if !self.sim.is_host_running(server.as_str()) {
                self.sim.bounce(server.as_str());
            }
        }
    }

    fn run_until(&mut self, at: u64) {
        while self.now < at {
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.now += TICK;
        self.recorder.set_time(self.now);
        self.sim.step().expect("every host runs, or is down");
    }
}

fn each(names: &[String], what: impl FnMut(&str)) {
    names.iter().map(String::as_str).for_each(what);
}

fn network<'a>(rng: &mut Rng) -> Sim<'a> {
    turmoil::Builder::new()
        .rng_seed(rng.u64(..))
        .enable_random_order()
        .tick_duration(Duration::from_millis(TICK))
        .simulation_duration(Duration::MAX)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(rng.u64(2..200)))
        // This also limits connections that wait to be accepted. Over the limit, the network
        // panics.
        .tcp_capacity(128)
        .build()
}
