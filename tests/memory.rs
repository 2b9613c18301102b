//! What floods cost in memory, and what they leave to others: bytes allocated, and counts.
//!
//! A test binary of its own, since it counts what the whole process allocates. The transports take
//! the measure at every read and write of a driver, so also in the middle of its work.

use std::{
    alloc::System,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicIsize, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    Client, ClientConfig, Listener, Publisher, Router, Server, ServerConfig, handler,
    server::PeerAddr,
};
use bellwire_testkit::RawPeer;
use bytes::Bytes;
use futures::future::join_all;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    sync::mpsc,
    task::yield_now,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test at a time: they count the same allocator.
static ALONE: Mutex<()> = Mutex::new(());
static PEAK: AtomicIsize = AtomicIsize::new(0);

/// What one read of a driver takes at most.
const SCRATCH: usize = 64 * 1024;
/// What one poll of the server's reads at most, whatever is there.
const WORK: usize = 4 * SCRATCH;
/// What the test itself, the runtime and the transports' bookkeeping may take meanwhile.
const SLACK: usize = 16 * 1024;

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that are allocated now.
fn live() -> isize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated) as isize
}

fn sample() {
    PEAK.fetch_max(live(), Ordering::Relaxed);
}

/// Starts a new measure; what is allocated at its beginning.
fn begin() -> isize {
    let base = live();
    PEAK.store(base, Ordering::Relaxed);
    base
}

/// The most that was allocated since [`begin`], over what was allocated then.
fn grown(base: isize) -> usize {
    sample();
    usize::try_from(PEAK.load(Ordering::Relaxed) - base).unwrap_or(0)
}

/// A driver's end of a pipe: takes the measure, and counts what the driver reads.
struct Measured {
    io: DuplexStream,
    read: Arc<AtomicUsize>,
}

impl AsyncRead for Measured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        sample();
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        self.read.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Measured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        sample();
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

async fn wait(payload: Bytes) -> Bytes {
    std::future::pending::<()>().await;
    payload
}

struct Pipes(mpsc::UnboundedReceiver<Measured>);

impl Listener for Pipes {
    type Io = Measured;

    async fn accept(&mut self) -> io::Result<(Measured, PeerAddr)> {
        match self.0.recv().await {
            Some(io) => Ok((io, PeerAddr::Other("pipe".into()))),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("pipe".into()))
    }
}

struct Measuring {
    connect: mpsc::UnboundedSender<Measured>,
    publisher: Publisher,
}

impl Measuring {
    fn start(config: ServerConfig) -> Self {
        let (connect, pipes) = mpsc::unbounded_channel();
        let server = Server::new(Pipes(pipes)).config(config);
        let publisher = server.publisher();
        let router = Router::new()
            .method("echo", async |payload: Bytes| payload)
            .method("blob", async || Bytes::from_static(&[b'b'; 2_000]))
            .method("wait", wait)
            .method("task", handler(wait).spawned());
        tokio::spawn(server.serve(router).into_future());
        Self { connect, publisher }
    }

    /// A connection whose `/hello` was read, and the count of what the server reads of it.
    async fn connect(&self, size: usize) -> (RawPeer<DuplexStream>, Arc<AtomicUsize>) {
        let (ours, io) = tokio::io::duplex(size);
        let read = Arc::new(AtomicUsize::new(0));
        assert!(self.connect.send(Measured { io, read: read.clone() }).is_ok());
        let mut peer = RawPeer::new(ours);
        peer.hello().await;
        (peer, read)
    }
}

/// Runs a test as a task: what `block_on` polls itself has fewer turns than those.
fn run(test: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async { tokio::spawn(test).await.expect("no panic") });
}

/// The limits that bound a connection's memory, as the server is told them.
#[derive(Clone, Copy)]
struct Limits {
    reply_mark: usize,
    max_line: usize,
    in_flight: usize,
}

impl Limits {
    const DEFAULT: Self = Self { reply_mark: 256 * 1024, max_line: 65_535, in_flight: 1_024 };
    const SMALL: Self = Self { reply_mark: 8 * 1024, max_line: 4 * 1024, in_flight: 16 };

    fn config(self) -> ServerConfig {
        let config = ServerConfig::new().reply_mark(self.reply_mark).max_line(self.max_line);
        config.in_flight(self.in_flight).notification_mark(self.reply_mark / 4)
    }

