//! One burst: messages are published in a loop, and readers that keep up count what they get.

use std::{fmt, io, thread, time::Duration};

use bellwire::{
    Client, ClientConfig, Delivery, Listener, Publisher, Router, Server, ServerConfig,
    Subscription, server::PeerAddr,
};
use tokio::{
    io::DuplexStream,
    runtime::{Builder, Handle, Runtime},
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

/// The payload of each message: 32 bytes, which are also valid JSON.
const PAYLOAD: &str = r#""a message of thirty-two bytes.""#;
const END: &str = r#""end""#;
/// The bound on a burst, for a busy machine.
const BOUND: Duration = Duration::from_secs(120);

/// Where the burst is published from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The future in `block_on` of the runtime.
    Root,
    /// A task.
    Task,
    /// A handler of the server, called once.
    Handler,
    /// A client, by `/publish`, one message after the other.
    Client,
    /// A client, by `/publish`, as many messages at once as it has places in flight.
    PipeliningClient,
    /// A thread of `spawn_blocking`, by `Handle::block_on` of a loop.
    Blocking,
    /// A thread, by `Handle::block_on` for each message.
    Thread,
}

/// One kind of burst.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Burst {
    /// Worker threads; 0 for a runtime of the current thread.
    pub(crate) workers: usize,
    pub(crate) is_tcp: bool,
    pub(crate) by: By,
    /// The number of topics; messages are published to them in turn.
    pub(crate) topics: usize,
    /// Readers of each topic, each on its own connection.
    pub(crate) readers: usize,
    /// Messages of all topics together.
    pub(crate) messages: usize,
}

impl Default for Burst {
    fn default() -> Self {
        Self { workers: 0, is_tcp: true, by: By::Task, topics: 1, readers: 1, messages: 20_000 }
    }
}

/// The count of all readers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) received: u64,
    pub(crate) lost: u64,
}

impl fmt::Display for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workers, is_tcp, by, topics, readers, .. } = self;
        let over = if *is_tcp { "tcp" } else { "pipes" };
        write!(f, "{workers} workers, {over}, by {by:?}, {topics} topics, {readers} readers each")
    }
}

impl Burst {
    /// Runs the burst in its own runtime, with the defaults of both ends.
    pub(crate) fn run(self) -> Outcome {
        let runtime = self.runtime();
        let outcome = runtime.block_on(async { timeout(BOUND, self.play()).await });
        runtime.shutdown_background();
        outcome.unwrap_or_else(|_| panic!("{self}: no end within {BOUND:?}"))
    }

    fn runtime(&self) -> Runtime {
        let built = match self.workers {
            0 => Builder::new_current_thread().enable_all().build(),
            workers => Builder::new_multi_thread().worker_threads(workers).enable_all().build(),
        };
        built.expect("a runtime")
    }

