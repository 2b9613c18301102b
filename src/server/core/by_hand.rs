//! Tests of a connection that is driven by hand: without a transport, a runtime or a clock.

use std::{
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures::{channel::oneshot, executor::block_on, stream};

use crate::{
    Failure,
    protocol::{Code, Cursor, Position, Time, Topic, Window},
    random::Random,
    server::{
        Authenticator, Denied, Principal, Router, ServerConfig, Streamed,
        core::{
            connection::Connection,
            environment::Environment,
            rounds::StopStep,
            state::ConnectionState::{self, Closed, Finishing, Grace, Greeted, LineDrawn, Open},
            upkeep::Upkeep,
        },
        mailbox::{ALARM, CUT, SHED},
        peer_addr::PeerAddr,
        session::Session,
    },
    sync::{Arc, AtomicUsize, Mutex, Ordering},
    topic::{
        BoxFuture, MemoryTopics, PublishError, Published, Read, Room, TopicReader, TopicStore,
        Unavailable,
    },
};

/// A waker that counts.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection, and the other side of its transport.
struct Hand {
    core: Connection,
    now: Time,
    wakes: Arc<Wakes>,
    /// Bytes that the peer has sent and the connection has not read.
    sent: Vec<u8>,
    /// The peer has closed its direction.
    has_ended: bool,
    /// How many bytes the transport takes.
    room: usize,
    said: Vec<u8>,
    /// The connection's direction is closed.
    is_shut: bool,
}

impl From<Connection> for Hand {
    fn from(core: Connection) -> Self {
        let (now, wakes, room) = (Time::default(), Arc::default(), usize::MAX);
        let (sent, said) = (Vec::new(), Vec::new());
        Self { core, now, wakes, sent, has_ended: false, room, said, is_shut: false }
    }
}

impl Hand {
    fn new(config: ServerConfig, router: Router) -> Self {
        Self::of(&Arc::new(Environment::new(config, router)))
    }

    fn of(environment: &Arc<Environment>) -> Self {
        let now = Time::from_millis(5);
        let peer = PeerAddr::Other("test".into());
        let core = Connection::accept(environment, 1, peer, Principal::anonymous(), now);
        let mut hand = Self { now, ..Self::from(core) };
        assert!(hand.turn().starts_with("* /hello;version=1;"));
        hand
    }

    /// Takes one turn as the docs of [`Connection`] describe it. Returns what the connection wrote.
    fn turn(&mut self) -> String {
        let waker = Waker::from(self.wakes.clone());
        self.core.handle_wakeups(&waker, self.now);
        if self.core.next_timeout().is_some_and(|at| at <= self.now) {
            self.core.handle_timeout(self.now);
        }
        for _ in 0..1_000 {
            if !self.round() {
                return String::from_utf8(std::mem::take(&mut self.said)).unwrap();
            }
        }
        panic!("the connection does not come to rest");
    }

    fn round(&mut self) -> bool {
        self.core.begin_round(self.now);
        while let Some(most) = self.core.wants_input() {
            if self.sent.is_empty() {
                if std::mem::take(&mut self.has_ended) {
                    self.core.handle_eof(self.now);
                }
                break;
            }
            let bytes: Vec<_> = self.sent.drain(..most.min(self.sent.len())).collect();
            self.core.handle_input(&bytes, self.now);
        }
        self.core.advance(self.now);
        while !self.core.output().is_empty() {
            let count = self.core.output().len().min(self.room);
            if count == 0 {
                self.core.handle_write_blocked(self.now);
                break;
            }
            self.said.extend_from_slice(&self.core.output()[..count]);
            self.room -= count;
            self.core.handle_written(count, self.now);
        }
        if self.core.needs_flush() {
            self.core.handle_flushed(self.now);
        }
        let goes_on = self.core.end_round(self.now);
        if self.core.state() == ConnectionState::Closing {
            self.is_shut = true;
            self.core.handle_shutdown(self.now);
            return self.core.state() != Closed;
        }
        goes_on
    }

    /// Sends `lines`. Returns what the connection wrote.
    fn send(&mut self, lines: &str) -> String {
        self.sent.extend_from_slice(lines.as_bytes());
        self.turn()
    }

    /// Lets `time` pass, and takes a turn. Returns what the connection wrote.
    fn after(&mut self, time: Duration) -> String {
        self.now = self.now.after(time);
        self.turn()
    }

    /// Goes to the next deadline, and takes a turn. Returns how long that was, and what was
    /// written.
    fn next_deadline(&mut self) -> (Duration, String) {
        let next = self.core.next_timeout().expect("a deadline");
        let time = self.now.until(next);
        (time, self.after(time))
    }

    fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::Relaxed)
    }

    fn state(&self) -> ConnectionState {
        self.core.state()
    }
}

