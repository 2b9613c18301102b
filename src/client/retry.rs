//! Sending again what is proven not executed (guarantee R1).

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    client::{
        config::ClientConfig,
        shared::{Shared, Timer},
        stats::Tally,
    },
    error::{CallError, NotSent},
    protocol::{Code, Repeats, RequestId},
};

/// A request's patience: how long it may take in all, whether it waits for a connection, and how
/// long it pauses before it is sent again (PROTOCOL.md, section 12.1).
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// What the request was given, if it was: some time, or no limit.
    given: Option<Option<Duration>>,
    /// What it has else.
    default: Option<Duration>,
    /// It does not wait for a connection, and is not sent again.
    pub(crate) fail_fast: bool,
    /// When it has to be over; known from its first poll on.
    expires: Option<Instant>,
    /// How often it was refused for now.
    refusals: Repeats,
    /// What it was refused with last: what it ends with if its time runs out before it is sent again.
    refusal: Option<CallError>,
}

impl Patience {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        Self { default: config.deadline, fail_fast: config.fail_fast, ..Self::default() }
    }

    pub(crate) fn set_deadline(&mut self, deadline: Option<Duration>) {
        self.given = Some(deadline);
    }

    /// The deadline that the request was given, of which the server is told.
    pub(crate) fn ttl(&self) -> Option<Duration> {
        self.given.flatten()
    }

    /// The time begins.
    pub(crate) fn begin(&mut self) {
        let limit = self.given.unwrap_or(self.default);
        self.expires = limit.and_then(|limit| Instant::now().checked_add(limit));
    }

    /// When it is over, where the server is told.
    pub(crate) fn ttl_expires(&self) -> Option<Instant> {
        self.expires.filter(|_| self.ttl().is_some())
    }

    /// When it is over, where the server is not told.
    pub(crate) fn default_expires(&self) -> Option<Instant> {
        self.expires.filter(|_| self.given.is_none())
    }

    /// A timer for what is left; `None` if there is no limit.
    pub(crate) fn timer(&self, shared: &Shared) -> Option<Timer> {
        shared.timer(left(self.expires)?)
    }

    /// Waits for `future`, but not past the deadline.
    pub(crate) async fn within<T>(
        &self,
        shared: &Shared,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let (mut timer, mut future) = (self.timer(shared), pin!(future));
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => match &mut timer {
                Some(timer) => timer.as_mut().poll(cx).map(|()| None),
                None => Poll::Pending,
            },
        })
        .await
    }

    /// What a request ends with that is not sent, or not sent again, for this reason: a line that was
    /// refused did leave (R2).
    pub(crate) fn last(&mut self, why: impl Into<CallError>) -> CallError {
        match why.into() {
            error @ CallError::NotSent(_) => self.refusal.take().unwrap_or(error),
            error => error,
        }
    }

    /// After how long a request that ended with `error` is to be sent again; `None` if that is not for
    /// this library to do, or would be too late (PROTOCOL.md, section 10).
    pub(crate) fn resend(
        &mut self,
        shared: &Shared,
        id: RequestId,
        error: &CallError,
    ) -> Option<Duration> {
        if self.fail_fast || shared.refusal_error().is_some() {
            return None;
        }
        let pause = match error {
            CallError::NotSent(NotSent::Lost(_)) => Duration::ZERO,
            CallError::Refused { reason, retry: None } if reason.code == Code::CLOSING => {
                self.pause_unless_moved_on(shared, id)?
            }
            CallError::Refused { retry: Some(hint), .. } => {
                hint.saturating_add(self.next_pause(shared))
            }
            _ => return None,
        };
        let until = Instant::now().checked_add(pause);
        let is_late = |expires: Instant| until.is_none_or(|until| until >= expires);
        if self.expires.is_some_and(is_late) {
            return None;
        }
        if matches!(error, CallError::Refused { .. }) {
            self.refusal = Some(error.clone());
        }
        shared.counters.fold(&mut Tally { resent: 1, ..Tally::default() });
        Some(pause)
    }

    /// Another connection is sought at once. One that refuses for closing without having said so is
    /// not flooded; without another to come, there is nothing to wait for.
    fn pause_unless_moved_on(&mut self, shared: &Shared, id: RequestId) -> Option<Duration> {
        if !shared.reconnects {
            return None;
        }
        let moved_on = shared.has_moved_on_from(id);
        Some(if moved_on { Duration::ZERO } else { self.next_pause(shared) })
    }

    fn next_pause(&mut self, shared: &Shared) -> Duration {
        self.refusals.pause(shared.config.backoff(), shared.config.random.next_u64())
    }
}

/// What is left until then.
pub(crate) fn left(expires: Option<Instant>) -> Option<Duration> {
    expires.map(|expires| expires.saturating_duration_since(Instant::now()))
}
