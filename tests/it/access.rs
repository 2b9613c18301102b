//! Authentication and authorization: `/auth`, principals, the authorizer, and revocation.
// SECURITY.md, threats 18, 19 and 34.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, ConnectionError, Credentials, Delivery, PublishError,
    Published, Random, Router, Server, ServerConfig, ServerHandle, Session,
    protocol::{Code, Cursor, Reason, Topic, Window},
    server::{
        Action, Authenticator, Denied, Listener, PeerAddr, Principal, TokenAuthenticator, Verdict,
    },
    topic::{BoxFuture, MemoryTopics, Read, Room, TopicReader, TopicStore, Unavailable},
};
use bellwire_testkit::{PipeServer, RawPeer, slow_store};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::{Notify, Semaphore},
    time::{advance, sleep, timeout},
};

type Peer = RawPeer<DuplexStream>;

const TOKEN: Code = TokenAuthenticator::SCHEME;

fn tokens() -> TokenAuthenticator {
    TokenAuthenticator::new()
        .token("secret-a", Principal::new("a").with_value(1_u32))
        .token("secret-b", Principal::new("b").with_value(2_u32))
}

fn router() -> Router {
    Router::new()
        .method("echo", async |payload: Bytes| payload)
        .method("wait", async || std::future::pending::<()>().await)
        .method("whoami", async |who: Principal, session: Session| {
            assert_eq!(&who, session.principal());
            format!("{} {:?}", who.name().unwrap_or("nobody"), who.value::<u32>())
        })
}

fn guarded(config: ServerConfig) -> PipeServer {
    PipeServer::built(router(), |server| server.config(config).authenticator(tokens()))
}

/// The hello is read, and the peer is known as the holder of `token`.
async fn known(server: &PipeServer, token: &str) -> Peer {
    let mut peer = server.connect().await;
    peer.ask(format!("1 /auth token {token}\n"), "1 ok\n").await;
    peer
}

/// What never comes fails the test instead of stopping it: longer than any limit there is.
async fn soon<T>(event: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(120), event).await.expect("it comes")
}

/// The position in the next line, which answers a `/subscribe`.
async fn epoch(peer: &mut Peer) -> String {
    peer.attribute("epoch").await
}

// --- /auth ---

#[tokio::test(start_paused = true)]
async fn a_token_names_the_principal() {
    let server = guarded(ServerConfig::new().keys(0));
    let mut peer = server.connect_raw(1024);
    let hello = peer.hello().await;
    assert!(hello.ends_with(";lease=60;idle=120;auth=token\n"), "{hello}");
    peer.ask("1 whoami\n", "1 no unauthenticated\n").await;
    peer.ask("2 /auth token secret-b\n3 whoami\n", "2 ok\n3 ok b Some(2)\n").await;
    peer.ask("4 /auth token secret-a\n", "4 no out-of-order authenticated already\n").await;
    peer.ask("5 whoami\n", "5 ok b Some(2)\n").await;
}

#[tokio::test(start_paused = true)]
async fn clients_are_anonymous_without_an_authenticator() {
    let server = PipeServer::start(router());
    let mut peer = server.connect().await;
    peer.ask("1 whoami\n", "1 ok nobody None\n").await;
    let unknown = "no unknown-method no method \"/auth\"; ask /methods\n";
    peer.ask("2 /auth token x\n", format!("2 {unknown}")).await;
}

/// What one method does, in one form, in each state of a connection.
struct Row {
    /// The line; its id, if it has one, is 10.
    line: &'static str,
    /// The first line that comes back: a beginning. Empty for silence.
    before: &'static str,
    after: &'static str,
    drawn: &'static str,
}

/// SECURITY.md, threat 19: a table of every method and every state. In the last one, finishing,
/// nothing is obeyed.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    Row { line: "10 echo x", before: "10 no unauthenticated", after: "10 ok x", drawn: "10 no closing" },
    Row { line: "* echo x", before: "", after: "", drawn: "" },
    Row { line: "10 nosuch", before: "10 no unauthenticated", after: "10 no unknown-method", drawn: "10 no closing" },
    Row { line: "* nosuch", before: "", after: "* /error unknown-method", drawn: "" },
    Row { line: "10 /hello;version=1", before: "10 ok;version=1", after: "10 no out-of-order", drawn: "10 no out-of-order" },
    Row { line: "* /hello;version=1", before: "* /error bad-form", after: "* /error bad-form", drawn: "* /error bad-form" },
    Row { line: "10 /auth token secret-a", before: "10 ok", after: "10 no out-of-order", drawn: "10 no out-of-order" },
    Row { line: "10 /auth token wrong", before: "10 no unauthenticated", after: "10 no out-of-order", drawn: "10 no out-of-order" },
    Row { line: "* /auth token secret-a", before: "* /error bad-form", after: "* /error bad-form", drawn: "* /error bad-form" },
    Row { line: "10 /subscribe t", before: "10 no unauthenticated", after: "10 ok;epoch=", drawn: "10 no closing" },
    Row { line: "10 /subscribe;from=e:1 t", before: "10 no unauthenticated", after: "10 ok;epoch=", drawn: "10 no closing" },
    Row { line: "* /subscribe t", before: "", after: "* /error bad-form", drawn: "* /error bad-form" },
    Row { line: "10 /unsubscribe t", before: "10 no unauthenticated", after: "10 no not-subscribed", drawn: "10 no not-subscribed" },
    Row { line: "* /unsubscribe t", before: "", after: "* /error bad-form", drawn: "* /error bad-form" },
    Row { line: "10 /renew", before: "10 no unauthenticated", after: "10 ok;lease=60", drawn: "10 ok;lease=60" },
    Row { line: "* /renew", before: "", after: "* /error bad-form", drawn: "* /error bad-form" },
    Row { line: "10 /publish t x", before: "10 no unauthenticated", after: "10 ok;epoch=", drawn: "10 no closing" },
    Row { line: "* /publish t x", before: "", after: "* /error bad-form", drawn: "* /error bad-form" },
    Row { line: "10 /methods", before: "10 no unauthenticated", after: "10 more echo", drawn: "10 more echo" },
    Row { line: "* /methods", before: "", after: "* /error bad-form", drawn: "* /error bad-form" },
    Row { line: "* /cancel 7", before: "", after: "", drawn: "" },
    Row { line: "10 /cancel 7", before: "10 no unauthenticated", after: "10 no bad-form", drawn: "10 no bad-form" },
    Row { line: "10 /quit", before: "10 ok", after: "10 ok", drawn: "2 cut closing" },
    Row { line: "* /quit", before: "* /error bad-form", after: "* /error bad-form", drawn: "* /error bad-form" },
    Row { line: "10 /nosuch", before: "10 no unauthenticated", after: "10 no unknown-method", drawn: "10 no unknown-method" },
    Row { line: "* /nosuch", before: "", after: "* /error unknown-method", drawn: "* /error unknown-method" },
    // Whatever they are in this version, a stranger may not use them.
    Row { line: "10 /ack t e:1", before: "10 no unauthenticated", after: "10 ", drawn: "10 " },
    Row { line: "* /more 7 1", before: "", after: "?", drawn: "?" },
    Row { line: "10 ok", before: "10 no malformed", after: "10 no malformed", drawn: "10 no malformed" },
    Row { line: "not a line", before: "* /error malformed", after: "* /error malformed", drawn: "* /error malformed" },
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Before,
    After,
    Drawn,
    Finishing,
}