fn echo() -> Router {
    Router::new().method("echo", async |text: String| text)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Handlers that wait for one-shots, in the order of their requests.
fn waiting() -> (Router, Arc<Mutex<Vec<oneshot::Sender<String>>>>) {
    let senders = Arc::<Mutex<Vec<_>>>::default();
    let entry = senders.clone();
    let wait = move || {
        let (sender, receiver) = oneshot::channel();
        entry.lock().push(sender);
        async move { receiver.await.map_err(|_| Failure::new(Code::LOST, "")) }
    };
    (echo().method("wait", wait), senders)
}

#[test]
fn a_call_is_answered_at_once() {
    let mut hand = Hand::new(ServerConfig::new(), echo());
    assert_eq!(hand.state(), Greeted);
    assert_eq!(hand.send("1 /hello;version=1\n2 ec"), "1 ok;version=1\n");
    assert_eq!(hand.state(), Open);
    assert_eq!(hand.send("ho a\n* echo b\n3 nosuch\n"), {
        "2 ok a\n3 no unknown-method no method \"nosuch\"; ask /methods\n"
    });
    assert_eq!(hand.wakes(), 0);
}

#[test]
fn a_handler_that_waits_wakes_the_driver() {
    let (router, senders) = waiting();
    let mut hand = Hand::new(ServerConfig::new(), router);
    assert_eq!(hand.send("1 wait\n2 wait\n3 echo c\n"), "3 ok c\n");
    for (sender, text) in senders.lock().drain(..).rev().zip(["b", "a"]) {
        sender.send(text.into()).unwrap();
    }
    assert_eq!(hand.wakes(), 1, "once until the next turn");
    assert_eq!(hand.turn(), "2 ok b\n1 ok a\n");
    assert_eq!(hand.turn(), "");
}

#[test]
fn a_published_message_wakes_the_driver() {
    let environment = Arc::new(Environment::new(ServerConfig::new(), echo()));
    let mut hand = Hand::of(&environment);
    let publisher = environment.publisher();
    assert!(hand.send("1 /subscribe t\n").starts_with("1 ok;epoch="));
    block_on(publisher.publish("t", "news")).unwrap();
    assert_eq!(hand.wakes(), 1);
    let said = hand.turn();
    assert!(said.starts_with("* t;epoch=") || said.ends_with(" news\n"), "{said}");
    assert!(hand.send("2 /unsubscribe t\n").starts_with("2 ok;next="));
    block_on(publisher.publish("t", "more")).unwrap();
    assert_eq!((hand.wakes(), hand.turn().as_str()), (1, ""));
}

/// A subscription with `slow=latest` skips to the newest message also when its final copy finds
/// that the peer does not read.
#[test]
fn slow_latest_skips_at_the_final_copy_for_a_non_reading_peer() {
    let config = ServerConfig::new().notification_mark(1);
    let environment = Arc::new(Environment::new(config, echo()));
    let mut hand = Hand::of(&environment);
    hand.send("1 /subscribe a\n2 /subscribe;slow=latest b\n");
    let publisher = environment.publisher();
    let publish = |topic, texts: [&'static str; 3]| {
        texts.into_iter().for_each(|text| _ = block_on(publisher.publish(topic, text)).unwrap());
    };
    hand.room = 0;
    publish("a", ["1", "2", "3"]);
    // The first turn copies up to the mark. In the second one all ready subscriptions have to wait.
    hand.turn();
    hand.turn();
    publish("b", ["x", "y", "z"]);
    hand.core.handle_stop(StopStep::Last, hand.now);
    hand.turn();
    hand.room = usize::MAX;
    let said = hand.turn();
    assert!(said.contains(" 1 2 slow\n") && !said.contains("* b 1 x"), "{said}");
    assert!(said.ends_with("* b 3 z\n"), "{said}");
}

/// A message that is published after `revoke` or `close` is not delivered, even if the same wake-up
/// also cuts the connection.
#[test]
fn commands_are_processed_before_a_cut_of_the_same_wakeup() {
    const DRAIN_TIME: Duration = Duration::from_secs(10);
    for (flag, closes) in [(CUT, false), (CUT, true), (ALARM, false), (ALARM, true)] {
        let config = ServerConfig::new().drain(DRAIN_TIME);
        let environment = Arc::new(Environment::new(config, echo()));
        let mut hand = Hand::of(&environment);
        hand.send("1 /subscribe t\n");
        hand.core.handle_stop(StopStep::Line, hand.now);
        hand.turn();
        let session = hand.core.session().clone();
        match closes {
            true => session.close(Code::SHUTDOWN),
            false => session.revoke("t"),
        }
        block_on(environment.publisher().publish("t", "news")).unwrap();
        hand.now = hand.now.after(DRAIN_TIME);
        session.mailbox().raise(flag);
        let said = hand.turn();
        assert_eq!(said.contains("* /end t revoked "), !closes, "{flag}: {said}");
        assert!(!said.contains("news"), "{flag}: {said}");
    }
}

/// Topics in memory. While a session is set, the next reader that is asked for its window, or
/// reaches the end of a closed log, gives that session a command.
#[derive(Clone)]
struct Commanding {
    memory: MemoryTopics,
    session: Arc<Mutex<Option<Session>>>,
}

struct CommandingReader {
    reader: Box<dyn TopicReader>,
    session: Arc<Mutex<Option<Session>>>,
}

impl Commanding {
    fn new() -> Self {
        Self { memory: MemoryTopics::new(&Random::seeded(1)), session: Arc::default() }
    }
}

impl CommandingReader {
    fn command(&self) {
        self.session.lock().take().into_iter().for_each(|session| session.revoke("other"));
    }
}

impl TopicStore for Commanding {
    fn append(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        self.memory.append(topic, payload)
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        let (reader, session) = (self.memory.open(topic), self.session.clone());
        Box::new(CommandingReader { reader, session })
    }

    fn close(&self, topic: &Topic) -> BoxFuture<Result<Option<Position>, Unavailable>> {
        self.memory.close(topic)
    }
}

impl TopicReader for CommandingReader {
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        self.command();
        self.reader.poll_window(cx)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        let read = self.reader.poll_read(cx, cursor, room, out);
        if let Poll::Ready(Ok(Read::Closed)) = read {
            self.command();
        }
        read
    }
}