    /// What a connection may cost, by what it was told, when each request in flight has a payload
    /// of `payload` bytes:
    ///
    /// - answers that wait to be written: twice the mark for replies, and one line over it;
    /// - the unfinished line, the one at which reading stopped, and those that wait for a place;
    /// - what one read took behind that;
    /// - for each place its payload, and half a KiB for handler, waker and slot.
    fn budget(self, payload: usize) -> usize {
        let outbound = 2 * self.reply_mark + self.max_line;
        let parked = self.max_line.max(64 * 1024);
        outbound + 2 * self.max_line + parked + SCRATCH + self.in_flight * (payload + 512)
    }
}

/// Lines without end, of a peer that reads nothing; `n` counts them.
struct Flood {
    name: &'static str,
    /// What each request in flight holds.
    payload: usize,
    line: fn(usize) -> String,
}

static FLOODS: [Flood; 13] = [
    Flood { name: "requests", payload: 0, line: |n| format!("{n} echo\n") },
    Flood { name: "unread replies", payload: 0, line: |n| format!("{n} blob\n") },
    Flood { name: "echoes", payload: 0, line: |n| format!("{n} echo {:900}\n", n) },
    Flood { name: "waiting", payload: 900, line: |n| format!("{n} wait {:900}\n", n) },
    Flood { name: "pairs", payload: 0, line: |n| format!("{n} wait\n* /cancel {n}\n") },
    Flood { name: "tasks", payload: 900, line: |n| format!("{n} task {:900}\n", n) },
    Flood { name: "task pairs", payload: 0, line: |n| format!("{n} task\n* /cancel {n}\n") },
    Flood { name: "one-ways", payload: 900, line: |n| format!("* wait {:900}\n", n) },
    Flood { name: "empty lines", payload: 0, line: |_| "\n".to_owned() },
    Flood { name: "bad lines", payload: 0, line: |n| format!("x{n}\n") },
    Flood { name: "bad requests", payload: 0, line: |n| format!("{n} nosuch;a=b \x10x\n") },
    Flood { name: "renewals", payload: 0, line: |n| format!("{n} /renew\n* /cancel 1\n") },
    Flood { name: "lists", payload: 0, line: |n| format!("{n} /methods\n") },
];

/// Writes all of `bytes`, or until the server takes no more; a clean client asks meanwhile, one
/// call per turn, and gets every reply.
async fn flood_beside(
    hostile: &mut DuplexStream,
    bytes: &[u8],
    clean: &mut RawPeer<DuplexStream>,
    asked: &mut u64,
) -> usize {
    let (mut taken, mut idle) = (0, 0);
    while taken < bytes.len() && idle < 100 {
        match futures::poll!(std::pin::pin!(hostile.write(&bytes[taken..]))) {
            Poll::Ready(Ok(count)) => (taken, idle) = (taken + count, 0),
            Poll::Ready(Err(_)) => break,
            Poll::Pending => idle += 1,
        }
        *asked += 1;
        let turns = turns_until_answer(clean, *asked).await;
        assert!(turns <= 8, "a clean call took {turns} turns of the scheduler");
    }
    taken
}

/// How many turns of the scheduler a call takes whose reply is read.
async fn turns_until_answer(clean: &mut RawPeer<DuplexStream>, id: u64) -> usize {
    clean.send(format!("{id} echo clean\n")).await;
    let expected = format!("{id} ok clean\n");
    let mut line = std::pin::pin!(clean.line());
    for turn in 1.. {
        yield_now().await;
        if let Poll::Ready(line) = futures::poll!(line.as_mut()) {
            assert_eq!(line.as_deref(), Some(&*expected));
            return turn;
        }
    }
    unreachable!("turns do not end");
}

