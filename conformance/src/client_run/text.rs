//! The text of the testee's commands and events: printable ASCII, all other bytes as `\xHH`.

use std::fmt::Write;

/// `bytes` as text: every byte that is not printable ASCII, and every backslash, as `\xHH`.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'\\' => text.push_str("\\x5c"),
            0x20..=0x7e => text.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => _ = write!(text, "\\x{byte:02x}"),
        }
    }
    text
}

/// The bytes of a text; a backslash that begins no `\xHH` stands for itself.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.as_bytes();
    while let Some((&byte, after)) = left.split_first() {
        let escaped = after.strip_prefix(b"x").and_then(|digits| digits.get(..2));
        let escaped = escaped
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                left = &after[3..];
            }
            None => {
                bytes.push(byte);
                left = after;
            }
        }
    }
    bytes
}

/// The beginning of `bytes`, escaped, for a message.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 160;
    match bytes.get(..MOST) {
        Some(begin) => format!("{}… ({} bytes)", escape(begin), bytes.len()),
        None => escape(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        let bytes: Vec<u8> = (0..=255).chain(*b"\\x41\\").collect();
        let text = escape(&bytes);
        assert!(text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
        assert_eq!(unescape(&text), bytes);
    }
}
