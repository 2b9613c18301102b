//! The five words of replies.

use std::fmt;

use crate::protocol::wire::word::Word;

/// How a request ended, or that it goes on (PROTOCOL.md, section 3). The word alone decides.
///
/// Exhaustive: version 1 of the protocol has these five words, and each of them matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// One item of a streamed reply; not terminal.
    More,
    /// The handler ran and succeeded.
    Ok,
    /// The handler ran and failed.
    Err,
    /// The handler was not started: a retry is safe.
    No,
    /// The handler may have run.
    Cut,
}

impl Outcome {
    /// The outcome's word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::More => "more",
            Self::Ok => "ok",
            Self::Err => "err",
            Self::No => "no",
            Self::Cut => "cut",
        }
    }

    /// The outcome that `word` stands for.
    pub fn from_word(word: Word<'_>) -> Option<Self> {
        Some(match word.as_bytes() {
            b"ok" => Self::Ok,
            b"err" => Self::Err,
            b"no" => Self::No,
            b"cut" => Self::Cut,
            b"more" => Self::More,
            _ => return None,
        })
    }

    /// Whether the request ends with it: true for all but `more`.
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::More)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
