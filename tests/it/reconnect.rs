//! The client that reconnects, against raw peers: when and where, with which credentials, and what
//! it reports. Its calls are in `resend`, its subscriptions in `resume`.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, ClientStats, ConnectionError, ConnectionEvent,
    ConnectionEvents, Credentials, Delivery, NotSent, Random, Seen, Unknown,
    protocol::{Backoff, Code, Hello},
};
use bellwire_testkit::{
    dialogue::Peer,
    net::{HELLO, Net, builder, call, connected, connected_with, outcome, settle},
};
use futures::Stream;
use tokio::time::{Instant, sleep};

/// Requests and subscriptions continue on the next connection, and no id is used twice.
#[tokio::test(start_paused = true)]
async fn a_client_reconnects_after_a_lost_connection() {
    let (client, mut server, mut net) = connected().await;
    let first = call(&client, "1");
    server.expect("1 m 1").await;
    server.send("1 ok one").await;
    assert_eq!(outcome(first).await.unwrap(), "one");
    drop(server);
    let second = call(&client, "2");
    let mut server = net.greet().await;
    server.expect("2 m 2").await;
    server.send("2 ok two").await;
    assert_eq!(outcome(second).await.unwrap(), "two");
    let stats = client.stats();
    assert_eq!((stats.connections, stats.requests, stats.ok, stats.pending), (2, 2, 2, 0));
}

/// Looks, when it is woken, whether its client says that it is connected.
struct Asks(Client, AtomicBool);

impl Wake for Asks {
    fn wake(self: Arc<Self>) {
        self.1.fetch_or(self.0.hello().is_some(), Ordering::Relaxed);
    }
}

/// When a caller learns that the connection has ended, a request that it makes right after that
/// does not use this connection.
#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_unusable_once_a_caller_gets_the_error() {
    for says_goodbye in [false, true] {
        let (client, server, mut net) = connected_with(ClientConfig::new().in_flight(1)).await;
        let asks = Arc::new(Asks(client.clone(), false.into()));
        let waker = Waker::from(asks.clone());
        let (mut sent, mut waiting) = (client.call("m", "1"), client.call("m", "2"));
        for call in [&mut sent, &mut waiting] {
            assert!(Pin::new(call).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        let mut server = Some(server);
        match says_goodbye {
            true => server.as_mut().unwrap().send("* /bye shutdown").await,
            false => drop(server.take()),
        }
        let _attempt = net.attempt().await;
        assert!(!asks.1.load(Ordering::Relaxed), "says goodbye: {says_goodbye}");
        assert_eq!(client.hello(), None);
    }
}

/// What a client says of itself at the moment an event is emitted: its waker looks.
struct Observer {
    client: Client,
    events: Mutex<ConnectionEvents>,
    reading: Mutex<Option<Seen>>,
    observed: Mutex<Vec<Observed>>,
}

struct Observed {
    event: ConnectionEvent,
    hello: Option<Hello>,
    stats: ClientStats,
    /// Whether `connected` has an answer at once, and which.
    connected: Option<Result<Hello, ConnectionError>>,
    /// Whether what waited for a subscription has ended.
    has_left: bool,
}

impl Observer {
    fn of(client: &Client) -> Arc<Self> {
        let events = Mutex::new(client.events());
        let (reading, observed) = (Mutex::default(), Mutex::default());
        let observer = Arc::new(Self { client: client.clone(), events, reading, observed });
        observer.clone().wake();
        observer
    }

    fn next(&self, cx: &mut Context<'_>) -> Option<ConnectionEvent> {
        match Pin::new(&mut *self.events.lock().unwrap()).poll_next(cx) {
            Poll::Ready(event) => event,
            Poll::Pending => None,
        }
    }

    fn look(&self, event: ConnectionEvent) -> Observed {
        let mut cx = Context::from_waker(Waker::noop());
        let connected = match pin!(self.client.connected()).poll(&mut cx) {
            Poll::Ready(connected) => Some(connected),
            Poll::Pending => None,
        };
        let mut reading = self.reading.lock().unwrap();
        let has_left = reading.as_mut().is_some_and(|seen| Pin::new(seen).poll(&mut cx).is_ready());
        let (hello, stats) = (self.client.hello(), self.client.stats());
        Observed { event, hello, stats, connected, has_left }
    }
}

impl Wake for Observer {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(self.clone());
        while let Some(event) = self.next(&mut Context::from_waker(&waker)) {
            let observed = self.look(event);
            self.observed.lock().unwrap().push(observed);
        }
    }
}

