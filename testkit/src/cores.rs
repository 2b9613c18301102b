//! Runs of both cores against each other in one thread, without a runtime, a transport or a clock.
//! Every decision is drawn from a seed, or from the bytes of a fuzz target: how bytes are cut,
//! delayed and lost, which task runs next, how time passes, and what users and handlers do.
//!
//! In some runs the clients reconnect after a lost connection, or when their server leaves. Their
//! history must satisfy the same rules as that of one connection.
//!
//! An end takes a turn only after something woke it, so that a lost wake-up is found. Whenever
//! nothing can go on before time passes, every call must have its outcome or a running handler, and
//! every subscription must have all messages.
//!
//! [`history`](crate::history) checks the history of a run. [`Run::faults`] lists all other faults.

mod choices;
mod client_end;
mod dialing;
mod executor;
mod handlers;
mod pipe;
mod runs;
mod server_end;
mod users;
mod world;

use std::{sync::Arc, time::Duration};

use bellwire::{
    Client, ClientConfig, Publisher, Random, ServerConfig,
    unstable::{
        client::{Connection as ClientCore, by_hand},
        server::{Connection, ConnectionState, Environment, StopStep},
    },
};
use fastrand::Rng;

use self::{
    choices::Choices,
    client_end::ClientEnd,
    dialing::Dialing,
    executor::{Executor, Kind},
    pipe::Pipe,
    runs::Runs,
    server_end::ServerEnd,
    users::User,
    world::World,
};
use crate::history::{Event, History, Number};

const TOPICS: [&str; 2] = ["a", "b"];
/// The most clients of a run.
const CLIENTS: usize = 3;
/// In one of this many seeds, the clients reconnect.
const RECONNECT: u64 = 4;
/// The most virtual time that the tasks of a run may take together, in milliseconds.
const LONGEST: u64 = 3_600_000;
/// The most turns of a run: many times those of the longest run.
const TURNS: usize = 300_000;
/// The steps in which a server stops.
const STEPS: [StopStep; 4] = [StopStep::Goodbye, StopStep::Line, StopStep::Last, StopStep::Cut];

/// The result of a run.
pub struct Run {
    pub history: History,
    /// A hash of all bytes that passed, in their order and pieces.
    pub hash: u64,
    /// What is wrong, apart from the history.
    pub faults: Vec<String>,
}

impl Run {
    /// Everything that is wrong.
    pub fn check(&self) -> Vec<String> {
        let broken = self.history.check();
        self.faults.iter().cloned().chain(broken.iter().map(ToString::to_string)).collect()
    }
}

/// The run of a seed. Whether its clients reconnect is not one of its decisions, so the runs of
/// other seeds did not change when reconnects were added.
pub fn run(seed: u64) -> Run {
    play(Choices::Seed(Rng::with_seed(seed)), seed % RECONNECT == 1)
}

/// The run whose decisions are these bytes.
pub fn run_by(bytes: &[u8]) -> Run {
    let reconnects = bytes.last().is_some_and(|&last| u64::from(last) % RECONNECT == 1);
    play(Choices::Bytes { data: bytes.to_vec(), at: 0 }, reconnects)
}

fn play(choices: Choices, reconnects: bool) -> Run {
    let mut sim = Simulation::new(World::new(choices), reconnects);
    sim.act();
    sim.settle();
    sim.close();
    sim.judge()
}

/// A connection: both its ends, and the bytes in transit between them.
struct Link {
    client: ClientEnd,
    server: ServerEnd,
    to_server: Pipe,
    to_client: Pipe,
    /// The index of its client.
    owner: usize,
}

/// A client, with any number of connections.
struct Owner {
    /// The handle that keeps the client alive, and from which the statistics are read in the end.
    handle: Option<Client>,
    name: String,
    /// The driver that connects, if the client reconnects.
    dialing: Option<Dialing>,
}

/// Something that can take a turn.
#[derive(Clone, Copy)]
enum Next {
    Task(usize),
    Dialing(usize),
    Client(usize),
    Server(usize),
}

