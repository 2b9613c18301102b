//! Every deadline of both ends, from both sides: not before its time, and at most 50 ms of virtual
//! time after it. A test is named after the end and the field of its configuration.
// SECURITY.md, threats 4 and 5.

use std::{
    fs, io,
    process::Command,
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, ConnectionError, ConnectionEvent, Credentials, Delivery,
    Listener, NotSent, Publisher, Random, Router, Server, ServerConfig, Streamed, Unknown, handler,
    protocol::Code,
    server::{Action, Authenticator, Denied, PeerAddr, Principal, Verdict},
    topic::BoxFuture,
};
use bellwire_testkit::{
    PIPE, PipeServer, RawPeer,
    bound::{LATE, bounded, due, due_within, watch},
    dialogue::Peer,
    net::{self, call, call_within, connected_with, next, outcome, settle, subscribed},
    slow_store::SlowStore,
};
use bytes::Bytes;
use futures::StreamExt;
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    sync::mpsc,
    time::{Instant, sleep},
};

type Raw = RawPeer<DuplexStream>;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn never() {
    std::future::pending::<()>().await;
}

fn router() -> Router {
    Router::new()
        .method("echo", async |payload: Bytes| payload)
        .method("never", async || never().await)
        .method("task", handler(async || never().await).spawned())
        .method("one", async || {
            let items = futures::stream::iter(["a"]).chain(futures::stream::pending());
            Streamed(items)
        })
        .method("add", async |publisher: Publisher, payload: Bytes| {
            publisher.publish("t", payload).await.map(drop).expect("published");
        })
}

fn serve(config: ServerConfig) -> PipeServer {
    PipeServer::with_config(router(), config)
}

/// A connection on which the first line was answered; its ids go on at 2.
async fn begun(server: &PipeServer) -> Raw {
    let mut peer = server.connect().await;
    peer.ask("1 echo a\n", "1 ok a\n").await;
    peer
}

/// The server has no connection any more.
async fn gone(server: &PipeServer) {
    while server.handle.stats().connections > 0 {
        sleep(millis(1)).await;
    }
}

/// The next line begins like this.
async fn begins(peer: &mut Raw, beginning: &str) {
    let line = peer.line().await.expect("a line");
    assert!(line.starts_with(beginning), "{line}");
}

// The server.

/// [S7.2]
#[tokio::test(start_paused = true)]
async fn server_first_line() {
    let server = serve(ServerConfig::new().first_line(secs(3)));
    let since = Instant::now();
    let mut silent = server.connect().await;
    due(since, secs(3), silent.expect_closed()).await;
    let since = Instant::now();
    let mut unfinished = server.connect().await;
    unfinished.send("1 ec").await;
    due(since, secs(3), unfinished.expect_closed()).await;
}

/// [S7.2]
#[tokio::test(start_paused = true)]
async fn server_line_time() {
    let server = serve(ServerConfig::new().line_time(secs(3)).line_rate(4));
    let mut peer = begun(&server).await;
    sleep(secs(20)).await;
    let since = Instant::now();
    peer.send("2 ec").await;
    // One more second for each 4 bytes.
    due(since, secs(4), peer.expect_closed()).await;
}

/// [S7.3]
#[tokio::test(start_paused = true)]
async fn server_write_progress() {
    let server = serve(ServerConfig::new().write_progress(secs(3)));
    let mut peer = server.connect_raw(256);
    peer.hello().await;
    let since = Instant::now();
    peer.send(format!("1 echo {}\n", "x".repeat(1_000))).await;
    due(since, secs(3), gone(&server)).await;
}

/// [S20.2]
#[tokio::test(start_paused = true)]
async fn server_idle() {
    let server = serve(ServerConfig::new().idle(secs(7)));
    let mut peer = begun(&server).await;
    due(Instant::now(), secs(7), peer.expect("* /bye;last=1 idle\n")).await;
}

