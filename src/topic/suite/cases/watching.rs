//! Waiting at the head.

use std::hint;

use crate::{
    sync::{Arc, AtomicU64, Ordering},
    topic::{
        Room,
        suite::{
            bench::{Bench, publish, same_items, topic},
            check::{Checked, same},
            probe::{ALL, Probe, numbered},
            under_test::Limits,
        },
    },
};

/// The rounds in which a message and a wait meet.
const ROUNDS: u64 = 300;

fn waits(reader: &mut Probe) -> Checked {
    same("read at the head", reader.poll(ALL)?, None)
}

pub(in crate::topic::suite) async fn watch(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let name = topic("a");
    bench.check("the first message of a topic wakes a reader");
    let mut reader = bench.probe_at(&name, 1).await?;
    waits(&mut reader)?;
    bench.publish_numbers(&name, 1, 1).await?;
    reader.woken().wait().await;
    same("read", reader.next(ALL).await?, numbered(1, ["1"]))?;
    bench.check("each further message wakes it, once it waits again");
    for number in 2..=20 {
        waits(&mut reader)?;
        bench.publish_numbers(&name, number, number).await?;
        reader.woken().wait().await;
        same("read", reader.next(ALL).await?, numbered(number, [number.to_string()]))?;
    }
    another_waker(bench, &mut reader).await?;
    several_readers(bench, reader).await?;
    burst(bench).await
}

async fn another_waker(bench: &Bench, reader: &mut Probe) -> Checked {
    bench.check("the waker of the last poll is woken, not that of a poll before");
    let name = topic("a");
    waits(reader)?;
    let before = reader.wake(Arc::default());
    waits(reader)?;
    bench.publish_numbers(&name, 21, 21).await?;
    reader.woken().wait().await;
    same("read", reader.next(ALL).await?, numbered(21, ["21"]))?;
    bench.check("a waker that returns after another one is woken");
    waits(reader)?;
    let second = reader.wake(before);
    waits(reader)?;
    bench.publish_numbers(&name, 22, 22).await?;
    reader.woken().wait().await;
    drop(second);
    same("read", reader.next(ALL).await?, numbered(22, ["22"]))
}

async fn several_readers(bench: &Bench, mut reader: Probe) -> Checked {
    let name = topic("a");
    bench.check("two readers that wait are both woken");
    let mut other = bench.probe_at(&name, 23).await?;
    waits(&mut reader)?;
    waits(&mut other)?;
    bench.publish_numbers(&name, 23, 23).await?;
    for reader in [&mut reader, &mut other] {
        reader.woken().wait().await;
        same("read", reader.next(ALL).await?, numbered(23, ["23"]))?;
    }
    bench.check("a reader is woken after another one was dropped while it waited");
    waits(&mut other)?;
    waits(&mut reader)?;
    drop(other);
    bench.publish_numbers(&name, 24, 24).await?;
    reader.woken().wait().await;
    same("read", reader.next(ALL).await?, numbered(24, ["24"]))?;
    bench.check("a message comes after the only reader was dropped while it waited");
    waits(&mut reader)?;
    drop(reader);
    bench.publish_numbers(&name, 25, 25).await?;
    bench.check("a reader is woken in another thread");
    let mut reader = bench.probe_at(&name, 26).await?;
    waits(&mut reader)?;
    let reading = bench.beside(move |_store| async move { reader.next(ALL).await });
    bench.publish_numbers(&name, 26, 26).await?;
    same("read", reading.join()?, numbered(26, ["26"]))
}

async fn burst(bench: &Bench) -> Checked {
    bench.check("one wake-up is enough for a burst of messages");
    let name = topic("burst");
    let mut reader = bench.probe_at(&name, 1).await?;
    waits(&mut reader)?;
    bench.publish_numbers(&name, 1, 100).await?;
    reader.woken().wait().await;
    let read = reader.read_to(101, Room { lines: 1, ..ALL }).await?;
    same_items(&read, &numbered(1, (1..=100).map(|n| n.to_string())))?;
    waits(&mut reader)
}

/// A message is published as soon as the reader has read the one before, so it comes while the
/// reader begins to wait.
pub(in crate::topic::suite) async fn race(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let name = topic("a");
    bench.check("each message comes while the reader begins to wait for it");
    let mut reader = bench.probe_at(&name, 1).await?;
    let (read, stop) = (Arc::new(AtomicU64::new(0)), bench.stop.clone());
    let (seen, seed) = (read.clone(), bench.options().seed);
    let publishing = bench.beside(move |store| async move {
        let (name, mut rng) = (topic("a"), fastrand::Rng::with_seed(seed));
        for number in 1..=ROUNDS {
            while seen.load(Ordering::Acquire) + 1 < number && !stop.is_stopped() {
                std::thread::yield_now();
            }
            (0..rng.usize(..500)).for_each(|_| hint::spin_loop());
            publish(&*store, &stop, &name, number.to_string().into()).await?;
        }
        Ok(())
    });
    for number in 1..=ROUNDS {
        same("read", reader.next(ALL).await?, numbered(number, [number.to_string()]))?;
        read.store(number, Ordering::Release);
    }
    publishing.join()
}
