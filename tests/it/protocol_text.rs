//! PROTOCOL.md and docs/protocol against the code: vectors, expressions, the session, transcripts.

use std::{collections::HashSet, time::Duration};

use bellwire::{
    Client, ClientConfig, ConnectionError, Router, ServerConfig, handler,
    protocol::{Code, Line, MAX_NUMBER, stuff, unstuff},
};
use bellwire_testkit::{
    PIPE, PipeServer,
    dialogue::Peer,
    document::{Attribute, attributes, block, methods, transcripts, unescape, vectors},
    transcript,
};
use regex::bytes::{Captures, Regex, RegexBuilder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep_until},
};

const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60\n";

/// [B2.5] [B2.6] The vectors of bodies.
#[test]
fn body_vectors_pass() {
    let vectors = vectors().body;
    assert!(vectors.len() > 30);
    for vector in vectors {
        let (name, wire) = (&vector.name, vector.wire());
        match vector.plain() {
            Some(plain) => {
                let mut written = Vec::new();
                stuff(&plain, &mut written);
                assert_eq!(written, wire, "{name}");
                assert_eq!(unstuff(&wire), plain, "{name}");
                assert!(Line::parse_request(&request(&wire)).is_ok(), "{name}");
            }
            None => {
                // A server drops one CR before the LF, so the body is followed by a byte.
                let line = match wire.ends_with(b"\r") {
                    true => [request(&wire), b"x".to_vec()].concat(),
                    false => request(&wire),
                };
                assert!(Line::parse_request(&line).is_err(), "{name}");
                assert!(Line::parse(&request(&wire)).is_err(), "{name}");
            }
        }
    }
}

fn request(body: &[u8]) -> Vec<u8> {
    [b"1 echo ", body].concat()
}

