//! How bytes are written in vectors and transcripts.

/// Bytes in hex.
pub fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).expect("hex");
    digits.map(byte).collect()
}

/// The bytes a transcript's text stands for: `\xHH` is a byte, `<name>` what `bound` says.
pub fn unescape(text: &str, bound: impl Fn(&str) -> Option<String>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut left = text;
    while !left.is_empty() {
        let (taken, after) = if let Some(code) = left.strip_prefix("\\x") {
            let (code, after) = code.split_at(2);
            (hex(code), after)
        } else if let Some((value, after)) = placeholder(left, &bound) {
            (value.into_bytes(), after)
        } else {
            let (one, after) = left.split_at(left.chars().next().map_or(1, char::len_utf8));
            (one.as_bytes().to_vec(), after)
        };
        bytes.extend(taken);
        left = after;
    }
    bytes
}

/// `<name>` at the beginning of `text`: what it stands for, and what follows.
fn placeholder<'a>(
    text: &'a str,
    bound: &impl Fn(&str) -> Option<String>,
) -> Option<(String, &'a str)> {
    let (name, after) = placeholder_name(text)?;
    let value = bound(name).unwrap_or_else(|| panic!("<{name}> is bound"));
    Some((value, after))
}

/// The name in `<name>` at the beginning of `text`, and what follows.
pub fn placeholder_name(text: &str) -> Option<(&str, &str)> {
    let (name, after) = text.strip_prefix('<')?.split_once('>')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
    is_name.then_some((name, after))
}
