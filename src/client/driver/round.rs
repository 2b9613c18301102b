//! A round through a client's addresses: a race to connect, and then the handshake with the winner.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use crate::{
    client::{
        core::connection::CredentialsByScheme,
        driver::connection::Connection,
        driver::connector::{Connector, Finishing, Resolving, finished},
        driver::race::{Endpoint, Race, RaceEvent},
        driver::supervisor::{Supervisor, connected, reason},
        event::ConnectionEvent,
    },
    error::ConnectionError,
    guard::{Guarded, Held, caught, guarded},
    tcp,
};

/// The number of slow endpoints that are remembered. The addresses of a client have fewer.
const MAX_SLOW: usize = 1_024;

/// Practically no limit, but small enough to be added to an `Instant`.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Enough time for a handshake over a slow network.
const LEAST_SHARE: Duration = Duration::from_secs(2);

/// The state of a round.
struct Round<Io> {
    /// The addresses in their order. An [`Endpoint`] refers to its address by the index in this
    /// list.
    order: Vec<usize>,
    /// Names that are being looked up.
    lookups: Vec<(usize, Guarded<Resolving>)>,
    race: Race<Guarded<Finishing<Io>>, ConnectionError>,
    deadline: Instant,
    /// For each address, whether an attempt has begun, and whether all attempts have failed.
    has_begun: Vec<bool>,
    has_failed: Vec<bool>,
    /// Whether later addresses have already waited for the lookup of an earlier one.
    has_held: bool,
    last: ConnectionError,
}

enum RoundEvent<Io> {
    Found(usize, Result<Vec<String>, ConnectionError>),
    Race(RaceEvent<Guarded<Finishing<Io>>, ConnectionError>),
}

