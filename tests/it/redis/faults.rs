//! Random faults of Redis under load. The history checker judges what clients saw.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bellwire::{
    Client, ClientConfig, Delivery, Progress, Publisher, Router, Server, ServerConfig,
    topic::redis::RedisConfig,
};
use bellwire_testkit::{
    bound::bounded,
    history::{Event, History, Rule},
    recorder::{Process, Recorder, behind, number, told},
};
use fastrand::Rng;
use rustix::process::Signal;
use tokio::{
    task::{JoinSet, yield_now},
    time::interval,
};

use super::{
    connect, connect_with, head,
    keyed::{KEYED, Keys},
    publish_again,
    server::{Redis, Relay},
    url,
};

const TOPICS: [&str; 3] = ["a", "b", "c"];
const FAULTS: usize = 14;

#[tokio::test]
async fn a_history_with_random_faults_holds_1() {
    run(1, &Fault::ALL).await;
}

#[tokio::test]
async fn a_history_with_random_faults_holds_2() {
    run(2, &Fault::ALL).await;
}

#[tokio::test]
async fn a_history_with_random_faults_holds_3() {
    run(3, &Fault::ALL).await;
}

/// Faults that take no message from the master are neither a gap nor a reset.
#[tokio::test]
async fn subscribers_do_not_see_faults_that_lose_nothing() {
    let harmless = [Fault::KillReplica, Fault::Stop, Fault::CutChannels, Fault::CutAll];
    let (history, keys) = run(4, &harmless).await;
    let history = history.render();
    // What was replaced is missing in the second one.
    let losses =
        history.lines().filter(|line| line.contains(" missed 1 ") || line.contains(" reset "));
    assert_eq!(losses.collect::<Vec<_>>(), [""; 0]);
    assert_eq!(keys.losses(), 0);
}

async fn run(seed: u64, kinds: &[Fault]) -> (History, Arc<Keys>) {
    let (mut rng, recorder) = (Rng::with_seed(seed), Recorder::new());
    let mut nodes = Nodes::start().await;
    let config = RedisConfig::new()
        .check_every(Duration::from_millis(50))
        .answer_within(Duration::from_millis(500));
    let (mut servers, mut addresses, mut publishers) = (JoinSet::new(), Vec::new(), Vec::new());
    for _ in 0..2 {
        let store = connect_with(&nodes.relay.url(), config.clone()).await;
        let limits = ServerConfig::new().allow_publish(true);
        let server = Server::bind("127.0.0.1:0").await.unwrap().config(limits).topics(store);
        addresses.push(server.local_addr().unwrap().to_string());
        publishers.push(server.publisher());
        servers.spawn(server.serve(Router::<()>::new()).into_future());
    }
    let mut crowd = Crowd::gather(&addresses, &recorder).await;
    crowd.gather_keyed(&addresses, publishers, &recorder).await;
    let faults = recorder.process("faults");
    for _ in 0..FAULTS {
        let fault = *rng.choice(kinds).unwrap();
        faults.record(Event::Note(format!("{fault:?}")));
        nodes.suffer(fault, &crowd.done, &mut rng).await;
        crowd.done.wait_for_more(&crowd.done.confirmed, 30).await;
    }
    crowd.settle(&nodes, &recorder).await;
    let history = recorder.history();
    let mut broken = history.check();
    // The lines on the wire are not recorded, so no gap has one.
    broken.retain(|broken| broken.rule != Rule::Drops);
    assert!(broken.is_empty(), "{}", broken.iter().map(|it| format!("{it}\n")).collect::<String>());
    crowd.keys.check();
    (history, crowd.keys)
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The replica becomes the master, without the last messages that the master has acknowledged.
    FailoverWithLoss,
    Failover,
    /// Both are there all the time, and clients of the old master go on with it for a while.
    Handover,
    KillReplica,
    /// The master comes back without data.
    KillMaster,
    Stop,
    DeleteStream,
    DeleteKeys,
    DeleteHeads,
    Flush,
    Evict,
    CutChannels,
    CutAll,
}

impl Fault {
    const ALL: [Self; 13] = [
        Self::FailoverWithLoss,
        Self::Failover,
        Self::Handover,
        Self::KillReplica,
        Self::KillMaster,
        Self::Stop,
        Self::DeleteStream,
        Self::DeleteKeys,
        Self::DeleteHeads,
        Self::Flush,
        Self::Evict,
        Self::CutChannels,
        Self::CutAll,
    ];
}

