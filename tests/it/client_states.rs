//! The client in every connection state: every request ends, with an outcome that can be proven.

use std::{future::Future, pin::Pin, time::Duration};

use bellwire::{
    CallError, Client, ClientConfig, ConnectionError, ConnectionEvent, NotSent, Router, Unknown,
    protocol::Code,
};
use bellwire_testkit::{PipeServer, RawPeer};
use bytes::Bytes;
use futures::future::join_all;
use tokio::{
    io::DuplexStream,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60";

type Driver = JoinHandle<Result<(), ConnectionError>>;
type Server = RawPeer<DuplexStream>;

/// Longer than any limit of the client's, on the paused clock: what takes this long hangs.
const PATIENCE: Duration = Duration::from_secs(300);

fn silent(config: ClientConfig, pipe: usize) -> (Client, Driver, Server) {
    let (near, far) = tokio::io::duplex(pipe);
    let (client, connection) = Client::new(near, config);
    (client, tokio::spawn(connection), RawPeer::new(far))
}

async fn greeted(config: ClientConfig, pipe: usize) -> (Client, Driver, Server) {
    let (client, driver, mut server) = silent(config, pipe);
    server.send(format!("{HELLO}\n")).await;
    client.connected().await.unwrap();
    (client, driver, server)
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

// The table.

/// What kind of outcome it is: the first words of what an error says.
fn kind<T>(result: Result<T, CallError>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(error) => error.to_string().split(':').next().unwrap().into(),
    }
}

type Asked = Pin<Box<dyn Future<Output = String> + Send>>;

/// One of each kind of request, begun.
fn ask(client: &Client) -> Vec<(&'static str, JoinHandle<String>)> {
    let of = |ask: fn(Client) -> Asked| tokio::spawn(ask(client.clone()));
    vec![
        ("call", of(|client| Box::pin(async move { kind(client.call("m", "").await) }))),
        (
            "typed",
            of(|client| Box::pin(async move { kind(client.request::<_, u8>("m", &1).await) })),
        ),
        (
            "stream",
            of(|client| {
                Box::pin(async move { kind(client.stream("m", "").next().await.unwrap()) })
            }),
        ),
        (
            "one-way",
            of(|client| {
                Box::pin(
                    async move { kind(client.one_way("m", "").await.map_err(CallError::from)) },
                )
            }),
        ),
        ("publish", of(|client| Box::pin(async move { kind(client.publish("t", "").await) }))),
        ("subscribe", of(|client| Box::pin(async move { kind(client.subscribe("t").await) }))),
        ("methods", of(|client| Box::pin(async move { kind(client.methods().await) }))),
    ]
}

/// Each request has this outcome, but for those that are named.
async fn expect(
    state: &str,
    asked: Vec<(&'static str, JoinHandle<String>)>,
    usual: &str,
    others: &[(&str, &str)],
) {
    for (what, task) in asked {
        let outcome = timeout(PATIENCE, task).await;
        let outcome = outcome.unwrap_or_else(|_| panic!("{state}: {what} hangs")).unwrap();
        let other = others.iter().find(|(other, _)| *other == what);
        assert_eq!(outcome, other.map_or(usual, |(_, other)| other), "{state}: {what}");
    }
}

/// Requests made before the end, for each way in which the connection ends.
#[tokio::test(start_paused = true)]
async fn pending_requests_end_with_a_provable_outcome() {
    let sent = [("one-way", "ok")];
    for (state, ending, usual) in [
        ("lost", "", "outcome unknown"),
        ("above the line", "* /bye;last=0 shutdown\n", "refused"),
        ("below the line", "* /bye;last=99 shutdown\n", "outcome unknown"),
        (
            "a lower line takes nothing back",
            "* /bye;last=99 a\n* /bye;last=0 b\n",
            "outcome unknown",
        ),
        ("strict", "99 ok\n", "outcome unknown"),
        ("malformed", "what\n", "outcome unknown"),
    ] {
        let (client, driver, mut server) = greeted(ClientConfig::new().strict(true), 65_536).await;
        let asked = ask(&client);
        settle().await;
        server.send(ending).await;
        drop(server);
        expect(state, asked, usual, &sent).await;
        assert!(timeout(PATIENCE, client.close()).await.unwrap().is_err(), "{state}");
        assert!(driver.await.unwrap().is_err(), "{state}");
        let stats = client.stats();
        assert_eq!((stats.pending, stats.in_flight), (0, 0), "{state}");
    }

    let (client, driver, _server) = greeted(ClientConfig::new(), 65_536).await;
    let asked = ask(&client);
    settle().await;
    driver.abort();
    expect("driver dropped", asked, "outcome unknown", &sent).await;

    let (client, driver, _server) = greeted(ClientConfig::new(), 65_536).await;
    let asked = ask(&client);
    expect("silent", asked, "outcome unknown", &sent).await;
    assert_eq!(driver.await.unwrap(), Err(ConnectionError::Silent));

    let (client, driver, _server) = greeted(ClientConfig::new(), 65_536).await;
    let asked = ask(&client);
    settle().await;
    assert_eq!(client.close().await, Err(ConnectionError::CloseTimeout));
    expect("closing is bounded", asked, "outcome unknown", &sent).await;
    assert_eq!(driver.await.unwrap(), Err(ConnectionError::CloseTimeout));
}

#[tokio::test(start_paused = true)]
async fn requests_not_offered_to_the_transport_end_as_not_sent() {
    // The hello never comes.
    let (client, driver, server) = silent(ClientConfig::new(), 65_536);
    let asked = ask(&client);
    settle().await;
    drop(server);
    expect("no hello", asked, "not sent", &[]).await;
    assert!(driver.await.unwrap().is_err());

    let (client, _driver, _server) = silent(ClientConfig::new(), 65_536);
    let asked = ask(&client);
    settle().await;
    assert_eq!(timeout(PATIENCE, client.close()).await.unwrap(), Ok(()));
    expect("closed before the hello", asked, "not sent", &[]).await;

    // Credentials that are refused, and a server that closes instead of an answer.
    for answer in ["1 no unauthenticated\n", ""] {
        let token = Code::from_static("token");
        let (client, driver, mut server) =
            silent(ClientConfig::new().auth(token, "secret"), 65_536);
        let asked = ask(&client);
        server.send(format!("{HELLO};auth=token\n")).await;
        server.expect("1 /auth token secret\n").await;
        server.expect_silence().await;
        server.send(answer).await;
        drop(server);
        expect("before auth", asked, "not sent", &[]).await;
        assert!(driver.await.unwrap().is_err());
    }
}

/// Requests that are made after the end fail at once, though the server writes nothing more and
/// does not close.
#[tokio::test(start_paused = true)]
async fn requests_after_the_end_fail_at_once() {
    for (state, line, open) in [
        ("leaving", "* /bye shutdown\n", &["methods"][..]),
        ("drawn", "* /bye;last=0 shutdown\n", &[]),
        ("leaving, then drawn", "* /bye shutdown\n* /bye;last=0 shutdown\n", &[]),
    ] {
        let (client, _driver, mut server) = greeted(ClientConfig::new(), 65_536).await;
        server.send(line).await;
        settle().await;
        let since = Instant::now();
        let (open, late): (Vec<_>, Vec<_>) =
            ask(&client).into_iter().partition(|(what, _)| open.contains(what));
        expect(state, late, "not sent", &[]).await;
        assert_eq!(since.elapsed(), Duration::ZERO, "{state}");
        drop(server);
        expect(state, open, "outcome unknown", &[]).await;
        expect("over", ask(&client), "not sent", &[]).await;
    }
    let (client, _driver, _server) = greeted(ClientConfig::new(), 65_536).await;
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close().await }
    });
    settle().await;
    expect("closing", ask(&client), "not sent", &[]).await;
    assert!(!closing.is_finished());
}

