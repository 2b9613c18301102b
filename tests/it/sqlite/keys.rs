//! Keys in a file: what survives a kill, a damaged file and a full disk.
//!
//! What every table has to do is in `key_tables`.

use bellwire::{
    protocol::KeyWindow,
    server::keys::{KeyTable, KeyedOutcome, KeyedRequest, KeysConfig, SqliteKeys},
};

use super::*;
use crate::key_tables::{Clock, Kind, begin, finish, paid, pay, told};

/// Tables of keys, each in a file of its own.
pub(crate) struct InFile {
    places: std::sync::Mutex<Vec<Place>>,
}

impl InFile {
    pub(crate) fn new() -> Self {
        Self { places: std::sync::Mutex::default() }
    }
}

impl Kind for InFile {
    type Table = SqliteKeys;

    async fn open(&self, config: KeysConfig) -> SqliteKeys {
        let place = Place::new();
        let (_, keys) = open(&place, config).await;
        self.places.lock().unwrap().push(place);
        keys
    }
}

async fn open(place: &Place, config: KeysConfig) -> (SqliteTopics, SqliteKeys) {
    open_with(place, SqliteConfig::new(), config).await
}

async fn open_with(
    place: &Place,
    topics: SqliteConfig,
    config: KeysConfig,
) -> (SqliteTopics, SqliteKeys) {
    let topics = place.open_with(topics).await.unwrap();
    let keys = bounded("loading the keys", SqliteKeys::open(&topics, config)).await.unwrap();
    (topics, keys)
}

fn store(keys: &SqliteKeys) -> Epoch {
    window_of(keys).store
}

fn window_of(keys: &SqliteKeys) -> KeyWindow {
    keys.window().unwrap()
}

/// [S22.1] [S23.8] A kill between the start and the outcome leaves `cut lost`, and one after it
/// leaves the outcome, for the same request only.
#[tokio::test]
async fn a_kill_leaves_outcomes_and_lost_runs() {
    let (place, killed) = (Place::new(), Place::new());
    let (topics, keys) = open(&place, KeysConfig::new()).await;
    let [started, ended, forgotten, never] =
        ["started", "ended", "forgotten", "never"].map(|key| pay(key, "40"));
    for request in [&started, &ended, &forgotten] {
        assert_eq!(begin(&keys, request).await, "Run");
    }
    finish(&keys, &ended, paid()).await;
    bounded("forgetting", keys.forget(&forgotten)).await.unwrap();
    place.copy_to(&killed);
    assert_eq!(begin(&keys, &never).await, "Run");
    let window = window_of(&keys);
    drop((topics, keys));

    // Twice, because the lost run has an outcome after the first start.
    for _ in 0..2 {
        let (topics, keys) = open(&killed, KeysConfig::new()).await;
        assert_eq!((window_of(&keys), keys.len()), (window, 2));
        assert_eq!(begin(&keys, &started).await, "cut lost");
        assert_eq!(begin(&keys, &ended).await, "ok paid");
        assert_eq!(begin(&keys, &pay("started", "41")).await, "Mismatch");
        assert_eq!(begin(&keys, &pay("ended", "41")).await, "Mismatch");
        shut(topics).await;
    }
    let (_topics, keys) = open(&killed, KeysConfig::new()).await;
    assert_eq!(begin(&keys, &forgotten).await, "Run");
    assert_eq!(begin(&keys, &never).await, "Run");
}

/// Who a request is from comes back, too.
#[tokio::test]
async fn a_restart_keeps_principals_and_shares() {
    let place = Place::new();
    let of = |principal, key: usize| KeyedRequest::new(principal, &key.to_string(), "pay", b"");
    let all = |key| {
        let home = of(None, 200 + key).peer([10, 0, 0, 1].into());
        [of(Some("ada"), key), of(Some(""), key), of(None, 100 + key), home]
    };
    let (topics, keys) = open(&place, KeysConfig::new()).await;
    for request in all(0).iter().chain(&all(1)) {
        assert_eq!(begin(&keys, request).await, "Run");
        finish(&keys, request, paid()).await;
    }
    let bytes = keys.held_bytes();
    shut(topics).await;
    // 8 entries are held, so owners with two may have a third if two are free.
    for (entries, begun) in [(9, "Full"), (10, "Run")] {
        for who in 0..4 {
            let (topics, keys) = open(&place, KeysConfig::new().entries(entries)).await;
            assert_eq!((keys.len(), keys.held_bytes()), (8, bytes));
            for request in all(0).iter().chain(&all(1)) {
                assert_eq!(begin(&keys, request).await, "ok paid");
            }
            let third = &all(2)[who];
            assert_eq!(begin(&keys, third).await, begun, "{who}");
            bounded("forgetting", keys.forget(third)).await.unwrap();
            shut(topics).await;
        }
    }
}