/// [B2.1] [B2.4] [B2.9] The vectors of lines, as the end that reads them takes them.
#[tokio::test]
async fn line_vectors_pass() {
    let lines = vectors().lines;
    assert!(lines.len() > 100);
    let mut wrong = Vec::new();
    for line in lines {
        let bytes = line.bytes();
        let is_taken = match &*line.direction {
            "request" => Line::parse_request(&bytes).is_ok(),
            "reply" => read_by_client(&bytes).await.is_ok(),
            "first" => read_first_by_client(&bytes).await.is_ok(),
            other => panic!("{}: {other}", line.name),
        };
        if is_taken != line.is_ok() {
            wrong.push(format!("{}: {}", line.name, line.remark));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a real client makes of a line behind the hello: an error of the protocol, or none.
async fn read_by_client(line: &[u8]) -> Result<(), ConnectionError> {
    read_first_by_client(&[HELLO.as_bytes(), line].concat()).await
}

/// The same of the first line, or lines.
async fn read_first_by_client(lines: &[u8]) -> Result<(), ConnectionError> {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let (client, connection) = Client::new(near, ClientConfig::new());
    far.write_all(&[lines, b"\n"].concat()).await.unwrap();
    far.shutdown().await.unwrap();
    let ended = connection.await;
    drop(client);
    match ended {
        Err(error @ (ConnectionError::Protocol(_) | ConnectionError::Version(_))) => Err(error),
        _ => Ok(()),
    }
}

/// [B2.1] [B2.9] The expressions of section 2 match every well-formed line. Of the malformed ones they
/// match only those that break what the text says beside them.
#[test]
fn expressions_match_the_vectors() {
    let [requests, replies, channel] = expressions();
    for line in vectors().lines {
        let bytes = line.bytes();
        let is_request = line.direction == "request";
        let candidates = if is_request { [&requests, &requests] } else { [&replies, &channel] };
        let found = candidates.iter().find_map(|expression| expression.captures(&bytes));
        let context = || format!("{}: {}", line.name, line.remark);
        match found {
            Some(parts) if !line.is_ok() => {
                assert!(breaks_the_text(&parts, is_request), "{}", context());
            }
            Some(_) => {}
            None => assert!(!line.is_ok(), "{}", context()),
        }
    }
}

/// Those for requests, for replies, and for the channel.
fn expressions() -> [Regex; 3] {
    let lines = block("regex").lines;
    let expression = |name: &str| {
        let find = |line: &String| line.strip_prefix(name).map(|text| text.trim().to_owned());
        let text = lines.iter().find_map(find).unwrap_or_else(|| panic!("no {name}"));
        RegexBuilder::new(&text).unicode(false).build().expect("an expression")
    };
    ["request ", "reply ", "channel "].map(expression)
}

/// Whether a line that an expression matched breaks a limit or a form that only the text has.
fn breaks_the_text(parts: &Captures<'_>, is_request: bool) -> bool {
    let groups: Vec<&str> = (1..parts.len())
        .map(|at| parts.get(at).map_or("", |part| str::from_utf8(part.as_bytes()).unwrap_or("")))
        .collect();
    // The expression of the channel has no group for its mark.
    let [mark, word, attributes, body] = groups[..] else {
        let [word, attributes, body] = groups[..] else { panic!("the groups of a line") };
        return breaks_its_limits("*", word, attributes) || breaks_the_channel(word, body);
    };
    let is_outcome = ["ok", "more", "err", "no", "cut"].contains(&word);
    let code = body.split(' ').next().unwrap_or("");
    let lacks_code = ["err", "no", "cut"].contains(&word) && Code::new(code).is_none();
    breaks_its_limits(mark, word, attributes) || if is_request { is_outcome } else { lacks_code }
}

fn breaks_its_limits(mark: &str, word: &str, attributes: &str) -> bool {
    let keys: Vec<_> =
        attributes.split(';').skip(1).filter_map(|one| one.split('=').next()).collect();
    let distinct: HashSet<_> = keys.iter().collect();
    let head = mark.len() + 1 + word.len() + attributes.len();
    let is_above = mark.parse::<u64>().is_ok_and(|id| id > MAX_NUMBER);
    is_above || word.len() > 128 || head > 2_048 || keys.len() > 32 || distinct.len() < keys.len()
}

/// A notice has its own form; a notification begins with its number.
fn breaks_the_channel(word: &str, body: &str) -> bool {
    let seq = body.split(' ').next().unwrap_or("");
    let number = seq.parse::<u64>().ok().filter(|number| (1..=MAX_NUMBER).contains(number));
    word.starts_with('/') || number.is_none_or(|number| number.to_string() != seq)
}

/// The session of section 1, with the server of examples/minimal_server.rs.
#[tokio::test(start_paused = true)]
async fn the_session_of_section_1_replays() {
    let began = Instant::now();
    let echo = handler(async |text: String| text).doc("TEXT: the same again");
    let server = PipeServer::start(Router::new().method("echo", echo));
    let publisher = server.publisher.clone();
    tokio::spawn(async move {
        for tick in 1_u64.. {
            sleep_until(began + Duration::from_secs(tick)).await;
            publisher.publish("ticks", tick.to_string()).await.expect("published");
        }
    });
    // As many ticks are there as in the text; the next comes once both ends wait.
    sleep_until(began + Duration::from_millis(17_500)).await;
    let mut peer = Peer::new(server.connect_raw(PIPE).io);
    for line in block("nc").lines {
        if is_typed(&line) {
            peer.send(&line).await;
        } else {
            assert_eq!(masked(&peer.line().await), masked(&line));
        }
    }
    peer.expect_closed().await;
}

/// The lines with an id and a method.
fn is_typed(line: &str) -> bool {
    let word = line.split([' ', ';']).nth(1).unwrap_or("");
    !line.starts_with('*') && !["ok", "more", "err", "no", "cut"].contains(&word)
}

/// A line without the values that each server draws.
fn masked(line: &str) -> String {
    let mask = |part: &str| match part.split_once('=') {
        Some((key @ ("session" | "epoch" | "keys"), _)) => format!("{key}=…"),
        _ => part.to_owned(),
    };
    line.split(';').map(mask).collect::<Vec<_>>().join(";")
}

/// [S2.10] Each method accepts the keys that the tables list for it, and no other key of the
/// protocol.
#[tokio::test]
async fn each_method_accepts_its_documented_attributes() {
    let echo = handler(async |text: String| text);
    let config = ServerConfig::new().allow_publish(true);
    let server = PipeServer::with_config(Router::new().method("echo", echo), config);
    let mut peer = Peer::new(server.connect_raw(PIPE).io);
    assert!(peer.line().await.starts_with("* /hello;"));
    let (keys, mut id) = (attributes(), 0);
    let of_application = |key: &&Attribute| key.place.starts_with("application request");
    let of_echo = keys.iter().filter(of_application).filter(|key| key.built);
    let mut known = vec![("echo".to_owned(), of_echo.map(|key| key.key.clone()).collect())];
    let methods = methods().methods.into_iter().filter(|method| method.form.contains("request"));
    // The first two are not available here.
    let others = methods.filter(|method| !matches!(&*method.method, "/hello" | "/auth"));
    known.extend(others.map(|method| (method.method, method.attributes)));
    assert!(known.len() > 7);
    for (method, own) in known {
        for key in keys.iter().map(|key| &key.key) {
            // Every value is a key of a keyed request.
            if key == "key" && own.contains(key) {
                continue;
            }
            id += 1;
            peer.send(&format!("{id} {method};{key}=!")).await;
            let code = if own.contains(key) { "bad-attribute" } else { "unknown-attribute" };
            peer.expect(&format!("{id} no {code} {key}")).await;
        }
    }
}

/// Every transcript is replayed against the real server.
#[tokio::test(start_paused = true)]
async fn transcripts_replay_against_the_server() {
    let transcripts = transcripts();
    assert!(transcripts.len() >= 65);
    let mut failures = Vec::new();
    for transcript in transcripts {
        if let Err(failure) = transcript::replay(&transcript).await {
            failures.push(format!("transcript {}, {failure}", transcript.name));
        }
    }
    assert!(failures.is_empty(), "{} failed\n{}", failures.len(), failures.join("\n"));
}

/// The real client reads every line that a transcript's server writes. The server's parser checks
/// what the transcript's client writes.
#[tokio::test]
async fn transcripts_replay_against_the_client() {
    for transcript in transcripts() {
        for line in &transcript.lines {
            let Some(text) = line.strip_prefix("S: ").or(line.strip_prefix("S~ ")) else {
                continue;
            };
            let session = "6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11";
            let bound = |name: &str| {
                Some(if name == "session" { session.to_owned() } else { name.to_owned() })
            };
            let taken = read_by_client(&unescape(text, bound)).await;
            // The one fault of its own that a client closes upon (C3.2).
            let is_fatal = text.contains(" id-order ");
            assert_eq!(taken.is_err(), is_fatal, "{}: {text}: {taken:?}", transcript.name);
        }
    }
}

/// The whole replay of a client's dialogue, both ends real, is in tests/it/client.rs; here: what a
/// client reads is the same however it is cut.
#[tokio::test]
async fn a_client_reads_a_transcript_in_any_pieces() {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let (client, connection) = Client::new(near, ClientConfig::new());
    let driver = tokio::spawn(connection);
    for byte in format!("{HELLO}9 ok nobody asked\n8 err x\n* /weather fine\n").bytes() {
        far.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    far.shutdown().await.unwrap();
    let mut written = Vec::new();
    far.read_to_end(&mut written).await.unwrap();
    assert_eq!(driver.await.unwrap(), Err(ConnectionError::ClosedByPeer));
    assert_eq!((client.stats().unasked_replies, written.len()), (2, 0));
}