/// [S19.1] Each method before authentication, after it, behind the final `/bye`, and while the
/// connection finishes. SECURITY.md, threat 19.
#[tokio::test(start_paused = true)]
async fn each_protocol_method_is_answered_by_connection_state() {
    for row in TABLE {
        for state in [State::Before, State::After, State::Drawn, State::Finishing] {
            let expected = match state {
                State::Before => row.before,
                State::After => row.after,
                State::Drawn => row.drawn,
                State::Finishing => "",
            };
            let found = in_state(state, row.line).await;
            let is_right = match expected {
                "?" => true,
                "" => found.is_empty(),
                beginning => found.starts_with(beginning),
            };
            assert!(is_right, "{state:?}, {}: {found:?}, not {expected:?}", row.line);
        }
    }
}

/// What a connection in `state` first writes upon `line`, which is not its first.
async fn in_state(state: State, line: &str) -> String {
    let mut server = guarded(ServerConfig::new().allow_publish(true));
    let mut peer = match (state, line.contains("/hello")) {
        // A stranger's `/hello` has to be its first line.
        (State::Before, true) => server.connect().await,
        (State::Before, false) => {
            let mut peer = server.connect().await;
            peer.ask("1 /hello;version=1\n", "1 ok;version=1\n").await;
            peer
        }
        _ => known(&server, "secret-a").await,
    };
    match state {
        State::Before | State::After => {}
        State::Drawn => {
            peer.send("2 wait\n").await;
            peer.expect_silence().await;
            server.stop();
            peer.expect("* /bye shutdown\n* /bye;last=2 shutdown\n").await;
        }
        State::Finishing => {
            peer.send("2 wait\n3 /quit\n").await;
            peer.expect_silence().await;
        }
    }
    peer.send(format!("{line}\n")).await;
    // Drawn and quitting: the handler that runs is answered first, when the drain is over.
    let patience = if (state, line) == (State::Drawn, "10 /quit") { 31 } else { 1 };
    let found = timeout(Duration::from_secs(patience), peer.line()).await;
    found.ok().flatten().unwrap_or_default()
}

/// Credentials that an attacker may guess; none of them is valid.
const GUESSES: &[&str] = &[
    "touch x",
    "touch;ttl=5 x",
    "/subscribe t",
    "/subscribe;from=e:1 t",
    "/publish t x",
    "/renew",
    "/methods",
    "/unsubscribe t",
    "/hello;version=1",
    "/auth token guess",
    "/auth x",
    "/auth other secret-a",
    "/auth Token secret-a",
    "/auth  token secret-a",
    "/auth;a.b=c token secret-b ",
    "/nosuch",
    "\u{10}touch",
];

/// A stranger's lines, and how many of them are requests.
fn guesses(random: &Random) -> (String, usize) {
    let (mut lines, mut requests) = ("1 /renew\n".to_owned(), 1);
    for id in 2..40 {
        let guess = GUESSES[random.next_u64() as usize % GUESSES.len()];
        let is_request = random.next_u64() & 3 > 0;
        requests += usize::from(is_request);
        let mark = if is_request { id.to_string() } else { "*".to_owned() };
        lines += &format!("{mark} {guess}\n");
    }
    (lines, requests)
}

/// A server that counts what it does.
fn counting(done: &Arc<AtomicUsize>) -> PipeServer {
    let (started, asked) = (done.clone(), done.clone());
    let router = Router::new().method("touch", move || {
        started.fetch_add(1, Ordering::Relaxed);
        async {}
    });
    let config = ServerConfig::new().allow_publish(true).auth_tries(1_000).violations(1_000);
    let ask = move |_: &Principal, _: Action<'_>| {
        asked.fetch_add(1, Ordering::Relaxed);
        true
    };
    PipeServer::built(router, |server| {
        server.config(config).authenticator(tokens()).authorizer(ask)
    })
}

/// Whatever an unauthenticated peer sends, in whatever pieces: nothing is run, published or opened
/// for it, and each of its requests is refused once. SECURITY.md, threat 19.
#[tokio::test(start_paused = true)]
async fn unauthenticated_requests_have_no_effect() {
    for seed in 0..200 {
        let (random, done) = (Random::seeded(seed), Arc::new(AtomicUsize::new(0)));
        let (lines, requests) = guesses(&random);
        let server = counting(&done);
        let mut peer = server.connect().await;
        send_in_pieces(&mut peer, lines.as_bytes(), &random).await;
        let mut answers = String::new();
        peer.io.read_to_string(&mut answers).await.expect("read");
        let answers: Vec<_> = answers.lines().filter(|line| !line.starts_with('*')).collect();
        assert_eq!(answers.len(), requests, "{lines}{answers:?}");
        assert!(answers.iter().all(|line| line.split(' ').nth(1) == Some("no")), "{answers:?}");
        assert_eq!(done.load(Ordering::Relaxed), 0, "{lines}");
    }
}

/// Sends `bytes` in pieces, then the end.
async fn send_in_pieces(peer: &mut Peer, mut bytes: &[u8], random: &Random) {
    while !bytes.is_empty() {
        let length = (random.next_u64() as usize % 60 + 1).min(bytes.len());
        let (piece, left) = bytes.split_at(length);
        peer.send(piece).await;
        tokio::task::yield_now().await;
        bytes = left;
    }
    peer.half_close().await;
}

/// [S19.2] While the authenticator runs, the server processes nothing behind `/auth`.
#[tokio::test(start_paused = true)]
async fn lines_behind_auth_are_not_processed_until_it_is_answered() {
    let gate = Slow::default();
    let slow = gate.clone();
    let server = PipeServer::built(router(), |server| server.authenticator(slow));
    let mut peer = server.connect().await;
    peer.send("1 /auth slow x\n2 whoami\n\n* nosuch\n3 /renew\n").await;
    peer.expect_silence().await;
    let mut other = server.connect().await;
    other.ask("1 /quit\n", "1 ok\n").await;
    gate.0.add_permits(1);
    let malformed = "* /error malformed byte 0: empty line\n";
    let unknown = "* /error unknown-method no method \"nosuch\"; ask /methods\n";
    peer.expect(format!("1 ok\n2 ok slow None\n{malformed}{unknown}3 ok;lease=60\n")).await;
    // What comes later is read too: the reading was not forgotten.
    peer.ask("4 whoami\n", "4 ok slow None\n").await;
}

/// Answers with a permit.
#[derive(Clone)]
struct Slow(Arc<Semaphore>);

impl Default for Slow {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }
}

impl Authenticator for Slow {
    fn schemes(&self) -> Vec<Code> {
        vec![Code::from_static("slow"), Code::from_static("other")]
    }

    fn authenticate(
        &self,
        scheme: &Code,
        _: Credentials,
        _: &PeerAddr,
    ) -> BoxFuture<Result<Principal, Denied>> {
        let (gate, name) = (self.0.clone(), scheme.to_string());
        Box::pin(async move {
            gate.acquire().await.expect("never closed").forget();
            Ok(Principal::new(name))
        })
    }
}

/// [S19.3] One millisecond below the limit, and at the limit.
#[tokio::test(start_paused = true)]
async fn an_unauthenticated_peer_is_closed_after_ten_seconds() {
    let server = guarded(ServerConfig::new());
    let mut late = server.connect().await;
    let mut peer = server.connect().await;
    peer.ask("1 /auth token wrong\n", "1 no unauthenticated\n").await;
    advance(Duration::from_millis(9_990)).await;
    // Neither lines nor failed attempts extend the time.
    late.ask("1 /hello;version=1\n", "1 ok;version=1\n").await;
    peer.ask("2 /auth token secret-a\n", "2 ok\n").await;
    advance(Duration::from_millis(20)).await;
    late.expect("* /bye;last=0 unauthenticated\n").await;
    late.expect_closed().await;
    advance(Duration::from_secs(1)).await;
    peer.ask("3 whoami\n", "3 ok a Some(1)\n").await;
}

