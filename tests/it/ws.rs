//! WebSockets on both sides: calls and topics, the opening handshake, raw frames, and how they end.
// SECURITY.md, threat 44.
#![cfg(feature = "ws")]

use std::{io, sync::Arc, time::Duration};

use bellwire::{
    CallError, Client, ClientConfig, ConnectionError, Connector, Delivery, Listener, Publisher,
    Router, Server, ServerConfig, ServerHandle,
    memory::{self, MemoryConnector},
    protocol::Code,
    server::{PeerAddr, Principal, TokenAuthenticator},
    topic::MemoryTopics,
    ws::{self, Fault, NoWebSocket, Origins, Refusal, WsConfig, WsConnector, WsListener, upgraded},
};
use bellwire_testkit::{bound::bounded, harness, websockets};
use proptest::prelude::*;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex},
    net::TcpListener,
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::{Instant, advance},
};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// The first frame of a message, a further one, and the last one.
const FIRST: u8 = 0x02;
const MORE: u8 = 0x00;
const LAST: u8 = 0x80;

fn router() -> Router {
    Router::new()
        .method("echo", async |payload: bytes::Bytes| payload)
        .method("whoami", async |who: Principal| who.name().unwrap_or("nobody").to_owned())
        .method("stall", async || std::future::pending::<()>().await)
}

/// A server of WebSockets in memory. It ends when it is dropped.
struct WsServer {
    pipes: MemoryConnector,
    publisher: Publisher,
    handle: ServerHandle,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<()>>,
}

impl WsServer {
    fn start() -> Self {
        Self::with(WsConfig::new(), ServerConfig::new())
    }

    fn with(ws: WsConfig, config: ServerConfig) -> Self {
        Self::of(router(), ws, |server| server.config(config))
    }

    fn of(
        router: Router,
        ws: WsConfig,
        build: impl FnOnce(
            Server<WsListener<memory::MemoryListener>>,
        ) -> Server<WsListener<memory::MemoryListener>>,
    ) -> Self {
        let (listener, pipes) = memory::pair();
        let server = build(Server::new(WsListener::new(listener, ws)));
        let (stop, stopped) = oneshot::channel::<()>();
        let (publisher, handle) = (server.publisher(), server.handle());
        let serve = server.serve(router).with_graceful_shutdown(async { drop(stopped.await) });
        let task = tokio::spawn(serve.into_future());
        Self { pipes, publisher, handle, stop: Some(stop), task }
    }

    /// A connection, of which nothing was sent yet.
    async fn connect(&self) -> FramePeer {
        FramePeer { io: self.pipes.open().await.expect("the server listens"), read: Vec::new() }
    }

    /// A connection whose opening handshake is done, and whose `/hello` was read.
    async fn open(&self) -> FramePeer {
        let mut peer = self.connect().await;
        assert!(peer.ask(&request(&[])).await.starts_with("HTTP/1.1 101 "));
        let (first, hello) = peer.frame().await.expect("a hello");
        assert!(first == BINARY && hello.starts_with(b"* /hello;version=1;"));
        peer
    }

    /// A connector of clients to it.
    fn connector(&self) -> impl Connector<Io = ws::WsStream<DuplexStream>> + use<> {
        let pipes = self.pipes.clone();
        move |url: &str| {
            let (pipes, url) = (pipes.clone(), url.to_owned());
            async move { ws::open(pipes.open().await?, &url, &WsConfig::new()).await }
        }
    }
}

impl Drop for WsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request to open a WebSocket, with some headers changed. An empty value leaves a header out.
fn request(changes: &[(&str, &str)]) -> String {
    let mut headers = vec![
        ("Host", "offers.example"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", "bellwire.v1"),
    ];
    for (name, value) in changes {
        headers.retain(|(one, _)| one != name);
        headers.push((name, value));
    }
    let mut head = "GET / HTTP/1.1\r\n".to_owned();
    for (name, value) in headers.into_iter().filter(|(_, value)| !value.is_empty()) {
        head += &format!("{name}: {value}\r\n");
    }
    head + "\r\n"
}

/// A frame of a client, with a mask.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x5a, 0x01, 0xff, 0x10];
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend((long as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A client that speaks in frames.
struct FramePeer {
    io: DuplexStream,
    read: Vec<u8>,
}

impl FramePeer {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        bounded("room to write", self.io.write_all(bytes.as_ref())).await.expect("written");
    }

    /// Reads more. Returns whether there was anything.
    async fn more(&mut self) -> bool {
        let read = bounded("bytes, or the end", self.io.read_buf(&mut self.read)).await;
        read.is_ok_and(|count| count > 0)
    }

    /// Sends a request of HTTP, and reads the head of the response.
    async fn ask(&mut self, request: &str) -> String {
        self.send(request).await;
        loop {
            let end = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            if let Some(end) = end {
                return String::from_utf8(self.read.drain(..end + 4).collect()).expect("text");
            }
            assert!(self.more().await, "no response, but {:?}", self.read.escape_ascii());
        }
    }

    /// The next frame: its first byte and its payload. `None` at the end.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((first, header, length)) = self.header()
                && self.read.len() >= header + length
            {
                let payload = self.read[header..header + length].to_vec();
                self.read.drain(..header + length);
                return Some((first, payload));
            }
            if !self.more().await {
                assert!(self.read.is_empty(), "the last frame is whole");
                return None;
            }
        }
    }

    /// The first byte of the next frame, and the lengths of its header and its payload.
    fn header(&self) -> Option<(u8, usize, usize)> {
        let long = |range| self.read.get(range).map(|bytes: &[u8]| bytes.to_vec());
        let first = *self.read.first()?;
        let second = *self.read.get(1)?;
        assert!(second < 0x80, "a server does not mask");
        match second {
            126 => {
                let length = long(2..4)?;
                Some((first, 4, usize::from(u16::from_be_bytes([length[0], length[1]]))))
            }
            127 => {
                let length = u64::from_be_bytes(long(2..10)?.try_into().ok()?);
                Some((first, 10, length as usize))
            }
            short => Some((first, 2, short.into())),
        }
    }

    /// Expects exactly these frames next.
    async fn expect(&mut self, frames: &[(u8, &[u8])]) {
        for (first, payload) in frames {
            let (got, bytes) = self.frame().await.expect("a frame");
            assert_eq!(
                (got, bytes.escape_ascii().to_string()),
                (*first, payload.escape_ascii().to_string())
            );
        }
    }

    /// Expects a close frame with this code, and then the end, within the time of a peer that does
    /// not close.
    async fn expect_close(&mut self, code: u16) {
        self.expect(&[(CLOSE, &code.to_be_bytes())]).await;
        assert_eq!(self.frame().await, None);
    }

    async fn expect_silence(&mut self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let mut byte = [0];
        let is_silent = futures::poll!(std::pin::pin!(self.io.read(&mut byte))).is_pending();
        assert!(is_silent && self.read.is_empty(), "{byte:?} {:?}", self.read.escape_ascii());
    }
}

