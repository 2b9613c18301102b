//! Round trips over loopback TCP: both ends in this process, on one multi-thread runtime of two
//! workers, with a 32-byte payload; by calls in flight on one connection.
//!
//! `cargo bench --bench loopback`

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use bellwire::{Client, Router, Server};
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

const PAYLOAD: [u8; 32] = *b"0123456789abcdef0123456789abcdef";

fn round_trips(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let client = runtime.block_on(connect());
    let mut group = c.benchmark_group("loopback");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
    for in_flight in [1, 16, 64, 256, 1_024] {
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("in_flight", in_flight), |b| {
            b.iter_custom(|requests| run(&runtime, &client, in_flight, requests));
        });
    }
    group.finish();
}

async fn connect() -> Client {
    let server = Server::bind("127.0.0.1:0").await.expect("a free port");
    let address = server.local_addr().expect("an address").to_string();
    let router = Router::new().method("echo", async |payload: Bytes| payload);
    tokio::spawn(server.serve(router).into_future());
    Client::connect(address).await.expect("connected")
}

/// So many requests by so many callers at once, each making one after the other.
fn run(runtime: &Runtime, client: &Client, in_flight: u64, requests: u64) -> Duration {
    runtime.block_on(async {
        let client = Arc::new(client.clone());
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

async fn call(client: Arc<Client>, requests: u64) {
    for _ in 0..requests {
        let reply = client.call("echo", PAYLOAD).await.expect("a reply");
        black_box(reply);
    }
}

criterion_group!(benches, round_trips);
criterion_main!(benches);
