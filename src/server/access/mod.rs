//! Authentication, authorization, and the limits on connections.

pub(in crate::server) mod authenticator;
pub(in crate::server) mod authorizer;
pub(in crate::server) mod hook_future;
pub(in crate::server) mod hooks;
pub(in crate::server) mod limits;
pub(in crate::server) mod principal;
