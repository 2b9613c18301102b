//! The queue in which tasks leave calls for the driver of their client
//! (`src/client/core/intake.rs`), with a manually polled driver.

use std::{
    fmt::Debug,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bellwire::{
    Call, CallError, Client, ClientConfig, ConnectionError, NotSent, Unknown,
    protocol::Time,
    unstable::client::{Connection, Output, by_hand},
};
use bellwire_testkit::Wakes;

const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=2048;in-flight=1024;lease=60\n";

/// A driver that is moved by hand, and the task in which it would run.
struct Driver {
    connection: Connection,
    task: Arc<Wakes>,
    now: Time,
}

impl Driver {
    /// Of a connection that is open, with nothing to do.
    fn idle(config: ClientConfig) -> (Client, Self) {
        let (client, connection) = by_hand(config);
        let mut driver = Self { connection, task: Arc::default(), now: Time::from_millis(1) };
        driver.read(HELLO);
        assert_eq!(driver.written(), "");
        (client, driver)
    }

    fn waker(&self) -> Waker {
        Waker::from(self.task.clone())
    }

    /// How often it was woken since this was asked last.
    fn wakes(&self) -> usize {
        self.task.take()
    }

    fn read(&mut self, lines: &str) {
        self.connection.handle_input(lines.as_bytes(), self.now).unwrap();
        self.connection.finish_input().unwrap();
    }

    fn poll_output(&mut self) -> Output {
        let waker = self.waker();
        self.connection.poll_output(true, &waker, self.now).unwrap()
    }

    /// The transport takes nothing of the output.
    fn is_blocked(&mut self) {
        let waker = self.waker();
        self.connection.handle_write_blocked(&waker, self.now).unwrap();
    }

    /// Time passes, while the transport takes nothing.
    fn pass(&mut self, millis: u64) {
        self.is_blocked();
        self.now = Time::from_millis(millis);
        if self.connection.next_timeout().is_some_and(|due| due <= self.now) {
            self.connection.handle_timeout(self.now).unwrap();
        }
    }

    /// Writes all there is; what that was.
    fn written(&mut self) -> String {
        let mut written = Vec::new();
        while self.poll_output() == Output::Write {
            written.extend_from_slice(self.connection.output());
            self.connection.handle_written(self.connection.output().len(), self.now);
            self.connection.handle_flushed();
        }
        String::from_utf8(written).unwrap()
    }
}

type Calls<'a> = Vec<Pin<Box<Call<'a>>>>;

/// Calls, each polled once.
fn begin<'a>(client: &'a Client, methods: &[&str]) -> Calls<'a> {
    let begin = |method: &&str| {
        let mut call = Box::pin(client.call(method, ""));
        assert!(poll(call.as_mut()).is_pending());
        call
    };
    methods.iter().map(begin).collect()
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_burst_of_calls_wakes_the_driver_once() {
    let (client, mut driver) = Driver::idle(ClientConfig::new());
    let calls = begin(&client, &["a", "b", "c"]);
    assert_eq!(driver.wakes(), 1);
    assert_eq!(driver.written(), "1 a\n2 b\n3 c\n");
    // It waits again.
    let more = begin(&client, &["d"]);
    assert_eq!(driver.wakes(), 1);
    assert_eq!(driver.written(), "4 d\n");
    drop((calls, more));
}

#[test]
fn the_task_of_a_call_is_woken_once_it_is_answered() {
    let (client, mut driver) = Driver::idle(ClientConfig::new());
    let task = Arc::<Wakes>::default();
    let waker = Waker::from(task.clone());
    let mut call = Box::pin(client.call("a", ""));
    assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(driver.written(), "1 a\n");
    assert_eq!(task.take(), 0);
    driver.read("1 ok done\n");
    assert_eq!(task.take(), 1);
    assert_eq!(poll(call.as_mut()), Poll::Ready(Ok("done".into())));
}

#[test]
fn calls_are_sent_before_later_actions_of_their_task() {
    let (client, mut driver) = Driver::idle(ClientConfig::new());
    let first = begin(&client, &["a"]);
    assert_eq!(poll(Box::pin(client.one_way("b", "")).as_mut()), Poll::Ready(Ok(())));
    let second = begin(&client, &["c"]);
    let mut list = Box::pin(client.methods());
    assert!(poll(list.as_mut()).is_pending());
    assert_eq!(client.stats().requests, 3);
    assert_eq!(driver.written(), "1 a\n* b\n2 c\n3 /methods\n");
    drop((first, second));
}

#[test]
fn a_call_counts_at_once_and_a_dropped_call_leaves_no_trace() {
    let (client, mut driver) = Driver::idle(ClientConfig::new());
    let calls = begin(&client, &["a", "b"]);
    let stats = client.stats();
    assert_eq!((stats.pending, stats.in_flight), (2, 2));
    drop(calls);
    let calls = begin(&client, &["c"]);
    drop(calls);
    assert_eq!(driver.written(), "");
    let stats = client.stats();
    assert_eq!((stats.pending, stats.in_flight), (0, 0));
}

