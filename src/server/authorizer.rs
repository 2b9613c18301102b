//! Who may do what: the hook before calls, subscriptions and publishing.

use std::fmt;

use crate::{server::principal::Principal, topic::BoxFuture};

/// Allows or denies what a principal asks for, by name. What is denied is answered `no forbidden`.
///
/// Set with [`Server::authorizer`](crate::Server::authorizer); every function of a principal and an
/// action is one. It is asked for each call, each `/publish` and each `/subscribe`, so for each
/// replay and resume too; what it said before is not kept. A subscription that was allowed goes on
/// until [`Session::revoke`](crate::Session::revoke). One that panics has denied, and so has one that
/// takes longer than [`handler_time`](crate::ServerConfig::handler_time): a call is answered `no
/// deadline` then.
///
/// `/methods` names every method to everybody who is authenticated.
///
/// It is called within the connection's driver: it must not block. A [`Verdict`] that takes its time
/// delays, for a call, that call only; for `/publish`, the calls and `/publish` lines behind it; for
/// `/subscribe`, all lines behind it (PROTOCOL.md, section 7.10).
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

/// What a peer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action<'a> {
    /// To call this method.
    Call(&'a str),
    /// To be told of this topic, from now on or from a position that is past.
    Subscribe(&'a str),
    /// To publish to this topic.
    Publish(&'a str),
}

/// What an [`Authorizer`] says; a `bool` is one.
pub enum Verdict {
    /// It may.
    Allow,
    /// It may not.
    Deny,
    /// It takes its time to find out.
    Later(BoxFuture<bool>),
}

impl Verdict {
    /// A verdict that takes its time.
    ///
    /// ```
    /// use bellwire::server::{Action, Principal, Verdict};
    ///
    /// fn allow(who: &Principal, action: Action<'_>) -> Verdict {
    ///     let who = who.clone();
    ///     match action {
    ///         Action::Call(_) => true.into(),
    ///         _ => Verdict::later(async move { /* ask somebody */ who.name().is_some() }),
    ///     }
    /// }
    /// # let _ = allow(&Principal::anonymous(), Action::Call("x"));
    /// ```
    pub fn later(verdict: impl Future<Output = bool> + Send + 'static) -> Self {
        Self::Later(Box::pin(verdict))
    }
}

impl From<bool> for Verdict {
    fn from(is_allowed: bool) -> Self {
        if is_allowed { Self::Allow } else { Self::Deny }
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
            Self::Later(_) => "Later",
        })
    }
}
