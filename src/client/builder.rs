//! Setting up a client that connects, and connects anew.

use std::{fmt, pin::Pin};

use crate::{
    client::{
        Client, Handle,
        config::ClientConfig,
        connector::{Connector, TcpConnector},
        shared::Shared,
        supervisor::Supervisor,
    },
    credentials::Credentials,
    error::ConnectionError,
    protocol::Code,
    sync::Arc,
};

/// Gives credentials, anew for each connection.
pub(crate) type Hook = Box<dyn FnMut() -> HookFuture + Send>;
pub(crate) type HookFuture = Pin<Box<dyn Future<Output = Result<Credentials, String>> + Send>>;

/// A client to be: made by [`Client::builder`].
///
/// It connects to one of its addresses, and, unless that is switched off, anew when the connection is
/// lost or its server goes away. Handles and subscriptions live through that. What becomes of calls,
/// each by its own proof, is [`CallError`](crate::CallError)'s to say; each subscription goes on from
/// its own position, and what is gone by then is named in it.
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
    /// All addresses of the list are raced, each 250 ms ahead of the next, and a name with all that it
    /// is looked up to: see [`ClientConfig::connect_timeout`](crate::ClientConfig::connect_timeout). They
    /// begin in their order, the first time of all at the beginning of the list and each later time behind
    /// the last connection, so that a client whose server is lost or goes away looks elsewhere
    /// first; but one that did not answer the last time comes behind the others. Between
    /// two rounds through the list it pauses: see
    /// [`ClientConfig::reconnect_base`](crate::ClientConfig::reconnect_base).
    ///
    /// An address that can be none, as one without a port, ends the client at once, however many others
    /// there are, with [`ConnectionError::Address`].
    pub fn address(mut self, address: impl ToString) -> Self {
        self.addresses.push(address.to_string());
        self
    }

    /// Adds several addresses.
    pub fn addresses(mut self, addresses: impl IntoIterator<Item = impl ToString>) -> Self {
        self.addresses.extend(addresses.into_iter().map(|address| address.to_string()));
        self
    }

    /// Puts the list into an order drawn by lot, so that the clients of several servers do not all
    /// begin with the same one. Default: the order in which they were given.
    pub fn shuffle(mut self) -> Self {
        self.shuffles = true;
        self
    }

    /// Its bounds. Default: [`ClientConfig::new`].
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// Connects by other means. Default: [`TcpConnector`]. One that needs no address may be given
    /// none: it is called with the empty one.
    pub fn connector<D: Connector>(self, connector: D) -> ClientBuilder<D> {
        let Self { connector: _, addresses, config, hooks, reconnects, shuffles } = self;
        ClientBuilder { connector, addresses, config, hooks, reconnects, shuffles }
    }

    /// Whether it connects anew when a connection is lost. Default `true`. Without it, the client ends
    /// with its first connection.
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnects = reconnect;
        self
    }

    /// Says who this client is by `scheme`, with credentials that `credentials` gives, anew before each
    /// attempt to connect: for those that expire. Those that do not are for
    /// [`ClientConfig::auth`](crate::ClientConfig::auth), which is preferred where the server offers
    /// both schemes.
    ///
    /// Credentials that a server refuses end a client, unless there is such a hook: then it tries
    /// again, with others. So does one whose hook fails or panics. The hook's future is polled by the
    /// client's task, within [`connect_timeout`](crate::ClientConfig::connect_timeout).
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

    /// Connects, and waits until a server has said hello and knows who this is. Spawns the task that
    /// drives its connections.
    ///
    /// A server that is full says hello, and goodbye behind it. That is a connection, if a short one: this
    /// is `Ok`, whether both lines come together or not, and the client comes again when it was told
    /// to. Calls wait for that until their deadline, which then tells them why. A server that asks for
    /// credentials, and says goodbye before it has accepted them, is no connection.
    ///
    /// # Errors
    /// [`ConnectionError`], the last one, when all addresses of the list were tried once, and none
    /// had a server that answered within
    /// [`ClientConfig::connect_timeout`](crate::ClientConfig::connect_timeout) (10 s);
    /// when a server refuses this client for what it is; and at once for an address that can be
    /// none.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropping it leaves nothing behind.
    pub async fn connect(self) -> Result<Client, ConnectionError> {
        let client = self.start(false);
        client.handle.shared.phase.first_open().await?;
        Ok(client)
    }

    /// A client that connects in the background, for as long as it takes: calls wait for that, each
    /// until its deadline, and end then with why there is no connection. With an address that can be
    /// none, the client ends at once, and its calls with it.
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
