//! Credentials: bytes that never show in a log or an error.

use std::fmt;

use crate::sync::Arc;

/// The proof of a peer's identity, such as a token or a password; any bytes. `Debug` does not show
/// the bytes, and there is no `Display`. Cheap to clone.
///
/// ```
/// use bellwire::Credentials;
///
/// let credentials = Credentials::from("5f1c-secret");
/// assert_eq!(credentials.as_bytes(), b"5f1c-secret");
/// assert_eq!(format!("{credentials:?}"), "Credentials");
/// ```
#[derive(Clone)]
pub struct Credentials(Arc<[u8]>);

impl Credentials {
    /// The bytes, to be compared in constant time and never logged.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl From<&[u8]> for Credentials {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<Vec<u8>> for Credentials {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&str> for Credentials {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
}

impl From<String> for Credentials {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}
