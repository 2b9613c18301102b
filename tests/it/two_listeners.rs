//! One server with two listeners.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    Client, Delivery, Listener, Router, Server,
    server::{Both, Either, PeerAddr, Principal},
};
use bellwire_testkit::bound::bounded;
use tokio::{
    io::{DuplexStream, duplex},
    net::{TcpListener, UnixListener},
};

/// Clients over TCP and over a Unix socket call the same methods and get the same messages.
#[tokio::test]
async fn clients_of_both_listeners_share_methods_and_topics() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let unix = UnixListener::bind(&path).expect("a socket");
    let address = tcp.local_addr().expect("an address").to_string();

    let server = Server::new(Both::new(tcp, unix));
    assert_eq!(server.local_addr().expect("the first one's").to_string(), address);
    let publisher = server.publisher();
    let router = Router::new().method("echo", async |payload: bytes::Bytes| payload);
    let task = tokio::spawn(server.serve(router).into_future());

    let first = bounded("TCP", Client::connect(&address)).await.expect("connected");
    let second = bounded("Unix", Client::connect_unix(&path)).await.expect("connected");
    let clients = [first, second];
    let mut subscriptions = Vec::new();
    for client in &clients {
        let reply = bounded("a reply", client.call("echo", "hi")).await.expect("a reply");
        assert_eq!(&reply[..], b"hi");
        subscriptions.push(
            bounded("a topic", client.subscribe("news").into_future()).await.expect("subscribed"),
        );
    }
    publisher.publish("news", "one").await.expect("published");
    for subscription in &mut subscriptions {
        let delivery = bounded("a message", subscription.next()).await;
        let Some(Delivery::Notification(message)) = delivery else { panic!("{delivery:?}") };
        assert_eq!(&message.payload[..], b"one");
    }
    task.abort();
}

/// Yields connections without end if `is_busy`, else one and no more.
struct Source {
    is_busy: bool,
    has_one: bool,
    name: &'static str,
}

impl Source {
    fn busy(name: &'static str) -> Self {
        Self { is_busy: true, has_one: true, name }
    }

    fn quiet(name: &'static str) -> Self {
        Self { is_busy: false, has_one: true, name }
    }
}

impl Listener for Source {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
        if !std::mem::replace(&mut self.has_one, self.is_busy) {
            std::future::pending().await
        }
        Ok((duplex(1).0, PeerAddr::Other(self.name.into())))
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other(self.name.into()))
    }
}

/// The connections of a listener that always has one do not keep the other's waiting, whichever of
/// the two it is. Where only one has connections, none of them is lost.
#[tokio::test]
async fn two_listeners_take_turns() {
    let both = [
        Both::new(Source::busy("busy"), Source::quiet("quiet")),
        Both::new(Source::quiet("quiet"), Source::busy("busy")),
    ];
    for mut both in both {
        let mut names = Vec::new();
        for _ in 0..4 {
            names.push(bounded("a connection", both.accept()).await.expect("one").1.to_string());
        }
        assert!(names[..2].contains(&"quiet".to_owned()), "{names:?}");
        assert_eq!(names.iter().filter(|name| *name == "busy").count(), 3, "{names:?}");
    }
}

/// Counts what it is asked about its connections.
struct Asked<const MARK: usize>;

static ASKED: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

impl<const MARK: usize> Listener for Asked<MARK> {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
        std::future::pending().await
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("asked".into()))
    }

    fn prepare(_: &DuplexStream, _: Option<Duration>) -> io::Result<()> {
        ASKED[0].fetch_add(MARK, Ordering::Relaxed);
        Ok(())
    }

    fn limit_unsent(_: &DuplexStream, bytes: usize) -> io::Result<()> {
        ASKED[1].fetch_add(MARK * bytes, Ordering::Relaxed);
        Ok(())
    }

    fn poll_handshake(_: &mut DuplexStream, _: &mut Context<'_>) -> Poll<io::Result<Principal>> {
        ASKED[2].fetch_add(MARK, Ordering::Relaxed);
        Poll::Ready(Ok(Principal::new(MARK.to_string())))
    }
}

/// Each connection is prepared, limited and identified by its own listener.
#[test]
fn each_connection_is_handled_by_its_own_listener() {
    type Pair = Both<Asked<1>, Asked<100>>;
    let counts = || ASKED.each_ref().map(|count| count.load(Ordering::Relaxed));
    let context = &mut Context::from_waker(std::task::Waker::noop());
    let first = (Either::First(duplex(1).0), "1", [1, 2, 1]);
    let second = (Either::Second(duplex(1).0), "100", [101, 202, 101]);
    for (mut io, mark, asked) in [first, second] {
        Pair::prepare(&io, None).expect("prepared");
        Pair::limit_unsent(&io, 2).expect("limited");
        let Poll::Ready(who) = Pair::poll_handshake(&mut io, context) else { panic!("pending") };
        assert_eq!(who.expect("identified").name(), Some(mark));
        assert_eq!(counts(), asked);
    }
}

/// A pair is exposed if either part is.
#[tokio::test]
async fn a_pair_is_exposed_if_either_part_is() {
    async fn at(address: &str) -> TcpListener {
        TcpListener::bind(address).await.expect("a free port")
    }
    const HERE: &str = "127.0.0.1:0";
    const ANYWHERE: &str = "0.0.0.0:0";
    for (first, second) in [(HERE, HERE), (HERE, ANYWHERE), (ANYWHERE, HERE)] {
        let both = Both::new(at(first).await, at(second).await);
        assert_eq!(both.is_exposed(), [first, second].contains(&ANYWHERE), "{first} {second}");
    }
}
