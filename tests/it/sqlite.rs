//! Topics in a file: what survives a restart, a damaged file and a full disk.
//!
//! What every store has to do is tested by the suite (`store_suite`).

pub(crate) mod keys;
mod latest;

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    future::poll_fn,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bellwire::{
    PublishError, Published, Publisher,
    protocol::{Cursor, Epoch, Position, Topic, Window},
    topic::{
        Read, Room, TopicReader, TopicStore,
        sqlite::{OpenError, SqliteConfig, SqliteTopics},
    },
};
use bellwire_testkit::bound::bounded;
use fastrand::Rng;
use tempfile::TempDir;

/// What was published.
#[derive(Default)]
struct Known {
    /// The payload of each (topic, epoch, number).
    payloads: HashMap<(&'static str, Epoch, u64), String>,
    /// The messages that others have replaced.
    replaced: HashSet<(&'static str, u64)>,
}

impl Known {
    fn insert(&mut self, name: &'static str, published: Published, payload: String) {
        self.payloads.insert((name, published.epoch, published.sequence), payload);
    }
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

/// A file that no store has written yet.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("topics.db")
    }

    async fn open(&self) -> SqliteTopics {
        self.open_with(SqliteConfig::new()).await.unwrap()
    }

    async fn open_with(&self, config: SqliteConfig) -> Result<SqliteTopics, OpenError> {
        bounded("opening the file", SqliteTopics::open_with(self.path(), config)).await
    }

    /// Copies the files of a store, as a process that is killed at this moment leaves them. What is
    /// written meanwhile is there or not, because both are possible.
    fn copy_to(&self, other: &Self) {
        loop {
            let before = self.journal();
            // The count of transactions first: the copy of the database must not be older.
            for name in ["topics.db-head", "topics.db", "topics.db-wal"] {
                let (from, to) = (self.file(name), other.file(name));
                match from.exists() {
                    true => drop(fs::copy(from, to).unwrap()),
                    false => drop(fs::remove_file(to)),
                }
            }
            // If a write-ahead log was begun anew meanwhile, the copies do not fit together.
            if self.journal() == before {
                return;
            }
        }
    }

    /// What tells one write-ahead log from the next.
    fn journal(&self) -> Option<Vec<u8>> {
        let bytes = fs::read(self.file("topics.db-wal")).ok()?;
        Some(bytes.into_iter().take(32).collect())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

async fn shut(store: SqliteTopics) {
    bounded("closing the file", store.shutdown()).await.unwrap();
}

async fn publish(store: &SqliteTopics, name: &str, payload: &str) -> Published {
    let publisher = Publisher::new(store.clone());
    bounded("publishing", publisher.publish(name, payload.to_owned())).await.unwrap()
}

async fn publish_latest(store: &SqliteTopics, name: &str, key: &str, payload: &str) -> Published {
    let (key, payload) = (key.to_owned(), payload.to_owned());
    let publisher = Publisher::new(store.clone());
    bounded("publishing", publisher.publish_latest(name, key, payload)).await.unwrap()
}

async fn window(reader: &mut Box<dyn TopicReader>) -> Window {
    poll_fn(|cx| reader.poll_window(cx)).await.unwrap()
}

/// One step of a subscriber.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Message(u64, String),
    Gap(u64, u64, String),
    Reset(Position),
}

/// Everything that a subscriber gets that resumes at `from`, up to the head.
async fn resume(store: &SqliteTopics, name: &str, from: Position) -> Vec<Step> {
    let mut reader = store.open(&topic(name));
    let (mut position, mut steps) = (from, Vec::new());
    loop {
        let head = window(&mut reader).await;
        if position == (Position { epoch: head.epoch, next: head.next }) {
            return steps;
        }
        let (mut lines, cursor) = (Vec::new(), Cursor { position });
        let room = Room::new(4_096, 100, 65_535);
        let read = poll_fn(|cx| reader.poll_read(cx, cursor, room, &mut lines));
        match bounded("reading", read).await.unwrap() {
            Read::Copied { last } => {
                let lines = String::from_utf8(lines).unwrap();
                for (sequence, line) in (position.next..).zip(lines.lines()) {
                    let payload = line.strip_prefix(&format!("* {name} {sequence} ")).unwrap();
                    steps.push(Step::Message(sequence, payload.to_owned()));
                }
                position.next = last + 1;
            }
            Read::Gap { last, reason } => {
                steps.push(Step::Gap(position.next, last, reason.to_string()));
                position.next = last + 1;
            }
            Read::Reset(to) => {
                steps.push(Step::Reset(to));
                position = to;
            }
            other => panic!("{other:?}"),
        }
    }
}

fn at(published: Published, next: u64) -> Position {
    Position { epoch: published.epoch, next }
}

fn message(sequence: u64, payload: &str) -> Step {
    Step::Message(sequence, payload.into())
}

fn gap(first: u64, last: u64, reason: &str) -> Step {
    Step::Gap(first, last, reason.into())
}

#[tokio::test]
async fn a_restart_keeps_epochs_numbers_and_messages() {
    let place = Place::new();
    let store = place.open().await;
    let one = publish(&store, "a", "one").await;
    let other = publish(&store, "b", "x").await;
    publish(&store, "a", "two").await;
    let empty = window(&mut store.open(&topic("never"))).await;
    shut(store).await;

    let store = place.open().await;
    assert_eq!(store.topics(), 2);
    let mut listed = store.topic_stats();
    listed.sort_by_key(|stats| stats.topic.to_string());
    let listed: Vec<_> = listed.iter().map(|stats| (stats.topic.as_str(), stats.end)).collect();
    assert_eq!(listed, [("a", at(one, 3)), ("b", at(other, 2))]);
    assert_eq!(window(&mut store.open(&topic("never"))).await, empty);
    let three = publish(&store, "a", "three").await;
    assert_eq!(three, Published::new(one.epoch, 3));
    let steps = resume(&store, "a", at(one, 1)).await;
    assert_eq!(steps, [message(1, "one"), message(2, "two"), message(3, "three")]);
    assert_eq!(resume(&store, "b", at(other, 1)).await, [message(1, "x")]);
}

/// What a process that was killed leaves is as good as what was closed in order.
#[tokio::test]
async fn a_kill_keeps_epochs_numbers_and_messages() {
    let (place, killed) = (Place::new(), Place::new());
    let store = place.open().await;
    let one = publish(&store, "a", "one").await;
    place.copy_to(&killed);
    publish(&store, "a", "of another life").await;

    let store = killed.open().await;
    assert_eq!(publish(&store, "a", "two").await, Published::new(one.epoch, 2));
    assert_eq!(resume(&store, "a", at(one, 1)).await, [message(1, "one"), message(2, "two")]);
}

#[tokio::test]
async fn a_file_is_opened_by_one_store_at_a_time() {
    let place = Place::new();
    let store = place.open().await;
    let second = place.open_with(SqliteConfig::new()).await;
    assert_eq!(second.map(drop), Err(OpenError::InUse));
    shut(store.clone()).await;
    place.open().await;
    let late = Publisher::new(store).publish("a", "x").await;
    assert!(matches!(late, Err(PublishError::Busy(_))), "{late:?}");
}

#[tokio::test]
async fn other_files_are_refused() {
    let place = Place::new();
    fs::write(
        place.path(),
        "not a database, and longer than its header is, by some more bytes \
        than a hundred, so that SQLite reads it as one",
    )
    .unwrap();
    let refused = place.open_with(SqliteConfig::new()).await;
    assert_eq!(refused.map(drop), Err(OpenError::Foreign));

    let place = Place::new();
    let other = rusqlite::Connection::open(place.path()).unwrap();
    other.execute_batch("CREATE TABLE meta (one)").unwrap();
    drop(other);
    let refused = place.open_with(SqliteConfig::new()).await;
    assert_eq!(refused.map(drop), Err(OpenError::Foreign));

    let place = Place::new();
    shut(place.open().await).await;
    let newer = rusqlite::Connection::open(place.path()).unwrap();
    newer.pragma_update(None, "user_version", 2).unwrap();
    drop(newer);
    let refused = place.open_with(SqliteConfig::new()).await;
    assert_eq!(refused.map(drop), Err(OpenError::Version(2)));
}

/// Messages that are not in memory any more come from the file.
#[tokio::test]
async fn a_subscriber_far_behind_reads_the_file() {
    let place = Place::new();
    let config = SqliteConfig::new().tail_bytes(1_000).retained_messages(500);
    let store = place.open_with(config).await.unwrap();
    let one = publish(&store, "a", "1").await;
    for n in 2..=800 {
        publish(&store, "a", &format!("{n} {}", "x".repeat(n % 300))).await;
    }
    let steps = resume(&store, "a", at(one, 1)).await;
    assert_eq!(steps[0], gap(1, 300, "retention"));
    for (step, n) in steps[1..].iter().zip(301..) {
        assert_eq!(*step, message(n, &format!("{n} {}", "x".repeat(n as usize % 300))));
    }
    assert_eq!(steps.len(), 501);
}

#[tokio::test]
async fn retention_is_by_count_bytes_and_age() {
    let place = Place::new();
    let seconds = Arc::new(AtomicU64::new(1_000));
    let clock = seconds.clone();
    let config = SqliteConfig::new()
        .retained_bytes(50)
        .retained_age(Duration::from_secs(100))
        .clock(move || SystemTime::UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::Relaxed)));
    let store = place.open_with(config).await.unwrap();
    let mut reader = store.open(&topic("a"));
    for _ in 0..10 {
        publish(&store, "a", &"x".repeat(10)).await;
    }
    assert_eq!((window(&mut reader).await.first, window(&mut reader).await.next), (6, 11));
    // The newest message stays, whatever its size.
    publish(&store, "a", &"y".repeat(60)).await;
    assert_eq!(window(&mut reader).await.first, 11);
    seconds.fetch_add(60, Ordering::Relaxed);
    publish(&store, "a", "z").await;
    assert_eq!(window(&mut reader).await.first, 12);
    // At its age it stays, and after that it leaves, though it is the newest.
    seconds.fetch_add(100, Ordering::Relaxed);
    publish(&store, "b", "x").await;
    store.sweep();
    publish(&store, "b", "x").await;
    assert_eq!(window(&mut reader).await.first, 12);
    seconds.fetch_add(1, Ordering::Relaxed);
    store.sweep();
    publish(&store, "b", "x").await;
    let Window { first, next, .. } = window(&mut reader).await;
    assert_eq!((first, next), (13, 13));
}

