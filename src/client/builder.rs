//! The builder of a client that connects and reconnects.

use std::fmt;

use crate::{
    client::{
        Client,
        config::ClientConfig,
        driver::connector::{Connector, TcpConnector},
        driver::supervisor::{Hook, HookFuture, Supervisor},
        handle::Handle,
        shared::Shared,
    },
    credentials::Credentials,
    error::ConnectionError,
    protocol::Code,
    sync::Arc,
};

/// Sets up a client: made by [`Client::builder`].
///
/// The client connects to one of its addresses. It connects again when the connection is lost or
/// the server goes away, unless [`reconnect`](Self::reconnect) is off. Handles and subscriptions
/// stay valid over a reconnect. Each call that was in flight ends with the outcome that can be
/// proven: see [`CallError`](crate::CallError). Each subscription resumes from its own position,
/// and reports as a gap what the server no longer retains.
///
/// ```no_run
/// use bellwire::{Client, ClientConfig};
///
/// # async fn run() -> Result<(), bellwire::ConnectionError> {
/// let client = Client::builder()
///     .address("offers-1.example:7440")
///     .address("offers-2.example:7440")
///     .config(ClientConfig::new().in_flight(64))
///     .connect()
///     .await?;
/// # drop(client);
/// # Ok(()) }
/// ```
#[must_use = "it connects when told to"]
pub struct ClientBuilder<C = TcpConnector> {
    connector: C,
    addresses: Vec<String>,
    config: ClientConfig,
    hooks: Vec<(Code, Hook)>,
    reconnects: bool,
    shuffles: bool,
}

impl ClientBuilder {
    pub(crate) fn new() -> Self {
        Self {
            connector: TcpConnector,
            addresses: Vec::new(),
            config: ClientConfig::default(),
            hooks: Vec::new(),
            reconnects: true,
            shuffles: false,
        }
    }
}

impl<C: Connector> ClientBuilder<C> {
    /// Adds an address to the list; for TCP `HOST:PORT`.
    ///
    /// All addresses of the list are raced, each 250 ms ahead of the next. A name is raced with all
    /// of its endpoints: see
    /// [`ClientConfig::connect_timeout`](crate::ClientConfig::connect_timeout). The first race
    /// begins with the first address. Later races begin after the address of the last connection,
    /// so that a client whose server is lost tries the others first. An address that did not answer
    /// the last time goes last. Between two rounds through the list the client pauses: see
    /// [`ClientConfig::reconnect_base`](crate::ClientConfig::reconnect_base).
    ///
    /// An invalid address, for example one without a port, ends the client at once with
    /// [`ConnectionError::Address`], even if other addresses are valid.
    pub fn address(mut self, address: impl ToString) -> Self {
        self.addresses.push(address.to_string());
        self
    }

    /// Adds several addresses.
    pub fn addresses(mut self, addresses: impl IntoIterator<Item = impl ToString>) -> Self {
        self.addresses.extend(addresses.into_iter().map(|address| address.to_string()));
        self
    }

    /// Shuffles the list, so that the clients of several servers do not all begin with the same
    /// one. Default: the order in which the addresses were given.
    pub fn shuffle(mut self) -> Self {
        self.shuffles = true;
        self
    }

    /// Sets the limits of the client. Default: [`ClientConfig::new`].
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets the transport. Default: [`TcpConnector`]. A connector that needs no address can be used
    /// without one: it is called with the empty address.
    pub fn connector<D: Connector>(self, connector: D) -> ClientBuilder<D> {
        let Self { connector: _, addresses, config, hooks, reconnects, shuffles } = self;
        ClientBuilder { connector, addresses, config, hooks, reconnects, shuffles }
    }

    /// Whether the client connects again when a connection is lost. Default `true`. With `false`
    /// the client ends with its first connection.
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnects = reconnect;
        self
    }

    /// Authenticates by `scheme`. `credentials` is called before each attempt to connect, so that
    /// the client can use credentials that expire. Fixed credentials belong in
    /// [`ClientConfig::auth`](crate::ClientConfig::auth), which is preferred if the server offers
    /// both schemes.
    ///
    /// If the server refuses the credentials, a client without such a hook ends. A client with a
    /// hook tries again, with new credentials. It also tries again if the hook fails or panics. The
    /// client's task polls the hook's future, within
    /// [`connect_timeout`](crate::ClientConfig::connect_timeout).
    ///
    /// ```
    /// use bellwire::{Client, Credentials, protocol::Code};
    ///
    /// async fn fresh_token() -> Result<Credentials, std::io::Error> {
    ///     Ok(Credentials::from("5f1c0a3e-7d52"))
    /// }
    ///
    /// let client = Client::builder().authenticate(Code::from_static("token"), fresh_token);
    /// # drop(client);
    /// ```
    pub fn authenticate<F, Fut, E>(mut self, scheme: Code, mut credentials: F) -> Self
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Credentials, E>> + Send + 'static,
        E: fmt::Display,
    {
        let hook = move || -> HookFuture {
            let credentials = credentials();
            Box::pin(async move { credentials.await.map_err(|error| error.to_string()) })
        };
        self.hooks.push((scheme, Box::new(hook)));
        self
    }

    /// Connects, and waits for the server's `/hello` and, if the server asks for authentication,
    /// until it has accepted the credentials. Spawns the task that drives the connections.
    ///
    /// A server that is full sends `/hello` and then `/bye`. This counts as a connection, and
    /// `connect` returns `Ok`, whether or not both lines arrive together. The client tries again
    /// after the `retry` of the `/bye`. Calls wait until their deadline, and then report why there
    /// was no connection. If a server asks for authentication and sends `/bye` before it has
    /// accepted the credentials, this does not count as a connection.
    ///
    /// # Errors
    /// [`ConnectionError`]:
    ///
    /// - the last one, when every address was tried and none gave a connection within
    ///   [`ClientConfig::connect_timeout`](crate::ClientConfig::connect_timeout) (10 s);
    /// - the reason of the server, when it refuses this client, for example because of the
    ///   credentials or the version;
    /// - [`ConnectionError::Address`], at once, for an invalid address.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropping it leaves nothing behind.
    pub async fn connect(self) -> Result<Client, ConnectionError> {
        let client = self.start(false);
        client.shared().first_open().await?;
        Ok(client)
    }

    /// Returns a client that connects in the background, for as long as it takes. Calls wait until
    /// their deadline, and then report why there is no connection. An invalid address ends the
    /// client and its calls at once.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect_lazily(self) -> Client {
        self.start(true)
    }

    fn start(self, is_patient: bool) -> Client {
        let Self { connector, mut addresses, config, hooks, reconnects, shuffles } = self;
        if addresses.is_empty() {
            addresses.push(String::new());
        }
        if shuffles {
            addresses.sort_by_cached_key(|_| config.random.next_u64());
        }
        let shared = Arc::new(Shared::supervised(config, reconnects));
        let supervisor =
            Supervisor::new(shared.clone(), connector, addresses, hooks).patient(is_patient);
        tokio::spawn(supervisor.run());
        Client { handle: Arc::new(Handle { shared }) }
    }
}

impl<C> fmt::Debug for ClientBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addresses, config, reconnects, .. } = self;
        f.debug_struct("ClientBuilder")
            .field("addresses", addresses)
            .field("config", config)
            .field("reconnects", reconnects)
            .finish_non_exhaustive()
    }
}
