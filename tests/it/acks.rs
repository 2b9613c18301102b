//! Acknowledged notifications (docs/protocol/acks.md, section 16): windows, acks, and slow
//! subscribers.

// SECURITY.md, threats 17, 27 and 28.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, Delivery, Gap, GapCause, NotSent, Notification, PublishError,
    Published, Random, Router, ServerConfig, Slow, Subscribe, Subscription,
    protocol::{Code, Cursor, Position, Topic, Window},
    topic::{BoxFuture, MemoryTopics, Read, Room, TopicReader, TopicStore, Unavailable},
};
use bellwire_testkit::{PIPE, PipeServer, RawPeer};
use bytes::Bytes;
use tokio::io::DuplexStream;

type Peer = RawPeer<DuplexStream>;

fn serve(config: ServerConfig) -> PipeServer {
    PipeServer::with_config(Router::new().method("echo", async |text: String| text), config)
}

async fn publish(server: &PipeServer, payloads: impl IntoIterator<Item = u64>) {
    for payload in payloads {
        server.publisher.publish("offers", payload.to_string()).await.unwrap();
    }
}

/// Subscribes with these attributes; the epoch of the topic's log.
async fn subscribe(peer: &mut Peer, id: u64, attributes: &str) -> String {
    peer.send(format!("{id} /subscribe{attributes} offers\n")).await;
    peer.attribute("epoch").await
}

fn offers(numbers: impl IntoIterator<Item = u64>) -> String {
    numbers.into_iter().map(|number| format!("* offers {number} {number}\n")).collect()
}

/// [S16.2] [S16.5] With a full window the cursor waits, but replies do not. An ack in either form
/// frees what it covers. A repeated or a lower ack has no effect.
#[tokio::test]
async fn a_full_window_pauses_delivery_until_an_ack() {
    let server = serve(ServerConfig::new());
    let mut peer = server.connect().await;
    let e = subscribe(&mut peer, 1, ";window=2").await;
    publish(&server, 1..=6).await;
    peer.expect(offers(1..=2)).await;
    peer.expect_silence().await;
    peer.ask("2 echo hi\n", "2 ok hi\n").await;
    peer.ask(format!("* /ack offers {e}:2\n"), offers([3])).await;
    peer.send(format!("* /ack offers {e}:2\n* /ack offers {e}:1\n")).await;
    peer.expect_silence().await;
    peer.ask(format!("3 /ack offers {e}:4\n"), format!("3 ok\n{}", offers([4, 5]))).await;
    peer.expect_silence().await;
    peer.ask("4 /renew\n", format!("4 ok;lease=60 offers:{e}:6\n")).await;
    peer.ask("5 /unsubscribe offers\n", format!("5 ok;next={e}:6\n")).await;
}

/// [S16.3] An ack for an ended subscription, an unknown topic, or another log is ignored; a request
/// form of it is answered. Without a window every ack is ignored.
#[tokio::test]
async fn acks_of_unknown_subscriptions_are_ignored() {
    let server = serve(ServerConfig::new());
    let mut peer = server.connect().await;
    peer.ask("1 /ack offers x:7\n", "1 ok\n").await;
    let e = subscribe(&mut peer, 2, "").await;
    publish(&server, 1..=2).await;
    peer.expect(offers(1..=2)).await;
    peer.ask(format!("3 /ack offers {e}:3\n"), "3 ok\n").await;
    peer.ask("4 /ack offers other:99\n* /ack offers other:99\n", "4 ok\n").await;
    peer.ask("5 /unsubscribe offers\n", format!("5 ok;next={e}:3\n")).await;
    peer.ask(format!("* /ack offers {e}:99\n6 /ack offers {e}:99\n"), "6 ok\n").await;
    peer.expect_silence().await;
}

/// [S16.4] An ack above the last number that was delivered or in a gap is a violation and changes
/// nothing, also with a full window and without a window. SECURITY.md, threat 17.
#[tokio::test]
async fn an_ack_above_the_last_sent_number_is_a_violation() {
    let server = serve(ServerConfig::new());
    let mut peer = server.connect().await;
    let e = subscribe(&mut peer, 1, ";window=1").await;
    publish(&server, 1..=3).await;
    peer.expect(offers([1])).await;
    peer.ask(format!("2 /ack offers {e}:3\n"), format!("2 no bad-ack next is {e}:2\n")).await;
    let fault = format!("* /error bad-ack next is {e}:2\n");
    peer.ask(format!("* /ack offers {e}:9007199254740991\n"), fault).await;
    peer.expect_silence().await;
    peer.ask(format!("* /ack offers {e}:2\n"), offers([2])).await;
    let mut other = server.connect().await;
    let e = subscribe(&mut other, 1, "").await;
    other.ask(format!("2 /ack offers {e}:5\n"), format!("2 no bad-ack next is {e}:4\n")).await;
}

