//! Lines on the wire: cut out of the bytes, without credentials, and safe for a terminal.

use crate::escape;

/// The bytes of an unfinished line that are kept; more of it is counted.
const MAX_KEPT: usize = 64 << 10;
/// What stands in the place of credentials.
const REDACTED: &str = "[redacted]";
/// The method that carries them.
const AUTH: &[u8] = b"/auth";

/// Whose line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Cuts bytes into lines.
pub(crate) struct Lines {
    line: Vec<u8>,
    /// Bytes of the line that were not kept.
    dropped: usize,
    side: Side,
}

impl Lines {
    pub(crate) fn new(side: Side) -> Self {
        Self { line: Vec::new(), dropped: 0, side }
    }

    /// Takes bytes, and passes each complete line to `show`. No bytes are the end: an unfinished line
    /// is shown as it is.
    pub(crate) fn push(&mut self, bytes: &[u8], mut show: impl FnMut(&[u8])) {
        if bytes.is_empty() && !self.line.is_empty() {
            self.finish(&mut show);
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            self.keep(&rest[..end]);
            self.finish(&mut show);
            rest = &rest[end + 1..];
        }
        self.keep(rest);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(MAX_KEPT.saturating_sub(self.line.len()));
        self.line.extend_from_slice(&bytes[..kept]);
        self.dropped += bytes.len() - kept;
    }

    fn finish(&mut self, show: &mut impl FnMut(&[u8])) {
        if self.dropped > 0 {
            let note = format!("... ({} more bytes)", self.dropped);
            // Credentials have no place behind the limit, either.
            if self.side == Side::Server || auth(&self.line).is_none() {
                self.line.extend_from_slice(note.as_bytes());
            }
        }
        show(&self.line);
        self.line.clear();
        self.dropped = 0;
    }
}

/// The line as text, at most `width` bytes of it.
pub(crate) fn shown(line: &[u8], side: Side, width: usize) -> String {
    match auth(line).filter(|_| side == Side::Client) {
        Some(Auth { head, has_attributes, scheme }) => {
            let head = escape::cut(head, width);
            let attributes = if has_attributes { format!(";{REDACTED}") } else { String::new() };
            let scheme =
                scheme.map_or(String::new(), |scheme| format!(" {}", escape::cut(scheme, width)));
            format!("{head}{attributes}{scheme} {REDACTED}")
        }
        None => escape::cut(line, width),
    }
}

/// What may be shown of a line with credentials.
struct Auth<'a> {
    /// Up to the method, and with it.
    head: &'a [u8],
    /// An attribute may be a secret, too.
    has_attributes: bool,
    /// The scheme, if there is more behind it.
    scheme: Option<&'a [u8]>,
}

/// Takes a line apart that may have credentials. Malformed lines count, too: what looks like an
/// `/auth` is one.
fn auth(line: &[u8]) -> Option<Auth<'_>> {
    let at = line.windows(AUTH.len()).position(|part| part.eq_ignore_ascii_case(AUTH))?;
    // A payload may have the word, too, so it counts only where a method stands.
    let words = line[..at].split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let is_method = words.count() <= 1;
    if !is_method {
        return None;
    }
    let (head, rest) = line.split_at(at + AUTH.len());
    let has_attributes = rest.starts_with(b";");
    let mut words = rest.splitn(3, |&byte| byte == b' ').skip(1);
    // Without a word behind it, the only word may be the secret.
    let scheme = match (words.next(), words.next()) {
        (Some(scheme), Some(_)) if is_scheme(scheme) => Some(scheme),
        _ => None,
    };
    Some(Auth { head, has_attributes, scheme })
}

fn is_scheme(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().all(u8::is_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_client(line: &[u8]) -> String {
        shown(line, Side::Client, 1_000)
    }

    #[test]
    fn credentials_are_left_out_of_every_form() {
        for line in [
            "1 /auth token 5f1c",
            "1 /auth token 5f1c more of it 5f1c",
            "1 /auth;x=5f1c token 5f1c",
            "1 /auth 5f1c",
            "* /auth token 5f1c",
            "/auth token 5f1c",
            "1  /auth token 5f1c",
            "1 /AUTH token 5f1c",
            "1 /auth  token 5f1c",
            "1 /authtoken 5f1c",
            "1 /auth\x105f1c",
            "1 /auth\t5f1c",
            "\u{feff}1 /auth token 5f1c\r",
        ] {
            let text = of_client(line.as_bytes());
            assert!(!text.contains("5f1c") && text.ends_with(REDACTED), "{line}: {text}");
        }
        assert_eq!(of_client(b"1 /auth token 5f1c"), "1 /auth token [redacted]");
        assert_eq!(of_client(b"1 /auth;a.b=c token 5f1c"), "1 /auth;[redacted] token [redacted]");
        assert_eq!(of_client(b"1 echo /auth is a word"), "1 echo /auth is a word");
        assert_eq!(
            shown(b"1 no unauthenticated /auth", Side::Server, 99),
            "1 no unauthenticated /auth"
        );
    }

    #[test]
    fn lines_are_cut_anywhere_and_bounded() {
        let mut lines = Lines::new(Side::Client);
        let mut seen = Vec::new();
        for bytes in [&b"1 ec"[..], b"ho a\n2 e", b"\n", b"3 unfinished", b""] {
            lines.push(bytes, |line| seen.push(of_client(line)));
        }
        assert_eq!(seen, ["1 echo a", "2 e", "3 unfinished"]);
        let long = [b'x'; 100_000];
        seen.clear();
        for bytes in [&long[..], b"\n", b"1 /auth token ", &long, b"\n"] {
            lines.push(bytes, |line| seen.push(shown(line, Side::Client, 100_000)));
        }
        assert!(seen[0].ends_with("... (34464 more bytes)"));
        assert_eq!(seen[1], "1 /auth token [redacted]");
        assert_eq!(shown(b"abc\x1b", Side::Server, 2), "ab... (2 more bytes)");
    }
}
