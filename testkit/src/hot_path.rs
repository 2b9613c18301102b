//! A client and a server on one thread, over a pipe. It makes calls and notifications in batches,
//! for programs that count allocations or instructions. The same number of messages takes the same
//! path in every run.

use bellwire::{
    Client, ClientConfig, Delivery, Publisher, Router, Server, Subscription, protocol::Topic,
};
use bytes::Bytes;
use tokio::{
    sync::mpsc,
    task::{JoinSet, yield_now},
};

use crate::Pipes;

/// The payload of every call and every notification.
pub const PAYLOAD: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

/// The capacity of the pipe in each direction: more than a batch.
const PIPE: usize = 1 << 20;

/// A client that is connected to a server. Both run as tasks of the runtime, which must have one
/// thread.
pub struct HotPath {
    pub client: Client,
    publisher: Publisher,
    topic: Topic,
}

impl HotPath {
    pub async fn connect() -> Self {
        let (pipes, accepted) = mpsc::unbounded_channel();
        let server = Server::new(Pipes(accepted));
        let publisher = server.publisher();
        let router = Router::new().method("echo", async |payload: Bytes| payload);
        tokio::spawn(server.serve(router).into_future());
        let (near, far) = tokio::io::duplex(PIPE);
        pipes.send(far).expect("the server serves");
        let (client, connection) = Client::new(near, ClientConfig::new());
        tokio::spawn(connection);
        client.connected().await.expect("a hello");
        Self { client, publisher, topic: Topic::new("t").expect("a valid name") }
    }

    /// Makes `count` calls by this many `callers`. Each of them waits for its reply before it makes
    /// its next call.
    pub async fn call(&self, callers: u64, count: u64) {
        let mut calling = JoinSet::new();
        for caller in 0..callers {
            let client = self.client.clone();
            let share = count / callers + u64::from(caller < count % callers);
            calling.spawn(async move {
                for _ in 0..share {
                    client.call("echo", PAYLOAD).await.expect("a reply");
                }
            });
        }
        calling.join_all().await;
    }

    /// A subscription to the topic that [`deliver`](Self::deliver) publishes to.
    pub async fn subscribe(&self) -> Subscription {
        self.client.subscribe(self.topic.as_str()).await.expect("subscribed")
    }

    /// Publishes `count` messages in batches, without waiting for a subscriber.
    pub async fn publish(&self, batch: u64, count: u64) {
        for size in batches(batch, count) {
            self.publish_batch(size).await;
        }
    }

    /// Publishes `count` messages in batches. Each batch is read before the next one is published.
    pub async fn deliver(&self, subscription: &mut Subscription, batch: u64, count: u64) {
        for size in batches(batch, count) {
            self.publish_batch(size).await;
            for _ in 0..size {
                let delivery = subscription.next().await;
                assert!(matches!(delivery, Some(Delivery::Notification(_))), "{delivery:?}");
            }
        }
    }

    async fn publish_batch(&self, size: u64) {
        for _ in 0..size {
            let published = self.publisher.publish(self.topic.clone(), &PAYLOAD[..]).await;
            published.expect("published");
        }
        // Both ends process the batch before it is read, as they would on their own threads.
        yield_now().await;
        yield_now().await;
    }
}

/// The sizes of the batches that `count` messages make.
fn batches(batch: u64, count: u64) -> impl Iterator<Item = u64> {
    (0..count.div_ceil(batch)).map(move |n| batch.min(count - n * batch))
}
