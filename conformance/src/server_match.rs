//! Whether a line of the server's is the one that a script expects. Order of attributes, texts for
//! people, and what a client has to ignore make no difference.

use crate::{
    pattern::{self, Names},
    wire::{self, Line},
};

/// Attributes that mean something to a client, so that they may not be there unasked. A `retry` is
/// a hint, which a server may give with any refusal.
const MEANINGFUL: [&str; 8] = ["epoch", "next", "head", "seq", "after", "lease", "last", "id"];

/// Whether `line` is what `expected` says; binds the names that are new in it.
///
/// # Errors
/// A fault of the script.
pub fn matches(expected: &str, line: &Line, names: &mut Names) -> Result<bool, String> {
    let mut bound = names.clone();
    let (mark, after) = expected.split_once(' ').ok_or("a line has a mark and a word")?;
    let (head, rest) = match after.split_once(' ') {
        Some((head, rest)) => (head, Some(rest)),
        None => (after, None),
    };
    let mut parts = head.split(';');
    let word = parts.next().unwrap_or_default();
    let is_head = pattern::matches(mark, line.mark.as_bytes(), &mut bound)?
        && pattern::matches(word, line.word.as_bytes(), &mut bound)?
        && has_attributes(parts, line, &mut bound)?
        && has_rest(rest.unwrap_or_default(), line, &mut bound)?;
    if is_head {
        *names = bound;
    }
    Ok(is_head)
}

fn has_attributes<'a>(
    expected: impl Iterator<Item = &'a str>,
    line: &Line,
    names: &mut Names,
) -> Result<bool, String> {
    let mut keys = Vec::new();
    for one in expected {
        let (key, value) = one.split_once('=').ok_or("an attribute is `key=value`")?;
        let Some(found) = line.attribute(key) else { return Ok(false) };
        if !pattern::matches(value, found.as_bytes(), names)? {
            return Ok(false);
        }
        keys.push(key);
    }
    let is_expected = |key: &str| keys.contains(&key) || !MEANINGFUL.contains(&key);
    // A notification has no attributes of the protocol's.
    let is_free = line.is_channel() && !line.word.starts_with('/');
    Ok(is_free || line.attributes.iter().all(|(key, _)| is_expected(key)))
}

/// How many words of the rest count; what follows them is for people, or for later versions.
fn words_that_count(line: &Line) -> Option<usize> {
    match (line.is_channel(), &line.word[..]) {
        (true, "/gap") => Some(5),
        (true, "/end") => Some(3),
        (true, "/reset") => Some(2),
        (true, "/error" | "/bye") | (false, "err" | "no" | "cut") => Some(1),
        (true, "/hold") => Some(0),
        _ => None,
    }
}

fn has_rest(expected: &str, line: &Line, names: &mut Names) -> Result<bool, String> {
    let got = line.rest.as_deref().unwrap_or_default();
    let Some(count) = words_that_count(line) else {
        return pattern::matches(expected, got, names);
    };
    let mut got: Vec<&[u8]> = got.split(|&byte| byte == b' ').collect();
    let expected: Vec<_> = expected.split(' ').filter(|word| !word.is_empty()).collect();
    if expected.len() > count {
        return Err(format!("{expected:?}: of {} only {count} words count", line.word));
    }
    got.retain(|word| !word.is_empty());
    got.truncate(count);
    if got.len() != expected.len() {
        return Ok(false);
    }
    for (expected, got) in expected.iter().zip(got) {
        if !pattern::matches(expected, got, names)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is wrong with a `/hello`, if anything (section 21).
pub fn fault_of_hello(line: &Line, bytes: usize) -> Option<String> {
    if !line.is_channel() || line.word != "/hello" {
        return Some("S2.1: the first line is no /hello".to_owned());
    }
    if bytes > 1_024 {
        return Some("S2.2: the /hello is longer than 1024 bytes".to_owned());
    }
    if line.attribute("version") != Some("1") {
        return Some("section 21: the /hello has no version=1".to_owned());
    }
    for key in ["session", "max-line", "in-flight", "lease"] {
        if line.attribute(key).is_none() {
            return Some(format!("section 21: the /hello has no {key}"));
        }
    }
    for key in ["max-line", "in-flight", "lease", "idle"] {
        let number = line.attribute(key).map(wire::number);
        if number == Some(None) || (key == "max-line" && number < Some(Some(1_024))) {
            return Some(format!("section 21: {key} of the /hello has a wrong value"));
        }
    }
    let session = line.attribute("session").unwrap_or_default();
    let is_byte = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    let is_uuid = session.len() == 36 && session.bytes().all(is_byte);
    (!is_uuid).then(|| "section 21: session of the /hello is no UUID".to_owned())
}
