//! Redelivery of what was not acknowledged (docs/protocol/acks.md, section 16), and the event for
//! what stays unacknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::IntoFuture,
    io,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, ConnectionEvent, Connector, Delivery, Gap, GapCause, NotSent,
    Notification, Router, ServerConfig, Slow, Subscribe, Subscription,
    protocol::{Code, Position, Time},
    unstable::client::{Connection, Output, by_hand},
};
use bellwire_testkit::{
    PIPE, PipeServer,
    dialogue::Peer,
    net::{HELLO, Net, connected, connected_with, next, settle},
};
use tokio::{io::DuplexStream, task::JoinHandle};

fn at(text: &str) -> Position {
    text.parse().unwrap()
}

fn jobs(numbers: impl IntoIterator<Item = u64>) -> String {
    let lines: Vec<_> = numbers.into_iter().map(|n| format!("* jobs {n} {n}")).collect();
    lines.join("\n")
}

/// Subscribes where the server is at 1 of epoch `e`.
async fn begin(wish: Subscribe, server: &mut Peer, line: &str) -> Subscription {
    let subscribing = tokio::spawn(wish.into_future());
    server.expect(&format!("1 {line}")).await;
    server.send("1 ok;epoch=e;next=1;head=0;lease=60").await;
    subscribing.await.unwrap().unwrap()
}

/// A subscription that redelivers, with this window, after the server has sent `numbers`.
async fn begun(
    window: u64,
    numbers: impl IntoIterator<Item = u64>,
) -> (Client, Peer, Net, Subscription) {
    let (client, mut server, net) = connected().await;
    let wish = client.subscribe("jobs").window(window).redeliver();
    let line = format!("/subscribe;window={window} jobs");
    let subscription = begin(wish, &mut server, &line).await;
    let lines = jobs(numbers);
    if !lines.is_empty() {
        server.send(&lines).await;
    }
    (client, server, net, subscription)
}

/// The server answers a resume, and sends these numbers.
async fn resume(net: &mut Net, id: u64, from: u64, window: u64, tail: &str) -> Peer {
    let mut server = net.greet().await;
    server.expect(&format!("{id} /subscribe;from=e:{from};window={window} jobs")).await;
    server.send(&format!("{id} ok;epoch=e;next={from};lease=60\n{tail}")).await;
    settle().await;
    server
}

async fn job(subscription: &mut Subscription) -> Notification {
    next(subscription).await.into_notification().expect("a notification")
}

/// The next notifications: their numbers, and whether each comes again.
async fn read(subscription: &mut Subscription, count: usize) -> Vec<(u64, bool)> {
    let mut all = Vec::new();
    for _ in 0..count {
        let job = job(subscription).await;
        assert_eq!(job.payload, job.sequence.to_string());
        all.push((job.sequence, job.redelivered));
    }
    all
}

async fn gap(subscription: &mut Subscription) -> (u64, u64, GapCause) {
    match next(subscription).await {
        Delivery::Gap(Gap { first, last, cause, .. }) => (first, last, cause),
        other => panic!("{other:?}"),
    }
}

fn retention() -> GapCause {
    GapCause::Server(Code::from_static("retention"))
}

/// [C16.5] [C16.1] What was handed over and not acknowledged comes again, marked. What was
/// acknowledged does not, and what was queued comes once. Acks begin at the position of the resume.
#[tokio::test(start_paused = true)]
async fn unacknowledged_notifications_come_again_marked() {
    let (_client, server, mut net, mut all) = begun(10, 1..=6).await;
    let taken =
        [job(&mut all).await, job(&mut all).await, job(&mut all).await, job(&mut all).await];
    taken[0].ack();
    taken[2].ack();
    assert_eq!((all.position(), all.acknowledged()), (at("e:5"), at("e:2")));
    settle().await;
    drop(server);
    let mut server = resume(&mut net, 2, 2, 10, &jobs(2..=7)).await;
    assert_eq!(read(&mut all, 2).await, [(2, true), (4, true)]);
    // What was handed over counts for the position, once.
    assert_eq!((all.position(), all.acknowledged()), (at("e:5"), at("e:2")));
    assert_eq!(read(&mut all, 3).await, [(5, false), (6, false), (7, false)]);
    server.expect_silence().await;
    // A handle from before the loss acknowledges what has come again.
    taken[1].ack();
    server.expect_silence().await;
    all.ack(at("e:7"));
    server.expect("* /ack jobs e:7").await;
    assert_eq!(all.acknowledged(), at("e:7"));
}

