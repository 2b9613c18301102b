//! Notifications across server restarts and failovers, idle logs, closed topics, and long lists.

use std::{
    future::ready,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bellwire::{
    AfterReset, CallError, Client, ClientConfig, ConnectionEvent, Connector, Delivery, Gap,
    GapCause, NotSent, PublishError, Router, ServerConfig, Subscribe, Subscription,
    protocol::{Code, Position},
    server::{Action, Principal, Verdict},
};
use bellwire_testkit::{
    PipeServer, RawPeer,
    dialogue::Peer,
    net::{self, connected, next, number, settle},
};
use tokio::{
    io::DuplexStream,
    time::{sleep, timeout},
};

const SECOND: Duration = Duration::from_secs(1);

/// The server that a client finds when it connects, if there is one.
#[derive(Clone, Default)]
struct Dock(Arc<Mutex<Option<PipeServer>>>);

impl Dock {
    fn with(server: PipeServer) -> Self {
        Self(Arc::new(Mutex::new(Some(server))))
    }

    fn put(&self, server: PipeServer) {
        *self.0.lock().unwrap() = Some(server);
    }

    /// The server goes on, but clients cannot reach it.
    fn take(&self) -> PipeServer {
        self.0.lock().unwrap().take().unwrap()
    }

    fn server<R>(&self, what: impl FnOnce(&PipeServer) -> R) -> R {
        what(self.0.lock().unwrap().as_ref().unwrap())
    }

    fn connector(&self) -> impl Connector<Io = DuplexStream> + use<> {
        let dock = self.clone();
        move |_: &str| {
            let pipe = dock.0.lock().unwrap().as_ref().map(PipeServer::pipe);
            ready(pipe.ok_or(io::ErrorKind::ConnectionRefused.into()))
        }
    }

    async fn client(&self) -> Client {
        self.client_with(ClientConfig::new()).await
    }

    async fn client_with(&self, config: ClientConfig) -> Client {
        let builder = Client::builder().address("dock").connector(self.connector());
        let client = builder.config(config).connect_lazily();
        client.connected().await.unwrap();
        client
    }

    /// Ends the connections that there are.
    fn cut(&self) {
        self.server(cut);
    }

    async fn publish(&self, topic: &str, payload: &str) {
        let publisher = self.server(|server| server.publisher.clone());
        publisher.publish(topic, payload.to_owned()).await.unwrap();
    }
}

fn cut(server: &PipeServer) {
    let sessions = server.handle.sessions();
    sessions.iter().for_each(|session| session.close(Code::from_static("test")));
}

fn at(text: &str) -> Position {
    text.parse().unwrap()
}

/// What a subscription reads is numbered like this, from here on.
async fn reads(subscription: &mut Subscription, numbers: impl IntoIterator<Item = u64>) {
    for expected in numbers {
        assert_eq!(number(subscription).await, expected);
    }
}

fn forgetful() -> PipeServer {
    PipeServer::with_config(Router::new(), ServerConfig::new().idle_log(SECOND))
}

// A log that was not written.

/// [S4.3] Whether the subscriber is connected while logs are dropped or returns afterwards, and for
/// every start position.
#[tokio::test(start_paused = true)]
async fn a_topic_without_messages_resumes_without_a_loss() {
    for is_away in [false, true] {
        let dock = Dock::with(forgetful());
        let client = dock.client().await;
        let mut quiet = [
            client.subscribe("quiet.a").fail_on_loss().await.unwrap(),
            client.subscribe("quiet.b").window(2).fail_on_loss().await.unwrap(),
            client.subscribe("quiet.c").after_reset(AfterReset::Head).fail_on_loss().await.unwrap(),
        ];
        for round in 0..3 {
            dock.publish("other", "x").await;
            if is_away {
                let server = dock.take();
                cut(&server);
                sleep(10 * SECOND).await;
                dock.put(server);
            } else {
                sleep(10 * SECOND).await;
                dock.cut();
            }
            assert_eq!(dock.server(|server| server.handle.stats().topics), 0, "{round}");
            client.call("none", "").await.unwrap_err();
        }
        for (subscription, topic) in quiet.iter_mut().zip(["quiet.a", "quiet.b", "quiet.c"]) {
            dock.publish(topic, "x").await;
            reads(subscription, [1]).await;
        }
    }
}

/// A log that was dropped continues with its next number. A subscriber that had all messages has
/// lost none, and others get a gap with the lost ones.
#[tokio::test(start_paused = true)]
async fn a_dropped_log_continues_its_numbers() {
    let dock = Dock::with(forgetful());
    let client = dock.client().await;
    let mut all = client.subscribe("t").fail_on_loss().await.unwrap();
    let other = dock.client().await;
    let mut some = other.subscribe("t").await.unwrap();
    for payload in ["a", "b", "c"] {
        dock.publish("t", payload).await;
    }
    reads(&mut all, 1..=3).await;
    reads(&mut some, 1..=3).await;
    let from = Position { next: 2, ..some.position() };
    drop(some);
    let server = dock.take();
    cut(&server);
    sleep(10 * SECOND).await;
    assert_eq!(server.handle.stats().topics, 0);
    dock.put(server);
    client.call("none", "").await.unwrap_err();
    let mut late = other.subscribe("t").from(from).await.unwrap();
    match next(&mut late).await {
        Delivery::Gap(Gap { epoch, first: 2, last: 3, .. }) => assert_eq!(epoch, from.epoch),
        other => panic!("{other:?}"),
    }
    dock.publish("t", "d").await;
    reads(&mut all, [4]).await;
    reads(&mut late, [4]).await;
    assert_eq!(late.position().epoch, from.epoch);
}

/// The client cannot know what was published to the log of another server.
#[tokio::test(start_paused = true)]
async fn a_log_of_another_server_is_a_loss_even_if_unread() {
    let dock = Dock::with(forgetful());
    let client = dock.client().await;
    let mut quiet = client.subscribe("quiet").await.unwrap();
    drop(dock.take());
    dock.put(forgetful());
    let delivery = next(&mut quiet).await;
    assert!(matches!(delivery, Delivery::Reset { position, .. } if position.next == 1));
}

// An authorizer that cannot decide.

/// [S19.10] [C4.7] The subscription is resumed later, and has missed nothing.
#[tokio::test(start_paused = true)]
async fn a_subscription_survives_an_undecided_authorizer() {
    for kind in ["panic", "panic-later", "never", "unavailable", "unavailable-later"] {
        let asked = Arc::new(AtomicU64::new(0));
        let counting = asked.clone();
        let authorizer = move |_: &Principal, action: Action<'_>| {
            if !matches!(action, Action::Subscribe(_)) || counting.fetch_add(1, SeqCst) != 1 {
                return Verdict::Allow;
            }
            let unavailable = || Verdict::Unavailable { retry: Some(5 * SECOND) };
            match kind {
                "panic" => panic!("as it is told to"),
                "panic-later" => Verdict::later(async { panic!("as it is told to") }),
                "never" => Verdict::later(std::future::pending()),
                "unavailable" => unavailable(),
                _ => Verdict::ask(async move { Verdict::ask(async move { unavailable() }) }),
            }
        };
        let dock =
            Dock::with(PipeServer::built(Router::new(), |server| server.authorizer(authorizer)));
        let client = dock.client().await;
        let mut subscription = client.subscribe("t").fail_on_loss().await.unwrap();
        dock.cut();
        dock.publish("t", "a").await;
        reads(&mut subscription, [1]).await;
        assert_eq!(asked.load(SeqCst), 3, "{kind}");
    }
}

