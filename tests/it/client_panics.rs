//! Panics of user code that the client runs (the list is in ARCHITECTURE.md). Each panic is
//! reported as a failed attempt or as the end of a reader, and the client continues. Callbacks come
//! last.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientBuilder, ClientConfig, CodecError, Connecting, ConnectionError,
    ConnectionEvent, ConnectionEvents, Connector, Credentials, Decode, Delivery, Encode, Resolving,
    protocol::Code,
};
use bellwire_testkit::{
    dialogue::Peer,
    net::{self, Net, builder, call, connected, next, outcome},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    time::{Instant, timeout},
};
use tracing::{
    Event, Metadata, Subscriber,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};

const LONG: Duration = Duration::from_secs(600);

/// The first attempt to connect fails by such a panic, and the next one goes well.
async fn fails_once<C: Connector>(builder: ClientBuilder<C>, net: &mut Net, panicked: &str) {
    let client = builder.connect_lazily();
    let mut events = client.events();
    let waiting = call(&client, "x");
    let begun = Instant::now();
    let failure = loop {
        match timeout(LONG, events.next()).await.expect("an event").expect("no end") {
            ConnectionEvent::ConnectFailed { error, .. }
            | ConnectionEvent::Disconnected { error, .. } => break error,
            _ => {}
        }
    };
    match &failure {
        ConnectionError::Panicked { what, message } if *what == panicked => {
            assert_eq!(message, "as planned");
        }
        other => panic!("{other:?}"),
    }
    let mut server = net.greet().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "one pause of the backoff at most");
    server.expect("1 m x").await;
    server.send("1 ok y").await;
    assert_eq!(outcome(waiting).await.unwrap(), "y");
}

/// Panics when it is dropped, once.
struct Bomb(Arc<AtomicBool>);

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!self.0.swap(false, SeqCst), "as planned");
    }
}

#[derive(Clone, Copy, PartialEq)]
enum When {
    Called,
    Polled,
    Dropped,
}

/// What goes wrong at the first attempt to connect.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Check,
    Resolve(When),
    Begin(When),
    /// The second step of what `begin` gave.
    Finish(When),
    Connector(When),
    /// It never ends, and panics when it is dropped.
    GivenUp,
    /// The text of its error.
    Text,
    Transport(Step),
}

/// Connects as another does, but for one fault.
struct Faulty<C>(C, Option<Fault>);

/// A step that goes wrong; when it is dropped, it has done its work.
fn wrong_step<T: Send + 'static>(
    when: When,
    done: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Pin<Box<dyn Future<Output = io::Result<T>> + Send>> {
    assert!(when != When::Called, "as planned");
    let bomb = Bomb(Arc::new(AtomicBool::new(when == When::Dropped)));
    Box::pin(async move {
        let _bomb = bomb;
        assert!(when != When::Polled, "as planned");
        done()
    })
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ConnectionRefused.into())
}

impl<C: Connector<Io = DuplexStream> + Sync> Connector for Faulty<C> {
    type Io = PanicIo;

    fn check(&self, _: &str) -> Result<(), String> {
        assert!(self.1 != Some(Fault::Check), "as planned");
        Ok(())
    }

    fn limit_unsent(io: &PanicIo, _: usize) -> io::Result<()> {
        io.at(Step::Limit);
        Ok(())
    }

    fn resolve(&mut self, address: &str) -> Resolving {
        let names = vec![address.to_owned()];
        match self.1.take_if(|fault| matches!(fault, Fault::Resolve(_))) {
            Some(Fault::Resolve(when)) => wrong_step(when, || Ok(names)),
            _ => Box::pin(std::future::ready(Ok(names))),
        }
    }

