//! What a server does by the time: deadlines, the sweep of its topics, and shedding.
//!
//! Each is a task of its own, apart from that which accepts, and what may take its time runs
//! [`apart`]: a [`Listener`](crate::Listener) or a store that does holds up no deadline.

use std::{cmp::Reverse, future::poll_fn, pin::pin, task::Poll, thread, time::Duration};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::oneshot,
    task::JoinSet,
    time::sleep,
};

use crate::{
    guard::guarded,
    server::{driver::serving::Serving, mailbox::SHED, session::Session},
    sync::{Arc, Mutex},
};

/// With the server's buffers full, how long a connection may take nothing of what waits for it while
/// it holds more than its share; the time for write progress if that is less.
const STUCK_FOR: Duration = Duration::from_secs(2);
/// How often the connections are looked at, with the server's buffers full.
const LOOK: Duration = Duration::from_millis(100);

/// The tasks; they end when this is dropped.
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

/// Runs user code that must not block, but may.
///
/// A thread of the runtime that is blocked may be the one that looks for timers and I/O, and no other
/// takes its place. So where there are several threads, this code runs on a thread of its own. It does
/// not run on those that the runtime has for such code: [`blocking`](crate::blocking) handlers may
/// occupy all of them for as long as they like. A runtime of one thread runs it in place, in an order
/// that does not change.
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
        // Nobody waits for it any more where the server has ended.
        let _ = done.send(run.and_then(guarded));
    });
    match thread {
        Ok(_) => ran.await.ok().flatten(),
        Err(error) => {
            tracing::error!(%error, "no thread for code that may block");
            let run = run.lock().take();
            run.and_then(guarded)
        }
    }
}

/// Raises the alarms that are due.
async fn turn(serving: Arc<Serving>) {
    let mut timer = pin!(sleep(Duration::ZERO));
    poll_fn(|cx| {
        serving.timers.poll_turn(timer.as_mut(), cx);
        Poll::Pending
    })
    .await
}

async fn sweep(serving: Arc<Serving>) {
    loop {
        sleep(serving.environment.config.idle_log / 2).await;
        // A store is user code too; what it forgets late costs nothing but room.
        let publisher = serving.environment.publisher.clone();
        if apart(move || publisher.store().sweep()).await.is_none() {
            tracing::error!("topic store panicked in its sweep");
        }
    }
}

async fn shed(serving: Arc<Serving>) {
    loop {
        serving.environment.buffered.full().await;
        while shed_largest(&serving) {
            sleep(LOOK).await;
        }
    }
}

/// Closes the connections that hold more than their share and take nothing, the largest first, until
/// the others are within the limit; of equals, those first that have taken nothing for longest.
/// Whether the limit was exceeded.
fn shed_largest(serving: &Serving) -> bool {
    let limit = serving.environment.config.buffered_bytes_total;
    let mut excess = serving.environment.buffered.bytes().saturating_sub(limit);
    if excess == 0 {
        return false;
    }
    let allowance = serving.environment.buffered.allowance(limit);
    let stuck_for = STUCK_FOR.min(serving.environment.config.write_progress).as_millis() as u64;
    let now = serving.timers.now().as_millis();
    let candidate = |session: Session| {
        let (bytes, since) = (session.holding().bytes(), session.holding().stuck()?);
        let is_deaf = since.saturating_add(stuck_for) <= now;
        (is_deaf && bytes > allowance).then(|| (Reverse(bytes), since, session.id(), session))
    };
    let mut deaf: Vec<_> = serving.sessions.iter().filter_map(candidate).collect();
    deaf.sort_unstable_by_key(|&(bytes, since, id, _)| (bytes, since, id));
    for (Reverse(bytes), _, _, session) in deaf {
        if excess == 0 {
            break;
        }
        session.mailbox().raise(SHED);
        excess = excess.saturating_sub(bytes);
    }
    true
}
