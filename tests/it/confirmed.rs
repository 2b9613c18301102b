//! Publishing that waits for acks: `Publisher::publish_confirmed`.

use std::{pin::pin, time::Duration};

use bellwire::{Confirmed, PublishError, Router, ServerConfig};
use bellwire_testkit::{PipeServer, RawPeer};
use futures::poll;
use tokio::io::DuplexStream;

const WITHIN: Duration = Duration::from_secs(5);

type Peer = RawPeer<DuplexStream>;

fn serve(config: ServerConfig) -> PipeServer {
    PipeServer::with_config(Router::new().method("echo", async |text: String| text), config)
}

/// A subscriber, and the epoch of the log.
async fn subscriber(server: &PipeServer, attributes: &str) -> (Peer, String) {
    let mut peer = server.connect().await;
    peer.send(format!("1 /subscribe{attributes} doors\n")).await;
    let epoch = peer.attribute("epoch").await;
    (peer, epoch)
}

fn counts(confirmed: Result<Confirmed, PublishError>) -> (usize, usize) {
    let confirmed = confirmed.unwrap();
    (confirmed.acknowledged, confirmed.subscribers)
}

/// Subscribers without a window are not waited for.
#[tokio::test]
async fn it_ends_once_every_subscriber_with_a_window_has_acknowledged() {
    let server = serve(ServerConfig::new());
    let (mut one, e) = subscriber(&server, ";window=8").await;
    let (mut two, _) = subscriber(&server, ";window=8").await;
    let (mut silent, _) = subscriber(&server, "").await;
    let mut confirmed = pin!(server.publisher.publish_confirmed("doors", "lock", WITHIN));
    assert!(poll!(&mut confirmed).is_pending());
    for peer in [&mut one, &mut two, &mut silent] {
        peer.expect("* doors 1 lock\n").await;
    }
    one.ask(format!("2 /ack doors {e}:2\n"), "2 ok\n").await;
    assert!(poll!(&mut confirmed).is_pending());
    // Its own number is not enough: a position names the next one.
    two.ask(format!("2 /ack doors {e}:1\n"), "2 ok\n").await;
    assert!(poll!(&mut confirmed).is_pending());
    two.send(format!("* /ack doors {e}:2\n")).await;
    let confirmed = confirmed.await.unwrap();
    assert_eq!((confirmed.acknowledged, confirmed.subscribers), (2, 2));
    assert_eq!((confirmed.published.sequence, confirmed.published.epoch.to_string()), (1, e));
}

#[tokio::test]
async fn it_does_not_wait_without_subscribers() {
    let server = serve(ServerConfig::new());
    let _silent = subscriber(&server, "").await;
    let confirmed = server.publisher.publish_confirmed("doors", "lock", Duration::MAX).await;
    assert_eq!(counts(confirmed), (0, 0));
    let invalid = server.publisher.publish_confirmed("a b", "lock", WITHIN).await;
    assert_eq!(invalid, Err(PublishError::InvalidTopic));
}

/// A connection that ends, an `/unsubscribe`, and a lease that runs out.
#[tokio::test]
async fn subscribers_that_leave_are_not_waited_for() {
    let server = serve(ServerConfig::new());
    let (one, _) = subscriber(&server, ";window=8").await;
    let (mut two, e) = subscriber(&server, ";window=8").await;
    let mut confirmed = pin!(server.publisher.publish_confirmed("doors", "lock", WITHIN));
    assert!(poll!(&mut confirmed).is_pending());
    drop(one);
    two.expect("* doors 1 lock\n").await;
    assert!(poll!(&mut confirmed).is_pending());
    two.ask("2 /unsubscribe doors\n", format!("2 ok;next={e}:2\n")).await;
    assert_eq!(counts(confirmed.await), (0, 2));
}

/// A gap in its place counts as handled for the window, and not as confirmed.
#[tokio::test]
async fn a_message_that_a_subscriber_missed_is_not_confirmed() {
    let server = serve(ServerConfig::new());
    let (mut peer, e) = subscriber(&server, ";window=1;slow=latest").await;
    server.publisher.publish("doors", "open").await.unwrap();
    peer.expect("* doors 1 open\n").await;
    let mut confirmed = pin!(server.publisher.publish_confirmed("doors", "lock", WITHIN));
    assert!(poll!(&mut confirmed).is_pending());
    server.publisher.publish("doors", "open").await.unwrap();
    peer.expect_silence().await;
    let skipped = format!("* /gap doors {e} 2 2 slow\n* doors 3 open\n");
    peer.ask(format!("* /ack doors {e}:2\n"), skipped).await;
    peer.ask(format!("2 /ack doors {e}:4\n"), "2 ok\n").await;
    assert_eq!(counts(confirmed.await), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_the_time_is_over_and_not_before() {
    let server = serve(ServerConfig::new());
    let (mut peer, e) = subscriber(&server, ";window=8").await;
    let mut confirmed = pin!(server.publisher.publish_confirmed("doors", "lock", WITHIN));
    assert!(poll!(&mut confirmed).is_pending());
    peer.expect("* doors 1 lock\n").await;
    tokio::time::advance(WITHIN - Duration::from_millis(1)).await;
    assert!(poll!(&mut confirmed).is_pending());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(counts(confirmed.await), (0, 1));
    // A late ack has no effect on another message.
    peer.ask(format!("2 /ack doors {e}:2\n"), "2 ok\n").await;
    let mut confirmed = pin!(server.publisher.publish_confirmed("doors", "open", WITHIN));
    assert!(poll!(&mut confirmed).is_pending());
    tokio::time::advance(WITHIN).await;
    assert_eq!(counts(confirmed.await), (0, 1));
}
