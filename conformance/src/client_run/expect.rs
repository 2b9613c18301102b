//! Whether a line of a client is the one that a script expects.

use crate::{
    pattern::{Names, matches},
    wire::Line,
};

/// Attributes that a client may add to a request of its own accord.
const FREE: [&str; 3] = ["ttl", "trace", "window"];

/// Whether `line` is what the text `expected` describes. The order of attributes means nothing. A
/// request of the application may have some more than the text says.
///
/// # Errors
/// A malformed text.
pub(crate) fn is_expected(expected: &str, line: &Line, names: &mut Names) -> Result<bool, String> {
    let mut parts = expected.splitn(3, ' ');
    let (mark, head) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let rest = parts.next().unwrap_or_default();
    let mut bound = names.clone();
    let mut words = head.split(';');
    let word = words.next().unwrap_or_default();
    let is_it = matches(mark, line.mark.as_bytes(), &mut bound)?
        && (mark == "*") == line.is_channel()
        && matches(word, line.word.as_bytes(), &mut bound)?
        && has_attributes(words, line, &mut bound)?
        && matches(rest, line.rest.as_deref().unwrap_or_default(), &mut bound)?;
    if is_it {
        // `<any>` is any, again and again.
        bound.remove("any");
        *names = bound;
    }
    Ok(is_it)
}

/// As `is_expected`, but any request of the application does for another one.
pub(crate) fn is_like(expected: &str, line: &Line, names: &mut Names) -> Result<bool, String> {
    let (mark, head) = expected.split_once(' ').unwrap_or((expected, ""));
    if head.starts_with('/') || line.word.starts_with('/') {
        return is_expected(expected, line, names);
    }
    Ok((mark == "*") == line.is_channel() && matches(mark, line.mark.as_bytes(), names)?)
}

fn has_attributes<'a>(
    expected: impl Iterator<Item = &'a str>,
    line: &Line,
    names: &mut Names,
) -> Result<bool, String> {
    let mut left: Vec<_> = line.attributes.iter().collect();
    for attribute in expected {
        let (key, value) = attribute.split_once('=').ok_or("an attribute is KEY=VALUE")?;
        let Some(at) = left.iter().position(|(found, _)| found == key) else { return Ok(false) };
        if !matches(value, left.swap_remove(at).1.as_bytes(), names)? {
            return Ok(false);
        }
    }
    let is_protocol = line.word.starts_with('/');
    Ok(left.iter().all(|(key, value)| match is_protocol {
        false => FREE.contains(&&key[..]) || key.contains('.'),
        true if line.word == "/publish" => key == "ttl" || key.contains('.'),
        true if line.word == "/subscribe" => {
            (&key[..], &value[..]) == ("slow", "gap") || key.contains('.')
        }
        true => key.contains('.'),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::parse;

    #[test]
    fn attributes_come_in_any_order() {
        let mut names = Names::new();
        let mut is = |expected, line: &str| {
            is_expected(expected, &parse(line.as_bytes()).unwrap(), &mut names).unwrap()
        };
        assert!(is("<a> /subscribe;from=e:1;window=2 t", "7 /subscribe;window=2;from=e:1 t"));
        assert!(!is("<b> /subscribe;from=e:1 t", "8 /subscribe;window=2;from=e:1 t"));
        assert!(is("<c> m x", "9 m;ttl=5 x"));
        assert!(!is("<a> m x", "9 m x"));
        assert!(!is("* m", "10 m"));
    }
}