/// For every event: what can be asked of the client at that moment agrees with it already. Of dropped
/// one-way requests, and of missed events, nothing can be asked.
#[tokio::test(start_paused = true)]
async fn each_event_follows_its_state_change() {
    let (builder, mut net) = builder();
    let client = builder.config(ClientConfig::new().in_flight(8)).connect_lazily();
    let observer = Observer::of(&client);
    net.attempt().await.refuse();
    // Unmatched replies, faults, and panics.
    let waiting = call(&client, "1");
    let mut server = net.greet().await;
    server.expect("1 m 1").await;
    let late = call(&client, "2");
    server.expect("2 m 2").await;
    late.abort();
    server.expect("* /cancel 2").await;
    server.send("2 ok\n2 ok\n99 ok\n* /error malformed x\n* nosuch 1 x").await;
    let subscribing = tokio::spawn(client.subscribe("t").into_future());
    server.expect("3 /subscribe t").await;
    server.send("3 ok;epoch=e;next=1;head=0;lease=60").await;
    let mut subscription = subscribing.await.unwrap().unwrap();
    server.send("* t 1 x").await;
    assert!(matches!(subscription.next().await, Some(Delivery::Notification(_))));
    drop(subscription);
    server.expect("4 /unsubscribe t").await;
    server.send("4 ok").await;
    let resync = |_| async { panic!("as planned") };
    let resync = client.subscribe("r").resync::<_, _, String>(resync);
    let (subscription, ()) = tokio::join!(resync.into_future(), async {
        server.expect("5 /subscribe r").await;
        server.send("5 ok;epoch=e;next=1;head=0;lease=60\n* /gap r e 1 1 retention").await;
    });
    let mut subscription = subscription.unwrap();
    *observer.reading.lock().unwrap() = Some(subscription.seen("e:9".parse().unwrap()));
    assert!(matches!(subscription.next().await, Some(Delivery::Gap(_))));
    server.expect("6 /unsubscribe r").await;
    server.send("6 ok").await;
    drop(server);
    assert!(matches!(outcome(waiting).await, Err(CallError::Unknown(_))));
    let mut server = net.greet().await;
    settle().await;
    server.send("* /bye shutdown\n* /bye;last=0 shutdown").await;
    let mut last = net.greet().await;
    settle().await;
    server.finish().await;
    drop(server);
    settle().await;
    client.one_way("m", "behind the quit").await.unwrap();
    let (closed, ()) = tokio::join!(client.close(), async {
        last.expect("* m behind the quit").await;
        assert!(last.line().await.ends_with(" /quit"));
        drop(last);
    });
    let _ = closed;
    settle().await;

    let (mut names, mut counts) = (Vec::new(), [0; 5]);
    for Observed { event, hello, stats, connected, has_left } in
        observer.observed.lock().unwrap().drain(..)
    {
        let text = format!("{event:?}: {hello:?}, {connected:?}, {stats:?}");
        assert!(stats.in_flight <= 2 && stats.pending <= 3, "{text}");
        let mut count = |at: usize| {
            counts[at] += 1;
            counts[at]
        };
        let name = match &event {
            ConnectionEvent::Connecting { .. } => {
                assert!(hello.is_none() && connected.is_none(), "{text}");
                "connecting"
            }
            ConnectionEvent::ConnectFailed { .. } => {
                assert!(hello.is_none() && connected.is_none(), "{text}");
                "failed"
            }
            ConnectionEvent::Connected(said) => {
                assert_eq!((hello.as_ref(), &connected), (Some(said), &Some(Ok(said.clone()))));
                assert_eq!(stats.connections, count(0), "{text}");
                "connected"
            }
            ConnectionEvent::Disconnected { .. } => {
                // The second has been left for the third, and the last is not followed by another.
                assert_eq!(hello.is_some(), count(1) == 2, "{text}");
                "disconnected"
            }
            ConnectionEvent::Leaving(_) | ConnectionEvent::Bye(_) => {
                assert!(hello.is_none() && connected.is_none(), "{text}");
                "bye"
            }
            ConnectionEvent::LateReply(_) => {
                assert_eq!((stats.late_replies, stats.in_flight), (1, 1), "{text}");
                "late"
            }
            ConnectionEvent::DoubledReply(_) => {
                assert_eq!(stats.doubled_replies, 1, "{text}");
                "doubled"
            }
            ConnectionEvent::UnaskedReply(_) => {
                assert_eq!(stats.unasked_replies, 1, "{text}");
                "unasked"
            }
            ConnectionEvent::ServerError { .. } => "error",
            ConnectionEvent::Violation(_) => {
                assert_eq!(stats.violations, 1, "{text}");
                "violation"
            }
            ConnectionEvent::ResyncPanicked { .. } => {
                assert!(has_left, "{text}");
                assert_eq!(stats.gaps, 1, "{text}");
                "resync"
            }
            ConnectionEvent::Ended(error) => {
                assert_eq!((hello, connected), (None, Some(Err(error.clone()))));
                assert_eq!((stats.pending, stats.in_flight), (0, 0));
                "ended"
            }
            other => panic!("what agrees with {other:?}?"),
        };
        names.push(name);
    }
    names.sort_unstable();
    names.dedup();
    let expected = [
        "bye",
        "connected",
        "connecting",
        "disconnected",
        "doubled",
        "ended",
        "error",
        "failed",
        "late",
        "resync",
        "unasked",
        "violation",
    ];
    assert_eq!(names, expected);
}

