//! The supervisor: the task of a client that connects, reconnects and drives the current
//! connection.

use std::{
    collections::HashSet,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};
use uuid::Uuid;

use crate::{
    client::{
        core::{connection::CredentialsByScheme, links::MAX_LEAVING, retry_after::RetryAfter},
        driver::connection::Connection,
        driver::connector::{Connector, Resolving},
        driver::{race::HEAD_START, timer::DriverTimer},
        event::ConnectionEvent,
        shared::Shared,
    },
    credentials::Credentials,
    error::ConnectionError,
    guard::{Guarded, Held, caught, guarded},
    protocol::{Code, Reconnect, Time},
    sync::Arc,
};

/// Connects and reconnects for a client. Dropping it ends the client.
pub(crate) struct Supervisor<C> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connector: Held<C>,
    pub(crate) addresses: Vec<String>,
    hooks: Vec<(Code, Held<Hook>)>,
    reconnect: Reconnect,
    /// Endpoints that are not tried first: they did not answer, or their server has sent `/bye`.
    pub(crate) slow: HashSet<String>,
    /// The endpoint of the last connection.
    pub(crate) endpoint: String,
    /// Lookups that were pending at the end of a round.
    pub(crate) lookups: Vec<(usize, Guarded<Resolving>)>,
    /// When the last round began.
    last_round: Option<Instant>,
    /// The `retry` of each connection, with the index of its address, as long as the connection
    /// exists.
    pub(crate) retry_after: Vec<(usize, Arc<RetryAfter>)>,
    started: Instant,
    /// Drivers of connections whose servers have sent `/bye`.
    leaving: JoinSet<()>,
    /// Since when there has been no connection.
    down_since: Instant,
    /// The number of attempts since then.
    pub(crate) attempts: u32,
    /// Whether the client goes on after a failed round: it was connected before, or connects
    /// lazily.
    is_patient: bool,
    /// For each address, whether the last attempt failed in a way that no later attempt can change.
    hopeless: Vec<bool>,
}

/// Returns credentials before each attempt to connect.
pub(crate) type Hook = Box<dyn FnMut() -> HookFuture + Send>;
pub(crate) type HookFuture = Pin<Box<dyn Future<Output = Result<Credentials, String>> + Send>>;

/// The result of driving a connection.
enum Driven {
    /// The connection is over.
    Over(ConnectionError),
    /// The server has sent `/bye`. The connection is driven to its end by another task.
    Left,
}

impl<C> Drop for Supervisor<C> {
    fn drop(&mut self) {
        let error = match std::thread::panicking() {
            true => ConnectionError::panicked("client", "see the message of the panic hook".into()),
            false => ConnectionError::Closed,
        };
        self.shared.act(|core, step| core.end(&error, step));
    }
}

