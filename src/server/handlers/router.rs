//! The methods a server offers.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    num::NonZeroU32,
    task::Waker,
    time::Duration,
};

use tracing::Span;

use crate::{
    protocol::{Line, Method, RequestId, Word},
    server::{
        handlers::{
            extractors::RequestParts,
            handler::{IntoEndpoint, Limit},
            layers::{Layer, Layered},
            reply::Rejection,
            running::{Running, Start, Started},
        },
        session::Session,
    },
    sync::Arc,
    topic::Publisher,
};

/// The methods a server offers, each with its handler; `S` is the state the handlers share.
///
/// ```
/// use bellwire::{Failure, Router, State, handler, protocol::Code};
/// use std::sync::Arc;
///
/// type Offers = Arc<Vec<String>>;
///
/// async fn get(State(offers): State<Offers>, index: String) -> Result<String, Failure> {
///     let offer = index.parse().ok().and_then(|index: usize| offers.get(index));
///     offer.cloned().ok_or_else(|| Failure::new(Code::from_static("not-found"), index))
/// }
///
/// let offers: Offers = Arc::new(vec!["nice flat".into()]);
/// let router = Router::with_state(offers)
///     .method("offers.get", handler(get).doc("INDEX: one offer"))
///     .method("ping", async || "pong");
/// # let _ = router;
/// ```
pub struct Router<S = ()> {
    state: S,
    methods: Methods,
}

impl Router {
    /// A router without methods and without state.
    pub fn new() -> Self {
        Self::with_state(())
    }
}

impl Default for Router {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Clone + Send + Sync + 'static> Router<S> {
    /// A router whose handlers may take [`State<S>`](crate::State).
    pub fn with_state(state: S) -> Self {
        Self { state, methods: Methods::default() }
    }

    /// Adds a method.
    ///
    /// # Panics
    /// When `name` is not a valid name (1 to 128 bytes, segments of `A-Z a-z 0-9 _ -` joined by one
    /// `.` or `/`), or exists already.
    #[must_use]
    pub fn method<Args>(mut self, name: &str, handler: impl IntoEndpoint<S, Args>) -> Self {
        if let Err(error) = Method::new(name) {
            panic!("{name:?} is {error}");
        }
        let mut endpoint = handler.into_endpoint();
        let (doc, limit) = (std::mem::take(&mut endpoint.doc), endpoint.limit);
        let state = self.state.clone();
        let start: Arc<Start> = Arc::new(move |parts, waker| endpoint.start(parts, &state, waker));
        let found = Found::at(self.methods.entries.len());
        let at = self.methods.order.partition_point(|&at| *self.methods.entries[at].name < *name);
        self.methods.order.insert(at, self.methods.entries.len());
        self.methods.entries.push(MethodEntry { name: name.into(), doc, limit, start });
        let before = self.methods.by_name.insert(name.as_bytes().into(), found);
        assert!(before.is_none(), "method {name:?} exists already");
        self
    }

    /// Puts a [`Layer`] around the handlers of all methods, including those that are added later.
    ///
    /// The layer that was added first is the outermost: it sees a request first, and its reply
    /// last. The protocol's own methods, including `/publish`, run outside of all layers. Without
    /// layers there is no cost; otherwise each request costs the futures of its layers.
    ///
    /// ```
    /// use bellwire::{Router, server::{Next, Rejection, RequestParts}};
    ///
    /// let router = Router::new()
    ///     .method("offers.drop", async |id: String| format!("dropped {id}"))
    ///     .layer(|request: &RequestParts<'_>, next: Next<'_>| {
    ///         match request.attributes().get("app.tenant") {
    ///             Some(_) => next.run(),
    ///             None => Err(Rejection::forbidden("whose?")),
    ///         }
    ///     });
    /// # let _ = router;
    /// ```
    #[must_use]
    pub fn layer(mut self, layer: impl Layer) -> Self {
        self.methods.layers.push(Arc::new(layer));
        self
    }

    /// Starts the handler of a request without a connection, as in tests.
    pub(in crate::server) fn start(&self, parts: &RequestParts<'_>) -> Result<Started, Rejection> {
        match self.methods.find(parts.method) {
            Some(method) => self.methods.start(method, parts, None),
            None => Err(Rejection::unknown_method()),
        }
    }

    pub(in crate::server) fn into_methods(self) -> Methods {
        self.methods
    }
}

impl<S> fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.methods.sorted().map(|(name, _)| name)).finish()
    }
}