/// Without messages and readers a log is dropped after two whole intervals, and goes on with its
/// number. After a restart it comes back under a new epoch.
#[tokio::test]
async fn an_empty_log_is_dropped() {
    let place = Place::new();
    let seconds = Arc::new(AtomicU64::new(1_000));
    let clock = seconds.clone();
    let config = SqliteConfig::new()
        .retained_age(Duration::from_secs(1))
        .clock(move || SystemTime::UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::Relaxed)));
    let store = place.open_with(config.clone()).await.unwrap();
    let one = publish(&store, "a", "x").await;
    seconds.fetch_add(10, Ordering::Relaxed);
    for _ in 0..6 {
        store.sweep();
    }
    publish(&store, "b", "x").await;
    assert_eq!(store.topics(), 1);
    assert_eq!(publish(&store, "a", "y").await, Published::new(one.epoch, 2));
    seconds.fetch_add(10, Ordering::Relaxed);
    for _ in 0..6 {
        store.sweep();
    }
    publish(&store, "b", "x").await;
    shut(store).await;
    let store = place.open_with(config).await.unwrap();
    let again = publish(&store, "a", "z").await;
    assert!(again.epoch != one.epoch && again.sequence == 1, "{again:?}");
}

/// At the limit of the file messages are refused, others are served, and there is room again once
/// a topic is closed.
#[tokio::test]
async fn a_full_file_refuses_messages_until_there_is_room() {
    let place = Place::new();
    let config = SqliteConfig::new().file_bytes(256 << 10);
    let store = place.open_with(config).await.unwrap();
    let publisher = Publisher::new(store.clone());
    let one = publish(&store, "a", "first").await;
    let mut last = one;
    let refused = loop {
        match bounded("publishing", publisher.publish("a", vec![b'x'; 8_000])).await {
            Ok(published) => last = published,
            Err(error) => break error,
        }
    };
    let PublishError::Busy(why) = refused else { panic!("{refused}") };
    assert!(why.0.contains("full"), "{why}");
    assert!((10..40).contains(&last.sequence), "{last:?}");
    assert_eq!(resume(&store, "a", at(one, 1)).await.len() as u64, last.sequence);
    let end = publisher.close("a").await.unwrap();
    assert_eq!(end, Some(at(last, last.sequence + 1)));
    publish(&store, "b", &"x".repeat(8_000)).await;
    assert_ne!(publish(&store, "a", "again").await.epoch, one.epoch);
}

