//! Topics in Redis that keep the latest message of each key, at two servers, and what is lost of
//! them.

use bellwire_testkit::latest::LatestModel;
use fastrand::Rng;

use super::*;

const LATEST: &str = "bellwire{0}:latest:a";

fn text(step: Step) -> Vec<String> {
    match step {
        Step::Message(_, payload) => vec![payload],
        Step::Gap(first, last, reason) => (first..=last).map(|_| format!("[{reason}]")).collect(),
        other => panic!("{other:?}"),
    }
}

/// What a reader gets for each number from 1 on: the payload, or the reason of a gap in brackets.
async fn read(store: &RedisTopics, name: &str) -> Vec<String> {
    let end = head(store, name).await;
    let mut subscriber = Subscriber::resume(store, name, Position { next: 1, ..end });
    while subscriber.position != end {
        subscriber.read().await;
    }
    subscriber.steps.into_iter().flat_map(text).collect()
}

async fn latest(store: &RedisTopics, payloads: &[(&str, &str)]) {
    for (key, payload) in payloads {
        publish_latest(store, "a", key, payload).await;
    }
}

/// Publishes messages at once, so that some of them are sent together.
async fn publish_some(store: &RedisTopics, model: &mut LatestModel, rng: &mut Rng, some: usize) {
    let publisher = Publisher::new(store.clone());
    let published = (0..some).map(|_| {
        let key = [None, Some("a"), Some("b"), Some("c"), Some("")][rng.usize(..5)];
        let payload = format!("{} {}", model.next(), "x".repeat(rng.usize(..20)));
        let number = model.publish(key, &payload);
        let publisher = publisher.clone();
        async move {
            let published = match key {
                Some(key) => publisher.publish_latest("a", key, payload).await,
                None => publisher.publish("a", payload).await,
            };
            assert_eq!(published.unwrap().sequence, number);
        }
    });
    bounded("publishing", futures::future::join_all(published.collect::<Vec<_>>())).await;
}

/// At both of two servers, with any limits, while streams and keys are lost.
#[tokio::test]
async fn a_log_of_keys_agrees_with_a_list_of_all_messages() {
    let redis = Redis::start();
    for seed in 0..12 {
        let mut rng = Rng::with_seed(seed);
        // Which messages have left depends on what is sent together. So they come one by one.
        let (messages, bytes, some) = match seed % 2 == 0 {
            true => (rng.usize(1..12), rng.usize(1..150), 1),
            false => (1_000, 100_000, 6),
        };
        let config = patient().retained_messages(messages).retained_bytes(bytes);
        let mut stores = Vec::new();
        for _ in 0..2 {
            let config = config.clone().tail_bytes(rng.usize(..300));
            stores.push(connect_with(&url(&redis), config).await);
        }
        // The memory of a server that has readers knows keys, too.
        let has_readers = seed % 3 > 0;
        let (mut model, mut readers) = (LatestModel::default(), Vec::new());
        for _ in 0..60 {
            if has_readers && rng.u32(..6) == 0 {
                readers.push(Subscriber::new(&stores[rng.usize(..2)], "a").await);
            }
            let some = rng.usize(1..=some);
            publish_some(&stores[rng.usize(..2)], &mut model, &mut rng, some).await;
            model.retain(messages, bytes);
            match rng.u32(..30) {
                0 => {
                    redis.run(&["DEL", STREAM]);
                    model.lose();
                }
                1 if !has_readers => {
                    redis.run(&["DEL", LATEST]);
                    model.forget_keys();
                }
                2 => _ = redis.run(&["SCRIPT", "FLUSH"]),
                _ => {}
            }
            for store in &stores {
                assert_eq!(read(store, "a").await, model.read(), "seed {seed}");
            }
        }
        for mut reader in readers {
            keeps_up(&mut reader, &model).await;
        }
        redis.run(&["FLUSHALL"]);
    }
}