    async fn play(self) -> Outcome {
        let service = Service::start(self).await;
        let mut readers = JoinSet::new();
        for topic in 0..self.topics {
            for _ in 0..self.readers {
                let (client, topic) = (service.connect().await, topic_of(topic));
                let subscribed = client.subscribe(&topic).await.expect("subscribed");
                readers.spawn(read(subscribed));
            }
        }
        // Waits until the server counts all subscriptions.
        while service.handle.stats().subscriptions < self.topics * self.readers {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.publish(&service).await;
        let mut outcome = Outcome::default();
        while let Some(one) = readers.join_next().await {
            let one = one.expect("no panic");
            outcome.received += one.received;
            outcome.lost += one.lost;
        }
        outcome
    }

    async fn publish(self, service: &Service) {
        let publisher = service.publisher.clone();
        match self.by {
            By::Root => self.publish_all(publisher).await,
            By::Task => tokio::spawn(self.publish_all(publisher)).await.expect("no panic"),
            By::Handler => {
                let called = service.connect().await.call("burst", "").await;
                called.expect("published");
            }
            By::Client => self.publish_as(service.connect().await, 1).await,
            By::PipeliningClient => self.publish_as(service.connect().await, 1_024).await,
            By::Blocking => {
                let runtime = Handle::current();
                let publish = move || runtime.block_on(self.publish_all(publisher));
                spawn_blocking(publish).await.expect("no panic");
            }
            By::Thread => {
                let runtime = Handle::current();
                let (done, is_done) = tokio::sync::oneshot::channel();
                thread::spawn(move || {
                    for (topic, payload) in self.messages() {
                        let published = runtime.block_on(publisher.publish(topic, payload));
                        published.expect("published");
                    }
                    let _ = done.send(());
                });
                is_done.await.expect("no panic");
            }
        }
    }

    async fn publish_all(self, publisher: Publisher) {
        for (topic, payload) in self.messages() {
            publisher.publish(topic, payload).await.expect("published");
        }
    }

    async fn publish_as(self, client: Client, at_once: usize) {
        use futures::{StreamExt, stream};
        let publishing = stream::iter(self.messages()).map(|(topic, payload)| {
            let client = client.clone();
            async move { client.publish(topic.as_str(), payload).await.expect("published") }
        });
        publishing.buffered(at_once).for_each(async |_| {}).await;
    }

    /// The messages, and the last one of each topic.
    fn messages(self) -> impl Iterator<Item = (bellwire::protocol::Topic, &'static str)> + Send {
        let topics: Vec<_> = (0..self.topics)
            .map(|topic| bellwire::protocol::Topic::new(&topic_of(topic)).expect("a name"))
            .collect();
        let ends = topics.clone().into_iter().map(|topic| (topic, END));
        (0..self.messages).map(move |n| (topics[n % topics.len()].clone(), PAYLOAD)).chain(ends)
    }
}

fn topic_of(number: usize) -> String {
    format!("offers/{number}")
}

async fn read(mut subscription: Subscription) -> Outcome {
    let mut outcome = Outcome::default();
    while let Some(delivery) = subscription.next().await {
        if !outcome.count(&delivery) {
            return outcome;
        }
    }
    panic!("the subscription is over after {outcome:?}")
}

impl Outcome {
    /// Counts a delivery; `false` for the last.
    fn count(&mut self, delivery: &Delivery) -> bool {
        match delivery {
            Delivery::Notification(last) if last.payload == END => return false,
            Delivery::Notification(_) => self.received += 1,
            Delivery::Gap(gap) => self.lost += gap.last - gap.first + 1,
            other => panic!("{other:?}"),
        }
        true
    }
}

/// A server, and the connectors of its clients.
struct Service {
    publisher: Publisher,
    handle: bellwire::ServerHandle,
    doors: Doors,
}

enum Doors {
    Tcp(String),
    Pipes(mpsc::UnboundedSender<DuplexStream>),
}

impl Service {
    async fn start(burst: Burst) -> Self {
        let config = ServerConfig::new().allow_publish(true);
        if burst.is_tcp {
            let server = Server::bind("127.0.0.1:0").await.expect("a free port").config(config);
            let address = server.local_addr().expect("an address").to_string();
            return Self::serve(server, burst, Doors::Tcp(address));
        }
        let (connect, pipes) = mpsc::unbounded_channel();
        Self::serve(Server::new(Pipes(pipes)).config(config), burst, Doors::Pipes(connect))
    }

    fn serve<L: Listener>(server: Server<L>, burst: Burst, doors: Doors) -> Self {
        let (publisher, handle) = (server.publisher(), server.handle());
        let router = Router::<()>::new()
            .method("burst", move |publisher: Publisher| burst.publish_all(publisher));
        tokio::spawn(server.serve(router).into_future());
        Self { publisher, handle, doors }
    }

    async fn connect(&self) -> Client {
        match &self.doors {
            Doors::Tcp(address) => Client::connect(address).await.expect("a server"),
            Doors::Pipes(connect) => {
                let (near, far) = tokio::io::duplex(64 * 1024);
                connect.send(far).expect("a server");
                let (client, connection) = Client::new(near, ClientConfig::new());
                tokio::spawn(connection);
                client
            }
        }
    }
}

struct Pipes(mpsc::UnboundedReceiver<DuplexStream>);

impl Listener for Pipes {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
        match self.0.recv().await {
            Some(io) => Ok((io, PeerAddr::Other("pipe".into()))),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("pipe".into()))
    }
}
