//! The client against a server made of raw bytes: each line is written and read as it stands here.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, ConnectionError, ConnectionEvent, Delivery, Gap, GapCause,
    NotSent, OneWay, Unknown,
    protocol::{Code, Position, RequestId, TraceParent},
};
#[cfg(feature = "unstable-core")]
use bellwire::{
    protocol::Time,
    unstable::client::{Output, by_hand},
};
use bellwire_testkit::RawPeer;
use futures::future::join_all;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    task::JoinHandle,
    time::timeout,
};

const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60";

type Driver = JoinHandle<Result<(), ConnectionError>>;

/// A client, its driver's task, and the server's end of its connection, before the hello.
fn silent(config: ClientConfig) -> (Client, Driver, RawPeer<DuplexStream>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (client, connection) = Client::new(near, config);
    (client, tokio::spawn(connection), RawPeer::new(far))
}

async fn greeted() -> (Client, Driver, RawPeer<DuplexStream>) {
    let (client, driver, mut server) = silent(ClientConfig::default());
    server.send(format!("{HELLO}\n")).await;
    client.connected().await.unwrap();
    (client, driver, server)
}

fn spawn_call(
    client: &Client,
    method: &str,
    payload: &str,
) -> JoinHandle<Result<String, CallError>> {
    let (client, method, payload) = (client.clone(), method.to_owned(), payload.to_owned());
    tokio::spawn(async move {
        let reply = client.call(&method, payload).await?;
        Ok(String::from_utf8(reply.to_vec()).unwrap())
    })
}

fn at(text: &str) -> Position {
    text.parse().unwrap()
}

async fn subscribed(client: &Client, server: &mut RawPeer<DuplexStream>) -> bellwire::Subscription {
    let (subscription, ()) = tokio::join!(client.subscribe("offers").into_future(), async {
        server.expect("1 /subscribe offers\n").await;
        server.send("1 ok;epoch=e;next=18;head=17;lease=60\n").await;
    });
    subscription.unwrap()
}

fn number(delivery: Option<Delivery>) -> (u64, String) {
    let notification = delivery.unwrap().into_notification().unwrap();
    let payload = String::from_utf8(notification.payload.to_vec()).unwrap();
    (notification.sequence, payload)
}

fn gap(delivery: Option<Delivery>) -> (u64, u64, GapCause) {
    match delivery {
        Some(Delivery::Gap(Gap { first, last, cause, .. })) => (first, last, cause),
        other => panic!("no gap: {other:?}"),
    }
}

/// [C3.1] [C3.3] Replies find their callers by id, in whatever order they come.
#[tokio::test]
async fn replies_come_in_any_order() {
    let (client, _driver, mut server) = greeted().await;
    let calls = join_all(["a", "b", "c"].map(|one| client.call("echo", one)));
    let (replies, ()) = tokio::join!(calls, async {
        server.expect("1 echo a\n").await;
        server.expect("2 echo b\n").await;
        server.expect("3 echo c\n").await;
        server.send("3 ok C\n").await;
        server.send("1 err no-luck not today\n").await;
        server.send("2 ok B\n").await;
    });
    assert_eq!(replies[1].as_deref().unwrap(), b"B");
    assert_eq!(replies[2].as_deref().unwrap(), b"C");
    assert_eq!(replies[0].as_ref().unwrap_err().code().unwrap(), "no-luck");
    assert_eq!(client.stats().pending, 0);
}

/// [C3.3] The word determines the outcome, whatever the code is.
#[tokio::test]
async fn each_reply_word_has_its_own_outcome() {
    let (client, _driver, mut server) = greeted().await;
    let outcome = async |server: &mut RawPeer<DuplexStream>, id: u64, line: &str| {
        let (reply, ()) = tokio::join!(client.call("m", "").fail_fast(), async {
            server.expect(format!("{id} m\n")).await;
            server.send(format!("{line}\n")).await;
        });
        reply
    };
    assert_eq!(outcome(&mut server, 1, "1 ok").await.unwrap(), "");
    let error = outcome(&mut server, 2, "2 err busy").await.unwrap_err();
    assert!(matches!(error, CallError::Remote(_)), "{error:?}");
    let error = outcome(&mut server, 3, "3 no;retry=250 internal").await.unwrap_err();
    let CallError::Refused { retry, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*retry, error.may_have_run()), (Some(Duration::from_millis(250)), false));
    let error = outcome(&mut server, 4, "4 cut never-heard-of").await.unwrap_err();
    assert!(matches!(error, CallError::Unknown(Unknown::Cut(_))), "{error:?}");
}

/// [C3.4] [C3.5] A second reply, and a reply without a request, reach no caller and are reported.
#[tokio::test]
async fn unexpected_replies_are_counted() {
    let (client, _driver, mut server) = greeted().await;
    let mut events = client.events();
    let call = spawn_call(&client, "m", "");
    server.expect("1 m\n").await;
    server.send("77 ok who\n").await;
    server.send("1 ok first\n").await;
    server.send("1 ok second\n").await;
    assert_eq!(call.await.unwrap().unwrap(), "first");
    let id = |id| RequestId::new(id).unwrap();
    assert_eq!(events.next().await, Some(ConnectionEvent::UnaskedReply(id(77))));
    assert_eq!(events.next().await, Some(ConnectionEvent::DoubledReply(id(1))));
    let stats = client.stats();
    assert_eq!((stats.unasked_replies, stats.doubled_replies), (1, 1));
}

/// [C2.4] Nothing is written before the hello, and its limits apply.
#[tokio::test]
async fn nothing_is_written_before_the_hello_and_its_limits_apply() {
    let (client, _driver, mut server) = silent(ClientConfig::default());
    let first = spawn_call(&client, "m", "1");
    tokio::task::yield_now().await;
    server.expect_silence().await;
    let hello = "* /hello;version=1;in-flight=1;max-line=1024;lease=60;unknown=x";
    server.send(format!("{hello}\n")).await;
    server.expect("1 m 1\n").await;
    let second = spawn_call(&client, "m", "2");
    tokio::task::yield_now().await;
    server.expect_silence().await;
    server.send("1 ok\n").await;
    server.expect("2 m 2\n").await;
    server.send("2 ok\n").await;
    assert!(first.await.unwrap().is_ok() && second.await.unwrap().is_ok());
    let error = client.call("m", vec![b'x'; 1_024]).await.unwrap_err();
    assert_eq!(error, CallError::NotSent(NotSent::TooLarge { max_line: 1_024 }));
}

/// Lines that come in one read with the hello are handled, whatever they are.
#[tokio::test(start_paused = true)]
async fn lines_in_one_read_with_the_hello_are_handled() {
    let (client, _driver, mut server) = silent(ClientConfig::default());
    let call = spawn_call(&client, "m", "");
    let lines = "* t 1 x\n* t 2 x\n7 more x\n8 more x\n9 ok\n* t 3 x\n10 ok\n* /hold\n* t 4 x\n";
    server.send(format!("{HELLO}\n{lines}")).await;
    server.expect("1 m\n").await;
    server.send("1 ok\n").await;
    assert_eq!(call.await.unwrap().unwrap(), "");
    let stats = client.stats();
    assert_eq!((stats.unasked_replies, stats.ok), (4, 1));
}

