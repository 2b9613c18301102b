//! Interactions between features of a connection: authorizations and streams, credit and places in
//! flight, deadlines and floods, session commands and running requests.
// SECURITY.md, threats 7, 8, 30 and 31.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    Credentials, Json, Listener, Router, Server, ServerConfig, Streamed,
    protocol::Code,
    server::{Action, Authenticator, Denied, PeerAddr, Principal, Verdict},
    topic::BoxFuture,
};
use bellwire_testkit::{PipeServer, RawPeer};
use bytes::Bytes;
use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::{Semaphore, mpsc},
    time::{advance, timeout},
};

type Peer = RawPeer<DuplexStream>;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Fails where it would hang else: on the paused clock it takes no time.
async fn soon<T>(event: impl Future<Output = T>) -> T {
    timeout(secs(3_600), event).await.expect("it comes")
}

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

async fn count(Json(to): Json<u64>) -> Streamed<impl Stream<Item = String>> {
    Streamed(stream::iter(1..=to).map_to_text())
}

/// The text of numbers.
trait MapToText: Stream<Item = u64> + Sized {
    fn map_to_text(self) -> impl Stream<Item = String> {
        futures::StreamExt::map(self, |number| number.to_string())
    }
}

impl<St: Stream<Item = u64>> MapToText for St {}

fn router() -> Router {
    Router::new()
        .method("echo", async |payload: Bytes| payload)
        .method("wait", async || std::future::pending::<()>().await)
        .method("number", async |Json(number): Json<u64>| number.to_string())
        .method("count", count)
}

/// An authoriser that waits for a permit for the name of the topic or method. It allows topics that
/// end in `-now`, and all methods but `number`, at once.
#[derive(Clone, Default)]
struct Gates(Arc<Mutex<HashMap<String, Arc<Semaphore>>>>);

impl Gates {
    fn of(&self, name: &str) -> Arc<Semaphore> {
        let gate = || Arc::new(Semaphore::new(0));
        self.0.lock().unwrap().entry(name.to_owned()).or_insert_with(gate).clone()
    }

    fn server(&self, config: ServerConfig) -> PipeServer {
        let gates = self.clone();
        let authorizer = move |_: &Principal, action: Action<'_>| {
            let (name, is_at_once) = match action {
                Action::Call(name) => (name, name != "number"),
                Action::Subscribe(name) | Action::Publish(name) => (name, name.ends_with("-now")),
                _ => return Verdict::Deny,
            };
            let gate = gates.of(name);
            let verdict = async move { gate.acquire().await.map(|one| one.forget()).is_ok() };
            if is_at_once { Verdict::Allow } else { Verdict::later(verdict) }
        };
        PipeServer::built(router(), |server| server.config(config).authorizer(authorizer))
    }
}

/// An authenticator. Each permit lets it refuse one peer; after its semaphore is closed, it accepts
/// every peer.
#[derive(Clone)]
struct Doorman(Arc<Semaphore>);

impl Authenticator for Doorman {
    fn schemes(&self) -> Vec<Code> {
        vec![Code::from_static("name")]
    }

    fn authenticate(
        &self,
        _: &Code,
        _: Credentials,
        _: &PeerAddr,
    ) -> BoxFuture<Result<Principal, Denied>> {
        let gate = self.0.clone();
        Box::pin(async move {
            let refused = gate.acquire().await.map(|one| one.forget());
            if refused.is_ok() { Err(Denied::Credentials) } else { Ok(Principal::new("a")) }
        })
    }
}

fn doorman(config: ServerConfig) -> (PipeServer, Doorman) {
    let doorman = Doorman(Arc::new(Semaphore::new(0)));
    let theirs = doorman.clone();
    let built = |server: Server<_>| server.config(config).authenticator(theirs);
    (PipeServer::built(router(), built), doorman)
}

// What is counted.

#[tokio::test(start_paused = true)]
async fn every_terminal_line_is_counted_once() {
    let (server, doorman) = doorman(ServerConfig::new());
    doorman.0.close();
    let mut peer = server.connect().await;
    peer.ask("1 /auth name x\n", "1 ok\n").await;
    peer.send("2 /subscribe t\n").await;
    let at = format!("{}:1", peer.attribute("epoch").await);
    peer.ask(format!("3 /ack t {at}\n4 nosuch\n"), "3 ok\n").await;
    assert!(peer.line().await.unwrap().starts_with("4 no "));
    let stats = server.handle.stats();
    assert_eq!((stats.ok, stats.no, stats.err, stats.cut), (3, 1, 0, 0));
}

/// A call that was not allowed was not started.
#[tokio::test(start_paused = true)]
async fn a_call_counts_as_started_once_authorized() {
    let gates = Gates::default();
    let server = gates.server(ServerConfig::new());
    let mut peer = server.connect().await;
    peer.send("1 number 1\n2 number 2\n3 number x\n").await;
    peer.expect_silence().await;
    assert_eq!(server.handle.stats().started, 0);
    peer.ask("* /cancel 1\n", "1 no cancelled\n").await;
    gates.of("number").add_permits(2);
    peer.expect("2 ok 2\n").await;
    assert!(peer.line().await.unwrap().starts_with("3 no bad-arguments"));
    let stats = server.handle.stats();
    assert_eq!((stats.started, stats.ok, stats.no), (1, 1, 2));
}