impl<C: Connector> Supervisor<C> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        connector: C,
        addresses: Vec<String>,
        hooks: Vec<(Code, Hook)>,
    ) -> Self {
        let reconnect = Reconnect::new(addresses.len(), shared.config.backoff());
        let started = Instant::now();
        let hopeless = vec![false; addresses.len()];
        let hooks = hooks.into_iter().map(|(scheme, hook)| (scheme, Held::new(hook)));
        Self {
            shared,
            connector: Held::new(connector),
            addresses,
            hooks: hooks.collect(),
            reconnect,
            slow: HashSet::new(),
            endpoint: String::new(),
            lookups: Vec::new(),
            last_round: None,
            retry_after: Vec::new(),
            started,
            leaving: JoinSet::new(),
            down_since: started,
            attempts: 0,
            is_patient: false,
            hopeless,
        }
    }

    /// Sets whether the client goes on when its first round fails.
    pub(crate) fn patient(mut self, is_patient: bool) -> Self {
        self.is_patient = is_patient;
        self
    }

    /// Keeps the client connected until it closes or has to end.
    pub(crate) async fn run(mut self) {
        let error = self.until_over().await;
        // While connections that were left are finished, waiting requests end, because no
        // connection follows.
        self.shared.act(|core, step| core.begin_close(error.clone(), step));
        let shared = self.shared.clone();
        keeping_time(&shared, async { while self.leaving.join_next().await.is_some() {} }).await;
        self.shared.act(|core, step| core.end(&error, step));
    }

    /// Returns why the client ends.
    async fn until_over(&mut self) -> ConnectionError {
        if let Some(error) = self.invalid_address() {
            return error;
        }
        loop {
            let shared = self.shared.clone();
            let order = match keeping_time(&shared, self.wait_for_turn()).await {
                Ok(order) => order,
                Err(error) => return error,
            };
            let round = unless_closing(&shared, self.round(order));
            let Some(round) = keeping_time(&shared, round).await else {
                return ConnectionError::Closed;
            };
            let over = match round {
                Ok((at, connection)) => self.drive(at, connection).await,
                Err(error) => self.on_failure(error),
            };
            if let Some(error) = over {
                return error;
            }
        }
    }

    /// An invalid address is a mistake in the configuration. If the client went on with the other
    /// addresses, the mistake would not be noticed.
    fn invalid_address(&self) -> Option<ConnectionError> {
        self.addresses.iter().find_map(|address| {
            let reason = guarded(|| self.connector.check(address))?.err()?;
            Some(ConnectionError::Address { address: address.clone(), reason })
        })
    }

    /// Waits for the next round and returns its addresses, or returns why the client ends before
    /// that.
    async fn wait_for_turn(&mut self) -> Result<Vec<usize>, ConnectionError> {
        self.wait_for_leaving().await?;
        loop {
            // A server that this client is leaving may have sent a `retry` meanwhile.
            self.note_retry_after();
            let (due, now) = (self.due(), self.now());
            if due <= now {
                let order = self.reconnect.round(now);
                if !order.is_empty() {
                    self.last_round = Some(Instant::now());
                    self.shared.look(|core| core.take_hurry());
                    return Ok(order);
                }
            }
            self.wait_until(due).await?;
        }
    }

    /// When the next round is due.
    fn due(&mut self) -> Time {
        let random = &self.shared.config.random;
        let due = self.reconnect.due(|| random.next_u64());
        if !self.shared.look(|core| core.is_in_a_hurry()) {
            return due;
        }
        let floor = self.last_round.map(|last| self.time(last + HEAD_START)).unwrap_or_default();
        due.min(floor.max(self.reconnect.soonest()))
    }

    /// Waits until `due` or until there is news, or returns why the client ends before that.
    async fn wait_until(&mut self, due: Time) -> Result<(), ConnectionError> {
        if self.shared.is_closing() {
            return Err(ConnectionError::Closed);
        }
        let limit = self.given_up();
        let due = self.started.checked_add(Duration::from_millis(due.as_millis()));
        if limit.is_some_and(|limit| limit <= Instant::now()) {
            return Err(down(&self.shared));
        }
        let news = self.shared.news();
        match due.into_iter().chain(limit).min() {
            Some(until) => drop(timeout_at(until, news).await),
            None => news.await,
        }
        Ok(())
    }

    /// Waits while too many connections are being left, or returns why the client ends before that.
    async fn wait_for_leaving(&mut self) -> Result<(), ConnectionError> {
        let (limit, leaving) = (self.given_up(), &mut self.leaving);
        while leaving.try_join_next().is_some() {}
        while leaving.len() >= MAX_LEAVING {
            unless_over(&self.shared, limit, leaving.join_next()).await?;
        }
        Ok(())
    }

    /// When the client stops trying to reconnect.
    fn given_up(&self) -> Option<Instant> {
        self.down_since.checked_add(self.shared.config.give_up_after?)
    }

    /// Takes over the `retry` of each connection, and removes connections that have ended.
    fn note_retry_after(&mut self) {
        let (shared, started, reconnect) = (&self.shared, self.started, &mut self.reconnect);
        self.retry_after.retain(|(at, retry_after)| {
            let may_ask = Arc::strong_count(retry_after) > 1;
            if let Some(until) = retry_after.until().and_then(|until| shared.clock.instant(until)) {
                let left = until.saturating_duration_since(started);
                let millis = left.as_nanos().div_ceil(1_000_000);
                let millis = u64::try_from(millis).unwrap_or(u64::MAX);
                reconnect.retry_after(*at, Time::from_millis(millis));
            }
            may_ask
        });
    }

    /// Limits the unsent bytes of a connection. A failure or a panic of the connector is only
    /// logged.
    pub(crate) fn limit_unsent(&self, io: &C::Io) {
        let Some(bytes) = self.shared.config.unsent_bytes else { return };
        match guarded(|| C::limit_unsent(io, bytes)) {
            Some(Ok(())) => {}
            Some(Err(error)) => drop(guarded(
                || tracing::debug!(%error, "cannot set the system's limit of unsent bytes"),
            )),
            None => drop(guarded(|| tracing::error!("connector panicked"))),
        }
    }

    /// The current credentials, by scheme.
    pub(crate) async fn credentials(&mut self) -> Result<CredentialsByScheme, ConnectionError> {
        let mut all = self.shared.config.auth.clone();
        for (scheme, hook) in &mut self.hooks {
            let credentials = Guarded::new(&mut **hook).await;
            let panicked = |message| ConnectionError::panicked("credentials hook", message);
            let credentials =
                credentials.map_err(panicked)?.map_err(ConnectionError::Credentials)?;
            all.push((scheme.clone(), credentials));
        }
        Ok(all)
    }

    /// Notes that a round failed. Returns the error if the client ends.
    fn on_failure(&mut self, error: ConnectionError) -> Option<ConnectionError> {
        self.reconnect.failed(self.now());
        // A waiter that does not want to wait gets this error.
        self.shared.act(|core, step| core.lose(core.links.current.id, &error, step));
        let is_over = self.hopeless.iter().all(|&hopeless| hopeless) || !self.is_patient;
        is_over.then_some(error)
    }

    /// Notes how the attempts at an address failed.
    pub(crate) fn judge(&mut self, at: usize, error: &ConnectionError) {
        self.note_retry_after();
        let is_final = self.is_final(error) && self.reconnect.may_try(at, self.now());
        self.hopeless.get_mut(at).into_iter().for_each(|hopeless| *hopeless = is_final);
    }

    /// Whether no later attempt at the same address can succeed.
    fn is_final(&self, error: &ConnectionError) -> bool {
        match error {
            ConnectionError::AuthRefused(reason) => {
                self.hooks.is_empty() && ![Code::BUSY, Code::CLOSING].contains(&reason.code)
            }
            ConnectionError::Io { kind, .. } => *kind == io::ErrorKind::InvalidInput,
            ConnectionError::Version(_)
            | ConnectionError::AuthRequired { .. }
            | ConnectionError::NoCommonScheme { .. } => true,
            _ => false,
        }
    }

    /// Drives a connection until it is over or its server has sent `/bye`. Returns the error if the
    /// client ends.
    async fn drive(
        &mut self,
        at: usize,
        mut connection: Connection<C::Io>,
    ) -> Option<ConnectionError> {
        self.reconnect.opened(at, self.now());
        self.is_patient = true;
        self.hopeless.fill(false);
        let session = connection.hello().map_or(Uuid::nil(), |hello| hello.session);
        let leaves = self.shared.reconnects;
        let driven = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Driven::Over(reason(ended))),
            Poll::Pending if leaves && connection.has_left() => Poll::Ready(Driven::Left),
            Poll::Pending => Poll::Pending,
        });
        let driven = driven.await;
        (self.down_since, self.attempts) = (Instant::now(), 0);
        self.reconnect.lost(self.now());
        if matches!(driven, Driven::Left | Driven::Over(ConnectionError::Bye(_))) {
            let endpoint = std::mem::take(&mut self.endpoint);
            self.remember_slow(endpoint);
        }
        match driven {
            Driven::Over(error) => {
                disconnected(&self.shared, session, &error);
                (self.shared.is_closing() || !self.shared.reconnects).then_some(error)
            }
            Driven::Left => {
                let shared = self.shared.clone();
                self.leaving.spawn(async move {
                    let error = reason(connection.await);
                    disconnected(&shared, session, &error);
                });
                None
            }
        }
    }

    fn now(&self) -> Time {
        self.time(Instant::now())
    }

    fn time(&self, at: Instant) -> Time {
        Time::default().after(at.saturating_duration_since(self.started))
    }
}

