//! The client that connects anew, against servers made of raw bytes.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientBuilder, ClientConfig, ConnectionError, ConnectionEvent, Connector,
    Credentials, Delivery, Gap, GapCause, NotSent, Random, Seen, Subscription, Unknown,
    protocol::{Backoff, Code},
};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

#[path = "support/dialogue.rs"]
mod dialogue;
mod support;
use dialogue::Peer;

const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60";

/// The client's attempts to connect, each to be answered by the test.
struct Net(mpsc::UnboundedReceiver<Attempt>);

struct Attempt {
    address: String,
    at: Instant,
    answer: oneshot::Sender<io::Result<DuplexStream>>,
}

impl Net {
    fn new() -> (Self, impl Connector<Io = DuplexStream>) {
        let (sender, attempts) = mpsc::unbounded_channel();
        let connector = move |address: &str| {
            let (answer, answered) = oneshot::channel();
            let _ =
                sender.send(Attempt { address: address.to_owned(), at: Instant::now(), answer });
            async move { answered.await.unwrap_or(Err(io::ErrorKind::ConnectionAborted.into())) }
        };
        (Self(attempts), connector)
    }

    async fn attempt(&mut self) -> Attempt {
        let attempt = timeout(Duration::from_secs(600), self.0.recv()).await;
        attempt.expect("the client does not connect").expect("the client is over")
    }

    /// The next attempt gets a server that has said hello.
    async fn greet(&mut self) -> Peer {
        self.attempt().await.greet().await
    }

    /// The client will not connect again.
    async fn expect_over(mut self) {
        let attempt = timeout(Duration::from_secs(600), self.0.recv()).await;
        assert!(attempt.expect("the client still may connect").is_none(), "it connects again");
    }
}

impl Attempt {
    fn accept(self, size: usize) -> Peer {
        let (near, far) = tokio::io::duplex(size);
        self.answer.send(Ok(near)).expect("the client waits");
        Peer::new(far)
    }

    async fn greet(self) -> Peer {
        let mut server = self.accept(1 << 16);
        server.send(HELLO).await;
        server
    }

    fn refuse(self) {
        self.answer.send(Err(io::ErrorKind::ConnectionRefused.into())).expect("the client waits");
    }
}

fn builder() -> (ClientBuilder<impl Connector<Io = DuplexStream>>, Net) {
    let (net, connector) = Net::new();
    (Client::builder().address("a").connector(connector), net)
}

/// A connected client, its server, and what it would connect to next.
async fn connected() -> (Client, Peer, Net) {
    connected_with(ClientConfig::new()).await
}

async fn connected_with(config: ClientConfig) -> (Client, Peer, Net) {
    let (builder, mut net) = builder();
    let client = builder.config(config).connect_lazily();
    let server = net.greet().await;
    client.connected().await.unwrap();
    (client, server, net)
}

/// Lets every other task have its turns.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

type Outcome = Result<String, CallError>;

fn call(client: &Client, payload: &str) -> JoinHandle<Outcome> {
    call_within(client, payload, None)
}

fn call_within(client: &Client, payload: &str, deadline: Option<Duration>) -> JoinHandle<Outcome> {
    let (client, payload) = (client.clone(), payload.to_owned());
    tokio::spawn(async move {
        let mut call = client.call("m", payload);
        if let Some(deadline) = deadline {
            call = call.deadline(deadline);
        }
        Ok(String::from_utf8(call.await?.to_vec()).unwrap())
    })
}

async fn outcome(call: JoinHandle<Outcome>) -> Outcome {
    timeout(Duration::from_secs(600), call).await.expect("the call hangs").unwrap()
}

async fn subscribed(client: &Client, server: &mut Peer, id: u64) -> Subscription {
    let subscribing = tokio::spawn(client.subscribe("offers").into_future());
    server.expect(&format!("{id} /subscribe offers")).await;
    server.send(&format!("{id} ok;epoch=e;next=18;head=17;lease=60")).await;
    subscribing.await.unwrap().unwrap()
}

async fn next(subscription: &mut Subscription) -> Delivery {
    let delivery = timeout(Duration::from_secs(600), subscription.next()).await;
    delivery.expect("nothing is delivered").expect("the subscription is over")
}

async fn number(subscription: &mut Subscription) -> u64 {
    next(subscription).await.into_notification().expect("a notification").sequence
}

// Connections.

/// Everything goes on over another connection, and no id comes twice.
#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_followed_by_another() {
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

/// Who hears that the connection is over, or left, does not take it for there when asking at once.
#[tokio::test(start_paused = true)]
async fn who_hears_of_a_lost_connection_finds_none() {
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

#[tokio::test(start_paused = true)]
async fn each_state_is_an_event() {
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
        "disconnected: the server said goodbye: shutdown",
        "disconnected: the connection is closed",
        "ended: the connection is closed",
    ];
    assert_eq!(seen, expected);
}

