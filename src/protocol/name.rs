//! Names of methods and topics: validated once, then plain data.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// The longest name, in bytes.
pub const MAX_NAME: usize = 128;

/// Words of replies, which no method may be called.
const REPLY_WORDS: [&str; 5] = ["ok", "err", "no", "cut", "more"];

/// Whether `bytes` are an application's name: segments of `A-Z a-z 0-9 _ -`, joined by one `.` or
/// `/`, 1 to 128 bytes in all (PROTOCOL.md, section 6).
pub(crate) fn is_name(bytes: &[u8]) -> bool {
    if bytes.len() > MAX_NAME {
        return false;
    }
    let mut in_segment = false;
    for &byte in bytes {
        match NAME_BYTE.get(usize::from(byte)) {
            Some(NameByte::Segment) => in_segment = true,
            Some(NameByte::Joint) if in_segment => in_segment = false,
            _ => return false,
        }
    }
    in_segment
}

/// Whether `bytes` are a word of the protocol's own: `/` and a name.
pub(crate) fn is_protocol_name(bytes: &[u8]) -> bool {
    bytes.len() <= MAX_NAME && bytes.strip_prefix(b"/").is_some_and(is_name)
}

#[derive(Clone, Copy)]
enum NameByte {
    Segment,
    Joint,
    Other,
}

/// A table, since every line's word goes through it.
#[expect(
    clippy::indexing_slicing,
    reason = "const, and bounded by the loop's condition"
)]
const NAME_BYTE: [NameByte; 256] = {
    let mut table = [NameByte::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => NameByte::Segment,
            b'.' | b'/' => NameByte::Joint,
            _ => NameByte::Other,
        };
        byte += 1;
    }
    table
};

/// A text that is not a name of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidName {
    what: &'static str,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }
}

impl std::error::Error for InvalidName {}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:expr, $what:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A validated name.
            ///
            /// # Errors
            /// [`InvalidName`] when `name` breaks the syntax of section 6.
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> bool = $check;
                if check(name) {
                    Ok(Self(name.into()))
                } else {
                    Err(InvalidName { what: $what })
                }
            }

            /// The name as it stands on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidName;

            fn try_from(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }
    };
}

name_type!(
    /// The name of an application's method: 1 to 128 bytes, segments of `A-Z a-z 0-9 _ -` joined by
    /// one `.` or `/`; not one of `ok err no cut more` (PROTOCOL.md, section 6). Cheap to clone.
    ///
    /// ```
    /// use bellwire::protocol::Method;
    ///
    /// assert_eq!(Method::new("offers.get").unwrap().as_str(), "offers.get");
    /// assert!(Method::new("offers..get").is_err());
    /// assert!(Method::new("ok").is_err());
    /// assert!(Method::new("/renew").is_err());
    /// ```
    Method,
    |name| is_name(name.as_bytes()) && !REPLY_WORDS.contains(&name),
    "not a method name: 1 to 128 bytes, segments of A-Z a-z 0-9 _ - joined by one . or /, and none of ok err no cut more"
);

name_type!(
    /// The name of a topic: 1 to 128 bytes, segments of `A-Z a-z 0-9 _ -` joined by one `.` or `/`
    /// (PROTOCOL.md, section 6). Cheap to clone.
    ///
    /// ```
    /// use bellwire::protocol::Topic;
    ///
    /// assert_eq!(Topic::new("offers").unwrap().as_str(), "offers");
    /// assert!(Topic::new("offers/").is_err());
    /// ```
    Topic,
    |name| is_name(name.as_bytes()),
    "not a topic name: 1 to 128 bytes, segments of A-Z a-z 0-9 _ - joined by one . or /"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_segments_joined_by_one_separator() {
        let longest = "a".repeat(MAX_NAME);
        for good in ["a", "A-Z_0", "a.b/c", "0", longest.as_str()] {
            assert!(is_name(good.as_bytes()), "{good}");
        }
        let too_long = "a".repeat(MAX_NAME + 1);
        for bad in [
            "",
            ".",
            "/",
            "a.",
            ".a",
            "a..b",
            "a./b",
            "a b",
            "a:b",
            "é",
            "a;",
            too_long.as_str(),
        ] {
            assert!(!is_name(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn the_leading_slash_is_the_protocols() {
        assert!(is_protocol_name(b"/renew"));
        for bad in ["/", "//a", "renew", "/a/"] {
            assert!(!is_protocol_name(bad.as_bytes()), "{bad}");
        }
        assert!(Topic::new("ok").is_ok());
        assert!(Method::new("more").is_err());
    }
}