/// When a caller gets the error for the end of a single connection, the client has ended.
#[tokio::test(start_paused = true)]
async fn the_client_has_ended_once_a_caller_gets_the_end() {
    let (near, far) = tokio::io::duplex(1 << 10);
    let (client, connection) = Client::new(near, ClientConfig::new());
    let driver = tokio::spawn(connection);
    let mut server = Peer::new(far);
    server.send(HELLO).await;
    client.connected().await.unwrap();
    let mut subscribing = pin!(client.subscribe("t").into_future());
    assert!(subscribing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    server.expect("1 /subscribe t").await;
    server.send("1 ok;epoch=e;next=1;head=0;lease=60").await;
    let mut subscription = subscribing.await.unwrap();
    let asks = Arc::new(Asks(client.clone(), false.into()));
    let waker = Waker::from(asks.clone());
    let mut cx = Context::from_waker(&waker);
    let mut sent = client.call("m", "1");
    assert!(Pin::new(&mut sent).poll(&mut cx).is_pending());
    assert!(Pin::new(&mut subscription).poll_next(&mut cx).is_pending());
    drop(server);
    assert!(driver.await.unwrap().is_err());
    assert!(!asks.1.load(Ordering::Relaxed));
    assert_eq!(client.hello(), None);
}

/// Opening takes time with many subscriptions. No place in flight counts as taken that is free.
#[test]
fn no_place_counts_as_taken_while_a_connection_opens() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let current = Arc::<Mutex<Option<Client>>>::default();
    let (watched, is_over) = (current.clone(), Arc::<AtomicBool>::default());
    let stops = is_over.clone();
    let watching = std::thread::spawn(move || {
        let mut most = 0;
        while !stops.load(Ordering::Relaxed) {
            let client = watched.lock().unwrap().clone();
            most = client.map_or(most, |client| most.max(client.stats().in_flight));
        }
        most
    });
    runtime.block_on(async {
        for _ in 0..20 {
            let (near, far) = tokio::io::duplex(1 << 10);
            let (client, connection) = Client::new(near, ClientConfig::new());
            *current.lock().unwrap() = Some(client.clone());
            let topics = (0..2_000).map(|n| client.subscribe(&format!("t{n}")).into_future());
            let mut waiting: Vec<_> = topics.collect();
            let mut cx = Context::from_waker(Waker::noop());
            assert!(waiting.iter_mut().all(|one| one.as_mut().poll(&mut cx).is_pending()));
            tokio::spawn(connection);
            let mut server = Peer::new(far);
            server.send(HELLO).await;
            client.connected().await.unwrap();
        }
    });
    is_over.store(true, Ordering::Relaxed);
    assert_eq!(watching.join().unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn each_connection_state_has_an_event() {
    let (builder, mut net) = builder();
    let client = builder.connect_lazily();
    let mut events = client.events();
    net.attempt().await.refuse();
    let server = net.greet().await;
    client.connected().await.unwrap();
    drop(server);
    let mut server = net.greet().await;
    settle().await;
    server.send("* /bye shutdown").await;
    server.expect("1 /quit").await;
    let mut last = net.greet().await;
    settle().await;
    drop(server);
    settle().await;
    let (closed, ()) = tokio::join!(client.close(), async {
        last.expect("2 /quit").await;
        last.send("2 ok").await;
    });
    closed.unwrap();
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        seen.push(match event {
            ConnectionEvent::Connecting { attempt, .. } => format!("connecting {attempt}"),
            ConnectionEvent::ConnectFailed { .. } => "failed".into(),
            ConnectionEvent::Connected(_) => "connected".into(),
            ConnectionEvent::Disconnected { error, .. } => format!("disconnected: {error}"),
            ConnectionEvent::Leaving(_) => "leaving".into(),
            ConnectionEvent::Ended(error) => format!("ended: {error}"),
            other => panic!("{other:?}"),
        });
    }
    let expected = [
        "connecting 1",
        "failed",
        "connecting 2",
        "connected",
        "disconnected: the server closed the connection",
        "connecting 1",
        "connected",
        "leaving",
        "connecting 1",
        "connected",
        "disconnected: the server sent /bye: shutdown",
        "disconnected: the client closed the connection",
        "ended: the client closed the connection",
    ];
    assert_eq!(seen, expected);
}

/// The first attempt is at the first address, later ones continue after the last. There is a pause
/// between rounds and none within one.
#[tokio::test(start_paused = true)]
async fn addresses_are_tried_in_rounds() {
    let (net, connector) = Net::new();
    let mut net = net;
    let client = Client::builder().addresses(["a", "b", "c"]).connector(connector).connect_lazily();
    let mut tried = Vec::new();
    let mut server = loop {
        let attempt = net.attempt().await;
        tried.push((attempt.address.clone(), attempt.at));
        match tried.len() {
            5 => break attempt.greet().await,
            _ => attempt.refuse(),
        }
    };
    let names: String = tried.iter().map(|(address, _)| address.as_str()).collect();
    assert_eq!(names, "abcab");
    assert_eq!(tried[0].1, tried[2].1);
    assert_eq!(tried[3].1, tried[4].1);
    assert!(tried[3].1 - tried[2].1 <= Duration::from_millis(250));
    client.connected().await.unwrap();
    server.send("* /bye;last=0 shutdown").await;
    assert_eq!(net.attempt().await.address, "c");
}

/// [C5.4] The server's retry hint takes precedence over the jitter, and applies to its address
/// only.
#[tokio::test(start_paused = true)]
async fn a_retry_hint_is_respected() {
    let (net, connector) = Net::new();
    let mut net = net;
    let _client = Client::builder().addresses(["a", "b"]).connector(connector).connect_lazily();
    let mut server = net.greet().await;
    server.send("* /bye;last=0;retry=60000 busy").await;
    let told = Instant::now();
    drop(server);
    let attempt = net.attempt().await;
    assert_eq!(attempt.address, "b");
    assert!(told.elapsed() < Duration::from_secs(1));
    let mut server = attempt.greet().await;
    server.send("* /bye;last=0;retry=120000 busy").await;
    let attempt = net.attempt().await;
    assert_eq!(attempt.address, "a");
    // All clients with this hint return spread over their window after it.
    assert!((60..=91).contains(&told.elapsed().as_secs()), "{:?}", told.elapsed());
}

/// [C5.4] A server may send a retry hint long after the client left it, and before the client has
/// authenticated.
#[tokio::test(start_paused = true)]
async fn a_retry_hint_is_respected_at_any_time() {
    let (mut net, connector) = Net::new();
    let _client = Client::builder().addresses(["a", "b"]).connector(connector).connect_lazily();
    let mut server = net.greet().await;
    settle().await;
    server.send("* /bye shutdown").await;
    let next = net.greet().await;
    settle().await;
    let told = Instant::now();
    server.send("* /bye;last=0;retry=60000 shutdown").await;
    settle().await;
    drop((server, next));
    loop {
        let attempt = net.attempt().await;
        if attempt.address == "a" {
            break assert!(told.elapsed().as_secs() >= 60, "{:?}", told.elapsed());
        }
        attempt.refuse();
    }

    // In the pause before the attempt that it is about.
    let config = ClientConfig::new().reconnect_base(Duration::from_secs(5));
    let config = config.random(Random::seeded(1));
    let (client, mut server, mut net) = connected_with(config).await;
    server.send("* /bye shutdown").await;
    settle().await;
    let told = Instant::now();
    server.send("* /bye;last=0;retry=60000 shutdown").await;
    let _attempt = net.attempt().await;
    assert!(told.elapsed().as_secs() >= 60, "{:?}", told.elapsed());
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_retry_hint_before_authentication_is_respected() {
    for answer in ["* /bye;last=0;retry=60000 busy", "1 no;retry=60000 busy"] {
        let (builder, mut net) = builder();
        let client = builder.config(ClientConfig::new().auth(TOKEN, "secret")).connect_lazily();
        let mut server = net.attempt().await.accept(1 << 16);
        server.send(&format!("{HELLO};auth=token\n{answer}")).await;
        drop(server);
        let told = Instant::now();
        let _attempt = net.attempt().await;
        assert!(told.elapsed().as_secs() >= 60, "{answer}: {:?}", told.elapsed());
        drop(client);
    }
}

/// [C5.3] The pause is random within a window that doubles up to its bound. A stable connection
/// resets the window to the first.
#[tokio::test(start_paused = true)]
async fn backoff_grows_until_a_connection_was_stable() {
    let config = || {
        let config = ClientConfig::new().reconnect_base(Duration::from_secs(1));
        config.reconnect_max(Duration::from_secs(4)).reconnect_stable(Duration::from_secs(10))
    };
    let [base, max, stable] = [1, 4, 10].map(Duration::from_secs);
    let backoff = Backoff { base, max, stable };
    // The longest pause of each window, in parts of it.
    let mut longest = [0.0_f64; 3];
    for _ in 0..100 {
        let (builder, mut net) = builder();
        let client = builder.config(config()).connect_lazily();
        let mut server = net.greet().await;
        let mut level = 0;
        for round in 0..8 {
            if round == 5 {
                (_, level) = (sleep(stable).await, 0);
            }
            settle().await;
            let lost = Instant::now();
            drop(server);
            let attempt = net.attempt().await;
            let part = (attempt.at - lost).div_duration_f64(backoff.window(level));
            assert!((0.099..=1.001).contains(&part), "{part} in window {level}");
            let longest = &mut longest[level.min(2) as usize];
            (level, *longest) = (level + 1, longest.max(part));
            server = attempt.greet().await;
            client.connected().await.unwrap();
        }
    }
    assert!(longest.iter().all(|&part| part > 0.9), "{longest:?}");
}

/// [C5.3] The worked example of docs/protocol/reconnecting.md, section 14: a server that drops each
/// connection at once is contacted at these times, with the middle of each window drawn, and never
/// more often than this.
#[tokio::test(start_paused = true)]
async fn reconnects_to_a_failing_server_match_the_worked_example() {
    let mut worst = 0;
    for seed in 0..20 {
        let (builder, mut net) = builder();
        let config = ClientConfig::new().random(Random::seeded(seed));
        let _client = builder.config(config).connect_lazily();
        let (began, mut last) = (Instant::now(), None);
        for contact in 0.. {
            let attempt = net.attempt().await;
            let at = attempt.at - began;
            if at > Duration::from_secs(30) {
                worst = worst.max(contact);
                break;
            }
            if let Some(last) = last.replace(at) {
                let window = (250 << (contact - 1)).min(30_000);
                let pause = (at - last).as_millis();
                assert!((window / 10..=window + 1).contains(&pause), "{contact}: {pause} ms");
            }
            drop(attempt.greet().await);
        }
    }
    assert!((7..=11).contains(&worst), "{worst} contacts in 30 s");
}

/// The error says that there is no address to connect to over TCP.
#[tokio::test]
async fn connecting_without_an_address_is_an_error() {
    let error = Client::builder().connect().await.unwrap_err();
    assert!(error.to_string().contains("no address"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_first_connection_returns_its_failure() {
    let (net, connector) = Net::new();
    let mut net = net;
    let connecting = Client::builder().addresses(["a", "b"]).connector(connector).connect();
    let connecting = tokio::spawn(connecting);
    net.attempt().await.refuse();
    net.attempt().await.refuse();
    let error = connecting.await.unwrap().unwrap_err();
    assert!(matches!(error, ConnectionError::Io { .. }), "{error:?}");
    net.expect_over().await;
}

/// A full server counts as a connection that was opened and has ended. The client returns after the
/// retry hint. This does not depend on how the bytes are split.
#[tokio::test(start_paused = true)]
async fn a_full_server_has_one_outcome_for_any_split_of_its_bytes() {
    let bytes = format!("{HELLO}\n* /bye;last=0;retry=1000 busy\n");
    for cut in 0..=bytes.len() {
        let (builder, mut net) = builder();
        let connecting = tokio::spawn(builder.connect());
        let mut server = net.attempt().await.accept(1 << 16);
        let told = Instant::now();
        let (first, second) = bytes.as_bytes().split_at(cut);
        server.send_bytes(first).await;
        settle().await;
        server.send_bytes(second).await;
        drop(server);
        let client = connecting.await.unwrap().unwrap_or_else(|error| panic!("{cut}: {error}"));
        let attempt = net.attempt().await;
        assert!((1_100..=2_001).contains(&told.elapsed().as_millis()), "{cut}");
        let mut server = attempt.greet().await;
        client.connected().await.unwrap();
        let asked = call(&client, "x");
        server.expect("1 m x").await;
        server.send("1 ok").await;
        outcome(asked).await.unwrap();
    }
}

/// A server that says `/bye` before the client has authenticated counts as no connection, however
/// its bytes are cut.
#[tokio::test(start_paused = true)]
async fn a_full_server_that_asks_for_credentials_has_one_outcome() {
    let bytes = format!("{HELLO};auth=token\n* /bye;last=0;retry=1000 busy\n");
    for cut in 0..=bytes.len() {
        let (builder, mut net) = builder();
        let builder = builder.config(ClientConfig::new().auth(TOKEN, "secret"));
        let connecting = tokio::spawn(builder.connect());
        let mut server = net.attempt().await.accept(1 << 16);
        let (first, second) = bytes.as_bytes().split_at(cut);
        server.send_bytes(first).await;
        settle().await;
        server.send_bytes(second).await;
        let error = connecting.await.unwrap().unwrap_err();
        assert!(matches!(&error, ConnectionError::Bye(reason) if reason.code == Code::BUSY));
        net.expect_over().await;
    }
}

/// A final refusal by one server does not apply to the others.
#[tokio::test(start_paused = true)]
async fn a_server_of_another_version_does_not_rule_out_others() {
    let (mut net, connector) = Net::new();
    let client = Client::builder().addresses(["a", "b"]).connector(connector).connect_lazily();
    assert_eq!(client.hello(), None);
    net.attempt().await.accept(1 << 16).send("* /hello;version=2").await;
    let server = net.greet().await;
    assert_eq!(client.connected().await.unwrap().in_flight, 1_024);
    assert_eq!(client.hello().unwrap().in_flight, 1_024);
    drop(server);
    for _ in 0..2 {
        net.attempt().await.accept(1 << 16).send("* /hello;version=2").await;
    }
    assert_eq!(client.connected().await.unwrap_err(), ConnectionError::Version(2));
    net.expect_over().await;
}

/// What a server sent no longer counts if the server cannot be reached the next time. Here the two
/// servers never had another version at the same time.
#[tokio::test(start_paused = true)]
async fn a_version_refusal_is_forgotten_once_unreachable() {
    let (mut net, connector) = Net::new();
    let client = Client::builder().addresses(["a", "b"]).connector(connector).connect_lazily();
    for old in ["a", "", "b", ""] {
        for _ in 0..2 {
            let attempt = net.attempt().await;
            match attempt.address == old {
                true => attempt.accept(1 << 16).send("* /hello;version=2").await,
                false => attempt.refuse(),
            }
        }
    }
    let _server = net.greet().await;
    client.connected().await.unwrap();
}

/// A client of `connect`, which waits only for the first connection, survives a failed round after
/// that.
#[tokio::test(start_paused = true)]
async fn a_client_that_was_connected_outlives_a_failed_round() {
    let (builder, mut net) = builder();
    let connecting = tokio::spawn(builder.connect());
    let server = net.greet().await;
    let client = connecting.await.unwrap().unwrap();
    drop(server);
    net.attempt().await.refuse();
    let _server = net.greet().await;
    client.connected().await.unwrap();
}

/// A round that took longer than its window is still followed by a pause.
#[tokio::test(start_paused = true)]
async fn a_long_round_is_followed_by_a_pause() {
    let (builder, mut net) = builder();
    let _client = builder.connect_lazily();
    let first = net.attempt().await;
    let second = net.attempt().await;
    let pause = (second.at - first.at).as_millis();
    assert!((10_025..=10_250).contains(&pause), "{pause} ms");
}

/// A client without requests still sends a first line in time, because a server closes a connection
/// that stays silent.
#[tokio::test(start_paused = true)]
async fn an_idle_client_sends_its_first_line_in_time() {
    let (_client, mut server, _net) = connected().await;
    let since = Instant::now();
    assert_eq!(server.line().await, "1 /renew");
    let took = since.elapsed().as_millis();
    assert!((5_000..=5_050).contains(&took), "{took} ms");
}

/// Of several hints of one server the longest counts.
#[tokio::test(start_paused = true)]
async fn a_later_hint_does_not_shorten_an_earlier_one() {
    let (_client, mut server, mut net) = connected().await;
    server.send("* /bye;retry=60000 shutdown").await;
    server.send("* /bye;last=0;retry=1000 shutdown").await;
    let told = Instant::now();
    settle().await;
    drop(server);
    let pause = (net.attempt().await.at - told).as_secs();
    assert!((60..=120).contains(&pause), "{pause} s");
}

/// A final refusal counts until there is a connection. So if an address is left out of a later
/// round because of a retry hint, its earlier refusal does not end the client.
#[tokio::test(start_paused = true)]
async fn a_connection_clears_earlier_final_refusals() {
    let (mut net, connector) = Net::new();
    let client = Client::builder().addresses(["a", "b"]).connector(connector).connect_lazily();
    let mut left = net.greet().await;
    left.send("* /bye shutdown").await;
    assert_eq!(net.attempt().await.address, "b");
    let attempt = net.attempt().await;
    assert_eq!(attempt.address, "a");
    attempt.accept(1 << 16).send("* /hello;version=2").await;
    let attempt = net.attempt().await;
    assert_eq!(attempt.address, "b");
    let second = attempt.greet().await;
    client.connected().await.unwrap();
    left.send("* /bye;last=0;retry=60000 shutdown").await;
    settle().await;
    drop(second);
    let attempt = net.attempt().await;
    assert_eq!(attempt.address, "b", "a is left out");
    attempt.accept(1 << 16).send("* /hello;version=2").await;
    let _server = net.greet().await;
    client.connected().await.unwrap();
}

/// A final refusal by another server does not end the client while this server's retry hint is
/// pending.
#[tokio::test(start_paused = true)]
async fn a_server_with_a_retry_hint_is_awaited() {
    let (mut net, connector) = Net::new();
    let client = Client::builder().addresses(["a", "b"]).connector(connector).connect_lazily();
    let mut server = net.greet().await;
    client.connected().await.unwrap();
    server.send("* /bye;last=0;retry=60000 shutdown").await;
    drop(server);
    let attempt = loop {
        let attempt = net.attempt().await;
        match attempt.address.as_str() {
            "a" => break attempt,
            _ => attempt.accept(1 << 16).send("* /hello;version=2").await,
        }
    };
    let _server = attempt.greet().await;
    client.connected().await.unwrap();
}

/// Clients of several servers need not all begin with the same one.
#[tokio::test(start_paused = true)]
async fn the_address_list_may_be_shuffled() {
    let mut first = std::collections::BTreeSet::new();
    for seed in 0..32 {
        let (mut net, connector) = Net::new();
        let config = ClientConfig::new().random(Random::seeded(seed));
        let builder = Client::builder().addresses(["a", "b", "c"]).config(config);
        let client = builder.shuffle().connector(connector).connect_lazily();
        let mut tried = Vec::new();
        for _ in 0..3 {
            let attempt = net.attempt().await;
            tried.push(attempt.address.clone());
            attempt.refuse();
        }
        first.insert(tried[0].clone());
        tried.sort();
        assert_eq!(tried, ["a", "b", "c"]);
        drop(client);
    }
    assert_eq!(first.len(), 3);
}

/// An attempt without a hello in time has failed.
#[tokio::test(start_paused = true)]
async fn a_server_without_a_hello_times_out() {
    let (builder, mut net) = builder();
    let connecting = tokio::spawn(builder.connect());
    let began = Instant::now();
    let _silent = net.attempt().await.accept(64);
    let error = connecting.await.unwrap().unwrap_err();
    assert_eq!(error, ConnectionError::HandshakeTimeout);
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_client_gives_up_after_the_configured_time() {
    let config = ClientConfig::new().give_up_after(Duration::from_secs(20));
    let (client, server, mut net) = connected_with(config).await;
    let waiting = call(&client, "");
    settle().await;
    drop(server);
    let lost = Instant::now();
    let waiting_again = call(&client, "");
    while let Some(attempt) = net.0.recv().await {
        attempt.refuse();
    }
    assert_eq!(lost.elapsed().as_secs(), 20);
    assert!(matches!(outcome(waiting).await, Err(CallError::Unknown(Unknown::Lost(_)))));
    let error = outcome(waiting_again).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Lost(ConnectionError::Io { .. }))));
    assert!(client.close().await.is_err());
}

/// The error is the last failure to connect, not that the client gave up.
#[tokio::test(start_paused = true)]
async fn giving_up_returns_the_last_error() {
    let config = ClientConfig::new().give_up_after(Duration::from_secs(5));
    let (client, mut server, net) = connected_with(config).await;
    server.send("* /bye;last=0;retry=60000 busy").await;
    settle().await;
    drop(server);
    net.expect_over().await;
    assert!(matches!(client.close().await, Err(ConnectionError::Bye(_))));
}

/// Also with as many connections as the client may be leaving at once.
#[tokio::test(start_paused = true)]
async fn give_up_after_applies_with_the_most_connections_being_left() {
    let config = ClientConfig::new().give_up_after(Duration::from_secs(5));
    let (client, mut server, mut net) = connected_with(config).await;
    let mut left = Vec::new();
    for _ in 0..3 {
        server.send("* /bye shutdown").await;
        left.push(std::mem::replace(&mut server, net.greet().await));
        settle().await;
    }
    server.send("* /bye shutdown").await;
    let told = Instant::now();
    let waiting = call(&client, "");
    let error = outcome(waiting).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Lost(ConnectionError::Bye(_)))));
    assert_eq!(told.elapsed().as_secs(), 5);
    assert!(net.0.try_recv().is_err(), "it connects again");
}

