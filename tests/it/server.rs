//! The server, spoken to in raw bytes.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    Failure, Json, Listener, Router, Server, ServerConfig, ServerHandle, Session, State, blocking,
    handler,
    protocol::Code,
    server::{PeerAddr, Request},
};
use bellwire_testkit::{PipeServer, RawPeer, TcpServer};
use bytes::Bytes;
use tokio::{
    io::DuplexStream,
    sync::{Notify, mpsc, oneshot},
};

async fn echo(payload: Bytes) -> Bytes {
    payload
}

/// A gate that handlers wait at: `wait` until the test opens it.
fn gated() -> (Router<Arc<Notify>>, Arc<Notify>) {
    let gate = Arc::new(Notify::new());
    let router = Router::with_state(gate.clone())
        .method("echo", echo)
        .method("wait", async |State(gate): State<Arc<Notify>>, payload: Bytes| {
            gate.notified().await;
            payload
        })
        .method("panic", async |payload: String| -> String { panic!("{payload}") })
        .method("forever", async || std::future::pending::<()>().await);
    (router, gate)
}

fn publishing() -> ServerConfig {
    ServerConfig::new().allow_publish(true)
}

#[tokio::test]
async fn hello_is_sent_first_and_contains_the_limits() {
    let config = ServerConfig::new().in_flight(7).max_line(2_000);
    let server = PipeServer::with_config(Router::new(), config.lease(Duration::from_secs(9)));
    let hello = server.connect_raw(64).hello().await;
    let (limits, keys) = hello.split_once(";keys=").expect("the table of keys");
    assert!(limits.ends_with(";max-line=2000;in-flight=7;lease=9;idle=120"), "{hello}");
    assert!(keys.ends_with(":300\n"), "{hello}");
    assert_ne!(hello, server.connect_raw(64).hello().await, "one session each");
}

#[tokio::test]
async fn a_client_hello_is_accepted_as_the_first_line_only() {
    let server = PipeServer::start(Router::new().method("echo", echo));
    let mut peer = server.connect().await;
    peer.ask("1 /hello;version=1;max-line=1024\n", "1 ok;version=1\n").await;
    let long = "x".repeat(1_020);
    peer.send(format!("2 echo {long}\n3 /hello;version=1\n")).await;
    peer.expect("2 err too-large max-line is 1024\n").await;
    peer.expect("3 no out-of-order /hello must come first\n").await;
    let mut peer = server.connect().await;
    peer.ask("1 /hello;version=2\n", "1 no bad-version this server speaks 1\n").await;
    let mut peer = server.connect().await;
    peer.ask("1 /hello;version=1;max-line=9\n", "1 no bad-attribute max-line\n").await;
}

#[tokio::test]
async fn a_call_is_answered() {
    let server = PipeServer::start(Router::new().method("echo", echo));
    let mut peer = server.connect().await;
    peer.ask("1 echo hello\n", "1 ok hello\n").await;
    peer.ask("2 echo\r\n7 echo \x10J\n", "2 ok\n7 ok \x10J\n").await;
    peer.ask("8 nosuch\n", "8 no unknown-method no method \"nosuch\"; ask /methods\n").await;
    peer.ask("9 echo;new=1 x\n", "9 no unknown-attribute new\n").await;
    peer.ask("10 echo;app.new=1 x\n", "10 ok x\n").await;
}

#[tokio::test]
async fn a_burst_is_answered_once_each() {
    let server = TcpServer::start(Router::new().method("echo", echo)).await;
    let mut peer = server.connect().await;
    let burst: String = (1..=10_000).map(|n| format!("{n} echo {n}\n")).collect();
    let replies: String = (1..=10_000).map(|n| format!("{n} ok {n}\n")).collect();
    peer.ask(burst, replies).await;
}

#[tokio::test]
async fn replies_overtake_a_waiting_handler() {
    let (router, gate) = gated();
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.ask("1 wait a\n2 echo b\n", "2 ok b\n").await;
    gate.notify_one();
    peer.expect("1 ok a\n").await;
}

#[tokio::test]
async fn a_handler_panic_fails_only_its_request() {
    let (router, gate) = gated();
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.ask("1 wait a\n2 panic on purpose\n3 echo b\n", "2 err internal\n3 ok b\n").await;
    gate.notify_one();
    peer.expect("1 ok a\n").await;
}

#[tokio::test]
async fn a_cancelled_request_is_answered_once() {
    let (router, _gate) = gated();
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.send("1 wait a\n* /cancel 1\n* /cancel 1\n* /cancel 9\n2 echo b\n").await;
    peer.expect("1 cut cancelled\n2 ok b\n").await;
    peer.ask("3 /cancel 1\n", "3 no bad-form /cancel is one-way\n").await;
    peer.ask("* /cancel x\n", "* /error bad-arguments usage: /cancel ID\n").await;
}

