//! Topics that keep the latest message of each key: `Publisher::publish_latest`.

use bellwire::{
    Client, ClientConfig, Delivery, GapCause, PublishError, Publisher, Router, ServerConfig,
    protocol::{Code, Topic},
    topic::{BoxFuture, MemoryTopics, TopicReader, TopicStore},
};
use bellwire_testkit::{PipeServer, bound::bounded, latest::LatestModel};
use bytes::Bytes;
use fastrand::Rng;
use futures::future::join_all;

fn serve(config: ServerConfig) -> PipeServer {
    PipeServer::with_config(Router::new().method("echo", async |text: String| text), config)
}

async fn publish(publisher: &Publisher, prices: &[(&'static str, &'static str)]) {
    for &(key, payload) in prices {
        publisher.publish_latest("prices", key, payload).await.unwrap();
    }
}

/// Publishes messages to the topic `a` at once, for stores that write some of them together.
pub(crate) async fn publish_some(
    publisher: &Publisher,
    model: &mut LatestModel,
    rng: &mut Rng,
    some: usize,
) {
    let published = (0..some).map(|_| {
        let key = [None, Some("a"), Some("b"), Some("c"), Some("")][rng.usize(..5)];
        let payload = format!("{} {}", model.next(), "x".repeat(rng.usize(..20)));
        let number = model.publish(key, &payload);
        async move {
            let published = match key {
                Some(key) => publisher.publish_latest("a", key, payload).await,
                None => publisher.publish("a", payload).await,
            };
            assert_eq!(published.unwrap().sequence, number);
        }
    });
    bounded("publishing", join_all(published.collect::<Vec<_>>())).await;
}

const PRICES: [(&str, &str); 5] =
    [("ACME", "ACME 1"), ("INIT", "INIT 1"), ("ACME", "ACME 2"), ("ACME", "ACME 3"), ("X", "X 1")];

/// The numbers of the replaced messages are named on the wire.
#[tokio::test]
async fn a_late_subscriber_gets_the_latest_message_of_each_key() {
    let server = serve(ServerConfig::new());
    publish(&server.publisher, &PRICES).await;
    let mut peer = server.connect().await;
    peer.send("1 /subscribe;last=100 prices\n").await;
    let e = peer.attribute("epoch").await;
    let gap = format!("* /gap prices {e} 3 3 replaced\n");
    peer.expect(format!("* prices 2 INIT 1\n{gap}* prices 4 ACME 3\n* prices 5 X 1\n")).await;
    publish(&server.publisher, &[("INIT", "INIT 2")]).await;
    peer.expect("* prices 6 INIT 2\n").await;
    // One that resumes gets the same.
    let mut other = server.connect().await;
    other.send(format!("1 /subscribe;from={e}:1 prices\n")).await;
    assert_eq!(other.attribute("epoch").await, e);
    other.expect(format!("* /gap prices {e} 1 3 replaced\n* prices 4 ACME 3\n")).await;
}

/// What was replaced is no loss: the subscription has not failed, and is not resynchronised.
#[tokio::test]
async fn a_replaced_message_is_a_gap_and_no_loss() {
    let server = serve(ServerConfig::new());
    publish(&server.publisher, &PRICES).await;
    let (client, connection) = Client::new(server.pipe(), ClientConfig::new());
    tokio::spawn(connection);
    let mut prices = client.subscribe("prices").last(100).fail_on_loss().await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        match prices.next().await.expect("the subscription goes on") {
            Delivery::Notification(price) => seen.push(price.sequence.to_string()),
            Delivery::Gap(gap) => {
                assert_eq!(gap.cause, GapCause::Server(Code::REPLACED));
                seen.push(format!("{}-{}", gap.first, gap.last));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, ["2", "3-3", "4", "5"]);
}

/// A store that knows no keys.
struct Plain(MemoryTopics);

impl TopicStore for Plain {
    fn append(
        &self,
        topic: &Topic,
        payload: Bytes,
    ) -> BoxFuture<Result<bellwire::Published, PublishError>> {
        self.0.append(topic, payload)
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        self.0.open(topic)
    }
}

#[tokio::test]
async fn invalid_messages_are_refused_before_they_are_numbered() {
    let server = serve(ServerConfig::new().max_line(1_024));
    let publisher = &server.publisher;
    let too_large = Err(PublishError::TooLarge { max_line: 1_024 });
    let key = "k".repeat(1_025);
    assert_eq!(publisher.publish_latest("prices", key, "").await, too_large);
    assert_eq!(publisher.publish_latest("prices", "k", "x".repeat(1_024)).await, too_large);
    let no_topic = publisher.publish_latest("a b", "k", "").await;
    assert_eq!(no_topic, Err(PublishError::InvalidTopic));
    assert_eq!(publisher.publish_latest("prices", "k", "").await.unwrap().sequence, 1);
    let plain = Publisher::new(Plain(MemoryTopics::new(&bellwire::Random::seeded(1))));
    assert_eq!(plain.publish_latest("prices", "k", "").await, Err(PublishError::Unsupported));
    assert_eq!(plain.publish("prices", "x").await.unwrap().sequence, 1);
}