/// A master and its replica, with the way to the master.
struct Nodes {
    master: (Redis, u16),
    replica: (Redis, u16),
    relay: Relay,
}

impl Nodes {
    /// The replica is there before the store, because the first replica ends all epochs.
    async fn start() -> Self {
        let master = Redis::with_port(&[]);
        let replica = Redis::with_port(&[]);
        let relay = Relay::to(&master.0);
        let nodes = Self { master, replica, relay };
        nodes.follow();
        nodes.in_sync().await;
        nodes
    }

    /// Makes the replica follow the master.
    fn follow(&self) {
        self.replica.0.run(&["REPLICAOF", "127.0.0.1", &self.master.1.to_string()]);
    }

    /// Waits until the replica has what the master has.
    async fn in_sync(&self) {
        self.replica.0.is_in_sync().await;
    }

    /// New connections lead to the replica, which is the master now.
    fn swap(&mut self) {
        self.relay.turn_to(&self.replica.0);
        std::mem::swap(&mut self.master, &mut self.replica);
    }

    async fn suffer(&mut self, fault: Fault, done: &Done, rng: &mut Rng) {
        let (master, replica) = (&self.master.0, &self.replica.0);
        match fault {
            Fault::FailoverWithLoss => {
                self.in_sync().await;
                replica.run(&["REPLICAOF", "NO", "ONE"]);
                done.wait_for_more(&done.confirmed, 10).await;
                self.swap();
                self.replica.0.kill();
                self.replica.0.restart();
                self.follow();
            }
            Fault::Failover => {
                self.in_sync().await;
                self.master.0.kill();
                replica.run(&["REPLICAOF", "NO", "ONE"]);
                self.swap();
                self.replica.0.restart();
                self.follow();
            }
            Fault::Handover => {
                self.in_sync().await;
                replica.run(&["REPLICAOF", "NO", "ONE"]);
                self.swap();
                self.replica.0.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
                done.wait_for_more(&done.confirmed, 10).await;
                self.follow();
            }
            Fault::KillReplica => {
                self.replica.0.kill();
                self.replica.0.restart();
                self.follow();
            }
            Fault::KillMaster => {
                self.master.0.kill();
                self.master.0.restart();
            }
            Fault::Stop => {
                master.signal(Signal::STOP);
                done.wait_for_more(&done.refused, 5).await;
                master.signal(Signal::CONT);
            }
            Fault::DeleteStream => {
                let topic = rng.choice([&TOPICS[..], &[KEYED, KEYED]].concat()).unwrap();
                master.run(&["DEL", &format!("bellwire{{0}}:log:{topic}")]);
            }
            Fault::DeleteKeys => {
                _ = master.run(&["DEL", &format!("bellwire{{0}}:latest:{KEYED}")]);
            }
            Fault::DeleteHeads => _ = master.run(&["DEL", super::HEADS]),
            Fault::Flush => _ = master.run(&["FLUSHALL"]),
            Fault::Evict => {
                master.run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
                master.run(&["CONFIG", "SET", "maxmemory", "1"]);
                done.wait_for_more(&done.refused, 5).await;
                master.run(&["CONFIG", "SET", "maxmemory", "0"]);
            }
            Fault::CutChannels => _ = master.run(&["CLIENT", "KILL", "TYPE", "pubsub"]),
            Fault::CutAll => _ = master.run(&["CLIENT", "KILL", "TYPE", "normal"]),
        }
    }
}

/// How publishing has ended so far.
#[derive(Default)]
pub(super) struct Done {
    pub(super) confirmed: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) is_over: AtomicBool,
}

impl Done {
    async fn wait_for_more(&self, count: &AtomicU64, more: u64) {
        let until = count.load(Ordering::Relaxed) + more;
        let waiting = async {
            while count.load(Ordering::Relaxed) < until {
                yield_now().await;
            }
        };
        bounded("publishing", waiting).await;
    }
}