#[tokio::test(start_paused = true)]
async fn deadlines_are_the_callers_or_the_servers() {
    let (router, _gate) = gated();
    let config = ServerConfig::new().handler_time(Duration::from_secs(2));
    let server = PipeServer::with_config(router, config);
    let mut peer = server.connect().await;
    peer.send("1 wait\n2 wait;ttl=50\n3 wait;ttl=9000000000000000\n").await;
    peer.expect("2 cut deadline\n1 cut deadline\n3 cut deadline\n").await;
    peer.ask("4 wait;ttl=0\n", "4 no bad-attribute ttl\n").await;
}

#[tokio::test]
async fn a_decreasing_id_affects_no_other_request() {
    let (router, gate) = gated();
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.ask("5 wait a\n5 echo b\n", "* /error;id=5 id-order last is 5\n").await;
    peer.ask("3 echo b\n", "* /error;id=3 id-order last is 5\n").await;
    gate.notify_one();
    peer.expect("5 ok a\n").await;
}

#[tokio::test]
async fn a_malformed_line_with_an_id_is_answered() {
    let server = PipeServer::start(Router::new().method("echo", echo));
    let mut peer = server.connect().await;
    peer.ask("1 echo\n", "1 ok\n").await;
    peer.send("2 ..\n\n2 echo\n3 ok x\n4 echo \x10x\nwhat\n5 echo\n").await;
    for begin in ["2 no malformed byte 2:", "* /error malformed byte 0: empty line"] {
        assert!(peer.line().await.unwrap().starts_with(begin));
    }
    peer.expect("* /error;id=2 id-order last is 2\n").await;
    for begin in ["3 no malformed byte 2:", "4 no malformed byte 7:", "* /error malformed byte 0:"]
    {
        let line = peer.line().await.unwrap();
        assert!(line.starts_with(begin), "{line}");
    }
    peer.expect("5 ok\n").await;
}

#[tokio::test]
async fn a_first_line_that_does_not_parse_closes_without_an_echo() {
    let server = PipeServer::start(Router::new());
    let long = vec![b'x'; 65_535];
    for first in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01\n", b"\n", b"1 ok\n", &long] {
        let mut peer = server.connect().await;
        peer.send(first).await;
        peer.expect_closed().await;
    }
}

#[tokio::test]
async fn an_overlong_line_is_answered_and_closes_the_connection() {
    let config = ServerConfig::new().max_line(1_024);
    let server = PipeServer::with_config(Router::new().method("echo", echo), config);
    let mut peer = server.connect().await;
    let longest = "x".repeat(1_024 - "1 echo \n".len());
    peer.ask(format!("1 echo {longest}\n"), format!("1 ok {longest}\n")).await;
    peer.send(format!("2 echo {longest}x\n3 echo\n")).await;
    peer.expect("* /error line-too-long max-line is 1024\n").await;
    peer.expect_closed().await;
}

#[tokio::test]
async fn a_half_close_is_answered_in_full() {
    let (router, gate) = gated();
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.send("1 wait a\n2 /subscribe t\n3 echo b\n4 echo unfinished").await;
    peer.half_close().await;
    peer.attribute("epoch").await;
    peer.expect("3 ok b\n").await;
    gate.notify_one();
    peer.expect("1 ok a\n").await;
    peer.expect_closed().await;
}

#[tokio::test]
async fn quit_is_answered_last() {
    let (router, gate) = gated();
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.send("1 wait a\n2 /quit\n3 echo c\n* /error").await;
    peer.expect_silence().await;
    gate.notify_one();
    peer.expect("1 ok a\n2 ok\n").await;
    peer.expect_closed().await;
}

#[tokio::test]
async fn methods_are_listed_by_name() {
    let router = Router::new().method("b", handler(echo).doc("TEXT: the same")).method("a", echo);
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.ask("1 /methods\n", "1 more a\n1 more b TEXT: the same\n1 ok\n").await;
    peer.ask("2 /methods x\n", "2 no bad-arguments usage: /methods\n").await;
}

#[tokio::test]
async fn a_subscription_begins_and_ends_with_its_replies() {
    let server = PipeServer::with_config(Router::new(), publishing());
    let mut peer = server.connect().await;
    server.publisher.publish("t", "before").await.unwrap();
    peer.send("1 /subscribe t\n2 /publish t during\n3 /unsubscribe t\n4 /publish t after\n").await;
    let line = peer.line().await.unwrap();
    let epoch = line.split([';', '=']).nth(2).unwrap().to_owned();
    assert_eq!(line, format!("1 ok;epoch={epoch};next=2;head=1;lease=60\n"));
    peer.expect(format!("2 ok;epoch={epoch};seq=2\n")).await;
    let mut next = peer.line().await.unwrap();
    if next == "* t 2 during\n" {
        next = peer.line().await.unwrap();
        assert_eq!(next, format!("3 ok;next={epoch}:3\n"));
    } else {
        assert_eq!(next, format!("3 ok;next={epoch}:2\n"));
    }
    peer.expect(format!("4 ok;epoch={epoch};seq=3\n")).await;
    peer.ask("5 /unsubscribe t\n", "5 no not-subscribed t\n").await;
}

