//! A client's host: one client, its callers and its subscribers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwire::{Client, ClientConfig, Random, protocol::Position};
use fastrand::Rng;
use tokio::{sync::mpsc, task::JoinSet};
use turmoil::net::TcpStream;

use super::{
    TOPICS, callers, narrow::Narrow, recorder::Recorder, server::PORT, subscribers, tap::Tapped,
};

/// What a client's callers and subscribers share.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) desk: Desk,
}

/// Where callers request to see a position: by topic, if there is a subscriber.
pub(crate) type Desk = Arc<Mutex<BTreeMap<String, mpsc::UnboundedSender<Position>>>>;

/// The main task of the host.
pub(crate) async fn run(servers: Vec<String>, recorder: Recorder, mut rng: Rng) -> turmoil::Result {
    let client = connect(servers, &recorder, &mut rng);
    let user = User { client, recorder, desk: Desk::default() };
    let mut all = JoinSet::new();
    for _ in 0..rng.usize(1..4) {
        all.spawn(callers::call(user.clone(), rng.fork()));
    }
    let mut topics = TOPICS;
    rng.shuffle(&mut topics);
    for topic in &topics[..rng.usize(1..3)] {
        all.spawn(subscribers::listen(user.clone(), topic, rng.fork()));
    }
    // Panics are passed on. Subscribers never end.
    while let Some(ended) = all.join_next().await {
        ended?;
    }
    Ok(())
}

fn connect(mut servers: Vec<String>, recorder: &Recorder, rng: &mut Rng) -> Client {
    rng.shuffle(&mut servers);
    let addresses = servers.into_iter().map(|server| format!("{server}:{PORT}"));
    let (recorder, mut widths) = (recorder.clone(), rng.fork());
    let connector = move |address: &str| {
        let (address, recorder) = (address.to_owned(), recorder.clone());
        let mut rng = widths.fork();
        async move {
            let io = TcpStream::connect(address).await?;
            Ok(Narrow::new(Tapped::new(io, recorder), &mut rng))
        }
    };
    let builder = Client::builder().addresses(addresses).connector(connector);
    builder.config(config(rng)).connect_lazily()
}

/// Limits that are small enough to be reached.
fn config(rng: &mut Rng) -> ClientConfig {
    ClientConfig::new()
        .in_flight(rng.usize(2..16))
        .outbound_bytes(1 << rng.usize(6..16))
        .inbox_items(rng.usize(2..32))
        .connect_timeout(Duration::from_secs(3))
        .close_timeout(Duration::from_secs(8))
        .probe(Duration::from_secs(3))
        .dead(Duration::from_secs(6))
        .reconnect_base(Duration::from_millis(100))
        .reconnect_max(Duration::from_secs(2))
        .reconnect_stable(Duration::from_secs(2))
        .fail_fast(rng.u8(..8) == 0)
        .strict(rng.bool())
        .random(Random::seeded(rng.u64(..)))
}
