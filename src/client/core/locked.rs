//! The core behind its lock.

use crate::{
    client::{
        config::ClientConfig,
        core::{Core, step::Step},
        stats::ClientStats,
    },
    protocol::Time,
    sync::{Arc, Mutex, MutexGuard},
};

/// The core of a client, and its configuration.
#[derive(Debug)]
pub(crate) struct Locked {
    pub(crate) config: Arc<ClientConfig>,
    core: Mutex<Core>,
}

impl Locked {
    pub(crate) fn new(config: ClientConfig, reconnects: bool, is_supervised: bool) -> Self {
        let config = Arc::new(config);
        let core = Mutex::new(Core::new(config.clone(), reconnects, is_supervised));
        Self { config, core }
    }

    /// The core, for more than one step. [`Core::settle`] is to be called before it is released.
    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock()
    }

    /// Does something with the core. What follows from it is left in `step`, to be run.
    pub(crate) fn with<R>(&self, step: &mut Step, f: impl FnOnce(&mut Core, &mut Step) -> R) -> R {
        let mut core = self.core.lock();
        let result = f(&mut core, step);
        core.settle(step);
        result
    }

    /// Does something with the core at `now`, and what follows from it.
    pub(crate) fn update<R>(&self, now: Time, f: impl FnOnce(&mut Core, &mut Step) -> R) -> R {
        let mut step = Step::at(now);
        let result = self.with(&mut step, f);
        step.run();
        result
    }

    /// Looks at the core, from which nothing follows.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&mut Core) -> R) -> R {
        f(&mut self.core.lock())
    }

    /// What was counted, and what is under way.
    pub(crate) fn stats(&self) -> ClientStats {
        self.look(|core| {
            let links = &core.links;
            let pending = links.iter().map(|link| link.pending.len()).sum();
            let in_flight = links.iter().map(|link| link.in_flight()).sum();
            ClientStats { requests: links.requests(), pending, in_flight, ..core.counted.stats() }
        })
    }
}