#[tokio::test]
async fn notifications_come_in_order_beside_replies() {
    let server = PipeServer::start(Router::new().method("echo", echo));
    let mut peer = server.connect().await;
    peer.send("1 /subscribe t\n").await;
    peer.attribute("epoch").await;
    for n in 1..=100 {
        server.publisher.publish("t", n.to_string()).await.unwrap();
    }
    let all: String = (1..=100).map(|n| format!("* t {n} {n}\n")).collect();
    peer.expect(all).await;
    peer.ask("2 echo x\n3 /subscribe t\n", "2 ok x\n3 no already-subscribed t\n").await;
    peer.ask("4 /subscribe a b\n", "4 no bad-arguments usage: /subscribe TOPIC\n").await;
}

#[tokio::test]
async fn from_replays_exactly_what_was_missed() {
    let config = publishing().retained_messages(3);
    let server = PipeServer::with_config(Router::new(), config);
    let mut epoch = String::new();
    for n in 1..=5 {
        let published = server.publisher.publish("t", n.to_string()).await.unwrap();
        epoch = published.epoch.to_string();
    }
    let mut peer = server.connect().await;
    peer.send(format!("1 /subscribe;from={epoch}:4 t\n")).await;
    peer.expect(format!("1 ok;epoch={epoch};next=4;head=5;lease=60\n")).await;
    peer.expect("* t 4 4\n* t 5 5\n").await;
    let mut peer = server.connect().await;
    peer.send(format!("1 /subscribe;from={epoch}:2 t\n")).await;
    peer.expect(format!("1 ok;epoch={epoch};next=2;head=5;lease=60\n")).await;
    peer.expect(format!("* /gap t {epoch} 2 2 retention\n* t 3 3\n* t 4 4\n* t 5 5\n")).await;
    let mut peer = server.connect().await;
    peer.send("1 /subscribe;from=elsewhere:9 t\n").await;
    peer.expect(format!("1 ok;epoch={epoch};next=1;head=5;lease=60\n")).await;
    peer.expect(format!("* /gap t {epoch} 1 2 retention\n* t 3 3\n* t 4 4\n* t 5 5\n")).await;
    let mut peer = server.connect().await;
    peer.send(format!("1 /subscribe;from={epoch}:7 t\n2 /renew\n")).await;
    peer.expect(format!("1 no bad-position next is {epoch}:6\n2 ok;lease=60\n")).await;
    peer.ask("3 /subscribe;from=x t\n", "3 no bad-attribute from\n").await;
}

#[tokio::test(start_paused = true)]
async fn an_expired_lease_ends_its_subscriptions() {
    let server = PipeServer::start(Router::new());
    let mut peer = server.connect().await;
    peer.send("1 /subscribe a\n2 /subscribe b\n").await;
    let epoch = peer.attribute("epoch").await;
    peer.attribute("epoch").await;
    tokio::time::advance(Duration::from_secs(59)).await;
    peer.send("3 /renew\n").await;
    peer.expect(format!("3 ok;lease=60 a:{epoch}:1 b:{epoch}:1\n")).await;
    let renewed = tokio::time::Instant::now();
    peer.expect(format!("* /end a expired {epoch}:1\n* /end b expired {epoch}:1\n")).await;
    assert!(renewed.elapsed() >= Duration::from_secs(60));
    peer.ask("4 /renew\n", "4 ok;lease=60\n").await;
}

#[tokio::test]
async fn a_slow_subscriber_gets_an_exact_gap_and_others_lose_nothing() {
    let config = ServerConfig::new().retained_messages(10).notification_mark(64);
    let server = PipeServer::with_config(Router::new(), config);
    let mut slow = server.connect_raw(64);
    let mut quick = server.connect().await;
    slow.hello().await;
    slow.send("1 /subscribe t\n").await;
    let epoch = slow.attribute("epoch").await;
    quick.send("1 /subscribe t\n").await;
    quick.attribute("epoch").await;
    for n in 1..=200 {
        server.publisher.publish("t", format!("message {n}")).await.unwrap();
        quick.expect(format!("* t {n} message {n}\n")).await;
    }
    let (mut next, mut gaps) = (1, 0);
    while next <= 200 {
        let line = slow.line().await.unwrap();
        if let Some(gap) = line.strip_prefix(&format!("* /gap t {epoch} {next} ")) {
            let last: u64 = gap.strip_suffix(" retention\n").unwrap().parse().unwrap();
            (next, gaps) = (last + 1, gaps + 1);
        } else {
            assert_eq!(line, format!("* t {next} message {next}\n"));
            next += 1;
        }
    }
    assert_eq!(gaps, 1);
}