/// The first attempt is at the head of the list, later ones go on behind the last; between rounds
/// there is a pause, within one there is none.
#[tokio::test(start_paused = true)]
async fn the_list_is_tried_in_rounds() {
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

/// [M191] A server's own hint comes before the jitter, and counts for its address alone.
#[tokio::test(start_paused = true)]
async fn a_hint_is_obeyed() {
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
    // All who were told so come spread over the window that is theirs by then.
    assert!((60..=91).contains(&told.elapsed().as_secs()), "{:?}", told.elapsed());
}

/// [M191] A server may ask for patience long after it was left, and before it knows who this is.
#[tokio::test(start_paused = true)]
async fn a_hint_is_obeyed_whenever_it_is_given() {
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
async fn a_hint_of_one_who_asks_who_this_is_is_obeyed() {
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

/// [M190] Full jitter in a window that doubles, up to its bound; a stable while brings the first one back.
#[tokio::test(start_paused = true)]
async fn the_pause_grows_until_a_connection_was_stable() {
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
        let mut down = Duration::ZERO;
        for round in 0..8 {
            if round == 7 {
                (_, down) = (sleep(stable).await, Duration::ZERO);
            }
            settle().await;
            let lost = Instant::now();
            drop(server);
            let attempt = net.attempt().await;
            let (pause, level) = (attempt.at - lost, backoff.level(down).min(2));
            let part = pause.div_duration_f64(backoff.window(level));
            assert!(part <= 1.0, "{pause:?} after {down:?}");
            let longest = &mut longest[level as usize];
            (down, *longest) = (down + pause, longest.max(part));
            server = attempt.greet().await;
            client.connected().await.unwrap();
        }
    }
    assert!(longest.iter().all(|&part| part > 0.9), "{longest:?}");
}

/// Without an address there is nowhere to connect to over TCP, and that is what is said.
#[tokio::test]
async fn a_client_without_an_address_says_so() {
    let error = Client::builder().connect().await.unwrap_err();
    assert!(error.to_string().contains("no address"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_first_connection_hears_of_its_failure() {
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

/// A server that is full says so in one breath with its hello: that is no connection.
#[tokio::test(start_paused = true)]
async fn who_connects_to_a_full_server_hears_so() {
    let (builder, mut net) = builder();
    let connecting = tokio::spawn(builder.connect());
    let mut server = net.attempt().await.accept(1 << 16);
    server.send(&format!("{HELLO}\n* /bye;last=0;retry=1000 busy")).await;
    let error = connecting.await.unwrap().unwrap_err();
    assert!(matches!(&error, ConnectionError::Bye(reason) if reason.code == Code::BUSY));
    net.expect_over().await;
}

/// One server that wants nothing of a client says nothing of the others.
#[tokio::test(start_paused = true)]
async fn a_server_of_another_version_is_one_of_several() {
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

/// One that is to be left alone for a while is not given up for what another says again and again.
#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_patience_is_waited_for() {
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
async fn a_list_may_be_shuffled() {
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

/// An attempt that brings no hello in time is over.
#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_not_waited_for() {
    let (builder, mut net) = builder();
    let connecting = tokio::spawn(builder.connect());
    let began = Instant::now();
    let _silent = net.attempt().await.accept(64);
    let error = connecting.await.unwrap().unwrap_err();
    assert_eq!(error, ConnectionError::HandshakeTimeout);
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_client_gives_up_when_told_to() {
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

/// It is the last error there was, not its own doing.
#[tokio::test(start_paused = true)]
async fn who_gives_up_says_what_became_of_the_server() {
    let config = ClientConfig::new().give_up_after(Duration::from_secs(5));
    let (client, mut server, net) = connected_with(config).await;
    server.send("* /bye;last=0;retry=60000 busy").await;
    settle().await;
    drop(server);
    net.expect_over().await;
    assert!(matches!(client.close().await, Err(ConnectionError::Bye(_))));
}

/// With as many connections as it may be leaving, too.
#[tokio::test(start_paused = true)]
async fn who_waits_to_leave_gives_up() {
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

/// While a server that was left finishes what it has, nobody waits for a connection that will not be.
#[tokio::test(start_paused = true)]
async fn who_gives_up_tells_so_at_once() {
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

/// Closing, and dropping the last handle, end a client wherever it stands.
#[tokio::test(start_paused = true)]
async fn a_client_closes_wherever_it_stands() {
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

/// A server that says hello while the client closes is told so, and not waited for in vain.
#[tokio::test(start_paused = true)]
async fn who_closes_while_the_hello_is_on_its_way_quits() {
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

/// A server that hangs is probed, given up, and another one is sought.
#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up_for_another() {
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

// Who this is.

const TOKEN: Code = Code::from_static("token");

/// The hook is asked for each connection; what it gives is used on that one.
#[tokio::test(start_paused = true)]
async fn credentials_are_given_anew() {
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
    // A refusal is no end, since the next ones may do; nor is a hook that fails.
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

/// Who has but one answer is not to give it again and again.
#[tokio::test(start_paused = true)]
async fn fixed_credentials_that_are_refused_end_a_client() {
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

/// [M191] One that is refused for now has not been given its last word.
#[tokio::test(start_paused = true)]
async fn fixed_credentials_that_are_refused_for_now_are_given_again() {
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

/// A goodbye that overtakes the reply to `/auth` is a failure: nothing is begun there, and nobody waits
/// for that reply.
#[tokio::test(start_paused = true)]
async fn a_server_that_goes_before_it_knows_who_this_is_is_no_connection() {
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
async fn a_hook_that_panics_is_one_that_fails() {
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

// Calls.

/// [M192] A call that was offered is unknown; those that were not are sent on the next connection, and the
/// callers notice nothing.
#[tokio::test(start_paused = true)]
async fn what_was_not_offered_is_sent_again() {
    let (builder, mut net) = builder();
    let client = builder.connect_lazily();
    // The greeting is read, and of what is written only so much fits.
    let mut server = net.attempt().await.accept(128);
    server.send(HELLO).await;
    client.connected().await.unwrap();
    let offered = call(&client, &"x".repeat(200));
    settle().await;
    let waiting = [call(&client, "1"), call(&client, "2")];
    settle().await;
    drop(server);
    assert!(matches!(outcome(offered).await, Err(CallError::Unknown(Unknown::Lost(_)))));
    let mut server = net.greet().await;
    // Ids that were given out for lines that never left are gone.
    server.expect("4 m 1").await;
    server.expect("5 m 2").await;
    server.send("4 ok one\n5 ok two").await;
    let [one, two] = waiting;
    assert_eq!(
        (outcome(one).await.unwrap(), outcome(two).await.unwrap()),
        ("one".into(), "two".into())
    );
    assert_eq!(client.stats().resent, 2);
}

/// [M100] [M192] What stands above the line is sent elsewhere; what stands below it is awaited.
#[tokio::test(start_paused = true)]
async fn what_the_server_had_not_begun_is_sent_again() {
    let (client, mut server, mut net) = connected().await;
    let (below, above) = (call(&client, "below"), call(&client, "above"));
    server.expect("1 m below").await;
    server.expect("2 m above").await;
    server.send("* /bye;last=1 shutdown").await;
    let mut next = net.greet().await;
    settle().await;
    server.send("1 ok done\n2 no closing").await;
    assert_eq!(outcome(below).await.unwrap(), "done");
    next.expect("3 m above").await;
    next.send("3 ok there").await;
    assert_eq!(outcome(above).await.unwrap(), "there");
    // The same without an answer of its own.
    let (below, above) = (call(&client, "below"), call(&client, "above"));
    next.expect("4 m below").await;
    next.expect("5 m above").await;
    next.send("* /bye;last=4 shutdown").await;
    drop(next);
    assert!(matches!(outcome(below).await, Err(CallError::Unknown(Unknown::Lost(_)))));
    let mut last = net.greet().await;
    last.expect("6 m above").await;
    last.send("6 ok").await;
    outcome(above).await.unwrap();
}

/// While a server drains, what is new goes to another, and what is under way is finished here.
#[tokio::test(start_paused = true)]
async fn a_planned_shutdown_stalls_nobody() {
    let (client, mut server, mut net) = connected().await;
    let mut offers = subscribed(&client, &mut server, 1).await;
    let slow = call(&client, "slow");
    server.expect("2 m slow").await;
    server.send("* /bye shutdown").await;
    let told = Instant::now();
    let fast = call(&client, "fast");
    let mut next = net.greet().await;
    next.expect("3 m fast").await;
    next.send("3 ok").await;
    outcome(fast).await.unwrap();
    assert!(told.elapsed() <= Duration::from_millis(250));
    // The subscription stays where the last of the old log comes.
    server.send("* offers 18 x\n2 ok\n* /bye;last=2 shutdown\n* offers 19 y").await;
    outcome(slow).await.unwrap();
    assert_eq!((number(&mut offers).await, number(&mut offers).await), (18, 19));
    next.expect_silence().await;
    drop(server);
    next.expect("4 /subscribe;from=e:20 offers").await;
    next.send("4 ok;epoch=e;next=20;head=20;lease=60\n* offers 20 z").await;
    assert_eq!(number(&mut offers).await, 20);
}

/// A server that goes away is quit as soon as it has nothing under way for this client.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_left_is_not_kept_waiting() {
    let (client, mut server, mut net) = connected().await;
    let slow = call(&client, "slow");
    server.expect("1 m slow").await;
    server.send("* /bye shutdown").await;
    let _next = net.greet().await;
    settle().await;
    server.expect_silence().await;
    server.send("1 ok").await;
    outcome(slow).await.unwrap();
    server.expect("2 /quit").await;
    server.send("2 ok").await;
    server.expect_closed().await;
    assert!(client.hello().is_some());
}

/// A topic that waits for another server is nothing that is under way with this one.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_left_is_not_kept_for_what_waits() {
    let (client, mut server, mut net) = connected().await;
    let slow = call(&client, "slow");
    server.expect("1 m slow").await;
    server.send("* /bye shutdown").await;
    let attempt = net.attempt().await;
    let _subscribing = tokio::spawn(client.subscribe("offers").into_future());
    settle().await;
    server.send("1 ok").await;
    outcome(slow).await.unwrap();
    server.expect("2 /quit").await;
    drop(attempt);
}

/// [M192] `no` with `retry` is sent again, after that time, on the same connection.
#[tokio::test(start_paused = true)]
async fn what_is_refused_for_now_is_sent_again() {
    let (client, mut server, _net) = connected().await;
    let refused = call(&client, "x");
    server.expect("1 m x").await;
    server.send("1 no;retry=5000 busy").await;
    let told = Instant::now();
    server.expect("2 m x").await;
    let waited = told.elapsed();
    assert!((5_000..=5_250).contains(&waited.as_millis()), "{waited:?}");
    server.send("2 ok").await;
    outcome(refused).await.unwrap();

    // Not where there is no time for it; and not what says nothing of a later time.
    let deadline = Some(Duration::from_secs(5));
    let late = call_within(&client, "x", deadline);
    server.expect("3 m;ttl=5000 x").await;
    server.send("3 no;retry=5000 busy").await;
    assert!(matches!(outcome(late).await, Err(CallError::Refused { .. })));
    let refused = call(&client, "x");
    server.expect("4 m x").await;
    server.send("4 no busy").await;
    assert!(matches!(outcome(refused).await, Err(CallError::Refused { .. })));
}

/// Whoever waits to send again what was refused hears at once that there is nowhere to send it to.
#[tokio::test(start_paused = true)]
async fn who_waits_to_send_again_hears_of_the_end() {
    let (client, mut server, _net) = connected().await;
    let refused = call(&client, "x");
    server.expect("1 m x").await;
    let listing = tokio::spawn({
        let client = client.clone();
        async move { client.methods().await }
    });
    server.expect("2 /methods").await;
    let mut stream = client.stream("s", "");
    assert!(timeout(Duration::ZERO, stream.next()).await.is_err());
    server.expect("3 s").await;
    server.send("1 no;retry=3600000 busy\n2 no;retry=3600000 busy\n3 no;retry=3600000 busy").await;
    assert!(timeout(Duration::from_secs(1), stream.next()).await.is_err());
    let told = Instant::now();
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close().await }
    });
    server.expect("4 /quit").await;
    assert!(matches!(outcome(refused).await, Err(CallError::Refused { .. })));
    assert!(matches!(listing.await.unwrap(), Err(CallError::Refused { .. })));
    assert!(matches!(stream.next().await, Some(Err(CallError::Refused { .. }))));
    assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
    server.send("4 ok").await;
    closing.await.unwrap().unwrap();
}

/// [M193] A deadline counts over all connections and pauses.
#[tokio::test(start_paused = true)]
async fn a_call_waits_until_its_deadline() {
    let (client, server, mut net) = connected().await;
    drop(server);
    let attempt = net.attempt().await;
    let began = Instant::now();
    let waiting = call_within(&client, "x", Some(Duration::from_secs(3)));
    let patient = call_within(&client, "y", Some(Duration::from_secs(30)));
    assert_eq!(outcome(waiting).await, Err(CallError::NotSent(NotSent::Deadline)));
    assert_eq!(began.elapsed().as_secs(), 3);
    sleep(Duration::from_secs(1)).await;
    let mut server = attempt.greet().await;
    server.expect("1 m;ttl=26000 y").await;
    server.send("1 ok").await;
    outcome(patient).await.unwrap();
}

/// R2, R5: what is given up before it was offered to the transport is taken back, and was not sent.
#[tokio::test(start_paused = true)]
async fn what_is_given_up_before_it_is_offered_never_leaves() {
    let (builder, mut net) = builder();
    let client = builder.config(ClientConfig::new().outbound_bytes(700)).connect_lazily();
    let mut server = net.attempt().await.accept(128);
    server.send(HELLO).await;
    client.connected().await.unwrap();
    let deadline = Some(Duration::from_secs(3));
    let offered = call_within(&client, &"x".repeat(200), deadline);
    settle().await;
    let before = call(&client, "before");
    settle().await;
    let late = call_within(&client, &"y".repeat(500), deadline);
    let dropped = call(&client, &"z".repeat(500));
    settle().await;
    // There is no room for it, until those are gone.
    let behind = call_within(&client, "behind", Some(Duration::from_secs(60)));
    settle().await;
    assert_eq!((client.stats().pending, client.stats().in_flight), (4, 5));
    dropped.abort();
    settle().await;
    assert_eq!((client.stats().pending, client.stats().in_flight), (4, 4));
    assert_eq!(outcome(offered).await, Err(CallError::Unknown(Unknown::Deadline)));
    assert_eq!(outcome(late).await, Err(CallError::NotSent(NotSent::Deadline)));
    server.expect(&format!("1 m;ttl=3000 {}", "x".repeat(200))).await;
    server.expect("2 m before").await;
    server.expect("5 m;ttl=60000 behind").await;
    server.expect("* /cancel 1").await;
    server.send("2 ok before\n5 ok behind\n1 cut cancelled").await;
    assert_eq!(outcome(before).await.unwrap(), "before");
    assert_eq!(outcome(behind).await.unwrap(), "behind");
    assert_eq!((client.stats().pending, client.stats().in_flight), (0, 0));
}

/// R2: what was refused did leave, whatever kept it from being sent again.
#[tokio::test(start_paused = true)]
async fn what_was_refused_is_never_not_sent() {
    let (client, mut server, net) = connected().await;
    let refused = [call(&client, "1"), call_within(&client, "2", Some(Duration::from_secs(9)))];
    server.expect("1 m 1").await;
    server.expect("2 m;ttl=9000 2").await;
    server.send("* /bye;last=0 shutdown").await;
    drop(server);
    sleep(Duration::from_secs(10)).await;
    let [first, second] = refused;
    assert!(matches!(outcome(second).await, Err(CallError::Refused { .. })));
    client.close().await.unwrap();
    assert!(matches!(outcome(first).await, Err(CallError::Refused { .. })));
    drop(net);
}

/// The same where it was appended to another connection, which was not offered it.
#[tokio::test(start_paused = true)]
async fn what_was_refused_is_refused_where_it_is_appended_in_vain() {
    let (client, mut server, mut net) = connected().await;
    let refused = call(&client, "1");
    server.expect("1 m 1").await;
    server.send("* /bye shutdown").await;
    let mut next = net.attempt().await.accept(128);
    next.send(HELLO).await;
    client.connected().await.unwrap();
    let offered = call(&client, &"x".repeat(200));
    let mut stream = client.stream("s", "");
    settle().await;
    server.send("1 no closing").await;
    assert!(timeout(Duration::ZERO, stream.next()).await.is_err());
    settle().await;
    // The server that was left has nothing under way any more, and is quit.
    assert_eq!((client.stats().resent, client.stats().pending), (1, 4));
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close().await }
    });
    settle().await;
    drop((server, next));
    assert!(closing.await.unwrap().is_err());
    assert!(matches!(outcome(offered).await, Err(CallError::Unknown(_))));
    assert!(matches!(outcome(refused).await, Err(CallError::Refused { .. })));
    assert!(matches!(stream.next().await, Some(Err(CallError::NotSent(_)))));
}

#[tokio::test(start_paused = true)]
async fn who_fails_fast_does_not_wait() {
    let (client, server, mut net) = connected_with(ClientConfig::new().fail_fast(true)).await;
    let offered = call(&client, "");
    settle().await;
    drop(server);
    settle().await;
    let attempt = net.attempt().await;
    assert!(matches!(outcome(offered).await, Err(CallError::Unknown(_))));
    let lost = NotSent::Lost(ConnectionError::ClosedByPeer);
    assert_eq!(outcome(call(&client, "")).await, Err(CallError::NotSent(lost.clone())));
    assert_eq!(client.one_way("m", "").await, Err(lost.clone()));
    assert_eq!(client.methods().await, Err(CallError::NotSent(lost.clone())));
    assert_eq!(client.subscribe("t").await.unwrap_err(), CallError::NotSent(lost));
    let mut server = attempt.greet().await;
    client.connected().await.unwrap();
    let refused = call(&client, "");
    server.expect("2 m").await;
    server.send("2 no;retry=1 busy").await;
    assert!(matches!(outcome(refused).await, Err(CallError::Refused { .. })));
    // What is under way is not asked for again.
    let subscribing = tokio::spawn(client.subscribe("t").into_future());
    server.expect("3 /subscribe t").await;
    drop(server);
    let lost = CallError::Unknown(Unknown::Lost(ConnectionError::ClosedByPeer));
    let subscribed = timeout(Duration::from_secs(60), subscribing).await.expect("it waits");
    assert_eq!(subscribed.unwrap().unwrap_err(), lost);
    let mut server = net.greet().await;
    client.connected().await.unwrap();
    server.expect_silence().await;
    // A server that says goodbye leaves no connection to begin on, either.
    server.send("* /bye;last=2;retry=60000 busy").await;
    settle().await;
    let error = outcome(call(&client, "")).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Lost(ConnectionError::Bye(_)))));
    // For one call alone.
    let (client, server, _net) = connected().await;
    drop(server);
    settle().await;
    let error = client.call("m", "").fail_fast().await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Lost(_))), "{error:?}");
}

/// R5, over connections: what was given up on one is cancelled on none other.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_is_forgotten() {
    let (client, server, mut net) = connected().await;
    let dropped = [call(&client, "sent"), call(&client, "sent")];
    settle().await;
    drop(server);
    let waiting = call(&client, "waiting");
    settle().await;
    waiting.abort();
    dropped.iter().for_each(JoinHandle::abort);
    let mut server = net.greet().await;
    settle().await;
    server.expect_silence().await;
    let alive = call(&client, "alive");
    server.expect("3 m alive").await;
    server.send("3 ok").await;
    outcome(alive).await.unwrap();
    assert_eq!((client.stats().pending, client.stats().in_flight), (0, 0));
}

/// All places of a new connection are free, whatever was in flight on the old one.
#[tokio::test(start_paused = true)]
async fn places_are_those_of_the_connection() {
    let (client, mut server, mut net) = connected_with(ClientConfig::new().in_flight(2)).await;
    let lost = [call(&client, "1"), call(&client, "2"), call(&client, "3")];
    server.expect("1 m 1").await;
    server.expect("2 m 2").await;
    server.expect_silence().await;
    assert_eq!(client.stats().in_flight, 2);
    drop(server);
    let mut server = net.greet().await;
    server.expect("3 m 3").await;
    let next = call(&client, "4");
    server.expect("4 m 4").await;
    let waiting = call(&client, "5");
    settle().await;
    server.expect_silence().await;
    server.send("3 ok\n4 ok").await;
    server.expect("5 m 5").await;
    server.send("5 ok").await;
    outcome(next).await.unwrap();
    outcome(waiting).await.unwrap();
    let outcomes = [lost].into_iter().flatten();
    for (n, lost) in outcomes.enumerate() {
        assert_eq!(outcome(lost).await.is_ok(), n == 2);
    }
    assert_eq!(client.stats().in_flight, 0);
}

/// What moves on to another connection leaves no place behind on the one it was appended to.
#[tokio::test(start_paused = true)]
async fn places_of_what_was_not_offered_are_given_up() {
    let (builder, mut net) = builder();
    let client = builder.connect_lazily();
    let mut server = net.attempt().await.accept(128);
    server.send(HELLO).await;
    client.connected().await.unwrap();
    let _calls = [call(&client, &"x".repeat(200)), call(&client, "1"), call(&client, "2")];
    settle().await;
    let _late = [call(&client, "3"), call(&client, "4")];
    settle().await;
    assert_eq!((client.stats().in_flight, client.stats().pending), (5, 5));
    server.send("* /bye;last=3 shutdown").await;
    let mut next = net.greet().await;
    next.expect("6 m 3").await;
    assert_eq!((client.stats().in_flight, client.stats().pending), (5, 5));
}

/// One-ways that were not offered are not lost with their connection.
#[tokio::test(start_paused = true)]
async fn one_ways_that_were_not_offered_are_carried_over() {
    let (builder, mut net) = builder();
    let client = builder.connect_lazily();
    let mut server = net.attempt().await.accept(128);
    server.send(HELLO).await;
    client.connected().await.unwrap();
    let offered = call(&client, &"x".repeat(200));
    settle().await;
    client.one_way("m", "short").await.unwrap();
    client.one_way("m", "y".repeat(2_000)).await.unwrap();
    settle().await;
    drop(server);
    outcome(offered).await.unwrap_err();
    let mut events = client.events();
    let mut server = net.attempt().await.accept(1 << 16);
    server.send(&HELLO.replace("65535", "1024")).await;
    server.expect("* m short").await;
    server.expect_silence().await;
    loop {
        if let Some(ConnectionEvent::OneWaysDropped(count)) = events.next().await {
            break assert_eq!(count, 1);
        }
    }
}

/// Where there is no other connection to carry them to, the client says how many they were.
#[tokio::test(start_paused = true)]
async fn one_ways_that_can_go_nowhere_are_counted() {
    for closes in [false, true] {
        let (builder, mut net) = builder();
        let client = builder.reconnect(closes).connect_lazily();
        let mut server = net.attempt().await.accept(128);
        server.send(HELLO).await;
        client.connected().await.unwrap();
        let offered = call(&client, &"x".repeat(200));
        settle().await;
        client.one_way("m", "1").await.unwrap();
        client.one_way("m", "2").await.unwrap();
        let mut events = client.events();
        drop(server);
        if closes {
            // They wait for a connection, and there is none to come.
            let _attempt = net.attempt().await;
            client.close().await.unwrap();
        }
        outcome(offered).await.unwrap_err();
        loop {
            match events.next().await.unwrap() {
                ConnectionEvent::OneWaysDropped(count) => break assert_eq!(count, 2),
                ConnectionEvent::Ended(_) => panic!("they were lost in silence"),
                _ => {}
            }
        }
    }
}

/// Those of a connection that is left, where there is another already, go there.
#[tokio::test(start_paused = true)]
async fn one_ways_of_a_connection_that_is_left_go_to_the_one_there_is() {
    let (builder, mut net) = builder();
    let client = builder.connect_lazily();
    let mut server = net.attempt().await.accept(128);
    server.send(HELLO).await;
    client.connected().await.unwrap();
    let offered = call(&client, &"x".repeat(200));
    settle().await;
    client.one_way("m", "not offered").await.unwrap();
    server.send("* /bye shutdown").await;
    let mut next = net.greet().await;
    settle().await;
    next.expect_silence().await;
    server.send("* /bye;last=1 shutdown").await;
    next.expect("* m not offered").await;
    drop(server);
    outcome(offered).await.unwrap_err();
    next.expect_silence().await;
}

/// Not once the client closes: they would stand behind its `/quit`, where no server reads.
#[tokio::test(start_paused = true)]
async fn one_ways_of_a_connection_that_is_left_go_nowhere_once_the_client_closes() {
    let (builder, mut net) = builder();
    let client = builder.connect_lazily();
    let mut server = net.attempt().await.accept(128);
    server.send(HELLO).await;
    client.connected().await.unwrap();
    let offered = call(&client, &"x".repeat(200));
    settle().await;
    client.one_way("m", "not offered").await.unwrap();
    server.send("* /bye shutdown").await;
    let mut next = net.greet().await;
    client.connected().await.unwrap();
    let mut events = client.events();
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close().await }
    });
    let quit = next.line().await;
    let id = quit.strip_suffix(" /quit").expect("a /quit");
    server.send("* /bye;last=1 shutdown").await;
    next.expect_silence().await;
    next.send(&format!("{id} ok")).await;
    drop(server);
    outcome(offered).await.unwrap_err();
    closing.await.unwrap().unwrap();
    loop {
        match events.next().await.unwrap() {
            ConnectionEvent::OneWaysDropped(count) => break assert_eq!(count, 1),
            ConnectionEvent::Ended(_) => panic!("it was lost in silence"),
            _ => {}
        }
    }
}

