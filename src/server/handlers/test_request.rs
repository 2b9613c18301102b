//! Requests without a connection, to test handlers, extractors and layers.

use std::{fmt, future::poll_fn};

use bytes::Bytes;

use crate::{
    coop::consume_budget,
    protocol::{AttributeList, Code, Method, RequestId, TraceParent, Word},
    random::Random,
    server::{
        access::principal::Principal,
        handlers::{
            extractors::{FromRequest, Payload, RequestParts},
            reply::{Answer, Ended, Rejection, Reply},
            router::Router,
            running::Started,
            streamed::NextItem,
        },
        peer_addr::PeerAddr,
        session::Session,
    },
    topic::{MemoryTopics, Publisher},
};

/// A request for tests of your own extractors, layers and handlers. It needs no server.
///
/// By default it has the id 1, no attributes, an empty payload, an anonymous principal, and a
/// publisher without subscribers. [`extract`](Self::extract) and [`parts`](Self::parts) are for
/// extractors. [`run`](Self::run) sends the request through a router, with its layers.
///
/// The limits of a server do not apply: there is no time limit, no place in flight, and no
/// authorizer.
///
/// An extractor:
///
/// ```
/// use bellwire::server::{FromRequest, Principal, Rejection, RequestParts, TestRequest};
///
/// /// The tenant that a request is for.
/// #[derive(Debug, PartialEq)]
/// struct Tenant(String);
///
/// impl<S> FromRequest<S> for Tenant {
///     fn from_request(parts: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
///         let tenant = parts.attributes().get("app.tenant").map(str::to_owned);
///         let own = || parts.session().principal().name().map(str::to_owned);
///         tenant.or_else(own).map(Tenant).ok_or_else(|| Rejection::forbidden("whose?"))
///     }
/// }
///
/// let request = TestRequest::new("offers.drop");
/// assert_eq!(request.extract::<Tenant, _>(&()), Err(Rejection::forbidden("whose?")));
/// let request = request.principal(Principal::new("ada"));
/// assert_eq!(request.extract(&()), Ok(Tenant("ada".into())));
/// let request = request.attribute("app.tenant", "bob");
/// assert_eq!(request.extract(&()), Ok(Tenant("bob".into())));
/// ```
///
/// A layer:
///
/// ```
/// use bellwire::{
///     Router,
///     protocol::{Code, Outcome},
///     server::{HandlerFuture, Next, Rejection, RequestParts, TestRequest},
/// };
///
/// /// Refuses long payloads.
/// fn brief(request: &RequestParts<'_>, next: Next<'_>) -> Result<HandlerFuture, Rejection> {
///     match request.payload().len() {
///         0..=4 => next.run(),
///         _ => Err(Rejection::too_large("4 bytes at most")),
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let router = Router::new().method("echo", async |text: String| text).layer(brief);
/// let passed = TestRequest::new("echo").payload("ping").run(&router).await;
/// assert_eq!(passed.payload().unwrap(), "ping");
/// let refused = TestRequest::new("echo").payload("a ping").run(&router).await;
/// assert_eq!((refused.outcome(), refused.code()), (Outcome::No, Some(&Code::TOO_LARGE)));
/// # }
/// ```
#[derive(Clone)]
pub struct TestRequest {
    id: Option<RequestId>,
    method: Method,
    attributes: AttributeList,
    payload: Bytes,
    peer: PeerAddr,
    principal: Principal,
    session: Session,
    publisher: Publisher,
}

impl TestRequest {
    /// A request for this method.
    ///
    /// # Panics
    /// When `method` is not a valid name.
    pub fn new(method: &str) -> Self {
        let method = Method::new(method).unwrap_or_else(|error| panic!("{method:?} is {error}"));
        let peer = PeerAddr::Other("test".into());
        Self {
            id: RequestId::new(1),
            method,
            attributes: AttributeList::default(),
            payload: Bytes::new(),
            session: Session::detached(peer.clone()),
            peer,
            principal: Principal::anonymous(),
            publisher: Publisher::new(MemoryTopics::new(&Random::default())),
        }
    }

    /// Makes it one-way: it has no id, and its reply is dropped.
    #[must_use]
    pub fn one_way(mut self) -> Self {
        self.id = None;
        self
    }

    /// Sets the id. Default 1.
    #[must_use]
    pub fn id(mut self, id: RequestId) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the payload, any bytes. Default empty.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Adds an attribute of the application.
    ///
    /// # Panics
    /// When it cannot be written: its key has no dot, or the value has bytes that are not allowed.
    #[must_use]
    pub fn attribute(mut self, key: &str, value: impl fmt::Display) -> Self {
        let pushed = self.attributes.push_application(key, value);
        pushed.unwrap_or_else(|error| panic!("attribute {key:?}: {error}"));
        self
    }

