//! The runtimes in which a client's timers and tasks may run.

use std::time::Duration;

use tokio::runtime::Handle;

use crate::{client::timer::Timer, sync::OnceLock};

#[derive(Debug, Default)]
pub(crate) struct Runtimes {
    /// The runtime of the driver.
    driver: OnceLock<Handle>,
    /// The runtime in which the client was made, if it was in one.
    made_in: OnceLock<Handle>,
}

impl Runtimes {
    /// Notes the runtime in which the client is made.
    pub(crate) fn new() -> Self {
        let runtimes = Self::default();
        note_current(&runtimes.made_in);
        runtimes
    }

    /// Notes the driver's runtime. If that runtime shuts down, the client ends, so timers can rely
    /// on it. The runtime in which the client was made may shut down before.
    pub(crate) fn note_driver(&self) {
        note_current(&self.driver);
    }

    /// The runtime for timers and tasks. It is the caller's runtime, which is known to run;
    /// otherwise that of the driver, otherwise the one in which the client was made. `None` if
    /// there is none.
    pub(crate) fn current(&self) -> Option<Handle> {
        let known = || self.driver.get().or(self.made_in.get()).cloned();
        Handle::try_current().ok().or_else(known)
    }

    /// Creates a timer, also for a task outside a runtime. `None` while no runtime is known.
    pub(crate) fn timer(&self, time: Duration) -> Option<Timer> {
        let runtime = self.current()?;
        let _entered = runtime.enter();
        Some(Timer::Runtime(Box::pin(tokio::time::sleep(time))))
    }
}

/// Notes the current runtime, unless one is noted already.
fn note_current(runtime: &OnceLock<Handle>) {
    if runtime.get().is_none()
        && let Ok(current) = Handle::try_current()
    {
        runtime.get_or_init(|| current);
    }
}
