//! Properties that hold for any bytes: checks that the fuzz targets and the property tests share.

use std::{collections::HashMap, time::Duration};

use bellwire::{
    Client, ClientConfig, ConnectionError, Delivery, Gap, Publisher, Router, ServerConfig,
    Streamed, Streaming, Subscription,
    protocol::{
        Line, LineDecoder, LineTooLong, Malformed, Mark, Notice, Outcome, Reason, encode,
        parse_number, strip_cr, stuff, stuffed_len, unstuff,
    },
};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::PipeServer;

/// Target `cores`: both cores against each other, in a run whose decisions are these bytes.
pub fn cores(data: &[u8]) {
    let wrong = crate::cores::run_by(data).check();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The first line that the client reads in [`client`].
pub const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60\n";

/// Lines without their LF, and the error that ended them.
pub type Split = (Vec<Vec<u8>>, Option<LineTooLong>);

/// Splits a stream that arrives in `pieces`.
pub fn split<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, max_line: usize) -> Split {
    let mut decoder = LineDecoder::new(max_line);
    let mut lines = Vec::new();
    for mut piece in pieces {
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(line)) => lines.push(line.to_vec()),
                Ok(None) => break,
                Err(error) => return (lines, Some(error)),
            }
            assert!(decoder.pending() < max_line);
        }
    }
    (lines, None)
}

/// Cuts `bytes` into pieces whose lengths follow from `seed`: mostly short, some long, some empty.
pub fn pieces(bytes: &[u8], mut seed: u64) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut left = bytes;
    while !left.is_empty() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let longest = [2, 9, 80, 4_096][(seed >> 60) as usize % 4];
        let (piece, after) = left.split_at(((seed >> 33) as usize % longest).min(left.len()));
        pieces.push(piece);
        left = after;
    }
    pieces
}

/// Target `line`: the decoder, the parser and the encoder with any bytes. The first byte decides
/// how the others are cut.
pub fn line(data: &[u8]) {
    let Some((&control, stream)) = data.split_first() else { return };
    let max_line = [16, 64, 1_024, 65_535][usize::from(control) % 4];
    let (lines, error) = split([stream], max_line);
    assert_eq!(split(pieces(stream, control.into()), max_line), (lines.clone(), error));
    assert_eq!(split(stream.chunks(1), max_line), (lines.clone(), error));
    let (expected, offset) = split_by_hand(stream, max_line);
    assert_eq!((&lines, error.map(|error| error.offset)), (&expected, offset));
    lines.iter().for_each(|line| one_line(line));
    one_line(stream);
}

/// The lines of `stream`, and the offset of the first byte over the limit, by a slow method.
fn split_by_hand(stream: &[u8], max_line: usize) -> (Vec<Vec<u8>>, Option<u64>) {
    let (mut lines, mut line) = (Vec::new(), Vec::new());
    for (at, &byte) in stream.iter().enumerate() {
        if byte == b'\n' {
            lines.push(std::mem::take(&mut line));
        } else if line.len() + 1 == max_line {
            return (lines, Some(at as u64));
        } else {
            line.push(byte);
        }
    }
    (lines, None)
}

/// Checks what holds for any line.
pub fn one_line(bytes: &[u8]) {
    stuffing(bytes);
    match Line::parse(bytes) {
        Ok(line) => well_formed(bytes, &line),
        Err(fault) => malformed(bytes, fault),
    }
    match Line::parse_request(bytes) {
        Ok(line) => well_formed(strip_cr(bytes), &line),
        Err(fault) => malformed(strip_cr(bytes), fault),
    }
}

fn stuffing(plain: &[u8]) {
    let mut stuffed = Vec::new();
    stuff(plain, &mut stuffed);
    assert_eq!(stuffed.len(), stuffed_len(plain));
    assert!(!stuffed.iter().any(|byte| matches!(byte, b'\n' | b'\r')));
    assert_eq!(unstuff(&stuffed), plain);
    let _ = unstuff(plain);
}

fn well_formed(bytes: &[u8], line: &Line<'_>) {
    // An LF can only come from a caller, because no decoder returns one.
    if bytes.contains(&b'\n') {
        return;
    }
    let mut written = Vec::new();
    encode::line(&mut written, line.mark, line.word, line.attributes, &line.rest.plain());
    // A reader accepts two spellings of an empty body, but a writer uses only one.
    let canonical = if line.rest.is_empty() { bytes.strip_suffix(b" ") } else { None };
    assert_eq!(written, [canonical.unwrap_or(bytes), b"\n"].concat());
    arguments(line);
    let _ = (Notice::parse(line), Reason::parse(line.rest), format!("{line:?}"));
}