/// [S23.6] The time of an entry is that during which the table was open. A clock that begins anew
/// makes no entry leave early, and neither does the clock of the system.
#[tokio::test]
async fn entries_leave_after_their_time_over_restarts() {
    let place = Place::new();
    let (ended, started) = (pay("ended", "40"), pay("started", "40"));
    let clock = Clock::default();
    let (topics, keys) = open(&place, clock.config().seconds(40)).await;
    for request in [&ended, &started] {
        assert_eq!(begin(&keys, request).await, "Run");
    }
    clock.advance(50_000);
    finish(&keys, &ended, paid()).await;
    clock.advance(60_000);
    // The clock is stored with each change.
    assert_eq!(begin(&keys, &pay("other", "40")).await, "Run");
    bounded("forgetting", keys.forget(&pay("other", "40"))).await.unwrap();
    clock.advance(10_000);
    shut(topics).await;

    // The outcome is 60 s old at least. Other windows apply to other entries.
    let clock = Clock::default();
    clock.advance(7_000_000);
    let (topics, keys) = open(&place, clock.config().seconds(20)).await;
    clock.advance(39_999);
    keys.sweep();
    assert_eq!(begin(&keys, &ended).await, "ok paid");
    clock.advance(1);
    assert_eq!(begin(&keys, &ended).await, "Run");
    // The run that was lost has its time from the start on.
    clock.advance(39_999);
    assert_eq!(begin(&keys, &started).await, "cut lost");
    clock.advance(1);
    keys.sweep();
    assert_eq!(keys.len(), 1);
    finish(&keys, &ended, KeyedOutcome::ok("again")).await;
    shut(topics).await;
    let (_topics, keys) = open(&place, KeysConfig::new()).await;
    assert_eq!(begin(&keys, &ended).await, "ok again");
    assert_eq!(begin(&keys, &started).await, "Run");
}

/// [S23.6] A table that is opened with smaller bounds forgets nothing.
#[tokio::test]
async fn a_full_table_stays_full_over_a_restart() {
    let place = Place::new();
    let (topics, keys) = open(&place, KeysConfig::new()).await;
    for key in ["a", "b", "c"] {
        assert_eq!(begin(&keys, &pay(key, "40")).await, "Run");
    }
    finish(&keys, &pay("a", "40"), paid()).await;
    shut(topics).await;
    let (_topics, keys) = open(&place, KeysConfig::new().entries(2)).await;
    assert_eq!(begin(&keys, &pay("d", "40")).await, "Full");
    assert_eq!(begin(&keys, &pay("a", "40")).await, "ok paid");
    assert_eq!(begin(&keys, &pay("b", "40")).await, "cut lost");
}

/// A `begin` that nobody waits for any more starts no handler, so its key is new.
#[tokio::test]
async fn a_begin_that_is_dropped_leaves_nothing() {
    let place = Place::new();
    let (topics, keys) = open(&place, KeysConfig::new()).await;
    let request = pay("a", "40");
    drop(keys.begin(&request));
    assert_eq!(keys.len(), 0);
    assert_eq!(begin(&keys, &pay("a", "41")).await, "Run");
    shut(topics).await;
    let (_topics, keys) = open(&place, KeysConfig::new()).await;
    assert_eq!((keys.len(), begin(&keys, &request).await), (1, "Mismatch".into()));
}

#[tokio::test]
async fn a_file_gives_its_keys_to_one_table() {
    let place = Place::new();
    let (topics, keys) = open(&place, KeysConfig::new()).await;
    let second = bounded("loading", SqliteKeys::open(&topics, KeysConfig::new())).await;
    assert_eq!(second.map(drop), Err(OpenError::InUse));
    shut(topics.clone()).await;
    let late = bounded("loading", SqliteKeys::open(&topics, KeysConfig::new())).await;
    assert!(matches!(late, Err(OpenError::Io(_))), "{late:?}");
    // A table of a closed file knows what it knew.
    assert_eq!(begin(&keys, &pay("a", "40")).await, "key table unavailable: the store was closed");
    assert_eq!(keys.len(), 0);
}