async fn try_flood(flood: &'static Flood, limits: Limits, pipe: usize) {
    // The runtime's own queue grows with the tasks there ever were at once, and is not a peer's.
    join_all((0..2_048).map(|_| tokio::spawn(async {}))).await;
    let server = Measuring::start(limits.config());
    let (mut clean, _) = server.connect(1_024).await;
    let (mut hostile, _) = server.connect(pipe).await;
    // The first line must be well-formed.
    hostile.ask("1 echo\n", "1 ok\n").await;
    let bytes: String = (2..6_000).map(flood.line).collect();
    let bytes = &bytes.as_bytes()[..bytes.len().min(64 * 1024 + 3 * limits.budget(0))];
    let mut asked = 0;
    turns_until_answer(&mut clean, 1).await;
    asked += 1;
    let base = begin();
    flood_beside(&mut hostile.io, bytes, &mut clean, &mut asked).await;
    let grown = grown(base);
    // What is in the pipe is the transport's; it doubles as it grows.
    let most = limits.budget(flood.payload) * 3 / 2 + 4 * pipe + SLACK;
    assert!(grown <= most, "{}: {grown} bytes of {most}, pipe of {pipe}", flood.name);
    drop(hostile);
    // While all places are taken nothing is read, so that a peer that is gone shows when its
    // handlers end: after 30 s, on the paused clock, as often as what was read fills the places.
    let mut left = usize::MAX;
    for _ in 0..100 {
        if left <= SLACK {
            break;
        }
        asked += 1;
        tokio::time::sleep(Duration::from_secs(40)).await;
        turns_until_answer(&mut clean, asked).await;
        left = usize::try_from(live() - base).unwrap_or(0);
    }
    assert!(left <= SLACK, "{}: {left} bytes are left", flood.name);
}

/// In each kind of flood, in pieces of any size, memory is bounded by the announced limits, and is
/// released afterwards. A clean client beside it gets every reply, in a few turns. SECURITY.md,
/// threats 3, 6, 7, 8 and 9.
#[test]
fn floods_stay_within_the_announced_limits() {
    let _alone = alone();
    for flood in &FLOODS {
        for pipe in [64, 4_096, 256 * 1024] {
            run(try_flood(flood, Limits::SMALL, pipe));
        }
        run(try_flood(flood, Limits::DEFAULT, 256 * 1024));
    }
}

/// The server holds at most `max_line` of a line without an end. SECURITY.md, threat 3.
#[test]
fn an_endless_line_takes_the_memory_of_one_line() {
    let _alone = alone();
    for limits in [Limits::SMALL, Limits::DEFAULT] {
        run(async move {
            let server = Measuring::start(limits.config());
            let (mut clean, _) = server.connect(1_024).await;
            let (mut hostile, read) = server.connect(1_024).await;
            hostile.ask("1 echo\n", "1 ok\n").await;
            let before = read.load(Ordering::Relaxed);
            let bytes = vec![b'x'; 4 * limits.max_line];
            let mut asked = 0;
            let base = begin();
            flood_beside(&mut hostile.io, &bytes, &mut clean, &mut asked).await;
            let grown = grown(base);
            assert!(grown <= 2 * limits.max_line + SLACK, "{grown} bytes");
            hostile.line().await.filter(|line| line.contains("line-too-long")).expect("the fault");
            // Behind the limit it is read on to be thrown away, so that the fault arrives.
            assert!(read.load(Ordering::Relaxed) - before >= limits.max_line);
        });
    }
}

/// A subscriber that does not read takes at most the notification mark, however much is published
/// and however many topics it has: its cursors wait, and the log belongs to the topic. SECURITY.md,
/// threat 27.
#[test]
fn a_slow_subscriber_takes_at_most_the_notification_mark() {
    let _alone = alone();
    run(async move {
        let limits = Limits::SMALL;
        let config = limits.config().retained_messages(16).subscriptions(64);
        let server = Measuring::start(config);
        let (mut clean, _) = server.connect(1_024).await;
        let (mut slow, _) = server.connect(64).await;
        let payload = "x".repeat(1_000);
        for id in 1..=64 {
            // The logs are the topics', and full before the measure begins.
            for _ in 0..32 {
                server.publisher.publish(format!("t{id}").as_str(), payload.clone()).await.unwrap();
            }
            slow.send(format!("{id} /subscribe t{id}\n")).await;
            slow.attribute("epoch").await;
        }
        let base = begin();
        for round in 1..=200 {
            for id in 1..=64 {
                server.publisher.publish(format!("t{id}").as_str(), payload.clone()).await.unwrap();
            }
            turns_until_answer(&mut clean, round).await;
        }
        let grown = grown(base);
        // 200 rounds are 12 MiB.
        let most = (limits.reply_mark / 4 + 1_024) * 2 + SLACK;
        assert!(grown <= most, "{grown} bytes of {most}");
    });
}