/// The copied lines are undone for the command, and copied again after it.
#[test]
fn a_command_during_the_last_copy_loses_no_message() {
    let store = Commanding::new();
    let environment = Environment::new(ServerConfig::new(), echo()).topics(store.clone());
    let environment = Arc::new(environment);
    let mut hand = Hand::of(&environment);
    hand.send("1 /subscribe t\n");
    *store.session.lock() = Some(hand.core.session().clone());
    let publisher = environment.publisher();
    block_on(publisher.publish("t", "news")).unwrap();
    block_on(publisher.close("t")).unwrap();
    let said = hand.turn();
    assert!(store.session.lock().is_none());
    let (message, end) = said.split_once('\n').expect("two lines");
    assert!(message.ends_with(" news") && end.starts_with("* /end t closed "), "{said}");
    assert_eq!(environment.stats().notifications, 1);
}

/// If a copy is undone, the full window that it noted is undone with it. Once the acks have come,
/// the subscriber gets everything, and the server ends the connection.
#[test]
fn a_command_during_the_last_copy_keeps_no_subscription_open() {
    let store = Commanding::new();
    let environment = Environment::new(ServerConfig::new(), echo()).topics(store.clone());
    let environment = Arc::new(environment);
    let (publisher, mut hand) = (environment.publisher(), Hand::of(&environment));
    let publish = || block_on(publisher.publish("t", "news")).unwrap();
    hand.send("1 /subscribe;window=3 t\n");
    publish();
    let second = publish();
    hand.core.handle_stop(StopStep::Line, hand.now);
    assert!(hand.turn().ends_with(" news\n* t 2 news\n"));
    publish();
    publish();
    *store.session.lock() = Some(hand.core.session().clone());
    hand.core.handle_stop(StopStep::Last, hand.now);
    assert!(hand.round() && store.session.lock().is_none() && hand.said.is_empty());
    let said = hand.send(&format!("* /ack t {}:3\n", second.epoch));
    assert_eq!(said, "* t 3 news\n* t 4 news\n");
    assert!(hand.is_shut);
}