// Places.

/// [S12.8] If streams that wait for credit hold every place, and there is no room for the next
/// line, no credit could be read. So one of the streams is ended. A peer that has disconnected does
/// not leave its connection behind, either.
#[tokio::test(start_paused = true)]
async fn streams_without_credit_do_not_hold_all_places_forever() {
    let config = ServerConfig::new().in_flight(2).parked_bytes(0);
    let server = PipeServer::with_config(router(), config);
    let mut peer = server.connect().await;
    peer.send("1 count;window=1 5\n2 count;window=2 5\n").await;
    peer.send("3 echo x\n4 echo y\n* /more 2 1\n5 /renew\n").await;
    let mut lines = Vec::new();
    for _ in 0..8 {
        lines.push(soon(peer.line()).await.expect("a line"));
    }
    lines.sort();
    let expected = ["1 cut lost no credit can come any more\n", "1 more 1\n", "2 more 1\n"];
    let behind = ["2 more 2\n", "2 more 3\n", "3 ok x\n", "4 ok y\n", "5 ok;lease=60\n"];
    assert_eq!(lines, [&expected[..], &behind].concat());
    // A place that will be free by itself is waited for.
    peer.ask("6 wait\n7 echo y\n8 echo z\n* /cancel 6\n", "").await;
    peer.expect_silence().await;
    assert_eq!(server.handle.stats().in_flight, 2);
    drop(peer);
    let mut peer = server.connect().await;
    peer.send("1 count;window=1 5\n2 count;window=1 5\n3 count;window=1 5\n").await;
    settle().await;
    drop(peer);
    advance(secs(3_600)).await;
    settle().await;
    advance(secs(3_600)).await;
    settle().await;
    assert_eq!(server.handle.stats().connections, 0);
}

/// A protocol method whose authorization never completes is refused in time, with every place in
/// flight taken.
#[tokio::test(start_paused = true)]
async fn a_late_authorization_is_refused_though_no_place_is_free() {
    let gates = Gates::default();
    let server = gates.server(ServerConfig::new().in_flight(1).idle(None));
    let mut peer = server.connect().await;
    peer.ask("1 count;window=1 5\n2 /subscribe t\n", "1 more 1\n").await;
    soon(peer.expect("2 no busy\n")).await;
    peer.ask("* /more 1 1\n", "1 more 2\n").await;
}

// Orders.

