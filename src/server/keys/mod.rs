//! Keyed requests: each key runs at most once (docs/protocol/keyed.md, section 23).
//!
//! [`KeyTable`] is the one trait behind them, so that a file or a service can hold the keys;
//! [`MemoryKeys`] is the default. A table only stores what it is told. The server starts handlers,
//! keeps them running when their callers are gone, and lets repeats wait for a run in progress.

mod digest;
mod memory;
mod outcome;
pub(super) mod run;
pub(crate) mod runs;
pub(super) mod waiting;

use std::fmt;

pub use self::{memory::MemoryKeys, outcome::KeyedOutcome};
use crate::{protocol::KeyWindow, server::keys::digest::digest, sync::Arc};

pub use crate::topic::BoxFuture;

/// The memory of the keys: which keys were started, and how their runs ended.
///
/// The server calls [`begin`](Self::begin) before it starts a handler, and
/// [`finish`](Self::finish) or [`forget`](Self::forget) once that handler has ended. All three may
/// take time, but none may block. Each does its work whether or not its future is polled to the
/// end. A panic counts as [`KeysUnavailable`].
///
/// A durable table commits "started" before the future of `begin` ends with [`Begun::Run`]. A key
/// that was started before a crash, and has no outcome, is [`Begun::Lost`] from then on: its
/// handler may have run.
///
/// An outcome is kept for [`KeyWindow::kept`], counted from `finish`, and a lost one for as long
/// from the restart. No entry leaves earlier: a table without room answers [`Begun::Full`].
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
    /// restored. `None` while that cannot be told. The connection is then told of no keys, and
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
    /// The key is new, and there is no room for it: `no busy`.
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
    principal: Option<Box<str>>,
    key: Box<str>,
}

/// A keyed request, as a table sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeyedRequest {
    id: Arc<KeyId>,
    method: Arc<str>,
    payload: u128,
    max_outcome: usize,
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
        let id = Arc::new(KeyId { principal: principal.map(Box::from), key: key.into() });
        Self { id, method: method.into(), payload: digest(payload), max_outcome }
    }

    /// The name of the principal; `None` for all anonymous clients together. Each principal has
    /// keys of its own.
    pub fn principal(&self) -> Option<&str> {
        self.id.principal.as_deref()
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

    /// Whether another request with the same key is the same request.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.method == other.method && self.payload == other.payload
    }
}
