//! Why a store could not be connected, and what the failure of a command means.

use std::fmt;

use ::redis::RedisError;

use crate::topic::{PublishError, Unavailable};

/// The target of the log events.
pub(super) const TARGET: &str = "bellwire::store";

/// Why [`RedisTopics::connect`](super::RedisTopics::connect) failed. No text contains a password.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL is not one of `redis://`, `rediss://` or `unix://`, or it needs TLS without the
    /// feature `tls`.
    Url(String),
    /// The server has no scripts with flags: Redis 7 and Valkey 7.2 are the oldest that do.
    Version(String),
    /// There is no connection, or the server does not admit this client, or it is a replica.
    Unreachable(String),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(why) => write!(f, "cannot use the URL of Redis: {why}"),
            Self::Version(why) => write!(f, "Redis 7 or Valkey 7.2 or later is needed: {why}"),
            Self::Unreachable(why) => write!(f, "cannot connect to Redis: {why}"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// What the failure of a command means.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The server refused the command before it did anything. `moved`: another server may accept
    /// it.
    Refused { why: String, moved: bool },
    /// There is no answer, so it may have been executed. The connection must not be used again.
    Lost(String),
    /// The script failed, perhaps after it had written.
    Failed(String),
    /// The producer of a message has used a later number.
    Outdated,
}

impl Failure {
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Refused { why, .. } | Self::Lost(why) | Self::Failed(why) => why,
            Self::Outdated => "the producer has used a later number",
        }
    }

    /// Whether the connection has to be replaced.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Refused { moved: true, .. })
    }

    /// For the publisher of a message.
    pub(super) fn publishing(&self) -> PublishError {
        match self {
            Self::Refused { why, .. } => PublishError::Busy(Unavailable(why.clone())),
            Self::Lost(why) | Self::Failed(why) => {
                PublishError::Unavailable(Unavailable(why.clone()))
            }
            Self::Outdated => PublishError::Outdated,
        }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        let why = error.to_string();
        // With `#!lua`, Redis checks all of these before it runs a script.
        match error.code() {
            Some(
                "READONLY" | "LOADING" | "MASTERDOWN" | "NOAUTH" | "CLUSTERDOWN" | "MOVED" | "ASK",
            ) => Self::Refused { why, moved: true },
            Some("OOM" | "MISCONF" | "NOREPLICAS" | "BUSY" | "NOSCRIPT") => {
                Self::Refused { why, moved: false }
            }
            Some(_) => Self::Failed(why),
            None => Self::Lost(why),
        }
    }
}
