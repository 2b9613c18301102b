//! Typed payloads: JSON by serde.

/// A payload as JSON: an argument and a reply of a typed handler, and of a typed call.
///
/// As an argument it takes what the payload decodes to; a payload that does not decode is answered
/// `no bad-arguments`, and the handler is not started. An absent payload is read as `null`, so that
/// `Json<()>` and `Json<Option<T>>` take it.
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

impl<T> From<T> for Json<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}