/// A streamed reply of which nothing can have come begins elsewhere; one that had begun is unknown.
#[tokio::test(start_paused = true)]
async fn a_streamed_reply_goes_on_only_if_it_had_not_begun() {
    let (client, mut server, mut net) = connected().await;
    let mut begun = client.stream("s", "1");
    let mut other = client.stream("s", "2");
    assert!(timeout(Duration::ZERO, begun.next()).await.is_err());
    server.expect("1 s 1").await;
    server.send("1 more a").await;
    assert_eq!(begun.next().await.unwrap().unwrap(), "a");
    assert!(timeout(Duration::ZERO, other.next()).await.is_err());
    server.expect("2 s 2").await;
    server.send("* /bye;last=1 shutdown").await;
    drop(server);
    assert!(matches!(begun.next().await, Some(Err(CallError::Unknown(Unknown::Lost(_))))));
    assert!(begun.next().await.is_none());
    let (item, _server) = tokio::join!(other.next(), async {
        let mut server = net.greet().await;
        server.expect("3 s 2").await;
        server.send("3 more b\n3 ok").await;
        server
    });
    assert_eq!(item.unwrap().unwrap(), "b");
    assert!(other.next().await.is_none());
}

/// R1: whatever a server says of a reply that had begun, no item comes twice.
#[tokio::test(start_paused = true)]
async fn a_streamed_reply_that_had_begun_is_not_sent_again() {
    let (client, mut server, _net) = connected().await;
    let mut items = client.stream("s", "");
    assert!(timeout(Duration::ZERO, items.next()).await.is_err());
    server.expect("1 s").await;
    server.send("1 more a\n1 no;retry=1 busy").await;
    assert_eq!(items.next().await.unwrap().unwrap(), "a");
    assert!(matches!(items.next().await, Some(Err(CallError::Refused { .. }))));
    server.expect_silence().await;
}

