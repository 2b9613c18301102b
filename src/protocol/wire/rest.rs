//! The body of a line: any bytes, with byte stuffing for the three bytes that would break a line.
//!
//! LF, CR and DLE travel as DLE and the byte XOR 0x40 (PROTOCOL.md, section 2). JSON and plain text
//! contain none of them. So for nearly every payload, stuffing and unstuffing cost one vectorised
//! scan.

use std::borrow::Cow;

use memchr::{memchr, memchr2, memchr3};

const LF: u8 = b'\n';
const CR: u8 = b'\r';
/// Data link escape: it introduces a stuffed byte.
pub(crate) const DLE: u8 = 0x10;
const FLIP: u8 = 0x40;

/// Special bytes at most this far apart are handled one by one. A scan for each of them would be
/// slower.
const NEAR: usize = 8;

/// A body of at most this length is first checked in words of 8 bytes. A scan would be slower.
const SHORT: usize = 64;

/// Appends the stuffed form of `plain` to `out`.
pub fn stuff(plain: &[u8], out: &mut Vec<u8>) {
    if is_short_text(plain) {
        return out.extend_from_slice(plain);
    }
    let mut left = plain;
    while let Some(at) = memchr3(LF, CR, DLE, left) {
        let (clean, mut dense) = left.split_at(at);
        out.extend_from_slice(clean);
        while is_near(dense, is_special) {
            let (near, after) = dense.split_at(dense.len().min(NEAR));
            stuff_bytes(near, out);
            dense = after;
        }
        left = dense;
    }
    out.extend_from_slice(left);
}

fn stuff_bytes(plain: &[u8], out: &mut Vec<u8>) {
    out.reserve(2 * plain.len());
    for &byte in plain {
        match is_special(byte) {
            true => out.extend_from_slice(&[DLE, byte ^ FLIP]),
            false => out.push(byte),
        }
    }
}

/// The length of `plain` after stuffing.
pub fn stuffed_len(plain: &[u8]) -> usize {
    let Some(first) = memchr3(LF, CR, DLE, plain) else { return plain.len() };
    // The count of one chunk fits into a byte, so the compiler counts many bytes at a time.
    let chunks = plain.get(first..).unwrap_or_default().chunks(usize::from(u8::MAX));
    let specials = chunks.map(|chunk| chunk.iter().map(|&byte| u8::from(is_special(byte))).sum());
    plain.len() + specials.map(|count: u8| usize::from(count)).sum::<usize>()
}

/// Checks a stuffed body. Returns whether it holds stuffed pairs, or else the offset of its first
/// fault: a raw CR, or a DLE that begins no valid pair.
pub(crate) fn check(stuffed: &[u8]) -> Result<bool, (usize, &'static str)> {
    if is_short_text(stuffed) {
        return Ok(false);
    }
    let Some(first) = memchr2(CR, DLE, stuffed) else { return Ok(false) };
    let from = stuffed.get(first..).unwrap_or_default();
    // The second byte of a valid pair is not a DLE. So each byte is checked together with the next
    // one, many at a time. The position of the first fault is searched only if there is a fault.
    let is_bad = |byte: u8, next: u8| (byte == CR) | ((byte == DLE) & !is_flipped(next));
    let nexts = from.get(1..).unwrap_or_default();
    let any_bad =
        from.iter().zip(nexts).fold(false, |any, (&byte, &next)| any | is_bad(byte, next));
    if !any_bad && !from.last().is_some_and(|&last| is_bad(last, LF)) {
        return Ok(true);
    }
    let is_bad = |(&byte, &next): (&u8, &u8)| is_bad(byte, next);
    let at =
        first + from.iter().zip(nexts.iter().chain([&LF])).position(is_bad).unwrap_or_default();
    Err((at, if stuffed.get(at) == Some(&CR) { "raw CR" } else { "bad escape" }))
}

/// Unstuffs a body in one pass; borrows it if nothing is stuffed.
///
/// A DLE that begins no valid pair stays as it is, because lines are checked when they are parsed.
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
    let mut single_steps = NEAR;
    while let [byte, after @ ..] = left {
        (left, single_steps) = match (byte, after) {
            (&DLE, [flipped, after @ ..]) if is_flipped(*flipped) => {
                plain.push(flipped ^ FLIP);
                (after, NEAR)
            }
            _ if single_steps > 0 => {
                plain.push(*byte);
                (after, single_steps - 1)
            }
            _ => {
                let (clean, from) = left.split_at(memchr(DLE, left).unwrap_or(left.len()));
                plain.extend_from_slice(clean);
                (from, NEAR)
            }
        };
    }
    plain
}

fn is_near(bytes: &[u8], is_special: impl Fn(u8) -> bool) -> bool {
    bytes.iter().take(NEAR).fold(false, |any, &byte| any | is_special(byte))
}