/// A topic that was being left when the `/bye` came is not subscribed again. A caller that wants it
/// gets the error immediately, not when the connection ends.
#[tokio::test(start_paused = true)]
async fn resubscribing_after_bye_fails_without_waiting_for_the_end() {
    for wants_first in [true, false] {
        let (client, driver, mut server) = greeted(ClientConfig::new(), 65_536).await;
        let first = tokio::spawn(client.subscribe("t").into_future());
        server.expect("1 /subscribe t\n").await;
        server.send("1 ok;epoch=e;next=1;lease=60\n").await;
        drop(first.await.unwrap().unwrap());
        server.expect("2 /unsubscribe t\n").await;
        let mut again = tokio::spawn(client.subscribe("t").into_future());
        if wants_first {
            settle().await;
        } else {
            again.abort();
        }
        server.send("* /bye shutdown\n").await;
        settle().await;
        if !wants_first {
            again = tokio::spawn(client.subscribe("t").into_future());
        }
        server.send("2 ok;next=e:1\n").await;
        settle().await;
        assert!(again.is_finished(), "it waits for the connection to end");
        let error = again.await.unwrap().unwrap_err();
        assert!(matches!(error, CallError::NotSent(NotSent::Lost(_))), "{error:?}");
        assert!(!driver.is_finished());
        server.expect_silence().await;
    }
}