struct Simulation {
    world: World,
    executor: Executor,
    /// Keyed runs that have not ended at once.
    runs: Runs,
    environment: Arc<Environment>,
    owners: Vec<Owner>,
    /// All connections so far.
    links: Vec<Link>,
    /// Whether clients reconnect.
    reconnects: bool,
    client_config: ClientConfig,
    /// Turns until the next step of the drain, and the index of that step.
    drain: Option<(usize, usize)>,
    /// Whether connections are lost and tasks are dropped.
    is_rough: bool,
    turns: usize,
    /// A buffer for what can take a turn.
    ready: Vec<Next>,
    faults: Vec<String>,
}

impl Link {
    fn is_over(&self) -> bool {
        self.client.ended.is_some() && self.server.core.is_none()
    }

    /// Whether the connection is closing and the client does not know it yet: the server has read
    /// the end of the client's direction, or ends by itself. The client still gets pending replies,
    /// but no messages.
    fn is_finishing(&self) -> bool {
        let is_reading = |core: &Connection| {
            use ConnectionState::{Grace, Greeted, LineDrawn, Open};
            matches!(core.state(), Greeted | Open | Grace | LineDrawn)
        };
        self.client.ended.is_none() && !self.server.core.as_ref().is_some_and(is_reading)
    }

    /// Whether no bytes are in transit to a live end.
    fn is_quiet(&self) -> bool {
        (self.server.core.is_none() || !self.to_server.is_readable())
            && (self.client.ended.is_some() || !self.to_client.is_readable())
    }
}

impl Simulation {
    fn new(world: World, reconnects: bool) -> Self {
        let seed = world.below(256) as u64;
        let (runs, keys) = (Runs::default(), runs::keys(&world, &Random::seeded(seed + 2)));
        let environment = Environment::new(server_config(&world), handlers::router(&world))
            .random(&Random::seeded(seed))
            .keys(keys, runs.taker());
        let client_config = client_config(&world).random(Random::seeded(seed + 1));
        let drain = world.chance(3).then(|| (world.below(600), 0));
        let is_rough = world.below(2) == 1 || reconnects;
        let mut sim = Self {
            environment: Arc::new(environment),
            executor: Executor::default(),
            runs,
            owners: Vec::new(),
            links: Vec::new(),
            reconnects,
            client_config,
            drain,
            is_rough,
            turns: 0,
            ready: Vec::new(),
            faults: Vec::new(),
            world,
        };
        for _ in 0..1 + sim.world.below(2) {
            sim.connect();
        }
        let publishing = publish(sim.environment.publisher(), sim.world.clone());
        sim.executor.spawn(Kind::Acts, publishing);
        sim
    }

    /// Adds a client with its users.
    fn connect(&mut self) {
        let (index, world) = (self.owners.len(), self.world.clone());
        let (name, config) = (format!("client{index}"), self.client_config.clone());
        let (client, core, dialing) = match self.reconnects {
            true => {
                let (client, dialing) = Dialing::new(&world, config);
                (client, None, Some(dialing))
            }
            false => {
                let (client, core) = by_hand(config);
                (client, Some(core), None)
            }
        };
        let handle = Some(client.clone());
        self.owners.push(Owner { handle, name: name.clone(), dialing });
        let mut link = core.map(|core| self.ends(index, core));
        let user = User { client, world: world.clone(), name, index, is_hasty: self.reconnects };
        let capacity = || Pipe::new([64, 1_000, 1 << 16][world.below(3)]);
        for _ in 0..1 + world.below(3) {
            self.executor.spawn(Kind::Acts, user.clone().act_on());
        }
        for topic in &TOPICS[..world.below(3)] {
            self.executor.spawn(Kind::Listens, user.clone().listen(topic));
        }
        if let Some(link) = &mut link {
            (link.to_server, link.to_client) = (capacity(), capacity());
        }
        self.links.extend(link);
    }

    /// Creates both ends of a connection, over a transport with much capacity.
    fn ends(&self, owner: usize, core: ClientCore) -> Link {
        let (world, number) = (&self.world, self.links.len() as u64 + 1);
        let client = ClientEnd::new(world, &self.owners[owner].name, number, core);
        let server = ServerEnd::new(world, &self.environment, number);
        let (to_server, to_client) = (Pipe::new(1 << 16), Pipe::new(1 << 16));
        Link { client, server, to_server, to_client, owner }
    }

