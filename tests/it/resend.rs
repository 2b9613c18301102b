//! Calls and one-way requests over several connections: which are sent again, which end, and with
//! which outcome.

use std::time::Duration;

use bellwire::{
    CallError, Client, ClientBuilder, ClientConfig, ConnectionError, ConnectionEvent,
    ConnectionEvents, Connector, NotSent, Random, Unknown,
};
use bellwire_testkit::{
    dialogue::Peer,
    net::{
        HELLO, Net, Outcome, builder, call, call_within, connected, connected_with, number,
        outcome, settle, subscribed,
    },
};
use tokio::{
    io::DuplexStream,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// [C5.1] A call that was offered ends as unknown. Calls that were not offered are sent on the next
/// connection, and their callers get a normal reply.
#[tokio::test(start_paused = true)]
async fn calls_not_offered_to_the_transport_are_resent() {
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

/// [C18.3] [C5.1] Calls above the number in `last` are sent to another server. Calls at or below it
/// are awaited.
#[tokio::test(start_paused = true)]
async fn calls_above_the_last_of_bye_are_resent() {
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

/// While a server drains, new calls go to another server, and calls in flight are finished on this
/// one.
#[tokio::test(start_paused = true)]
async fn a_planned_shutdown_delays_no_call() {
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

/// A draining server gets `/quit` as soon as it has nothing in flight for this client.
#[tokio::test(start_paused = true)]
async fn a_draining_server_gets_quit_once_nothing_is_in_flight() {
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

/// A topic that waits for another server does not count as in flight on this one.
#[tokio::test(start_paused = true)]
async fn waiting_topics_do_not_delay_quit_to_a_draining_server() {
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

/// [C5.1] A call answered `no` with `retry` is sent again after that time, on the same connection.
#[tokio::test(start_paused = true)]
async fn a_call_refused_with_a_retry_hint_is_resent() {
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

/// A call that waits to be sent again after a refusal fails at once if there will be no connection.
#[tokio::test(start_paused = true)]
async fn a_call_waiting_to_be_resent_fails_when_the_client_ends() {
    let config = ClientConfig::new().deadline(None);
    let (client, mut server, _net) = connected_with(config).await;
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

/// [C5.2] A deadline counts over all connections and pauses.
#[tokio::test(start_paused = true)]
async fn a_call_deadline_spans_connections_and_pauses() {
    let (client, server, mut net) = connected().await;
    drop(server);
    let attempt = net.attempt().await;
    let began = Instant::now();
    let waiting = call_within(&client, "x", Some(Duration::from_secs(3)));
    let patient = call_within(&client, "y", Some(Duration::from_secs(30)));
    let cause = Some(ConnectionError::ClosedByPeer);
    assert_eq!(outcome(waiting).await, Err(CallError::NotSent(NotSent::Deadline(cause))));
    assert_eq!(began.elapsed().as_secs(), 3);
    sleep(Duration::from_secs(1)).await;
    let mut server = attempt.greet().await;
    server.expect("1 m;ttl=26000 y").await;
    server.send("1 ok").await;
    outcome(patient).await.unwrap();
}

/// A call that is dropped before it was offered to the transport is withdrawn, and ends as not sent
/// (guarantees "one outcome" and "cancelling is free").
#[tokio::test(start_paused = true)]
async fn a_call_dropped_before_it_is_offered_is_never_sent() {
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
    assert_eq!((client.stats().pending, client.stats().in_flight), (4, 4));
    dropped.abort();
    settle().await;
    assert_eq!((client.stats().pending, client.stats().in_flight), (4, 4));
    assert_eq!(outcome(offered).await, Err(CallError::Unknown(Unknown::Deadline)));
    assert_eq!(outcome(late).await, Err(CallError::NotSent(NotSent::Deadline(None))));
    server.expect(&format!("1 m;ttl=3000 {}", "x".repeat(200))).await;
    server.expect("2 m before").await;
    server.expect("5 m;ttl=60000 behind").await;
    server.expect("* /cancel 1").await;
    server.send("2 ok before\n5 ok behind\n1 cut cancelled").await;
    assert_eq!(outcome(before).await.unwrap(), "before");
    assert_eq!(outcome(behind).await.unwrap(), "behind");
    assert_eq!((client.stats().pending, client.stats().in_flight), (0, 0));
}

/// A refused call has been sent, whatever prevents sending it again (guarantee "one outcome").
#[tokio::test(start_paused = true)]
async fn a_refused_call_never_ends_as_not_sent() {
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

/// The same if it was appended to another connection and never offered there.
#[tokio::test(start_paused = true)]
async fn a_refused_call_keeps_its_refusal_if_the_resend_fails() {
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
async fn fail_fast_calls_do_not_wait_for_a_connection() {
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

/// A call that was dropped on one connection is not cancelled on any other (guarantee "cancelling
/// is free").
#[tokio::test(start_paused = true)]
async fn a_dropped_call_is_not_cancelled_on_other_connections() {
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

/// All places in flight of a new connection are free, whatever was in flight on the old one.
#[tokio::test(start_paused = true)]
async fn a_new_connection_has_all_places_free() {
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

/// Calls that move to another connection free the places in flight that they had on the old one.
#[tokio::test(start_paused = true)]
async fn calls_that_move_on_free_their_places() {
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

/// Calls that a draining server refuses are sent at once on the current connection.
#[tokio::test(start_paused = true)]
async fn calls_refused_by_a_draining_server_move_to_the_current_one() {
    let (client, mut server, mut net) = connected().await;
    let _call = call(&client, "x");
    server.expect("1 m x").await;
    server.send("* /bye shutdown").await;
    let mut next = net.greet().await;
    settle().await;
    next.expect_silence().await;
    let since = Instant::now();
    server.send("1 no closing").await;
    next.expect("2 m x").await;
    assert_eq!(since.elapsed(), Duration::ZERO);
}

/// A client whose transport is full and has taken only a part of a call.
async fn blocked(
    builder: ClientBuilder<impl Connector<Io = DuplexStream>>,
    net: &mut Net,
) -> (Client, Peer, JoinHandle<Outcome>) {
    let client = builder.connect_lazily();
    let mut server = net.attempt().await.accept(128);
    server.send(HELLO).await;
    client.connected().await.unwrap();
    let offered = call(&client, &"x".repeat(200));
    settle().await;
    (client, server, offered)
}

/// How many one-ways are said to be dropped, before the client ends.
async fn dropped(events: &mut ConnectionEvents) -> u64 {
    loop {
        match events.next().await.unwrap() {
            ConnectionEvent::OneWaysDropped(count) => return count,
            ConnectionEvent::Ended(_) => panic!("they were lost in silence"),
            _ => {}
        }
    }
}

/// One-way requests that were not offered are dropped with their connection, and counted.
#[tokio::test(start_paused = true)]
async fn one_ways_that_were_not_offered_are_dropped_and_counted() {
    let (builder, mut net) = builder();
    let (client, server, offered) = blocked(builder, &mut net).await;
    client.one_way("m", "short").await.unwrap();
    client.one_way("m", "y".repeat(2_000)).await.unwrap();
    settle().await;
    let mut events = client.events();
    drop(server);
    outcome(offered).await.unwrap_err();
    assert_eq!(dropped(&mut events).await, 2);
    let mut server = net.greet().await;
    client.connected().await.unwrap();
    server.expect_silence().await;
    client.one_way("m", "next").await.unwrap();
    server.expect("* m next").await;
}

/// A server refuses with `closing` and has not sent `/bye`. The call is sent again after a pause: a
/// random part of growing windows.
#[tokio::test(start_paused = true)]
async fn a_call_refused_with_closing_is_resent_after_a_pause() {
    let mut pauses = [const { Vec::new() }; 3];
    for seed in 0..40 {
        let config = ClientConfig::new().random(Random::seeded(seed));
        let (client, mut server, _net) = connected_with(config).await;
        let refused = call(&client, "x");
        for (at, id) in (1..4).enumerate() {
            server.expect(&format!("{id} m x")).await;
            server.send(&format!("{id} no closing")).await;
            let told = Instant::now();
            server.read_ahead().await;
            pauses[at].push(told.elapsed().as_millis() as u64);
        }
        server.expect("4 m x").await;
        server.send("4 ok").await;
        outcome(refused).await.unwrap();
    }
    for (pauses, window) in pauses.iter_mut().zip([250, 500, 1_000]) {
        pauses.sort_unstable();
        assert!(pauses[39] <= window + 50, "{pauses:?}");
        assert!(pauses[20] > window / 5 && pauses[39] > window * 4 / 5, "{pauses:?}");
    }
}

/// The same where no other connection follows, and where the client closes.
#[tokio::test(start_paused = true)]
async fn dropped_one_ways_are_counted_when_the_client_ends() {
    for closes in [false, true] {
        let (builder, mut net) = builder();
        let (client, server, offered) = blocked(builder.reconnect(closes), &mut net).await;
        client.one_way("m", "1").await.unwrap();
        client.one_way("m", "2").await.unwrap();
        let mut events = client.events();
        drop(server);
        if closes {
            let _attempt = net.attempt().await;
            client.close().await.unwrap();
        }
        outcome(offered).await.unwrap_err();
        assert_eq!(dropped(&mut events).await, 2);
    }
}

/// The same on a draining connection, once its server has sent the `/bye` with `last`.
#[tokio::test(start_paused = true)]
async fn one_ways_to_a_draining_server_are_dropped_at_the_final_bye() {
    let (builder, mut net) = builder();
    let (client, mut server, offered) = blocked(builder, &mut net).await;
    client.one_way("m", "not offered").await.unwrap();
    server.send("* /bye shutdown").await;
    let mut next = net.greet().await;
    client.connected().await.unwrap();
    let mut events = client.events();
    server.send("* /bye;last=1 shutdown").await;
    assert_eq!(dropped(&mut events).await, 1);
    drop(server);
    outcome(offered).await.unwrap_err();
    next.expect_silence().await;
}

/// The same once the client closes.
#[tokio::test(start_paused = true)]
async fn one_ways_to_a_draining_server_are_dropped_on_close() {
    let (builder, mut net) = builder();
    let (client, mut server, offered) = blocked(builder, &mut net).await;
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
    assert_eq!(dropped(&mut events).await, 1);
}

/// A streamed reply of which no item can have come is requested elsewhere. One that had begun ends
/// as unknown.
#[tokio::test(start_paused = true)]
async fn a_streamed_reply_is_resent_only_if_not_begun() {
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

/// Whatever a server sends for a reply that had begun, no item comes twice.
#[tokio::test(start_paused = true)]
async fn a_begun_streamed_reply_is_not_resent() {
    let (client, mut server, _net) = connected().await;
    let mut items = client.stream("s", "");
    assert!(timeout(Duration::ZERO, items.next()).await.is_err());
    server.expect("1 s").await;
    server.send("1 more a\n1 no;retry=1 busy").await;
    assert_eq!(items.next().await.unwrap().unwrap(), "a");
    assert!(matches!(items.next().await, Some(Err(CallError::Refused { .. }))));
    server.expect_silence().await;
}

/// Requests for lists of the protocol are sent again, too.
#[tokio::test(start_paused = true)]
async fn a_list_request_is_resent_on_the_next_connection() {
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

/// Requests that wait for a connection are sent in the order of their arrival.
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

/// A request that could be sent again only behind its deadline ends with its refusal at once.
#[tokio::test(start_paused = true)]
async fn a_resend_past_the_deadline_is_not_awaited() {
    let (client, mut server, _net) = connected().await;
    let call = call_within(&client, "x", Some(Duration::from_secs(1)));
    let line = server.line().await;
    assert!(line.starts_with("1 m;ttl=1000 x"), "{line}");
    let refused = Instant::now();
    server.send("1 no;retry=5000 busy").await;
    let error = outcome(call).await.unwrap_err();
    assert!(matches!(error, CallError::Refused { .. }), "{error:?}");
    assert_eq!(refused.elapsed(), Duration::ZERO);
}
