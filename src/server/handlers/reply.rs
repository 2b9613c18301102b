//! The replies of handlers.

use std::{fmt, num::NonZeroU64, time::Duration};

use bytes::Bytes;
use tracing::Span;

use crate::{
    protocol::{Code, Escaped, MAX_NUMBER, Outcome, Position},
    server::{handlers::streamed::Items, session::Session},
    topic::{PublishError, Published, checked_published},
};

/// A handler's answer: one line, or a stream of lines.
pub struct Reply(pub(in crate::server) Answer);

pub(in crate::server) enum Answer {
    Ok(Bytes),
    /// Boxed, so that other replies are no larger for it.
    After(Box<After>),
    Stream(Items),
    Published(Published),
    Err(Failure),
    No(Rejection),
    Cut(Code),
}

/// An `ok` with `after`.
pub(in crate::server) struct After {
    pub(in crate::server) payload: Bytes,
    pub(in crate::server) topic: Box<str>,
    pub(in crate::server) position: Position,
}

/// Shows only the length of a payload, which may be secret.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Answer::Ok(payload) => write!(f, "Ok({} bytes)", payload.len()),
            Answer::After(after) => {
                let After { payload, topic, position } = &**after;
                let topic = Escaped(topic.as_bytes());
                write!(f, "Ok({} bytes, after {topic}:{position})", payload.len())
            }
            Answer::Stream(items) => items.fmt(f),
            Answer::Published(published) => published.fmt(f),
            Answer::Err(failure) => write!(f, "Err({failure})"),
            Answer::No(rejection) => write!(f, "No({rejection})"),
            Answer::Cut(code) => write!(f, "Cut({code})"),
        }
    }
}

impl Reply {
    /// `ok` with this payload, any bytes.
    pub fn ok(payload: impl Into<Bytes>) -> Self {
        Self(Answer::Ok(payload.into()))
    }

    /// Adds to this `ok` the position after a message: `ok;after=TOPIC:EPOCH:N`. A caller that is
    /// subscribed to `topic` can then wait until it has received what was `published`
    /// (docs/protocol/after.md, section 17).
    ///
    /// The attribute is sent only if the connection is subscribed to `topic` when the reply is
    /// written, and reads the log that it was published to. It applies to an `ok` of one line. It
    /// has no effect on an `err`, a stream, or an item of one. It also has no effect at the last
    /// number of an epoch, because no position follows that. If it is called twice, the later call
    /// counts.
    ///
    /// ```
    /// use bellwire::{
    ///     Failure, Publisher, Router,
    ///     protocol::Code,
    ///     server::{IntoReply, Reply},
    /// };
    ///
    /// async fn add(publisher: Publisher, offer: String) -> Result<Reply, Failure> {
    ///     let full = |_| Failure::new(Code::from_static("full"), "no room for offers");
    ///     let published = publisher.publish("offers", offer).await.map_err(full)?;
    ///     Ok("added".into_reply().after("offers", published))
    /// }
    ///
    /// let router = Router::new().method("offers.add", add);
    /// # let _ = router;
    /// ```
    #[must_use]
    pub fn after(self, topic: impl AsRef<str>, published: Published) -> Self {
        let (payload, position) = match (self.0, published.position()) {
            (Answer::Ok(payload), Some(position)) => (payload, position),
            (Answer::After(after), Some(position)) => (after.payload, position),
            (answer, _) => return Self(answer),
        };
        let after = After { payload, topic: topic.as_ref().into(), position };
        Self(Answer::After(Box::new(after)))
    }

    /// `no`, for requests that were refused within a layer's future before the handler was started.
    pub(in crate::server) fn no(rejection: Rejection) -> Self {
        Self(Answer::No(rejection))
    }

    /// `cut`: the handler may have run.
    pub(in crate::server) fn cut(code: Code) -> Self {
        Self(Answer::Cut(code))
    }

    /// The word of the reply. It is `more` for a stream, whose end is not known yet: see
    /// [`on_end`](Self::on_end).
    pub fn outcome(&self) -> Outcome {
        match &self.0 {
            Answer::Stream(_) => Outcome::More,
            Answer::Ok(_) | Answer::After(_) | Answer::Published(_) => Outcome::Ok,
            Answer::Err(_) => Outcome::Err,
            Answer::No(_) => Outcome::No,
            Answer::Cut(_) => Outcome::Cut,
        }
    }

