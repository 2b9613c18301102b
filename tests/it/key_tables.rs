//! What every table of keys has to do, tested on each of them by its own interface.

use std::{
    future::poll_fn,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bellwire::{
    Failure, Random,
    protocol::Code,
    server::keys::{
        Begun, BoxFuture, KeyTable, KeyedOutcome, KeyedRequest, KeysConfig, KeysUnavailable,
        MemoryKeys,
    },
};
use bellwire_testkit::bound::bounded;

/// A kind of table.
pub(crate) trait Kind {
    type Table: KeyTable;

    async fn open(&self, config: KeysConfig) -> Self::Table;
}

/// A clock that a test sets.
#[derive(Clone, Default)]
pub(crate) struct Clock(Arc<AtomicU64>);

impl Clock {
    pub(crate) fn advance(&self, millis: u64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }

    pub(crate) fn config(&self) -> KeysConfig {
        let now = self.0.clone();
        KeysConfig::new().clock(move || Duration::from_millis(now.load(Ordering::SeqCst)))
    }
}

/// What a table answers to a key, as words.
pub(crate) async fn begin(table: &impl KeyTable, request: &KeyedRequest) -> String {
    told(bounded("looking a key up", table.begin(request)).await)
}

pub(crate) fn told(begun: Result<Begun, KeysUnavailable>) -> String {
    match begun {
        Ok(Begun::Done(outcome)) => String::from_utf8(outcome.encode()).unwrap(),
        Ok(Begun::Lost) => "cut lost".into(),
        Ok(other) => format!("{other:?}"),
        Err(error) => format!("{error}"),
    }
}

pub(crate) async fn finish(table: &impl KeyTable, request: &KeyedRequest, outcome: KeyedOutcome) {
    bounded("storing an outcome", table.finish(request, outcome)).await.unwrap();
}

pub(crate) fn pay(key: &str, payload: &str) -> KeyedRequest {
    KeyedRequest::new(Some("ada"), key, "pay", payload.as_bytes())
}

pub(crate) fn paid() -> KeyedOutcome {
    KeyedOutcome::ok("paid")
}

pub(crate) async fn join(table: &impl KeyTable, request: &KeyedRequest) -> Joined {
    match bounded("looking a key up", table.begin(request)).await {
        Ok(Begun::Joined(outcome)) => outcome,
        other => panic!("{other:?}"),
    }
}

pub(crate) type Joined = BoxFuture<Result<KeyedOutcome, KeysUnavailable>>;

async fn is_pending(future: &mut Joined) -> bool {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

/// Tests each function of this list on each kind of table.
macro_rules! each_table {
    ($($test:ident)*) => {
        mod in_memory {
            use super::*;

            struct InMemory;

            impl Kind for InMemory {
                type Table = MemoryKeys;

                async fn open(&self, config: KeysConfig) -> MemoryKeys {
                    MemoryKeys::with_config(&Random::seeded(1), config)
                }
            }

            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(InMemory).await;
                }
            )*
        }

        #[cfg(feature = "sqlite")]
        mod in_a_file {
            use crate::sqlite::keys::InFile;

            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(InFile::new()).await;
                }
            )*
        }

        #[cfg(feature = "redis")]
        mod in_redis {
            use crate::redis::keys::InRedis;

            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(InRedis::new()).await;
                }
            )*
        }
    };
}

each_table! {
    a_key_is_new_once
    every_outcome_comes_back
    a_key_belongs_to_one_request
    each_principal_has_keys_of_its_own
    a_forgotten_key_is_new
    a_run_elsewhere_is_joined
    a_full_table_refuses_new_keys
    the_bytes_are_bounded
    no_owner_fills_a_table
    an_outcome_stays_until_its_time
}

