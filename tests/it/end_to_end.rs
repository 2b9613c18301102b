//! The client and the server together: what a user of both relies on.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, Delivery, Failure, GapCause, Json, Router, Server,
    ServerConfig, Streamed, Unknown,
    protocol::{Code, Method},
};
use bellwire_testkit::PipeServer;
use bytes::Bytes;
use tokio::{sync::Semaphore, task::JoinSet};

fn client_of(server: &PipeServer, config: ClientConfig) -> Client {
    let (client, connection) = Client::new(server.connect_raw(64 * 1024).io, config);
    tokio::spawn(connection);
    client
}

/// A method that answers its payload: at once, after a turn, or after some milliseconds, by the
/// payload's own number.
async fn dawdle(payload: Bytes) -> Result<Bytes, Failure> {
    let number: u64 = std::str::from_utf8(&payload).unwrap().parse().unwrap();
    match number % 7 {
        0 | 1 => {}
        2 | 3 => tokio::task::yield_now().await,
        4 => tokio::time::sleep(Duration::from_millis(1)).await,
        5 => tokio::time::sleep(Duration::from_millis(number % 50)).await,
        _ => return Err(Failure::new(Code::from_static("seven"), payload_text(&payload))),
    }
    Ok(payload)
}

fn payload_text(payload: &Bytes) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

/// What 1,000 tasks saw of their calls.
#[derive(Default)]
struct Seen {
    ok: AtomicU64,
    remote: AtomicU64,
    deadline: AtomicU64,
    cut: AtomicU64,
    refused: AtomicU64,
    dropped: AtomicU64,
}