/// A first subscriber gets the refusal with its retry hint.
#[tokio::test(start_paused = true)]
async fn a_first_subscribe_fails_if_the_authorizer_is_undecided() {
    let unavailable = |_: &Principal, _: Action<'_>| Verdict::Unavailable { retry: Some(SECOND) };
    let server = PipeServer::built(Router::new(), |server| server.authorizer(unavailable));
    let client = Dock::with(server).client().await;
    match client.subscribe("t").await {
        Err(CallError::Refused { reason, retry: Some(SECOND) }) => {
            assert_eq!(reason.code, Code::BUSY);
        }
        other => panic!("{other:?}"),
    }
}

// Another server's log.

/// A server whose topic has had messages before anybody came.
async fn in_use(messages: u64) -> PipeServer {
    let server = PipeServer::start(Router::new());
    for _ in 0..messages {
        server.publisher.publish("offers", "old").await.unwrap();
    }
    server
}

/// Where a subscription to `offers` goes on after a failover to a server in use.
async fn failed_over(asks: impl FnOnce(Subscribe) -> Subscribe) -> (Dock, Client, Subscription) {
    let dock = Dock::with(in_use(3).await);
    let client = dock.client().await;
    let mut offers = asks(client.subscribe("offers")).await.unwrap();
    dock.publish("offers", "new").await;
    reads(&mut offers, [4]).await;
    drop(dock.take());
    dock.put(in_use(500).await);
    (dock, client, offers)
}