impl<Io> Round<Io> {
    fn new(order: Vec<usize>, deadline: Instant) -> Self {
        let none = vec![false; order.len()];
        Self {
            order,
            lookups: Vec::new(),
            race: Race::new(),
            deadline,
            has_begun: none.clone(),
            has_failed: none,
            has_held: false,
            last: ConnectionError::ConnectTimeout,
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<RoundEvent<Io>> {
        for at in 0..self.lookups.len() {
            let Some((place, lookup)) = self.lookups.get_mut(at) else { break };
            if let Poll::Ready(found) = Pin::new(lookup).poll(cx) {
                let place = *place;
                drop(self.lookups.remove(at));
                return Poll::Ready(RoundEvent::Found(place, connected(found)));
            }
        }
        let first = self.race.left().next().map(|endpoint| endpoint.address);
        let is_earlier =
            |(place, _): &(usize, Guarded<Resolving>)| first.is_some_and(|first| *place < first);
        if !self.has_held && self.lookups.iter().any(is_earlier) {
            self.has_held = true;
            self.race.hold();
        }
        match self.race.poll_step(cx) {
            Poll::Ready(RaceEvent::Over) if !self.lookups.is_empty() => Poll::Pending,
            step => step.map(RoundEvent::Race),
        }
    }

    /// The share of one endpoint in the remaining time, which is for all endpoints.
    fn share(&self) -> Duration {
        let others = self.race.left().count() + self.lookups.len();
        share(self.deadline.saturating_duration_since(Instant::now()), others)
    }

    /// Whether an attempt or a lookup of this address has not ended yet.
    fn has_any_of(&self, place: usize) -> bool {
        self.race.left().any(|endpoint| endpoint.address == place)
            || self.lookups.iter().any(|(other, _)| *other == place)
    }
}

impl<C: Connector> Supervisor<C> {
    /// Tries these addresses until a server has accepted this client. Returns the index of its
    /// address.
    ///
    /// The endpoints of all addresses race to be connected. The winner gets a share of the
    /// remaining time for the handshake of the transport, `/hello` and `/auth`. If it fails or
    /// takes longer, the race goes on with the others.
    ///
    /// # Errors
    /// The last failure.
    pub(crate) async fn round(
        &mut self,
        order: Vec<usize>,
    ) -> Result<(usize, Connection<C::Io>), ConnectionError> {
        let deadline = Instant::now() + self.shared.config.connect_timeout.min(LONGEST);
        let mut round = Round::new(order, deadline);
        let mut credentials = Some(self.first_credentials(&mut round).await?);
        self.look_up(&mut round);
        while let Some((endpoint, finishing)) = self.next_transport(&mut round).await {
            let address = round.order.get(endpoint.address).copied().unwrap_or_default();
            let until = Instant::now() + round.share();
            match self.greet(address, finishing, &mut credentials, until).await {
                Ok(connection) => {
                    self.slow.remove(&endpoint.name);
                    self.endpoint = endpoint.name;
                    return Ok((address, connection));
                }
                Err(error) => {
                    // A waiter that does not want to wait gets this error.
                    self.shared.act(|core, step| core.lose(core.links.current.id, &error, step));
                    self.endpoint_failed(&mut round, &endpoint, error);
                }
            }
        }
        // Pending lookups are kept, so that a resolver that hangs is not called again in each
        // round.
        let at = |place: usize| round.order.get(place).copied().unwrap_or_default();
        self.lookups = round.lookups.into_iter().map(|(place, one)| (at(place), one)).collect();
        Err(round.last)
    }

    /// Gets the credentials before the first attempt.
    async fn first_credentials(
        &mut self,
        round: &mut Round<C::Io>,
    ) -> Result<CredentialsByScheme, ConnectionError> {
        let late = || ConnectionError::Credentials("the hook did not give them in time".into());
        let credentials = timeout_at(round.deadline, self.credentials()).await;
        let credentials = credentials.unwrap_or_else(|_| Err(late()));
        if let Err(error) = &credentials {
            self.address_failed(round, 0, error);
        }
        credentials
    }

    fn look_up(&mut self, round: &mut Round<C::Io>) {
        for (place, &at) in round.order.iter().enumerate() {
            let pending = self.lookups.iter().position(|(other, _)| *other == at);
            let lookup = match pending {
                Some(pending) => self.lookups.swap_remove(pending).1,
                None => {
                    let address = self.addresses.get(at).map_or("", String::as_str);
                    Guarded::new(|| self.connector.resolve(address))
                }
            };
            round.lookups.push((place, lookup));
        }
    }

    /// Returns the next connected transport with its endpoint; `None` once no endpoint or no time
    /// is left.
    async fn next_transport(
        &mut self,
        round: &mut Round<C::Io>,
    ) -> Option<(Endpoint, Guarded<Finishing<C::Io>>)> {
        loop {
            let event = match Instant::now() < round.deadline {
                true => timeout_at(round.deadline, poll_fn(|cx| round.poll_event(cx))).await.ok(),
                false => None,
            };
            match event {
                None => {
                    self.time_is_up(round);
                    return None;
                }
                Some(RoundEvent::Found(place, found)) => self.found(round, place, found),
                Some(RoundEvent::Race(RaceEvent::Begin(endpoint))) => {
                    if let Some(connected) = self.begin(round, endpoint).await {
                        return Some(connected);
                    }
                }
                Some(RoundEvent::Race(RaceEvent::Failed(endpoint, error))) => {
                    self.endpoint_failed(round, &endpoint, error);
                }
                Some(RoundEvent::Race(RaceEvent::Won(endpoint, finishing))) => {
                    let late = round.race.left().filter(|endpoint| endpoint.is_slow);
                    let late: Vec<_> = late.map(|endpoint| endpoint.name.clone()).collect();
                    late.into_iter().for_each(|name| self.remember_slow(name));
                    return Some((endpoint, finishing));
                }
                Some(RoundEvent::Race(RaceEvent::Over)) => return None,
            }
        }
    }

    fn found(
        &mut self,
        round: &mut Round<C::Io>,
        place: usize,
        found: Result<Vec<String>, ConnectionError>,
    ) {
        match found {
            Ok(names) => round.race.add(names.into_iter().map(|name| {
                let is_slow = self.slow.contains(&name);
                Endpoint { address: place, name, is_slow }
            })),
            Err(error) => {
                self.address_failed(round, place, &error);
                round.last = error;
            }
        }
    }

    /// Begins an attempt as a part of the race. If the connector does not support that, connects
    /// alone and waits for it.
    async fn begin(
        &mut self,
        round: &mut Round<C::Io>,
        endpoint: Endpoint,
    ) -> Option<(Endpoint, Guarded<Finishing<C::Io>>)> {
        self.announce(round, endpoint.address);
        let connector = &mut *self.connector;
        let error = match caught(|| connector.begin(&endpoint.name)) {
            Ok(Some(attempt)) => {
                let attempt = Guarded::new(|| attempt);
                let attempt = async move {
                    let finishing = connected(attempt.await)?;
                    Ok(Guarded::new(|| finishing))
                };
                round.race.run(endpoint, Box::pin(attempt));
                return None;
            }
            Ok(None) => {
                let until = Instant::now() + round.share();
                let connecting = Guarded::new(|| Box::pin(connector.connect(&endpoint.name)));
                match timeout_at(until, connecting).await.map(connected) {
                    Ok(Ok(io)) => return Some((endpoint, Guarded::new(|| finished(io)))),
                    Ok(Err(error)) => error,
                    Err(_) => ConnectionError::ConnectTimeout,
                }
            }
            Err(message) => ConnectionError::panicked("connector", message),
        };
        self.endpoint_failed(round, &endpoint, error);
        None
    }

    /// Completes the handshake on a connected transport, up to the accepted credentials.
    async fn greet(
        &mut self,
        address: usize,
        finishing: Guarded<Finishing<C::Io>>,
        credentials: &mut Option<CredentialsByScheme>,
        until: Instant,
    ) -> Result<Connection<C::Io>, ConnectionError> {
        let io = timeout_at(until, finishing).await.map(connected);
        let io = Held::new(io.unwrap_or(Err(ConnectionError::TlsTimeout))?);
        self.limit_unsent(&io);
        let credentials = match credentials.take() {
            Some(credentials) => credentials,
            None => {
                let credentials = timeout_at(until, self.credentials()).await;
                credentials.map_err(|_| ConnectionError::HandshakeTimeout)??
            }
        };
        let mut connection = Connection::new(io, self.shared.clone(), credentials);
        self.retry_after.push((address, connection.retry_after()));
        // If the connection ends right after the `/hello`, it counts as lost, and not as failed:
        // the server may have sent a reason and a `retry`.
        let greeted = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            _ if connection.hello().is_some() => Poll::Ready(Ok(())),
            Poll::Ready(ended) => Poll::Ready(Err(reason(ended))),
            Poll::Pending => Poll::Pending,
        });
        let greeted = timeout_at(until, greeted).await;
        match greeted.unwrap_or(Err(ConnectionError::HandshakeTimeout)) {
            Ok(()) => Ok(connection),
            Err(error) => {
                // Waiting requests get this error, and not that of a dropped driver.
                connection.end(&error);
                Err(error)
            }
        }
    }

