//! The core behind its lock.

use crate::{
    client::{
        config::ClientConfig,
        core::{Core, step::Step},
        stats::{ClientStats, Counters},
    },
    protocol::Time,
    sync::{Arc, Mutex},
};

/// The core of a client, its configuration and its counters.
#[derive(Debug)]
pub(crate) struct Locked {
    pub(crate) config: Arc<ClientConfig>,
    core: Mutex<Core>,
    counters: Counters,
}

impl Locked {
    pub(crate) fn new(config: ClientConfig, reconnects: bool, is_supervised: bool) -> Self {
        let config = Arc::new(config);
        let core = Mutex::new(Core::new(config.clone(), reconnects, is_supervised));
        Self { config, core, counters: Counters::default() }
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
        step.run(&self.counters);
        result
    }

    /// Looks at the core, from which nothing follows.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&mut Core) -> R) -> R {
        f(&mut self.core.lock())
    }

    /// Does what follows from a step.
    pub(crate) fn run(&self, step: &mut Step) {
        step.run(&self.counters);
    }

    /// What was counted, and what is under way.
    pub(crate) fn stats(&self) -> ClientStats {
        let (requests, pending, in_flight) = self.look(|core| {
            let links = &core.links;
            let pending = links.iter().map(|link| link.pending.len()).sum();
            (links.requests(), pending, links.iter().map(|link| link.in_flight()).sum())
        });
        ClientStats { requests, pending, in_flight, ..self.counters.stats() }
    }
}