/// [S2.10] [S3.6] Malformed values of `window` and `slow`, and malformed arguments of `/ack`.
#[tokio::test]
async fn malformed_windows_policies_and_acks_are_refused() {
    let server = serve(ServerConfig::new());
    let mut peer = server.connect().await;
    for (id, attribute) in
        [(1, "window=0"), (2, "window=-1"), (3, "window=9007199254740992"), (4, "slow=never")]
    {
        let key = attribute.split_once('=').unwrap().0;
        let line = format!("{id} /subscribe;{attribute} offers\n");
        peer.ask(line, format!("{id} no bad-attribute {key}\n")).await;
    }
    for (id, arguments) in [(5, ""), (6, " offers"), (7, " offers x:0"), (8, " offers x:1 y")] {
        let usage = format!("{id} no bad-arguments usage: /ack TOPIC POSITION\n");
        peer.ask(format!("{id} /ack{arguments}\n"), usage).await;
    }
    peer.ask("* /ack a:b x:1\n", "* /error bad-arguments usage: /ack TOPIC POSITION\n").await;
    peer.ask("9 /ack;window=1 offers x:1\n", "9 no unknown-attribute window\n").await;
    subscribe(&mut peer, 10, ";window=9007199254740991;slow=gap").await;
}

/// Each of many acks, valid, void or malformed, is answered in line order, and other requests are
/// not delayed. SECURITY.md, threat 17.
#[tokio::test]
async fn a_flood_of_acks_is_processed_in_order() {
    const ACKS: usize = 100_000;
    let server = serve(ServerConfig::new());
    let mut peer = server.connect().await;
    let e = subscribe(&mut peer, 1, ";window=3").await;
    publish(&server, 1..=4).await;
    peer.expect(offers(1..=3)).await;
    let kinds = [format!("{e}:1"), format!("{e}:2"), "gone:9".to_owned(), format!("{e}:3")];
    let (read, write) = tokio::io::split(peer.io);
    let (mut reader, mut writer) = (RawPeer::new(tokio::io::join(read, tokio::io::sink())), write);
    let flood: String = (0..ACKS).map(|n| format!("* /ack offers {}\n", kinds[n % 4])).collect();
    let flood = format!("{flood}* /ack offers {e}:99\n2 echo done\n");
    let written = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut writer, flood.as_bytes()).await.unwrap();
        writer
    });
    reader.expect(offers([4])).await;
    reader.expect(format!("* /error bad-ack next is {e}:5\n2 ok done\n")).await;
    drop(written.await.unwrap());
}

/// [S16.5] For all reasons of a gap.
#[tokio::test]
async fn numbers_in_gaps_take_no_window() {
    let server = serve(ServerConfig::new().retained_messages(3));
    let mut peer = server.connect_raw(PIPE);
    peer.hello().await;
    peer.ask("1 /hello;version=1;max-line=1024\n", "1 ok;version=1\n").await;
    let e = subscribe(&mut peer, 2, ";window=2").await;
    publish(&server, [1]).await;
    peer.expect(offers([1])).await;
    server.publisher.publish("offers", "x".repeat(2_000)).await.unwrap();
    peer.expect(format!("* /gap offers {e} 2 2 too-large\n")).await;
    publish(&server, [3]).await;
    peer.expect(offers([3])).await;
    peer.expect_silence().await;
    publish(&server, 4..=12).await;
    // 4 to 9 have left meanwhile. The ack covers one delivered number, and leaves one.
    let gap = format!("* /gap offers {e} 4 9 retention\n{}", offers([10]));
    peer.ask(format!("* /ack offers {e}:3\n"), gap).await;
    peer.expect_silence().await;
    // In the middle of the gap: 10 alone is left.
    peer.ask(format!("* /ack offers {e}:7\n"), offers([11])).await;
    peer.expect_silence().await;
    peer.ask(format!("* /ack offers {e}:12\n"), offers([12])).await;
}

/// What a server has to remember of gaps is bounded: with 64 runs of unacknowledged numbers the
/// window counts as full, whatever its size. SECURITY.md, threat 17.
#[tokio::test]
async fn many_gaps_fill_a_window_too() {
    let server = serve(ServerConfig::new());
    let mut peer = server.connect_raw(PIPE);
    peer.hello().await;
    peer.ask("1 /hello;version=1;max-line=1024\n", "1 ok;version=1\n").await;
    let e = subscribe(&mut peer, 2, ";window=100000").await;
    for number in 0..70 {
        publish(&server, [2 * number + 1]).await;
        server.publisher.publish("offers", "x".repeat(2_000)).await.unwrap();
    }
    for number in 0..64 {
        peer.expect(offers([2 * number + 1])).await;
        if number < 63 {
            let gapped = 2 * number + 2;
            peer.expect(format!("* /gap offers {e} {gapped} {gapped} too-large\n")).await;
        }
    }
    peer.expect_silence().await;
    let on = format!("* /gap offers {e} 128 128 too-large\n{}", offers([129]));
    peer.ask(format!("* /ack offers {e}:3\n"), on).await;
    peer.expect_silence().await;
}