/// Whether these bytes are at most [`SHORT`] and all above DLE. Then none of them is special.
fn is_short_text(bytes: &[u8]) -> bool {
    /// The high bit of each byte.
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    const ABOVE_DLE: u64 = u64::from_ne_bytes([DLE + 1; 8]);
    let words = bytes.chunks_exact(8);
    if bytes.len() > SHORT || words.remainder().iter().any(|&byte| byte <= DLE) {
        return false;
    }
    // The subtraction sets the high bit of the lowest byte that is too small, if there is one.
    let words = words.map(|word| word.try_into().map_or(0, u64::from_ne_bytes));
    words.fold(0, |any, word| any | (word.wrapping_sub(ABOVE_DLE) & !word)) & HIGH == 0
}

fn is_special(byte: u8) -> bool {
    byte == LF || byte == CR || byte == DLE
}

/// Whether this is the second byte of a valid pair.
fn is_flipped(byte: u8) -> bool {
    is_special(byte ^ FLIP)
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
    fn special_bytes_are_stuffed_as_pairs() {
        assert_eq!(stuffed(b"a\nb\rc\x10d"), b"a\x10Jb\x10Mc\x10Pd");
        assert_eq!(stuffed(b""), b"");
        assert_eq!(stuffed(b"plain {\"json\":1}"), b"plain {\"json\":1}");
        assert_eq!(unstuff(b"a\x10Jb\x10Mc\x10Pd").as_ref(), b"a\nb\rc\x10d");
        assert!(matches!(unstuff(b"plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn any_number_of_special_bytes_is_counted() {
        for count in [254, 255, 256, 257, 511, 60_000] {
            assert_eq!(stuffed(&vec![LF; count]).len(), 2 * count);
        }
    }

    #[test]
    fn a_pair_is_unstuffed_once() {
        assert_eq!(unstuff(b"\x10PJ").as_ref(), b"\x10J");
        assert_eq!(stuffed(b"\x10J"), b"\x10PJ");
    }

    /// Compares with the simplest implementation: every text of up to 5 of these bytes, alone and
    /// at each distance from a special byte up to where the search changes its method.
    #[test]
    fn dense_and_sparse_special_bytes_give_the_same_bytes() {
        let mut texts: Vec<Vec<u8>> = vec![Vec::new()];
        for from in 0.. {
            let Some(text) = texts.get(from).filter(|text| text.len() < 5).cloned() else { break };
            texts.extend([LF, CR, DLE, b'J', b'x'].map(|byte| [&text[..], &[byte]].concat()));
        }
        for (text, gap) in
            texts.iter().flat_map(|text| (0..=2 * NEAR + 1).map(move |gap| (text, gap)))
        {
            let text = [b"x\n", &vec![b'.'; gap][..], text].concat();
            let plainest = plainest_stuffed(&text);
            assert_eq!(stuffed(&text), plainest);
            assert_eq!(check(&plainest), Ok(true));
            assert_eq!(unstuff(&plainest).as_ref(), text);
            // The same bytes as a peer may send them, so they need not be valid.
            let text: Vec<u8> =
                text.iter().map(|&byte| if byte == LF { DLE } else { byte }).collect();
            assert_eq!(check(&text), plainest_check(&text), "{text:?}");
        }
    }

    fn plainest_stuffed(plain: &[u8]) -> Vec<u8> {
        let bytes = plain.iter().flat_map(|&byte| match is_special(byte) {
            true => vec![DLE, byte ^ FLIP],
            false => vec![byte],
        });
        bytes.collect()
    }

    fn plainest_check(stuffed: &[u8]) -> Result<bool, (usize, &'static str)> {
        for (at, &byte) in stuffed.iter().enumerate() {
            match (byte, stuffed.get(at + 1)) {
                (CR, _) => return Err((at, "raw CR")),
                (DLE, Some(b'J' | b'M' | b'P')) => {}
                (DLE, _) => return Err((at, "bad escape")),
                _ => {}
            }
        }
        Ok(stuffed.contains(&DLE))
    }

    /// Short texts are checked in words. Compares with the simplest implementation: texts of each
    /// length up to beyond the limit of short ones, with one other byte at each place.
    #[test]
    fn a_special_byte_is_found_at_each_offset_of_texts_of_each_length() {
        const BYTES: [u8; 9] = [0, LF, CR, DLE - 1, DLE, DLE + 1, 0x80 | LF, 0x80 | DLE, u8::MAX];
        for (length, other) in (0..=80).flat_map(|length| [(length, b'x'), (length, u8::MAX)]) {
            let clean = vec![other; length];
            check_all_ways(&clean);
            for (at, byte) in (0..length).flat_map(|at| BYTES.map(|byte| (at, byte))) {
                let mut text = clean.clone();
                text[at] = byte;
                check_all_ways(&text);
            }
        }
    }

    fn check_all_ways(text: &[u8]) {
        let is_short_and_above = text.len() <= SHORT && text.iter().all(|&byte| byte > DLE);
        assert_eq!(is_short_text(text), is_short_and_above, "{text:?}");
        let plainest = plainest_stuffed(text);
        assert_eq!(stuffed(text), plainest, "{text:?}");
        for text in [text, &plainest] {
            assert_eq!(check(text), plainest_check(text), "{text:?}");
        }
    }

    #[test]
    fn the_first_fault_has_its_offset() {
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
