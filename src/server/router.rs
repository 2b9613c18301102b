//! The methods a server offers.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
};

use crate::{
    protocol::{Method, Word},
    server::{
        extract::RequestParts,
        handler::{IntoEndpoint, Running},
        reply::Rejection,
    },
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
    /// When `name` is not a method's name (1 to 128 bytes, segments of `A-Z a-z 0-9 _ -` joined by
    /// one `.` or `/`), or is there already.
    #[must_use]
    pub fn method<Args>(mut self, name: &str, handler: impl IntoEndpoint<S, Args>) -> Self {
        if let Err(error) = Method::new(name) {
            panic!("{name:?} is {error}");
        }
        let mut endpoint = handler.into_endpoint();
        let doc = std::mem::take(&mut endpoint.doc);
        let state = self.state.clone();
        let start = Box::new(move |parts: &RequestParts<'_>| endpoint.start(parts, &state));
        let found = Found(self.methods.entries.len());
        self.methods.entries.push(MethodEntry { doc, start });
        let before = self.methods.by_name.insert(name.as_bytes().into(), found);
        assert!(before.is_none(), "method {name:?} is there already");
        self
    }

    pub(super) fn into_methods(self) -> Methods {
        self.methods
    }
}

impl<S> fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.methods.sorted().iter().map(|(name, _)| *name)).finish()
    }
}

/// The methods, their state bound.
#[derive(Default)]
pub(super) struct Methods {
    by_name: HashMap<Box<[u8]>, Found, BuildHasherDefault<NameHasher>>,
    entries: Vec<MethodEntry>,
}

struct MethodEntry {
    doc: String,
    start: StartFn,
}

type StartFn = Box<dyn Fn(&RequestParts<'_>) -> Result<Running, Rejection> + Send + Sync>;

/// A method that is there, to be started.
#[derive(Clone, Copy)]
pub(super) struct Found(usize);

impl Methods {
    pub(super) fn find(&self, word: Word<'_>) -> Option<Found> {
        self.by_name.get(word.as_bytes()).copied()
    }

    pub(super) fn start(
        &self,
        method: Found,
        parts: &RequestParts<'_>,
    ) -> Result<Running, Rejection> {
        (self.entries[method.0].start)(parts)
    }

    /// Names and documentation, sorted by name.
    pub(super) fn sorted(&self) -> Vec<(&str, &str)> {
        let methods = self.by_name.iter();
        let mut list: Vec<_> =
            methods.map(|(name, found)| (text(name), self.entries[found.0].doc.as_str())).collect();
        list.sort_unstable();
        list
    }
}

/// Methods are named by validated text.
fn text(name: &[u8]) -> &str {
    std::str::from_utf8(name).unwrap_or_default()
}

/// FNV-1a, for names of a few bytes. Peers look methods up and cannot add any, so there is nobody to
/// defend against.
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
    #[should_panic(expected = "there already")]
    fn a_method_stands_once() {
        let _ = Router::new().method("a", async || ()).method("a", async || ());
    }

    #[test]
    #[should_panic(expected = "not a method name")]
    fn a_method_has_a_methods_name() {
        let _ = Router::new().method("ok", async || ());
    }

    #[test]
    fn methods_are_sorted_by_bytes() {
        let router = Router::new()
            .method("b", async || ())
            .method("a.b", async || ())
            .method("B", async || ());
        let methods = router.into_methods();
        let names: Vec<_> = methods.sorted().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["B", "a.b", "b"]);
    }
}
