//! Tests of all parts of a connection together: random lines, in random pieces, over a tiny pipe.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, split},
    task::yield_now,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::{
    Json,
    protocol::Code,
    random::Random,
    server::{
        HandlerFuture, Next, PeerAddr, Rejection, RequestParts, Router, ServerConfig, Streamed,
        Verdict,
        access::{authorizer::Action, hooks::Hooks, principal::Principal},
        core::environment::Environment,
        driver::{serving::Serving, socket::Driver, timers::Timers},
        handler,
        mailbox::{ALARM, CUT, DRAIN, LAST, LINE, NEWS},
        publishing::Publishing,
        session::Session,
    },
    sync::{Arc, AtomicU64, Ordering},
    topic::{MemoryTopics, Publisher},
};

/// More polls than the longest of these conversations takes. A connection that never comes to rest
/// exceeds any number.
const POLLS: usize = 50_000;
const LINES: u64 = 150;

/// A seeded source of choices.
#[derive(Debug)]
struct Dice(AtomicU64);

impl Dice {
    fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)))
    }

    fn roll(&self, sides: u64) -> u64 {
        let mut state = self.0.load(Ordering::Relaxed);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.0.store(state, Ordering::Relaxed);
        (state >> 11) % sides
    }

    async fn pause(&self, millis: u64) {
        match self.roll(4) {
            0 => sleep(Duration::from_millis(self.roll(millis))).await,
            _ => yield_now().await,
        }
    }
}

fn through(_: &RequestParts<'_>, next: Next<'_>) -> Result<HandlerFuture, Rejection> {
    next.run()
}

async fn panics() {
    panic!("as it is told to");
}

fn router(dice: &Arc<Dice>, is_layered: bool) -> Router {
    let count = async |Json(to): Json<u64>| {
        Streamed(stream::iter((1..=to).map(|number| number.to_string())))
    };
    let slow = dice.clone();
    let nap = move || {
        let dice = slow.clone();
        async move { dice.pause(3_000).await }
    };
    let router = Router::new()
        .method("echo", async |payload: Bytes| payload)
        .method("nap", nap.clone())
        .method("nap.apart", handler(nap).spawned())
        .method("never", async || std::future::pending::<()>().await)
        .method("panic", panics)
        .method("count", count)
        .method("count.apart", handler(count).spawned());
    if is_layered { router.layer(through) } else { router }
}

fn serving(dice: &Arc<Dice>) -> Arc<Serving> {
    let random = Random::seeded(dice.roll(1 << 32));
    let mut config = ServerConfig::new()
        .in_flight(1 + dice.roll(4) as usize)
        .payload_bytes(1 + dice.roll(40) as usize)
        .parked_bytes(dice.roll(3) as usize * 150)
        .reply_mark(1 + dice.roll(400) as usize)
        .notification_mark(1 + dice.roll(400) as usize)
        .subscriptions(2)
        .handler_time(Duration::from_secs(2))
        .lease(Duration::from_secs(3))
        .violations(u32::MAX)
        .idle(None);
    if dice.roll(4) == 0 {
        config = config.buffered_bytes_total(dice.roll(2_000) as usize);
    }
    let mut hooks = Hooks::default();
    if dice.roll(2) == 0 {
        let dice = dice.clone();
        hooks.set_authorizer(move |_: &Principal, _: Action<'_>| match dice.roll(8) {
            0 => Verdict::Deny,
            1 => Verdict::later(std::future::pending()),
            2..5 => {
                let dice = dice.clone();
                Verdict::later(async move {
                    dice.pause(500).await;
                    dice.roll(4) > 0
                })
            }
            _ => Verdict::Allow,
        });
    }
    let timers = Timers::new();
    let environment = Environment {
        config: config.allow_publish(true),
        methods: router(dice, dice.roll(2) == 0).into_methods(),
        publisher: Publisher::new(MemoryTopics::new(&random)),
        totals: Arc::default(),
        buffered: Arc::default(),
        hooks,
        publishing: Publishing::default(),
        sessions: Arc::default(),
        clock: timers.clock(),
        keyed: None,
    };
    Arc::new(Serving { environment: Arc::new(environment), random, timers })
}

const TOPICS: [&str; 3] = ["t", "u", "v"];

/// Publishes to each topic. Returns the epochs of their logs.
async fn epochs(environment: &Environment) -> BTreeMap<&'static str, String> {
    let mut epochs = BTreeMap::new();
    for topic in TOPICS {
        let published = environment.publisher.publish(topic, "first").await.expect("publish");
        epochs.insert(topic, published.epoch.to_string());
    }
    epochs
}