/// The work of one poll is bounded: on one thread, a call of a clean client waits for at most a few
/// reads of a flood, though megabytes of it are ready. SECURITY.md, threat 6.
#[test]
fn a_flood_does_not_delay_other_connections() {
    let _alone = alone();
    run(async move {
        let server = Measuring::start(ServerConfig::new());
        let (mut clean, _) = server.connect(1_024).await;
        let (hostile, read) = server.connect(4 << 20).await;
        let (mut from, mut to) = tokio::io::split(hostile.io);
        let replies = tokio::spawn(async move {
            let mut sink = vec![0; 1 << 20];
            let mut all = 0;
            while let Ok(count @ 1..) = from.read(&mut sink).await {
                all += count;
            }
            all
        });
        let flood: String = (1..=200_000).map(|n| format!("{n} echo\n")).collect();
        let (length, answers) = (flood.len(), flood.replace("echo", "ok").len());
        let writing = tokio::spawn(async move {
            to.write_all(flood.as_bytes()).await.unwrap();
            to.shutdown().await.unwrap();
        });
        let (mut id, mut most) = (0, 0);
        while read.load(Ordering::Relaxed) < length {
            id += 1;
            let before = read.load(Ordering::Relaxed);
            let turns = turns_until_answer(&mut clean, id).await;
            assert!(turns <= 4, "{turns} turns");
            most = most.max((read.load(Ordering::Relaxed) - before).div_ceil(turns));
        }
        // One poll of it may lie before the clean connection's, and one behind.
        assert!(most <= 2 * WORK, "{most} bytes of a flood in one turn");
        assert!(id >= (length / (8 * WORK)) as u64, "{id} clean calls");
        writing.await.unwrap();
        assert_eq!(replies.await.unwrap(), answers);
    });
}

/// A hostile server makes a client hold at most its limits: a line, and what an unread stream and
/// unread events may hold. SECURITY.md, threats 13 and 14.
#[test]
fn a_hostile_server_cannot_exhaust_a_client() {
    const INBOX: usize = 64 * 1024;
    const ITEMS: usize = 256;
    const MAX_LINE: usize = 8 * 1024;
    type Line = fn(usize) -> String;
    let floods: [(&str, Line); 6] = [
        ("notifications", |n| format!("* t {n} {:1000}\n", n)),
        ("topics nobody asked for", |n| format!("* t{n} {n} {:1000}\n", n)),
        ("replies nobody asked for", |n| format!("{} ok {:1000}\n", 1_000 + n, n)),
        ("errors", |n| format!("* /error malformed {:1000}\n", n)),
        ("gaps", |n| format!("* /gap t e {n} {n} retention\n")),
        ("resets", |n| format!("* /reset t e{n}:1\n")),
    ];
    let _alone = alone();
    for (name, line) in floods {
        run(async move {
            let (near, far) = tokio::io::duplex(4_096);
            let config = ClientConfig::new().inbox_items(ITEMS).inbox_bytes(INBOX);
            let config = config.max_line(MAX_LINE);
            let io = Measured { io: near, read: Arc::default() };
            let (client, connection) = Client::new(io, config);
            let _driver = tokio::spawn(connection);
            let mut server = RawPeer::new(far);
            server.send("* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=8192;in-flight=16;lease=60\n").await;
            client.connected().await.unwrap();
            let _events = client.events();
            let subscribing = client.subscribe("t").into_future();
            let (subscription, ()) = tokio::join!(subscribing, async {
                // Its own hello, since its limit is not the default, and then the topic.
                while !server.line().await.unwrap().contains("/subscribe") {}
                server.send("1 ok;version=1\n2 ok;epoch=e;next=1;head=0;lease=60\n").await;
            });
            let _unread = subscription.unwrap();
            let bytes: String = (1..=2_000).map(line).collect();
            let base = begin();
            for piece in bytes.as_bytes().chunks(2_048) {
                if server.io.write_all(piece).await.is_err() {
                    break;
                }
                yield_now().await;
            }
            let grown = grown(base);
            // 256 events hold a text each; what the pipe holds is the transport's.
            let budget = MAX_LINE + INBOX + ITEMS * 256 + SCRATCH + 256 * 1_200;
            assert!(grown <= budget + 4 * 4_096 + SLACK, "{name}: {grown} bytes of {budget}");
        });
    }
}

