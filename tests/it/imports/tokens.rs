//! Rust source as a list of tokens, without comments, literals and tests.

use std::collections::BTreeSet;

/// A word, a `::`, or one other character.
pub(super) type Tokens = Vec<String>;

/// The tokens of `source`, except those of items with `#[cfg(test)]`; and the names of the modules
/// in other files that have this attribute.
pub(super) fn tokens(source: &str) -> (Tokens, BTreeSet<String>) {
    without_tests(&lex(source))
}

fn lex(source: &str) -> Tokens {
    let mut found = Tokens::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = token_length(rest, first);
        let token = &rest[..length];
        if is_code(token, first) {
            found.push(token.to_owned());
        }
        rest = &rest[length..];
    }
    found
}

fn token_length(rest: &str, first: char) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if let Some(raw) = raw_string_length(rest) {
        return raw;
    }
    match first {
        '"' => quoted_length(rest),
        '\'' => character_length(rest),
        _ if is_word(first) => rest.find(|it| !is_word(it)).unwrap_or(rest.len()),
        _ if rest.starts_with("::") => 2,
        _ => first.len_utf8(),
    }
}

fn is_word(it: char) -> bool {
    it.is_alphanumeric() || it == '_'
}

fn is_code(token: &str, first: char) -> bool {
    let literal = ['"', '\''].contains(&first) || raw_string_length(token).is_some();
    !literal && !token.starts_with("//") && !first.is_whitespace()
}

/// `r"..."`, `r#"..."#` and the same with a `b`.
fn raw_string_length(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = inner.find(|it| it != '#')?;
    let body = inner[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(rest.len() - body.len() + body.find(&end)? + end.len())
}

fn quoted_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !escaped => return at + 1,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// A literal such as `'a'` or `'\n'`; of a lifetime only the quote.
fn character_length(rest: &str) -> usize {
    let inner = &rest[1..];
    let body = match inner.starts_with('\\') {
        true => inner[2..].find('\'').map(|at| at + 2),
        false => inner.chars().next().map(char::len_utf8),
    };
    body.filter(|at| inner[*at..].starts_with('\'')).map_or(1, |at| at + 2)
}

fn without_tests(all: &[String]) -> (Tokens, BTreeSet<String>) {
    let (mut kept, mut files) = (Tokens::new(), BTreeSet::new());
    let mut rest = all;
    while !rest.is_empty() {
        let length = if is_test(rest) { item_length(rest) } else { 0 };
        let (item, after) = rest.split_at(length);
        match item {
            [] => {
                kept.push(rest[0].clone());
                rest = &rest[1..];
            }
            [.., module, name, end] if module == "mod" && end == ";" => {
                files.insert(name.clone());
                rest = after;
            }
            _ => rest = after,
        }
    }
    (kept, files)
}

/// Whether `#[cfg(test)]` or `#[cfg(all(test, ...))]` is next.
fn is_test(rest: &[String]) -> bool {
    let starts =
        |with: &[&str]| rest.len() >= with.len() && rest.iter().zip(with).all(|(a, b)| a == b);
    starts(&["#", "[", "cfg", "(", "test", ")"])
        || starts(&["#", "[", "cfg", "(", "all", "(", "test"])
}

/// How long the item is that is next, with its attributes.
fn item_length(rest: &[String]) -> usize {
    let import =
        rest.iter().take_while(|it| !["{", ";"].contains(&it.as_str())).any(|it| it == "use");
    let mut depth = 0;
    for (at, token) in rest.iter().enumerate() {
        match token.as_str() {
            "{" | "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 && !import {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[test]
fn comments_and_literals_yield_no_tokens() {
    let source = "let a = 'x'; // b\nf::<'c>(\"d\\\"e\", '\\'', r#\"g\"h\"#)";
    let expected = "let a = ; f :: < c > ( , , )";
    assert_eq!(tokens(source).0.join(" "), expected);
}

#[test]
fn test_code_yields_no_tokens() {
    let source = "a; #[cfg(test)] mod by_hand; b; #[cfg(test)] use c::{d, e}; \
                  #[cfg(test)] #[x] fn f(g: H) { { } } i; #[cfg(all(test, unix))] mod tests { j }";
    let (kept, files) = tokens(source);
    assert_eq!(kept.join(" "), "a ; b ; i ;");
    assert_eq!(files, BTreeSet::from(["by_hand".to_owned()]));
}