/// 1,000 tasks make 1,000 calls each over one connection, dropping some and giving some a deadline:
/// every call ends in exactly one outcome, and no caller ever gets another's reply (one outcome,
/// cancelling is free; SECURITY.md, threats 11 and 12). At the end nothing is left on either side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_calls_with_drops_and_deadlines() {
    const TASKS: u64 = 1_000;
    const CALLS: u64 = 1_000;
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap().to_string();
    let handle = server.handle();
    let serving = tokio::spawn(server.serve(Router::new().method("dawdle", dawdle)).into_future());
    let client = Client::connect(address).await.unwrap();
    let seen = Arc::new(Seen::default());
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (client, seen) = (client.clone(), seen.clone());
        tasks.spawn(async move {
            let mut random = fastrand::Rng::with_seed(task);
            for call in 0..CALLS {
                one_call(&client, &seen, &mut random, task * CALLS + call).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let all = [&seen.ok, &seen.remote, &seen.deadline, &seen.cut, &seen.refused, &seen.dropped];
    let counts = all.map(|count| count.load(Ordering::Relaxed));
    assert_eq!(counts.iter().sum::<u64>(), TASKS * CALLS);
    assert!(counts[0] > TASKS * CALLS / 3, "{counts:?}");
    // A call behind everything, then the terminal lines of all tombstones: the tables are empty.
    client.call("dawdle", "0").await.unwrap();
    while client.stats().pending > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(handle.stats().in_flight, 0);
    let stats = client.stats();
    assert_eq!((stats.unasked_replies, stats.doubled_replies), (0, 0));
    assert!(stats.late_replies > 0);
    client.close().await.unwrap();
    serving.abort();
}

async fn one_call(client: &Client, seen: &Seen, random: &mut fastrand::Rng, number: u64) {
    let payload = number.to_string();
    let mut call = client.call("dawdle", &payload);
    if random.u8(..4) == 0 {
        call = call.deadline(Duration::from_millis(random.u64(1..30)));
    }
    let outcome = if random.u8(..8) == 0 {
        let polls = random.u32(..3);
        match poll_some(call, polls).await {
            Some(outcome) => outcome,
            None => return count(&seen.dropped),
        }
    } else {
        call.await
    };
    match outcome {
        Ok(reply) => {
            assert_eq!(reply, payload, "another caller's reply");
            assert_ne!(number % 7, 6);
            count(&seen.ok);
        }
        Err(CallError::Remote(reason)) => {
            assert_eq!((reason.text, number % 7), (payload, 6), "another caller's reply");
            count(&seen.remote);
        }
        Err(CallError::Unknown(Unknown::Deadline)) => count(&seen.deadline),
        Err(CallError::Unknown(Unknown::Cut(_))) => count(&seen.cut),
        Err(error) if error.is_safe_to_retry() => count(&seen.refused),
        Err(error) => panic!("{error:?}"),
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Polls a call this many times, then drops it.
async fn poll_some(call: bellwire::Call<'_>, polls: u32) -> Option<Result<Bytes, CallError>> {
    let mut call = std::pin::pin!(call);
    for _ in 0..polls {
        if let std::task::Poll::Ready(outcome) = futures::poll!(call.as_mut()) {
            return Some(outcome);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// The library's client stays subscribed for hours and misses nothing, whatever the silence between
/// two notifications; each end knows the lease by itself (no silent loss, lease).
#[tokio::test(start_paused = true)]
async fn a_subscription_misses_nothing_over_hours() {
    let server =
        PipeServer::with_config(Router::new(), ServerConfig::new().lease(Duration::from_secs(10)));
    let client = client_of(&server, ClientConfig::default());
    let mut offers = client.subscribe("offers").await.unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for number in 1..=500 {
        tokio::time::sleep(Duration::from_secs(random.u64(..60))).await;
        server.publisher.publish("offers", number.to_string()).await.unwrap();
        let delivery = offers.next().await.unwrap();
        let notification = delivery.into_notification().expect("nothing but notifications");
        assert_eq!(notification.sequence, number);
        assert_eq!(notification.payload, number.to_string());
    }
    assert_eq!(client.stats().violations, 0);
}

/// If a client does not renew, its subscription ends with the lease, and it learns where to resume.
/// If it resumes there, it has lost nothing.
#[tokio::test(start_paused = true)]
async fn an_expired_subscription_reports_where_to_resume() {
    let server = PipeServer::start(Router::new());
    let mut peer = server.connect().await;
    peer.send("1 /subscribe offers\n").await;
    let line = peer.line().await.unwrap();
    let epoch = line.split(';').nth(1).unwrap().strip_prefix("epoch=").unwrap().to_owned();
    server.publisher.publish("offers", "a").await.unwrap();
    peer.expect("* offers 1 a\n").await;
    let start = tokio::time::Instant::now();
    peer.expect(format!("* /end offers expired {epoch}:2\n")).await;
    assert_eq!(start.elapsed().as_secs(), 60);
    server.publisher.publish("offers", "b").await.unwrap();
    peer.expect_silence().await;
    peer.send(format!("2 /subscribe;from={epoch}:2 offers\n")).await;
    peer.expect(format!("2 ok;epoch={epoch};next=2;head=2;lease=60\n")).await;
    peer.expect("* offers 2 b\n").await;
}

/// A client whose renewals are lost on the way is ended, comes back by itself, and loses nothing:
/// an expiry that crosses a renewal is a resume.
#[tokio::test(start_paused = true)]
async fn an_expiry_that_crosses_a_renewal_loses_nothing() {
    let config = ServerConfig::new().lease(Duration::from_secs(10));
    let server = PipeServer::with_config(Router::new(), config);
    let io = server.connect_raw(64 * 1024).io;
    // All the client's bytes arrive 9 s late: its renewal, sent at 5 to 8 s, comes after the end.
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (mut from_server, mut to_server) = tokio::io::split(io);
    let (mut from_client, mut to_client) = tokio::io::split(far);
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (sender, mut late) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut buffer = vec![0; 4_096];
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                let due = tokio::time::Instant::now() + Duration::from_secs(9);
                sender.send((due, buffer[..count].to_vec())).unwrap();
            }
        });
        while let Some((due, bytes)) = late.recv().await {
            tokio::time::sleep_until(due).await;
            to_server.write_all(&bytes).await.unwrap();
        }
    });
    let (client, connection) = Client::new(near, ClientConfig::default());
    tokio::spawn(connection);
    let mut offers = client.subscribe("offers").await.unwrap();
    for number in 1..=200 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.publisher.publish("offers", number.to_string()).await.unwrap();
    }
    for number in 1..=200 {
        let delivery = offers.next().await.unwrap();
        let notification = delivery.into_notification().expect("nothing but notifications");
        assert_eq!(notification.sequence, number);
    }
}

/// A subscriber that stops reading gets an exact gap when it reads again. Another subscriber loses
/// nothing, and calls on the slow subscriber's connection are answered (guarantee "isolation").
/// SECURITY.md, threats 14 and 28.
#[tokio::test]
async fn a_slow_subscriber_gets_an_exact_gap_and_delays_no_other() {
    let server = PipeServer::start(Router::new().method("echo", async |text: Bytes| text));
    let mut slow = server.connect_raw(256);
    slow.hello().await;
    slow.send("1 /subscribe t\n").await;
    slow.line().await;
    let client = client_of(&server, ClientConfig::default());
    let mut quick = client.subscribe("t").await.unwrap();
    let payload = "x".repeat(500);
    for number in 1..=5_000 {
        let published = server.publisher.publish("t", payload.clone()).await.unwrap();
        assert_eq!(published.sequence, number);
        let delivery = quick.next().await.unwrap();
        assert_eq!(delivery.into_notification().expect("no gap").sequence, number);
    }
    let mut next = 1;
    let mut gaps = 0;
    while next <= 5_000 {
        let line = slow.line().await.unwrap();
        let words: Vec<_> = line.trim_end().split(' ').collect();
        match words[1] {
            "t" => {
                assert_eq!(words[2].parse::<u64>().unwrap(), next);
                next += 1;
            }
            "/gap" => {
                assert_eq!(words[4].parse::<u64>().unwrap(), next);
                assert_eq!(words[6], "retention");
                next = words[5].parse::<u64>().unwrap() + 1;
                gaps += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert!(gaps > 0);
    slow.ask("2 echo still here\n", "2 ok still here\n").await;
}

/// The broadcast stream gets everything that the subscriptions get, in addition to them.
#[tokio::test]
async fn the_broadcast_stream_gets_all_notifications() {
    let server = PipeServer::start(Router::new().method("echo", async |text: Bytes| text));
    let client = client_of(&server, ClientConfig::new().inbox_items(4));
    let mut all = client.notifications();
    let mut topics = HashSet::new();
    let mut subscriptions = Vec::new();
    for topic in ["a", "b", "c"] {
        subscriptions.push(client.subscribe(topic).await.unwrap());
        server.publisher.publish(topic, topic).await.unwrap();
    }
    for _ in 0..3 {
        let notification = all.next().await.unwrap().into_notification().unwrap();
        assert_eq!(notification.payload, notification.topic.as_str());
        topics.insert(notification.topic);
    }
    assert_eq!(topics.len(), 3);
    assert_eq!(client.call("echo", "x").await.unwrap(), "x");
    for _ in 0..10 {
        server.publisher.publish("a", "again").await.unwrap();
    }
    while subscriptions[0].position().next < 12 {
        subscriptions[0].next().await.unwrap();
    }
    let Some(Delivery::Gap(gap)) = all.next().await else { panic!("it lagged, and says so") };
    assert_eq!((gap.topic.as_str(), gap.cause), ("a", GapCause::Lagged));
    assert_eq!((gap.first, gap.last), (2, 7));
    for sequence in 8..=11 {
        let notification = all.next().await.unwrap().into_notification().unwrap();
        assert_eq!(notification.sequence, sequence);
    }
}

/// Publishing from a client where it is allowed, listing the methods, and an orderly close.
#[tokio::test]
async fn a_client_can_publish_list_methods_and_close() {
    let router = Router::new()
        .method("b", bellwire::handler(async |text: Bytes| text).doc("the second"))
        .method("a", async |text: Bytes| text);
    let server = PipeServer::with_config(router, ServerConfig::new().allow_publish(true));
    let client = client_of(&server, ClientConfig::default());
    let mut own = client.subscribe("t").await.unwrap();
    let published = client.publish("t", "a\nb").await.unwrap();
    let notification = own.next().await.unwrap().into_notification().unwrap();
    assert_eq!((notification.epoch, notification.sequence), (published.epoch, 1));
    assert_eq!(notification.payload, "a\nb");
    let methods = client.methods().await.unwrap();
    let method = |name| Method::new(name).unwrap();
    assert_eq!(methods, [(method("a"), String::new()), (method("b"), "the second".into())]);
    client.close().await.unwrap();
}

/// The announced limit bounds a burst. All callers beyond it get their turn.
#[tokio::test]
async fn callers_beyond_the_in_flight_limit_wait_their_turn() {
    let running = Arc::new(AtomicU64::new(0));
    let most = Arc::new(AtomicU64::new(0));
    let gate = Arc::new(Semaphore::new(0));
    let state = (running, most.clone(), gate.clone());
    let router = Router::with_state(state).method("wait", wait);
    let server = PipeServer::with_config(router, ServerConfig::new().in_flight(8));
    let client = client_of(&server, ClientConfig::default());
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let client = client.clone();
        calls.spawn(async move { client.call("wait", "").await });
    }
    gate.add_permits(100);
    while let Some(reply) = calls.join_next().await {
        reply.unwrap().unwrap();
    }
    assert!(most.load(Ordering::SeqCst) <= 8);
}

type Gate = (Arc<AtomicU64>, Arc<AtomicU64>, Arc<Semaphore>);

async fn wait(bellwire::State((running, most, gate)): bellwire::State<Gate>) {
    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
    most.fetch_max(now, Ordering::SeqCst);
    gate.acquire().await.unwrap().forget();
    running.fetch_sub(1, Ordering::SeqCst);
}

/// The same over Unix sockets, whose addresses are paths: a client that reconnects, and the short
/// form.
#[cfg(unix)]
#[tokio::test]
async fn clients_connect_and_reconnect_over_unix_sockets() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bell");
    let server = Server::new(tokio::net::UnixListener::bind(&path).unwrap());
    let handle = server.handle();
    let echo = async |payload: Bytes| payload;
    let serving = tokio::spawn(server.serve(Router::new().method("echo", echo)).into_future());

    let builder = Client::builder().address(path.display());
    let client = builder.connector(bellwire::UnixConnector::default()).connect().await.unwrap();
    assert_eq!(client.call("echo", "a").await.unwrap(), "a");
    let mut events = client.events();
    for session in handle.sessions() {
        session.close(Code::from_static("maintenance"));
    }
    while !matches!(events.next().await, Some(bellwire::ConnectionEvent::Connected(_))) {}
    assert_eq!(client.call("echo", "b").await.unwrap(), "b");
    client.close().await.unwrap();

    let client = Client::connect_unix(&path).await.unwrap();
    assert_eq!(client.call("echo", "c").await.unwrap(), "c");
    serving.abort();
}

// Values without a payload.

/// Sends a value as the argument of a call and of a stream, as a reply, an item and a notification:
/// it comes back as it was, and so it does where the payload is absent, if it is `null`.
async fn goes_round<T>(value: T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    T: Clone + Send + Sync + 'static,
{
    let items = value.clone();
    let twice = move |Json(argument): Json<T>| {
        let is_same = argument == items;
        async move {
            let items = [argument.clone(), argument].map(Json);
            is_same.then(|| Streamed(futures::stream::iter(items))).ok_or_else(other)
        }
    };
    let expected = value.clone();
    let echo = move |Json(argument): Json<T>| {
        let is_same = argument == expected;
        async move { is_same.then_some(Json(argument)).ok_or_else(other) }
    };
    let router = Router::new()
        .method("echo", echo)
        .method("twice", twice)
        .method("nothing", async || ())
        .method("nothings", async || Streamed(futures::stream::iter([(), ()])));
    let server = PipeServer::with_config(router, ServerConfig::new().allow_publish(true));
    let client = client_of(&server, ClientConfig::new());
    assert_eq!(client.request::<T, T>("echo", &value).await, Ok(value.clone()));
    let replied = client.request::<T, T>("echo", &value).replied().await.unwrap();
    assert_eq!(replied.value, value);
    let mut items = client.request_stream::<T, T>("twice", &value);
    for _ in 0..2 {
        assert_eq!(items.next().await, Some(Ok(value.clone())));
    }
    assert_eq!(items.next().await, None);
    let json = serde_json::to_vec(&value).unwrap();
    // What the type makes of `null`, if it takes that.
    let null = serde_json::from_slice::<T>(b"null").ok();
    let mut news = client.subscribe("t").await.unwrap();
    client.publish("t", &json).await.unwrap();
    assert_eq!(notification(&mut news).await.json::<T>().unwrap(), value);
    // An absent payload is `null`, and nothing else is.
    let absent = client.request::<(), T>("nothing", &()).await;
    assert_eq!(absent.as_ref().ok(), null.as_ref(), "{absent:?}");
    assert!(null.is_some() || matches!(absent, Err(CallError::Decode(_))));
    let item = client.request_stream::<(), T>("nothings", &()).next().await.expect("an item");
    assert_eq!(item.as_ref().ok(), null.as_ref(), "{item:?}");
    let echoed = client.call("echo", "").await;
    assert_eq!(echoed.is_ok(), null.as_ref() == Some(&value), "{echoed:?}");
    server.publisher.publish("t", "").await.unwrap();
    assert_eq!(notification(&mut news).await.json::<T>().ok(), null);
}

fn other() -> Failure {
    Failure::new(Code::from_static("other"), "another value came")
}

async fn notification(news: &mut bellwire::Subscription) -> bellwire::Notification {
    match news.next().await {
        Some(Delivery::Notification(one)) => one,
        other => panic!("{other:?}"),
    }
}

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Unit;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Newtype(Option<u8>);

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Empty {}

/// The smallest values of every kind, and empty ones.
#[tokio::test]
async fn empty_and_null_values_round_trip() {
    goes_round(()).await;
    goes_round(Unit).await;
    goes_round(None::<u32>).await;
    goes_round(Some(7)).await;
    goes_round(Some(String::new())).await;
    goes_round(Newtype(None)).await;
    goes_round(Newtype(Some(1))).await;
    goes_round(Empty {}).await;
    goes_round(String::new()).await;
    goes_round(Vec::<u32>::new()).await;
    goes_round(vec![()]).await;
    goes_round(std::collections::BTreeMap::<String, u32>::new()).await;
    goes_round(serde_json::Value::Null).await;
    goes_round(serde_json::json!({ "a": null })).await;
    goes_round(false).await;
    goes_round(0).await;
}

/// A codec of one's own sees the payload as it is.
#[tokio::test]
async fn another_codec_sees_an_absent_payload() {
    struct Length;
    impl bellwire::Encode<()> for Length {
        fn encode(&self, (): &(), _: &mut Vec<u8>) -> Result<(), bellwire::CodecError> {
            Ok(())
        }
    }
    impl bellwire::Decode<usize> for Length {
        fn decode(&self, payload: &[u8]) -> Result<usize, bellwire::CodecError> {
            Ok(payload.len())
        }
    }
    let router = Router::new().method("nothing", async |payload: Bytes| {
        assert!(payload.is_empty());
    });
    let server = PipeServer::start(router);
    let client = client_of(&server, ClientConfig::new());
    assert_eq!(client.request_with::<_, (), usize>(Length, "nothing", &()).await, Ok(0));
}