/// [C2.2] A line as long as the server takes is sent, one byte more is not.
#[tokio::test]
async fn the_longest_line_is_counted_with_its_lf() {
    let (client, _driver, mut server) = silent(ClientConfig::default());
    server.send("* /hello;version=1;max-line=1024\n").await;
    // What is refused is counted with the longest id and deadline there are.
    let fits = "x".repeat(1_024 - 17 - 21 - "m \n".len());
    let call = spawn_call(&client, "m", &fits);
    server.expect(format!("1 m {fits}\n")).await;
    server.send("1 ok\n").await;
    call.await.unwrap().unwrap();
    let error = client.call("m", format!("{fits}x")).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::TooLarge { .. })), "{error:?}");
}

/// [C2.3] A server of another version, or of another protocol, gets nothing.
#[tokio::test]
async fn another_version_is_refused() {
    for (line, expected) in [
        ("* /hello;version=2", Some(ConnectionError::Version(2))),
        ("220 mail.example ESMTP", None),
        ("* /hello", None),
        ("1 ok", None),
    ] {
        let (client, driver, mut server) = silent(ClientConfig::default());
        let call = spawn_call(&client, "m", "");
        server.send(format!("{line}\n")).await;
        let error = driver.await.unwrap().unwrap_err();
        match expected {
            Some(expected) => assert_eq!(error, expected),
            None => assert!(matches!(error, ConnectionError::Protocol(_)), "{error:?}"),
        }
        assert_eq!(call.await.unwrap().unwrap_err(), CallError::NotSent(NotSent::Lost(error)));
        server.expect_closed().await;
    }
}

/// [B2.9] [C2.1] [C2.5] A malformed line ends the connection, and every call with one reason.
#[tokio::test]
async fn a_malformed_line_ends_the_connection() {
    for line in ["1 ok x\r", "1 okay", "1 ok\x10", "nonsense", "* offers 0", "1 err", "* /gap x"] {
        let (client, driver, mut server) = greeted().await;
        let calls = [spawn_call(&client, "m", ""), spawn_call(&client, "n", "")];
        server.line().await;
        server.line().await;
        server.send(format!("{line}\n")).await;
        let error = driver.await.unwrap().unwrap_err();
        assert!(matches!(error, ConnectionError::Protocol(_)), "{line:?}: {error:?}");
        for call in calls {
            let lost = CallError::Unknown(Unknown::Lost(error.clone()));
            assert_eq!(call.await.unwrap().unwrap_err(), lost);
        }
    }
}

/// [B2.9] [C2.5] So does an `ok` that does not say where a subscription begins.
#[tokio::test]
async fn an_ok_without_a_position_ends_the_connection() {
    for attributes in ["", ";epoch=e", ";next=1", ";epoch=e;next=x", ";epoch=e:;next=1"] {
        let (client, driver, mut server) = greeted().await;
        let subscribing = tokio::spawn(client.subscribe("t").into_future());
        server.expect("1 /subscribe t\n").await;
        server.send(format!("1 ok{attributes}\n* t 1 x\n")).await;
        let error = driver.await.unwrap().unwrap_err();
        assert!(matches!(error, ConnectionError::Protocol(_)), "{attributes:?}: {error:?}");
        let lost = CallError::Unknown(Unknown::Lost(error));
        assert_eq!(subscribing.await.unwrap().unwrap_err(), lost);
        server.expect_closed().await;
    }
}

/// [B2.8] The client has the same limit on a line, and buffers no more than it.
#[tokio::test]
async fn an_endless_line_ends_the_connection() {
    let config = ClientConfig::new().max_line(2_048);
    let (_client, driver, mut server) = silent(config);
    server.send(format!("{HELLO}\n")).await;
    server.expect("1 /hello;version=1;max-line=2048\n").await;
    server.send(&[b'1'; 2_048]).await;
    let error = driver.await.unwrap().unwrap_err();
    assert_eq!(error, ConnectionError::Protocol("line longer than 2048 bytes".into()));
}

/// [C3.6] A stream where one line was asked for ends the call, and is cancelled.
#[tokio::test]
async fn a_streamed_reply_to_a_plain_call_is_cancelled() {
    let (client, _driver, mut server) = greeted().await;
    let call = spawn_call(&client, "m", "");
    server.expect("1 m\n").await;
    server.send("1 more x\n").await;
    assert_eq!(call.await.unwrap().unwrap_err(), CallError::Unknown(Unknown::Streamed));
    server.expect("* /cancel 1\n").await;
    server.send("1 cut cancelled\n").await;
    assert_eq!(client.methods_after(&mut server).await, 1);
}

trait Late {
    async fn methods_after(&self, server: &mut RawPeer<DuplexStream>) -> u64;
}

impl Late for Client {
    /// The count of late replies once the server's lines so far are read.
    async fn methods_after(&self, server: &mut RawPeer<DuplexStream>) -> u64 {
        let (methods, ()) = tokio::join!(self.methods(), async {
            let line = server.line().await.unwrap();
            let id = line.strip_suffix(" /methods\n").unwrap();
            server.send(format!("{id} more a.b doc of it\n")).await;
            server.send(format!("{id} more c\n")).await;
            server.send(format!("{id} ok\n")).await;
        });
        let methods = methods.unwrap();
        let methods: Vec<_> = methods.iter().map(|(m, d)| (m.as_str(), d.as_str())).collect();
        assert_eq!(methods, [("a.b", "doc of it"), ("c", "")]);
        self.stats().late_replies
    }
}

/// Cancelling is free: a dropped call is cancelled on the wire, and its place is held until its
/// terminal line.
#[tokio::test]
async fn a_dropped_call_leaves_a_tombstone() {
    let (client, _driver, mut server) = silent(ClientConfig::new().in_flight(1));
    server.send(format!("{HELLO}\n")).await;
    let call = spawn_call(&client, "m", "");
    server.expect("1 m\n").await;
    call.abort();
    server.expect("* /cancel 1\n").await;
    assert_eq!(client.stats().pending, 1);
    let next = spawn_call(&client, "n", "");
    tokio::task::yield_now().await;
    server.expect_silence().await;
    server.send("1 ok too late\n").await;
    server.expect("2 n\n").await;
    server.send("2 ok mine\n").await;
    assert_eq!(next.await.unwrap().unwrap(), "mine");
    assert_eq!((client.stats().late_replies, client.stats().pending), (1, 0));
}

/// A call is woken where it was polled last.
#[tokio::test(start_paused = true)]
async fn a_call_that_another_task_polls_is_woken_there() {
    let (client, _driver, mut server) = greeted().await;
    let mut call = std::pin::pin!(client.call("m", ""));
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(call.as_mut().poll(cx).is_pending());
    server.expect("1 m\n").await;
    assert!(futures::poll!(call.as_mut()).is_pending());
    let since = tokio::time::Instant::now();
    server.send("1 ok\n").await;
    let reply = timeout(Duration::from_secs(1), call).await;
    assert_eq!(reply.expect("a reply").unwrap(), "");
    assert_eq!(since.elapsed(), Duration::ZERO);
}

