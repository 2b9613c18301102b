//! The lives of a log: dropped, returned, closed.

use std::{collections::HashMap, time::Duration};

use crate::{
    protocol::{Code, Epoch, Position, Topic},
    topic::{
        PublishError,
        suite::{
            bench::{Bench, same_items, topic},
            check::{Checked, require, same},
            probe::{ALL, Item, numbered},
            under_test::Limits,
        },
    },
};

/// Sweeps after which an unused log may be gone.
const SWEEPS: usize = 5;
const DAY: Duration = Duration::from_secs(86_400);

/// Every message of a topic, under its epoch and number.
type Given = HashMap<(Epoch, u64), String>;

/// Topics take turns. At first a store can remember all of them. Then there are more than may have
/// a log, so that it has to forget what it can.
pub(in crate::topic::suite) async fn forgotten(bench: &mut Bench) -> Checked {
    for (limit, topics) in [(1_000, 6), (4, 12)] {
        bench.open(Limits { topics: limit, ..Limits::new() }).await;
        let names: Vec<_> = (0..topics).map(|n| topic(&format!("t{n}"))).collect();
        in_turns(bench, &names).await?;
    }
    Ok(())
}

async fn in_turns(bench: &mut Bench, names: &[Topic]) -> Checked {
    let mut given: HashMap<Topic, Given> = HashMap::new();
    let mut ends: HashMap<Topic, Position> = HashMap::new();
    let mut count = 0;
    for turn in 0..2 * names.len() {
        for name in names.iter().cycle().skip(turn * 3).take(3) {
            let known = given.entry(name.clone()).or_default();
            bench.check(format!("{name} in turn {turn}"));
            if let Some(&end) = ends.get(name) {
                resumed(bench, name, end, known).await?;
            }
            for _ in 0..2 {
                count += 1;
                let payload = count.to_string();
                match again(bench, name, &payload, ends.get(name).copied(), known).await? {
                    Some(end) => _ = ends.insert(name.clone(), end),
                    // The store keeps every log that there was.
                    None => break,
                }
            }
        }
        bench.check(format!("sweeps after turn {turn}"));
        bench.harness.advance(DAY);
        (0..SWEEPS).for_each(|_| bench.store().sweep());
        bench.checkpoint().await;
    }
    Ok(())
}

/// Publishes to a topic whose log may have been dropped. Returns where the log ends then.
async fn again(
    bench: &Bench,
    name: &Topic,
    payload: &str,
    end: Option<Position>,
    given: &mut Given,
) -> Checked<Option<Position>> {
    let published = match bench.store().append(name, payload.to_owned().into()).await {
        Err(PublishError::TooMany) => return Ok(None),
        published => published?,
    };
    let (epoch, number) = (published.epoch, published.sequence);
    let known = |epoch| given.keys().any(|(of, _)| *of == epoch);
    let expected = end.filter(|end| end.epoch == epoch).map_or(1, |end| end.next);
    require(end.is_none_or(|end| end.epoch == epoch) || !known(epoch), || {
        format!("the topic returned under its former epoch {epoch}")
    })?;
    same(&format!("the number under {epoch}, after {end:?}"), number, expected)?;
    let before = given.insert((epoch, number), payload.to_owned());
    same("the message that had this epoch and number", before, None)?;
    Ok(Some(Position { epoch, next: number + 1 }))
}

/// A subscriber returns to a topic that it has read up to `end`, and another one from number 1 on.
async fn resumed(bench: &Bench, name: &Topic, end: Position, given: &Given) -> Checked {
    let mut reader = bench.probe(name);
    let window = reader.window().await?;
    if window.epoch != end.epoch {
        reader.position = Some(end);
        let reset = Item::Reset(Position { epoch: window.epoch, next: 1 });
        return same("the first step of a former cursor", reader.next(ALL).await?, vec![reset]);
    }
    same("the next number of the same epoch", window.next, end.next)?;
    reader.position = Some(Position { next: 1, ..end });
    let expected = |item: &Item| match item {
        Item::Message(number, payload) => {
            let message = given.get(&(end.epoch, *number));
            message.is_some_and(|message| message.as_bytes() == payload)
        }
        Item::Gone(_, reason) => *reason == Code::RETENTION,
        Item::Reset(_) | Item::Closed => false,
    };
    let read = reader.read_to(end.next, ALL).await?;
    let wrong = read.iter().find(|item| !expected(item));
    same("an item that is not what was published", wrong, None)
}

pub(in crate::topic::suite) async fn in_use(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let name = topic("a");
    bench.publish_numbers(&name, 1, 3).await?;
    let mut head = bench.probe_at(&name, 4).await?;
    let mut behind = bench.probe_at(&name, 1).await?;
    for number in 4..=8 {
        bench.check("a reader that waits is woken after sweeps, under the same epoch");
        same("read at the head", head.poll(ALL)?, None)?;
        let epoch = head.window().await?.epoch;
        same("read at the head", head.poll(ALL)?, None)?;
        (0..SWEEPS).for_each(|_| bench.store().sweep());
        let published = bench.publish(&name, number.to_string()).await?;
        same("(epoch, number)", (published.epoch, published.sequence), (epoch, number))?;
        head.woken().wait().await;
        same("read", head.next(ALL).await?, numbered(number, [number.to_string()]))?;
    }
    bench.check("a reader behind the head reads all after the sweeps");
    let read = behind.read_to(9, ALL).await?;
    same_items(&read, &numbered(1, (1..=8).map(|n| n.to_string())))
}

