//! How a client connects: which of several addresses it takes, how it treats those that do not
//! answer, and which errors it reports.

use std::{
    error::Error,
    future::pending,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, Connecting, ConnectionError, ConnectionEvent, Connector,
    Credentials, Finishing, NotSent, Resolving, protocol::Code,
};
use bellwire_testkit::{
    TcpServer,
    bound::bounded,
    dialogue::Peer,
    net::{HELLO, Net, builder, call, outcome, settle},
};
use socket2::{Domain, Socket, Type};
#[cfg(feature = "tls")]
use tokio::net::{TcpListener, TcpStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    task::JoinSet,
    time::Instant,
};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(at: Instant, began: Instant) -> u128 {
    (at - began).as_millis()
}

/// The second address is tried after 250 ms, connects, and comes first the next time. SECURITY.md,
/// threat 41.
#[tokio::test(start_paused = true)]
async fn an_unreachable_first_address_delays_by_the_head_start_only() {
    let (mut net, connector) = Net::new();
    let builder = Client::builder().addresses(["hole", "good"]).connector(connector);
    let connecting = tokio::spawn(builder.connect());
    let hole = net.attempt().await;
    let began = hole.at;
    let good = net.attempt().await;
    assert_eq!((good.address.as_str(), millis(good.at, began)), ("good", 250));
    let server = good.greet().await;
    let client = connecting.await.unwrap().unwrap();
    assert_eq!(millis(Instant::now(), began), 250);
    // The attempt that lost is dropped at once.
    assert!(hole.is_dropped());
    // After a loss without a `/bye`, the client tries the same address first, because it was the
    // last one.
    drop(server);
    let again = net.attempt().await;
    assert_eq!(again.address, "good");
    let mut server = again.greet().await;
    client.connected().await.unwrap();
    // It goes away: elsewhere first, whatever is there.
    server.send("* /bye;last=0 shutdown").await;
    let elsewhere = net.attempt().await;
    assert_eq!(elsewhere.address, "hole");
    let _server = elsewhere.greet().await;
    client.connected().await.unwrap();
}