/// What the protocol itself lists is asked for again, too.
#[tokio::test(start_paused = true)]
async fn a_list_is_asked_for_where_there_is_a_server() {
    let (client, server, mut net) = connected().await;
    drop(server);
    settle().await;
    let (methods, _server) = tokio::join!(client.methods(), async {
        let mut server = net.greet().await;
        server.expect("1 /methods").await;
        server.send("1 more a\n1 ok").await;
        server
    });
    assert_eq!(methods.unwrap().len(), 1);
}

// Subscriptions.

/// [M194] N3, N5: it goes on from its own position, and what was missed comes once, in order.
#[tokio::test(start_paused = true)]
async fn a_subscription_goes_on_from_its_own_position() {
    let (client, mut server, mut net) = connected().await;
    let mut offers = subscribed(&client, &mut server, 1).await;
    let mut all = client.notifications();
    server.send("* offers 18 a\n* offers 19 b").await;
    assert_eq!(number(&mut offers).await, 18);
    // What was received and not handed over yet is not asked for again.
    settle().await;
    drop(server);
    let mut server = net.greet().await;
    server.expect("2 /subscribe;from=e:20 offers").await;
    server.send("2 ok;epoch=e;next=20;head=21;lease=60\n* offers 20 c\n* offers 21 d").await;
    for expected in 19..=21 {
        assert_eq!(number(&mut offers).await, expected);
    }
    assert_eq!(offers.position().to_string(), "e:22");
    for expected in 18..=21 {
        assert_eq!(all.next().await.unwrap().into_notification().unwrap().sequence, expected);
    }
}

