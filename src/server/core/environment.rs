//! What the connections of a server share.

use std::fmt;

use uuid::Uuid;

use crate::{
    protocol::Time,
    random::Random,
    server::{
        access::{authenticator::Authenticator, authorizer::Authorizer, hooks::Hooks},
        buffered::Buffered,
        config::ServerConfig,
        handlers::router::{Methods, Router},
        keys::{
            KeyTable,
            config::Bounds,
            runs::{DetachedRun, Keyed},
        },
        peer_addr::PeerAddr,
        publishing::Publishing,
        session::{Session, SessionClock},
        sessions::Sessions,
        stats::{ServerStats, Tally, Totals},
    },
    sync::Arc,
    topic::{MemoryTopics, Publisher, TopicStore},
};

/// What the connections of a server share: its settings, methods, topics, counters and hooks.
///
/// A [`Server`](crate::Server) creates its own. This is for drivers that accept connections by
/// themselves. Such a driver also has an [`Upkeep`](crate::unstable::server::Upkeep), which does
/// the periodic work for all connections together.
pub struct Environment {
    pub(in crate::server) config: ServerConfig,
    pub(in crate::server) methods: Methods,
    pub(in crate::server) publisher: Publisher,
    pub(in crate::server) totals: Arc<Totals>,
    pub(in crate::server) buffered: Arc<Buffered>,
    pub(in crate::server) hooks: Hooks,
    pub(in crate::server) publishing: Publishing,
    pub(in crate::server) sessions: Arc<Sessions>,
    pub(in crate::server) clock: SessionClock,
    /// `None` if it runs no keyed requests.
    pub(in crate::server) keyed: Option<Keyed>,
}

impl Environment {
    /// An environment with topics in memory, and without hooks.
    pub fn new<S: Clone + Send + Sync + 'static>(config: ServerConfig, router: Router<S>) -> Self {
        let publisher = in_memory(&config, &Random::from_system());
        let (totals, buffered, hooks, publishing) = Default::default();
        let (sessions, clock, methods) =
            (Arc::default(), Default::default(), router.into_methods());
        Self {
            config,
            methods,
            publisher,
            totals,
            buffered,
            hooks,
            publishing,
            sessions,
            clock,
            keyed: None,
        }
    }

    /// Runs keyed requests, with this table. `spawn` gets each run that does not end at once, and
    /// has to drive it. Default: none, and a `key` is an unknown attribute.
    #[must_use]
    pub fn keys(
        mut self,
        table: impl KeyTable,
        spawn: impl Fn(DetachedRun) + Send + Sync + 'static,
    ) -> Self {
        let bounds = Bounds::of_runs(&self.config);
        self.keyed = Some(Keyed::new(Arc::new(table), bounds, spawn));
        self
    }

    /// Its topics. Default: [`MemoryTopics`].
    #[must_use]
    pub fn topics(mut self, store: impl TopicStore) -> Self {
        self.publisher = Publisher::new(store);
        self.publisher.set_max_line(self.config.max_line);
        self
    }

    /// Uses topics in memory whose epochs come from `random`, for runs that repeat exactly. Call
    /// this before [`topics`](Self::topics), which sets another store.
    #[must_use]
    pub fn random(mut self, random: &Random) -> Self {
        self.publisher = in_memory(&self.config, random);
        self
    }

    /// Sets the authenticator; see [`Server::authenticator`](crate::Server::authenticator).
    ///
    /// # Panics
    /// As [`Server::authenticator`](crate::Server::authenticator).
    #[must_use]
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.hooks.set_authenticator(authenticator);
        self
    }

    /// Sets the authorizer; see [`Server::authorizer`](crate::Server::authorizer).
    #[must_use]
    pub fn authorizer(mut self, authorizer: impl Authorizer) -> Self {
        self.hooks.set_authorizer(authorizer);
        self
    }

    /// Sets the clock for the durations of [`SessionStats`](crate::server::SessionStats). It has to
    /// agree with the times that the driver passes to the connections. Default: the time stands
    /// still, and all durations are 0.
    #[must_use]
    pub fn clock(mut self, now: impl Fn() -> Time + Send + Sync + 'static) -> Self {
        self.clock = SessionClock::new(now);
        self
    }

    /// A handle that publishes to its topics.
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// The open sessions, in no particular order.
    pub fn sessions(&self) -> Vec<Session> {
        self.sessions.all()
    }

    /// The counters and gauges of its connections. The gauges of topics are 0.
    pub fn stats(&self) -> ServerStats {
        let counted = self.totals.stats();
        let mut stats = ServerStats { buffered_bytes: self.buffered.bytes(), ..counted };
        self.sessions.add_to(&mut stats);
        stats
    }
}

impl Environment {
    /// Creates the session of a connection that begins now.
    pub(in crate::server) fn session(&self, id: Uuid, peer: PeerAddr, now: Time) -> Session {
        Session::new(id, peer, &self.buffered, self.config.reply_mark, self.clock.clone(), now)
    }

    /// Adds the session of an accepted connection to the open sessions.
    pub(in crate::server) fn let_in(&self, session: &Session) {
        let mut tally = Tally { accepted: 1, ..Tally::default() };
        self.totals.fold(session.id(), &mut tally);
        self.sessions.insert(session.clone());
    }

    /// Counts a connection over the limit.
    pub(in crate::server) fn count_refused(&self, session: &Session) {
        let mut tally = Tally { refused: 1, ..Tally::default() };
        self.totals.fold(session.id(), &mut tally);
    }
}

/// Creates topics in memory with the limits of the configuration.
fn in_memory(config: &ServerConfig, random: &Random) -> Publisher {
    let memory = MemoryTopics::new(random);
    memory.set_limits(config.retention(), config.store_limits());
    let publisher = Publisher::new(memory);
    publisher.set_max_line(config.max_line);
    publisher
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("config", &self.config).finish_non_exhaustive()
    }
}