/// A call leaves only buffer space for the next call of its thread: no attribute, no outcome and no
/// waker.
#[tokio::test(start_paused = true)]
async fn a_reused_call_slot_holds_no_data_of_the_previous_call() {
    struct Task;
    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    let (client, _driver, mut server) = greeted().await;
    let tagged = client.call("m", "x").attribute("app.tenant", "blue");
    let (reply, ()) = tokio::join!(tagged, async {
        server.expect("1 m;app.tenant=blue x\n").await;
        server.send("1 ok;after=t:e:1 first\n").await;
    });
    assert_eq!(reply.unwrap(), "first");

    // One call at a time: each takes over what the one before left behind.
    let plain = timeout(Duration::from_secs(60), client.call("n", "y").replied());
    let (reply, ()) = tokio::join!(plain, async {
        server.expect("2 n y\n").await;
        server.send("2 ok second\n").await;
    });
    let reply = reply.expect("the call is woken").unwrap();
    assert_eq!((&reply.value[..], reply.after), (&b"second"[..], None));

    let task = Arc::new(Task);
    let waker = Waker::from(task.clone());
    let deadline = Duration::from_secs(5);
    let mut late = Box::pin(client.call("o", "z").deadline(deadline));
    assert!(late.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    server.expect("3 o;ttl=5000 z\n").await;
    tokio::time::sleep(deadline).await;
    let ended = late.as_mut().poll(&mut Context::from_waker(&waker));
    assert_eq!(ended, Poll::Ready(Err(Unknown::Deadline.into())));
    drop((late, waker));
    assert_eq!(Arc::strong_count(&task), 1, "the waker of a call that is over is kept");
    server.expect("* /cancel 3\n").await;

    let last = timeout(Duration::from_secs(60), client.call("p", ""));
    let (reply, ()) = tokio::join!(last, async {
        server.expect("4 p\n").await;
        server.send("3 ok late\n4 ok fourth\n").await;
    });
    assert_eq!(reply.expect("the call is woken").unwrap(), "fourth");
}

/// A deadline is enforced by the client, sent as `ttl`, and cancels the request.
#[tokio::test(start_paused = true)]
async fn a_deadline_is_sent_as_ttl_and_enforced_locally() {
    let (client, _driver, mut server) = greeted().await;
    let deadline = Duration::from_millis(1_500);
    let calling = client.clone();
    let call = tokio::spawn(async move {
        calling.call("m", "x").attribute("app.tenant", "blue").deadline(deadline).await
    });
    server.expect("1 m;app.tenant=blue;ttl=1500 x\n").await;
    assert_eq!(call.await.unwrap().unwrap_err(), CallError::Unknown(Unknown::Deadline));
    server.expect("* /cancel 1\n").await;
    server.send("1 cut deadline\n").await;

    let (waiting, _driver, _server) = silent(ClientConfig::default());
    let error = waiting.call("m", "").deadline(deadline).await.unwrap_err();
    assert_eq!(error, CallError::NotSent(NotSent::Deadline(None)));
}

/// The configured deadline of a streamed call covers sending it. This includes a resend after a
/// refusal, long after the search for expired requests has passed the stream.
#[tokio::test(start_paused = true)]
async fn a_stream_waiting_to_be_resent_keeps_its_deadline() {
    let secs = Duration::from_secs;
    let config = ClientConfig::new().deadline(secs(60)).probe(secs(1_000)).dead(secs(2_000));
    let (client, _driver, mut server) = silent(config);
    let hello = HELLO.replace("in-flight=1024", "in-flight=1").replace("lease=60", "lease=3600");
    server.send(format!("{hello}\n")).await;
    let first = spawn_call(&client, "a", "");
    server.expect("1 a\n").await;
    server.send("1 ok\n").await;
    assert_eq!(first.await.unwrap().unwrap(), "");
    tokio::time::sleep(secs(50)).await;
    let began = tokio::time::Instant::now();
    let mut items = client.stream("b", "");
    let next = tokio::spawn(async move { items.next().await });
    server.expect("2 b\n").await;
    tokio::time::sleep(secs(11)).await;
    server.send("2 no;retry=1 busy\n").await;
    let holding = client.clone();
    let holding = tokio::spawn(async move { holding.call("c", "").deadline(None).await });
    server.expect("3 c\n").await;
    let ended = timeout(secs(300), next).await.expect("it ends").unwrap();
    assert!(matches!(ended, Some(Err(CallError::Refused { .. }))), "{ended:?}");
    let took = began.elapsed();
    assert!(took >= secs(60) && took < secs(61), "{took:?}");
    holding.abort();
}

/// Requests that do not fit the protocol are refused by the client, and nothing is sent.
#[tokio::test]
async fn unencodable_requests_are_refused_and_not_sent() {
    let (client, _driver, mut server) = greeted().await;
    for method in ["", "a b", "/quit", "ok", "caf\u{e9}"] {
        let error = client.call(method, "").await.unwrap_err();
        assert!(matches!(error, CallError::NotSent(NotSent::Name(_))), "{method}: {error:?}");
    }
    for (key, value) in [("nodot", "x"), ("a.b", "x y"), ("A.b", "x"), ("a.b", "")] {
        let error = client.call("m", "").attribute(key, value).await.unwrap_err();
        assert!(matches!(error, CallError::NotSent(NotSent::Attribute(_))), "{key}: {error:?}");
        let error = client.one_way("m", "").attribute(key, value).await.unwrap_err();
        assert!(matches!(error, NotSent::Attribute(_)), "{key}: {error:?}");
    }
    let error = client.publish("a b", "").await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Name(_))));
    client.one_way("m", "a\nb").await.unwrap();
    server.expect("* m a\x10Jb\n").await;
    let trace = TraceParent::new(1, 2, true).unwrap();
    client.one_way("m", "x").attribute("a.b", 7).trace(trace).await.unwrap();
    server.expect(&format!("* m;a.b=7;trace={trace} x\n")).await;
}

/// A one-way request with a deadline, whose attributes take `len` bytes of the head.
fn with_attributes(client: &Client, len: usize) -> OneWay<'_> {
    let request = client.one_way("m", "").deadline(Duration::from_secs(5));
    let request =
        (0..7).fold(request, |request, n| request.attribute(&format!("a.{n}"), "x".repeat(255)));
    request.attribute("a.7", "x".repeat(len - 7 * ";a.0=".len() - 7 * 255 - ";a.7=".len()))
}

