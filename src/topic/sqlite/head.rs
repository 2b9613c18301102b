//! The file beside the database that keeps other processes out, and says how many transactions the
//! database has.
//!
//! SQLite silently drops the end of a write-ahead log that is damaged. Without the count, messages
//! that subscribers have would be lost, and their numbers given out again.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::error::OpenError;

const MAGIC: &[u8; 8] = b"bellwir1";
const LENGTH: usize = 36;

/// The file, and the lock on it, which ends with the process.
#[derive(Debug)]
pub(super) struct Head(File);

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    /// Which database it belongs to.
    pub(super) store: [u8; 16],
    /// The transactions that the database has at least.
    pub(super) commits: u64,
}

impl Head {
    /// Opens the file of the database at `path`, or creates it, and locks it.
    pub(super) fn lock(path: &Path) -> Result<Self, OpenError> {
        let path = head_path(path);
        let failed = |error: io::Error| OpenError::Io(format!("{}: {error}", path.display()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// What the file says; `None` if it is empty or damaged.
    pub(super) fn read(&mut self) -> Option<Count> {
        let mut bytes = [0; LENGTH];
        self.0.seek(SeekFrom::Start(0)).ok()?;
        self.0.read_exact(&mut bytes).ok()?;
        decode(&bytes)
    }

    /// Replaces what the file says. It is not synced: it protects against what happens to the
    /// database while the system runs, and a power failure can only make it too old.
    pub(super) fn write(&mut self, count: Count) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(&encode(count))
    }
}

/// The file beside the database at `path`.
pub(super) fn head_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-head");
    name.into()
}

fn encode(count: Count) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..24].copy_from_slice(&count.store);
    bytes[24..32].copy_from_slice(&count.commits.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..32]);
    bytes[32..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; LENGTH]) -> Option<Count> {
    let store = bytes[8..24].try_into().ok()?;
    let commits = u64::from_le_bytes(bytes[24..32].try_into().ok()?);
    let count = Count { store, commits };
    (encode(count) == *bytes).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_makes_the_count_unreadable() {
        let count = Count { store: [7; 16], commits: 1 << 40 };
        let bytes = encode(count);
        assert_eq!(decode(&bytes), Some(count));
        for bit in 0..8 * LENGTH {
            let mut wrong = bytes;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&wrong), None, "{bit}");
        }
    }
}
