//! Compares the client's table of pending calls with a sharded map, as a call uses them: an entry
//! is inserted when the line is appended, and removed when its reply comes. The table is locked
//! once for a batch of replies. For inserts it is under a lock that the caller holds anyway. A
//! sharded map takes its own lock each time. One element is one call.
//!
//! `cargo bench --bench pending`

use std::{hint::black_box, sync::Mutex};

use bellwire::unstable::client::Pending;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dashmap::DashMap;

/// As large as the client's entry of a call.
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

/// For each call, one lock for the entry and the line. For the batch of replies, one lock.
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

/// For each call, a lock for the line and one of the map. For each reply, one of the map.
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
