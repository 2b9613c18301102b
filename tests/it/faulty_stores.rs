//! Topic stores that return invalid values, panic, or are always ready; and listeners that panic.
// SECURITY.md, threat 42.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    Listener, PublishError, Published, Router, Server, ServerConfig,
    protocol::{Code, Cursor, Epoch, MAX_NUMBER, Position, Topic, Window},
    server::PeerAddr,
    topic::{BoxFuture, Read, Room, TopicReader, TopicStats, TopicStore, Unavailable},
};
use bellwire_testkit::{PipeServer, RawPeer};
use bytes::Bytes;
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot},
    time::{advance, timeout},
};

const MAX_LINE: usize = 2_048;

type Step = fn(&mut Vec<u8>, Room) -> Read;

/// A store that answers as a test has it: what it holds, time after time, and one step.
#[derive(Clone)]
struct Scripted {
    windows: Vec<Window>,
    steps: Vec<Step>,
    asked: usize,
}

impl TopicStore for Scripted {
    fn append(&self, _: &Topic, _: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        unreachable!("nothing is published")
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        match topic.as_str() {
            "t" => Box::new(self.clone()),
            // The one beside it tells the truth.
            _ => Box::new(Self { windows: vec![window(1, 1)], steps: vec![truth], asked: 0 }),
        }
    }
}

impl TopicReader for Scripted {
    fn poll_window(&mut self, _: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        let window = self.windows[self.asked.min(self.windows.len() - 1)];
        self.asked += 1;
        Poll::Ready(Ok(window))
    }

    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        _: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        match self.steps.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(Ok(self.steps.remove(0)(out, room))),
        }
    }
}

fn epoch(name: &str) -> Epoch {
    Epoch::new(name).unwrap()
}

fn window(first: u64, next: u64) -> Window {
    Window { epoch: epoch("e"), first, next }
}

fn router() -> Router {
    Router::new().method("echo", async |payload: Bytes| payload)
}

fn truth(out: &mut Vec<u8>, _: Room) -> Read {
    out.extend_from_slice(b"* u 1 x\n");
    Read::Copied { last: 1 }
}

fn line(out: &mut Vec<u8>, line: &[u8]) -> Read {
    out.extend_from_slice(line);
    Read::Copied { last: 8 }
}

fn gap(last: u64) -> Read {
    Read::Gap { last, reason: Code::RETENTION }
}

fn reset(name: &str, next: u64) -> Read {
    Read::Reset(Position { epoch: epoch(name), next })
}

async fn serving(windows: Vec<Window>, steps: Vec<Step>) -> (PipeServer, RawPeer<DuplexStream>) {
    let store = Scripted { windows, steps, asked: 0 };
    let server = PipeServer::over(store, router(), ServerConfig::new().max_line(MAX_LINE));
    let peer = server.connect().await;
    (server, peer)
}

