//! Numbers and epochs: what an append returns.

use std::{
    pin::pin,
    task::{Context, Waker},
};

use crate::topic::suite::{
    bench::{Bench, publish, same_items, topic},
    check::{Checked, require, same},
    probe::{ALL, Item, numbered},
    threads::Beside,
    under_test::Limits,
};

/// Threads that append at the same time, and the messages of each.
const THREADS: usize = 8;
const OF_EACH: usize = 125;

pub(in crate::topic::suite) async fn dense(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let (a, b) = (topic("a"), topic("b"));
    bench.check("numbers begin at 1 and have no hole");
    for from in [1, 6, 11] {
        bench.publish_numbers(&a, from, from + 4).await?;
        bench.checkpoint().await;
    }
    bench.check("each topic has numbers of its own");
    for (of_a, of_b) in (16..=20).zip(1..) {
        bench.publish_numbers(&b, of_b, of_b).await?;
        bench.publish_numbers(&a, of_a, of_a).await?;
    }
    bench.checkpoint().await;
    bench.check("the windows hold exactly these numbers");
    bench.holds(&a, 1, 21).await?;
    bench.holds(&b, 1, 6).await?;
    bench.check("each message is read under its number");
    let payload = |n: u64| n.to_string();
    bench.has(&a, &(1..=20).map(payload).collect::<Vec<_>>()).await?;
    bench.has(&b, &(1..=5).map(payload).collect::<Vec<_>>()).await
}

/// The futures are polled in the opposite order.
pub(in crate::topic::suite) async fn order_of_calls(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let (a, b) = (topic("a"), topic("b"));
    bench.check("futures that are polled in the opposite order of the calls");
    let payloads: Vec<_> = (1..=20).map(|n| format!("call {n}")).collect();
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    for payload in &payloads {
        of_a.push(bench.store().append(&a, payload.clone().into()));
        of_b.push(bench.store().append(&b, payload.clone().into()));
    }
    for calls in [of_b, of_a] {
        for (n, call) in calls.into_iter().enumerate().rev() {
            let number = call.await?.sequence;
            same(&format!("the number of call {}", n + 1), number, n as u64 + 1)?;
        }
    }
    bench.check("the messages are read in the order of the calls");
    bench.has(&a, &payloads).await?;
    bench.has(&b, &payloads).await
}

pub(in crate::topic::suite) async fn one_epoch(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let (a, b, other) = (topic("a"), topic("b"), topic("other"));
    bench.check("the epoch that a reader saw before the first message is that of the log");
    let mut early = bench.probe(&a);
    let named = early.window().await?;
    same("the window without messages (first, next)", (named.first, named.next), (1, 1))?;
    bench.publish_numbers(&other, 1, 3).await?;
    bench.window(&a).await?;
    bench.store().sweep();
    same("the window later", early.window().await?, named)?;
    let first = bench.publish(&a, "1").await?;
    same("the epoch of the first message", first.epoch, named.epoch)?;
    same("the epoch of the window", early.window().await?.epoch, named.epoch)?;
    drop(early);
    bench.check("the epoch named before the first message is kept without readers");
    let named = bench.window(&b).await?.epoch;
    bench.window(&topic("c")).await?;
    bench.publish_numbers(&other, 4, 6).await?;
    same("the epoch of a later window", bench.window(&b).await?.epoch, named)?;
    same("the epoch of the first message", bench.publish(&b, "1").await?.epoch, named)?;
    bench.check("all messages of a log have its epoch");
    for number in 2..=6 {
        bench.checkpoint().await;
        same("the epoch of the window", bench.window(&a).await?.epoch, first.epoch)?;
        let published = bench.publish(&a, number.to_string()).await?;
        same("(epoch, number)", (published.epoch, published.sequence), (first.epoch, number))?;
    }
    Ok(())
}

