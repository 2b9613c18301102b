//! The state that a client's handles and drivers share.

use std::{
    future::poll_fn,
    ops::Deref,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    client::{
        clock::Clock,
        config::ClientConfig,
        core::{Core, key::LinkId, locked::Locked, status::Status, step::Step},
        event::ConnectionEvent,
        runtimes::Runtimes,
        timer::{TaskTimer, Timer},
    },
    error::ConnectionError,
    protocol::Time,
    sync::Arc,
};

/// The core, the clock and the runtimes. A client that is driven by hand uses no runtime.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) locked: Arc<Locked>,
    pub(crate) clock: Clock,
    pub(crate) runtimes: Runtimes,
    pub(crate) is_supervised: bool,
    pub(crate) reconnects: bool,
}

impl Deref for Shared {
    type Target = Locked;

    fn deref(&self) -> &Locked {
        &self.locked
    }
}

impl Shared {
    /// The state of a client with one connection, which already exists.
    pub(crate) fn of_one(config: ClientConfig) -> Self {
        Self::new(config, false, false)
    }

    /// The state of a client with a supervisor.
    pub(crate) fn supervised(config: ClientConfig, reconnects: bool) -> Self {
        Self::new(config, reconnects, true)
    }

    fn new(config: ClientConfig, reconnects: bool, is_supervised: bool) -> Self {
        let locked = Arc::new(Locked::new(config, reconnects, is_supervised));
        let (clock, runtimes) = (Clock::new(), Runtimes::new());
        Self { locked, clock, runtimes, is_supervised, reconnects }
    }

    /// The state of a client that is driven by hand. Its time is the one that its driver passes.
    /// With `reconnects`, the driver makes one connection after the other; otherwise there is one
    /// connection.
    pub(crate) fn by_hand(config: ClientConfig, reconnects: bool) -> Arc<Self> {
        let locked = Arc::new(Locked::new(config, reconnects, reconnects));
        let (clock, runtimes) = (Clock::ByHand(Arc::default()), Runtimes::default());
        Arc::new(Self { locked, clock, runtimes, is_supervised: reconnects, reconnects })
    }

    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    /// Runs `f` on the core now, and then the effects.
    pub(crate) fn act<R>(&self, f: impl FnOnce(&mut Core, &mut Step) -> R) -> R {
        self.locked.update(self.now(), f)
    }

    pub(crate) fn emit(&self, event: ConnectionEvent) {
        self.act(|_, step| step.emit(event));
    }

    /// Creates a timer. `None` if there is no runtime for it, or its time is never reached.
    pub(crate) fn timer(&self, limit: Duration) -> Option<Timer> {
        match &self.clock {
            Clock::Runtime(_) => self.runtimes.timer(limit),
            Clock::ByHand(_) => self.timer_until(self.clock.now_and_expiry(Some(limit)).1?),
        }
    }

    /// Creates a timer that ends at `at`.
    pub(crate) fn timer_until(&self, at: Time) -> Option<Timer> {
        if let Clock::ByHand(time) = &self.clock {
            let timer = TaskTimer::new(self.locked.clone(), time.clone(), at);
            return Some(Timer::ByHand(Box::new(timer)));
        }
        let at = self.clock.instant(at)?;
        self.runtimes.timer(at.saturating_duration_since(Instant::now()))
    }

    /// The link on which new requests begin: the current connection or, if there is none, the next
    /// one.
    pub(crate) fn current_link(&self) -> LinkId {
        self.look(|core| core.links.current.id)
    }

    /// Why no request begins any more; `None` while requests begin, or will begin on the next
    /// connection.
    pub(crate) fn refusal(&self) -> Option<ConnectionError> {
        self.look(|core| core.links.refusal())
    }

    /// Whether this side is closing, or has closed.
    pub(crate) fn is_closing(&self) -> bool {
        self.look(|core| core.links.closing.is_some())
    }

    /// Waits until there is news for the supervisor.
    pub(crate) async fn news(&self) {
        poll_fn(|cx| self.poll_news(cx)).await;
    }

    pub(crate) fn poll_news(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.act(|core, step| core.take_news(cx.waker(), step)) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Waits until `look` returns a value for the core.
    pub(crate) async fn until<R>(&self, mut look: impl FnMut(&mut Core) -> Option<R>) -> R {
        let mut waiting = Waiting { shared: self, ticket: None };
        poll_fn(|cx| {
            let found = self.act(|core, step| match look(core) {
                Some(found) => Some(found),
                None => {
                    core.wait(&mut waiting.ticket, cx.waker(), step);
                    None
                }
            });
            found.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Waits for the first connection, which may have ended by the time that the caller is woken.
    ///
    /// # Errors
    /// Why the client has ended without a connection.
    pub(crate) async fn first_open(&self) -> Result<(), ConnectionError> {
        self.until(|core| match core.status() {
            _ if core.was_open() => Some(Ok(())),
            Status::Ended(error) => Some(Err(error.clone())),
            _ => None,
        })
        .await
    }

    /// Waits for the turn to begin a subscription, and begins it.
    pub(crate) async fn in_turn<R>(&self, begin: impl FnOnce(&mut Core, &mut Step) -> R) -> R {
        let mut turn = Turn { shared: self, ticket: None };
        let mut begin = Some(begin);
        poll_fn(|cx| {
            let begun = self.act(|core, step| {
                if !core.poll_turn(&mut turn.ticket, cx.waker(), step) {
                    return None;
                }
                begin.take().map(|begin| begin(core, step))
            });
            begun.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Waits for `future`, but not for longer than `timer`.
pub(crate) async fn within<T>(
    mut timer: Option<Timer>,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => match &mut timer {
            Some(timer) => timer.poll(cx).map(|()| None),
            None => Poll::Pending,
        },
    })
    .await
}

/// A task that waits for a change.
struct Waiting<'a> {
    shared: &'a Shared,
    ticket: Option<u64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.shared.act(|core, step| core.leave(self.ticket, step));
        }
    }
}

/// A task that waits for its turn.
struct Turn<'a> {
    shared: &'a Shared,
    ticket: Option<u64>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.shared.act(|core, step| core.leave_turn(self.ticket, step));
    }
}