/// A client that has read its server's hello.
async fn measured_client(config: ClientConfig, pipe: usize) -> (Client, RawPeer<DuplexStream>) {
    let (near, far) = tokio::io::duplex(pipe);
    let io = Measured { io: near, read: Arc::default() };
    let (client, connection) = Client::new(io, config);
    tokio::spawn(connection);
    let mut server = RawPeer::new(far);
    server.send("* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=16;lease=60\n").await;
    client.connected().await.unwrap();
    (client, server)
}

/// However many replies of a few bytes one poll of the driver reads, they are completed in batches.
#[test]
fn tiny_replies_are_completed_in_batches() {
    const BATCH: usize = 1_024;
    let _alone = alone();
    run(async move {
        let flood = "9 ok\n".repeat(200_000);
        let (client, mut server) = measured_client(ClientConfig::new(), flood.len()).await;
        let base = begin();
        server.send(&flood).await;
        while client.stats().unasked_replies < 200_000 {
            yield_now().await;
        }
        // Twice a batch, as they are gathered and as they find nobody; and what the pipe holds.
        let (grown, budget) = (grown(base), flood.len() + SCRATCH + 2 * BATCH * 128 + SLACK);
        assert!(grown <= budget, "{grown} bytes of {budget}");
    });
}

/// A list whose caller is gone takes no memory, though the server continues it.
#[test]
fn an_abandoned_list_is_not_collected() {
    let _alone = alone();
    run(async move {
        let (client, mut server) = measured_client(ClientConfig::new(), 4_096).await;
        let item = format!("1 more {}\n", "m".repeat(1_000));
        let base = {
            let mut listing = Box::pin(client.methods());
            assert!(futures::poll!(listing.as_mut()).is_pending());
            assert_eq!(server.line().await.as_deref(), Some("1 /methods\n"));
            for _ in 0..1_000 {
                server.send(&item).await;
            }
            begin()
        };
        for _ in 0..3_000 {
            server.send(&item).await;
        }
        yield_now().await;
        let grown = usize::try_from(live() - base).unwrap_or(0);
        assert!(grown <= SLACK, "{grown} bytes");
        // Nor is what was gathered kept.
        assert!(base - live() >= 1_000_000, "{} bytes are kept", live() - base);
    });
}

/// A client subscribed to so many topics, each with one notification that is not read; what it holds
/// for them, beside what the stream of all of them holds.
async fn unread(topics: usize, all: bool) -> usize {
    let config = ClientConfig::new().inbox_items(16).missed_topics(64);
    let (client, mut server) = measured_client(config, 1 << 16).await;
    let unread = all.then(|| client.notifications());
    let mut subscriptions = Vec::with_capacity(topics);
    for n in 0..topics {
        let mut subscribing = client.subscribe(&format!("t{n}")).into_future();
        assert!(futures::poll!(subscribing.as_mut()).is_pending());
        let line = server.line().await.unwrap();
        let id = line.split(' ').next().unwrap();
        server.send(format!("{id} ok;epoch=e;next=1;head=0;lease=60\n")).await;
        subscriptions.push(subscribing.await.unwrap());
    }
    let base = live();
    for n in 0..topics {
        server.send(format!("* t{n} 1\n")).await;
    }
    while client.stats().notifications < topics as u64 {
        yield_now().await;
    }
    let grown = usize::try_from(live() - base).unwrap_or(0);
    drop((unread, subscriptions));
    grown
}

/// The memory of an unread broadcast stream is bounded, for any number of topics. SECURITY.md,
/// threat 14.
#[test]
fn an_unread_broadcast_stream_is_bounded() {
    let _alone = alone();
    run(async move {
        let (without, with) = (unread(10_000, false).await, unread(10_000, true).await);
        let grown = with.saturating_sub(without);
        let budget = 64 * 400 + 16 * 200 + SLACK;
        assert!(grown <= budget, "{grown} bytes of {budget}");
    });
}

