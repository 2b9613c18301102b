//! The outcomes of requests, in the form that their callers get.

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

/// The outcome as it is stored and passed on. The error is boxed because few calls fail.
pub(crate) type KeptResult = Result<Reply, Box<CallError>>;

/// The outcome of a list of the protocol itself: its items.
pub(crate) type Listed = Result<Vec<Bytes>, CallError>;

/// The outcome of a one-way request that waits to be sent.
pub(crate) type Sent = Result<(), NotSent>;

/// The outcome of a `/subscribe`: the position where the stream begins.
pub(crate) type Joined = Result<Position, CallError>;