/// [S16.2] The window applies to replayed messages as to all others.
#[tokio::test]
async fn a_replay_is_limited_by_the_window() {
    let server = serve(ServerConfig::new());
    let mut peer = server.connect().await;
    publish(&server, 1..=7).await;
    let e = subscribe(&mut peer, 1, "").await;
    peer.send("2 /unsubscribe offers\n").await;
    peer.line().await;
    subscribe(&mut peer, 3, &format!(";from={e}:2;window=3")).await;
    for first in [2, 5] {
        peer.expect(offers(first..first + 3)).await;
        peer.expect_silence().await;
        peer.send(format!("* /ack offers {e}:{}\n", first + 3)).await;
    }
    publish(&server, 8..=8).await;
    peer.expect(offers([8])).await;
}

/// [S16.7] A subscriber that had to wait skips to the newest message if there is more than one.
#[tokio::test]
async fn slow_latest_skips_to_the_newest_after_a_wait() {
    let server = serve(ServerConfig::new());
    let mut peer = server.connect().await;
    let e = subscribe(&mut peer, 1, ";window=2;slow=latest").await;
    publish(&server, 1..=9).await;
    peer.expect(offers(1..=2)).await;
    peer.expect_silence().await;
    let latest = format!("* /gap offers {e} 3 8 slow\n{}", offers([9]));
    peer.ask(format!("* /ack offers {e}:2\n"), latest).await;
    // A single message is not skipped, and a subscriber that did not have to wait gets all.
    publish(&server, [10]).await;
    peer.expect_silence().await;
    peer.ask(format!("* /ack offers {e}:10\n"), offers([10])).await;
    publish(&server, [11, 12]).await;
    peer.expect(offers([11])).await;
    peer.ask(format!("* /ack offers {e}:11\n"), offers([12])).await;
}

/// [S16.7] The newest message of more than is retained: there is one gap, with the reason `slow`.
#[tokio::test]
async fn slow_latest_reports_dropped_messages_as_one_slow_gap() {
    let server = serve(ServerConfig::new().retained_messages(3));
    let mut peer = server.connect().await;
    let e = subscribe(&mut peer, 1, ";window=1;slow=latest").await;
    publish(&server, [1]).await;
    peer.expect(offers([1])).await;
    publish(&server, 2..=9).await;
    let latest = format!("* /gap offers {e} 2 8 slow\n{}", offers([9]));
    peer.ask(format!("* /ack offers {e}:2\n"), latest).await;
}

/// [S16.7] Without a window, a slow subscriber waits at the notification mark.
#[tokio::test]
async fn slow_latest_skips_after_a_wait_at_the_notification_mark() {
    let server = serve(ServerConfig::new().notification_mark(64));
    let mut peer = server.connect_raw(64);
    peer.hello().await;
    let e = subscribe(&mut peer, 1, ";slow=latest").await;
    // And after the next wait.
    for last in [100, 200] {
        publish(&server, last - 99..=last).await;
        tokio::task::yield_now().await;
        let (mut expected, mut gaps) = (last - 99, 0);
        while expected <= last {
            let line = peer.line().await.unwrap();
            if let Some(gap) = line.strip_prefix(&format!("* /gap offers {e} {expected} ")) {
                assert_eq!(gap, format!("{} slow\n", last - 1));
                (expected, gaps) = (last, gaps + 1);
            } else {
                assert_eq!(line, offers([expected]));
                expected += 1;
            }
        }
        assert_eq!(gaps, 1);
    }
}

/// [S16.8] [S4.7] With `slow=close`, a subscription ends where retention would cause a gap. The
/// client resumes with a gap. Numbers that left before a subscription began do not end it.
#[tokio::test]
async fn slow_close_ends_a_subscription_overtaken_by_retention() {
    let server = serve(ServerConfig::new().retained_messages(3));
    let mut peer = server.connect().await;
    let e = subscribe(&mut peer, 1, ";window=1;slow=close").await;
    publish(&server, [1]).await;
    peer.expect(offers([1])).await;
    publish(&server, 2..=4).await;
    peer.ask(format!("* /ack offers {e}:2\n"), offers([2])).await;
    publish(&server, 5..=6).await;
    peer.ask(format!("* /ack offers {e}:3\n"), format!("* /end offers slow {e}:3\n")).await;
    peer.ask("2 /unsubscribe offers\n", "2 no not-subscribed offers\n").await;
    let again = format!("3 /subscribe;from={e}:3;window=1;slow=close offers\n");
    let begun = format!("3 ok;epoch={e};next=3;head=6;lease=60\n");
    let gap = format!("* /gap offers {e} 3 3 retention\n{}", offers([4]));
    peer.ask(again, begun + &gap).await;
    peer.ask(format!("* /ack offers {e}:5\n"), offers([5])).await;
    peer.ask("4 /renew\n", format!("4 ok;lease=60 offers:{e}:6\n")).await;
}

