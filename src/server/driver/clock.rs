//! The periodic tasks of a server: deadlines, the sweep of its topics, and shedding.
//!
//! Each is a task of its own, separate from the one that accepts. User code that may block runs
//! [`apart`], so a [`Listener`](crate::Listener) or a store that blocks delays no deadline.

use std::{future::poll_fn, pin::pin, task::Poll, thread, time::Duration};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::oneshot,
    task::JoinSet,
    time::sleep,
};

use crate::{
    guard::guarded,
    server::{
        core::{shedding::Shedding, upkeep::Sweeps},
        driver::serving::Serving,
    },
    sync::{Arc, Mutex},
};

/// The periodic tasks. They end when this is dropped.
pub(in crate::server) struct Clock(
    #[expect(dead_code, reason = "it is there to be dropped")] JoinSet<()>,
);

impl Clock {
    pub(in crate::server) fn start(serving: &Arc<Serving>) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(turn(serving.clone()));
        tasks.spawn(sweep(serving.clone()));
        tasks.spawn(shed(serving.clone()));
        Self(tasks)
    }
}

/// Runs user code that must not block, in a way that is safe if it does.
///
/// A blocked thread of the runtime may be the one that drives timers and I/O, and no other thread
/// takes that over. So if the runtime has several threads, this code runs on a new thread. It does
/// not run on the runtime's threads for blocking code, because [`blocking`](crate::blocking)
/// handlers may occupy all of them for any time. If the runtime has one thread, the code runs in
/// place, so that the order of events is deterministic.
pub(in crate::server) async fn apart<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let runtime = Handle::current();
    if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
        return guarded(run);
    }
    let (done, ran) = oneshot::channel();
    let run = Arc::new(Mutex::new(Some(run)));
    let taken = run.clone();
    let thread = thread::Builder::new().name("bellwire-apart".into()).spawn(move || {
        let _runtime = runtime.enter();
        let run = taken.lock().take();
        // The receiver is gone if the server has ended.
        let _ = done.send(run.and_then(guarded));
    });
    match thread {
        Ok(_) => ran.await.ok().flatten(),
        Err(error) => {
            tracing::error!(%error, "cannot start a thread for code that may block");
            let run = run.lock().take();
            run.and_then(guarded)
        }
    }
}

/// Raises the alarms that are due, for ever.
async fn turn(serving: Arc<Serving>) {
    let mut timer = pin!(sleep(Duration::ZERO));
    poll_fn(|cx| {
        serving.timers.poll_turn(timer.as_mut(), cx);
        Poll::Pending
    })
    .await
}

async fn sweep(serving: Arc<Serving>) {
    let mut sweeps = Sweeps::new(&serving.environment, serving.timers.now());
    loop {
        serving.timers.sleep_until(sweeps.next()).await;
        // A store is user code, so its sweep is guarded. A late sweep only costs memory.
        let publisher = serving.environment.publisher.clone();
        if apart(move || publisher.store().sweep()).await.is_none() {
            tracing::error!("topic store panicked in its sweep");
        }
        if let Some(keyed) = &serving.environment.keyed {
            let table = keyed.table().clone();
            if apart(move || table.sweep()).await.is_none() {
                tracing::error!("key table panicked in its sweep");
            }
        }
        sweeps.has_swept(serving.timers.now());
    }
}

async fn shed(serving: Arc<Serving>) {
    let mut shedding = Shedding::default();
    loop {
        serving.environment.buffered.full().await;
        while let Some(next) = shedding.next_look(&serving.environment) {
            serving.timers.sleep_until(next).await;
            shedding.look(&serving.environment, serving.timers.now());
        }
    }
}