// What was not sent has no items.

/// [C3.5] An item for a request that was not offered yet is ignored: it does not end the request
/// and adds nothing to its stream.
#[tokio::test]
async fn an_item_for_an_unsent_request_is_ignored() {
    let (client, _driver, mut server) = greeted(ClientConfig::new(), 256).await;
    let call = |payload: String| {
        let client = client.clone();
        tokio::spawn(async move { client.call("m", payload).await })
    };
    let first = call("x".repeat(1_000));
    assert_eq!(server.bytes(3).await, b"1 m");
    let second = call(String::new());
    while client.stats().pending < 2 {
        tokio::task::yield_now().await;
    }
    server.send("2 more a guess\n").await;
    while client.stats().unasked_replies < 1 {
        assert!(!second.is_finished(), "it ended before it was sent");
        tokio::task::yield_now().await;
    }
    server.bytes(1_002).await;
    server.send("1 ok\n").await;
    first.await.unwrap().unwrap();
    server.expect("2 m\n").await;
    server.send("2 ok mine\n").await;
    assert_eq!(second.await.unwrap().unwrap(), "mine");
}

/// A reply to an id that was not assigned yet is counted as unexpected, and does not affect the
/// later request.
#[tokio::test]
async fn a_reply_to_a_future_id_is_unexpected() {
    let config = ClientConfig::new().auth(Code::from_static("token"), "secret");
    let (client, _driver, mut server) = greeted(config, 65_536).await;
    assert_eq!(client.stats().requests, 0);
    let mut events = client.events();
    server.send("1 ok\n2 ok\n").await;
    for id in [1, 2] {
        let Some(ConnectionEvent::UnaskedReply(unasked)) = events.next().await else { panic!() };
        assert_eq!(unasked.get(), id);
    }
    let call = client.call("m", "");
    let (reply, ()) = tokio::join!(call, async {
        server.expect("1 m\n").await;
        server.send("1 ok\n").await;
    });
    reply.unwrap();
    assert_eq!((client.stats().requests, client.stats().ok), (1, 1));
}

// A deadline.

/// A reply that was complete in time is delivered whole, though it is read late.
#[tokio::test(start_paused = true)]
async fn a_deadline_does_not_affect_a_completed_reply() {
    let (client, _driver, mut server) = greeted(ClientConfig::new(), 65_536).await;
    let mut items = client.stream("m", "").deadline(Duration::from_secs(1));
    assert!(timeout(Duration::ZERO, items.next()).await.is_err());
    server.expect("1 m;ttl=1000\n").await;
    server.send("1 more a\n1 more b\n1 ok\n").await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(items.next().await.unwrap().unwrap(), "a");
    assert_eq!(items.next().await.unwrap().unwrap(), "b");
    assert!(items.next().await.is_none());
    server.expect_silence().await;
}

// Servers that are slow, and well.

fn slow() -> Router {
    Router::new().method("slow", async |_: Bytes| sleep(Duration::from_secs(29)).await)
}

async fn all_are_answered(calls: usize, bytes: usize, one_ways: usize) {
    let server = PipeServer::start(slow());
    let (client, connection) = Client::new(server.pipe(), ClientConfig::new().deadline(None));
    let driver = tokio::spawn(connection);
    client.connected().await.unwrap();
    for _ in 0..one_ways / 2 {
        client.one_way("slow", "").await.unwrap();
    }
    let payload = "x".repeat(bytes);
    let late = async {
        settle().await;
        for _ in 0..one_ways.div_ceil(2) {
            client.one_way("slow", "").await.unwrap();
        }
    };
    let (replies, ()) =
        tokio::join!(join_all((0..calls).map(|_| client.call("slow", payload.clone()))), late);
    for reply in replies {
        reply.unwrap();
    }
    assert!(!driver.is_finished());
}

/// [C7.1] [S3.13] A server reads no probe while it has no room for the lines before it. It sends a
/// notice, and the client waits. Within that room the server reads the probe.
#[tokio::test(start_paused = true)]
async fn a_server_held_up_by_this_client_is_not_dead() {
    all_are_answered(1_024, 10, 0).await;
    all_are_answered(1_024, 10, 1).await;
    all_are_answered(1_024, 10, 2_000).await;
    all_are_answered(1_024, 8_192, 0).await;
    all_are_answered(200, 60_000, 0).await;
}