#[tokio::test]
async fn a_notification_over_the_clients_limit_is_in_a_gap() {
    let server = PipeServer::start(Router::new());
    let mut peer = server.connect().await;
    peer.send("1 /hello;version=1;max-line=1024\n2 /subscribe t\n").await;
    peer.expect("1 ok;version=1\n").await;
    let epoch = peer.attribute("epoch").await;
    for payload in ["a".to_owned(), "b".repeat(1_024), "c".to_owned()] {
        server.publisher.publish("t", payload).await.unwrap();
    }
    peer.expect(format!("* t 1 a\n* /gap t {epoch} 2 2 too-large\n* t 3 c\n")).await;
}

#[tokio::test]
async fn a_one_way_is_run_and_never_answered() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let router = Router::with_state(told)
        .method("tell", async |State(told): State<mpsc::UnboundedSender<Bytes>>, payload: Bytes| {
            told.send(payload).unwrap();
        })
        .method("panic", async || -> () { panic!("on purpose") });
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.send("* tell a\n* panic\n* nosuch\n* /renew\n1 tell b\n").await;
    peer.expect("* /error unknown-method no method \"nosuch\"; ask /methods\n").await;
    peer.expect("* /error bad-form /renew needs an id\n1 ok\n").await;
    assert_eq!(heard.recv().await.unwrap(), "a");
    assert_eq!(heard.recv().await.unwrap(), "b");
}