#[test]
fn a_stream_sends_only_items_with_credit() {
    let count = async || Streamed(stream::iter(["a", "b", "c"]));
    let mut hand = Hand::new(ServerConfig::new(), echo().method("count", count));
    assert_eq!(hand.send("1 count;window=2\n"), "1 more a\n1 more b\n");
    assert_eq!(hand.send("* /more 1 5\n"), "1 more c\n1 ok\n");
}

#[test]
fn a_handler_past_its_deadline_is_cut() {
    let (router, _senders) = waiting();
    let mut hand = Hand::new(ServerConfig::new().handler_time(secs(7)), router);
    assert_eq!(hand.send("1 wait\n2 wait;ttl=2000\n"), "");
    assert_eq!(hand.next_deadline(), (secs(2), "2 cut deadline\n".into()));
    assert_eq!(hand.next_deadline(), (secs(5), "1 cut deadline\n".into()));
}

#[test]
fn an_idle_peer_is_sent_bye_and_closed() {
    let mut hand = Hand::new(ServerConfig::new().first_line(secs(3)).idle(secs(9)), echo());
    assert_eq!(hand.send("1 echo a\n"), "1 ok a\n");
    // The deadline of the first line comes first, and has no effect. The one of silence follows.
    assert_eq!(hand.next_deadline(), (secs(3), String::new()));
    assert_eq!(hand.next_deadline(), (secs(6), "* /bye;last=1 idle\n".into()));
    assert!(hand.is_shut && hand.state() == ConnectionState::Lingering);
    assert_eq!(hand.send("2 echo b\n"), "");
    hand.has_ended = true;
    assert_eq!(hand.turn(), "");
    assert_eq!((hand.state(), hand.core.lost()), (Closed, None));
}

#[test]
fn a_late_first_line_closes_without_output() {
    let mut hand = Hand::new(ServerConfig::new().first_line(secs(3)), echo());
    assert_eq!(hand.send("1 ec"), "");
    assert_eq!(hand.next_deadline(), (secs(3), String::new()));
    assert_eq!(hand.state(), Closed);
}

/// Bytes that are read in the turn of the deadline are counted.
#[test]
fn the_bytes_of_an_unfinished_first_line_are_counted() {
    let environment = Environment::new(ServerConfig::new().first_line(secs(3)), echo());
    let environment = Arc::new(environment);
    let mut hand = Hand::of(&environment);
    hand.sent = b"1 ec".to_vec();
    hand.after(secs(3));
    assert_eq!((hand.state(), environment.stats().bytes_in), (Closed, 4));
}

#[test]
fn a_lease_that_is_not_renewed_ends_its_subscriptions() {
    let mut hand = Hand::new(ServerConfig::new().lease(secs(20)), echo());
    hand.send("1 /subscribe t\n");
    hand.after(secs(15));
    assert!(hand.send("2 /renew\n").starts_with("2 ok;lease=20 t:"));
    assert_eq!(hand.after(secs(19)), "");
    assert!(hand.after(secs(1)).starts_with("* /end t expired "));
    assert!(hand.send("3 /unsubscribe t\n").starts_with("3 no not-subscribed"));
}

/// [S20.4] When a suspended process continues, all deadlines of an hour have passed, and the lines
/// that the peer sent in time have not been read yet. SECURITY.md, threat 30.
#[test]
fn received_bytes_are_processed_before_deadlines_fire() {
    for is_read in [true, false] {
        let mut hand = Hand::new(ServerConfig::new(), echo());
        hand.send("1 /subscribe t\n2 ech");
        assert_eq!(hand.core.lines.pending(), 5);
        if is_read {
            hand.sent = b"o a\n3 /renew\n".to_vec();
        }
        let said = hand.after(secs(3_600));
        assert_eq!(hand.state() == Open, is_read);
        assert_eq!(said.contains("2 ok a\n3 ok;lease=60 t:"), is_read, "{said}");
        assert_eq!(said.contains("* /end t expired "), !is_read, "{said}");
    }
}