/// What is gone is one item, with its numbers or its new epoch.
#[tokio::test(start_paused = true)]
async fn what_is_gone_is_named() {
    let (client, mut server, mut net) = connected().await;
    let mut offers = subscribed(&client, &mut server, 1).await;
    drop(server);
    let mut server = net.greet().await;
    server.expect("2 /subscribe;from=e:18 offers").await;
    server.send("2 ok;epoch=e;next=18;head=30;lease=60\n* /gap offers e 18 29 retention").await;
    server.send("* offers 30 x").await;
    match next(&mut offers).await {
        Delivery::Gap(Gap { first: 18, last: 29, cause: GapCause::Server(code), .. }) => {
            assert_eq!(code, Code::RETENTION);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(number(&mut offers).await, 30);
    drop(server);
    let mut server = net.greet().await;
    server.expect("3 /subscribe;from=e:31 offers").await;
    server.send("3 ok;epoch=f;next=1;head=1;lease=60\n* offers 1 y").await;
    match next(&mut offers).await {
        Delivery::Reset { position, .. } => assert_eq!(position.to_string(), "f:1"),
        other => panic!("{other:?}"),
    }
    assert_eq!(number(&mut offers).await, 1);
}

/// [M195] Two servers that each have a log of their own: the first goes on where it was left, and nothing of
/// it comes twice.
#[tokio::test(start_paused = true)]
async fn a_log_that_is_come_back_to_goes_on_where_it_was_left() {
    let (client, mut server, mut net) = connected().await;
    let mut offers = subscribed(&client, &mut server, 1).await;
    server.send("* offers 18 x").await;
    assert_eq!(number(&mut offers).await, 18);
    drop(server);
    let mut server = net.greet().await;
    server.expect("2 /subscribe;from=e:19 offers").await;
    server.send("2 ok;epoch=f;next=1;head=1;lease=60\n* offers 1 y").await;
    assert!(matches!(next(&mut offers).await, Delivery::Reset { .. }));
    assert_eq!(number(&mut offers).await, 1);
    drop(server);
    let mut server = net.greet().await;
    server.expect("3 /subscribe;from=f:2 offers").await;
    server.send("3 ok;epoch=e;next=1;head=20;lease=60\n* offers 1 a\n* offers 2 b").await;
    server.expect("4 /unsubscribe offers").await;
    server.send("4 ok;next=e:3").await;
    server.expect("5 /subscribe;from=e:19 offers").await;
    server.send("5 ok;epoch=e;next=19;head=20;lease=60\n* offers 19 v\n* offers 20 w").await;
    match next(&mut offers).await {
        Delivery::Reset { position, .. } => assert_eq!(position.to_string(), "e:19"),
        other => panic!("{other:?}"),
    }
    assert_eq!((number(&mut offers).await, number(&mut offers).await), (19, 20));
    drop(server);
    // The other one, too, though it was left without a number of its own to come.
    let mut server = net.greet().await;
    server.expect("6 /subscribe;from=e:21 offers").await;
    server.send("6 ok;epoch=f;next=1;head=1;lease=60").await;
    server.expect("7 /unsubscribe offers").await;
    server.send("7 ok;next=f:1").await;
    server.expect("8 /subscribe;from=f:2 offers").await;
    assert_eq!(client.stats().violations, 0);
}

/// Looks, when it is woken, whether its application has seen so far.
struct Looks(Mutex<Seen>, AtomicBool);

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        let seen = &mut *self.0.lock().unwrap();
        let is_seen = Pin::new(seen).poll(&mut Context::from_waker(Waker::noop())).is_ready();
        self.1.store(is_seen, Ordering::Relaxed);
    }
}

