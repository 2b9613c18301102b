//! Topics in Redis: what two servers share, and what survives the loss of Redis, of its data and of
//! connections to it.
//!
//! Each test starts a `redis-server` of its own.

mod faults;
pub(crate) mod keys;
mod latest;
mod latest_faults;
mod reached;
mod server;

use std::{
    collections::{HashMap, HashSet},
    future::poll_fn,
    task::Poll,
    time::Duration,
};

use bellwire::{
    Client, Delivery, PublishError, Published, Publisher, Router, Server, ServerHandle,
    protocol::{Cursor, Position, Topic, Window},
    topic::{
        Read, Room, TopicReader, TopicStore,
        redis::{ConnectError, RedisConfig, RedisTopics},
    },
};
use bellwire_testkit::bound::bounded;
use futures::future::select_all;
use rustix::process::Signal;
use tokio::task::JoinHandle;

use self::server::{Redis, Relay};

/// The keys of a store with the default prefix.
const HEADS: &str = "bellwire{0}:heads";
const STREAM: &str = "bellwire{0}:log:a";

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn url(redis: &Redis) -> String {
    format!("unix://{}", redis.socket().display())
}

async fn connect(url: &str) -> RedisTopics {
    connect_with(url, patient()).await
}

/// A Redis of which nothing is wrong may be slow on a busy machine.
fn patient() -> RedisConfig {
    RedisConfig::new().answer_within(Duration::from_secs(60))
}

async fn connect_with(url: &str, config: RedisConfig) -> RedisTopics {
    let connecting = async {
        loop {
            match RedisTopics::connect_with(url, config.clone()).await {
                Err(ConnectError::Unreachable(why)) if why.contains("timed out") => {}
                connected => return connected.unwrap(),
            }
        }
    };
    bounded("connecting", connecting).await
}

async fn try_publish(
    store: &RedisTopics,
    name: &str,
    payload: &str,
) -> Result<Published, PublishError> {
    let publisher = Publisher::new(store.clone());
    bounded("publishing", publisher.publish(name, payload.to_owned())).await
}

async fn publish(store: &RedisTopics, name: &str, payload: &str) -> Published {
    try_publish(store, name, payload).await.unwrap()
}

async fn publish_latest(store: &RedisTopics, name: &str, key: &str, payload: &str) -> Published {
    let (key, payload) = (key.to_owned(), payload.to_owned());
    let publisher = Publisher::new(store.clone());
    bounded("publishing", publisher.publish_latest(name, key, payload)).await.unwrap()
}