    /// Lets the users act and faults happen until all is done.
    fn act(&mut self) {
        let end = LONGEST;
        while self.executor.has(Kind::Acts) || self.drain.is_some_and(|(_, step)| step > 0) {
            self.disturb();
            if !self.turn() && !self.advance(end) {
                break;
            }
        }
        self.still(end);
    }

    /// Goes on until only timers of connections are left.
    fn still(&mut self, end: u64) {
        loop {
            if self.turn() {
                continue;
            }
            let are_connected = self
                .owners
                .iter()
                .filter_map(|owner| owner.dialing.as_ref())
                .all(Dialing::is_settled);
            let is_over = self.world.next_sleeper().is_none()
                && are_connected
                && !self.executor.has(Kind::Acts)
                && self.links.iter().all(|link| link.is_quiet() && !link.is_finishing());
            if is_over || !self.advance(end) {
                break;
            }
        }
    }

    /// Publishes a last message to each topic, and waits until all subscribers have it.
    fn settle(&mut self) {
        self.is_rough = false;
        let publisher = self.environment.publisher();
        self.executor.spawn(Kind::Acts, say_last(publisher, self.world.clone()));
        self.still(2 * LONGEST);
        for call in self.world.open() {
            self.faults.push(format!("call {call} has no outcome in the end"));
        }
        self.world.settle();
    }

    /// Closes both ends, in one way or another.
    fn close(&mut self) {
        for index in 0..self.owners.len() {
            match self.world.below(3) {
                0 => self.close_client(index),
                1 => {}
                _ => self.shut(index),
            }
            // Otherwise the client would reconnect.
            if self.reconnects {
                self.close_client(index);
            }
        }
        // The server stops, and closes the connections that are still open.
        let cut = self.world.below(STEPS.len());
        let stop = |sim: &mut Self, step| {
            sim.links.iter_mut().for_each(|link| link.server.stop(step));
        };
        STEPS[cut.min(1)..].iter().for_each(|&step| {
            stop(self, step);
            for _ in 0..self.world.below(50) {
                let _ = self.turn();
            }
        });
        let end = 3 * LONGEST;
        while !self.links.iter().all(Link::is_over) || self.executor.len() > 0 {
            if !self.turn() && !self.advance(end) {
                break;
            }
        }
    }

    /// Tells the server that a client has closed its direction.
    fn shut(&mut self, index: usize) {
        let own = self.links.iter_mut().filter(|link| link.owner == index);
        own.for_each(|link| link.to_server.shut());
    }

    fn close_client(&mut self, index: usize) {
        let Some(client) = self.owners[index].handle.clone() else { return };
        self.executor.spawn(Kind::Acts, async move {
            let _ = client.close().await;
        });
    }

    /// Collects the result of the run.
    fn judge(mut self) -> Run {
        let mut faults = std::mem::take(&mut self.faults);
        for link in &self.links {
            let name = &self.owners[link.owner].name;
            let mut fault = |what: String| faults.push(format!("{name}: {what}"));
            if !link.is_over() {
                let server = link.server.core.as_ref().map(|core| core.state());
                fault(format!("client {:?}, server {server:?} in the end", link.client.core));
            }
            let stats = link.server.session.stats();
            let (in_flight, subscriptions) = (stats.in_flight, stats.subscriptions);
            if (in_flight, subscriptions, stats.held_bytes) != (0, 0, 0) {
                fault(format!("the server's gauges are {stats:?}"));
            }
        }
        for Owner { handle, name, .. } in &mut self.owners {
            let mut fault = |what: String| faults.push(format!("{name}: {what}"));
            let stats = handle.take().map(|client| client.stats()).expect("a handle");
            let gauges = [("pending", stats.pending), ("in flight", stats.in_flight)];
            let faulty = [
                ("doubled replies", stats.doubled_replies),
                ("unasked replies", stats.unasked_replies),
                ("violations", stats.violations),
            ];
            let all = gauges.map(|(what, count)| (what, count as u64)).into_iter().chain(faulty);
            for (what, count) in all.filter(|(_, count)| *count > 0) {
                fault(format!("the client counts {count} {what}"));
            }
        }
        let stats = self.environment.stats();
        if stats.buffered_bytes > 0 || stats.malformed > 0 {
            faults.push(format!("the server counts {stats:?}"));
        }
        if self.executor.len() > 0 {
            faults.push(format!("{} tasks do not end", self.executor.len()));
        }
        let (history, hash) = self.world.take();
        Run { history, hash, faults }
    }
}