#[tokio::test(start_paused = true)]
async fn another_log_begins_at_its_start_by_default() {
    for go_on in [None, Some(AfterReset::Start)] {
        let asks = |offers: Subscribe| match go_on {
            Some(go_on) => offers.after_reset(go_on),
            None => offers,
        };
        let (_dock, _client, mut offers) = failed_over(asks).await;
        assert!(matches!(next(&mut offers).await,
            Delivery::Reset { position, .. } if position.next == 1));
        reads(&mut offers, 1..=500).await;
    }
}

/// Every stream of the topic gets the same, with and without acks, and nothing of the old log.
#[tokio::test(start_paused = true)]
async fn another_log_begins_at_its_head_on_request() {
    for window in [None, Some(4)] {
        let asks = |offers: Subscribe| {
            let offers = offers.after_reset(AfterReset::Head);
            window.into_iter().fold(offers, Subscribe::window)
        };
        let (dock, client, mut offers) = failed_over(asks).await;
        let mut all = client.notifications();
        let mut shared = client.subscribe("offers").into_future();
        let Delivery::Reset { position, .. } = next(&mut offers).await else { panic!() };
        assert_eq!((position.next, offers.position()), (501, position));
        let mut shared = timeout(60 * SECOND, &mut shared).await.unwrap().unwrap();
        for _ in 0..20 {
            dock.publish("offers", "new").await;
        }
        reads(&mut offers, 501..=520).await;
        reads(&mut shared, 501..=520).await;
        assert!(offers.seen(Position { next: 521, ..position }).await);
        let told = all.next().await.unwrap();
        assert!(matches!(told, Delivery::Reset { position: told, .. } if told == position));
        let after_reset = client.subscribe("offers").after_reset(AfterReset::Start);
        let refused = after_reset.await.unwrap_err();
        assert_eq!(refused, CallError::NotSent(NotSent::AlreadySubscribed));
    }
}

const RESUMED: &str = "ok;epoch=f;next=1;head=500;lease=60\n* offers 1 old\n* offers 2 old";

/// A client that had 18 and 19 of `e`, asks for the head after a reset, and is on its next connection.
async fn resuming() -> (Client, Subscription, Peer, net::Net) {
    let (client, mut server, mut net) = connected().await;
    let offers = client.subscribe("offers").after_reset(AfterReset::Head);
    let subscribing = tokio::spawn(offers.into_future());
    server.expect("1 /subscribe offers").await;
    server.send("1 ok;epoch=e;next=18;head=17;lease=60\n* offers 18 a\n* offers 19 b").await;
    let mut offers = subscribing.await.unwrap().unwrap();
    reads(&mut offers, [18, 19]).await;
    drop(server);
    let mut server = net.greet().await;
    server.expect("2 /subscribe;from=e:20 offers").await;
    (client, offers, server, net)
}

