//! A race of endpoints, won by the first that answers (RFC 8305, "Happy Eyeballs").

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Sleep;

/// The head start of an endpoint before the next one. RFC 8305 recommends this value.
pub(crate) const HEAD_START: Duration = Duration::from_millis(250);

pub(crate) type Attempt<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// An endpoint of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The index of its address in the round.
    pub(crate) address: usize,
    /// The name that the connector takes.
    pub(crate) name: String,
    /// It did not answer the last time.
    pub(crate) is_slow: bool,
}

/// A race of endpoints. Its events say when to begin an attempt, and which attempt has won.
pub(crate) struct Race<T, E = io::Error> {
    waiting: VecDeque<Endpoint>,
    running: Vec<(Endpoint, Attempt<T, E>)>,
    head_start: Option<Pin<Box<Sleep>>>,
}

/// An event of a race.
pub(crate) enum RaceEvent<T, E = io::Error> {
    /// It is the turn of this endpoint: [`run`](Race::run) its attempt.
    Begin(Endpoint),
    Failed(Endpoint, E),
    /// All other running attempts were dropped, with their sockets. Their endpoints wait again.
    Won(Endpoint, T),
    /// No endpoint is left.
    Over,
}

impl<T, E> Race<T, E> {
    pub(crate) fn new() -> Self {
        Self { waiting: VecDeque::new(), running: Vec::new(), head_start: None }
    }

    /// Adds endpoints behind the waiting ones. Slow endpoints stay behind all others.
    pub(crate) fn add(&mut self, endpoints: impl IntoIterator<Item = Endpoint>) {
        self.waiting.extend(endpoints);
        self.waiting.make_contiguous().sort_by_key(|endpoint| (endpoint.is_slow, endpoint.address));
    }

    /// Lets no endpoint begin for the time of a head start, unless all running attempts fail
    /// before.
    pub(crate) fn hold(&mut self) {
        self.head_start = Some(Box::pin(tokio::time::sleep(HEAD_START)));
    }

    /// Runs the attempt of the endpoint whose turn it is.
    pub(crate) fn run(&mut self, endpoint: Endpoint, attempt: Attempt<T, E>) {
        self.running.push((endpoint, attempt));
        self.hold();
    }

    /// Removes the endpoints for which `holds` returns `false`.
    pub(crate) fn retain(&mut self, holds: impl Fn(&Endpoint) -> bool) {
        self.waiting.retain(&holds);
        self.running.retain(|(endpoint, _)| holds(endpoint));
    }

    /// The endpoints that have neither failed nor won.
    pub(crate) fn left(&self) -> impl Iterator<Item = &Endpoint> {
        self.running.iter().map(|(endpoint, _)| endpoint).chain(&self.waiting)
    }

    /// The endpoints whose attempts are running.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Endpoint> {
        self.running.iter().map(|(endpoint, _)| endpoint)
    }

    pub(crate) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<RaceEvent<T, E>> {
        for at in 0..self.running.len() {
            let Some((_, attempt)) = self.running.get_mut(at) else { break };
            let Poll::Ready(result) = attempt.as_mut().poll(cx) else { continue };
            let (endpoint, _) = self.running.remove(at);
            // The next endpoint need not wait any longer.
            self.head_start = None;
            return Poll::Ready(match result {
                Ok(won) => {
                    self.stop_others();
                    RaceEvent::Won(endpoint, won)
                }
                Err(error) => RaceEvent::Failed(endpoint, error),
            });
        }
        if self.waiting.is_empty() {
            let is_over = self.running.is_empty();
            return if is_over { Poll::Ready(RaceEvent::Over) } else { Poll::Pending };
        }
        if let Some(head_start) = &mut self.head_start
            && head_start.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        self.head_start = None;
        self.waiting.pop_front().map_or(Poll::Pending, |next| Poll::Ready(RaceEvent::Begin(next)))
    }

    /// Drops the running attempts. An endpoint that has used up its head start is slow.
    fn stop_others(&mut self) {
        let others = self.running.drain(..);
        let slow = others.map(|(endpoint, _)| Endpoint { is_slow: true, ..endpoint });
        let slow: Vec<_> = slow.collect();
        self.add(slow);
    }
}

