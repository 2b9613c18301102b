//! A request and its outcome: the common part of calls, streamed calls and lists.

use std::{
    borrow::Borrow,
    fmt,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use crate::{
    client::{
        core::{
            caller::Caller,
            cell::RequestCell,
            links::Links,
            outcome::KeptResult,
            repetition::Repetition,
            requests::{Request, Requests},
            step::Step,
        },
        shared::Shared,
        timer::Timer,
    },
    coop::poll_budgeted,
    error::{CallError, ConnectionError, NotSent, Unknown},
    protocol::{AttributeList, InvalidAttribute},
    sync::Arc,
};

/// A request that a task polls. It is sent again as long as it is proven not executed and its
/// deadline has not passed. Dropping it cancels it (guarantee "cancelling is free").
pub(crate) struct Exchange<S: Borrow<Shared>> {
    shared: S,
    /// The cell with its line, until it is over.
    cell: Option<Arc<RequestCell>>,
    course: Course,
    deadline: Deadline,
    pub(crate) fail_fast: bool,
    /// Whether it is sent again if it may have run.
    repeats: Repetition,
    timer: Option<Timer>,
}

/// The progress of a request.
enum Course {
    New,
    Begun,
    Over(Option<Box<CallError>>),
}

/// The deadline of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deadline {
    /// The deadline of the configuration. It is not sent to the server.
    Default,
    /// The request's own deadline, or none. It is sent to the server as `ttl`.
    Own(Option<Duration>),
}

impl<S: Borrow<Shared>> Exchange<S> {
    pub(crate) fn new(shared: S, cell: Result<Arc<RequestCell>, CallError>) -> Self {
        let fail_fast = shared.borrow().config.fail_fast;
        let (cell, course) = match cell {
            Ok(cell) => (Some(cell), Course::New),
            Err(error) => (None, Course::Over(Some(Box::new(error)))),
        };
        let (deadline, repeats) = (Deadline::Default, Repetition::default());
        Self { shared, cell, course, deadline, fail_fast, repeats, timer: None }
    }

    pub(crate) fn shared(&self) -> &Shared {
        self.shared.borrow()
    }

    /// The client with which it was made.
    pub(crate) fn client(&self) -> &S {
        &self.shared
    }

    /// The cell, while the request is under way.
    pub(crate) fn under_way(&self) -> Option<&RequestCell> {
        self.cell.as_deref().filter(|_| matches!(self.course, Course::Begun))
    }

    pub(crate) fn set_deadline(&mut self, deadline: Option<Duration>) {
        self.deadline = Deadline::Own(deadline);
    }

    /// Gives it a key, unless it was polled.
    pub(crate) fn set_key(&mut self, key: impl fmt::Display) {
        self.repeats.has_key = true;
        self.push(|attributes| attributes.push("key", key));
    }

    /// The request may run twice.
    pub(crate) fn set_idempotent(&mut self) {
        self.repeats.is_idempotent = true;
    }

    /// Adds attributes to its line, unless it was polled.
    pub(crate) fn push(
        &mut self,
        push: impl FnOnce(&mut AttributeList) -> Result<(), InvalidAttribute>,
    ) {
        // Before the request is begun, its cell is not shared.
        let cell = self.cell.as_mut().filter(|_| matches!(self.course, Course::New));
        let Some(cell) = cell.and_then(Arc::get_mut) else { return };
        if let Err(error) = push(&mut cell.body.attributes) {
            self.fail(NotSent::Attribute(error));
        }
    }

    /// Begins the request at the first call. Returns whether it is under way.
    pub(crate) fn begin(&mut self, caller: impl FnOnce() -> Caller) -> bool {
        if let (Course::New, Some(cell)) = (&self.course, self.cell.clone()) {
            match self.submit(cell, caller) {
                Ok(()) => self.course = Course::Begun,
                Err(error) => self.fail(error),
            }
        }
        matches!(self.course, Course::Begun)
    }

    fn fail(&mut self, error: NotSent) {
        self.cell = None;
        self.course = Course::Over(Some(Box::new(error.into())));
    }

    /// Sends a one-way request at once, if it was not begun and can be sent. Returns whether it was
    /// sent.
    pub(crate) fn send_one_way(&mut self) -> bool {
        let Course::New = self.course else { return false };
        let Some(RequestCell { body, .. }) = self.cell.as_deref() else { return false };
        let shared = self.shared.borrow();
        let sent = shared.act(|core, step| core.requests.try_one_way(body, &mut core.links, step));
        match sent {
            Ok(false) => false,
            Ok(true) => {
                self.finish();
                true
            }
            Err(error) => {
                self.fail(error);
                false
            }
        }
    }