/// The line of a one-way request has no `ttl`, so its deadline takes no space in the head, whether
/// the request is sent at once, or waits for a connection or for the outbound buffer.
#[tokio::test(start_paused = true)]
async fn a_one_way_deadline_takes_no_space_in_the_head() {
    // A head has 2,048 bytes. The longest id and a SP take 17, and the word 1.
    const LEN: usize = 2_048 - 17 - 1;
    let values = (0..7).map(|n| format!(";a.{n}={}", "x".repeat(255))).collect::<String>();
    let line = format!("* m{values};a.7={}\n", "x".repeat(LEN - values.len() - ";a.7=".len()));

    let (client, _driver, mut server) = silent(ClientConfig::new().outbound_bytes(1));
    let mut waiting = std::pin::pin!(with_attributes(&client, LEN));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    server.send(format!("{HELLO}\n")).await;
    server.expect(&line).await;
    assert_eq!(waiting.await, Ok(()));

    assert_eq!(with_attributes(&client, LEN).await, Ok(()));
    let mut behind = std::pin::pin!(with_attributes(&client, LEN));
    assert!(
        futures::poll!(behind.as_mut()).is_pending(),
        "the driver has not taken the line before"
    );
    server.expect(&line).await;
    server.expect(&line).await;
    assert_eq!(behind.await, Ok(()));

    let error = with_attributes(&client, LEN + 1).await;
    assert!(matches!(error, Err(NotSent::Attribute(_))), "{error:?}");
}

/// Typed calls: JSON by default, a codec of one's own where wanted.
#[cfg(feature = "json")]
#[tokio::test]
async fn typed_calls_use_json_or_a_custom_codec() {
    let (client, _driver, mut server) = greeted().await;
    let (sum, ()) = tokio::join!(client.request::<_, u32>("add", &[1, 2]), async {
        server.expect("1 add [1,2]\n").await;
        server.send("1 ok 3\n").await;
    });
    assert_eq!(sum, Ok(3));
    let (sum, ()) = tokio::join!(client.request::<_, u32>("add", &[1, 2]), async {
        server.expect("2 add [1,2]\n").await;
        server.send("2 ok three\n").await;
    });
    assert!(matches!(sum, Err(CallError::Decode(_))), "{sum:?}");
    let unencodable = std::collections::HashMap::from([((1, 2), 3)]);
    let error = client.request::<_, u32>("add", &unencodable).await.unwrap_err();
    assert!(matches!(error, CallError::Encode(_)), "{error:?}");
}

/// [C2.7] [C2.6] Notices at any time; unknown ones, and what is new in known ones, ignored.
#[tokio::test]
async fn unknown_notices_and_attributes_are_ignored() {
    let (client, _driver, mut server) = greeted().await;
    let mut events = client.events();
    server.send("* /weather;sky=blue fine\n").await;
    server.send("* /error;id=9;new=1 forbidden not you\n").await;
    let event = events.next().await;
    let Some(ConnectionEvent::ServerError { id, reason }) = event else { panic!("{event:?}") };
    assert_eq!((id.unwrap().get(), reason.code), (9, Code::FORBIDDEN));
    let mut offers = subscribed(&client, &mut server).await;
    server.send("* /gap offers e 18 19 retention and more\n").await;
    server.send("* offers;new=1 20 x\n").await;
    assert_eq!(gap(offers.next().await), (18, 19, GapCause::Server(Code::RETENTION)));
    assert_eq!(number(offers.next().await), (20, "x".into()));
}

/// [C3.2] Ids that the server calls out of order end the connection.
#[tokio::test]
async fn an_id_order_error_closes_the_connection() {
    let (_client, driver, mut server) = greeted().await;
    server.send("* /error;id=3 id-order last is 7\n").await;
    assert!(matches!(driver.await.unwrap(), Err(ConnectionError::Protocol(_))));
}

/// When the last stream of a topic is dropped, the client unsubscribes. A later stream subscribes
/// again.
#[tokio::test]
async fn dropping_the_last_stream_unsubscribes() {
    let (client, _driver, mut server) = greeted().await;
    let mut first = subscribed(&client, &mut server).await;
    let mut second = client.subscribe("offers").await.unwrap();
    server.send("* offers 18 a\x10Jb\n").await;
    assert_eq!(number(first.next().await), (18, "a\nb".into()));
    assert_eq!(number(second.next().await), (18, "a\nb".into()));
    assert_eq!(second.position(), at("e:19"));
    drop(first);
    server.send("* offers 19\n").await;
    assert_eq!(number(second.next().await), (19, String::new()));
    let resume = second.position();
    drop(second);
    server.expect("2 /unsubscribe offers\n").await;
    // A notification that was sent before the server read `/unsubscribe` is dropped without a
    // violation.
    server.send("* offers 20 crossing\n").await;
    let again = client.subscribe("offers").from(resume);
    let again = tokio::spawn(again.into_future());
    server.send("2 ok;next=e:21\n").await;
    server.expect("3 /subscribe;from=e:20 offers\n").await;
    server.send("3 ok;epoch=e;next=20;head=20;lease=60\n").await;
    server.send("* offers 20 crossing\n").await;
    let mut again = again.await.unwrap().unwrap();
    assert_eq!(number(again.next().await), (20, "crossing".into()));
    assert_eq!(client.stats().violations, 0);
}

/// A dropped subscribe leaves no subscription.
#[tokio::test]
async fn a_dropped_subscribe_unsubscribes() {
    let (client, _driver, mut server) = greeted().await;
    let pending = tokio::spawn(client.subscribe("offers").into_future());
    server.expect("1 /subscribe offers\n").await;
    pending.abort();
    assert!(pending.await.unwrap_err().is_cancelled());
    server.send("1 ok;epoch=e;next=1;head=0;lease=60\n").await;
    server.expect("2 /unsubscribe offers\n").await;
}

/// The caller gets the refusal. Nothing else is affected.
#[tokio::test]
async fn a_refused_subscribe_fails_only_its_caller() {
    let (client, _driver, mut server) = greeted().await;
    let mut all = client.notifications();
    let refused = tokio::spawn(client.subscribe("secret").into_future());
    server.expect("1 /subscribe secret\n").await;
    server.send("1 no forbidden\n").await;
    let error = refused.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&Code::FORBIDDEN));
    let (subscription, ()) = tokio::join!(client.subscribe("offers").into_future(), async {
        server.expect("2 /subscribe offers\n").await;
        server.send("2 ok;epoch=e;next=1;head=0;lease=60\n").await;
        server.send("* offers 1 x\n").await;
    });
    let mut subscription = subscription.unwrap();
    assert_eq!(number(subscription.next().await).0, 1);
    assert_eq!(number(all.next().await).0, 1);
}

/// [C4.1] [C4.2] Repeated numbers are ignored, missing numbers are reported as gaps, and
/// notifications of unknown topics are counted.
#[tokio::test]
async fn out_of_order_notifications_are_reported() {
    let (client, _driver, mut server) = greeted().await;
    let mut offers = subscribed(&client, &mut server).await;
    server.send("* offers 17 again\n").await;
    server.send("* offers 20 skips\n").await;
    server.send("* rumours 1 never asked for\n").await;
    server.send("* /gap offers e 23 24 retention\n").await;
    assert_eq!(gap(offers.next().await), (18, 19, GapCause::Lost));
    assert_eq!(number(offers.next().await), (20, "skips".into()));
    assert_eq!(gap(offers.next().await), (21, 22, GapCause::Lost));
    assert_eq!(gap(offers.next().await), (23, 24, GapCause::Server(Code::RETENTION)));
    assert_eq!(client.stats().violations, 2);
}

