//! The status of a client, whatever connections it has.

use crate::{error::ConnectionError, protocol::Hello};

/// Where a client stands.
#[derive(Clone, Debug)]
pub(crate) enum Status {
    /// There is no connection on which anything could begin.
    Connecting,
    Open(Hello),
    Ended(ConnectionError),
}
