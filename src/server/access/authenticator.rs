//! The hook behind `/auth`, and an authenticator with a list of tokens.

use std::{fmt, time::Duration};

use subtle::ConstantTimeEq;

use crate::{
    credentials::Credentials,
    protocol::{Code, MAX_VALUE},
    server::{access::principal::Principal, handlers::reply::Rejection, peer_addr::PeerAddr},
    topic::BoxFuture,
};

/// Authenticates a peer by what it sends with `/auth` (docs/protocol/access.md, section 19).
///
/// Set with [`Server::authenticator`](crate::Server::authenticator). If an authenticator panics or
/// is [`Unavailable`](Denied::Unavailable), the answer is `no busy`. If it has not ended when
/// [`auth_time`](crate::ServerConfig::auth_time) is over, it is dropped, the answer is `no busy`,
/// and the connection is closed. No other connection is affected.
///
/// ```
/// use bellwire::{
///     Credentials,
///     protocol::Code,
///     server::{Authenticator, Denied, PeerAddr, Principal},
///     topic::BoxFuture,
/// };
///
/// struct Tickets;
///
/// impl Authenticator for Tickets {
///     fn schemes(&self) -> Vec<Code> {
///         vec![Code::from_static("ticket")]
///     }
///
///     fn authenticate(
///         &self,
///         _scheme: &Code,
///         credentials: Credentials,
///         _peer: &PeerAddr,
///     ) -> BoxFuture<Result<Principal, Denied>> {
///         Box::pin(async move {
///             // Ask the issuer; this may take time.
///             match credentials.as_bytes() {
///                 [] => Err(Denied::Credentials),
///                 _ => Ok(Principal::new("holder")),
///             }
///         })
///     }
/// }
/// ```
pub trait Authenticator: Send + Sync + 'static {
    /// The schemes that it accepts, in order of preference. `/hello` announces them. This is called
    /// once, when the authenticator is set.
    fn schemes(&self) -> Vec<Code>;

    /// Authenticates the peer by its `credentials`; `scheme` is one of [`schemes`](Self::schemes).
    ///
    /// It is called, and its future is polled, within the connection's driver, so it must not
    /// block.
    ///
    /// # Errors
    /// [`Denied`]: the peer is not authenticated.
    fn authenticate(
        &self,
        scheme: &Code,
        credentials: Credentials,
        peer: &PeerAddr,
    ) -> BoxFuture<Result<Principal, Denied>>;
}

/// Why a peer was not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denied {
    /// The credentials are invalid: `no unauthenticated`.
    Credentials,
    /// They cannot be checked now, for example because a service is down: `no busy`. The peer may
    /// try again. This counts as a try.
    Unavailable,
    /// As `Unavailable`, with a retry hint: `no;retry=MS busy`.
    UnavailableFor(Duration),
}

impl Denied {
    pub(in crate::server) fn rejection(self) -> Rejection {
        match self {
            Self::Credentials => Rejection::unauthenticated(),
            Self::Unavailable => Rejection::busy(""),
            Self::UnavailableFor(time) => Rejection::busy("").retry(time),
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credentials => "invalid credentials",
            Self::Unavailable | Self::UnavailableFor(_) => "the credentials could not be checked",
        })
    }
}

impl std::error::Error for Denied {}

/// Authenticates peers by a list of tokens. The scheme is `token`, and the credentials are the
/// token.
///
/// Every token of the list is compared, each in a time that depends only on the lengths. So the
/// time of a refusal does not reveal how much of a token was right. The lengths of tokens are not
/// secret. The time grows with the list: for more than a few thousand tokens, write an
/// [`Authenticator`] that looks them up by a part that is not secret. Tokens should have at least
/// 128 random bits. Their bytes are not shown in `Debug` and logs.
///
/// ```
/// use bellwire::{Server, server::{Principal, TokenAuthenticator}};
///
/// # async fn run() -> std::io::Result<()> {
/// let tokens = TokenAuthenticator::new()
///     .token("5f1c0a3e-7d52-4f0e-9f43-0d6c5b1a8e21", Principal::new("ada"))
///     .token("c2b9d7f0-11aa-4a34-8e0b-6f1e2d3c4b5a", Principal::new("bob"));
/// let server = Server::bind("127.0.0.1:0").await?.authenticator(tokens);
/// # drop(server);
/// # Ok(()) }
/// # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Clone, Debug, Default)]
pub struct TokenAuthenticator(Vec<(Credentials, Principal)>);

