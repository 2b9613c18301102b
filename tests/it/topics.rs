//! The server over topic stores of one's own, and the life of a log.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bellwire::{
    Failure, PublishError, Published, Publisher, Router, Server, ServerConfig, Streamed, handler,
    protocol::{Code, Cursor, Epoch, MAX_NUMBER, Position, Topic, Window},
    server::{IntoReply, Next, Reply, RequestParts},
    topic::{BoxFuture, Read, Room, TopicReader, TopicStore, Unavailable},
};
use bellwire_testkit::{PipeServer, RawPeer};
use bytes::Bytes;
use tokio::{io::DuplexStream, sync::oneshot};

const HOUR: Duration = Duration::from_secs(3_600);

/// A slow reader gets its topics in turns.
#[tokio::test(start_paused = true)]
async fn a_busy_topic_does_not_starve_other_topics() {
    const LAST: u64 = 300;
    let config = ServerConfig::new().notification_mark(200);
    let server = PipeServer::with_config(Router::new(), config);
    let mut peer = server.connect_raw(256);
    peer.hello().await;
    for (id, topic) in [(1, "a"), (2, "b"), (3, "c")] {
        peer.send(format!("{id} /subscribe {topic}\n")).await;
        peer.attribute("epoch").await;
    }
    for _ in 0..LAST {
        for topic in ["a", "b"] {
            server.publisher.publish(topic, "x".repeat(40)).await.unwrap();
        }
    }
    server.publisher.publish("c", "x").await.unwrap();
    let (mut before, mut alone) = (String::new(), 0);
    for _ in 0..2 * LAST + 1 {
        let line = peer.line().await.unwrap();
        let topic = line.split(' ').nth(1).unwrap().to_owned();
        alone = if topic == before { alone + 1 } else { 1 };
        assert!(alone < 20, "{alone} of {topic} without one of the others");
        before = topic;
    }
}

/// [S13.6] `last` begins with the newest messages that are retained.
#[tokio::test(start_paused = true)]
async fn a_subscription_begins_with_the_last_messages() {
    let config = ServerConfig::new().retained_messages(3);
    let server = PipeServer::with_config(Router::new(), config);
    let mut peer = server.connect().await;
    let mut epoch = None;
    for n in 1..=5 {
        epoch = Some(server.publisher.publish("t", n.to_string()).await.unwrap().epoch);
    }
    let epoch = epoch.unwrap();
    for (id, last, next) in [(1, 1, 5), (3, 2, 4), (5, 3, 3), (7, 4, 3), (9, MAX_NUMBER, 3)] {
        peer.send(format!("{id} /subscribe;last={last} t\n")).await;
        peer.expect(format!("{id} ok;epoch={epoch};next={next};head=5;lease=60\n")).await;
        for n in next..=5 {
            peer.expect(format!("* t {n} {n}\n")).await;
        }
        let after = id + 1;
        peer.ask(format!("{after} /unsubscribe t\n"), format!("{after} ok;next={epoch}:6\n")).await;
    }
    peer.send("20 /subscribe;last=2 empty\n").await;
    peer.expect(format!("20 ok;epoch={epoch};next=1;head=0;lease=60\n")).await;
}

/// [S13.6] `last` is a number above 0, and excludes `from`.
#[tokio::test(start_paused = true)]
async fn a_bad_last_is_refused() {
    let server = PipeServer::with_config(Router::new(), ServerConfig::new());
    let mut peer = server.connect().await;
    let bad = ["last=0", "last=01", "last=x", "last=1;from=e:1", "from=e:1;last=1"];
    for (id, attributes) in (1..).zip(bad) {
        peer.send(format!("{id} /subscribe;{attributes} t\n")).await;
        let answer = peer.line().await.unwrap();
        assert!(answer.starts_with(&format!("{id} no bad-attribute")), "{attributes}: {answer}");
    }
}

/// A store whose every answer is a test's.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Steps>>);

#[derive(Default)]
struct Steps {
    appends: VecDeque<oneshot::Receiver<Result<Published, PublishError>>>,
    windows: VecDeque<Result<Window, Unavailable>>,
    reads: VecDeque<Result<Read, Unavailable>>,
    wakers: Vec<Waker>,
}

impl Script {
    /// The next message's acceptance, to be sent by the test.
    fn append(&self) -> oneshot::Sender<Result<Published, PublishError>> {
        let (accept, accepted) = oneshot::channel();
        self.0.lock().unwrap().appends.push_back(accepted);
        accept
    }

