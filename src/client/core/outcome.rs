//! The outcomes of requests, as their callers get them.

use bytes::Bytes;

use crate::{
    error::{CallError, NotSent},
    protocol::{AttributeList, Position},
};

/// The contents of an `ok` line.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) attributes: AttributeList,
    pub(crate) payload: Bytes,
}

pub(crate) type CallResult = Result<Reply, CallError>;

/// As it is kept and passed on: small, since few calls fail.
pub(crate) type KeptResult = Result<Reply, Box<CallError>>;

/// The lines of a list of the protocol's own.
pub(crate) type Listed = Result<Vec<Bytes>, CallError>;

/// The outcome of a one-way request that waits to be sent.
pub(crate) type Sent = Result<(), NotSent>;

/// The outcome of a subscription: where it begins.
pub(crate) type Joined = Result<Position, CallError>;