impl TokenAuthenticator {
    /// The only scheme that it accepts.
    pub const SCHEME: Code = Code::from_static("token");

    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the token of `principal`. If a token is added twice, the later principal counts.
    ///
    /// # Panics
    /// When `token` is empty.
    #[must_use]
    pub fn token(mut self, token: impl Into<Credentials>, principal: Principal) -> Self {
        let token = token.into();
        assert!(!token.as_bytes().is_empty(), "the token is empty");
        self.0.push((token, principal));
        self
    }

    fn holder_of(&self, token: &[u8]) -> Option<&Principal> {
        // All tokens are compared, so that the time does not depend on which one matches.
        self.0.iter().fold(None, |found, (known, principal)| {
            let is_same = bool::from(known.as_bytes().ct_eq(token));
            if is_same { Some(principal) } else { found }
        })
    }
}

impl Authenticator for TokenAuthenticator {
    fn schemes(&self) -> Vec<Code> {
        vec![Self::SCHEME]
    }

    fn authenticate(
        &self,
        _: &Code,
        credentials: Credentials,
        _: &PeerAddr,
    ) -> BoxFuture<Result<Principal, Denied>> {
        let found = self.holder_of(credentials.as_bytes()).cloned();
        Box::pin(std::future::ready(found.ok_or(Denied::Credentials)))
    }
}

/// The schemes as `/hello` announces them.
///
/// # Panics
/// When there are none, or their names are longer than the attribute allows.
pub(in crate::server) fn announced_schemes(authenticator: &dyn Authenticator) -> Vec<Code> {
    let schemes = authenticator.schemes();
    assert!(!schemes.is_empty(), "the authenticator has no schemes");
    let length = schemes.iter().map(|scheme| scheme.as_str().len() + 1).sum::<usize>() - 1;
    assert!(length <= MAX_VALUE, "the schemes' names are {length} bytes, over {MAX_VALUE}");
    schemes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_complete_token_authenticates() {
        let tokens = TokenAuthenticator::new()
            .token("secret-a", Principal::new("a"))
            .token("secret-b", Principal::new("b"));
        let holder = |token: &str| tokens.holder_of(token.as_bytes()).and_then(Principal::name);
        assert_eq!((holder("secret-a"), holder("secret-b")), (Some("a"), Some("b")));
        for other in ["", "secret-", "secret-c", "secret-ab", "Secret-a"] {
            assert_eq!(holder(other), None, "{other}");
        }
        assert!(!format!("{tokens:?}").contains("secret"));
    }

    struct Schemes(usize);

    impl Authenticator for Schemes {
        fn schemes(&self) -> Vec<Code> {
            (0..self.0).map(|n| Code::new(&format!("s{n:03}")).unwrap()).collect()
        }

        fn authenticate(
            &self,
            _: &Code,
            _: Credentials,
            _: &PeerAddr,
        ) -> BoxFuture<Result<Principal, Denied>> {
            Box::pin(std::future::pending())
        }
    }

    #[test]
    fn the_list_of_schemes_fits_into_the_attribute() {
        assert_eq!(announced_schemes(&Schemes(51)).len(), 51);
        for wrong in [0, 52] {
            let announced = std::panic::catch_unwind(|| announced_schemes(&Schemes(wrong)));
            assert!(announced.is_err(), "{wrong}");
        }
    }
}
