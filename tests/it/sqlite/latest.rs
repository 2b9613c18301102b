//! Topics in a file that keep the latest message of each key: what survives a restart, and what
//! damage is called.

use bellwire::{protocol::Code, topic::sqlite::Durability};
use bellwire_testkit::latest::LatestModel;
use rusqlite::Connection;

use super::*;

/// What a reader gets for each number from 1 on: the payload, or the reason of a gap in brackets.
async fn read(store: &SqliteTopics, name: &str) -> Vec<String> {
    let epoch = window(&mut store.open(&topic(name))).await.epoch;
    let mut read = Vec::new();
    for step in resume(store, name, Position { epoch, next: 1 }).await {
        match step {
            Step::Message(_, payload) => read.push(payload),
            Step::Gap(first, last, reason) => {
                read.extend((first..=last).map(|_| format!("[{reason}]")));
            }
            Step::Reset(to) => panic!("a reset to {to}"),
        }
    }
    read
}

/// Publishes messages at once, so that some of them are in one transaction.
async fn publish_some(store: &SqliteTopics, model: &mut LatestModel, rng: &mut Rng, some: usize) {
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

/// Over restarts, kills and new epochs, with any limits.
#[tokio::test]
async fn a_log_of_keys_agrees_with_a_list_of_all_messages() {
    for seed in 0..8 {
        let mut rng = Rng::with_seed(seed);
        // Which messages have left depends on where a transaction ends. So they come one by one.
        let is_limited = seed % 2 == 0;
        let (messages, bytes, some) = match is_limited {
            true => (rng.usize(1..12), rng.usize(1..150), 1),
            false => (1_000, 100_000, 6),
        };
        let config = |rng: &mut Rng| {
            // It does not wait for the disk.
            let config = SqliteConfig::new().durability(Durability::Process);
            let config = config.tail_bytes(rng.usize(..300));
            config.retained_messages(messages as u64).retained_bytes(bytes as u64)
        };
        let (mut place, mut model) = (Place::new(), LatestModel::default());
        let mut store = place.open_with(config(&mut rng)).await.unwrap();
        for _ in 0..80 {
            let some = rng.usize(1..=some);
            publish_some(&store, &mut model, &mut rng, some).await;
            model.retain(messages, bytes);
            match rng.u32(..20) {
                0 => shut(store).await,
                1 => {
                    let killed = Place::new();
                    place.copy_to(&killed);
                    place = killed;
                }
                2 => {
                    shut(store).await;
                    let anew = place.open_with(config(&mut rng).new_epochs(true)).await;
                    shut(anew.unwrap()).await;
                }
                _ => {
                    assert_eq!(read(&store, "a").await, model.read(), "seed {seed}");
                    continue;
                }
            }
            store = place.open_with(config(&mut rng)).await.unwrap();
            assert_eq!(read(&store, "a").await, model.read(), "seed {seed}");
        }
        shut(store).await;
        let file = Connection::open(place.path()).unwrap();
        let count = |table: &str| -> u64 {
            let query = format!("SELECT count(*) FROM {table}");
            file.query_row(&query, [], |row| row.get(0)).unwrap()
        };
        assert!(count("replaced") <= count("messages") + 1, "seed {seed}");
    }
}

/// A file whose log has the numbers 1 and 4 of the key `x` and 2, 3 and 5 without a key, after this
/// change by other means.
async fn changed(change: &str) -> (Place, SqliteTopics) {
    let place = Place::new();
    let store = place.open().await;
    publish_latest(&store, "a", "x", "1").await;
    publish(&store, "a", "2").await;
    publish(&store, "a", "3").await;
    publish_latest(&store, "a", "x", "4").await;
    publish(&store, "a", "5").await;
    publish_latest(&store, "a", "y", "6").await;
    publish_latest(&store, "a", "y", "7").await;
    shut(store).await;
    let file = Connection::open(place.path()).unwrap();
    file.execute_batch(change).unwrap();
    drop(file);
    let store = place.open().await;
    (place, store)
}

/// Only what was replaced is called so, whatever is lost or damaged.
#[tokio::test]
async fn lost_and_damaged_messages_are_not_called_replaced() {
    for (change, expected) in [
        ("", "[replaced] 2 3 4 5 [replaced] 7"),
        ("DELETE FROM messages WHERE sequence = 2", "[replaced] [corrupt] 3 4 5 [replaced] 7"),
        (
            "DELETE FROM messages WHERE sequence IN (5, 7)",
            "[replaced] 2 3 4 [corrupt] [replaced] [corrupt]",
        ),
        (
            "UPDATE messages SET payload = x'6e6f' WHERE sequence = 3",
            "[replaced] 2 [corrupt] 4 5 [replaced] 7",
        ),
        (
            "UPDATE messages SET key = x'78' WHERE sequence = 3",
            "[replaced] 2 [corrupt] 4 5 [replaced] 7",
        ),
        (
            "UPDATE messages SET key = NULL WHERE sequence = 4",
            "[replaced] 2 3 [corrupt] 5 [replaced] 7",
        ),
        ("UPDATE replaced SET last = 7 WHERE first = 6", "[replaced] 2 3 4 5 [corrupt] 7"),
        ("UPDATE replaced SET last = 2 WHERE first = 1", "[corrupt] 2 3 4 5 [replaced] 7"),
        ("UPDATE replaced SET first = 5 WHERE first = 6", "[replaced] 2 3 4 5 [corrupt] 7"),
        ("UPDATE replaced SET checksum = -1", "[corrupt] 2 3 4 5 [corrupt] 7"),
        // The log begins with what is left.
        ("DELETE FROM replaced", "[retention] 2 3 4 5 [corrupt] 7"),
    ] {
        let (_place, store) = changed(change).await;
        assert_eq!(read(&store, "a").await.join(" "), expected, "{change}");
    }
}

/// A message whose key is damaged is not the one to be replaced.
#[tokio::test]
async fn a_damaged_message_is_not_replaced() {
    for (change, expected) in [
        ("", "[replaced] 2 3 [replaced] 5 [replaced] 7 8"),
        (
            "UPDATE messages SET key = x'78' WHERE sequence = 3",
            "[replaced] 2 [corrupt] [replaced] 5 [replaced] 7 8",
        ),
        (
            "UPDATE messages SET payload = x'6e6f' WHERE sequence = 4",
            "[replaced] 2 3 [corrupt] 5 [replaced] 7 8",
        ),
        (
            "UPDATE messages SET key = x'7a' WHERE sequence = 4",
            "[replaced] 2 3 [corrupt] 5 [replaced] 7 8",
        ),
        // The range before it is damaged, too, and is not made longer.
        (
            "UPDATE replaced SET last = 3 WHERE first = 1",
            "[corrupt] 2 3 [replaced] 5 [replaced] 7 8",
        ),
    ] {
        let (place, store) = changed(change).await;
        publish_latest(&store, "a", "x", "8").await;
        assert_eq!(read(&store, "a").await.join(" "), expected, "{change}");
        shut(store).await;
        let store = place.open().await;
        assert_eq!(read(&store, "a").await.join(" "), expected, "{change}, and a restart");
    }
}

/// A reader gets what is left, from the memory and from the file.
#[tokio::test]
async fn a_reader_at_the_head_reads_what_is_left() {
    for tail_bytes in [1_000, 0] {
        let place = Place::new();
        let store = place.open_with(SqliteConfig::new().tail_bytes(tail_bytes)).await.unwrap();
        let mut reader = store.open(&topic("a"));
        let from = window(&mut reader).await;
        for payload in ["1", "2", "3"] {
            publish_latest(&store, "a", "x", payload).await;
        }
        let cursor = Cursor { position: Position { epoch: from.epoch, next: 1 } };
        let (mut lines, room) = (Vec::new(), Room::new(4_096, 100, 65_535));
        let read = poll_fn(|cx| reader.poll_read(cx, cursor, room, &mut lines));
        let read = bounded("reading", read).await.unwrap();
        assert_eq!(read, Read::Gap { last: 2, reason: Code::REPLACED });
    }
}

/// The oldest message was replaced, so the log is as old as the next one.
#[tokio::test]
async fn messages_of_keys_leave_at_their_age() {
    let (place, seconds) = (Place::new(), Arc::new(AtomicU64::new(1_000)));
    let clock = seconds.clone();
    let config = SqliteConfig::new()
        .retained_age(Duration::from_secs(100))
        .clock(move || SystemTime::UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::Relaxed)));
    let store = place.open_with(config).await.unwrap();
    let sweep = async |advance: u64| {
        seconds.fetch_add(advance, Ordering::Relaxed);
        store.sweep();
        publish(&store, "b", "x").await;
    };
    publish_latest(&store, "a", "x", "1").await;
    sweep(50).await;
    publish(&store, "a", "2").await;
    publish_latest(&store, "a", "x", "3").await;
    sweep(60).await;
    assert_eq!(read(&store, "a").await, ["[replaced]", "2", "3"]);
    publish_latest(&store, "a", "x", "4").await;
    sweep(50).await;
    assert_eq!(read(&store, "a").await, ["[retention]", "[retention]", "[replaced]", "4"]);
    sweep(100).await;
    assert_eq!(read(&store, "a").await, ["[retention]"; 4]);
    publish_latest(&store, "a", "x", "5").await;
    assert_eq!(read(&store, "a").await[3..], ["[retention]", "5"]);
}

