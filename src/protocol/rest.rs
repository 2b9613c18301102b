//! The rest of a line: any bytes, with the three that could break a line stuffed.
//!
//! LF, CR and DLE travel as DLE and the byte XOR 0x40 (PROTOCOL.md, section 4). JSON and plain text
//! hold none of them, so for nearly every payload both directions cost one vectorised scan.

use std::borrow::Cow;

use memchr::{memchr, memchr2, memchr3};

const LF: u8 = b'\n';
const CR: u8 = b'\r';
/// Data link escape: what announces a stuffed byte.
pub(crate) const DLE: u8 = 0x10;
const FLIP: u8 = 0x40;

/// Appends `plain` to `out`, stuffed.
pub fn stuff(plain: &[u8], out: &mut Vec<u8>) {
    let mut left = plain;
    while let Some(at) = memchr3(LF, CR, DLE, left) {
        let (clean, from) = left.split_at(at);
        out.extend_from_slice(clean);
        if let Some((&byte, after)) = from.split_first() {
            out.extend_from_slice(&[DLE, byte ^ FLIP]);
            left = after;
        }
    }
    out.extend_from_slice(left);
}

/// The length of `plain` once stuffed.
pub fn stuffed_len(plain: &[u8]) -> usize {
    plain.len() + memchr::memchr3_iter(LF, CR, DLE, plain).count()
}

/// Whether a stuffed rest holds pairs; or where it breaks the rules first, by a raw CR or a DLE that
/// begins no legal pair.
pub(crate) fn check(stuffed: &[u8]) -> Result<bool, (usize, &'static str)> {
    let mut from = 0;
    while let Some(found) = stuffed.get(from..).and_then(|left| memchr2(CR, DLE, left)) {
        let at = from + found;
        match stuffed.get(at..).unwrap_or_default() {
            [DLE, b'J' | b'M' | b'P', ..] => from = at + 2,
            [DLE, ..] => return Err((at, "bad escape")),
            _ => return Err((at, "raw CR")),
        }
    }
    Ok(from > 0)
}

/// The plain bytes of a stuffed rest, in one pass; borrowed when there is nothing to undo.
///
/// A DLE that begins no legal pair stays as it is: lines are checked when they are parsed.
pub fn unstuff(stuffed: &[u8]) -> Cow<'_, [u8]> {
    match memchr(DLE, stuffed) {
        None => Cow::Borrowed(stuffed),
        Some(first) => Cow::Owned(undo(stuffed, first)),
    }
}

fn undo(stuffed: &[u8], first: usize) -> Vec<u8> {
    let (clean, mut left) = stuffed.split_at(first);
    let mut plain = Vec::with_capacity(stuffed.len());
    plain.extend_from_slice(clean);
    while let [byte, after @ ..] = left {
        left = match (byte, after) {
            (&DLE, [flipped @ (b'J' | b'M' | b'P'), after @ ..]) => {
                plain.push(flipped ^ FLIP);
                after
            }
            _ => {
                plain.push(*byte);
                after
            }
        };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuffed(plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        stuff(plain, &mut out);
        assert_eq!(out.len(), stuffed_len(plain));
        out
    }

    #[test]
    fn the_three_bytes_travel_as_pairs() {
        assert_eq!(stuffed(b"a\nb\rc\x10d"), b"a\x10Jb\x10Mc\x10Pd");
        assert_eq!(stuffed(b""), b"");
        assert_eq!(stuffed(b"plain {\"json\":1}"), b"plain {\"json\":1}");
        assert_eq!(unstuff(b"a\x10Jb\x10Mc\x10Pd").as_ref(), b"a\nb\rc\x10d");
        assert!(matches!(unstuff(b"plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_pair_is_undone_once() {
        assert_eq!(unstuff(b"\x10PJ").as_ref(), b"\x10J");
        assert_eq!(stuffed(b"\x10J"), b"\x10PJ");
    }

    #[test]
    fn faults_are_found_where_they_are() {
        for (rest, at) in [
            (&b"ok"[..], None),
            (b"\x10J\x10M\x10P", None),
            (b"a\rb", Some(1)),
            (b"ab\x10", Some(2)),
            (b"\x10J\x10K", Some(2)),
            (b"\x10\x10P", Some(0)),
            (b"\x10j", Some(0)),
        ] {
            assert_eq!(check(rest).err().map(|(at, _)| at), at, "{rest:?}");
        }
    }
}