#[tokio::test(start_paused = true)]
async fn auth_time_is_configurable() {
    let server = guarded(ServerConfig::new().auth_time(Duration::from_secs(2)));
    let mut peer = server.connect().await;
    advance(Duration::from_millis(1_980)).await;
    peer.ask("1 /renew\n", "1 no unauthenticated\n").await;
    advance(Duration::from_millis(40)).await;
    peer.expect("* /bye;last=0 unauthenticated\n").await;
    peer.expect_closed().await;
}

/// An authenticator that never ends affects only its own connection, and only until `auth_time` is
/// over.
#[tokio::test(start_paused = true)]
async fn a_hanging_authenticator_is_timed_out() {
    let server = PipeServer::built(router(), |server| server.authenticator(Slow::default()));
    let mut peer = server.connect().await;
    peer.send("1 /auth slow x\n2 whoami\n").await;
    advance(Duration::from_secs(9)).await;
    peer.expect_silence().await;
    advance(Duration::from_millis(1_010)).await;
    peer.expect("1 no busy\n* /bye;last=0 unauthenticated\n").await;
    peer.expect_closed().await;
}

/// [S19.4] Two refusals are tolerated, and the third ends the connection. A well-formed `/auth`
/// with an unknown scheme counts, too.
#[tokio::test(start_paused = true)]
async fn the_third_refused_auth_closes_the_connection() {
    let server = guarded(ServerConfig::new());
    let mut twice = server.connect().await;
    let refused = "1 no unauthenticated\n2 no unauthenticated no such scheme\n3 ok\n";
    twice.ask("1 /auth token x\n2 /auth other x\n3 /auth token secret-a\n", refused).await;
    let mut peer = server.connect().await;
    let usage = "2 no bad-arguments usage: /auth SCHEME CREDENTIALS\n";
    peer.ask("1 /auth token x\n2 /auth token\n", format!("1 no unauthenticated\n{usage}")).await;
    let last = "3 no unknown-attribute x\n* /bye;last=0 unauthenticated\n";
    peer.ask("3 /auth;x=1 token secret-a\n4 /auth token secret-a\n", last).await;
    peer.expect_closed().await;
}

#[tokio::test(start_paused = true)]
async fn auth_tries_is_configurable() {
    let server = guarded(ServerConfig::new().auth_tries(1));
    let mut peer = server.connect().await;
    let last = "1 no unauthenticated\n* /bye;last=0 unauthenticated\n";
    peer.ask("1 /auth token x\n", last).await;
    peer.expect_closed().await;
}

struct Broken;

impl Authenticator for Broken {
    fn schemes(&self) -> Vec<Code> {
        ["at-once", "later", "unavailable", "unavailable-for", "dropped"]
            .map(Code::from_static)
            .into()
    }

    fn authenticate(
        &self,
        scheme: &Code,
        _: Credentials,
        _: &PeerAddr,
    ) -> BoxFuture<Result<Principal, Denied>> {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("when dropped");
            }
        }
        match scheme.as_str() {
            "at-once" => panic!("at once"),
            "later" => Box::pin(async { panic!("later") }),
            "unavailable" => Box::pin(async { Err(Denied::Unavailable) }),
            "unavailable-for" => {
                Box::pin(async { Err(Denied::UnavailableFor(Duration::from_secs(2))) })
            }
            _ => {
                let bomb = Bomb;
                Box::pin(async move {
                    std::future::pending::<()>().await;
                    drop(bomb);
                    Ok(Principal::anonymous())
                })
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_undecided_authenticator_is_answered_busy() {
    let server = PipeServer::built(router(), |server| server.authenticator(Broken));
    let mut peer = server.connect().await;
    peer.ask("1 /auth at-once x\n", "1 no busy\n").await;
    peer.ask("2 /auth later x\n", "2 no busy\n").await;
    peer.ask("3 /auth unavailable x\n", "3 no busy\n* /bye;last=0 unauthenticated\n").await;
    peer.expect_closed().await;
    let mut peer = server.connect().await;
    peer.ask("1 /auth unavailable-for x\n", "1 no;retry=2000 busy\n").await;
    peer.ask("2 /quit\n", "2 ok\n").await;
    let mut peer = server.connect().await;
    peer.send("1 /auth dropped x\n").await;
    peer.expect_silence().await;
    advance(Duration::from_secs(11)).await;
    peer.expect("1 no busy\n* /bye;last=0 unauthenticated\n").await;
    // Its future is dropped with the connection, too.
    let mut peer = server.connect().await;
    peer.send("1 /auth dropped x\n").await;
    peer.expect_silence().await;
    drop(peer);
    let mut peer = server.connect().await;
    peer.ask("1 /quit\n", "1 ok\n").await;
}

/// [S19.5] The limit counts the LF, and ends with `/auth`.
#[tokio::test(start_paused = true)]
async fn lines_before_auth_have_a_shorter_limit() {
    let server = guarded(ServerConfig::new());
    let mut peer = server.connect().await;
    let at =
        |length: usize, begin: &str| format!("{begin}{}\n", "x".repeat(length - begin.len() - 1));
    peer.ask("1 /renew\n", "1 no unauthenticated\n").await;
    peer.ask(at(8_192, "2 /auth token "), "2 no unauthenticated\n").await;
    let mut over = server.connect().await;
    over.ask("1 /renew\n", "1 no unauthenticated\n").await;
    over.ask(at(8_193, "2 /auth token "), "* /error line-too-long max-line is 8192\n").await;
    over.expect_closed().await;
    // In one piece with the line that is short.
    let long = at(9_000, "4 echo ");
    peer.send(format!("3 /auth token secret-a\n{long}")).await;
    peer.expect("3 ok\n").await;
    assert_eq!(peer.line().await.map(|line| line.len()), Some(9_000 - "echo".len() + "ok".len()));
    let server = guarded(ServerConfig::new().max_line_before_auth(1));
    let mut small = server.connect().await;
    small.ask("1 /renew\n", "1 no unauthenticated\n").await;
    small.ask(at(1_025, "2 /auth token "), "* /error line-too-long max-line is 1024\n").await;
}

/// An unauthenticated peer gets the same grace as every other peer.
#[tokio::test(start_paused = true)]
async fn an_unauthenticated_peer_does_not_delay_a_drain() {
    let mut server = guarded(ServerConfig::new());
    let mut peer = server.connect().await;
    server.stop();
    peer.expect("* /bye shutdown\n* /bye;last=0 shutdown\n").await;
    peer.expect_closed().await;
}

// --- the authoriser ---

/// `a` may what begins with `a`, `b` what begins with `b`.
fn by_first_letter(who: &Principal, action: Action<'_>) -> bool {
    let name = match action {
        Action::Call(name) | Action::Subscribe(name) | Action::Publish(name) => name,
        _ => return false,
    };
    who.name().is_some_and(|who| name.starts_with(who))
}

fn lettered() -> PipeServer {
    let router = Router::new()
        .method("a.echo", async |payload: Bytes| payload)
        .method("b.echo", async |payload: Bytes| payload);
    PipeServer::built(router, |server| server.authenticator(tokens()).authorizer(by_first_letter))
}

/// [S19.6]
#[tokio::test(start_paused = true)]
async fn denied_requests_are_answered_forbidden() {
    let server = lettered();
    let mut a = known(&server, "secret-a").await;
    a.ask("2 a.echo x\n3 b.echo x\n", "2 ok x\n3 no forbidden\n").await;
    a.ask("* a.echo x\n* b.echo x\n", "* /error forbidden\n").await;
    a.ask("4 /subscribe b\n5 /publish b x\n", "4 no forbidden\n5 no forbidden\n").await;
    // Only the authoriser decides: the configuration allows no publish.
    a.send("6 /subscribe a\n7 /publish a x\n").await;
    let epoch = epoch(&mut a).await;
    a.expect(format!("7 ok;epoch={epoch};seq=1\n* a 1 x\n")).await;
    // An unknown method is reported first, as in docs/protocol/calls.md, section 12.
    a.ask("8 nosuch\n", "8 no unknown-method no method \"nosuch\"; ask /methods\n").await;
}

/// [S19.7] Neither of two clients gets messages of the other, live or replayed. SECURITY.md, threat
/// 18.
#[tokio::test(start_paused = true)]
async fn clients_receive_only_their_own_topics() {
    let server = lettered();
    for round in 1..=3 {
        for topic in ["a", "b"] {
            let payload = format!("for-{topic}-only-{round}");
            server.publisher.publish(topic, payload).await.expect("published");
        }
    }
    let mut seen = HashMap::new();
    for (me, other) in [("a", "b"), ("b", "a")] {
        let mut peer = known(&server, &format!("secret-{me}")).await;
        // Replay of the other's: as if resumed, with a position that was guessed, and from now on.
        peer.ask(format!("2 /subscribe;from=guess:1 {other}\n"), "2 no forbidden\n").await;
        peer.ask(format!("3 /subscribe {other}\n"), "3 no forbidden\n").await;
        peer.send(format!("4 /subscribe;from=gone:1 {me}\n")).await;
        let epoch = epoch(&mut peer).await;
        for round in 1..=3 {
            peer.expect(format!("* {me} {round} for-{me}-only-{round}\n")).await;
        }
        // A position of one's own topic does not open the other's.
        peer.ask(format!("5 /subscribe;from={epoch}:1 {other}\n"), "5 no forbidden\n").await;
        seen.insert(me, peer);
    }
    for topic in ["a", "b"] {
        server.publisher.publish(topic, format!("for-{topic}-only-4")).await.expect("published");
    }
    for (me, mut peer) in seen {
        peer.expect(format!("* {me} 4 for-{me}-only-4\n")).await;
        peer.expect_silence().await;
    }
}

/// [S19.7] A resume needs a new authorization, though the first subscribe was allowed.
#[tokio::test(start_paused = true)]
async fn each_resume_is_authorized_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = PipeServer::built(router(), |server| {
        server.authorizer(move |_: &Principal, action: Action<'_>| {
            let is_second =
                action == Action::Subscribe("t") && count.fetch_add(1, Ordering::Relaxed) > 0;
            !is_second
        })
    });
    server.publisher.publish("t", "first").await.expect("published");
    let mut peer = server.connect().await;
    peer.send("1 /subscribe t\n").await;
    let epoch = epoch(&mut peer).await;
    peer.ask("2 /unsubscribe t\n", format!("2 ok;next={epoch}:2\n")).await;
    peer.ask(format!("3 /subscribe;from={epoch}:1 t\n"), "3 no forbidden\n").await;
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    peer.expect_silence().await;
}

