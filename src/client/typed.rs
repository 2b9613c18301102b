//! Typed calls: arguments and replies through a codec of the caller's choice.

use std::{
    error::Error,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use crate::{
    client::{Call, Replied},
    error::{CallError, Cause},
    guard::caught,
    protocol::TraceParent,
};

/// Why a codec failed.
pub type CodecError = Box<dyn Error + Send + Sync>;

/// Turns arguments into a payload.
///
/// ```
/// use bellwire::{CodecError, Decode, Encode};
///
/// /// Numbers as decimal text.
/// struct Decimal;
///
/// impl Encode<u64> for Decimal {
///     fn encode(&self, value: &u64, payload: &mut Vec<u8>) -> Result<(), CodecError> {
///         payload.extend(value.to_string().bytes());
///         Ok(())
///     }
/// }
///
/// impl Decode<u64> for Decimal {
///     fn decode(&self, payload: &[u8]) -> Result<u64, CodecError> {
///         Ok(std::str::from_utf8(payload)?.parse()?)
///     }
/// }
/// # async fn example(client: bellwire::Client) -> Result<(), bellwire::CallError> {
/// let number: u64 = client.request_with(Decimal, "random", &6).await?;
/// # Ok(())
/// # }
/// ```
pub trait Encode<T: ?Sized> {
    /// Appends `value` to `payload`.
    ///
    /// # Errors
    /// The call ends with [`CallError::Encode`], and nothing is sent. Its source is the error. If the
    /// codec panics, it has the message.
    fn encode(&self, value: &T, payload: &mut Vec<u8>) -> Result<(), CodecError>;
}

/// Turns a payload into a reply.
pub trait Decode<T> {
    /// Reads a value from the whole of `payload`.
    ///
    /// # Errors
    /// The call ends with [`CallError::Decode`]; its handler has run. Its source is the error. If the
    /// codec panics, it has the message.
    fn decode(&self, payload: &[u8]) -> Result<T, CodecError>;
}

/// JSON by serde: the default codec of typed calls.
///
/// An absent payload is read as `null` (PROTOCOL.md, section 7.12). So a method that answers
/// without a payload can be called with a reply type of `()`, an `Option`, or any other type that
/// accepts `null`.
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonCodec;

#[cfg(feature = "json")]
impl<T: serde::Serialize + ?Sized> Encode<T> for JsonCodec {
    fn encode(&self, value: &T, payload: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(serde_json::to_writer(payload, value)?)
    }
}

#[cfg(feature = "json")]
impl<T: serde::de::DeserializeOwned> Decode<T> for JsonCodec {
    fn decode(&self, payload: &[u8]) -> Result<T, CodecError> {
        Ok(serde_json::from_slice(crate::json::or_null(payload))?)
    }
}

/// Encodes `value`. A codec that panics has failed; the text of its error is user code too.
pub(crate) fn encode<C: Encode<A>, A: ?Sized>(codec: &C, value: &A) -> Result<Vec<u8>, CallError> {
    let encoded = caught(|| {
        let mut payload = Vec::new();
        codec.encode(value, &mut payload).map(|()| payload).map_err(Cause::of_codec)
    });
    encoded.unwrap_or_else(|message| Err(panicked(&message))).map_err(CallError::Encode)
}

/// Decodes a payload, as [`encode`] encodes.
pub(crate) fn decode<C: Decode<R>, R>(codec: &C, payload: &[u8]) -> Result<R, CallError> {
    let decoded = caught(|| codec.decode(payload).map_err(Cause::of_codec));
    decoded.unwrap_or_else(|message| Err(panicked(&message))).map_err(CallError::Decode)
}

fn panicked(message: &str) -> Cause {
    format!("the codec panicked: {message}").into()
}

/// A typed call in progress: a future of the decoded reply. Otherwise as [`Call`].
#[must_use = "a call does nothing unless it is awaited"]
pub struct TypedCall<'a, C, R> {
    call: Call<'a>,
    codec: C,
    reply: PhantomData<fn() -> R>,
}

impl<'a, C: Decode<R>, R> TypedCall<'a, C, R> {
    pub(crate) fn new(call: Call<'a>, codec: C) -> Self {
        Self { call, codec, reply: PhantomData }
    }

    /// As [`Call::deadline`].
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.call = self.call.deadline(deadline);
        self
    }

    /// As [`Call::fail_fast`].
    pub fn fail_fast(mut self) -> Self {
        self.call = self.call.fail_fast();
        self
    }

    /// As [`Call::trace`].
    pub fn trace(mut self, parent: TraceParent) -> Self {
        self.call = self.call.trace(parent);
        self
    }

    /// As [`Call::attribute`].
    pub fn attribute(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.call = self.call.attribute(key, value);
        self
    }
}

impl<C: Decode<R>, R> TypedCall<'_, C, R> {
    /// As [`Call::replied`].
    ///
    /// # Errors
    /// As when it is awaited itself.
    pub async fn replied(self) -> Result<Replied<R>, CallError> {
        let Self { call, codec, .. } = self;
        let Replied { value, after } = call.replied().await?;
        let value = decode(&codec, &value)?;
        Ok(Replied { value, after })
    }
}

impl<C: Decode<R> + Unpin, R> Future for TypedCall<'_, C, R> {
    type Output = Result<R, CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let payload = ready!(Pin::new(&mut this.call).poll(cx))?;
        Poll::Ready(decode(&this.codec, &payload))
    }
}

impl<C, R> fmt::Debug for TypedCall<'_, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypedCall")
    }
}
