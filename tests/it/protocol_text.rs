//! PROTOCOL.md against the code: its vectors, its lines, its transcripts, and its numbered MUSTs.

use std::{collections::BTreeSet, fs, path::Path};

use bellwire::{
    Client, ClientConfig, ConnectionError,
    protocol::{Line, stuff, unstuff},
};
use bellwire_testkit::{
    document::{self, block, hex, musts, tags, transcripts, unescape, without_remark},
    transcript,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60\n";

/// [M25] [M26] The vectors of section 4.1.
#[test]
fn vectors_of_the_rest() {
    let vectors = block("vectors").lines;
    assert!(vectors.len() > 30);
    for (number, line) in vectors {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["ok", plain, stuffed] => {
                let (plain, stuffed) = (hex(plain), hex(stuffed));
                let mut written = Vec::new();
                stuff(&plain, &mut written);
                assert_eq!(written, stuffed, "line {number}");
                assert_eq!(unstuff(&stuffed), plain, "line {number}");
                assert!(Line::parse_request(&request(&stuffed)).is_ok(), "line {number}");
            }
            ["bad", stuffed] => {
                let stuffed = hex(stuffed);
                // A server drops one CR before the LF, so the rest is followed by a byte.
                let line = match stuffed.ends_with(b"\r") {
                    true => [request(&stuffed), b"x".to_vec()].concat(),
                    false => request(&stuffed),
                };
                assert!(Line::parse_request(&line).is_err(), "line {number}");
                assert!(Line::parse(&request(&stuffed)).is_err(), "line {number}");
            }
            _ => panic!("line {number}: {line}"),
        }
    }
}

fn request(rest: &[u8]) -> Vec<u8> {
    [b"1 echo ", rest].concat()
}

