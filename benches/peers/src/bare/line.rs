//! The lines of the bare multiplexers.

use anyhow::{Result, bail, ensure};

/// `<id> <word> <payload>`
pub fn split(line: &[u8]) -> Result<(&[u8], &[u8], &[u8])> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(id), Some(word), Some(payload)) => Ok((id, word, payload)),
        _ => bail!("a malformed line"),
    }
}

pub fn parse_id(text: &[u8]) -> Result<usize> {
    ensure!(!text.is_empty() && text.len() < 19, "a malformed id");
    text.iter().try_fold(0, |id, byte| {
        ensure!(byte.is_ascii_digit(), "a malformed id");
        Ok(id * 10 + usize::from(byte - b'0'))
    })
}

pub fn encode(out: &mut Vec<u8>, id: &[u8], word: &[u8], payload: &[u8]) {
    for part in [id, b" ", word, b" ", payload, b"\n"] {
        out.extend_from_slice(part);
    }
}
