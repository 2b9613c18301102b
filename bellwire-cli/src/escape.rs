//! Bytes of a peer, shown so that they cannot control a terminal.

use std::fmt::Write;

/// The bytes as text. Control characters, characters that change the direction of the text, and
/// bytes that are not UTF-8 are escaped as in Rust: `\x1b`, `\u{202e}`. `keep` are exceptions.
pub(crate) fn shown(bytes: &[u8], keep: &[char]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            push(&mut text, character, keep);
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a String takes everything");
        }
    }
    text
}

/// As [`shown`], at most `most` bytes of it; the rest is counted.
pub(crate) fn cut(bytes: &[u8], most: usize) -> String {
    let (head, rest) = bytes.split_at(bytes.len().min(most));
    match rest.len() {
        0 => shown(head, &[]),
        more => format!("{}... ({more} more bytes)", shown(head, &[])),
    }
}

fn push(text: &mut String, character: char, keep: &[char]) {
    let written = match character {
        kept if keep.contains(&kept) => return text.push(kept),
        ascii if ascii.is_ascii_control() => write!(text, "\\x{:02x}", u32::from(ascii)),
        other if other.is_control() || is_invisible(other) => {
            write!(text, "\\u{{{:x}}}", u32::from(other))
        }
        plain => return text.push(plain),
    };
    written.expect("a String takes everything");
}

/// Characters that have no width or reorder what is around them.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_as_a_control_character() {
        assert_eq!(
            shown("a\u{1b}[31mé\u{202e}\u{9b}".as_bytes(), &[]),
            r"a\x1b[31mé\u{202e}\u{9b}"
        );
        assert_eq!(shown(b"\xff\n", &[]), r"\xff\x0a");
        assert_eq!(shown(b"a\n\tb", &['\n', '\t']), "a\n\tb");
        assert_eq!(cut(b"abcdef", 4), "abcd... (2 more bytes)");
    }
}
