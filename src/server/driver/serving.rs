//! What the tasks of a server share.

use crate::{
    random::Random,
    server::{core::environment::Environment, driver::timers::Timers},
    sync::Arc,
};

/// What the tasks of a server share: the environment of its connections, and the timers.
pub(in crate::server) struct Serving {
    pub(in crate::server) environment: Arc<Environment>,
    pub(in crate::server) random: Random,
    pub(in crate::server) timers: Timers,
}
