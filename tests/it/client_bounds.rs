//! Bounds of a client against servers that never answer: requests whose callers are gone, and
//! streams that nobody reads. Bytes are measured in `memory`. SECURITY.md, threats 13 and 14.
#![cfg(feature = "unstable-core")]

use std::{
    future::IntoFuture,
    io,
    num::NonZeroU64,
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use bellwire::{
    Client, ClientConfig, Delivery, GapCause, NotSent, Router, Subscription,
    protocol::{Epoch, MAX_NUMBER, Position, Time},
    unstable::rules::{
        AckWindow, Backoff, Handled, KeepAlive, Reconnect, Renewal, Repeats, SubscriptionEvent,
        SubscriptionState,
    },
};
use bellwire_testkit::{
    PipeServer, Wakes,
    dialogue::Peer,
    net::{HELLO, connected_with, settle},
};
use bytes::Bytes;
use futures::{StreamExt, poll, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

const SECOND: Duration = Duration::from_secs(1);

async fn limited(requests: usize) -> (Client, Peer) {
    let config = ClientConfig::new().control_requests(requests);
    let (client, server, net) = connected_with(config).await;
    // The client of the tests here keeps its connection.
    std::mem::forget(net);
    (client, server)
}

async fn gives_up(client: &Client, topic: &str) {
    let subscribing = timeout(Duration::from_millis(100), client.subscribe(topic).into_future());
    assert!(subscribing.await.is_err(), "{topic} is subscribed");
}

/// A server that answers no `/subscribe` gets a bounded number of them, however many callers are
/// dropped. The next one is sent when one is answered.
#[tokio::test(start_paused = true)]
async fn abandoned_subscribes_are_bounded() {
    let (client, mut server) = limited(4).await;
    for n in 0..20 {
        gives_up(&client, &format!("t{n}")).await;
    }
    for n in 0..4 {
        server.expect(&format!("{} /subscribe t{n}", n + 1)).await;
    }
    server.expect_silence().await;
    assert_eq!(client.stats().pending, 4);

    let waiting = tokio::spawn(client.subscribe("next").into_future());
    settle().await;
    server.send("1 no forbidden").await;
    let line = server.line().await;
    assert!(line.ends_with(" /subscribe next"), "{line}");
    let id = line.split(' ').next().unwrap();
    server.send(&format!("{id} ok;epoch=e;next=1;head=0;lease=60")).await;
    drop(waiting.await.unwrap().unwrap());
}

/// A caller that waits to subscribe has its turn before later ones, and passes it on when it is
/// dropped.
#[tokio::test(start_paused = true)]
async fn dropping_a_waiting_subscribe_passes_its_turn_on() {
    let (client, mut server) = limited(1).await;
    let _asked = tokio::spawn(client.subscribe("a").into_future());
    server.expect("1 /subscribe a").await;
    let mut first = Box::pin(client.subscribe("b").into_future());
    assert!(poll!(first.as_mut()).is_pending());
    server.send("1 no forbidden").await;
    settle().await;
    let _later = tokio::spawn(client.subscribe("c").into_future());
    settle().await;
    server.expect_silence().await;
    let since = Instant::now();
    drop(first);
    server.expect("2 /subscribe c").await;
    assert_eq!(since.elapsed(), Duration::ZERO);
}

/// A list that is dropped before its line is offered to the transport gives its place to the subscription
/// that waits for one.
#[tokio::test(start_paused = true)]
async fn a_withdrawn_list_wakes_the_waiting_subscribe() {
    let (client, mut server) = limited(1).await;
    let mut list = Box::pin(client.methods());
    assert!(poll!(list.as_mut()).is_pending());
    let wakes = Arc::<Wakes>::default();
    let waker = Waker::from(wakes.clone());
    let mut subscribing = pin!(client.subscribe("t").into_future());
    let polled = subscribing.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    assert_eq!(wakes.take(), 0);
    drop(list);
    assert_eq!(wakes.take(), 1);
    let (subscribed, ()) = tokio::join!(timeout(SECOND, subscribing), async {
        server.expect("2 /subscribe t").await;
        server.send("2 ok;epoch=e;next=1;head=0;lease=60").await;
    });
    drop(subscribed.expect("it goes on").unwrap());
}

/// An unsubscribed topic counts until the server has replied.
#[tokio::test(start_paused = true)]
async fn unanswered_unsubscribes_are_bounded() {
    let (client, mut server) = limited(4).await;
    for n in 0..4 {
        let (subscription, ()) =
            tokio::join!(client.subscribe(&format!("t{n}")).into_future(), async {
                let id = 2 * n + 1;
                server.expect(&format!("{id} /subscribe t{n}")).await;
                server.send(&format!("{id} ok;epoch=e;next=1;head=0;lease=60")).await;
            });
        drop(subscription.unwrap());
        server.expect(&format!("{} /unsubscribe t{n}", 2 * n + 2)).await;
    }
    for n in 4..20 {
        gives_up(&client, &format!("t{n}")).await;
    }
    server.expect_silence().await;
    assert_eq!(client.stats().pending, 4);
    server.send("2 ok").await;
    settle().await;
    let mut next = pin!(client.subscribe("next").into_future());
    assert!(poll!(next.as_mut()).is_pending());
    let line = server.line().await;
    assert!(line.ends_with(" /subscribe next"), "{line}");
}

/// Lists are requests of the protocol's own too.
#[tokio::test(start_paused = true)]
async fn abandoned_lists_are_bounded() {
    let (client, mut server) = limited(3).await;
    for _ in 0..10 {
        assert!(timeout(SECOND, client.methods()).await.is_err());
    }
    for id in 1..=3 {
        server.expect(&format!("{id} /methods")).await;
    }
    assert_eq!(client.stats().pending, 3);
    let (list, ()) = tokio::join!(client.methods(), async {
        server.send("2 more a\n2 ok").await;
        let line = server.line().await;
        let id = line.strip_suffix(" /methods").expect("the next list");
        server.send(&format!("{id} more b\n{id} ok")).await;
    });
    assert_eq!(list.unwrap().len(), 1);
}

/// A publish takes a place in flight as a call does. If it is dropped, it holds its place until the
/// reply.
#[tokio::test(start_paused = true)]
async fn abandoned_publishes_are_bounded() {
    let (client, mut server, _net) = connected_with(ClientConfig::new().in_flight(3)).await;
    for _ in 0..10 {
        assert!(timeout(SECOND, client.publish("t", "x")).await.is_err());
    }
    for id in 1..=3 {
        server.expect(&format!("{id} /publish t x")).await;
        server.expect(&format!("* /cancel {id}")).await;
    }
    let stats = client.stats();
    assert_eq!(
        (stats.in_flight, stats.requests - stats.in_flight as u64 <= 1),
        (3, true),
        "{stats:?}"
    );
}

/// Streams that are dropped, and that the server never ends, hold their places; so nothing else grows.
#[tokio::test(start_paused = true)]
async fn abandoned_streams_are_bounded() {
    let (client, mut server, _net) = connected_with(ClientConfig::new().in_flight(3)).await;
    for _ in 0..10 {
        let mut items = client.stream("m", "");
        assert!(timeout(Duration::from_millis(100), items.next()).await.is_err());
    }
    for id in 1..=3 {
        server.expect(&format!("{id} m")).await;
        server.expect(&format!("* /cancel {id}")).await;
    }
    server.send("1 more a\n2 more b\n3 more c").await;
    settle().await;
    assert_eq!((client.stats().in_flight, client.stats().pending), (3, 3));
}

/// Subscribes to this many topics, `t0` and on, each at 1 of epoch `e`.
async fn subscribed(client: &Client, server: &mut Peer, topics: usize) -> Vec<Subscription> {
    let mut all = Vec::new();
    for n in 0..topics {
        let mut subscribing = pin!(client.subscribe(&format!("t{n}")).into_future());
        assert!(poll!(subscribing.as_mut()).is_pending());
        let line = server.line().await;
        let id = line.strip_suffix(&format!(" /subscribe t{n}")).expect("the next topic");
        server.send(&format!("{id} ok;epoch=e;next=1;head=0;lease=60")).await;
        all.push(subscribing.await.unwrap());
    }
    all
}

/// An unread broadcast stream names a bounded number of topics, and reports that more was lost of
/// the others.
#[tokio::test(start_paused = true)]
async fn an_unread_broadcast_stream_names_a_bounded_number_of_topics() {
    const TOPICS: usize = 300;
    let config = ClientConfig::new().inbox_items(10).missed_topics(100);
    let (client, mut server, _net) = connected_with(config).await;
    let mut all = client.notifications();
    let _subscriptions = subscribed(&client, &mut server, TOPICS).await;
    for round in 1..=2 {
        for n in 0..TOPICS {
            server.send(&format!("* t{n} {round} x")).await;
        }
    }
    settle().await;
    let mut next = async || timeout(SECOND, all.next()).await.expect("more").expect("no end");
    // Those of 200 topics in both rounds, but for the last ten, which are queued.
    assert_eq!(next().await, Delivery::Lost { deliveries: 390 });
    for n in 0..100 {
        let Delivery::Gap(gap) = next().await else { panic!("a gap of t{n}") };
        assert_eq!((gap.topic.as_str(), gap.first, gap.last), (&*format!("t{n}"), 1, 2));
        assert_eq!(gap.cause, GapCause::Lagged);
    }
    for n in TOPICS - 10..TOPICS {
        let kept = next().await.into_notification().expect("a notification");
        assert_eq!((kept.topic.as_str(), kept.sequence), (&*format!("t{n}"), 2));
    }
    server.send("* t0 3 x").await;
    assert_eq!(next().await.into_notification().unwrap().sequence, 3);
}

/// Waits for different positions do not slow each other down, and each ends when its position is
/// seen.
#[tokio::test(start_paused = true)]
async fn many_tasks_may_wait_for_seen_positions() {
    const WAITING: u64 = 20_000;
    let (client, mut server, _net) = connected_with(ClientConfig::new()).await;
    let mut subscription = subscribed(&client, &mut server, 1).await.pop().unwrap();
    let at = |next| format!("e:{next}").parse().unwrap();
    let seen = (2..WAITING + 2).map(|next| subscription.seen(at(next)));
    let mut seen: FuturesUnordered<_> = seen.collect();
    assert!(poll!(seen.next()).is_pending());
    server.send("* t0 1 x\n* t0 2 x\n* /gap t0 e 3 1000 retention").await;
    for (deliveries, count) in [(2, 2), (1, 998)] {
        for _ in 0..deliveries {
            assert!(subscription.next().await.is_some());
        }
        for _ in 0..count {
            assert!(timeout(SECOND, seen.next()).await.expect("it is seen").expect("more wait"));
        }
        assert!(poll!(seen.next()).is_pending());
    }
    drop(subscription);
    for _ in 1_000..WAITING {
        assert!(!timeout(SECOND, seen.next()).await.expect("it is over").expect("more wait"));
    }
}

/// What an application may set, each at its extremes.
fn extremes() -> Vec<(&'static str, ClientConfig)> {
    let durations = [Duration::ZERO, Duration::MAX];
    let counts = [0, usize::MAX];
    let new = ClientConfig::new;
    let mut all = Vec::new();
    for time in durations {
        all.push(("probe", new().probe(time)));
        all.push(("dead", new().dead(time)));
        all.push(("probe, dead", new().probe(time).dead(time)));
        all.push(("reconnect_base", new().reconnect_base(time)));
        all.push(("reconnect_max", new().reconnect_max(time)));
        all.push(("reconnect", new().reconnect_base(time).reconnect_max(time)));
        all.push(("reconnect_stable", new().reconnect_stable(time)));
        all.push(("give_up_after", new().give_up_after(time)));
        all.push(("ack_within", new().ack_within(time)));
    }
    // Without any time, nothing can go well.
    all.push(("connect_timeout", new().connect_timeout(Duration::MAX)));
    all.push(("close_timeout", new().close_timeout(Duration::MAX)));
    for count in counts {
        all.push(("in_flight", new().in_flight(count)));
        all.push(("max_line", new().max_line(count)));
        all.push(("outbound_bytes", new().outbound_bytes(count)));
        all.push(("control_requests", new().control_requests(count)));
        all.push(("inbox_items", new().inbox_items(count)));
        all.push(("inbox_bytes", new().inbox_bytes(count)));
        all.push(("missed_topics", new().missed_topics(count)));
    }
    all
}

/// With every setting at its extremes a client calls, listens and closes.
#[tokio::test(start_paused = true)]
async fn a_client_works_with_each_setting_at_its_extremes() {
    for (name, config) in extremes() {
        let session = async {
            let server = PipeServer::start(Router::new().method("echo", async |p: Bytes| p));
            let pipe = server.pipe();
            let mut pipe = Some(pipe);
            let connector = move |_: &str| {
                let pipe = pipe.take().ok_or(io::ErrorKind::ConnectionRefused.into());
                std::future::ready(pipe)
            };
            let client = Client::builder().connector(connector).config(config).connect_lazily();
            client.connected().await.expect(name);
            let mut all = client.notifications();
            let mut subscription = client.subscribe("t").window(u64::MAX).await.expect(name);
            let long = client.call("echo", "x").deadline(Duration::MAX);
            assert_eq!(long.await.expect(name), "x");
            let none = client.call("echo", "x").deadline(Duration::ZERO).await;
            assert_eq!(none, Err(NotSent::Deadline(None).into()), "{name}");
            for window in [0, usize::MAX] {
                let items = client.stream("echo", "x").window(window).deadline(Duration::MAX);
                assert_eq!(items.collect::<Vec<_>>().await, [Ok(Bytes::from("x"))], "{name}");
            }
            let own = subscription.position();
            for next in [0, MAX_NUMBER + 1, u64::MAX] {
                let wrong = Position { next, ..own };
                let refused = client.subscribe("other").from(wrong).await.map(drop);
                assert_eq!(refused, Err(NotSent::Position.into()), "{name}");
                subscription.ack(wrong);
            }
            let zero = Position { next: 0, ..own };
            assert!(subscription.seen(zero).await && subscription.progress().seen(zero).await);
            let never = Position { next: u64::MAX, ..own };
            let foreign = Position { epoch: Epoch::new("foreign").unwrap(), ..own };
            let (never, foreign) = (subscription.seen(never), subscription.seen(foreign));
            server.publisher.publish("t", "x").await.unwrap();
            assert!(subscription.next().await.unwrap().into_notification().is_some(), "{name}");
            assert!(all.next().await.unwrap().into_notification().is_some(), "{name}");
            drop(subscription);
            assert_eq!((never.await, foreign.await), (false, false), "{name}");
            client.one_way("echo", "x").await.expect(name);
            client.close().await.expect(name);
        };
        let ended = timeout(Duration::from_secs(3_600), session).await;
        assert!(ended.is_ok(), "{name} hangs");
    }
}

/// No number makes a pure type panic.
#[test]
fn pure_types_accept_any_number() {
    const NUMBERS: [u64; 6] = [0, 1, 2, MAX_NUMBER, u64::MAX - 1, u64::MAX];
    let (own, foreign) = (Epoch::new("e").unwrap(), Epoch::new("f").unwrap());
    for (epoch, a, b) in NUMBERS.iter().flat_map(|&a| NUMBERS.map(|b| (own, a, b))) {
        for size in [1, u64::MAX] {
            let size = NonZeroU64::new(size).unwrap();
            let mut window = AckWindow::new(size);
            window.delivered(a, b);
            window.acked(b);
            window.delivered(b, a);
            window.acked(a);
            let mut handled = Handled::new(size);
            handled.reset(Position { epoch, next: a });
            handled.ack(epoch, a, b);
            handled.hand_over(epoch, a, b);
            handled.hand_over_gap(epoch, b, a);
            handled.ack(epoch, b, a);
            handled.ack(foreign, a, b);
            let _ = handled.take_due();
        }
        let live = SubscriptionState::Live(Position { epoch, next: a });
        for event in [
            SubscriptionEvent::Notification(b),
            SubscriptionEvent::Gap { epoch, first: a, last: b },
            SubscriptionEvent::Gap { epoch, first: b, last: u64::MAX },
            SubscriptionEvent::Renewed(Some(Position { epoch, next: b })),
            SubscriptionEvent::Accepted(Position { epoch: foreign, next: b }),
        ] {
            let (state, actions) = live.on(event);
            let _ = (state.on(event), actions.count());
        }
        let (long, now) = (Duration::from_millis(a).saturating_mul(2), Time::from_millis(b));
        for time in [long, Duration::MAX] {
            let mut renewal = Renewal::new(time, Some(time), now, a);
            renewal.sent(now, b);
            let backoff = Backoff { base: time, max: time, stable: long };
            let _ = (backoff.pause(u32::MAX, a), backoff.level(time), backoff.pause(0, b));
            let mut reconnect = Reconnect::new(0, backoff);
            let _ = (reconnect.due(|| a), reconnect.round(now), reconnect.retry_after(0, now));
            let _ = (reconnect.failed(now), reconnect.due(|| b), reconnect.round(now));
            reconnect.opened(usize::MAX, now);
            reconnect.lost(Time::from_millis(a));
            let _ = (reconnect.due(|| a), reconnect.round(now));
            let mut repeats = Repeats::default();
            let _ = (repeats.pause(backoff, a), repeats.pause_after(time, backoff, b));
            repeats.lasted(time, backoff);
            let mut keepalive = KeepAlive::default();
            let _ = (keepalive.heard(now), keepalive.look(now, true, time, long), keepalive.due());
        }
    }
}

/// For a server that sends items and reads nothing, the client buffers one line of credit for each
/// reply, not one for each item.
#[tokio::test(start_paused = true)]
async fn unwritten_credit_is_one_line_per_reply() {
    const ITEMS: u64 = 2_000;
    let (near, far) = tokio::io::duplex(64);
    let (client, connection) = Client::new(near, ClientConfig::new());
    tokio::spawn(connection);
    let (mut read, mut write) = tokio::io::split(far);
    write.write_all(format!("{HELLO}\n").as_bytes()).await.unwrap();
    client.connected().await.unwrap();
    let mut items = client.stream("m", "").window(1);
    assert!(poll!(pin!(items.next())).is_pending());
    settle().await;
    let sending = tokio::spawn(async move {
        for _ in 0..ITEMS {
            write.write_all(b"1 more x\n").await.unwrap();
            settle().await;
        }
        write.write_all(b"1 ok\n").await.unwrap();
        write
    });
    for _ in 0..ITEMS {
        assert_eq!(items.next().await.unwrap().unwrap(), "x");
    }
    // What was put off is written as soon as it reads.
    let mut text = String::new();
    let mut granted = 0;
    while granted < ITEMS - 1 {
        let mut bytes = [0; 4_096];
        let count = timeout(SECOND, read.read(&mut bytes)).await.expect("credit").unwrap();
        text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().filter_map(|line| line.strip_prefix("* /more 1 "));
        granted = lines.map(|items| items.parse::<u64>().unwrap()).sum();
        if count == 0 || text.lines().any(|line| line.starts_with("* /cancel")) {
            break;
        }
    }
    assert!((ITEMS - 1..=ITEMS).contains(&granted), "{granted}: {text}");
    assert!(text.lines().count() <= 8, "{text}");
    drop(sending);
}
