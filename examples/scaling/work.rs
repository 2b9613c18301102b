//! The work that is done at each size.

use std::{error::Error, fs, time::Duration};

use bellwire::{
    Client, ClientConfig, Delivery, Router, ServerConfig, Subscription,
    protocol::{Position, Topic},
};
use bellwire_testkit::PipeServer;
use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

const PAYLOAD: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
/// Connections whose memory is measured.
pub(crate) const MANY: usize = 100_000;
/// The most messages in transit to a subscriber that reads a history.
const WINDOW: u64 = 4_096;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    Callers,
    Connections,
    Subscribers,
    Topics,
    History,
}

impl Work {
    pub(crate) const ALL: [Self; 5] =
        [Self::Callers, Self::Connections, Self::Subscribers, Self::Topics, Self::History];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Callers => "Callers of one connection, 32 calls each",
            Self::Connections => "Connections that are opened, 4 calls over each",
            Self::Subscribers => {
                "Subscribers of one topic, each on a connection, 32 messages to each"
            }
            Self::Topics => "Topics of one connection, 32 messages in each",
            Self::History => "Messages of a topic that a subscriber reads from the first on",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Callers => "callers",
            Self::Connections => "connections",
            Self::Subscribers => "subscribers",
            Self::Topics => "topics",
            Self::History => "history",
        }
    }

    pub(crate) fn smallest(self) -> usize {
        match self {
            Self::History => 4_096,
            Self::Connections => 256,
            Self::Callers | Self::Subscribers | Self::Topics => 64,
        }
    }

    /// The CPU time of `work`.
    pub(crate) async fn run(self, size: usize) -> Duration {
        let server = serve(size);
        match self {
            Self::Callers => callers(&server, size).await,
            Self::Connections => {
                let began = cpu();
                let clients = connections(&server, size, 4).await;
                let took = cpu() - began;
                drop(clients);
                took
            }
            Self::Subscribers => subscribers(&server, size).await,
            Self::Topics => topics(&server, size).await,
            Self::History => history(&server, size).await,
        }
    }
}

/// A server with room for everything that is measured.
fn serve(size: usize) -> PipeServer {
    let config = ServerConfig::new()
        .connections(size + 1)
        .connections_per_address(None)
        .subscriptions(size)
        .topics(size + 1)
        .retained_messages(size)
        .retained_bytes(1 << 30)
        .in_flight(size);
    PipeServer::with_config(Router::new().method("echo", async |payload: Bytes| payload), config)
}

async fn connect(server: &PipeServer, size: usize) -> Client {
    let (client, connection) = Client::new(server.pipe(), ClientConfig::new().in_flight(size));
    tokio::spawn(connection);
    client.connected().await.expect("a hello");
    client
}

async fn callers(server: &PipeServer, size: usize) -> Duration {
    let client = connect(server, size).await;
    let began = cpu();
    let mut calling = JoinSet::new();
    for _ in 0..size {
        let client = client.clone();
        calling.spawn(async move { call(&client, 32).await });
    }
    calling.join_all().await;
    cpu() - began
}

async fn call(client: &Client, times: usize) {
    for _ in 0..times {
        client.call("echo", PAYLOAD).await.expect("a reply");
    }
}

/// This many connections, with this many calls on each.
async fn connections(server: &PipeServer, size: usize, calls: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..size {
        let client = connect(server, 64).await;
        call(&client, calls).await;
        clients.push(client);
    }
    clients
}

async fn subscribers(server: &PipeServer, size: usize) -> Duration {
    let mut subscriptions = Vec::new();
    for _ in 0..size {
        let client = connect(server, 64).await;
        subscriptions.push(client.subscribe("t").await.expect("subscribed"));
    }
    // The first messages make both ends allocate their buffers.
    let subscriptions = deliver(server, subscriptions, 32).await;
    let began = cpu();
    deliver(server, subscriptions, 32).await;
    cpu() - began
}

/// Publishes this many messages. A task for each of the subscriptions reads them.
async fn deliver(
    server: &PipeServer,
    subscriptions: Vec<Subscription>,
    count: usize,
) -> Vec<Subscription> {
    let mut reading = JoinSet::new();
    for mut subscription in subscriptions {
        reading.spawn(async move {
            read(&mut subscription, count).await;
            subscription
        });
    }
    publish(server, "t", count).await;
    reading.join_all().await
}

async fn topics(server: &PipeServer, size: usize) -> Duration {
    let client = connect(server, 64).await;
    let mut reading = JoinSet::new();
    for n in 0..size {
        let mut subscription = client.subscribe(&format!("t{n}")).await.expect("subscribed");
        reading.spawn(async move { read(&mut subscription, 32).await });
    }
    let began = cpu();
    for n in 0..size {
        publish(server, &format!("t{n}"), 32).await;
        tokio::task::yield_now().await;
    }
    reading.join_all().await;
    cpu() - began
}

async fn history(server: &PipeServer, size: usize) -> Duration {
    let epoch = publish(server, "t", size).await;
    let client = connect(server, 64).await;
    let began = cpu();
    let subscribe = client.subscribe("t").from(Position { next: 1, ..epoch }).window(WINDOW);
    let mut subscription = subscribe.await.expect("subscribed");
    read(&mut subscription, size).await;
    cpu() - began
}

/// Publishes this many messages. Returns the position of the last.
async fn publish(server: &PipeServer, topic: &str, count: usize) -> Position {
    let topic = Topic::new(topic).expect("a valid name");
    let mut last = None;
    for _ in 0..count {
        let published = server.publisher.publish(topic.clone(), &PAYLOAD[..]).await;
        last = Some(published.expect("published"));
    }
    let last = last.expect("at least one message");
    Position { epoch: last.epoch, next: last.sequence }
}

async fn read(subscription: &mut Subscription, count: usize) {
    for _ in 0..count {
        let delivery = subscription.next().await;
        assert!(matches!(delivery, Some(Delivery::Notification(_))), "{delivery:?}");
    }
}

/// Opens many connections. Returns the memory that they take.
pub(crate) async fn many_connections() -> Result<String, Box<dyn Error + Send + Sync>> {
    let server = serve(MANY);
    let (before, began) = (resident_bytes()?, cpu());
    let clients = connections(&server, MANY, 1).await;
    let (grown, took) = (resident_bytes()? - before, cpu() - began);
    Ok(format!(
        "{} connections were opened, with one call over each, in {:.1} CPU seconds. They take {} bytes of \
         resident memory each, for both ends and the pipe.",
        clients.len(),
        took.as_secs_f64(),
        grown / clients.len()
    ))
}

/// The CPU time of this process so far.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.try_into().unwrap_or_default()
}

fn resident_bytes() -> Result<usize, Box<dyn Error + Send + Sync>> {
    let pages: usize = fs::read_to_string("/proc/self/statm")?
        .split(' ')
        .nth(1)
        .ok_or("statm has no second field")?
        .parse()?;
    Ok(pages * rustix::param::page_size())
}