    fn begin(&mut self, _: &str) -> Option<Connecting<PanicIo>> {
        match self.1.take_if(|fault| matches!(fault, Fault::Begin(_) | Fault::Finish(_))) {
            Some(Fault::Begin(when)) => Some(wrong_step(when, refused)),
            Some(Fault::Finish(When::Called)) => Some(wrong_step(When::Polled, refused)),
            Some(Fault::Finish(when)) => {
                Some(Box::pin(async move { Ok(wrong_step(when, refused)) }))
            }
            _ => None,
        }
    }

    fn connect(&mut self, address: &str) -> impl Future<Output = io::Result<PanicIo>> + Send {
        let fault = self.1.take();
        assert!(fault != Some(Fault::Connector(When::Called)), "as planned");
        let is_armed = matches!(fault, Some(Fault::Connector(When::Dropped) | Fault::GivenUp));
        let bomb = Bomb(Arc::new(AtomicBool::new(is_armed)));
        async move {
            let _bomb = bomb;
            let step = match fault {
                Some(Fault::Connector(When::Polled)) => panic!("as planned"),
                Some(Fault::Connector(_)) => return Err(io::ErrorKind::ConnectionRefused.into()),
                Some(Fault::GivenUp) => std::future::pending().await,
                Some(Fault::Text) => return Err(io::Error::other(Silent)),
                Some(Fault::Transport(step)) => Some(step),
                _ => None,
            };
            let bomb = Bomb(Arc::new(AtomicBool::new(step.is_some())));
            Ok(PanicIo(self.0.connect(address).await?, step, bomb))
        }
    }
}

fn faulty(fault: Fault) -> (ClientBuilder<impl Connector<Io = PanicIo>>, Net) {
    let (net, connector) = Net::new();
    (Client::builder().address("a").connector(Faulty(connector, Some(fault))), net)
}

/// An error whose text panics.
#[derive(Debug)]
struct Silent;

impl std::fmt::Display for Silent {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("as planned")
    }
}

impl std::error::Error for Silent {}

#[tokio::test(start_paused = true)]
async fn a_connector_that_panics_is_a_failed_attempt() {
    let steps = [Fault::Resolve, Fault::Begin, Fault::Finish, Fault::Connector];
    for step in steps {
        for when in [When::Called, When::Polled, When::Dropped] {
            let (builder, mut net) = faulty(step(when));
            fails_once(builder, &mut net, "connector").await;
        }
    }
}

/// If the connector panics while it checks an address or sets an optional socket setting, the
/// attempt continues.
#[tokio::test(start_paused = true)]
async fn a_connector_panic_in_an_optional_step_is_ignored() {
    for fault in [Fault::Check, Fault::Transport(Step::Limit)] {
        let (builder, mut net) = faulty(fault);
        let client = builder.connect_lazily();
        let _server = net.greet().await;
        timeout(LONG, client.connected()).await.unwrap().unwrap();
    }
}

/// Without retries, the panic is the error of `connect`.
#[tokio::test(start_paused = true)]
async fn connect_returns_a_panic_of_the_connector() {
    let connector = |_: &str| async {
        assert!(Instant::now().elapsed() > LONG, "as planned");
        Ok(tokio::io::duplex(64).0)
    };
    let error = Client::builder().connector(connector).connect().await.unwrap_err();
    let expected = ConnectionError::Panicked { what: "connector", message: "as planned".into() };
    assert_eq!(error, expected);
    assert_eq!(error.to_string(), "the connector panicked: as planned");
}

/// An attempt that takes too long is dropped, and that may panic too.
#[tokio::test(start_paused = true)]
async fn a_connector_panic_on_drop_fails_the_attempt() {
    let (builder, mut net) = faulty(Fault::GivenUp);
    let client = builder.connect_lazily();
    let _server = net.greet().await;
    timeout(LONG, client.connected()).await.unwrap().unwrap();
}

/// The `Display` of a connector's error is user code, too.
#[tokio::test(start_paused = true)]
async fn a_panic_while_formatting_an_error_fails_the_attempt() {
    let (builder, mut net) = faulty(Fault::Text);
    fails_once(builder, &mut net, "connector").await;
}

