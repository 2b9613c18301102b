//! Bytes of a peer, escaped for a log or a terminal.

use std::fmt;

/// The most bytes of a peer that are shown.
pub const MAX_SHOWN: usize = 64;

/// Shows bytes that a peer chose: printable ASCII as it is, all others escaped, at most 64 bytes.
///
/// ```
/// use bellwire::protocol::Escaped;
///
/// assert_eq!(Escaped(b"a\x1b[31m\"").to_string(), r#"a\x1b[31m\""#);
/// ```
#[derive(Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.get(..MAX_SHOWN).unwrap_or(self.0);
        write!(f, "{}", shown.escape_ascii())?;
        match self.0.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, "... ({more} more bytes)"),
        }
    }
}

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_unprintable_bytes_are_cut_and_escaped() {
        assert_eq!(Escaped(b"plain").to_string(), "plain");
        assert_eq!(Escaped("\u{e9}\n".as_bytes()).to_string(), r"\xc3\xa9\n");
        let long = Escaped(&[b'x'; 70]).to_string();
        assert_eq!(long, format!("{}... (6 more bytes)", "x".repeat(64)));
    }
}