    fn submit(
        &mut self,
        cell: Arc<RequestCell>,
        caller: impl FnOnce() -> Caller,
    ) -> Result<(), NotSent> {
        let shared = self.shared.borrow();
        let (limit, has_own_deadline) = match self.deadline {
            Deadline::Default => (shared.config.deadline, false),
            Deadline::Own(limit) => (limit, limit.is_some()),
        };
        if has_own_deadline && limit.is_some_and(|limit| limit.is_zero()) {
            return Err(shared.look(|core| core.links.out_of_time()));
        }
        let (now, expires) = shared.clock.now_and_expiry(limit);
        let (fail_fast, repeats) = (self.fail_fast, self.repeats);
        let caller = caller();
        let request = Request { cell, caller, expires, has_own_deadline, fail_fast, repeats };
        // The driver handles the default deadline, also of requests in the intake. A timer for each
        // request would cost more.
        let Err(request) = shared.push(request) else { return Ok(()) };
        let is_sent = shared
            .update(now, |core, step| core.requests.submit(request, &mut core.links, step))?;
        if has_own_deadline || !is_sent {
            self.timer = limit.and_then(|limit| shared.timer(limit));
        }
        Ok(())
    }

    /// Polls a call: sends it at the first poll, and returns its outcome.
    pub(crate) fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<KeptResult> {
        // It is sent even without budget, because calls are sent in the order of their first polls.
        if let (Course::New, Some(cell)) = (&self.course, &self.cell) {
            cell.await_by(cx.waker());
            if self.begin(|| Caller::Call) {
                return self.poll_deadline(cx).map(|error| Err(Box::new(error)));
            }
        }
        poll_budgeted(cx, |cx| match self.poll_outcome(cx.waker()) {
            Poll::Pending => self.poll_deadline(cx).map(|error| Err(Box::new(error))),
            ended => ended,
        })
    }

    fn poll_outcome(&mut self, waker: &Waker) -> Poll<KeptResult> {
        let outcome = match self.under_way() {
            Some(cell) => ready!(cell.poll(waker)),
            None => return Poll::Ready(Err(self.kept_error())),
        };
        self.finish();
        Poll::Ready(outcome)
    }

    fn kept_error(&mut self) -> Box<CallError> {
        let kept = match &mut self.course {
            Course::Over(error) => error.take(),
            Course::New | Course::Begun => None,
        };
        kept.unwrap_or_else(|| Box::new(abandoned()))
    }

    /// The error of a request that has ended, once.
    pub(crate) fn take_error(&mut self) -> Option<CallError> {
        match &mut self.course {
            Course::Over(error) => error.take().map(|error| *error),
            Course::New | Course::Begun => None,
        }
    }

    /// Marks the request as ended, so that there is nothing to cancel.
    pub(crate) fn finish(&mut self) {
        self.course = Course::Over(None);
        self.timer = None;
        self.cell.take().into_iter().for_each(RequestCell::recycle);
    }

    /// Waits for the deadline, and returns the error for it. If the request has just ended in
    /// another way, its caller is woken for that outcome.
    pub(crate) fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<CallError> {
        self.poll_timer(cx, Requests::give_up)
    }

    /// As [`poll_deadline`](Self::poll_deadline), but the deadline of the configuration ends when
    /// the request is sent.
    pub(crate) fn poll_deadline_to_send(&mut self, cx: &mut Context<'_>) -> Poll<CallError> {
        match self.deadline {
            Deadline::Default => self.poll_timer(cx, Requests::give_up_waiting),
            Deadline::Own(_) => self.poll_deadline(cx),
        }
    }

    fn poll_timer(
        &mut self,
        cx: &mut Context<'_>,
        give_up: impl FnOnce(&mut Requests, &RequestCell, &mut Links, &mut Step) -> Option<CallError>,
    ) -> Poll<CallError> {
        let (Some(timer), Some(cell), Course::Begun) = (&mut self.timer, &self.cell, &self.course)
        else {
            return Poll::Pending;
        };
        ready!(timer.poll(cx));
        self.timer = None;
        let shared = self.shared.borrow();
        let late =
            shared.act(|core, step| give_up(&mut core.requests, cell, &mut core.links, step));
        late.map_or(Poll::Pending, |error| {
            // It may hold the waker of the task.
            self.cell = None;
            self.finish();
            Poll::Ready(error)
        })
    }

    /// Whether it has a timer.
    pub(crate) fn has_timer(&self) -> bool {
        self.timer.is_some()
    }

    /// Cancels the request, if it is under way.
    pub(crate) fn cancel(&mut self) {
        if let Course::Begun = std::mem::replace(&mut self.course, Course::Over(None))
            && let Some(cell) = self.cell.take()
        {
            let shared = self.shared.borrow();
            shared.act(|core, step| core.requests.forget(&cell, &mut core.links, step));
        }
    }
}

/// Dropping a request cancels it. Its place in flight stays taken until the terminal line arrives
/// (guarantee "cancelling is free").
impl<S: Borrow<Shared>> Drop for Exchange<S> {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// The outcome of a request whose client has gone before it was answered.
pub(crate) fn abandoned() -> CallError {
    Unknown::Lost(ConnectionError::Closed).into()
}