/// [C4.5] [C4.3] An expiry that crosses everything is a resume; another epoch is said.
#[tokio::test]
async fn an_expired_subscription_is_resumed() {
    let (client, _driver, mut server) = greeted().await;
    let mut offers = subscribed(&client, &mut server).await;
    server.send("* offers 18 x\n").await;
    server.send("* /end offers expired e:19\n").await;
    server.expect("2 /subscribe;from=e:19 offers\n").await;
    server.send("2 ok;epoch=e;next=19;head=19;lease=60\n").await;
    server.send("* offers 19 y\n").await;
    assert_eq!(number(offers.next().await).0, 18);
    assert_eq!(number(offers.next().await).0, 19);
    server.send("* /end offers expired e:20\n").await;
    server.expect("3 /subscribe;from=e:20 offers\n").await;
    server.send("3 ok;epoch=f;next=1;head=1;lease=60\n").await;
    server.send("* offers 1 z\n").await;
    let Some(Delivery::Reset { position, .. }) = offers.next().await else { panic!() };
    assert_eq!(position, at("f:1"));
    assert_eq!(number(offers.next().await), (1, "z".into()));
    server.send("* /reset offers g:1\n").await;
    server.send("* offers 1 new\n").await;
    let Some(Delivery::Reset { position, .. }) = offers.next().await else { panic!() };
    assert_eq!(position, at("g:1"));
    assert_eq!(number(offers.next().await), (1, "new".into()));
}

/// [C4.7] A refused resume ends the subscription with the code of the refusal and its own position.
#[tokio::test]
async fn a_refused_resume_ends_the_subscription() {
    let (client, _driver, mut server) = greeted().await;
    let mut offers = subscribed(&client, &mut server).await;
    server.send("* offers 18 x\n* /end offers expired e:19\n").await;
    server.expect("2 /subscribe;from=e:19 offers\n").await;
    server.send("2 no forbidden\n").await;
    assert_eq!(number(offers.next().await).0, 18);
    let Some(Delivery::End { reason, position, .. }) = offers.next().await else { panic!() };
    assert_eq!((reason, position), (Code::FORBIDDEN, Some(at("e:19"))));
    assert_eq!(offers.next().await, None);
    server.expect_silence().await;
}

/// [C18.2] A subscription that ends after the `/bye` with `last` is not resumed on this connection:
/// it ends as lost.
#[tokio::test]
async fn no_subscription_is_resumed_after_the_final_bye() {
    let (client, _driver, mut server) = greeted().await;
    let mut offers = subscribed(&client, &mut server).await;
    server.send("* /bye;last=1 shutdown\n* /end offers expired e:18\n").await;
    server.expect_silence().await;
    drop(server);
    let Some(Delivery::End { reason, position, .. }) = offers.next().await else { panic!() };
    assert_eq!((reason, position), (Code::LOST, Some(at("e:18"))));
}

/// [C4.5] [C4.6] The table of docs/protocol/subscriptions.md, section 13: what a client does with
/// contradictory numbers.
#[tokio::test(start_paused = true)]
async fn contradictory_numbers_are_handled_as_documented() {
    let (client, _driver, mut server) = greeted().await;
    let mut offers = subscribed(&client, &mut server).await;
    for ignored in ["/gap offers f 18 30 x", "/gap offers e 1 17 x", "/reset offers e:40"] {
        server.send(format!("* {ignored}\n")).await;
    }
    server.send("* /gap strange e 1 2 x\n* /reset strange e:1\n* /end strange closed e:1\n").await;
    server.send("* /gap offers e 10 18 x\n* /gap offers e 21 22 x\n").await;
    let named = || GapCause::Server(Code::from_static("x"));
    assert_eq!(gap(offers.next().await), (18, 18, named()));
    assert_eq!(gap(offers.next().await), (19, 20, GapCause::Lost));
    assert_eq!(gap(offers.next().await), (21, 22, named()));
    server.expect("2 /renew\n").await;
    server.send("2 ok;lease=60 strange:e:9 offers:f:40\n").await;
    server.expect("3 /renew\n").await;
    server.send("3 ok;lease=60 offers:e:22\n").await;
    // A resume is from its own position, whatever the end says, and never goes back behind it.
    server.send("* /end offers expired e:30\n").await;
    server.expect("4 /subscribe;from=e:23 offers\n").await;
    server.send("4 ok;epoch=e;next=20;head=30;lease=60\n* offers 22 old\n* offers 23 x\n").await;
    assert_eq!(number(offers.next().await).0, 23);
    server.send("* /end offers expired e:24\n").await;
    server.expect("5 /subscribe;from=e:24 offers\n").await;
    server.send("5 ok;epoch=e;next=26;head=30;lease=60\n* offers 26 x\n").await;
    assert_eq!(gap(offers.next().await), (24, 25, GapCause::Lost));
    assert_eq!(number(offers.next().await).0, 26);
    drop(offers);
    server.expect("6 /unsubscribe offers\n").await;
    server.send("6 ok;next=e:40\n").await;
    server.expect_silence().await;
}

/// An end for any reason but expiry ends the streams, and reports where to resume.
#[tokio::test]
async fn a_closed_topic_ends_its_streams() {
    let (client, _driver, mut server) = greeted().await;
    let mut all = client.notifications();
    let mut offers = subscribed(&client, &mut server).await;
    server.send("* /end offers closed e:18\n").await;
    let Some(Delivery::End { reason, position, .. }) = offers.next().await else { panic!() };
    assert_eq!((reason, position), (Code::CLOSED, Some(at("e:18"))));
    assert_eq!(offers.next().await, None);
    assert!(matches!(all.next().await, Some(Delivery::End { .. })));
    drop(offers);
    server.expect_silence().await;
}

/// [C4.4] [C4.5] [C4.6] The client renews the lease in time, and applies what the reply lists.
#[tokio::test(start_paused = true)]
async fn the_lease_is_renewed_and_the_reply_applied() {
    // What probes a silent server would come first.
    let config = ClientConfig::default().probe(Duration::from_secs(3_600));
    let (client, _driver, mut server) = silent(config);
    server.send(format!("{HELLO}\n")).await;
    client.connected().await.unwrap();
    let mut offers = subscribed(&client, &mut server).await;
    let start = tokio::time::Instant::now();
    server.expect("2 /renew\n").await;
    let seconds = start.elapsed().as_secs();
    assert!((30..=48).contains(&seconds), "{seconds}");
    server.send("2 ok;lease=60 offers:e:20\n").await;
    assert_eq!(gap(offers.next().await), (18, 19, GapCause::Lost));
    server.expect("3 /renew\n").await;
    server.send("3 ok;lease=60\n").await;
    server.expect("4 /subscribe;from=e:20 offers\n").await;
    server.send("4 ok;epoch=e;next=20;head=20;lease=60\n").await;
    server.send("* offers 20 x\n").await;
    assert_eq!(number(offers.next().await).0, 20);
    drop(offers);
    server.expect("5 /unsubscribe offers\n").await;
    server.send("5 ok;next=e:21\n").await;
    // Without subscriptions nothing is kept alive.
    tokio::time::advance(Duration::from_secs(300)).await;
    server.expect_silence().await;
}

