//! A minimal executor: a list of tasks, each with a flag that its waker sets.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

/// A waker that records that it was woken.
#[derive(Default)]
pub(super) struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Flag {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// What a run expects of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The task has a bounded number of steps.
    Acts,
    /// The task waits for messages as long as its client lives.
    Listens,
}

struct Task {
    kind: Kind,
    flag: Arc<Flag>,
    waker: Waker,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

#[derive(Default)]
pub(super) struct Executor {
    tasks: Vec<Task>,
}

impl Executor {
    pub(super) fn spawn(&mut self, kind: Kind, future: impl Future<Output = ()> + 'static) {
        let flag = Arc::<Flag>::default();
        flag.set();
        let waker = Waker::from(flag.clone());
        self.tasks.push(Task { kind, flag, waker, future: Box::pin(future) });
    }

    pub(super) fn ready(&self) -> impl Iterator<Item = usize> {
        self.tasks.iter().enumerate().filter(|(_, task)| task.flag.is_set()).map(|(at, _)| at)
    }

    pub(super) fn poll(&mut self, at: usize) {
        let task = &mut self.tasks[at];
        task.flag.take();
        if task.future.as_mut().poll(&mut Context::from_waker(&task.waker)).is_ready() {
            drop(self.tasks.swap_remove(at));
        }
    }

    /// Drops a task in the middle of its work.
    pub(super) fn abort(&mut self, at: usize) {
        drop(self.tasks.swap_remove(at));
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(super) fn has(&self, kind: Kind) -> bool {
        self.tasks.iter().any(|task| task.kind == kind)
    }
}