    /// The payload of an `ok`; `None` for every other reply, and for a stream.
    pub fn payload(&self) -> Option<&Bytes> {
        match &self.0 {
            Answer::Ok(payload) => Some(payload),
            Answer::After(after) => Some(&after.payload),
            _ => None,
        }
    }

    /// The code of an `err`, a `no` or a `cut`; `None` for the others.
    pub fn code(&self) -> Option<&Code> {
        match &self.0 {
            Answer::Err(failure) => Some(&failure.code),
            Answer::No(rejection) => Some(&rejection.code),
            Answer::Cut(code) => Some(code),
            Answer::Ok(_) | Answer::After(_) | Answer::Stream(_) | Answer::Published(_) => None,
        }
    }

    /// The text of an `err` or a `no`, for people; empty if there is none.
    pub fn text(&self) -> &str {
        match &self.0 {
            Answer::Err(failure) => &failure.text,
            Answer::No(rejection) => &rejection.text,
            _ => "",
        }
    }

    /// Calls `watcher` with the outcome when the reply has ended. A reply of one line has ended at
    /// once. A stream ends with its terminal line. A stream that is cancelled, late, or dropped
    /// with its connection ends with [`Outcome::Cut`].
    ///
    /// Use it in layers that measure or log, because the handler's future ends when a stream has
    /// only begun. It is called within the connection's driver, and must not block. A panic in it
    /// is ignored.
    ///
    /// ```
    /// use std::time::Instant;
    /// use bellwire::{Router, server::{HandlerFuture, Next, Rejection, RequestParts}};
    ///
    /// fn timed(request: &RequestParts<'_>, next: Next<'_>) -> Result<HandlerFuture, Rejection> {
    ///     let (method, begin) = (request.method().to_owned(), Instant::now());
    ///     let handler = next.run()?;
    ///     Ok(Box::pin(async move {
    ///         let reply = handler.await;
    ///         reply.on_end(move |outcome| println!("{method}: {outcome} {:?}", begin.elapsed()))
    ///     }))
    /// }
    ///
    /// let router = Router::new().method("echo", async |text: String| text).layer(timed);
    /// # let _ = router;
    /// ```
    #[must_use]
    pub fn on_end(mut self, watcher: impl FnOnce(Outcome) + Send + 'static) -> Self {
        match &mut self.0 {
            Answer::Stream(items) => items.watch(Box::new(watcher)),
            _ => watcher(self.outcome()),
        }
        self
    }

    /// `err` with this code and text.
    pub fn err(failure: Failure) -> Self {
        Self(Answer::Err(failure))
    }

    /// For a stream that was made outside of any span: makes its items within `span`. Other replies
    /// are unchanged.
    pub(in crate::server) fn within(self, span: Span) -> Self {
        match self.0 {
            Answer::Stream(items) => Self(Answer::Stream(items.within(span))),
            answer => Self(answer),
        }
    }

    /// The bytes that it holds until it is written. A stream holds no items.
    pub(in crate::server) fn bytes(&self) -> usize {
        match &self.0 {
            Answer::Ok(payload) => payload.len(),
            Answer::After(after) => after.payload.len() + after.topic.len(),
            Answer::Err(failure) => failure.text.len(),
            Answer::No(rejection) => rejection.text.len(),
            Answer::Stream(_) | Answer::Published(_) | Answer::Cut(_) => 0,
        }
    }

    /// For a stream: makes each further item in a task of its own, for the connection of this
    /// session. Other replies are unchanged.
    pub(in crate::server) fn spawned(self, session: &Session) -> Self {
        match self.0 {
            Answer::Stream(items) => Self(Answer::Stream(items.spawned(session))),
            answer => Self(answer),
        }
    }
}

/// How a handler ended.
pub(in crate::server) enum Ended {
    Replied(Reply),
    /// The call was denied, or its arguments are invalid.
    Refused(Rejection),
    Panicked,
    /// The stream needs credit, and none can come any more.
    Starved,
    /// The task was aborted, by the connection or by the runtime.
    Aborted {
        /// Whether it may have run. Only a blocking function is known not to have.
        started: bool,
    },
}

/// What a handler may return.
///
/// `()`, `Bytes`, `Vec<u8>`, `String` and `&'static str` are the payload of an `ok`, and `Json<T>`
/// is its JSON. The error of a `Result` becomes an `err`. [`Streamed`](crate::server::Streamed) is
/// a reply of many items.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a reply",
    label = "not a reply",
    note = "a handler may return `()`, `Bytes`, `Vec<u8>`, `String`, `&'static str`, `Json<T>`, `Streamed<St>` or `Reply`, or a `Result` of one of them whose error is `Into<Failure>`",
    note = "a value that serde can serialize is returned as `Json(value)`",
    note = "an async function must not go through `blocking`"
)]
pub trait IntoReply {
    /// The answer.
    fn into_reply(self) -> Reply;
}