/// A database that was put back is older than what subscribers have seen.
#[tokio::test]
async fn an_older_copy_begins_new_epochs() {
    let (place, older) = (Place::new(), Place::new());
    let store = place.open().await;
    let one = publish(&store, "a", "one").await;
    shut(store).await;
    place.copy_to(&older);
    let store = place.open().await;
    let two = publish(&store, "a", "two").await;
    assert_eq!(two.sequence, 2);
    shut(store).await;
    fs::copy(older.path(), place.path()).unwrap();

    let store = place.open().await;
    let other = publish(&store, "a", "other").await;
    assert_ne!(other.epoch, one.epoch);
    // What the copy has is still there.
    let steps = resume(&store, "a", at(two, 3)).await;
    assert_eq!(steps, [Step::Reset(at(other, 1)), message(1, "one"), message(2, "other")]);
    // A whole copy looks right, so the operator has to say so.
    let config = SqliteConfig::new().new_epochs(true);
    let store = older.open_with(config).await.unwrap();
    assert_ne!(publish(&store, "a", "other").await.epoch, one.epoch);
}

/// Without the file that counts transactions, nobody knows whether some are missing.
#[tokio::test]
async fn without_its_head_a_file_begins_new_epochs() {
    let place = Place::new();
    let store = place.open().await;
    let one = publish(&store, "a", "one").await;
    shut(store).await;
    fs::remove_file(place.file("topics.db-head")).unwrap();
    let store = place.open().await;
    assert_ne!(publish(&store, "a", "two").await.epoch, one.epoch);
}