/// Says yes to a name when a permit for it is there; methods and topics that end in `-now`, at once.
#[derive(Clone, Default)]
struct Gates {
    gates: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    asked: Arc<AtomicUsize>,
}

impl Gates {
    fn of(&self, name: &str) -> Arc<Semaphore> {
        let gate = || Arc::new(Semaphore::new(0));
        self.gates.lock().unwrap().entry(name.to_owned()).or_insert_with(gate).clone()
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }

    fn allow(&self, name: &str) {
        self.of(name).add_permits(1);
    }

    fn deny(&self, name: &str) {
        self.of(name).close();
    }

    fn authorizer(&self) -> impl Fn(&Principal, Action<'_>) -> Verdict + Send + Sync + use<> {
        let gates = self.clone();
        move |_, action| {
            gates.asked.fetch_add(1, Ordering::Relaxed);
            let (Action::Call(name) | Action::Subscribe(name) | Action::Publish(name)) = action
            else {
                return Verdict::Deny;
            };
            let gate = gates.of(name);
            match name {
                name if name.ends_with("-now") => Verdict::Allow,
                "panic" => panic!("as it is told to"),
                "panic-later" => Verdict::later(async { panic!("as it is told to") }),
                _ => Verdict::later(async move {
                    gate.acquire().await.map(|permit| permit.forget()).is_ok()
                }),
            }
        }
    }

    fn server(&self, config: ServerConfig) -> PipeServer {
        let router = Router::new()
            .method("slow", async |payload: Bytes| payload)
            .method("other", async || "other")
            .method("echo-now", async |payload: Bytes| payload)
            .method("wait-now", async || std::future::pending::<()>().await)
            .method("panic", async || ())
            .method("panic-later", async || ())
            .method("wait", async || std::future::pending::<()>().await);
        PipeServer::built(router, |server| server.config(config).authorizer(self.authorizer()))
    }
}

/// [S19.8] A call that waits for its authorization delays no other. It keeps its payload and takes
/// a place in flight.
#[tokio::test(start_paused = true)]
async fn a_pending_authorization_delays_only_its_call() {
    let gates = Gates::default();
    let server = gates.server(ServerConfig::new().in_flight(2));
    let mut peer = server.connect().await;
    peer.ask("1 slow \u{10}Jx\n2 echo-now y\n3 /renew\n", "2 ok y\n3 ok;lease=60\n").await;
    // Two places: one is taken by the call that waits, one by the next; the third is not read.
    peer.send("4 wait-now\n5 echo-now z\n").await;
    peer.expect_silence().await;
    gates.allow("slow");
    peer.expect("1 ok \u{10}Jx\n5 ok z\n").await;
    gates.deny("other");
    peer.ask("6 other\n* other\n", "6 no forbidden\n* /error forbidden\n").await;
}

