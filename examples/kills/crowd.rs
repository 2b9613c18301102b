//! The clients: each with its subscriptions, and the tasks that publish and call.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bellwire::{
    Client, ClientConfig, ConnectionEvent, ConnectionEvents, Delivery, Progress, Subscription,
    protocol::{Epoch, Position},
};
use bellwire_testkit::{
    history::Event,
    recorder::{behind, told},
};
use fastrand::Rng;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    Failed, PATIENCE, TOPICS,
    log::{Log, Process},
    options::Options,
    work::{Desk, KINDS},
};

/// The topics to which each client is subscribed.
const OWN_TOPICS: usize = 2;

/// All clients.
pub(crate) struct Crowd {
    subscriptions: Vec<(&'static str, Progress)>,
    /// The tasks that read the subscriptions. They do not end by themselves.
    listeners: JoinSet<()>,
    workers: JoinSet<()>,
    is_over: Arc<AtomicBool>,
    clients: Vec<Client>,
    seen: Arc<Mutex<Seen>>,
    faults: Vec<String>,
}

/// What the clients see of their connections.
#[derive(Default)]
struct Seen {
    /// How long a client was without one, each time.
    times: Vec<Duration>,
    /// The tables of keys that the servers announce. There has to be one.
    stores: HashSet<Option<Epoch>>,
}

impl Crowd {
    /// Connects the clients, subscribes, and begins to work.
    pub(crate) async fn gather(
        options: &Options,
        addresses: &[SocketAddr],
        log: &Log,
        rng: &mut Rng,
    ) -> Result<Self, Failed> {
        let (is_over, numbers) = Default::default();
        let mut crowd = Self {
            subscriptions: Vec::new(),
            listeners: JoinSet::new(),
            workers: JoinSet::new(),
            is_over,
            clients: Vec::new(),
            seen: Arc::default(),
            faults: Vec::new(),
        };
        for name in 1..=options.clients {
            let process = log.process(&format!("client{name}"));
            let client = connect(addresses);
            tokio::spawn(watch(client.events(), crowd.seen.clone()));
            crowd.clients.push(client.clone());
            let own = crowd.subscribe(&client, &process, rng).await?;
            let pause = Duration::from_millis(options.pause);
            let desk = Desk::new(client, process, own, &numbers, pause);
            for kind in KINDS {
                let work = desk.clone().work(kind, crowd.is_over.clone(), rng.fork());
                crowd.workers.spawn(work);
            }
        }
        Ok(crowd)
    }

    /// Subscribes a client to some topics.
    async fn subscribe(
        &mut self,
        client: &Client,
        process: &Process,
        rng: &mut Rng,
    ) -> Result<Vec<(&'static str, Progress)>, Failed> {
        let mut topics = TOPICS;
        rng.shuffle(&mut topics);
        let mut own = Vec::new();
        for (number, topic) in (0..).zip(topics.into_iter().take(OWN_TOPICS)) {
            let subscription = client.subscribe(topic).deadline(PATIENCE).await?;
            let from = behind(subscription.position());
            process.record(Event::Subscribed { subscription: number, topic: topic.into(), from });
            own.push((topic, subscription.progress()));
            self.listeners.spawn(listen(subscription, number, process.clone()));
        }
        self.subscriptions.extend(own.iter().cloned());
        Ok(own)
    }

    /// Ends the tasks that publish and call, each after its last request.
    pub(crate) async fn stop_work(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let all = async {
            while let Some(ended) = self.workers.join_next().await {
                self.faults.extend(ended.err().map(|error| format!("a client: {error}")));
            }
        };
        if timeout(PATIENCE, all).await.is_err() {
            self.faults.push(format!("{} tasks wait for a reply", self.workers.len()));
        }
    }

    /// Waits until all subscriptions are at the heads.
    pub(crate) async fn settle(&mut self, heads: &[(&str, Position)]) {
        let until = Instant::now() + PATIENCE;
        let mut late = 0;
        for (topic, progress) in &self.subscriptions {
            let Some((_, head)) = heads.iter().find(|(name, _)| name == topic) else { continue };
            let seen = timeout_at(until, progress.seen(*head)).await;
            late += usize::from(seen != Ok(true));
        }
        if late > 0 {
            self.faults.push(format!("{late} subscriptions are not at the heads"));
        }
        let before = self.listeners.len();
        while self.listeners.try_join_next().is_some() {}
        let ended = before - self.listeners.len();
        if ended > 0 {
            self.faults.push(format!("{ended} subscriptions have ended"));
        }
    }

    /// How long the clients were without a connection, each time.
    pub(crate) fn times(&self) -> Vec<Duration> {
        lock(&self.seen).times.clone()
    }

    /// How often the clients sent a request again by themselves.
    pub(crate) fn resent(&self) -> u64 {
        self.clients.iter().map(|client| client.stats().resent).sum()
    }

    /// What went wrong with them, apart from what the history shows.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = self.faults.clone();
        let stores = &lock(&self.seen).stores;
        if stores.len() != 1 || stores.contains(&None) {
            faults.push(format!("the servers announced other tables of keys: {stores:?}"));
        }
        faults
    }
}

/// A client that reconnects soon, because the next kill may come soon.
pub(crate) fn connect(addresses: &[SocketAddr]) -> Client {
    let config = ClientConfig::new()
        .deadline(PATIENCE / 2)
        .reconnect_base(Duration::from_millis(20))
        .reconnect_max(Duration::from_millis(160))
        .reconnect_stable(Duration::from_millis(100));
    Client::builder().addresses(addresses).shuffle().config(config).connect_lazily()
}

/// Records the deliveries of a subscription. There is no other task between each of them and its
/// record, because there is one thread.
async fn listen(mut subscription: Subscription, number: u64, process: Process) {
    while let Some(delivery) = subscription.next().await {
        match delivery {
            Delivery::End { position: None, reason, .. } => {
                process.record(Event::Note(format!("subscription {number} ended: {reason}")));
            }
            delivery => process.record(told(number, &delivery)),
        }
    }
}

/// Measures how long a client is without a connection, and notes the tables of keys.
async fn watch(mut events: ConnectionEvents, seen: Arc<Mutex<Seen>>) {
    let mut since = None;
    while let Some(event) = events.next().await {
        match event {
            ConnectionEvent::Disconnected { .. } => since = Some(Instant::now()),
            ConnectionEvent::Connected(hello) => {
                let mut seen = lock(&seen);
                seen.times.extend(since.take().map(|since| since.elapsed()));
                seen.stores.insert(hello.keys.map(|keys| keys.store));
            }
            _ => {}
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
