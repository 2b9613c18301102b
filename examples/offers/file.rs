//! The file of offers. Other programs append to it and the server follows it; the server appends,
//! too.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use bellwire::protocol::Escaped;

use super::{
    follow::{Event, Reason},
    offer::Offer,
};

/// The longest offer that is accepted, in bytes of JSON: well under a line of the protocol.
pub(crate) const MAX_OFFER: usize = 16 * 1024;

/// What a file of offers yields.
pub(crate) enum Found {
    Offer(Offer),
    /// A message for the operator.
    Remark(Remark),
}

/// A skipped line, or a restart of the file.
pub(crate) enum Remark {
    Malformed { number: u64, why: String, text: Vec<u8> },
    TooLong { number: u64, bytes: u64 },
    Restarted(Reason),
    Missed { files: usize },
}

/// Turns an event of the file into an offer or a remark.
pub(crate) fn read(event: Event) -> Found {
    match event {
        Event::Line { number, text } => read_line(number, text),
        Event::TooLong { number, bytes } => Found::Remark(Remark::TooLong { number, bytes }),
        Event::Restarted(reason) => Found::Remark(Remark::Restarted(reason)),
        Event::Missed(files) => Found::Remark(Remark::Missed { files }),
    }
}

fn read_line(number: u64, text: Vec<u8>) -> Found {
    if text.len() > MAX_OFFER {
        return Found::Remark(Remark::TooLong { number, bytes: text.len() as u64 });
    }
    match serde_json::from_slice(&text) {
        Ok(offer) => Found::Offer(offer),
        Err(error) => {
            // serde_json also counts lines, and would always say 1.
            let why = error.to_string().replace(" at line 1 column ", " at byte ");
            Found::Remark(Remark::Malformed { number, why, text })
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { number, why, text } => {
                write!(f, "line {number} skipped, {}: {}", why.escape_debug(), Escaped(text))
            }
            Self::TooLong { number, bytes } => {
                write!(f, "line {number} skipped, its {bytes} bytes are more than {MAX_OFFER}")
            }
            Self::Missed { files } => {
                write!(
                    f,
                    "replaced faster than it is read, offers may be missing: {files} of the "
                )?;
                f.write_str("files that stood here are gone")
            }
            Self::Restarted(Reason::Truncated) => f.write_str("truncated, read from the start"),
            Self::Restarted(Reason::Rewritten) => f.write_str("rewritten, read from the start"),
            Self::Restarted(Reason::Replaced) => f.write_str("replaced, read from the start"),
        }
    }
}

/// Appends an offer, as any other program can: as a line of its own, in one write.
///
/// Returns `false` without writing while the last line has no LF. Another program is writing that
/// line, and a write in between would spoil both lines.
pub(crate) fn append(path: &Path, offer: &Offer) -> io::Result<bool> {
    let mut file = File::options().read(true).append(true).create(true).open(path)?;
    if !ends_a_line(&mut file)? {
        return Ok(false);
    }
    let mut line = serde_json::to_vec(offer)?;
    line.push(b'\n');
    file.write_all(&line)?;
    Ok(true)
}

fn ends_a_line(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}
