//! Manually driven clients: no runtime, no transport, no clock.

use std::{
    future::{Future, IntoFuture},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, ConnectionError, Delivery, NotSent, Unknown,
    protocol::Time,
    unstable::client::{Connection, ConnectionState, Dial, Dialer, Output, by_hand, dialer},
};
use bellwire_testkit::Wakes;

const HELLO: &[u8] = b"* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60\n";

fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Passes on what the server sends.
fn read(connection: &mut Connection, bytes: &[u8], now: Time) {
    connection.handle_input(bytes, now).unwrap();
    connection.finish_input().unwrap();
}

/// All that is to be written.
fn written(connection: &mut Connection, now: Time) -> String {
    let (mut all, mut was_gathered) = (Vec::new(), false);
    loop {
        match connection.poll_output(was_gathered, Waker::noop(), now).unwrap() {
            Output::Nothing => return String::from_utf8(all).unwrap(),
            Output::Write => {
                all.extend_from_slice(connection.output());
                connection.handle_written(connection.output().len(), now);
                connection.handle_flushed();
                was_gathered = false;
            }
            _ => was_gathered = true,
        }
    }
}

fn connect(dialer: &mut Dialer, now: Time) -> Connection {
    assert_eq!(dialer.poll(Waker::noop(), now), Dial::Connect);
    let mut connection = dialer.connect(now).unwrap();
    read(&mut connection, HELLO, now);
    connection
}

fn reconnecting() -> (Client, Dialer) {
    dialer(ClientConfig::new().deadline(None))
}

/// Of each kind of request, at their time and not before it.
#[test]
fn deadlines_pass_without_a_runtime() {
    let (client, mut connection) = by_hand(ClientConfig::new().deadline(None));
    read(&mut connection, HELLO, at(1));
    let soon = Duration::from_millis(500);
    let mut call = client.call("m", "").deadline(soon);
    let mut publish = client.publish("t", "").deadline(soon);
    let mut methods = client.methods().deadline(soon);
    let mut subscribe = client.subscribe("t").deadline(soon).into_future();
    let mut stream = client.stream("m", "").deadline(soon);
    let mut item = pin!(stream.next());
    assert!(poll(&mut call).is_pending() && poll(&mut publish).is_pending());
    assert!(poll(&mut methods).is_pending() && poll(&mut subscribe).is_pending());
    assert!(poll(&mut item).is_pending());
    let lines = written(&mut connection, at(2));
    assert_eq!(lines.lines().count(), 5, "{lines}");
    let due = connection.next_timeout().unwrap();
    assert_eq!(due, at(501));
    connection.handle_timeout(at(500)).unwrap();
    assert!(poll(&mut call).is_pending() && poll(&mut subscribe).is_pending());
    connection.handle_timeout(due).unwrap();
    let late = CallError::from(Unknown::Deadline);
    assert_eq!(poll(&mut call), Poll::Ready(Err(late.clone())));
    assert!(poll(&mut publish).is_ready() && poll(&mut methods).is_ready());
    assert!(matches!(poll(&mut subscribe), Poll::Ready(Err(error)) if error == late));
    assert!(matches!(poll(&mut item), Poll::Ready(Some(Err(error))) if error == late));
}

/// The task is woken, not only completed when it happens to be polled.
#[test]
fn a_deadline_wakes_the_waiting_task() {
    let (client, mut dialer) = reconnecting();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut call = pin!(client.call("m", "").deadline(Duration::from_millis(20)));
    assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(dialer.poll(Waker::noop(), at(0)), Dial::Connect);
    assert_eq!(dialer.next_timeout(), Some(at(20)));
    dialer.handle_timeout(at(20));
    assert!(wakes.take() > 0);
    let refused = ConnectionError::ClosedByPeer;
    dialer.handle_failure(&refused, at(20));
    let late = call.as_mut().poll(&mut Context::from_waker(&waker));
    assert_eq!(late, Poll::Ready(Err(NotSent::Deadline(Some(refused)).into())));
}

/// What was not written goes out on the next connection, and a subscription resumes there.
#[test]
fn a_client_continues_on_its_next_connection() {
    let (client, mut dialer) = reconnecting();
    let mut first = connect(&mut dialer, at(1));
    let mut subscribe = client.subscribe("t").into_future();
    assert!(poll(&mut subscribe).is_pending());
    assert_eq!(written(&mut first, at(1)), "1 /subscribe t\n");
    read(&mut first, b"1 ok;epoch=e;next=5\n* t 5 x\n", at(2));
    let Poll::Ready(Ok(mut topic)) = poll(&mut subscribe) else { panic!("it is accepted") };
    let mut call = client.call("m", "a");
    assert!(poll(&mut call).is_pending());

    first.end(&ConnectionError::ClosedByPeer, at(3));
    assert_eq!(first.connection_state(), ConnectionState::Closed);
    let mut second = connect(&mut dialer, at(4));
    let lines = written(&mut second, at(4));
    assert!(lines.contains("/subscribe;from=e:6 t\n") && lines.contains(" m a\n"), "{lines}");
    let id = |what: &str| {
        let line = lines.lines().find(|line| line.contains(what)).unwrap();
        line.split(' ').next().unwrap().to_owned()
    };
    let replies = format!("{} ok;epoch=e;next=6\n{} ok b\n", id("/subscribe"), id(" m a"));
    read(&mut second, replies.as_bytes(), at(5));
    assert_eq!(poll(&mut call), Poll::Ready(Ok("b".into())));
    assert!(matches!(poll(&mut pin!(topic.next())), Poll::Ready(Some(Delivery::Notification(_)))));
}

