//! Threads that run futures, and that can be stopped while they wait.

use std::{
    pin::pin,
    task::{Context, Poll, Wake, Waker},
    thread::{self, JoinHandle, Thread},
};

use tokio::runtime::Handle;

use crate::{
    sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering},
    topic::suite::check::{Checked, Failure},
};

/// Stops the threads of one case, and counts what they do.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<Stopping>);

#[derive(Default)]
struct Stopping {
    is_stopped: AtomicBool,
    progress: AtomicU64,
    threads: Mutex<Vec<Thread>>,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Stop {
    /// Ends every `block_on` with this at its next turn.
    pub(super) fn stop(&self) {
        self.0.is_stopped.store(true, Ordering::Release);
        self.0.threads.lock().iter().for_each(Thread::unpark);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.0.is_stopped.load(Ordering::Acquire)
    }

    /// The case does something that it does only so often.
    pub(super) fn advances(&self) {
        self.0.progress.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn progress(&self) -> u64 {
        self.0.progress.load(Ordering::Relaxed)
    }

    /// Runs a future on this thread; `None` if it was stopped before the future ended.
    pub(super) fn block_on<F: Future>(&self, future: F) -> Option<F::Output> {
        self.0.threads.lock().push(thread::current());
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let (mut future, mut cx) = (pin!(future), Context::from_waker(&waker));
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return Some(output);
            }
            if self.is_stopped() {
                return None;
            }
            thread::park();
        }
    }
}

/// A thread of a case, beside that of the case itself.
pub(super) struct Beside<T>(JoinHandle<Option<Checked<T>>>);

impl<T: Send + 'static> Beside<T> {
    /// Runs a future on a new thread, within the runtime of the test.
    pub(super) fn spawn<F>(
        stop: &Stop,
        runtime: Option<&Handle>,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Checked<T>>,
    {
        let (stop, runtime) = (stop.clone(), runtime.cloned());
        Self(thread::spawn(move || {
            let _entered = runtime.as_ref().map(Handle::enter);
            stop.block_on(make())
        }))
    }

    /// Waits for the thread, as the case's own thread may.
    pub(super) fn join(self) -> Checked<T> {
        let panicked = || Failure("the store panicked in another thread".into());
        let stopped = || Failure("it did not end".into());
        self.0.join().map_err(|_| panicked())?.ok_or_else(stopped)?
    }
}