#[derive(Clone, Copy, PartialEq)]
enum Step {
    Limit,
    Read,
    Write,
    Flush,
}

/// A transport that panics at a step, once, and when it is dropped.
struct PanicIo(DuplexStream, Option<Step>, #[allow(dead_code, reason = "dropped")] Bomb);

impl PanicIo {
    fn at(&self, step: Step) {
        assert!(self.1 != Some(step), "as planned");
    }
}

impl AsyncRead for PanicIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.at(Step::Read);
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PanicIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.at(Step::Write);
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.at(Step::Flush);
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A panic while reading, writing or flushing ends that connection and no other.
#[tokio::test(start_paused = true)]
async fn a_transport_that_panics_ends_its_connection() {
    for step in [Step::Read, Step::Write, Step::Flush] {
        let (builder, mut net) = faulty(Fault::Transport(step));
        let client = builder.connect_lazily();
        let mut events = client.events();
        let waiting = call(&client, "x");
        let first = net.greet().await;
        let error = timeout(LONG, lost(&mut events)).await.expect("it is told");
        let expected = ConnectionError::panicked_transport();
        assert_eq!(error, expected, "{:?}", step as u8);
        let mut server = net.greet().await;
        drop(first);
        // What was offered to the first may have run.
        match step {
            Step::Read => {
                server.expect("1 m x").await;
                server.send("1 ok y").await;
                assert_eq!(outcome(waiting).await.unwrap(), "y");
            }
            Step::Limit | Step::Write | Step::Flush => match outcome(waiting).await {
                Err(CallError::Unknown(_)) => {}
                other => panic!("{other:?}"),
            },
        }
        client.connected().await.unwrap();
    }
}

trait Expected {
    fn panicked_transport() -> Self;
}

impl Expected for ConnectionError {
    fn panicked_transport() -> Self {
        Self::Panicked { what: "transport", message: "as planned".into() }
    }
}

/// Why an attempt failed, or a connection was lost.
async fn lost(events: &mut ConnectionEvents) -> ConnectionError {
    loop {
        match events.next().await.expect("no end") {
            ConnectionEvent::ConnectFailed { error, .. }
            | ConnectionEvent::Disconnected { error, .. } => return error,
            _ => {}
        }
    }
}

/// The driver of a client of one connection ends with the same error as everything on it.
#[tokio::test(start_paused = true)]
async fn a_transport_panic_is_the_error_of_a_single_connection() {
    let (near, _far) = tokio::io::duplex(64);
    let io = PanicIo(near, Some(Step::Read), Bomb(Arc::new(AtomicBool::new(true))));
    let (client, connection) = Client::new(io, ClientConfig::new());
    assert_eq!(connection.await, Err(ConnectionError::panicked_transport()));
    assert_eq!(client.connected().await, Err(ConnectionError::panicked_transport()));
}

const TOKEN: Code = Code::from_static("token");

#[tokio::test(start_paused = true)]
async fn a_credentials_hook_that_panics_is_a_failed_attempt() {
    for when in [When::Called, When::Polled, When::Dropped] {
        let (mut net, connector) = Net::new();
        let mut first = Some(when);
        let hook = move || {
            let when = first.take();
            assert!(when != Some(When::Called), "as planned");
            let bomb = Bomb(Arc::new(AtomicBool::new(when == Some(When::Dropped))));
            async move {
                let _bomb = bomb;
                assert!(when != Some(When::Polled), "as planned");
                Ok::<_, io::Error>(Credentials::from("secret"))
            }
        };
        let builder = Client::builder().connector(connector).authenticate(TOKEN, hook);
        fails_once(builder, &mut net, "credentials hook").await;
    }
}

/// Panics for the payload `panic`, when it encodes and when it decodes.
struct Fragile;

impl Encode<str> for Fragile {
    fn encode(&self, value: &str, payload: &mut Vec<u8>) -> Result<(), CodecError> {
        assert_ne!(value, "panic", "as planned");
        payload.extend(value.bytes());
        Ok(())
    }
}

impl Decode<String> for Fragile {
    fn decode(&self, payload: &[u8]) -> Result<String, CodecError> {
        assert_ne!(payload, b"boom", "as planned");
        Ok(String::from_utf8(payload.to_vec())?)
    }
}

fn is_panic(error: &CallError) -> bool {
    let (CallError::Encode(text) | CallError::Decode(text)) = error else { return false };
    text.as_str().contains("the codec panicked") && text.as_str().contains("as planned")
}

#[tokio::test(start_paused = true)]
async fn a_codec_panic_is_an_encode_or_decode_error() {
    let (client, mut server, _net) = connected().await;
    let unsent = client.request_with::<_, _, String>(Fragile, "m", "panic").await;
    assert!(matches!(&unsent, Err(error @ CallError::Encode(_)) if is_panic(error)), "{unsent:?}");
    let mut unsent = client.request_stream_with::<_, _, String>(Fragile, "m", "panic");
    let item = unsent.next().await;
    assert!(matches!(&item, Some(Err(error @ CallError::Encode(_))) if is_panic(error)));
    assert!(unsent.next().await.is_none());

    let answer = async {
        server.expect("1 m a").await;
        server.send("1 ok boom").await;
        server.expect("2 m a").await;
        server.send("2 ok boom").await;
        server.expect("3 m a").await;
        server.send("3 more fine\n3 more boom").await;
        server.expect("* /cancel 3").await;
        server.send("3 cut cancelled").await;
    };
    let calls = async {
        let reply = client.request_with::<_, _, String>(Fragile, "m", "a").await;
        assert!(matches!(&reply, Err(error @ CallError::Decode(_)) if is_panic(error)));
        let reply = client.request_with::<_, _, String>(Fragile, "m", "a").replied().await;
        assert!(matches!(&reply, Err(error @ CallError::Decode(_)) if is_panic(error)));
        let mut items = client.request_stream_with::<_, _, String>(Fragile, "m", "a");
        assert_eq!(items.next().await.unwrap().unwrap(), "fine");
        let item = items.next().await;
        assert!(matches!(&item, Some(Err(error @ CallError::Decode(_))) if is_panic(error)));
        assert!(items.next().await.is_none());
    };
    timeout(LONG, futures::future::join(answer, calls)).await.unwrap();
    net::settle().await;
    assert_eq!(client.stats().in_flight, 0);
}

/// A resync that panics at any point has failed: its subscription ends, and no other.
#[tokio::test(start_paused = true)]
async fn a_resync_that_panics_ends_its_subscription() {
    for when in [When::Called, When::Polled, When::Dropped] {
        let (client, mut server, _net) = connected().await;
        let resync = move |_| {
            assert!(when != When::Called, "as planned");
            let bomb = Bomb(Arc::new(AtomicBool::new(when == When::Dropped)));
            async move {
                let _bomb = bomb;
                assert!(when != When::Polled, "as planned");
                Ok::<_, io::Error>(())
            }
        };
        let subscribing = tokio::spawn(client.subscribe("offers").resync(resync).into_future());
        accept(&mut server, 1, "offers").await;
        let mut offers = subscribing.await.unwrap().unwrap();
        let (mut events, seen) = (client.events(), offers.seen("e:99".parse().unwrap()));
        server.send("* /gap offers e 1 2 retention").await;
        assert!(matches!(next(&mut offers).await, Delivery::Gap(_)));
        match events.next().await {
            Some(ConnectionEvent::ResyncPanicked { topic, message }) => {
                assert_eq!((topic.as_str(), &message[..]), ("offers", "as planned"));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(next(&mut offers).await, Delivery::End { .. }));
        assert!(!seen.await);
        server.expect("2 /unsubscribe offers").await;
        server.send("2 ok").await;
        let waiting = call(&client, "x");
        server.expect("3 m x").await;
        server.send("3 ok y").await;
        assert_eq!(outcome(waiting).await.unwrap(), "y");
    }
}

async fn accept(server: &mut Peer, id: u64, topic: &str) {
    let line = server.line().await;
    assert!(line.starts_with(&format!("{id} /subscribe")) && line.ends_with(topic), "{line}");
    server.send(&format!("{id} ok;epoch=e;next=1;head=0;lease=60")).await;
}

/// A `tracing` subscriber that panics at one step. It is the default of one thread only.
struct FaultySubscriber(SubscriberFault);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SubscriberFault {
    Enabled,
    NewSpan,
    Record,
    Event,
    Enter,
    Exit,
    CloneSpan,
    CloseSpan,
}

impl FaultySubscriber {
    fn at(&self, step: SubscriberFault) {
        if self.0 == step {
            panic!("as planned");
        }
    }
}

impl Subscriber for FaultySubscriber {
    /// Any thread may call this, so it does not panic.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        self.at(SubscriberFault::Enabled);
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        self.at(SubscriberFault::NewSpan);
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {
        self.at(SubscriberFault::Record);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.at(SubscriberFault::Event);
    }

    fn enter(&self, _: &Id) {
        self.at(SubscriberFault::Enter);
    }

    fn exit(&self, _: &Id) {
        self.at(SubscriberFault::Exit);
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.at(SubscriberFault::CloneSpan);
        id.clone()
    }

    fn try_close(&self, _: Id) -> bool {
        self.at(SubscriberFault::CloseSpan);
        true
    }
}

/// The client connects, calls, loses its connection and gets another one, whatever the subscriber does.
#[tokio::test(start_paused = true)]
async fn a_tracing_subscriber_that_panics_does_not_end_the_client() {
    use SubscriberFault::*;
    for step in [Enabled, NewSpan, Record, Event, Enter, Exit, CloneSpan, CloseSpan] {
        let _log = bellwire_testkit::logs::capture(FaultySubscriber(step));
        let (builder, mut net) = builder();
        let client = builder.connect_lazily();
        net.attempt().await.refuse();
        let mut server = net.greet().await;
        let lost = call(&client, "lost");
        server.expect("1 m lost").await;
        drop(server);
        assert!(matches!(outcome(lost).await, Err(CallError::Unknown(_))), "{step:?}");
        let mut server = net.greet().await;
        let asked = call(&client, "asked");
        server.expect("2 m asked").await;
        server.send("2 ok yes").await;
        assert_eq!(outcome(asked).await.unwrap(), "yes", "{step:?}");
        drop(client);
        server.expect("3 /quit").await;
        server.send("3 ok").await;
        drop(server);
        net.expect_over().await;
    }
}

/// A waker that panics: that of an executor of the user's.
struct Rude;

impl Wake for Rude {
    fn wake(self: Arc<Self>) {
        panic!("as planned");
    }
}

/// The driver wakes calls, streams, subscriptions and event listeners. A waker that panics affects
/// no other.
#[tokio::test(start_paused = true)]
async fn a_panicking_waker_affects_no_other() {
    let (client, mut server, _net) = connected().await;
    let waker = Waker::from(Arc::new(Rude));
    let mut cx = Context::from_waker(&waker);
    let mut rude = std::pin::pin!(client.call("m", "rude"));
    assert!(rude.as_mut().poll(&mut cx).is_pending());
    let mut items = client.stream("m", "rude");
    assert!(std::pin::pin!(items.next()).poll(&mut cx).is_pending());
    let mut events = client.events();
    assert!(std::pin::pin!(events.next()).poll(&mut cx).is_pending());
    let waiting = call(&client, "x");
    for line in ["1 m rude", "2 m rude", "3 m x"] {
        server.expect(line).await;
    }
    server.send("9 ok unmatched\n2 more a\n1 ok z\n3 ok y").await;
    assert_eq!(outcome(waiting).await.unwrap(), "y");
    assert_eq!(rude.await.unwrap(), "z");
}