/// Publishes once Redis is back. The first attempts meet a connection that is lost, or none.
async fn publish_again(store: &RedisTopics, name: &str, payload: &str) -> Published {
    let publishing = async {
        loop {
            match try_publish(store, name, payload).await {
                Ok(published) => return published,
                Err(PublishError::Busy(_) | PublishError::Unavailable(_)) => {
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    bounded("publishing again", publishing).await
}

fn at(published: Published, next: u64) -> Position {
    Position { epoch: published.epoch, next }
}

/// One step of a subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Message(u64, String),
    Gap(u64, u64, String),
    Reset(Position),
    Closed,
}

fn message(sequence: u64, payload: &str) -> Step {
    Step::Message(sequence, payload.into())
}

fn gap(first: u64, last: u64) -> Step {
    Step::Gap(first, last, "retention".into())
}

/// A subscription without a connection.
struct Subscriber {
    name: String,
    reader: Box<dyn TopicReader>,
    position: Position,
    /// What was read and not yet expected.
    steps: Vec<Step>,
}

impl Subscriber {
    /// At the head of the topic.
    async fn new(store: &RedisTopics, name: &str) -> Self {
        let mut reader = store.open(&topic(name));
        let Window { epoch, next, .. } = window(&mut reader).await;
        Self {
            name: name.to_owned(),
            reader,
            position: Position { epoch, next },
            steps: Vec::new(),
        }
    }

    fn resume(store: &RedisTopics, name: &str, position: Position) -> Self {
        Self {
            name: name.to_owned(),
            reader: store.open(&topic(name)),
            position,
            steps: Vec::new(),
        }
    }

    /// Reads these steps next.
    async fn gets(&mut self, expected: &[Step]) {
        while self.steps.len() < expected.len() {
            self.read().await;
        }
        let rest = self.steps.split_off(expected.len());
        assert_eq!(std::mem::replace(&mut self.steps, rest), expected);
    }

    /// Reads all up to this position, without a gap.
    async fn reads_to(&mut self, end: Position) {
        let from = self.position.next;
        while self.position != end {
            self.read().await;
        }
        let numbers = self.steps.drain(..).map(|step| match step {
            Step::Message(number, _) => number,
            other => panic!("{other:?}"),
        });
        assert!(numbers.eq(from..end.next));
    }

    async fn read(&mut self) {
        let (mut lines, cursor) = (Vec::new(), Cursor { position: self.position });
        let room = Room::new(4_096, 100, 65_535);
        let reading = poll_fn(|cx| self.reader.poll_read(cx, cursor, room, &mut lines));
        let next = self.position.next;
        match bounded("reading", reading).await.unwrap() {
            Read::Copied { last } => {
                let lines = String::from_utf8(lines).unwrap();
                for (sequence, line) in (next..).zip(lines.lines()) {
                    let begin = format!("* {} {sequence} ", self.name);
                    self.steps.push(message(sequence, line.strip_prefix(&begin).unwrap()));
                }
                self.position.next = last + 1;
            }
            Read::Gap { last, reason } => {
                self.steps.push(Step::Gap(next, last, reason.to_string()));
                self.position.next = last + 1;
            }
            Read::Reset(to) => {
                self.steps.push(Step::Reset(to));
                self.position = to;
            }
            Read::Closed => self.steps.push(Step::Closed),
            other => panic!("{other:?}"),
        }
    }
}

/// Where the topic goes on.
async fn head(store: &RedisTopics, name: &str) -> Position {
    let Window { epoch, next, .. } = window(&mut store.open(&topic(name))).await;
    Position { epoch, next }
}

async fn window(reader: &mut Box<dyn TopicReader>) -> Window {
    bounded("the window", poll_fn(|cx| reader.poll_window(cx))).await.unwrap()
}

#[tokio::test]
async fn two_servers_share_topics() {
    let redis = Redis::start();
    let (one, two) = (connect(&url(&redis)).await, connect(&url(&redis)).await);
    let mut early = Subscriber::new(&two, "a").await;
    let first = publish(&one, "a", "1").await;
    assert_eq!(first, Published::new(early.position.epoch, 1));
    early.gets(&[message(1, "1")]).await;
    assert_eq!(publish(&two, "a", "2").await, Published::new(first.epoch, 2));
    early.gets(&[message(2, "2")]).await;
    // What one server has acknowledged, the window at the other has.
    let third = publish(&one, "a", "3").await;
    assert_eq!(Some(Subscriber::new(&two, "a").await.position), third.position());
    assert_eq!((one.topics(), two.topics()), (1, 1));
    // Only the second server has a subscriber.
    assert_eq!(one.topic_stats(), []);
    let listed: Vec<_> =
        two.topic_stats().into_iter().map(|stats| (stats.topic, stats.subscribers)).collect();
    assert_eq!(listed, [(topic("a"), 1)]);
}

/// A client that moves to another server resumes there, from memory and from Redis.
#[tokio::test]
async fn a_subscriber_resumes_at_another_server() {
    let redis = Redis::start();
    let config = || patient().tail_bytes(200);
    let (one, two) =
        (connect_with(&url(&redis), config()).await, connect_with(&url(&redis), config()).await);
    let mut subscriber = Subscriber::new(&one, "a").await;
    let mut last = publish(&one, "a", "0").await;
    for round in 0..20 {
        for n in 0..30 {
            let store = if n % 2 == 0 { &one } else { &two };
            last = publish(store, "a", &format!("{round} {n}")).await;
            if n == 10 {
                subscriber.reads_to(last.position().unwrap()).await;
            }
        }
        let store = if round % 2 == 0 { &two } else { &one };
        subscriber = Subscriber::resume(store, "a", subscriber.position);
    }
    subscriber.reads_to(last.position().unwrap()).await;
    assert_eq!(last.sequence, 601);
}

/// A server on these topics, its address and its task.
async fn serve(store: &RedisTopics) -> (String, ServerHandle, JoinHandle<()>) {
    let server = Server::bind("127.0.0.1:0").await.unwrap().topics(store.clone());
    let (address, handle) = (server.local_addr().unwrap().to_string(), server.handle());
    let serving = server.serve(Router::<()>::new()).into_future();
    (address, handle, tokio::spawn(async { serving.await.unwrap() }))
}

/// The server of a client is killed. The client goes on at the other one, without a gap.
#[tokio::test]
async fn a_client_of_a_killed_server_resumes_at_another_one() {
    let redis = Redis::start();
    let (one, two) = (connect(&url(&redis)).await, connect(&url(&redis)).await);
    let servers = [serve(&one).await, serve(&two).await];
    let addresses = servers.each_ref().map(|(address, ..)| address.clone());
    let client = Client::builder().addresses(addresses).connect_lazily();
    let mut subscription =
        bounded("subscribing", client.subscribe("a").into_future()).await.unwrap();
    let used = servers.iter().position(|(_, handle, _)| !handle.sessions().is_empty()).unwrap();
    for n in 0..100 {
        publish(if n % 2 == 0 { &one } else { &two }, "a", &n.to_string()).await;
        if n == 50 {
            servers[used].2.abort();
        }
    }
    for n in 0..100 {
        let delivery = bounded("a message", subscription.next()).await;
        let Some(Delivery::Notification(message)) = delivery else { panic!("{delivery:?}") };
        assert_eq!(message.payload, n.to_string());
    }
    assert!(!servers[1 - used].1.sessions().is_empty());
}

/// Subscribers at all servers get the rest of a log that is closed at one of them, and then its end.
#[tokio::test]
async fn a_topic_is_closed_for_all_servers() {
    let redis = Redis::start();
    let (one, two) = (connect(&url(&redis)).await, connect(&url(&redis)).await);
    let first = publish(&one, "a", "1").await;
    let mut head = Subscriber::resume(&two, "a", at(first, 2));
    window(&mut head.reader).await;
    let mut behind = Subscriber::resume(&two, "a", at(first, 1));
    window(&mut behind.reader).await;
    let end = bounded("closing", Publisher::new(one.clone()).close("a")).await.unwrap();
    assert_eq!(end, Some(at(first, 2)));
    head.gets(&[Step::Closed]).await;
    behind.gets(&[message(1, "1"), Step::Closed]).await;
    let again = publish(&two, "a", "again").await;
    assert!(again.epoch != first.epoch && again.sequence == 1, "{again:?}");
    let mut late = Subscriber::resume(&one, "a", at(first, 2));
    late.gets(&[Step::Reset(at(again, 1)), message(1, "again")]).await;
}

/// A replica that lacks acknowledged messages is promoted: their numbers are not given out again.
#[tokio::test]
async fn a_failover_that_loses_messages_ends_the_epoch() {
    let (mut master, port) = Redis::with_port(&[]);
    let (replica, port_of_replica) =
        Redis::with_port(&["--replicaof", &format!("127.0.0.1 {port}")]);
    // The first replica of a master ends all epochs.
    replica.is_in_sync().await;
    let relay = Relay::to(&master);
    let store = connect(&relay.url()).await;
    let mut subscriber = Subscriber::new(&store, "a").await;
    let one = publish(&store, "a", "1").await;
    let is_there = |answer: &str| answer.contains(&format!("{} 2 ", one.epoch));
    replica.until(&["HGET", HEADS, "a"], is_there).await;
    replica.run(&["REPLICAOF", "NO", "ONE"]);
    let lost = publish(&store, "a", "lost").await;
    assert_eq!(lost, Published::new(one.epoch, 2));
    subscriber.gets(&[message(1, "1"), message(2, "lost")]).await;

    relay.turn_to(&replica);
    master.kill();
    let new = publish_again(&store, "a", "new").await;
    assert!(new.epoch != one.epoch && new.sequence == 1, "{new:?}");
    subscriber.gets(&[Step::Reset(at(new, 1)), message(1, "new")]).await;

    // The master comes back as a replica, and takes over again.
    master.restart();
    master.run(&["REPLICAOF", "127.0.0.1", &port_of_replica.to_string()]);
    let is_there = |answer: &str| answer.contains(new.epoch.as_str());
    master.until(&["HGET", HEADS, "a"], is_there).await;
    relay.turn_to(&master);
    drop(replica);
    master.run(&["REPLICAOF", "NO", "ONE"]);
    let third = publish_again(&store, "a", "third").await;
    assert!(![one.epoch, new.epoch].contains(&third.epoch), "{third:?}");
    subscriber.gets(&[Step::Reset(at(third, 1)), message(1, "third")]).await;
}

/// A replica does not accept messages, and a store does not connect to it.
#[tokio::test]
async fn a_replica_is_refused() {
    let (_master, port) = Redis::with_port(&[]);
    let replica = Redis::with_port(&["--replicaof", &format!("127.0.0.1 {port}")]).0;
    let refused = bounded("connecting", RedisTopics::connect(&url(&replica))).await;
    let Err(ConnectError::Unreachable(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("read only") || why.contains("MASTERDOWN"), "{why}");
}

/// A master without a replica has no history that a replica could share. It begins one with the
/// first replica.
#[tokio::test]
async fn the_first_replica_ends_all_epochs() {
    let (master, port) = Redis::with_port(&[]);
    let store = connect(&url(&master)).await;
    let mut subscriber = Subscriber::new(&store, "a").await;
    let one = publish(&store, "a", "1").await;
    subscriber.gets(&[message(1, "1")]).await;
    let attach = || Redis::with_port(&["--replicaof", &format!("127.0.0.1 {port}")]).0;
    let replica = attach();
    replica.is_in_sync().await;
    let two = publish(&store, "a", "2").await;
    assert!(two.epoch != one.epoch && two.sequence == 1, "{two:?}");
    subscriber.gets(&[Step::Reset(at(two, 1)), message(1, "2")]).await;
    // Later ones do not.
    drop(replica);
    attach().is_in_sync().await;
    assert_eq!(publish(&store, "a", "3").await, Published::new(two.epoch, 2));
    subscriber.gets(&[message(2, "3")]).await;
}

#[tokio::test]
async fn a_lost_stream_is_an_exact_gap() {
    let redis = Redis::start();
    let (one, two) = (connect(&url(&redis)).await, connect(&url(&redis)).await);
    let mut subscriber = Subscriber::new(&two, "a").await;
    let first = publish(&one, "a", "1").await;
    publish(&one, "a", "2").await;
    subscriber.gets(&[message(1, "1"), message(2, "2")]).await;
    assert_eq!(redis.run(&["DEL", STREAM]), ":1");
    assert_eq!(publish(&one, "a", "3").await, Published::new(first.epoch, 3));
    subscriber.gets(&[message(3, "3")]).await;
    for store in [&one, &two] {
        let mut late = Subscriber::resume(store, "a", at(first, 1));
        late.gets(&[gap(1, 2), message(3, "3")]).await;
    }
}

/// Whatever is lost beside the messages: no epoch returns.
#[tokio::test]
async fn lost_keys_end_all_epochs() {
    let redis = Redis::start();
    let store = connect(&url(&redis)).await;
    let mut subscriber = Subscriber::new(&store, "a").await;
    let mut epochs = vec![];
    for lose in [&["FLUSHALL"][..], &["DEL", HEADS], &["UNLINK", HEADS], &["FLUSHDB"]] {
        let one = publish(&store, "a", "one").await;
        assert!(!epochs.contains(&one.epoch) && one.sequence == 1, "{one:?}");
        epochs.push(one.epoch);
        if epochs.len() > 1 {
            subscriber.gets(&[Step::Reset(at(one, 1))]).await;
        }
        subscriber.gets(&[message(1, "one")]).await;
        redis.run(lose);
    }
    // A subscriber that only waits learns it, too.
    let config = patient().check_every(Duration::from_millis(20));
    let other = connect_with(&url(&redis), config).await;
    let mut waiting = Subscriber::new(&other, "a").await;
    redis.run(&["FLUSHALL"]);
    waiting.read().await;
    assert!(matches!(waiting.steps[..], [Step::Reset(to)] if !epochs.contains(&to.epoch)));
}

/// Scripts and the end notes of closed topics may be lost alone.
#[tokio::test]
async fn lost_scripts_and_notes_do_no_harm() {
    let redis = Redis::start();
    let store = connect(&url(&redis)).await;
    let one = publish(&store, "a", "1").await;
    redis.run(&["SCRIPT", "FLUSH"]);
    assert_eq!(publish(&store, "a", "2").await, Published::new(one.epoch, 2));
    bounded("closing", Publisher::new(store.clone()).close("a")).await.unwrap();
    redis.run(&["DEL", "bellwire{0}:notes"]);
    assert_ne!(publish(&store, "a", "3").await.epoch, one.epoch);
}

/// Redis does not repeat what it announces. The rest is read from the stream.
#[tokio::test]
async fn a_lost_channel_connection_loses_no_messages() {
    let redis = Redis::start();
    let (one, two) = (connect(&url(&redis)).await, connect(&url(&redis)).await);
    let mut subscriber = Subscriber::new(&two, "a").await;
    let mut last = publish(&one, "a", "0").await;
    for n in 0..30 {
        assert_ne!(redis.run(&["CLIENT", "KILL", "TYPE", "pubsub"]), ":0");
        for _ in 0..5 {
            last = publish(&one, "a", &n.to_string()).await;
        }
        subscriber.reads_to(last.position().unwrap()).await;
        let has_both = |answer: &str| answer == "bellwire{0}:log:a\n:1";
        redis.until(&["PUBSUB", "NUMSUB", STREAM], has_both).await;
    }
    assert_eq!(last.sequence, 151);
}

/// Announcements that never come are noticed by the regular check.
#[tokio::test]
async fn a_message_without_an_announcement_arrives() {
    let redis = Redis::start();
    redis.run(&["ACL", "SETUSER", "mute", "on", "nopass", "~*", "+@all", "resetchannels"]);
    let config = patient().check_every(Duration::from_millis(20));
    let store = connect_with(&url(&redis), config).await;
    let mut subscriber = Subscriber::new(&store, "a").await;
    let one = publish(&store, "a", "1").await;
    subscriber.gets(&[message(1, "1")]).await;
    // As the script does it, without the announcement.
    redis.run(&["XADD", STREAM, "2-2", "", "2"]);
    redis.run(&["HSET", HEADS, "a", &format!("{} 3 2", one.epoch)]);
    subscriber.gets(&[message(2, "2")]).await;
}

/// While Redis is down, publishing fails at once, and subscriptions wait. A restart without data
/// ends the epochs.
#[tokio::test]
async fn a_restart_of_redis_resets_subscribers() {
    let mut redis = Redis::start();
    let store = connect(&url(&redis)).await;
    let mut subscriber = Subscriber::new(&store, "a").await;
    let one = publish(&store, "a", "1").await;
    subscriber.gets(&[message(1, "1")]).await;
    redis.kill();
    let refused = async {
        loop {
            match try_publish(&store, "a", "x").await {
                Err(PublishError::Busy(why)) => return why.0,
                // The loss was not noticed yet.
                Err(PublishError::Unavailable(_)) => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        }
    };
    let why = bounded("a refusal", refused).await;
    assert!(why.contains("no connection to Redis"), "{why}");
    redis.restart();
    let two = publish_again(&store, "a", "2").await;
    assert!(two.epoch != one.epoch && two.sequence == 1, "{two:?}");
    subscriber.gets(&[Step::Reset(at(two, 1)), message(1, "2")]).await;
}

/// A Redis that stops for a while loses nothing.
#[tokio::test]
async fn a_stopped_redis_goes_on_without_a_loss() {
    let redis = Redis::start();
    let config = RedisConfig::new().answer_within(Duration::from_millis(200));
    let store = connect_with(&url(&redis), config).await;
    let mut subscriber = Subscriber::new(&store, "a").await;
    let one = publish_again(&store, "a", "1").await;
    redis.signal(Signal::STOP);
    let unknown = try_publish(&store, "a", "perhaps").await;
    assert!(matches!(unknown, Err(PublishError::Unavailable(_))), "{unknown:?}");
    let refused = try_publish(&store, "a", "refused").await;
    assert!(matches!(refused, Err(PublishError::Busy(_))), "{refused:?}");
    redis.signal(Signal::CONT);
    let two = publish_again(&store, "a", "2").await;
    assert_eq!(two.epoch, one.epoch);
    subscriber.reads_to(two.position().unwrap()).await;
}

#[tokio::test]
async fn a_full_memory_refuses_messages_until_there_is_room() {
    let redis = Redis::start();
    let store = connect(&url(&redis)).await;
    let one = publish(&store, "a", "1").await;
    redis.run(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = try_publish(&store, "a", "x").await;
    assert!(matches!(refused, Err(PublishError::Busy(_))), "{refused:?}");
    let mut subscriber = Subscriber::resume(&store, "a", at(one, 1));
    subscriber.gets(&[message(1, "1")]).await;
    redis.run(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(publish(&store, "a", "2").await, Published::new(one.epoch, 2));
    subscriber.gets(&[message(2, "2")]).await;
}

/// Eviction takes streams, or all: subscribers get a gap or a reset, and never a wrong message.
#[tokio::test]
async fn eviction_never_gives_wrong_messages() {
    let redis = Redis::start();
    let store = connect(&url(&redis)).await;
    let names: Vec<String> = (0..40).map(|n| format!("t{n}")).collect();
    redis.run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]);
    let used = redis.run(&["INFO", "memory"]);
    let used = used.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let most = used.trim().parse::<usize>().unwrap() + 300_000;
    redis.run(&["CONFIG", "SET", "maxmemory", &most.to_string()]);
    let mut published = HashMap::new();
    let mut epochs = HashSet::new();
    for n in 0..2_000 {
        let name = &names[n % names.len()];
        let payload = format!("{n} {}", "x".repeat(500));
        let Ok(at) = try_publish(&store, name, &payload).await else { continue };
        epochs.insert(at.epoch);
        let twice = published.insert((name, at.epoch, at.sequence), payload);
        assert_eq!(twice, None, "{name} {at:?}");
    }
    redis.run(&["CONFIG", "SET", "maxmemory", "0"]);
    let evicted = redis.run(&["INFO", "stats"]);
    assert!(!evicted.contains("evicted_keys:0\r"), "{evicted}");
    for name in &names {
        for &epoch in &epochs {
            let first = Position { epoch, next: 1 };
            let mut subscriber = Subscriber::resume(&store, name, first);
            let end = head(&store, name).await;
            while subscriber.position != end {
                subscriber.read().await;
            }
            let mut epoch = first.epoch;
            for step in subscriber.steps {
                match step {
                    Step::Message(number, text) => {
                        assert_eq!(published.get(&(name, epoch, number)), Some(&text));
                    }
                    Step::Reset(to) => epoch = to.epoch,
                    Step::Gap(..) => {}
                    Step::Closed => panic!("{name} was not closed"),
                }
            }
        }
    }
}

/// The commands that the docs of the store name are all that its user needs.
#[tokio::test]
async fn the_documented_commands_are_enough() {
    let docs = include_str!("../../src/topic/redis/mod.rs");
    let (_, list) = docs.split_once("needs the commands").unwrap();
    let (list, _) = list.split_once("on keys").unwrap();
    let commands = list.split('`').skip(1).step_by(2);
    let commands: Vec<_> = commands.map(|name| format!("+{}", name.to_lowercase())).collect();
    let redis = Redis::start();
    let user = ["ACL", "SETUSER", "store", "on", ">secret", "~bellwire*", "&bellwire*", "-@all"];
    redis.run(&user.into_iter().chain(commands.iter().map(|it| &**it)).collect::<Vec<_>>());
    let config = patient().retained_messages(2).topics(1).tail_bytes(0);
    let store = connect_with(&format!("{}?user=store&pass=secret", url(&redis)), config).await;
    let mut subscriber = Subscriber::new(&store, "a").await;
    for payload in ["1", "2", "3"] {
        publish(&store, "a", payload).await;
        subscriber.gets(&[message(payload.parse().unwrap(), payload)]).await;
    }
    publish_latest(&store, "a", "x", "4").await;
    publish_latest(&store, "a", "x", "5").await;
    publish_latest(&store, "a", "y", "6").await;
    let last = bounded("once", store.publish_once("p", 1, "a", "7")).await.unwrap();
    assert!(store.has_room_for(&topic("a")) && !store.has_room_for(&topic("b")));
    let mut late = Subscriber::resume(&store, "a", at(last, 1));
    late.gets(&[gap(1, 5), message(6, "6"), message(7, "7")]).await;
    let mut behind = Subscriber::resume(&store, "a", at(last, 5));
    window(&mut behind.reader).await;
    bounded("closing", Publisher::new(store.clone()).close("a")).await.unwrap();
    behind.gets(&[gap(5, 5), message(6, "6"), message(7, "7"), Step::Closed]).await;
    publish(&store, "a", "again").await;
    redis.run(&["DEL", STREAM]);
    store.sweep();
    redis.until(&["HEXISTS", HEADS, "a"], |answer| answer == ":0").await;
}

/// A topic whose messages have expired goes on with its number.
#[tokio::test]
async fn an_expired_topic_goes_on() {
    let redis = Redis::start();
    let config = patient().expiry(Some(Duration::from_millis(1)));
    let store = connect_with(&url(&redis), config).await;
    let one = publish(&store, "a", "1").await;
    redis.until(&["EXISTS", STREAM], |answer| answer == ":0").await;
    store.sweep();
    redis.until(&["HEXISTS", HEADS, "a"], |answer| answer == ":0").await;
    assert_eq!(Subscriber::new(&store, "a").await.position, at(one, 2));
    assert_eq!(publish(&store, "a", "2").await, Published::new(one.epoch, 2));
}

/// An answer that does not come leaves the outcome unknown, and a repetition is exact.
#[tokio::test]
async fn a_message_of_a_producer_is_appended_once() {
    let redis = Redis::start_with(&["--port", "0", "--enable-debug-command", "local"]);
    let config = RedisConfig::new().answer_within(Duration::from_millis(100));
    let store = connect_with(&url(&redis), config).await;
    let once = |producer: &'static str, number: u64, name: &'static str| {
        let payload = format!("{producer} {number}");
        bounded("an outcome", store.publish_once(producer, number, name, payload))
    };
    let repeated = |producer, number, name| async move {
        loop {
            match once(producer, number, name).await {
                Err(PublishError::Busy(_) | PublishError::Unavailable(_)) => {
                    tokio::task::yield_now().await;
                }
                published => return published.unwrap(),
            }
        }
    };
    let first = bounded("the first", repeated("p", 7, "a")).await;
    for (number, next) in [(9, 2), (10, 4), (99, 6), (1 << 60, 8)] {
        redis.signal(Signal::STOP);
        let unknown = once("p", number, "a").await;
        assert!(matches!(unknown, Err(PublishError::Unavailable(_))), "{unknown:?}");
        redis.signal(Signal::CONT);
        let published = bounded("a repetition", repeated("p", number, "a")).await;
        assert_eq!(published, Published::new(first.epoch, next));
        assert_eq!(bounded("one more", repeated("p", number, "a")).await, published);
        // Another producer, and another topic, have numbers of their own.
        let other = bounded("another", repeated("q", number, "a")).await;
        assert_eq!(other.sequence, next + 1);
        bounded("elsewhere", repeated("p", number, "b")).await;
    }
    let mut subscriber = Subscriber::resume(&store, "a", at(first, 1));
    let texts = ["p 7", "p 9", "q 9", "p 10", "q 10", "p 99", "q 99"];
    let texts: Vec<_> = (1..).zip(texts).map(|(n, text)| message(n, text)).collect();
    subscriber.gets(&texts).await;

    let other = connect(&url(&redis)).await;
    let older = bounded("an older number", other.publish_once("p", 98, "a", "x")).await;
    assert_eq!(older, Err(PublishError::Outdated));
    let again = other.publish_once("p", 1 << 60, "a", "x");
    assert_eq!(bounded("another server", again).await.unwrap(), Published::new(first.epoch, 8));
    // What a failover may have lost is appended again.
    redis.run(&["DEBUG", "CHANGE-REPL-ID"]);
    let renewed = bounded("another epoch", repeated("p", 1 << 60, "a")).await;
    assert!(renewed.epoch != first.epoch && renewed.sequence == 1, "{renewed:?}");
}

/// Subscribers of one topic after the other learn that a new epoch has begun.
#[tokio::test]
async fn resets_are_spread() {
    let redis = Redis::start();
    let config =
        patient().check_every(Duration::from_millis(20)).reset_every(Duration::from_secs(3600));
    let store = connect_with(&url(&redis), config).await;
    let mut subscribers = Vec::new();
    for name in ["a", "b", "c"] {
        subscribers.push(Subscriber::new(&store, name).await);
    }
    redis.run(&["FLUSHALL"]);
    let epoch = publish(&store, "a", "1").await.epoch;
    let mut reading: Vec<_> = subscribers.iter_mut().map(|it| Box::pin(it.read())).collect();
    let (_, first, _) = bounded("a reset", select_all(reading.iter_mut())).await;
    drop(reading);
    assert!(matches!(subscribers[first].steps[..], [Step::Reset(to)] if to.epoch == epoch));
    // The store asks a few times more where all topics are.
    let asked = |info: &str| -> u64 {
        let calls = info.split_once("cmdstat_evalsha:calls=").unwrap().1;
        calls.split_once(',').unwrap().0.parse().unwrap()
    };
    let enough = asked(&redis.run(&["INFO", "commandstats"])) + 4;
    redis.until(&["INFO", "commandstats"], |info| asked(info) >= enough).await;
    // The others wait, unless somebody comes who has to know.
    let waiting = (first + 1) % 3;
    let name = subscribers[waiting].name.clone();
    let mut before = Box::pin(subscribers[waiting].read());
    assert!(poll_fn(|cx| Poll::Ready(before.as_mut().poll(cx).is_pending())).await);
    assert_eq!(head(&store, &name).await.epoch, epoch);
    before.await;
    assert!(matches!(subscribers[waiting].steps[..], [Step::Reset(to)] if to.epoch == epoch));
}

#[tokio::test]
async fn a_store_says_why_it_cannot_connect() {
    let refused = bounded("connecting", RedisTopics::connect("http://example.org")).await;
    assert!(matches!(refused, Err(ConnectError::Url(_))), "{refused:?}");
    let refused = bounded("connecting", RedisTopics::connect("unix:///nowhere/redis")).await;
    assert!(matches!(refused, Err(ConnectError::Unreachable(_))), "{refused:?}");
    let redis = Redis::start();
    redis.run(&["CONFIG", "SET", "requirepass", "right"]);
    let with = |password: &str| format!("{}?pass={password}", url(&redis));
    let refused = bounded("connecting", RedisTopics::connect(&with("wrong"))).await;
    let Err(ConnectError::Unreachable(why)) = refused else { panic!("{refused:?}") };
    assert!(!why.contains("wrong"), "{why}");
    publish(&connect(&with("right")).await, "a", "1").await;
}

#[tokio::test]
async fn extreme_settings_work() {
    let redis = Redis::start();
    let (long, most) = (Duration::MAX, usize::MAX);
    let largest = RedisConfig::new().retained_messages(most).retained_bytes(most).topics(most);
    let largest = largest.expiry(Some(long)).check_every(long).reset_every(long).remember(long);
    let largest = largest.answer_within(long).queue_bytes(most).tail_bytes(most);
    let smallest = RedisConfig::new().retained_messages(0).retained_bytes(0).tail_bytes(0);
    let smallest = smallest.queue_bytes(0).tail_bytes_total(0).reset_every(Duration::ZERO);
    let smallest = smallest.check_every(Duration::ZERO).expiry(None).prefix("smallest");
    for config in [largest.tail_bytes_total(most), smallest] {
        let store = connect_with(&url(&redis), config).await;
        let mut subscriber = Subscriber::new(&store, "a").await;
        publish(&store, "a", "1").await;
        subscriber.gets(&[message(1, "1")]).await;
        bounded("once", store.publish_once("p", u64::MAX, "a", "2")).await.unwrap();
        subscriber.gets(&[message(2, "2")]).await;
        bounded("the end", store.shutdown()).await;
    }
}

#[tokio::test]
async fn a_store_that_was_shut_down_refuses_messages() {
    let redis = Redis::start();
    let store = connect(&url(&redis)).await;
    let publisher = Publisher::new(store.clone());
    let publishing = (0..100).map(|n| publisher.publish("a", n.to_string()));
    let publishing = futures::future::join_all(publishing);
    let (published, ()) =
        bounded("both", futures::future::join(publishing, store.shutdown())).await;
    assert!(published.into_iter().all(|published| published.is_ok()));
    let late = try_publish(&store, "a", "late").await;
    assert!(matches!(late, Err(PublishError::Busy(_))), "{late:?}");
    bounded("a second shutdown", store.shutdown()).await;
}

#[cfg(feature = "store-suite")]
mod suite {
    //! The suite that every store has to pass.

    use bellwire::topic::suite::{self, Capabilities, Limits, StoreUnderTest};

    use super::*;

    /// A server, the way to it, and the store's own prefix.
    struct InRedis {
        redis: Redis,
        relay: Option<Relay>,
        config: RedisConfig,
        opened: u32,
    }

    impl InRedis {
        fn new() -> Self {
            let config = patient();
            Self { redis: Redis::start(), relay: None, config, opened: 0 }
        }

        async fn start(&mut self) -> RedisTopics {
            let relay = self.relay.insert(Relay::to(&self.redis));
            connect_with(&relay.url(), self.config.clone()).await
        }
    }

    impl StoreUnderTest for InRedis {
        type Store = RedisTopics;

        fn capabilities(&self) -> Capabilities {
            let retention = Capabilities::new().by_count().by_bytes();
            retention.closing().counting().limiting().replacing().durable()
        }

        async fn open(&mut self, limits: Limits) -> RedisTopics {
            self.opened += 1;
            self.config = patient()
                .prefix(format!("suite{}", self.opened))
                .topics(limits.topics)
                .retained_messages(limits.messages)
                .retained_bytes(limits.bytes)
                // Most reads go to Redis.
                .tail_bytes(100);
            self.start().await
        }

        async fn reopen(&mut self, store: RedisTopics) -> RedisTopics {
            bounded("the end", store.shutdown()).await;
            drop(store);
            self.start().await
        }

        async fn kill(&mut self, store: RedisTopics) -> RedisTopics {
            self.relay.take().expect("a relay").cut().await;
            drop(store);
            // What Redis has received but not read is lost, too.
            self.redis.run(&["CLIENT", "KILL", "TYPE", "normal"]);
            self.start().await
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn topics_in_redis_pass_the_suite() {
        suite::run(InRedis::new()).await.assert_passed();
    }
}