/// Splitting before and after unstuffing must give the same.
fn arguments(line: &Line<'_>) {
    let plain = line.rest.plain();
    let mut after = plain.splitn(2, |&byte| byte == b' ');
    let (argument, rest) = line.rest.split_argument();
    assert_eq!(unstuff(argument), after.next().unwrap_or_default());
    assert_eq!(rest.plain(), after.next().unwrap_or_default());
}

fn malformed(bytes: &[u8], fault: Malformed) {
    assert!(fault.at <= bytes.len(), "{fault} in {}", bytes.escape_ascii());
    let mark = bytes.split(|&byte| byte == b' ').next().unwrap_or_default();
    let has_space = bytes.len() > mark.len();
    let id = parse_number(mark).filter(|&id| id > 0 && has_space);
    assert_eq!(fault.id.map(|id| id.get()), id, "{}", bytes.escape_ascii());
}

pub(crate) fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(future);
}

/// Target `client`: any bytes from a server, after its hello. The first byte decides how the others
/// are cut.
pub fn client(data: &[u8]) {
    let Some((&control, stream)) = data.split_first() else { return };
    run(against_client(control, stream));
}

/// A client with two calls, a list, a stream and a subscription in progress reads `stream`, then
/// the end. Each of them must get one outcome, and notifications must be in order, without a hole.
async fn against_client(control: u8, stream: &[u8]) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (client, connection) = Client::new(near, ClientConfig::new().max_line(1_024));
    let driver = tokio::spawn(connection);
    let (mut read, mut write) = tokio::io::split(far);
    let written = tokio::spawn(async move {
        let mut all = Vec::new();
        let _ = read.read_to_end(&mut all).await;
        all
    });
    write.write_all(HELLO.as_bytes()).await.expect("the client reads");
    client.connected().await.expect("the hello is well-formed");
    let calls = ["a", "b"].map(|payload| spawn_call(&client, payload));
    let listening = tokio::spawn(listen(client.clone(), control % 2 == 1));
    let lists = client.clone();
    let list = tokio::spawn(async move { lists.methods().await.is_ok() });
    let items = tokio::spawn(read_items(client.stream("m", "c").window(3)));
    tokio::task::yield_now().await;
    for piece in pieces(stream, control.into()) {
        if write.write_all(piece).await.is_err() {
            break;
        }
    }
    drop(write.shutdown().await);
    let ended = driver.await.expect("no panic");
    let error = ended.expect_err("this side did not close");
    assert!(!matches!(error, ConnectionError::Closed | ConnectionError::HandshakeTimeout));
    for call in calls {
        call.await.expect("no panic");
    }
    listening.await.expect("no panic, no hole");
    list.await.expect("no panic");
    items.await.expect("no panic, nothing behind an error");
    assert_eq!(client.stats().pending, 0);
    drop(client);
    client_lines(&written.await.expect("read"));
}

/// Target `reconnect`: any bytes from the servers of one client, one after the other, each after
/// its hello. The first byte decides how the others are cut.
pub fn reconnect(data: &[u8]) {
    let Some((&control, stream)) = data.split_first() else { return };
    run(against_reconnecting(control, stream));
}

/// As [`against_client`], with one connection for each part of `stream`, and none after the last.
async fn against_reconnecting(control: u8, stream: &[u8]) {
    let count = usize::from(control) % 4 + 1;
    let mut parts = stream.chunks(stream.len() / count + 1).map(<[u8]>::to_vec).collect::<Vec<_>>();
    parts.reverse();
    let (sender, mut written) = tokio::sync::mpsc::unbounded_channel();
    let connector = move |_: &str| {
        let part = parts.pop().ok_or(std::io::ErrorKind::ConnectionRefused.into());
        let sender = sender.clone();
        std::future::ready(part.map(|part| {
            let (near, far) = tokio::io::duplex(1 << 16);
            drop(sender.send(tokio::spawn(play(far, part, control))));
            near
        }))
    };
    let config = ClientConfig::new().max_line(1_024).give_up_after(Duration::from_secs(600));
    let random = bellwire::Random::seeded(control.into());
    let builder = Client::builder().connector(connector).config(config.random(random));
    let client = builder.connect_lazily();
    let calls = ["a", "b"].map(|payload| spawn_call(&client, payload));
    let listening = tokio::spawn(listen(client.clone(), control % 2 == 1));
    let lists = client.clone();
    let list = tokio::spawn(async move { lists.methods().await.is_ok() });
    let items = tokio::spawn(read_items(client.stream("m", "c").window(3)));
    for call in calls {
        call.await.expect("no panic");
    }
    list.await.expect("no panic");
    items.await.expect("no panic, nothing behind an error");
    let mut last = 0;
    while let Some(written) = written.recv().await {
        last = client_lines_from(&written.await.expect("read"), last);
    }
    listening.await.expect("no panic, no hole");
    assert_eq!((client.stats().pending, client.stats().in_flight), (0, 0));
    assert!(client.close().await.is_err(), "it gave up");
}

