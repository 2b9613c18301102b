//! A request's line as its caller encodes it: all but its id and its deadline.

use std::{fmt, time::Duration};

use crate::protocol::{AttributeList, Attributes, InvalidAttribute, MAX_NUMBER, Word, encode};

/// The longest `ID SP` a request begins with.
const MARK_BYTES: usize = 17;
/// The longest `;ttl=`.
const TTL_BYTES: usize = 21;

/// A request, encoded before any lock is taken. It is kept until its outcome is known, so that what
/// is proven not executed can be sent again.
#[derive(Default)]
pub(crate) struct Body {
    /// Word and rest, and the LF.
    bytes: Vec<u8>,
    /// Where in `bytes` the attributes go.
    word_len: usize,
    pub(crate) attributes: AttributeList,
}

/// Without its bytes: they are the application's.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Body {
    /// Replaces it by `WORD [SP REST] LF`, without attributes.
    pub(crate) fn set(&mut self, word: Word<'_>, rest: &[u8]) {
        let word_len = word.as_bytes().len();
        self.bytes.clear();
        self.bytes.reserve(word_len + rest.len() + 2);
        encode::body(&mut self.bytes, word, Attributes::NONE, rest);
        self.word_len = word_len;
        self.attributes = AttributeList::new();
    }

    /// The bytes it holds in memory.
    pub(crate) fn room(&self) -> usize {
        self.bytes.capacity() + self.attributes.as_attributes().as_str().len()
    }

    /// The longest line it makes.
    pub(crate) fn max_len(&self) -> usize {
        MARK_BYTES + self.bytes.len() + self.attributes.as_attributes().as_str().len() + TTL_BYTES
    }

    /// Whether the attributes fit into the head, with the longest id, and deadline, there are.
    pub(crate) fn check_head(&self, has_ttl: bool) -> Result<(), InvalidAttribute> {
        if self.attributes.as_attributes().is_empty() {
            return Ok(());
        }
        let ttl = if has_ttl { TTL_BYTES } else { 0 };
        self.attributes.fit(MARK_BYTES + self.word_len + ttl, usize::from(has_ttl))
    }

    pub(crate) fn append_to(&self, out: &mut Vec<u8>, ttl: Option<Duration>) {
        let attributes = self.attributes.as_attributes();
        if ttl.is_none() && attributes.is_empty() {
            return out.extend_from_slice(&self.bytes);
        }
        let (word, behind) = self.bytes.split_at(self.word_len);
        out.extend_from_slice(word);
        out.extend_from_slice(attributes.as_str().as_bytes());
        if let Some(ttl) = ttl {
            out.extend_from_slice(b";ttl=");
            encode::number(out, millis_rounded_up(ttl));
        }
        out.extend_from_slice(behind);
    }
}

/// A deadline never becomes shorter on the wire than it is here, and never 0.
fn millis_rounded_up(ttl: Duration) -> u64 {
    let millis = ttl.as_nanos().div_ceil(1_000_000);
    u64::try_from(millis).unwrap_or(u64::MAX).clamp(1, MAX_NUMBER)
}