/// A random line, and whether it is answered.
fn line(id: u64, epochs: &BTreeMap<&str, String>, dice: &Dice) -> (String, bool) {
    let (near, n) = (id.saturating_sub(dice.roll(6)).max(1), 1 + dice.roll(5));
    let topic = TOPICS[dice.roll(3) as usize];
    let slow = ["gap", "latest", "close"][dice.roll(3) as usize];
    let epoch = &epochs[topic];
    let requests = [
        format!("echo {topic}"),
        "echo a-longer-payload-than-others".to_owned(),
        "nap".to_owned(),
        "nap.apart".to_owned(),
        format!("never;ttl={}", 1 + dice.roll(4_000)),
        "panic".to_owned(),
        format!("count;window={n} {}", dice.roll(20)),
        format!("count.apart;window={n} {}", dice.roll(20)),
        format!("count;window=1000 {}", dice.roll(40)),
        "count x".to_owned(),
        format!("/subscribe;window={n} {topic}"),
        format!("/subscribe;slow={slow};window={n} {topic}"),
        format!("/subscribe {topic}"),
        format!("/subscribe;from={epoch}:{n} {topic}"),
        format!("/unsubscribe {topic}"),
        format!("/publish {topic} news"),
        format!("/publish {topic} news"),
        "/renew".to_owned(),
        "/methods".to_owned(),
        format!("/ack {topic} {epoch}:1"),
        "nosuch".to_owned(),
        "bad..name".to_owned(),
    ];
    let one_ways = [
        format!("/more {near} {n}"),
        format!("/more {near} {n}"),
        format!("/cancel {near}"),
        format!("/ack {topic} {epoch}:{n}"),
        format!("count {n}"),
        "nap".to_owned(),
        "echo x".to_owned(),
        "nosuch".to_owned(),
    ];
    match dice.roll(3) {
        0 => (format!("* {}\n", one_ways[dice.roll(one_ways.len() as u64) as usize]), false),
        _ => (format!("{id} {}\n", requests[dice.roll(requests.len() as u64) as usize]), true),
    }
}

/// Method and attributes of a request line, without their values.
fn kind(line: &str) -> String {
    let head = line.split([' ', '\n']).nth(1).unwrap_or_default();
    let mut parts = head.split(';').map(|part| match part.split_once('=') {
        Some((key, _)) if key != "slow" => key,
        _ => part,
    });
    let method = parts.next().unwrap_or_default().to_owned();
    parts.fold(method, |kind, part| kind + ";" + part)
}

/// Writes all lines and ends its direction, with or without a `/quit`. Returns the requests by
/// their ids.
async fn write(
    mut io: WriteHalf<DuplexStream>,
    epochs: BTreeMap<&'static str, String>,
    dice: Arc<Dice>,
) -> BTreeMap<u64, String> {
    // The first line has to be valid, because the server closes after a malformed one.
    let mut script = "1 /renew\n".to_owned();
    let mut requests = BTreeMap::from([(1, kind(&script))]);
    for id in 2..=LINES {
        let (line, is_request) = line(id, &epochs, &dice);
        requests.extend(is_request.then(|| (id, kind(&line))));
        script += &line;
    }
    if dice.roll(2) == 0 {
        let line = format!("{} /quit\n", LINES + 1);
        requests.insert(LINES + 1, kind(&line));
        script += &line;
    }
    let mut left = script.as_bytes();
    while !left.is_empty() {
        let (piece, rest) = left.split_at(left.len().min(1 + dice.roll(200) as usize));
        if io.write_all(piece).await.is_err() {
            return requests;
        }
        left = rest;
        dice.pause(300).await;
    }
    let _ = io.shutdown().await;
    requests
}

/// Reads all lines. Returns the words that answered each id, and the last id of a `/bye`.
async fn read(
    mut io: ReadHalf<DuplexStream>,
    dice: Arc<Dice>,
) -> (BTreeMap<u64, Vec<String>>, Option<u64>) {
    let mut said = Vec::new();
    loop {
        let mut piece = vec![0; 1 + dice.roll(100) as usize];
        match io.read(&mut piece).await.expect("read") {
            0 => break,
            count => said.extend_from_slice(&piece[..count]),
        }
        dice.pause(100).await;
    }
    let (mut answers, mut last) = (BTreeMap::<_, Vec<_>>::new(), None);
    for line in String::from_utf8(said).expect("UTF-8").lines() {
        if let Some(bye) = line.strip_prefix("* /bye;last=") {
            assert_eq!(last, None, "a second {line}");
            last = bye.split(' ').next().and_then(|last| last.parse().ok());
        }
        let mut words = line.split([' ', ';']);
        let id = words.next().and_then(|mark| mark.parse().ok());
        if let (Some(id), Some(word @ ("ok" | "err" | "no" | "cut"))) = (id, words.next()) {
            answers.entry(id).or_default().push(word.to_owned());
        }
    }
    (answers, last)
}

