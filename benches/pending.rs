//! The client's table of pending calls beside a sharded map, each as a call uses it: an entry in
//! when the line is appended, out when its reply comes. The table is locked once for a batch of
//! replies, and on the way in by the lock that a caller holds anyway; a sharded map locks by itself
//! each time. One element is one call.
//!
//! `cargo bench --bench pending`

use std::{hint::black_box, sync::Mutex};

use bellwire::unstable::client::Pending;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dashmap::DashMap;

/// As large as what the client keeps of a call.
type Waiter = [u64; 4];

fn tables(c: &mut Criterion) {
    let mut group = c.benchmark_group("pending");
    for in_flight in [1u64, 64, 1_024] {
        group.throughput(Throughput::Elements(in_flight));
        group.bench_function(BenchmarkId::new("table", in_flight), |b| {
            let state = Mutex::new((Pending::default(), Vec::new()));
            let mut next = 0;
            b.iter(|| in_table(&state, &mut next, in_flight));
        });
        group.bench_function(BenchmarkId::new("dashmap", in_flight), |b| {
            let map = DashMap::with_shard_amount(4);
            let out = Mutex::new(Vec::new());
            let mut next = 0;
            b.iter(|| in_dashmap(&map, &out, &mut next, in_flight));
        });
    }
    group.finish();
}

/// Each call: one lock for the entry and the line. The batch of replies: one lock.
fn in_table(state: &Mutex<(Pending<Waiter>, Vec<u8>)>, next: &mut u64, in_flight: u64) {
    let first = *next;
    *next += in_flight;
    for id in first..*next {
        let mut state = state.lock().expect("no panic");
        state.0.insert(id, [id; 4]);
        state.1.push(id as u8);
    }
    let mut state = state.lock().expect("no panic");
    state.1.clear();
    for id in first..*next {
        black_box(state.0.complete(id));
    }
}

/// Each call: a lock for the line, and one of the map's own. Each reply: one of the map's own.
fn in_dashmap(map: &DashMap<u64, Waiter>, out: &Mutex<Vec<u8>>, next: &mut u64, in_flight: u64) {
    let first = *next;
    *next += in_flight;
    for id in first..*next {
        map.insert(id, [id; 4]);
        out.lock().expect("no panic").push(id as u8);
    }
    out.lock().expect("no panic").clear();
    for id in first..*next {
        black_box(map.remove(&id));
    }
}

criterion_group!(benches, tables);
criterion_main!(benches);
