//! What a subscription does about a loss, and when its application has seen its own effect.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, Delivery, Failure, Publisher, Router, Subscription,
    protocol::{Code, Position},
    server::{IntoReply, Reply},
};
use bellwire_testkit::{PipeServer, dialogue::Peer};
use bytes::Bytes;
use futures::{future::join, poll};
use tokio::{sync::Notify, time::timeout};

const HELLO: &str = "* /hello;version=1;max-line=65535;in-flight=1024;lease=60";

async fn greeted(config: ClientConfig) -> (Client, Peer) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (client, connection) = Client::new(near, config);
    tokio::spawn(connection);
    let mut server = Peer::new(far);
    server.send(HELLO).await;
    client.connected().await.unwrap();
    (client, server)
}

/// Answers the first `/subscribe` of a client.
async fn accepted<F>(server: &mut Peer, subscribing: F) -> Subscription
where
    F: Future<Output = Result<Subscription, CallError>>,
{
    let accept = async {
        assert!(server.line().await.ends_with(" offers"));
        server.send("1 ok;epoch=e;next=5;head=4;lease=60").await;
    };
    join(subscribing, accept).await.0.unwrap()
}

fn at(text: &str) -> Position {
    text.parse().unwrap()
}

async fn next(subscription: &mut Subscription) -> Option<Delivery> {
    timeout(Duration::from_secs(60), subscription.next()).await.expect("nothing is delivered")
}

async fn number(subscription: &mut Subscription) -> u64 {
    next(subscription).await.unwrap().into_notification().expect("a notification").sequence
}

/// Lets every other task have its turns.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

const GAP: &str = "* /gap offers e 5 6 retention\n* offers 7 x";

#[tokio::test(start_paused = true)]
async fn a_loss_is_an_item_of_the_stream() {
    let (client, mut server) = greeted(ClientConfig::new()).await;
    let mut offers = accepted(&mut server, client.subscribe("offers").into_future()).await;
    server.send(GAP).await;
    assert!(matches!(next(&mut offers).await, Some(Delivery::Gap(_))));
    assert_eq!(number(&mut offers).await, 7);
}