/// Messages in a file that was closed, and in one that was killed, as reference for damage.
async fn written(place: &Place) -> Known {
    let config = SqliteConfig::new().tail_bytes(0);
    let store = place.open_with(config).await.unwrap();
    let (mut all, mut latest) = (Known::default(), HashMap::new());
    for n in 0..120 {
        for name in ["a", "b", "c"] {
            let payload = format!("{name} {n} {}", "x".repeat(n * 7 % 400));
            all.insert(name, publish(&store, name, &payload).await, payload);
        }
        put(&store, n, &mut latest, &mut all).await;
    }
    shut(store).await;
    let store = place.open().await;
    for n in 0..40 {
        let payload = format!("a later {n}");
        all.insert("a", publish(&store, "a", &payload).await, payload);
        put(&store, 120 + n, &mut latest, &mut all).await;
    }
    // As if it was killed: the write-ahead log has the last messages.
    let killed = Place::new();
    place.copy_to(&killed);
    shut(store).await;
    killed.copy_to(place);
    all
}

/// Publishes to the topic of keys. Some keys have one message, others have many.
async fn put(store: &SqliteTopics, n: usize, latest: &mut HashMap<String, u64>, all: &mut Known) {
    let key = if n.is_multiple_of(3) { format!("once {n}") } else { format!("{}", n % 7) };
    let payload = format!("{key} {n} {}", "x".repeat(n * 11 % 300));
    let published = publish_latest(store, "keyed", &key, &payload).await;
    all.insert("keyed", published, payload);
    let before = latest.insert(key, published.sequence);
    all.replaced.extend(before.map(|before| ("keyed", before)));
}