/// A reader that was there earlier may have got messages that are gone by now. It gets no wrong
/// reason.
async fn keeps_up(reader: &mut Subscriber, model: &LatestModel) {
    let from = reader.position.next;
    while reader.position.next != model.next() {
        reader.read().await;
    }
    let (read, all) = (reader.steps.drain(..).flat_map(text), model.read());
    for (number, read) in (from..).zip(read) {
        let expected = &all[number as usize - 1];
        match &read[..] {
            "[replaced]" => assert!(model.has_replaced(number) || expected == "[retention]"),
            "[retention]" => assert_eq!(expected, "[retention]"),
            payload => assert!(payload.starts_with(&format!("{number} ")), "{number}: {payload}"),
        }
    }
}

/// A server that has the newest messages in memory keeps the latest of each key there, too.
#[tokio::test]
async fn a_reader_at_the_head_reads_what_is_left() {
    let redis = Redis::start();
    let (one, two) = (connect(&url(&redis)).await, connect(&url(&redis)).await);
    let mut slow = Subscriber::new(&two, "a").await;
    let mut fast = Subscriber::new(&two, "a").await;
    for payload in ["1", "2", "3"] {
        latest(&one, &[("x", payload)]).await;
        fast.gets(&[message(payload.parse().unwrap(), payload)]).await;
    }
    slow.gets(&[Step::Gap(1, 2, "replaced".into()), message(3, "3")]).await;
}

/// Without the stream, nobody knows what was replaced in it.
#[tokio::test]
async fn a_lost_stream_of_keys_is_not_called_replaced() {
    let redis = Redis::start();
    let store = connect(&url(&redis)).await;
    latest(&store, &[("x", "1"), ("y", "2"), ("x", "3")]).await;
    assert_eq!(read(&store, "a").await, ["[replaced]", "2", "3"]);
    redis.run(&["DEL", STREAM]);
    assert_eq!(read(&store, "a").await, ["[retention]"; 3]);
    latest(&store, &[("x", "4"), ("y", "5"), ("x", "6")]).await;
    let expected = ["[retention]", "[retention]", "[retention]", "[replaced]", "5", "6"];
    assert_eq!(read(&store, "a").await, expected);
}

/// Without the hash, and with wrong ids in it, older messages stay.
#[tokio::test]
async fn a_lost_hash_of_keys_keeps_older_messages() {
    let redis = Redis::start();
    let store = connect(&url(&redis)).await;
    latest(&store, &[("x", "1"), ("y", "2")]).await;
    redis.run(&["DEL", LATEST]);
    latest(&store, &[("x", "3"), ("x", "4")]).await;
    assert_eq!(read(&store, "a").await, ["1", "2", "[replaced]", "4"]);
    for id in ["2-2", "77-1"] {
        redis.run(&["HSET", LATEST, "z", id]);
        latest(&store, &[("z", "later")]).await;
        assert_eq!(read(&store, "a").await[..4], ["1", "2", "[replaced]", "4"], "{id}");
    }
}

/// A log that had messages without keys goes on with keys, whatever limits it has reached.
#[tokio::test]
async fn a_log_may_get_keys_later() {
    let redis = Redis::start();
    let store = connect_with(&url(&redis), patient().retained_bytes(5)).await;
    for payload in ["1", "2", "3", "4", "5"] {
        publish(&store, "a", payload).await;
    }
    latest(&store, &[("x", "6"), ("x", "7")]).await;
    let expected = ["[retention]", "[retention]", "3", "4", "5", "[replaced]", "7"];
    assert_eq!(read(&store, "a").await, expected);
    publish(&store, "a", "88").await;
    assert_eq!(read(&store, "a").await[3..], ["[retention]", "5", "[replaced]", "7", "88"]);
    bounded("once", store.publish_once("p", 1, "a", "9")).await.unwrap();
    assert_eq!(read(&store, "a").await[4..], ["[retention]", "[replaced]", "7", "88", "9"]);
}

/// The hash has no more keys than the log has messages.
#[tokio::test]
async fn keys_leave_with_their_messages() {
    let redis = Redis::start();
    let store = connect_with(&url(&redis), patient().retained_messages(2)).await;
    latest(&store, &[("w", "1"), ("x", "2"), ("y", "3"), ("x", "4"), ("z", "5")]).await;
    let expected = ["[retention]", "[retention]", "[retention]", "4", "5"];
    assert_eq!(read(&store, "a").await, expected);
    assert_eq!(redis.run(&["HLEN", LATEST]), ":2");
}