/// Each address has a head start over the next. When one fails, the next begins at once.
#[tokio::test(start_paused = true)]
async fn addresses_are_raced() {
    let (mut net, connector) = Net::new();
    let builder = Client::builder().addresses(["a", "b", "c", "d"]).connector(connector);
    let client = builder.connect_lazily();
    let mut events = client.events();
    let a = net.attempt().await;
    let began = a.at;
    let b = net.attempt().await;
    assert_eq!(millis(b.at, began), 250);
    tokio::time::sleep(Duration::from_millis(100)).await;
    b.refuse();
    let c = net.attempt().await;
    assert_eq!(millis(c.at, began), 350);
    let d = net.attempt().await;
    assert_eq!(millis(d.at, began), 600);
    let _server = c.greet().await;
    client.connected().await.unwrap();
    assert!(a.is_dropped() && d.is_dropped());
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        seen.push(match event {
            ConnectionEvent::Connecting { address, attempt } => format!("{address} {attempt}"),
            ConnectionEvent::ConnectFailed { address, .. } => format!("{address} failed"),
            ConnectionEvent::Connected(_) => break,
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(seen, ["a 1", "b 2", "b failed", "c 3", "d 4"]);
}

/// A connected but silent server gets its share of the time, then the next one is tried. Each stage
/// has its own error.
#[tokio::test(start_paused = true)]
async fn a_silent_first_server_is_passed_over() {
    let (mut net, connector) = Net::new();
    let config = ClientConfig::new().connect_timeout(secs(3));
    let builder = Client::builder().addresses(["silent", "good"]).config(config);
    let connecting = tokio::spawn(builder.connector(connector).connect());
    let attempt = net.attempt().await;
    let began = attempt.at;
    let mut silent = attempt.accept(64);
    let good = net.attempt().await;
    assert_eq!((good.address.as_str(), millis(good.at, began)), ("good", 1_500));
    silent.expect_closed().await;
    let _server = good.greet().await;
    connecting.await.unwrap().unwrap();
}

/// A server that closes, that speaks another protocol, or that fails after its first line is passed
/// over.
#[tokio::test(start_paused = true)]
async fn a_failing_server_is_followed_by_the_next() {
    for first in ["", "SSH-2.0-x", "* /hello;version=2", "* /hello;version=1;lease=0"] {
        let (mut net, connector) = Net::new();
        let builder = Client::builder().addresses(["other", "good"]).connector(connector);
        let connecting = tokio::spawn(builder.connect());
        let mut other = net.attempt().await.accept(1 << 16);
        if first.is_empty() {
            drop(other);
        } else {
            other.send(first).await;
        }
        let _server = net.greet().await;
        connecting.await.unwrap().unwrap_or_else(|error| panic!("{first}: {error}"));
    }
}

/// The errors distinguish an address without a connection from a connected server that is silent.
#[tokio::test(start_paused = true)]
async fn each_stage_of_connecting_has_its_own_error() {
    let began = Instant::now();
    for is_accepted in [false, true] {
        let (builder, mut net) = builder();
        let connecting = tokio::spawn(builder.connect());
        let attempt = net.attempt().await;
        let held =
            if is_accepted { (Some(attempt.accept(64)), None) } else { (None, Some(attempt)) };
        let error = connecting.await.unwrap().unwrap_err();
        let (expected, says_tls) = match is_accepted {
            true => (ConnectionError::HandshakeTimeout, true),
            false => (ConnectionError::ConnectTimeout, false),
        };
        assert_eq!(error, expected);
        assert_eq!(error.to_string().contains("TLS"), says_tls, "{error}");
        drop(held);
    }
    assert_eq!(began.elapsed(), secs(20));
}

/// A transport that knows how many of its kind there are.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl Counted {
    fn new(io: DuplexStream, open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(io, open.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A connector of which each address is another fault.
struct Faulty {
    open: Arc<AtomicUsize>,
    lookups: Arc<AtomicUsize>,
    servers: Vec<Peer>,
    /// Whether it takes part in races.
    races: bool,
}

impl Faulty {
    fn new(races: bool) -> Self {
        let (open, lookups) = Default::default();
        Self { open, lookups, servers: Vec::new(), races }
    }

    /// A transport to a server that says hello.
    fn transport(&mut self) -> Counted {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut far = Peer::new(far);
        let open = self.open.clone();
        let greeting = far.send(HELLO);
        let mut greeting = Box::pin(greeting);
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        assert!(greeting.as_mut().poll(cx).is_ready());
        drop(greeting);
        self.servers.push(far);
        Counted::new(near, &open)
    }
}

impl Connector for Faulty {
    type Io = Counted;

    async fn connect(&mut self, address: &str) -> io::Result<Counted> {
        match address {
            "good" | "good-1" => Ok(self.transport()),
            "refused" => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => pending().await,
        }
    }

    fn resolve(&mut self, address: &str) -> Resolving {
        if address == "no resolver" {
            self.lookups.fetch_add(1, Ordering::Relaxed);
            return Box::pin(pending());
        }
        let found = match address {
            "name" => vec!["hole".to_owned(), "good-1".to_owned()],
            _ => vec![address.to_owned()],
        };
        Box::pin(std::future::ready(Ok(found)))
    }

    fn begin(&mut self, address: &str) -> Option<Connecting<Counted>> {
        if !self.races {
            return None;
        }
        let io = match address {
            "good" | "good-1" | "stalls" => Some(self.transport()),
            "hole" => None,
            _ => {
                return Some(Box::pin(std::future::ready(Err(
                    io::ErrorKind::ConnectionRefused.into()
                ))));
            }
        };
        let stalls = address == "stalls";
        Some(Box::pin(async move {
            let Some(io) = io else { return pending().await };
            let finishing = async move {
                if stalls {
                    return pending().await;
                }
                Ok(io)
            };
            Ok(Box::pin(finishing) as Finishing<Counted>)
        }))
    }
}

async fn connect(
    faulty: Faulty,
    addresses: &[&str],
) -> (Result<Client, ConnectionError>, Duration) {
    let began = Instant::now();
    let builder = Client::builder().addresses(addresses).connector(faulty);
    (builder.connect().await, began.elapsed())
}

/// The handshake of a transport is not raced, and has its own error. No transport is leaked.
#[tokio::test(start_paused = true)]
async fn a_stalled_handshake_is_passed_over() {
    let faulty = Faulty::new(true);
    let open = faulty.open.clone();
    let (client, took) = connect(faulty, &["stalls", "good"]).await;
    assert_eq!((client.is_ok(), took), (true, secs(5)));
    assert_eq!(open.load(Ordering::Relaxed), 1);
    drop(client);
    let (client, took) = connect(Faulty::new(true), &["stalls"]).await;
    assert_eq!((client.unwrap_err(), took), (ConnectionError::TlsTimeout, secs(10)));
}

/// A connector that cannot race tries one endpoint after the other, each within its share of the
/// time.
#[tokio::test(start_paused = true)]
async fn a_connector_without_racing_splits_the_time() {
    let (client, took) = connect(Faulty::new(false), &["hole", "refused", "hole", "good"]).await;
    // A quarter of 10 s; nothing; and half of what is left.
    assert_eq!((client.is_ok(), took), (true, Duration::from_millis(2_500 + 3_750)));
    let (client, took) = connect(Faulty::new(false), &["hole", "refused"]).await;
    let error = client.unwrap_err();
    assert!(matches!(error, ConnectionError::Io { .. }) && took == secs(5), "{error} {took:?}");
}

/// All endpoints of a name are raced. A name that is not resolved in time delays the others only
/// briefly.
#[tokio::test(start_paused = true)]
async fn names_are_raced_with_all_their_endpoints() {
    let (client, took) = connect(Faulty::new(true), &["name"]).await;
    assert_eq!((client.is_ok(), took), (true, Duration::from_millis(250)));
    let (client, took) = connect(Faulty::new(true), &["no resolver", "good"]).await;
    assert_eq!((client.is_ok(), took), (true, Duration::from_millis(250)));
}

/// A name with several endpoints, which stand in it behind commas; `none` is not found.
struct Named<C>(C);

impl<C: Connector> Connector for Named<C> {
    type Io = C::Io;

    async fn connect(&mut self, endpoint: &str) -> io::Result<C::Io> {
        self.0.connect(endpoint).await
    }

    fn resolve(&mut self, name: &str) -> Resolving {
        let found = match name {
            "none" => Err(io::ErrorKind::NotFound.into()),
            name => Ok(name.split(',').map(str::to_owned).collect()),
        };
        Box::pin(std::future::ready(found))
    }

    fn begin(&mut self, endpoint: &str) -> Option<Connecting<C::Io>> {
        self.0.begin(endpoint)
    }
}

fn named(names: &[&str], config: ClientConfig) -> (Client, Net) {
    let (net, connector) = Net::new();
    let builder = Client::builder().addresses(names).config(config);
    (builder.connector(Named(connector)).connect_lazily(), net)
}

/// A failed endpoint is tried after the others, until it connects again.
#[tokio::test(start_paused = true)]
async fn a_failed_endpoint_comes_last_until_it_connects() {
    let (client, mut net) = named(&["x,y"], ClientConfig::new());
    net.attempt_at("x").await.refuse();
    for (first, second) in [("y", ""), ("y", "x"), ("x", "y"), ("y", "x")] {
        let mut attempt = net.attempt_at(first).await;
        if !second.is_empty() {
            attempt.refuse();
            attempt = net.attempt_at(second).await;
        }
        let server = attempt.greet().await;
        client.connected().await.unwrap();
        drop(server);
    }
}

/// If the time of a round is over before an endpoint has answered, the next round begins with the
/// endpoints that were not tried.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_used_up_the_round_comes_last() {
    let config = ClientConfig::new().connect_timeout(Duration::from_millis(300));
    let (_client, mut net) = named(&["x,y,z"], config);
    let _first = [net.attempt_at("x").await, net.attempt_at("y").await];
    net.attempt_at("z").await;
}

/// A server's answer at one endpoint of an address applies to all endpoints of that address.
#[tokio::test(start_paused = true)]
async fn a_refusal_applies_to_all_endpoints_of_its_address() {
    let (client, mut net) = named(&["x,y", "b"], ClientConfig::new());
    net.attempt_at("x").await.accept(1 << 16).send("* /hello;version=2").await;
    let _server = net.attempt_at("b").await.greet().await;
    client.connected().await.unwrap();
}

/// An address fails when its last endpoint has failed, and is reported once.
#[tokio::test(start_paused = true)]
async fn an_address_fails_with_the_last_of_its_endpoints() {
    let (client, mut net) = named(&["x,y"], ClientConfig::new());
    let mut events = client.events();
    let x = net.attempt_at("x").await;
    net.attempt_at("y").await.refuse();
    settle().await;
    let mut seen = Vec::new();
    let mut next = async |count: usize| {
        while seen.len() < count {
            seen.push(events.next().await.expect("an event"));
        }
        seen.clone()
    };
    assert!(matches!(next(1).await[..], [ConnectionEvent::Connecting { .. }]));
    assert!(futures::poll!(pin!(next(2))).is_pending());
    x.refuse();
    assert!(matches!(next(2).await[1], ConnectionEvent::ConnectFailed { .. }));
}

/// A deadline names the failure of one endpoint, or of a name, while another attempt is under way.
#[tokio::test(start_paused = true)]
async fn a_deadline_names_an_endpoint_or_a_name_that_failed() {
    for (names, expected) in [
        (&["x,y"][..], io::ErrorKind::ConnectionRefused),
        (&["none", "y"], io::ErrorKind::NotFound),
    ] {
        let (client, mut net) = named(names, ClientConfig::new());
        if expected == io::ErrorKind::ConnectionRefused {
            net.attempt_at("x").await.refuse();
        }
        let _hole = net.attempt_at("y").await;
        let error = client.call("m", "").deadline(secs(1)).await.unwrap_err();
        let CallError::NotSent(NotSent::Deadline(Some(ConnectionError::Io { kind, .. }))) = error
        else {
            panic!("{error:?}")
        };
        assert_eq!(kind, expected);
    }
}

/// The credentials hook has the same time limit as every other step of connecting: before the first
/// address, and before another one.
#[tokio::test(start_paused = true)]
async fn a_hanging_credentials_hook_is_timed_out() {
    for given in [0, 1] {
        let (mut net, connector) = Net::new();
        let asked = AtomicUsize::new(0);
        let builder = Client::builder().addresses(["a", "b"]).connector(connector);
        let builder = builder.authenticate(Code::from_static("token"), move || {
            let is_given = asked.fetch_add(1, Ordering::Relaxed) < given;
            async move {
                match is_given {
                    true => Ok::<_, io::Error>(Credentials::from("x")),
                    false => pending().await,
                }
            }
        });
        let began = Instant::now();
        let connecting = tokio::spawn(builder.connect());
        if given > 0 {
            net.attempt_at("a").await.accept(1 << 16).send("* /hello;version=2").await;
            let _server = net.attempt_at("b").await.greet().await;
            let error = bounded("the error", connecting).await.unwrap().unwrap_err();
            assert_eq!(error, ConnectionError::HandshakeTimeout);
        } else {
            let error = bounded("the error", connecting).await.unwrap().unwrap_err();
            assert!(matches!(error, ConnectionError::Credentials(_)), "{error:?}");
        }
        assert_eq!(began.elapsed(), secs(10));
    }
}

/// A resolver that hangs ends with the attempt and has its own error. It is not called again in
/// each round.
#[tokio::test(start_paused = true)]
async fn a_hanging_resolver_is_timed_out() {
    let (client, took) = connect(Faulty::new(true), &["no resolver"]).await;
    assert_eq!(took, secs(10));
    let error = client.unwrap_err().to_string();
    assert!(error.contains("no resolver: the host's name was not resolved in time"), "{error}");
    let faulty = Faulty::new(true);
    let lookups = faulty.lookups.clone();
    let _client = Client::builder().address("no resolver").connector(faulty).connect_lazily();
    tokio::time::sleep(secs(600)).await;
    assert_eq!(lookups.load(Ordering::Relaxed), 1);
}

// Over sockets.

/// An address that swallows what would connect to it, with as much as fills its queue.
fn black_hole(address: SocketAddr) -> Vec<Socket> {
    let tcp = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let listening = tcp();
    listening.bind(&address.into()).unwrap();
    listening.listen(0).unwrap();
    let address = listening.local_addr().unwrap();
    let filling = (0..4).map(|_| {
        let one = tcp();
        one.set_nonblocking(true).unwrap();
        let _ = one.connect(&address);
        one
    });
    let mut held: Vec<_> = filling.collect();
    held.insert(0, listening);
    held
}

/// The same over TCP. SECURITY.md, threat 41.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_unreachable_first_address_is_raced_over_tcp() {
    let server = TcpServer::start(bellwire::Router::<()>::new()).await;
    let hole = black_hole("127.0.0.1:0".parse().unwrap());
    let hole = (hole[0].local_addr().unwrap().as_socket().unwrap(), hole);
    let builder = Client::builder().addresses([hole.0, server.address]);
    let client = bounded("the second address", builder.connect()).await.unwrap();
    bounded("a list", client.methods()).await.unwrap();
    // With a single address, the error differs from that of a silent server.
    let config = ClientConfig::new().connect_timeout(Duration::from_millis(300));
    let failed = bounded("the error", Client::connect_with(hole.0, config)).await;
    assert_eq!(failed.unwrap_err(), ConnectionError::ConnectTimeout);
}

/// No server at the connected address speaks TLS.
#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_handshakes_are_raced_and_have_their_own_error() {
    use bellwire::tls::rustls;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let roots = rustls::RootCertStore::empty();
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let hole = black_hole("127.0.0.1:0".parse().unwrap());
    let hole = (hole[0].local_addr().unwrap().as_socket().unwrap(), hole);
    let config = ClientConfig::new().connect_timeout(Duration::from_millis(1_500));
    let builder =
        Client::builder().addresses([hole.0, silent.local_addr().unwrap()]).config(config);
    let client = builder.tls("a.example".try_into().unwrap(), Arc::new(tls)).connect_lazily();
    let mut events = client.events();
    let mut errors = Vec::new();
    while errors.len() < 2 {
        if let Some(ConnectionEvent::ConnectFailed { error, .. }) =
            bounded("an event", events.next()).await
        {
            errors.push(error);
        }
    }
    // The one that is connected has half of what is left, and the other one the rest.
    assert_eq!(errors, [ConnectionError::TlsTimeout, ConnectionError::ConnectTimeout]);
    assert!(errors[0].to_string().contains("TLS"), "{}", errors[0]);
    let _: Option<TcpStream> = None;
}

// Why there is no connection.

/// Every kind of request ends with the reason, in its `source` and in its text.
#[tokio::test(start_paused = true)]
async fn an_expired_deadline_reports_why_there_is_no_connection() {
    let (builder, mut net) = builder();
    let client = builder.connect_lazily();
    let _refusing = tokio::spawn(async move {
        loop {
            net.attempt().await.refuse();
        }
    });
    let refused = |error: &CallError| {
        let source = error.source().expect("a source");
        let source = source.downcast_ref::<ConnectionError>().expect("the last error");
        assert!(
            matches!(source, ConnectionError::Io { kind, .. } if *kind == io::ErrorKind::ConnectionRefused)
        );
        assert!(error.to_string().contains("refused"), "{error}");
    };
    refused(&client.call("m", "").deadline(secs(1)).await.unwrap_err());
    refused(&client.publish("m", "").deadline(secs(1)).await.unwrap_err());
    refused(&client.methods().deadline(secs(1)).await.unwrap_err());
    refused(&client.subscribe("t").deadline(secs(1)).await.unwrap_err());
    refused(&client.one_way("m", "").deadline(secs(1)).await.unwrap_err().into());
    refused(&client.stream("m", "").deadline(secs(1)).next().await.unwrap().unwrap_err());
    let began = Instant::now();
    refused(&client.call("m", "").await.unwrap_err());
    assert_eq!(began.elapsed().as_secs(), 60);
    refused(&client.call("m", "").fail_fast().await.unwrap_err());
}

/// The cause of a failed attempt is visible while another attempt is in progress.
#[tokio::test(start_paused = true)]
async fn a_failure_is_visible_while_the_race_continues() {
    let (mut net, connector) = Net::new();
    let builder = Client::builder().addresses(["refused", "hole"]).connector(connector);
    let client = builder.connect_lazily();
    net.attempt().await.refuse();
    let _hole = net.attempt().await;
    let error = client.call("m", "").deadline(secs(1)).await.unwrap_err();
    assert!(matches!(
        error,
        CallError::NotSent(NotSent::Deadline(Some(ConnectionError::Io { .. })))
    ));
    // One that waits for nothing waits for the race all the same.
    let fast = tokio::spawn({
        let client = client.clone();
        async move { client.call("m", "").fail_fast().await }
    });
    settle().await;
    assert!(!fast.is_finished());
}

/// A lack of places in flight is not an error of the connection.
#[tokio::test(start_paused = true)]
async fn an_expired_deadline_with_a_connection_has_no_cause() {
    let (builder, mut net) = builder();
    let client = builder.config(ClientConfig::new().in_flight(1)).connect_lazily();
    net.attempt().await.refuse();
    let mut server = net.greet().await;
    client.connected().await.unwrap();
    let held = call(&client, "held");
    server.expect("1 m held").await;
    let error = client.call("m", "").deadline(secs(1)).await.unwrap_err();
    assert_eq!(error, NotSent::Deadline(None).into());
    assert!(error.source().is_none());
    server.send("1 ok").await;
    outcome(held).await.unwrap();
}

/// An invalid address is reported immediately, by every function.
#[tokio::test(start_paused = true)]
async fn an_invalid_address_is_reported_at_once() {
    let began = Instant::now();
    for address in ["127.0.0.1", "localhost:99999", "http://127.0.0.1:1", "::1:80"] {
        let invalid = |error: &ConnectionError| {
            assert!(matches!(error, ConnectionError::Address { .. }), "{error:?}");
            assert!(error.to_string().contains(address), "{error}");
        };
        invalid(&Client::connect(address).await.unwrap_err());
        // However many others there are.
        let builder = Client::builder().addresses(["127.0.0.1:1", address]);
        let client = builder.connect_lazily();
        match client.call("m", "").await.unwrap_err() {
            CallError::NotSent(NotSent::Lost(error)) => invalid(&error),
            other => panic!("{other:?}"),
        }
        let error = client.subscribe("t").await.unwrap_err();
        invalid(error.source().unwrap().downcast_ref().unwrap());
        invalid(&client.connected().await.unwrap_err());
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// A deadline is kept for a task outside the runtime, whose client is in one.
#[test]
fn a_call_outside_a_runtime_has_a_deadline() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.unwrap();
    let (near, _far) = tokio::io::duplex(64);
    let (client, connection) = Client::new(near, ClientConfig::new());
    let driver = runtime.spawn(connection);
    let builder = Client::builder().connector(|_: &str| pending::<io::Result<DuplexStream>>());
    let lazy = runtime.block_on(async { builder.connect_lazily() });
    for client in [lazy, client] {
        let call = client.call("m", "").deadline(Duration::from_millis(10));
        let error = futures::executor::block_on(call).unwrap_err();
        assert!(matches!(error, CallError::NotSent(_)), "{error:?}");
        let subscribe = client.subscribe("t").deadline(Duration::from_millis(10));
        assert!(futures::executor::block_on(subscribe.into_future()).is_err());
    }
    drop(driver);
}

/// With `fail_fast`, every kind of request that waits for the first attempt to connect ends when that
/// attempt fails, with its error.
#[tokio::test(start_paused = true)]
async fn fail_fast_ends_waiting_requests_when_the_first_attempt_fails() {
    failing_fast_end_with_the_first_attempt(ClientConfig::new().fail_fast(true), &requests()).await;
    failing_fast_end_with_the_first_attempt(ClientConfig::new(), &failing_fast()).await;
}

async fn failing_fast_end_with_the_first_attempt(config: ClientConfig, requests: &[Asking]) {
    for is_silent in [false, true] {
        let (builder, mut net) = builder();
        let client = builder.config(config.clone()).connect_lazily();
        let mut waiting = JoinSet::new();
        for &(name, request) in requests {
            let request = request(client.clone());
            waiting.spawn(async move { (name, request.await) });
        }
        settle().await;
        let attempt = net.attempt().await;
        let began = Instant::now();
        // A server that never says hello fails the attempt when its time is over.
        let _server = match is_silent {
            true => Some(attempt.accept(64)),
            false => {
                attempt.refuse();
                None
            }
        };
        while let Some(ended) = bounded("fail fast", waiting.join_next()).await {
            let (name, error) = ended.unwrap();
            let CallError::NotSent(NotSent::Lost(error)) = error else { panic!("{name}: {error}") };
            match is_silent {
                true => assert_eq!(error, ConnectionError::HandshakeTimeout, "{name}"),
                false => assert!(matches!(error, ConnectionError::Io { .. }), "{name}: {error:?}"),
            }
        }
        assert_eq!(began.elapsed(), secs(if is_silent { 10 } else { 0 }));
    }
}

type Request = Pin<Box<dyn Future<Output = CallError> + Send>>;

type Asking = (&'static str, fn(Client) -> Request);

/// The requests that can fail fast.
fn failing_fast() -> [Asking; 5] {
    [
        ("call", |it| Box::pin(async move { it.call("m", "").fail_fast().await.unwrap_err() })),
        ("publish", |it| {
            Box::pin(async move { it.publish("t", "").fail_fast().await.unwrap_err() })
        }),
        ("one_way", |it| {
            Box::pin(async move { it.one_way("m", "").fail_fast().await.unwrap_err().into() })
        }),
        ("methods", |it| Box::pin(async move { it.methods().fail_fast().await.unwrap_err() })),
        ("stream", |it| {
            let next = async move { it.stream("m", "").fail_fast().next().await };
            Box::pin(async move { next.await.expect("an item").unwrap_err() })
        }),
    ]
}

/// Every kind of request, as a future of its error.
fn requests() -> [Asking; 6] {
    [
        ("call", |it| Box::pin(async move { it.call("m", "").await.unwrap_err() })),
        ("publish", |it| Box::pin(async move { it.publish("t", "").await.unwrap_err() })),
        ("one_way", |it| Box::pin(async move { it.one_way("m", "").await.unwrap_err().into() })),
        ("methods", |it| Box::pin(async move { it.methods().await.unwrap_err() })),
        ("subscribe", |it| Box::pin(async move { it.subscribe("t").await.unwrap_err() })),
        ("stream", |it| {
            Box::pin(async move { it.stream("m", "").next().await.unwrap().unwrap_err() })
        }),
    ]
}
