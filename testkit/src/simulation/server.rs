//! A server's host. It serves, is stopped or crashes, and serves again with empty logs.

use std::{
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bellwire::{Listener, Publisher, Random, Server, ServerConfig, server::PeerAddr};
use fastrand::Rng;
use tokio::{sync::Notify, task::JoinSet, time::sleep};
use turmoil::net::{TcpListener, TcpStream};

use super::{TOPICS, between, handlers::router, recorder::Recorder};
use crate::history::{Event, Number};

pub(crate) const PORT: u16 = 7440;

pub(crate) struct Host {
    recorder: Recorder,
    seed: u64,
    config: ServerConfig,
    starts: AtomicU64,
    /// The signal to stop, for the running server.
    stop: Arc<Notify>,
    crash: Notify,
}

/// The listener of the simulated network.
struct Door(TcpListener);

impl Listener for Door {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, PeerAddr)> {
        let (io, address) = self.0.accept().await?;
        Ok((io, address.into()))
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        self.0.local_addr().map(PeerAddr::Tcp)
    }
}

impl Host {
    pub(crate) fn new(recorder: Recorder, rng: &mut Rng) -> Self {
        let (seed, config) = (rng.u64(..), config(rng));
        Self {
            recorder,
            seed,
            config,
            starts: AtomicU64::default(),
            stop: Arc::default(),
            crash: Notify::new(),
        }
    }

    /// Stops the server as its signal does.
    pub(crate) fn stop(&self) {
        self.stop.notify_waiters();
    }

    /// Drops everything that runs on this host, in the same order each time. A runtime that is
    /// dropped has no fixed order.
    pub(crate) fn crash(&self) {
        self.crash.notify_waiters();
    }

    /// The main task of the host.
    pub(crate) async fn run(self: Arc<Self>) -> turmoil::Result {
        tokio::select! { biased;
            () = self.crash.notified() => pending().await,
            ended = self.serve_for_good() => ended,
        }
    }

    /// Serves again and again, because the server restarts after each stop.
    async fn serve_for_good(&self) -> turmoil::Result {
        loop {
            let start = self.starts.fetch_add(1, Ordering::Relaxed);
            let mut rng = Rng::with_seed(self.seed.wrapping_add(start));
            let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
            self.recorder.note("serves");
            self.serve(Door(listener), &mut rng).await?;
            self.recorder.note("has stopped");
            sleep(between(&mut rng, 1..2_000)).await;
        }
    }

    async fn serve(&self, listener: Door, rng: &mut Rng) -> io::Result<()> {
        let random = Random::seeded(rng.u64(..));
        let server = Server::new(listener).config(self.config.clone()).random(random);
        let publisher = server.publisher();
        // Dropped, and thereby ended, when the server stops.
        let mut publishing = JoinSet::new();
        publishing.spawn(publish(publisher, self.recorder.clone(), rng.fork()));
        let stop = self.stop.clone();
        let router = router(self.recorder.clone(), rng.fork());
        let signal = async move { stop.notified().await };
        server.serve(router).with_graceful_shutdown(signal).await
    }
}

/// Limits that are small enough to be reached.
fn config(rng: &mut Rng) -> ServerConfig {
    ServerConfig::new()
        .first_line(Duration::from_secs(5))
        .idle(Duration::from_secs(30))
        .lease(Duration::from_secs(10))
        .handler_time(Duration::from_secs(5))
        .write_progress(Duration::from_secs(5))
        .grace(between(rng, 1..1_000))
        .drain(between(rng, 100..4_000))
        // More than a client's own limit. Otherwise a silent server might just wait for a place in
        // flight.
        .in_flight(rng.usize(17..32))
        .retained_messages(rng.usize(4..64))
        .notification_mark(1 << rng.usize(7..14))
        .reply_mark(1 << rng.usize(9..16))
        .allow_publish(true)
        .key_time(between(rng, 1_000..20_000))
}

/// Publishes until the run ends, and then once more to each topic, to record which log the server
/// has.
async fn publish(publisher: Publisher, recorder: Recorder, mut rng: Rng) {
    while !recorder.is_over() {
        sleep(between(&mut rng, 100..2_000)).await;
        let topic = TOPICS[rng.usize(..TOPICS.len())];
        for _ in 0..1 + rng.usize(..3) * rng.usize(..3) {
            publish_one(&publisher, &recorder, topic).await;
        }
    }
    // These messages have to come after the last ones that clients publish.
    sleep(Duration::from_secs(8)).await;
    for topic in TOPICS {
        if let Some(number) = publish_one(&publisher, &recorder, topic).await {
            recorder.keeps(topic, &number.epoch);
        }
    }
}

async fn publish_one(publisher: &Publisher, recorder: &Recorder, topic: &str) -> Option<Number> {
    let (topic, payload) = (topic.to_owned(), format!("m{}", recorder.number()));
    recorder.record(Event::Publishing { topic: topic.clone(), payload: payload.clone() });
    match publisher.publish(topic.as_str(), payload.clone()).await {
        Ok(published) => {
            let number = Number::new(published.epoch.to_string(), published.sequence);
            recorder.record(Event::Published { topic, number: number.clone(), payload });
            Some(number)
        }
        Err(_) => {
            recorder.record(Event::Unpublished { topic, payload });
            None
        }
    }
}