async fn is_it_raining(news: &mut bellwire::Subscription, text: &str) {
    let next = bounded("a message", news.next()).await;
    let Some(Delivery::Notification(next)) = next else { panic!("{next:?}") };
    assert_eq!(next.payload, text);
}

/// [B24.1] [C24.1] All of it, over sockets.
#[tokio::test]
async fn calls_and_subscriptions_work_over_websockets() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let server = Server::new(WsListener::new(listener, WsConfig::new().path("/bellwire")));
    let (publisher, address) = (server.publisher(), server.local_addr().expect("bound"));
    let serving = tokio::spawn(server.serve(router()).into_future());

    let builder = Client::builder().address(format!("ws://{address}/bellwire?any=1"));
    let connecting = builder.connector(WsConnector::new()).connect();
    let client = bounded("a connection", connecting).await.expect("connected");
    for length in [0, 1, 125, 126, 20_000, 60_000] {
        let payload = vec![b'x'; length];
        let reply = bounded("a reply", client.call("echo", &payload).into_future()).await;
        assert_eq!(reply.expect("answered"), payload);
    }
    let calls = (0..500).map(|n| client.call("echo", n.to_string()).into_future());
    let replies = bounded("replies", futures::future::join_all(calls)).await;
    for (n, reply) in replies.into_iter().enumerate() {
        assert_eq!(reply.expect("answered"), n.to_string());
    }
    let mut news = bounded("an ok", client.subscribe("news").into_future()).await.expect("there");
    publisher.publish("news", "it rains").await.expect("published");
    is_it_raining(&mut news, "it rains").await;
    bounded("the end", client.close()).await.expect("in order");

    let elsewhere = Client::builder().address(format!("ws://{address}/elsewhere"));
    let connecting = elsewhere.connector(WsConnector::new()).reconnect(false).connect();
    let error = bounded("a refusal", connecting).await.expect_err("no such path");
    let text = "the connection failed: the server refused the WebSocket, with the HTTP status 404";
    assert_eq!(error.to_string(), text);
    serving.abort();
}

/// A byte stream of any transport.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A subscription goes on over another transport, if both servers have the same topics.
#[tokio::test(start_paused = true)]
async fn a_subscription_resumes_over_another_transport() {
    let store = MemoryTopics::new(&bellwire::Random::seeded(1));
    let over_ws = WsServer::of(router(), WsConfig::new(), |server| server.topics(store.clone()));
    let (listener, pipes) = memory::pair();
    let plain = Server::new(listener).topics(store);
    let (plain_sessions, publisher) = (plain.handle(), over_ws.publisher.clone());
    tokio::spawn(plain.serve(router()).into_future());

    let ws_pipes = over_ws.pipes.clone();
    let connector = move |address: &str| {
        let (pipes, ws_pipes, url) = (pipes.clone(), ws_pipes.clone(), address.to_owned());
        async move {
            let io: Box<dyn Stream> = match url.starts_with("ws:") {
                true => Box::new(ws::open(ws_pipes.open().await?, &url, &WsConfig::new()).await?),
                false => Box::new(pipes.open().await?),
            };
            Ok(io)
        }
    };
    let builder = Client::builder().addresses(["ws://one/", "two"]).connector(connector);
    let client = builder.connect().await.expect("connected");
    let mut news = client.subscribe("news").await.expect("subscribed");
    for (text, sessions) in [("one", &over_ws.handle), ("two", &plain_sessions)] {
        publisher.publish("news", text).await.expect("published");
        is_it_raining(&mut news, text).await;
        let open = sessions.sessions();
        assert_eq!(open.len(), 1, "{text}");
        open.iter().for_each(|session| session.close(Code::from_static("maintenance")));
    }
    publisher.publish("news", "three").await.expect("published");
    is_it_raining(&mut news, "three").await;
    assert_eq!(client.stats().connections, 3);
}