/// [S4.11] [S16.1] A full window delays neither other subscribers, nor the replies and other topics
/// of its own connection. SECURITY.md, threats 27 and 28.
#[tokio::test]
async fn a_full_window_delays_no_other_subscriber_or_reply() {
    let server = serve(ServerConfig::new());
    let mut slow = server.connect().await;
    subscribe(&mut slow, 1, ";window=1").await;
    slow.send("2 /subscribe news\n").await;
    slow.line().await;
    let mut others = Vec::new();
    for _ in 0..99 {
        let mut other = server.connect().await;
        subscribe(&mut other, 1, "").await;
        others.push(other);
    }
    publish(&server, 1..=500).await;
    for other in &mut others {
        other.expect(offers(1..=500)).await;
    }
    slow.expect(offers([1])).await;
    slow.ask("3 echo hi\n", "3 ok hi\n").await;
    server.publisher.publish("news", "a").await.unwrap();
    slow.expect("* news 1 a\n").await;
    slow.expect_silence().await;
}

/// A store that counts how often its readers are asked.
#[derive(Clone)]
struct Counting {
    memory: MemoryTopics,
    reads: Arc<AtomicUsize>,
}

impl TopicStore for Counting {
    fn append(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        self.memory.append(topic, payload)
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        Box::new(CountingReader { reader: self.memory.open(topic), reads: self.reads.clone() })
    }
}

struct CountingReader {
    reader: Box<dyn TopicReader>,
    reads: Arc<AtomicUsize>,
}

impl TopicReader for CountingReader {
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        self.reader.poll_window(cx)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.reader.poll_read(cx, cursor, room, out)
    }
}

/// A full window is not registered with the log, so publishes do not wake its reader.
#[tokio::test]
async fn publishes_do_not_wake_a_reader_with_a_full_window() {
    let reads = Arc::new(AtomicUsize::new(0));
    let memory = MemoryTopics::new(&Random::seeded(1));
    let store = Counting { memory, reads: reads.clone() };
    let server = PipeServer::over(store, Router::new(), ServerConfig::new());
    let mut peer = server.connect().await;
    let e = subscribe(&mut peer, 1, ";window=2").await;
    publish(&server, 1..=2).await;
    peer.expect(offers(1..=2)).await;
    peer.expect_silence().await;
    let before = reads.load(Ordering::Relaxed);
    for number in 3..=200 {
        publish(&server, [number]).await;
        tokio::task::yield_now().await;
    }
    peer.expect_silence().await;
    assert_eq!(reads.load(Ordering::Relaxed), before);
    peer.ask(format!("* /ack offers {e}:3\n"), offers([3, 4])).await;
}

/// A store whose log changes on command, and which may return more than it is allowed to.
struct Fickle(Arc<AtomicUsize>);

impl TopicStore for Fickle {
    fn append(&self, _: &Topic, _: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        unreachable!("nobody publishes")
    }

    fn open(&self, _: &Topic) -> Box<dyn TopicReader> {
        Box::new(Fickle(self.0.clone()))
    }
}

impl Fickle {
    fn log(&self) -> Window {
        let epoch = ["a", "b"][self.0.load(Ordering::Relaxed) % 2];
        Window { epoch: bellwire::protocol::Epoch::new(epoch).unwrap(), first: 1, next: 10 }
    }
}

impl TopicReader for Fickle {
    fn poll_window(&mut self, _: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        Poll::Ready(Ok(self.log()))
    }

    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        use bellwire::protocol::Step;
        let too_many = u64::from(self.0.load(Ordering::Relaxed) == 2);
        match cursor.step(self.log()).1 {
            Step::Reset(position) => Poll::Ready(Ok(Read::Reset(position))),
            Step::Read { first, last } => {
                let last = last.min(first + room.lines - 1 + too_many);
                out.extend(offers(first..=last).bytes());
                Poll::Ready(Ok(Read::Copied { last }))
            }
            _ => Poll::Pending,
        }
    }
}

/// [S16.6] After a reset the window is empty again, and acks of the old log mean nothing; a store
/// that gives more than the window has room for is not believed ([S16.2]).
#[tokio::test]
async fn a_reset_empties_the_window() {
    let mode = Arc::new(AtomicUsize::new(0));
    let server =
        PipeServer::over(Fickle(mode.clone()), Router::<()>::with_state(()), ServerConfig::new());
    let mut peer = server.connect().await;
    subscribe(&mut peer, 1, ";from=a:1;window=2").await;
    peer.expect(offers(1..=2)).await;
    peer.expect_silence().await;
    mode.store(1, Ordering::Relaxed);
    peer.ask("* /ack offers a:2\n", format!("* /reset offers b:1\n{}", offers(1..=2))).await;
    peer.send("* /ack offers a:3\n").await;
    peer.expect_silence().await;
    peer.ask("* /ack offers b:2\n", offers([3])).await;
    mode.store(3, Ordering::Relaxed);
    peer.ask("* /ack offers b:3\n", offers([4])).await;
    mode.store(2, Ordering::Relaxed);
    peer.ask("* /ack offers b:5\n", "* /reset offers a:1\n* /end offers closed a:1\n").await;
}