#[test]
fn a_stopping_server_finishes_requests_it_has_read() {
    let (router, senders) = waiting();
    let mut hand = Hand::new(ServerConfig::new(), router);
    hand.send("1 wait\n");
    hand.core.handle_stop(StopStep::Goodbye, hand.now);
    assert_eq!(hand.turn(), "* /bye shutdown\n");
    assert_eq!((hand.state(), hand.send("2 echo b\n").as_str()), (Grace, "2 ok b\n"));
    hand.core.handle_stop(StopStep::Line, hand.now);
    assert_eq!(hand.turn(), "* /bye;last=2 shutdown\n");
    assert_eq!((hand.state(), hand.send("3 echo c\n").as_str()), (LineDrawn, "3 no closing\n"));
    let sender = senders.lock().pop().unwrap();
    sender.send("at last".into()).unwrap();
    assert_eq!(hand.turn(), "1 ok at last\n");
    assert!(hand.is_shut);
    hand.has_ended = true;
    hand.turn();
    assert_eq!(hand.state(), Closed);
}

#[test]
fn requests_past_the_drain_time_are_cut() {
    let (router, _senders) = waiting();
    let mut hand = Hand::new(ServerConfig::new(), router);
    hand.send("1 wait\n");
    hand.core.handle_stop(StopStep::Line, hand.now);
    hand.turn();
    hand.core.handle_stop(StopStep::Cut, hand.now);
    assert_eq!(hand.turn(), "1 cut closing\n");
    // The peer goes on sending. It has as much time as a peer that reads nothing.
    assert_eq!(hand.state(), ConnectionState::Lingering);
    assert_eq!(hand.next_deadline().0, secs(1));
    assert_eq!(hand.state(), Closed);
}

#[test]
fn quit_reply_is_the_last_line() {
    let (router, senders) = waiting();
    let mut hand = Hand::new(ServerConfig::new(), router);
    assert_eq!(hand.send("1 wait\n2 /quit\n3 echo c\n"), "");
    assert_eq!(hand.state(), Finishing);
    senders.lock().pop().unwrap().send("a".into()).unwrap();
    assert_eq!(hand.turn(), "1 ok a\n2 ok\n");
}

#[test]
fn a_non_reading_peer_is_dropped() {
    let mut hand = Hand::new(ServerConfig::new().write_progress(secs(20)), echo());
    hand.room = 3;
    assert_eq!(hand.send("1 echo abc\n"), "1 o");
    hand.room = 2;
    assert_eq!(hand.after(secs(19)), "k ");
    assert_eq!(hand.after(secs(19)), "");
    assert_eq!(hand.state(), Open);
    assert_eq!(hand.after(secs(1)), "");
    assert_eq!((hand.state(), hand.core.lost()), (Closed, Some("the peer does not read")));
}

/// Accepts the principal "ada".
#[derive(Debug)]
struct Names;

impl Authenticator for Names {
    fn schemes(&self) -> Vec<Code> {
        vec![Code::from_static("name")]
    }

    fn authenticate(
        &self,
        _: &Code,
        credentials: crate::Credentials,
        _: &PeerAddr,
    ) -> BoxFuture<Result<Principal, Denied>> {
        let is_known = credentials.as_bytes() == b"ada";
        Box::pin(async move { is_known.then(|| Principal::new("ada")).ok_or(Denied::Credentials) })
    }
}

#[test]
fn an_unauthenticated_peer_must_authenticate_first() {
    let environment = Environment::new(ServerConfig::new(), echo()).authenticator(Names);
    let environment = Arc::new(environment);
    let mut hand = Hand::of(&environment);
    assert_eq!(hand.send("1 echo a\n"), "1 no unauthenticated\n");
    assert_eq!(hand.send("2 /auth name bob\n"), "2 no unauthenticated\n");
    assert_eq!(hand.send("3 /auth name ada\n4 echo a\n"), "3 ok\n4 ok a\n");
    assert_eq!(hand.core.session().principal().name(), Some("ada"));
    let mut late = Hand::of(&environment);
    assert_eq!(late.next_deadline(), (secs(10), "* /bye;last=0 unauthenticated\n".into()));
}

#[test]
fn a_peer_identified_by_its_transport_needs_no_auth() {
    let environment = Environment::new(ServerConfig::new(), echo()).authenticator(Names);
    let environment = Arc::new(environment);
    let peer = PeerAddr::Other("test".into());
    let core = Connection::accept(&environment, 2, peer, Principal::new("eve"), Time::default());
    let mut hand = Hand::from(core);
    assert!(!hand.turn().contains(";auth="));
    assert_eq!(hand.send("1 echo a\n"), "1 ok a\n");
    assert_eq!(hand.core.session().principal().name(), Some("eve"));
}

