//! Periodic work for all connections of a server together.

use std::{fmt, time::Duration};

use crate::{
    guard::guarded,
    protocol::Time,
    server::core::{environment::Environment, shedding::Shedding},
    sync::Arc,
};

/// Periodic work for all connections of a server together. It sweeps the topics. While the
/// connections hold more than [`buffered_bytes_total`](crate::ServerConfig::buffered_bytes_total),
/// it closes those whose peers do not read (docs/protocol/limits.md, section 20).
///
/// A driver has one for each [`Environment`], with a timer of its own. After each turn of a
/// connection, and after [`handle_timeout`](Self::handle_timeout), it sets the timer to
/// [`next_timeout`](Self::next_timeout), because a turn may fill the buffers.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use bellwire::{
///     Router, ServerConfig,
///     protocol::Time,
///     unstable::server::{Environment, Upkeep},
/// };
///
/// let config = ServerConfig::new().idle_log(Duration::from_secs(60));
/// let environment = Arc::new(Environment::new(config, Router::new()));
/// let mut upkeep = Upkeep::new(&environment, Time::from_millis(0));
/// // Logs are swept every half of `idle_log`.
/// assert_eq!(upkeep.next_timeout(), Time::from_millis(30_000));
/// upkeep.handle_timeout(upkeep.next_timeout());
/// assert_eq!(upkeep.next_timeout(), Time::from_millis(60_000));
/// ```
pub struct Upkeep {
    environment: Arc<Environment>,
    sweeps: Sweeps,
    shedding: Shedding,
}

impl Upkeep {
    /// Creates the upkeep for the connections of `environment`.
    pub fn new(environment: &Arc<Environment>, now: Time) -> Self {
        let (sweeps, shedding) = (Sweeps::new(environment, now), Shedding::default());
        Self { environment: environment.clone(), sweeps, shedding }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called. May be in the past.
    pub fn next_timeout(&self) -> Time {
        let look = self.shedding.next_look(&self.environment);
        look.map_or(self.sweeps.next(), |look| look.min(self.sweeps.next()))
    }

    /// Does the work that is due. Connections to be closed are woken, and end in their next turns.
    /// The call takes as long as the store's [sweep](crate::topic::TopicStore::sweep).
    pub fn handle_timeout(&mut self, now: Time) {
        self.shedding.look(&self.environment, now);
        if self.sweeps.next() <= now {
            if guarded(|| self.environment.publisher.store().sweep()).is_none() {
                tracing::error!("topic store panicked in its sweep");
            }
            if let Some(keyed) = &self.environment.keyed
                && guarded(|| keyed.table().sweep()).is_none()
            {
                tracing::error!("key table panicked in its sweep");
            }
            self.sweeps.has_swept(now);
        }
    }
}

impl fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upkeep").field("next_timeout", &self.next_timeout()).finish_non_exhaustive()
    }
}

/// When the topics are swept: every half of [`idle_log`](crate::ServerConfig::idle_log).
pub(in crate::server) struct Sweeps {
    interval: Duration,
    next: Time,
}

impl Sweeps {
    pub(in crate::server) fn new(environment: &Environment, now: Time) -> Self {
        let interval = environment.config.idle_log / 2;
        Self { interval, next: now.after(interval) }
    }

    pub(in crate::server) fn next(&self) -> Time {
        self.next
    }

    /// Records a sweep at `now`.
    pub(in crate::server) fn has_swept(&mut self, now: Time) {
        self.next = now.after(self.interval);
    }
}