/// [S19.8] [S3.14] [S3.15] A call that was not allowed was not started.
#[tokio::test(start_paused = true)]
async fn a_call_awaiting_authorization_counts_as_not_started() {
    let gates = Gates::default();
    let mut server = gates.server(ServerConfig::new().drain(Duration::from_secs(1)));
    let mut peer = server.connect().await;
    peer.send("1 slow x\n2 slow;ttl=50 x\n* slow x\n").await;
    peer.expect_silence().await;
    peer.ask("* /cancel 1\n", "1 no cancelled\n").await;
    advance(Duration::from_millis(60)).await;
    peer.expect("2 no deadline\n").await;
    peer.send("3 slow x\n4 wait-now\n").await;
    peer.expect_silence().await;
    server.stop();
    peer.expect("* /bye shutdown\n* /bye;last=4 shutdown\n").await;
    advance(Duration::from_millis(1_010)).await;
    let mut last = [peer.line().await, peer.line().await].map(|line| line.expect("a line"));
    last.sort();
    assert_eq!(last, ["3 no closing\n", "4 cut closing\n"]);
    peer.expect_closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_started_after_authorization_is_cut_normally() {
    let gates = Gates::default();
    let server = gates.server(ServerConfig::new());
    let mut peer = server.connect().await;
    peer.send("1 wait\n").await;
    peer.expect_silence().await;
    gates.allow("wait");
    peer.expect_silence().await;
    peer.ask("* /cancel 1\n", "1 cut cancelled\n").await;
}

/// [S19.9] [S3.12] Protocol methods keep their order, however long an authorization takes. Calls go
/// on.
#[tokio::test(start_paused = true)]
async fn protocol_methods_stay_in_order_behind_pending_authorization() {
    let gates = Gates::default();
    let server = gates.server(ServerConfig::new());
    let mut peer = server.connect().await;
    peer.send("1 slow x\n2 /subscribe t\n3 /renew\n4 echo-now y\n").await;
    peer.expect("4 ok y\n").await;
    peer.expect_silence().await;
    // What was started goes on meanwhile, and does not make the question be asked again.
    gates.allow("slow");
    peer.expect("1 ok x\n").await;
    assert_eq!(gates.asked(), 3);
    gates.allow("t");
    let epoch = epoch(&mut peer).await;
    peer.expect(format!("3 ok;lease=60 t:{epoch}:1\n")).await;
    peer.send("5 /publish t one\n6 /publish now-t-now two\n").await;
    peer.expect_silence().await;
    assert_eq!(gates.asked(), 1, "a /publish");
    gates.allow("t");
    peer.expect(format!("5 ok;epoch={epoch};seq=1\n")).await;
    assert!(peer.line().await.is_some_and(|line| line.starts_with("6 ok;epoch=")));
    peer.expect("* t 1 one\n").await;
    gates.deny("t");
    peer.ask(
        "7 /publish t three\n8 /renew\n",
        format!("7 no forbidden\n8 ok;lease=60 t:{epoch}:2\n"),
    )
    .await;
}

/// [S19.9] [S19.13] While a `/subscribe` waits, later application requests and one-way lines are
/// obeyed. A `/renew` restarts the lease before it is answered, and the client learns that it has
/// to wait.
#[tokio::test(start_paused = true)]
async fn a_pending_subscribe_delays_only_protocol_requests() {
    let gates = Gates::default();
    let server = gates.server(ServerConfig::new().lease(Duration::from_secs(12)));
    let mut peer = server.connect().await;
    peer.send("1 /subscribe now-t-now\n").await;
    let epoch = epoch(&mut peer).await;
    peer.send("2 wait-now\n3 /subscribe t\n4 echo-now y\n* /cancel 2\n").await;
    peer.expect("4 ok y\n2 cut cancelled\n").await;
    advance(Duration::from_secs(8)).await;
    peer.expect_silence().await;
    peer.send("5 /renew\n").await;
    advance(Duration::from_millis(4_990)).await;
    peer.expect_silence().await;
    advance(Duration::from_millis(20)).await;
    peer.expect("* /hold\n").await;
    server.publisher.publish("now-t-now", "x").await.unwrap();
    peer.expect("* now-t-now 1 x\n").await;
    gates.allow("t");
    peer.expect(format!("3 ok;epoch={epoch};next=1;head=0;lease=12\n")).await;
    peer.expect(format!("5 ok;lease=12 now-t-now:{epoch}:2 t:{epoch}:1\n")).await;
    advance(Duration::from_secs(11)).await;
    peer.expect_silence().await;
    advance(Duration::from_millis(1_020)).await;
    peer.expect(format!("* /end now-t-now expired {epoch}:2\n")).await;
}

/// The end of the lines waits behind a `/subscribe`, too.
#[tokio::test(start_paused = true)]
async fn a_half_close_waits_for_a_pending_subscribe() {
    let gates = Gates::default();
    let server = gates.server(ServerConfig::new());
    let mut peer = server.connect().await;
    peer.send("1 /subscribe t\n2 /renew\n3 echo-now a\n").await;
    peer.expect("3 ok a\n").await;
    peer.io.shutdown().await.unwrap();
    peer.expect_silence().await;
    gates.allow("t");
    let epoch = epoch(&mut peer).await;
    peer.expect(format!("2 ok;lease=60 t:{epoch}:1\n")).await;
    peer.expect_closed().await;
}

/// [S12.9] Protocol requests that wait count against the bound for waiting lines. At the bound the
/// server stops reading.
#[tokio::test(start_paused = true)]
async fn requests_waiting_behind_a_subscribe_are_bounded() {
    let gates = Gates::default();
    let server = gates.server(ServerConfig::new().parked_bytes(100));
    let mut peer = server.connect().await;
    peer.send("1 /subscribe t\n2 /renew\n3 /renew\n4 /renew\n5 echo-now a\n").await;
    peer.expect_silence().await;
    advance(Duration::from_millis(5_010)).await;
    peer.expect("* /hold\n").await;
    gates.allow("t");
    let epoch = epoch(&mut peer).await;
    for id in 2..=4 {
        peer.expect(format!("{id} ok;lease=60 t:{epoch}:1\n")).await;
    }
    peer.expect("5 ok a\n").await;
}

/// A connection that ends before a `/subscribe` is authorized refuses it and everything that waits
/// behind it.
#[tokio::test(start_paused = true)]
async fn a_rejected_connection_answers_waiting_requests() {
    let gates = Gates::default();
    let server = gates.server(ServerConfig::new().violations(0));
    let mut peer = server.connect().await;
    peer.send("1 /subscribe t\n2 /renew\n\n").await;
    peer.expect("* /error malformed byte 0: empty line\n* /bye;last=2 violations\n").await;
    peer.expect("1 no busy\n2 no busy\n").await;
    peer.expect_closed().await;
    let mut peer = server.connect().await;
    peer.send("1 /subscribe t\n2 /quit\n3 /renew\n").await;
    peer.expect_silence().await;
    gates.allow("t");
    epoch(&mut peer).await;
    peer.expect("2 ok\n").await;
    peer.expect_closed().await;
}

/// With every place in flight taken, the server still decides on protocol methods.
#[tokio::test(start_paused = true)]
async fn authorization_of_a_protocol_method_needs_no_place() {
    let gates = Gates::default();
    let server = gates.server(ServerConfig::new().in_flight(1));
    let mut peer = server.connect().await;
    peer.send("1 wait-now\n2 /subscribe t\n").await;
    peer.expect_silence().await;
    gates.allow("t");
    assert!(peer.line().await.is_some_and(|line| line.starts_with("2 ok;")));
    peer.ask("3 /renew\n", format!("3 ok;lease=60 t:{}:1\n", position(&server).await)).await;
}

async fn position(server: &PipeServer) -> String {
    server.publisher.publish("t", "").await.expect("published").epoch.to_string()
}

/// [S19.10] An authorizer that panics, exceeds the handler time, or reports that it cannot decide:
/// this is not a denial.
#[tokio::test(start_paused = true)]
async fn an_undecided_authorizer_is_answered_busy() {
    let gates = Gates::default();
    let server = gates.server(ServerConfig::new());
    let mut peer = server.connect().await;
    peer.ask("1 panic\n2 panic-later\n", "1 no busy\n2 no busy\n").await;
    peer.ask("* panic\n* panic-later\n", "* /error busy\n* /error busy\n").await;
    peer.ask("3 /subscribe panic\n", "3 no busy\n").await;
    peer.ask("4 /subscribe panic-later\n", "4 no busy\n").await;
    peer.ask("5 /publish panic-later x\n", "5 no busy\n").await;
    peer.send("6 /subscribe never\n7 echo-now x\n").await;
    peer.expect("7 ok x\n").await;
    peer.expect_silence().await;
    let mut other = server.connect().await;
    other.ask("1 echo-now y\n", "1 ok y\n").await;
    advance(Duration::from_millis(29_000)).await;
    peer.expect_silence().await;
    advance(Duration::from_millis(1_010)).await;
    peer.expect("6 no busy\n").await;
    peer.send("8 /publish never x\n9 slow x\n").await;
    peer.expect_silence().await;
    advance(Duration::from_millis(30_010)).await;
    peer.expect("8 no busy\n").await;
    peer.expect_silence().await;
    advance(Duration::from_millis(30_010)).await;
    peer.expect("9 no deadline\n").await;
}

/// [S19.10] The reply has the authorizer's retry hint.
#[tokio::test(start_paused = true)]
async fn an_authorizer_may_give_a_retry_hint() {
    let router = Router::new().method("now", async || ()).method("later", async || ());
    let allow = |_: &Principal, action: Action<'_>| {
        let unavailable = || Verdict::Unavailable { retry: Some(Duration::from_millis(250)) };
        match action {
            Action::Call("now") | Action::Subscribe("now") | Action::Publish("now") => {
                unavailable()
            }
            _ => Verdict::ask(async move { unavailable() }),
        }
    };
    let server = PipeServer::built(router, |server| server.authorizer(allow));
    let mut peer = server.connect().await;
    for (id, line) in (1..).zip(["now", "later", "/subscribe now", "/subscribe later"]) {
        peer.ask(format!("{id} {line}\n"), format!("{id} no;retry=250 busy\n")).await;
    }
    peer.ask("5 /publish now x\n", "5 no;retry=250 busy\n").await;
    peer.ask("6 /publish later x\n", "6 no;retry=250 busy\n").await;
    peer.ask("* now\n* later\n7 /renew\n", "* /error busy\n* /error busy\n").await;
    peer.expect("7 ok;lease=60\n").await;
}

