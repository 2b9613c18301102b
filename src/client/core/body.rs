//! A request's line as its caller encodes it: all but its id and its deadline.

use std::{fmt, time::Duration};

use crate::protocol::{
    AttributeList, Attributes, InvalidAttribute, MAX_NUMBER, Word, encode, rest,
};

/// The longest `ID SP` a request begins with.
const MARK_BYTES: usize = 17;
/// The longest `;ttl=`.
const TTL_BYTES: usize = 21;

/// A request, encoded before any lock is taken. It is kept until its outcome is known, so that what
/// is proven not executed can be sent again.
pub(crate) struct Body {
    /// Word and rest, and the LF.
    bytes: Bytes,
    /// Where in `bytes` the attributes go.
    word_len: usize,
    pub(crate) attributes: AttributeList,
}

/// Without its bytes: they are the application's.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("bytes", &self.bytes.as_slice().len()).finish_non_exhaustive()
    }
}

impl Body {
    pub(crate) fn new(word: Word<'_>, rest: &[u8]) -> Self {
        let word_len = word.as_str().len();
        let bytes = Bytes::short(word, rest).unwrap_or_else(|| {
            let mut bytes = Vec::with_capacity(word_len + rest.len() + 2);
            encode::body(&mut bytes, word, Attributes::NONE, rest);
            Bytes::Long(bytes)
        });
        Self { bytes, word_len, attributes: AttributeList::new() }
    }

    /// The longest line it makes.
    pub(crate) fn max_len(&self) -> usize {
        MARK_BYTES
            + self.bytes.as_slice().len()
            + self.attributes.as_attributes().as_str().len()
            + TTL_BYTES
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
            return out.extend_from_slice(self.bytes.as_slice());
        }
        let (word, behind) = self.bytes.as_slice().split_at(self.word_len);
        out.extend_from_slice(word);
        out.extend_from_slice(attributes.as_str().as_bytes());
        if let Some(ttl) = ttl {
            out.extend_from_slice(b";ttl=");
            encode::number(out, millis_rounded_up(ttl));
        }
        out.extend_from_slice(behind);
    }
}

/// The longest body that is kept without an allocation.
const SHORT: usize = 63;

/// The bytes of a body.
enum Bytes {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Vec<u8>),
}

impl Bytes {
    /// `WORD [SP REST] LF`, if that is short, and nothing in it is to be stuffed.
    fn short(word: Word<'_>, rest: &[u8]) -> Option<Self> {
        let word = word.as_bytes();
        let separator: &[u8] = if rest.is_empty() { b"" } else { b" " };
        let len = word.len() + separator.len() + rest.len() + 1;
        let mut bytes = [0; SHORT];
        let mut left = bytes.get_mut(..len)?;
        if rest::needs_stuffing(rest) {
            return None;
        }
        for part in [word, separator, rest, b"\n"] {
            let (place, behind) = left.split_at_mut_checked(part.len())?;
            place.copy_from_slice(part);
            left = behind;
        }
        Some(Self::Short { len: u8::try_from(len).ok()?, bytes })
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

/// A deadline never becomes shorter on the wire than it is here, and never 0.
fn millis_rounded_up(ttl: Duration) -> u64 {
    let millis = ttl.as_nanos().div_ceil(1_000_000);
    u64::try_from(millis).unwrap_or(u64::MAX).clamp(1, MAX_NUMBER)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However it is kept, a body is encoded in the same way.
    #[test]
    fn short_and_long_bodies_are_the_same_lines() {
        let word = Word::new("m").unwrap();
        let payloads = (0..70).map(|length| vec![b'x'; length]);
        let special = [&b"a\nb"[..], b"\r", b"\x10"].map(<[u8]>::to_vec);
        for payload in payloads.chain(special) {
            let (mut kept, mut encoded) = (Vec::new(), Vec::new());
            Body::new(word, &payload).append_to(&mut kept, None);
            encode::body(&mut encoded, word, Attributes::NONE, &payload);
            assert_eq!(kept, encoded);
        }
    }
}
