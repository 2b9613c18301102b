//! Why a file could not be opened.

use std::fmt;

/// Why [`SqliteTopics::open`](super::SqliteTopics::open) failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// Another store has the file open, in this process or in another one.
    InUse,
    /// The file is not a database, or is one of another program.
    Foreign,
    /// The file was written by a version of this crate that uses another format.
    Version(i64),
    /// The database is damaged. The text says where. Restore it from a backup, or move the file
    /// and those beside it away: then every topic begins a new log.
    Corrupt(String),
    /// The system refused to open, read or write the file. The text says why.
    Io(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse => f.write_str("another process or store has the file open"),
            Self::Foreign => f.write_str("the file is not a store of bellwire"),
            Self::Version(version) => {
                write!(f, "the file has format {version}, which this version cannot read")
            }
            Self::Corrupt(what) => write!(
                f,
                "the file is damaged ({what}): restore it from a backup, or move it away to begin \
                 new logs"
            ),
            Self::Io(why) => write!(f, "cannot open the file: {why}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match error.sqlite_error_code() {
            Some(NotADatabase) => Self::Foreign,
            Some(DatabaseCorrupt) => Self::Corrupt(error.to_string()),
            _ => Self::Io(error.to_string()),
        }
    }
}
