//! Keyed and idempotent calls of a client: when they are sent again, and how they end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bellwire::{
    Call, CallError, Client, ClientConfig, Json, Key, NotSent, Router, Server, State, Unknown,
    memory,
    protocol::{Code, Reason},
};
use bellwire_testkit::{
    dialogue::Peer,
    net::{HELLO, Net, builder, outcome, settle},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, advance, sleep},
};

const SECOND: Duration = Duration::from_secs(1);

type Options = for<'a> fn(Call<'a>) -> Call<'a>;

const WITH_KEY: Options = |call| call.key("k");
const IDEMPOTENT: Options = |call| call.idempotent();

type Outcome = Result<String, CallError>;

fn hello(keys: &str) -> String {
    match keys {
        "" => HELLO.to_owned(),
        keys => format!("{HELLO};keys={keys}"),
    }
}

/// The next connection, to a server that announces `keys`.
async fn greet(net: &mut Net, keys: &str) -> Peer {
    let mut server = net.attempt().await.accept(1 << 16);
    server.send(&hello(keys)).await;
    server
}

async fn connected(keys: &str) -> (Client, Peer, Net) {
    connected_with(keys, ClientConfig::new().deadline(None)).await
}

async fn connected_with(keys: &str, config: ClientConfig) -> (Client, Peer, Net) {
    let (builder, mut net) = builder();
    let client = builder.config(config).connect_lazily();
    let server = greet(&mut net, keys).await;
    client.connected().await.unwrap();
    (client, server, net)
}

/// Calls `m` with `payload`, as `set` says.
fn call_as(
    client: &Client,
    payload: &str,
    set: impl for<'a> FnOnce(Call<'a>) -> Call<'a> + Send + 'static,
) -> JoinHandle<Outcome> {
    let (client, payload) = (client.clone(), payload.to_owned());
    tokio::spawn(async move {
        let reply = set(client.call("m", payload)).await?;
        Ok(String::from_utf8(reply.to_vec()).unwrap())
    })
}

fn keyed(client: &Client, payload: &str) -> JoinHandle<Outcome> {
    call_as(client, payload, |call| call.key("k"))
}

fn idempotent(client: &Client, payload: &str) -> JoinHandle<Outcome> {
    call_as(client, payload, |call| call.idempotent())
}

fn is_lost(outcome: &Outcome) -> bool {
    matches!(outcome, Err(CallError::Unknown(Unknown::Lost(_))))
}

/// [C23.2] After a lost connection a keyed call is sent again as it was, under a new id.
#[tokio::test(start_paused = true)]
async fn a_keyed_call_is_sent_again() {
    let (client, mut server, mut net) = connected("s:300").await;
    let call = keyed(&client, "x");
    server.expect("1 m;key=k x").await;
    drop(server);
    let mut server = greet(&mut net, "s:300").await;
    server.expect("2 m;key=k x").await;
    drop(server);
    // Another SECONDS does not matter; the STORE does.
    let mut server = greet(&mut net, "s:7").await;
    server.expect("3 m;key=k x").await;
    server.send("3 ok done").await;
    assert_eq!(outcome(call).await.unwrap(), "done");
    assert_eq!(client.stats().resent, 2);
    // Without a key nothing is sent again.
    let call = call_as(&client, "y", |call| call);
    server.expect("4 m y").await;
    drop(server);
    assert!(is_lost(&outcome(call).await));
}

/// [C23.2] A server with another table, or with none, does not know the key.
#[tokio::test(start_paused = true)]
async fn a_keyed_call_goes_to_the_same_store_only() {
    for next in ["t:300", ""] {
        let (client, mut server, mut net) = connected("s:300").await;
        let call = keyed(&client, "x");
        server.expect("1 m;key=k x").await;
        drop(server);
        let mut server = greet(&mut net, next).await;
        assert!(is_lost(&outcome(call).await), "{next:?}");
        server.expect_silence().await;
        assert_eq!(client.stats().in_flight, 0);
    }
}

/// [C23.2] The time counts from the first sending, and the deadline is met from both sides.
#[tokio::test(start_paused = true)]
async fn a_keyed_call_is_sent_again_in_time_only() {
    for (millis, is_sent) in [(9_900, true), (10_100, false)] {
        let (client, mut server, mut net) = connected("s:10").await;
        let begun = Instant::now();
        let call = keyed(&client, "x");
        server.expect("1 m;key=k x").await;
        drop(server);
        // An attempt to connect that takes its time.
        let attempt = net.attempt().await;
        sleep(Duration::from_millis(millis) - begun.elapsed()).await;
        if !is_sent {
            // It has ended by itself, although there is no connection.
            assert!(call.is_finished() && is_lost(&outcome(call).await));
            continue;
        }
        assert!(!call.is_finished());
        let mut server = attempt.accept(1 << 16);
        server.send(&hello("s:10")).await;
        server.expect("2 m;key=k x").await;
        server.send("2 ok done").await;
        assert_eq!(outcome(call).await.unwrap(), "done");
    }
}