    /// Emits `Connecting` once for each address.
    fn announce(&mut self, round: &mut Round<C::Io>, place: usize) {
        let Some(has_begun) = round.has_begun.get_mut(place) else { return };
        if !std::mem::replace(has_begun, true) {
            self.attempts = self.attempts.saturating_add(1);
            let (address, attempt) = (self.address(round, place), self.attempts);
            self.shared.emit(ConnectionEvent::Connecting { address, attempt });
        }
    }

    fn address(&self, round: &Round<C::Io>, place: usize) -> String {
        let at = round.order.get(place).copied().unwrap_or_default();
        self.addresses.get(at).cloned().unwrap_or_default()
    }

    fn endpoint_failed(
        &mut self,
        round: &mut Round<C::Io>,
        endpoint: &Endpoint,
        error: ConnectionError,
    ) {
        guarded(|| tracing::debug!(%error, endpoint = endpoint.name, "cannot connect"));
        self.remember_slow(endpoint.name.clone());
        if is_answer(&error) {
            // Its server has said no: the other endpoints of the address lead to the same.
            round.race.retain(|other| other.address != endpoint.address);
        }
        self.note_cause(&error);
        if !round.has_any_of(endpoint.address) {
            self.address_failed(round, endpoint.address, &error);
        }
        round.last = error;
    }

