//! The server, spoken to in raw bytes.

mod support;

use std::{sync::Arc, time::Duration};

use bellwire::{
    Failure, Json, Router, Server, ServerConfig, Session, State, blocking, handler,
    protocol::Code,
    server::{PeerAddr, Request},
};
use bytes::Bytes;
use tokio::sync::Notify;

use crate::support::{PipeServer, RawPeer, TcpServer};

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
async fn hello_comes_unasked_and_names_the_limits() {
    let config = ServerConfig::new().in_flight(7).max_line(2_000);
    let server = PipeServer::with_config(Router::new(), config.lease(Duration::from_secs(9)));
    let hello = server.connect_raw(64).hello().await;
    assert!(hello.ends_with(";max-line=2000;in-flight=7;lease=9\n"), "{hello}");
    assert_ne!(hello, server.connect_raw(64).hello().await, "one session each");
}

#[tokio::test]
async fn a_client_may_say_hello_first_and_only_first() {
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
async fn replies_overtake_a_handler_that_waits() {
    let (router, gate) = gated();
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.ask("1 wait a\n2 echo b\n", "2 ok b\n").await;
    gate.notify_one();
    peer.expect("1 ok a\n").await;
}

#[tokio::test]
async fn a_panic_hurts_its_own_request_only() {
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
async fn a_falling_id_touches_nothing() {
    let (router, gate) = gated();
    let server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.ask("5 wait a\n5 echo b\n", "* /error;id=5 id-order last is 5\n").await;
    peer.ask("3 echo b\n", "* /error;id=3 id-order last is 5\n").await;
    gate.notify_one();
    peer.expect("5 ok a\n").await;
}

#[tokio::test]
async fn a_malformed_line_is_answered_where_an_id_owns_it() {
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
async fn a_line_too_long_is_named_and_closes_and_the_limit_counts_the_lf() {
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
    peer.ask("1 wait a\n2 /quit\n3 echo c\n* /error", "").await;
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
async fn a_lease_that_is_not_renewed_ends_what_it_holds() {
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
async fn a_slow_subscriber_gets_an_exact_gap_and_the_other_loses_nothing() {
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
async fn a_notification_over_the_clients_limit_is_named() {
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
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let router = Router::with_state(told)
        .method(
            "tell",
            async |State(told): State<tokio::sync::mpsc::UnboundedSender<Bytes>>,
                   payload: Bytes| {
                told.send(payload).unwrap();
            },
        )
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
async fn a_shutdown_finishes_what_runs_and_starts_nothing_new() {
    let (router, gate) = gated();
    let mut server = PipeServer::start(router);
    let mut peer = server.connect().await;
    peer.ask("1 wait a\n2 echo b\n", "2 ok b\n").await;
    server.stop();
    peer.expect("* /bye;last=2 shutdown\n").await;
    peer.send("3 echo c\n* echo d\n4 /renew\n5 /subscribe t\n").await;
    peer.expect("3 no closing\n4 ok;lease=60\n5 no closing\n").await;
    gate.notify_one();
    peer.expect("1 ok a\n").await;
    peer.expect_closed().await;
    server.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_cuts_what_outlasts_the_drain() {
    let (router, _gate) = gated();
    let mut server = PipeServer::start(router);
    let mut peer = server.connect().await;
    let _deaf = server.connect_raw(1);
    peer.ask("1 forever\n2 echo b\n", "2 ok b\n").await;
    server.stop();
    peer.expect("* /bye;last=2 shutdown\n1 cut closing\n").await;
    peer.expect_closed().await;
    server.ended().await;
}

#[tokio::test]
async fn a_full_table_stops_reading_until_there_is_a_place() {
    let (router, gate) = gated();
    let server = PipeServer::with_config(router, ServerConfig::new().in_flight(2));
    let mut peer = server.connect().await;
    peer.send("1 wait a\n* wait b\n2 /renew\n3 echo c\n4 /renew\n").await;
    peer.expect("2 ok;lease=60\n").await;
    gate.notify_one();
    peer.expect("1 ok a\n3 ok c\n4 ok;lease=60\n").await;
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
    let (began, mut begun) = tokio::sync::mpsc::unbounded_channel();
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
async fn a_narrow_pipe_never_blocks_for_good() {
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
async fn one_connection_too_many_is_told_so() {
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

/// A handler's waker may outlive its request, and the table it stood in, which an idle connection
/// gives back.
#[tokio::test]
async fn a_waker_left_behind_hurts_nobody() {
    type Wakers = Arc<std::sync::Mutex<Vec<std::task::Waker>>>;
    async fn stash(State(wakers): State<Wakers>) {
        std::future::poll_fn(|cx| {
            wakers.lock().unwrap().push(cx.waker().clone());
            std::task::Poll::<()>::Pending
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