/// [C4.8] An unread stream reports exactly what it dropped. Later notifications are delivered.
#[tokio::test]
async fn an_unread_stream_delays_no_other() {
    let (client, _driver, mut server) = silent(ClientConfig::new().inbox_items(2));
    server.send(format!("{HELLO}\n")).await;
    let mut slow = subscribed(&client, &mut server).await;
    let mut quick = client.subscribe("offers").await.unwrap();
    for n in 18..=30 {
        server.send(format!("* offers {n} x\n")).await;
        assert_eq!(number(quick.next().await).0, n);
    }
    assert_eq!(gap(slow.next().await), (18, 28, GapCause::Lagged));
    assert_eq!(number(slow.next().await).0, 29);
    assert_eq!(number(slow.next().await).0, 30);
}

/// The task that reads a subscription makes a call for each notification. SECURITY.md, threat 33.
#[tokio::test]
async fn the_reader_of_a_topic_may_make_calls() {
    let (client, _driver, mut server) = greeted().await;
    let (told, mut hears) = tokio::sync::mpsc::channel(1);
    let calling = client.clone();
    let (offers, ()) = tokio::join!(client.subscribe("offers").into_future(), async {
        server.expect("1 /subscribe offers\n").await;
        server.send("1 ok;epoch=e;next=1;head=0;lease=60\n").await;
    });
    let mut offers = offers.unwrap();
    let reading = tokio::spawn(async move {
        while let Some(delivery) = offers.next().await {
            let offer = delivery.into_notification().unwrap();
            let details = calling.call("offers.get", offer.payload).await.unwrap();
            told.send(details).await.unwrap();
        }
    });
    server.send("* offers 1 43\n").await;
    server.expect("2 offers.get 43\n").await;
    server.send("2 ok a flat\n").await;
    assert_eq!(hears.recv().await.unwrap(), "a flat");
    reading.abort();
    server.expect("3 /unsubscribe offers\n").await;
}

/// [C18.3] [C18.2] Requests above the number in `last` are refused, all others end as unknown, and
/// nothing new is sent.
#[tokio::test]
async fn requests_above_the_last_of_bye_are_refused() {
    let (client, driver, mut server) = greeted().await;
    let mut events = client.events();
    let calls: Vec<_> = (0..3).map(|_| spawn_call(&client, "m", "")).collect();
    for id in 1..=3 {
        server.expect(format!("{id} m\n")).await;
    }
    server.send("* /bye;last=2 shutdown\n").await;
    assert!(matches!(events.next().await, Some(ConnectionEvent::Bye(_))));
    let error = client.call("m", "").await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(NotSent::Lost(ConnectionError::Bye(_)))));
    let error = client.subscribe("t").await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(_)), "{error:?}");
    server.expect_silence().await;
    server.send("1 ok done\n").await;
    drop(server);
    assert!(matches!(driver.await.unwrap(), Err(ConnectionError::Bye(_))));
    let outcomes: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(outcomes[0].as_deref(), Ok("done"));
    assert!(matches!(outcomes[1], Err(CallError::Unknown(Unknown::Lost(_)))));
    assert_eq!(outcomes[2].as_ref().unwrap_err().code(), Some(&Code::CLOSING));
}

/// On an orderly close, requests in flight are answered, and no new ones are accepted.
#[tokio::test]
async fn close_waits_for_requests_in_flight() {
    let (client, driver, mut server) = greeted().await;
    let call = spawn_call(&client, "m", "");
    server.expect("1 m\n").await;
    let closing = client.clone();
    let close = tokio::spawn(async move { closing.close().await });
    server.expect("2 /quit\n").await;
    let error = client.call("n", "").await.unwrap_err();
    assert_eq!(error, CallError::NotSent(NotSent::Lost(ConnectionError::Closed)));
    server.send("1 ok still\n").await;
    server.send("2 ok\n").await;
    drop(server);
    assert_eq!(call.await.unwrap().unwrap(), "still");
    assert_eq!(close.await.unwrap(), Ok(()));
    assert_eq!(driver.await.unwrap(), Ok(()));
    assert_eq!(client.connected().await, Err(ConnectionError::Closed));
}

/// A request that is dropped while the client closes is not cancelled: the server reads nothing
/// after `/quit`.
#[tokio::test(start_paused = true)]
async fn no_cancel_is_sent_after_quit() {
    let deadline = Duration::from_secs(7);
    let config = ClientConfig::new().deadline(deadline).close_timeout(Duration::from_secs(60));
    let (client, driver, mut server) = silent(config);
    server.send(format!("{HELLO}\n")).await;
    let dropped = spawn_call(&client, "a", "");
    server.expect("1 a\n").await;
    let late = spawn_call(&client, "b", "");
    server.expect("2 b\n").await;
    let calling = client.clone();
    let own = tokio::spawn(async move { calling.call("c", "").deadline(deadline / 2).await });
    server.expect("3 c;ttl=3500\n").await;
    let streamed = spawn_call(&client, "d", "");
    server.expect("4 d\n").await;
    let closing = client.clone();
    let close = tokio::spawn(async move { closing.close().await });
    server.expect("5 /quit\n").await;

    dropped.abort();
    server.send("4 more x\n").await;
    assert_eq!(streamed.await.unwrap(), Err(Unknown::Streamed.into()));
    assert_eq!(own.await.unwrap(), Err(Unknown::Deadline.into()));
    assert_eq!(late.await.unwrap(), Err(Unknown::Deadline.into()));
    server.expect_silence().await;
    server.send("1 ok\n2 ok\n3 ok\n4 ok\n5 ok\n").await;
    assert_eq!(close.await.unwrap(), Ok(()));
    assert_eq!(driver.await.unwrap(), Ok(()));
    server.expect_closed().await;
}

/// The connection stays open as long as a handle or a subscription exists, and closes with the
/// last.
#[tokio::test]
async fn dropping_the_last_handle_closes_the_connection() {
    let (client, driver, mut server) = greeted().await;
    let subscription = subscribed(&client, &mut server).await;
    drop(client);
    server.send("* offers 18 x\n").await;
    server.expect_silence().await;
    drop(subscription);
    server.expect("2 /unsubscribe offers\n").await;
    server.expect("3 /quit\n").await;
    server.send("2 ok;next=e:19\n").await;
    server.send("3 ok\n").await;
    drop(server);
    assert_eq!(driver.await.unwrap(), Ok(()));
}