#[tokio::test]
async fn publishing_is_forbidden_unless_allowed() {
    let server = PipeServer::start(Router::new());
    let mut peer = server.connect().await;
    peer.ask("1 /publish t x\n", "1 no forbidden\n").await;
    let server = PipeServer::with_config(Router::new(), publishing());
    let mut peer = server.connect().await;
    peer.send("1 /publish t x\n2 /publish t y\n").await;
    assert_eq!(peer.attribute("seq").await, "1");
    assert_eq!(peer.attribute("seq").await, "2");
    let long = "x".repeat(65_535 - "3 /publish t \n".len());
    peer.ask(format!("3 /publish t {long}\n"), "3 no too-large\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_finishes_running_requests_and_starts_none() {
    let (router, gate) = gated();
    let mut server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.ask("1 wait a\n2 echo b\n", "2 ok b\n").await;
    server.stop();
    peer.expect("* /bye shutdown\n* /bye;last=2 shutdown\n").await;
    peer.send("3 echo c\n* echo d\n4 /renew\n5 /subscribe t\n").await;
    peer.expect("3 no closing\n4 ok;lease=60\n5 no closing\n").await;
    gate.notify_one();
    peer.expect("1 ok a\n").await;
    peer.expect_closed().await;
    server.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_cuts_requests_that_outlast_the_drain() {
    let (router, _gate) = gated();
    let mut server = PipeServer::start(router);
    let mut peer = server.connect().await;
    let _deaf = server.connect_raw(1);
    peer.ask("1 forever\n2 echo b\n", "2 ok b\n").await;
    server.stop();
    peer.expect("* /bye shutdown\n* /bye;last=2 shutdown\n1 cut closing\n").await;
    peer.expect_closed().await;
    server.ended().await;
}

#[tokio::test]
async fn a_full_in_flight_table_stops_reading_until_a_place_is_free() {
    let (router, gate) = gated();
    let config = ServerConfig::new().in_flight(2).parked_bytes(0);
    let server = PipeServer::with_config(router, config);
    let mut peer = server.connect().await;
    peer.send("1 wait a\n* wait b\n2 /renew\n3 echo c\n4 /renew\n5 echo d\n6 /renew\n").await;
    peer.expect("2 ok;lease=60\n4 ok;lease=60\n").await;
    gate.notify_one();
    peer.expect("1 ok a\n3 ok c\n5 ok d\n6 ok;lease=60\n").await;
}

#[tokio::test]
async fn spawned_and_blocking_handlers_answer_like_others() {
    let router = Router::new()
        .method("spawned", handler(echo).spawned())
        .method("blocking", blocking(|payload: String| payload.to_uppercase()))
        .method("broken", blocking(|_: String| -> String { panic!("on purpose") }))
        .method("forever", handler(async || std::future::pending::<()>().await).spawned());
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.ask("1 spawned a\n", "1 ok a\n").await;
    peer.ask("2 blocking a\n", "2 ok A\n").await;
    peer.ask("3 broken a\n", "3 err internal\n").await;
    peer.ask("4 forever\n* /cancel 4\n", "4 cut cancelled\n").await;
}

#[tokio::test]
async fn a_blocking_handler_keeps_its_place_until_it_has_ended() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (began, mut begun) = mpsc::unbounded_channel();
    let held = Arc::new(std::sync::Mutex::new(held));
    let hold = move || {
        began.send(()).unwrap();
        let _ = held.lock().unwrap().recv();
    };
    let router = Router::new().method("hold", blocking(hold)).method("echo", echo);
    let server = PipeServer::with_config(router, ServerConfig::new().in_flight(1));
    let mut peer = server.connect().await;
    peer.send("1 hold\n").await;
    begun.recv().await.unwrap();
    peer.ask("* /cancel 1\n2 /renew\n3 echo a\n", "2 ok;lease=60\n").await;
    release.send(()).unwrap();
    peer.expect("1 cut cancelled\n3 ok a\n").await;
}

#[tokio::test]
async fn handlers_take_state_session_request_and_json() {
    async fn who(session: Session, State(name): State<&'static str>) -> String {
        format!("{} {name}", session.peer())
    }
    async fn double(Json(number): Json<u64>) -> Result<Json<u64>, Failure> {
        let failure = || Failure::new(Code::from_static("too-much"), "over 100");
        (number <= 100).then_some(Json(number * 2)).ok_or_else(failure)
    }
    let router = Router::with_state("bell")
        .method("who", who)
        .method("double", double)
        .method("text", async |text: String| text)
        .method("all", async |request: Request| {
            format!(
                "{:?} {} {}",
                request.id.map(|id| id.get()),
                request.method,
                request.attributes.as_attributes().as_str()
            )
        });
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.ask("1 who\n2 double 4\n", "1 ok pipe bell\n2 ok 8\n").await;
    peer.ask("3 double 400\n", "3 err too-much over 100\n").await;
    assert_eq!(
        &{
            peer.send("4 double x\n").await;
            peer.line().await.unwrap()
        }[..19],
        "4 no bad-arguments "
    );
    peer.send(b"5 text \xff\n").await;
    peer.expect("5 no bad-arguments payload is not UTF-8\n").await;
    peer.ask("6 all;app.x=1 y\n", "6 ok Some(6) all ;app.x=1\n").await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bell");
    let server = Server::new(tokio::net::UnixListener::bind(&path).unwrap());
    assert_eq!(server.local_addr().unwrap(), PeerAddr::Unix(Some(path.clone())));
    let serving = tokio::spawn(server.serve(Router::new().method("echo", echo)).into_future());
    let mut peer = RawPeer::new(tokio::net::UnixStream::connect(&path).await.unwrap());
    peer.hello().await;
    peer.ask("1 echo a\n", "1 ok a\n").await;
    serving.abort();
}

#[tokio::test]
async fn a_narrow_pipe_never_deadlocks() {
    let server = PipeServer::start(Router::new().method("echo", echo));
    let mut peer = server.connect_raw(64);
    peer.hello().await;
    let (mut read, mut write) = tokio::io::split(peer.io);
    let burst: String =
        (1..=2_000).map(|n| format!("{n} echo {n} {}\n", "x".repeat(200))).collect();
    let replies = burst.replace("echo", "ok");
    let writing = async {
        tokio::io::AsyncWriteExt::write_all(&mut write, burst.as_bytes()).await.unwrap();
    };
    let mut got = vec![0; replies.len()];
    let reading = tokio::io::AsyncReadExt::read_exact(&mut read, &mut got);
    let (read, ()) = tokio::join!(reading, writing);
    read.unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), replies);
}

#[tokio::test]
async fn a_connection_over_the_limit_gets_busy() {
    let server = PipeServer::with_config(Router::new(), ServerConfig::new().connections(1));
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    second.expect("* /bye;last=0;retry=1000 busy\n").await;
    second.expect_closed().await;
    first.ask("1 /renew\n", "1 ok;lease=60\n").await;
}

#[tokio::test]
async fn subscriptions_are_capped() {
    let server = PipeServer::with_config(Router::new(), ServerConfig::new().subscriptions(1));
    let mut peer = server.connect().await;
    peer.send("1 /subscribe a\n2 /subscribe b\n").await;
    peer.attribute("epoch").await;
    peer.expect("2 no too-many\n").await;
}