/// The lease ends what waits for an ack like all else, and says where; acks do not restart it.
#[tokio::test(start_paused = true)]
async fn acks_do_not_renew_the_lease() {
    let server = serve(ServerConfig::new());
    let mut peer = server.connect().await;
    let e = subscribe(&mut peer, 1, ";window=1").await;
    publish(&server, 1..=3).await;
    peer.expect(offers([1])).await;
    tokio::time::advance(Duration::from_secs(50)).await;
    peer.ask(format!("* /ack offers {e}:2\n"), offers([2])).await;
    peer.expect(format!("* /end offers expired {e}:3\n")).await;
    peer.send(format!("* /ack offers {e}:3\n")).await;
    peer.expect_silence().await;
    subscribe(&mut peer, 2, &format!(";from={e}:3;window=1")).await;
    peer.expect(offers([3])).await;
}

const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60\n";

/// A client against a server by hand, through a pipe of `size` bytes.
async fn by_hand(size: usize, config: ClientConfig) -> (Client, Peer) {
    let (near, far) = tokio::io::duplex(size);
    let (client, connection) = Client::new(near, config);
    tokio::spawn(connection);
    let mut server = RawPeer::new(far);
    server.send(HELLO).await;
    client.connected().await.unwrap();
    (client, server)
}

fn at(text: &str) -> Position {
    text.parse().unwrap()
}

/// Subscribes where the server is at 18 of epoch `e`; `line` is what it reads.
async fn begin(wish: Subscribe, server: &mut Peer, line: &str) -> Subscription {
    let (subscription, ()) = tokio::join!(wish.into_future(), async {
        server.expect(format!("1 {line}\n")).await;
        server.send("1 ok;epoch=e;next=18;head=17;lease=60\n").await;
    });
    subscription.unwrap()
}

async fn next(subscription: &mut Subscription) -> Notification {
    let delivery = subscription.next().await.expect("it goes on");
    delivery.into_notification().expect("a notification")
}

async fn read(subscription: &mut Subscription, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        assert_eq!(next(subscription).await.sequence, number);
    }
}

/// [C16.2] The client acknowledges deliveries that it handed over, by half windows and one-way.
/// Queued deliveries are not acknowledged.
#[tokio::test]
async fn the_client_acks_deliveries_that_it_handed_over() {
    let (client, mut server) = by_hand(PIPE, ClientConfig::new()).await;
    let wish = client.subscribe("offers").window(4).slow(Slow::Close);
    let line = "/subscribe;window=4;slow=close offers";
    let mut subscription = begin(wish, &mut server, line).await;
    server.send(offers(18..=21)).await;
    read(&mut subscription, 18..=18).await;
    server.expect_silence().await;
    read(&mut subscription, 19..=19).await;
    server.expect("* /ack offers e:20\n").await;
    read(&mut subscription, 20..=21).await;
    server.expect("* /ack offers e:22\n").await;
    // There is no use in an ack before leaving.
    server.send(offers([22])).await;
    read(&mut subscription, 22..=22).await;
    drop(subscription);
    server.expect("2 /unsubscribe offers\n").await;
}

/// A position below every number acknowledges nothing. One beyond all numbers that were handed over
/// acknowledges only those.
#[tokio::test]
async fn an_ack_below_every_number_is_ignored() {
    let (client, mut server) = by_hand(PIPE, ClientConfig::new()).await;
    let wish = client.subscribe("offers").window(4).ack_by_hand();
    let mut subscription = begin(wish, &mut server, "/subscribe;window=4 offers").await;
    server.send(offers(18..=21)).await;
    read(&mut subscription, 18..=20).await;
    for next in [0, 1, 18] {
        subscription.ack(Position { next, ..at("e:18") });
    }
    for foreign in ["f:19", "f:9007199254740991"] {
        subscription.ack(at(foreign));
    }
    server.expect_silence().await;
    subscription.ack(Position { next: u64::MAX, ..at("e:18") });
    server.expect("* /ack offers e:21\n").await;
}

/// Without a window there are no acks, not even manual ones.
#[tokio::test]
async fn no_acks_are_sent_without_a_window() {
    let (client, mut server) = by_hand(PIPE, ClientConfig::new()).await;
    let wish = client.subscribe("offers").slow(Slow::Gap).ack_by_hand();
    let mut subscription = begin(wish, &mut server, "/subscribe offers").await;
    server.send(offers(18..=30)).await;
    for _ in 18..=30 {
        next(&mut subscription).await.ack();
    }
    subscription.ack(subscription.position());
    drop(subscription);
    server.expect("2 /unsubscribe offers\n").await;
}