async fn a_key_is_new_once(kind: impl Kind) {
    let table = kind.open(KeysConfig::new()).await;
    assert_eq!(begin(&table, &pay("a", "40")).await, "Run");
    assert_eq!(begin(&table, &pay("b", "40")).await, "Run");
    finish(&table, &pay("a", "40"), paid()).await;
    assert_eq!(begin(&table, &pay("a", "40")).await, "ok paid");
    // The first outcome counts.
    finish(&table, &pay("a", "40"), KeyedOutcome::ok("again")).await;
    assert_eq!(begin(&table, &pay("a", "40")).await, "ok paid");
    // That of a key that was not begun does not.
    finish(&table, &pay("c", "40"), paid()).await;
    assert_eq!(begin(&table, &pay("c", "40")).await, "Run");
}

async fn every_outcome_comes_back(kind: impl Kind) {
    let table = kind.open(KeysConfig::new()).await;
    let bytes: Vec<u8> = (0..=255).collect();
    let failure = Failure::new(Code::from_static("sold"), "out\n");
    for (key, outcome) in [
        ("empty", KeyedOutcome::ok("")),
        ("bytes", KeyedOutcome::ok(bytes)),
        ("err", KeyedOutcome::err(failure)),
        ("cut", KeyedOutcome::cut(Code::DEADLINE)),
        ("after", KeyedOutcome::decode(b"ok;after=a/b:e:8 x").unwrap()),
        ("published", KeyedOutcome::decode(b"ok;epoch=e;seq=7").unwrap()),
    ] {
        let request = pay(key, "40");
        assert_eq!(begin(&table, &request).await, "Run");
        finish(&table, &request, outcome.clone()).await;
        let begun = table.begin(&request).await;
        assert!(matches!(&begun, Ok(Begun::Done(kept)) if *kept == outcome), "{begun:?}");
    }
}

async fn a_key_belongs_to_one_request(kind: impl Kind) {
    let table = kind.open(KeysConfig::new()).await;
    let request = pay("a", "40");
    assert_eq!(begin(&table, &request).await, "Run");
    let others =
        [pay("a", "41"), pay("a", ""), KeyedRequest::new(Some("ada"), "a", "refund", b"40")];
    for is_over in [false, true] {
        for other in &others {
            assert_eq!(begin(&table, other).await, "Mismatch", "{is_over}");
        }
        finish(&table, &request, paid()).await;
    }
    assert_eq!(begin(&table, &request).await, "ok paid");
}

async fn each_principal_has_keys_of_its_own(kind: impl Kind) {
    let table = kind.open(KeysConfig::new()).await;
    let of = |principal| KeyedRequest::new(principal, "a", "pay", b"40");
    for principal in [None, Some(""), Some("ada"), Some("bob")] {
        assert_eq!(begin(&table, &of(principal)).await, "Run", "{principal:?}");
        finish(&table, &of(principal), KeyedOutcome::ok(format!("{principal:?}"))).await;
    }
    for principal in [None, Some(""), Some("ada"), Some("bob")] {
        assert_eq!(begin(&table, &of(principal)).await, format!("ok {principal:?}"));
    }
    // The anonymous have theirs together, wherever they are.
    let elsewhere = of(None).peer([10, 0, 0, 1].into());
    assert_eq!(begin(&table, &elsewhere).await, "ok None");
}

async fn a_forgotten_key_is_new(kind: impl Kind) {
    let table = kind.open(KeysConfig::new()).await;
    let request = pay("a", "40");
    assert_eq!(begin(&table, &request).await, "Run");
    bounded("forgetting", table.forget(&request)).await.unwrap();
    assert_eq!(begin(&table, &pay("a", "41")).await, "Run");
    finish(&table, &pay("a", "41"), paid()).await;
    // An outcome is not forgotten.
    bounded("forgetting", table.forget(&request)).await.unwrap();
    assert_eq!(begin(&table, &pay("a", "41")).await, "ok paid");
}