/// [C16.5] It comes with each resume until it is acknowledged, also with one on the same connection.
#[tokio::test(start_paused = true)]
async fn a_notification_comes_again_until_it_is_acknowledged() {
    let (client, mut server, mut net, mut all) = begun(4, 1..=2).await;
    assert_eq!(read(&mut all, 2).await, [(1, false), (2, false)]);
    for id in 2..5 {
        settle().await;
        drop(server);
        server = resume(&mut net, id, 1, 4, &jobs(1..=2)).await;
        assert_eq!(read(&mut all, 2).await, [(1, true), (2, true)]);
    }
    tokio::time::advance(Duration::from_secs(11)).await;
    server.send("* /end jobs expired e:3").await;
    server.expect("5 /subscribe;from=e:1;window=4 jobs").await;
    all.ack(at("e:2"));
    server.send(&format!("5 ok;epoch=e;next=1;lease=60\n{}", jobs(1..=3))).await;
    assert_eq!(read(&mut all, 2).await, [(2, true), (3, false)]);
    all.ack(at("e:4"));
    server.expect("* /ack jobs e:4").await;
    settle().await;
    drop(server);
    resume(&mut net, 6, 4, 4, &jobs([4])).await;
    assert_eq!(read(&mut all, 1).await, [(4, false)]);
    assert_eq!(client.stats().violations, 0);
}

/// Without redelivery nothing comes again, and no number below the own position is accepted.
#[tokio::test(start_paused = true)]
async fn nothing_comes_again_without_redelivery() {
    let (client, mut server, mut net) = connected().await;
    let wish = client.subscribe("jobs").window(10).ack_by_hand();
    let mut all = begin(wish, &mut server, "/subscribe;window=10 jobs").await;
    server.send(&jobs(1..=3)).await;
    assert_eq!(read(&mut all, 2).await, [(1, false), (2, false)]);
    settle().await;
    drop(server);
    resume(&mut net, 2, 4, 10, &jobs([2, 4])).await;
    assert_eq!(read(&mut all, 2).await, [(3, false), (4, false)]);
    assert_eq!((client.stats().violations, all.acknowledged()), (1, at("e:1")));
}

/// [C16.5] What has left the log is a gap, in the parts that were not acknowledged. It counts as
/// acknowledged.
#[tokio::test(start_paused = true)]
async fn what_cannot_come_again_is_a_gap() {
    let (_client, server, mut net, mut all) = begun(20, 1..=9).await;
    let mut taken = Vec::new();
    for _ in 1..=7 {
        taken.push(job(&mut all).await);
    }
    [2, 4, 5].iter().for_each(|&number: &usize| taken[number - 1].ack());
    settle().await;
    drop(server);
    let mut server =
        resume(&mut net, 2, 1, 20, &format!("* /gap jobs e 1 7 retention\n{}", jobs(8..=9))).await;
    assert_eq!(gap(&mut all).await, (1, 1, retention()));
    assert_eq!(all.acknowledged(), at("e:3"));
    server.expect("* /ack jobs e:3").await;
    assert_eq!(gap(&mut all).await, (3, 3, retention()));
    server.expect("* /ack jobs e:6").await;
    assert_eq!(gap(&mut all).await, (6, 7, retention()));
    server.expect("* /ack jobs e:8").await;
    assert_eq!(all.acknowledged(), at("e:8"));
    assert_eq!(read(&mut all, 2).await, [(8, false), (9, false)]);
    // Over the position that was reached: only what is new is missed by others.
    settle().await;
    drop(server);
    let tail = format!("* /gap jobs e 8 12 retention\n{}", jobs([13]));
    let _server = resume(&mut net, 3, 8, 20, &tail).await;
    assert_eq!(gap(&mut all).await, (8, 9, retention()));
    assert_eq!(gap(&mut all).await, (10, 12, retention()));
    assert_eq!(read(&mut all, 1).await, [(13, false)]);
}

