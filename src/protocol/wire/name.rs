//! Names of methods and topics: validated once, then plain data.

use std::{borrow::Borrow, fmt, ops::Deref, str::FromStr, sync::Arc};

use crate::protocol::wire::parse::Word;

/// The longest name, in bytes.
pub const MAX_NAME: usize = 128;

/// Words of replies, which no method may be called.
const REPLY_WORDS: [&str; 5] = ["ok", "err", "no", "cut", "more"];

/// Whether `bytes` are an application's name: segments of `A-Z a-z 0-9 _ -`, joined by one `.` or
/// `/`, 1 to 128 bytes in all (PROTOCOL.md, section 6).
pub(crate) fn is_name(bytes: &[u8]) -> bool {
    name_len(bytes) == Some(bytes.len())
}

/// The length of the name that `bytes` begin with: it ends at a SP, a `;` or the end. `None` if that
/// is no name.
pub(super) fn name_len(bytes: &[u8]) -> Option<usize> {
    let mut len = 0;
    loop {
        let rest = bytes.get(len..)?;
        let segment = rest.iter().take_while(|&&byte| is_in_segment(byte)).count();
        len += segment;
        match bytes.get(len) {
            _ if segment == 0 => return None,
            None | Some(b' ' | b';') => break,
            Some(b'.' | b'/') => len += 1,
            Some(_) => return None,
        }
    }
    (len <= MAX_NAME).then_some(len)
}

/// By a table, because every line has a name.
fn is_in_segment(byte: u8) -> bool {
    #[expect(clippy::indexing_slicing, reason = "of a constant, which would not compile")]
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            let is_word = (byte as u8).is_ascii_alphanumeric();
            table[byte] = is_word || byte as u8 == b'_' || byte as u8 == b'-';
            byte += 1;
        }
        table
    };
    TABLE.get(usize::from(byte)).is_some_and(|&is_in| is_in)
}

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

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
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

        impl From<&$name> for $name {
            fn from(name: &$name) -> Self {
                name.clone()
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidName;

            fn try_from(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl TryFrom<&String> for $name {
            type Error = InvalidName;

            fn try_from(name: &String) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(name: String) -> Result<Self, InvalidName> {
                Self::new(&name)
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
    is_method,
    NOT_A_METHOD
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

impl Method {
    /// Checks a method without making one of its own.
    pub(crate) fn new_word(name: &str) -> Result<Word<'_>, InvalidName> {
        let word = Word::new(name).filter(|word| !word.is_protocol() && !is_reply_word(name));
        word.ok_or(InvalidName { what: NOT_A_METHOD })
    }
}

fn is_method(name: &str) -> bool {
    is_name(name.as_bytes()) && !is_reply_word(name)
}

fn is_reply_word(name: &str) -> bool {
    name.len() <= 4 && REPLY_WORDS.contains(&name)
}

const NOT_A_METHOD: &str = "not a method name: 1 to 128 bytes, segments of A-Z a-z 0-9 _ - joined by one . or /, and none of ok err no cut more";

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
        for bad in
            ["", ".", "/", "a.", ".a", "a..b", "a./b", "a b", "a:b", "é", "a;", too_long.as_str()]
        {
            assert!(!is_name(bad.as_bytes()), "{bad}");
        }
    }

    /// Every text of up to 3 of these bytes, alone and behind names up to the longest and over it,
    /// against the plainest way to do it.
    #[test]
    fn names_end_where_the_plainest_search_ends_them() {
        let mut texts: Vec<Vec<u8>> = vec![Vec::new()];
        for from in 0.. {
            let Some(text) = texts.get(from).filter(|text| text.len() < 3).cloned() else { break };
            let bytes = b"aZ5_-./ ;:\0\n\x7F\x80\xC1";
            texts.extend(bytes.map(|byte| [&text[..], &[byte]].concat()));
        }
        let lengths = [0, 1].into_iter().chain(MAX_NAME - 4..MAX_NAME + 2);
        for (length, text) in
            lengths.flat_map(|length| texts.iter().map(move |text| (length, text)))
        {
            let text = [&vec![b'a'; length][..], text].concat();
            assert_eq!(name_len(&text), plainest_len(&text), "{}", text.escape_ascii());
            let is_all = plainest_len(&text) == Some(text.len());
            assert_eq!(is_name(&text), is_all, "{}", text.escape_ascii());
        }
    }

    fn plainest_len(text: &[u8]) -> Option<usize> {
        let (mut len, mut in_segment) = (0, false);
        for byte in text {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => in_segment = true,
                b'.' | b'/' if in_segment => in_segment = false,
                b' ' | b';' => break,
                _ => return None,
            }
            len += 1;
        }
        (in_segment && len <= MAX_NAME).then_some(len)
    }

    #[test]
    fn the_leading_slash_is_the_protocols() {
        assert!(Word::new("/renew").is_some_and(Word::is_protocol));
        for bad in ["/", "//a", "/a/"] {
            assert!(Word::new(bad).is_none(), "{bad}");
        }
        assert!(Method::new_word("/renew").is_err() && Method::new("/renew").is_err());
        assert!(Topic::new("ok").is_ok());
        assert!(Method::new("more").is_err() && Method::new_word("more").is_err());
        assert!(Method::new_word("moreover").is_ok());
    }
}
