//! The one source of random numbers: for sessions, epochs and jitter.

use std::fmt;

use uuid::Uuid;

use crate::{
    protocol::Epoch,
    sync::{Arc, Mutex},
};

/// The source of random numbers: the system by default, or a seed, for runs that can be repeated
/// exactly.
///
/// Cheap to clone; clones draw from one sequence. It is used for session ids, epochs and jitter,
/// none of which is a secret. Hash maps with keys that a peer chooses do not use it, because peers
/// see its numbers. The standard library seeds those.
///
/// ```
/// use bellwire::Random;
///
/// assert_eq!(Random::seeded(7).next_u64(), Random::seeded(7).next_u64());
/// ```
#[derive(Clone)]
pub struct Random(Arc<Mutex<fastrand::Rng>>);

impl Random {
    /// Seeded by the operating system.
    pub fn from_system() -> Self {
        Self::seeded(Uuid::new_v4().as_u64_pair().0 ^ Uuid::new_v4().as_u64_pair().1)
    }

    /// The sequence of `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// The next number.
    pub fn next_u64(&self) -> u64 {
        self.0.lock().u64(..)
    }

    pub(crate) fn next_uuid(&self) -> Uuid {
        let bits = u128::from(self.next_u64()) << 64 | u128::from(self.next_u64());
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
    }

    pub(crate) fn next_epoch(&self) -> Epoch {
        Epoch::from_bits(self.next_u64())
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::from_system()
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}