/// Requests that were never offered to the transport end as not sent; all others end as unknown.
#[tokio::test]
async fn a_lost_connection_distinguishes_sent_from_unsent_requests() {
    let (near, far) = tokio::io::duplex(64);
    let (client, connection) = Client::new(near, ClientConfig::default());
    let driver = tokio::spawn(connection);
    let mut server = RawPeer::new(far);
    let mut events = client.events();
    server.send(format!("{HELLO}\n")).await;
    let first = spawn_call(&client, "m", &"x".repeat(200));
    // The driver is in the middle of this line when the next is appended behind it.
    assert_eq!(server.bytes(10).await, b"1 m xxxxxx");
    let second = spawn_call(&client, "m", "");
    while client.stats().pending < 2 {
        tokio::task::yield_now().await;
    }
    drop(server);
    let error = driver.await.unwrap().unwrap_err();
    assert_eq!(first.await.unwrap(), Err(CallError::Unknown(Unknown::Lost(error.clone()))));
    assert_eq!(second.await.unwrap(), Err(CallError::NotSent(NotSent::Lost(error.clone()))));
    assert!(matches!(events.next().await, Some(ConnectionEvent::Connected(_))));
    assert_eq!(client.ended(), Some(error.clone()));
    assert_eq!(events.next().await, Some(ConnectionEvent::Ended(error)));
    assert_eq!(events.next().await, None);
}

/// When the driver is dropped, everything that waits on it ends.
#[tokio::test]
async fn dropping_the_driver_ends_all_requests() {
    let (client, driver, mut server) = greeted().await;
    let mut offers = subscribed(&client, &mut server).await;
    let call = spawn_call(&client, "m", "");
    server.expect("2 m\n").await;
    driver.abort();
    let lost = CallError::Unknown(Unknown::Lost(ConnectionError::Closed));
    assert_eq!(call.await.unwrap(), Err(lost));
    let Some(Delivery::End { reason, position, .. }) = offers.next().await else { panic!() };
    assert_eq!((reason, position), (Code::LOST, Some(at("e:18"))));
}

/// When a manually driven connection is dropped, everything that waits on it ends. Requests that
/// were offered to the transport end as unknown, all others as not sent.
#[cfg(feature = "unstable-core")]
#[test]
fn dropping_a_manual_connection_ends_all_requests() {
    let closed = ConnectionError::Closed;
    let not_sent = || CallError::NotSent(NotSent::Lost(closed.clone()));
    let cx = &mut Context::from_waker(Waker::noop());

    let (client, connection) = by_hand(ClientConfig::new());
    let mut waiting = std::pin::pin!(client.call("m", ""));
    assert!(waiting.as_mut().poll(cx).is_pending());
    drop(connection);
    assert_eq!(waiting.poll(cx), Poll::Ready(Err(not_sent())));

    let (client, mut connection) = by_hand(ClientConfig::new().in_flight(2));
    let now = Time::from_millis(1);
    connection.handle_input(format!("{HELLO}\n").as_bytes(), now).unwrap();
    connection.finish_input().unwrap();
    let calls = ["a", "b", "c"].map(|method| client.call(method, ""));
    let [mut sent, mut appended, mut waiting] = calls.map(Box::pin);
    let mut list = std::pin::pin!(client.methods());
    assert!(sent.as_mut().poll(cx).is_pending());
    assert_eq!(connection.poll_output(false, Waker::noop(), now).unwrap(), Output::Write);
    assert_eq!(connection.output(), b"1 a\n");
    connection.handle_written(4, now);
    assert!(appended.as_mut().poll(cx).is_pending());
    assert!(waiting.as_mut().poll(cx).is_pending());
    assert!(list.as_mut().poll(cx).is_pending());
    drop(connection);
    let lost = CallError::Unknown(Unknown::Lost(closed.clone()));
    assert_eq!(sent.as_mut().poll(cx), Poll::Ready(Err(lost)));
    assert_eq!(appended.as_mut().poll(cx), Poll::Ready(Err(not_sent())));
    assert_eq!(waiting.as_mut().poll(cx), Poll::Ready(Err(not_sent())));
    assert_eq!(list.poll(cx), Poll::Ready(Err(not_sent())));
    let mut connected = std::pin::pin!(client.connected());
    assert!(matches!(connected.as_mut().poll(cx), Poll::Ready(Err(ConnectionError::Closed))));
}

/// [C3.7] Two ends that both write more than the pipe holds do not wait for each other.
#[tokio::test]
async fn the_client_reads_while_its_write_is_blocked() {
    let (near, far) = tokio::io::duplex(64);
    let (client, connection) = Client::new(near, ClientConfig::default());
    let _driver = tokio::spawn(connection);
    let mut server = RawPeer::new(far);
    server.send(format!("{HELLO}\n")).await;
    let call = spawn_call(&client, "m", &"x".repeat(1_000));
    let mut events = client.events();
    // The server does not read before its own long line is out.
    server.send(format!("99 ok {}\n", "y".repeat(1_000))).await;
    server.expect(format!("1 m {}\n", "x".repeat(1_000))).await;
    server.send("1 ok\n").await;
    call.await.unwrap().unwrap();
    assert!(events.next().await.is_some());
}

/// The outbound buffer is bounded: callers wait for room, and all get their turn.
#[tokio::test]
async fn callers_wait_for_room_in_the_outbound_buffer() {
    let (near, far) = tokio::io::duplex(64);
    let config = ClientConfig::new().outbound_bytes(1);
    let (client, connection) = Client::new(near, config);
    let _driver = tokio::spawn(connection);
    let mut server = RawPeer::new(far);
    server.send(format!("{HELLO}\n")).await;
    let calls: Vec<_> = (0..50).map(|n| spawn_call(&client, "m", &n.to_string())).collect();
    for _ in 0..50 {
        let line = server.line().await.unwrap();
        let (id, payload) = line.trim_end().split_once(" m ").unwrap();
        server.send(format!("{id} ok {payload}\n")).await;
    }
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap(), n.to_string());
    }
}

/// A server that never sends its hello cannot delay the close of a client.
#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_silent_server() {
    let (client, driver, _server) = silent(ClientConfig::default());
    assert_eq!(client.close().await, Ok(()));
    assert_eq!(driver.await.unwrap(), Ok(()));

    let (client, driver, _server) = silent(ClientConfig::default());
    drop(client);
    assert_eq!(driver.await.unwrap(), Ok(()));
}

/// A server that does not answer `/quit`, or does not even read it, cannot delay the close, either.
#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_forever_for_quit() {
    let (client, driver, mut server) = greeted().await;
    let close = tokio::spawn(async move { client.close().await });
    server.expect("1 /quit\n").await;
    assert_eq!(close.await.unwrap(), Err(ConnectionError::CloseTimeout));
    assert_eq!(driver.await.unwrap(), Err(ConnectionError::CloseTimeout));

    let (near, far) = tokio::io::duplex(64);
    let (client, connection) = Client::new(near, ClientConfig::default());
    let driver = tokio::spawn(connection);
    let mut server = RawPeer::new(far);
    server.send(format!("{HELLO}\n")).await;
    let call = spawn_call(&client, "m", &"x".repeat(200));
    assert_eq!(server.bytes(3).await, b"1 m");
    drop(client);
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(driver.await.unwrap(), Err(ConnectionError::CloseTimeout));
}