/// Manual acks in any order: the server gets the lowest number that is not handled. An ack of a
/// position covers all numbers below it that were handed over.
#[tokio::test]
async fn manual_acks_may_come_in_any_order() {
    let (client, mut server) = by_hand(PIPE, ClientConfig::new()).await;
    let wish = client.subscribe("offers").window(3).ack_by_hand();
    let mut subscription = begin(wish, &mut server, "/subscribe;window=3 offers").await;
    server.send(offers(18..=20)).await;
    let mut items = Vec::new();
    for _ in 18..=20 {
        items.push(next(&mut subscription).await);
    }
    items[1].ack();
    items[2].ack();
    server.expect_silence().await;
    items[0].ack();
    server.expect("* /ack offers e:21\n").await;
    items[0].ack();
    server.send(offers(21..=23)).await;
    read(&mut subscription, 21..=22).await;
    subscription.ack(at("f:23"));
    subscription.ack(at("e:99"));
    server.expect("* /ack offers e:23\n").await;
    let last = next(&mut subscription).await;
    drop(subscription);
    last.ack();
    server.expect("2 /unsubscribe offers\n").await;
    server.expect_silence().await;
}

/// Deliveries that the queue dropped count as handled when their gap is handed over.
#[tokio::test]
async fn dropped_deliveries_are_acked_with_their_gap() {
    let (client, mut server) = by_hand(PIPE, ClientConfig::new().inbox_items(2)).await;
    let wish = client.subscribe("offers").window(6).ack_by_hand();
    let mut subscription = begin(wish, &mut server, "/subscribe;window=6 offers").await;
    server.send(offers(18..=23)).await;
    server.expect_silence().await;
    let gap = subscription.next().await.unwrap();
    assert!(matches!(gap, Delivery::Gap(Gap { first: 18, last: 21, cause: GapCause::Lagged, .. })));
    server.expect("* /ack offers e:22\n").await;
}

/// [C16.2] [C16.3] The application gets each gap for slowness, and the gap is acknowledged at once.
/// Deliveries beyond the window are handed over and counted.
#[tokio::test]
async fn slow_gaps_are_reported_and_window_overruns_counted() {
    let (client, mut server) = by_hand(PIPE, ClientConfig::new()).await;
    let wish = client.subscribe("offers").window(100).slow(Slow::Latest);
    let line = "/subscribe;window=100;slow=latest offers";
    let mut subscription = begin(wish, &mut server, line).await;
    server.send("* /gap offers e 18 30 slow\n").await;
    let gap = subscription.next().await.unwrap();
    let cause = GapCause::Server(Code::SLOW);
    assert!(matches!(gap, Delivery::Gap(Gap { first: 18, last: 30, cause: c, .. }) if c == cause));
    server.expect("* /ack offers e:31\n").await;
    server.send(offers(31..=130)).await;
    server.expect_silence().await;
    assert_eq!(client.stats().violations, 0);
    server.send(offers(131..=132)).await;
    server.expect_silence().await;
    assert_eq!(client.stats().violations, 2);
    read(&mut subscription, 31..=132).await;
    server.send("* /end offers slow e:133\n").await;
    let end = subscription.next().await.unwrap();
    let position = Some(at("e:133"));
    assert!(
        matches!(end, Delivery::End { reason, position: p, .. } if reason == Code::SLOW && p == position)
    );
    assert!(subscription.next().await.is_none());
}

/// [C16.1] [C16.4] A resumed subscription has the same terms. What was handed over and not
/// acknowledged is not asked for again, and no ack goes above what the server sent since.
#[tokio::test]
async fn a_resumed_subscription_keeps_its_terms() {
    let (client, mut server) = by_hand(PIPE, ClientConfig::new()).await;
    let wish = client.subscribe("offers").window(2).slow(Slow::Close).ack_by_hand();
    let line = "/subscribe;window=2;slow=close offers";
    let mut subscription = begin(wish, &mut server, line).await;
    server.send(offers(18..=19)).await;
    let one = next(&mut subscription).await;
    let two = next(&mut subscription).await;
    server.send("* /end offers expired e:20\n").await;
    server.expect("2 /subscribe;from=e:20;window=2;slow=close offers\n").await;
    one.ack();
    server.expect_silence().await;
    // This one goes back behind what it had given: what comes again is no news, and acknowledged
    // only as far as it came.
    server.send("2 ok;epoch=e;next=19;head=19;lease=60\n").await;
    two.ack();
    server.expect_silence().await;
    server.send(offers([19])).await;
    server.expect("* /ack offers e:20\n").await;
    server.send(offers([20])).await;
    let three = next(&mut subscription).await;
    assert_eq!((three.sequence, client.stats().violations), (20, 1));
    three.ack();
    server.expect("* /ack offers e:21\n").await;
    server.send("* /reset offers f:1\n* offers 1 a\n").await;
    assert!(matches!(subscription.next().await, Some(Delivery::Reset { .. })));
    subscription.ack(at("e:21"));
    next(&mut subscription).await.ack();
    server.expect("* /ack offers f:2\n").await;
}