/// The time begins with each sending that is known not to have run.
#[tokio::test(start_paused = true)]
async fn what_has_not_run_may_go_anywhere() {
    let (client, mut server, mut net) = connected("s:1").await;
    let call = keyed(&client, "x");
    server.expect("1 m;key=k x").await;
    server.send("1 no;retry=1500 busy").await;
    settle().await;
    drop(server);
    let mut server = greet(&mut net, "t:10").await;
    server.expect("2 m;key=k x").await;
    drop(server);
    // From here on only `t` will do.
    let mut server = greet(&mut net, "t:10").await;
    server.expect("3 m;key=k x").await;
    server.send("3 no;retry=100 busy").await;
    drop(server);
    let _server = greet(&mut net, "s:10").await;
    assert!(is_lost(&outcome(call).await));
}

/// [C23.1] Without a table, a key is not sent.
#[tokio::test(start_paused = true)]
async fn a_key_is_not_sent_to_a_server_without_a_table() {
    let (client, mut server, net) = connected("").await;
    for _ in 0..2 {
        let call = keyed(&client, "x");
        assert_eq!(outcome(call).await, Err(NotSent::NoKeys.into()));
        settle().await;
    }
    let publishing = client.publish("t", "x").key("k").await;
    assert_eq!(publishing, Err(NotSent::NoKeys.into()));
    server.expect_silence().await;
    drop((server, net));
    // The same for a call that waits for a connection.
    let (builder, mut net) = builder();
    let client = builder.connect_lazily();
    let call = keyed(&client, "x");
    settle().await;
    let mut server = greet(&mut net, "").await;
    assert_eq!(outcome(call).await, Err(NotSent::NoKeys.into()));
    server.expect_silence().await;
}

/// [C23.3] The first request may have run, whatever the second is answered.
#[tokio::test(start_paused = true)]
async fn a_repeat_that_is_refused_leaves_the_outcome_unknown() {
    for answer in ["2 no busy", "2 no key-mismatch", "2 no forbidden"] {
        for set in [WITH_KEY, IDEMPOTENT] {
            let (client, mut server, mut net) = connected("s:300").await;
            let call = call_as(&client, "x", set);
            server.line().await;
            drop(server);
            let mut server = greet(&mut net, "s:300").await;
            server.line().await;
            server.send(answer).await;
            assert!(is_lost(&outcome(call).await), "{answer}");
        }
    }
    // A failure is one of the first run.
    let (client, mut server, mut net) = connected("s:300").await;
    let call = keyed(&client, "x");
    server.line().await;
    drop(server);
    let mut server = greet(&mut net, "s:300").await;
    server.line().await;
    server.send("2 err sold out").await;
    let sold = Reason::new(Code::from_static("sold"), "out");
    assert_eq!(outcome(call).await, Err(CallError::Remote(sold)));
}

/// The deadline counts over all attempts. A call that was sent and cannot be sent again is unknown.
#[tokio::test(start_paused = true)]
async fn a_deadline_ends_repeats() {
    for set in [WITH_KEY, IDEMPOTENT] {
        let (client, mut server, mut net) = connected("s:300").await;
        let begun = Instant::now();
        let call = call_as(&client, "x", move |call| set(call).deadline(3 * SECOND));
        assert!(server.line().await.ends_with(";ttl=3000 x"));
        advance(SECOND).await;
        drop(server);
        let attempt = net.attempt().await;
        assert!(is_lost(&outcome(call).await));
        assert_eq!(begun.elapsed().as_secs(), 3);
        drop(attempt);
    }
}

/// A `cut` is the outcome of a keyed run. An idempotent call is sent again after `cut closing`,
/// because its server stopped.
#[tokio::test(start_paused = true)]
async fn what_a_cut_means() {
    let (client, mut server, mut net) = connected("s:300").await;
    let cut = |code| Err(CallError::Unknown(Unknown::Cut(Reason::new(code, ""))));
    let call = keyed(&client, "x");
    server.line().await;
    server.send("1 cut closing").await;
    assert_eq!(outcome(call).await, cut(Code::CLOSING));
    for (id, code) in [(2, Code::DEADLINE), (3, Code::LOST)] {
        let call = idempotent(&client, "x");
        server.line().await;
        server.send(&format!("{id} cut {code}")).await;
        assert_eq!(outcome(call).await, cut(code));
    }
    let call = idempotent(&client, "x");
    server.expect("4 m x").await;
    server.send("* /bye;last=4 shutdown\n4 cut closing").await;
    drop(server);
    let mut server = greet(&mut net, "").await;
    server.expect("5 m x").await;
    // Without a `/bye`, it waits for a while.
    let told = Instant::now();
    server.send("5 cut closing").await;
    server.expect("6 m x").await;
    assert!(told.elapsed() >= Duration::from_millis(25));
    server.send("6 ok").await;
    outcome(call).await.unwrap();
}

