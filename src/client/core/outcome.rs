//! What a request brings its caller.

use bytes::Bytes;

use crate::{
    error::{CallError, NotSent},
    protocol::AttributeList,
};

/// What `ok` brought.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) attributes: AttributeList,
    pub(crate) payload: Bytes,
}

pub(crate) type CallResult = Result<Reply, CallError>;

/// What a list of the protocol's own brought, line by line.
pub(crate) type Listed = Result<Vec<Bytes>, CallError>;

/// What becomes of a one-way request that waits to be sent.
pub(crate) type Sent = Result<(), NotSent>;