/// Opens a damaged file. It is refused with a clear error; or no (epoch, number) names two payloads,
/// every message is one that was published, no other is called replaced than those that were, and
/// the store goes on. Returns whether it was opened.
async fn is_harmless(place: &Place, all: &Known, what: &str) -> bool {
    let store = match place.open_with(SqliteConfig::new()).await {
        Ok(store) => store,
        Err(OpenError::Corrupt(_) | OpenError::Foreign | OpenError::Io(_)) => return false,
        Err(OpenError::Version(_)) => return false,
        Err(other) => panic!("{what}: {other}"),
    };
    for name in ["a", "b", "c", "keyed"] {
        let Window { epoch, next, .. } = window(&mut store.open(&topic(name))).await;
        for step in resume(&store, name, Position { epoch, next: 1 }).await {
            let (sequence, payload) = match step {
                Step::Message(sequence, payload) => (sequence, payload),
                Step::Gap(first, last, reason) if reason == "replaced" => {
                    let wrong = (first..=last).find(|&n| !all.replaced.contains(&(name, n)));
                    assert_eq!(wrong, None, "{what}: {name} {epoch}:{first} to {last}");
                    continue;
                }
                _ => continue,
            };
            let is_right = match all.payloads.get(&(name, epoch, sequence)) {
                Some(published) => *published == payload,
                None => all.payloads.values().any(|published| *published == payload),
            };
            assert!(is_right, "{what}: {name} {epoch}:{sequence} is {payload:?}");
        }
        let publisher = Publisher::new(store.clone());
        let new = match name {
            "keyed" => publisher.publish_latest(name, "1", "new").await,
            _ => publisher.publish(name, "new").await,
        };
        if let Ok(new) = new {
            let before = all.payloads.get(&(name, new.epoch, new.sequence));
            assert_eq!(before, None, "{what}: {name} {new:?}");
            assert!(new.epoch != epoch || new.sequence == next, "{what}: {name} {new:?}");
        }
    }
    shut_if_it_can(store).await;
    true
}

/// A damaged file may not be closed in order.
async fn shut_if_it_can(store: SqliteTopics) {
    let _ = bounded("closing the file", store.shutdown()).await;
}