/// Waits for `future`, and handles the timers of the client meanwhile, because no connection does.
async fn keeping_time<T>(shared: &Shared, future: impl Future<Output = T>) -> T {
    let (mut timer, mut future) = (DriverTimer::default(), pin!(future));
    poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            timer.poll_client(shared, cx);
        }
        polled
    })
    .await
}

/// Why there is no connection.
fn down(shared: &Shared) -> ConnectionError {
    shared.look(|core| core.links.current.state.down().cloned()).unwrap_or(ConnectionError::Closed)
}

pub(crate) fn reason(ended: Result<(), ConnectionError>) -> ConnectionError {
    ended.err().unwrap_or(ConnectionError::Closed)
}

/// The transport from a connector. The error's `Display` is user code, so a panic of it is caught.
pub(crate) fn connected<Io>(
    outcome: Result<io::Result<Io>, String>,
) -> Result<Io, ConnectionError> {
    let panicked = |message| ConnectionError::panicked("connector", message);
    let error = match outcome.map_err(panicked)? {
        Ok(io) => return Ok(io),
        Err(error) => error,
    };
    Err(caught(|| ConnectionError::from(error)).unwrap_or_else(panicked))
}

fn disconnected(shared: &Shared, session: Uuid, error: &ConnectionError) {
    shared.emit(ConnectionEvent::Disconnected { session, error: error.clone() });
}

/// Waits for `future`, unless the client closes or `limit` passes.
async fn unless_over(
    shared: &Shared,
    limit: Option<Instant>,
    future: impl Future,
) -> Result<(), ConnectionError> {
    let in_time = async {
        match limit {
            Some(limit) => timeout_at(limit, future).await.is_ok(),
            None => {
                future.await;
                true
            }
        }
    };
    match unless_closing(shared, in_time).await {
        Some(true) => Ok(()),
        Some(false) => Err(down(shared)),
        None => Err(ConnectionError::Closed),
    }
}

/// Waits for `future`, unless the client closes.
async fn unless_closing<T>(shared: &Shared, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    loop {
        if shared.is_closing() {
            return None;
        }
        let mut news = pin!(shared.news());
        let done = poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => news.as_mut().poll(cx).map(|()| None),
        });
        if let Some(done) = done.await {
            return Some(done);
        }
    }
}