/// A handler's waker may outlive its request and its slot in the table, which an idle connection
/// frees.
#[tokio::test]
async fn a_waker_that_outlives_its_request_is_harmless() {
    type Wakers = Arc<std::sync::Mutex<Vec<std::task::Waker>>>;
    async fn stash(State(wakers): State<Wakers>) {
        std::future::poll_fn(|cx| {
            wakers.lock().unwrap().push(cx.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    }
    let wakers = Wakers::default();
    let router = Router::with_state(wakers.clone()).method("stash", stash).method("echo", echo);
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.send("1 stash\n2 stash\n* /cancel 1\n* /cancel 2\n").await;
    peer.expect("1 cut cancelled\n2 cut cancelled\n").await;
    let left = std::mem::take(&mut *wakers.lock().unwrap());
    peer.ask("3 stash\n4 /renew\n", "4 ok;lease=60\n").await;
    left.iter().for_each(std::task::Waker::wake_by_ref);
    peer.ask("5 echo a\n* /cancel 3\n", "5 ok a\n3 cut cancelled\n").await;
}

/// Connections, and errors of accepting, as a test says.
struct Script(mpsc::UnboundedReceiver<io::Result<DuplexStream>>);

impl Listener for Script {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
        match self.0.recv().await {
            Some(next) => next.map(|io| (io, PeerAddr::Other("script".into()))),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("script".into()))
    }
}

type Accepted = mpsc::UnboundedSender<io::Result<DuplexStream>>;

fn scripted(config: ServerConfig, router: Router) -> (Accepted, ServerHandle) {
    let (accepted, script) = mpsc::unbounded_channel();
    let server = Server::new(Script(script)).config(config);
    let handle = server.handle();
    tokio::spawn(server.serve(router).into_future());
    (accepted, handle)
}

fn connect(accepted: &Accepted, size: usize) -> RawPeer<DuplexStream> {
    let (ours, theirs) = tokio::io::duplex(size);
    accepted.send(Ok(theirs)).unwrap();
    RawPeer::new(ours)
}

async fn until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if is_so() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never so");
}

#[tokio::test(start_paused = true)]
async fn accept_errors_do_not_end_the_accept_loop() {
    let (accepted, _) = scripted(ServerConfig::new(), Router::new());
    for _ in 0..100 {
        accepted.send(Err(io::ErrorKind::ConnectionAborted.into())).unwrap();
    }
    connect(&accepted, 1_024).hello().await;
    // EMFILE: the process is out of file descriptors.
    for _ in 0..10 {
        accepted.send(Err(io::Error::from_raw_os_error(24))).unwrap();
    }
    connect(&accepted, 1_024).hello().await;
}

/// Panics when it is polled and once more when it is dropped, and what it panics with does too.
struct Bomb;

impl Future for Bomb {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        std::panic::panic_any(Shrapnel)
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("on purpose, dropped");
    }
}

struct Shrapnel;

impl Drop for Shrapnel {
    fn drop(&mut self) {
        panic!("on purpose, payload");
    }
}

#[tokio::test]
async fn a_handler_panicking_in_every_step_counts_as_one_panic() {
    let router = Router::new().method("bomb", || Bomb).method("echo", echo);
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.ask("1 bomb\n* bomb\n2 echo a\n", "1 err internal\n2 ok a\n").await;
}

#[tokio::test]
async fn a_non_reading_peer_is_read_only_up_to_a_bound() {
    let config = ServerConfig::new().reply_mark(1_024);
    let server = PipeServer::with_config(Router::new().method("echo", echo), config);
    let mut peer = server.connect_raw(64);
    peer.hello().await;
    let (mut read, mut write) = tokio::io::split(peer.io);
    let questions: String = (1..=10_000).map(|n| format!("{n} /methods\n")).collect();
    let answers: String = (1..=10_000).map(|n| format!("{n} more echo\n{n} ok\n")).collect();
    let writing = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut write, questions.as_bytes()).await.unwrap();
    });
    for _ in 0..100_000 {
        tokio::task::yield_now().await;
    }
    assert!(!writing.is_finished(), "all was taken, though no answer was read");
    let mut got = vec![0; answers.len()];
    tokio::io::AsyncReadExt::read_exact(&mut read, &mut got).await.unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), answers);
    writing.await.unwrap();
}

#[tokio::test]
async fn the_handle_counts_open_connections_and_running_requests() {
    let router = Router::new()
        .method("forever", async || std::future::pending::<()>().await)
        .method("echo", echo);
    let (accepted, handle) = scripted(ServerConfig::new(), router);
    let stats = || (handle.stats().connections, handle.stats().in_flight);
    assert_eq!(stats(), (0, 0));
    let (mut one, mut two) = (connect(&accepted, 1_024), connect(&accepted, 1_024));
    one.hello().await;
    two.hello().await;
    one.ask("1 forever\n* forever\n2 echo a\n", "2 ok a\n").await;
    two.ask("1 forever\n2 echo a\n", "2 ok a\n").await;
    assert_eq!(stats(), (2, 3));
    one.ask("* /cancel 1\n", "1 cut cancelled\n").await;
    assert_eq!(stats(), (2, 2));
    two.ask("* /cancel 1\n3 /quit\n", "1 cut cancelled\n3 ok\n").await;
    two.expect_closed().await;
    drop((one, two));
    until(|| handle.stats().connections <= 1).await;
}

