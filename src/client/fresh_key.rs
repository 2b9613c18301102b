//! Random keys.

use std::fmt;

use uuid::Uuid;

use crate::random::Random;

/// A key for a call that runs at most once: see [`Call::key`](crate::Call::key).
///
/// ```
/// use bellwire::Key;
///
/// let key = Key::random();
/// assert_ne!(key, Key::random());
/// assert_eq!(key.to_string().len(), 36);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(Uuid);

impl Key {
    /// A key that nobody else has: a random UUID of the system.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// A key from this source of random numbers, for runs that repeat exactly.
    pub fn from_random(random: &Random) -> Self {
        Self(random.next_uuid())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
