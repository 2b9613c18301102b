//! A line taken apart by the grammar of docs/protocol/grammar.md, section 11, independently of the crate.

/// A well-formed line of either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// An id, or `*`.
    pub mark: String,
    pub word: String,
    /// In the order of the line.
    pub attributes: Vec<(String, String)>,
    /// What follows the SP behind the head, still stuffed; for a failure the code and its text.
    pub rest: Option<Vec<u8>>,
}

impl Line {
    /// The value of the attribute `key`.
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|(found, _)| found == key).map(|(_, value)| &value[..])
    }

    pub fn is_channel(&self) -> bool {
        self.mark == "*"
    }
}

/// The greatest number of the protocol.
pub const MAX_NUMBER: u64 = 9_007_199_254_740_991;

/// The longest head, in bytes.
pub const MAX_HEAD: usize = 2_048;

/// A number from 1 to 2^53-1, without a leading zero.
pub fn number(text: &str) -> Option<u64> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if text.is_empty() || text.starts_with('0') || !is_digits {
        return None;
    }
    text.parse().ok().filter(|&number| number <= MAX_NUMBER)
}

/// A method or topic, without a leading slash.
pub fn is_name(text: &str) -> bool {
    let is_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    let is_segment = |segment: &str| !segment.is_empty() && segment.bytes().all(is_byte);
    text.len() <= 128 && text.split(['.', '/']).all(is_segment)
}

/// A name behind a slash.
pub fn is_reserved_name(text: &str) -> bool {
    text.len() <= 128 && text.strip_prefix('/').is_some_and(is_name)
}

pub fn is_code(text: &str) -> bool {
    let is_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let begins = text.starts_with(|first: char| first.is_ascii_lowercase());
    begins && text.len() <= 64 && text.bytes().all(is_byte)
}

pub fn is_epoch(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// `EPOCH:SEQ` taken apart.
pub fn position(text: &str) -> Option<(&str, u64)> {
    let (epoch, seq) = text.split_once(':')?;
    is_epoch(epoch).then_some((epoch, number(seq)?))
}

/// Takes a line without its LF apart; the error says what is wrong with it.
///
/// # Errors
/// The first fault that was found.
pub fn parse(bytes: &[u8]) -> Result<Line, String> {
    let (mark, after) = split(bytes).ok_or("there is no SP behind the mark")?;
    let mark = text(mark)?;
    if mark != "*" && number(mark).is_none() {
        return Err(format!("{mark:?} is neither an id nor `*`"));
    }
    let (word_and_attributes, rest) = match split(after) {
        Some((head, rest)) => (head, Some(rest)),
        None => (after, None),
    };
    if bytes.len() - rest.map_or(0, |rest| rest.len() + 1) > MAX_HEAD {
        return Err(format!("the head is longer than {MAX_HEAD} bytes"));
    }
    let mut parts = text(word_and_attributes)?.split(';');
    let word = parts.next().unwrap_or_default();
    if !(is_name(word) || is_reserved_name(word)) {
        return Err(format!("{word:?} is no word"));
    }
    let attributes = attributes(parts)?;
    if let Some(rest) = rest {
        unstuff(rest)?;
    }
    Ok(Line {
        mark: mark.to_owned(),
        word: word.to_owned(),
        attributes,
        rest: rest.map(<[u8]>::to_vec),
    })
}

/// What stands before and behind the first SP.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    let is_plain = bytes.iter().all(|byte| (0x21..=0x7e).contains(byte));
    let text = str::from_utf8(bytes).ok().filter(|_| is_plain);
    text.ok_or_else(|| format!("a byte in the head is not printable: {}", bytes.escape_ascii()))
}

fn attributes<'a>(parts: impl Iterator<Item = &'a str>) -> Result<Vec<(String, String)>, String> {
    let mut attributes: Vec<(String, String)> = Vec::new();
    for part in parts {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} has no `=`"))?;
        let is_byte =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
        let begins = key.starts_with(|first: char| first.is_ascii_lowercase());
        if !begins || key.len() > 32 || !key.bytes().all(is_byte) {
            return Err(format!("{key:?} is no key"));
        }
        if !(1..=255).contains(&value.len()) {
            return Err(format!("the value of {key} has {} bytes", value.len()));
        }
        if attributes.iter().any(|(other, _)| other == key) {
            return Err(format!("{key} is there twice"));
        }
        attributes.push((key.to_owned(), value.to_owned()));
    }
    if attributes.len() > 32 {
        return Err("there are more than 32 attributes".to_owned());
    }
    Ok(attributes)
}

/// The bytes that a rest stands for.
///
/// # Errors
/// A raw CR or LF, or a DLE that begins no pair.
pub fn unstuff(rest: &[u8]) -> Result<Vec<u8>, String> {
    let mut plain = Vec::with_capacity(rest.len());
    let mut bytes = rest.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            0x0a | 0x0d => return Err("a CR or LF in the rest is not stuffed".to_owned()),
            0x10 => match bytes.next() {
                Some(b'J') => 0x0a,
                Some(b'M') => 0x0d,
                Some(b'P') => 0x10,
                _ => return Err("a DLE in the rest begins no pair".to_owned()),
            },
            byte => byte,
        });
    }
    Ok(plain)
}

/// `plain` as it travels.
pub fn stuff(plain: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(plain.len());
    for &byte in plain {
        match byte {
            0x0a => stuffed.extend(b"\x10J"),
            0x0d => stuffed.extend(b"\x10M"),
            0x10 => stuffed.extend(b"\x10P"),
            byte => stuffed.push(byte),
        }
    }
    stuffed
}
