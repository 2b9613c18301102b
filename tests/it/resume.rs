//! Subscriptions over several connections: where they go on, and how a loss is reported.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use bellwire::{
    CallError, ConnectionError, Delivery, Gap, GapCause, NotSent, Seen, Unknown, protocol::Code,
};
use bellwire_testkit::net::{builder, connected, next, number, settle, subscribed};
use tokio::time::{Instant, timeout};

/// [C5.5] A subscription resumes from its own position. Missed messages come once and in order
/// (guarantees "no silent loss" and "resume").
#[tokio::test(start_paused = true)]
async fn a_subscription_resumes_from_its_own_position() {
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

/// It asks for the last messages until the server has accepted that, and then for its own position.
#[tokio::test(start_paused = true)]
async fn last_messages_are_requested_until_the_server_accepts() {
    let (client, server, mut net) = connected().await;
    let subscribing = tokio::spawn(client.subscribe("offers").last(3).into_future());
    let mut lost = server;
    lost.expect("1 /subscribe;last=3 offers").await;
    drop(lost);
    let mut server = net.greet().await;
    server.expect("2 /subscribe;last=3 offers").await;
    server.send("2 ok;epoch=e;next=15;head=17;lease=60\n* offers 15 x").await;
    let mut offers = subscribing.await.unwrap().unwrap();
    assert_eq!(number(&mut offers).await, 15);
    // The subscription is shared, but its beginning is not.
    let second = client.subscribe("offers").last(1).await;
    assert!(matches!(second, Err(CallError::NotSent(NotSent::AlreadySubscribed))), "{second:?}");
    drop(server);
    let mut server = net.greet().await;
    server.expect("3 /subscribe;from=e:16 offers").await;
}

/// Lost messages are one item, with their numbers or the new epoch.
#[tokio::test(start_paused = true)]
async fn messages_no_longer_retained_are_reported() {
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

/// [C14.1] Two servers have different logs. When the client returns to the first, its log continues
/// at the last position, and no message comes twice.
#[tokio::test(start_paused = true)]
async fn a_return_to_an_earlier_log_resumes_its_position() {
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

/// [C17.1] When a caller learns the position of its effect, the topic is already in the log of that
/// position, even if the server sent both at the same time.
#[tokio::test(start_paused = true)]
async fn the_topic_switches_logs_before_a_reply_names_the_position() {
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

/// [C4.7] The subscription stays the same meanwhile: a lack of room does not end it.
#[tokio::test(start_paused = true)]
async fn a_return_to_a_log_survives_a_temporary_refusal() {
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

/// A stream that joins during a resume begins where the resume goes on, whatever the server
/// repeats. An end in between names the position.
#[tokio::test(start_paused = true)]
async fn a_stream_joining_during_a_resume_begins_at_its_position() {
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

/// [C16.4] The resume requests what the first subscribe requested, and acknowledges what is handled
/// since.
#[tokio::test(start_paused = true)]
async fn a_resume_sends_the_same_terms() {
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

/// [C16.2] An ack that was due and not written before the loss does not hold back acks on the next
/// connection.
#[tokio::test(start_paused = true)]
async fn a_lost_ack_does_not_block_later_acks() {
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

/// Subscribing begins on the next connection. Unsubscribing without a connection leaves no trace.
#[tokio::test(start_paused = true)]
async fn subscribing_and_unsubscribing_need_no_connection() {
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

/// After the `/bye` with `last` the client cannot unsubscribe, so it forgets the topic. A new
/// subscribe goes to another connection.
#[tokio::test(start_paused = true)]
async fn resubscribing_does_not_wait_for_a_draining_connection() {
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

/// This also holds while there is no other connection yet: further lines of the topic from the old
/// server are ignored, and are no violation.
#[tokio::test(start_paused = true)]
async fn lines_of_a_draining_server_are_no_violation() {
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

/// A subscribe in flight when the connection is lost is sent again.
#[tokio::test(start_paused = true)]
async fn a_subscribe_survives_its_connection() {
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

/// A subscribe that was written does not end as not sent, also where there is no other connection
/// (guarantee "one outcome").
#[tokio::test(start_paused = true)]
async fn a_written_subscribe_never_ends_as_not_sent() {
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

/// [C4.7] A permanent refusal ends the subscription with its reason. A temporary one does not.
#[tokio::test(start_paused = true)]
async fn a_temporary_refusal_does_not_end_a_subscription() {
    let (client, mut server, mut net) = connected().await;
    let mut offers = subscribed(&client, &mut server, 1).await;
    drop(server);
    let mut server = net.greet().await;
    server.expect("2 /subscribe;from=e:18 offers").await;
    server.send("2 no busy").await;
    let told = Instant::now();
    server.expect("3 /subscribe;from=e:18 offers").await;
    assert!((25..=251).contains(&told.elapsed().as_millis()), "{:?}", told.elapsed());
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

/// A stream that joins while others resume does not get their gaps.
#[tokio::test(start_paused = true)]
async fn a_stream_joining_other_resumes_loses_nothing() {
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

/// [C14.1] Another stream's position in a log does not apply to this stream, which has seen nothing
/// of that log.
#[tokio::test(start_paused = true)]
async fn a_new_stream_does_not_return_to_the_log_of_another_stream() {
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

/// A resync that fails with its connection is repeated on the next one, where the stream continues.
#[tokio::test(start_paused = true)]
async fn a_resync_survives_its_connection() {
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

/// [C5.1] Each topic is requested at its own time, independent of the hints for others.
#[tokio::test(start_paused = true)]
async fn each_topic_respects_its_own_retry_hint() {
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

/// [C5.1] The time continues over a lost connection, and over one that the client was leaving.
#[tokio::test(start_paused = true)]
async fn a_retry_hint_of_a_topic_lasts_over_connections() {
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

/// [C4.4] Each connection with subscriptions is renewed, until its server has sent the `/bye` with
/// `last`.
#[tokio::test(start_paused = true)]
async fn a_draining_connection_is_renewed_until_the_final_bye() {
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

/// After its `/quit` a client writes nothing: no ack, and no credit.
#[tokio::test(start_paused = true)]
async fn nothing_is_written_after_quit() {
    let (client, mut server, _net) = connected().await;
    let subscribing = tokio::spawn(client.subscribe("offers").window(1).into_future());
    server.expect("1 /subscribe;window=1 offers").await;
    server.send("1 ok;epoch=e;next=1;head=0;lease=60\n* offers 1 x").await;
    let mut subscription = subscribing.await.unwrap().unwrap();
    let mut items = client.stream("m", "").window(1);
    assert!(futures::poll!(std::pin::pin!(items.next())).is_pending());
    server.expect("2 m;window=1").await;
    server.send("2 more a").await;
    settle().await;
    let closing = tokio::spawn(async move { client.close().await });
    server.expect("3 /quit").await;
    assert_eq!(number(&mut subscription).await, 1);
    assert!(items.next().await.unwrap().is_ok());
    settle().await;
    server.expect_silence().await;
    server.send("2 cut closing\n3 ok").await;
    closing.await.unwrap().unwrap();
}
