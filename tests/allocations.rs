//! How often messages allocate, and what connections, subscriptions and kept payloads hold.
//!
//! A test binary of its own, since it counts what the whole process allocates. Each figure is the
//! difference of two runs, so that what a run costs once is not in it.
//!
//! Each bound is what holds today. A figure below it fails too, so that what is written here stays
//! true: lower the bound then. `scripts/allocations.sh` lists the call stacks.

use std::{
    alloc::System,
    fmt::Write,
    future::ready,
    panic::resume_unwind,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use bellwire::{Client, ClientConfig, Delivery, Router, ServerConfig};
use bellwire_testkit::{PipeServer, hot_path::HotPath};
use bytes::Bytes;
use futures::future::join_all;
use heapster::{Heapster, Histogram};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    runtime::{Builder, Runtime},
};

#[global_allocator]
static ALLOCATOR: Heapster<System> = Heapster::new(System);

/// One test at a time: they count the same allocator.
static ALONE: Mutex<()> = Mutex::new(());

/// Messages that are under way at once.
const BATCH: u64 = 64;
/// Messages of the shorter run; the longer one has as many more.
const RUN: u64 = 50 * BATCH;

/// Allocations per message, as they are.
const CALL: f64 = 1.221;
const PUBLICATION: f64 = 1.0;
const DELIVERY: f64 = 0.484;

