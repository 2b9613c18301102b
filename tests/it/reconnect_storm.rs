//! All clients reconnect at once: 2,000 clients of one server that is killed and started again, or
//! that shuts down (SECURITY.md, threat 25).

#[path = "../../examples/measured/returns.rs"]
mod returns;
#[path = "../../examples/measured/spread.rs"]
mod spread;

use std::{
    future::ready,
    io,
    ops::RangeInclusive,
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwire::{
    Client, ClientConfig, Connector, Delivery, Publisher, Random, Router, Subscription,
    topic::MemoryTopics,
};
use bellwire_testkit::{PipeServer, publisher_to};
use futures::{FutureExt, future::join_all};
use tokio::{
    io::DuplexStream,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use self::{
    returns::{BACKOFF, Return},
    spread::Spread,
};

const CLIENTS: usize = 2_000;

/// Where a server is, or none.
#[derive(Clone, Default)]
struct Address(Arc<Mutex<Option<PipeServer>>>);

impl Address {
    fn open(&self, server: PipeServer) {
        *self.0.lock().unwrap() = Some(server);
    }

    /// Drops its connections, and refuses later ones.
    fn kill(&self) {
        self.0.lock().unwrap().take();
    }

    fn say_goodbye(&self) {
        self.0.lock().unwrap().as_mut().expect("a server").stop();
    }

    fn dial(&self) -> io::Result<DuplexStream> {
        let server = self.0.lock().unwrap();
        server.as_ref().map(PipeServer::pipe).ok_or(io::ErrorKind::ConnectionRefused.into())
    }
}

/// A server and its clients, each of which listens to one topic.
struct Storm {
    seed: u64,
    first: Address,
    second: Address,
    topics: MemoryTopics,
    /// Publishes to the topics that a restarted server has, too.
    publisher: Publisher,
    _clients: Vec<Client>,
    subscriptions: Vec<Subscription>,
    returns: mpsc::UnboundedReceiver<Return>,
    /// The last number that was published.
    published: u64,
}

impl Storm {
    /// Clients that know these addresses; the server is at the first.
    async fn gather(seed: u64, addresses: &[&str]) -> Self {
        let topics = MemoryTopics::new(&Random::seeded(seed));
        let server = server(seed, &topics);
        let publisher = publisher_to(topics.clone());
        let (first, second) = (Address::default(), Address::default());
        first.open(server);
        let configs = (0..).map(|client| seed << 32 | client).map(Random::seeded);
        let configs = configs.map(|random| ClientConfig::new().random(random)).take(CLIENTS);
        let connecting = configs.map(|config| {
            let client = Client::builder().addresses(addresses).config(config);
            client.connector(connector(&first, &second)).connect()
        });
        let clients: Vec<_> =
            join_all(connecting).await.into_iter().map(|client| client.unwrap()).collect();
        let subscribing = clients.iter().map(|client| client.subscribe("t").into_future());
        let subscribed = join_all(subscribing).await.into_iter();
        let subscriptions = subscribed.map(|subscription| subscription.unwrap()).collect();
        let (told, returns) = mpsc::unbounded_channel();
        for client in &clients {
            tokio::spawn(returns::tell(client.events(), told.clone()));
        }
        Self {
            seed,
            first,
            second,
            topics,
            publisher,
            _clients: clients,
            subscriptions,
            returns,
            published: 0,
        }
    }

    async fn publish(&mut self, count: u64) {
        for _ in 0..count {
            self.published += 1;
            let published = self.publisher.publish("t", self.published.to_string()).await.unwrap();
            assert_eq!(published.sequence, self.published);
        }
    }

    /// Publishes to the topics there are now, from their beginning.
    fn follow_the_log(&mut self) {
        self.publisher = publisher_to(self.topics.clone());
        self.published = 0;
    }

    /// Kills the server, and starts it again after this time, over the same topics; when.
    async fn restart_after(&mut self, outage: Duration) -> Instant {
        self.first.kill();
        self.publish(2).await;
        sleep(outage).await;
        self.publish(1).await;
        self.first.open(server(self.seed, &self.topics));
        Instant::now()
    }

    /// The returns of all clients.
    async fn all_back(&mut self) -> Vec<Return> {
        let mut back = Vec::new();
        while back.len() < CLIENTS {
            let next = timeout(2 * BACKOFF.max, self.returns.recv()).await;
            back.push(next.expect("it comes back").expect("a client"));
        }
        back
    }

    /// What each client is given next must be this.
    async fn each_is_given(&mut self, expected: impl Fn(&Delivery) -> bool) {
        for subscription in &mut self.subscriptions {
            let given = timeout(BACKOFF.max, subscription.next()).await;
            let given = given.expect("it is told").expect("it goes on");
            assert!(expected(&given), "{given:?}");
        }
    }

    /// Each client is given the numbers of this range, each with its own payload, and nothing
    /// between them.
    async fn each_is_given_numbers(&mut self, numbers: RangeInclusive<u64>) {
        for number in numbers {
            self.each_is_given(|given| match given {
                Delivery::Notification(given) => {
                    given.sequence == number && given.payload == number.to_string()
                }
                _ => false,
            })
            .await;
        }
    }

    /// All that was given is known.
    fn nothing_is_left(&mut self) {
        for subscription in &mut self.subscriptions {
            assert!(subscription.next().now_or_never().is_none());
        }
    }
}

fn server(seed: u64, topics: &MemoryTopics) -> PipeServer {
    PipeServer::built(Router::new(), |server| {
        server.topics(topics.clone()).random(Random::seeded(seed))
    })
}

fn connector(first: &Address, second: &Address) -> impl Connector<Io = DuplexStream> {
    let (first, second) = (first.clone(), second.clone());
    move |address: &str| ready(if address == "first" { first.dial() } else { second.dial() })
}

/// Each is back within its window, of which there is one for each attempt.
fn assert_within_backoff(back: &[Return], since: Instant) {
    for one in back {
        let (took, window) = (one.took(since), one.window());
        assert!(took <= window, "attempt {}: {took:?}, of {window:?}", one.attempt);
    }
}

/// The peak is at most 3 times the mean, and the clients do not all come at the same moment.
fn assert_spread(back: &[Return], since: Instant) {
    let spread = Spread::of(back.iter().map(|back| back.took(since)));
    assert!(spread.ratio() <= 3.0 && spread.peak <= CLIENTS / 2, "{spread:?}, {}", spread.ratio());
}

/// If the server keeps its log, each client gets exactly what was published in the meantime.
#[tokio::test(start_paused = true)]
async fn all_clients_return_within_the_backoff_and_miss_nothing() {
    for seed in 1..=2 {
        let mut storm = Storm::gather(seed, &["first"]).await;
        for outage in [0, 1, 2, 5].map(Duration::from_secs) {
            sleep(BACKOFF.stable).await;
            let known = storm.published;
            let since = storm.restart_after(outage).await;
            let back = storm.all_back().await;
            assert_within_backoff(&back, since);
            assert_spread(&back, since);
            storm.publish(1).await;
            storm.each_is_given_numbers(known + 1..=storm.published).await;
        }
        storm.nothing_is_left();
    }
}

#[tokio::test(start_paused = true)]
async fn all_clients_get_a_reset_for_another_log() {
    let mut storm = Storm::gather(3, &["first"]).await;
    storm.publish(3).await;
    storm.each_is_given_numbers(1..=3).await;
    storm.topics = MemoryTopics::new(&Random::seeded(4));
    let outage = Duration::from_secs(1);
    let since = storm.restart_after(outage).await;
    assert_within_backoff(&storm.all_back().await, since);
    storm.follow_the_log();
    storm.publish(2).await;
    let is_reset = |given: &Delivery| match given {
        Delivery::Reset { position, .. } => position.next == 1,
        _ => false,
    };
    storm.each_is_given(is_reset).await;
    storm.each_is_given_numbers(1..=2).await;
    storm.nothing_is_left();
}

/// Clients that got a `/bye` are connected elsewhere within the first window, and their
/// subscriptions go on without a loss.
#[tokio::test(start_paused = true)]
async fn clients_reconnect_spread_over_the_first_window_after_bye() {
    let mut storm = Storm::gather(5, &["first", "second"]).await;
    storm.second.open(server(6, &storm.topics));
    storm.publish(1).await;
    sleep(BACKOFF.stable).await;
    let since = Instant::now();
    storm.first.say_goodbye();
    storm.publish(1).await;
    let back = storm.all_back().await;
    assert_within_backoff(&back, since);
    assert!(back.iter().all(|back| back.attempt == 1));
    assert_spread(&back, since);
    // Until the first has gone, too.
    sleep(BACKOFF.stable).await;
    storm.publish(1).await;
    storm.each_is_given_numbers(1..=3).await;
    storm.nothing_is_left();
}