/// While an earlier server finishes its replies, no caller waits for a connection that will not
/// come.
#[tokio::test(start_paused = true)]
async fn giving_up_fails_waiting_calls_at_once() {
    let config = ClientConfig::new().give_up_after(Duration::from_secs(5));
    let (client, mut server, mut net) = connected_with(config).await;
    let slow = call(&client, "slow");
    server.expect("1 m slow").await;
    server.send("* /bye shutdown").await;
    let told = Instant::now();
    let waiting = call(&client, "new");
    let refusing = tokio::spawn(async move {
        while let Some(attempt) = net.0.recv().await {
            attempt.refuse();
        }
    });
    let error = outcome(waiting).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Lost(ConnectionError::Io { .. }))));
    assert_eq!(told.elapsed().as_secs(), 5);
    server.expect("2 /quit").await;
    server.send("1 ok done\n2 ok").await;
    assert_eq!(outcome(slow).await.unwrap(), "done");
    assert!(client.close().await.is_err());
    refusing.await.unwrap();
}

/// Closing, and dropping the last handle, end a client in every state.
#[tokio::test(start_paused = true)]
async fn a_client_closes_in_every_state() {
    let (builder, net) = builder();
    let client = builder.connect_lazily();
    client.close().await.unwrap();
    net.expect_over().await;

    let (client, server, mut net) = connected().await;
    drop(server);
    let attempt = net.attempt().await;
    client.close().await.unwrap();
    drop(attempt);
    net.expect_over().await;

    let (client, server, mut net) = connected().await;
    drop(server);
    net.attempt().await.refuse();
    settle().await;
    drop(client);
    net.expect_over().await;

    // An attempt that fails just then is not why it ends.
    let (client, server, mut net) = connected().await;
    drop(server);
    let attempt = net.attempt().await;
    attempt.refuse();
    client.close().await.unwrap();
    net.expect_over().await;

    let (client, mut server, net) = connected().await;
    drop(client);
    server.expect("1 /quit").await;
    server.send("1 ok").await;
    drop(server);
    net.expect_over().await;
}

