//! Typed payloads: JSON by serde.

/// A payload as JSON: an argument and a reply of a typed handler, and of a typed call.
///
/// As an argument it holds the decoded payload. A payload that does not decode is answered
/// `no bad-arguments`, and the handler is not started. Both sides read an absent payload as `null`
/// (docs/protocol/calls.md, section 12). So `Json<()>` and `Json<Option<T>>` accept it, and so does
/// a typed call whose method answers without a payload.
///
/// ```
/// use bellwire::Json;
///
/// async fn double(Json(number): Json<u64>) -> Json<u64> {
///     Json(number * 2)
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Json<T>(pub T);

/// The JSON text of a payload. An absent payload is `null`, on both sides and in both directions.
pub(crate) fn or_null(payload: &[u8]) -> &[u8] {
    if payload.is_empty() { b"null" } else { payload }
}

impl<T> From<T> for Json<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}