/// The outcome is ready at the first poll, with and without a driver.
#[test]
fn an_unencodable_call_is_refused_at_once() {
    let (client, driver) = Driver::idle(ClientConfig::new());
    let long = "x".repeat(2_048);
    let too_large = NotSent::TooLarge { max_line: 2_048 };
    let refused = poll(Box::pin(client.call("m", &long)).as_mut());
    assert_eq!(refused, Poll::Ready(Err(too_large.into())));
    let mut call = client.call("m", "");
    for n in 0..8 {
        call = call.attribute(&format!("app.n{n}"), "v".repeat(250));
    }
    let refused = poll(Box::pin(call.attribute("app.last", "v".repeat(100))).as_mut());
    assert!(matches!(refused, Poll::Ready(Err(CallError::NotSent(_)))), "{refused:?}");
    assert_eq!(driver.wakes(), 0);
}

/// Once the connection accepts no calls, no call stays in its driver's queue.
#[test]
fn no_call_is_queued_for_a_closing_connection() {
    let lost = |error| Poll::Ready(Err(CallError::NotSent(NotSent::Lost(error))));
    let refused = |client: &Client| poll(Box::pin(client.call("m", "")).as_mut());

    let (client, mut driver) = Driver::idle(ClientConfig::new());
    driver.read("* /bye shutdown soon\n");
    assert!(matches!(
        refused(&client),
        Poll::Ready(Err(CallError::NotSent(NotSent::Lost(ConnectionError::Bye(_)))))
    ));

    let (client, driver) = Driver::idle(ClientConfig::new());
    let mut closing = Box::pin(client.close());
    assert!(poll(closing.as_mut()).is_pending());
    assert_eq!(refused(&client), lost(ConnectionError::Closed));
    drop(driver);

    // What was left before ends with it.
    let (client, driver) = Driver::idle(ClientConfig::new());
    let mut calls = begin(&client, &["a"]);
    drop(driver);
    assert_eq!(poll(calls[0].as_mut()), lost(ConnectionError::Closed));
    assert_eq!(refused(&client), lost(ConnectionError::Closed));
}

/// A driver whose transport takes nothing since it was offered a call.
fn blocked(config: ClientConfig) -> (Client, Driver) {
    let (client, mut driver) = Driver::idle(config);
    // With a deadline of its own, which is not the driver's.
    let mut first = Box::pin(client.call("a", "").deadline(Duration::from_secs(100)));
    assert!(poll(first.as_mut()).is_pending());
    assert_eq!(driver.poll_output(), Output::Write);
    driver.now = Time::from_millis(100);
    driver.is_blocked();
    let _ = driver.wakes();
    drop(first);
    (client, driver)
}

/// The configured deadline counts from the first poll, also while the transport takes nothing. One
/// millisecond before it the request has not ended.
#[test]
fn a_request_behind_a_blocked_transport_keeps_its_deadline() {
    fn ends_in_time<T, F>(mut driver: Driver, request: F)
    where
        T: Debug + PartialEq,
        F: Future<Output = Result<T, CallError>>,
    {
        let mut request = pin!(request);
        assert!(poll(request.as_mut()).is_pending());
        assert_eq!(driver.wakes(), 1, "it has to know of the deadline");
        driver.pass(5_099);
        assert!(poll(request.as_mut()).is_pending());
        driver.pass(5_200);
        let late = CallError::NotSent(NotSent::Deadline(None));
        assert_eq!(poll(request.as_mut()), Poll::Ready(Err(late)));
    }

    let config = || ClientConfig::new().deadline(Duration::from_secs(5));
    let (client, driver) = blocked(config());
    ends_in_time(driver, client.call("b", ""));
    // A list does not go through the intake.
    let (client, driver) = blocked(config());
    ends_in_time(driver, client.methods());
}

/// When the driver is dropped, a written call ends as unknown, and a queued one as not sent.
#[test]
fn written_and_queued_calls_have_different_outcomes() {
    let (client, mut driver) = Driver::idle(ClientConfig::new());
    let mut calls = begin(&client, &["a"]);
    assert_eq!(driver.written(), "1 a\n");
    calls.extend(begin(&client, &["b"]));
    drop(driver);
    let ended = calls.iter_mut().map(|call| poll(call.as_mut()));
    let lost = ConnectionError::Closed;
    let expected: [CallError; 2] = [Unknown::Lost(lost.clone()).into(), NotSent::Lost(lost).into()];
    assert_eq!(ended.collect::<Vec<_>>(), expected.map(|error| Poll::Ready(Err(error))));
}
