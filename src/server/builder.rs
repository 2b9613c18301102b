//! A server before it serves: what it listens on, its settings, and its hooks.

use std::{fmt, io};

use tokio::{net::TcpListener, sync::mpsc};
#[cfg(feature = "tls")]
use tokio_rustls::rustls;

#[cfg(feature = "tls")]
use crate::server::driver::tls::TlsListener;
#[cfg(feature = "stats-method")]
use crate::server::stats_method;
use crate::{
    coop::consume_budget,
    random::Random,
    server::{
        access::{authenticator::Authenticator, authorizer::Authorizer, hooks::Hooks},
        buffered::Buffered,
        config::ServerConfig,
        core::environment::Environment,
        driver::{
            accept::Serve,
            listener::{Listener, listen},
            serving::Serving,
            timers::Timers,
        },
        handle::ServerHandle,
        handlers::router::Router,
        keys::{KeyTable, MemoryKeys, config::Bounds, runs::Keyed},
        peer_addr::PeerAddr,
        publishing::Publishing,
        sessions::Sessions,
        stats::Totals,
    },
    sync::Arc,
    topic::{MemoryTopics, Publisher, TopicStore},
};

/// A server that is set up but does not serve yet.
///
/// ```
/// use bellwire::{Router, Server};
///
/// # async fn run() -> std::io::Result<()> {
/// let server = Server::bind("127.0.0.1:0").await?;
/// println!("listening on {}", server.local_addr()?);
/// let router = Router::new().method("echo", async |text: String| text);
/// server
///     .serve(router)
///     .with_graceful_shutdown(async { /* a signal */ })
///     .await
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
/// ```
pub struct Server<L = TcpListener> {
    listener: L,
    config: ServerConfig,
    random: Random,
    /// The default topics. `config` sets their limits.
    memory: MemoryTopics,
    publisher: Publisher,
    sessions: Arc<Sessions>,
    totals: Arc<Totals>,
    buffered: Arc<Buffered>,
    hooks: Hooks,
    /// `None` for the default table.
    keys: Option<Arc<dyn KeyTable>>,
    #[cfg(feature = "stats-method")]
    has_stats_method: bool,
}

impl Server {
    /// Listens on a TCP address, `HOST:PORT`, and returns a server. Port 0 takes a free port. Of
    /// the endpoints that a name stands for, it listens on the first that it can.
    ///
    /// Short for [`Server::new`] with a [`TcpListener`].
    ///
    /// # Errors
    /// The system's, when it cannot listen on the address. The text begins with the endpoints that
    /// the address stands for, or with the address if it cannot be looked up.
    /// [`source`](std::error::Error::source) is the system's error, with its
    /// [`raw_os_error`](io::Error::raw_os_error).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn bind(address: impl ToString) -> io::Result<Self> {
        consume_budget().await;
        Ok(Self::new(listen(&address.to_string()).await?))
    }
}

#[cfg(feature = "tls")]
impl Server<TlsListener<TcpListener>> {
    /// Listens for TLS, as [`bind`](Server::bind) does for TCP. `tls` has the server's certificate.
    ///
    /// Short for [`Server::new`] with a [`TlsListener`], which can also identify clients by their
    /// certificates.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use bellwire::{Router, Server, tls::rustls};
    ///
    /// # async fn run(tls: rustls::ServerConfig) -> std::io::Result<()> {
    /// Server::bind_tls("0.0.0.0:7440", Arc::new(tls)).await?.serve(Router::new()).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Server::bind`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn bind_tls(
        address: impl ToString,
        tls: Arc<rustls::ServerConfig>,
    ) -> io::Result<Self> {
        consume_budget().await;
        Ok(Self::new(TlsListener::new(listen(&address.to_string()).await?, tls)))
    }
}

impl<L: Listener> Server<L> {
    /// A server on any listener: a Unix socket, in-memory pipes.
    pub fn new(listener: L) -> Self {
        let random = Random::from_system();
        let memory = MemoryTopics::new(&random);
        Self {
            listener,
            config: ServerConfig::new(),
            random,
            publisher: Publisher::new(memory.clone()),
            memory,
            sessions: Arc::default(),
            totals: Arc::default(),
            buffered: Arc::default(),
            hooks: Hooks::default(),
            keys: None,
            #[cfg(feature = "stats-method")]
            has_stats_method: false,
        }
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<PeerAddr> {
        self.listener.local_addr()
    }

    /// Its bounds. Default: [`ServerConfig::new`].
    #[must_use]
    pub fn config(mut self, config: ServerConfig) -> Self {
        self.memory.set_limits(config.retention(), config.store_limits());
        self.publisher.set_max_line(config.max_line);
        self.config = config;
        self
    }

    /// Its topics. Default: [`MemoryTopics`]. Call this before [`publisher`](Self::publisher) and
    /// [`handle`](Self::handle).
    #[must_use]
    pub fn topics(mut self, store: impl TopicStore) -> Self {
        self.publisher = Publisher::new(store);
        self.publisher.set_max_line(self.config.max_line);
        self
    }

    /// Its table of keys, for requests that run at most once (docs/protocol/keyed.md, section 23).
    /// Default: [`MemoryKeys`](crate::server::keys::MemoryKeys), with the bounds of the
    /// [configuration](ServerConfig::keys).
    #[must_use]
    pub fn keys(mut self, table: impl KeyTable) -> Self {
        self.keys = Some(Arc::new(table));
        self
    }

    /// Sets the authenticator, which finds out who a peer is. Default: none, and all peers are
    /// anonymous.
    ///
    /// With an authenticator, `/hello` announces its schemes. A peer that the transport has not
    /// identified has to `/auth` before anything else (docs/protocol/access.md, section 19). See
    /// [`TokenAuthenticator`](crate::server::TokenAuthenticator).
    ///
    /// # Panics
    /// When it has no schemes, or their names, joined by commas, are over 255 bytes.
    #[must_use]
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.hooks.set_authenticator(authenticator);
        self
    }

