//! The extractors: arguments of handlers.

use std::{borrow::Cow, fmt};

use bytes::Bytes;

use crate::{
    protocol::{AttributeList, Attributes, Line, RequestId, Rest, TraceParent, Word},
    server::{
        access::principal::Principal, handlers::reply::Rejection, session::Session,
        stopping::Stopping,
    },
    topic::Publisher,
};

/// A request, borrowed from the connection, before its handler starts.
///
/// Tests get one from a [`TestRequest`](crate::server::TestRequest).
#[derive(Debug)]
pub struct RequestParts<'a> {
    pub(in crate::server) id: Option<RequestId>,
    pub(in crate::server) method: Word<'a>,
    pub(in crate::server) attributes: Attributes<'a>,
    pub(in crate::server) payload: Payload<'a>,
    pub(in crate::server) session: &'a Session,
    pub(in crate::server) publisher: &'a Publisher,
}

/// A payload. It is unstuffed when it is taken.
pub(in crate::server) enum Payload<'a> {
    Stuffed(Rest<'a>),
    Plain(&'a [u8]),
}

/// Shows only the length, because payloads may be secret.
impl fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = match self {
            Self::Stuffed(rest) => rest.plain().len(),
            Self::Plain(payload) => payload.len(),
        };
        write!(f, "{length} bytes")
    }
}

impl<'a> RequestParts<'a> {
    /// The parts of the request on this line.
    pub(in crate::server) fn new(
        line: &Line<'a>,
        session: &'a Session,
        publisher: &'a Publisher,
    ) -> Self {
        let payload = Payload::Stuffed(line.rest);
        let (id, method, attributes) = (line.mark.id(), line.word, line.attributes);
        Self { id, method, attributes, payload, session, publisher }
    }

    /// The request's id; `None` for a one-way request.
    pub fn id(&self) -> Option<RequestId> {
        self.id
    }

    /// The method called.
    pub fn method(&self) -> &'a str {
        self.method.as_str()
    }

    /// The attributes of the line: the application's, with a dot in the key, and the protocol's.
    pub fn attributes(&self) -> Attributes<'a> {
        self.attributes
    }

    /// The caller's trace context, if it sent one (`trace=`).
    pub fn trace(&self) -> Option<TraceParent> {
        self.attributes.get("trace")?.parse().ok()
    }

    /// The payload, any bytes; empty when there is none.
    pub fn payload(&self) -> Cow<'a, [u8]> {
        match self.payload {
            Payload::Stuffed(rest) => rest.plain(),
            Payload::Plain(payload) => Cow::Borrowed(payload),
        }
    }

    fn bytes(&self) -> Bytes {
        match self.payload() {
            Cow::Borrowed(payload) => Bytes::copy_from_slice(payload),
            Cow::Owned(payload) => payload.into(),
        }
    }

    /// The connection that the request came on.
    pub fn session(&self) -> &'a Session {
        self.session
    }

    /// The server's publisher.
    pub fn publisher(&self) -> &'a Publisher {
        self.publisher
    }
}