struct Crowd {
    done: Arc<Done>,
    keys: Arc<Keys>,
    subscriptions: Vec<(&'static str, Progress)>,
    listeners: JoinSet<()>,
    publishers: JoinSet<()>,
}

impl Crowd {
    /// Clients that publish and listen, each at both servers.
    async fn gather(addresses: &[String], recorder: &Recorder) -> Self {
        let done = Arc::<Done>::default();
        let (mut listeners, mut publishers) = (JoinSet::new(), JoinSet::new());
        let mut subscriptions = Vec::new();
        for (n, topic) in (0..6).zip(TOPICS.into_iter().cycle()) {
            let process = recorder.process(&format!("client{n}"));
            let mut own = addresses.to_vec();
            own.rotate_left(n % 2);
            let client = Client::builder().addresses(own).config(soon()).connect_lazily();
            let subscribing = client.subscribe(topic).into_future();
            let mut subscription = bounded("subscribing", subscribing).await.unwrap();
            let from = behind(subscription.position());
            process.record(Event::Subscribed { subscription: 1, topic: topic.into(), from });
            subscriptions.push((topic, subscription.progress()));
            publishers.spawn(publish(client, n, process.clone(), done.clone()));
            listeners.spawn(async move {
                while let Some(delivery) = subscription.next().await {
                    let is_end = matches!(delivery, Delivery::End { .. });
                    assert!(!is_end, "{delivery:?}");
                    process.record(told(1, &delivery));
                }
            });
        }
        Self { done, keys: Arc::default(), subscriptions, listeners, publishers }
    }

    /// Publishers of messages with keys, and a client at each server that listens.
    async fn gather_keyed(
        &mut self,
        addresses: &[String],
        publishers: Vec<Publisher>,
        recorder: &Recorder,
    ) {
        for (n, publisher) in publishers.into_iter().enumerate() {
            let process = recorder.process(&format!("keyed{n}"));
            let mut own = addresses.to_vec();
            own.rotate_left(n);
            let client = Client::builder().addresses(own).config(soon()).connect_lazily();
            let subscribing = client.subscribe(KEYED).into_future();
            let mut subscription = bounded("subscribing", subscribing).await.unwrap();
            let from = behind(subscription.position());
            process.record(Event::Subscribed { subscription: 2, topic: KEYED.into(), from });
            self.subscriptions.push((KEYED, subscription.progress()));
            let (keys, done) = (self.keys.clone(), self.done.clone());
            self.publishers.spawn(keys.clone().publish((publisher, n), process.clone(), done));
            self.listeners.spawn(async move {
                while let Some(delivery) = subscription.next().await {
                    keys.told(&delivery);
                    process.record(told(2, &delivery));
                }
            });
        }
    }

    /// Waits until all have the last messages, and records that.
    async fn settle(&mut self, nodes: &Nodes, recorder: &Recorder) {
        self.done.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = bounded("the publishers", self.publishers.join_next()).await {
            ended.unwrap();
        }
        let (auditor, judge) =
            (recorder.process("publisher"), connect(&url(&nodes.master.0)).await);
        for topic in TOPICS.into_iter().chain([KEYED]) {
            let (name, payload) = (topic.to_owned(), format!("last {topic}"));
            auditor.record(Event::Publishing { topic: name.clone(), payload: payload.clone() });
            let published = publish_again(&judge, topic, &payload).await;
            let number = number(published.epoch, published.sequence);
            auditor.record(Event::Published { topic: name.clone(), number, payload });
            let head = head(&judge, topic).await;
            auditor.record(Event::Head { topic: name, next: behind(head) });
            for (_, progress) in self.subscriptions.iter().filter(|(own, _)| *own == topic) {
                let all = async {
                    while progress.position() != head {
                        yield_now().await;
                    }
                };
                bounded("the last message", all).await;
            }
        }
        auditor.record(Event::Quiet);
        assert_eq!(self.listeners.try_join_next().map(|ended| ended.unwrap()), None);
    }
}

fn soon() -> ClientConfig {
    ClientConfig::new()
        .reconnect_base(Duration::from_millis(20))
        .reconnect_max(Duration::from_millis(100))
}

/// Publishes to all topics, with a short pause after each.
async fn publish(client: Client, n: usize, process: Process, done: Arc<Done>) {
    let mut pauses = interval(Duration::from_millis(2));
    for (number, topic) in (0..).zip(TOPICS.into_iter().cycle()) {
        if done.is_over.load(Ordering::Relaxed) {
            return;
        }
        pauses.tick().await;
        let payload = format!("{n} {number}");
        let publishing = client.publish(topic, &payload).into_future();
        let publishing = bounded("publishing", process.publish(topic, &payload, publishing));
        let count = match publishing.await {
            Ok(_) => &done.confirmed,
            Err(_) => &done.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}
