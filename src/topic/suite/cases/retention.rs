//! Retention, and the gaps that it leaves.

use std::time::Duration;

use crate::{
    protocol::{Code, Topic},
    topic::{
        Room,
        suite::{
            bench::{Bench, same_items, topic},
            check::{Checked, require, same},
            probe::{ALL, Item, Probe},
            under_test::Limits,
        },
    },
};

const AGE: Duration = Duration::from_secs(60);

/// What a reader gets of the messages `from..next`, each with its number as its payload, if the log
/// holds those from `first` on.
fn left(from: u64, first: u64, next: u64) -> Vec<Item> {
    let item = |number: u64| match number < first {
        true => Item::Gone(number, Code::RETENTION),
        false => Item::Message(number, number.to_string().into()),
    };
    (from..next).map(item).collect()
}

/// Checks what is read from a number on.
async fn reads(bench: &Bench, name: &Topic, from: u64, first: u64, next: u64) -> Checked {
    let read = bench.probe_at(name, from).await?.read_to(next, ALL).await?;
    same_items(&read, &left(from, first, next))
}

pub(in crate::topic::suite) async fn by_count(bench: &mut Bench) -> Checked {
    let extra = bench.capabilities().extra;
    for limit in [1, 2, 10] {
        bench.open(Limits { messages: limit as usize, ..Limits::new() }).await;
        let name = topic("a");
        bench.check(format!("at the limit of {limit}, nothing is dropped"));
        bench.publish_numbers(&name, 1, limit).await?;
        bench.holds(&name, 1, limit + 1).await?;
        bench.checkpoint().await;
        bench.check(format!("over the limit of {limit}, the oldest are dropped"));
        let last = 3 * limit + extra + 5;
        bench.publish_numbers(&name, limit + 1, last).await?;
        bench.checkpoint().await;
        let window = bench.until(&name, last + 1, |first| first + limit + extra > last).await?;
        require(window.first <= last + 1 - limit, || {
            format!("of {last} messages it retains those from {} on", window.first)
        })?;
        bench.check(format!("what is retained of {last} with the limit {limit} is read"));
        reads(bench, &name, window.first, window.first, last + 1).await?;
    }
    Ok(())
}

pub(in crate::topic::suite) async fn by_bytes(bench: &mut Bench) -> Checked {
    const LIMIT: usize = 20_000;
    const PAYLOAD: usize = 1_000;
    bench.open(Limits { bytes: LIMIT, ..Limits::new() }).await;
    let name = topic("a");
    bench.check("50 messages of 1,000 bytes with the limit of 20,000");
    for _ in 0..50 {
        bench.publish(&name, vec![b'x'; PAYLOAD]).await?;
    }
    bench.checkpoint().await;
    let held = |first: u64| (51 - first) as usize * PAYLOAD;
    let window = bench.until(&name, 51, |first| held(first) <= LIMIT).await?;
    let held = held(window.first);
    require(held >= LIMIT / 2, || format!("it retains {held} bytes of payload only"))?;
    bench.check("a message over the limit is retained while it is the newest");
    let large = bench.publish(&name, vec![b'y'; 3 * LIMIT]).await?.sequence;
    bench.checkpoint().await;
    bench.until(&name, large + 1, |first| first == large).await?;
    let read = bench.probe_at(&name, large).await?.read_to(large + 1, ALL).await?;
    same("read", read, vec![Item::Message(large, vec![b'y'; 3 * LIMIT])])?;
    bench.check("it is dropped once another one comes");
    bench.publish(&name, "z").await?;
    bench.until(&name, large + 2, |first| first == large + 1).await?;
    Ok(())
}

pub(in crate::topic::suite) async fn by_age(bench: &mut Bench) -> Checked {
    bench.open(Limits { age: Some(AGE), ..Limits::new() }).await;
    let name = topic("a");
    bench.check("publishing");
    bench.publish_numbers(&name, 1, 5).await?;
    bench.harness.advance(AGE / 2);
    bench.publish_numbers(&name, 6, 10).await?;
    bench.checkpoint().await;
    bench.check("messages that are not too old stay");
    let mut kept = bench.probe_at(&name, 3).await?;
    bench.store().sweep();
    bench.holds(&name, 1, 11).await?;
    bench.check("messages that are too old are dropped by a sweep");
    bench.harness.advance(AGE / 2 + AGE / 10);
    bench.store().sweep();
    bench.until(&name, 11, |first| first == 6).await?;
    same_items(&kept.read_to(11, ALL).await?, &left(3, 6, 11))?;
    bench.check("the log goes on with its next number");
    let epoch = kept.window().await?.epoch;
    bench.harness.advance(AGE * 2);
    bench.store().sweep();
    bench.until(&name, 11, |first| first >= 10).await?;
    drop(kept);
    bench.checkpoint().await;
    let published = bench.publish(&name, "11").await?;
    same("(epoch, number)", (published.epoch, published.sequence), (epoch, 11))
}

pub(in crate::topic::suite) async fn exact_gaps(bench: &mut Bench) -> Checked {
    bench.open(Limits { messages: 10, ..Limits::new() }).await;
    let (name, last) = (topic("a"), 40 + bench.capabilities().extra);
    bench.check("the window over the limit");
    bench.publish_numbers(&name, 1, last).await?;
    bench.checkpoint().await;
    let first = bench.until(&name, last + 1, |first| first > 20).await?.first;
    for from in [first, first - 1, first - 2, 1] {
        bench.check(format!("from {from}, while {first} is the first one held"));
        reads(bench, &name, from, first, last + 1).await?;
    }
    bench.check("a reader that is overtaken between two lines");
    let mut reader = bench.probe_at(&name, last - 5).await?;
    let mut head = bench.probe_at(&name, last + 1).await?;
    same("read at the head", head.poll(ALL)?, None)?;
    let one = reader.next(Room { lines: 1, ..ALL }).await?;
    same("read", one, left(last - 5, 1, last - 4))?;
    bench.publish_numbers(&name, last + 1, last + 60).await?;
    overtaken(bench, &name, &mut reader, last + 61).await?;
    bench.check("a reader at the head that is overtaken before it is polled again");
    overtaken(bench, &name, &mut head, last + 61).await
}

/// Checks that each number up to `next` is named or read once, and that those that are held are
/// read.
async fn overtaken(bench: &Bench, name: &Topic, reader: &mut Probe, next: u64) -> Checked {
    let from = reader.position.map_or(1, |at| at.next);
    let first = bench.window(name).await?.first;
    let read = reader.read_to(next, ALL).await?;
    let gone = read.iter().take_while(|item| matches!(item, Item::Gone(..))).count() as u64;
    // The log may have dropped more between the window and the read.
    let first = first.max(from + gone);
    require(first <= next - 10, || format!("{gone} numbers from {from} on were named as gone"))?;
    same_items(&read, &left(from, first, next))
}