/// A server that sends its hello while the client closes gets a `/quit`.
#[tokio::test(start_paused = true)]
async fn closing_before_the_hello_arrives_sends_quit() {
    let (builder, mut net) = builder();
    let client = builder.connect_lazily();
    let mut server = net.attempt().await.accept(1 << 16);
    settle().await;
    server.send(HELLO).await;
    let began = Instant::now();
    let (closed, ()) = tokio::join!(client.close(), async {
        server.expect("1 /quit").await;
        server.send("1 ok").await;
    });
    closed.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);

    let (near, far) = tokio::io::duplex(1 << 16);
    let (client, connection) = Client::new(near, ClientConfig::new());
    let mut server = Peer::new(far);
    server.send(HELLO).await;
    drop(client);
    let driver = tokio::spawn(connection);
    server.expect("1 /quit").await;
    server.send("1 ok").await;
    driver.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_of_one_connection_ends_with_it() {
    let (builder, mut net) = builder();
    let client = builder.reconnect(false).connect_lazily();
    let server = net.greet().await;
    client.connected().await.unwrap();
    drop(server);
    net.expect_over().await;
    assert_eq!(client.connected().await.unwrap_err(), ConnectionError::ClosedByPeer);
    let error = client.call("m", "").await.unwrap_err();
    assert_eq!(error, CallError::NotSent(NotSent::Lost(ConnectionError::ClosedByPeer)));
}

