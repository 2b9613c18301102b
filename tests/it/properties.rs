//! What holds for any bytes, any values and any order of events. `PROPTEST_CASES` raises the counts.
#![cfg(feature = "unstable-core")]

use std::{
    collections::HashMap,
    fs,
    path::Path,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bellwire::{
    Random,
    protocol::{
        Attributes, BadPosition, Code, Cursor, Epoch, Line, LineDecoder, Mark, Method, Notice,
        Position, RequestId, Step, Time, Topic, Window, Word, encode, encode_bye, encode_end,
        encode_error, encode_gap, encode_reset,
    },
    topic::{MemoryTopics, Read, Room, TopicReader, TopicStore},
    unstable::rules::{Action, Lease, LeaseEvent, SubscriptionEvent, SubscriptionState},
};
use bellwire_testkit::{document, harness, websockets};
use futures::FutureExt;
use proptest::{
    collection::vec, prelude::*, sample::select, test_runner::RngAlgorithm, test_runner::RngSeed,
};

/// Seeded, so that a run repeats; `PROPTEST_CASES` overrides how many.
fn cases(cases: u32) -> ProptestConfig {
    let cases = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default().cases,
        None => cases,
    };
    ProptestConfig {
        cases,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(7_440),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Bytes that are likely to mean something: fragments of lines, with wild bytes between.
fn lines() -> impl Strategy<Value = Vec<u8>> {
    let fragment = select(vec![
        "\n",
        "\n",
        "\n",
        " ",
        " ",
        ";",
        "=",
        "*",
        "* ",
        "\r",
        "\r\n",
        "\x10",
        "\x10J",
        "\x10M",
        "\x10P",
        "1 ",
        "2 ",
        "3 ",
        "17 ",
        "9007199254740991 ",
        "0",
        "ok",
        "more",
        "err",
        "no",
        "cut",
        "echo",
        "later",
        "wait",
        "add",
        "offers.list",
        "offers",
        "e:1",
        "e",
        "1",
        "2",
        "3",
        "5",
        "f:1",
        ";ttl=5",
        ";window=2",
        ";a.b=c",
        ";epoch=e",
        ";next=1",
        ";from=e:1",
        ";last=2",
        ";window=1",
        ";window=2",
        ";slow=latest",
        ";slow=close",
        ";version=1",
        ";max-line=1024",
        "/hello",
        "/subscribe",
        "/unsubscribe",
        "/renew",
        "/publish",
        "/methods",
        "/cancel",
        "/ack",
        "/ack offers e:2",
        "/more",
        "/quit",
        "/gap",
        "/reset",
        "/end",
        "/error",
        "/bye",
        " offers 1",
        " expired ",
        " retention",
        "malformed",
        "x",
        "\u{e9}",
        "{\"id\":43}",
    ]);
    let wild = vec(any::<u8>(), 0..4);
    let piece = prop_oneof![9 => fragment.prop_map(|text| text.as_bytes().to_vec()), 1 => wild];
    vec(piece, 0..120).prop_map(|pieces| pieces.concat())
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => lines(), 1 => vec(any::<u8>(), 0..2_000)]
}

/// What a fuzz target takes: a byte that says how the others are cut, and those.
fn input(control: u8, stream: &[u8]) -> Vec<u8> {
    [&[control], stream].concat()
}

const NAME: &str = "[A-Za-z0-9_-]{1,12}([./][A-Za-z0-9_-]{1,12}){0,4}";

fn attributes() -> impl Strategy<Value = String> {
    let key = "[a-z][a-z0-9.-]{0,31}";
    let value = "[!-:<-~]{1,255}";
    proptest::collection::btree_map(key, value, 0..6)
        .prop_map(|map| map.iter().map(|(key, value)| format!(";{key}={value}")).collect())
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let awkward = select(vec![b'\n', b'\r', 0x10, b'J', b'M', b'P', b' ', 0, 0xff]);
    vec(prop_oneof![any::<u8>(), awkward], 0..300)
}

fn mark() -> impl Strategy<Value = Mark> {
    let id = prop_oneof![1..20u64, 1..=bellwire::protocol::MAX_NUMBER];
    prop_oneof![id.prop_map(|id| Mark::Id(RequestId::new(id).unwrap())), Just(Mark::Reserved)]
}

type Encoder<'a> = &'a dyn Fn(&mut Vec<u8>);

/// The line in `written`, which must be one: a LF at the end and no other, and no CR at all.
fn one(written: &[u8]) -> &[u8] {
    let line = written.strip_suffix(b"\n").expect("a LF at the end");
    assert!(!line.iter().any(|byte| matches!(byte, b'\n' | b'\r')), "{}", written.escape_ascii());
    line
}

proptest! {
    #![proptest_config(cases(300))]

    /// [B2.3] [B2.8] [B2.6] Any split of a stream gives the same lines, and the same error at the
    /// same place; what parses is written back as it was.
    #[test]
    fn any_split_gives_the_same_lines(stream in bytes(), control in any::<u8>()) {
        harness::line(&input(control, &stream));
    }

    /// [B2.1] [B2.3] [B2.5] Whatever is encoded is one line, and is parsed back. SECURITY.md,
    /// threat 1.
    #[test]
    fn an_encoded_line_is_one_line_and_round_trips(
        mark in mark(),
        word in NAME,
        is_protocol in any::<bool>(),
        attributes in attributes(),
        payload in payload(),
    ) {
        let word = if is_protocol { format!("/{word}") } else { word };
        let word = Word::new(&word).unwrap();
        let head = format!("1 a{attributes}");
        let attributes = Line::parse(head.as_bytes()).unwrap().attributes;
        let mut written = Vec::new();
        encode::line(&mut written, mark, word, attributes, &payload);
        let line = Line::parse(one(&written)).unwrap();
        assert_eq!((line.mark, line.word, line.attributes), (mark, word, attributes));
        assert_eq!(line.rest.plain(), payload);
    }

    /// [B2.3] [B2.5] The same for every line that a server writes of its own, whatever values are
    /// in it.
    #[test]
    fn server_notices_are_one_line_each(
        topic in NAME,
        payload in payload(),
        text in ".{0,40}",
        numbers in (1..1_000u64, 0..1_000u64),
    ) {
        let topic = Topic::new(&topic).unwrap();
        let position = Position { epoch: Epoch::from_bits(numbers.1), next: numbers.0 };
        let (first, last) = (numbers.0, numbers.0 + numbers.1);
        let mut out = Vec::new();
        encode_gap(&mut out, &topic, position.epoch, first..=last, &Code::RETENTION);
        let expected =
            Notice::Gap { topic: topic.as_str(), epoch: position.epoch, first, last, reason: Code::RETENTION };
        assert_eq!(Notice::parse(&Line::parse(one(&out)).unwrap()), Some(expected));
        let write: [Encoder<'_>; 5] = [
            &|out| encode_reset(out, &topic, position),
            &|out| encode_end(out, &topic, &Code::EXPIRED, position),
            &|out| encode_bye(out, first, &Code::SHUTDOWN),
            &|out| encode_error(out, RequestId::new(first), &Code::ID_ORDER, format_args!("{text}\r\n")),
            &|out| encode::notification(out, &topic, first, &payload),
        ];
        for write in write {
            let mut out = Vec::new();
            write(&mut out);
            let line = Line::parse(one(&out)).unwrap();
            assert!(!line.word.is_protocol() || Notice::parse(&line).is_some());
        }
    }

    /// Lines with valid names are valid, and no others: compared with a second, slow parser.
    #[test]
    fn valid_names_parse_back(
        name in prop_oneof![NAME.boxed(), "[a/._: -]{0,6}".boxed(), "a{126,130}".boxed()],
    ) {
        let is_segment = |segment: &str| {
            let mut bytes = segment.bytes();
            !segment.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        let is_name = name.len() <= 128 && name.split(['.', '/']).all(is_segment);
        assert_eq!(Topic::new(&name).is_ok(), is_name, "{name}");
        let is_outcome = ["ok", "err", "no", "cut", "more"].contains(&name.as_str());
        assert_eq!(Method::new(&name).is_ok(), is_name && !is_outcome, "{name}");
        let line = format!("1 {name} x");
        let parsed = Line::parse_request(line.as_bytes());
        let is_method = parsed.is_ok_and(|line| line.word.as_str() == name);
        let is_reserved = name.strip_prefix('/').is_some_and(|name| name.split(['.', '/']).all(is_segment));
        assert_eq!(is_method, (is_name && !is_outcome) || (is_reserved && name.len() <= 128), "{name}");
    }

    /// Valid attributes are found again, each at most once.
    #[test]
    fn valid_attributes_parse_back(attributes in attributes()) {
        let line = format!("1 a{attributes} x");
        let line = Line::parse(line.as_bytes()).unwrap();
        for (key, value) in line.attributes.iter() {
            assert_eq!(line.attributes.get(key), Some(value));
            let twice = format!("1 a{attributes};{key}=again x");
            assert!(Line::parse(twice.as_bytes()).is_err());
        }
        assert_eq!(line.attributes.as_str(), attributes);
        assert_eq!(line.attributes == Attributes::NONE, attributes.is_empty());
    }
}

proptest! {
    #![proptest_config(cases(150))]

    /// [B2.1] SECURITY.md, threat 13: the client against arbitrary bytes of a server.
    #[test]
    fn a_client_survives_any_server(stream in bytes(), control in any::<u8>()) {
        harness::client(&input(control, &stream));
    }

    /// The same over several connections, one after the other.
    #[test]
    fn a_reconnecting_client_survives_any_servers(
        stream in bytes(),
        control in any::<u8>(),
    ) {
        harness::reconnect(&input(control, &stream));
    }

    /// [S3.2] [S3.5] [S12.7] [S22.2] The server against arbitrary bytes of a client: each id is
    /// answered once, with known codes, in lines that any client understands.
    #[test]
    fn a_server_survives_any_client(stream in bytes(), control in any::<u8>()) {
        harness::server(&input(control, &stream));
    }
}

/// SECURITY.md, threat 2: what ends a line for the decoder, and what does not.
#[test]
fn only_a_lf_ends_a_line() {
    for (stream, expected) in [
        (&b"a\nb\n"[..], &[&b"a"[..], b"b"][..]),
        (b"a\r\nb\n", &[b"a\r", b"b"]),
        (b"a\rb\n", &[b"a\rb"]),
        (b"a\n\rb\n", &[b"a", b"\rb"]),
        (b"a\0b\x0bc\x0cd\x1ce\x1ef\n", &[b"a\0b\x0bc\x0cd\x1ce\x1ef"]),
        (b"a\xc2\x85b\xe2\x80\xa8c\n", &[b"a\xc2\x85b\xe2\x80\xa8c"]),
        (b"\n\n", &[b"", b""]),
        (b"a\nb", &[b"a"]),
    ] {
        assert_eq!(
            harness::split([stream], 64),
            (expected.iter().map(|l| l.to_vec()).collect(), None)
        );
        assert_eq!(harness::split(stream.chunks(1), 64).0, expected);
    }
}

/// SECURITY.md, threat 4: a growing line is not offered again. The decoder takes all it is given,
/// whole, and is given nothing twice, so the bytes it can look at are those of the stream once.
#[test]
fn the_decoder_is_given_each_byte_once() {
    let stream = [vec![b'x'; 50_000], b"\n".to_vec(), vec![b'y'; 10_000]].concat();
    let mut decoder = LineDecoder::new(65_535);
    let mut taken = 0;
    for mut piece in stream.chunks(7) {
        while !piece.is_empty() {
            let before = piece.len();
            let found = decoder.next(&mut piece).unwrap().is_some();
            taken += before - piece.len();
            assert!(found || piece.is_empty(), "what is not a line is taken all the same");
        }
    }
    assert_eq!((taken, decoder.pending()), (stream.len(), 10_000));
}

/// The seeds of the fuzz targets, which are made of the protocol's vectors and transcripts, as a
/// test of the fast tier; `UPDATE_SEEDS=1` writes them to fuzz/seeds.
#[test]
fn the_fuzz_seeds_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (target, name, data) in seeds() {
        let check = match target {
            "line" => harness::line,
            "client" => harness::client,
            "ws" => websockets::connection,
            "ws_frames" => websockets::frames,
            "ws_opening" => websockets::opening,
            _ => harness::server,
        };
        for control in [data[0], 0, 1, 2, 77, 154] {
            check(&input(control, &data[1..]));
            if target == "client" {
                harness::reconnect(&input(control, &data[1..]));
            }
        }
        let file = folder.join(target).join(&name);
        if std::env::var_os("UPDATE_SEEDS").is_some() {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &data).unwrap();
        }
        // The packaged crate has no fuzz targets.
        if folder.is_dir() {
            assert_eq!(fs::read(&file).ok(), Some(data), "{target}/{name}: UPDATE_SEEDS=1");
        }
    }
}