/// [C16.2] The server has to be told again of a gap that is already handled.
#[tokio::test(start_paused = true)]
async fn a_gap_that_is_named_again_is_acknowledged_again() {
    let (client, mut server, mut net) = connected().await;
    let wish = client.subscribe("jobs").window(100).redeliver();
    let mut all = begin(wish, &mut server, "/subscribe;window=100 jobs").await;
    server.send("* jobs 1 1\n* /gap jobs e 2 5 retention\n* jobs 6 6").await;
    let one = job(&mut all).await;
    gap(&mut all).await;
    job(&mut all).await;
    settle().await;
    drop(server);
    let tail = "* jobs 1 1\n* /gap jobs e 2 5 retention\n* jobs 6 6";
    let mut server = resume(&mut net, 2, 1, 100, tail).await;
    assert_eq!(read(&mut all, 2).await, [(1, true), (6, true)]);
    server.expect_silence().await;
    one.ack();
    server.expect("* /ack jobs e:6").await;
}

/// [C16.5] [C14.1] A new log ends the redelivery of the old one. What was discarded for it is named.
/// A log that was left is not set back.
#[tokio::test(start_paused = true)]
async fn a_new_log_ends_redelivery() {
    let (_client, server, mut net, mut all) = begun(10, 1..=6).await;
    assert_eq!(read(&mut all, 3).await.len(), 3);
    settle().await;
    drop(server);
    let server = resume(&mut net, 2, 1, 10, &jobs(1..=2)).await;
    assert_eq!(read(&mut all, 1).await, [(1, true)]);
    settle().await;
    // Lost again before the rest has come.
    drop(server);
    let mut server = net.greet().await;
    server.expect("3 /subscribe;from=e:1;window=10 jobs").await;
    server.send("3 ok;epoch=f;next=1;lease=60\n* jobs 1 1").await;
    // This waited in the queue, which is kept if the resume is in another log.
    assert_eq!(read(&mut all, 1).await, [(2, true)]);
    assert_eq!(gap(&mut all).await, (3, 6, GapCause::Lost));
    assert!(
        matches!(next(&mut all).await, Delivery::Reset { position, .. } if position == at("f:1"))
    );
    assert_eq!(all.acknowledged(), at("f:1"));
    assert_eq!(read(&mut all, 1).await, [(1, false)]);
    settle().await;
    drop(server);
    // Back in the first log: it goes on where it had been left, not below.
    let mut server = net.greet().await;
    server.expect("4 /subscribe;from=f:1;window=10 jobs").await;
    server.send("4 ok;epoch=e;next=1;lease=60").await;
    assert!(
        matches!(next(&mut all).await, Delivery::Reset { position, .. } if position == at("e:7"))
    );
    server.expect("5 /unsubscribe jobs").await;
    server.send("5 ok;next=e:1").await;
    server.expect("6 /subscribe;from=e:7;window=10 jobs").await;
    server.send("6 ok;epoch=e;next=7;lease=60\n* jobs 7 7").await;
    assert_eq!(read(&mut all, 1).await, [(7, false)]);
}

/// While a reset waits in the queue, the application is in another log than the topic. The queue is
/// kept then, and nothing is lost.
#[tokio::test(start_paused = true)]
async fn a_queued_reset_is_kept() {
    let (_client, mut server, mut net, mut all) = begun(10, 1..=3).await;
    assert_eq!(read(&mut all, 1).await, [(1, false)]);
    server.send("* /reset jobs f:1\n* jobs 1 1\n* /reset jobs e:3\n* jobs 3 3").await;
    settle().await;
    drop(server);
    let server = resume(&mut net, 2, 4, 10, &jobs([4])).await;
    assert_eq!(read(&mut all, 2).await, [(2, false), (3, false)]);
    assert!(matches!(next(&mut all).await, Delivery::Reset { .. }));
    assert_eq!(read(&mut all, 1).await, [(1, false)]);
    assert!(matches!(next(&mut all).await, Delivery::Reset { .. }));
    assert_eq!(read(&mut all, 2).await, [(3, false), (4, false)]);
    settle().await;
    drop(server);
    resume(&mut net, 3, 3, 10, &jobs(3..=5)).await;
    assert_eq!(read(&mut all, 3).await, [(3, true), (4, true), (5, false)]);
}