async fn a_run_elsewhere_is_joined(kind: impl Kind) {
    let table = kind.open(KeysConfig::new()).await;
    let request = pay("a", "40");
    assert_eq!(begin(&table, &request).await, "Run");
    let (mut one, two) = (join(&table, &request).await, join(&table, &request).await);
    assert!(is_pending(&mut one).await);
    finish(&table, &request, paid()).await;
    assert_eq!(bounded("the outcome", one).await, Ok(paid()));
    assert_eq!(bounded("the outcome", two).await, Ok(paid()));
    // It fails if the run is forgotten.
    let other = pay("b", "40");
    assert_eq!(begin(&table, &other).await, "Run");
    let joined = join(&table, &other).await;
    bounded("forgetting", table.forget(&other)).await.unwrap();
    bounded("the outcome", joined).await.unwrap_err();
}

async fn a_full_table_refuses_new_keys(kind: impl Kind) {
    let clock = Clock::default();
    let table = kind.open(clock.config().entries(2).seconds(1)).await;
    let [a, b, c] = ["a", "b", "c"].map(|key| pay(key, "40"));
    assert_eq!(begin(&table, &a).await, "Run");
    assert_eq!(begin(&table, &b).await, "Run");
    finish(&table, &a, paid()).await;
    assert_eq!(begin(&table, &c).await, "Full");
    assert_eq!(begin(&table, &a).await, "ok paid");
    clock.advance(60_999);
    assert_eq!(begin(&table, &c).await, "Full");
    clock.advance(1);
    assert_eq!(begin(&table, &c).await, "Run");
    assert_eq!(begin(&table, &a).await, "Full");
    bounded("forgetting", table.forget(&b)).await.unwrap();
    assert_eq!(begin(&table, &a).await, "Run");
}

async fn the_bytes_are_bounded(kind: impl Kind) {
    let table = kind.open(KeysConfig::new().bytes(2 * 66_500)).await;
    // Each of another owner.
    let of = |principal| KeyedRequest::new(Some(principal), "a", "pay", b"40");
    let [a, b, c] = ["a", "b", "c"].map(of);
    assert_eq!(begin(&table, &a).await, "Run");
    assert_eq!(begin(&table, &b).await, "Run");
    assert_eq!(begin(&table, &c).await, "Full");
    finish(&table, &a, paid()).await;
    assert_eq!(begin(&table, &c).await, "Run");
    finish(&table, &b, KeyedOutcome::ok("x".repeat(60_000))).await;
    assert_eq!(begin(&table, &of("d")).await, "Full");
}

async fn no_owner_fills_a_table(kind: impl Kind) {
    let table = kind.open(KeysConfig::new().entries(20)).await;
    let network = |last: u8| IpAddr::from([10, 0, 0, last]);
    let of = |principal, key: usize| KeyedRequest::new(principal, &key.to_string(), "pay", b"");
    let mut held = Vec::new();
    for (principal, address) in [
        (Some("ada"), network(1)),
        (Some("bob"), network(1)),
        (None, network(1)),
        (None, network(2)),
    ] {
        let mut count = 0;
        let offset = 100 * held.len();
        while begin(&table, &of(principal, offset + count).peer(address)).await == "Run" {
            count += 1;
        }
        held.push(count);
    }
    assert_eq!(held, [11, 5, 3, 1]);
}

async fn an_outcome_stays_until_its_time(kind: impl Kind) {
    let clock = Clock::default();
    let table = kind.open(clock.config().seconds(40)).await;
    assert_eq!(table.window().unwrap().seconds, 40);
    let (request, other) = (pay("a", "40"), pay("a", "41"));
    assert_eq!(begin(&table, &request).await, "Run");
    // The time does not count from the beginning.
    clock.advance(200_000);
    table.sweep();
    finish(&table, &request, paid()).await;
    clock.advance(99_999);
    table.sweep();
    assert_eq!(begin(&table, &request).await, "ok paid");
    assert_eq!(begin(&table, &other).await, "Mismatch");
    clock.advance(1);
    assert_eq!(begin(&table, &other).await, "Run");
}