impl IntoReply for Reply {
    fn into_reply(self) -> Reply {
        self
    }
}

impl IntoReply for () {
    fn into_reply(self) -> Reply {
        Reply::ok(Bytes::new())
    }
}

macro_rules! payload_replies {
    ($($kind:ty),*) => {$(
        impl IntoReply for $kind {
            fn into_reply(self) -> Reply {
                Reply::ok(self)
            }
        }
    )*};
}

payload_replies!(Bytes, Vec<u8>, String, &'static str);

/// A value that cannot be encoded is answered `err internal`.
#[cfg(feature = "json")]
impl<T: serde::Serialize> IntoReply for crate::json::Json<T> {
    fn into_reply(self) -> Reply {
        match serde_json::to_vec(&self.0) {
            Ok(payload) => Reply::ok(payload),
            Err(_) => Reply::err(Failure::new(Code::INTERNAL, "reply cannot be encoded")),
        }
    }
}

impl<T: IntoReply, E: Into<Failure>> IntoReply for Result<T, E> {
    fn into_reply(self) -> Reply {
        match self {
            Ok(reply) => reply.into_reply(),
            Err(error) => Reply::err(error.into()),
        }
    }
}

/// Why a handler failed: answered `err CODE text`. The handler ran.
///
/// ```
/// use bellwire::{Failure, protocol::Code};
///
/// async fn get(id: String) -> Result<String, Failure> {
///     Err(Failure::new(Code::from_static("not-found"), format!("no offer {id}")))
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The code, for programs. Applications may use codes of their own.
    pub code: Code,
    /// The text, for people.
    pub text: String,
}

impl Failure {
    /// A failure.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { code, text }
    }
}

/// Why a request was refused before its handler started: answered `no CODE text`.
///
/// Applications cannot define codes here (docs/protocol/calls.md, section 12), so each code has its
/// constructor, and there are no others. If a refusal needs a code of the application, let the
/// handler run and return a [`Failure`].
///
/// ```
/// use bellwire::server::Rejection;
///
/// assert_eq!(Rejection::forbidden("members only").code().as_str(), "forbidden");
/// ```
/// ```compile_fail
/// use bellwire::{protocol::Code, server::Rejection};
///
/// Rejection::new(Code::from_static("my-own"), "members only");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub(in crate::server) code: Code,
    /// Boxed, so that a rejection is no larger for its hint.
    pub(in crate::server) text: Box<str>,
    /// In milliseconds, up to [`MAX_NUMBER`].
    pub(in crate::server) retry: Option<NonZeroU64>,
}

impl Rejection {
    fn new(code: Code, text: impl Into<String>) -> Self {
        let text = text.into().into_boxed_str();
        Self { code, text, retry: None }
    }

    /// Adds a retry hint: `no;retry=MS CODE text`. In milliseconds, rounded up, 1 to
    /// [`MAX_NUMBER`](crate::protocol::MAX_NUMBER). If it is called twice, the later call counts.
    /// Default none.
    /// The hint says that the same request may succeed after that time, whatever the code. A client
    /// may then send it again by itself (docs/protocol/calls.md, section 12). The sender of a
    /// one-way request gets no hint.
    ///
    /// ```
    /// use std::time::Duration;
    /// use bellwire::{Router, server::{Next, Rejection, RequestParts}};
    ///
    /// # fn is_resting() -> bool { true }
    /// let router = Router::new()
    ///     .method("echo", async |text: String| text)
    ///     .layer(|_: &RequestParts<'_>, next: Next<'_>| match is_resting() {
    ///         true => Err(Rejection::busy("at rest").retry(Duration::from_millis(250))),
    ///         false => next.run(),
    ///     });
    /// # let _ = router;
    /// ```
    #[must_use]
    pub fn retry(mut self, after: Duration) -> Self {
        let millis = after.as_nanos().div_ceil(1_000_000).clamp(1, MAX_NUMBER.into());
        self.retry = u64::try_from(millis).ok().and_then(NonZeroU64::new);
        self
    }

    /// `no bad-arguments`: what the payload should have been.
    pub fn bad_arguments(text: impl Into<String>) -> Self {
        Self::new(Code::BAD_ARGUMENTS, text)
    }

