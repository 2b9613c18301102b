//! Reading: windows, cursors and room.

use crate::{
    protocol::{Epoch, Position},
    topic::{
        Room,
        suite::{
            bench::{Bench, same_items, topic},
            check::{Checked, require, same},
            probe::{ALL, Item, Probe, numbered},
            under_test::Limits,
        },
    },
};

pub(in crate::topic::suite) async fn windows(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let name = topic("a");
    bench.check("the window of a topic without a log is empty");
    bench.holds(&name, 1, 1).await?;
    for round in 0..3 {
        let mut kept = bench.probe(&name);
        for number in round * 5 + 1..=round * 5 + 5 {
            bench.publish_numbers(&name, number, number).await?;
            bench.check("the window of a reader that was opened after the append");
            bench.holds(&name, 1, number + 1).await?;
            bench.check("the window of a reader that was opened before the append");
            same("next", kept.window().await?.next, number + 1)?;
        }
        drop(kept);
        bench.checkpoint().await;
        bench.check("the window later");
        bench.holds(&name, 1, round * 5 + 6).await?;
    }
    Ok(())
}

/// Payloads of different lengths.
fn payloads() -> Vec<String> {
    (0..60).map(|n| format!("{n}:{}", "x".repeat(n * 7 % 50))).collect()
}

pub(in crate::topic::suite) async fn behind_the_head(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let (name, payloads) = (topic("a"), payloads());
    bench.check("publishing");
    for payload in &payloads {
        bench.publish(&name, payload.clone()).await?;
    }
    bench.checkpoint().await;
    bench.check("the window");
    bench.holds(&name, 1, 61).await?;
    bench.check("room for one line");
    one_by_one(bench, Room { lines: 1, ..ALL }, &payloads).await?;
    bench.check("room for one byte: the line that begins in it, and no other");
    one_by_one(bench, Room { bytes: 1, ..ALL }, &payloads).await?;
    for lines in [1, 2, 7, 59, 60, 61] {
        for bytes in [1, 2, 30, 31, 32, 64, 200, 100_000] {
            bench.check(format!("room for {lines} lines and {bytes} bytes"));
            let mut reader = bench.probe_at(&name, 1).await?;
            let read = reader.read_to(61, Room { bytes, lines, ..ALL }).await?;
            same_items(&read, &numbered(1, &payloads))?;
        }
    }
    for from in 1..=60 {
        bench.check(format!("reading from number {from} on"));
        let read = bench.probe_at(&name, from).await?.read_to(61, ALL).await?;
        same_items(&read, &numbered(from, payloads.iter().skip(from as usize - 1)))?;
    }
    bench.check("nothing is read at the head");
    same("read", bench.probe_at(&name, 61).await?.poll(ALL)?, None)?;
    growing(bench, payloads).await
}

async fn one_by_one(bench: &Bench, room: Room, payloads: &[String]) -> Checked {
    let mut reader = bench.probe_at(&topic("a"), 1).await?;
    for expected in numbered(1, payloads) {
        same("one step", reader.next(room).await?, vec![expected])?;
    }
    Ok(())
}

/// Reads while the log grows.
async fn growing(bench: &Bench, mut payloads: Vec<String>) -> Checked {
    let name = topic("a");
    bench.check("reading while more is published");
    let mut reader = bench.probe_at(&name, 1).await?;
    let mut read = Vec::new();
    while read.len() < payloads.len() {
        if payloads.len() < 100 {
            payloads.push(payloads.len().to_string());
            bench.publish(&name, payloads.len().saturating_sub(1).to_string()).await?;
        }
        read.extend(reader.next(Room { lines: 3, ..ALL }).await?);
    }
    same_items(&read, &numbered(1, &payloads))
}

pub(in crate::topic::suite) async fn two_readers(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let (name, payloads) = (topic("a"), payloads());
    for payload in &payloads {
        bench.publish(&name, payload.clone()).await?;
    }
    bench.check("two readers at different places, in turns");
    let mut one = bench.probe_at(&name, 1).await?;
    let mut other = bench.probe_at(&name, 31).await?;
    let third = bench.probe_at(&name, 20).await?;
    let (mut of_one, mut of_other) = (Vec::new(), Vec::new());
    for turn in 0..60 {
        of_one.extend(one.next(Room { lines: 1, ..ALL }).await?);
        if turn < 30 {
            of_other.extend(other.next(Room { bytes: 1, ..ALL }).await?);
        }
    }
    same_items(&of_one, &numbered(1, &payloads))?;
    same_items(&of_other, &numbered(31, payloads.iter().skip(30)))?;
    bench.check("readers after another was dropped");
    drop((third, other));
    bench.publish(&name, "more").await?;
    same("read", one.next(ALL).await?, numbered(61, ["more"]))
}

