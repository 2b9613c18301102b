//! Keyed requests: each key runs at most once (docs/protocol/keyed.md, section 23).
//!
//! [`KeyTable`] is the one trait behind them. [`MemoryKeys`] is the default.
#![cfg_attr(feature = "sqlite", doc = "[`SqliteKeys`] keeps the keys in a file.")]
#![cfg_attr(
    not(feature = "sqlite"),
    doc = "`SqliteKeys`, with the feature `sqlite`, keeps the keys in a file."
)]
#![cfg_attr(feature = "redis", doc = "[`RedisKeys`] is for several servers.")]
#![cfg_attr(
    not(feature = "redis"),
    doc = "`RedisKeys`, with the feature `redis`, is for several servers."
)]
//! A table only stores what it is told. The server starts handlers, keeps them running when their
//! callers are gone, and lets repeats wait for a run in progress.

pub(super) mod config;
mod digest;
mod memory;
mod outcome;
#[cfg(feature = "redis")]
mod redis;
pub(super) mod run;
pub(crate) mod runs;
pub(super) mod shares;
#[cfg(feature = "sqlite")]
mod sqlite;
mod table;
pub(super) mod waiting;

use std::{fmt, net::IpAddr};

#[cfg(feature = "redis")]
pub use self::redis::RedisKeys;
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteKeys;
pub use self::{config::KeysConfig, memory::MemoryKeys, outcome::KeyedOutcome};
use crate::{
    protocol::{Epoch, KeyWindow},
    server::{
        access::limits::network_of,
        keys::{digest::digest, shares::Owner},
    },
    sync::Arc,
};

pub use crate::topic::BoxFuture;

/// The memory of the keys: which keys were started, and how their runs ended.
///
/// The server calls [`begin`](Self::begin) before it starts a handler, and
/// [`finish`](Self::finish) or [`forget`](Self::forget) once that handler has ended. All three may
/// take time, but none may block. Each does its work whether or not its future is polled to the
/// end; but a `begin` whose future is dropped before it has ended may be undone, because no handler
/// was started. A panic counts as [`KeysUnavailable`].
///
/// A durable table commits "started" before the future of `begin` ends with [`Begun::Run`]. A key
/// that was started before a crash, and has no outcome, is [`Begun::Lost`] from then on: its
/// handler may have run.
///
/// An outcome is kept for [`KeyWindow::kept`], counted from `finish`, and a lost one for as long
/// from the restart. A clock that is set may not shorten that. No entry leaves earlier: a table
/// without room answers [`Begun::Full`].
///
/// # What several servers have to do
///
/// Servers that share a table announce the same store. Only one `begin` for a key may end with
/// `Run`. A server that begins a key which another server runs gets [`Begun::Joined`], with a
/// future of the outcome. Within one server the table is not asked again while a run is in
/// progress. So a `begin` for a key that this server has begun, and neither finished nor forgotten,
/// is [`Begun::Lost`]: the server gave the earlier one up.
pub trait KeyTable: Send + Sync + 'static {
    /// What `/hello` announces: the identity of the table, and how long a client may repeat a
    /// request. It must be cheap, because it is asked for each connection.
    ///
    /// The identity has to change when entries were lost, for example because a file was deleted or
    /// restored. If it may change while connections last, `begin` has to compare it with
    /// [`KeyedRequest::store`]. `None` while it cannot be told. The connection is then told of no keys, and
    /// keyed requests on it are still processed.
    fn window(&self) -> Option<KeyWindow>;

    /// Looks a key up, and enters it if it is new.
    ///
    /// A key is new if there is no entry for the [`principal`](KeyedRequest::principal) and the
    /// [`key`](KeyedRequest::key). If there is one, its [`method`](KeyedRequest::method) and
    /// [`payload`](KeyedRequest::payload) have to be equal, or the answer is [`Begun::Mismatch`].
    ///
    /// # Errors
    /// [`KeysUnavailable`]: the handler is not started, and the client gets `no busy`. The key may
    /// have been entered; it is then [`Begun::Lost`] the next time.
    fn begin(&self, request: &KeyedRequest) -> BoxFuture<Result<Begun, KeysUnavailable>>;

    /// Stores the outcome of a run that this server began. The callers get it when the future has
    /// ended.
    ///
    /// # Errors
    /// [`KeysUnavailable`]: the callers still get the outcome. A repeat gets [`Begun::Lost`].
    fn finish(
        &self,
        request: &KeyedRequest,
        outcome: KeyedOutcome,
    ) -> BoxFuture<Result<(), KeysUnavailable>>;

    /// Removes a key that this server began, because its handler was not started. The key may be
    /// used again.
    ///
    /// # Errors
    /// [`KeysUnavailable`]: the callers are refused all the same. A repeat gets [`Begun::Lost`].
    fn forget(&self, request: &KeyedRequest) -> BoxFuture<Result<(), KeysUnavailable>>;

    /// Removes outcomes whose time is over. A running server calls it now and then. It must not
    /// block. Does nothing by default.
    fn sweep(&self) {}
}

impl<T: KeyTable + ?Sized> KeyTable for Arc<T> {
    fn window(&self) -> Option<KeyWindow> {
        (**self).window()
    }

    fn begin(&self, request: &KeyedRequest) -> BoxFuture<Result<Begun, KeysUnavailable>> {
        (**self).begin(request)
    }

    fn finish(
        &self,
        request: &KeyedRequest,
        outcome: KeyedOutcome,
    ) -> BoxFuture<Result<(), KeysUnavailable>> {
        (**self).finish(request, outcome)
    }

    fn forget(&self, request: &KeyedRequest) -> BoxFuture<Result<(), KeysUnavailable>> {
        (**self).forget(request)
    }

    fn sweep(&self) {
        (**self).sweep();
    }
}

