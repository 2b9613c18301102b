//! The run of a keyed request, from the look into the table to its outcome.

use std::{
    mem,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tracing::Span;

use crate::{
    guard::{InSpan, guarded},
    protocol::{Code, Line, Time},
    server::{
        core::environment::Environment,
        handlers::{
            reply::{Answer, Ended, Rejection, Reply},
            router::{Found, start_line},
            running::Running,
        },
        keys::{
            Begun, BoxFuture, KeyedOutcome, KeyedRequest, KeysUnavailable,
            runs::{Detached, Entered, Keyed, SharedRun, Verdict},
            waiting::KeyedCall,
        },
        peer_addr::PeerAddr,
        session::Session,
        stats::Tally,
    },
    sync::Arc,
};

/// Constructs the handler of a run.
pub(in crate::server) type Start =
    Box<dyn FnOnce(&Environment, &Session) -> Result<Running, Rejection> + Send>;

/// A keyed request that was read.
pub(in crate::server) struct KeyedStart<'a> {
    pub(in crate::server) key: &'a str,
    /// Its method, or `/publish`.
    pub(in crate::server) method: &'a str,
    /// Its payload, not stuffed.
    pub(in crate::server) payload: &'a [u8],
    /// The bytes that the run holds: the length of its line.
    pub(in crate::server) bytes: usize,
    /// How long its handler may take, counted from its start. [`Duration::MAX`] means the limit of
    /// the server, because no caller can end a run.
    pub(in crate::server) limit: Duration,
}

/// Calls a method with the key of the line; `None` if it has none. As [`begin`].
pub(in crate::server) fn keyed_call(
    environment: &Arc<Environment>,
    session: &Session,
    line: &Line<'_>,
    raw: &[u8],
    method: Found,
    now: Option<Time>,
) -> Option<Result<KeyedCall, Rejection>> {
    let key = line.attributes.get("key").filter(|_| environment.keyed.is_some())?;
    let limit = environment.methods.handler_time(Some(method), environment.config.handler_time);
    let (word, payload) = (line.word.as_str(), line.rest.plain());
    let keyed = KeyedStart { key, method: word, payload: &payload, bytes: raw.len(), limit };
    let line = raw.to_vec();
    let start = move |environment: &Environment, session: &Session| {
        start_line(&environment.methods, &line, method, session, &environment.publisher)
    };
    Some(begin(environment, session, &keyed, start, now))
}

/// Begins the run of a request, or joins the one in progress. With a time, the run goes as far as
/// it can at once, so that handlers start in line order if the table answers at once.
pub(in crate::server) fn begin(
    environment: &Arc<Environment>,
    session: &Session,
    keyed: &KeyedStart<'_>,
    start: impl FnOnce(&Environment, &Session) -> Result<Running, Rejection> + Send + 'static,
    now: Option<Time>,
) -> Result<KeyedCall, Rejection> {
    let Some(runs) = &environment.keyed else { return Err(Rejection::busy("")) };
    let principal = session.principal();
    let max_line = environment.config.max_line;
    let KeyedStart { key, method, payload, bytes, .. } = *keyed;
    let request = KeyedRequest::bounded(principal.name(), key, method, payload, max_line);
    let request = request.announced(runs.announced(session.key_store()));
    let request = match session.peer() {
        PeerAddr::Tcp(address) => request.peer(address.ip()),
        PeerAddr::Unix(_) | PeerAddr::Other(_) => request,
    };
    let run = match runs.enter(request, bytes)? {
        Entered::Joined(run) => return Ok(KeyedCall::new(run)),
        Entered::New(run) => run,
    };
    let usual = environment.config.handler_time;
    let limit = if keyed.limit == Duration::MAX { usual } else { keyed.limit };
    let mut new = KeyedRun::new(environment, session, run.clone(), Box::new(start), limit);
    let cx = &mut Context::from_waker(Waker::noop());
    // If it is pending, its driver polls it again with a waker of its own.
    if now.is_none_or(|now| new.poll(cx, now).is_pending()) {
        runs.spawn(Box::new(new));
    }
    Ok(KeyedCall::new(run))
}

/// The run of a keyed request. It belongs to the server, so it goes on when its callers have gone.
struct KeyedRun {
    environment: Arc<Environment>,
    session: Session,
    shared: Arc<SharedRun>,
    span: Span,
    limit: Duration,
    stage: Stage,
    /// When the stage has to end; `None` before the first poll of the stage.
    deadline: Option<Time>,
}

enum Stage {
    New(Start),
    /// The table looks the key up.
    Beginning(TableFuture<Begun>, Start),
    /// Another server runs it.
    Elsewhere(TableFuture<KeyedOutcome>),
    /// The handler runs. It may have been told to end.
    Running(Running, Option<Code>),
    /// The table stores the outcome, or forgets the key.
    Finishing(TableFuture<()>, Verdict),
    Over,
}

type TableFuture<T> = BoxFuture<Result<T, KeysUnavailable>>;