/// [M188] Who is told where its effect is to be seen finds the topic in the log that this is about, though
/// the server said both in one breath.
#[tokio::test(start_paused = true)]
async fn a_log_that_is_come_back_to_is_so_before_a_caller_hears_of_it() {
    let (client, mut server, mut net) = connected().await;
    let mut offers = subscribed(&client, &mut server, 1).await;
    drop(server);
    let mut server = net.greet().await;
    server.expect("2 /subscribe;from=e:18 offers").await;
    server.send("2 ok;epoch=f;next=1;head=0;lease=60").await;
    assert!(matches!(next(&mut offers).await, Delivery::Reset { .. }));
    drop(server);
    let looks = Arc::new(Looks(Mutex::new(offers.seen("e:19".parse().unwrap())), false.into()));
    let mut server = net.greet().await;
    server.expect("3 /subscribe;from=f:1 offers").await;
    let mut call = client.call("add", "");
    let waker = Waker::from(looks.clone());
    assert!(Pin::new(&mut call).poll(&mut Context::from_waker(&waker)).is_pending());
    server.expect("4 add").await;
    server.send("3 ok;epoch=e;next=1;head=17;lease=60\n4 ok;after=offers:e:19").await;
    server.expect("5 /unsubscribe offers").await;
    timeout(Duration::from_secs(1), call).await.expect("it is answered").unwrap();
    assert!(!looks.1.load(Ordering::Relaxed), "nobody has seen it");
}

/// [M138] It is the same subscription meanwhile: a lack of room does not end it.
#[tokio::test(start_paused = true)]
async fn a_log_that_is_come_back_to_is_waited_for() {
    let (client, mut server, mut net) = connected().await;
    let mut offers = subscribed(&client, &mut server, 1).await;
    drop(server);
    let mut server = net.greet().await;
    server.expect("2 /subscribe;from=e:18 offers").await;
    server.send("2 ok;epoch=f;next=1;head=0;lease=60").await;
    assert!(matches!(next(&mut offers).await, Delivery::Reset { .. }));
    drop(server);
    let mut server = net.greet().await;
    server.expect("3 /subscribe;from=f:1 offers").await;
    server.send("3 ok;epoch=e;next=1;head=18;lease=60\n* offers 1 a").await;
    server.expect("4 /unsubscribe offers").await;
    server.send("* offers 2 b\n4 ok;next=e:3").await;
    server.expect("5 /subscribe;from=e:18 offers").await;
    server.send("5 no busy").await;
    server.expect("6 /subscribe;from=e:18 offers").await;
    server.send("6 ok;epoch=e;next=18;head=18;lease=60\n* offers 18 c").await;
    assert!(matches!(next(&mut offers).await, Delivery::Reset { .. }));
    assert_eq!(number(&mut offers).await, 18);
}

/// Whoever shares what is asked for again begins where that goes on, whatever the server repeats; and
/// an end in between says where.
#[tokio::test(start_paused = true)]
async fn who_joins_meanwhile_begins_where_it_goes_on() {
    let (client, mut server, mut net) = connected().await;
    let mut offers = subscribed(&client, &mut server, 1).await;
    drop(server);
    let mut server = net.greet().await;
    server.expect("2 /subscribe;from=e:18 offers").await;
    let joining = tokio::spawn(client.subscribe("offers").into_future());
    settle().await;
    server.send("2 ok;epoch=e;next=16;lease=60\n* offers 16 a\n* offers 17 b\n* offers 18 c").await;
    let mut joined = joining.await.unwrap().unwrap();
    assert_eq!(joined.position().to_string(), "e:18");
    assert_eq!((number(&mut offers).await, number(&mut joined).await), (18, 18));
    drop(server);
    let mut server = net.greet().await;
    server.expect("3 /subscribe;from=e:19 offers").await;
    server.send("3 ok;epoch=f;next=1;lease=60").await;
    assert!(matches!(next(&mut offers).await, Delivery::Reset { .. }));
    drop(server);
    let mut server = net.greet().await;
    server.expect("4 /subscribe;from=f:1 offers").await;
    server.send("4 ok;epoch=e;next=1;lease=60").await;
    server.expect("5 /unsubscribe offers").await;
    let closing = tokio::spawn(async move { client.close().await });
    server.expect("6 /quit").await;
    drop(server);
    assert!(closing.await.unwrap().is_err());
    assert!(matches!(next(&mut offers).await, Delivery::Reset { .. }));
    match next(&mut offers).await {
        Delivery::End { position: Some(at), .. } => assert_eq!(at.to_string(), "e:19"),
        other => panic!("{other:?}"),
    }
}

/// [M170] It asks for what it asked before, and acknowledges what is handled since.
#[tokio::test(start_paused = true)]
async fn a_subscription_keeps_its_terms() {
    let (client, mut server, mut net) = connected().await;
    let subscribing = client.subscribe("offers").window(2).slow(bellwire::Slow::Latest);
    let subscribing = tokio::spawn(subscribing.into_future());
    server.expect("1 /subscribe;window=2;slow=latest offers").await;
    server.send("1 ok;epoch=e;next=1;lease=60\n* offers 1 a").await;
    let mut offers = subscribing.await.unwrap().unwrap();
    settle().await;
    drop(server);
    let mut server = net.greet().await;
    server.expect("2 /subscribe;from=e:2;window=2;slow=latest offers").await;
    server.send("2 ok;epoch=e;next=2;lease=60\n* offers 2 b").await;
    assert_eq!((number(&mut offers).await, number(&mut offers).await), (1, 2));
    server.expect("* /ack offers e:3").await;
}

/// [M168] An ack that was due and did not leave any more keeps back none on the next connection.
#[tokio::test(start_paused = true)]
async fn an_ack_that_was_due_when_the_connection_was_lost_stops_no_other() {
    let (client, mut server, mut net) = connected().await;
    let subscribing = tokio::spawn(client.subscribe("offers").window(2).into_future());
    server.expect("1 /subscribe;window=2 offers").await;
    server.send("1 ok;epoch=e;next=1;lease=60\n* offers 1 a\n* offers 2 b").await;
    let mut offers = subscribing.await.unwrap().unwrap();
    settle().await;
    // Handed over, and lost, before the driver has its turn.
    drop(server);
    assert_eq!((number(&mut offers).await, number(&mut offers).await), (1, 2));
    let mut server = net.greet().await;
    server.expect("2 /subscribe;from=e:3;window=2 offers").await;
    server.send("2 ok;epoch=e;next=3;lease=60\n* offers 3 c\n* offers 4 d").await;
    assert_eq!((number(&mut offers).await, number(&mut offers).await), (3, 4));
    server.expect("* /ack offers e:5").await;
}