/// A reader that does not know yet what has left learns from the stream what was replaced.
#[tokio::test]
async fn a_message_that_has_left_since_is_not_called_replaced() {
    let redis = Redis::start();
    let store = connect_with(&url(&redis), patient().tail_bytes(0)).await;
    latest(&store, &[("x", "1"), ("y", "2"), ("z", "3")]).await;
    let end = head(&store, "a").await;
    let mut subscriber = Subscriber::resume(&store, "a", Position { next: 1, ..end });
    window(&mut subscriber.reader).await;
    // As the script does it, without the announcement: 1 leaves, and 2 was replaced.
    redis.run(&["XDEL", STREAM, "1-1", "2-2"]);
    redis.run(&["HSET", HEADS, "a", &format!("{} 4 3 2 2", end.epoch)]);
    subscriber.gets(&[gap(1, 1), Step::Gap(2, 2, "replaced".into()), message(3, "3")]).await;
}

/// Readers of a log that was closed still learn what was replaced. The next log has keys of its own.
#[tokio::test]
async fn a_closed_log_of_keys_is_read_to_its_end() {
    let redis = Redis::start();
    let small = || patient().tail_bytes(0).retained_messages(3);
    let (one, two) =
        (connect_with(&url(&redis), small()).await, connect_with(&url(&redis), small()).await);
    latest(&one, &[("w", "1"), ("x", "2"), ("y", "3"), ("x", "4"), ("z", "5")]).await;
    let end = head(&one, "a").await;
    let mut readers = Vec::new();
    for store in [&one, &two] {
        let mut reader = Subscriber::resume(store, "a", Position { next: 1, ..end });
        window(&mut reader.reader).await;
        readers.push(reader);
    }
    let closed = bounded("closing", Publisher::new(one.clone()).close("a")).await.unwrap();
    assert_eq!(closed, Some(end));
    assert_eq!(redis.run(&["EXISTS", LATEST]), ":0");
    latest(&two, &[("x", "again")]).await;
    for mut reader in readers {
        let left = [gap(1, 1), Step::Gap(2, 2, "replaced".into())];
        reader.gets(&left).await;
        reader.gets(&[message(3, "3"), message(4, "4"), message(5, "5"), Step::Closed]).await;
    }
    assert_eq!(read(&one, "a").await, ["again"]);
}

/// The hash leaves with the stream.
#[tokio::test]
async fn the_keys_of_an_expired_topic_are_gone() {
    let redis = Redis::start();
    let config = patient().expiry(Some(Duration::from_millis(1)));
    let store = connect_with(&url(&redis), config).await;
    latest(&store, &[("x", "1")]).await;
    redis.until(&["EXISTS", STREAM], |answer| answer == ":0").await;
    redis.until(&["EXISTS", LATEST], |answer| answer == ":0").await;
    // One that is left over goes when the log is dropped.
    redis.run(&["HSET", LATEST, "x", "1-1"]);
    store.sweep();
    redis.until(&["HEXISTS", HEADS, "a"], |answer| answer == ":0").await;
    redis.until(&["EXISTS", LATEST], |answer| answer == ":0").await;
    latest(&store, &[("x", "2")]).await;
    assert_eq!(head(&store, "a").await.next, 3);
}

/// A log of a new epoch has no use for the keys of the one before, whose numbers it has again.
#[tokio::test]
async fn keys_of_an_epoch_that_has_ended_replace_nothing() {
    let redis = Redis::start();
    let store = connect(&url(&redis)).await;
    latest(&store, &[("x", "1")]).await;
    redis.run(&["DEL", HEADS]);
    publish(&store, "a", "1").await;
    assert_eq!(redis.run(&["EXISTS", LATEST]), ":0");
    latest(&store, &[("x", "2")]).await;
    assert_eq!(read(&store, "a").await, ["1", "2"]);
}