// --- taking back ---

/// A server, and the sessions it has.
fn watched(router: Router) -> (PipeServer, ServerHandle) {
    let mut handle = None;
    let server = PipeServer::built(router, |server| {
        handle = Some(server.handle());
        server.authenticator(tokens())
    });
    (server, handle.expect("built"))
}

fn only(sessions: Vec<Session>) -> Session {
    assert_eq!(sessions.len(), 1);
    sessions.into_iter().next().expect("one")
}

/// [S19.11]
#[tokio::test(start_paused = true)]
async fn a_revoked_subscription_ends_at_once() {
    let (server, handle) = watched(router());
    let mut a = known(&server, "secret-a").await;
    let mut b = known(&server, "secret-b").await;
    for peer in [&mut a, &mut b] {
        peer.send("2 /subscribe t\n3 /subscribe u\n").await;
    }
    let (t, u) = (epoch(&mut a).await, epoch(&mut a).await);
    epoch(&mut b).await;
    epoch(&mut b).await;
    server.publisher.publish("t", "one").await.expect("published");
    a.expect("* t 1 one\n").await;
    let session = only(handle.sessions_of("a"));
    session.revoke("t");
    session.revoke("nosuch");
    server.publisher.publish("t", "two").await.expect("published");
    server.publisher.publish("u", "three").await.expect("published");
    a.expect(format!("* /end t revoked {t}:2\n* u 1 three\n")).await;
    a.ask("4 /renew\n", format!("4 ok;lease=60 u:{u}:2\n")).await;
    b.expect("* t 1 one\n").await;
    let mut rest = [b.line().await, b.line().await].map(|line| line.expect("a line"));
    rest.sort();
    assert_eq!(rest, ["* t 2 two\n", "* u 1 three\n"]);
    // No rule denies the topic now, so the client may subscribe again, and has missed nothing.
    a.send(format!("5 /subscribe;from={t}:2 t\n")).await;
    assert_eq!(a.attribute("next").await, "2");
    a.expect("* t 2 two\n").await;
    assert_eq!((handle.sessions().len(), handle.sessions_of("nobody").len()), (2, 0));
}

/// No expiry follows when the last subscription is revoked.
#[tokio::test(start_paused = true)]
async fn revoking_the_last_subscription_clears_the_lease() {
    let (server, handle) = watched(router());
    let mut peer = known(&server, "secret-a").await;
    peer.send("2 /subscribe t\n").await;
    let epoch = epoch(&mut peer).await;
    only(handle.sessions()).revoke("t");
    peer.expect(format!("* /end t revoked {epoch}:1\n")).await;
    advance(Duration::from_secs(61)).await;
    peer.expect_silence().await;
}

/// Revokes while it is being read: what is published behind that must not be delivered, though the
/// connection is about to copy it.
struct Revoking {
    memory: MemoryTopics,
    handle: Arc<Mutex<Option<ServerHandle>>>,
    /// Fails behind that.
    fails: bool,
}

impl TopicStore for Revoking {
    fn append(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        self.memory.append(topic, payload)
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        let (memory, handle) = (self.memory.clone(), self.handle.clone());
        let reader = memory.open(topic);
        let fails = self.fails.then_some(false);
        Box::new(RevokingReader { reader, topic: topic.clone(), memory, handle, fails })
    }
}

struct RevokingReader {
    reader: Box<dyn TopicReader>,
    topic: Topic,
    memory: MemoryTopics,
    handle: Arc<Mutex<Option<ServerHandle>>>,
    /// Whether it fails now, if it is to fail.
    fails: Option<bool>,
}

impl TopicReader for RevokingReader {
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        self.reader.poll_window(cx)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        if self.fails == Some(true) {
            return Poll::Ready(Err(Unavailable("as it is told to".into())));
        }
        if let Some(handle) = self.handle.lock().unwrap().take() {
            self.fails = self.fails.map(|_| true);
            handle.sessions().iter().for_each(|session| session.revoke(self.topic.as_str()));
            drop(self.memory.append(&self.topic, "after".into()));
        }
        self.reader.poll_read(cx, cursor, room, out)
    }
}

/// [S19.11] What is published after a revocation is not delivered to the revoked client.
#[tokio::test(start_paused = true)]
async fn messages_after_a_revocation_are_not_delivered() {
    let armed = Arc::new(Mutex::new(None));
    for fails in [false, true] {
        let memory = MemoryTopics::new(&Random::seeded(1));
        let store = Revoking { memory, handle: armed.clone(), fails };
        let mut handle = None;
        let server = PipeServer::built(router(), |server| {
            handle = Some(server.handle());
            server.topics(store)
        });
        let mut peer = server.connect().await;
        peer.send("1 /subscribe t\n").await;
        let epoch = epoch(&mut peer).await;
        *armed.lock().unwrap() = handle;
        server.publisher.publish("t", "before").await.expect("published");
        let reason = if fails { "closed" } else { "revoked" };
        peer.expect(format!("* /end t {reason} {epoch}:1\n")).await;
        peer.expect_silence().await;
    }
}

