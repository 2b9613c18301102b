//! Codecs for arguments and replies, which the caller can choose.

use std::error::Error;

use crate::{
    error::{CallError, Cause},
    guard::caught,
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
    /// The call ends with [`CallError::Encode`], and nothing is sent. The source of that error is
    /// the error of the codec, or the panic message if the codec panics.
    fn encode(&self, value: &T, payload: &mut Vec<u8>) -> Result<(), CodecError>;
}

/// Turns a payload into a reply.
pub trait Decode<T> {
    /// Reads a value from the whole of `payload`.
    ///
    /// # Errors
    /// The call ends with [`CallError::Decode`]; its handler has run. The source of that error is
    /// the error of the codec, or the panic message if the codec panics.
    fn decode(&self, payload: &[u8]) -> Result<T, CodecError>;
}

/// JSON by serde: the default codec of typed calls.
///
/// An absent payload is read as `null` (docs/protocol/calls.md, section 12). So a method that
/// answers without a payload can be called with a reply type of `()`, an `Option`, or any other
/// type that accepts `null`.
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

/// Encodes `value`. A panic of the codec is a failure. The error's `Display` is user code too, so
/// it is called here, where a panic is caught.
pub(crate) fn encode<C: Encode<A>, A: ?Sized>(codec: &C, value: &A) -> Result<Vec<u8>, CallError> {
    let encoded = caught(|| {
        let mut payload = Vec::new();
        codec.encode(value, &mut payload).map(|()| payload).map_err(Cause::of_codec)
    });
    encoded.unwrap_or_else(|message| Err(panicked(&message))).map_err(CallError::Encode)
}

/// Decodes a payload, with the same care as [`encode`].
pub(crate) fn decode<C: Decode<R>, R>(codec: &C, payload: &[u8]) -> Result<R, CallError> {
    let decoded = caught(|| codec.decode(payload).map_err(Cause::of_codec));
    decoded.unwrap_or_else(|message| Err(panicked(&message))).map_err(CallError::Decode)
}

fn panicked(message: &str) -> Cause {
    format!("the codec panicked: {message}").into()
}
