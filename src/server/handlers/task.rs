//! A handler in a task of its own.

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::task::{JoinHandle, spawn, spawn_blocking};
use tracing::{Instrument, Span};

use crate::server::{
    handlers::{
        pass::{Charge, Pass},
        reply::{Ended, Reply},
        running::{BoxedReply, Run},
    },
    session::Session,
};

/// A handler in a task of its own; aborted when dropped.
pub(in crate::server) struct Task {
    stage: TaskStage,
    blocking: bool,
}

enum TaskStage {
    /// A blocking function that has not begun.
    Waiting(Box<Waiting>),
    Running(JoinHandle<(Reply, Charge)>),
    /// It was told to end before it began.
    Void,
}

struct Waiting {
    work: Box<dyn FnOnce() -> Reply + Send>,
    pass: Pass,
    span: Span,
}

impl Task {
    /// Runs a handler in a task, while its connection has room for replies.
    pub(super) fn spawn(mut future: BoxedReply, session: Session) -> Self {
        let mut pass = Pass::of_task(session);
        let reply = poll_fn(move |cx| {
            ready!(pass.poll(cx));
            let reply = ready!(future.as_mut().poll_reply(cx));
            let charge = pass.charge(reply.bytes());
            Poll::Ready((reply, charge))
        });
        Self { stage: TaskStage::Running(spawn(reply.in_current_span())), blocking: false }
    }

    pub(super) fn blocking(work: Box<dyn FnOnce() -> Reply + Send>, session: Session) -> Self {
        let (pass, span) = (Pass::of_thread(session), Span::current());
        Self { stage: TaskStage::Waiting(Box::new(Waiting { work, pass, span })), blocking: true }
    }

    /// Starts the blocking function.
    fn begin(&mut self) {
        if let TaskStage::Waiting(waiting) = mem::replace(&mut self.stage, TaskStage::Void) {
            let Waiting { work, pass, span } = *waiting;
            let run = move || {
                let reply = span.in_scope(work).within(span);
                let charge = pass.charge(reply.bytes());
                (reply, charge)
            };
            self.stage = TaskStage::Running(spawn_blocking(run));
        }
    }

    fn stop(&mut self) {
        match &self.stage {
            TaskStage::Running(handle) => handle.abort(),
            TaskStage::Waiting(_) | TaskStage::Void => self.stage = TaskStage::Void,
        }
    }
}

impl Run for Task {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if let TaskStage::Waiting(waiting) = &mut self.stage {
            ready!(waiting.pass.poll(cx));
            self.begin();
        }
        let TaskStage::Running(handle) = &mut self.stage else {
            return Poll::Ready(Ended::Aborted { started: false });
        };
        Pin::new(handle).poll(cx).map(|joined| match joined {
            Ok((reply, charge)) => Ended::Replied(reply.spawned(charge.session())),
            Err(error) if error.is_panic() => Ended::Panicked,
            Err(_) => Ended::Aborted { started: !self.blocking },
        })
    }

    fn abort(&mut self) -> bool {
        self.stop();
        true
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.stop();
    }
}