/// An argument of a handler, which is taken out of a request before the handler starts.
///
/// The crate has [`Bytes`], [`String`], [`Json`](crate::Json), [`State`], [`Session`],
/// [`Publisher`], [`Principal`](crate::server::Principal), [`Stopping`](crate::server::Stopping)
/// and [`Request`]. `S` is the router's state. A [`TestRequest`](crate::server::TestRequest) tests
/// an extractor without a server.
///
/// ```
/// use bellwire::server::{FromRequest, Rejection, RequestParts, Router};
///
/// /// Two numbers, separated by a space.
/// struct Pair(u64, u64);
///
/// impl<S> FromRequest<S> for Pair {
///     fn from_request(parts: &RequestParts<'_>, _state: &S) -> Result<Self, Rejection> {
///         let payload = parts.payload();
///         let text = std::str::from_utf8(&payload).unwrap_or_default();
///         let parse = |text: &str| text.parse().ok();
///         text.split_once(' ')
///             .and_then(|(a, b)| Some(Pair(parse(a)?, parse(b)?)))
///             .ok_or_else(|| Rejection::bad_arguments("usage: A B"))
///     }
/// }
///
/// async fn add(Pair(a, b): Pair) -> String {
///     (a + b).to_string()
/// }
///
/// let router = Router::new().method("add", add);
/// # let _ = router;
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be taken out of a request of a router whose state is `{S}`",
    label = "not an extractor for the state `{S}`",
    note = "the extractors are `Bytes`, `String`, `Json<T>`, `State<S>`, `Session`, `Publisher`, `Principal`, `Stopping` and `Request`",
    note = "`State<T>` needs a router with the state `T`: `Router::with_state(value)`",
    note = "implement `FromRequest<S>` for a type of your own"
)]
pub trait FromRequest<S>: Sized {
    /// Takes the value out of `parts`. It is called within the connection's driver, so it must not
    /// block.
    ///
    /// # Errors
    /// [`Rejection`]: the request is answered `no`, and its handler is not started.
    fn from_request(parts: &RequestParts<'_>, state: &S) -> Result<Self, Rejection>;
}

/// The router's state, cloned: an `Arc`, a pool, a handle.
#[derive(Clone, Copy, Debug)]
pub struct State<S>(pub S);

impl<S: Clone> FromRequest<S> for State<S> {
    fn from_request(_: &RequestParts<'_>, state: &S) -> Result<Self, Rejection> {
        Ok(Self(state.clone()))
    }
}

/// The payload as it came.
impl<S> FromRequest<S> for Bytes {
    fn from_request(parts: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        Ok(parts.bytes())
    }
}

/// The payload as text. If it is not UTF-8, the answer is `no bad-arguments`.
impl<S> FromRequest<S> for String {
    fn from_request(parts: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        Self::from_utf8(parts.payload().into_owned())
            .map_err(|_| Rejection::bad_arguments("payload is not UTF-8"))
    }
}

/// The payload as JSON; an absent one counts as `null`. If it does not decode, the answer is `no
/// bad-arguments`.
#[cfg(feature = "json")]
impl<S, T: serde::de::DeserializeOwned> FromRequest<S> for crate::json::Json<T> {
    fn from_request(parts: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        let payload = parts.payload();
        serde_json::from_slice(crate::json::or_null(&payload))
            .map(Self)
            .map_err(|error| Rejection::bad_arguments(error.to_string()))
    }
}

impl<S> FromRequest<S> for Session {
    fn from_request(parts: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        Ok(parts.session.clone())
    }
}

impl<S> FromRequest<S> for Principal {
    fn from_request(parts: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        Ok(parts.session().principal().clone())
    }
}

impl<S> FromRequest<S> for Stopping {
    fn from_request(parts: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        Ok(parts.session().stopping())
    }
}

impl<S> FromRequest<S> for Publisher {
    fn from_request(parts: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        Ok(parts.publisher.clone())
    }
}

/// A whole request that owns its bytes.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// The id; `None` for a one-way request.
    pub id: Option<RequestId>,
    /// The method called.
    pub method: String,
    /// The attributes of the line.
    pub attributes: AttributeList,
    /// The payload, any bytes.
    pub payload: Bytes,
}

impl Request {
    pub(in crate::server) fn from_parts(parts: &RequestParts<'_>) -> Self {
        Self {
            id: parts.id,
            method: parts.method().to_owned(),
            attributes: parts.attributes.to_list(),
            payload: parts.bytes(),
        }
    }
}

/// Shows only the length of the payload, which may be secret.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("id", &self.id)
            .field("method", &self.method)
            .field("attributes", &self.attributes)
            .field("payload", &format_args!("{} bytes", self.payload.len()))
            .finish()
    }
}

impl<S> FromRequest<S> for Request {
    fn from_request(parts: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        Ok(Self::from_parts(parts))
    }
}