/// A server that hangs is probed and closed, and the client connects to another one.
#[tokio::test(start_paused = true)]
async fn a_silent_server_is_replaced_by_another() {
    let (client, mut server, mut net) = connected().await;
    let lost = call(&client, "");
    server.expect("1 m").await;
    let began = Instant::now();
    server.expect("2 /renew").await;
    assert_eq!(began.elapsed().as_secs(), 10);
    let mut next = net.greet().await;
    assert_eq!(began.elapsed().as_secs(), 20);
    let lost = outcome(lost).await;
    assert_eq!(lost, Err(CallError::Unknown(Unknown::Lost(ConnectionError::Silent))));
    let goes_on = call(&client, "");
    next.expect("3 m").await;
    next.send("3 ok").await;
    outcome(goes_on).await.unwrap();
}

// Credentials.

const TOKEN: Code = Code::from_static("token");

/// The hook is called for each connection, and its result is used on that connection.
#[tokio::test(start_paused = true)]
async fn credentials_are_requested_for_each_connection() {
    let (builder, mut net) = builder();
    let mut given = 0;
    let builder = builder.authenticate(TOKEN, move || {
        given += 1;
        std::future::ready(match given {
            3 => Err("no token today"),
            _ => Ok(Credentials::from(format!("secret-{given}"))),
        })
    });
    let client = builder.connect_lazily();
    let hello = format!("{HELLO};auth=token");
    let mut server = net.attempt().await.accept(1 << 16);
    server.send(&hello).await;
    server.expect("1 /auth token secret-1").await;
    server.send("1 ok").await;
    client.connected().await.unwrap();
    drop(server);
    // A refusal does not end the client, because the next credentials may be valid. The same holds
    // for a hook that fails.
    let mut events = client.events();
    let mut server = net.attempt().await.accept(1 << 16);
    server.send(&hello).await;
    server.expect("2 /auth token secret-2").await;
    server.send("2 no unauthenticated").await;
    let mut server = net.attempt().await.accept(1 << 16);
    server.send(&hello).await;
    server.expect("3 /auth token secret-4").await;
    server.send("3 ok").await;
    let mut failures = Vec::new();
    while failures.len() < 2 {
        if let Some(ConnectionEvent::ConnectFailed { error, .. }) = events.next().await {
            failures.push(error);
        }
    }
    assert!(matches!(failures[0], ConnectionError::AuthRefused(_)), "{failures:?}");
    assert_eq!(failures[1], ConnectionError::Credentials("no token today".into()));
}