/// [B24.1] Frames of a message may be cut anywhere, and other frames may come between them.
/// [B24.4] Each ping is answered.
#[tokio::test(start_paused = true)]
async fn lines_may_be_cut_over_frames() {
    let server = WsServer::start();
    let mut peer = server.open().await;
    let frames = [
        frame(FIRST, b"1 echo he"),
        frame(PING, b"there?"),
        frame(MORE, b"llo\n2 ec"),
        frame(PONG, b"unasked"),
        frame(MORE, b""),
        frame(LAST, b"ho\n"),
        frame(BINARY, b"3 echo x\n"),
    ];
    peer.send(frames.concat()).await;
    peer.expect(&[(PONG, b"there?"), (BINARY, b"1 ok hello\n2 ok\n3 ok x\n")]).await;
    // One byte at a time.
    for byte in [frame(FIRST, b"4 echo y"), frame(PING, b""), frame(LAST, b"\n")].concat() {
        peer.send([byte]).await;
        tokio::task::yield_now().await;
    }
    peer.expect(&[(PONG, b""), (BINARY, b"4 ok y\n")]).await;
}

/// [B24.1] A server puts whole lines into a message, as many as it writes at once. Its frames have
/// at most 16 KiB, so that a longer line takes several.
#[tokio::test(start_paused = true)]
async fn a_message_of_the_server_holds_whole_lines() {
    let server = WsServer::start();
    let mut peer = server.open().await;
    let many: String = (1..=50).map(|id| format!("{id} echo {id}\n")).collect();
    let replies: String = (1..=50).map(|id| format!("{id} ok {id}\n")).collect();
    peer.send(frame(BINARY, many.as_bytes())).await;
    peer.expect(&[(BINARY, replies.as_bytes())]).await;

    let long = "x".repeat(40_000);
    peer.send(frame(BINARY, format!("51 echo {long}\n52 echo y\n").as_bytes())).await;
    let (mut message, mut firsts) = (Vec::new(), Vec::new());
    while !message.ends_with(b"52 ok y\n") {
        let (first, payload) = peer.frame().await.expect("a frame");
        assert!(payload.len() <= 16 * 1024);
        message.extend(payload);
        firsts.push(first);
    }
    assert_eq!(message, format!("51 ok {long}\n52 ok y\n").as_bytes());
    assert_eq!(firsts, [FIRST, MORE, LAST]);
}

/// [B24.2] [S24.5] A fault ends the reading. What was read before is answered, and the close frame
/// has the code of the fault.
#[tokio::test(start_paused = true)]
async fn a_fault_is_closed_with_its_code() {
    let server = WsServer::with(WsConfig::new().max_message(1_000), ServerConfig::new());
    for (fault, code) in [
        (frame(TEXT, b"2 echo x\n"), 1003),
        (frame(BINARY, b"2 echo x"), 1007),
        (frame(BINARY, b""), 1007),
        ([frame(FIRST, b"2 echo x\n"), frame(LAST, b"3 echo")].concat(), 1007),
        (frame(BINARY, &[b'x'; 1_001]), 1009),
        ([frame(FIRST, &[b'x'; 600]), frame(LAST, &[b'x'; 401])].concat(), 1009),
        (vec![BINARY, 0x01, b'\n'], 1002),
        (frame(0xc2, b"2 echo x\n"), 1002),
        (frame(0x83, b""), 1002),
        (frame(LAST, b"2 echo x\n"), 1002),
        (frame(0x09, b""), 1002),
        (frame(PING, &[0; 126]), 1002),
        (frame(CLOSE, &[3]), 1002),
        (frame(CLOSE, &1005_u16.to_be_bytes()), 1002),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    ] {
        let mut peer = server.open().await;
        // What comes behind the fault is not processed.
        peer.send([frame(BINARY, b"1 echo first\n"), fault, frame(BINARY, b"9 echo z\n")].concat())
            .await;
        let (first, replies) = peer.frame().await.expect("a reply");
        assert!(first == BINARY && replies.starts_with(b"1 ok first\n"), "{code}");
        assert!(!replies.windows(4).any(|bytes| bytes == b"9 ok"), "{code}");
        peer.expect_close(code).await;
    }
    bounded("the end of all", async {
        while server.handle.stats().connections > 0 {
            advance(Duration::from_millis(100)).await;
        }
    })
    .await;
}

/// [S24.5] The half line of a fault has no effect.
#[tokio::test(start_paused = true)]
async fn a_half_line_at_the_end_of_a_message_has_no_effect() {
    let server = WsServer::start();
    let mut peer = server.open().await;
    peer.send([frame(BINARY, b"1 echo x\n2 ec"), frame(BINARY, b"ho y\n")].concat()).await;
    peer.expect(&[(BINARY, b"1 ok x\n")]).await;
    peer.expect_close(1007).await;
}

/// A client may write frames before it has read the response.
#[tokio::test(start_paused = true)]
async fn bytes_behind_the_request_are_read() {
    let server = WsServer::start();
    let mut peer = server.connect().await;
    let long = "x".repeat(3_000);
    let frames = [
        frame(FIRST, b"1 echo x\n2 ec"),
        frame(PING, b"there?"),
        frame(LAST, format!("ho {long}\n").as_bytes()),
    ];
    peer.send([request(&[]).into_bytes(), frames.concat()].concat()).await;
    assert!(peer.ask("").await.starts_with("HTTP/1.1 101 "));
    let (mut lines, mut firsts) = (Vec::new(), Vec::new());
    while !lines.ends_with(format!("\n1 ok x\n2 ok {long}\n").as_bytes()) {
        let (first, payload) = peer.frame().await.expect("a frame");
        if first != PONG {
            lines.extend(payload);
        }
        firsts.push(first);
    }
    assert_eq!(firsts.iter().filter(|first| **first == PONG).count(), 1);
}