/// The gap is reported, the end after it has the position to resume from, and the topic is
/// unsubscribed.
#[tokio::test(start_paused = true)]
async fn fail_on_loss_ends_the_subscription_at_a_loss() {
    for (line, behind) in [(GAP, "e:7"), ("* /reset offers f:1\n* offers 1 x", "f:1")] {
        let (client, mut server) = greeted(ClientConfig::new()).await;
        let subscribing = client.subscribe("offers").fail_on_loss().into_future();
        let mut offers = accepted(&mut server, subscribing).await;
        server.send(line).await;
        let lost = next(&mut offers).await;
        assert!(matches!(lost, Some(Delivery::Gap(_) | Delivery::Reset { .. })), "{lost:?}");
        match next(&mut offers).await {
            Some(Delivery::End { reason, position, .. }) => {
                assert_eq!((reason, position), (Code::LOST, Some(at(behind))));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!((next(&mut offers).await, next(&mut offers).await), (None, None));
        assert!(server.line().await.ends_with("/unsubscribe offers"));
    }
}

/// Messages that the subscriber asked to skip are not a loss.
#[tokio::test(start_paused = true)]
async fn gaps_of_slow_latest_do_not_count_as_a_loss() {
    let (client, mut server) = greeted(ClientConfig::new()).await;
    let subscribing =
        client.subscribe("offers").window(9).slow(bellwire::Slow::Latest).fail_on_loss();
    let mut offers = accepted(&mut server, subscribing.into_future()).await;
    server.send("* /gap offers e 5 6 slow\n* offers 7 x").await;
    assert!(matches!(next(&mut offers).await, Some(Delivery::Gap(_))));
    assert_eq!(number(&mut offers).await, 7);
}

/// The subscription's position comes first, then the state. Live items are held back meanwhile.
#[tokio::test(start_paused = true)]
async fn resync_fetches_state_before_live_items() {
    let (client, mut server) = greeted(ClientConfig::new()).await;
    let asking = client.clone();
    let has_fetched = Arc::new(AtomicBool::new(false));
    let fetched = has_fetched.clone();
    let subscribing = client.subscribe("offers").resync(move |loss| {
        assert_eq!(loss.position, at("e:7"));
        assert!(matches!(loss.missed, Delivery::Gap(_)));
        let (client, fetched) = (asking.clone(), fetched.clone());
        async move {
            client.call("offers.list", "").await?;
            fetched.store(true, Ordering::Relaxed);
            Ok::<_, CallError>(())
        }
    });
    let mut offers = accepted(&mut server, subscribing.into_future()).await;
    server.send(GAP).await;
    assert!(poll!(std::pin::pin!(offers.next())).is_pending());
    settle().await;
    // The first `next` was dropped: the second goes on with what is under way.
    assert!(poll!(std::pin::pin!(offers.next())).is_pending());
    server.expect("2 offers.list").await;
    server.expect_silence().await;
    assert_eq!(offers.position(), at("e:5"));
    server.send("* offers 8 y").await;
    settle().await;
    assert!(poll!(std::pin::pin!(offers.next())).is_pending());
    server.send("2 ok all").await;
    assert_eq!((number(&mut offers).await, number(&mut offers).await), (7, 8));
    assert!(has_fetched.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_resync_that_fails_fails_the_subscription() {
    let (client, mut server) = greeted(ClientConfig::new()).await;
    let resync = |_| std::future::ready(Err("no state today"));
    let subscribing = client.subscribe("offers").resync(resync).into_future();
    let mut offers = accepted(&mut server, subscribing).await;
    server.send(GAP).await;
    assert!(matches!(next(&mut offers).await, Some(Delivery::Gap(_))));
    assert!(matches!(next(&mut offers).await, Some(Delivery::End { .. })));
    assert_eq!(next(&mut offers).await, None);
    assert!(server.line().await.ends_with("/unsubscribe offers"));
}

/// Deliveries that are dropped during a resync are a loss of their own.
#[tokio::test(start_paused = true)]
async fn deliveries_dropped_during_a_resync_cause_another_resync() {
    let (client, mut server) = greeted(ClientConfig::new().inbox_items(2)).await;
    let gate = Arc::new(Notify::new());
    let (positions, waiting) = (Arc::new(std::sync::Mutex::new(Vec::new())), gate.clone());
    let seen = positions.clone();
    let subscribing = client.subscribe("offers").resync(move |loss| {
        seen.lock().unwrap().push(loss.position);
        let waiting = waiting.clone();
        async move {
            waiting.notified().await;
            Ok::<_, CallError>(())
        }
    });
    let mut offers = accepted(&mut server, subscribing.into_future()).await;
    server.send(GAP).await;
    settle().await;
    assert!(poll!(std::pin::pin!(offers.next())).is_pending());
    server.send("* offers 8 x\n* offers 9 x\n* offers 10 x").await;
    settle().await;
    gate.notify_one();
    assert!(poll!(std::pin::pin!(offers.next())).is_pending());
    gate.notify_one();
    assert_eq!((number(&mut offers).await, number(&mut offers).await), (9, 10));
    assert_eq!(*positions.lock().unwrap(), [at("e:7"), at("e:9")]);
}

// One's own effect.

/// [C17.1] A notification, and a gap, make the position seen. The waiting task does not have to
/// read.
#[tokio::test(start_paused = true)]
async fn seen_completes_at_a_delivery_or_a_gap() {
    for line in ["* offers 5 mine", "* /gap offers e 5 5 too-large"] {
        let (client, mut server) = greeted(ClientConfig::new()).await;
        let mut offers = accepted(&mut server, client.subscribe("offers").into_future()).await;
        let adding = client.call("offers.add", "x").replied();
        let (reply, ()) = join(adding, async {
            server.expect("2 offers.add x").await;
            server.send("2 ok;after=offers:e:6 done").await;
        })
        .await;
        let reply = reply.unwrap();
        assert_eq!(reply.value, "done");
        let after = reply.after.unwrap();
        assert_eq!((after.topic.as_str(), after.position), ("offers", at("e:6")));
        let progress = offers.progress();
        let mut seen = std::pin::pin!(offers.seen(after.position));
        assert!(poll!(seen.as_mut()).is_pending());
        server.send(line).await;
        settle().await;
        assert!(poll!(seen.as_mut()).is_pending(), "received, and not handed over");
        assert_eq!(progress.position(), at("e:5"));
        next(&mut offers).await.unwrap();
        assert_eq!(poll!(seen), Poll::Ready(true));
        let before = poll!(std::pin::pin!(progress.seen(at("e:6"))));
        assert_eq!((before, progress.position()), (Poll::Ready(true), at("e:6")));
    }
}

/// [C17.2] Another epoch, an end, and unsubscribing end the wait.
#[tokio::test(start_paused = true)]
async fn seen_fails_if_its_position_cannot_be_reached() {
    for line in ["* /reset offers f:1", "* /end offers closed e:5"] {
        let (client, mut server) = greeted(ClientConfig::new()).await;
        let mut offers = accepted(&mut server, client.subscribe("offers").into_future()).await;
        let mut seen = std::pin::pin!(offers.seen(at("e:9")));
        assert!(poll!(seen.as_mut()).is_pending());
        server.send(line).await;
        next(&mut offers).await.unwrap();
        assert_eq!(poll!(seen), Poll::Ready(false), "{line}");
    }
    let (client, mut server) = greeted(ClientConfig::new()).await;
    let offers = accepted(&mut server, client.subscribe("offers").into_future()).await;
    let mut seen = std::pin::pin!(offers.seen(at("e:9")));
    assert!(poll!(seen.as_mut()).is_pending());
    drop(offers);
    assert_eq!(poll!(seen), Poll::Ready(false));
}

/// A malformed `after` does not affect the reply.
#[tokio::test(start_paused = true)]
async fn a_malformed_after_attribute_is_ignored() {
    let (client, mut server) = greeted(ClientConfig::new()).await;
    for (id, after) in
        [";after=offers", ";after=offers:e:0", ";after=/x:e:1", ""].iter().enumerate()
    {
        let (reply, ()) = join(client.call("m", "").replied(), async {
            server.line().await;
            server.send(&format!("{} ok{after} x", id + 1)).await;
        })
        .await;
        assert_eq!(reply.unwrap().after, None);
    }
}

/// Order of replies and notifications on both ends: a caller sees its own effect, in whichever task
/// it reads the stream (guarantee "order").
#[tokio::test(start_paused = true)]
async fn a_caller_sees_its_own_effect() {
    let publisher: Arc<std::sync::OnceLock<Publisher>> = Arc::default();
    let publishing = publisher.clone();
    let add = move |payload: Bytes| {
        let publisher = publishing.get().cloned();
        async move {
            let publisher = publisher.expect("it serves");
            let published = publisher.publish("offers", payload).await;
            let published =
                published.map_err(|error| Failure::new(Code::INTERNAL, error.to_string()))?;
            Ok::<Reply, Failure>("added".into_reply().after("offers", published))
        }
    };
    let server = PipeServer::start(Router::new().method("add", add));
    publisher.set(server.publisher.clone()).unwrap_or_default();
    let (client, connection) = Client::new(server.pipe(), ClientConfig::new());
    tokio::spawn(connection);
    let unseen = client.call("add", "0").replied().await.unwrap();
    assert_eq!(unseen.after, None, "it is not subscribed");
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counting = count.clone();
    let mut offers = client.subscribe("offers").await.unwrap();
    let progress = offers.progress();
    tokio::spawn(async move {
        while offers.next().await.is_some() {
            counting.fetch_add(1, Ordering::Relaxed);
        }
    });
    for n in 1..=20 {
        let reply = client.call("add", n.to_string()).replied().await.unwrap();
        let after = reply.after.expect("it is subscribed");
        assert_eq!(after.position.next, n + 2);
        assert!(progress.seen(after.position).await);
        assert!(count.load(Ordering::Relaxed) >= n - 1, "all before it were handled");
    }
}

/// However many numbers a server claims to have lost, log by log.
#[tokio::test(start_paused = true)]
async fn the_count_of_missed_messages_saturates() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let (client, connection) = Client::new(near, ClientConfig::new());
    let driver = tokio::spawn(connection);
    let mut server = Peer::new(far);
    server.send(HELLO).await;
    let mut offers = accepted(&mut server, client.subscribe("offers").into_future()).await;
    let all = "1 9007199254740991 x";
    let round = format!(
        "* /reset offers a:1\n* /gap offers a {all}\n* /reset offers b:1\n* /gap offers b {all}\n"
    );
    server.send_bytes(round.repeat(1_100).as_bytes()).await;
    server.send("* /end offers closed b:1").await;
    while next(&mut offers).await.is_some() {}
    assert_eq!(client.stats().gaps, 2_200);
    assert!(!driver.is_finished());
}
