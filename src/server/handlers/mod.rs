//! Handlers: their arguments, how they run, and their replies.

pub(in crate::server) mod authorizing;
pub(in crate::server) mod extractors;
pub(in crate::server) mod function;
pub(in crate::server) mod handler;
pub(in crate::server) mod layers;
pub(in crate::server) mod pass;
pub(in crate::server) mod reply;
pub(in crate::server) mod router;
pub(in crate::server) mod running;
mod spare;
pub(in crate::server) mod streamed;
mod task;
pub(in crate::server) mod test_request;
#[cfg(feature = "tower")]
pub(in crate::server) mod tower;
