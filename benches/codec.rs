//! The protocol's core alone: splitting, parsing, encoding, stuffing. No I/O.
//!
//! `cargo bench --bench codec`

use std::hint::black_box;

use bellwire::protocol::{
    Attributes, Line, LineDecoder, Mark, RequestId, Word, encode, stuff, unstuff,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    for (name, line) in [
        ("request", &b"1234567 echo 0123456789abcdef0123456789abcdef"[..]),
        ("attributes", b"1234567 offers.get;ttl=500;app.tenant=blue 42"),
        ("notification", b"* offers 18 {\"id\":43}"),
    ] {
        group.throughput(Throughput::Bytes(line.len() as u64));
        group.bench_function(name, |b| b.iter(|| Line::parse(black_box(line))));
    }
    group.finish();
}

/// A burst as one read returns it: 1,000 requests with 32 bytes of payload, split and parsed.
fn burst(c: &mut Criterion) {
    let mut stream = Vec::new();
    for id in 1..=1_000 {
        let mark = Mark::Id(RequestId::new(id).expect("an id"));
        let word = Word::new("echo").expect("a word");
        encode::line(&mut stream, mark, word, Attributes::NONE, &[b'x'; 32]);
    }
    let mut group = c.benchmark_group("burst");
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("split_and_parse", |b| {
        b.iter(|| {
            let mut lines = LineDecoder::new(65_535);
            let mut input = black_box(&stream[..]);
            while let Ok(Some(line)) = lines.next(&mut input) {
                black_box(Line::parse(line).expect("well-formed"));
            }
        });
    });
    group.finish();
}

fn encode_line(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let word = Word::new("echo").expect("a word");
    let mut out = Vec::with_capacity(128 * 1024);
    for size in [0, 32, 1_024, 60_000] {
        let payload = vec![b'x'; size];
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("request", size), |b| {
            b.iter(|| {
                out.clear();
                let mark = Mark::Id(RequestId::FIRST);
                encode::line(&mut out, mark, word, Attributes::NONE, black_box(&payload));
            });
        });
    }
    group.finish();
}

fn stuffing(c: &mut Criterion) {
    let mut group = c.benchmark_group("stuffing");
    let clean = vec![b'x'; 16 * 1024];
    let mixed: Vec<u8> = (0..=255).cycle().take(16 * 1024).collect();
    let text: Vec<u8> = (0..16 * 1024).map(|at| if at % 72 == 71 { b'\n' } else { b'x' }).collect();
    let dense: Vec<u8> = b"ab\n".iter().copied().cycle().take(16 * 1024).collect();
    let feeds = vec![b'\n'; 16 * 1024];
    let all = [
        ("clean", clean),
        ("every_byte", mixed),
        ("lines_of_72", text),
        ("each_third", dense),
        ("line_feeds", feeds),
    ];
    for (name, plain) in all {
        let mut out = Vec::with_capacity(2 * plain.len());
        stuff(&plain, &mut out);
        let stuffed = out.clone();
        group.throughput(Throughput::Bytes(plain.len() as u64));
        group.bench_function(BenchmarkId::new("stuff", name), |b| {
            b.iter(|| {
                out.clear();
                stuff(black_box(&plain), &mut out);
            });
        });
        group.bench_function(BenchmarkId::new("unstuff", name), |b| {
            b.iter(|| black_box(unstuff(black_box(&stuffed)).len()));
        });
    }
    group.finish();
}

criterion_group!(benches, parse, burst, encode_line, stuffing);
criterion_main!(benches);
