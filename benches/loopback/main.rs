//! Round trips over loopback TCP, by calls in flight on one connection. Both ends run in this
//! process, on one multi-thread runtime of two workers, with a 32-byte payload. For comparison
//! there is a minimal multiplexer, written by hand. Compare the two figures of one run, and not
//! figures of different days.
//!
//! `cargo bench --bench loopback`

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bare::Multiplexer;
use bellwire::{Client, Router};
use bellwire_testkit::{TcpServer, hot_path::PAYLOAD};
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

mod bare;

fn round_trips(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (_server, client) = runtime.block_on(connect());
    let bare = runtime.block_on(Multiplexer::connect());
    let mut group = c.benchmark_group("loopback");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
    group.sample_size(40).throughput(Throughput::Elements(1));
    for in_flight in [1, 16, 64, 256, 1_024] {
        group.bench_function(BenchmarkId::new("bellwire", in_flight), |b| {
            b.iter_custom(|requests| run(&runtime, in_flight, requests, &client, call));
        });
        group.bench_function(BenchmarkId::new("bare", in_flight), |b| {
            b.iter_custom(|requests| run(&runtime, in_flight, requests, &bare, call_bare));
        });
    }
    group.finish();
}

async fn connect() -> (TcpServer, Client) {
    let router = Router::new().method("echo", async |payload: Bytes| payload);
    let server = TcpServer::start(router).await;
    let client = Client::connect(server.address).await.expect("connected");
    (server, client)
}

/// Makes this many requests by this many concurrent callers. Each caller makes one request after
/// the other.
fn run<C: Clone, F: Future<Output = ()> + Send + 'static>(
    runtime: &Runtime,
    in_flight: u64,
    requests: u64,
    client: &C,
    call: impl Fn(C, u64) -> F,
) -> Duration {
    runtime.block_on(async {
        let start = Instant::now();
        let callers: Vec<_> = (0..in_flight)
            .map(|caller| {
                let share = requests / in_flight + u64::from(caller < requests % in_flight);
                tokio::spawn(call(client.clone(), share))
            })
            .collect();
        for caller in callers {
            caller.await.expect("no panic");
        }
        start.elapsed()
    })
}

async fn call(client: Client, requests: u64) {
    for _ in 0..requests {
        black_box(client.call("echo", PAYLOAD).await.expect("a reply"));
    }
}

async fn call_bare(client: Multiplexer, requests: u64) {
    for _ in 0..requests {
        black_box(client.call(PAYLOAD).await);
    }
}

criterion_group!(benches, round_trips);
criterion_main!(benches);
