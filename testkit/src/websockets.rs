//! Properties of WebSockets that hold for any bytes, for the fuzz targets and the property tests.

use bellwire::{
    Connector, Server, memory,
    unstable::ws::{Decoder, Opcode, Role, Step, encode},
    ws::{self, Fault, WsConfig, WsConnector, WsListener, upgraded},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::harness::{pieces, router, run};

/// Target `ws`: any bytes from the client of a WebSocket, behind its opening handshake if the first
/// byte is even. The first byte decides how the others are cut.
pub fn connection(data: &[u8]) {
    let Some((&control, stream)) = data.split_first() else { return };
    run(against_websocket(control, stream));
}

/// Target `ws_frames`: the decoder of frames on both ends. The first byte decides how the others are
/// cut, which makes no difference. What was decoded is decoded again from frames of the other end.
pub fn frames(data: &[u8]) {
    let Some((&control, stream)) = data.split_first() else { return };
    for (role, other) in [(Role::Server, Role::Client), (Role::Client, Role::Server)] {
        let whole = decode(role, [stream]);
        assert_eq!(decode(role, pieces(stream, control.into())), whole);
        let (messages, steps, _) = whole;
        let mask = (other == Role::Server).then_some([control, 1, 2, 3]);
        let mut again = Vec::new();
        for message in &messages {
            encode(&mut again, Opcode::Binary, true, message, mask);
        }
        for ping in steps.iter().filter_map(ping) {
            encode(&mut again, Opcode::Ping, true, ping, mask);
        }
        let (copies, pings, fault) = decode(other, [&again[..]]);
        assert_eq!((&copies[..copies.len() - 1], fault), (&messages[..], None));
        assert!(pings.iter().map(ping).eq(steps.iter().map(ping).filter(Option::is_some)));
    }
}

fn ping(step: &Step) -> Option<&[u8]> {
    match step {
        Step::Ping(payload) => Some(payload),
        _ => None,
    }
}

/// Target `ws_opening`: any bytes as a request, as a response and as an address. The first byte
/// decides how they are cut. In a response, `ACCEPT` stands for the answer to the client's key.
pub fn opening(data: &[u8]) {
    let Some((&control, bytes)) = data.split_first() else { return };
    run(against_server(control, bytes));
    run(against_client(control, bytes));
    if let Ok(address) = str::from_utf8(bytes)
        && WsConnector::new().check(address).is_ok()
    {
        let is_visible = address.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(is_visible && address.to_ascii_lowercase().starts_with("ws://"), "{address}");
    }
}

const STATUSES: [&str; 6] = ["101", "400", "403", "404", "426", "431"];

async fn against_server(control: u8, request: &[u8]) {
    let (listener, connector) = memory::pair();
    let server = Server::new(WsListener::new(listener, WsConfig::new().max_head(1_024)));
    let serving = tokio::spawn(server.serve(router()).into_future());
    let mut io = connector.open().await.expect("it listens");
    for piece in pieces(request, control.into()) {
        if io.write_all(piece).await.is_err() {
            break;
        }
    }
    drop(io.shutdown().await);
    let mut response = Vec::new();
    io.read_to_end(&mut response).await.expect("no reset");
    serving.abort();
    let Some(head) = response.get(..12) else { return assert!(response.is_empty()) };
    let status = String::from_utf8_lossy(&head[9..]);
    assert!(head.starts_with(b"HTTP/1.1 ") && STATUSES.contains(&&*status), "{status}");
    if status == "101" {
        may_open(request);
    }
}

/// What every request that opens a WebSocket has, by a look at its text.
fn may_open(request: &[u8]) {
    let head = &request[..end_of_head(request)];
    let text = String::from_utf8_lossy(head).to_lowercase();
    let lines: Vec<_> = text.split("\r\n").collect();
    assert!(lines[0].starts_with("get ") && lines[0].ends_with(" http/1.1"), "{text}");
    assert!(!lines.iter().any(|line| line.contains(['\r', '\n', '\0'])), "{text}");
    let value = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).map(str::trim);
    assert!(value("sec-websocket-protocol:").is_some(), "{text}");
    assert!(text.contains("bellwire.v1") && text.contains("websocket"), "{text}");
    let host = value("host:").expect("a host").split(':').next().unwrap_or_default();
    let origin = value("origin:").unwrap_or(host);
    assert!(origin.contains(host) && origin != "null", "{text}");
}