/// What ends a conversation, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndedBy {
    /// The peer ends its direction.
    Peer,
    Close(Duration),
    Drain(Duration),
}

impl EndedBy {
    fn new(dice: &Dice) -> Self {
        let after = Duration::from_millis(dice.roll(20_000));
        match dice.roll(8) {
            0 => Self::Close(after),
            1 => Self::Drain(after),
            _ => Self::Peer,
        }
    }

    async fn come(self, session: Session) {
        match self {
            Self::Peer => {}
            Self::Close(after) => {
                sleep(after).await;
                session.close(Code::SHUTDOWN);
            }
            Self::Drain(after) => {
                for flag in [DRAIN, LINE, LAST, CUT] {
                    sleep(after).await;
                    session.mailbox().raise(flag);
                }
            }
        }
    }
}

/// Sends commands, alarms and news without a reason, for as long as it is polled.
async fn disturb(session: Session, dice: Arc<Dice>) {
    for _ in 0..100 {
        dice.pause(200).await;
        match dice.roll(3) {
            0 => session.revoke("t"),
            1 => session.mailbox().raise(ALARM),
            _ => session.mailbox().raise(NEWS),
        }
    }
}

fn session(serving: &Serving, id: Uuid) -> Session {
    let now = serving.timers.now();
    serving.environment.session(id, PeerAddr::Other("test".into()), now)
}

/// In any mixture, each request is answered once and counted once, and the connection neither
/// stalls nor spins. SECURITY.md, threats 7, 8 and 31.
#[tokio::test(start_paused = true)]
async fn any_mixture_of_requests_is_answered_once_each() {
    let mut kinds = BTreeMap::<String, BTreeSet<String>>::new();
    for seed in 1..=300 {
        let dice = Dice::new(seed);
        let serving = serving(&dice);
        let epochs = epochs(&serving.environment).await;
        let session = session(&serving, Uuid::from_u128(seed.into()));
        let (ours, theirs) = tokio::io::duplex(1 + dice.roll(300) as usize);
        let mut connection = Driver::new(theirs, serving.clone(), session.clone());
        let mut polls = 0;
        let driver = tokio::spawn(poll_fn(move |cx| {
            polls += 1;
            assert!(polls < POLLS, "seed {seed} spins");
            Pin::new(&mut connection).poll(cx)
        }));
        let timers = serving.clone();
        let timers = tokio::spawn(async move {
            let mut timer = pin!(sleep(Duration::ZERO));
            poll_fn(|cx| {
                timers.timers.poll_turn(timer.as_mut(), cx);
                Poll::<()>::Pending
            })
            .await;
        });
        let disturber = tokio::spawn(disturb(session.clone(), dice.clone()));
        let end = EndedBy::new(&dice);
        let (reader, writer) = split(ours);
        let writer = tokio::spawn(write(writer, epochs, dice.clone()));
        tokio::spawn(end.come(session.clone()));
        let answers = timeout(Duration::from_secs(7_200), read(reader, dice.clone())).await;
        let (answers, last) = answers.unwrap_or_else(|_| panic!("seed {seed} stalls"));
        driver.await.expect("no panic");
        timers.abort();
        disturber.abort();
        assert!(answers.values().all(|words| words.len() == 1), "seed {seed}: {answers:?}");
        let requests = writer.await.expect("no panic");
        let mut due = requests.keys().filter(|&&id| last.is_none_or(|last| id <= last));
        let missing = due.find(|id| !answers.contains_key(id));
        assert_eq!(missing, None, "seed {seed}, {end:?}, {last:?}");
        assert!(end != EndedBy::Peer || last.is_none(), "seed {seed}");
        let stats = serving.environment.totals.stats();
        let counted = stats.ok + stats.err + stats.no + stats.cut;
        assert_eq!(counted, answers.len() as u64, "seed {seed}: {stats:?}");
        assert_eq!(
            (session.in_flight(), serving.environment.buffered.bytes()),
            (0, 0),
            "seed {seed}"
        );
        for (id, words) in answers {
            kinds.entry(requests[&id].clone()).or_default().extend(words);
        }
    }
    assert_each_kind_was_mixed_in(&kinds);
}

/// Each kind of request was accepted at least once, except those that always fail. Otherwise the
/// mixture would not test them.
fn assert_each_kind_was_mixed_in(kinds: &BTreeMap<String, BTreeSet<String>>) {
    const FAILING: [&str; 5] = ["never;ttl", "panic", "nosuch", "bad..name", "count"];
    assert!(kinds.len() > FAILING.len() + 12, "{kinds:?}");
    for (kind, words) in kinds {
        let is_done = words.contains("ok");
        assert_eq!(is_done, !FAILING.contains(&kind.as_str()), "{kind}: {words:?}");
    }
}