#[tokio::test]
async fn a_connection_over_the_limit_takes_no_slot() {
    let (accepted, handle) = scripted(ServerConfig::new().connections(1), Router::new());
    let mut first = connect(&accepted, 1_024);
    first.hello().await;
    let deaf: Vec<_> = (0..10).map(|_| connect(&accepted, 1)).collect();
    first.ask("1 /quit\n", "1 ok\n").await;
    drop(first);
    until(|| handle.stats().connections == 0).await;
    let mut second = connect(&accepted, 1_024);
    second.hello().await;
    second.ask("1 /renew\n", "1 ok;lease=60\n").await;
    drop(deaf);
}

#[tokio::test(start_paused = true)]
async fn a_non_reading_connection_over_the_limit_is_dropped() {
    let (accepted, _) = scripted(ServerConfig::new().connections(0), Router::new());
    let mut deaf = connect(&accepted, 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut read = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut deaf.io, &mut read).await.unwrap();
    assert_eq!(read, b"*", "cut off");
}

/// A transport whose reads fail on command.
struct Breaking(DuplexStream, Arc<Notify>, Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl tokio::io::AsyncRead for Breaking {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self(io, reset, waiting) = self.get_mut();
        let reset = reset.clone();
        let waiting =
            waiting.get_or_insert_with(|| Box::pin(async move { reset.notified().await }));
        if waiting.as_mut().poll(cx).is_ready() {
            *waiting = Box::pin(std::future::ready(()));
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(io).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Breaking {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

struct Once(Option<Breaking>);

impl Listener for Once {
    type Io = Breaking;

    async fn accept(&mut self) -> io::Result<(Breaking, PeerAddr)> {
        match self.0.take() {
            Some(io) => Ok((io, PeerAddr::Other("once".into()))),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("once".into()))
    }
}

#[tokio::test]
async fn a_reset_drops_the_handlers() {
    struct Guard(Option<oneshot::Sender<()>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.take().unwrap().send(()).unwrap();
        }
    }
    let (told, dropped) = oneshot::channel();
    let told = Arc::new(std::sync::Mutex::new(Some(told)));
    let router = Router::with_state(told)
        .method(
            "wait",
            async |State(told): State<Arc<std::sync::Mutex<Option<oneshot::Sender<()>>>>>| {
                let told = told.lock().unwrap().take();
                let _guard = Guard(told);
                std::future::pending::<()>().await;
            },
        )
        .method("echo", echo);
    let ((ours, theirs), reset) = (tokio::io::duplex(1_024), Arc::new(Notify::new()));
    let server = Server::new(Once(Some(Breaking(theirs, reset.clone(), None))));
    let handle = server.handle();
    tokio::spawn(server.serve(router).into_future());
    let mut peer = RawPeer::new(ours);
    peer.hello().await;
    peer.ask("1 wait\n2 echo a\n", "2 ok a\n").await;
    assert_eq!(handle.stats().in_flight, 1);
    reset.notify_one();
    dropped.await.unwrap();
    peer.expect_closed().await;
    until(|| handle.stats().connections == 0).await;
}

#[tokio::test]
async fn a_reply_at_the_limit_passes_and_one_over_does_not() {
    let config = ServerConfig::new().max_line(1_024);
    let router =
        Router::new().method("long", async |size: String| "x".repeat(size.parse().unwrap()));
    let server = PipeServer::with_config(router, config);
    let mut peer = server.connect().await;
    let fits = 1_024 - "1 ok \n".len();
    peer.ask(format!("1 long {fits}\n"), format!("1 ok {}\n", "x".repeat(fits))).await;
    let over = fits + 1;
    peer.ask(format!("2 long {over}\n"), "2 err too-large max-line is 1024\n").await;
}

/// S12.1: of several faults the one that comes first in the list is reported.
#[tokio::test]
async fn faults_are_checked_in_the_documented_order() {
    let server = PipeServer::start(Router::new().method("echo", echo));
    let mut peer = server.connect().await;
    peer.ask("1 echo\n", "1 ok\n").await;
    for (line, answer) in [
        ("1 nosuch;x=1", "* /error;id=1 id-order last is 1"),
        ("2 nosuch;x=1", "2 no unknown-method no method \"nosuch\"; ask /methods"),
        ("3 /cancel;x=1", "3 no bad-form /cancel is one-way"),
        ("* /renew;x=1 y", "* /error bad-form /renew needs an id"),
        ("4 /publish;ttl=0;x=1 ..", "4 no unknown-attribute x"),
        ("5 /publish;ttl=0 ..", "5 no bad-attribute ttl"),
        ("6 /publish ..", "6 no bad-arguments usage: /publish TOPIC [PAYLOAD]"),
        ("7 /publish t", "7 no forbidden"),
        ("8 /hello;max-line=1 x", "8 no out-of-order /hello must come first"),
        ("9 /hello;version=2 x", "9 no out-of-order /hello must come first"),
        ("10 /hello;version=2", "10 no out-of-order /hello must come first"),
        ("* echo;ttl=0;x=1", "* /error unknown-attribute x"),
        ("* echo;ttl=0", "* /error bad-attribute ttl"),
        ("* ok", "* /error malformed byte 2: bad method"),
        ("11 cut x\r", "11 no malformed byte 3: bad method"),
    ] {
        peer.ask(format!("{line}\n"), format!("{answer}\n")).await;
    }
}

#[tokio::test]
async fn unread_output_is_bounded_by_the_marks() {
    const PIPE: usize = 64;
    const MARK: usize = 256;
    let config = ServerConfig::new().retained_messages(1);
    let config = config.notification_mark(MARK).reply_mark(MARK);
    let started = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let router = Router::with_state(started.clone()).method(
        "count",
        async |State(started): State<Arc<std::sync::atomic::AtomicUsize>>| {
            started.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            "counted"
        },
    );
    let server = PipeServer::with_config(router, config);
    let mut deaf = server.connect_raw(PIPE);
    deaf.hello().await;
    deaf.send("1 /subscribe t\n").await;
    deaf.attribute("epoch").await;
    let line = "* t 100 message\n".len();
    for _ in 0..200 {
        server.publisher.publish("t", "message").await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut delivered = 0;
    loop {
        let line = deaf.line().await.unwrap();
        if line.starts_with("* /gap ") {
            break;
        }
        delivered += line.len();
    }
    assert!(delivered <= PIPE + MARK + line, "{delivered} bytes");

    let deaf = server.connect_raw(PIPE);
    let (_read, mut write) = tokio::io::split(deaf.io);
    let burst: String = (1..=1_000).map(|n| format!("{n} count\n")).collect();
    let write = tokio::io::AsyncWriteExt::write_all(&mut write, burst.as_bytes());
    let mut write = std::pin::pin!(write);
    for _ in 0..10_000 {
        assert!(futures::poll!(write.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    let most = (PIPE + MARK) / "1 ok counted\n".len() + 1;
    let started = started.load(std::sync::atomic::Ordering::Relaxed);
    assert!(started <= most, "{started} requests were started");
}

/// The last request that fits takes a place, and the next line waits.
#[tokio::test]
async fn the_in_flight_limit_is_exact() {
    let (router, gate) = gated();
    let server = PipeServer::with_config(router, ServerConfig::new().in_flight(3));
    let mut peer = server.connect().await;
    peer.send("1 wait a\n2 wait b\n3 wait c\n4 /renew\n5 echo d\n6 /renew\n").await;
    peer.expect("4 ok;lease=60\n6 ok;lease=60\n").await;
    peer.expect_silence().await;
    gate.notify_one();
    peer.expect("1 ok a\n5 ok d\n").await;
    peer.ask("7 wait e\n8 /renew\n", "8 ok;lease=60\n").await;
}

#[tokio::test]
async fn a_session_outlives_its_connection() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let router = Router::with_state(told).method(
        "keep",
        async |session: Session, State(told): State<mpsc::UnboundedSender<_>>| {
            told.send(session).unwrap();
        },
    );
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.ask("1 keep\n2 /quit\n", "1 ok\n2 ok\n").await;
    peer.expect_closed().await;
    drop(peer);
    let session = heard.recv().await.unwrap();
    server.ended().await;
    assert_eq!(session.peer(), &PeerAddr::Other("pipe".into()));
    assert!(!session.id().is_nil());
}

/// A peer that does not read and a handler that never ends cannot delay the end of `serve`.
#[tokio::test(start_paused = true)]
async fn a_non_reading_peer_does_not_delay_the_end() {
    let (router, _gate) = gated();
    let config = ServerConfig::new().reply_mark(64).drain(Duration::from_secs(3));
    let server = PipeServer::with_config(router, config);
    let mut deaf = server.connect_raw(16);
    deaf.hello().await;
    deaf.send("1 forever\n2 echo aaaaaaaaaaaaaaaaaaaaa\n3 /subscribe t\n4 /methods\n").await;
    server.ended().await;
}

/// Each answer alone exceeds the mark, so only writing it out resumes reading.
#[tokio::test]
async fn a_peer_that_reads_again_is_read_again() {
    let doc = "x".repeat(500);
    let router = Router::new().method("echo", handler(echo).doc(doc.clone()));
    let server = PipeServer::with_config(router, ServerConfig::new().reply_mark(64));
    for pipe in [64, bellwire_testkit::PIPE] {
        let mut peer = server.connect_raw(pipe);
        peer.hello().await;
        for id in 1..=3 {
            peer.send(format!("{id} /methods\n")).await;
            until_quiet().await;
            peer.expect(format!("{id} more echo {doc}\n{id} ok\n")).await;
        }
    }
}

/// Lets every other task have its turns.
async fn until_quiet() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}