impl KeyedRun {
    fn new(
        environment: &Arc<Environment>,
        session: &Session,
        shared: Arc<SharedRun>,
        start: Start,
        limit: Duration,
    ) -> Self {
        let (environment, session) = (environment.clone(), session.clone());
        environment.publishing.begin();
        let (span, stage) = (Span::current(), Stage::New(start));
        Self { environment, session, shared, span, limit, stage, deadline: None }
    }

    fn keyed(&self) -> Option<&Keyed> {
        self.environment.keyed.as_ref()
    }

    /// Takes the next step. `Pending` if it has to wait.
    fn step(&mut self, cx: &mut Context<'_>, now: Time) -> Poll<()> {
        let is_late = self.is_late(now);
        match mem::replace(&mut self.stage, Stage::Over) {
            Stage::New(start) => self.look_up(start),
            Stage::Beginning(mut future, start) => match poll_table(&mut future, cx) {
                Poll::Ready(begun) => self.begun(begun, start, future),
                Poll::Pending if is_late => self.begun(Err(late()), start, future),
                Poll::Pending => return self.wait(Stage::Beginning(future, start)),
            },
            Stage::Elsewhere(mut future) => match poll_table(&mut future, cx) {
                Poll::Ready(Ok(outcome)) => self.settle(Verdict::Kept(outcome)),
                Poll::Ready(Err(error)) => self.refuse(&error),
                Poll::Pending if is_late => {
                    self.settle(Verdict::Kept(KeyedOutcome::cut(Code::DEADLINE)));
                }
                Poll::Pending => return self.wait(Stage::Elsewhere(future)),
            },
            Stage::Running(mut running, ending) => {
                if is_late && ending.is_none() {
                    self.stop(running, &Code::DEADLINE);
                } else {
                    match guarded(|| running.poll(cx)) {
                        Some(Poll::Pending) => return self.wait(Stage::Running(running, ending)),
                        Some(Poll::Ready(ended)) => self.ended(running, ended, ending),
                        None => self.ended(running, Ended::Panicked, ending),
                    }
                }
            }
            Stage::Finishing(mut future, verdict) => match poll_table(&mut future, cx) {
                Poll::Pending if !is_late => return self.wait(Stage::Finishing(future, verdict)),
                polled => {
                    if let Poll::Ready(Err(error)) = polled {
                        tracing::error!(%error, "outcome of a keyed request not stored");
                    }
                    self.settle(verdict);
                    discard(future);
                }
            },
            Stage::Over => return Poll::Ready(()),
        }
        Poll::Ready(())
    }

    fn wait(&mut self, stage: Stage) -> Poll<()> {
        self.stage = stage;
        Poll::Pending
    }

    /// Whether the time of the stage is over. Sets that time in the first poll of the stage.
    fn is_late(&mut self, now: Time) -> bool {
        let limit = match &self.stage {
            Stage::Running(..) | Stage::Elsewhere(_) => self.limit,
            _ => self.environment.config.handler_time,
        };
        *self.deadline.get_or_insert_with(|| now.after(limit)) <= now
    }

    fn move_to(&mut self, stage: Stage) {
        (self.stage, self.deadline) = (stage, None);
    }

    fn look_up(&mut self, start: Start) {
        let request = self.shared.request();
        let future = self.keyed().and_then(|keyed| guarded(|| keyed.table().begin(request)));
        match future {
            Some(future) => self.move_to(Stage::Beginning(future, start)),
            None => self.refuse(&panicked()),
        }
    }

    fn begun(
        &mut self,
        begun: Result<Begun, KeysUnavailable>,
        start: Start,
        future: TableFuture<Begun>,
    ) {
        discard(future);
        match begun {
            Ok(Begun::Run) => self.start(start),
            Ok(Begun::Joined(future)) => self.move_to(Stage::Elsewhere(future)),
            Ok(Begun::Done(outcome)) => self.settle(Verdict::Kept(outcome)),
            Ok(Begun::Lost) => self.settle(Verdict::Kept(KeyedOutcome::cut(Code::LOST))),
            Ok(Begun::Mismatch) => self.settle(Verdict::Refused(Rejection::key_mismatch())),
            Ok(Begun::OtherStore) => {
                self.session.close(Code::CLOSING);
                self.settle(Verdict::Refused(Rejection::busy("")));
            }
            Ok(Begun::Full) => self.settle(Verdict::Refused(Rejection::busy(""))),
            Err(error) => self.refuse(&error),
        }
    }

    /// Refuses the requests, because the table cannot answer.
    fn refuse(&mut self, error: &KeysUnavailable) {
        tracing::error!(%error, "keyed request refused");
        self.settle(Verdict::Refused(Rejection::busy("")));
    }

    fn start(&mut self, start: Start) {
        let Self { environment, session, .. } = self;
        let started = guarded(|| start(environment, session));
        if !matches!(started, Some(Err(_))) {
            self.count(Tally { started: 1, ..Tally::default() });
        }
        match started {
            Some(Ok(running)) => self.move_to(Stage::Running(running, None)),
            Some(Err(rejection)) => self.finish(Verdict::Refused(rejection)),
            None => self.finish_ended(&Ended::Panicked),
        }
    }