/// Of several readers the slowest one determines the ack; when it is dropped, the next one does. A
/// reader without a window is ignored.
#[tokio::test]
async fn the_slowest_of_several_readers_determines_the_ack() {
    let (client, mut server) = by_hand(PIPE, ClientConfig::new()).await;
    let line = "/subscribe;window=2 offers";
    let mut slow = begin(client.subscribe("offers").window(2), &mut server, line).await;
    let mut fast = client.subscribe("offers").window(2).await.unwrap();
    let mut idle = client.subscribe("offers").await.unwrap();
    for other in
        [client.subscribe("offers").window(3), client.subscribe("offers").slow(Slow::Close)]
    {
        let refused = other.await.unwrap_err();
        assert_eq!(refused, CallError::NotSent(NotSent::AlreadySubscribed));
    }
    server.send(offers(18..=19)).await;
    read(&mut fast, 18..=19).await;
    server.expect_silence().await;
    read(&mut slow, 18..=18).await;
    server.expect("* /ack offers e:19\n").await;
    drop(slow);
    server.expect("* /ack offers e:20\n").await;
    // One that joins later has handled what came before it.
    server.send(offers([20])).await;
    read(&mut fast, 20..=20).await;
    server.expect("* /ack offers e:21\n").await;
    let mut late = client.subscribe("offers").window(2).await.unwrap();
    server.send(offers(21..=22)).await;
    read(&mut late, 21..=22).await;
    server.expect_silence().await;
    read(&mut fast, 21..=22).await;
    server.expect("* /ack offers e:23\n").await;
    drop((fast, late));
    // No reader with a window is left, so receipt acknowledges.
    server.send(offers([23])).await;
    server.expect("* /ack offers e:24\n").await;
    read(&mut idle, 18..=23).await;
    drop(idle);
    server.expect("2 /unsubscribe offers\n").await;
}

/// A client that leaves before the reply, and subscribes again on other terms, gets another
/// subscription.
#[tokio::test]
async fn subscribing_on_other_terms_makes_another_subscription() {
    let (client, mut server) = by_hand(PIPE, ClientConfig::new()).await;
    {
        let mut asking = std::pin::pin!(client.subscribe("offers").into_future());
        assert!(futures::poll!(asking.as_mut()).is_pending());
    }
    let wish = client.subscribe("offers").window(7).into_future();
    let (subscription, ()) = tokio::join!(wish, async {
        server.expect("1 /subscribe offers\n").await;
        server.send("1 ok;epoch=e;next=18;head=17;lease=60\n").await;
        server.expect("2 /unsubscribe offers\n").await;
        server.send("2 ok;next=e:18\n").await;
        server.expect("3 /subscribe;window=7 offers\n").await;
        server.send("3 ok;epoch=e;next=18;head=17;lease=60\n").await;
    });
    drop(subscription.unwrap());
}

/// A server sends beyond the window and does not read. Acks do not accumulate, since there is at
/// most one per topic. The client's side of the threat. SECURITY.md, threat 17.
#[tokio::test]
async fn unwritten_acks_do_not_accumulate() {
    let (client, mut server) = by_hand(64, ClientConfig::new()).await;
    let wish = client.subscribe("offers").window(1);
    let mut subscription = begin(wish, &mut server, "/subscribe;window=1 offers").await;
    for number in 18..5_018 {
        server.send(offers([number])).await;
        read(&mut subscription, number..=number).await;
    }
    let (mut acks, mut last) = (0, 18);
    while last < 5_018 {
        let line = server.line().await.unwrap();
        let position = line.strip_prefix("* /ack offers e:").expect("an ack").trim_end();
        let position: u64 = position.parse().unwrap();
        assert!(position > last);
        (acks, last) = (acks + 1, position);
    }
    assert!(acks < 10, "{acks}");
}

/// [C18.2] After the `/bye` with `last` the client sends no request, but it sends acks: the last
/// messages of a log may be in flight.
#[tokio::test]
async fn deliveries_after_the_final_bye_are_acked() {
    let (client, mut server) = by_hand(PIPE, ClientConfig::new()).await;
    let wish = client.subscribe("offers").window(1);
    let mut subscription = begin(wish, &mut server, "/subscribe;window=1 offers").await;
    server.send(format!("* /bye;last=1 shutdown\n{}", offers([18]))).await;
    read(&mut subscription, 18..=18).await;
    server.expect("* /ack offers e:19\n").await;
    server.send(offers([19])).await;
    read(&mut subscription, 19..=19).await;
    server.expect("* /ack offers e:20\n").await;
    server.expect_silence().await;
}

fn client_of(server: &PipeServer) -> Client {
    let (client, connection) = Client::new(server.connect_raw(PIPE).io, ClientConfig::new());
    tokio::spawn(connection);
    client
}