/// [S24.1] [S24.2] [B24.3] What a server answers to a request that it does not accept.
/// SECURITY.md, threat 44.
#[tokio::test(start_paused = true)]
async fn requests_that_are_not_accepted_get_a_status() {
    let listed = Origins::list(["https://app.example"]);
    let origins = [Origins::Same, listed, Origins::Any];
    let servers = origins.map(|origins| {
        WsServer::with(WsConfig::new().origins(origins).path("/"), ServerConfig::new())
    });
    let origin = |origin: &'static str| request(&[("Origin", origin)]);
    for (request, statuses) in [
        (request(&[]), [101, 101, 101]),
        (origin("http://offers.example"), [101, 101, 101]),
        (origin("https://offers.example"), [101, 101, 101]),
        (origin("https://app.example"), [403, 101, 101]),
        (origin("https://evil.example"), [403, 403, 101]),
        (origin("http://offers.example:81"), [403, 403, 101]),
        (origin("https://app.example:81"), [403, 403, 101]),
        (origin("HTTP://Offers.EXAMPLE"), [101, 101, 101]),
        (origin("https://APP.example"), [403, 101, 101]),
        (origin("null"), [403, 403, 101]),
        (request(&[("Sec-WebSocket-Protocol", "")]), [400; 3]),
        (request(&[("Sec-WebSocket-Protocol", "bellwire.v2, chat")]), [400; 3]),
        (request(&[("Sec-WebSocket-Protocol", "chat, bellwire.v1")]), [101; 3]),
        (request(&[("Sec-WebSocket-Extensions", "permessage-deflate")]), [101; 3]),
        (request(&[("Sec-WebSocket-Version", "8")]), [426; 3]),
        (request(&[("Upgrade", "")]), [426; 3]),
        (request(&[("Sec-WebSocket-Key", "")]), [400; 3]),
        (request(&[]).replace("GET /", "GET /elsewhere"), [404; 3]),
        (request(&[]).replace("GET", "POST"), [400; 3]),
        ("1 echo hello\n".into(), [400; 3]),
        ("GET / HTTP/1.1\nHost: a\n\n".into(), [400; 3]),
        (request(&[("X", "a\nOrigin: http://offers.example")]), [400; 3]),
        (request(&[("X", "a\rb")]), [400; 3]),
        (request(&[("X", "a\0b")]), [400; 3]),
        (request(&[("X", "a\r\n folded")]), [400; 3]),
        (request(&[]).replace("HTTP/1.1", "HTTP/1.0"), [400; 3]),
        (request(&[("host", "evil.example")]), [400; 3]),
        (request(&[("Connection", "keep-alive, Upgrade")]), [101; 3]),
        (request(&[("UPGRADE", "WebSocket"), ("Upgrade", "")]), [101; 3]),
        (request(&[("Sec-WebSocket-Version", "")]), [426; 3]),
        (request(&[("Origin", "http://a.example"), ("X-Forwarded-Host", "a.example")]), {
            [403, 403, 101]
        }),
        (request(&[("Origin", "http://[::1]"), ("Host", "[::1]:80")]), [101; 3]),
        (request(&[("Origin", "http://[::1]:80"), ("Host", "[::1]")]), [101; 3]),
        (request(&[("Origin", "http://[::1]"), ("Host", "[::1]:81")]), [403, 403, 101]),
        (request(&[("Origin", "http://a.example"), ("Host", "ada@a.example")]), [403, 403, 101]),
        (request(&[("Origin", "http://offers.example"), ("origin", "null")]), [403; 3]),
        (request(&[("Cookie", &"x".repeat(16 * 1024))]), [431; 3]),
    ] {
        for (server, status) in servers.iter().zip(statuses) {
            let mut peer = server.connect().await;
            let response = peer.ask(&request).await;
            assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{request}\n{response}");
            assert!(!response.to_lowercase().contains("sec-websocket-extensions"), "{response}");
            let is_echoed = response.contains("sec-websocket-protocol: bellwire.v1\r\n");
            assert_eq!(is_echoed, status == 101);
        }
    }
}

/// A refused connection is closed, and none of its bytes is processed.
#[tokio::test(start_paused = true)]
async fn a_refused_connection_is_closed() {
    let server = WsServer::start();
    let mut peer = server.connect().await;
    peer.ask(&request(&[("Origin", "http://evil.example")])).await;
    peer.send(frame(BINARY, b"1 echo x\n")).await;
    peer.io.shutdown().await.expect("shut down");
    while peer.more().await {}
    assert_eq!(peer.read, b"pages of this origin may not connect\n");
    let error = server.connector().connect("ws://any/").await.map(drop);
    assert!(error.is_ok(), "{error:?}");
}

/// The time for the handshake is that of TLS. A peer that sends it slowly is closed.
#[tokio::test(start_paused = true)]
async fn a_slow_handshake_is_given_up() {
    let server = WsServer::start();
    let (begin, request) = (Instant::now(), request(&[]));
    let mut peer = server.connect().await;
    // The time counts from the accept.
    peer.expect_silence().await;
    for byte in request.bytes().take(9) {
        peer.send([byte]).await;
        advance(Duration::from_secs(1)).await;
    }
    peer.expect_silence().await;
    assert_eq!(server.handle.stats().connections, 1);
    assert_eq!(peer.frame().await, None);
    let waited = begin.elapsed();
    assert!((10_000..10_050).contains(&waited.as_millis()), "{waited:?}");
    assert_eq!(server.handle.stats().connections, 0);
}