/// Without room in the file, keys are refused, and outcomes stay in memory.
#[tokio::test]
async fn a_full_file_refuses_keys() {
    let place = Place::new();
    let limit = || SqliteConfig::new().file_bytes(256 << 10);
    let (topics, keys) = open_with(&place, limit(), KeysConfig::new()).await;
    let (known, long) = (pay("known", "40"), "x".repeat(8_000));
    assert_eq!(begin(&keys, &known).await, "Run");
    finish(&keys, &known, paid()).await;
    let mut number = 0;
    let refused = loop {
        let request = pay(&number.to_string(), "40");
        match begin(&keys, &request).await.as_str() {
            "Run" => drop(keys.finish(&request, KeyedOutcome::ok(long.clone())).await),
            other => break other.to_owned(),
        }
        number += 1;
    };
    assert!(refused.contains("full"), "{refused}");
    assert!((10..500).contains(&number), "{number}");
    assert_eq!(begin(&keys, &known).await, "ok paid");
    for key in 0..number {
        assert_eq!(begin(&keys, &pay(&key.to_string(), "40")).await, format!("ok {long}"));
    }
    shut_if_it_can(topics).await;
    // Outcomes for which there was no room are lost now.
    let (_topics, keys) = open_with(&place, SqliteConfig::new(), KeysConfig::new()).await;
    assert_eq!(begin(&keys, &known).await, "ok paid");
    let mut lost = 0;
    for key in 0..number {
        let begun = begin(&keys, &pay(&key.to_string(), "40")).await;
        assert!(begun == "cut lost" || begun == format!("ok {long}"), "{key}: {begun}");
        lost += u32::from(begun == "cut lost");
    }
    assert!(lost >= 1, "{lost}");
}