/// [M2] [M4] [M5] [M7] The lines of section 4.2, as the end that reads them takes them.
#[tokio::test]
async fn vectors_of_whole_lines() {
    let lines = block("lines").lines;
    assert!(lines.len() > 100);
    let mut wrong = Vec::new();
    for (number, text) in lines {
        let words: Vec<_> = without_remark(text).split_whitespace().collect();
        let [direction, verdict, bytes] = words[..] else { panic!("line {number}: {text}") };
        let bytes = hex(bytes);
        let is_taken = match direction {
            "request" => Line::parse_request(&bytes).is_ok(),
            "reply" => read_by_client(&bytes).await.is_ok(),
            "first" => read_first_by_client(&bytes).await.is_ok(),
            _ => panic!("line {number}: {text}"),
        };
        if is_taken != (verdict == "ok") {
            wrong.push(format!("line {number}: {}", text));
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

/// Every transcript, against the real server.
#[tokio::test(start_paused = true)]
async fn transcripts_against_the_server() {
    let transcripts = transcripts("transcript");
    assert!(transcripts.len() >= 38);
    let mut failures = Vec::new();
    for (name, block) in transcripts {
        if let Err(failure) = transcript::replay(&block).await {
            failures.push(format!("transcript {name}, {failure}"));
        }
    }
    assert!(failures.is_empty(), "{} failed\n{}", failures.len(), failures.join("\n"));
}

/// Every line that a transcript's server writes, to the real client; what the client of a
/// transcript writes is looked at by the server's parser in the replay.
#[tokio::test]
async fn transcripts_against_the_client() {
    let all = transcripts("transcript").into_iter().chain(transcripts("transcript-not-yet"));
    for (name, block) in all {
        for (number, line) in block.lines {
            let Some(text) = line.strip_prefix("S: ").or(line.strip_prefix("S~ ")) else {
                continue;
            };
            let session = "6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11";
            let bound = |name: &str| {
                Some(if name == "session" { session.to_owned() } else { name.to_owned() })
            };
            let line = unescape(text, bound);
            let taken = read_by_client(&line).await;
            // The one fault of its own that a client closes upon (M31).
            let is_fatal = text.contains(" id-order ");
            assert_eq!(taken.is_err(), is_fatal, "{name}, line {number}: {text}: {taken:?}");
        }
    }
}

/// The transcripts of what is not built are lines of the grammar all the same.
#[test]
fn transcripts_of_later_are_well_formed() {
    for (name, block) in transcripts("transcript-not-yet") {
        for (number, line) in block.lines {
            let Some(text) = line.strip_prefix("C: ") else { continue };
            let line = unescape(text, |name| Some(name.to_owned()));
            assert!(Line::parse_request(&line).is_ok(), "{name}, line {number}: {text}");
        }
    }
}

/// The whole replay of a client's dialogue, both ends real, is in tests/it/client.rs; here: what a
/// client reads is the same however it is cut.
#[tokio::test]
async fn a_transcript_may_come_in_any_pieces() {
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

/// The numbers are unique and leave none out, and each sentence with a MUST has one.
#[test]
fn musts_are_numbered() {
    let musts = musts();
    let mut numbers: Vec<_> = musts.iter().map(|must| must.number).collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(1..=musts.len() as u32), "{numbers:?}");
    let marked: BTreeSet<_> = musts.iter().map(|must| must.line).collect();
    let mut last_item = 0;
    for (text, line) in document::PROTOCOL.lines().zip(1..) {
        // The section that explains the word is the one place without a number.
        let explains = text.contains("key words MUST") || text.contains("Every MUST");
        last_item = if marked.contains(&line) { line } else { last_item };
        let is_owned = document::PROTOCOL.lines().skip(last_item).take(line - last_item);
        let continues = is_owned.clone().all(|text| text.starts_with(' '));
        let has_number = line == last_item || continues;
        assert!(!text.contains("MUST") || explains || has_number, "line {line}: {text}");
    }
}

/// Every MUST of what is built is named by a test, or by a transcript that is replayed; and no
/// test names what is none.
#[test]
fn every_must_is_tested() {
    let built: BTreeSet<u32> =
        musts().iter().filter(|must| must.is_built).map(|must| must.number).collect();
    let mut named = BTreeSet::new();
    for (_, block) in transcripts("transcript") {
        let remarks = block.lines.iter().filter(|(_, line)| line.starts_with('#'));
        named.extend(remarks.flat_map(|(_, line)| tags(line)));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["tests", "src"] {
        in_sources(&root.join(folder), &mut named);
    }
    let missing: Vec<_> = built.difference(&named).collect();
    assert!(missing.is_empty(), "{} MUSTs that no test names: {missing:?}", missing.len());
    let strange: Vec<_> = named.difference(&built).collect();
    assert!(strange.is_empty(), "named by tests, and no MUST of what is built: {strange:?}");
}

fn in_sources(path: &Path, named: &mut BTreeSet<u32>) {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap();
        entries.for_each(|entry| in_sources(&entry.unwrap().path(), named));
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        named.extend(tags_at_tests(&fs::read_to_string(path).unwrap()));
    }
}

/// The tags in the comments that stand directly before a test, unless it is ignored.
fn tags_at_tests(source: &str) -> Vec<u32> {
    let (mut found, mut comment) = (Vec::new(), Vec::new());
    let (mut is_test, mut is_ignored) = (false, false);
    for line in source.lines().map(str::trim) {
        if line.starts_with("//") {
            comment.extend(tags(line));
        } else if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            is_ignored |= line.starts_with("#[ignore");
        } else {
            if is_test && !is_ignored && line.contains("fn ") {
                found.append(&mut comment);
            }
            comment.clear();
            (is_test, is_ignored) = (false, false);
        }
    }
    found
}

#[test]
fn a_tag_counts_at_a_test_only() {
    let tag = |number: u32| format!("[M{number}]");
    let source = format!(
        "//! {}\n\n/// {} and {}\n#[test]\nfn a() {{}}\n/// {}\nfn b() {{}}\n// {}\nlet x;\n\
         /// {}\n#[test]\n#[ignore]\nfn c() {{}}\n",
        tag(1),
        tag(2),
        tag(3),
        tag(4),
        tag(5),
        tag(6),
    );
    assert_eq!(tags_at_tests(&source), [2, 3]);
}