async fn against_client(control: u8, response: &[u8]) {
    let (ours, theirs) = duplex(1 << 16);
    let config = WsConfig::new();
    let opening = ws::open(ours, "ws://any/", &config);
    let (opened, sent) = tokio::join!(opening, respond(theirs, control, response));
    if opened.is_ok() {
        let text = String::from_utf8_lossy(&sent).to_lowercase();
        assert!(text.starts_with("http/1.1 101"), "{text}");
        assert!(text.contains("bellwire.v1") && text.contains("sec-websocket-accept"), "{text}");
    }
}

/// Reads the request, and writes the response. Returns what it has written.
async fn respond(mut io: DuplexStream, control: u8, response: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(io.read_u8().await.expect("a request"));
    }
    let request = String::from_utf8(request).expect("text");
    let headers = request.lines().filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name, value.as_bytes()));
    let accepted = upgraded::<DuplexStream>(WsConfig::new()).1.check(headers).expect("accepted");
    let [_, _, (_, accept), _] = accepted.headers();
    let mut sent = response.to_vec();
    if let Some(at) = sent.windows(6).position(|bytes| bytes == b"ACCEPT") {
        sent.splice(at..at + 6, accept.bytes());
    }
    for piece in pieces(&sent, control.into()) {
        if io.write_all(piece).await.is_err() {
            break;
        }
    }
    sent
}

/// The messages in frames that arrive in `pieces`, the last one perhaps in part, and what else there
/// was.
fn decode<'a>(
    role: Role,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Vec<u8>>, Vec<Step>, Option<Fault>) {
    let mut decoder = Decoder::new(role, 1 << 20);
    let (mut messages, mut steps) = (vec![Vec::new()], Vec::new());
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut left = &mut piece[..];
        while !left.is_empty() {
            let (taken, step) = match decoder.step(left) {
                Ok(step) => step,
                Err(fault) => return (messages, steps, Some(fault)),
            };
            assert!(taken > 0);
            match step {
                Step::Data { range, is_end, .. } => {
                    messages.last_mut().expect("one").extend_from_slice(&left[range]);
                    if is_end {
                        messages.push(Vec::new());
                    }
                }
                Step::More => {}
                step => steps.push(step),
            }
            left = &mut left[taken..];
        }
    }
    (messages, steps, None)
}

const OPENING: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: bellwire.v1\r\n\r\n";

/// A server of WebSockets reads `stream`, then the end. Behind its response it must write frames of
/// messages with whole lines.
async fn against_websocket(control: u8, stream: &[u8]) {
    let (listener, connector) = memory::pair();
    let server = Server::new(WsListener::new(listener, WsConfig::new()));
    let serving = tokio::spawn(server.serve(router()).into_future());
    let (mut read, mut write) = tokio::io::split(connector.open().await.expect("it listens"));
    let written = tokio::spawn(async move {
        let mut all = Vec::new();
        read.read_to_end(&mut all).await.expect("no reset");
        all
    });
    let opening = if control.is_multiple_of(2) { OPENING } else { b"" };
    for piece in pieces(&[opening, stream].concat(), control.into()) {
        if write.write_all(piece).await.is_err() {
            break;
        }
    }
    drop(write.shutdown().await);
    let written = written.await.expect("read");
    serving.abort();
    if let Some(frames_at) = written.starts_with(b"HTTP/1.1 101 ").then(|| end_of_head(&written)) {
        let (messages, _, fault) = decode(Role::Client, [&written[frames_at..]]);
        assert_eq!(fault, None);
        let whole = |message: &Vec<u8>| message.is_empty() || message.ends_with(b"\n");
        // A peer that is gone may not get the last frame as a whole.
        assert!(messages.iter().rev().skip(1).all(whole), "a message with a part of a line");
    }
}

fn end_of_head(bytes: &[u8]) -> usize {
    let end = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    end.expect("the end of the head") + 4
}
