//! The requests of a connection: how they are started, kept and ended.

use std::{
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::{
    guard::guarded,
    protocol::{Outcome, RequestId, Time},
    server::{
        core::{
            connection::Connection,
            environment::Environment,
            in_flight::{Bounds, How, NEVER, Over},
        },
        handlers::{
            reply::{Answer, Ended, Rejection, Reply},
            router::Found,
            running::{Running, Started},
        },
        keys::waiting::KeyedCall,
        session::Session,
    },
};

/// A request that is about to start.
pub(super) struct Work {
    pub(super) id: Option<RequestId>,
    /// The id that `/cancel` names, if the request can be cancelled.
    pub(super) cancel: Option<RequestId>,
    /// The end of its `ttl`, or [`NEVER`].
    pub(super) until: Time,
    /// The bytes of its payload, as received.
    pub(super) bytes: usize,
    /// The credit of a streamed reply, in items.
    pub(super) window: u64,
    /// The method of the application; `None` for a `/publish`.
    pub(super) method: Option<Found>,
}

impl Connection {
    /// Starts a handler and polls it once. Keeps it if it is pending.
    pub(super) fn run(
        &mut self,
        work: Work,
        start: impl FnOnce(&Environment, &Session, &Waker) -> Result<Started, Rejection>,
    ) {
        let (environment, session) = (&*self.environment, &self.session);
        let active = self.active.get_or_insert_default();
        let waker = active.in_flight.next_waker(session.mailbox());
        let started = guarded(|| start(environment, session, waker));
        let is_started = match &started {
            Some(Ok(started)) => started.has_started(),
            Some(Err(_)) => false,
            None => true,
        };
        active.tally.started += u64::from(is_started);
        match started {
            Some(Ok(started)) => match poll_first(started, waker) {
                Started::Waiting(running) | Started::Made(running) => self.keep(work, running),
                Started::Ended(Ended::Replied(Reply(Answer::Stream(items)))) => {
                    self.keep_stream(work, items);
                }
                Started::Ended(ended) => self.finish_ended(work.id, work.method, ended),
            },
            Some(Err(rejection)) => self.on_rejection(work.id, &rejection),
            None => self.finish_ended(work.id, work.method, Ended::Panicked),
        }
    }

    /// Waits for the run of a keyed request, which counts its handler itself. The run has a limit,
    /// so the request needs none besides its `ttl`.
    pub(super) fn wait_for_run(&mut self, work: Work, call: Result<KeyedCall, Rejection>) {
        let started = match call {
            Ok(call) => Started::Made(Running::apart(call)),
            Err(rejection) => return self.on_rejection(work.id, &rejection),
        };
        let mailbox = self.session.mailbox();
        let waker = self.active.get_or_insert_default().in_flight.next_waker(mailbox);
        match poll_first(started, waker) {
            Started::Ended(ended) => self.finish_ended(work.id, work.method, ended),
            Started::Waiting(running) | Started::Made(running) => {
                self.keep_within(Duration::MAX, work, running);
            }
        }
    }

    pub(super) fn keep(&mut self, work: Work, running: Running) {
        let usual = self.environment.config.handler_time;
        let limit = self.environment.methods.handler_time(work.method, usual);
        self.keep_within(limit, work, running);
    }

    fn keep_within(&mut self, mut limit: Duration, work: Work, running: Running) {
        let (begun, usual) = (self.now, self.environment.config.handler_time);
        let Work { id, cancel, until, bytes, window: credit, method } = work;
        if !self.state.is_reading() {
            limit = limit.min(usual);
        }
        let bounds = Bounds { begun, limit, usual, until, credit, bytes };
        let deadline = self.active().in_flight.keep(id, cancel, method, running, bounds);
        self.set_timeout(deadline);
    }

    /// The end of the `ttl` (in milliseconds) of a request that was read now.
    pub(super) fn end_of_ttl(&mut self, ttl: Option<u64>) -> Time {
        ttl.map_or(NEVER, |ttl| self.now.after(Duration::from_millis(ttl)))
    }

    pub(super) fn cancel_request(&mut self, id: RequestId) {
        if self.cancel_parked(id) {
            return;
        }
        let active = self.active.as_mut();
        if let Some(over) = active.and_then(|active| active.in_flight.cancel(id)) {
            self.finish(over);
        }
    }

    pub(super) fn finish(&mut self, Over { id, method, how }: Over) {
        match (id, how) {
            (id, How::Ended(ended)) => self.finish_ended(id, method, ended),
            (Some(id), How::Cut(code)) => {
                self.answer_failure(id, Outcome::Cut, &code, format_args!(""));
            }
            (Some(id), How::NotStarted(code)) => self.refuse(id, &code, format_args!("")),
            (None, _) => {}
        }
    }

    /// Whether another application request may be started.
    pub(super) fn has_place(&self) -> bool {
        let config = &self.environment.config;
        let mark = self.reply_mark().saturating_sub(self.finished());
        self.active.as_ref().is_none_or(|active| {
            active.in_flight.len() < config.in_flight
                && active.in_flight.payload_bytes() < config.payload_bytes
                && active.out.len() < mark
        })
    }
}

/// Polls a handler once, unless it was polled when it was made, and drops it if it has ended.
///
/// The poll and the drop have separate guards. A handler that panics in its drop while its first
/// panic unwinds would abort the process.
fn poll_first(started: Started, waker: &Waker) -> Started {
    let Started::Made(mut running) = started else { return started };
    let cx = &mut Context::from_waker(waker);
    let polled = guarded(|| running.poll(cx));
    if let Some(Poll::Pending) = polled {
        return Started::Waiting(running);
    }
    let dropped_well = guarded(|| drop(running)).is_some();
    match polled {
        Some(Poll::Ready(ended)) if dropped_well => Started::Ended(ended),
        _ => Started::Ended(Ended::Panicked),
    }
}