/// The wrong windows, each with its name.
fn wrong_windows() -> [(&'static str, Window); 6] {
    [
        ("no number at all", window(0, 0)),
        ("no first number", window(0, 8)),
        ("the first behind the next", window(9, 8)),
        ("the end of time", window(1, u64::MAX)),
        ("past the last number", window(1, MAX_NUMBER + 1)),
        ("nothing but the end", window(u64::MAX, u64::MAX)),
    ]
}

/// The store returns an invalid window when the subscription begins. SECURITY.md, threat 42.
#[tokio::test(start_paused = true)]
async fn an_invalid_store_window_refuses_only_its_subscription() {
    for (name, wrong) in wrong_windows() {
        let (server, mut peer) = serving(vec![wrong], Vec::new()).await;
        let terms = ["", ";from=e:1", ";from=f:9", ";window=1;slow=latest"];
        for (id, terms) in (1..).zip(terms) {
            peer.send(format!("{id} /subscribe{terms} t\n")).await;
            let line = peer.line().await;
            assert_eq!(line, Some(format!("{id} no busy\n")), "{name}{terms}");
        }
        peer.ask("90 echo a\n", "90 ok a\n").await;
        assert_eq!(server.handle.stats().store_failures, 4, "{name}");
    }
}

/// The window is read again before only the latest message is delivered.
#[tokio::test(start_paused = true)]
async fn a_later_invalid_store_window_ends_only_its_subscription() {
    let fallen = [("fallen", window(1, 8)), ("emptied", window(1, 1))];
    for (name, wrong) in wrong_windows().into_iter().chain(fallen) {
        let first: Step = |out, _| line(out, b"* t 8 x\n");
        let (server, mut peer) = serving(vec![window(5, 8), wrong], vec![first]).await;
        peer.send("1 /subscribe;window=1;slow=latest t\n").await;
        peer.expect("1 ok;epoch=e;next=8;head=7;lease=60\n* t 8 x\n").await;
        peer.send("2 /ack t e:9\n").await;
        peer.expect("2 ok\n").await;
        let end = peer.line().await;
        assert_eq!(end.as_deref(), Some("* /end t closed e:9\n"), "{name}");
        peer.ask("3 echo a\n", "3 ok a\n").await;
        assert_eq!(server.handle.stats().store_failures, 1, "{name}");
    }
}

/// A subscriber with `slow=close` is ended when retention overtakes it. Messages that the store
/// leaves out for another reason are reported to it in a gap, and do not end it.
#[tokio::test(start_paused = true)]
async fn a_gap_of_the_store_does_not_trigger_slow_close() {
    let compacted: Step = |_, _| Read::Gap { last: 9, reason: Code::from_static("compacted") };
    let (_server, mut peer) = serving(vec![window(5, 8)], vec![compacted]).await;
    peer.send("1 /subscribe;window=1;slow=close t\n").await;
    peer.expect("1 ok;epoch=e;next=8;head=7;lease=60\n* /gap t e 8 9 compacted\n").await;
    peer.ask("2 /renew\n", "2 ok;lease=60 t:e:10\n").await;
}

fn wrong_steps() -> Vec<(&'static str, Step)> {
    vec![
        ("the end of time", |_, _| Read::Copied { last: u64::MAX }),
        ("past the last number", |_, _| Read::Copied { last: MAX_NUMBER }),
        ("a number that fell", |_, _| Read::Copied { last: 7 }),
        ("number 0", |_, _| Read::Copied { last: 0 }),
        ("a line too few", |_, _| Read::Copied { last: 8 }),
        ("one of two lines", |out, _| {
            line(out, b"* t 8 x\n");
            Read::Copied { last: 9 }
        }),
        ("a line too many", |out, _| line(out, b"* t 8 x\n* t 9 x\n")),
        ("no LF", |out, _| line(out, b"* t 8 x")),
        ("half a line behind it", |out, _| line(out, b"* t 8 x\n* t 9")),
        ("an embedded LF", |out, _| line(out, b"* t 8 x\ny\n")),
        ("an empty line", |out, _| line(out, b"\n")),
        ("a line that is too long", |out, _| {
            line(out, format!("* t 8 {}\n", "x".repeat(MAX_LINE)).as_bytes())
        }),
        ("another topic's line", |out, _| line(out, b"* u 8 x\n")),
        ("a longer topic's line", |out, _| line(out, b"* tt 8 x\n")),
        ("the number before", |out, _| line(out, b"* t 7 x\n")),
        ("the number behind", |out, _| line(out, b"* t 9 x\n")),
        ("no number", |out, _| line(out, b"* t x\n")),
        ("a number with a zero", |out, _| line(out, b"* t 08 x\n")),
        ("a reply", |out, _| line(out, b"9 ok x\n")),
        ("a notice", |out, _| line(out, b"* /bye idle\n")),
        ("an attribute", |out, _| line(out, b"* t;a=b 8 x\n")),
        ("a raw CR", |out, _| line(out, b"* t 8 x\r\n")),
        ("a pair that is none", |out, _| line(out, b"* t 8 \x10x\n")),
        ("others' lines taken away", |out, _| {
            out.clear();
            Read::Copied { last: 8 }
        }),
        ("more lines than it may", |out, room| {
            for number in 8..=8 + room.lines.min(4) {
                line(out, format!("* t {number} x\n").as_bytes());
            }
            Read::Copied { last: 8 + room.lines.min(4) }
        }),
        ("more bytes than it may", |out, _| {
            for number in 8..=107 {
                line(out, format!("* t {number} {}\n", "x".repeat(1_024)).as_bytes());
            }
            Read::Copied { last: 107 }
        }),
        ("a gap to the end of time", |_, _| gap(u64::MAX)),
        ("a gap past the last number", |_, _| gap(MAX_NUMBER)),
        ("a gap that fell", |_, _| gap(7)),
        ("a gap of nothing", |_, _| gap(0)),
        ("a gap beside lines", |out, _| {
            line(out, b"* t 8 x\n");
            gap(8)
        }),
        ("a reset to the same log", |_, _| reset("e", 9)),
        ("a reset to before", |_, _| reset("e", 1)),
        ("a reset to nothing", |_, _| reset("f", 0)),
        ("a reset to the end of time", |_, _| reset("f", u64::MAX)),
        ("a reset past the last number", |_, _| reset("f", MAX_NUMBER + 1)),
        ("a reset beside lines", |out, _| {
            line(out, b"* t 8 x\n");
            reset("f", 1)
        }),
    ]
}

/// Each invalid step ends its subscription, and none of its lines is written. Everything else on
/// the connection goes on. SECURITY.md, threat 42.
#[tokio::test(start_paused = true)]
async fn an_invalid_store_step_ends_only_its_subscription() {
    for (name, step) in wrong_steps() {
        let terms = if name == "more lines than it may" { ";window=1" } else { "" };
        let (server, mut peer) = serving(vec![window(5, 8)], vec![step]).await;
        peer.send(format!("1 /subscribe{terms} t\n2 echo a\n")).await;
        peer.expect("1 ok;epoch=e;next=8;head=7;lease=60\n2 ok a\n").await;
        let end = peer.line().await;
        assert_eq!(end.as_deref(), Some("* /end t closed e:8\n"), "{name}");
        peer.send("3 /subscribe;from=e:1 u\n").await;
        peer.expect("3 ok;epoch=e;next=1;head=0;lease=60\n* u 1 x\n").await;
        peer.ask("4 /renew\n5 echo b\n", "4 ok;lease=60 u:e:2\n5 ok b\n").await;
        let stats = server.handle.stats();
        assert_eq!((stats.store_failures, stats.panics, stats.gaps), (1, 0, 0), "{name}");
    }
}

/// The greatest numbers, and lines with every valid part, are delivered.
#[tokio::test(start_paused = true)]
async fn valid_store_output_at_the_limits_is_delivered() {
    let steps: Vec<Step> = vec![
        |out, _| line(out, b"* t 8 \x10P\x10J\x10M \xff\n"),
        |_, _| gap(11),
        |out, _| {
            line(out, b"* t 12\n* t 13 x\n");
            Read::Copied { last: 13 }
        },
        |_, _| reset("f", 3),
        |_, _| gap(MAX_NUMBER - 1),
    ];
    let (server, peer) = serving(vec![window(5, 8)], steps).await;
    let mut peer = RawPeer::new(peer.io);
    peer.send("1 /subscribe t\n").await;
    peer.expect("1 ok;epoch=e;next=8;head=7;lease=60\n").await;
    assert_eq!(peer.bytes(15).await, b"* t 8 \x10P\x10J\x10M \xff\n");
    peer.expect("* /gap t e 9 11 retention\n* t 12\n* t 13 x\n* /reset t f:3\n").await;
    peer.expect(format!("* /gap t f 3 {} retention\n", MAX_NUMBER - 1)).await;
    peer.ask("2 /renew\n", format!("2 ok;lease=60 t:f:{MAX_NUMBER}\n")).await;
    assert_eq!(server.handle.stats().store_failures, 0);
}

/// A store whose numbers are what the topic says, or that panics.
struct Numbers;

impl TopicStore for Numbers {
    fn append(&self, topic: &Topic, _: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        let sequence = match topic.as_str() {
            "zero" => 0,
            "past" => MAX_NUMBER + 1,
            "end" => u64::MAX,
            "last" => MAX_NUMBER,
            "made" => panic!("made"),
            _ => return Box::pin(async { panic!("polled") }),
        };
        Box::pin(async move { Ok(Published::new(epoch("e"), sequence)) })
    }

    fn open(&self, _: &Topic) -> Box<dyn TopicReader> {
        unreachable!("nobody subscribes")
    }

    fn close(&self, topic: &Topic) -> BoxFuture<Result<Option<Position>, Unavailable>> {
        let end = match topic.as_str() {
            "none" => None,
            "zero" => Some(0),
            "first" => Some(1),
            "last" => Some(MAX_NUMBER),
            "past" => Some(MAX_NUMBER + 1),
            "end" => Some(u64::MAX),
            "made" => panic!("made"),
            _ => return Box::pin(async { panic!("polled") }),
        };
        let end = end.map(|next| Position { epoch: epoch("e"), next });
        Box::pin(async move { Ok(end) })
    }

    fn topics(&self) -> usize {
        panic!("counted")
    }

    fn topic_stats(&self) -> Vec<TopicStats> {
        panic!("listed")
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_or_misnumbers_fails_the_publish() {
    let config = ServerConfig::new().allow_publish(true);
    let server = PipeServer::over(Numbers, router(), config);
    let mut peer = server.connect().await;
    for (id, topic) in (1_u64..).zip(["zero", "past", "end", "made", "polled"]) {
        let published = server.publisher.publish(topic, "x").await;
        assert!(matches!(published, Err(PublishError::Unavailable(_))), "{topic}: {published:?}");
        let answer = if ["made", "polled"].contains(&topic) { "err internal" } else { "cut lost" };
        peer.ask(format!("{id} /publish {topic} x\n"), format!("{id} {answer}\n")).await;
    }
    let published = server.publisher.publish("last", "x").await;
    assert_eq!(published, Ok(Published::new(epoch("e"), MAX_NUMBER)));
    assert_eq!(published.map(Published::position), Ok(None), "nothing follows it");
    peer.ask("9 echo a\n", "9 ok a\n").await;
    assert_eq!(server.handle.stats().topics, 0);
    assert_eq!(server.handle.topics(), []);
}

/// The store must return a position of the protocol as the end of the log.
#[tokio::test(start_paused = true)]
async fn closing_a_topic_fails_without_a_valid_end_position() {
    let server = PipeServer::over(Numbers, router(), ServerConfig::new());
    for topic in ["zero", "past", "end", "made", "polled"] {
        let closed = server.publisher.close(topic).await;
        assert!(matches!(closed, Err(PublishError::Unavailable(_))), "{topic}: {closed:?}");
    }
    for (topic, next) in [("none", None), ("first", Some(1)), ("last", Some(MAX_NUMBER))] {
        let end = next.map(|next| Position { epoch: epoch("e"), next });
        assert_eq!(server.publisher.close(topic).await, Ok(end), "{topic}");
    }
}

/// A store that never rests: it wakes each waiting task at once, or returns one gap after the
/// other.
struct Restless;

struct RestlessReader(String);

impl TopicStore for Restless {
    fn append(&self, _: &Topic, _: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        unreachable!("nothing is published")
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        Box::new(RestlessReader(topic.to_string()))
    }
}

impl TopicReader for RestlessReader {
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        if self.0 == "opening" {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(window(1, 1)))
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cursor: Cursor,
        _: Room,
        _: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        if self.0 == "gaps" {
            return Poll::Ready(Ok(gap(cursor.position.next)));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// On one thread, other requests are answered, and deadlines fire.
#[tokio::test]
async fn a_store_that_is_always_ready_does_not_starve_others() {
    for topic in ["waking", "opening", "gaps"] {
        let config = ServerConfig::new().handler_time(Duration::from_millis(50));
        let server = PipeServer::over(Restless, router(), config);
        let mut peer = server.connect().await;
        peer.send(format!("1 /subscribe {topic}\n")).await;
        let beside = async {
            let mut other = server.connect().await;
            for id in 1..=100 {
                other.ask(format!("{id} echo a\n"), format!("{id} ok a\n")).await;
            }
            let answer = peer.line().await.unwrap_or_default();
            match topic {
                "opening" => assert_eq!(answer, "1 no busy\n"),
                _ => assert!(answer.starts_with("1 ok;"), "{answer}"),
            }
            // Its own connection goes on, too.
            peer.send("2 echo b\n").await;
            while peer.line().await.is_some_and(|line| line != "2 ok b\n") {}
        };
        assert!(timeout(Duration::from_secs(60), beside).await.is_ok(), "{topic}");
    }
}

/// A listener that panics wherever it can, time after time, before each connection.
struct Panicky {
    pipes: mpsc::UnboundedReceiver<DuplexStream>,
    calls: Arc<AtomicUsize>,
}

impl Listener for Panicky {
    type Io = DuplexStream;

    fn accept(&mut self) -> impl Future<Output = io::Result<(DuplexStream, PeerAddr)>> + Send {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) % 3;
        assert_ne!(call, 0, "made");
        async move {
            assert_ne!(call, 1, "polled");
            match self.pipes.recv().await {
                Some(io) => Ok((io, PeerAddr::Other("pipe".into()))),
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        panic!("asked where");
    }

    fn is_exposed(&self) -> bool {
        panic!("asked whether");
    }
}

impl Drop for Panicky {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// The server continues, pauses as after an accept error, and stops in order, even if the stop
/// signal itself panics. SECURITY.md, threat 42.
#[tokio::test(start_paused = true)]
async fn a_panicking_listener_does_not_end_the_server() {
    for signal_panics in [false, true] {
        let (connect, pipes) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let calls = Arc::new(AtomicUsize::new(0));
        let server = Server::new(Panicky { pipes, calls: calls.clone() });
        let signal = async move {
            let _ = stopped.await;
            assert!(!signal_panics, "the signal");
        };
        let serving =
            tokio::spawn(server.serve(router()).with_graceful_shutdown(signal).into_future());
        let mut peers = Vec::new();
        for _ in 0..3 {
            let (ours, theirs) = tokio::io::duplex(65_536);
            connect.send(theirs).expect("the server serves");
            let mut peer = RawPeer::new(ours);
            peer.hello().await;
            peer.ask("1 echo a\n", "1 ok a\n").await;
            peers.push(peer);
        }
        assert!((9..=12).contains(&calls.load(Ordering::Relaxed)), "{calls:?}");
        drop(stop);
        for mut peer in peers {
            peer.expect("* /bye shutdown\n* /bye;last=1 shutdown\n").await;
            peer.expect_closed().await;
        }
        advance(Duration::from_secs(1)).await;
        assert!(serving.await.expect("no panic").is_ok());
    }
}