/// [C14.1] The client unsubscribes and subscribes again without a position. Notifications that
/// arrive meanwhile are ignored.
#[tokio::test(start_paused = true)]
async fn the_head_is_requested_by_a_second_subscribe() {
    let (client, mut offers, mut server, mut net) = resuming().await;
    server.send(&format!("2 {RESUMED}")).await;
    server.expect("3 /unsubscribe offers").await;
    server.send("* offers 3 old\n* /gap offers f 4 9 retention\n3 ok;next=f:10").await;
    server.expect("4 /subscribe offers").await;
    server.send("4 ok;epoch=f;next=501;head=500;lease=60\n* offers 501 new").await;
    let reset = next(&mut offers).await;
    assert!(matches!(reset, Delivery::Reset { position, .. } if position == at("f:501")));
    reads(&mut offers, [501]).await;
    // The first log is known: it goes on where it was left.
    drop(server);
    let mut server = net.greet().await;
    server.expect("5 /subscribe;from=f:502 offers").await;
    server.send("5 ok;epoch=e;next=1;head=25;lease=60\n* offers 1 old").await;
    server.expect("6 /unsubscribe offers").await;
    server.send("6 ok;next=e:2").await;
    server.expect("7 /subscribe;from=e:20 offers").await;
    server.send("7 ok;epoch=e;next=20;head=25;lease=60\n* offers 20 c").await;
    let reset = next(&mut offers).await;
    assert!(matches!(reset, Delivery::Reset { position, .. } if position == at("e:20")));
    reads(&mut offers, [20]).await;
    assert_eq!(client.stats().violations, 0);
}

/// Until the application has got the reset, the stream keeps its old position.
#[tokio::test(start_paused = true)]
async fn a_connection_lost_while_going_to_the_head_starts_over() {
    for lost_after in 0..3 {
        let (_client, mut offers, mut server, mut net) = resuming().await;
        server.send(&format!("2 {RESUMED}")).await;
        server.expect("3 /unsubscribe offers").await;
        if lost_after > 0 {
            server.send("3 ok;next=f:3").await;
            server.expect("4 /subscribe offers").await;
        }
        if lost_after > 1 {
            server.send("4 no busy").await;
            settle().await;
        }
        assert_eq!(offers.position(), at("e:20"));
        drop(server);
        let mut server = net.greet().await;
        let line = server.line().await;
        assert!(line.ends_with(" /subscribe;from=e:20 offers"), "{line}");
        let id = line.split(' ').next().unwrap();
        server.send(&format!("{id} ok;epoch=e;next=20;head=20;lease=60\n* offers 20 c")).await;
        reads(&mut offers, [20]).await;
    }
}

/// A log that changes during a live subscription counts as the log of another server, too.
#[tokio::test(start_paused = true)]
async fn a_reset_notice_goes_to_the_head_as_well() {
    let (client, mut server, _net) = connected().await;
    let offers = client.subscribe("offers").window(2).after_reset(AfterReset::Head);
    let subscribing = tokio::spawn(offers.into_future());
    server.expect("1 /subscribe;window=2 offers").await;
    server.send("1 ok;epoch=e;next=18;head=17;lease=60\n* /reset offers f:1\n* offers 1 x").await;
    let mut offers = subscribing.await.unwrap().unwrap();
    server.expect("2 /unsubscribe offers").await;
    server.send("2 ok;next=f:2").await;
    server.expect("3 /subscribe;window=2 offers").await;
    server.send("3 ok;epoch=f;next=8;head=7;lease=60\n* offers 8 x\n* offers 9 x").await;
    let reset = next(&mut offers).await;
    assert!(matches!(reset, Delivery::Reset { position, .. } if position == at("f:8")));
    reads(&mut offers, [8]).await;
    server.expect("* /ack offers f:9").await;
    reads(&mut offers, [9]).await;
    server.expect("* /ack offers f:10").await;
    // A stream that leaves meanwhile does not come back.
    server.send("* /reset offers g:1").await;
    server.expect("4 /unsubscribe offers").await;
    drop(offers);
    server.send("4 ok;next=g:1").await;
    server.expect_silence().await;
}