/// Puts the families of addresses in turns, beginning with that of the first (RFC 8305, section 4).
pub(crate) fn interleave<T>(addresses: Vec<T>, is_first: impl Fn(&T, &T) -> bool) -> Vec<T> {
    let mut addresses = addresses.into_iter();
    let Some(first) = addresses.next() else { return Vec::new() };
    let (mut same, mut other): (VecDeque<_>, VecDeque<_>) = Default::default();
    for address in addresses {
        if is_first(&first, &address) { &mut same } else { &mut other }.push_back(address);
    }
    let mut mixed = vec![first];
    while !(same.is_empty() && other.is_empty()) {
        mixed.extend(other.pop_front());
        mixed.extend(same.pop_front());
    }
    mixed
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::Instant;

    use super::*;
    use crate::sync::{Arc, Mutex};

    fn endpoint(name: &str, address: usize) -> Endpoint {
        Endpoint { address, name: name.to_owned(), is_slow: false }
    }

    /// Runs a race. Each endpoint answers or fails after a number of milliseconds, or never
    /// answers. Returns the events with their times.
    async fn run(field: &[(&str, u64, bool)]) -> Vec<String> {
        let mut race = Race::<_>::new();
        race.add(field.iter().map(|(name, ..)| endpoint(name, 0)));
        let (began, mut seen) = (Instant::now(), Vec::new());
        loop {
            let step = poll_fn(|cx| race.poll_step(cx)).await;
            let at = began.elapsed().as_millis();
            match step {
                RaceEvent::Begin(one) => {
                    seen.push(format!("{at} {}", one.name));
                    let (_, after, fails) =
                        *field.iter().find(|(name, ..)| *name == one.name).unwrap();
                    race.run(
                        one,
                        Box::pin(async move {
                            tokio::time::sleep(Duration::from_millis(after)).await;
                            if fails {
                                Err(io::ErrorKind::ConnectionRefused.into())
                            } else {
                                Ok(())
                            }
                        }),
                    );
                }
                RaceEvent::Failed(one, _) => seen.push(format!("{at} {} failed", one.name)),
                RaceEvent::Won(one, ()) => {
                    seen.push(format!("{at} {} won", one.name));
                    seen.extend(race.left().map(|left| left.name.clone()));
                    return seen;
                }
                RaceEvent::Over => return seen,
            }
        }
    }

    const NEVER: u64 = 1_000_000;

    #[tokio::test(start_paused = true)]
    async fn next_endpoint_starts_after_the_head_start_or_a_failure() {
        let field = [("a", NEVER, false), ("b", 10, true), ("c", NEVER, false), ("d", 100, false)];
        let expected = ["0 a", "250 b", "260 b failed", "260 c", "510 d", "610 d won", "a", "c"];
        assert_eq!(run(&field).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_answers_in_time_runs_alone() {
        assert_eq!(run(&[("a", 249, false), ("b", 0, false)]).await, ["0 a", "249 a won", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_race_without_a_winner_is_over() {
        let all = ["0 a", "0 a failed", "0 b", "5 b failed"];
        assert_eq!(run(&[("a", 0, true), ("b", 5, true)]).await, all);
    }

    /// A losing attempt holds no socket.
    #[tokio::test(start_paused = true)]
    async fn losers_are_dropped_at_once() {
        struct Open(Arc<Mutex<u32>>);
        impl Drop for Open {
            fn drop(&mut self) {
                *self.0.lock() -= 1;
            }
        }
        let open = Arc::new(Mutex::new(0));
        let mut race = Race::<_>::new();
        race.add(["a", "b", "c", "d"].map(|name| endpoint(name, 0)));
        let winner = loop {
            match poll_fn(|cx| race.poll_step(cx)).await {
                RaceEvent::Begin(one) => {
                    *open.lock() += 1;
                    let (held, is_last) = (Open(open.clone()), one.name == "d");
                    race.run(
                        one,
                        Box::pin(async move {
                            match is_last {
                                true => Ok(held),
                                false => std::future::pending().await,
                            }
                        }),
                    );
                }
                RaceEvent::Won(_, held) => break held,
                RaceEvent::Failed(..) | RaceEvent::Over => panic!("nobody fails"),
            }
        };
        assert_eq!(*open.lock(), 1);
        drop(winner);
        assert_eq!(*open.lock(), 0);
    }

    #[test]
    fn slow_endpoints_come_last() {
        let mut race = Race::<()>::new();
        race.add([Endpoint { is_slow: true, ..endpoint("a", 0) }, endpoint("b", 0)]);
        race.add([endpoint("d", 2)]);
        race.add([endpoint("c", 1)]);
        let order: String = race.left().map(|one| one.name.as_str()).collect();
        assert_eq!(order, "bcda");
    }

    #[test]
    fn address_families_alternate() {
        let same = |one: &&str, other: &&str| one.as_bytes()[0] == other.as_bytes()[0];
        let mixed = |all: &[&'static str]| interleave(all.to_vec(), same).join(" ");
        assert_eq!(mixed(&["6a", "6b", "6c", "4a", "4b"]), "6a 4a 6b 4b 6c");
        assert_eq!(mixed(&["4a", "6a", "6b", "6c"]), "4a 6a 6b 6c");
        assert_eq!((mixed(&["4a"]), mixed(&[])), ("4a".into(), String::new()));
    }
}
