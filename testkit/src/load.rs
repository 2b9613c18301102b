//! Clients that send requests as fast as they are answered until the server has closed, and the
//! check of their replies afterwards.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bellwire::{CallError, Client, ConnectionError, NotSent, protocol::Code};
use fastrand::Rng;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Semaphore,
};

/// The requests that a raw client keeps in flight.
const WINDOW: usize = 1_024;
/// The calls that a library client keeps in flight.
const CALLS: usize = 32;
/// The requests. The last one asks for an offer that does not exist.
const REQUESTS: [&str; 4] = ["random 6", "offers.get 1", "offers.list", "offers.get 9999"];

/// What a raw client does when it reads the first `/bye`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// It makes no new requests, as it should.
    Good,
    /// It goes on with requests until the server closes.
    Deaf,
    /// It ends its direction of the stream.
    HalfCloses,
}

/// What a raw client has seen.
#[derive(Debug, Default)]
pub struct Record {
    /// The terminal lines of each id, without the id.
    terminal: BTreeMap<u64, Vec<String>>,
    /// What came on the reserved channel after the hello.
    notices: Vec<String>,
    /// The last id that it offered to the transport.
    asked: u64,
    /// What it did and read, with times, to explain a failure.
    story: Vec<String>,
}

struct Talk {
    window: Semaphore,
    /// A `/bye` was read.
    is_leaving: AtomicBool,
    manners: Manners,
}

/// A raw client, from its hello to the end of the stream. It adds a permit to `replied` for each
/// reply.
pub async fn raw(
    stream: TcpStream,
    seed: u64,
    manners: Manners,
    replied: Arc<Semaphore>,
) -> Record {
    let (read, write) = stream.into_split();
    let window = Semaphore::new(WINDOW);
    let talk = Arc::new(Talk { window, is_leaving: AtomicBool::new(false), manners });
    let asking = tokio::spawn(ask(write, seed, talk.clone()));
    let mut record = listen(read, &talk, &replied).await;
    talk.window.close();
    record.asked = asking.await.expect("no panic");
    record
}

/// Sends requests in bursts, cut at random points. Returns the last id.
async fn ask(mut write: OwnedWriteHalf, seed: u64, talk: Arc<Talk>) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let mut id = 0;
    loop {
        let mut burst = String::new();
        for _ in 0..rng.usize(1..64) {
            let Ok(place) = talk.window.acquire().await else { return id };
            place.forget();
            if talk.is_leaving.load(Ordering::Relaxed) && talk.manners != Manners::Deaf {
                break;
            }
            id += 1;
            burst += &format!("{id} {}\n", REQUESTS[rng.usize(..REQUESTS.len())]);
        }
        let (first, second) = burst.as_bytes().split_at(rng.usize(..=burst.len()));
        for part in [first, second] {
            if write.write_all(part).await.is_err() {
                return id;
            }
        }
        if talk.is_leaving.load(Ordering::Relaxed) && talk.manners != Manners::Deaf {
            return leave(write, id, &talk).await;
        }
    }
}

async fn leave(mut write: OwnedWriteHalf, id: u64, talk: &Talk) -> u64 {
    if talk.manners == Manners::HalfCloses {
        // This fails only if the server has closed already, and then the record shows whether that
        // was right.
        let _ = write.shutdown().await;
    }
    // The write half stays open until the reader closes the semaphore.
    while let Ok(place) = talk.window.acquire().await {
        place.forget();
    }
    id
}

async fn listen(read: OwnedReadHalf, talk: &Talk, replied: &Semaphore) -> Record {
    let mut record = Record { story: vec![format!("{:?}", talk.manners)], ..Record::default() };
    let begun = Instant::now();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await.expect("no reset, and whole lines") {
        let (mark, rest) = line.split_once(' ').expect("a mark");
        match mark.parse() {
            Ok(id) => {
                if !rest.starts_with("more ") {
                    record.terminal.entry(id).or_default().push(rest.to_owned());
                }
                talk.window.add_permits(1);
                replied.add_permits(1);
            }
            Err(_) if rest.starts_with("/hello;") => {}
            Err(_) => {
                let answered = record.terminal.len();
                record.story.push(format!("{rest} at {:?}, {answered} answered", begun.elapsed()));
                record.notices.push(rest.to_owned());
                talk.is_leaving.store(true, Ordering::Relaxed);
                // The writer may wait for a place, and must wake up to see the `/bye`.
                talk.window.add_permits(1);
            }
        }
    }
    record.story.push(format!("closed at {:?}", begun.elapsed()));
    record
}

impl Record {
    /// The rules of docs/protocol/leaving.md, section 18. If the client got a `/bye` with `last`,
    /// each id up to it has one terminal line, and each id above it was refused or got no answer.
    /// If it half-closed before that, all its requests are answered.
    pub fn check(&self) {
        let mut notices = self.notices.iter();
        assert_eq!(notices.next().map(String::as_str), Some("/bye shutdown"));
        let drawn = notices.next().map(|line| {
            let last =
                line.strip_prefix("/bye;last=").and_then(|line| line.strip_suffix(" shutdown"));
            last.and_then(|last| last.parse().ok()).unwrap_or_else(|| panic!("{line}"))
        });
        assert_eq!(notices.next(), None);
        let last = drawn.unwrap_or(self.asked);
        assert!(last <= self.asked, "{last} of {}", self.asked);
        let lines = |id| self.terminal.get(&id).map(Vec::as_slice).unwrap_or_default();
        let is_answered = |id: &u64| matches!(lines(*id), [line] if is_executed(line));
        let faulty: Vec<_> = (1..=last).filter(|id| !is_answered(id)).collect();
        assert!(
            faulty.is_empty(),
            "{} of {last} unanswered, {} asked: {:?}; the last that was answered is {:?}; {:?}",
            faulty.len(),
            self.asked,
            faulty.iter().take(9).map(|id| (id, lines(*id))).collect::<Vec<_>>(),
            self.terminal.keys().next_back(),
            self.story,
        );
        for (id, lines) in self.terminal.range(last + 1..) {
            assert!(
                *id <= self.asked && lines == &["no closing"],
                "{id}, line at {last}: {lines:?}"
            );
        }
    }

    /// Whether the client got a `/bye` with `last`.
    pub fn has_line(&self) -> bool {
        self.notices.len() == 2
    }

    pub fn asked(&self) -> u64 {
        self.asked
    }
}

fn is_executed(line: &str) -> bool {
    line.starts_with("ok") || line.starts_with("err not-found")
}

/// A library client that makes calls until the server refuses more. Returns the number of calls.
/// Each call must end in a reply, or be known not to have run.
pub async fn library(client: Client, replied: Arc<Semaphore>) -> u64 {
    let callers = (0..CALLS).map(|_| tokio::spawn(call_on(client.clone(), replied.clone())));
    let callers: Vec<_> = callers.collect();
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.expect("no panic, and no call without an outcome");
    }
    calls
}

async fn call_on(client: Client, replied: Arc<Semaphore>) -> u64 {
    let mut calls = 0;
    loop {
        calls += 1;
        match client.call("offers.get", "1").await {
            Ok(_) => replied.add_permits(1),
            Err(CallError::NotSent(NotSent::Lost(ConnectionError::Bye(_)))) => return calls,
            Err(CallError::Refused { reason, .. }) if reason.code == Code::CLOSING => return calls,
            Err(error) => panic!("call {calls}: {error:?}"),
        }
    }
}