/// What one more of something adds to the worst case that a configuration states.
fn stated(more: impl Fn(ServerConfig, usize) -> ServerConfig) -> usize {
    let config = || ServerConfig::new().connections(1).max_line(1_024).subscriptions(0).topics(0);
    more(config(), 2).worst_case_bytes() - more(config(), 1).worst_case_bytes()
}

/// What is stated must be enough for what was measured, and not twice of it.
fn judge(what: &str, stated: usize, measured: usize) {
    assert!(measured <= stated, "{what}: {measured} bytes, and {stated} are stated");
    assert!(stated <= 2 * measured, "{what}: {stated} bytes are stated, and it is {measured}");
}

/// A topic with the longest name.
fn long_name(kind: &str, n: usize) -> String {
    format!("{kind}.{n:0width$}", width = 127 - kind.len())
}

/// What a server says that it may take is derived from what it takes: connections at rest; topics;
/// subscriptions with the longest names, to topics with and without a log, with as many runs in their
/// windows as there can be.
#[test]
fn worst_case_bytes_covers_the_measured_memory() {
    const COUNT: usize = 300;
    const RUNS: usize = 64;
    let _alone = alone();
    run(async {
        let config = ServerConfig::new().subscriptions(10 * COUNT).retained_messages(2 * RUNS);
        let server = Measuring::start(config.topics(10 * COUNT));
        let each = |base: isize| usize::try_from(live() - base).unwrap_or(0) / COUNT;

        let pipes: Vec<_> = join_all((0..COUNT).map(|_| async {
            let (mut ours, mut theirs) = tokio::io::duplex(1_024);
            theirs.write_all(&[b'x'; 160]).await.unwrap();
            ours.read_exact(&mut [0; 160]).await.unwrap();
            (ours, theirs, Arc::new(AtomicUsize::new(0)))
        }))
        .await;
        let with_pipes = live();
        drop(pipes);
        let pipe = usize::try_from(with_pipes - live()).unwrap() / COUNT;
        let base = live();
        let mut idle = Vec::with_capacity(COUNT);
        for _ in 0..COUNT {
            idle.push(server.connect(1_024).await);
        }
        let lines = 5 * 1_024 + 65_536 + SCRATCH;
        let own = stated(|config, count| config.connections(count)) - lines;
        judge("a connection", own, each(base) - pipe);
        drop(idle);
        yield_now().await;

        let small = "x".repeat(10);
        let base = live();
        for n in 0..COUNT {
            server.publisher.publish(long_name("topic", n).as_str(), small.clone()).await.unwrap();
        }
        // The line itself is counted among those that are retained, twice.
        let line = 2 * (135 + 10 + 16);
        // Room that the rings may have over twice what they hold (src/topic/log.rs).
        let spare = 2 * 1_024;
        let topic = each(base) - line + spare;
        judge("a topic", stated(|config, count| config.topics(count)), topic);

        let (mut peer, _) = server.connect(64 * 1_024).await;
        peer.ask("1 /hello;version=1;max-line=1024\n", "1 ok;version=1\n").await;
        let subscription = stated(|config, count| config.subscriptions(count));
        let base = live();
        for n in 0..COUNT {
            let topic = long_name("unborn", n);
            peer.send(format!("{} /subscribe;window=1;slow=latest {topic}\n", n + 2)).await;
            peer.attribute("next").await;
        }
        let unborn = each(base);

        let large = "x".repeat(1_000);
        for n in 0..COUNT {
            let topic = long_name("topic", n);
            for _ in 0..RUNS {
                server.publisher.publish(topic.as_str(), large.clone()).await.unwrap();
                server.publisher.publish(topic.as_str(), small.clone()).await.unwrap();
            }
        }
        let base = live();
        for n in 0..COUNT {
            let (topic, id) = (long_name("topic", n), COUNT + n + 2);
            peer.send(format!("{id} /subscribe;window=9999;slow=latest;from=e:1 {topic}\n")).await;
            peer.attribute("next").await;
            // Between gaps, a run each.
            let last = format!("* {topic} {} ", 2 * RUNS + 1);
            while !peer.line().await.unwrap().starts_with(&last) {}
        }
        let born = each(base);
        // `/end` of all of them at once, in a buffer that grows by doubling.
        let end = 2 * ("* /end  expired 0123456789abcdef:9007199254740991\n".len() + 128);
        judge("a subscription", subscription, born.max(unborn) + end);
    });
}
