//! bellwire
mod io;
#[cfg(feature = "json")]
mod json;
pub mod protocol;
mod random;
pub mod server;
mod sync;
pub mod topic;

#[cfg(feature = "json")]
pub use json::Json;
pub use random::Random;
pub use server::{
    Failure, Listener, Router, Server, ServerConfig, Session, State, blocking, handler,
};
pub use topic::{PublishError, Published, Publisher};