/// Messages that find no room do not take keys with them.
#[tokio::test]
async fn keys_are_written_without_messages_that_have_no_room() {
    let place = Place::new();
    let config = SqliteConfig::new().file_bytes(256 << 10);
    let (topics, keys) = open_with(&place, config, KeysConfig::new()).await;
    let publish = || topics.append(&topic("a"), vec![b'x'; 60_000].into());
    while bounded("publishing", publish()).await.is_ok() {}
    // Until the file is free, nothing is committed. Then at least one of the keys is in a batch
    // with the message.
    let other = rusqlite::Connection::open(place.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let [one, two] = [pay("one", "40"), pay("two", "40")];
    let (one, published, two) = (keys.begin(&one), publish(), keys.begin(&two));
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(told(bounded("looking a key up", one).await), "Run");
    assert_eq!(told(bounded("looking a key up", two).await), "Run");
    let refused = bounded("publishing", published).await;
    assert!(matches!(refused, Err(PublishError::Busy(_))), "{refused:?}");
}

/// [S23.7] Where the epochs change because transactions may be missing, the store changes.
#[tokio::test]
async fn a_file_that_may_lack_keys_has_another_store() {
    let (place, older) = (Place::new(), Place::new());
    let (topics, keys) = open(&place, KeysConfig::new()).await;
    let first = store(&keys);
    assert_eq!(begin(&keys, &pay("a", "40")).await, "Run");
    finish(&keys, &pay("a", "40"), paid()).await;
    shut(topics).await;
    place.copy_to(&older);
    let (topics, keys) = open(&place, KeysConfig::new()).await;
    assert_eq!(store(&keys), first);
    assert_eq!(begin(&keys, &pay("b", "40")).await, "Run");
    shut(topics).await;

    // An older database under its newer count of transactions.
    fs::copy(older.path(), place.path()).unwrap();
    let (topics, keys) = open(&place, KeysConfig::new()).await;
    let second = store(&keys);
    assert_ne!(second, first);
    // What it has is still there.
    assert_eq!(begin(&keys, &pay("a", "40")).await, "ok paid");
    shut(topics).await;
    // Without the count.
    fs::remove_file(place.file("topics.db-head")).unwrap();
    let (topics, keys) = open(&place, KeysConfig::new()).await;
    assert!(![first, second].contains(&store(&keys)));
    shut(topics).await;
    // A copy of everything, of which the operator says so. The topics may be opened alone.
    shut(older.open_with(SqliteConfig::new().new_epochs(true)).await.unwrap()).await;
    let (_topics, keys) = open(&older, KeysConfig::new()).await;
    assert_ne!(store(&keys), first);
}

/// [S23.7] So it does if a row is damaged or missing. The others stay.
#[tokio::test]
async fn a_damaged_key_changes_the_store() {
    for damage in [
        "DELETE FROM keys WHERE key = 'a'",
        "UPDATE keys SET outcome = NULL WHERE key = 'a'",
        "UPDATE keys SET outcome = CAST('ok paid twice' AS BLOB) WHERE key = 'a'",
        "UPDATE keys SET key = 'c' WHERE key = 'a'",
        "UPDATE keys SET principal = NULL WHERE key = 'a'",
        "UPDATE keys SET network = 'ada', principal = NULL WHERE key = 'a'",
        "UPDATE keys SET method = 'refund' WHERE key = 'a'",
        "UPDATE keys SET payload = CAST('x' AS BLOB) WHERE key = 'a'",
        "UPDATE keys SET until = 1 WHERE key = 'a'",
        "UPDATE keys SET number = 77 WHERE key = 'a'",
    ] {
        let place = Place::new();
        let (topics, keys) = open(&place, KeysConfig::new()).await;
        let first = store(&keys);
        for key in ["a", "b"] {
            assert_eq!(begin(&keys, &pay(key, "40")).await, "Run");
            finish(&keys, &pay(key, "40"), paid()).await;
        }
        shut(topics).await;
        let file = rusqlite::Connection::open(place.path()).unwrap();
        file.execute_batch(damage).unwrap();
        drop(file);
        let (topics, keys) = open(&place, KeysConfig::new()).await;
        assert_ne!(store(&keys), first, "{damage}");
        assert_eq!(begin(&keys, &pay("b", "40")).await, "ok paid", "{damage}");
        let second = store(&keys);
        shut(topics).await;
        let (_topics, keys) = open(&place, KeysConfig::new()).await;
        assert_eq!((store(&keys), keys.len()), (second, 1), "{damage}");
    }
}

/// Keys in a file that was killed, with and without outcomes, as reference for damage.
async fn written_keys(place: &Place) -> (Epoch, HashMap<String, Option<KeyedOutcome>>) {
    let (topics, keys) = open(place, KeysConfig::new()).await;
    let mut all = HashMap::new();
    for number in 0..120 {
        let key = number.to_string();
        assert_eq!(begin(&keys, &pay(&key, "40")).await, "Run");
        let outcome = KeyedOutcome::ok(format!("{key} {}", "x".repeat(number * 7 % 400)));
        if number % 5 > 0 {
            finish(&keys, &pay(&key, "40"), outcome.clone()).await;
        }
        all.insert(key, (number % 5 > 0).then_some(outcome));
        if number == 90 {
            topics.sweep();
        }
    }
    let first = store(&keys);
    let killed = Place::new();
    place.copy_to(&killed);
    shut(topics).await;
    killed.copy_to(place);
    (first, all)
}

/// Opens a damaged file. It is refused; or it has another store; or every key that was started is
/// known, and has its outcome or has lost it. Returns whether it is the same store.
async fn keeps_its_keys(
    place: &Place,
    written: &(Epoch, HashMap<String, Option<KeyedOutcome>>),
    what: &str,
) -> bool {
    let Ok(topics) = place.open_with(SqliteConfig::new()).await else { return false };
    let keys = bounded("loading the keys", SqliteKeys::open(&topics, KeysConfig::new())).await;
    let Ok(keys) = keys else {
        // The next file takes its place.
        shut_if_it_can(topics).await;
        return false;
    };
    let is_same = store(&keys) == written.0;
    for (key, outcome) in &written.1 {
        let begun = begin(&keys, &pay(key, "40")).await;
        let outcome = outcome.as_ref().map(|outcome| String::from_utf8(outcome.encode()).unwrap());
        let is_known = begun == "cut lost" || Some(&begun) == outcome.as_ref();
        let is_right = is_known || (!is_same && (begun == "Run" || begun.contains("unavailable")));
        assert!(is_right, "{what}: {key} is {begun}");
    }
    shut_if_it_can(topics).await;
    is_same
}

#[tokio::test]
async fn a_truncated_file_never_gives_wrong_outcomes() {
    let (place, damaged) = (Place::new(), Place::new());
    let all = written_keys(&place).await;
    for name in ["topics.db", "topics.db-wal", "topics.db-head"] {
        let step = if name == "topics.db-head" { 5 } else { 8 * 4_096 };
        let length = fs::metadata(place.file(name)).unwrap().len();
        for length in (0..length).step_by(step) {
            place.copy_to(&damaged);
            let file = File::options().write(true).open(damaged.file(name)).unwrap();
            file.set_len(length).unwrap();
            let what = format!("{name}, {length} bytes");
            let is_same = keeps_its_keys(&damaged, &all, &what).await;
            // What is missing in the file may be in the write-ahead log.
            assert!(!is_same || name == "topics.db", "{what}");
        }
    }
    place.copy_to(&damaged);
    assert!(keeps_its_keys(&damaged, &all, "the whole file").await);
}

#[tokio::test]
async fn flipped_bytes_never_give_wrong_outcomes() {
    let (place, damaged) = (Place::new(), Place::new());
    let all = written_keys(&place).await;
    // Half of them in a file without a write-ahead log.
    let closed = Place::new();
    place.copy_to(&closed);
    shut(closed.open().await).await;
    for seed in 0..60 {
        let mut rng = Rng::with_seed(seed);
        let (from, name) = match rng.bool() {
            true => (&closed, "topics.db"),
            false => (&place, "topics.db-wal"),
        };
        from.copy_to(&damaged);
        damage(&damaged.file(name), |bytes| {
            for _ in 0..rng.usize(1..=4) {
                let at = rng.usize(..bytes.len());
                bytes[at] ^= rng.u8(1..);
            }
        });
        keeps_its_keys(&damaged, &all, &format!("{name}, seed {seed}")).await;
    }
}