/// A server that sent `/bye` finishes its requests, while the next connection takes the new ones.
#[test]
fn after_bye_new_requests_go_to_the_next_connection() {
    let (client, mut dialer) = reconnecting();
    let mut first = connect(&mut dialer, at(1));
    let (mut old, mut new) = (client.call("old", ""), client.call("new", ""));
    assert!(poll(&mut old).is_pending());
    assert_eq!(written(&mut first, at(1)), "1 old\n");
    read(&mut first, b"* /bye;retry=700 shutdown\n", at(2));
    assert_eq!(first.connection_state(), ConnectionState::Leaving);
    assert_eq!(first.retry_after(), Some(at(702)));
    let mut second = connect(&mut dialer, at(3));
    assert!(poll(&mut new).is_pending());
    assert_eq!(written(&mut second, at(3)), "2 new\n");
    read(&mut first, b"1 ok x\n", at(4));
    assert_eq!(poll(&mut old), Poll::Ready(Ok("x".into())));
    assert_eq!(dialer.poll(Waker::noop(), at(4)), Dial::Nothing);
}

#[test]
fn a_client_that_closes_without_a_connection_ends() {
    let (client, mut dialer) = reconnecting();
    assert_eq!(dialer.poll(Waker::noop(), at(0)), Dial::Connect);
    let mut closing = pin!(client.close());
    assert!(closing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(dialer.poll(Waker::noop(), at(1)), Dial::Ended);
    assert!(dialer.connect(at(1)).is_none());
    let closed = closing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(closed, Poll::Ready(Ok(())));
}

/// The stream of a subscription that waits for a pause gets the end of the client, although no time
/// passes any more.
#[test]
fn a_pause_before_a_resync_ends_when_the_client_ends() {
    let (client, mut connection) = by_hand(ClientConfig::new());
    read(&mut connection, HELLO, at(1));
    let subscribe = client.subscribe("t").resync(async |_| Ok::<(), CallError>(()));
    let mut subscribe = subscribe.into_future();
    assert!(poll(&mut subscribe).is_pending());
    assert_eq!(written(&mut connection, at(1)), "1 /subscribe t\n");
    read(&mut connection, b"1 ok;epoch=e;next=5\n* /gap t e 5 6 retention\n", at(2));
    let Poll::Ready(Ok(mut topic)) = poll(&mut subscribe) else { panic!("it is accepted") };
    let wakes = Arc::<Wakes>::default();
    let waker = Waker::from(wakes.clone());
    let cx = &mut Context::from_waker(&waker);
    let mut next = |cx: &mut Context<'_>| pin!(topic.next()).poll(cx);
    while next(cx).is_ready() {}
    read(&mut connection, b"* /gap t e 7 8 retention\n", at(3));
    // The callback was called for the first gap. It has to wait before the second call.
    while next(cx).is_ready() {}
    wakes.take();
    connection.end(&ConnectionError::ClosedByPeer, at(4));
    assert!(wakes.take() > 0, "the waiting task is woken");
    assert!(matches!(next(cx), Poll::Ready(Some(Delivery::End { .. }))));
}

/// Connections of a dialer that is dropped quit, and what is in flight there is still answered.
#[test]
fn connections_quit_when_their_dialer_is_dropped() {
    let (client, mut dialer) = reconnecting();
    let mut connection = connect(&mut dialer, at(1));
    let mut call = client.call("m", "a");
    assert!(poll(&mut call).is_pending());
    assert_eq!(written(&mut connection, at(1)), "1 m a\n");
    drop(dialer);
    assert_eq!(written(&mut connection, at(2)), "2 /quit\n");
    read(&mut connection, b"1 ok b\n2 ok\n", at(3));
    assert_eq!(poll(&mut call), Poll::Ready(Ok("b".into())));
    assert_eq!(connection.handle_eof(), ConnectionError::Closed);
}

/// A connection that is dropped was last driven at an earlier time than the others.
#[test]
fn the_clock_of_a_client_never_goes_back() {
    let (client, mut dialer) = reconnecting();
    let mut first = connect(&mut dialer, at(1));
    read(&mut first, b"* /bye shutdown\n", at(4));
    let mut second = connect(&mut dialer, at(1_000));
    drop(first);
    let mut call = client.call("m", "").deadline(Duration::from_millis(10));
    assert!(poll(&mut call).is_pending());
    assert_eq!(written(&mut second, at(1_001)), "1 m;ttl=10\n");
    second.handle_timeout(at(1_009)).unwrap();
    assert!(poll(&mut call).is_pending());
    second.handle_timeout(at(1_010)).unwrap();
    assert_eq!(poll(&mut call), Poll::Ready(Err(Unknown::Deadline.into())));
}

#[test]
fn connections_being_left_are_bounded() {
    let (client, mut dialer) = reconnecting();
    let mut left = Vec::new();
    for _ in 0..4 {
        let mut connection = connect(&mut dialer, at(1));
        // A call in flight keeps the connection.
        assert!(poll(&mut client.call("m", "")).is_pending());
        written(&mut connection, at(1));
        read(&mut connection, b"* /bye shutdown\n", at(1));
        left.push(connection);
    }
    assert_eq!(dialer.poll(Waker::noop(), at(2)), Dial::Nothing);
    assert!(dialer.connect(at(2)).is_none());
    drop(left.pop());
    assert_eq!(dialer.poll(Waker::noop(), at(2)), Dial::Connect);
}
