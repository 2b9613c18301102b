//! Authentication and authorization, as a connection does them.

use std::task::Poll;

use crate::{
    credentials::Credentials,
    guard::guarded,
    protocol::{Code, Line, Mark, RequestId, Time, Topic, encode_bye},
    server::{
        access::{
            authenticator::Denied,
            authorizer::{Action, Decision, Ruling, Verdict},
            hook_future::HookFuture,
            principal::Principal,
        },
        core::{
            access::{Access, Asking, Permission},
            arguments::Refusal,
            connection::{Connection, Taken},
        },
        handlers::{authorizing::Authorizing, reply::Rejection, router::Found, running::Running},
    },
    sync::Arc,
    topic::BoxFuture,
};

const AUTH_USAGE: &str = "usage: /auth SCHEME CREDENTIALS";

impl Connection {
    /// Whether an `/auth` is in progress, so that no further line may be processed.
    pub(super) fn is_trying(&self) -> bool {
        matches!(self.state.access(), Some(Access::Stranger(stranger)) if stranger.trying.is_some())
    }

    /// Whether a `/subscribe` waits for the authorizer.
    pub(super) fn is_asking(&self) -> bool {
        let access = self.state.access();
        matches!(access, Some(Access::Asking(asking)) if asking.permission.ruling().is_none())
    }

    /// Whether the peer still has to authenticate.
    pub(super) fn is_stranger(&self) -> bool {
        matches!(self.state.access(), Some(Access::Stranger(_)))
    }

    /// Whether this line is allowed only after authentication.
    pub(super) fn is_barred(&self, line: &Line<'_>) -> bool {
        self.is_stranger() && !matches!(line.word.as_str(), "/hello" | "/auth" | "/quit")
    }

    /// Refuses a line that is allowed only after authentication, and counts a violation. A one-way
    /// line is not reported, to keep the output to unauthenticated peers small.
    pub(super) fn bar(&mut self, mark: Mark) -> Taken {
        if let Mark::Id(id) = mark {
            self.refuse(id, &Code::UNAUTHENTICATED, format_args!(""));
        }
        self.violation();
        Taken::Yes
    }

    /// Polls the hook of an open decision. Returns whether there is a decision now.
    pub(super) fn poll_access(&mut self) -> bool {
        match self.state.access_mut() {
            None => false,
            Some(Access::Stranger(stranger)) => {
                let Some((id, asked)) = &mut stranger.trying else { return false };
                let (id, Poll::Ready(found)) = (*id, asked.poll()) else { return false };
                self.on_tried(id, found.unwrap_or(Err(Denied::Unavailable)));
                true
            }
            Some(Access::Asking(asking)) => {
                asking.permission.ruling().is_none() && asking.permission.is_decided()
            }
        }
    }

    /// Ends open decisions whose deadline has passed. Returns whether a deferred line can go on.
    pub(super) fn on_access_alarm(&mut self, now: Time) -> bool {
        let Some(access) = self.state.access_mut() else { return false };
        let deadline = access.deadline();
        match access {
            _ if now < deadline => self.set_timeout(deadline),
            Access::Stranger(stranger) => {
                if let Some((id, asked)) = stranger.trying.take() {
                    drop(asked);
                    self.refuse(id, &Code::BUSY, format_args!(""));
                }
                tracing::debug!("not authenticated in time");
                self.show_out();
            }
            Access::Asking(asking) => {
                let was_open = asking.permission.ruling().is_none();
                asking.permission.give_up();
                return was_open;
            }
        }
        false
    }

    /// Processes `/auth`. It is answered once the authenticator has answered, and no line is
    /// processed meanwhile.
    pub(super) fn auth(&mut self, id: RequestId, line: &Line<'_>) -> Result<Taken, Refusal> {
        if !self.is_stranger() {
            return Err((Code::OUT_OF_ORDER, "authenticated already".into()));
        }
        match self.begin_auth(line) {
            Ok(future) => {
                let asked = HookFuture::new(future, self.session.mailbox());
                if let Some(Access::Stranger(stranger)) = self.state.access_mut() {
                    stranger.trying = Some((id, asked));
                }
            }
            Err((code, text)) => {
                self.refuse(id, &code, format_args!("{text}"));
                self.on_refused(&code);
            }
        }
        Ok(Taken::Yes)
    }

    fn begin_auth(&self, line: &Line<'_>) -> Result<BoxFuture<Result<Principal, Denied>>, Refusal> {
        crate::server::core::arguments::no_attributes(line)?;
        let (scheme, credentials) = line.rest.split_argument();
        let scheme = std::str::from_utf8(scheme).ok().and_then(Code::new);
        let scheme = scheme.filter(|_| !credentials.is_empty());
        let scheme = scheme.ok_or_else(|| (Code::BAD_ARGUMENTS, AUTH_USAGE.to_owned()))?;
        let hooks = &self.environment.hooks;
        let known = hooks.authenticator.as_ref().filter(|_| hooks.schemes.contains(&scheme));
        let unknown = || (Code::UNAUTHENTICATED, "no such scheme".to_owned());
        let authenticator = known.ok_or_else(unknown)?;
        let credentials = Credentials::from(credentials.plain().into_owned());
        let peer = self.session.peer();
        let asked = guarded(|| authenticator.authenticate(&scheme, credentials, peer));
        asked.ok_or((Code::BUSY, String::new()))
    }

