//! The number of logs.

use crate::{
    protocol::Topic,
    topic::{
        PublishError, TopicStats,
        suite::{
            bench::{Bench, topic},
            check::{Checked, require, same},
            probe::{ALL, numbered},
            under_test::Limits,
        },
    },
};

pub(in crate::topic::suite) async fn topics(bench: &mut Bench) -> Checked {
    bench.open(Limits { topics: 3, ..Limits::new() }).await;
    let names = ["a", "b", "c"].map(topic);
    let (fourth, fifth) = (topic("d"), topic("e"));
    bench.check("readers do not count");
    let mut waiting = bench.probe_at(&fourth, 1).await?;
    same("read", waiting.poll(ALL)?, None)?;
    let _other = bench.probe_at(&fifth, 1).await?;
    for name in &names {
        require(bench.store().has_room_for(name), || format!("it has no room for {name}"))?;
        bench.publish_numbers(name, 1, 1).await?;
    }
    drop((waiting, _other));
    bench.checkpoint().await;
    bench.check("a log over the limit is refused");
    let mut waiting = bench.probe_at(&fourth, 1).await?;
    same("read", waiting.poll(ALL)?, None)?;
    for name in [&fourth, &fifth] {
        require(!bench.store().has_room_for(name), || format!("it has room for {name}"))?;
        let refused = bench.store().append(name, "x".into()).await;
        same("the append", refused, Err(PublishError::TooMany))?;
        bench.holds(name, 1, 1).await?;
    }
    same("read after the refusal", waiting.poll(ALL)?, None)?;
    bench.check("the logs that there are go on");
    for name in &names {
        require(bench.store().has_room_for(name), || format!("it has no room for {name}"))?;
        bench.publish_numbers(name, 2, 3).await?;
    }
    if !bench.capabilities().closing {
        return Ok(());
    }
    drop(waiting);
    room_after_close(bench).await
}

async fn room_after_close(bench: &mut Bench) -> Checked {
    let (closed, fourth) = (topic("b"), topic("d"));
    bench.check("a log that was closed leaves room for another");
    bench.close(&closed).await?;
    bench.checkpoint().await;
    require(bench.store().has_room_for(&fourth), || "it has no room".into())?;
    let mut waiting = bench.probe_at(&fourth, 1).await?;
    same("read", waiting.poll(ALL)?, None)?;
    bench.publish_numbers(&fourth, 1, 1).await?;
    same("read", waiting.next(ALL).await?, numbered(1, ["1"]))?;
    require(!bench.store().has_room_for(&closed), || "it has room for one more".into())?;
    let refused = bench.store().append(&closed, "x".into()).await;
    same("the append over the limit", refused, Err(PublishError::TooMany))
}

pub(in crate::topic::suite) async fn count(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let (a, b) = (topic("a"), topic("b"));
    bench.check("readers are no logs");
    same("topics", bench.store().topics(), 0)?;
    let reader = bench.probe_at(&a, 1).await?;
    same("topics", bench.store().topics(), 0)?;
    bench.check("the first message of a topic counts, and no other");
    bench.publish_numbers(&a, 1, 3).await?;
    same("topics", bench.store().topics(), 1)?;
    bench.publish_numbers(&b, 1, 3).await?;
    drop(reader);
    same("topics", bench.store().topics(), 2)?;
    bench.checkpoint().await;
    same("topics later", bench.store().topics(), 2)?;
    bench.check("the topics that are listed have a log");
    let reader = bench.probe_at(&a, 1).await?;
    listed(bench, &[(&a, 1), (&b, 0)])?;
    drop(reader);
    listed(bench, &[(&a, 0), (&b, 0)])?;
    if bench.capabilities().closing {
        bench.check("a closed log does not count, even if it has readers");
        let _reader = bench.probe_at(&a, 1).await?;
        bench.close(&a).await?;
        same("topics", bench.store().topics(), 1)?;
        bench.close(&a).await?;
        same("topics", bench.store().topics(), 1)?;
        listed(bench, &[(&b, 0)])?;
        bench.publish_numbers(&a, 1, 1).await?;
        same("topics", bench.store().topics(), 2)?;
    }
    Ok(())
}

/// The store lists only these topics, each with this many readers and with three messages. It may
/// leave some out, and need not know of the last messages yet.
fn listed(bench: &Bench, expected: &[(&Topic, usize)]) -> Checked {
    let mut expected = expected.to_vec();
    for TopicStats { topic, end, subscribers, .. } in bench.store().topic_stats() {
        let place = expected.iter().position(|(name, _)| **name == topic);
        require(place.is_some(), || format!("{topic} is listed"))?;
        let (_, readers) = expected.swap_remove(place.unwrap_or_default());
        same("the subscribers listed", subscribers, readers)?;
        require((2..=4).contains(&end.next), || format!("{topic} is listed at {end}"))?;
    }
    Ok(())
}
