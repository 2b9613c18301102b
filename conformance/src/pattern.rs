//! The text of a script's line: bytes to write, or a pattern for a line that was read.
//!
//! - `\xHH` is a byte.
//! - `{TEXT*N}` is TEXT, N times.
//! - `<name>` stands for a run of bytes without SP, `;`, `:` and `,`, the same wherever it comes
//!   again. In what is written it must be known already.

use std::collections::HashMap;

/// The values of the names of a script.
pub type Names = HashMap<String, String>;

/// One piece of a text.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Bytes(Vec<u8>),
    Name(&'a str),
}

/// The first piece of `text`, which is not empty, and what follows it.
fn piece(text: &str) -> Result<(Piece<'_>, &str), String> {
    if let Some(after) = text.strip_prefix("\\x") {
        let (digits, after) = after.split_at_checked(2).ok_or("a byte is `\\xHH`")?;
        let byte = u8::from_str_radix(digits, 16).map_err(|_| "a byte is `\\xHH`")?;
        return Ok((Piece::Bytes(vec![byte]), after));
    }
    if let Some((name, after)) = text.strip_prefix('<').and_then(|text| text.split_once('>'))
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_lowercase())
    {
        return Ok((Piece::Name(name), after));
    }
    if let Some((what, after)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        let repeated = what.rsplit_once('*').and_then(|(one, count)| {
            count.parse().ok().map(|count: usize| one.repeat(count).into_bytes())
        });
        if let Some(bytes) = repeated {
            return Ok((Piece::Bytes(bytes), after));
        }
    }
    let one = text.chars().next().map_or(1, char::len_utf8);
    Ok((Piece::Bytes(text.as_bytes()[..one].to_vec()), &text[one..]))
}

/// The bytes that `text` stands for.
///
/// # Errors
/// A name that has no value yet, or a malformed `\xHH`.
pub fn bytes(text: &str, names: &Names) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut left = text;
    while !left.is_empty() {
        let (one, after) = piece(left)?;
        match one {
            Piece::Bytes(some) => bytes.extend(some),
            Piece::Name(name) => {
                let value = names.get(name).ok_or_else(|| format!("<{name}> has no value yet"))?;
                bytes.extend(value.as_bytes());
            }
        }
        left = after;
    }
    Ok(bytes)
}

/// `text` with the values of the names that have one.
pub fn filled(text: &str, names: &Names) -> String {
    let fill =
        |text: String, (name, value): (&String, &String)| text.replace(&format!("<{name}>"), value);
    names.iter().fold(text.to_owned(), fill)
}

/// Whether `text` describes exactly `got`; names that are new get their values from it.
///
/// # Errors
/// A malformed `\xHH`.
pub fn matches(text: &str, got: &[u8], names: &mut Names) -> Result<bool, String> {
    let mut bound = names.clone();
    let (mut text, mut got) = (text, got);
    while !text.is_empty() {
        let (one, after) = piece(text)?;
        let expected = match one {
            Piece::Bytes(some) => some,
            Piece::Name(name) => match bound.get(name) {
                Some(value) => value.clone().into_bytes(),
                None => {
                    let is_end = |byte: &u8| b" ;:,".contains(byte);
                    let end = got.iter().position(is_end).unwrap_or(got.len());
                    let value = got[..end].to_vec();
                    if value.is_empty() {
                        return Ok(false);
                    }
                    bound.insert(name.to_owned(), String::from_utf8_lossy(&value).into_owned());
                    value
                }
            },
        };
        let Some(left) = got.strip_prefix(&expected[..]) else { return Ok(false) };
        got = left;
        text = after;
    }
    if !got.is_empty() {
        return Ok(false);
    }
    *names = bound;
    Ok(true)
}