    fn count(&self, mut tally: Tally) {
        self.environment.totals.fold(self.session.id(), &mut tally);
    }

    /// Tells the handler to end. If it is a task, waits for the end of that.
    fn stop(&mut self, mut running: Running, code: &Code) {
        match guarded(|| running.abort()) {
            Some(true) => self.stage = Stage::Running(running, Some(code.clone())),
            _ => self.ended(running, Ended::Aborted { started: true }, Some(code.clone())),
        }
    }

    fn ended(&mut self, running: Running, ended: Ended, ending: Option<Code>) {
        let (dropped_well, items) = running.end();
        drop(items);
        match (ending, ended) {
            (Some(code), Ended::Aborted { started: false }) => {
                self.finish(Verdict::Refused(Rejection::not_started(code)));
            }
            (Some(code), ended) => {
                discard(ended);
                self.finish(Verdict::Kept(KeyedOutcome::cut(code)));
            }
            (None, ended) if dropped_well => {
                self.finish_ended(&ended);
                discard(ended);
            }
            (None, ended) => {
                discard(ended);
                self.finish_ended(&Ended::Panicked);
            }
        }
    }

    fn finish_ended(&mut self, ended: &Ended) {
        if let Ended::Panicked = ended {
            self.count(Tally { panics: 1, ..Tally::default() });
            tracing::error!(method = self.shared.request().method(), "keyed handler panicked");
        }
        let refusal = match ended {
            Ended::Refused(rejection) | Ended::Replied(Reply(Answer::No(rejection))) => rejection,
            ended => {
                let kept = KeyedOutcome::of(ended, self.environment.config.max_line);
                let kept = kept.unwrap_or_else(|| KeyedOutcome::cut(Code::LOST));
                return self.finish(Verdict::Kept(kept));
            }
        };
        self.finish(Verdict::Refused(refusal.clone()));
    }

    /// Stores the outcome of a handler that was to run.
    fn finish(&mut self, verdict: Verdict) {
        let request = self.shared.request();
        let future = self.keyed().and_then(|keyed| {
            guarded(|| match &verdict {
                Verdict::Kept(outcome) => keyed.table().finish(request, outcome.clone()),
                Verdict::Refused(_) => keyed.table().forget(request),
            })
        });
        match future {
            Some(future) => self.move_to(Stage::Finishing(future, verdict)),
            None => {
                tracing::error!(error = %panicked(), "outcome of a keyed request not stored");
                self.settle(verdict);
            }
        }
    }

    fn settle(&mut self, verdict: Verdict) {
        self.stage = Stage::Over;
        if let Some(keyed) = self.keyed() {
            keyed.settle(&self.shared, verdict);
        }
    }
}

impl Detached for KeyedRun {
    fn poll(&mut self, cx: &mut Context<'_>, now: Time) -> Poll<()> {
        let _span = InSpan::enter(&self.span);
        while !matches!(self.stage, Stage::Over) {
            if self.step(cx, now).is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    fn next_timeout(&self) -> Option<Time> {
        match self.stage {
            // It ends when its task does.
            Stage::Running(_, Some(_)) => None,
            _ => self.deadline,
        }
    }

    fn end(&mut self, code: &Code) {
        match mem::replace(&mut self.stage, Stage::Over) {
            Stage::New(start) | Stage::Beginning(_, start) => {
                discard(start);
                self.settle(Verdict::Refused(Rejection::not_started(code.clone())));
            }
            Stage::Elsewhere(future) => {
                discard(future);
                self.settle(Verdict::Kept(KeyedOutcome::cut(code.clone())));
            }
            Stage::Running(running, None) => self.stop(running, code),
            stage => self.stage = stage,
        }
    }
}

/// A run whose driver has gone leaves `cut lost`.
impl Drop for KeyedRun {
    fn drop(&mut self) {
        let lost = KeyedOutcome::cut(Code::LOST);
        match mem::replace(&mut self.stage, Stage::Over) {
            Stage::Over => {}
            Stage::Running(running, _) => {
                running.end();
                let request = self.shared.request();
                let keyed = self.keyed();
                let future =
                    keyed.and_then(|keyed| guarded(|| keyed.table().finish(request, lost.clone())));
                discard(future);
                self.settle(Verdict::Kept(lost));
            }
            Stage::Finishing(_, verdict) => self.settle(verdict),
            stage => {
                discard(stage);
                self.settle(Verdict::Kept(lost));
            }
        }
        self.environment.publishing.end();
    }
}

fn poll_table<T>(
    future: &mut TableFuture<T>,
    cx: &mut Context<'_>,
) -> Poll<Result<T, KeysUnavailable>> {
    guarded(|| future.as_mut().poll(cx)).unwrap_or_else(|| Poll::Ready(Err(panicked())))
}

/// Drops a value that may be user code.
fn discard<T>(value: T) {
    guarded(|| drop(value));
}

fn panicked() -> KeysUnavailable {
    KeysUnavailable("it panicked".into())
}

fn late() -> KeysUnavailable {
    KeysUnavailable("it did not answer in time".into())
}
