//! A call that waits for the authorizer, in a place in flight.

use std::{
    mem,
    task::{Context, Poll},
};

use crate::{
    guard::guarded,
    protocol::Line,
    server::{
        access::authorizer::Ruling,
        core::environment::Environment,
        handlers::{
            reply::{Ended, Rejection},
            router::{Found, start_line},
            running::{Run, Running},
        },
        keys::run::keyed_call,
        session::Session,
        stats::Tally,
    },
    sync::Arc,
    topic::BoxFuture,
};

/// Waits for the verdict, and then constructs and runs the handler.
pub(in crate::server) struct Authorizing(AuthorizingStage);

enum AuthorizingStage {
    Asking(Undecided),
    Started(Running),
    Refused(Rejection),
}

struct Undecided {
    verdict: BoxFuture<Ruling>,
    /// The line of the request, kept until its handler is constructed.
    line: Vec<u8>,
    method: Found,
    environment: Arc<Environment>,
    session: Session,
}

impl Authorizing {
    pub(in crate::server) fn new(
        verdict: BoxFuture<Ruling>,
        line: Vec<u8>,
        method: Found,
        environment: Arc<Environment>,
        session: Session,
    ) -> Self {
        Self(AuthorizingStage::Asking(Undecided { verdict, line, method, environment, session }))
    }

    fn decide(&mut self, ruling: Ruling) {
        let undecided = AuthorizingStage::Refused(Rejection::busy(""));
        let AuthorizingStage::Asking(asking) = mem::replace(&mut self.0, undecided) else { return };
        let Undecided { verdict, line, method, environment, session } = asking;
        if guarded(|| drop(verdict)).is_none() {
            return;
        }
        if let Err(rejection) = ruling {
            self.0 = AuthorizingStage::Refused(rejection);
            return;
        }
        let started = start(&line, method, &environment, &session);
        self.0 = started.map_or_else(AuthorizingStage::Refused, AuthorizingStage::Started);
    }
}

impl Run for Authorizing {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if let AuthorizingStage::Asking(asking) = &mut self.0 {
            let polled = guarded(|| asking.verdict.as_mut().poll(cx));
            if let Some(Poll::Pending) = polled {
                return Poll::Pending;
            }
            self.decide(match polled {
                Some(Poll::Ready(ruling)) => ruling,
                _ => Err(Rejection::busy("")),
            });
        }
        match &mut self.0 {
            AuthorizingStage::Started(running) => running.poll(cx),
            AuthorizingStage::Refused(rejection) => Poll::Ready(Ended::Refused(rejection.clone())),
            AuthorizingStage::Asking(_) => Poll::Pending,
        }
    }

    fn has_started(&self) -> bool {
        matches!(self.0, AuthorizingStage::Started(_))
    }

    fn abort(&mut self) -> bool {
        match &mut self.0 {
            AuthorizingStage::Started(running) => running.abort(),
            AuthorizingStage::Asking(_) | AuthorizingStage::Refused(_) => false,
        }
    }
}

/// Constructs the handler, or begins the run of a keyed request. A parsed line borrows its bytes, so
/// only the bytes were kept, and calls whose verdict takes time are parsed twice.
fn start(
    line: &[u8],
    method: Found,
    environment: &Arc<Environment>,
    session: &Session,
) -> Result<Running, Rejection> {
    let parsed =
        Line::parse_request(line).map_err(|fault| Rejection::bad_arguments(fault.to_string()))?;
    if let Some(call) = keyed_call(environment, session, &parsed, line, method, None) {
        return call.map(Running::apart);
    }
    let running = start_line(&environment.methods, line, method, session, &environment.publisher);
    let mut tally = Tally { started: running.is_ok().into(), ..Tally::default() };
    environment.totals.fold(session.id(), &mut tally);
    running
}
