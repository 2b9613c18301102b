//! Notifications to many subscribers over loopback TCP, on one runtime of two workers. The
//! subscribers are raw sockets that only count bytes, so the server's work dominates.
//!
//! `cargo bench --bench fanout`. One element is one notification delivered to one subscriber.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bellwire::Router;
use bellwire_testkit::{TcpServer, hot_path::PAYLOAD};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::{io::AsyncReadExt, runtime::Runtime, sync::Notify};

/// Publications between two waits for the subscribers; well below what a topic retains, so that
/// no subscriber falls behind.
const BATCH: u64 = 512;

struct Setup {
    server: TcpServer,
    subscribers: u64,
    received: Arc<Received>,
}

/// The bytes that all subscribers have received.
#[derive(Default)]
struct Received {
    bytes: AtomicU64,
    target: AtomicU64,
    reached: Notify,
}

impl Received {
    fn add(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let target = self.target.load(Ordering::Acquire);
        if before < target && before + bytes >= target {
            self.reached.notify_one();
        }
    }

    async fn wait_for(&self, target: u64) {
        self.target.store(target, Ordering::Release);
        while self.bytes.load(Ordering::Acquire) < target {
            self.reached.notified().await;
        }
    }
}

fn fanout(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut group = c.benchmark_group("fanout");
    group.sample_size(20).measurement_time(Duration::from_secs(5));
    for subscribers in [1, 100, 1_000] {
        // On a worker: the test kit ends a program whose main thread makes no progress for long.
        let setup = runtime.spawn(Setup::new(subscribers));
        let mut setup = runtime.block_on(setup).expect("no panic");
        let mut sequence = 0;
        group.throughput(Throughput::Elements(subscribers));
        group.bench_function(BenchmarkId::new("subscribers", subscribers), |b| {
            b.iter_custom(|count| publish(&runtime, &mut setup, &mut sequence, count));
        });
    }
    group.finish();
}

/// Publishes `count` messages. Returns the time until every subscriber has received all of them.
fn publish(runtime: &Runtime, setup: &mut Setup, sequence: &mut u64, count: u64) -> Duration {
    let publisher = setup.server.publisher.clone();
    let (subscribers, received) = (setup.subscribers, setup.received.clone());
    let first = *sequence;
    *sequence += count;
    // On a worker, because a future passed to `block_on` runs on a thread of its own.
    let publishing = runtime.spawn(async move {
        let start = Instant::now();
        let mut target = received.bytes.load(Ordering::Acquire);
        for number in first + 1..=first + count {
            publisher.publish("t", &PAYLOAD[..]).await.expect("published");
            target += subscribers * line_len(number);
            if number % BATCH == 0 {
                received.wait_for(target).await;
            }
        }
        received.wait_for(target).await;
        start.elapsed()
    });
    runtime.block_on(publishing).expect("no panic")
}

fn line_len(number: u64) -> u64 {
    (format_args!("* t {number} ").to_string().len() + PAYLOAD.len() + 1) as u64
}

impl Setup {
    async fn new(subscribers: u64) -> Self {
        let server = TcpServer::start(Router::new()).await;
        let received = Arc::new(Received::default());
        for _ in 0..subscribers {
            subscribe(&server, received.clone()).await;
        }
        Self { server, subscribers, received }
    }
}

async fn subscribe(server: &TcpServer, received: Arc<Received>) {
    let mut peer = server.connect().await;
    peer.send("1 /subscribe t\n").await;
    let reply = peer.line().await.expect("a reply");
    assert!(reply.starts_with("1 ok;"), "{reply}");
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(bytes @ 1..) = peer.io.read(&mut buffer).await {
            received.add(bytes as u64);
        }
    });
}

criterion_group!(benches, fanout);
criterion_main!(benches);
