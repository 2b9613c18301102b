//! The state of a client, and the tasks that wait for it to change.

use std::pin::pin;

use tokio::sync::Notify;

use crate::{
    error::ConnectionError,
    guard::guarded,
    protocol::Hello,
    sync::{AtomicBool, Mutex, Ordering},
};

/// Where a client stands.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// There is no connection to begin anything on.
    Connecting,
    Open(Hello),
    Ended(ConnectionError),
}

/// The phase there is. Whoever waits for another is woken in the order of coming; a `watch` of tokio's
/// wakes in one that it draws by lot.
#[derive(Debug)]
pub(crate) struct Phases {
    now: Mutex<Phase>,
    /// There was a connection, however short.
    was_open: AtomicBool,
    changed: Notify,
}

impl Phases {
    pub(crate) fn new() -> Self {
        let now = Mutex::new(Phase::Connecting);
        Self { now, was_open: AtomicBool::new(false), changed: Notify::new() }
    }

    /// Looks at the phase, which does not change meanwhile.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Phase) -> R) -> R {
        look(&self.now.lock())
    }

    /// Goes on to a phase, unless the client is over.
    pub(crate) fn replace(&self, phase: Phase) {
        self.replace_and(phase, || ());
    }

    /// As [`replace`](Self::replace); runs `also` before any task can see the new phase.
    pub(crate) fn replace_and<T>(&self, phase: Phase, also: impl FnOnce() -> T) -> Option<T> {
        let mut now = self.now.lock();
        if matches!(*now, Phase::Ended(_)) {
            return None;
        }
        self.was_open.fetch_or(matches!(phase, Phase::Open(_)), Ordering::Relaxed);
        *now = phase;
        let done = also();
        drop(now);
        guarded(|| self.changed.notify_waiters());
        Some(done)
    }

    /// The client is over; whether it was not before.
    pub(crate) fn end(&self, error: &ConnectionError) -> bool {
        let mut now = self.now.lock();
        let goes_on = !matches!(*now, Phase::Ended(_));
        if goes_on {
            *now = Phase::Ended(error.clone());
        }
        drop(now);
        guarded(|| self.changed.notify_waiters());
        goes_on
    }

    /// Waits for the first connection, which may be over by the time that this is known.
    ///
    /// # Errors
    /// Why the client is over without one.
    pub(crate) async fn first_open(&self) -> Result<(), ConnectionError> {
        let was_open = || self.was_open.load(Ordering::Relaxed);
        match self.until(|phase| was_open() || matches!(phase, Phase::Ended(_))).await {
            Phase::Ended(error) if !was_open() => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits until this holds of the phase, which it is then.
    pub(crate) async fn until(&self, holds: impl Fn(&Phase) -> bool) -> Phase {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(phase) = self.look(|phase| holds(phase).then(|| phase.clone())) {
                return phase;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        task::{Context, Poll, Wake, Waker},
    };

    use super::*;
    use crate::sync::Arc;

    struct Woken(usize, Arc<Mutex<Vec<usize>>>);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.1.lock().push(self.0);
        }
    }

    #[test]
    fn who_waits_is_woken_in_the_order_of_coming() {
        let (phases, order) = (Phases::new(), Arc::<Mutex<Vec<usize>>>::default());
        let is_ended = |phase: &Phase| matches!(phase, Phase::Ended(_));
        let mut waiting: Vec<_> = (0..50).map(|_| Box::pin(phases.until(is_ended))).collect();
        for (number, one) in waiting.iter_mut().enumerate() {
            let waker = Waker::from(Arc::new(Woken(number, order.clone())));
            assert!(one.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert!(phases.end(&ConnectionError::Closed));
        assert!(!phases.end(&ConnectionError::Silent));
        assert_eq!(*order.lock(), (0..50).collect::<Vec<_>>());
        for mut one in waiting {
            match one.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Phase::Ended(ConnectionError::Closed)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