/// [S19.12] A subscription that is about to begin is revoked as well, wherever it waits.
#[tokio::test(start_paused = true)]
async fn a_pending_subscription_can_be_revoked() {
    let (store, gates) = (slow_store::SlowStore::new(), Gates::default());
    let (windows, authorizer) = (store.windows.clone(), gates.authorizer());
    let mut handle = None;
    let server = PipeServer::built(router(), |server| {
        handle = Some(server.handle());
        server.topics(store).authorizer(authorizer)
    });
    let handle = handle.expect("built");
    let mut peer = server.connect().await;
    // While its verdict is pending.
    peer.send("1 /subscribe t\n2 /renew\n").await;
    peer.expect_silence().await;
    only(handle.sessions()).revoke("t");
    gates.allow("t");
    soon(peer.expect("1 no forbidden\n2 ok;lease=60\n")).await;
    // While the store opens the topic, the verdict having been yes.
    peer.send("3 /subscribe u-now\n4 /renew\n").await;
    peer.expect_silence().await;
    only(handle.sessions()).revoke("t");
    peer.expect_silence().await;
    only(handle.sessions()).revoke("u-now");
    soon(peer.expect("3 no forbidden\n4 ok;lease=60\n")).await;
    windows.add_permits(1);
    peer.expect_silence().await;
}

/// [S18.10] When the application closes a session, running requests are finished, nothing new
/// begins, and no notification is sent.
#[tokio::test(start_paused = true)]
async fn a_closed_session_finishes_running_requests() {
    let told = Arc::new(Notify::new());
    let finish = told.clone();
    let router = Router::new()
        .method("wait", move || {
            let finish = finish.clone();
            async move { finish.notified().await }
        })
        .method("echo", async |payload: Bytes| payload);
    let (server, handle) = watched(router);
    let mut a = known(&server, "secret-a").await;
    let mut b = known(&server, "secret-b").await;
    a.send("2 /subscribe t\n3 wait\n").await;
    epoch(&mut a).await;
    a.expect_silence().await;
    for session in handle.sessions_of("a") {
        session.close(Code::from_static("banned"));
        session.close(Code::from_static("banned-again"));
    }
    server.publisher.publish("t", "x").await.expect("published");
    a.ask("4 echo x\n", "* /bye;last=3 banned\n4 no closing\n").await;
    a.ask("5 /subscribe u\n6 /renew\n", "5 no closing\n6 ok;lease=60\n").await;
    told.notify_one();
    a.expect("3 ok\n").await;
    a.expect_closed().await;
    b.ask("2 echo x\n", "2 ok x\n").await;
    // An unauthenticated peer, and one whose `/auth` is still being decided.
    let mut stranger = server.connect().await;
    stranger.expect_silence().await;
    let session = handle.sessions().into_iter().find(|one| one.principal().is_anonymous());
    session.expect("a stranger").close(Code::SHUTDOWN);
    stranger.expect("* /bye;last=0 shutdown\n").await;
    stranger.expect_closed().await;
}

/// Requests that wait when the session is closed are answered.
#[tokio::test(start_paused = true)]
async fn a_closed_session_answers_waiting_requests() {
    let mut handle = None;
    let server = PipeServer::built(router(), |server| {
        handle = Some(server.handle());
        server.authenticator(Slow::default())
    });
    let mut peer = server.connect().await;
    peer.send("1 /auth slow x\n").await;
    peer.expect_silence().await;
    only(handle.expect("built").sessions()).close(Code::SHUTDOWN);
    peer.expect("* /bye;last=1 shutdown\n1 no closing\n").await;
    peer.expect_closed().await;
    let (store, mut handle) = (slow_store::SlowStore::new(), None);
    let server = PipeServer::built(router(), |server| {
        handle = Some(server.handle());
        server.topics(store)
    });
    let mut peer = server.connect().await;
    peer.send("1 /subscribe t\n").await;
    peer.expect_silence().await;
    only(handle.expect("built").sessions()).close(Code::SHUTDOWN);
    peer.expect("* /bye;last=1 shutdown\n1 no closing\n").await;
    peer.expect_closed().await;
}

// --- the client ---

async fn client(server: &PipeServer, config: ClientConfig) -> Result<Client, ConnectionError> {
    let (client, connection) = Client::new(server.pipe(), config);
    tokio::spawn(connection);
    client.connected().await.map(|_| client)
}

/// [C19.1] The client authenticates before it sends anything else, whatever was requested before.
#[tokio::test(start_paused = true)]
async fn auth_is_the_first_line_of_a_client() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let config = ClientConfig::new().auth(TOKEN, "secret-a").max_line(2_048);
    let (client, connection) = Client::new(near, config);
    tokio::spawn(connection);
    let early = client.clone();
    let methods = tokio::spawn(async move { early.methods().await.map(|list| list.len()) });
    let early = client.clone();
    let call = tokio::spawn(async move { early.call("whoami", "").await });
    let early = client.clone();
    let one_way = tokio::spawn(async move { early.one_way("echo", "x").await });
    let mut far = RawPeer::new(far);
    far.expect_silence().await;
    far.send("* /hello;version=1;max-line=65535;in-flight=9;lease=60;auth=x,token\n").await;
    far.expect("1 /hello;version=1;max-line=2048\n2 /auth token secret-a\n").await;
    far.expect_silence().await;
    far.send("1 ok;version=1\n").await;
    far.expect_silence().await;
    far.send("2 ok\n").await;
    let mut lines = Vec::new();
    for _ in 0..3 {
        lines.push(far.line().await.expect("a line"));
    }
    let id_of = |rest: &str| lines.iter().find_map(|line| line.strip_suffix(rest)).expect(rest);
    let (list, call_id) = (id_of(" /methods\n"), id_of(" whoami\n"));
    assert_eq!(id_of(" echo x\n"), "*");
    far.send(format!("{list} more a\n{list} ok\n{call_id} ok me\n")).await;
    assert_eq!(methods.await.unwrap(), Ok(1));
    assert_eq!(call.await.unwrap(), Ok("me".into()));
    assert_eq!(one_way.await.unwrap(), Ok(()));
}

/// [C19.2]
#[tokio::test(start_paused = true)]
async fn client_authenticates_only_if_the_server_requires_it() {
    let server = guarded(ServerConfig::new());
    let config = || ClientConfig::new().auth(Code::from_static("other"), "x");
    let client = client(&server, config().auth(TOKEN, "secret-b")).await.expect("admitted");
    assert_eq!(client.call("whoami", "").await.expect("allowed"), "b Some(2)");
    client.close().await.expect("in order");
    // To a server that does not ask it says nothing.
    let open = PipeServer::start(router());
    let client = self::client(&open, config().max_line(2_048)).await.expect("admitted");
    assert_eq!(client.call("whoami", "").await.expect("allowed"), "nobody None");
}

#[tokio::test(start_paused = true)]
async fn a_rejected_client_gets_the_reason() {
    let server = guarded(ServerConfig::new().auth_tries(1));
    let failed = |config| async { client(&server, config).await.expect_err("not admitted") };
    let wrong = ClientConfig::new().auth(TOKEN, "secret-c");
    let reason = Reason::new(Code::UNAUTHENTICATED, "");
    assert_eq!(failed(wrong).await, ConnectionError::AuthRefused(reason));
    let offered = vec![TOKEN];
    let required = ConnectionError::AuthRequired { offered: offered.clone() };
    assert_eq!(failed(ClientConfig::new()).await, required);
    let other = ClientConfig::new().auth(Code::from_static("other"), "x");
    assert_eq!(failed(other).await, ConnectionError::NoCommonScheme { offered });
    // Every waiting call gets the same error.
    let (client, connection) = Client::new(server.pipe(), ClientConfig::new());
    tokio::spawn(connection);
    let error = client.call("whoami", "").await.expect_err("not admitted");
    assert_eq!(error, CallError::NotSent(bellwire::NotSent::Lost(required)));
    // An answer that never comes is bounded by the server if the client's own limit is longer.
    let slow = PipeServer::built(router(), |server| server.authenticator(Slow::default()));
    let config = ClientConfig::new().auth(Code::from_static("slow"), "x");
    let config = config.connect_timeout(Duration::from_secs(20));
    let error = self::client(&slow, config).await.expect_err("not admitted");
    let reason = Reason::new(Code::BUSY, "");
    assert_eq!(error, ConnectionError::AuthRefused(reason));
}