/// A client with fixed credentials does not send them again after a refusal.
#[tokio::test(start_paused = true)]
async fn refused_fixed_credentials_end_a_client() {
    let (builder, mut net) = builder();
    let client = builder.config(ClientConfig::new().auth(TOKEN, "secret")).connect_lazily();
    let mut server = net.attempt().await.accept(1 << 16);
    server.send(&format!("{HELLO};auth=token")).await;
    server.expect("1 /auth token secret").await;
    server.send("1 no unauthenticated").await;
    let error = client.connected().await.unwrap_err();
    assert!(matches!(error, ConnectionError::AuthRefused(_)), "{error:?}");
    net.expect_over().await;
}

/// [C5.4] A temporary refusal is not final.
#[tokio::test(start_paused = true)]
async fn temporarily_refused_fixed_credentials_are_sent_again() {
    for refusal in ["busy", "closing", ";retry=2000 unauthenticated"] {
        let (builder, mut net) = builder();
        let client = builder.config(ClientConfig::new().auth(TOKEN, "secret")).connect_lazily();
        let mut server = net.attempt().await.accept(1 << 16);
        server.send(&format!("{HELLO};auth=token")).await;
        server.expect("1 /auth token secret").await;
        let space = if refusal.starts_with(';') { "" } else { " " };
        server.send(&format!("1 no{space}{refusal}")).await;
        let told = Instant::now();
        let mut server = net.attempt().await.accept(1 << 16);
        assert!(!refusal.contains("2000") || told.elapsed().as_secs() >= 2, "{refusal}");
        server.send(&format!("{HELLO};auth=token")).await;
        server.expect("2 /auth token secret").await;
        server.send("2 ok").await;
        client.connected().await.unwrap();
    }
}