/// Several streams share the subscription. Each gets only what it has not acknowledged itself, and
/// those that do not redeliver get nothing again, nor do those that join meanwhile.
#[tokio::test(start_paused = true)]
async fn each_stream_gets_again_what_it_has_not_acknowledged() {
    let (client, server, mut net, mut slow) = begun(10, []).await;
    let mut fast = client.subscribe("jobs").window(10).redeliver().await.unwrap();
    let mut plain = client.subscribe("jobs").window(10).await.unwrap();
    let mut every = client.notifications();
    let mut server = server;
    server.send(&jobs(1..=4)).await;
    assert_eq!(read(&mut slow, 3).await.len(), 3);
    assert_eq!(read(&mut fast, 4).await.len(), 4);
    assert_eq!(read(&mut plain, 2).await.len(), 2);
    fast.ack(at("e:4"));
    slow.ack(at("e:2"));
    settle().await;
    drop(server);
    let mut server = resume(&mut net, 2, 2, 10, &jobs(2..=3)).await;
    settle().await;
    let mut late = client.subscribe("jobs").window(10).redeliver().await.unwrap();
    assert_eq!(late.position(), at("e:5"));
    server.send("* /gap jobs e 4 5 retention\n* jobs 6 6").await;
    assert_eq!(read(&mut slow, 2).await, [(2, true), (3, true)]);
    assert_eq!(gap(&mut slow).await, (4, 4, retention()));
    assert_eq!(gap(&mut slow).await, (5, 5, retention()));
    assert_eq!(read(&mut slow, 1).await, [(6, false)]);
    assert_eq!(gap(&mut fast).await, (4, 4, retention()));
    assert_eq!(gap(&mut fast).await, (5, 5, retention()));
    assert_eq!(read(&mut fast, 1).await, [(6, false)]);
    assert_eq!(read(&mut plain, 2).await, [(3, false), (4, false)]);
    for other in [&mut plain, &mut late] {
        assert_eq!(gap(other).await, (5, 5, retention()));
        assert_eq!(read(other, 1).await, [(6, false)]);
    }
    for number in 1..=4 {
        assert_eq!(every.next().await.unwrap().into_notification().unwrap().sequence, number);
    }
    assert!(matches!(every.next().await, Some(Delivery::Gap(Gap { first: 5, last: 5, .. }))));
    // The slowest decides what is acknowledged.
    for all in [&fast, &late] {
        all.ack(at("e:7"));
    }
    slow.ack(at("e:6"));
    server.expect("* /ack jobs e:6").await;
}

/// A stream without redelivery keeps its queue and its position when the connection is lost while
/// numbers come again for another.
#[tokio::test(start_paused = true)]
async fn a_loss_during_redelivery_sets_nobody_else_back() {
    let (client, mut server, mut net, mut all) = begun(10, []).await;
    let mut plain = client.subscribe("jobs").window(10).await.unwrap();
    server.send(&jobs(1..=5)).await;
    assert_eq!(read(&mut all, 5).await.len(), 5);
    settle().await;
    drop(server);
    let server = resume(&mut net, 2, 1, 10, &jobs(1..=2)).await;
    assert_eq!(read(&mut all, 2).await, [(1, true), (2, true)]);
    settle().await;
    drop(server);
    // The other stream leaves before the next connection: nothing has to come again.
    let attempt = net.attempt().await;
    drop(all);
    settle().await;
    let mut server = attempt.greet().await;
    server.expect("3 /subscribe;from=e:6;window=10 jobs").await;
    server.send("3 ok;epoch=e;next=6;lease=60\n* jobs 6 6").await;
    for number in 1..=6 {
        assert_eq!(read(&mut plain, 1).await, [(number, false)]);
    }
    assert_eq!(client.stats().violations, 0);
}

/// Acks between the `/subscribe` and its `ok` are counted when the numbers have come again, so the
/// window does not stay full.
#[tokio::test(start_paused = true)]
async fn acks_before_the_ok_count_once_the_numbers_have_come() {
    let (_client, server, mut net, mut all) = begun(4, 1..=4).await;
    assert_eq!(read(&mut all, 2).await.len(), 2);
    settle().await;
    drop(server);
    let mut server = net.greet().await;
    server.expect("2 /subscribe;from=e:1;window=4 jobs").await;
    assert_eq!(read(&mut all, 2).await, [(3, false), (4, false)]);
    all.ack(at("e:5"));
    server.send("2 ok;epoch=e;next=1;lease=60").await;
    server.expect_silence().await;
    server.send(&jobs([1])).await;
    server.expect_silence().await;
    server.send(&jobs([2])).await;
    server.expect("* /ack jobs e:3").await;
    server.send(&jobs(3..=5)).await;
    server.expect("* /ack jobs e:5").await;
    assert_eq!(read(&mut all, 1).await, [(5, false)]);
}