    /// Sets the authorizer, which decides what a peer may do. Default: none. All peers may then
    /// call and subscribe, and [`ServerConfig::allow_publish`] decides whether they may publish.
    /// With an authorizer that setting has no effect.
    #[must_use]
    pub fn authorizer(mut self, authorizer: impl Authorizer) -> Self {
        self.hooks.set_authorizer(authorizer);
        self
    }

    /// Adds the method [`bellwire.stats`](crate::server::STATS_METHOD), by which clients such as
    /// `bellwire top` read the statistics of the server. Default: there is no such method.
    ///
    /// The [authorizer](Self::authorizer) decides who may call it, as for every method. Without an
    /// authorizer each call is refused `forbidden`. The reply has the addresses and the principals of
    /// clients, and the names of topics, so allow it to operators only.
    ///
    /// The payload is absent, or JSON: `{"sessions":50,"topics":50}`, at most 1,000 each. The reply is a
    /// stream of JSON objects. The first one has the `kind` `server` and the fields of
    /// [`ServerStats`](crate::ServerStats), with the bounds `buffered_bytes_total` and
    /// `retained_bytes_total`. Then come sessions, the slowest first, with the fields of
    /// [`SessionStats`](crate::SessionStats). Then come the topics of
    /// [`ServerHandle::topics`](crate::ServerHandle::topics), those with most messages since their
    /// log began first: `topic`, `epoch`, `next`, `retained_bytes` and `subscribers`. Durations are in
    /// milliseconds, and their names end with `_ms`. Later versions may add fields and kinds.
    ///
    /// A call takes time in proportion to the number of connections and topics. It locks each topic
    /// for a moment, one after the other.
    ///
    /// ```
    /// use bellwire::{Server, server::{Action, Principal, STATS_METHOD}};
    ///
    /// # async fn run() -> std::io::Result<()> {
    /// let may = |who: &Principal, action: Action<'_>| match action {
    ///     Action::Call(STATS_METHOD) => who.name() == Some("operator"),
    ///     _ => true,
    /// };
    /// let server = Server::bind("127.0.0.1:0").await?.authorizer(may).stats_method();
    /// # drop(server);
    /// # Ok(()) }
    /// # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// # Panics
    /// [`serve`](Self::serve) panics if the router has a method of this name.
    #[cfg(feature = "stats-method")]
    #[must_use]
    pub fn stats_method(mut self) -> Self {
        self.has_stats_method = true;
        self
    }

    /// The source of session ids. Default: the system.
    #[must_use]
    pub fn random(mut self, random: Random) -> Self {
        self.memory.reseed(&random);
        self.random = random;
        self
    }

    /// A handle that publishes to its topics, before and while it serves. When the server has
    /// stopped, it returns [`PublishError::Closed`](crate::PublishError::Closed).
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// A handle for statistics and sessions, before, while and after the server serves.
    pub fn handle(&self) -> ServerHandle {
        let (sessions, totals) = (self.sessions.clone(), self.totals.clone());
        ServerHandle::new(
            sessions,
            totals,
            self.buffered.clone(),
            self.memory.clone(),
            self.publisher(),
        )
    }

    /// Serves `router` when it is awaited.
    pub fn serve<S: Clone + Send + Sync + 'static>(self, router: Router<S>) -> Serve<L> {
        #[cfg(feature = "stats-method")]
        let router = match self.has_stats_method {
            true => {
                let has_authorizer = self.hooks.authorizer.is_some();
                stats_method::add(router, self.handle(), &self.config, has_authorizer)
            }
            false => router,
        };
        let timers = Timers::new();
        let table =
            self.keys.or_else(|| Some(Arc::new(MemoryKeys::of(&self.config, &self.random)?)));
        let (run, runs) = mpsc::unbounded_channel();
        let keyed = table.map(|table| {
            // After the end of the server nothing takes a run, and it ends at once.
            Keyed::new(table, Bounds::of_runs(&self.config), move |new| drop(run.send(new)))
        });
        let environment = Environment {
            config: self.config,
            methods: router.into_methods(),
            publisher: self.publisher,
            totals: self.totals,
            buffered: self.buffered,
            hooks: self.hooks,
            publishing: Publishing::default(),
            sessions: self.sessions,
            clock: timers.clock(),
            keyed,
        };
        let serving = Serving { environment: Arc::new(environment), random: self.random, timers };
        Serve::new(self.listener, serving, runs)
    }
}

impl<L: fmt::Debug> fmt::Debug for Server<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("listener", &self.listener)
            .field("config", &self.config)
            .field("hooks", &self.hooks)
            .finish_non_exhaustive()
    }
}