    /// Adds the caller's trace context.
    ///
    /// # Panics
    /// When there are too many attributes.
    #[must_use]
    pub fn trace(mut self, parent: TraceParent) -> Self {
        let pushed = self.attributes.push("trace", parent);
        pushed.unwrap_or_else(|error| panic!("attribute \"trace\": {error}"));
        self
    }

    /// Sets who the peer is. Default: anonymous.
    #[must_use]
    pub fn principal(mut self, principal: Principal) -> Self {
        self.principal = principal;
        self.with_session()
    }

    /// Sets where the connection comes from. Default: [`PeerAddr::Other`], `test`.
    #[must_use]
    pub fn peer(mut self, peer: impl Into<PeerAddr>) -> Self {
        self.peer = peer.into();
        self.with_session()
    }

    /// Sets the publisher. Default: one with topics of its own.
    #[must_use]
    pub fn publisher(mut self, publisher: Publisher) -> Self {
        self.publisher = publisher;
        self
    }

    /// A session keeps its principal and its address, so changing one makes a new session.
    fn with_session(mut self) -> Self {
        self.session = Session::detached(self.peer.clone());
        self.session.set_principal(self.principal.clone());
        self
    }

    /// The session that the request seems to come on, for example to be compared with what a
    /// handler kept. It has no connection: closing it has no effect.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Tells the handlers of the session to end, as a server does when it stops: see
    /// [`Stopping`](crate::server::Stopping).
    /// [`Stopping`](crate::server::Stopping).
    pub fn stop(&self) {
        self.session.ending().stop();
    }

    /// The request in the form that extractors and layers take.
    pub fn parts(&self) -> RequestParts<'_> {
        RequestParts {
            id: self.id,
            method: Word::new(self.method.as_str()).expect("a method is a word"),
            attributes: self.attributes.as_attributes(),
            payload: Payload::Plain(&self.payload),
            session: &self.session,
            publisher: &self.publisher,
        }
    }

    /// Takes a value out of the request, as for an argument of a handler.
    ///
    /// # Errors
    /// The refusal of the extractor.
    pub fn extract<T: FromRequest<S>, S>(&self, state: &S) -> Result<T, Rejection> {
        T::from_request(&self.parts(), state)
    }

    /// Runs the handler of the request's method within the router's layers. The reply is a `no` if
    /// a layer or an extractor refuses, or if there is no such method.
    ///
    /// If the handler answers with a stream, the outcome of the reply is
    /// [`Outcome::More`](crate::protocol::Outcome::More). Use [`run_to_end`](Self::run_to_end) to
    /// get its items.
    ///
    /// # Panics
    /// When the handler or a layer panics.
    pub async fn run<S: Clone + Send + Sync + 'static>(&self, router: &Router<S>) -> Reply {
        consume_budget().await;
        match router.start(&self.parts()) {
            Err(rejection) => Reply::no(rejection),
            Ok(Started::Ended(ended)) => replied(ended),
            Ok(Started::Made(mut running) | Started::Waiting(mut running)) => {
                poll_fn(|cx| running.poll(cx).map(replied)).await
            }
        }
    }

    /// As [`run`](Self::run), but takes the items of a stream, too, without a limit. Returns them
    /// and the terminal reply. A handler that answers with one line has no items.
    ///
    /// # Panics
    /// When the handler, a layer or the stream panics.
    pub async fn run_to_end<S: Clone + Send + Sync + 'static>(
        &self,
        router: &Router<S>,
    ) -> (Vec<Bytes>, Reply) {
        let mut taken = Vec::new();
        let mut items = match self.run(router).await {
            Reply(Answer::Stream(items)) => items,
            reply => return (taken, reply),
        };
        loop {
            match poll_fn(|cx| items.poll(cx)).await {
                NextItem::Item(item) => taken.push(item),
                NextItem::Ended(ended) => {
                    let reply = replied(ended);
                    items.over(reply.outcome());
                    return (taken, reply);
                }
            }
        }
    }
}

/// The reply that the caller gets.
fn replied(ended: Ended) -> Reply {
    match ended {
        Ended::Replied(reply) => reply,
        Ended::Refused(rejection) => Reply::no(rejection),
        Ended::Panicked => panic!("the handler panicked"),
        Ended::Aborted { .. } | Ended::Starved => Reply::cut(Code::LOST),
    }
}

/// Shows only the length of the payload, which may be secret.
impl fmt::Debug for TestRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = format_args!("{} bytes", self.payload.len());
        f.debug_struct("TestRequest")
            .field("id", &self.id)
            .field("method", &self.method)
            .field("attributes", &self.attributes)
            .field("payload", &payload)
            .field("principal", &self.principal)
            .finish_non_exhaustive()
    }
}