pub(in crate::topic::suite) async fn too_large(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let name = topic("a");
    bench.check("the window after messages of several lengths");
    let lengths = [3, 80, 3, 90, 80, 80, 3, 3, 200, 3, 79, 80, 81];
    for length in lengths {
        bench.publish(&name, "x".repeat(length)).await?;
    }
    bench.checkpoint().await;
    bench.holds(&name, 1, 14).await?;
    for limit in [10, 11, 87, 88, 89, 90, 91, 100, 210] {
        for lines in [1, 2, 100] {
            bench.check(format!("lines of up to {limit} bytes, {lines} at once"));
            let room = Room { max_line: limit, lines, ..ALL };
            let read = bench.probe_at(&name, 1).await?.read_to(14, room).await?;
            same_items(&read, &fitting(&lengths, limit))?;
        }
    }
    Ok(())
}

/// What a subscriber with this limit on lines reads.
fn fitting(lengths: &[usize], limit: usize) -> Vec<Item> {
    let item = |(number, &length): (u64, &usize)| {
        let line = format!("* a {number} {}\n", "x".repeat(length)).len();
        match line <= limit {
            true => Item::Message(number, vec![b'x'; length]),
            false => Item::Gone(number, crate::protocol::Code::TOO_LARGE),
        }
    };
    (1..).zip(lengths).map(item).collect()
}

pub(in crate::topic::suite) async fn foreign_epoch(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let name = topic("a");
    bench.check("the window after 5 messages");
    bench.publish_numbers(&name, 1, 5).await?;
    bench.checkpoint().await;
    bench.holds(&name, 1, 6).await?;
    let epoch = bench.window(&name).await?.epoch;
    let begin = Position { epoch, next: 1 };
    for other in like(epoch) {
        for next in [1, 3, 6, 99] {
            bench.check(format!("a cursor at {other}:{next}, while the log is {epoch}"));
            let mut reader = bench.probe(&name);
            reader.position = Some(Position { epoch: other, next });
            same("the first step", reader.next(ALL).await?, vec![Item::Reset(begin)])?;
            let read = reader.read_to(6, ALL).await?;
            same_items(&read, &numbered(1, ["1", "2", "3", "4", "5"]))?;
        }
    }
    Ok(())
}

/// Epochs that may be mistaken for this one.
fn like(epoch: Epoch) -> Vec<Epoch> {
    let name = epoch.as_str();
    let cut = name.get(1..).unwrap_or_default();
    let others = ["zz".into(), format!("{name}0"), cut.into(), name.to_ascii_uppercase()];
    let others = others.iter().filter_map(|other| Epoch::new(other));
    others.filter(|other| *other != epoch).collect()
}

/// After a store has lost its last messages, a subscriber may be ahead of it.
pub(in crate::topic::suite) async fn beyond_the_head(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let name = topic("a");
    bench.publish_numbers(&name, 1, 5).await?;
    bench.checkpoint().await;
    bench.check("a cursor at 9, while the next number is 6");
    let mut reader = bench.probe_at(&name, 9).await?;
    let waits = step_beyond(&mut reader)?;
    bench.publish_numbers(&name, 6, 8).await?;
    bench.check("a cursor at 9, when the next number has become 9");
    let waits = waits && step_beyond(&mut reader)?;
    bench.publish_numbers(&name, 9, 10).await?;
    bench.check("a cursor at 9, when there are 9 and 10");
    if waits {
        same_items(&reader.read_to(11, ALL).await?, &numbered(9, ["9", "10"]))?;
    }
    let read = bench.probe_at(&name, 9).await?.read_to(11, ALL).await?;
    same_items(&read, &numbered(9, ["9", "10"]))
}

/// Whether the reader waits; it may also be unavailable.
fn step_beyond(reader: &mut Probe) -> Checked<bool> {
    match reader.poll_raw(ALL)? {
        Ok(None) => Ok(true),
        Err(_) => Ok(false),
        Ok(Some(items)) => require(false, || format!("it read {items:?}")).map(|()| true),
    }
}
