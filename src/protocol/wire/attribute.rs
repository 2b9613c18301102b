//! Attributes: the `;key=value` words of a line's head.

use std::fmt;

use crate::protocol::wire::limits::{MAX_ATTRIBUTES, MAX_HEAD, MAX_KEY, MAX_VALUE};

/// Why a line's attributes are malformed, and the offset of the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttributeFault {
    pub(crate) at: usize,
    pub(crate) what: &'static str,
}

/// The attributes of a line, in the line's own bytes (PROTOCOL.md, section 2).
///
/// **Invariant:** zero or more `;key=value`, each valid, with no key twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a>(&'a str);

impl<'a> Attributes<'a> {
    /// No attributes.
    pub const NONE: Attributes<'static> = Attributes("");

    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, AttributeFault> {
        let mut keys: [&[u8]; MAX_ATTRIBUTES] = [&[]; MAX_ATTRIBUTES];
        let mut at = 0;
        for (count, one) in bytes.split(|&byte| byte == b';').skip(1).enumerate() {
            at += 1;
            let key = check_one(one).map_err(|what| AttributeFault { at, what })?;
            let Some(slot) = keys.get_mut(count) else {
                return Err(AttributeFault { at, what: TOO_MANY });
            };
            *slot = key;
            if keys.iter().take(count).any(|&seen| seen == key) {
                return Err(AttributeFault { at, what: "repeated attribute" });
            }
            at += one.len();
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self(text)),
            Err(_) => Err(AttributeFault { at: 0, what: BAD }),
        }
    }

    /// The keys and values, in the order of the line.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.split(';').skip(1).filter_map(|one| one.split_once('='))
    }

    /// The value of `key`.
    pub fn get(self, key: &str) -> Option<&'a str> {
        self.iter().find(|(found, _)| *found == key).map(|(_, value)| value)
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The attributes as on the wire, each with its `;`.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// An owned copy.
    pub fn to_list(self) -> AttributeList {
        AttributeList(Some(self.0).filter(|all| !all.is_empty()).map(Box::from))
    }
}

const BAD: &str = "bad attribute";
const TOO_MANY: &str = "too many attributes";

/// Checks `key=value`. Returns the key.
fn check_one(one: &[u8]) -> Result<&[u8], &'static str> {
    let Some(equals) = memchr::memchr(b'=', one) else {
        return Err(BAD);
    };
    let (key, value) = one.split_at(equals);
    if !is_key(key) {
        return Err(BAD);
    }
    if !is_value(value.get(1..).unwrap_or_default()) {
        return Err(BAD);
    }
    Ok(key)
}

fn is_key(key: &[u8]) -> bool {
    key.len() <= MAX_KEY
        && key.first().is_some_and(u8::is_ascii_lowercase)
        && key.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
}

fn is_value(value: &[u8]) -> bool {
    (1..=MAX_VALUE).contains(&value.len())
        && value.iter().all(|&byte| byte.is_ascii_graphic() && byte != b';')
}

/// A list of attributes to be sent.
///
/// ```
/// use bellwire::protocol::AttributeList;
///
/// let mut attributes = AttributeList::new();
/// attributes.push("app.tenant", "blue").unwrap();
/// assert_eq!(attributes.as_attributes().get("app.tenant"), Some("blue"));
/// assert!(attributes.push("app.tenant", "red").is_err());
/// assert!(attributes.push("app.note", "two words").is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AttributeList(
    /// `None` if the list is empty, because most lines have no attributes.
    Option<Box<str>>,
);

/// An attribute that cannot be written: its key or value breaks the syntax, its key is in the list
/// already, the list has 32 attributes, or the head of the line would exceed 2,048 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidAttribute {
    what: &'static str,
}

impl fmt::Display for InvalidAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }
}

impl std::error::Error for InvalidAttribute {}

impl AttributeList {
    /// An empty list.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Adds `key=value`. The value is written with `Display`.
    ///
    /// # Errors
    /// [`InvalidAttribute`]; the list is then unchanged.
    pub fn push(&mut self, key: &str, value: impl fmt::Display) -> Result<(), InvalidAttribute> {
        let value = value.to_string();
        let all = [self.as_attributes().as_str(), ";", key, "=", &value].concat();
        let fault = Attributes::parse(all.as_bytes()).err();
        let smuggled = key.contains(';') || value.contains(';');
        match fault.map(|fault| fault.what).or(smuggled.then_some(BAD)) {
            None => {
                self.0 = Some(all.into());
                Ok(())
            }
            Some(what) => Err(InvalidAttribute { what }),
        }
    }

    /// Adds an attribute of the application. Its key must have a dot.
    pub(crate) fn push_application(
        &mut self,
        key: &str,
        value: impl fmt::Display,
    ) -> Result<(), InvalidAttribute> {
        if !key.contains('.') {
            return Err(InvalidAttribute { what: "an application's attribute key has a dot" });
        }
        self.push(key, value)
    }

    /// Checks that these attributes fit into a head with `others` bytes and `more` other
    /// attributes.
    pub(crate) fn fit(&self, others: usize, more: usize) -> Result<(), InvalidAttribute> {
        let count = self.as_attributes().iter().count() + more;
        if count > MAX_ATTRIBUTES {
            return Err(InvalidAttribute { what: TOO_MANY });
        }
        match others + self.as_attributes().as_str().len() > MAX_HEAD {
            true => Err(InvalidAttribute { what: "the head would be longer than 2048 bytes" }),
            false => Ok(()),
        }
    }

    /// The attributes, borrowed.
    pub fn as_attributes(&self) -> Attributes<'_> {
        Attributes(self.0.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_in_order() {
        let attributes = Attributes::parse(b";version=1;a.b-2=x=y").unwrap();
        assert_eq!(attributes.iter().collect::<Vec<_>>(), [("version", "1"), ("a.b-2", "x=y")]);
        assert_eq!(attributes.get("a.b-2"), Some("x=y"));
        assert_eq!(attributes.get("a"), None);
        assert!(Attributes::parse(b"").unwrap().is_empty());
    }

    #[test]
    fn faults_name_their_offset() {
        let long_key = format!(";{}=1", "k".repeat(33));
        let long_value = format!(";k={}", "v".repeat(256));
        let many: String = (0..33).map(|n| format!(";k{n}=1")).collect();
        for (bytes, at) in [
            (";", 1),
            (";a", 1),
            (";a=", 1),
            (";=1", 1),
            (";A=1", 1),
            (";1=1", 1),
            (";a=1;", 5),
            (";a=1;;b=2", 5),
            (";a=1;b=2;a=3", 9),
            (";a=\u{e9}", 1),
            (";a=x y", 1),
            (long_key.as_str(), 1),
            (long_value.as_str(), 1),
            (many.as_str(), many.len() - 5),
        ] {
            let fault = Attributes::parse(bytes.as_bytes()).unwrap_err();
            assert_eq!(fault.at, at, "{bytes}: {}", fault.what);
        }
        assert!(Attributes::parse(format!(";k={}", "v".repeat(255)).as_bytes()).is_ok());
    }

    #[test]
    fn a_pushed_value_cannot_inject_a_second_attribute() {
        let mut list = AttributeList::new();
        assert!(list.push("a", "1;b=2").is_err());
        assert!(list.push("a;b", "1").is_err());
        assert_eq!(list, AttributeList::new());
    }
}