    /// Notes that an attempt to connect failed. Other attempts may be under way.
    fn note_cause(&self, error: &ConnectionError) {
        self.shared.look(|core| core.links.current.state.on_failed_attempt(error.clone()));
    }

    /// Notes that all endpoints of an address have failed in this round.
    fn address_failed(&mut self, round: &mut Round<C::Io>, place: usize, error: &ConnectionError) {
        self.announce(round, place);
        if let Some(has_failed) = round.has_failed.get_mut(place) {
            *has_failed = true;
        }
        self.note_cause(error);
        let (address, error) = (self.address(round, place), error.clone());
        self.judge(round.order.get(place).copied().unwrap_or_default(), &error);
        self.shared.emit(ConnectionEvent::ConnectFailed { address, error });
    }

    /// Ends the round, because its time is over.
    fn time_is_up(&mut self, round: &mut Round<C::Io>) {
        let running: Vec<_> = round.race.running().map(|one| one.name.clone()).collect();
        running.into_iter().for_each(|name| self.remember_slow(name));
        for place in 0..round.order.len() {
            let has_begun = round.has_begun.get(place).copied().unwrap_or_default();
            let has_failed = round.has_failed.get(place).copied().unwrap_or_default();
            let is_sought = round.lookups.iter().any(|(other, _)| *other == place);
            let error = match is_sought && !has_begun {
                true => not_found_in_time(&self.address(round, place)),
                false => ConnectionError::ConnectTimeout,
            };
            if (has_begun || is_sought) && !has_failed {
                self.address_failed(round, place, &error);
                round.last = error;
            }
        }
    }

    /// Remembers an endpoint as slow, so that it is not tried first.
    pub(crate) fn remember_slow(&mut self, endpoint: String) {
        if self.slow.len() >= MAX_SLOW {
            self.slow.clear();
        }
        self.slow.insert(endpoint);
    }
}

/// The share of one endpoint in the time that is left for it and `others`. If there are too many
/// endpoints for the time, each gets enough for a handshake over a slow network, but never more
/// than half.
fn share(left: Duration, others: usize) -> Duration {
    if others == 0 {
        return left;
    }
    let equal = left / u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
    equal.max(LEAST_SHARE.min(left / 2))
}

fn not_found_in_time(address: &str) -> ConnectionError {
    let error = io::Error::new(io::ErrorKind::TimedOut, "the host's name was not resolved in time");
    tcp::at(address, error).into()
}

/// Whether this is the server's own answer, which holds for all endpoints of its address.
fn is_answer(error: &ConnectionError) -> bool {
    matches!(
        error,
        ConnectionError::Bye(_)
            | ConnectionError::Version(_)
            | ConnectionError::AuthRequired { .. }
            | ConnectionError::NoCommonScheme { .. }
            | ConnectionError::AuthRefused(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_share_allows_a_handshake_and_leaves_time_for_the_next() {
        let share = |left, others| share(Duration::from_millis(left), others).as_millis();
        assert_eq!([share(10_000, 0), share(10_000, 1), share(10_000, 3)], [10_000, 5_000, 2_500]);
        assert_eq!([share(10_000, 40), share(3_000, 40), share(0, 40)], [2_000, 1_500, 0]);
    }
}
