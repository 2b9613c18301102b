//! A closure that runs for each delivery of a topic, in a task of its own.

use std::{
    any::Any,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    thread::{self, ThreadId},
    time::Duration,
};

use futures_core::Stream;
use tokio::{
    task::{JoinHandle, yield_now},
    time::Instant,
};

use crate::{
    client::{
        Delivery, Seen, Subscription,
        event::{ConnectionEvent, ListeningEnd},
        subscription::Membership,
    },
    guard::{caught, message},
    protocol::Position,
    sync::{Arc, AtomicBool, Condvar, Mutex, Ordering},
};

/// How long dropping a [`Listening`] waits for the closure on another thread. Closures that await do
/// not take a hundredth of this between two awaits; one that waits for a lock that the dropping thread
/// holds is not waited for without end.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// For how long it goes from one invocation to the next without letting other tasks run: a closure may
/// work without waiting for anything.
const LONG_WORK: Duration = Duration::from_micros(500);

/// A closure that runs for each delivery of a topic, in a task of its own: [`Client::listen`].
/// Dropping it stops the closure and leaves the topic.
///
/// No invocation begins after `drop` has returned. An invocation in progress is dropped at its
/// current await. If it runs on another thread at that time, `drop` waits until it reaches an
/// await, for at most 100 ms. An invocation that takes longer between two awaits runs on to the
/// next one. Within the closure itself, and on its thread, `drop` does not wait.
///
/// However it ends, the topic is left, so that its acks do not hold back other readers. Calls of
/// [`seen`](Self::seen) end, and a [`ConnectionEvent::ListeningEnded`] is emitted. A panic of the
/// closure ends only this listening.
///
/// [`Client::listen`]: crate::Client::listen
#[must_use = "dropping it leaves the topic"]
pub struct Listening {
    task: JoinHandle<()>,
    listener: Arc<Listener>,
}

impl Listening {
    /// Spawns the task on the caller's runtime, or, outside of one, on the client's.
    pub(crate) fn new<F, Fut>(subscription: Subscription, closure: F) -> Self
    where
        F: FnMut(Delivery) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = Arc::new(Listener {
            membership: subscription.membership.clone(),
            gate: Gate::default(),
            is_over: AtomicBool::new(false),
        });
        let runtime = subscription.membership.shared().runtime();
        let invocations = Invocations {
            subscription,
            closure: Some(closure),
            running: Box::pin(None),
            listener: listener.clone(),
        };
        let task = match runtime {
            Some(runtime) => runtime.spawn(invocations),
            None => tokio::spawn(invocations),
        };
        Self { task, listener }
    }

    /// Waits until the closure was given everything below `position`: as [`Subscription::seen`].
    /// The closure may still be handling the last of it.
    pub fn seen(&self, position: Position) -> Seen {
        Seen::new(self.listener.membership.standing.clone(), position)
    }

    /// Waits until the subscription is over: its closure has had [`Delivery::End`].
    ///
    /// # Panics
    /// When the closure panicked.
    ///
    /// # Cancel safety
    /// Dropping it leaves the topic.
    pub async fn ended(mut self) {
        match (&mut self.task).await {
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            _ => {}
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.listener.gate.stop();
        self.task.abort();
        self.listener.finish(ListeningEnd::Dropped);
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = &self.listener.membership.topic;
        f.debug_struct("Listening").field("topic", topic).finish_non_exhaustive()
    }
}

/// What the handle and the task share.
struct Listener {
    membership: Arc<Membership>,
    gate: Gate,
    is_over: AtomicBool,
}

impl Listener {
    /// Leaves the topic, then tells how it ended. The first to come says how.
    fn finish(&self, end: ListeningEnd) {
        if self.is_over.swap(true, Ordering::AcqRel) {
            return;
        }
        self.membership.leave();
        self.membership.standing.end();
        let topic = self.membership.topic.clone();
        self.membership.emit(ConnectionEvent::ListeningEnded { topic, end });
    }
}

/// What the task runs.
struct Invocations<F, Fut> {
    subscription: Subscription,
    closure: Option<F>,
    /// The invocation under way. One place serves all of them.
    running: Pin<Box<Option<Fut>>>,
    listener: Arc<Listener>,
}