/// [B24.4] The limits on the time of a line, and on silence, are those of other transports. Pings
/// do not extend them.
#[tokio::test(start_paused = true)]
async fn a_slow_line_is_ended_in_spite_of_pings() {
    let server = WsServer::start();
    let mut peer = server.open().await;
    peer.send(frame(BINARY, b"1 echo x\n")).await;
    peer.expect(&[(BINARY, b"1 ok x\n")]).await;
    // The message is announced as a whole, and a part of it comes.
    peer.send(&frame(BINARY, b"2 echo something long\n")[..14]).await;
    peer.expect_silence().await;
    advance(Duration::from_millis(10_100)).await;
    peer.expect_close(1000).await;

    let mut peer = server.open().await;
    peer.send(frame(BINARY, b"1 echo x\n")).await;
    peer.expect(&[(BINARY, b"1 ok x\n")]).await;
    for _ in 0..119 {
        advance(Duration::from_secs(1)).await;
        peer.send(frame(PING, b"")).await;
        peer.expect(&[(PONG, b"")]).await;
    }
    advance(Duration::from_millis(1_100)).await;
    peer.expect(&[(BINARY, b"* /bye;last=1 idle\n")]).await;
    peer.expect_close(1000).await;
}

/// [S24.4] A server that stops sends `/bye`, and at the end a close frame.
#[tokio::test(start_paused = true)]
async fn a_drain_ends_with_a_close_frame() {
    let mut server = WsServer::start();
    let mut peer = server.open().await;
    server.stop.take();
    peer.expect(&[(BINARY, b"* /bye shutdown\n")]).await;
    peer.send(frame(BINARY, b"1 echo x\n")).await;
    peer.expect(&[(BINARY, b"1 ok x\n"), (BINARY, b"* /bye;last=1 shutdown\n")]).await;
    peer.expect(&[(CLOSE, &1000_u16.to_be_bytes())]).await;
    let begin = Instant::now();
    peer.send(frame(CLOSE, &1000_u16.to_be_bytes())).await;
    assert_eq!(peer.frame().await, None);
    bounded("the end", &mut server.task).await.expect("no panic").expect("no error");
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

/// [S24.4] The close frame stands behind all replies, also for a client that begins to read late.
#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_a_slow_reader() {
    let long = Router::new().method("long", async || "x".repeat(30_000));
    let (listener, upgrades) = upgraded::<DuplexStream>(WsConfig::new());
    let (stop, stopped) = oneshot::channel::<()>();
    let serve =
        Server::new(listener).serve(long).with_graceful_shutdown(async { drop(stopped.await) });
    let serving = tokio::spawn(serve.into_future());
    let (io, theirs) = duplex(1 << 10);
    upgrades.accept(theirs, PeerAddr::Other("narrow".into())).await.expect("the server serves");
    let mut peer = FramePeer { io, read: Vec::new() };
    let (_, hello) = peer.frame().await.expect("a hello");
    assert!(hello.starts_with(b"* /hello;"));
    let requests: String = (1..=20).map(|id| format!("{id} long\n")).collect();
    peer.send(frame(BINARY, requests.as_bytes())).await;
    drop(stop);
    // The grace period is over, and replies fill the pipe, a frame and the buffer of the server.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (mut lines, mut last) = (Vec::new(), None);
    while let Some((first, payload)) = peer.frame().await {
        match first {
            CLOSE => assert_eq!(last.replace(payload), None, "one close frame"),
            _ => lines.extend(payload),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let lines = String::from_utf8(lines).expect("text");
    let answered = lines.lines().filter(|line| line.contains(" ok xxx")).count();
    assert!(answered >= 5 && lines.contains(&format!("* /bye;last={answered} shutdown\n")));
    assert!(lines.ends_with("\n20 no closing\n"), "{}", &lines[lines.len() - 60..]);
    assert_eq!(last.as_deref(), Some(&1000_u16.to_be_bytes()[..]));
    bounded("the end of the server", serving).await.expect("no panic").expect("served");
}

/// [S24.4] The close frame is written also if the transport has no room when its turn comes.
#[tokio::test(start_paused = true)]
async fn a_close_frame_waits_for_room() {
    let (listener, upgrades) = upgraded::<DuplexStream>(WsConfig::new());
    let serving = tokio::spawn(Server::new(listener).serve(router()).into_future());
    let (io, theirs) = duplex(1);
    upgrades.accept(theirs, PeerAddr::Other("narrow".into())).await.expect("the server serves");
    let mut peer = FramePeer { io, read: Vec::new() };
    let (_, hello) = peer.frame().await.expect("a hello");
    assert!(hello.starts_with(b"* /hello;"));
    peer.send(frame(BINARY, b"1 /quit\n")).await;
    peer.expect(&[(BINARY, b"1 ok\n")]).await;
    peer.expect_close(1000).await;
    serving.abort();
}

/// Only one frame with data waits for a transport without room. So what the other end does not read
/// counts against the marks of the server, and the bounds of the client.
#[tokio::test(start_paused = true)]
async fn only_one_frame_waits() {
    let (ours, theirs) = duplex(1 << 10);
    let config = WsConfig::new();
    let opening = ws::open(ours, "ws://any:81/b", &config);
    let (opened, _server) = tokio::join!(opening, answer(theirs, ACCEPTED, b""));
    let mut client = opened.expect("opened");
    let (line, mut total) = ([&[b'x'; 999][..], b"\n"].concat(), 0);
    while let std::task::Poll::Ready(written) = futures::poll!(std::pin::pin!(client.write(&line)))
    {
        total += written.expect("written");
        assert!(total < 40_000, "{total}");
    }
    assert!(total > 0);
}

/// [S24.4] A peer that does not answer the close frame is closed all the same.
#[tokio::test(start_paused = true)]
async fn a_close_frame_without_an_answer_is_bounded() {
    let server = WsServer::start();
    let mut peer = server.open().await;
    peer.send(frame(BINARY, b"1 /quit\n")).await;
    peer.expect(&[(BINARY, b"1 ok\n"), (CLOSE, &1000_u16.to_be_bytes())]).await;
    let begin = Instant::now();
    bounded("the end", async {
        while server.handle.stats().connections > 0 {
            peer.io.write_all(&frame(PING, b"x")).await.ok();
            advance(Duration::from_millis(500)).await;
        }
    })
    .await;
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

/// [S24.3] The close frame of a client is answered at once. Its requests are cancelled.
#[tokio::test(start_paused = true)]
async fn a_close_frame_of_a_client_ends_both_directions() {
    let dropped = Arc::new(Notify::new());
    let told = dropped.clone();
    let stall = move || {
        let told = NotifyOnDrop(told.clone());
        async move {
            std::future::pending::<()>().await;
            drop(told);
        }
    };
    let server =
        WsServer::of(Router::new().method("stall", stall), WsConfig::new(), |server| server);
    let mut peer = server.open().await;
    let close = [&1001_u16.to_be_bytes()[..], b"bye"].concat();
    peer.send([frame(BINARY, b"1 stall\n"), frame(CLOSE, &close)].concat()).await;
    peer.expect_close(1001).await;
    bounded("the cancelled handler", dropped.notified()).await;
}

struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// [B24.4] Many pings are answered with a bounded buffer, and the last one is answered.
#[tokio::test(start_paused = true)]
async fn a_flood_of_pings_is_bounded() {
    let server = WsServer::start();
    let mut peer = server.open().await;
    let FramePeer { io, read } = &mut peer;
    let (mut reader, mut writer) = tokio::io::split(io);
    // The peer reads nothing before it has sent all.
    let count = 100_000_u32;
    let flood = async {
        for number in 0..count {
            writer.write_all(&frame(PING, &number.to_be_bytes())).await.expect("written");
        }
    };
    bounded("room for all", flood).await;
    let mut total = 0;
    bounded("the last pong", async {
        while !read.ends_with(&(count - 1).to_be_bytes()) {
            read.clear();
            total += reader.read_buf(read).await.expect("read");
        }
    })
    .await;
    assert!(total < 6 * count as usize, "{total}");
}

/// [B24.4] A peer that sends pings and headers in tiny pieces is read in batches, and each ping is
/// answered. Virtual time advances only by the pauses. SECURITY.md, threat 6.
#[tokio::test(start_paused = true)]
async fn tiny_frames_without_lines_are_batched() {
    let server = WsServer::start();
    let (mut peer, begin) = (server.open().await, Instant::now());
    for _ in 0..20 {
        peer.send(frame(PING, b"")).await;
        peer.expect(&[(PONG, b"")]).await;
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
    for byte in frame(PING, b"").repeat(200) {
        peer.send([byte]).await;
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }
    peer.expect(&[(PONG, &b""[..]); 200]).await;
    peer.send(frame(BINARY, b"1 echo x\n")).await;
    peer.expect(&[(BINARY, b"1 ok x\n")]).await;
    // All of it was written before the clock could move: it was read in the pauses behind.
    let waited = begin.elapsed();
    let pause = Duration::from_millis(10);
    assert!((pause..pause * 4).contains(&waited), "{waited:?}");
}

/// One connection too many gets the same lines as over TCP, behind the handshake.
#[tokio::test(start_paused = true)]
async fn one_connection_too_many_is_told_within_the_websocket() {
    let server = WsServer::with(WsConfig::new(), ServerConfig::new().connections(1));
    let _first = server.open().await;
    let mut second = server.connect().await;
    assert!(second.ask(&request(&[])).await.starts_with("HTTP/1.1 101 "));
    let (_, lines) = second.frame().await.expect("lines");
    let lines = String::from_utf8(lines).expect("text");
    assert!(lines.starts_with("* /hello;") && lines.contains("\n* /bye;last=0;"), "{lines}");
    second.expect_close(1000).await;
}

/// [C24.2] Credentials travel in `/auth`. An address with a user is invalid.
#[tokio::test(start_paused = true)]
async fn clients_authenticate_within_the_websocket() {
    let tokens = TokenAuthenticator::new().token("secret", Principal::new("ada"));
    let build = |server: Server<_>| server.authenticator(tokens);
    let server = WsServer::of(router(), WsConfig::new(), build);
    let config = ClientConfig::new().auth(TokenAuthenticator::SCHEME, "secret");
    let builder = Client::builder().address("ws://any/").config(config);
    let client = builder.connector(server.connector()).connect().await.expect("connected");
    assert_eq!(client.call("whoami", "").await.expect("answered"), "ada");

    for (address, text) in [
        ("ws://ada:secret@offers.example/", "it has a user"),
        ("wss://offers.example/", "the connector has no TLS"),
        ("offers.example:7440", "it is not ws://"),
    ] {
        let builder = Client::builder().address(address).connector(WsConnector::new());
        let error = builder.connect().await.expect_err(address);
        assert!(matches!(error, ConnectionError::Address { .. }), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

/// A server in memory that answers the handshake of one client, and then sends `frames`.
async fn answer(mut io: DuplexStream, response: &str, frames: &[u8]) -> DuplexStream {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.expect("a request"));
    }
    let head = String::from_utf8(head).expect("text");
    assert!(head.starts_with("GET /b HTTP/1.1\r\nHost: any:81\r\n"), "{head}");
    assert!(head.contains("\r\nSec-WebSocket-Protocol: bellwire.v1\r\n"), "{head}");
    assert!(!head.contains("Origin") && !head.contains("Extensions"), "{head}");
    let headers = head.lines().filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name, value.as_bytes()));
    let (_, upgrades) = upgraded::<DuplexStream>(WsConfig::new());
    let accepted = upgrades.check(headers).expect("a good request");
    let accept = accepted.headers()[2].1;
    let response = response.replace("ACCEPT", accept);
    io.write_all(&[response.as_bytes(), frames].concat()).await.expect("written");
    io
}

const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n\
    Sec-WebSocket-Protocol: bellwire.v1\r\n\r\n";

/// [C24.1] A client does not go on without the subprotocol.
#[tokio::test(start_paused = true)]
async fn a_client_checks_the_response() {
    let other = ACCEPTED.replace("bellwire.v1", "chat");
    let without = ACCEPTED.replace("Sec-WebSocket-Protocol: bellwire.v1\r\n", "");
    let forged = ACCEPTED.replace("ACCEPT", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let long = ACCEPTED.replace("\r\n\r\n", &format!("\r\nX: {}\r\n\r\n", "x".repeat(16 * 1024)));
    for (response, expected) in [
        (&*other, NoWebSocket::Subprotocol),
        (&without, NoWebSocket::Subprotocol),
        (&forged, NoWebSocket::Malformed),
        (&long, NoWebSocket::Malformed),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", NoWebSocket::Status(403)),
        ("* /hello;version=1\n", NoWebSocket::NotHttp),
    ] {
        let (ours, theirs) = duplex(1 << 16);
        let config = WsConfig::new();
        let opening = ws::open(ours, "ws://any:81/b", &config);
        let (opened, _server) = tokio::join!(opening, answer(theirs, response, b""));
        let error = opened.map(drop).expect_err("refused");
        let found = error.get_ref().and_then(|error| error.downcast_ref::<NoWebSocket>());
        assert_eq!(found, Some(&expected), "{error}");
    }
}

/// [B24.2] A fault of the server ends the connection of a client.
/// [B24.4] A client masks its frames, and answers pings.
#[tokio::test(start_paused = true)]
async fn a_client_ends_at_a_fault_of_the_server() {
    let hello = harness::HELLO.as_bytes();
    let server_frame =
        |first: u8, payload: &[u8]| [&[first, payload.len() as u8], payload].concat();
    let hello = server_frame(BINARY, &hello[..hello.len().min(125)]);
    for (fault, text) in [
        (server_frame(TEXT, b"* news 1\n"), Fault::Text.to_string()),
        (server_frame(BINARY, b"* news 1"), Fault::PartialLine.to_string()),
        (frame(BINARY, b"* news 1\n"), Fault::Mask.to_string()),
        (
            server_frame(CLOSE, &1003_u16.to_be_bytes()),
            "the peer closed the WebSocket, with the code 1003".to_owned(),
        ),
    ] {
        let (ours, theirs) = duplex(1 << 16);
        let config = WsConfig::new();
        let opening = ws::open(ours, "ws://any:81/b", &config);
        let frames = [server_frame(PING, b"?"), fault].concat();
        let (opened, mut server) = tokio::join!(opening, answer(theirs, ACCEPTED, &frames));
        let mut client = opened.expect("opened");
        let error = bounded("the end", client.read(&mut [0; 64])).await;
        let error = match error {
            // What came before the fault is read first.
            Ok(count) if count > 0 => bounded("the end", client.read(&mut [0; 64])).await,
            other => other,
        };
        assert_eq!(error.expect_err("a fault").to_string(), text);
        let mut answer = [0; 15];
        server.read_exact(&mut answer).await.expect("a pong and a close frame");
        assert_eq!((answer[0], answer[1], answer[7], answer[8]), (PONG, 0x81, CLOSE, 0x82));
        assert_eq!(answer[6] ^ answer[2], b'?');
    }
    drop(hello);
}

/// [C24.3] A client that closes in order sends `/quit`, and answers the close frame of the server.
#[tokio::test(start_paused = true)]
async fn a_client_ends_in_order() {
    let server = WsServer::start();
    let builder = Client::builder().address("ws://any/").connector(server.connector());
    let client = builder.connect().await.expect("connected");
    let begin = Instant::now();
    client.close().await.expect("in order");
    bounded("the end", async {
        while server.handle.stats().connections > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

/// [C24.3] Without `/quit`, what was not answered is unknown.
#[tokio::test(start_paused = true)]
async fn a_call_on_a_lost_websocket_is_unknown() {
    let server = WsServer::start();
    let builder = Client::builder().address("ws://any/").connector(server.connector());
    let client = builder.reconnect(false).connect().await.expect("connected");
    let waiting = client.clone();
    let call = tokio::spawn(async move { waiting.call("stall", "").await });
    bounded("the request", async {
        while server.handle.stats().in_flight == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.task.abort();
    let error = bounded("an outcome", call).await.expect("no panic").expect_err("no reply");
    assert!(matches!(error, CallError::Unknown(_)), "{error:?}");
}

/// [S24.1] An HTTP server that has other pages checks the headers, and passes the connection on.
#[tokio::test(start_paused = true)]
async fn upgraded_connections_are_served() {
    let (listener, upgrades) = upgraded::<DuplexStream>(WsConfig::new());
    assert_eq!(Listener::local_addr(&listener).unwrap(), PeerAddr::Other("upgraded".into()));
    let server = Server::new(listener);
    let handle = server.handle();
    let serving = tokio::spawn(server.serve(router()).into_future());

    let (ours, theirs) = duplex(1 << 16);
    let accepting = upgrades.clone();
    let serve = async move {
        let io = answer(theirs, ACCEPTED, b"").await;
        let peer: std::net::SocketAddr = "192.0.2.1:5".parse().expect("an address");
        accepting.accept(io, peer).await.expect("the server serves");
    };
    let config = WsConfig::new();
    let (opened, ()) = tokio::join!(ws::open(ours, "ws://any:81/b", &config), serve);
    let mut io = Some(opened.expect("opened"));
    let connector = move |_: &str| {
        let io = io.take().ok_or(io::ErrorKind::ConnectionRefused.into());
        async move { io }
    };
    let client = Client::builder().connector(connector).connect().await.expect("connected");
    assert_eq!(client.call("echo", "x").await.expect("answered"), "x");
    let session = handle.sessions().into_iter().next().expect("a session");
    assert_eq!(session.peer().to_string(), "192.0.2.1:5");

    let evil: [(&str, &[u8]); 6] = [
        ("host", b"offers.example"),
        ("upgrade", b"websocket"),
        ("connection", b"upgrade"),
        ("sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", b"13"),
        ("origin", b"http://evil.example"),
    ];
    assert_eq!(upgrades.check(evil), Err(Refusal::Origin));
    serving.abort();
    let _ = serving.await;
    let late = upgrades.accept(duplex(1).0, PeerAddr::Other("late".into())).await;
    assert_eq!(late.expect_err("stopped").kind(), io::ErrorKind::ConnectionAborted);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Garbage in frames, between them and before them ends in a close, and never in a panic.
    /// SECURITY.md, threat 44.
    #[test]
    fn garbage_never_panics(control in any::<u8>(), parts in prop::collection::vec(part(), 0..12)) {
        let data = [&[control][..], &parts.concat()].concat();
        websockets::connection(&data);
        websockets::frames(&data);
    }

    /// A head with some changes opens a WebSocket only if it may.
    #[test]
    fn any_heads_are_judged(control in any::<u8>(), head in head()) {
        websockets::opening(&[&[control][..], head.as_bytes()].concat());
    }
}

/// A request or a response, with a few lines removed, doubled or replaced.
fn head() -> impl Strategy<Value = String> {
    let request = request(&[("Origin", "http://offers.example")]);
    let head = prop::sample::select(vec![request, ACCEPTED.to_owned()]);
    let line = prop_oneof![Just(String::new()), "[ -~\n\r\0]{0,20}", "[A-Za-z-]{1,12}: [ -~]{0,9}"];
    let change = (any::<prop::sample::Index>(), line, any::<bool>());
    (head, prop::collection::vec(change, 0..3)).prop_map(|(head, changes)| {
        let mut lines: Vec<_> = head.split("\r\n").map(str::to_owned).collect();
        for (at, line, is_replaced) in changes {
            let at = at.index(lines.len());
            match is_replaced {
                true => lines[at] = line,
                false => lines.insert(at, lines[at].clone()),
            }
        }
        lines.join("\r\n")
    })
}

/// A frame, or a part of one.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let first =
        prop::sample::select(vec![BINARY, BINARY, FIRST, MORE, LAST, PING, PONG, CLOSE, TEXT]);
    let payload = prop_oneof![
        4 => "[1-9] echo [a-z]{0,3}\n".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ];
    let whole = (first, payload).prop_map(|(first, payload)| frame(first, &payload));
    prop_oneof![8 => whole, 1 => prop::collection::vec(any::<u8>(), 0..20)]
}

/// With TLS below it, the address begins with `wss`.
#[cfg(feature = "tls")]
mod tls {
    use bellwire::tls::{
        TlsListener,
        rustls::{
            self, RootCertStore,
            crypto::ring::default_provider,
            pki_types::{CertificateDer, PrivateKeyDer},
        },
    };
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn identity() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("signed").der().clone();
        (certificate, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }

    #[tokio::test]
    async fn calls_work_over_wss() {
        let (certificate, key) = identity();
        let provider = || Arc::new(default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let builder = builder.with_no_client_auth();
        let tls = builder.with_single_cert(vec![certificate.clone()], key).expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let listener = TlsListener::new(listener, Arc::new(tls));
        let server = Server::new(WsListener::new(listener, WsConfig::new()));
        let address = server.local_addr().expect("bound");
        let serving = tokio::spawn(server.serve(router()).into_future());

        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a root");
        let builder = rustls::ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let tls = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        let builder = Client::builder().address(format!("wss://{address}/"));
        let connecting = builder.connector(WsConnector::new().tls(tls)).connect();
        let client = bounded("a connection", connecting).await.expect("connected");
        let reply = bounded("a reply", client.call("echo", "x").into_future()).await;
        assert_eq!(reply.expect("answered"), "x");
        bounded("the end", client.close()).await.expect("in order");
        serving.abort();
    }
}