pub(in crate::topic::suite) async fn concurrent(bench: &mut Bench) -> Checked {
    const ALL_OF_THEM: u64 = (THREADS * OF_EACH) as u64;
    bench.open(Limits::new()).await;
    let name = topic("a");
    bench.check("1,000 appends of 8 threads, and a reader beside them");
    let mut reader = bench.probe_at(&name, 1).await?;
    let reading = bench.beside(move |store| async move {
        let read = reader.read_to(ALL_OF_THEM + 1, ALL).await;
        drop((reader, store));
        read
    });
    let threads: Vec<_> = (0..THREADS).map(|thread| append_from(bench, thread)).collect();
    let mut given = Vec::new();
    for (thread, appending) in threads.into_iter().enumerate() {
        let numbers = appending.join()?;
        require(numbers.is_sorted(), || format!("the numbers of one thread fell: {numbers:?}"))?;
        given.extend(numbers.into_iter().zip(0..).map(|(number, n)| (number, line(thread, n))));
    }
    given.sort_unstable();
    let numbers = given.iter().map(|(number, _)| *number);
    require(numbers.eq(1..=ALL_OF_THEM), || "the numbers are not 1 to 1,000".into())?;
    let expected: Vec<_> = given.into_iter().map(|(_, payload)| payload).collect();
    same_items(&reading.join()?, &numbered(1, &expected))?;
    bench.checkpoint().await;
    bench.check("the log has the messages in the order of their numbers");
    bench.has(&name, &expected).await
}

fn line(thread: usize, n: usize) -> String {
    format!("thread {thread} message {n}")
}

/// The numbers of the messages of one thread, in the order in which it appended them.
fn append_from(bench: &Bench, thread: usize) -> Beside<Vec<u64>> {
    let stop = bench.stop.clone();
    bench.beside(move |store| async move {
        let (name, mut numbers) = (topic("a"), Vec::new());
        for n in 0..OF_EACH {
            let published = publish(&*store, &stop, &name, line(thread, n).into()).await?;
            numbers.push(published.sequence);
        }
        Ok(numbers)
    })
}

pub(in crate::topic::suite) async fn dropped(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let name = topic("a");
    let mut expected = Vec::new();
    bench.check("a future that is dropped before its first poll");
    append_and_drop(bench, 0, &mut expected);
    append_and_await(bench, &mut expected).await?;
    bench.has(&name, &expected).await?;
    bench.check("a future that is dropped after its first poll");
    append_and_drop(bench, 1, &mut expected);
    append_and_await(bench, &mut expected).await?;
    bench.has(&name, &expected).await?;
    bench.check("futures that are dropped between others, after some polls");
    let mut rng = fastrand::Rng::with_seed(bench.options().seed);
    for _ in 0..50 {
        match rng.usize(..4) {
            3 => append_and_await(bench, &mut expected).await?,
            polls => append_and_drop(bench, polls, &mut expected),
        }
    }
    append_and_await(bench, &mut expected).await?;
    bench.has(&name, &expected).await?;
    bench.check("a message whose future was dropped wakes a waiting reader");
    let last = expected.len() as u64 + 1;
    let mut reader = bench.probe_at(&name, last).await?;
    same("read at the head", reader.poll(ALL)?, None)?;
    append_and_drop(bench, 1, &mut expected);
    let read = reader.next(ALL).await?;
    same("read", read, vec![Item::Message(last, format!("{last}").into())])
}

async fn append_and_await(bench: &Bench, expected: &mut Vec<String>) -> Checked {
    let number = expected.len() as u64 + 1;
    expected.push(number.to_string());
    let published = bench.store().append(&topic("a"), number.to_string().into()).await?;
    same("the number behind dropped futures", published.sequence, number)
}

/// Appends a message, polls the future so often, and drops it.
fn append_and_drop(bench: &Bench, polls: usize, expected: &mut Vec<String>) {
    let number = expected.len() + 1;
    expected.push(number.to_string());
    let mut call = pin!(bench.store().append(&topic("a"), number.to_string().into()));
    let cx = &mut Context::from_waker(Waker::noop());
    for _ in 0..polls {
        if call.as_mut().poll(cx).is_ready() {
            return;
        }
    }
}