    /// `no bad-attribute`: an attribute of the application has a wrong value.
    pub fn bad_attribute(text: impl Into<String>) -> Self {
        Self::new(Code::BAD_ATTRIBUTE, text)
    }

    /// `no deadline`: the time of the request ended before it was started.
    #[cfg(feature = "tower")]
    pub(in crate::server) fn deadline() -> Self {
        Self::new(Code::DEADLINE, "")
    }

    /// `no key-mismatch`: the key belongs to another request.
    pub(in crate::server) fn key_mismatch() -> Self {
        Self::new(Code::KEY_MISMATCH, "")
    }

    /// `no` with this code, for a request whose handler was not started when the server ended it.
    pub(in crate::server) fn not_started(code: Code) -> Self {
        Self::new(code, "")
    }

    /// `no unknown-method`: no handler has this name.
    pub(super) fn unknown_method() -> Self {
        Self::new(Code::UNKNOWN_METHOD, "")
    }

    /// `no closing`: the server stops.
    fn closing() -> Self {
        Self::new(Code::CLOSING, "")
    }

    /// `no unauthenticated`: the credentials are invalid.
    pub(in crate::server) fn unauthenticated() -> Self {
        Self::new(Code::UNAUTHENTICATED, "")
    }

    /// `no forbidden`: the peer may not do this.
    pub fn forbidden(text: impl Into<String>) -> Self {
        Self::new(Code::FORBIDDEN, text)
    }

    /// `no busy`: there is no room now; the peer may send the request again later.
    pub fn busy(text: impl Into<String>) -> Self {
        Self::new(Code::BUSY, text)
    }

    /// `no too-many`: a limit on how many is reached.
    pub fn too_many(text: impl Into<String>) -> Self {
        Self::new(Code::TOO_MANY, text)
    }

    /// `no too-large`: the payload is over a limit.
    pub fn too_large(text: impl Into<String>) -> Self {
        Self::new(Code::TOO_LARGE, text)
    }

    /// The code, for programs.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// The text, for people.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The retry hint, if there is one.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry.map(|millis| Duration::from_millis(millis.get()))
    }
}

macro_rules! reasons {
    ($($kind:ident),*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.text.is_empty() {
                    true => self.code.fmt(f),
                    false => write!(f, "{}: {}", self.code, Escaped(self.text.as_bytes())),
                }
            }
        }

        impl std::error::Error for $kind {}
    )*};
}

reasons!(Failure, Rejection);

/// The answer to `/publish`.
pub(in crate::server) fn of_publish(result: Result<Published, PublishError>) -> Reply {
    Reply(match result.and_then(checked_published) {
        Ok(published) => Answer::Published(published),
        Err(PublishError::Unavailable(_) | PublishError::Outdated) => Answer::Cut(Code::LOST),
        Err(PublishError::InvalidTopic) => Answer::No(Rejection::bad_arguments("")),
        Err(PublishError::TooLarge { .. }) => Answer::No(Rejection::too_large("")),
        Err(PublishError::TooMany) => Answer::No(Rejection::too_many("")),
        Err(PublishError::Busy(_) | PublishError::Unsupported) => Answer::No(Rejection::busy("")),
        Err(PublishError::Closed) => Answer::No(Rejection::closing()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Epoch;

    /// Parts that few replies need are boxed, so that the others stay small.
    #[test]
    fn a_reply_is_small() {
        let size = size_of::<Reply>();
        assert!(size <= 56, "{size} bytes");
    }

    #[test]
    fn a_retry_hint_is_within_the_range_of_the_protocol() {
        for (after, millis) in [
            (Duration::ZERO, 1),
            (Duration::from_nanos(1), 1),
            (Duration::from_millis(250), 250),
            (Duration::from_micros(250_001), 251),
            (Duration::MAX, MAX_NUMBER),
        ] {
            let rejection = Rejection::busy("").retry(after);
            assert_eq!(rejection.retry_after(), Some(Duration::from_millis(millis)), "{after:?}");
        }
        assert_eq!(Rejection::busy("").retry_after(), None);
    }

    #[test]
    fn a_reply_is_printed_without_its_payload() {
        let published = Published::new(Epoch::new("e").unwrap(), 1);
        let reply = Reply::ok("secret").after("t", published);
        assert_eq!(format!("{reply:?}"), "Ok(6 bytes, after t:e:2)");
    }
}
