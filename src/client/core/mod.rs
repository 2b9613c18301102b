//! The client without transport and runtime.

pub(crate) mod acks;
pub(crate) mod auth;
pub(crate) mod body;
mod ending;
pub(crate) mod inbox;
pub(crate) mod items;
pub(crate) mod link;
pub(crate) mod links;
mod missed;
pub(crate) mod pending;
pub(crate) mod reader;
pub(crate) mod retry_after;
pub(crate) mod status;
pub(crate) mod topics;
pub(crate) mod waiter;