/// The reply to `/quit` is the last line. A server that keeps the connection open afterwards delays
/// nothing.
#[tokio::test(start_paused = true)]
async fn the_reply_to_quit_completes_the_close() {
    let (client, driver, mut server) = greeted().await;
    let start = tokio::time::Instant::now();
    let close = tokio::spawn(async move { client.close().await });
    server.expect("1 /quit\n").await;
    server.send("1 ok\n").await;
    assert_eq!(close.await.unwrap(), Ok(()));
    assert_eq!(driver.await.unwrap(), Ok(()));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// The client ends the connection before an endless list exhausts its memory.
#[tokio::test]
async fn an_endless_list_ends_the_connection() {
    let (client, driver, mut server) = greeted().await;
    let listing = tokio::spawn(async move { client.methods().await });
    server.expect("1 /methods\n").await;
    let item = format!("1 more m {}\n", "x".repeat(60_000));
    let endless = async {
        use tokio::io::AsyncWriteExt;
        while server.io.write_all(item.as_bytes()).await.is_ok() {}
    };
    let (ended, ()) = tokio::join!(driver, endless);
    assert!(matches!(ended.unwrap(), Err(ConnectionError::Protocol(_))));
    assert!(matches!(listing.await.unwrap(), Err(CallError::Unknown(_))));
}

/// A stream that was live ends when subscribing again is refused, though another joined meanwhile.
#[tokio::test(start_paused = true)]
async fn a_refused_resubscribe_ends_the_earlier_streams() {
    let (client, _driver, mut server) = greeted().await;
    let mut first = subscribed(&client, &mut server).await;
    server.send("* /end offers expired e:18\n").await;
    server.expect("2 /subscribe;from=e:18 offers\n").await;
    let (second, ()) = tokio::join!(client.subscribe("offers").into_future(), async {
        server.expect_silence().await;
        server.send("2 no forbidden\n").await;
    });
    assert_eq!(second.unwrap_err().code(), Some(&Code::FORBIDDEN));
    let Some(Delivery::End { reason, position, .. }) = first.next().await else { panic!() };
    assert_eq!((reason, position), (Code::FORBIDDEN, Some(at("e:18"))));
    assert_eq!(first.next().await, None);
}

/// The first stream that subscribes again while a topic is being left decides the position. A
/// second one does not change it.
#[tokio::test]
async fn the_first_stream_to_resubscribe_sets_the_position() {
    let (client, _driver, mut server) = greeted().await;
    drop(subscribed(&client, &mut server).await);
    server.expect("2 /unsubscribe offers\n").await;
    let first = tokio::spawn(client.subscribe("offers").from(at("e:5")).into_future());
    server.expect_silence().await;
    let second = tokio::spawn(client.subscribe("offers").into_future());
    server.expect_silence().await;
    server.send("2 ok;next=e:18\n").await;
    server.expect("3 /subscribe;from=e:5 offers\n").await;
    server.send("3 ok;epoch=e;next=5;head=17;lease=60\n* offers 5 x\n").await;
    let mut first = first.await.unwrap().unwrap();
    assert_eq!(number(first.next().await).0, 5);
    assert_eq!(number(second.await.unwrap().unwrap().next().await).0, 5);
}

/// After a `/bye`, closing is bounded. Closing a lost connection is reported as an error.
#[tokio::test(start_paused = true)]
async fn closing_after_bye_or_on_a_lost_connection_fails_in_time() {
    let (client, driver, mut server) = greeted().await;
    let mut events = client.events();
    server.send("* /bye;last=0 shutdown\n").await;
    assert!(matches!(events.next().await, Some(ConnectionEvent::Bye(_))));
    assert_eq!(client.close().await, Err(ConnectionError::CloseTimeout));
    assert_eq!(driver.await.unwrap(), Err(ConnectionError::CloseTimeout));

    let (client, _driver, mut server) = greeted().await;
    let call = spawn_call(&client, "m", "");
    server.expect("1 m\n").await;
    let (closed, ()) = tokio::join!(client.close(), async {
        server.expect("2 /quit\n").await;
        drop(server);
    });
    assert_eq!(closed, Err(ConnectionError::ClosedByPeer));
    let lost = CallError::Unknown(Unknown::Lost(ConnectionError::ClosedByPeer));
    assert_eq!(call.await.unwrap(), Err(lost));
}

/// A deadline of zero, and one that never expires.
#[tokio::test(start_paused = true)]
async fn zero_and_infinite_deadlines_work() {
    let (client, _driver, mut server) = greeted().await;
    let error = client.call("m", "").deadline(Duration::ZERO).await.unwrap_err();
    assert_eq!(error, CallError::NotSent(NotSent::Deadline(None)));
    server.expect_silence().await;
    let (waiting, _driver, _server) = silent(ClientConfig::default());
    let call = waiting.call("m", "").deadline(Duration::MAX);
    assert!(timeout(Duration::from_secs(1), call).await.is_err());
}

/// A reply to a request that was not sent reaches no caller, and the client writes no line for it.
#[tokio::test]
async fn a_reply_to_an_unsent_request_is_unexpected() {
    let (near, far) = tokio::io::duplex(256);
    let (client, connection) = Client::new(near, ClientConfig::default());
    let _driver = tokio::spawn(connection);
    let mut server = RawPeer::new(far);
    server.send(format!("{HELLO}\n")).await;
    let first = spawn_call(&client, "m", &"x".repeat(1_000));
    assert_eq!(server.bytes(3).await, b"1 m");
    let second = spawn_call(&client, "m", "");
    while client.stats().pending < 2 {
        tokio::task::yield_now().await;
    }
    server.send("2 ok a guess\n").await;
    while client.stats().unasked_replies < 1 {
        tokio::task::yield_now().await;
    }
    server.bytes(1_002).await;
    server.send("1 ok\n").await;
    first.await.unwrap().unwrap();
    server.expect("2 m\n").await;
    server.send("2 ok mine\n").await;
    assert_eq!(second.await.unwrap().unwrap(), "mine");
}

/// A transport that holds what is written until a flush, which takes two polls.
struct Buffering {
    io: DuplexStream,
    held: Vec<u8>,
    asked: bool,
}

impl AsyncRead for Buffering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Buffering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.asked, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.asked = false;
        let held = std::mem::take(&mut self.held);
        Pin::new(&mut self.io).poll_write(cx, &held).map_ok(|count| assert_eq!(count, held.len()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A flush that is not done at once is asked for again.
#[tokio::test]
async fn a_buffering_transport_is_flushed() {
    let (near, far) = tokio::io::duplex(4_096);
    let near = Buffering { io: near, held: Vec::new(), asked: false };
    let (client, connection) = Client::new(near, ClientConfig::default());
    let _driver = tokio::spawn(connection);
    let mut server = RawPeer::new(far);
    server.send(format!("{HELLO}\n")).await;
    let call = spawn_call(&client, "m", "");
    server.expect("1 m\n").await;
    server.send("1 ok\n").await;
    call.await.unwrap().unwrap();
}
