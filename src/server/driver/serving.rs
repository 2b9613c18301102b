//! What the tasks of a server share.

use crate::{
    random::Random,
    server::{core::environment::Environment, driver::timers::Timers},
    sync::Arc,
};

/// What the tasks of a server share: what its connections share, and what drives them.
pub(in crate::server) struct Serving {
    pub(in crate::server) environment: Arc<Environment>,
    pub(in crate::server) random: Random,
    pub(in crate::server) timers: Timers,
}
