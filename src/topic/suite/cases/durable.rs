//! Several lives of a durable store.

use crate::topic::suite::{
    bench::{Bench, topic},
    cases::random::Run,
    check::{Checked, require, same},
    harness::Ending,
    under_test::Limits,
};

/// Lives of each case.
const LIVES: u64 = 8;

pub(in crate::topic::suite) async fn clean_reopen(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let (a, b) = (topic("a"), topic("b"));
    let mut epochs = None;
    for life in 0..LIVES {
        bench.check(format!("the logs in life {}", life + 1));
        let (of_a, of_b) = (bench.window(&a).await?, bench.window(&b).await?);
        let named = (of_a.epoch, of_b.epoch);
        same("the epochs", named, *epochs.get_or_insert(named))?;
        same("the next numbers", (of_a.next, of_b.next), (3 * life + 1, life + 1))?;
        bench.publish_numbers(&a, 3 * life + 1, 3 * life + 3).await?;
        bench.publish_numbers(&b, life + 1, life + 1).await?;
        epochs = Some((bench.window(&a).await?.epoch, bench.window(&b).await?.epoch));
        bench.again(Ending::Clean).await;
        bench.check(format!("the messages after life {}", life + 1));
        bench.has(&a, &(1..=3 * life + 3).map(|n| n.to_string()).collect::<Vec<_>>()).await?;
        bench.has(&b, &(1..=life + 1).map(|n| n.to_string()).collect::<Vec<_>>()).await?;
    }
    Ok(())
}

pub(in crate::topic::suite) async fn keeps_acknowledged(bench: &mut Bench) -> Checked {
    let (a, b) = (topic("t0"), topic("t1"));
    let seed = bench.options().seed;
    let mut run = Run::begin(bench, seed).await;
    for _ in 0..LIVES {
        run.append(&a).await?;
        run.append(&b).await?;
        run.append(&a).await?;
        run.end(Ending::Kill).await?;
        run.read(&a).await?;
        run.read(&b).await?;
    }
    Ok(())
}

pub(in crate::topic::suite) async fn while_appending(bench: &mut Bench) -> Checked {
    let name = topic("t0");
    let seed = bench.options().seed;
    let mut run = Run::begin(bench, seed).await;
    run.append(&name).await?;
    for life in 0..3 * LIVES {
        for _ in 0..=life % 5 {
            run.call(&name).await?;
        }
        // What a reader gets of them has to stay.
        run.read(&name).await?;
        run.end(Ending::Kill).await?;
        run.read(&name).await?;
        if life % 2 == 0 {
            run.append(&name).await?;
        }
    }
    run.finish(true).await
}

pub(in crate::topic::suite) async fn after_close(bench: &mut Bench) -> Checked {
    bench.open(Limits::new()).await;
    let name = topic("a");
    let mut epochs = Vec::new();
    for life in 1..=LIVES {
        bench.check(format!("a log that was closed before the kill of life {life}"));
        let published = bench.publish(&name, life.to_string()).await?;
        same("the number of the first message", published.sequence, 1)?;
        let known = epochs.contains(&published.epoch);
        require(!known, || format!("the epoch {} returned", published.epoch))?;
        epochs.push(published.epoch);
        bench.publish_numbers(&name, 2, 1 + life % 3).await?;
        bench.close(&name).await?;
        bench.again(Ending::Kill).await;
        let window = bench.window(&name).await?;
        same("the window (first, next)", (window.first, window.next), (1, 1))?;
        let known = epochs.contains(&window.epoch);
        require(!known, || format!("the epoch {} returned", window.epoch))?;
    }
    Ok(())
}
