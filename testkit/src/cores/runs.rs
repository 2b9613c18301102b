//! A manual driver of keyed runs, which belong to no connection.

use std::{
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use bellwire::{
    Random,
    protocol::Time,
    server::keys::{KeysConfig, MemoryKeys},
    unstable::server::DetachedRun,
};

use super::world::World;

/// Keyed runs that wait for a task.
#[derive(Clone, Default)]
pub(super) struct Runs(Arc<Mutex<Vec<DetachedRun>>>);

impl Runs {
    /// What the server gives its runs to.
    pub(super) fn taker(&self) -> impl Fn(DetachedRun) + Send + Sync + 'static {
        let runs = self.clone();
        move |run| runs.0.lock().expect("no panic").push(run)
    }

    pub(super) fn take(&self) -> Vec<DetachedRun> {
        mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

/// A table of keys on the clock of the world. A client may repeat a request for a few seconds.
pub(super) fn keys(world: &World, random: &Random) -> MemoryKeys {
    let (seconds, clock) = (1 + world.below(12) as u64, world.clone());
    let now = move || Duration::from_millis(clock.now().as_millis());
    MemoryKeys::with_config(random, KeysConfig::new().seconds(seconds).clock(now))
}

type Sleeping = Pin<Box<dyn Future<Output = ()>>>;

/// Drives a run to its end.
pub(super) async fn drive(world: World, mut run: DetachedRun) {
    let mut timer: Option<(Time, Sleeping)> = None;
    poll_fn(|cx| {
        loop {
            if run.poll(cx, world.now()).is_ready() {
                return Poll::Ready(());
            }
            let Some(at) = run.next_timeout() else { return Poll::Pending };
            if timer.as_ref().is_none_or(|(set, _)| *set != at) {
                let (world, millis) =
                    (world.clone(), at.as_millis().saturating_sub(world.now().as_millis()));
                timer = Some((at, Box::pin(async move { world.sleep(millis).await })));
            }
            let Some((_, sleep)) = &mut timer else { return Poll::Pending };
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            timer = None;
        }
    })
    .await;
}