/// Acks are due by half windows of the new connection, wherever the reader was before.
#[tokio::test(start_paused = true)]
async fn acks_are_due_by_half_windows_after_a_resume() {
    let (_client, server, mut net, mut all) = begun(8, 1..=8).await;
    assert_eq!(read(&mut all, 4).await.len(), 4);
    all.ack(at("e:4"));
    settle().await;
    drop(server);
    // The ack of 3 numbers was not due before, and 4 more are handled on this connection.
    let mut server = resume(&mut net, 2, 4, 8, &jobs(4..=8)).await;
    assert_eq!(read(&mut all, 4).await, [(4, true), (5, false), (6, false), (7, false)]);
    all.ack(at("e:7"));
    server.expect_silence().await;
    all.ack(at("e:8"));
    server.expect("* /ack jobs e:8").await;
}

/// An end has the position from which everything unacknowledged comes again, whatever ends the
/// subscription.
#[tokio::test(start_paused = true)]
async fn an_end_has_the_lowest_unacknowledged_position() {
    let (client, mut server, _net, mut all) = begun(10, 1..=3).await;
    assert_eq!(read(&mut all, 3).await.len(), 3);
    all.ack(at("e:2"));
    let mut other = client.subscribe("jobs").window(10).redeliver().fail_on_loss().await.unwrap();
    server.send("* /gap jobs e 4 4 retention\n* jobs 5 5\n* /end jobs closed e:6").await;
    assert_eq!(gap(&mut all).await, (4, 4, retention()));
    assert_eq!(read(&mut all, 1).await, [(5, false)]);
    let end = |delivery| match delivery {
        Delivery::End { position, reason, .. } => (position.unwrap(), reason),
        other => panic!("{other:?}"),
    };
    assert_eq!(end(next(&mut all).await), (at("e:2"), Code::CLOSED));
    assert_eq!(gap(&mut other).await, (4, 4, retention()));
    assert_eq!(end(next(&mut other).await), (at("e:5"), Code::LOST));
}

/// Nothing can be acknowledged without a window, so the setting would have no effect.
#[tokio::test(start_paused = true)]
async fn redelivery_needs_a_window() {
    let (client, _server, _net) = connected().await;
    let refused = client.subscribe("jobs").redeliver().slow(Slow::Gap).await.unwrap_err();
    assert_eq!(refused, CallError::NotSent(NotSent::NoWindow));
    assert!(refused.to_string().contains("window"));
}

/// A connection through two pipes, which can be cut.
#[derive(Clone)]
struct Cable {
    server: Arc<PipeServer>,
    plugged: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Cable {
    fn new(server: PipeServer) -> Self {
        Self { server: Arc::new(server), plugged: Arc::default() }
    }

    fn cut(&self) {
        self.plugged.lock().unwrap().take().iter().for_each(JoinHandle::abort);
    }

    fn connector(&self) -> impl Connector<Io = DuplexStream> + use<> {
        let cable = self.clone();
        move |_: &str| {
            let (near, mut far) = tokio::io::duplex(PIPE);
            let mut server = cable.server.pipe();
            *cable.plugged.lock().unwrap() = Some(tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut far, &mut server).await;
            }));
            async move { io::Result::Ok(near) }
        }
    }

    fn client(&self) -> Client {
        Client::builder().address("a").connector(self.connector()).connect_lazily()
    }

    async fn publish(&self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            self.server.publisher.publish("jobs", number.to_string()).await.unwrap();
        }
    }
}

