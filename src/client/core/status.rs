//! The status of a client over all its connections.

use crate::{error::ConnectionError, protocol::Hello};

/// The status of a client.
#[derive(Clone, Debug)]
pub(crate) enum Status {
    /// There is no connection on which a request could begin.
    Connecting,
    Open(Hello),
    Ended(ConnectionError),
}