/// A silent server is dead, whatever it was asked to do.
#[tokio::test(start_paused = true)]
async fn a_silent_server_is_dead_though_its_table_is_full() {
    let (client, driver, mut server) = silent(ClientConfig::new(), 65_536);
    server.send(format!("{}\n", HELLO.replace("1024", "1"))).await;
    client.connected().await.unwrap();
    let since = Instant::now();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call("m", "").await }
    });
    settle().await;
    client.one_way("m", "").await.unwrap();
    assert_eq!(driver.await.unwrap(), Err(ConnectionError::Silent));
    assert_eq!(since.elapsed().as_secs(), 20);
    assert!(matches!(call.await.unwrap(), Err(CallError::Unknown(_))));
}

/// [C7.1] A probe that is not written yet cannot be answered.
#[tokio::test(start_paused = true)]
async fn a_server_that_reads_slowly_is_not_dead() {
    let (client, _driver, mut server) = greeted(ClientConfig::new().deadline(None), 64).await;
    let call = tokio::spawn(async move { client.call("m", "x".repeat(5_000)).await });
    for _ in 0..50 {
        sleep(Duration::from_secs(1)).await;
        server.bytes(100).await;
    }
    server.bytes(5).await;
    server.expect("2 /renew\n").await;
    sleep(Duration::from_secs(8)).await;
    server.send("1 ok done\n").await;
    assert_eq!(call.await.unwrap().unwrap(), "done");
}

/// A server that reads nothing at all is dead, whatever is still unwritten.
#[tokio::test(start_paused = true)]
async fn a_server_that_has_stopped_reading_is_dead() {
    let (client, driver, _server) = greeted(ClientConfig::new(), 64).await;
    let since = Instant::now();
    let call = tokio::spawn(async move { client.call("m", "x".repeat(5_000)).await });
    assert_eq!(driver.await.unwrap(), Err(ConnectionError::Silent));
    assert!(since.elapsed() < Duration::from_secs(21));
    let lost = Unknown::Lost(ConnectionError::Silent);
    assert_eq!(call.await.unwrap().unwrap_err(), CallError::Unknown(lost));
}

/// After its `/bye` with `last` a server takes no probe. If it then stays silent, its callers and
/// the streams of its topics still get an end.
#[tokio::test(start_paused = true)]
async fn a_server_silent_after_the_final_bye_is_closed() {
    let (client, driver, mut server) = greeted(ClientConfig::new(), 65_536).await;
    let since = Instant::now();
    let asked = ask(&client);
    settle().await;
    server.send("* /bye;last=99 shutdown\n").await;
    sleep(Duration::from_secs(39)).await;
    // It is heard of: it has as long again.
    server.send("* /new-notice\n").await;
    expect("behind the line", asked, "outcome unknown", &[("one-way", "ok")]).await;
    let ended = driver.await.unwrap();
    assert!(matches!(ended, Err(ConnectionError::Bye(_))), "{ended:?}");
    let took = since.elapsed();
    assert!(Duration::from_secs(79) <= took && took < Duration::from_secs(80), "{took:?}");
}

/// Protocol requests wait for room to write, too. If callers drop them again and again while the
/// server does not read, they do not accumulate.
#[tokio::test(start_paused = true)]
async fn protocol_requests_do_not_accumulate_in_a_blocked_client() {
    let config = ClientConfig::new().outbound_bytes(100);
    let (client, _driver, mut server) = greeted(config, 64).await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call("m", "x".repeat(1_000)).await }
    });
    settle().await;
    for round in 0..1_000 {
        let topic = format!("t{round}");
        assert!(timeout(Duration::ZERO, client.methods()).await.is_err());
        assert!(timeout(Duration::ZERO, client.subscribe(&topic).into_future()).await.is_err());
    }
    let requests = client.stats().requests;
    assert!((3..20).contains(&requests), "{requests}");
    // And a waiting caller has its turn.
    let late = tokio::spawn({
        let client = client.clone();
        async move { client.methods().await }
    });
    server.bytes(1_005).await;
    server.send("1 ok\n").await;
    call.await.unwrap().unwrap();
    // What was not offered by then was taken back.
    let id = requests + 1;
    let mut line = server.line().await.unwrap();
    while line != format!("{id} /methods\n") {
        assert!(line.contains(" /subscribe t") || line.contains(" /unsubscribe t"), "{line}");
        line = server.line().await.unwrap();
    }
    server.send(format!("{id} more m\n{id} ok\n")).await;
    assert_eq!(late.await.unwrap().unwrap().len(), 1);
}
