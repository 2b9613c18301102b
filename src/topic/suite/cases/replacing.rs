//! Logs that keep the latest message of each key.

use crate::{
    protocol::{Code, Topic},
    topic::suite::{
        bench::{Bench, same_items, topic},
        check::{Checked, require},
        probe::{ALL, Item, Probe},
        under_test::Limits,
    },
};

fn message(number: u64, payload: &str) -> Item {
    Item::Message(number, payload.into())
}

fn gone(number: u64, reason: Code) -> Item {
    Item::Gone(number, reason)
}

/// Checks what a new reader gets from number 1 on.
async fn from_the_beginning(bench: &Bench, name: &Topic, next: u64, held: &[Item]) -> Checked {
    let read = bench.probe_at(name, 1).await?.read_to(next, ALL).await?;
    same_items(&read, held)
}

/// Reads what has come since.
async fn later(reader: &mut Probe, next: u64, held: &[Item]) -> Checked {
    same_items(&reader.read_to(next, ALL).await?, held)
}

pub(in crate::topic::suite) async fn latest(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let name = topic("a");
    bench.check("a message without a key, and one of each of two keys, stay");
    bench.publish_numbers(&name, 1, 1).await?;
    bench.publish_latest(&name, "x", (2, "x2")).await?;
    bench.publish_latest(&name, "y", (3, "y3")).await?;
    let mut held = vec![message(1, "1"), message(2, "x2"), message(3, "y3")];
    from_the_beginning(bench, &name, 4, &held).await?;
    bench.checkpoint().await;
    bench.check("a message replaces the one with its key, and no other");
    bench.publish_latest(&name, "x", (4, "x4")).await?;
    held[1] = gone(2, Code::REPLACED);
    held.push(message(4, "x4"));
    from_the_beginning(bench, &name, 5, &held).await?;
    bench.checkpoint().await;
    bench.check("a replaced message can be replaced again");
    bench.publish_latest(&name, "x", (5, "")).await?;
    bench.publish_latest(&name, "x", (6, "x6")).await?;
    held.truncate(3);
    held.extend([gone(4, Code::REPLACED), gone(5, Code::REPLACED), message(6, "x6")]);
    from_the_beginning(bench, &name, 7, &held).await?;
    bench.checkpoint().await;
    bench.check("what was replaced stays so");
    from_the_beginning(bench, &name, 7, &held).await?;
    // It may have come before the next one.
    bench.check("a reader that was at the head reads each message, or that it was replaced");
    let mut reader = bench.probe_at(&name, 7).await?;
    bench.publish_latest(&name, "x", (7, "x7")).await?;
    bench.publish_latest(&name, "x", (8, "x8")).await?;
    let read = reader.read_to(9, ALL).await?;
    let is_named = read.first() == Some(&gone(7, Code::REPLACED));
    let first = if is_named { gone(7, Code::REPLACED) } else { message(7, "x7") };
    same_items(&read, &[first, message(8, "x8")])?;
    bench.check("a reader at the head gets each message as it comes");
    for (number, payload) in [(9, "x9"), (10, "x10")] {
        bench.publish_latest(&name, "x", (number, payload)).await?;
        later(&mut reader, number + 1, &[message(number, payload)]).await?;
    }
    bench.check("a topic of the same keys is another log");
    let other = topic("b");
    bench.publish_latest(&other, "x", (1, "other")).await?;
    from_the_beginning(bench, &other, 2, &[message(1, "other")]).await
}

/// Checks that two messages are held: number 1, and this last one. Those between were replaced.
async fn holds_two(bench: &Bench, name: &Topic, held: [&str; 2], last: u64) -> Checked {
    let mut expected = vec![message(1, held[0])];
    expected.extend((2..last).map(|number| gone(number, Code::REPLACED)));
    expected.push(message(last, held[1]));
    from_the_beginning(bench, name, last + 1, &expected).await
}

/// Everything from number 1 on, once that has left for lack of room.
async fn without_the_first(bench: &Bench, name: &Topic, next: u64) -> Checked<Vec<Item>> {
    bench.until(name, next, |first| first > 1).await?;
    let read = bench.probe_at(name, 1).await?.read_to(next, ALL).await?;
    let oldest = read.first().is_some_and(|first| *first == gone(1, Code::RETENTION));
    require(oldest, || format!("number 1 was read as {:?}", read.first()))?;
    Ok(read)
}

pub(in crate::topic::suite) async fn over_the_limit(bench: &mut Bench) -> Checked {
    const LIMIT: u64 = 10;
    let extra = bench.capabilities().extra;
    bench.open(Limits { messages: LIMIT as usize, ..Limits::new() }).await;
    let name = topic("a");
    bench.check("messages that were replaced do not count");
    bench.publish_latest(&name, "x", (1, "kept")).await?;
    let last = 5 * (LIMIT + extra);
    for number in 2..=last {
        bench.publish_latest(&name, "y", (number, "y")).await?;
    }
    holds_two(bench, &name, ["kept", "y"], last).await?;
    bench.checkpoint().await;
    bench.check("over the limit the oldest leaves, and is named with another reason");
    let more = LIMIT + extra;
    bench.publish_numbers(&name, last + 1, last + more).await?;
    let next = last + more + 1;
    let read = without_the_first(bench, &name, next).await?;
    let newest = (last + more - LIMIT + 1..next).map(|number| message(number, &number.to_string()));
    same_items(&read[(last + more - LIMIT) as usize..], &newest.collect::<Vec<_>>())
}

pub(in crate::topic::suite) async fn over_the_bytes(bench: &mut Bench) -> Checked {
    const LONG: &str = "a payload of a hundred bytes, of which the log has room for a few, whatever \
                        else the store counts for it";
    bench.open(Limits { bytes: 8 * LONG.len(), ..Limits::new() }).await;
    let name = topic("a");
    bench.check("the bytes of messages that were replaced do not count");
    bench.publish_latest(&name, "x", (1, LONG)).await?;
    for number in 2..=40 {
        bench.publish_latest(&name, "y", (number, LONG)).await?;
    }
    holds_two(bench, &name, [LONG, LONG], 40).await?;
    bench.checkpoint().await;
    bench.check("over the limit the oldest leaves, and is named with another reason");
    for _ in 0..8 {
        bench.publish(&name, LONG).await?;
    }
    let read = without_the_first(bench, &name, 49).await?;
    let newest = read.last().is_some_and(|last| *last == message(48, LONG));
    require(newest, || format!("the newest was read as {:?}", read.last()))
}