/// A task that reads one notification at a time, with a window of one, gets every message.
#[tokio::test(start_paused = true)]
async fn a_window_of_one_does_not_stall_a_reader() {
    let server = serve(ServerConfig::new());
    let client = client_of(&server);
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let mut offers = client.subscribe("offers").window(1).await.unwrap();
    let reading = tokio::spawn(async move {
        while let Some(delivery) = offers.next().await {
            drop(sender.send(delivery));
        }
    });
    publish(&server, 1..=20).await;
    for number in 1..=20 {
        let delivery = seen.recv().await.unwrap();
        assert_eq!(delivery.into_notification().unwrap().sequence, number);
    }
    reading.abort();
}

/// The library's client with a window of 2, over hours: bursts and silences, and it misses nothing.
#[tokio::test(start_paused = true)]
async fn a_window_of_two_misses_nothing_for_hours() {
    let server = serve(ServerConfig::new());
    let client = client_of(&server);
    let mut subscription = client.subscribe("offers").window(2).await.unwrap();
    let mut random = fastrand::Rng::with_seed(9);
    let mut number = 0;
    for _ in 0..400 {
        let burst = random.u64(1..20);
        publish(&server, number + 1..=number + burst).await;
        read(&mut subscription, number + 1..=number + burst).await;
        number += burst;
        tokio::time::sleep(Duration::from_secs(random.u64(1..120))).await;
    }
    assert_eq!(client.stats().violations, 0);
    client.close().await.unwrap();
}

/// Three readers of one subscription, any window, manual acks in any order and automatic ones: all
/// readers get all messages, whichever is slow, and nothing gets stuck.
#[tokio::test(start_paused = true)]
async fn readers_progress_with_any_window_and_ack_order() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let window = random.u64(1..9);
        let server = serve(ServerConfig::new());
        let client = client_of(&server);
        let mut readers = Vec::new();
        for by_hand in [true, random.bool(), random.bool()] {
            let wish = client.subscribe("offers").window(window);
            let wish = if by_hand { wish.ack_by_hand() } else { wish };
            readers.push(tokio::spawn(drain(wish.await.unwrap(), by_hand, random.fork())));
        }
        publish(&server, 1..=300).await;
        for reader in readers {
            reader.await.unwrap();
        }
        assert_eq!(client.stats().violations, 0);
    }
}

/// Reads 300, and acknowledges in an order of its own.
async fn drain(mut subscription: Subscription, by_hand: bool, mut random: fastrand::Rng) {
    let mut held = Vec::new();
    for number in 1..=300 {
        let (mut waits, second) = (0, Duration::from_secs(1));
        let one = loop {
            match tokio::time::timeout(second, next(&mut subscription)).await {
                Ok(one) => break one,
                // The server waits for the notifications that a reader holds.
                Err(_) => held.drain(..).for_each(|one: Notification| one.ack()),
            }
            waits += 1;
            assert!(waits < 10, "{number} does not come");
        };
        assert_eq!(one.sequence, number);
        if by_hand {
            held.push(one);
        }
        while !held.is_empty() && random.bool() {
            held.swap_remove(random.usize(..held.len())).ack();
        }
        if random.u8(..8) == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Whatever the window, the policy and the retention, and however slow the reader: every number is
/// delivered or named, in order, also over an end for slowness that is resumed (order, no silent
/// loss, acks).
#[tokio::test(start_paused = true)]
async fn every_skipped_number_is_reported_under_any_policy() {
    let (mut skipped, mut closed) = (0, 0);
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let server = serve(ServerConfig::new().retained_messages(random.usize(1..9)));
        let client = client_of(&server);
        let slow = [Slow::Gap, Slow::Latest, Slow::Close][random.usize(..3)];
        let window = random.u64(1..6);
        let wish = || client.subscribe("offers").window(window).slow(slow);
        let mut subscription = wish().await.unwrap();
        let (mut published, mut expected) = (0, 1);
        while expected <= 200 {
            let burst = random.u64(..6).min(200 - published);
            publish(&server, published + 1..=published + burst).await;
            published += burst;
            for _ in 0..random.u64(..4) {
                let waits = Duration::from_millis(random.u64(..3));
                let Ok(delivery) = tokio::time::timeout(waits, subscription.next()).await else {
                    break;
                };
                let (first, last) = match delivery.expect("an end comes before the end") {
                    Delivery::Notification(one) => (one.sequence, one.sequence),
                    Delivery::Gap(Gap { first, last, cause, .. }) => {
                        skipped += u64::from(cause == GapCause::Server(Code::SLOW));
                        (first, last)
                    }
                    Delivery::End { reason, position, .. } => {
                        assert_eq!((reason, slow), (Code::SLOW, Slow::Close));
                        closed += 1;
                        subscription = wish().from(position.unwrap()).await.unwrap();
                        continue;
                    }
                    other => panic!("{other:?}"),
                };
                assert_eq!(first, expected, "seed {seed}");
                expected = last + 1;
            }
        }
        assert_eq!(client.stats().violations, 0);
    }
    assert!(skipped > 20 && closed > 20, "{skipped} {closed}");
}
