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

/// The core of a client behind its lock, its configuration, and the queue of requests in front of
/// it.
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

    /// Locks the core for several lines. The caller must call [`Core::settle`] before it releases
    /// the lock. The intake is not taken over.
    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock()
    }

    /// Runs `f` on the core. The effects are left in `step`, for the caller to run.
    pub(crate) fn with<R>(&self, step: &mut Step, f: impl FnOnce(&mut Core, &mut Step) -> R) -> R {
        let mut core = self.core.lock();
        core.take_in(&self.intake, step);
        let result = f(&mut core, step);
        core.close_intake(&self.intake, step);
        core.settle(step);
        result
    }

    /// Queues a request for the driver. Returns the request if no driver can send it now.
    pub(crate) fn push(&self, request: Request) -> Result<(), Request> {
        self.intake.push(request)
    }

    /// Registers a driver that is about to wait. Requests that arrived meanwhile are taken over.
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

    /// Runs `f` on the core at `now`, and then the effects.
    pub(crate) fn update<R>(&self, now: Time, f: impl FnOnce(&mut Core, &mut Step) -> R) -> R {
        let mut step = Step::at(now);
        let result = self.with(&mut step, f);
        step.run();
        result
    }

    /// Reads the core, without effects. The intake is not taken over.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&mut Core) -> R) -> R {
        f(&mut self.core.lock())
    }

    /// The counters and gauges.
    pub(crate) fn stats(&self, now: Time) -> ClientStats {
        self.update(now, |core, _| {
            let links = &core.links;
            let pending = links.iter().map(|link| link.pending.len()).sum();
            let in_flight = links.iter().map(|link| link.in_flight()).sum();
            ClientStats { requests: links.requests(), pending, in_flight, ..core.counted.stats() }
        })
    }
}