fn damage(path: &Path, with: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    with(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_truncated_file_never_gives_wrong_messages() {
    let (place, damaged) = (Place::new(), Place::new());
    let all = written(&place).await;
    for name in ["topics.db", "topics.db-wal", "topics.db-head"] {
        let step = if name == "topics.db-head" { 5 } else { 4_096 };
        let length = fs::metadata(place.file(name)).unwrap().len();
        for length in (0..length).step_by(step) {
            place.copy_to(&damaged);
            let file = File::options().write(true).open(damaged.file(name)).unwrap();
            file.set_len(length).unwrap();
            is_harmless(&damaged, &all, &format!("{name}, {length} bytes")).await;
        }
    }
    place.copy_to(&damaged);
    assert!(is_harmless(&damaged, &all, "the whole file").await);
}

#[tokio::test]
async fn flipped_bytes_never_give_wrong_messages() {
    let (place, damaged) = (Place::new(), Place::new());
    let all = written(&place).await;
    let mut opened = 0;
    for seed in 0..150 {
        let mut rng = Rng::with_seed(seed);
        place.copy_to(&damaged);
        let name = *rng.choice(&["topics.db", "topics.db", "topics.db-wal"]).unwrap();
        damage(&damaged.file(name), |bytes| {
            for _ in 0..rng.usize(1..=4) {
                let at = rng.usize(..bytes.len());
                bytes[at] ^= rng.u8(1..);
            }
        });
        opened += u32::from(is_harmless(&damaged, &all, &format!("{name}, seed {seed}")).await);
    }
    assert!(opened > 20, "{opened}");
}

/// A message that is damaged is named, and the others come.
#[tokio::test]
async fn a_damaged_message_is_a_gap() {
    let place = Place::new();
    let store = place.open().await;
    let one = publish(&store, "a", "one").await;
    publish(&store, "a", "the second message").await;
    publish(&store, "a", "three").await;
    shut(store).await;
    damage(&place.path(), |bytes| {
        let at = bytes.windows(6).position(|found| found == b"second").unwrap();
        bytes[at] = b'S';
    });
    let store = place.open().await;
    let steps = resume(&store, "a", at(one, 1)).await;
    assert_eq!(steps, [message(1, "one"), gap(2, 2, "corrupt"), message(3, "three")]);
}

/// A topic whose log has vanished from the file does not get the numbers of that log again, though
/// all topics of a life begin under one epoch.
#[tokio::test]
async fn a_log_that_is_missing_comes_back_under_another_epoch() {
    for damage in
        ["DELETE FROM logs WHERE topic = 'a'", "UPDATE logs SET next = 1 WHERE topic = 'a'"]
    {
        let place = Place::new();
        let store = place.open().await;
        let one = publish(&store, "a", "one").await;
        let other = publish(&store, "b", "x").await;
        shut(store).await;
        let file = rusqlite::Connection::open(place.path()).unwrap();
        file.execute_batch(damage).unwrap();
        drop(file);
        let store = place.open().await;
        let again = publish(&store, "a", "another").await;
        assert!(again.epoch != one.epoch && again.sequence == 1, "{damage}: {again:?}");
        assert_eq!(publish(&store, "b", "y").await, Published::new(other.epoch, 2), "{damage}");
    }
}

#[cfg(feature = "store-suite")]
mod suite {
    //! The suite that every store has to pass.

    use std::mem;

    use bellwire::topic::suite::{self, Capabilities, Limits, StoreUnderTest, Verdict};

    use super::*;

    /// A store, and the time by which its messages age.
    struct InFile {
        place: Place,
        config: SqliteConfig,
        now: Arc<AtomicU64>,
    }

    impl InFile {
        fn new() -> Self {
            Self { place: Place::new(), config: SqliteConfig::new(), now: Arc::default() }
        }

        async fn start(&self) -> SqliteTopics {
            self.place.open_with(self.config.clone()).await.unwrap()
        }
    }

    impl StoreUnderTest for InFile {
        type Store = SqliteTopics;

        fn capabilities(&self) -> Capabilities {
            let retention = Capabilities::new().by_count().by_bytes().by_age();
            retention.closing().counting().limiting().replacing().durable()
        }

        async fn open(&mut self, limits: Limits) -> SqliteTopics {
            let now = self.now.clone();
            let config = SqliteConfig::new()
                .topics(limits.topics)
                .retained_messages(limits.messages as u64)
                .retained_bytes(limits.bytes as u64)
                // Most reads go to the file.
                .tail_bytes(100)
                .clock(move || {
                    SystemTime::UNIX_EPOCH + Duration::from_millis(now.load(Ordering::Relaxed))
                });
            self.config = match limits.age {
                Some(age) => config.retained_age(age),
                None => config,
            };
            self.place = Place::new();
            self.start().await
        }

        async fn reopen(&mut self, store: SqliteTopics) -> SqliteTopics {
            shut(store).await;
            self.start().await
        }

        async fn kill(&mut self, store: SqliteTopics) -> SqliteTopics {
            let old = mem::replace(&mut self.place, Place::new());
            old.copy_to(&self.place);
            drop(store);
            self.start().await
        }

        fn advance(&mut self, time: Duration) {
            self.now.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn topics_in_a_file_pass_the_suite() {
        let report = suite::run(InFile::new()).await;
        report.assert_passed();
        assert!(report.cases().iter().all(|case| *case.verdict() == Verdict::Passed), "{report}");
    }
}
