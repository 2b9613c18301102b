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
    let mut reader = bench.probe_at(&name, 4).await?;
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
    bench.check("a reader that was at the head reads what is left");
    later(&mut reader, 7, &held[3..]).await?;
    bench.check("a reader at the head gets each message as it comes");
    for (number, payload) in [(7, "x7"), (8, "x8")] {
        bench.publish_latest(&name, "x", (number, payload)).await?;
        later(&mut reader, number + 1, &[message(number, payload)]).await?;
    }
    bench.check("a topic of the same keys is another log");
    let other = topic("b");
    bench.publish_latest(&other, "x", (1, "other")).await?;
    from_the_beginning(bench, &other, 2, &[message(1, "other")]).await
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
    let mut held = vec![message(1, "kept")];
    held.extend((2..last).map(|number| gone(number, Code::REPLACED)));
    held.push(message(last, "y"));
    from_the_beginning(bench, &name, last + 1, &held).await?;
    bench.check("over the limit the oldest leaves, and is named with another reason");
    let more = LIMIT + extra;
    bench.publish_numbers(&name, last + 1, last + more).await?;
    let next = last + more + 1;
    bench.until(&name, next, |first| first > 1).await?;
    let read = bench.probe_at(&name, 1).await?.read_to(next, ALL).await?;
    let oldest = read.first().is_some_and(|first| *first == gone(1, Code::RETENTION));
    require(oldest, || format!("number 1 was read as {:?}", read.first()))?;
    let newest = (last + more - LIMIT + 1..next).map(|number| message(number, &number.to_string()));
    same_items(&read[(last + more - LIMIT) as usize..], &newest.collect::<Vec<_>>())
}
