//! Half-open connections: a black hole between the ends, in both directions or in one, and how soon
//! each end detects it (SECURITY.md, threat 23).

use std::{
    collections::HashMap,
    future::ready,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwire::{
    Client, ClientConfig, ConnectionError, ConnectionEvent, ConnectionEvents, Delivery, Publisher,
    Random, Router, Server, ServerConfig, ServerHandle, Subscription,
};
use bellwire_testkit::{
    doors::door,
    proxy::{
        Direction::{self, ToClient, ToServer},
        Hole, Link, Plan, Proxy, Wire,
    },
};
use fastrand::Rng;
use futures::FutureExt;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// How long a client bears with silence before it probes, and before it gives the server up.
const PROBE: Duration = Duration::from_secs(10);
const DEAD: Duration = Duration::from_secs(20);
/// How long this server bears with silence.
const IDLE: Duration = Duration::from_secs(20);
/// How much later than its limits a server may look at them: a tick of its timers.
const TICK: Duration = Duration::from_millis(10);
/// How long a server that has closed waits for the client's end of the stream.
const LINGER: Duration = Duration::from_secs(1);
/// The first window of the pause before a client connects again.
const BASE: Duration = Duration::from_millis(250);
/// How long this server waits for a transport that takes nothing.
const STUCK: Duration = Duration::from_secs(10);
/// How long the pipe takes bytes at this pace while its reader stops.
const FILLED: Duration = Duration::from_millis(400);
/// Between two messages that a server tells.
const PACE: Duration = Duration::from_millis(100);
const MILLI: Duration = Duration::from_millis(1);
/// Longer than anything here takes.
const AGE: Duration = Duration::from_secs(600);

/// What a pipe holds, each of the two that a connection goes through.
const PIPE: usize = 4 * 1024;

/// A client that listens to a server through a proxy.
struct Pair {
    proxy: Proxy,
    lines: Lines,
    server: ServerHandle,
    publisher: Publisher,
    serving: JoinHandle<io::Result<()>>,
    _client: Client,
    events: ConnectionEvents,
    subscription: Subscription,
    published: u64,
}

/// How the first connection ended.
struct Ended {
    /// When the client gave it up, and why.
    client: Instant,
    error: ConnectionError,
    /// When the client tried another.
    dialled: Instant,
    /// When the server had dropped it.
    server: Instant,
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Pair {
    /// The first connection plays `plan`; nothing is done to the next.
    async fn connect(config: ServerConfig, plan: Plan, seed: u64) -> Self {
        let (door, doorway) = door();
        let (proxy, lines) = (Proxy::new([plan]), Lines::default());
        lines.clone().observe(proxy.wire());
        let server = Server::new(doorway).config(config).random(Random::seeded(seed));
        let (handle, publisher) = (server.handle(), server.publisher());
        let serving = tokio::spawn(server.serve(Router::new()).into_future());
        let network = proxy.handle();
        let dial = move |_: &str| ready(network.dial(|| door.pipe(PIPE)));
        let config = ClientConfig::new().random(Random::seeded(seed));
        let client = Client::builder().connector(dial).config(config).connect().await.unwrap();
        Self {
            proxy,
            lines,
            server: handle,
            publisher,
            serving,
            events: client.events(),
            subscription: client.subscribe("t").await.unwrap(),
            _client: client,
            published: 0,
        }
    }

    async fn publish(&mut self) {
        self.published += 1;
        self.publisher.publish("t", [b'x'; 1_024].as_slice()).await.unwrap();
    }

    /// The server closed after 20 s of silence, and sent a `/bye`.
    fn server_went_idle(&self, ended: &Ended) {
        let took = ended.server - self.lines.last(ToServer);
        assert!((IDLE + LINGER..=IDLE + LINGER + 2 * TICK).contains(&took), "{took:?}");
    }

    /// The application is given all that was published, and nothing else.
    async fn is_given_all(&mut self) {
        for number in 1..=self.published {
            let given = timeout(AGE, self.subscription.next()).await;
            match given.expect("it is given").expect("it goes on") {
                Delivery::Notification(given) => assert_eq!(given.sequence, number),
                other => panic!("{other:?}"),
            }
        }
        sleep(PROBE).await;
        assert!(self.subscription.next().now_or_never().is_none());
    }

    /// Waits until the client has given its connection up.
    async fn ended_for_client(&mut self) -> Instant {
        timeout(AGE, given_up(&mut self.events)).await.expect("it gives up").0
    }

    /// Waits until each end has noticed that the first connection is over.
    async fn ended(&mut self) -> Ended {
        let (events, server) = (&mut self.events, &self.server);
        let ended = async { tokio::join!(given_up(events), dropped(server)) };
        let ended = timeout(AGE, ended).await.expect("both notice");
        let ((client, error, dialled), server) = ended;
        Ended { client, error, dialled, server }
    }
}

/// When the last line got through to the end of its direction, on the first connection.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<HashMap<Direction, Instant>>>);

impl Lines {
    fn observe(self, wire: &Wire) {
        wire.observe(move |connection, direction, _| {
            if connection == 0 {
                self.0.lock().unwrap().insert(direction, Instant::now());
            }
        });
    }

    fn last(&self, direction: Direction) -> Instant {
        self.0.lock().unwrap()[&direction]
    }
}

/// When and why a client gave up its connection, and when it tried another.
async fn given_up(events: &mut ConnectionEvents) -> (Instant, ConnectionError, Instant) {
    let (mut over, mut dialled) = (None, None);
    while over.is_none() || dialled.is_none() {
        match events.next().await.expect("it goes on") {
            ConnectionEvent::Disconnected { error, .. } => over = Some((Instant::now(), error)),
            ConnectionEvent::Connecting { .. } => dialled = Some(Instant::now()),
            _ => {}
        }
    }
    let (over, dialled) = (over.unwrap(), dialled.unwrap());
    (over.0, over.1, dialled)
}

/// When a server had dropped the one connection it had.
async fn dropped(server: &ServerHandle) -> Instant {
    let first = server.sessions()[0].id();
    while server.sessions().iter().any(|session| session.id() == first) {
        sleep(TICK).await;
    }
    Instant::now()
}

/// By chance, and longer than a client's time between renewals.
fn a_while(seed: u64) -> Duration {
    Duration::from_millis(Rng::with_seed(seed).u64(..40_000))
}

/// Bytes are swallowed, or not even taken. The client probes after 10 s of silence, gives up after
/// 20 s to the millisecond, and reconnects. The server writes a `/bye` after 20 s, which cannot
/// arrive, and has dropped the connection a second later. What was published meanwhile is
/// delivered.
#[tokio::test(start_paused = true)]
async fn both_ends_detect_a_black_hole() {
    for seed in 0..20 {
        for hole in [Link::black_hole, Link::stall] {
            let mut pair = Pair::connect(ServerConfig::new().idle(IDLE), Plan::new(), seed).await;
            sleep(a_while(seed)).await;
            pair.publish().await;
            sleep(MILLI).await;
            hole(&pair.proxy.connection(0));
            pair.publish().await;
            let hole = Instant::now();
            let ended = pair.ended().await;
            assert_eq!(ended.error, ConnectionError::Silent, "seed {seed}");
            assert_eq!(ended.client, pair.lines.last(ToClient) + DEAD, "seed {seed}");
            assert!(ended.dialled - ended.client <= BASE, "seed {seed}");
            pair.server_went_idle(&ended);
            assert!(ended.client.max(ended.server) <= hole + DEAD + LINGER, "seed {seed}");
            pair.is_given_all().await;
        }
    }
}

/// The probe is a renewal, 10 s after the last bytes from the server.
#[tokio::test(start_paused = true)]
async fn a_silent_server_is_probed_at_ten_seconds() {
    let mut pair = Pair::connect(ServerConfig::new(), Plan::new(), 1).await;
    pair.proxy.connection(0).black_hole();
    let written = |pair: &Pair| pair.proxy.wire().taken(0, ToServer).ends_with(b" /renew\n");
    sleep(PROBE - MILLI).await;
    assert!(!written(&pair));
    sleep(2 * MILLI).await;
    assert!(written(&pair));
    assert_eq!(pair.ended_for_client().await, pair.lines.last(ToClient) + DEAD);
}

/// If only the client's bytes are lost, the client gets the server's `/bye`. If only the server's
/// bytes are lost, the server sees the client close.
#[tokio::test(start_paused = true)]
async fn both_ends_detect_a_one_way_black_hole() {
    for seed in 0..5 {
        for direction in Direction::BOTH {
            for hole in [Hole::Swallows, Hole::Blocks] {
                let config = ServerConfig::new().idle(IDLE);
                let rehearsal = Pair::connect(config.clone(), Plan::new(), seed).await;
                sleep(a_while(seed)).await;
                let k = rehearsal.proxy.wire().count(0, direction);
                let plan = Plan::new().black_hole(direction, k, hole);
                let mut pair = Pair::connect(config, plan, seed).await;
                sleep(a_while(seed)).await;
                pair.publish().await;
                let ended = pair.ended().await;
                let heard = pair.lines.last(direction);
                assert_eq!(ended.client, heard + DEAD, "seed {seed}, {direction:?}, {hole:?}");
                let is_told = matches!(ended.error, ConnectionError::Bye(_));
                assert_eq!(is_told, direction == ToServer, "{:?}", ended.error);
                assert!(ended.server - heard <= DEAD + LINGER + 2 * TICK, "seed {seed}");
                pair.is_given_all().await;
            }
        }
    }
}

/// A write without progress for `write_progress` is enough, whatever the idle limit is.
#[tokio::test(start_paused = true)]
async fn a_blocked_write_detects_a_black_hole() {
    for seed in 0..5 {
        let config = ServerConfig::new().write_progress(STUCK);
        let mut pair = Pair::connect(config, Plan::new(), seed).await;
        sleep(a_while(seed)).await;
        pair.proxy.connection(0).stall();
        let hole = Instant::now();
        let publishing = tokio::spawn(publish_for(DEAD + LINGER, pair.publisher.clone()));
        let ended = pair.ended().await;
        pair.published = publishing.await.unwrap();
        assert!(ended.client <= hole + DEAD, "seed {seed}");
        assert!(ended.server <= hole + FILLED + STUCK + 2 * TICK, "seed {seed}");
        pair.is_given_all().await;
    }
}

/// Publishes 1 KiB ten times a second; how many.
async fn publish_for(time: Duration, publisher: Publisher) -> u64 {
    let end = Instant::now() + time;
    let mut published = 0;
    while Instant::now() < end {
        publisher.publish("t", [b'x'; 1_024].as_slice()).await.unwrap();
        published += 1;
        sleep(PACE).await;
    }
    published
}