#[test]
fn a_connection_over_the_limit_is_sent_bye_and_closed() {
    let environment = Arc::new(Environment::new(ServerConfig::new(), echo()));
    let _open = Hand::of(&environment);
    let peer = PeerAddr::Other("test".into());
    let mut hand = Hand::from(Connection::refused(&environment, 2, peer, Time::default()));
    assert!(hand.turn().ends_with("\n* /bye;last=0;retry=1000 busy\n"));
    assert!(hand.is_shut);
    let stats = environment.stats();
    assert_eq!((stats.connections, stats.accepted, stats.refused), (1, 1, 1));
}

/// A session computes durations by the clock of its driver.
#[test]
fn a_session_uses_the_clock_of_its_driver() {
    let (time, config) = (Arc::new(AtomicUsize::new(5)), ServerConfig::new());
    let clock = time.clone();
    let now = move || Time::from_millis(clock.load(Ordering::Relaxed) as u64);
    let hand = Hand::of(&Arc::new(Environment::new(config, echo()).clock(now)));
    time.store(1_005, Ordering::Relaxed);
    assert_eq!(hand.core.session().stats().connected, secs(1));
}

/// When the server's buffers are full, a connection whose peer has not read for 2 s is closed.
#[test]
fn upkeep_sheds_a_non_reading_peer() {
    let config = ServerConfig::new().buffered_bytes_total(64 * 1024).reply_mark(1 << 20);
    let environment = Arc::new(Environment::new(config, echo()));
    let mut upkeep = Upkeep::new(&environment, Time::default());
    let sweep = upkeep.next_timeout();
    let mut hand = Hand::of(&environment);
    hand.room = 0;
    assert_eq!(hand.send(&format!("1 echo {}\n", "x".repeat(50_000))), "");
    assert_eq!(upkeep.next_timeout(), sweep, "there is room");
    hand.send(&format!("2 echo {}\n", "x".repeat(50_000)));
    assert!(upkeep.next_timeout() <= hand.now, "a turn has filled the buffers");
    upkeep.handle_timeout(hand.now);
    assert_eq!(upkeep.next_timeout(), hand.now.after(Duration::from_millis(100)));
    hand.turn();
    assert_eq!(hand.state(), Open);
    hand.now = hand.now.after(secs(2));
    upkeep.handle_timeout(hand.now);
    hand.turn();
    assert_eq!((hand.state(), environment.stats().shed), (Finishing, 1));
    hand.room = usize::MAX;
    assert!(hand.turn().ends_with("\n* /bye;last=2 slow\n"));
    assert_eq!(upkeep.next_timeout(), sweep);
}

/// When a connection is shed, a request that waits for a place is refused, also after the end of
/// the client's lines.
#[test]
fn shedding_refuses_parked_requests() {
    for (last, quits) in [("", false), ("3 /quit\n", true)] {
        let (router, senders) = waiting();
        let environment = Arc::new(Environment::new(ServerConfig::new().in_flight(1), router));
        let mut hand = Hand::of(&environment);
        hand.has_ended = !quits;
        assert_eq!(hand.send(&format!("1 wait\n2 wait\n{last}")), "");
        assert_eq!(hand.state(), Finishing);
        hand.core.session().mailbox().raise(SHED);
        assert_eq!(hand.turn(), "2 no closing\n");
        assert_eq!(senders.lock().len(), 1);
        assert_eq!(environment.stats().buffered_bytes, 0);
        assert!(hand.is_shut);
    }
}

/// A connection that was paused once does not wake itself forever. SECURITY.md, threat 31.
#[test]
fn a_resumed_connection_does_not_wake_itself_forever() {
    let (router, _senders) = waiting();
    let mut hand = Hand::new(ServerConfig::new().reply_mark(100), router);
    hand.room = 0;
    hand.send("1 wait\n");
    for id in 2..100 {
        hand.send(&format!("{id} /renew\n"));
    }
    assert!(hand.core.is_over_mark() && hand.core.last_id < 99);
    while hand.core.last_id < 99 || !hand.core.output().is_empty() {
        hand.room = 64;
        hand.turn();
    }
    assert!(hand.core.active.is_some());
    assert_eq!(hand.wakes(), 0);
    assert!(!hand.round(), "it is at rest");
}