/// A server that sends its hello and `part`, and meanwhile reads what the client writes.
async fn play(far: tokio::io::DuplexStream, part: Vec<u8>, control: u8) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(far);
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        let _ = read.read_to_end(&mut all).await;
        all
    });
    let mut is_read = write.write_all(HELLO.as_bytes()).await.is_ok();
    // All requests are made before the first is answered.
    tokio::time::sleep(Duration::from_millis(1)).await;
    for piece in pieces(&part, control.into()) {
        is_read = is_read && write.write_all(piece).await.is_ok();
    }
    drop(write.shutdown().await);
    reading.await.expect("no panic")
}

fn spawn_call(client: &Client, payload: &'static str) -> tokio::task::JoinHandle<bool> {
    let client = client.clone();
    tokio::spawn(async move { client.call("m", payload).await.is_ok() })
}

/// Reads a stream to its end. It may return at most one error, and only as its last item.
async fn read_items(mut items: Streaming) {
    while let Some(item) = items.next().await {
        if item.is_err() {
            assert!(items.next().await.is_none());
        }
    }
}

async fn listen(client: Client, with_window: bool) {
    let offers = client.subscribe("offers");
    let offers = if with_window { offers.window(2) } else { offers };
    if let Ok(subscription) = offers.await {
        contiguous(subscription).await;
    }
}

/// Reads a subscription to its end. Every number must be delivered or named once, in order (no
/// silent loss).
pub async fn contiguous(mut subscription: Subscription) {
    let mut expected = subscription.position();
    while let Some(delivery) = subscription.next().await {
        let (epoch, first, last) = match delivery {
            Delivery::Notification(one) => (one.epoch, one.sequence, one.sequence),
            Delivery::Gap(Gap { epoch, first, last, .. }) => (epoch, first, last),
            Delivery::Reset { position, .. } => {
                expected = position;
                continue;
            }
            other => {
                assert!(matches!(other, Delivery::End { .. }), "{other:?}");
                continue;
            }
        };
        assert_eq!((epoch, first), (expected.epoch, expected.next));
        assert!(first <= last);
        expected.next = last + 1;
    }
}

/// Checks that a client writes well-formed requests with rising ids.
fn client_lines(written: &[u8]) {
    client_lines_from(written, 0);
}

/// As [`client_lines`], with ids above `last`. Returns the last id.
fn client_lines_from(written: &[u8], mut last: u64) -> u64 {
    for line in written.split_inclusive(|&byte| byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else { continue };
        assert!(!line.ends_with(b"\r"));
        let line = Line::parse_request(line).expect("a request");
        if let Mark::Id(id) = line.mark {
            assert!(id.get() > last);
            last = id.get();
        }
    }
    last
}

/// Target `server`: any bytes from a client. The first byte decides how the others are cut.
pub fn server(data: &[u8]) {
    let Some((&control, stream)) = data.split_first() else { return };
    run(against_server(control, stream));
}

const SERVER_MAX_LINE: usize = 1_024;

pub(crate) fn router() -> Router {
    Router::new()
        .method("echo", async |payload: Bytes| payload)
        .method("offers.list", async || Streamed(futures::stream::iter(["a", "b", "c", "d", "e"])))
        .method("later", async || tokio::time::sleep(Duration::from_secs(1)).await)
        .method("wait", async || std::future::pending::<()>().await)
        .method("add", async |publisher: Publisher, payload: Bytes| {
            publisher
                .publish("offers", payload)
                .await
                .map_err(|_| bellwire::Failure::new(bellwire::protocol::Code::TOO_LARGE, ""))?;
            Ok::<_, bellwire::Failure>(())
        })
}

/// A server reads `stream`, then the end. It must answer each id exactly once, in lines that a
/// client accepts.
async fn against_server(control: u8, stream: &[u8]) {
    let config = ServerConfig::new()
        .max_line(SERVER_MAX_LINE)
        .in_flight(3)
        .subscriptions(3)
        .retained_messages(4)
        // Otherwise the answer would depend on the number of earlier faults.
        .violations(u32::MAX)
        .allow_publish(true);
    let server = PipeServer::with_config(router(), config);
    let peer = server.connect_raw([64, 1 << 16][usize::from(control) % 2]);
    let (mut read, mut write) = tokio::io::split(peer.io);
    let written = tokio::spawn(async move {
        let mut all = Vec::new();
        read.read_to_end(&mut all).await.expect("no reset");
        all
    });
    for piece in pieces(stream, control.into()) {
        if write.write_all(piece).await.is_err() {
            break;
        }
    }
    drop(write.shutdown().await);
    server_lines(stream, &written.await.expect("read"));
}

