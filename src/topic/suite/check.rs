//! A failed check, and the smallest checks.

use std::fmt::{self, Debug};

use crate::topic::{PublishError, Unavailable};

/// What was observed instead of what the contract says.
#[derive(Debug)]
pub(super) struct Failure(pub(super) String);

pub(super) type Checked<T = ()> = Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Unavailable> for Failure {
    fn from(unavailable: Unavailable) -> Self {
        Self(unavailable.to_string())
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        Self(format!("an append failed: {error}"))
    }
}

/// Fails with `otherwise` unless the condition holds.
pub(super) fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Failure(otherwise())) }
}

/// Fails unless both are equal.
pub(super) fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Checked {
    require(found == expected, || format!("{what}: found {found:?}, expected {expected:?}"))
}
