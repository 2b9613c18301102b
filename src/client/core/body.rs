//! The line of a request as its caller encodes it, without the id and the `ttl`.

use std::{fmt, time::Duration};

use crate::protocol::{AttributeList, Attributes, InvalidAttribute, MAX_NUMBER, Word, encode};

/// The longest `ID SP` at the beginning of a request.
const MARK_BYTES: usize = 17;
/// The longest `;ttl=MS`.
const TTL_BYTES: usize = 21;

/// A request, encoded before any lock is taken. It is kept until its outcome is known, so that a
/// request that is proven not executed can be sent again.
#[derive(Default)]
pub(crate) struct Body {
    /// The word, the body with its SP, and the LF.
    bytes: Vec<u8>,
    /// The offset in `bytes` where the attributes are inserted.
    word_len: usize,
    pub(crate) attributes: AttributeList,
}

/// Does not show the bytes, because they belong to the application.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Body {
    /// Replaces the request by `WORD [SP BODY] LF`, without attributes. `rest` is the body before
    /// stuffing.
    pub(crate) fn set(&mut self, word: Word<'_>, rest: &[u8]) {
        let word_len = word.as_bytes().len();
        self.bytes.clear();
        self.bytes.reserve(word_len + rest.len() + 2);
        encode::body(&mut self.bytes, word, Attributes::NONE, rest);
        self.word_len = word_len;
        self.attributes = AttributeList::new();
    }

    /// The bytes that it holds in memory.
    pub(crate) fn room(&self) -> usize {
        self.bytes.capacity() + self.attributes.as_attributes().as_str().len()
    }

    /// An upper bound of the length of its line.
    pub(crate) fn max_len(&self) -> usize {
        MARK_BYTES + self.bytes.len() + self.attributes.as_attributes().as_str().len() + TTL_BYTES
    }

    /// Checks that the attributes fit into the head, with the longest possible id and `ttl`.
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

/// Rounded up, so that the server does not end the request before the client's own deadline. At
/// least 1, because `ttl=0` is not valid.
fn millis_rounded_up(ttl: Duration) -> u64 {
    let millis = ttl.as_nanos().div_ceil(1_000_000);
    u64::try_from(millis).unwrap_or(u64::MAX).clamp(1, MAX_NUMBER)
}
