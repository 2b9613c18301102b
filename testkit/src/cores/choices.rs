//! The source of a run's decisions: a seed, or the bytes of a fuzz target.

use fastrand::Rng;

/// A source of decisions. The same source gives the same run.
pub(super) enum Choices {
    Seed(Rng),
    /// One byte for each decision. After the last byte every decision is the first choice, with
    /// which a run continues in the simplest way.
    Bytes {
        data: Vec<u8>,
        at: usize,
    },
}

impl Choices {
    /// One of `count` choices.
    pub(super) fn below(&mut self, count: usize) -> usize {
        match self {
            _ if count < 2 => 0,
            Self::Seed(rng) => rng.usize(..count),
            Self::Bytes { data, at } => {
                let width = if count > 256 { 2 } else { 1 };
                let bytes = data.get(*at..).unwrap_or_default().iter().take(width);
                let number = bytes.fold(0, |number, &byte| number << 8 | usize::from(byte));
                *at += width;
                number % count
            }
        }
    }
}