/// Who waits for a connection has it in the order of coming.
#[tokio::test(start_paused = true)]
async fn one_ways_wait_for_a_connection_in_order() {
    let (client, server, mut net) = connected().await;
    drop(server);
    let attempt = net.attempt().await;
    let waiting = (0..9).map(|number| {
        let client = client.clone();
        tokio::spawn(async move { client.one_way("note", number.to_string()).await })
    });
    let waiting: Vec<_> = waiting.collect();
    settle().await;
    let mut server = attempt.greet().await;
    for (number, one_way) in waiting.into_iter().enumerate() {
        server.expect(&format!("* note {number}")).await;
        one_way.await.unwrap().unwrap();
    }
}

/// Subscribing begins on whatever connection there will be; leaving while there is none leaves no
/// trace.
#[tokio::test(start_paused = true)]
async fn subscribing_and_leaving_need_no_connection() {
    let (client, mut server, mut net) = connected().await;
    let kept = subscribed(&client, &mut server, 1).await;
    drop(server);
    let attempt = net.attempt().await;
    let subscribing = tokio::spawn(client.subscribe("news").into_future());
    let given_up = tokio::spawn(client.subscribe("weather").into_future());
    settle().await;
    given_up.abort();
    drop(kept);
    let mut server = attempt.greet().await;
    server.expect("2 /subscribe news").await;
    server.expect_silence().await;
    server.send("2 ok;epoch=e;next=1;lease=60").await;
    let _ = subscribing.await.unwrap().unwrap();
}

/// What cannot be left any more, since the line is drawn, is left; what comes back begins elsewhere.
#[tokio::test(start_paused = true)]
async fn who_comes_back_does_not_wait_for_the_connection_that_is_left() {
    let (client, mut server, mut net) = connected().await;
    let offers = subscribed(&client, &mut server, 1).await;
    server.send("* /bye;last=1 shutdown").await;
    let mut next = net.greet().await;
    settle().await;
    drop(offers);
    let subscribing = tokio::spawn(client.subscribe("offers").into_future());
    next.expect("2 /subscribe offers").await;
    server.send("* offers 18 x").await;
    settle().await;
    next.send("2 ok;epoch=e;next=20;lease=60").await;
    let offers = subscribing.await.unwrap().unwrap();
    assert_eq!(offers.position().to_string(), "e:20");
    drop(server);
    next.expect_silence().await;
    assert_eq!(client.stats().violations, 0);
}

/// Nor while there is no other connection yet: what the one that is left still says of the topic is
/// ignored, and no fault.
#[tokio::test(start_paused = true)]
async fn what_is_still_said_of_a_topic_that_waits_is_no_fault() {
    for connections in 0..2 {
        let (client, mut server, mut net) = connected().await;
        for _ in 0..connections {
            drop(server);
            server = net.greet().await;
            settle().await;
        }
        let offers = subscribed(&client, &mut server, 1).await;
        server.send("* /bye;last=1 shutdown").await;
        let attempt = net.attempt().await;
        drop(offers);
        let subscribing = tokio::spawn(client.subscribe("offers").into_future());
        settle().await;
        server.send("* offers 18 x\n* /end offers closed e:19").await;
        settle().await;
        assert_eq!(client.stats().violations, 0, "connection {connections}");
        let mut next = attempt.greet().await;
        next.expect("2 /subscribe offers").await;
        next.send("2 ok;epoch=e;next=20;lease=60").await;
        assert_eq!(subscribing.await.unwrap().unwrap().position().to_string(), "e:20");
    }
}

/// A subscription under way when the connection is lost is asked for again.
#[tokio::test(start_paused = true)]
async fn a_request_to_subscribe_survives_its_connection() {
    let (client, mut server, mut net) = connected().await;
    let subscribing = tokio::spawn(client.subscribe("offers").into_future());
    server.expect("1 /subscribe offers").await;
    drop(server);
    let mut server = net.greet().await;
    server.expect("2 /subscribe offers").await;
    server.send("2 ok;epoch=e;next=5;lease=60").await;
    let offers = subscribing.await.unwrap().unwrap();
    assert_eq!(offers.position().to_string(), "e:5");
    // One that was refused by a server that stops, too.
    let subscribing = tokio::spawn(client.subscribe("news").into_future());
    server.expect("3 /subscribe news").await;
    server.send("* /bye;last=2 shutdown\n3 no closing").await;
    let mut next = net.greet().await;
    next.expect("4 /subscribe news").await;
    next.send("4 ok;epoch=e;next=1;lease=60").await;
    let _ = subscribing.await.unwrap().unwrap();
}

/// R2: one that left is not "not sent", where there is no other connection to ask on.
#[tokio::test(start_paused = true)]
async fn a_request_to_subscribe_that_left_is_not_called_not_sent() {
    let (builder, mut net) = builder();
    let client = builder.reconnect(false).connect_lazily();
    let mut server = net.greet().await;
    let subscribing = tokio::spawn(client.subscribe("offers").into_future());
    server.expect("1 /subscribe offers").await;
    drop(server);
    let lost = CallError::Unknown(Unknown::Lost(ConnectionError::ClosedByPeer));
    assert_eq!(subscribing.await.unwrap().unwrap_err(), lost);

    let (client, mut server, mut net) = connected().await;
    let refused = tokio::spawn(client.subscribe("offers").into_future());
    server.expect("1 /subscribe offers").await;
    server.send("* /bye shutdown\n1 no closing").await;
    let attempt = net.attempt().await;
    let waiting = tokio::spawn(client.subscribe("news").into_future());
    settle().await;
    drop(server);
    client.close().await.unwrap();
    assert!(matches!(refused.await.unwrap(), Err(CallError::Refused { .. })));
    assert!(matches!(waiting.await.unwrap(), Err(CallError::NotSent(NotSent::Lost(_)))));
    drop(attempt);
}

/// [M138] A refusal for good ends it, and says why; one for now does not.
#[tokio::test(start_paused = true)]
async fn a_refusal_for_now_is_no_end() {
    let (client, mut server, mut net) = connected().await;
    let mut offers = subscribed(&client, &mut server, 1).await;
    drop(server);
    let mut server = net.greet().await;
    server.expect("2 /subscribe;from=e:18 offers").await;
    server.send("2 no busy").await;
    let told = Instant::now();
    server.expect("3 /subscribe;from=e:18 offers").await;
    assert!((1..=2).contains(&told.elapsed().as_secs()), "{:?}", told.elapsed());
    server.send("3 no;retry=1000 closing").await;
    server.expect("4 /subscribe;from=e:18 offers").await;
    server.send("4 no forbidden").await;
    match next(&mut offers).await {
        Delivery::End { reason, position: Some(at), .. } => {
            assert_eq!((reason, at.to_string()), (Code::FORBIDDEN, "e:18".into()));
        }
        other => panic!("{other:?}"),
    }
    assert!(offers.next().await.is_none());
}

/// Who comes to a topic while others wait to go on with it has lost nothing of what they lose.
#[tokio::test(start_paused = true)]
async fn a_stream_that_comes_while_others_are_resumed_begins_there() {
    let (client, mut server, mut net) = connected().await;
    let mut offers = subscribed(&client, &mut server, 1).await;
    let turns = [(2, "e:18", "e", 20), (3, "e:21", "f", 1)];
    for (id, start, epoch, number) in turns {
        drop(server);
        settle().await;
        let subscribing = tokio::spawn(client.subscribe("offers").fail_on_loss().into_future());
        server = net.greet().await;
        server.expect(&format!("{id} /subscribe;from={start} offers")).await;
        let accepted = format!("{id} ok;epoch={epoch};next={number};lease=60");
        server.send(&format!("{accepted}\n* offers {number} x")).await;
        let mut newcomer = subscribing.await.unwrap().unwrap();
        assert_eq!(newcomer.position().to_string(), format!("{epoch}:{number}"));
        let loss = next(&mut offers).await;
        assert!(matches!(loss, Delivery::Gap(_) | Delivery::Reset { .. }), "{loss:?}");
        for stream in [&mut offers, &mut newcomer] {
            let given = next(stream).await;
            let Delivery::Notification(given) = given else { panic!("{given:?}") };
            assert_eq!(given.sequence, number);
        }
    }
}