/// What [`KeyTable::begin`] found.
#[non_exhaustive]
pub enum Begun {
    /// The key is new and was entered: the caller starts the handler.
    Run,
    /// Another server runs it. The future ends with the outcome. It fails if that server forgets
    /// the key.
    Joined(BoxFuture<Result<KeyedOutcome, KeysUnavailable>>),
    /// The run has ended with this outcome.
    Done(KeyedOutcome),
    /// The run was started, and its outcome was lost: `cut lost`.
    Lost,
    /// The key belongs to another request: `no key-mismatch`.
    Mismatch,
    /// The table has another identity than the one that the connection was told, so the key may have
    /// been used in a table that was lost: `no busy`. The connection is told to close, so that its
    /// client reconnects and learns the new identity.
    OtherStore,
    /// The key is new, and there is no room for it: `no busy`. A table should also answer this to
    /// an owner that has more than its share, so that none fills the table for all others. An owner
    /// is a [`principal`](KeyedRequest::principal), or the anonymous peers of one
    /// [`network`](KeyedRequest::network).
    Full,
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run => f.write_str("Run"),
            Self::Joined(_) => f.write_str("Joined"),
            Self::Done(outcome) => f.debug_tuple("Done").field(outcome).finish(),
            Self::Lost => f.write_str("Lost"),
            Self::Mismatch => f.write_str("Mismatch"),
            Self::OtherStore => f.write_str("OtherStore"),
            Self::Full => f.write_str("Full"),
        }
    }
}

/// A table could not answer. The text says why. It is logged, and peers do not see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysUnavailable(pub String);

impl fmt::Display for KeysUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key table unavailable: {}", self.0)
    }
}

impl std::error::Error for KeysUnavailable {}

/// The names by which a table finds an entry.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct KeyId {
    principal: Option<Arc<str>>,
    key: Box<str>,
}

/// A keyed request, as a table sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeyedRequest {
    id: Arc<KeyId>,
    owner: Owner,
    method: Arc<str>,
    payload: u128,
    max_outcome: usize,
    store: Option<Epoch>,
}

impl KeyedRequest {
    /// A request, for tests of tables. `payload` is the payload itself. Its outcome has at most
    /// 65,535 bytes.
    ///
    /// ```
    /// use bellwire::server::keys::KeyedRequest;
    ///
    /// let pay = |payload| KeyedRequest::new(Some("ada"), "order-17", "pay", payload);
    /// assert_eq!(pay(b"40").payload(), pay(b"40").payload());
    /// assert_ne!(pay(b"40").payload(), pay(b"41").payload());
    /// ```
    pub fn new(principal: Option<&str>, key: &str, method: &str, payload: &[u8]) -> Self {
        let max_outcome = crate::protocol::DEFAULT_MAX_LINE;
        Self::bounded(principal, key, method, payload, max_outcome)
    }

    pub(super) fn bounded(
        principal: Option<&str>,
        key: &str,
        method: &str,
        payload: &[u8],
        max_outcome: usize,
    ) -> Self {
        Self::of_digest(principal, key, method, digest(payload), max_outcome)
    }

    fn of_digest(
        principal: Option<&str>,
        key: &str,
        method: &str,
        payload: u128,
        max_outcome: usize,
    ) -> Self {
        let principal: Option<Arc<str>> = principal.map(Arc::from);
        let owner = principal.clone().map_or(Owner::Nobody, Owner::Principal);
        let id = Arc::new(KeyId { principal, key: key.into() });
        Self { id, owner, method: method.into(), payload, max_outcome, store: None }
    }

    /// Sets the address of the peer. Without effect if there is a principal.
    ///
    /// ```
    /// use bellwire::server::keys::KeyedRequest;
    ///
    /// let pay = KeyedRequest::new(None, "order-17", "pay", b"40");
    /// let pay = pay.peer("2001:db8::7".parse().unwrap());
    /// assert_eq!(pay.network(), Some("2001:db8::".parse().unwrap()));
    /// ```
    #[must_use]
    pub fn peer(mut self, address: IpAddr) -> Self {
        if self.principal().is_none() {
            self.owner = Owner::Network(network_of(address));
        }
        self
    }

    /// Sets the identity of the table that the connection was told.
    #[must_use]
    pub fn announced(mut self, store: Option<Epoch>) -> Self {
        self.store = store;
        self
    }

    /// The [identity](KeyTable::window) of the table that the connection was told; `None` if it was
    /// told of none.
    pub fn store(&self) -> Option<Epoch> {
        self.store
    }

    /// The name of the principal; `None` for all anonymous clients together. Each principal has
    /// keys of its own.
    pub fn principal(&self) -> Option<&str> {
        self.id.principal.as_deref()
    }

    /// Where an anonymous peer comes from, if it has an IP address: of IPv6, the network of 64
    /// bits. It does not belong to the key, and tells only on whose account an entry goes.
    pub fn network(&self) -> Option<IpAddr> {
        match self.owner {
            Owner::Network(network) => Some(network),
            Owner::Principal(_) | Owner::Nobody => None,
        }
    }

    /// The key: 1 to 255 bytes of printable ASCII.
    pub fn key(&self) -> &str {
        &self.id.key
    }

    /// The method, or `/publish`.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The digest of the payload; of a `/publish`, that of its arguments. It is the same in every
    /// process and version.
    pub fn payload(&self) -> u128 {
        self.payload
    }

    /// The largest [`KeyedOutcome::bytes`] that the run can have, for tables that reserve room.
    pub fn max_outcome(&self) -> usize {
        self.max_outcome
    }

    pub(super) fn id(&self) -> &Arc<KeyId> {
        &self.id
    }

    pub(super) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Whether another request with the same key is the same request.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.method == other.method && self.payload == other.payload
    }
}
