//! Codes: the word that explains an outcome or a notice.

use std::{borrow::Cow, fmt};

/// The longest code, in bytes.
pub const MAX_CODE: usize = 64;

/// The code of an `err`, `no`, `cut` or notice: 1 to 64 of `a-z 0-9 -`, the first a letter
/// (docs/protocol/calls.md, section 12).
///
/// Only the word of the reply decides the outcome, never the code. Applications may answer `err`
/// with codes of their own.
///
/// ```
/// use bellwire::protocol::Code;
///
/// const NOT_FOUND: Code = Code::from_static("not-found");
/// assert_eq!(Code::new("not-found"), Some(NOT_FOUND));
/// assert_eq!(Code::new("Not found"), None);
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Code(Cow<'static, str>);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self::from_static($code);)*
        }

        /// All codes of the protocol.
        #[cfg(test)]
        pub(crate) const ALL: &[Code] = &[$(Code::$name),*];
    };
}

codes! {
    /// The line breaks the syntax; the text says where.
    MALFORMED = "malformed";
    /// The line is over the limit announced in `/hello`.
    LINE_TOO_LONG = "line-too-long";
    /// The id is not above the last one.
    ID_ORDER = "id-order";
    /// The server has no such method.
    UNKNOWN_METHOD = "unknown-method";
    /// The server does not implement this attribute.
    UNKNOWN_ATTRIBUTE = "unknown-attribute";
    /// The attribute's value is invalid.
    BAD_ATTRIBUTE = "bad-attribute";
    /// The arguments do not match the method.
    BAD_ARGUMENTS = "bad-arguments";
    /// A one-way method sent as a request, or the reverse.
    BAD_FORM = "bad-form";
    /// The position lies beyond what the topic's epoch has.
    BAD_POSITION = "bad-position";
    /// The server does not speak this version.
    BAD_VERSION = "bad-version";
    /// The method is allowed only earlier on a connection.
    OUT_OF_ORDER = "out-of-order";
    /// This connection is subscribed to the topic.
    ALREADY_SUBSCRIBED = "already-subscribed";
    /// This connection is not subscribed to the topic.
    NOT_SUBSCRIBED = "not-subscribed";
    /// A limit on the number of subscriptions or topics is reached.
    TOO_MANY = "too-many";
    /// The server has no room now. A retry may succeed.
    BUSY = "busy";
    /// The peer is not allowed to do this.
    FORBIDDEN = "forbidden";
    /// The ack is above what was delivered or named.
    BAD_ACK = "bad-ack";
    /// The key was used for another request.
    KEY_MISMATCH = "key-mismatch";
    /// `/auth` must come first, or its credentials were invalid.
    UNAUTHENTICATED = "unauthenticated";
    /// Cancelled by the caller.
    CANCELLED = "cancelled";
    /// The deadline passed.
    DEADLINE = "deadline";
    /// The server is going away.
    CLOSING = "closing";
    /// The line would be longer than a limit.
    TOO_LARGE = "too-large";
    /// The handler panicked, or its reply cannot be encoded.
    INTERNAL = "internal";
    /// The handler was lost before it ended, or the numbers never came.
    LOST = "lost";
    /// The messages are damaged in the store.
    CORRUPT = "corrupt";
    /// The numbers have left the log.
    RETENTION = "retention";
    /// Later messages of the same keys have taken their place.
    REPLACED = "replaced";
    /// The subscriber did not keep up.
    SLOW = "slow";
    /// The lease ran out.
    EXPIRED = "expired";
    /// The application revoked the subscription.
    REVOKED = "revoked";
    /// The topic or the server closed the subscription.
    CLOSED = "closed";
    /// The server shuts down.
    SHUTDOWN = "shutdown";
    /// The client was silent for too long.
    IDLE = "idle";
    /// The client broke the protocol too often.
    VIOLATIONS = "violations";
}

impl Code {
    /// The code; `None` if `code` breaks the syntax of codes.
    pub fn new(code: &str) -> Option<Self> {
        is_code(code.as_bytes()).then(|| Self(Cow::Owned(code.to_owned())))
    }

    /// A code that is known at compile time.
    ///
    /// # Panics
    /// If `code` breaks the syntax of codes. In a `const`, that is a compile error.
    pub const fn from_static(code: &'static str) -> Self {
        assert!(is_code(code.as_bytes()), "not a code: 1 to 64 of a-z 0-9 -, the first a letter");
        Self(Cow::Borrowed(code))
    }

    /// The code as on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[expect(clippy::indexing_slicing, reason = "const, and bounded by the loop's condition")]
const fn is_code(code: &[u8]) -> bool {
    if code.is_empty() || code.len() > MAX_CODE || !code[0].is_ascii_lowercase() {
        return false;
    }
    let mut at = 0;
    while at < code.len() {
        if !matches!(code[at], b'a'..=b'z' | b'0'..=b'9' | b'-') {
            return false;
        }
        at += 1;
    }
    true
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({})", self.0)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq<str> for Code {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for Code {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;

    #[test]
    fn codes_are_lower_case_words() {
        let longest = "c".repeat(MAX_CODE);
        assert!(Code::new(&longest).is_some());
        let too_long = "c".repeat(MAX_CODE + 1);
        for bad in ["", "-a", "1a", "A", "a_b", "a b", "a.b", too_long.as_str()] {
            assert_eq!(Code::new(bad), None, "{bad}");
        }
    }

    /// docs/protocol/codes.json lists the same codes as the crate.
    #[test]
    fn the_codes_are_those_of_the_document() {
        let text = include_str!("../../../docs/protocol/codes.json");
        let document: serde_json::Value = serde_json::from_str(text).unwrap();
        let entries = document["codes"].as_array().unwrap().iter();
        let built = entries.filter(|entry| entry["built"].as_bool().unwrap());
        let listed: BTreeSet<_> = built.map(|entry| entry["code"].as_str().unwrap()).collect();
        assert_eq!(ALL.iter().map(Code::as_str).collect::<BTreeSet<_>>(), listed);
    }

    #[test]
    fn no_code_is_listed_twice() {
        let unique: HashSet<_> = ALL.iter().collect();
        assert_eq!(unique.len(), ALL.len());
    }
}