/// A client cannot keep a closed session open by giving no credit.
#[tokio::test(start_paused = true)]
async fn a_closed_session_does_not_wait_for_credit() {
    let config = ServerConfig::new().idle(None).handler_time(secs(30));
    let server = PipeServer::with_config(router(), config);
    for is_finishing in [false, true] {
        let mut peer = server.connect().await;
        match is_finishing {
            true => {
                peer.send("1 count;window=9000000 900000\n").await;
                peer.half_close().await;
            }
            false => peer.ask("1 count;window=1 5\n", "1 more 1\n").await,
        }
        settle().await;
        let sessions = server.handle.sessions();
        sessions.iter().for_each(|session| session.close(Code::from_static("banned")));
        let said = async {
            let (mut last, mut count) = (None, 0);
            while let Some(line) = peer.line().await {
                last = Some(line);
                count += 1;
                // A peer that reads, but takes its time: all items would take 30 s.
                if count % 30 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            last
        };
        assert_eq!(soon(said).await.as_deref(), Some("1 cut closing\n"), "{is_finishing}");
    }
}

/// The `/bye` with `last` was sent, so the answer is the same whatever the authorizer decides.
#[tokio::test(start_paused = true)]
async fn a_closed_session_does_not_wait_for_an_authorization() {
    let server = Gates::default().server(ServerConfig::new());
    let mut peer = server.connect().await;
    peer.ask("1 echo x\n", "1 ok x\n").await;
    peer.send("2 /subscribe t\n").await;
    peer.expect_silence().await;
    let before = tokio::time::Instant::now();
    server.handle.sessions()[0].close(Code::SHUTDOWN);
    // It was read, so the last id is its own, and it is answered (S18.9).
    peer.expect("* /bye;last=2 shutdown\n2 no closing\n").await;
    peer.expect_closed().await;
    assert_eq!(before.elapsed(), Duration::ZERO);
}

/// A revocation applies to a subscription, not to the right to publish.
#[tokio::test(start_paused = true)]
async fn a_revocation_does_not_affect_publishing() {
    let gates = Gates::default();
    let server = gates.server(ServerConfig::new());
    let mut peer = server.connect().await;
    peer.send("1 /publish t x\n").await;
    peer.expect_silence().await;
    server.handle.sessions()[0].revoke("t");
    peer.expect_silence().await;
    gates.of("t").add_permits(1);
    assert!(peer.line().await.unwrap().starts_with("1 ok;epoch="));
}

// The drain.

/// A pending `/auth` was read before the drain, and is answered.
#[tokio::test(start_paused = true)]
async fn a_drain_answers_a_pending_auth() {
    let config = ServerConfig::new().auth_time(secs(3_600));
    let (mut server, _doorman) = doorman(config);
    let mut peer = server.connect().await;
    peer.send("1 /auth name x\n").await;
    peer.expect_silence().await;
    server.stop();
    peer.expect("* /bye shutdown\n* /bye;last=1 shutdown\n1 no closing\n").await;
    peer.expect_closed().await;
}

/// The `/bye` with `last` is sent once.
#[tokio::test(start_paused = true)]
async fn a_refused_auth_after_the_final_bye_causes_no_other_bye() {
    let (mut server, doorman) = doorman(ServerConfig::new().auth_tries(1));
    let mut peer = server.connect().await;
    peer.send("1 /auth name x\n").await;
    peer.expect_silence().await;
    server.stop();
    peer.expect("* /bye shutdown\n* /bye;last=1 shutdown\n").await;
    doorman.0.add_permits(1);
    peer.expect("1 no unauthenticated\n").await;
    peer.expect_closed().await;
}

// Deadlines.

/// A transport that always has something to read, and keeps what is written.
struct Endless {
    line: &'static [u8],
    written: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Endless {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        buffer.put_slice(self.line);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        self.written.lock().unwrap().extend_from_slice(b);
        Poll::Ready(Ok(b.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Floods(mpsc::UnboundedReceiver<Endless>);

impl Listener for Floods {
    type Io = Endless;

    async fn accept(&mut self) -> io::Result<(Endless, PeerAddr)> {
        match self.0.recv().await {
            Some(io) => Ok((io, PeerAddr::Other("flood".into()))),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("flood".into()))
    }
}

/// A peer that never stops sending delays no deadline.
#[tokio::test(start_paused = true)]
async fn a_flood_delays_no_deadline() {
    let (connect, floods) = mpsc::unbounded_channel();
    // Each of these lines is a violation: enough of them would end the connection before its time.
    let server = Server::new(Floods(floods))
        .config(ServerConfig::new().violations(u32::MAX))
        .authenticator(Doorman(Arc::new(Semaphore::new(0))));
    let task = tokio::spawn(server.serve(router()).into_future());
    let written = Arc::new(Mutex::new(Vec::new()));
    let io = Endless { line: b"* echo x\n", written: written.clone() };
    assert!(connect.send(io).is_ok());
    settle().await;
    for seconds in [9, 1, 1] {
        advance(secs(seconds)).await;
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        let said = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(said.contains("* /bye;last=0 unauthenticated"), seconds == 1, "{said}");
    }
    task.abort();
}

// Turns.

/// With the server's buffers full, an endless stream does not starve the notifications.
#[tokio::test(start_paused = true)]
async fn a_stream_does_not_starve_notifications_with_full_buffers() {
    let server = PipeServer::with_config(router(), ServerConfig::new().buffered_bytes_total(0));
    let mut peer = server.connect_raw(1_024);
    peer.hello().await;
    peer.send("1 /subscribe t\n").await;
    peer.line().await;
    peer.send("2 count;window=9000000 9000000\n").await;
    for _ in 0..1_000 {
        peer.line().await;
    }
    server.publisher.publish("t", "news").await.expect("published");
    let mut lines = 0;
    while peer.line().await.expect("a line") != "* t 1 news\n" {
        lines += 1;
        assert!(lines < 100_000, "no turn");
    }
}

/// A violation that is found after its line was read still ends the connection.
#[tokio::test(start_paused = true)]
async fn a_violation_found_late_ends_the_connection() {
    let gates = Gates::default();
    let server = gates.server(ServerConfig::new().violations(0));
    let mut peer: Peer = server.connect().await;
    peer.send("* number x\n").await;
    peer.expect_silence().await;
    gates.of("number").add_permits(1);
    assert!(peer.line().await.unwrap().starts_with("* /error bad-arguments"));
    soon(peer.expect("* /bye;last=0 violations\n")).await;
    soon(peer.expect_closed()).await;
}

/// Lines that were read ahead are discarded once the connection reads no more.
#[tokio::test(start_paused = true)]
async fn a_pipelining_unauthenticated_peer_is_closed_in_order() {
    let (server, doorman) = doorman(ServerConfig::new());
    let mut peer = server.connect_raw(64);
    peer.hello().await;
    peer.send("1 /auth name x\n2 /auth name y\n3 /auth name z\n4 echo x\n").await;
    doorman.0.add_permits(3);
    // Its answers do not fit, and are written once it reads.
    settle().await;
    peer.expect("1 no unauthenticated\n2 no unauthenticated\n3 no unauthenticated\n").await;
    peer.expect("* /bye;last=0 unauthenticated\n").await;
    peer.expect_closed().await;
}
