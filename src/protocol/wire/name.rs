//! Names of methods and topics: validated once, then plain data.

use std::{borrow::Borrow, fmt, ops::Deref, str::FromStr, sync::Arc};

use crate::protocol::wire::word::{Word, is_name};

/// The words of replies. No method may have such a name.
const REPLY_WORDS: [&str; 5] = ["ok", "err", "no", "cut", "more"];

/// A text that is not a valid name of a method or a topic.
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
            /// Validates a name.
            ///
            /// # Errors
            /// [`InvalidName`] if `name` breaks the syntax of PROTOCOL.md, section 2.
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> bool = $check;
                if check(name) {
                    Ok(Self(name.into()))
                } else {
                    Err(InvalidName { what: $what })
                }
            }

            /// The name as on the wire.
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
    /// one `.` or `/`, and none of `ok err no cut more` (PROTOCOL.md, section 2). Cheap to clone.
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
    /// (PROTOCOL.md, section 2). Cheap to clone.
    ///
    /// ```
    /// use bellwire::protocol::Topic;
    ///
    /// assert_eq!(Topic::new("offers").unwrap().as_str(), "offers");
    /// assert!(Topic::new("offers/").is_err());
    /// ```
    Topic,
    |name| is_name(name.as_bytes()),
    Self::INVALID
);

impl Topic {
    /// The text of the error for an invalid topic.
    pub(crate) const INVALID: &str =
        "not a topic name: 1 to 128 bytes, segments of A-Z a-z 0-9 _ - joined by one . or /";
}

impl Method {
    /// Checks the name of a method without allocating a [`Method`].
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
    fn names_with_a_leading_slash_are_reserved() {
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
