//! Words, which say what a line is, and the syntax of names.

use std::fmt;

use crate::protocol::wire::limits::MAX_NAME;

/// A line's word: a name of the application, or a word of the protocol (`ok`, `/renew`).
///
/// **Invariant:** an optional `/`, then a name. So it is ASCII.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Word<'a>(&'a [u8]);

impl<'a> Word<'a> {
    /// A word, if `word` is a name, or `/` and a name, of at most 128 bytes.
    pub fn new(word: &'a str) -> Option<Self> {
        let word = word.as_bytes();
        (word_len(word) == Some(word.len())).then_some(Self(word))
    }

    /// Splits off the word that `head` begins with. It ends at a `;`, an SP or the end of `head`.
    pub(super) fn split(head: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (word, behind) = head.split_at(word_len(head)?);
        Some((Self(word), behind))
    }

    /// The word as on the wire.
    pub fn as_str(self) -> &'a str {
        std::str::from_utf8(self.0).unwrap_or_default()
    }

    /// The word's bytes, all ASCII.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether the word belongs to the protocol: it begins with `/`.
    pub fn is_protocol(self) -> bool {
        self.0.first() == Some(&b'/')
    }
}

impl fmt::Debug for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Word({})", self.as_str())
    }
}

/// The length of the word that `head` begins with; `None` if there is none. It ends at a `;`, an SP
/// or the end of `head`. One pass, because every line goes through it.
fn word_len(head: &[u8]) -> Option<usize> {
    let (slash, name) = match head {
        [b'/', name @ ..] => (1, name),
        name => (0, name),
    };
    name_len(name).map(|len| slash + len).filter(|len| *len <= MAX_NAME)
}

/// Whether `bytes` are a name of an application: segments of `A-Z a-z 0-9 _ -`, joined by one `.`
/// or `/`, 1 to 128 bytes in all (PROTOCOL.md, section 2).
pub(super) fn is_name(bytes: &[u8]) -> bool {
    name_len(bytes) == Some(bytes.len())
}

/// The length of the name that `bytes` begin with. It ends at an SP, a `;` or the end of `bytes`.
/// `None` if it is not a name.
fn name_len(bytes: &[u8]) -> Option<usize> {
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

/// Looks up a table, because every line has a name.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A word has at most 128 bytes, its slash included.
    #[test]
    fn the_limit_of_a_word_includes_its_slash() {
        for (slash, end) in
            ["", "/"].into_iter().flat_map(|one| ["", " ", ";k=v", " x"].map(|two| (one, two)))
        {
            for length in [1, MAX_NAME - 2, MAX_NAME - 1, MAX_NAME, MAX_NAME + 1] {
                let word = format!("{slash}{}", "a".repeat(length));
                let expected = Some(word.len()).filter(|len| *len <= MAX_NAME);
                assert_eq!(word_len(format!("{word}{end}").as_bytes()), expected, "{word}{end}");
                assert_eq!(Word::new(&word).is_some(), expected.is_some(), "{word}");
            }
        }
        for bad in ["", "/", "//a", "/ a", "/;", " ", ";"] {
            assert_eq!(word_len(bad.as_bytes()), None, "{bad}");
        }
    }

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

    /// Compares with the simplest implementation: every text of up to 3 of these bytes, alone and
    /// behind names of up to one byte over the limit.
    #[test]
    fn names_end_where_the_simplest_search_ends_them() {
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
}