/// Readers of a log that was closed still learn what was replaced. The next log has keys of its own.
#[tokio::test]
async fn a_closed_log_of_keys_is_read_to_its_end() {
    let place = Place::new();
    let store = place.open_with(SqliteConfig::new().tail_bytes(0)).await.unwrap();
    let one = publish_latest(&store, "a", "x", "1").await;
    publish(&store, "a", "2").await;
    publish_latest(&store, "a", "x", "3").await;
    let mut reader = store.open(&topic("a"));
    bounded("closing", Publisher::new(store.clone()).close("a")).await.unwrap();
    let again = publish_latest(&store, "a", "x", "again").await;
    assert!(again.epoch != one.epoch && again.sequence == 1, "{again:?}");
    let (mut next, mut reasons) = (1, Vec::new());
    loop {
        let (mut lines, cursor) = (Vec::new(), Cursor { position: at(one, next) });
        let room = Room::new(4_096, 100, 65_535);
        let read = poll_fn(|cx| reader.poll_read(cx, cursor, room, &mut lines));
        match bounded("reading", read).await.unwrap() {
            Read::Copied { last } => next = last + 1,
            Read::Gap { last, reason } => {
                reasons.push((last, reason.to_string()));
                next = last + 1;
            }
            Read::Closed => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((next, reasons), (4, vec![(1, "replaced".to_owned())]));
}