/// [S7.4] A violation counts until its time is over.
#[tokio::test(start_paused = true)]
async fn server_violation_return() {
    const BAD: &str = "* /error malformed byte 0: empty line\n";
    for (wait, is_borne) in [(secs(5) - millis(1), false), (secs(5) + LATE, true)] {
        let config = ServerConfig::new().violations(1).violation_return(secs(5)).idle(None);
        let server = serve(config);
        let mut peer = begun(&server).await;
        peer.ask("\n", BAD).await;
        sleep(wait).await;
        peer.ask("\n", BAD).await;
        match is_borne {
            true => peer.ask("2 echo b\n", "2 ok b\n").await,
            false => peer.expect("* /bye;last=1 violations\n").await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn server_handler_time() {
    for method in ["never", "task"] {
        let server = serve(ServerConfig::new().handler_time(secs(4)));
        let mut peer = begun(&server).await;
        let since = Instant::now();
        peer.send(format!("2 {method}\n")).await;
        due(since, secs(4), peer.expect("2 cut deadline\n")).await;
    }
}

/// A request's own `ttl`, where it is less.
#[tokio::test(start_paused = true)]
async fn server_handler_time_or_a_lesser_ttl() {
    let server = serve(ServerConfig::new().handler_time(secs(4)));
    let mut peer = begun(&server).await;
    for (id, ttl, time) in [(2, 1_500, 1_500), (3, 60_000, 4_000)] {
        let since = Instant::now();
        peer.send(format!("{id} never;ttl={ttl}\n")).await;
        due(since, millis(time), peer.expect(format!("{id} cut deadline\n"))).await;
    }
    // Of a stream it bounds the whole, with credit for the next item and without.
    for (id, window) in [(4, 1), (5, 9)] {
        let since = Instant::now();
        peer.send(format!("{id} one;ttl=2500;window={window}\n")).await;
        peer.expect(format!("{id} more a\n")).await;
        due(since, millis(2_500), peer.expect(format!("{id} cut deadline\n"))).await;
    }
}

/// Of a stream, from the item before it, or from the credit for it.
#[tokio::test(start_paused = true)]
async fn server_handler_time_of_the_next_item() {
    let server = serve(ServerConfig::new().handler_time(secs(4)));
    let mut peer = begun(&server).await;
    let since = Instant::now();
    peer.ask("2 one\n", "2 more a\n").await;
    due(since, secs(4), peer.expect("2 cut deadline\n")).await;
    peer.ask("3 one;window=1\n", "3 more a\n").await;
    sleep(secs(60)).await;
    let since = Instant::now();
    peer.send("* /more 3 1\n").await;
    due(since, secs(4), peer.expect("3 cut deadline\n")).await;
}

/// A verdict that does not come: on a call, and on the protocol's own methods.
#[tokio::test(start_paused = true)]
async fn server_handler_time_of_an_authorizer() {
    for line in ["2 echo x\n", "2 /subscribe t\n", "2 /publish t x\n"] {
        let config = ServerConfig::new().handler_time(secs(4)).allow_publish(true);
        let never = |_: &Principal, _: Action<'_>| Verdict::Later(Box::pin(std::future::pending()));
        let server = PipeServer::built(router(), |server| server.config(config).authorizer(never));
        let mut peer = server.connect().await;
        let since = Instant::now();
        peer.send(line).await;
        due(since, secs(4), begins(&mut peer, "2 no ")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn server_handler_time_of_a_store_that_opens_a_topic() {
    let config = ServerConfig::new().handler_time(secs(4));
    let server = PipeServer::over(SlowStore::new(), router(), config);
    let mut peer = server.connect().await;
    let since = Instant::now();
    peer.send("1 /subscribe t\n").await;
    due(since, secs(4), peer.expect("1 no busy\n")).await;
}

#[tokio::test(start_paused = true)]
async fn server_lease() {
    let server = serve(ServerConfig::new().lease(secs(9)));
    let mut peer = server.connect().await;
    peer.send("1 /subscribe t\n").await;
    begins(&mut peer, "1 ok;").await;
    due(Instant::now(), secs(9), begins(&mut peer, "* /end t expired ")).await;
}

/// All subscriptions have one lease, and each accepted `/subscribe` and each `/renew` restarts it.
/// Refused requests and other lines do not.
#[tokio::test(start_paused = true)]
async fn server_lease_from_the_last_renewal() {
    for renewal in ["2 /subscribe u\n", "2 /subscribe;window=2 u\n", "2 /renew\n"] {
        let server = serve(ServerConfig::new().lease(secs(9)));
        let mut peer = server.connect().await;
        peer.send("1 /subscribe t\n").await;
        begins(&mut peer, "1 ok;").await;
        sleep(secs(6)).await;
        peer.send(renewal).await;
        begins(&mut peer, "2 ok;").await;
        let since = Instant::now();
        sleep(secs(6)).await;
        for others in ["3 /subscribe t\n", "4 /unsubscribe v\n", "5 echo x\n"] {
            peer.send(others).await;
            assert!(peer.line().await.is_some());
        }
        due(since, secs(9), begins(&mut peer, "* /end t expired ")).await;
    }
}

/// The end of one of two subscriptions does not end or restart the lease of the other.
#[tokio::test(start_paused = true)]
async fn server_lease_of_the_remaining_subscription() {
    for unsubscribes in [true, false] {
        let server = serve(ServerConfig::new().lease(secs(9)));
        let mut peer = server.connect().await;
        for (id, topic) in [(1, "t"), (2, "u")] {
            peer.send(format!("{id} /subscribe {topic}\n")).await;
            begins(&mut peer, &format!("{id} ok;")).await;
        }
        let since = Instant::now();
        sleep(secs(3)).await;
        if unsubscribes {
            peer.send("3 /unsubscribe u\n").await;
            begins(&mut peer, "3 ok;").await;
        } else {
            server.handle.sessions()[0].revoke("u");
            begins(&mut peer, "* /end u revoked ").await;
        }
        due(since, secs(9), begins(&mut peer, "* /end t expired ")).await;
    }
}

/// An idle log is dropped within 1.5 times the setting, counted from its last message.
#[tokio::test(start_paused = true)]
async fn server_idle_log() {
    let server = serve(ServerConfig::new().idle_log(secs(100)).idle(None));
    let mut peer = server.connect().await;
    peer.ask("1 add x\n", "1 ok\n").await;
    // Again and again, each time before it would go.
    for id in 2..9 {
        sleep(secs(90)).await;
        peer.ask(format!("{id} add x\n"), format!("{id} ok\n")).await;
        assert_eq!(server.handle.stats().topics, 1, "after {id} messages");
    }
    let without_log = async {
        while server.handle.stats().topics > 0 {
            sleep(millis(1)).await;
        }
    };
    due_within(Instant::now(), secs(100)..secs(150), without_log).await;
}

/// The time also restarts when the last subscriber leaves.
#[tokio::test(start_paused = true)]
async fn server_idle_log_from_the_last_subscriber() {
    let server = serve(ServerConfig::new().idle_log(secs(100)).idle(None).lease(secs(100_000)));
    let mut peer = server.connect().await;
    peer.ask("1 add x\n", "1 ok\n").await;
    peer.send("2 /subscribe t\n").await;
    begins(&mut peer, "2 ok;").await;
    sleep(secs(1_000)).await;
    peer.send("3 /unsubscribe t\n").await;
    begins(&mut peer, "3 ok;").await;
    let without_log = async {
        while server.handle.stats().topics > 0 {
            sleep(millis(1)).await;
        }
    };
    due_within(Instant::now(), secs(100)..secs(150), without_log).await;
}

/// [S18.1]
#[tokio::test(start_paused = true)]
async fn server_grace() {
    let mut server = serve(ServerConfig::new().grace(secs(3)));
    let mut peer = begun(&server).await;
    let since = Instant::now();
    server.stop();
    peer.expect("* /bye shutdown\n").await;
    due(since, secs(3), peer.expect("* /bye;last=1 shutdown\n")).await;
    peer.expect_closed().await;
}

#[tokio::test(start_paused = true)]
async fn server_drain() {
    let mut server = serve(ServerConfig::new().grace(secs(2)).drain(secs(5)));
    let mut peer = begun(&server).await;
    peer.send("2 never\n").await;
    peer.expect_silence().await;
    let since = Instant::now();
    server.stop();
    peer.expect("* /bye shutdown\n* /bye;last=2 shutdown\n").await;
    due(since, secs(7), peer.expect("2 cut closing\n")).await;
}

/// Cut replies get 1 s more to be written.
#[tokio::test(start_paused = true)]
async fn server_drain_and_the_last_write() {
    let config = ServerConfig::new().grace(secs(2)).drain(secs(5)).write_progress(secs(60));
    let mut server = serve(config);
    let mut peer = server.connect_raw(256);
    peer.hello().await;
    peer.send(format!("1 echo {}\n", "x".repeat(1_000))).await;
    settle().await;
    let since = Instant::now();
    server.stop();
    due(since, secs(8), server.ended()).await;
}

/// [S19.2] The time does not restart with a refusal, and does not depend on what the authenticator
/// does.
#[tokio::test(start_paused = true)]
async fn server_auth_time() {
    for lines in ["", "1 /auth slow x\n", "1 /auth bad x\n", "1 /hello;version=1\n"] {
        let config = ServerConfig::new().auth_time(secs(6)).first_line(secs(60)).auth_tries(99);
        let server =
            PipeServer::built(router(), |server| server.config(config).authenticator(Slow));
        let since = Instant::now();
        let mut peer = server.connect().await;
        sleep(secs(1)).await;
        peer.send(lines).await;
        if lines.contains("bad") || lines.contains("/hello") {
            begins(&mut peer, "1 ").await;
        }
        if lines.contains("bad") {
            for id in 2..7 {
                sleep(millis(900)).await;
                peer.ask(format!("{id} /auth bad x\n"), format!("{id} no unauthenticated\n")).await;
            }
        }
        let over = async {
            if lines.contains("slow") {
                peer.expect("1 no busy\n").await;
            }
            peer.expect("* /bye;last=0 unauthenticated\n").await;
        };
        due(since, secs(6), over).await;
    }
}

/// Refuses at once by one scheme, and takes for ever by another.
struct Slow;

impl Authenticator for Slow {
    fn schemes(&self) -> Vec<Code> {
        vec![Code::from_static("bad"), Code::from_static("slow")]
    }

    fn authenticate(
        &self,
        scheme: &Code,
        _: Credentials,
        _: &PeerAddr,
    ) -> BoxFuture<Result<Principal, Denied>> {
        match scheme.as_str() {
            "bad" => Box::pin(std::future::ready(Err(Denied::Credentials))),
            _ => Box::pin(std::future::pending()),
        }
    }
}

/// Connections whose handshake never ends.
struct Shaking(mpsc::UnboundedReceiver<DuplexStream>);

impl Listener for Shaking {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
        match self.0.recv().await {
            Some(io) => Ok((io, PeerAddr::Other("pipe".into()))),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("pipe".into()))
    }

    fn poll_handshake(_: &mut DuplexStream, _: &mut Context<'_>) -> Poll<io::Result<Principal>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn server_handshake_time() {
    let (connect, pipes) = mpsc::unbounded_channel();
    let config = ServerConfig::new().handshake_time(secs(6)).first_line(secs(2));
    let server = Server::new(Shaking(pipes)).config(config);
    let serving = tokio::spawn(server.serve(router()).into_future());
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let since = Instant::now();
    connect.send(theirs).expect("it serves");
    due(since, secs(6), RawPeer::new(ours).expect_closed()).await;
    serving.abort();
}

/// A session whose connection ends in the handshake is closed, too.
#[tokio::test(start_paused = true)]
async fn a_session_is_closed_with_its_handshake() {
    let (connect, pipes) = mpsc::unbounded_channel();
    let server = Server::new(Shaking(pipes));
    let handle = server.handle();
    let serving = tokio::spawn(server.serve(router()).into_future());
    let (ours, theirs) = tokio::io::duplex(PIPE);
    connect.send(theirs).expect("it serves");
    while handle.sessions().is_empty() {
        tokio::task::yield_now().await;
    }
    let session = handle.sessions().remove(0);
    session.close(Code::from_static("maintenance"));
    bounded("the session is closed", session.closed()).await;
    RawPeer::new(ours).expect_closed().await;
    serving.abort();
}

/// Fails to accept, but for each 10th time: when it was asked.
struct Failing(mpsc::UnboundedSender<Instant>, usize);

impl Listener for Failing {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
        let _ = self.0.send(Instant::now());
        self.1 += 1;
        match self.1 % 10 {
            0 => Ok((tokio::io::duplex(PIPE).0, PeerAddr::Other("pipe".into()))),
            // The process is out of file descriptors.
            _ => Err(io::Error::from_raw_os_error(24)),
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("pipe".into()))
    }
}

/// The accept loop pauses after an error, for longer each time, and for 1 s at most.
#[tokio::test(start_paused = true)]
async fn accept_errors_pause_the_loop_for_up_to_a_second() {
    let (tell, mut asked) = mpsc::unbounded_channel();
    let server = Server::new(Failing(tell, 0));
    let serving = tokio::spawn(server.serve(router()).into_future());
    let mut since = asked.recv().await.expect("it accepts");
    for _ in 0..3 {
        for pause in [50, 100, 200, 400, 800, 1_000, 1_000, 1_000, 1_000, 0] {
            let again = due(since, millis(pause), asked.recv()).await;
            since = again.expect("it goes on");
        }
    }
    serving.abort();
}

/// The input of a closed connection is read for 1 s more, so that a reset does not discard its last
/// lines.
#[tokio::test(start_paused = true)]
async fn a_closed_connection_lingers() {
    let server = serve(ServerConfig::new());
    let mut peer = begun(&server).await;
    let since = Instant::now();
    peer.ask("2 /quit\n", "2 ok\n").await;
    peer.expect_closed().await;
    due(since, secs(1), gone(&server)).await;
}

/// As long as its peer goes on sending it may not have read the last lines; but no longer than one
/// that takes nothing, and one that is closed for its own faults has 1 s.
#[tokio::test(start_paused = true)]
async fn a_closed_connection_lingers_while_its_peer_sends() {
    for (last_line, sends, is_gone_at) in
        [("2 /quit\n", 3, millis(3 * 900 + 1_000)), ("2 /quit\n", 99, secs(7)), ("\n", 99, secs(1))]
    {
        let server = serve(ServerConfig::new().write_progress(secs(7)).violations(0));
        let mut peer = begun(&server).await;
        let since = Instant::now();
        peer.send(last_line).await;
        let (_, mut write) = tokio::io::split(peer.io);
        let sending = tokio::spawn(async move {
            for _ in 0..sends {
                sleep(millis(900)).await;
                if write.write_all(b"3 echo x\n").await.is_err() {
                    return;
                }
            }
            never().await;
        });
        due(since, is_gone_at, gone(&server)).await;
        sending.abort();
    }
}

// The client.

/// A client over a pipe without a supervisor, and its server, which has said hello.
async fn greeted(config: ClientConfig) -> (Client, Peer) {
    watch();
    let (near, far) = tokio::io::duplex(PIPE);
    let (client, connection) = Client::new(near, config);
    tokio::spawn(connection);
    let mut server = Peer::new(far);
    server.send(net::HELLO).await;
    client.connected().await.expect("connected");
    (client, server)
}

/// Whether the connector does not answer, or the server does not say hello.
#[tokio::test(start_paused = true)]
async fn client_connect_timeout() {
    for is_accepted in [false, true] {
        let (builder, mut net) = net::builder();
        let config = ClientConfig::new().connect_timeout(secs(4));
        let connecting = tokio::spawn(builder.config(config).connect());
        let attempt = net.attempt().await;
        let since = attempt.at;
        let (_silent, _unanswered) = match is_accepted {
            true => (Some(attempt.accept(PIPE)), None),
            false => (None, Some(attempt)),
        };
        let failed = due(since, secs(4), connecting).await.expect("no panic");
        assert!(failed.is_err(), "{failed:?}");
    }
}

/// A transport over which no hello comes.
#[tokio::test(start_paused = true)]
async fn client_connect_timeout_of_one_connection() {
    let (near, _far) = tokio::io::duplex(PIPE);
    let (client, connection) = Client::new(near, ClientConfig::new().connect_timeout(secs(4)));
    let since = Instant::now();
    let waiting = call(&client, "a");
    let ended = due(since, secs(4), connection).await;
    assert_eq!(ended, Err(ConnectionError::HandshakeTimeout));
    let lost = NotSent::Lost(ConnectionError::HandshakeTimeout);
    assert_eq!(outcome(waiting).await, Err(lost.into()));
}

/// The configured time, or the subscription's own.
#[tokio::test(start_paused = true)]
async fn client_ack_within() {
    for own in [None, Some(secs(2))] {
        let (client, mut server) = greeted(ClientConfig::new().ack_within(secs(7))).await;
        let wish = client.subscribe("t").window(4).ack_by_hand();
        let wish = if let Some(own) = own { wish.ack_within(own) } else { wish };
        let subscribing = tokio::spawn(wish.into_future());
        server.expect("1 /subscribe;window=4 t").await;
        server.send("1 ok;epoch=e;next=1;lease=60\n* t 1 a").await;
        let mut subscription = subscribing.await.expect("no panic").expect("subscribed");
        assert_eq!(net::number(&mut subscription).await, 1);
        let (since, mut events) = (Instant::now(), client.events());
        let event = due(since, own.unwrap_or(secs(7)), events.next()).await;
        assert!(matches!(event, Some(ConnectionEvent::Unacknowledged { sequence: 1, .. })));
    }
}

/// Requests of each kind without a connection end at the configured deadline, or at their own.
#[tokio::test(start_paused = true)]
async fn client_deadline() {
    for own in [None, Some(secs(2))] {
        let (builder, _net) = net::builder();
        let client = builder.config(ClientConfig::new().deadline(secs(7))).connect_lazily();
        let (since, after) = (Instant::now(), own.unwrap_or(secs(7)));
        let check = |error: CallError| {
            assert!(matches!(error, CallError::NotSent(NotSent::Deadline(_))), "{error:?}");
        };
        let call = client.call("m", "");
        let call = if let Some(own) = own { call.deadline(own) } else { call };
        check(due(since, after, call).await.unwrap_err());
        let (since, publish) = (Instant::now(), client.publish("t", ""));
        let publish = if let Some(own) = own { publish.deadline(own) } else { publish };
        check(due(since, after, publish).await.unwrap_err());
        let (since, one_way) = (Instant::now(), client.one_way("m", ""));
        let one_way = if let Some(own) = own { one_way.deadline(own) } else { one_way };
        check(due(since, after, one_way).await.unwrap_err().into());
        let (since, methods) = (Instant::now(), client.methods());
        let methods = if let Some(own) = own { methods.deadline(own) } else { methods };
        check(due(since, after, methods).await.unwrap_err());
        let (since, subscribe) = (Instant::now(), client.subscribe("t"));
        let subscribe = if let Some(own) = own { subscribe.deadline(own) } else { subscribe };
        check(due(since, after, subscribe.into_future()).await.unwrap_err());
        let (since, stream) = (Instant::now(), client.stream("m", ""));
        let mut stream = if let Some(own) = own { stream.deadline(own) } else { stream };
        check(due(since, after, stream.next()).await.unwrap().unwrap_err());
    }
}

/// The same for requests that were sent and are not answered, with other calls before and behind
/// them.
#[tokio::test(start_paused = true)]
async fn client_deadline_of_unanswered_requests() {
    let config = ClientConfig::new().deadline(secs(7)).probe(secs(600)).dead(secs(900));
    let (client, mut server) = greeted(config).await;
    sleep(secs(3)).await;
    let first = call(&client, "a");
    let since = Instant::now();
    server.expect("1 m a").await;
    sleep(secs(2)).await;
    let second = call(&client, "b");
    server.expect("2 m b").await;
    let unknown = Err(CallError::Unknown(Unknown::Deadline));
    assert_eq!(due(since, secs(7), outcome(first)).await, unknown);
    server.expect("* /cancel 1").await;
    assert_eq!(due(since, secs(9), outcome(second)).await, unknown);
    server.expect("* /cancel 2").await;
    // Their places are held until the terminal lines, and a deadline of its own is longer.
    assert_eq!((client.stats().pending, client.stats().in_flight), (2, 2));
    server.send("1 cut cancelled\n2 ok").await;
    let since = Instant::now();
    let long = call_within(&client, "c", Some(secs(20)));
    server.expect("3 m;ttl=20000 c").await;
    assert_eq!(due(since, secs(20), outcome(long)).await, unknown);
    // None at all.
    let asking = client.clone();
    let endless = tokio::spawn(async move { asking.call("m", "d").deadline(None).await });
    server.expect("* /cancel 3").await;
    server.expect("4 m d").await;
    sleep(secs(100)).await;
    assert!(!endless.is_finished());
    server.send("4 ok").await;
    endless.await.expect("no panic").expect("answered");
}

/// The same while the transport takes nothing. The line that is being offered has no such deadline.
#[tokio::test(start_paused = true)]
async fn client_deadline_while_the_transport_is_blocked() {
    let config = ClientConfig::new().deadline(secs(3)).probe(secs(600)).dead(secs(900));
    let (builder, mut net) = net::builder();
    let client = builder.config(config).connect_lazily();
    let mut server = net.attempt().await.accept(128);
    server.send(net::HELLO).await;
    client.connected().await.unwrap();
    let _offered = call_within(&client, &"x".repeat(500), Some(secs(100)));
    settle().await;
    let since = Instant::now();
    let late = call(&client, "b");
    let not_sent = Err(CallError::NotSent(NotSent::Deadline(None)));
    assert_eq!(due(since, secs(3), outcome(late)).await, not_sent);
}

/// Other kinds of requests that were sent. A stream is open once it is sent, and has no deadline
/// from then on.
#[tokio::test(start_paused = true)]
async fn client_deadline_of_other_unanswered_requests() {
    let config = ClientConfig::new().deadline(secs(3)).probe(secs(600)).dead(secs(900));
    let (client, mut server) = greeted(config).await;
    let unknown = CallError::Unknown(Unknown::Deadline);
    let since = Instant::now();
    assert_eq!(due(since, secs(3), client.publish("t", "")).await.unwrap_err(), unknown);
    let since = Instant::now();
    assert_eq!(due(since, secs(3), client.methods()).await.unwrap_err(), unknown);
    let since = Instant::now();
    let late = due(since, secs(3), client.subscribe("t").into_future()).await.unwrap_err();
    assert_eq!(late, unknown);
    let mut stream = client.stream("m", "");
    assert!(futures::poll!(std::pin::pin!(stream.next())).is_pending());
    sleep(secs(100)).await;
    let mut id = None;
    while id.is_none() {
        let line = server.line().await;
        id = line.strip_suffix(" m").map(str::to_owned);
    }
    server.send(&format!("{} more x", id.unwrap())).await;
    assert_eq!(stream.next().await.unwrap().unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn client_close_timeout() {
    let (client, mut server) = greeted(ClientConfig::new().close_timeout(secs(7))).await;
    let call = call(&client, "a");
    server.expect("1 m a").await;
    let since = Instant::now();
    let closed = due(since, secs(7), client.close()).await;
    assert_eq!(closed, Err(ConnectionError::CloseTimeout));
    assert!(outcome(call).await.is_err());
}

/// After its `/bye` with `last` a server may be silent for as long.
#[tokio::test(start_paused = true)]
async fn client_close_timeout_after_the_final_bye() {
    let (client, mut server) = greeted(ClientConfig::new().close_timeout(secs(7))).await;
    let call = call(&client, "a");
    server.expect("1 m a").await;
    let since = Instant::now();
    server.send("* /bye;last=1 shutdown").await;
    let lost = due(since, secs(7), outcome(call)).await;
    assert!(matches!(lost, Err(CallError::Unknown(Unknown::Lost(_)))), "{lost:?}");
}

/// [C7.1]
#[tokio::test(start_paused = true)]
async fn client_probe() {
    let (client, mut server) = greeted(ClientConfig::new().probe(secs(3)).dead(secs(8))).await;
    // Else the first line that it says would be a renewal of its own.
    client.one_way("m", "x").await.expect("sent");
    server.expect("* m x").await;
    let _call = call(&client, "a");
    server.expect("1 m a").await;
    due(Instant::now(), secs(3), server.expect("2 /renew")).await;
}

/// [C7.1] Bytes from the server restart the time.
#[tokio::test(start_paused = true)]
async fn client_dead() {
    let (client, mut server) = greeted(ClientConfig::new().probe(secs(3)).dead(secs(8))).await;
    let call = call(&client, "a");
    server.expect("1 m a").await;
    server.expect("2 /renew").await;
    server.send("2 ok;lease=60").await;
    let since = Instant::now();
    due(since, secs(3), server.expect("3 /renew")).await;
    let lost = due(since, secs(8), outcome(call)).await;
    let silent = CallError::Unknown(Unknown::Lost(ConnectionError::Silent));
    assert_eq!(lost.unwrap_err(), silent);
}

/// When the attempts of clients come that lost their connection at 0 and are refused from then on.
async fn attempts(config: ClientConfig, count: usize) -> Vec<Vec<Duration>> {
    let mut all = vec![Vec::new(); count];
    for seed in 0..40 {
        let (_client, server, mut net) =
            connected_with(config.clone().random(Random::seeded(seed))).await;
        let since = Instant::now();
        drop(server);
        for times in &mut all {
            let attempt = net.attempt().await;
            times.push(attempt.at - since);
            attempt.refuse();
        }
    }
    all
}

/// `times` are all over this window, and none is out of it.
fn fill(times: &[Duration], begin: Duration, end: Duration) {
    let (first, last) = (*times.iter().min().expect("some"), *times.iter().max().expect("some"));
    let tenth = (end - begin) / 10;
    assert!(first >= begin && last <= end + LATE, "{first:?} to {last:?}: {begin:?} to {end:?}");
    assert!(first < begin + 2 * tenth && last > end - 2 * tenth, "{first:?} to {last:?}");
}

#[tokio::test(start_paused = true)]
async fn client_reconnect_base() {
    let config = ClientConfig::new().reconnect_base(secs(4)).reconnect_max(secs(1_000));
    let times = attempts(config, 3).await;
    fill(&times[0], secs(0), secs(4));
    fill(&times[1], secs(4), secs(12));
    fill(&times[2], secs(12), secs(28));
}

#[tokio::test(start_paused = true)]
async fn client_reconnect_max() {
    let config = ClientConfig::new().reconnect_base(secs(4)).reconnect_max(secs(6));
    let times = attempts(config, 4).await;
    fill(&times[0], secs(0), secs(4));
    fill(&times[1], secs(4), secs(10));
    fill(&times[2], secs(10), secs(16));
    fill(&times[3], secs(16), secs(22));
}

/// After a connection that was open for this long, the next window is the first again. After a
/// shorter one it is not.
#[tokio::test(start_paused = true)]
async fn client_reconnect_stable() {
    for (open, is_stable) in [(secs(30) - millis(2), false), (secs(30) + millis(2), true)] {
        let mut pauses = Vec::new();
        for seed in 0..40 {
            let config = ClientConfig::new().random(Random::seeded(seed));
            // Its server says nothing more: it is not to be given up for that.
            let config = config.probe(secs(600)).dead(secs(1_200)).reconnect_stable(secs(30));
            let config = config.reconnect_base(secs(4)).reconnect_max(secs(1_000));
            let (client, server, mut net) = connected_with(config).await;
            drop(server);
            // Refused twice: the third window is four times the first.
            net.attempt().await.refuse();
            net.attempt().await.refuse();
            let attempt = net.attempt().await;
            let since = attempt.at;
            let server = attempt.greet().await;
            client.connected().await.expect("connected");
            sleep((since + open).saturating_duration_since(Instant::now())).await;
            let since = Instant::now();
            drop(server);
            pauses.push(net.attempt().await.at - since);
        }
        let longest = *pauses.iter().max().expect("some");
        assert_eq!(longest <= secs(4) + LATE, is_stable, "{open:?}: {longest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn client_give_up_after() {
    let config = ClientConfig::new().give_up_after(secs(11)).reconnect_max(millis(300));
    let (client, server, mut net) = connected_with(config).await;
    let since = Instant::now();
    drop(server);
    let refusing = tokio::spawn(async move {
        while let Some(attempt) = net.0.recv().await {
            attempt.refuse();
        }
    });
    // Its last attempt is waited for, and there is one in each 300 ms.
    due(since, secs(11), refusing).await.expect("no panic");
    assert!(client.call("m", "a").await.is_err());
}

/// A call's own deadline, before and after its line is sent.
#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_own_deadline() {
    let (client, mut server, mut net) = connected_with(ClientConfig::new()).await;
    let since = Instant::now();
    let sent = call_within(&client, "a", Some(millis(2_300)));
    assert!(server.line().await.starts_with("1 m;ttl="));
    let late = due(since, millis(2_300), outcome(sent)).await;
    assert_eq!(late, Err(CallError::Unknown(Unknown::Deadline)));
    drop(server);
    let _attempt = net.attempt().await;
    let since = Instant::now();
    let unsent = call_within(&client, "b", Some(millis(2_300)));
    let late = due(since, millis(2_300), outcome(unsent)).await;
    assert!(matches!(late, Err(CallError::NotSent(NotSent::Deadline(_)))), "{late:?}");
}

/// The deadline covers the whole reply, however many items came.
#[tokio::test(start_paused = true)]
async fn a_streamed_reply_ends_at_its_own_deadline() {
    let (client, mut server, mut net) = connected_with(ClientConfig::new()).await;
    let since = Instant::now();
    let mut items = client.stream("m", "a").deadline(millis(2_300));
    let (first, ()) = tokio::join!(items.next(), async {
        assert!(server.line().await.starts_with("1 m;ttl="));
        sleep(secs(1)).await;
        server.send("1 more x").await;
    });
    assert_eq!(first.expect("an item").expect("no error"), "x");
    let late = due(since, millis(2_300), items.next()).await;
    assert_eq!(late, Some(Err(CallError::Unknown(Unknown::Deadline))));
    drop(server);
    let _attempt = net.attempt().await;
    let since = Instant::now();
    let mut items = client.stream("m", "b").deadline(millis(2_300));
    let late = due(since, millis(2_300), items.next()).await.expect("an end");
    assert!(matches!(late, Err(CallError::NotSent(NotSent::Deadline(_)))), "{late:?}");
}

/// At 50 to 80 % of the lease, counted from the last renewal.
#[tokio::test(start_paused = true)]
async fn the_lease_is_renewed_between_half_and_four_fifths() {
    let mut shares = Vec::new();
    for seed in 0..40 {
        let config = ClientConfig::new().probe(secs(600)).dead(secs(1_200));
        let config = config.random(Random::seeded(seed));
        let (client, mut server) = greeted(config).await;
        let mut since = Instant::now();
        let _subscription = subscribed(&client, &mut server, 1).await;
        for id in 2..5 {
            due_within(since, secs(30)..secs(48), server.expect(&format!("{id} /renew"))).await;
            shares.push(since.elapsed());
            since = Instant::now();
            server.send(&format!("{id} ok;lease=60 offers:e:18")).await;
        }
    }
    fill(&shares, secs(30), secs(48));
}

/// Not before the retry hint, and spread over the time after it.
#[tokio::test(start_paused = true)]
async fn a_refused_call_is_resent_after_the_retry_hint() {
    let mut pauses = Vec::new();
    for seed in 0..40 {
        let config = ClientConfig::new().reconnect_base(secs(2)).random(Random::seeded(seed));
        let (client, mut server, _net) = connected_with(config).await;
        let call = call(&client, "a");
        server.expect("1 m a").await;
        let since = Instant::now();
        server.send("1 no;retry=5000 busy").await;
        server.expect("2 m a").await;
        pauses.push(since.elapsed());
        server.send("2 ok").await;
        outcome(call).await.expect("answered");
    }
    fill(&pauses, secs(5), secs(7));
}

/// A subscribe that is refused temporarily is sent again within twice the time of the retry hint.
#[tokio::test(start_paused = true)]
async fn a_refused_subscribe_is_resent_after_the_retry_hint() {
    let mut pauses = Vec::new();
    for seed in 0..40 {
        let config = ClientConfig::new().random(Random::seeded(seed)).probe(secs(600));
        let (client, mut server, mut net) = connected_with(config).await;
        let mut subscription = subscribed(&client, &mut server, 1).await;
        drop(server);
        let mut server = net.greet().await;
        server.expect("2 /subscribe;from=e:18 offers").await;
        let since = Instant::now();
        server.send("2 no;retry=5000 busy").await;
        let mut again = server.line().await;
        while again.ends_with(" /renew") {
            again = server.line().await;
        }
        let id = again.strip_suffix(" /subscribe;from=e:18 offers").expect("it asks again");
        pauses.push(since.elapsed());
        server.send(&format!("{id} ok;epoch=e;next=18;head=17;lease=60\n* offers 18 x")).await;
        assert!(matches!(next(&mut subscription).await, Delivery::Notification(_)));
    }
    fill(&pauses, secs(5), secs(10));
}

/// Clients that got the same retry hint return spread over the time after it.
#[tokio::test(start_paused = true)]
async fn clients_reconnect_spread_after_the_retry_hint() {
    let mut pauses = Vec::new();
    for seed in 0..40 {
        let config = ClientConfig::new().reconnect_base(secs(2)).random(Random::seeded(seed));
        let (_client, mut server, mut net) = connected_with(config).await;
        let since = Instant::now();
        server.send("* /bye;last=0;retry=60000 shutdown").await;
        drop(server);
        pauses.push(net.attempt().await.at - since);
    }
    let (first, last) = (*pauses.iter().min().unwrap(), *pauses.iter().max().unwrap());
    assert!(first >= secs(60) && last <= secs(90) + LATE, "{first:?} to {last:?}");
    assert!(last - first > secs(15), "{first:?} to {last:?}");
}

// The list of deadlines.

/// Fields whose deadline is another's: the system's, so that no virtual time can show it.
const ELSEWHERE: [(&str, &str); 2] = [
    (
        "server_tcp_user_timeout",
        "src/server/driver/accept.rs::accepted_sockets_detect_a_vanished_peer",
    ),
    ("server_key_time", "tests/it/keyed.rs::an_outcome_is_kept_in_time"),
];

/// The fields of a configuration that are times, by the end that they belong to.
fn times(end: &str) -> Vec<String> {
    let path = format!("{}/src/{end}/config.rs", env!("CARGO_MANIFEST_DIR"));
    let source = fs::read_to_string(path).expect("the configuration");
    let head = format!("pub struct {}Config {{", if end == "server" { "Server" } else { "Client" });
    let fields = source.split(&head).nth(1).and_then(|rest| rest.split("\n}").next());
    let fields =
        fields.expect("its struct").lines().filter_map(|line| line.trim().split_once(": "));
    let is_time = |kind: &str| kind.contains("Duration") || kind.contains("Time");
    let times = fields.filter(|(name, kind)| !name.starts_with('/') && is_time(kind));
    times.map(|(name, _)| format!("{end}_{}", name.rsplit(' ').next().expect("a name"))).collect()
}

/// Each duration of either configuration has a test here whose name begins with that of the
/// setting.
#[test]
fn every_duration_setting_has_a_deadline_test() {
    let times = [times("server"), times("client")].concat();
    assert!(times.len() >= 19, "{times:?}");
    let source = include_str!("deadlines.rs");
    let tests = source.lines().filter_map(|line| line.strip_prefix("async fn ")?.split('(').next());
    let tests: Vec<_> = tests.collect();
    let covers = |test: &str, time: &str| {
        test == time || test.strip_prefix(time).is_some_and(|rest| rest.starts_with('_'))
    };
    let missing: Vec<_> = times
        .iter()
        .filter(|time| !ELSEWHERE.iter().any(|(name, _)| name == time))
        .filter(|time| {
            // The longest name counts: `server_idle_log` is no test of `server_idle`.
            let own = |test: &&&str| {
                let longer = times.iter().filter(|other| other.len() > time.len());
                covers(test, time) && !longer.into_iter().any(|other| covers(test, other))
            };
            tests.iter().find(own).is_none()
        })
        .collect();
    assert!(
        missing.is_empty(),
        "no deadline test in tests/it/deadlines.rs begins with {missing:?}"
    );
    for (_, test) in ELSEWHERE {
        let (file, name) = test.split_once("::").expect("FILE::TEST");
        let source = fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR")));
        assert!(source.expect("the file").contains(&format!("fn {name}(")), "{test}");
    }
}

// The bounds themselves.

#[tokio::test(start_paused = true)]
#[should_panic(expected = "hangs: a line, or the end")]
async fn an_endless_wait_fails_the_bound() {
    RawPeer::new(tokio::io::duplex(1).0).expect("x\n").await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "came 2s from the start, not 3s..3s")]
async fn an_early_deadline_fails_the_bound() {
    due(Instant::now(), secs(3), sleep(secs(2))).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "did not come within 3.05")]
async fn a_late_deadline_fails_the_bound() {
    due(Instant::now(), secs(3), sleep(secs(8))).await;
}

/// For the next test only: the ways in which a test may hang.
#[tokio::test(start_paused = true)]
#[ignore = "it hangs"]
async fn hangs_for_ever() {
    watch();
    match std::env::var("BELLWIRE_TEST_HANGS").as_deref() {
        Ok("waiting") => never().await,
        Ok("spinning") => loop {
            tokio::task::yield_now().await;
        },
        _ => std::thread::sleep(secs(3_600)),
    }
}

/// A test that hangs outside of all bounds is named, and ends the run as a failure.
#[tokio::test]
async fn a_hanging_test_is_named_and_fails_the_run() {
    for way in ["waiting", "spinning", "blocking"] {
        let mut child = Command::new(std::env::current_exe().expect("a test is a file"));
        let child = child.args(["--exact", "deadlines::hangs_for_ever", "--ignored"]);
        let child = child.env("BELLWIRE_TEST_HANGS", way).env("BELLWIRE_TEST_STUCK", "1");
        let ended = child.output().expect("it runs");
        let text = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(101), "{way}: {text}");
        assert!(text.contains("test deadlines::hangs_for_ever hangs: "), "{way}: {text}");
    }
}