impl Simulation {
    /// Takes one turn of a ready task or end. Returns whether there was one.
    fn turn(&mut self) -> bool {
        self.turns += 1;
        assert!(self.turns < TURNS, "the run does not come to an end");
        for run in self.runs.take() {
            self.executor.spawn(Kind::Acts, runs::drive(self.world.clone(), run));
        }
        let mut ready = std::mem::take(&mut self.ready);
        ready.clear();
        ready.extend(self.executor.ready().map(Next::Task));
        for (at, link) in self.links.iter().enumerate() {
            let Link { client, server, to_server, to_client, .. } = link;
            let client = client.is_ready(to_client, to_server).then_some(Next::Client(at));
            let server = server.is_ready(to_server, to_client).then_some(Next::Server(at));
            ready.extend(client.into_iter().chain(server));
        }
        for (at, owner) in self.owners.iter().enumerate() {
            let is_ready = owner.dialing.as_ref().is_some_and(Dialing::is_ready);
            ready.extend(is_ready.then_some(Next::Dialing(at)));
        }
        let next = (!ready.is_empty()).then(|| ready[self.world.below(ready.len())]);
        self.ready = ready;
        match next {
            Some(Next::Task(at)) => self.executor.poll(at),
            Some(Next::Dialing(at)) => {
                let made = self.owners[at].dialing.as_mut().and_then(Dialing::turn);
                let link = made.map(|core| self.ends(at, core));
                self.links.extend(link);
            }
            Some(Next::Client(at)) => {
                let Link { client, to_server, to_client, owner, .. } = &mut self.links[at];
                client.turn(to_client, to_server);
                // A client that reconnects resumes these topics on the next connection.
                for topic in client.given_up().iter().filter(|_| !self.reconnects) {
                    self.world.give_up(*owner, topic);
                }
            }
            Some(Next::Server(at)) => {
                let Link { server, to_server, to_client, .. } = &mut self.links[at];
                server.turn(to_server, to_client);
            }
            None => {}
        }
        next.is_some()
    }

    /// Nothing can go on now, so the time advances to the next timer. Returns whether there is a
    /// timer before `end`.
    fn advance(&mut self, end: u64) -> bool {
        self.look_for_lost_wakes();
        if !self.faults.is_empty() {
            return false;
        }
        let timeouts = self.links.iter().flat_map(|link| {
            let client = link.client.ended.is_none().then(|| link.client.core.next_timeout());
            let server = link.server.core.as_ref().and_then(|core| core.next_timeout());
            client.flatten().into_iter().chain(server)
        });
        let dialings =
            self.owners.iter().filter_map(|owner| owner.dialing.as_ref()?.next_timeout());
        let next = timeouts.chain(dialings).chain(self.world.next_sleeper()).min();
        match next.filter(|at| at.as_millis() < end) {
            Some(at) => {
                self.world.advance(at);
                true
            }
            None => self.drain.is_some() && self.step_drain(),
        }
    }

    /// For clients that reconnect this is checked only at the end of the run, because a call may
    /// wait for the next connection or for a pause.
    fn look_for_lost_wakes(&mut self) {
        if self.reconnects {
            return;
        }
        let is_quiet = self.links.iter().all(Link::is_quiet);
        for at in (0..self.links.len()).filter(|_| is_quiet) {
            if self.links[at].client.ended.is_some() {
                continue;
            }
            if let Some(what) = self.world.is_stuck(at, !self.links[at].is_finishing()) {
                self.faults.push(format!("client{at}: {what}"));
            }
        }
    }