/// The methods, with their state bound.
#[derive(Default)]
pub(in crate::server) struct Methods {
    by_name: HashMap<Box<[u8]>, Found, BuildHasherDefault<NameHasher>>,
    entries: Vec<MethodEntry>,
    /// The indices of the entries, sorted by name.
    order: Vec<usize>,
    /// The outermost layer first.
    layers: Vec<Arc<dyn Layer>>,
}

struct MethodEntry {
    name: Box<str>,
    doc: String,
    limit: Limit,
    start: Arc<Start>,
}

/// An existing method: its index, counted from 1. It fits into the padding of a request in flight.
#[derive(Clone, Copy)]
pub(in crate::server) struct Found(NonZeroU32);

impl Found {
    fn at(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("fewer than 2^32 methods"))
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl Methods {
    pub(in crate::server) fn find(&self, word: Word<'_>) -> Option<Found> {
        self.by_name.get(word.as_bytes()).copied()
    }

    pub(in crate::server) fn name(&self, method: Found) -> &str {
        &self.entries[method.index()].name
    }

    /// The time limit of the method's handler; `limit` if the method has none of its own, and for a
    /// `/publish`.
    pub(in crate::server) fn handler_time(
        &self,
        method: Option<Found>,
        limit: Duration,
    ) -> Duration {
        match method.map(|method| &self.entries[method.index()].limit) {
            None | Some(Limit::Server) => limit,
            Some(Limit::Own(limit)) => *limit,
        }
    }

    /// Starts a handler. With a waker, also polls it, unless it runs in a task of its own or within
    /// layers.
    pub(in crate::server) fn start(
        &self,
        method: Found,
        parts: &RequestParts<'_>,
        waker: Option<&Waker>,
    ) -> Result<Started, Rejection> {
        let span = handler_span(parts);
        if span.is_disabled() {
            return self.start_layered(method, parts, waker);
        }
        Ok(match span.in_scope(|| self.start_layered(method, parts, waker))? {
            Started::Made(running) => Started::Made(running.traced(span)),
            Started::Waiting(running) => Started::Waiting(running.traced(span)),
            ended @ Started::Ended(_) => ended,
        })
    }

    fn start_layered(
        &self,
        method: Found,
        parts: &RequestParts<'_>,
        waker: Option<&Waker>,
    ) -> Result<Started, Rejection> {
        let start = &self.entries[method.index()].start;
        match self.layers.is_empty() {
            true => start(parts, waker),
            false => Layered::start(&self.layers, start, parts).map(Started::Made),
        }
    }

    /// Names and documentation, sorted by name.
    pub(in crate::server) fn sorted(&self) -> impl Iterator<Item = (&str, &str)> {
        let entries = self.order.iter().map(|&at| &self.entries[at]);
        entries.map(|entry| (&*entry.name, entry.doc.as_str()))
    }
}

/// Starts the handler of a line that was parsed before, and kept.
///
/// A parsed line borrows its bytes, so only the bytes were kept. The handler is not polled.
pub(in crate::server) fn start_line(
    methods: &Methods,
    line: &[u8],
    method: Found,
    session: &Session,
    publisher: &Publisher,
) -> Result<Running, Rejection> {
    let line =
        Line::parse_request(line).map_err(|fault| Rejection::bad_arguments(fault.to_string()))?;
    let parts = RequestParts::new(&line, session, publisher);
    Ok(match methods.start(method, &parts, None)? {
        Started::Made(running) | Started::Waiting(running) => running,
        Started::Ended(ended) => Running::ended(ended),
    })
}

/// The tracing span of a handler. It is disabled, without cost, unless a subscriber wants it.
fn handler_span(parts: &RequestParts<'_>) -> Span {
    tracing::debug_span!(
        target: "bellwire::handler",
        "handler",
        method = parts.method(),
        id = parts.id().map(RequestId::get),
        trace = parts.trace().map(tracing::field::display),
    )
}

/// FNV-1a, for short names. Peers only look methods up and cannot add any, so no seed is needed.
struct NameHasher(u64);

impl Default for NameHasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn write_usize(&mut self, length: usize) {
        self.0 ^= length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "exists already")]
    fn adding_a_method_twice_panics() {
        let _ = Router::new().method("a", async || ()).method("a", async || ());
    }

    #[test]
    #[should_panic(expected = "not a method name")]
    fn an_invalid_method_name_panics() {
        let _ = Router::new().method("ok", async || ());
    }

    #[test]
    fn methods_are_sorted_by_bytes() {
        let router = Router::new()
            .method("b", async || ())
            .method("a.b", async || ())
            .method("B", async || ());
        let methods = router.into_methods();
        let names: Vec<_> = methods.sorted().map(|(name, _)| name).collect();
        assert_eq!(names, ["B", "a.b", "b"]);
    }
}