/// Bytes on the server, as they are.
const CONNECTION: f64 = 1_300.0;
const SUBSCRIPTION: f64 = 257.0;

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` on a thread of its own, so that its buffers are gone when this returns: the ends keep
/// read buffers by thread, and a thread of the harness ends while the next test counts.
fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let ended = thread::scope(|scope| scope.spawn(work).join());
    ended.unwrap_or_else(|panic| resume_unwind(panic))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// Bytes that are allocated now.
fn live() -> isize {
    ALLOCATOR.use_curr() as isize
}

/// Allocations by size: bucket `n` has those of 2^n to 2^(n+1) - 1 bytes. What grows counts as one
/// more.
#[derive(Clone)]
struct Allocations {
    fresh: Histogram,
    grown: Histogram,
}

impl Allocations {
    fn so_far() -> Self {
        Self { fresh: ALLOCATOR.alloc_histogram(), grown: ALLOCATOR.realloc_growth_histogram() }
    }

    fn since(&self, before: &Self) -> Self {
        Self { fresh: self.fresh - before.fresh, grown: self.grown - before.grown }
    }

    fn per(&self, messages: u64) -> f64 {
        (self.fresh.total() + self.grown.total()) as f64 / messages as f64
    }

    /// Of more than one in a thousand messages.
    fn by_size(&self, messages: u64) -> String {
        let mut text = String::new();
        for (what, histogram) in [("of", &self.fresh), ("that grow by", &self.grown)] {
            for (bits, count) in histogram.buckets().iter().enumerate() {
                let each = *count as f64 / messages as f64;
                if each > 0.001 {
                    let (from, to) = (1u64 << bits, (1u64 << bits) * 2 - 1);
                    writeln!(text, "  {each:.3} {what} {from} to {to} bytes").expect("a string");
                }
            }
        }
        text
    }
}

/// What a message allocates: a run of twice the length, less the shorter one.
async fn count(mut run: impl AsyncFnMut(u64)) -> Allocations {
    run(RUN).await;
    let begin = Allocations::so_far();
    run(RUN).await;
    let middle = Allocations::so_far();
    run(2 * RUN).await;
    let longer = Allocations::so_far().since(&middle);
    longer.since(&middle.since(&begin))
}

/// Fails if a figure is not the one that is written down, give or take `slack`.
fn judge(what: &str, figure: f64, bound: f64, slack: f64, detail: &str) {
    println!("{what}: {figure:.3}");
    let advice = match figure > bound {
        true => "is above what is written down",
        false => "is below what is written down: lower the bound",
    };
    assert!((figure - bound).abs() <= slack, "{what}: {figure:.3} {advice}, {bound}\n{detail}");
}

fn judge_allocations(what: &str, counted: &Allocations, bound: f64) {
    judge(what, counted.per(RUN), bound, 0.03, &counted.by_size(RUN));
}

#[test]
fn a_call_stays_within_the_documented_allocations() {
    let _alone = alone();
    let counted = on_own_thread(|| {
        runtime().block_on(async {
            let path = HotPath::connect().await;
            count(async |calls| path.call(BATCH, calls).await).await
        })
    });
    judge_allocations("allocations per call", &counted, CALL);
}

async fn publication_and_delivery() -> (Allocations, Allocations) {
    let path = HotPath::connect().await;
    let publication = count(async |count| path.publish(BATCH, count).await).await;
    let mut subscription = path.subscribe().await;
    let whole = count(async |count| path.deliver(&mut subscription, BATCH, count).await).await;
    (publication.clone(), whole.since(&publication))
}

/// The whole way of one message, without its publication.
#[test]
fn a_notification_stays_within_the_documented_allocations() {
    let _alone = alone();
    let (publication, delivery) = on_own_thread(|| runtime().block_on(publication_and_delivery()));
    judge_allocations("allocations per publication", &publication, PUBLICATION);
    judge_allocations("allocations per delivery", &delivery, DELIVERY);
}

const CONNECTIONS: usize = 1_000;
const FURTHER: usize = 10;

/// A pipe that has allocated what a few lines take.
async fn used_pipe() -> (DuplexStream, DuplexStream) {
    let (mut ours, mut theirs) = tokio::io::duplex(1_024);
    for _ in 0..2 {
        ours.write_all(&[b'x'; 512]).await.expect("room");
        theirs.read_exact(&mut [0; 512]).await.expect("bytes");
        (ours, theirs) = (theirs, ours);
    }
    (ours, theirs)
}

/// Reads a line, and nothing else is there to be read.
async fn read_line(io: &mut DuplexStream) {
    let mut line = [0; 1_024];
    let mut len = 0;
    while !line[..len].ends_with(b"\n") {
        len += io.read(&mut line[len..]).await.expect("a line");
    }
}

async fn subscribe(io: &mut DuplexStream, id: usize) {
    let line = format!("{id} /subscribe topic{id}\n");
    io.write_all(line.as_bytes()).await.expect("written");
    read_line(io).await;
}

/// Bytes of one more of something, once all of them are at rest.
async fn at_rest(base: isize, count: usize) -> f64 {
    // On the paused clock.
    tokio::time::sleep(Duration::from_secs(30)).await;
    (live() - base) as f64 / count as f64
}

/// Bytes of a connection with one subscription, and of each further subscription.
async fn connection_and_further_subscription() -> (f64, f64) {
    let config = ServerConfig::new().lease(Duration::from_secs(3_600));
    let server = PipeServer::with_config(Router::new(), config.connections(CONNECTIONS + 1));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        let (near, far) = used_pipe().await;
        ours.push(near);
        theirs.push(far);
    }
    // What the first connection makes the process allocate is not a connection's.
    let _first = server.connect().await;
    let base = live();
    for (io, far) in ours.iter_mut().zip(theirs.drain(..)) {
        server.accept(far);
        read_line(io).await;
        subscribe(io, 1).await;
    }
    let connection = at_rest(base, CONNECTIONS).await;
    let base = live();
    for io in &mut ours {
        for id in 2..2 + FURTHER {
            subscribe(io, id).await;
        }
    }
    (connection, at_rest(base, CONNECTIONS * FURTHER).await)
}

#[test]
fn idle_connections_and_subscriptions_hold_the_documented_bytes() {
    let _alone = alone();
    let (connection, further) = on_own_thread(|| {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(connection_and_further_subscription())
    });
    judge("bytes per connection", connection, CONNECTION, 20.0, "");
    judge("bytes per further subscription", further, SUBSCRIPTION, 6.0, "");
}

/// Small payloads that an application keeps, each from a read of its own.
const KEPT: usize = 1_000;
/// What each may hold, its own 32 bytes included.
const HELD: usize = 256;
/// What comes between two of them: as much as a read buffer.
const FILLERS: usize = 4;
static FILLER: [u8; 16_000] = [b'x'; 16_000];
static SMALL: [u8; 32] = [b's'; 32];

/// Where the payloads are kept.
type Store = Arc<Mutex<Vec<Bytes>>>;

/// Runs `fill` until the store is full, ends both sides, and fails if more is held than the payloads.
fn check_kept(what: &str, fill: impl AsyncFn(&Store) + Sync) {
    let store = Store::new(Mutex::new(Vec::with_capacity(KEPT)));
    let base = live();
    on_own_thread(|| runtime().block_on(fill(&store)));
    let held = usize::try_from(live() - base).unwrap_or(0);
    assert_eq!(store.lock().expect("no panic").len(), KEPT);
    println!("{what}: {} bytes per payload", held / KEPT);
    assert!(held <= KEPT * HELD, "{what}: {} bytes per payload", held / KEPT);
}

fn keep(store: &Store, payload: Bytes) {
    assert_eq!(payload, SMALL[..]);
    store.lock().expect("no panic").push(payload);
}

/// A server that echoes, and keeps the payloads of `keep`; a client of it.
fn connect(store: &Store) -> (PipeServer, Client) {
    let kept = store.clone();
    let router = Router::new().method("echo", async |payload: Bytes| payload).method(
        "keep",
        move |payload: Bytes| {
            if payload == SMALL[..] {
                keep(&kept, payload);
            }
            ready(())
        },
    );
    let server = PipeServer::start(router);
    let (client, connection) = Client::new(server.pipe(), ClientConfig::new());
    tokio::spawn(connection);
    (server, client)
}

#[test]
fn kept_replies_hold_no_read_buffer() {
    let _alone = alone();
    check_kept("replies", async |store| {
        let (_server, client) = connect(store);
        for _ in 0..KEPT {
            let fillers = join_all((0..FILLERS).map(|_| client.call("echo", FILLER)));
            let (fillers, small) = tokio::join!(fillers, client.call("echo", SMALL));
            assert!(fillers.iter().all(Result::is_ok));
            keep(store, small.expect("a reply"));
        }
    });
}

#[test]
fn kept_requests_hold_no_read_buffer() {
    let _alone = alone();
    check_kept("requests", async |store| {
        let (_server, client) = connect(store);
        for _ in 0..KEPT {
            let fillers = join_all((0..FILLERS).map(|_| client.call("keep", FILLER)));
            let (fillers, small) = tokio::join!(fillers, client.call("keep", SMALL));
            assert!(fillers.iter().all(Result::is_ok) && small.is_ok());
        }
    });
}

#[test]
fn kept_notifications_hold_no_read_buffer() {
    let _alone = alone();
    check_kept("notifications", async |store| {
        let (server, client) = connect(store);
        let mut subscription = client.subscribe("t").await.expect("subscribed");
        for _ in 0..KEPT {
            for payload in [&FILLER[..]; FILLERS].into_iter().chain([&SMALL[..]]) {
                server.publisher.publish("t", payload).await.expect("published");
            }
            for _ in 0..FILLERS {
                subscription.next().await.expect("a filler");
            }
            match subscription.next().await {
                Some(Delivery::Notification(small)) => keep(store, small.payload),
                other => panic!("{other:?}"),
            }
        }
    });
}