    fn on_tried(&mut self, id: RequestId, found: Result<Principal, Denied>) {
        match found {
            Ok(principal) => {
                tracing::debug!(?principal, "authenticated");
                self.state.has_decided();
                self.session.set_principal(principal);
                self.lines.set_max_line(self.environment.config.max_line);
                self.answer_ok(id, format_args!(""));
            }
            Err(denied) => {
                let rejection = denied.rejection();
                self.on_rejection(Some(id), &rejection);
                self.on_refused(rejection.code());
            }
        }
    }

    /// Counts a refused `/auth`. When no further try is allowed, the connection is closed.
    fn on_refused(&mut self, code: &Code) {
        tracing::debug!(%code, "not authenticated");
        self.active().tally.auth_refused += u64::from(*code == Code::UNAUTHENTICATED);
        let Some(Access::Stranger(stranger)) = self.state.access_mut() else { return };
        stranger.trying = None;
        stranger.tries += 1;
        if stranger.tries >= self.environment.config.auth_tries {
            self.show_out();
        }
    }

    /// Closes the connection of a peer that did not authenticate. None of its requests was
    /// executed.
    fn show_out(&mut self) {
        self.session.ending().stop();
        if !self.state.is_line_drawn() {
            encode_bye(self.out(), 0, &Code::UNAUTHENTICATED);
        }
        self.state.ban();
        self.stop_reading(None);
        self.bound_end();
    }

    /// Checks whether a `/subscribe` is allowed.
    ///
    /// # Errors
    /// `Taken::Yes` if the line was refused, `Taken::No` if it has to wait for the authorizer.
    pub(super) fn may_subscribe(&mut self, id: RequestId, topic: &Topic) -> Result<(), Taken> {
        let Some(ruling) = self.ruling_on(id, topic) else { return Err(Taken::No) };
        ruling.map_err(|rejection| {
            self.on_rejection(Some(id), &rejection);
            Taken::Yes
        })
    }

    fn ruling_on(&mut self, id: RequestId, topic: &Topic) -> Option<Ruling> {
        if let Some(Access::Asking(asking)) = self.state.access()
            && asking.id == id
        {
            // The line may be processed again for another reason. The authorizer is asked only
            // once.
            let ruling = asking.permission.ruling().cloned()?;
            self.state.has_decided();
            return Some(ruling);
        }
        match self.permission(Action::Subscribe(topic.as_str())) {
            Ok(None) => Some(Ok(())),
            Err(rejection) => Some(Err(rejection)),
            Ok(Some(permission)) => {
                let asking = Asking { id, topic: topic.to_string(), permission };
                self.state.decide_first(Access::Asking(asking));
                None
            }
        }
    }

    /// Checks whether a `/publish` is allowed. Returns the open decision if the authorizer takes
    /// time.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn may_publish(
        &mut self,
        topic: &Topic,
        asked: Option<Permission>,
    ) -> Result<Option<Permission>, Rejection> {
        let asked = match asked {
            Some(permission) => Some(permission),
            None => self.permission(Action::Publish(topic.as_str()))?,
        };
        let Some(mut permission) = asked else { return Ok(None) };
        match permission.is_decided() {
            true => permission.ruling().cloned().unwrap_or(Ok(())).map(|()| None),
            false => Ok(Some(permission)),
        }
    }

    /// Asks the authorizer. Returns the open decision if it takes time.
    fn permission(&mut self, action: Action<'_>) -> Result<Option<Permission>, Rejection> {
        let future = match self.decision(action) {
            Decision::Now(ruling) => return ruling.map(|()| None),
            Decision::Later(future) => future,
        };
        let deadline = self.now.after(self.environment.config.handler_time);
        self.set_timeout(deadline);
        let asked = HookFuture::new(future, self.session.mailbox());
        Ok(Some(Permission::new(asked, deadline)))
    }

    /// The authorizer's immediate decision. A panic counts as `no busy`.
    pub(super) fn decision(&self, action: Action<'_>) -> Decision {
        let Some(authorizer) = &self.environment.hooks.authorizer else {
            return Decision::Now(Ok(()));
        };
        let principal = self.session.principal();
        let verdict = guarded(|| authorizer.allow(principal, action));
        verdict.map_or_else(|| Decision::Now(Err(Rejection::busy(""))), Verdict::decision)
    }

    /// A call that waits for its verdict, with its line. It has a place in flight, and delays no
    /// other request.
    pub(super) fn authorizing(
        &self,
        ruling: BoxFuture<Ruling>,
        method: Found,
        line: Vec<u8>,
    ) -> Running {
        let (environment, session) = (Arc::clone(&self.environment), self.session.clone());
        Running::apart(Authorizing::new(ruling, line, method, environment, session))
    }

    /// Denies the open decision about a subscription to `topic`, because the topic was revoked
    /// after the authorizer was asked.
    pub(super) fn deny_asking(&mut self, topic: &str) {
        if let Some(Access::Asking(asking)) = self.state.access_mut()
            && asking.topic == topic
        {
            asking.permission.decide(Err(Rejection::forbidden("")));
        }
    }

    /// Ends the open decision about a `/subscribe`. After `/bye;last` the request is refused with
    /// `closing`, whatever the verdict.
    pub(super) fn abandon_asking(&mut self) {
        if let Some(Access::Asking(asking)) = self.state.access_mut() {
            asking.permission.decide(Err(Rejection::forbidden("")));
        }
    }

    /// Stops waiting for the authenticator, and refuses the `/auth`.
    pub(super) fn abandon_auth(&mut self) {
        if let Some(Access::Stranger(stranger)) = self.state.access_mut()
            && let Some((id, asked)) = stranger.trying.take()
        {
            drop(asked);
            self.refuse(id, &Code::CLOSING, format_args!(""));
        }
    }
}