/// A `/bye` before the reply to `/auth` is a failure: the client begins nothing on this connection,
/// and does not wait for the reply.
#[tokio::test(start_paused = true)]
async fn a_bye_before_the_auth_reply_is_a_failed_attempt() {
    for bye in ["* /bye shutdown\n1 ok", "* /bye shutdown", "* /bye;last=0 shutdown"] {
        let (builder, mut net) = builder();
        let client = builder.config(ClientConfig::new().auth(TOKEN, "secret")).connect_lazily();
        let mut events = client.events();
        let waiting = call(&client, "x");
        let mut server = net.attempt().await.accept(1 << 16);
        server.send(&format!("{HELLO};auth=token")).await;
        server.expect("1 /auth token secret").await;
        server.send(bye).await;
        let told = Instant::now();
        let mut next = net.greet().await;
        assert!(told.elapsed() <= Duration::from_millis(250));
        server.expect_closed().await;
        next.expect("2 m x").await;
        next.send("2 ok").await;
        outcome(waiting).await.unwrap();
        assert!(matches!(events.next().await, Some(ConnectionEvent::Connecting { .. })));
        match events.next().await {
            Some(ConnectionEvent::ConnectFailed { error: ConnectionError::Bye(_), .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panicking_credentials_hook_is_a_failed_attempt() {
    let (builder, mut net) = builder();
    let mut calls = 0;
    let builder = builder.authenticate(TOKEN, move || {
        calls += 1;
        let panics = calls == 1;
        assert_ne!(calls, 2, "as planned");
        async move {
            assert!(!panics, "as planned");
            Ok::<_, io::Error>(Credentials::from("secret"))
        }
    });
    let client = builder.connect_lazily();
    let _server = net.greet().await;
    client.connected().await.unwrap();
}