/// The time of an unfinished line starts again when a connection is read again: the client could
/// not complete the line while the connection was not read.
#[test]
fn line_time_restarts_after_a_pause_in_reading() {
    let (router, _senders) = waiting();
    let config = ServerConfig::new().reply_mark(100).idle(None).line_time(secs(10));
    let mut hand = Hand::new(config.write_progress(secs(1_000)), router);
    hand.room = 0;
    let renewals = (1..20).map(|id| format!("{id} /renew\n"));
    hand.send(&(renewals.collect::<String>() + "20 ech"));
    while hand.core.lines.pending() == 0 {
        hand.room = 64;
        hand.turn();
    }
    let (begun, mut id) = (hand.core.line_began, 20);
    hand.sent.clear();
    while !hand.core.is_over_mark() {
        hand.core.answer_ok(crate::protocol::RequestId::new(id).unwrap(), format_args!(""));
        id += 1;
    }
    hand.turn();
    hand.now = hand.now.after(secs(60));
    hand.turn();
    hand.room = usize::MAX;
    hand.turn();
    assert!(begun < hand.core.line_began, "{begun:?}");
    assert_eq!((hand.state(), hand.after(secs(9)).as_str()), (Open, ""));
    assert_eq!(hand.send("o a\n"), "20 ok a\n");
}

/// A connection that was paused because its peer did not read resumes when the peer reads, and then
/// becomes idle.
#[test]
fn a_paused_connection_resumes_and_becomes_idle() {
    let mut hand = Hand::new(ServerConfig::new().reply_mark(64), echo());
    hand.room = 0;
    for _ in 0..100 {
        hand.send("* nosuch\n");
    }
    assert!(hand.core.active.as_ref().unwrap().is_held);
    for _ in 0..100 {
        hand.room = 1_024;
        hand.turn();
    }
    hand.after(secs(1));
    assert!(hand.core.active.is_none());
}

/// An idle connection allocates nothing outside its struct, whatever was exchanged before.
#[test]
fn an_idle_connection_has_no_buffers_or_tables() {
    let mut hand = Hand::new(ServerConfig::new(), echo());
    for lines in ["", "1 echo a\n", "2 /subscribe t\n3 /unsubscribe t\n", "4 nosuch\n\n"] {
        hand.send(lines);
        assert!(hand.core.active.is_none() && hand.core.subscriptions.is_none(), "{lines}");
    }
    assert_eq!(hand.core.lines.pending(), 0);
    hand.send("5 unfinished");
    assert!(hand.core.active.is_none() && hand.core.lines.pending() == 12);
}

/// A busy connection keeps what it needs for the next exchange, until it has been idle for a
/// second.
#[test]
fn a_busy_connection_keeps_its_buffers_for_a_second() {
    let environment = Arc::new(Environment::new(ServerConfig::new(), echo()));
    let mut hand = Hand::of(&environment);
    for id in 1..100 {
        assert_eq!(hand.send(&format!("{id} echo a\n")), format!("{id} ok a\n"));
        hand.after(Duration::from_millis(990));
        assert_eq!(environment.stats().buffered_bytes, 0);
    }
    assert!(hand.core.active.is_some());
    assert_eq!(hand.next_deadline(), (Duration::from_millis(10), String::new()));
    assert!(hand.core.active.is_none());
    // The count of busy rests begins again.
    hand.send("100 echo a\n");
    assert!(hand.core.active.is_none());
    let long = "x".repeat(8_000);
    for id in 101..200 {
        hand.send(&format!("{id} echo {long}\n"));
        assert!(hand.core.active.is_none());
    }
}

/// The output does not depend on how the input and the output are split.
#[test]
fn output_does_not_depend_on_how_bytes_are_split() {
    let lines = "1 /hello;version=1\n2 echo abc\n* echo d\n3 nosuch\n4 /renew\n5 echo e\n6 /quit\n";
    let whole = Hand::new(ServerConfig::new(), echo()).send(lines);
    for piece in 1..lines.len() {
        let mut hand = Hand::new(ServerConfig::new(), echo());
        let mut said = String::new();
        for bytes in lines.as_bytes().chunks(piece) {
            hand.room = piece;
            said += &hand.send(std::str::from_utf8(bytes).unwrap());
            // Tiny reads cause a pause.
            said += &hand.after(Duration::from_millis(10));
        }
        hand.room = usize::MAX;
        said += &hand.turn();
        assert_eq!(said, whole, "{piece}");
    }
}