    fn does(&self, step: impl FnOnce(&mut Steps)) {
        let mut steps = self.0.lock().unwrap();
        step(&mut steps);
        let wakers = std::mem::take(&mut steps.wakers);
        drop(steps);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl TopicStore for Script {
    fn append(&self, _: &Topic, _: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        let accepted = self.0.lock().unwrap().appends.pop_front();
        let accepted = accepted.expect("an append the test foresaw");
        Box::pin(async {
            accepted.await.unwrap_or_else(|_| Err(PublishError::Unavailable(unavailable())))
        })
    }

    fn open(&self, _: &Topic) -> Box<dyn TopicReader> {
        Box::new(self.clone())
    }
}

impl TopicReader for Script {
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        let mut steps = self.0.lock().unwrap();
        match steps.windows.pop_front() {
            Some(window) => Poll::Ready(window),
            None => {
                steps.wakers.push(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cursor: Cursor,
        _: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        let mut steps = self.0.lock().unwrap();
        match steps.reads.pop_front() {
            Some(read) => {
                if let Ok(Read::Copied { last }) = read {
                    for number in cursor.position.next..=last {
                        out.extend(format!("* t {number}\n").bytes());
                    }
                }
                Poll::Ready(read)
            }
            None => {
                steps.wakers.push(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

fn unavailable() -> Unavailable {
    Unavailable("on purpose".into())
}

fn epoch(name: &str) -> Epoch {
    Epoch::new(name).unwrap()
}

fn window(name: &str) -> Window {
    Window { epoch: epoch(name), first: 1, next: 1 }
}

/// A connection to a server over such a store.
async fn scripted(config: ServerConfig) -> (Script, RawPeer<DuplexStream>) {
    let router = Router::new().method("echo", async |payload: Bytes| payload).method("add", add);
    scripted_with(router, config).await
}

async fn scripted_with(router: Router, config: ServerConfig) -> (Script, RawPeer<DuplexStream>) {
    let script = Script::default();
    let (listener, ours) = one::One::new();
    let server = Server::new(listener).config(config.allow_publish(true)).topics(script.clone());
    tokio::spawn(server.serve(router).into_future());
    let mut peer = RawPeer::new(ours);
    peer.hello().await;
    (script, peer)
}

mod one {
    use std::io;

    use bellwire::{Listener, server::PeerAddr};
    use tokio::io::DuplexStream;

    /// One connection, in memory.
    pub(crate) struct One(Option<DuplexStream>);

    impl One {
        pub(crate) fn new() -> (Self, DuplexStream) {
            let (ours, theirs) = tokio::io::duplex(bellwire_testkit::PIPE);
            (Self(Some(theirs)), ours)
        }
    }

    impl Listener for One {
        type Io = DuplexStream;

        async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
            match self.0.take() {
                Some(io) => Ok((io, PeerAddr::Other("one".into()))),
                None => std::future::pending().await,
            }
        }

        fn local_addr(&self) -> io::Result<PeerAddr> {
            Ok(PeerAddr::Other("one".into()))
        }
    }
}

#[tokio::test]
async fn a_waiting_append_delays_no_other_and_a_failed_one_may_have_run() {
    let (store, mut peer) = scripted(ServerConfig::new()).await;
    let accepts = [store.append(), store.append(), store.append(), store.append()];
    peer.send("1 /publish t a\n2 /publish t b\n3 /publish t c\n4 /publish t d\n5 echo e\n").await;
    peer.expect("5 ok e\n").await;
    let [first, second, third, fourth] = accepts;
    second.send(Ok(Published::new(epoch("e"), 2))).unwrap();
    peer.expect("2 ok;epoch=e;seq=2\n").await;
    first.send(Err(PublishError::Unavailable(unavailable()))).unwrap();
    peer.expect("1 cut lost\n").await;
    third.send(Err(PublishError::TooMany)).unwrap();
    peer.expect("3 no too-many\n").await;
    fourth.send(Err(PublishError::Busy(unavailable()))).unwrap();
    peer.expect("4 no busy\n").await;
}

#[tokio::test]
async fn a_publish_takes_an_in_flight_place_and_is_not_cancelled() {
    let (store, mut peer) = scripted(ServerConfig::new().in_flight(1)).await;
    let accept = store.append();
    peer.send("1 /publish t a\n* /cancel 1\n2 /renew\n3 echo b\n").await;
    peer.expect("2 ok;lease=60\n").await;
    peer.expect_silence().await;
    accept.send(Ok(Published::new(epoch("e"), 1))).unwrap();
    peer.expect("1 ok;epoch=e;seq=1\n3 ok b\n").await;
}

#[tokio::test]
async fn a_store_panic_counts_as_a_handler_panic() {
    let (_store, mut peer) = scripted(ServerConfig::new()).await;
    peer.ask("1 /publish t unforeseen\n2 echo a\n", "1 err internal\n2 ok a\n").await;
}

#[tokio::test]
async fn protocol_requests_behind_a_subscribe_wait_for_the_store() {
    let (store, mut peer) = scripted(ServerConfig::new()).await;
    peer.send("1 /subscribe t\n2 /renew\n3 echo a\n").await;
    peer.expect("3 ok a\n").await;
    peer.expect_silence().await;
    store.does(|steps| steps.windows.push_back(Ok(window("e"))));
    peer.expect("1 ok;epoch=e;next=1;head=0;lease=60\n2 ok;lease=60 t:e:1\n").await;
    peer.send("4 /subscribe u\n").await;
    peer.expect_silence().await;
    store.does(|steps| steps.windows.push_back(Err(unavailable())));
    peer.expect("4 no busy\n").await;
}

#[tokio::test]
async fn a_subscription_continues_in_the_new_epoch_after_a_reset() {
    let (store, mut peer) = scripted(ServerConfig::new()).await;
    store.does(|steps| {
        steps.windows.push_back(Ok(window("e")));
        let reset = Read::Reset(Position { epoch: epoch("f"), next: 1 });
        steps.reads.extend([Ok(Read::Copied { last: 2 }), Ok(reset), Ok(Read::Copied { last: 1 })]);
    });
    peer.send("1 /subscribe t\n").await;
    peer.expect("1 ok;epoch=e;next=1;head=0;lease=60\n* t 1\n* t 2\n* /reset t f:1\n* t 1\n").await;
    peer.ask("2 /unsubscribe t\n", "2 ok;next=f:2\n").await;
}

#[tokio::test]
async fn a_failing_or_stalled_log_ends_its_subscription() {
    let (store, mut peer) = scripted(ServerConfig::new()).await;
    let reads = [
        Err(unavailable()),
        Ok(Read::Copied { last: 0 }),
        Ok(Read::Gap { last: 0, reason: Code::RETENTION }),
        Ok(Read::Reset(Position { epoch: epoch("e"), next: 1 })),
    ];
    for (id, read) in (1..).zip(reads) {
        store.does(|steps| steps.windows.push_back(Ok(window("e"))));
        peer.ask(
            format!("{id} /subscribe t\n"),
            format!("{id} ok;epoch=e;next=1;head=0;lease=60\n"),
        )
        .await;
        store.does(|steps| steps.reads.extend(vec![read; 1_000]));
        loop {
            let line = peer.line().await.unwrap();
            if line == "* /end t closed e:1\n" {
                break;
            }
            assert_eq!(line, "* /reset t e:1\n");
        }
        store.does(|steps| steps.reads.clear());
    }
    peer.ask("99 /renew\n", "99 ok;lease=60\n").await;
}

#[tokio::test]
async fn publishing_beyond_the_topic_limit_is_refused() {
    let config = ServerConfig::new().allow_publish(true).topics(1);
    let server = PipeServer::with_config(Router::new(), config);
    let mut peer = server.connect().await;
    peer.send("1 /subscribe a\n2 /subscribe b\n3 /publish a x\n4 /publish b x\n5 /renew\n").await;
    let epoch = peer.attribute("epoch").await;
    peer.attribute("epoch").await;
    peer.expect(format!("3 ok;epoch={epoch};seq=1\n4 no too-many\n")).await;
    assert_eq!(server.publisher.publish("b", "x").await, Err(PublishError::TooMany));
    assert_eq!(server.publisher.publish("a", "y").await.unwrap().sequence, 2);
}

/// [S13.5] With as many logs as there may be, a topic without one takes no subscriber, because
/// nothing could be published to it; those that have one do, and so does any once there is room.
#[tokio::test]
async fn subscribing_beyond_the_topic_limit_is_refused() {
    let config = ServerConfig::new().topics(2).allow_publish(true);
    let server = PipeServer::with_config(Router::new(), config);
    let mut peer = server.connect().await;
    peer.send("1 /subscribe early\n").await;
    let epoch = peer.attribute("epoch").await;
    for topic in ["a", "b"] {
        server.publisher.publish(topic, "x").await.unwrap();
    }
    peer.ask("2 /subscribe c\n", "2 no busy too many topics\n").await;
    peer.ask(format!("3 /subscribe;from={epoch}:1 c\n"), "3 no busy too many topics\n").await;
    peer.ask("4 /publish c x\n", "4 no too-many\n").await;
    peer.send("5 /subscribe a\n").await;
    assert_eq!(peer.attribute("head").await, "1");
    peer.ask("6 /renew\n", format!("6 ok;lease=60 early:{epoch}:1 a:{epoch}:2\n")).await;
    server.publisher.close("b").await.unwrap();
    peer.send("7 /subscribe c\n").await;
    assert_eq!(peer.attribute("head").await, "0");
    server.publisher.publish("c", "x").await.unwrap();
    peer.expect("* c 1 x\n").await;
}

/// Publishes, answers with the number, and says where that is to be seen.
async fn add(publisher: Publisher, payload: Bytes) -> Reply {
    let published = publisher.publish("t", payload).await.unwrap();
    Reply::ok(published.sequence.to_string()).after("t", published)
}

/// Subscribes to `t` as request `id`; the epoch.
async fn subscribe(peer: &mut RawPeer<DuplexStream>, id: u32) -> String {
    peer.send(format!("{id} /subscribe t\n")).await;
    peer.attribute("epoch").await
}

/// [S17.1] [S17.2] A handler names the position of its effect, and a client that subscribes to the
/// topic gets it.
#[tokio::test(start_paused = true)]
async fn an_ok_names_its_effect_for_subscribers() {
    let later = async |publisher: Publisher, payload: Bytes| {
        tokio::task::yield_now().await;
        add(publisher, payload).await
    };
    let server = PipeServer::start(Router::new().method("add", add).method("later", later));
    let mut peer = server.connect().await;
    peer.ask("1 add a\n", "1 ok 1\n").await;
    let e = subscribe(&mut peer, 2).await;
    peer.ask("3 add b\n", format!("3 ok;after=t:{e}:3 2\n* t 2 b\n")).await;
    // A one-way request has no reply, and another topic is not named.
    peer.ask("* add c\n", "* t 3 c\n").await;
    peer.ask("4 /unsubscribe t\n", format!("4 ok;next={e}:4\n")).await;
    peer.send("5 /subscribe u\n").await;
    peer.attribute("epoch").await;
    peer.ask("6 add d\n", "6 ok 4\n").await;
    subscribe(&mut peer, 7).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    peer.line().await;
    peer.expect(format!("* /end t expired {e}:5\n")).await;
    peer.ask("8 add e\n", "8 ok 5\n").await;
    // It ends while the handler runs.
    subscribe(&mut peer, 9).await;
    peer.ask("10 later f\n11 /quit\n", "10 ok 6\n11 ok\n").await;
    peer.expect_closed().await;
}

/// What the handlers here say was published.
fn seventh() -> Published {
    Published::new(epoch("e"), 7)
}

/// Only the `ok` of a reply of one line has an effect to wait for, in every mode of handler.
#[tokio::test]
async fn only_a_plain_ok_names_its_effect() {
    fn after(reply: impl IntoReply) -> Reply {
        reply.into_reply().after("t", seventh())
    }
    let router = Router::new()
        .method("fails", async || after(Reply::err(Failure::new(Code::INTERNAL, ""))))
        .method("stream", async || after(Streamed(futures::stream::iter(["a", "b"]))))
        .method("items", async || Streamed(futures::stream::iter(["a", "b"].map(after))))
        .method("spawned", handler(async || after("a")).spawned())
        .method("twice", async || {
            let first = Published::new(epoch("e"), 1);
            after(Reply::ok("").after("no topic", first).after("t", first))
        })
        .method("nowhere", async || Reply::ok("").after("no topic", seventh()))
        .layer(|_: &RequestParts<'_>, next: Next<'_>| next.run());
    let (store, mut peer) = scripted_with(router, ServerConfig::new()).await;
    store.does(|steps| {
        steps.windows.push_back(Ok(Window { epoch: epoch("e"), first: 1, next: 8 }));
    });
    subscribe(&mut peer, 1).await;
    peer.ask("2 fails\n", "2 err internal\n").await;
    for (id, method) in [(3, "stream"), (4, "items")] {
        let items = format!("{id} more a\n{id} more b\n{id} ok\n");
        peer.ask(format!("{id} {method}\n"), items).await;
    }
    peer.ask("5 spawned\n", "5 ok;after=t:e:8 a\n").await;
    peer.ask("6 twice\n7 nowhere\n", "6 ok;after=t:e:8\n7 ok\n").await;
}

/// [S17.1] The reply names no position in a log that is not the subscribed one, and none at the
/// greatest number.
#[tokio::test]
async fn an_effect_in_another_epoch_has_no_position() {
    let (store, mut peer) = scripted(ServerConfig::new()).await;
    store.does(|steps| steps.windows.push_back(Ok(window("e"))));
    subscribe(&mut peer, 1).await;
    let last = MAX_NUMBER - 1;
    for (id, (log, number), after) in [
        (2, ("e", 1), ";after=t:e:2"),
        (3, ("f", 1), ""),
        (4, ("e", last), ";after=t:e:9007199254740991"),
        (5, ("e", MAX_NUMBER), ""),
    ] {
        let accept = store.append();
        accept.send(Ok(Published::new(epoch(log), number))).unwrap();
        peer.ask(format!("{id} add x\n"), format!("{id} ok{after} {number}\n")).await;
    }
    let reset = Read::Reset(Position { epoch: epoch("f"), next: 1 });
    store.does(|steps| steps.reads.push_back(Ok(reset)));
    peer.expect("* /reset t f:1\n").await;
    for (id, log, after) in [(6, "e", ""), (7, "f", ";after=t:f:4")] {
        let accept = store.append();
        accept.send(Ok(Published::new(epoch(log), 3))).unwrap();
        peer.ask(format!("{id} add x\n"), format!("{id} ok{after} 3\n")).await;
    }
}

/// [S3.8] The attribute counts like every other part of a line.
#[tokio::test]
async fn the_after_attribute_counts_against_the_line_limit() {
    let fill = async |publisher: Publisher, length: String| {
        let published = publisher.publish("t", "x").await.unwrap();
        Reply::ok(vec![b'.'; length.parse().unwrap()]).after("t", published)
    };
    let server = PipeServer::start(Router::new().method("fill", fill));
    let mut peer = server.connect().await;
    peer.ask("1 /hello;version=1;max-line=1024\n", "1 ok;version=1\n").await;
    let e = subscribe(&mut peer, 2).await;
    let room = 1_024 - format!("3 ok;after=t:{e}:2 \n").len();
    peer.send(format!("3 fill {room}\n")).await;
    assert_eq!(peer.line().await.unwrap().len(), 1_024);
    peer.expect("* t 1 x\n").await;
    let too_large = "4 err too-large max-line is 1024\n* t 2 x\n";
    peer.ask(format!("4 fill {}\n", room + 1), too_large).await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_keeps_counting_after_its_idle_log_is_dropped() {
    let config = ServerConfig::new().idle_log(Duration::from_secs(60)).lease(HOUR).idle(None);
    let server = PipeServer::with_config(Router::new(), config);
    let first = server.publisher.publish("t", "first").await.unwrap();
    let listened = server.publisher.publish("u", "first").await.unwrap();
    let mut peer = server.connect().await;
    peer.send("1 /subscribe u\n").await;
    peer.attribute("epoch").await;

    tokio::time::sleep(Duration::from_secs(60)).await;
    let second = server.publisher.publish("t", "second").await.unwrap();
    assert_eq!((second.epoch, second.sequence), (first.epoch, 2), "not before its time");
    tokio::time::sleep(Duration::from_secs(91)).await;
    assert_eq!(server.handle.stats().topics, 1);
    let third = server.publisher.publish("t", "third").await.unwrap();
    assert_eq!((third.epoch, third.sequence), (first.epoch, 3));
    let heard = server.publisher.publish("u", "second").await.unwrap();
    assert_eq!((heard.epoch, heard.sequence), (listened.epoch, 2), "it has a subscriber");
    peer.expect("* u 2 second\n").await;

    let epoch = first.epoch;
    peer.send(format!("2 /subscribe;from={epoch}:2 t\n")).await;
    peer.expect(format!("2 ok;epoch={epoch};next=2;head=3;lease=3600\n")).await;
    peer.expect(format!("* /gap t {epoch} 2 2 retention\n* t 3 third\n")).await;
}