/// The application stores the lowest position that is not acknowledged, and another process goes on
/// there.
#[tokio::test(start_paused = true)]
async fn an_application_resumes_at_the_acknowledged_position_after_a_restart() {
    let server = PipeServer::with_config(Router::<()>::new(), ServerConfig::new());
    let cable = Cable::new(server);
    let client = cable.client();
    let mut all = client.subscribe("jobs").window(10).redeliver().await.unwrap();
    cable.publish(1..=5).await;
    let mut taken = Vec::new();
    for _ in 1..=4 {
        taken.push(job(&mut all).await);
    }
    [0, 2].iter().for_each(|&index: &usize| taken[index].ack());
    let stored = all.acknowledged().to_string();
    drop((all, client));
    let client = cable.client();
    let wish = client.subscribe("jobs").window(10).redeliver().from(stored.parse().unwrap());
    let mut all = wish.await.unwrap();
    assert_eq!(all.acknowledged().to_string(), stored);
    let again = [(2, false), (3, false), (4, false), (5, false)];
    assert_eq!(read(&mut all, 4).await, again);
}

/// What a stream with redelivery has been handed.
#[derive(Default)]
struct Handed {
    /// How often each number was handed over.
    times: BTreeMap<u64, usize>,
    acked: BTreeSet<u64>,
    held: Vec<Notification>,
    again: usize,
}

impl Handed {
    fn take(&mut self, job: Notification, seed: u64) {
        let number = job.sequence;
        assert!(!self.acked.contains(&number), "seed {seed}: {number} was acknowledged");
        let times = self.times.entry(number).or_default();
        assert_eq!(job.redelivered, *times > 0, "seed {seed}: {number}");
        *times += 1;
        self.again += usize::from(job.redelivered);
        self.held.push(job);
    }

    fn ack(&mut self, random: &mut fastrand::Rng) {
        if !self.held.is_empty() {
            let job = self.held.swap_remove(random.usize(..self.held.len()));
            self.acked.insert(job.sequence);
            job.ack();
        }
    }
}

/// Reads what has come, behind the number `seen`. Returns the last number.
async fn read_on(subscription: &mut Subscription, mut seen: u64) -> u64 {
    while let Ok(delivery) = tokio::time::timeout(Duration::ZERO, subscription.next()).await {
        seen += 1;
        assert_eq!(delivery.unwrap().into_notification().unwrap().sequence, seen);
    }
    seen
}

/// Whatever is acknowledged, and whenever the connection is cut: each number is handed over until
/// it is acknowledged, in the order of the numbers on each connection, and none after that. A
/// stream without redelivery gets each number once.
#[tokio::test(start_paused = true)]
async fn every_number_is_handed_over_until_it_is_acknowledged() {
    const LAST: u64 = 60;
    let mut again = 0;
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let server = PipeServer::with_config(Router::<()>::new(), ServerConfig::new());
        let cable = Cable::new(server);
        let client = cable.client();
        let window = random.u64(1..12);
        let wish = || client.subscribe("jobs").window(window);
        let mut all = wish().redeliver().await.unwrap();
        let mut plain = wish().await.unwrap();
        let (mut handed, mut published, mut seen) = (Handed::default(), 0, 0);
        while handed.acked.len() < LAST as usize {
            let burst = random.u64(..6).min(LAST - published);
            cable.publish(published + 1..=published + burst).await;
            published += burst;
            for _ in 0..random.u8(..6) {
                let patience = Duration::from_millis(random.u64(..40));
                match tokio::time::timeout(patience, all.next()).await {
                    Ok(delivery) => {
                        handed.take(delivery.unwrap().into_notification().unwrap(), seed)
                    }
                    Err(_) => (0..random.u8(..2)).for_each(|_| handed.ack(&mut random)),
                }
            }
            seen = read_on(&mut plain, seen).await;
            (0..random.u8(..2)).for_each(|_| handed.ack(&mut random));
            if random.u8(..6) == 0 {
                cable.cut();
                // The client may be back before anything more is taken or acknowledged.
                tokio::time::sleep(Duration::from_millis(random.u64(..600))).await;
            }
        }
        assert_eq!(read_on(&mut plain, seen).await, LAST, "seed {seed}");
        assert_eq!(client.stats().violations, 0, "seed {seed}");
        again += handed.again;
    }
    assert!(again > 200, "{again}");
}

fn read_lines(connection: &mut Connection, lines: &str, now: Time) {
    connection.handle_input(lines.as_bytes(), now).unwrap();
    connection.finish_input().unwrap();
}

fn write_all(connection: &mut Connection, now: Time) {
    while let Output::Write = connection.poll_output(true, Waker::noop(), now).unwrap() {
        connection.handle_written(connection.output().len(), now);
        connection.handle_flushed();
    }
}