pub(in crate::topic::suite) async fn closed(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let name = topic("a");
    bench.check("a topic without a log has nothing to close");
    same("closed", bench.close(&topic("none")).await?, None)?;
    bench.check("readers of a closed log get the rest, and then its end");
    let epoch = closed_under_readers(bench, &name).await?;
    bench.checkpoint().await;
    bench.check("a log that was closed is not closed again");
    same("closed", bench.close(&name).await?, None)?;
    bench.checkpoint().await;
    bench.check("the next message begins a log under a new epoch");
    let published = bench.publish(&name, "new").await?;
    require(published.epoch != epoch, || format!("the epoch {epoch} returned"))?;
    same("its number", published.sequence, 1)?;
    bench.has(&name, &["new"]).await?;
    bench.check("a cursor at the end of the closed log gets a reset");
    let begin = Position { epoch: published.epoch, next: 1 };
    let mut reader = bench.probe(&name);
    reader.position = Some(Position { epoch, next: 6 });
    same("read", reader.next(ALL).await?, vec![Item::Reset(begin)])?;
    drop(reader);
    pending_close(bench).await?;
    closed_after_sweeps(bench).await?;
    closed_often(bench).await
}

/// Closes a log with readers. Returns its epoch.
async fn closed_under_readers(bench: &Bench, name: &Topic) -> Checked<Epoch> {
    bench.publish_numbers(name, 1, 5).await?;
    let mut behind = bench.probe_at(name, 3).await?;
    let mut head = bench.probe_at(name, 6).await?;
    same("read at the head", head.poll(ALL)?, None)?;
    let epoch = head.window().await?.epoch;
    same("read at the head", head.poll(ALL)?, None)?;
    same("closed", bench.close(name).await?, Some(Position { epoch, next: 6 }))?;
    head.woken().wait().await;
    same("read at the head", head.next(ALL).await?, vec![Item::Closed])?;
    let published = bench.publish(&topic("b"), "of another topic").await?;
    same("the number in another topic", published.sequence, 1)?;
    let rest = behind.read_to(6, ALL).await?;
    same_items(&rest, &numbered(3, ["3", "4", "5"]))?;
    same("read behind the rest", behind.next(ALL).await?, vec![Item::Closed])?;
    bench.check("a reader of the closed log gets nothing of the next one");
    let mut late = bench.probe_at(name, 1).await?;
    bench.publish(name, "next").await?;
    same("read", late.next(ALL).await?, numbered(1, ["next"]))?;
    same("read behind the rest", behind.next(ALL).await?, vec![Item::Closed])?;
    let next = late.position;
    same("closed", bench.close(name).await?, next)?;
    Ok(epoch)
}

/// The message is in the log that is closed, or begins the next one.
async fn pending_close(bench: &Bench) -> Checked {
    bench.check("a log that is closed while a message is being appended");
    let name = topic("pending");
    bench.publish_numbers(&name, 1, 2).await?;
    let mut reader = bench.probe_at(&name, 3).await?;
    let append = bench.store().append(&name, "3".into());
    let close = bench.store().close(&name);
    let (published, end) = (append.await?, close.await?);
    let end = end.filter(|end| Some(end.epoch) == reader.position.map(|at| at.epoch));
    let end = end.map_or(0, |end| end.next);
    let is_last = reader.position.is_some_and(|at| at.epoch == published.epoch);
    let expected = if is_last { (3, 4) } else { (1, 3) };
    same("(the number, the end of the log)", (published.sequence, end), expected)?;
    if is_last {
        same("read", reader.next(ALL).await?, numbered(3, ["3"]))?;
    }
    same("read at the end", reader.next(ALL).await?, vec![Item::Closed])
}

/// A store that has dropped the log may know where it ended, or know nothing of it.
async fn closed_after_sweeps(bench: &mut Bench) -> Checked {
    bench.check("a log that is closed after sweeps does not come back");
    let name = topic("swept");
    bench.publish_numbers(&name, 1, 2).await?;
    let epoch = bench.window(&name).await?.epoch;
    (0..SWEEPS).for_each(|_| bench.store().sweep());
    bench.checkpoint().await;
    let end = bench.close(&name).await?;
    let known = Position { epoch, next: 3 };
    require(end.is_none_or(|end| end == known), || format!("it was closed at {end:?}"))?;
    bench.checkpoint().await;
    let published = bench.publish(&name, "new").await?;
    let found = (published.epoch, published.sequence);
    let goes_on = end.is_none() && found == (epoch, 3);
    let begins = published.epoch != epoch && published.sequence == 1;
    require(goes_on || begins, || {
        format!("the close gave {end:?}, and the next message is {found:?}")
    })
}

async fn closed_often(bench: &mut Bench) -> Checked {
    bench.check("each log that is closed leaves another epoch");
    let (name, mut epochs) = (topic("often"), Vec::new());
    for round in 0..10 {
        let published = bench.publish(&name, round.to_string()).await?;
        same("the number", published.sequence, 1)?;
        let known = epochs.contains(&published.epoch);
        require(!known, || format!("the epoch {} returned", published.epoch))?;
        epochs.push(published.epoch);
        let end = Position { epoch: published.epoch, next: 2 };
        same("closed", bench.close(&name).await?, Some(end))?;
        (0..SWEEPS).for_each(|_| bench.store().sweep());
        bench.checkpoint().await;
    }
    Ok(())
}