// What a server that stops has not delivered.

/// [C4.3] The next server has another log. The numbers that the first server reported as
/// undelivered come before the reset.
#[tokio::test(start_paused = true)]
async fn gaps_of_a_stopped_server_precede_the_reset_to_another_log() {
    for is_gone in [true, false] {
        let (client, mut server, mut net) = connected().await;
        let mut offers = net::subscribed(&client, &mut server, 1).await;
        server.send("* offers 18 a\n* /bye;last=1 shutdown").await;
        reads(&mut offers, [18]).await;
        server.send("* /end;head=25 offers shutdown e:19").await;
        drop(server);
        let mut server = net.greet().await;
        server.expect("2 /subscribe;from=e:19 offers").await;
        let epoch = if is_gone { "f;next=1;head=0" } else { "e;next=19;head=25" };
        server.send(&format!("2 ok;epoch={epoch};lease=60")).await;
        if is_gone {
            let Delivery::Gap(gap) = next(&mut offers).await else { panic!() };
            let cause = GapCause::Server(Code::SHUTDOWN);
            assert_eq!((gap.first, gap.last, gap.cause), (19, 25, cause));
            assert!(matches!(next(&mut offers).await, Delivery::Reset { .. }));
            assert_eq!((client.stats().gaps, client.stats().missed), (1, 7));
        } else {
            server.send("* offers 19 b").await;
            reads(&mut offers, [19]).await;
        }
    }
}

// A topic that is over.