fn poll_now<T>(future: impl Future<Output = T>) -> Option<T> {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// The event comes when its time has passed, and not before, by the time that the driver passes.
#[test]
fn an_unacknowledged_notification_is_reported_when_its_time_has_passed() {
    let now = Time::from_millis;
    let (client, mut connection) = by_hand(ClientConfig::new().deadline(None));
    read_lines(&mut connection, &format!("{HELLO}\n"), now(0));
    let mut events = client.events();
    let limit = Duration::from_millis(500);
    let wish = client.subscribe("jobs").window(9).ack_by_hand().ack_within(limit);
    let mut subscribing = wish.into_future();
    assert!(poll_now(&mut subscribing).is_none());
    write_all(&mut connection, now(0));
    read_lines(&mut connection, "1 ok;epoch=e;next=1;lease=60\n* jobs 1 1\n* jobs 2 2\n", now(10));
    let mut all = poll_now(&mut subscribing).expect("it has begun").unwrap();
    let mut take = || poll_now(all.next()).flatten().and_then(Delivery::into_notification).unwrap();
    let one = take();
    write_all(&mut connection, now(10));
    assert_eq!(connection.next_timeout(), Some(now(510)));
    connection.handle_timeout(now(110)).unwrap();
    let two = take();
    connection.handle_timeout(now(509)).unwrap();
    assert_eq!(poll_now(events.next()), None);
    connection.handle_timeout(now(510)).unwrap();
    let late = |sequence| {
        let (topic, epoch) = (one.topic.clone(), one.epoch);
        Some(Some(ConnectionEvent::Unacknowledged { topic, epoch, sequence }))
    };
    assert_eq!(poll_now(events.next()), late(1));
    // Only the lowest one is reported, and only once.
    connection.handle_timeout(now(2_000)).unwrap();
    assert_eq!(poll_now(events.next()), None);
    one.ack();
    write_all(&mut connection, now(2_000));
    assert!(connection.next_timeout().is_some_and(|due| due <= now(2_000)));
    connection.handle_timeout(now(2_000)).unwrap();
    assert_eq!(poll_now(events.next()), late(2));
    two.ack();
    connection.handle_timeout(now(9_000)).unwrap();
    assert_eq!(poll_now(events.next()), None);
}

/// What is acknowledged in time is not reported, nor is what is acknowledged by handing it over, nor
/// what belongs to a subscription that was left.
#[tokio::test(start_paused = true)]
async fn only_unacknowledged_notifications_are_reported() {
    let config = ClientConfig::new().ack_within(Duration::from_secs(2));
    let (client, mut server, mut net) = connected_with(config).await;
    let mut events = client.events();
    let wish = client.subscribe("jobs").window(100).redeliver();
    let mut all = begin(wish, &mut server, "/subscribe;window=100 jobs").await;
    let mut automatic = client.subscribe("jobs").window(100).await.unwrap();
    let patient = client.subscribe("jobs").window(100).ack_by_hand().ack_within(None);
    let mut patient = patient.await.unwrap();
    let mut left = client.subscribe("jobs").window(100).ack_by_hand().await.unwrap();
    server.send(&jobs(1..=3)).await;
    for other in [&mut automatic, &mut patient, &mut left] {
        assert_eq!(read(other, 3).await.len(), 3);
    }
    drop(left);
    let one = job(&mut all).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    one.ack();
    let two = job(&mut all).await;
    // It comes again, and its time goes on.
    settle().await;
    drop(server);
    let _server = resume(&mut net, 2, 2, 100, &jobs(2..=3)).await;
    assert_eq!(read(&mut all, 2).await, [(2, true), (3, false)]);
    let late = loop {
        match events.next().await.unwrap() {
            ConnectionEvent::Unacknowledged { topic, epoch, sequence } => {
                break (topic.to_string(), epoch, sequence);
            }
            ConnectionEvent::Missed(_) | ConnectionEvent::Ended(_) => panic!("no event"),
            _ => {}
        }
    };
    assert_eq!(late, ("jobs".to_owned(), two.epoch, 2));
    all.ack(at("e:4"));
    tokio::time::advance(Duration::from_secs(60)).await;
    settle().await;
    assert_eq!(poll_now(events.next()), None);
}