/// The target, the file's name and the bytes of each seed.
fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for line in document::vectors().lines {
        let bytes = [b"3", &line.bytes()[..], b"\n"].concat();
        seeds.push(("line", line.name, bytes));
    }
    for document::Transcript { name, lines } in document::transcripts() {
        let text = |text| document::unescape(text, |name| Some(name.to_owned()));
        let (mut client, mut server) = (b"1".to_vec(), b"1".to_vec());
        for line in &lines {
            match line.split_at_checked(3) {
                Some(("C: " | "C+ ", sent)) => server.extend([&text(sent)[..], b"\n"].concat()),
                Some(("C- ", sent)) => server.extend(text(sent)),
                Some(("S: " | "S~ ", got)) if !got.starts_with("* /hello;") => {
                    client.extend([&text(got)[..], b"\n"].concat());
                }
                _ => {}
            }
        }
        seeds.push(("client", name.clone(), client));
        seeds.push(("server", name, server));
    }
    seeds.extend(websocket_seeds());
    seeds
}

/// A request, responses, an address, and frames with an unmasked payload or one of zeros.
fn websocket_seeds() -> impl Iterator<Item = (&'static str, String, Vec<u8>)> {
    let shared = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
                  Sec-WebSocket-Protocol: bellwire.v1\r\n";
    let request = format!(
        "GET /b HTTP/1.1\r\nHost: a:80\r\nOrigin: http://a\r\n{shared}\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    let accept = "Sec-WebSocket-Accept: ACCEPT\r\n\r\n";
    let response = format!("HTTP/1.1 101 Switching Protocols\r\n{shared}{accept}");
    let masked = b"\x02\x85\0\0\0\x001 ech\x89\x81\0\0\0\0?\x80\x84\0\0\0\0o a\n\
                   \x82\xfe\0\x7e\0\0\0\0";
    let bare = b"\x02\x05* /by\x89\x01?\x80\x02e\n\x88\x05\x03\xe8bye";
    let behind = [b"2", request.as_bytes(), masked].concat();
    [
        ("ws", "frames", [b"2", &masked[..]].concat()),
        ("ws", "request-and-frames", behind),
        ("ws_frames", "of-a-client", [b"2", &masked[..]].concat()),
        ("ws_frames", "of-a-server", [b"2", &bare[..]].concat()),
        ("ws_opening", "request", format!("2{request}").into_bytes()),
        ("ws_opening", "response", format!("2{response}").into_bytes()),
        ("ws_opening", "refusal", b"2HTTP/1.1 403 Forbidden\r\n\r\n".to_vec()),
        ("ws_opening", "address", b"2ws://[::1]:7441/b?c=d".to_vec()),
    ]
    .map(|(target, name, data)| (target, name.to_owned(), data))
    .into_iter()
}

/// The codes that the harness lets a server use are those of the document.
#[test]
fn the_codes_are_those_of_the_document() {
    let codes = document::codes();
    assert_eq!(codes.with("no"), harness::NO_CODES);
    assert_eq!(codes.with("cut"), harness::CUT_CODES);
    assert_eq!(codes.with("/error"), harness::ERROR_CODES);
}

// Models: the pure transitions, and the log, against something simpler.

fn epoch(name: u8) -> Epoch {
    Epoch::new(&char::from(b'e' + name).to_string()).unwrap()
}

fn positions() -> impl Strategy<Value = Position> {
    (0..2u8, 1..12u64).prop_map(|(name, next)| Position { epoch: epoch(name), next })
}

fn subscription_events() -> impl Strategy<Value = SubscriptionEvent> {
    use SubscriptionEvent as Event;
    let maybe = || proptest::option::of(positions());
    prop_oneof![
        2 => maybe().prop_map(|from| Event::Join { from }),
        1 => Just(Event::Leave),
        3 => positions().prop_map(Event::Accepted),
        1 => Just(Event::Refused),
        1 => Just(Event::Left),
        6 => (1..14u64).prop_map(Event::Notification),
        3 => (0..2u8, 1..14u64, 0..5u64).prop_map(|(name, first, more)| Event::Gap {
            epoch: epoch(name), first, last: first + more
        }),
        1 => positions().prop_map(Event::Reset),
        1 => positions().prop_map(Event::Expired),
        1 => Just(Event::Ended),
        2 => maybe().prop_map(Event::Renewed),
    ]
}

/// Checks one transition: the numbers that the actions tell of begin where the subscription stood,
/// have no hole, and end where it stands now.
fn check_transition(before: SubscriptionState, event: SubscriptionEvent) -> SubscriptionState {
    use SubscriptionEvent as Event;
    use SubscriptionState as State;
    let (after, actions) = before.on(event);
    let actions: Vec<_> = actions.collect();
    let context = format!("{before:?} on {event:?}: {after:?}, {actions:?}");
    let mut stands = match (before, event) {
        (State::Live(at), _) => Some(at),
        (State::Requested { from: None, .. }, Event::Accepted(at)) => Some(at),
        (State::Requested { from, .. }, Event::Accepted(_)) => from,
        _ => None,
    };
    for action in &actions {
        let told = match *action {
            Action::Deliver(at) => Some((at.epoch, at.next, at.next)),
            Action::Missed { epoch, first, last, .. } => Some((epoch, first, last)),
            Action::Reset(at) => {
                stands = Some(at);
                None
            }
            Action::Violation => {
                assert_eq!((actions.len(), after), (1, before), "{context}");
                None
            }
            _ => None,
        };
        if let Some((epoch, first, last)) = told {
            let at = stands.as_mut().expect("only who stands somewhere is told numbers");
            assert_eq!((epoch, first), (at.epoch, at.next), "{context}");
            assert!(last >= first, "{context}");
            at.next = last + 1;
        }
    }
    if let State::Live(now) = after {
        assert_eq!(Some(now), stands, "{context}");
    }
    // What is new is never left out.
    if let (State::Live(at), Event::Notification(number)) = (before, event) {
        let delivered = actions.last() == Some(&Action::Deliver(Position { next: number, ..at }));
        assert_eq!(delivered, number >= at.next, "{context}");
    }
    // A line is sent for each request that is awaited, and for no other.
    let asks = |one: &Action| matches!(one, Action::Subscribe { .. } | Action::Unsubscribe);
    let sent = actions.iter().filter(|one| asks(one)).count();
    let answers = matches!(event, Event::Accepted(_) | Event::Refused | Event::Left);
    let awaited = |state| matches!(state, State::Requested { .. } | State::Leaving { .. });
    if !answers {
        let begins = usize::from(awaited(after) && !awaited(before));
        assert_eq!(sent, begins, "{context}");
    }
    after
}

#[derive(Clone, Debug)]
enum LogEvent {
    Append(u64),
    Evict(u64),
    NewEpoch,
    /// Deliver this many of the readable numbers.
    Deliver(u64),
}

fn log_events() -> impl Strategy<Value = LogEvent> {
    prop_oneof![
        3 => (1..5u64).prop_map(LogEvent::Append),
        2 => (1..5u64).prop_map(LogEvent::Evict),
        1 => Just(LogEvent::NewEpoch),
        4 => (1..4u64).prop_map(LogEvent::Deliver),
    ]
}

/// A subscriber as a list of what it received, by epoch.
struct Told {
    epoch: Epoch,
    next: u64,
}

impl Told {
    fn take(&mut self, first: u64, last: u64) {
        assert_eq!(first, self.next, "nothing twice, nothing left out");
        assert!(last >= first);
        self.next = last + 1;
    }

    /// Takes one step of the cursor; whether there may be another.
    fn step(&mut self, cursor: &mut Cursor, window: Window, most: u64) -> bool {
        let (after, step) = cursor.step(window);
        *cursor = after;
        match step {
            Step::CaughtUp => {
                assert_eq!((self.epoch, self.next), (window.epoch, window.next));
                return false;
            }
            Step::Reset(at) => {
                assert_ne!(at.epoch, self.epoch);
                assert_eq!((at.epoch, at.next), (window.epoch, 1));
                *self = Self { epoch: at.epoch, next: at.next };
            }
            Step::Gap { epoch, first, last } => {
                assert_eq!((epoch, last + 1), (self.epoch, window.first));
                self.take(first, last);
            }
            Step::Read { first, last } => {
                assert_eq!((first >= window.first, last), (true, window.head()));
                let last = last.min(first + most - 1);
                self.take(first, last);
                *cursor = cursor.delivered(last);
            }
        }
        true
    }
}

proptest! {
    #![proptest_config(cases(500))]

    /// [C4.1] [C4.2] A client's subscription reports every number once and in order, whatever the
    /// server sends and whatever the application does.
    #[test]
    fn a_subscription_reports_every_number_once(events in vec(subscription_events(), 0..40)) {
        events.into_iter().fold(SubscriptionState::Absent, check_transition);
    }

    /// [S4.8] [S4.5] A server's cursor delivers every number, or reports it in a gap, once and in
    /// order.
    #[test]
    fn a_cursor_reports_every_number_once(
        events in vec(log_events(), 0..60),
        from in proptest::option::of(positions()),
        begun in 0..8u64,
    ) {
        let mut window = Window { epoch: epoch(0), first: 1, next: 1 + begun };
        let started = Cursor::start(window, from);
        let is_beyond = from.is_some_and(|from| from.epoch == window.epoch && from.next > window.next);
        assert_eq!(started == Err(BadPosition), is_beyond);
        let Ok(mut cursor) = started else { return Ok(()) };
        let mut told = Told { epoch: cursor.position.epoch, next: cursor.position.next };
        let expected = match from {
            None => window.next,
            Some(from) if from.epoch == window.epoch => from.next,
            Some(_) => 1,
        };
        assert_eq!((told.epoch, told.next), (window.epoch, expected));
        let mut epochs = 0;
        for event in events {
            match event {
                LogEvent::Append(count) => window.next += count,
                LogEvent::Evict(count) => window.first = window.next.min(window.first + count),
                LogEvent::NewEpoch => {
                    epochs += 1;
                    let epoch = Epoch::from_bits(epochs);
                    window = Window { epoch, first: 1, next: 1 };
                }
                LogEvent::Deliver(most) => {
                    told.step(&mut cursor, window, most);
                }
            }
        }
        while told.step(&mut cursor, window, u64::from(u32::MAX)) {}
    }

    /// [S4.12] A lease runs out once, when nothing restarted it for its length.
    #[test]
    fn a_lease_runs_out_when_nothing_restarts_it(
        events in vec((0..3u8, 0..40u64), 0..40),
        length in 1..60u64,
    ) {
        let (mut lease, mut now, mut ends) = (Lease::default(), 0, None);
        for (event, passed) in events {
            now += passed;
            let event = [LeaseEvent::Renewed, LeaseEvent::Emptied, LeaseEvent::Tick][usize::from(event)];
            let (after, expired) =
                lease.on(event, Time::from_millis(now), Duration::from_millis(length));
            let is_due = event == LeaseEvent::Tick && ends.is_some_and(|ends| now >= ends);
            assert_eq!(expired, is_due);
            ends = match event {
                LeaseEvent::Renewed => Some(now + length),
                LeaseEvent::Emptied => None,
                LeaseEvent::Tick => ends.filter(|_| !is_due),
            };
            assert_eq!(after.deadline(), ends.map(Time::from_millis));
            lease = after;
        }
    }

    /// [S4.1] [S4.2] [S4.3] Over all lives of a store, an epoch and a number name one message; the
    /// numbers of an epoch begin at 1 and have no holes; readers get what was published under them.
    #[test]
    fn an_epoch_and_a_number_identify_one_message(operations in vec((0..6u8, 0..3usize), 0..80), seed in any::<u64>()) {
        let random = Random::seeded(seed);
        let mut store = MemoryTopics::new(&random);
        let mut model = Model::default();
        for (operation, topic) in operations {
            let topic = Topic::new(["a", "b", "c"][topic]).unwrap();
            match operation {
                0..=2 => model.publish(&store, &topic),
                3 => model.open(&store, &topic),
                4 => model.drop_reader(),
                _ => {
                    // The process ends and comes back.
                    model.readers.clear();
                    store = MemoryTopics::new(&random);
                }
            }
            model.read_all();
        }
    }
}

/// Everything that was ever published, by name.
#[derive(Default)]
struct Model {
    messages: HashMap<(Topic, Epoch, u64), Vec<u8>>,
    readers: Vec<(Topic, Cursor, Box<dyn TopicReader>)>,
    published: u64,
}

impl Model {
    fn publish(&mut self, store: &MemoryTopics, topic: &Topic) {
        self.published += 1;
        let payload = self.published.to_string().into_bytes();
        let published = store.append(topic, payload.clone().into());
        let published = published.now_or_never().expect("at once").expect("published");
        let (epoch, number) = (published.epoch, published.sequence);
        let before = self.messages.insert((topic.clone(), epoch, number), payload);
        assert_eq!(before, None, "{topic} {epoch} {number} names two messages");
        let has_previous = self.messages.contains_key(&(topic.clone(), epoch, number - 1));
        assert_eq!(has_previous, number > 1, "{topic} {epoch} {number}");
    }

    fn open(&mut self, store: &MemoryTopics, topic: &Topic) {
        let mut reader = store.open(topic);
        let Poll::Ready(Ok(window)) = reader.poll_window(&mut Context::from_waker(Waker::noop()))
        else {
            panic!("no window")
        };
        let from = Position { epoch: window.epoch, next: 1 };
        let cursor = Cursor::start(window, Some(from)).expect("1 is never beyond");
        self.readers.push((topic.clone(), cursor, reader));
    }

    fn drop_reader(&mut self) {
        if !self.readers.is_empty() {
            self.readers.remove(0);
        }
    }

    fn read_all(&mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        for (topic, cursor, reader) in &mut self.readers {
            let room = Room::new(1 << 20, u64::MAX, 1 << 16);
            let mut out = Vec::new();
            while let Poll::Ready(read) = reader.poll_read(cx, *cursor, room, &mut out) {
                let Read::Copied { last } = read.expect("available") else {
                    panic!("the log of a reader that lives stays, and keeps these few")
                };
                for number in cursor.position.next..=last {
                    let name = (topic.clone(), cursor.position.epoch, number);
                    let payload = &self.messages[&name];
                    let line = out.drain(..=out.iter().position(|&byte| byte == b'\n').unwrap());
                    let text = String::from_utf8_lossy(payload);
                    assert!(line.eq(format!("* {topic} {number} {text}\n").into_bytes()));
                }
                *cursor = cursor.delivered(last);
            }
        }
    }
}