/// An idempotent call goes to any server, with or without keys.
#[tokio::test(start_paused = true)]
async fn an_idempotent_call_is_sent_again() {
    let (client, mut server, mut net) = connected("s:1").await;
    let plain = idempotent(&client, "x");
    let both = call_as(&client, "y", |call| call.key("k").idempotent());
    server.expect("1 m x").await;
    server.expect("2 m;key=k y").await;
    drop(server);
    let attempt = net.attempt().await;
    sleep(9 * SECOND).await;
    let mut server = attempt.accept(1 << 16);
    server.send(&hello("t:1")).await;
    server.expect("3 m x").await;
    server.expect("4 m;key=k y").await;
    server.send("3 ok a\n4 ok b").await;
    assert_eq!(outcome(plain).await.unwrap(), "a");
    assert_eq!(outcome(both).await.unwrap(), "b");
}

/// Calls that do not wait for a connection are not sent again, nor those of a client that closes.
#[tokio::test(start_paused = true)]
async fn impatient_calls_are_not_sent_again() {
    let (client, mut server, net) = connected("s:300").await;
    let impatient = call_as(&client, "x", |call| call.key("k").fail_fast());
    server.expect("1 m;key=k x").await;
    drop(server);
    assert!(is_lost(&outcome(impatient).await));
    drop(net);
    let (client, mut server, net) = connected("s:300").await;
    let call = keyed(&client, "x");
    server.expect("1 m;key=k x").await;
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close().await }
    });
    server.expect("2 /quit").await;
    drop(server);
    assert!(is_lost(&outcome(call).await));
    let _ = closing.await.unwrap();
    net.expect_over().await;
}

/// A call that is dropped while it waits to be sent again is not sent.
#[tokio::test(start_paused = true)]
async fn a_dropped_call_is_not_sent_again() {
    let (client, mut server, mut net) = connected("s:300").await;
    let call = keyed(&client, "x");
    server.expect("1 m;key=k x").await;
    drop(server);
    let attempt = net.attempt().await;
    call.abort();
    settle().await;
    let mut server = attempt.accept(1 << 16);
    server.send(&hello("s:300")).await;
    server.expect_silence().await;
    // Dropping it on the wire cancels, which leaves the run on the server.
    let call = keyed(&client, "x");
    server.expect("2 m;key=k x").await;
    call.abort();
    server.expect("* /cancel 2").await;
}

/// A key that cannot be written is not sent.
#[tokio::test(start_paused = true)]
async fn an_invalid_key_is_not_sent() {
    let (client, mut server, _net) = connected("s:300").await;
    let long = "k".repeat(256);
    for key in ["", "a b", "a;b", "\u{e9}", &long] {
        let outcome = client.call("m", "").key(key).await;
        assert!(matches!(outcome, Err(CallError::NotSent(NotSent::Attribute(_)))), "{key:?}");
    }
    server.expect_silence().await;
}

/// `/publish` and typed calls have the same options.
#[tokio::test(start_paused = true)]
async fn every_kind_of_call_may_have_a_key() {
    let (client, mut server, mut net) = connected("s:300").await;
    let publishing = tokio::spawn({
        let client = client.clone();
        async move { client.publish("t", "x").key("p").await }
    });
    server.expect("1 /publish;key=p t x").await;
    let again = tokio::spawn({
        let client = client.clone();
        async move { client.publish("t", "y").idempotent().await }
    });
    server.expect("2 /publish t y").await;
    let typed = tokio::spawn({
        let client = client.clone();
        async move { client.request::<_, u8>("m", &7).key("q").await }
    });
    server.expect("3 m;key=q 7").await;
    drop(server);
    let mut server = greet(&mut net, "s:300").await;
    for line in ["4 /publish;key=p t x", "5 /publish t y", "6 m;key=q 7"] {
        server.expect(line).await;
    }
    server.send("4 ok;epoch=e;seq=1\n5 ok;epoch=e;seq=3\n6 ok 8").await;
    assert_eq!(publishing.await.unwrap().unwrap().sequence, 1);
    assert_eq!(again.await.unwrap().unwrap().sequence, 3);
    assert_eq!(typed.await.unwrap(), Ok(8));
}

/// Both ends together: the replies are lost, and the handlers have run once.
#[tokio::test(start_paused = true)]
async fn a_key_runs_once_over_both_ends() {
    let (listener, connector) = memory::pair();
    let runs = Arc::new(AtomicU64::new(0));
    let router = Router::with_state(runs.clone()).method(
        "m",
        async |State(runs): State<Arc<AtomicU64>>, Json(by): Json<u64>| {
            Json(runs.fetch_add(by, Ordering::SeqCst))
        },
    );
    let server = Server::new(listener);
    let handle = server.handle();
    tokio::spawn(server.serve(router).into_future());
    let client = Client::builder().address("a").connector(connector).connect_lazily();
    let key = Key::random();
    for _ in 0..3 {
        assert_eq!(client.request::<_, u64>("m", &1).key(key).await, Ok(0));
        for session in handle.sessions() {
            session.close(Code::CLOSED);
        }
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    let refused = client.request::<_, u64>("m", &2).key(key).await;
    assert!(
        matches!(&refused, Err(CallError::Refused { reason, .. }) if reason.code == Code::KEY_MISMATCH),
        "{refused:?}"
    );
}