/// [M195] Where another stream had left a log says nothing of this one, which has seen none of it.
#[tokio::test(start_paused = true)]
async fn a_log_that_another_stream_left_begins_anew() {
    let (client, mut server, _net) = connected().await;
    let from = |position: &str| client.subscribe("d").from(position.parse().unwrap());
    let given_up = tokio::spawn(from("v:32").into_future());
    server.expect("1 /subscribe;from=v:32 d").await;
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    let subscribing = tokio::spawn(from("h:20").into_future());
    settle().await;
    server.send("1 ok;epoch=v;next=32;lease=60").await;
    server.expect("2 /unsubscribe d").await;
    server.send("2 ok").await;
    server.expect("3 /subscribe;from=h:20 d").await;
    server.send("3 ok;epoch=v;next=1;lease=60").await;
    let subscribed =
        timeout(Duration::from_secs(1), subscribing).await.expect("it goes on at once");
    let mut d = subscribed.unwrap().unwrap();
    match next(&mut d).await {
        Delivery::Reset { position, .. } => assert_eq!(position.to_string(), "v:1"),
        other => panic!("{other:?}"),
    }
    server.expect_silence().await;
}

/// What fails with its connection is begun again on the next, where the stream goes on.
#[tokio::test(start_paused = true)]
async fn a_resync_outlives_its_connection() {
    let (client, mut server, mut net) = connected().await;
    let asking = client.clone();
    let subscribing = client.subscribe("offers").resync(move |_| {
        let client = asking.clone();
        async move { client.call("offers.list", "").await.map(drop) }
    });
    let mut offers = {
        let subscribing = tokio::spawn(subscribing.into_future());
        server.expect("1 /subscribe offers").await;
        server.send("1 ok;epoch=e;next=5;lease=60").await;
        subscribing.await.unwrap().unwrap()
    };
    server.send("* /gap offers e 5 6 retention\n* offers 7 x").await;
    let reading = tokio::spawn(async move { (next(&mut offers).await, offers) });
    for (call, subscribe) in [(2, 3), (4, 5)] {
        server.expect(&format!("{call} offers.list")).await;
        drop(server);
        server = net.greet().await;
        server.expect(&format!("{subscribe} /subscribe;from=e:8 offers")).await;
        server.send(&format!("{subscribe} ok;epoch=e;next=8;lease=60")).await;
    }
    server.expect("6 offers.list").await;
    server.send("6 ok all\n* offers 8 x").await;
    let (delivery, mut offers) = reading.await.unwrap();
    let numbers = [delivery, next(&mut offers).await];
    assert_eq!(numbers.map(|one| one.into_notification().unwrap().sequence), [7, 8]);
    // One that fails of itself does not.
    server.send("* /gap offers e 9 9 retention").await;
    let reading = tokio::spawn(async move { (next(&mut offers).await, next(&mut offers).await) });
    server.expect("7 offers.list").await;
    server.send("7 err internal").await;
    let (gap, end) = reading.await.unwrap();
    assert!(matches!((gap, end), (Delivery::Gap(_), Delivery::End { .. })));
}

/// [M192] Each is asked for in its own time, whatever is said of another.
#[tokio::test(start_paused = true)]
async fn a_topic_is_left_alone_for_as_long_as_was_asked() {
    for answers in ["3 no busy\n4 no;retry=9000 busy", "3 no;retry=9000 busy\n4 no;retry=1 busy"] {
        let (client, mut server, mut net) = connected().await;
        let _offers = subscribed(&client, &mut server, 1).await;
        let subscribing = tokio::spawn(client.subscribe("zoo").into_future());
        server.expect("2 /subscribe zoo").await;
        server.send("2 ok;epoch=e;next=1;lease=60").await;
        let _zoo = subscribing.await.unwrap().unwrap();
        drop(server);
        let mut server = net.greet().await;
        server.expect("3 /subscribe;from=e:18 offers").await;
        server.expect("4 /subscribe;from=e:1 zoo").await;
        let (one, other) = answers.split_once('\n').unwrap();
        server.send(one).await;
        settle().await;
        server.send(other).await;
        let told = Instant::now();
        let mut asked = Vec::new();
        while asked.len() < 2 {
            let line = server.line().await;
            let (id, line) = line.split_once(' ').unwrap();
            match line {
                "/renew" => server.send(&format!("{id} ok;lease=60")).await,
                line => asked.push((line.to_owned(), told.elapsed().as_secs())),
            }
        }
        let [sooner, later] = &asked[..] else { panic!("{asked:?}") };
        assert!(sooner.1 <= 2 && (9..=18).contains(&later.1), "{asked:?}");
        assert_eq!(later.0.ends_with("zoo"), other.contains("9000"), "{asked:?}");
    }
}

/// [M192] The time goes on over a lost connection, and over one that the client was leaving.
#[tokio::test(start_paused = true)]
async fn a_topic_is_left_alone_over_connections() {
    for is_leaving in [false, true] {
        let (client, mut server, mut net) = connected().await;
        let _offers = subscribed(&client, &mut server, 1).await;
        drop(server);
        let mut server = net.greet().await;
        server.expect("2 /subscribe;from=e:18 offers").await;
        if is_leaving {
            server.send("* /bye shutdown").await;
        }
        let greeted = if is_leaving { Some(net.greet().await) } else { None };
        server.send("2 no;retry=9000 busy").await;
        settle().await;
        let told = Instant::now();
        drop(server);
        let mut next = match greeted {
            Some(next) => next,
            None => net.greet().await,
        };
        let mut line = next.line().await;
        while let Some(id) = line.strip_suffix(" /renew") {
            next.send(&format!("{id} ok;lease=60")).await;
            line = next.line().await;
        }
        assert!(line.ends_with(" /subscribe;from=e:18 offers"), "{line}");
        assert!((9..=18).contains(&told.elapsed().as_secs()), "{:?}", told.elapsed());
    }
}

/// [M123] Each connection with subscriptions is renewed, until its server has drawn the line.
#[tokio::test(start_paused = true)]
async fn the_connection_that_is_left_is_renewed() {
    let (client, mut server, mut net) = connected().await;
    let _offers = subscribed(&client, &mut server, 1).await;
    server.send("* /bye shutdown").await;
    let mut next = net.greet().await;
    let news = tokio::spawn(client.subscribe("news").into_future());
    next.expect("2 /subscribe news").await;
    next.send("2 ok;epoch=e;next=1;lease=60").await;
    let _news = news.await.unwrap().unwrap();
    let (old, new) = (server.line().await, next.line().await);
    assert!(old.ends_with(" /renew") && new.ends_with(" /renew"), "{old} {new}");
    server.send(&format!("{} ok;lease=60 offers:e:18", old.split(' ').next().unwrap())).await;
    next.send(&format!("{} ok;lease=60 news:e:1", new.split(' ').next().unwrap())).await;
    settle().await;
    assert_eq!(client.stats().violations, 0);
}