#[tokio::test(start_paused = true)]
async fn a_closed_topic_is_read_to_its_end() {
    let dock = Dock::with(PipeServer::with_config(Router::new(), ServerConfig::new().topics(1)));
    let publisher = dock.server(|server| server.publisher.clone());
    let client = dock.client().await;
    let mut job = client.subscribe("jobs.1").await.unwrap();
    let mut silent = client.subscribe("jobs.2").await.unwrap();
    publisher.publish("jobs.1", "a").await.unwrap();
    publisher.publish("jobs.1", "b").await.unwrap();
    assert_eq!(publisher.publish("jobs.2", "a").await, Err(PublishError::TooMany));
    let end = publisher.close("jobs.1").await.unwrap().unwrap();
    assert_eq!(publisher.close("jobs.2").await, Ok(None));
    reads(&mut job, [1, 2]).await;
    for (subscription, number) in [(&mut job, 3), (&mut silent, 1)] {
        match next(subscription).await {
            Delivery::End { reason, position: Some(position), .. } => {
                assert_eq!((reason, position.next), (Code::CLOSED, number));
                assert!(number == 1 || position == end);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(subscription.next().await, None);
    }
    // Its place is free, and its name too.
    let again = publisher.publish("jobs.1", "c").await.unwrap();
    assert!(again.epoch != end.epoch && again.sequence == 1);
    assert_eq!(publisher.close("no topic").await, Err(PublishError::InvalidTopic));
}

/// One topic per job, and many more jobs than the limit on topics.
#[tokio::test(start_paused = true)]
async fn closed_topics_make_room_for_others() {
    let server = PipeServer::with_config(Router::new(), ServerConfig::new().topics(4));
    for n in 0..1_000 {
        let topic = format!("jobs.{n}");
        server.publisher.publish(&*topic, "done").await.unwrap();
        server.publisher.close(&*topic).await.unwrap();
    }
    let stats = server.handle.stats();
    assert_eq!((stats.topics, stats.retained_bytes), (0, 0));
}

/// With a full window the end comes after the ack.
#[tokio::test(start_paused = true)]
async fn a_closed_topic_waits_for_acks() {
    let server = PipeServer::start(Router::new());
    let mut peer = server.connect().await;
    peer.send("1 /subscribe;window=1 t\n").await;
    let epoch = peer.attribute("epoch").await;
    server.publisher.publish("t", "a").await.unwrap();
    server.publisher.publish("t", "b").await.unwrap();
    server.publisher.close("t").await.unwrap();
    peer.expect("* t 1 a\n").await;
    peer.expect_silence().await;
    peer.ask(format!("* /ack t {epoch}:2\n"), "* t 2 b\n").await;
    peer.ask(format!("* /ack t {epoch}:3\n"), format!("* /end t closed {epoch}:3\n")).await;
    peer.ask("2 /renew\n", "2 ok;lease=60\n").await;
}

/// A custom store need not support closing a topic.
#[tokio::test]
async fn a_store_without_close_support_returns_an_error() {
    use bellwire::topic::{BoxFuture, MemoryTopics, TopicReader, TopicStore};
    struct Own(MemoryTopics);
    impl TopicStore for Own {
        fn append(
            &self,
            topic: &bellwire::protocol::Topic,
            payload: bytes::Bytes,
        ) -> BoxFuture<Result<bellwire::Published, PublishError>> {
            self.0.append(topic, payload)
        }
        fn open(&self, topic: &bellwire::protocol::Topic) -> Box<dyn TopicReader> {
            self.0.open(topic)
        }
    }
    let own = Own(MemoryTopics::new(&bellwire::Random::seeded(1)));
    let server = PipeServer::over(own, Router::new(), ServerConfig::new());
    server.publisher.publish("t", "a").await.unwrap();
    let closed = server.publisher.close("t").await;
    assert!(matches!(closed, Err(PublishError::Unavailable(_))), "{closed:?}");
}

// Lists that are longer than a line.

/// `count` names of 128 bytes.
fn long_names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{n:05}.{}", "t".repeat(122))).collect()
}

/// Where the pages of a reply to `/renew` say that topics stand, and its last line.
async fn pages(peer: &mut RawPeer<DuplexStream>, id: u64) -> (Vec<String>, String) {
    let (mut listed, more) = (Vec::new(), format!("{id} more "));
    loop {
        let line = peer.line().await.unwrap();
        assert!(line.len() <= 1_024, "{}", line.len());
        match line.strip_prefix(&more) {
            Some(page) => listed.extend(page.trim_end().split(' ').map(str::to_owned)),
            None => return (listed, line),
        }
    }
}

/// [S4.13] [S13.4] Every living subscription, in lines that the client takes.
#[tokio::test(start_paused = true)]
async fn a_list_that_is_longer_than_a_line_comes_in_pages() {
    for count in [0, 1, 5, 6, 7, 500] {
        let server =
            PipeServer::with_config(Router::new(), ServerConfig::new().subscriptions(count));
        let mut peer = server.connect().await;
        peer.ask("1 /hello;version=1;max-line=1024\n", "1 ok;version=1\n").await;
        let mut expected = Vec::new();
        for (id, name) in (2..).zip(long_names(count)) {
            peer.send(format!("{id} /subscribe {name}\n")).await;
            expected.push(format!("{name}:{}:1", peer.attribute("epoch").await));
        }
        peer.send("9000 /renew\n").await;
        let line = peer.line().await.unwrap();
        let fits = count < 7;
        assert_eq!(line.starts_with("9000 ok;lease=60"), fits, "{count}: {line}");
        peer.send("9001 /renew;list=more\n").await;
        assert_eq!(pages(&mut peer, 9_001).await, (expected, "9001 ok;lease=60\n".to_owned()));
        peer.ask("9002 /renew;list=all\n", "9002 no bad-attribute list\n").await;
    }
}

/// As with a short list, a silent loss is found within one renewal (guarantee "no silent loss").
#[tokio::test(start_paused = true)]
async fn a_loss_is_found_by_a_renewal_list_of_any_length() {
    let (client, mut server, _net) = connected().await;
    let (mut topics, mut subscriptions) = (long_names(140), Vec::new());
    for (id, name) in (1..).zip(&topics) {
        let subscribing = tokio::spawn(client.subscribe(name).into_future());
        server.expect(&format!("{id} /subscribe {name}")).await;
        server.send(&format!("{id} ok;epoch=e;next=1;head=0;lease=60")).await;
        subscriptions.push(subscribing.await.unwrap().unwrap());
    }
    server.expect("141 /renew").await;
    server.send("141 err too-large max-line is 1024").await;
    server.expect("142 /renew;list=more").await;
    // The 100th has lost two, and the last one has ended.
    let ended = topics.pop().unwrap();
    for (n, page) in topics.chunks(6).enumerate() {
        let next = |at: usize| if n * 6 + at == 99 { 3 } else { 1 };
        let items = page.iter().enumerate().map(|(at, name)| format!("{name}:e:{}", next(at)));
        server.send(&format!("142 more {}", items.collect::<Vec<_>>().join(" "))).await;
    }
    server.send("142 ok;lease=60").await;
    match next(&mut subscriptions[99]).await {
        Delivery::Gap(Gap { first: 1, last: 2, cause: GapCause::Lost, .. }) => {}
        other => panic!("{other:?}"),
    }
    server.expect(&format!("143 /subscribe;from=e:1 {ended}")).await;
    server.send("143 ok;epoch=e;next=1;head=0;lease=60").await;
    server.expect("144 /renew;list=more").await;
}

/// A client requests no pages from a server that does not know them, and the application gets an
/// event.
#[tokio::test(start_paused = true)]
async fn an_unlisted_renewal_is_reported_as_an_event() {
    let (client, mut server, _net) = connected().await;
    let mut events = client.events();
    let _offers = net::subscribed(&client, &mut server, 1).await;
    server.expect("2 /renew").await;
    server.send("2 err too-large").await;
    server.expect("3 /renew;list=more").await;
    server.send("3 no unknown-attribute list").await;
    for id in [4, 5] {
        let Some(ConnectionEvent::RenewalFailed(reason)) = events.next().await else { panic!() };
        let code = if id == 4 { Code::UNKNOWN_ATTRIBUTE } else { Code::TOO_LARGE };
        assert_eq!(reason.code, code);
        server.expect(&format!("{id} /renew")).await;
        server.send(&format!("{id} err too-large")).await;
    }
}

/// Both ends, with so many topics that the list takes hundreds of lines.
#[tokio::test(start_paused = true)]
async fn many_subscriptions_are_renewed_with_the_shortest_lines() {
    const COUNT: usize = 1_000;
    let config = ServerConfig::new().subscriptions(COUNT);
    let dock = Dock::with(PipeServer::with_config(Router::new(), config));
    let client = dock.client_with(ClientConfig::new().max_line(1_024)).await;
    let mut events = client.events();
    let has_failed = Arc::new(AtomicBool::new(false));
    let failed = has_failed.clone();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            failed.fetch_or(matches!(event, ConnectionEvent::RenewalFailed(_)), SeqCst);
        }
    });
    let mut subscriptions = Vec::new();
    for name in long_names(COUNT) {
        subscriptions.push(client.subscribe(&name).fail_on_loss().await.unwrap());
    }
    sleep(600 * SECOND).await;
    for subscription in &mut subscriptions {
        let topic = subscription.topic().clone();
        dock.publish(topic.as_str(), "x").await;
        reads(subscription, [1]).await;
    }
    assert!(!has_failed.load(SeqCst));
    assert_eq!(dock.server(|server| server.handle.stats().subscriptions), COUNT);
}