    /// Injects a random fault.
    fn disturb(&mut self) {
        if self.world.chance(64) {
            let millis = self.world.below(2_000) as u64;
            self.world.advance(self.world.now().after(Duration::from_millis(millis)));
        }
        if let Some((turns, _)) = &mut self.drain {
            match turns.checked_sub(1) {
                Some(left) => *turns = left,
                None => drop(self.step_drain()),
            }
        }
        let rate = if self.reconnects { 96 } else { 256 };
        if self.is_rough && self.world.chance(rate) {
            match self.world.below(4) {
                0 => self.lose(),
                1 => self.abort(),
                2 if self.owners.len() < CLIENTS
                    && self.drain.is_none_or(|(_, step)| step == 0) =>
                {
                    self.connect();
                }
                _ => {}
            }
        }
    }

    fn step_drain(&mut self) -> bool {
        let Some((_, step)) = self.drain else { return false };
        let Some(&stop) = STEPS.get(step) else {
            self.drain = None;
            return false;
        };
        self.links.iter_mut().for_each(|link| link.server.stop(stop));
        self.drain = Some((self.world.below(400), step + 1));
        true
    }

    /// Loses a connection.
    fn lose(&mut self) {
        let at = self.world.below(self.links.len());
        if self.links.is_empty() {
            return;
        }
        let Link { server, to_server, to_client, .. } = &mut self.links[at];
        match self.world.below(3) {
            // The server reads the end of the client's direction, although the client has not
            // closed it.
            0 => to_server.shut(),
            1 => to_client.cut(self.world.below(to_client.len() + 1)),
            _ => {
                server.lose(to_server, to_client);
                to_client.cut(self.world.below(to_client.len() + 1));
            }
        }
    }

    /// Drops a task.
    fn abort(&mut self) {
        if self.executor.len() > 0 {
            let at = self.world.below(self.executor.len());
            self.executor.abort(at);
        }
    }
}

/// Limits that are small enough to be reached.
fn server_config(world: &World) -> ServerConfig {
    ServerConfig::new()
        .first_line(Duration::from_secs(5))
        .idle(Duration::from_secs(30))
        .lease(Duration::from_secs(10))
        .handler_time(Duration::from_secs(5))
        .write_progress(Duration::from_secs(5))
        // More than a client's own limit. Otherwise a silent server might just wait for a place in
        // flight.
        .in_flight(17 + world.below(16))
        .retained_messages(4 + world.below(60))
        .notification_mark(1 << (7 + world.below(7)))
        .reply_mark(1 << (9 + world.below(7)))
        .allow_publish(true)
}

fn client_config(world: &World) -> ClientConfig {
    let deadline = [None, None, Some(Duration::from_millis(4_000))][world.below(3)];
    ClientConfig::new()
        .in_flight(2 + world.below(14))
        .outbound_bytes(1 << (6 + world.below(10)))
        .inbox_items(2 + world.below(30))
        .deadline(deadline)
        .close_timeout(Duration::from_secs(8))
        .probe(Duration::from_secs(3))
        .dead(Duration::from_secs(6))
}

/// Publishes a few messages on the server.
async fn publish(publisher: Publisher, world: World) {
    for _ in 0..world.below(16) {
        if world.below(2) == 1 {
            world.sleep(world.below(1_500) as u64).await;
        }
        publish_one(&publisher, &world, TOPICS[world.below(TOPICS.len())]).await;
    }
}

async fn say_last(publisher: Publisher, world: World) {
    for topic in TOPICS {
        publish_one(&publisher, &world, topic).await;
    }
}

async fn publish_one(publisher: &Publisher, world: &World, topic: &str) {
    let (topic, payload) = (topic.to_owned(), format!("m{}", world.number()));
    let publishing = Event::Publishing { topic: topic.clone(), payload: payload.clone() };
    world.record("server", publishing);
    match publisher.publish(topic.as_str(), payload.clone()).await {
        Ok(published) => {
            let number = Number::new(published.epoch.to_string(), published.sequence);
            world.record("server", Event::Published { topic, number, payload });
        }
        Err(_) => world.record("server", Event::Unpublished { topic, payload }),
    }
}