/// The codes of docs/protocol/reference.md, section 21, sorted, by the line that carries them.
pub const NO_CODES: [&str; 21] = [
    "already-subscribed",
    "bad-ack",
    "bad-arguments",
    "bad-attribute",
    "bad-form",
    "bad-position",
    "bad-version",
    "busy",
    "cancelled",
    "closing",
    "deadline",
    "forbidden",
    "key-mismatch",
    "malformed",
    "not-subscribed",
    "out-of-order",
    "too-large",
    "too-many",
    "unauthenticated",
    "unknown-attribute",
    "unknown-method",
];
pub const CUT_CODES: [&str; 4] = ["cancelled", "closing", "deadline", "lost"];
pub const ERROR_CODES: [&str; 11] = [
    "bad-ack",
    "bad-arguments",
    "bad-attribute",
    "bad-form",
    "busy",
    "forbidden",
    "id-order",
    "line-too-long",
    "malformed",
    "unknown-attribute",
    "unknown-method",
];

/// Checks what a server wrote in answer to `stream`.
fn server_lines(stream: &[u8], written: &[u8]) {
    let written = written.strip_suffix(b"\n").expect("whole lines");
    let mut lines = written.split(|&byte| byte == b'\n');
    let hello = lines.next().expect("a hello");
    assert!(hello.starts_with(b"* /hello;version=1;") && hello.len() < 1_024);
    let mut answered: HashMap<u64, bool> = HashMap::new();
    let mut any = false;
    for bytes in lines {
        any = true;
        assert!(bytes.len() < SERVER_MAX_LINE);
        let line = Line::parse(bytes).expect("a line of the protocol");
        assert!(!bytes.ends_with(b" ") || !line.rest.is_empty(), "the SP of an empty rest");
        match line.mark {
            Mark::Id(id) => {
                let outcome = Outcome::from_word(line.word).expect("an outcome");
                let over = answered.entry(id.get()).or_default();
                assert!(!*over, "{id} was answered before");
                *over = outcome.is_terminal();
                let reason = || Reason::parse(line.rest).expect("a code");
                match outcome {
                    Outcome::No => assert!(NO_CODES.contains(&reason().code.as_str())),
                    Outcome::Cut => assert!(CUT_CODES.contains(&reason().code.as_str())),
                    Outcome::Err => drop(reason()),
                    Outcome::Ok | Outcome::More => {}
                }
            }
            Mark::Reserved if line.word.is_protocol() => {
                let notice = Notice::parse(&line).expect("a notice's arguments");
                assert!(!matches!(notice, Notice::Unknown | Notice::Hello(_)));
                if let Notice::Error { reason, .. } = notice {
                    assert!(ERROR_CODES.contains(&reason.code.as_str()));
                }
            }
            Mark::Reserved => {
                let (number, _) = line.rest.split_argument();
                assert!(parse_number(number).is_some_and(|number| number > 0));
            }
        }
    }
    let expected = owed(stream);
    assert!(!expected.is_silent || !any, "a faulty first line is answered");
    let mut ids: Vec<_> = answered.into_iter().collect();
    ids.sort_unstable();
    let owed: Vec<_> = expected.ids.into_iter().map(|id| (id, true)).collect();
    assert_eq!(ids, owed);
}

struct Owed {
    ids: Vec<u64>,
    /// The first line is faulty, so nothing is written.
    is_silent: bool,
}

/// The ids that must be answered, derived from the stream alone.
fn owed(stream: &[u8]) -> Owed {
    let (lines, _) = split([stream], SERVER_MAX_LINE);
    let (mut ids, mut last) = (Vec::new(), 0);
    for (n, bytes) in lines.iter().enumerate() {
        let (id, quits) = match Line::parse_request(bytes) {
            Ok(line) => {
                let id = line.mark.id();
                (id, id.is_some() && is_quit(&line))
            }
            Err(_) if n == 0 => return Owed { ids, is_silent: true },
            Err(fault) => (fault.id, false),
        };
        if let Some(id) = id.map(|id| id.get()).filter(|&id| id > last) {
            last = id;
            ids.push(id);
            if quits {
                break;
            }
        }
    }
    let is_silent = lines.is_empty();
    Owed { ids, is_silent }
}

fn is_quit(line: &Line<'_>) -> bool {
    let known = |(key, _): (&str, &str)| key.contains('.');
    line.word.as_str() == "/quit" && line.rest.is_empty() && line.attributes.iter().all(known)
}
