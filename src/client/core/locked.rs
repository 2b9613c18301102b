//! The core behind its lock.

use std::task::Waker;

use crate::{
    client::{
        config::ClientConfig,
        core::{Core, intake::Intake, key::LinkId, requests::Request, step::Step},
        stats::ClientStats,
    },
    protocol::Time,
    sync::{Arc, Mutex, MutexGuard},
};

/// The core of a client, its configuration, and what its callers have left for it.
#[derive(Debug)]
pub(crate) struct Locked {
    pub(crate) config: Arc<ClientConfig>,
    core: Mutex<Core>,
    intake: Intake,
}

impl Locked {
    pub(crate) fn new(config: ClientConfig, reconnects: bool, is_supervised: bool) -> Self {
        let config = Arc::new(config);
        let core = Mutex::new(Core::new(config.clone(), reconnects, is_supervised));
        Self { config, core, intake: Intake::default() }
    }

    /// The core, for a row of lines that were read. [`Core::settle`] is to be called before it is
    /// released. The intake waits.
    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock()
    }

    /// Does something with the core. What follows from it is left in `step`, to be run.
    pub(crate) fn with<R>(&self, step: &mut Step, f: impl FnOnce(&mut Core, &mut Step) -> R) -> R {
        let mut core = self.core.lock();
        core.take_in(&self.intake, step);
        let result = f(&mut core, step);
        core.close_intake(&self.intake, step);
        core.settle(step);
        result
    }

    /// Leaves a request for the driver that there is. Gives it back if there is none that can send it
    /// now.
    pub(crate) fn push(&self, request: Request) -> Result<(), Request> {
        self.intake.push(request)
    }

    /// The driver of a connection is about to wait. Requests that came meanwhile are taken over.
    pub(super) fn driver_waits(
        &self,
        core: &mut Core,
        link: LinkId,
        waker: &Waker,
        step: &mut Step,
    ) {
        while !core.open_intake(&self.intake, link, waker, step) {
            core.take_in(&self.intake, step);
        }
    }

    /// Does something with the core at `now`, and what follows from it.
    pub(crate) fn update<R>(&self, now: Time, f: impl FnOnce(&mut Core, &mut Step) -> R) -> R {
        let mut step = Step::at(now);
        let result = self.with(&mut step, f);
        step.run();
        result
    }

    /// Looks at the core, from which nothing follows. The intake waits.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&mut Core) -> R) -> R {
        f(&mut self.core.lock())
    }

    /// What was counted, and what is under way.
    pub(crate) fn stats(&self, now: Time) -> ClientStats {
        self.update(now, |core, _| {
            let links = &core.links;
            let pending = links.iter().map(|link| link.pending.len()).sum();
            let in_flight = links.iter().map(|link| link.in_flight()).sum();
            ClientStats { requests: links.requests(), pending, in_flight, ..core.counted.stats() }
        })
    }
}