/// Only the future in its box is ever pinned.
impl<F, Fut> Unpin for Invocations<F, Fut> {}

impl<F, Fut> Future for Invocations<F, Fut>
where
    F: FnMut(Delivery) -> Fut,
    Fut: Future<Output = ()>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let listener = this.listener.clone();
        let Some(_inside) = listener.gate.enter() else { return Poll::Ready(()) };
        match catch_unwind(AssertUnwindSafe(|| this.poll_all(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(End::Stopped)) => Poll::Ready(()),
            Ok(Poll::Ready(End::Over)) => {
                this.end(ListeningEnd::Over);
                Poll::Ready(())
            }
            Err(panic) => this.panicked(panic),
        }
    }
}

/// Why no further invocation begins.
enum End {
    /// The subscription is over.
    Over,
    /// The handle was dropped.
    Stopped,
}

impl<F, Fut> Invocations<F, Fut>
where
    F: FnMut(Delivery) -> Fut,
    Fut: Future<Output = ()>,
{
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let begun = Instant::now();
        loop {
            if let Some(running) = self.running.as_mut().as_pin_mut() {
                ready!(running.poll(cx));
                self.running.set(None);
                if begun.elapsed() >= LONG_WORK {
                    // It is woken behind the others.
                    let _ = pin!(yield_now()).poll(cx);
                    return Poll::Pending;
                }
            }
            // Before anything is handed over: what no invocation gets is not seen.
            if self.listener.gate.is_stopped() {
                return Poll::Ready(End::Stopped);
            }
            let delivery = ready!(Pin::new(&mut self.subscription).poll_next(cx));
            let (Some(delivery), Some(closure)) = (delivery, &mut self.closure) else {
                return Poll::Ready(End::Over);
            };
            let invocation = closure(delivery);
            self.running.set(Some(invocation));
        }
    }

    /// Ends the task with the panic of the closure, as a task ends that panics itself.
    fn panicked(&mut self, panic: Box<dyn Any + Send>) -> Poll<()> {
        self.end(ListeningEnd::Panicked(message(&*panic)));
        resume_unwind(panic)
    }
}

impl<F, Fut> Invocations<F, Fut> {
    /// Drops what is the user's, then leaves the topic.
    fn end(&mut self, end: ListeningEnd) {
        let closure = self.closure.take();
        let dropped = caught(|| self.running.set(None)).and(caught(|| drop(closure)));
        self.listener.finish(match (end, dropped) {
            (ListeningEnd::Over | ListeningEnd::Aborted, Err(message)) => {
                ListeningEnd::Panicked(message)
            }
            (end, _) => end,
        });
    }
}

/// However the task ends: a runtime that shuts down drops it.
impl<F, Fut> Drop for Invocations<F, Fut> {
    fn drop(&mut self) {
        self.end(ListeningEnd::Aborted);
    }
}

/// The gate between a closure and `drop`: no poll begins once it is stopped.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    left: Condvar,
}

#[derive(Default)]
struct GateState {
    is_stopped: bool,
    /// The thread on which the closure runs at present.
    inside: Option<ThreadId>,
}

impl Gate {
    fn enter(&self) -> Option<Inside<'_>> {
        let mut state = self.state.lock();
        if state.is_stopped {
            return None;
        }
        state.inside = Some(thread::current().id());
        Some(Inside(self))
    }

    fn is_stopped(&self) -> bool {
        self.state.lock().is_stopped
    }

    /// Lets no poll in any more, and waits for the current one, for a bounded time.
    fn stop(&self) {
        let mut state = self.state.lock();
        state.is_stopped = true;
        if state.inside != Some(thread::current().id()) {
            let is_inside = |state: &mut GateState| state.inside.is_some();
            drop(self.left.wait_timeout_while(state, LONGEST_WAIT, is_inside));
        }
    }
}

struct Inside<'a>(&'a Gate);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.inside = None;
        let is_stopped = state.is_stopped;
        drop(state);
        if is_stopped {
            self.0.left.notify_all();
        }
    }
}
