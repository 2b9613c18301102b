//! The hook that allows or denies calls, subscriptions and publishing.

use std::{fmt, time::Duration};

use crate::{
    server::{access::principal::Principal, handlers::reply::Rejection},
    topic::BoxFuture,
};

/// Allows or denies requests by name. Denied requests are answered `no forbidden`.
///
/// Set with [`Server::authorizer`](crate::Server::authorizer). Every function of a principal and an
/// action is an authorizer. It is called for each call, each `/publish` and each `/subscribe`, also
/// for replays and resumes. Its verdicts are not cached. A subscription that was allowed goes on
/// until [`Session::revoke`](crate::Session::revoke).
///
/// An authorizer that cannot decide must not deny, because `no forbidden` ends a client's
/// subscription for good. It returns [`Verdict::Unavailable`], which is answered `no busy`. The
/// answer is also `no busy` if the authorizer panics, or takes longer than
/// [`handler_time`](crate::ServerConfig::handler_time) over a `/subscribe` or a `/publish`. A call
/// that takes longer is answered `no deadline`.
///
/// [`Principal::name`] is `None` for an anonymous peer; do not compare two `Option`s. In a closure,
/// write the types: `|who: &Principal, action: Action<'_>|`.
///
/// Every authenticated peer can list all methods with `/methods`.
///
/// It is called within the connection's driver, so it must not block. A [`Verdict`] that takes time
/// delays a call only itself. For `/publish` it delays the later calls and `/publish` lines, and
/// for `/subscribe` all later lines (docs/protocol/access.md, section 19).
///
/// ```
/// use bellwire::server::{Action, Principal};
///
/// fn allow(who: &Principal, action: Action<'_>) -> bool {
///     match action {
///         Action::Subscribe(topic) => topic == "news" || who.name() == Some("ada"),
///         Action::Publish(_) => who.name() == Some("ada"),
///         _ => true,
///     }
/// }
///
/// # async fn run() -> std::io::Result<()> {
/// let server = bellwire::Server::bind("127.0.0.1:0").await?.authorizer(allow);
/// # drop(server);
/// # Ok(()) }
/// # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an authorizer",
    label = "not an authorizer",
    note = "an authorizer is a function `fn(&Principal, Action<'_>) -> bool`, or one that returns a `Verdict`",
    note = "a closure needs the types of its arguments: `|who: &Principal, action: Action<'_>| ...`"
)]
pub trait Authorizer: Send + Sync + 'static {
    /// Whether `principal` may do this.
    fn allow(&self, principal: &Principal, action: Action<'_>) -> Verdict;
}

impl<F, V> Authorizer for F
where
    F: Fn(&Principal, Action<'_>) -> V + Send + Sync + 'static,
    V: Into<Verdict>,
{
    fn allow(&self, principal: &Principal, action: Action<'_>) -> Verdict {
        self(principal, action).into()
    }
}

/// What a peer asks to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action<'a> {
    /// Call this method.
    Call(&'a str),
    /// Subscribe to this topic, without a position or from an earlier one.
    Subscribe(&'a str),
    /// Publish to this topic.
    Publish(&'a str),
}

/// The decision of an [`Authorizer`]; a `bool` converts into one.
#[non_exhaustive]
pub enum Verdict {
    /// The principal may do it.
    Allow,
    /// The principal may not do it: `no forbidden`.
    Deny,
    /// The authorizer cannot decide now, for example because a service that it needs is down: `no
    /// busy`. Clients retry a resume later, with or without a retry hint.
    Unavailable {
        /// The retry hint: `no;retry=MS busy`. `None` for no hint.
        retry: Option<Duration>,
    },
    /// The decision takes time.
    Later(BoxFuture<Verdict>),
}

/// Whether a request is allowed, or the refusal.
pub(in crate::server) type Ruling = Result<(), Rejection>;

/// A [`Verdict`] in the form that the connection uses.
pub(in crate::server) enum Decision {
    Now(Ruling),
    Later(BoxFuture<Ruling>),
}

impl Verdict {
    /// A verdict that takes time.
    ///
    /// ```
    /// use bellwire::server::{Action, Principal, Verdict};
    ///
    /// fn allow(who: &Principal, action: Action<'_>) -> Verdict {
    ///     let who = who.clone();
    ///     match action {
    ///         Action::Call(_) => true.into(),
    ///         _ => Verdict::later(async move { /* ask a service */ who.name().is_some() }),
    ///     }
    /// }
    /// # let _ = allow(&Principal::anonymous(), Action::Call("x"));
    /// ```
    pub fn later(verdict: impl Future<Output = bool> + Send + 'static) -> Self {
        Self::ask(async { verdict.await.into() })
    }

    /// A verdict that takes time, and may turn out to be [`Unavailable`](Self::Unavailable).
    ///
    /// ```
    /// use std::time::Duration;
    /// use bellwire::server::{Action, Principal, Verdict};
    ///
    /// # async fn ask_the_service(_: String) -> Result<bool, ()> { Err(()) }
    /// fn allow(who: &Principal, action: Action<'_>) -> Verdict {
    ///     let question = format!("{who:?} {action:?}");
    ///     Verdict::ask(async move {
    ///         match ask_the_service(question).await {
    ///             Ok(is_allowed) => is_allowed.into(),
    ///             Err(_) => Verdict::Unavailable { retry: Some(Duration::from_secs(2)) },
    ///         }
    ///     })
    /// }
    /// # let _ = allow(&Principal::anonymous(), Action::Call("x"));
    /// ```
    pub fn ask(verdict: impl Future<Output = Verdict> + Send + 'static) -> Self {
        Self::Later(Box::pin(verdict))
    }

    pub(in crate::server) fn decision(self) -> Decision {
        match self {
            Self::Later(future) => Decision::Later(Box::pin(settled(future))),
            verdict => Decision::Now(verdict.ruling()),
        }
    }

    /// The ruling of a verdict that is already known.
    fn ruling(self) -> Ruling {
        match self {
            Self::Allow => Ok(()),
            Self::Deny => Err(Rejection::forbidden("")),
            Self::Unavailable { retry: Some(after) } => Err(Rejection::busy("").retry(after)),
            Self::Unavailable { retry: None } | Self::Later(_) => Err(Rejection::busy("")),
        }
    }
}

async fn settled(mut future: BoxFuture<Verdict>) -> Ruling {
    loop {
        match future.await {
            Verdict::Later(another) => future = another,
            verdict => return verdict.ruling(),
        }
    }
}

impl From<bool> for Verdict {
    fn from(is_allowed: bool) -> Self {
        if is_allowed { Self::Allow } else { Self::Deny }
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("Allow"),
            Self::Deny => f.write_str("Deny"),
            Self::Unavailable { retry } => write!(f, "Unavailable({retry:?})"),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}