/// Notices may arrive before the reply to `/auth`, and closing does not wait for that reply.
#[tokio::test(start_paused = true)]
async fn a_client_may_close_before_it_is_admitted() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (client, connection) = Client::new(near, ClientConfig::new().auth(TOKEN, "secret"));
    let driver = tokio::spawn(connection);
    let mut far = RawPeer::new(far);
    far.send("* /hello;version=1;auth=token\n* /weather fine\n* t 4 x\n").await;
    far.expect("1 /auth token secret\n").await;
    sleep(Duration::from_secs(9)).await;
    far.expect_silence().await;
    client.close().await.expect("closed");
    assert_eq!(driver.await.expect("no panic"), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_revocation_is_reported_to_the_client() {
    let (server, handle) = watched(router());
    let client = client(&server, ClientConfig::new().auth(TOKEN, "secret-a")).await.unwrap();
    let mut subscription = client.subscribe("t").await.expect("subscribed");
    only(handle.sessions_of("a")).revoke("t");
    let end = subscription.next().await;
    let Some(Delivery::End { reason, position: Some(at), .. }) = end else { panic!("{end:?}") };
    assert_eq!((reason, at.next), (Code::REVOKED, 1));
    assert!(subscription.next().await.is_none());
    only(handle.sessions()).close(Code::from_static("banned"));
    let error = client.close().await;
    assert!(matches!(error, Err(ConnectionError::Bye(_)) | Ok(())), "{error:?}");
}

// --- what shows ---

/// A log that is kept.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn subscriber(&self) -> impl tracing::Subscriber + use<> {
        let log = self.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Credentials appear in no `Debug` output, no error, and no log. SECURITY.md, threat 34.
#[tokio::test(start_paused = true)]
async fn secrets_appear_in_no_debug_error_or_log() {
    let log = Log::default();
    let _guard = bellwire_testkit::logs::capture(log.subscriber());
    let (connect, pipes) = tokio::sync::mpsc::channel::<DuplexStream>(9);
    drop(connect);
    let principal = Principal::new("ada").with_value("hunter2".to_owned());
    let tokens = TokenAuthenticator::new().token("hunter2", principal.clone());
    let mut shown = vec![
        format!("{:?} {:?}", Credentials::from("hunter2"), principal),
        format!("{tokens:?} {tokens:#?}"),
        format!("{:?}", ServerConfig::new()),
    ];
    let server =
        Server::new(Nowhere(pipes, PeerAddr::Other("x".into()))).authenticator(tokens.clone());
    shown.push(format!("{server:?} {server:#?}"));
    let mut handle = None;
    let server = PipeServer::built(router(), |server| {
        handle = Some(server.handle());
        server.authenticator(tokens)
    });
    // Right, wrong, malformed, cut off, against the rules, too long.
    for bytes in [
        "1 /auth token hunter2\n2 /auth token hunter2\n",
        "1 /auth token hunter2x\n2 /auth x hunter2\n3 /auth;x=1 token hunter2\n",
        "1 /renew\n2 /auth token\thunter2\n\u{10}hunter2\n",
        "1 /renew\n2 /auth token hunter2\r\r\n",
        "1 /auth token hunter2",
        "1 /hello;version=1\n1 /auth token hunter2\n* /auth token hunter2\n",
    ] {
        let mut peer = server.connect_raw(1 << 16);
        peer.send(bytes).await;
        peer.half_close().await;
        let mut all = String::new();
        peer.io.read_to_string(&mut all).await.expect("read");
        shown.push(all);
    }
    let config = ClientConfig::new().auth(TOKEN, "hunter2");
    shown.push(format!("{config:?} {config:#?}"));
    let client = client(&server, config).await.expect("admitted");
    shown.push(format!("{client:?} {:?} {:?}", client.stats(), client.connected().await));
    let session = only(handle.expect("built").sessions());
    shown.push(format!("{session:?} {session:#?} {}", Denied::Credentials));
    let wrong = ClientConfig::new().auth(TOKEN, "hunter2-wrong");
    let error = self::client(&server, wrong).await.expect_err("refused");
    shown.push(format!("{error:?} {error} {:?}", io::Error::from(error.clone())));
    shown.push(log.text());
    let admitted = "authenticated principal=Principal(\"ada\")";
    let of_connection = |line: &str| line.contains(" connection{session=");
    let text = log.text();
    let mut lines = text.lines().filter(|line| line.contains(admitted));
    assert!(lines.next().is_some_and(of_connection), "{text}");
    let all = shown.join("\n");
    assert!(!all.contains("hunter2"), "{all}");
}

/// Listens nowhere, and says that it listens at an address.
#[derive(Debug)]
struct Nowhere(tokio::sync::mpsc::Receiver<DuplexStream>, PeerAddr);

impl Listener for Nowhere {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
        match self.0.recv().await {
            Some(io) => Ok((io, PeerAddr::Other("pipe".into()))),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(self.1.clone())
    }
}

/// How often a server at `address` warns that anybody may come.
async fn warnings(address: &str, build: impl FnOnce(Server<Nowhere>) -> Server<Nowhere>) -> usize {
    let log = Log::default();
    let guard = bellwire_testkit::logs::capture(log.subscriber());
    let (_connect, pipes) = tokio::sync::mpsc::channel(1);
    let address = match address.parse() {
        Ok(address) => PeerAddr::Tcp(address),
        Err(_) => PeerAddr::Unix(None),
    };
    let server = build(Server::new(Nowhere(pipes, address)));
    let serving = server.serve(router()).with_graceful_shutdown(sleep(Duration::from_secs(1)));
    serving.await.expect("served");
    drop(guard);
    log.text().lines().filter(|line| line.contains("WARN")).count()
}

#[tokio::test(start_paused = true)]
async fn an_open_public_server_logs_a_warning() {
    for (address, expected) in [
        ("0.0.0.0:7440", 1),
        ("192.0.2.7:7440", 1),
        ("[::]:7440", 1),
        ("[2001:db8::1]:7440", 1),
        ("127.0.0.1:7440", 0),
        ("127.9.9.9:7440", 0),
        ("[::1]:7440", 0),
        ("[::ffff:127.0.0.1]:7440", 0),
        ("unix", 0),
    ] {
        assert_eq!(warnings(address, |server| server).await, expected, "{address}");
    }
    assert_eq!(warnings("0.0.0.0:7440", |server| server.authenticator(tokens())).await, 0);
}

/// The pipe bounds the bytes that an unauthenticated client can write; the server holds none of
/// them.
#[tokio::test(start_paused = true)]
async fn a_flood_before_auth_is_bounded_by_the_pipe() {
    let server = guarded(ServerConfig::new().reply_mark(1_024));
    let mut peer = server.connect_raw(256);
    let flood: String = (1..5_000).map(|id| format!("{id} echo x\n")).collect();
    let written = timeout(Duration::from_secs(5), peer.io.write_all(flood.as_bytes()));
    assert!(written.await.is_err(), "the server stops reading");
}
