//! What holds for the public types as a whole: getters for settings, causes of errors, constructors
//! for tests.

use std::{
    cmp::Reverse,
    env,
    error::Error,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    pin::pin,
    process::Command,
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, ConnectionError, Connector, Delivery, Failure, Gap, GapCause,
    Json, NotSent, Notification, PublishError, Publisher, Random, Router, Server, ServerConfig,
    State, Streamed, TcpConnector, UnixConnector, blocking, handler,
    protocol::{Code, Epoch, Method, Outcome, Reason, Topic, TraceParent},
    server::{
        HandlerFuture, Next, PeerAddr, Principal, Rejection, Reply, Request, RequestParts,
        Stopping, TestRequest,
    },
    topic::{MemoryTopics, Unavailable},
};
use bytes::Bytes;
use futures::{FutureExt, stream};

/// The setters of a configuration, in its source.
fn setters(source: &str) -> Vec<&str> {
    let names = source.lines().filter_map(|line| line.trim().strip_prefix("pub fn "));
    names.filter_map(|line| line.split_once("(mut self").map(|(name, _)| name)).collect()
}

#[test]
fn each_setting_has_a_getter() {
    for file in ["src/client/config.rs", "src/server/config.rs"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let source = fs::read_to_string(path).expect("the source");
        let setters = setters(&source);
        assert!(setters.len() > 15, "{file}: {setters:?}");
        for setter in setters {
            let is_there = |end: &str| source.contains(&format!("get_{setter}{end}"));
            assert!(is_there(" = ") || is_there("(&self)"), "{file}: no getter for {setter}");
        }
    }
}

#[test]
fn getters_return_the_values_in_use() {
    let second = Duration::from_secs(1);
    let client = ClientConfig::new()
        .in_flight(0)
        .probe(second * 30)
        .dead(second)
        .unsent_bytes(0)
        .held_events(0)
        .give_up_after(second)
        .auth(Code::from_static("token"), "5f1c");
    assert_eq!((client.get_in_flight(), client.get_held_events()), (1, 1));
    assert_eq!((client.get_probe(), client.get_dead()), (second * 30, second * 31));
    assert_eq!((client.get_unsent_bytes(), client.get_give_up_after()), (Some(1), Some(second)));
    let schemes: Vec<_> = client.get_auth().map(|(scheme, _)| scheme.as_str()).collect();
    assert_eq!(schemes, ["token"]);
    let server = ServerConfig::new()
        .max_line(1)
        .line_time(second)
        .line_rate(0)
        .idle(None)
        .connections_per_address(8);
    assert_eq!((server.get_max_line(), server.get_line_time()), (1_024, second));
    assert_eq!((server.get_line_rate(), server.get_idle()), (1, None));
    assert_eq!(server.get_connections_per_address(), Some(8));
}

fn chain(error: &dyn Error) -> Vec<String> {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.map(ToString::to_string).collect()
}

#[test]
fn errors_name_their_causes() {
    let name = Method::new("no name").unwrap_err();
    let error = CallError::NotSent(NotSent::Name(name.clone()));
    assert_eq!(chain(&error), [name.to_string()]);
    let lost = NotSent::Lost(ConnectionError::ClosedByPeer);
    assert_eq!(chain(&CallError::NotSent(lost)), [ConnectionError::ClosedByPeer.to_string()]);
    let store = Unavailable("the disk is full".into());
    assert_eq!(chain(&PublishError::Unavailable(store.clone())), [store.to_string()]);
    assert_eq!(chain(&PublishError::Busy(store.clone())), [store.to_string()]);
    let reason = Reason::new(Code::BUSY, "");
    assert!(chain(&CallError::Refused { reason, retry: None }).is_empty());
}

/// What every extractor of the crate takes out of a request.
#[tokio::test]
async fn extractors_work_on_test_requests() {
    let publisher = Publisher::new(MemoryTopics::new(&Random::seeded(7)));
    let parent = TraceParent::new(1, 2, true).expect("valid");
    let request = TestRequest::new("sum")
        .payload("[1,2]")
        .attribute("app.tenant", 7)
        .trace(parent)
        .principal(Principal::new("ada"))
        .peer(PeerAddr::Unix(None))
        .publisher(publisher);
    assert_eq!(request.extract::<Bytes, _>(&()).unwrap(), "[1,2]");
    assert_eq!(request.extract::<String, _>(&()).unwrap(), "[1,2]");
    assert_eq!(request.extract::<Json<Vec<u64>>, _>(&()).unwrap().0, [1, 2]);
    assert_eq!(request.extract::<Principal, _>(&()).unwrap().name(), Some("ada"));
    assert_eq!(request.extract::<State<u8>, _>(&9).unwrap().0, 9);
    assert!(!request.extract::<Stopping, _>(&()).unwrap().is_stopping());
    let published = request.extract::<Publisher, _>(&()).unwrap().publish("t", "x").await;
    assert_eq!(published.unwrap().sequence, 1);
    let whole: Request = request.extract(&()).unwrap();
    assert_eq!((whole.method.as_str(), whole.id.map(|id| id.get())), ("sum", Some(1)));
    assert_eq!(whole.attributes.as_attributes().get("app.tenant"), Some("7"));
    assert_eq!(request.parts().trace(), Some(parent));
    assert_eq!(request.session().peer(), &PeerAddr::Unix(None));
    assert_eq!(request.one_way().parts().id(), None);
    let not_text = TestRequest::new("sum").payload(&b"\xff"[..]);
    assert!(not_text.extract::<String, _>(&()).is_err());
}

async fn sum(State(base): State<u64>, Json(numbers): Json<Vec<u64>>) -> Result<String, Failure> {
    match numbers.is_empty() {
        true => Err(Failure::new(Code::from_static("empty"), "nothing to add")),
        false => Ok((base + numbers.iter().sum::<u64>()).to_string()),
    }
}

fn tagged(request: &RequestParts<'_>, next: Next<'_>) -> Result<HandlerFuture, Rejection> {
    match request.attributes().get("app.tag") {
        Some("bad") => Err(Rejection::bad_attribute("a bad tag")),
        _ => next.run(),
    }
}

#[tokio::test]
async fn test_requests_run_through_layers_and_handlers() {
    let router = Router::with_state(10)
        .method("sum", sum)
        .method("apart", handler(sum).spawned())
        .method("slowly", blocking(|text: String| text.to_uppercase()))
        .method("count", async || Streamed(stream::iter(["1", "2"].map(String::from))))
        .layer(tagged);
    let outcome = |reply: &Reply| (reply.outcome(), reply.code().cloned(), reply.text().to_owned());
    for method in ["sum", "apart"] {
        let reply = TestRequest::new(method).payload("[1,2]").run(&router).await;
        assert_eq!(reply.payload().map(Bytes::as_ref), Some(&b"13"[..]));
        let reply = TestRequest::new(method).payload("[]").run(&router).await;
        let empty = Some(Code::from_static("empty"));
        assert_eq!(outcome(&reply), (Outcome::Err, empty, "nothing to add".into()));
        assert_eq!(reply.payload(), None);
        let reply = TestRequest::new(method).payload("x").run(&router).await;
        assert_eq!((reply.outcome(), reply.code()), (Outcome::No, Some(&Code::BAD_ARGUMENTS)));
    }
    let reply = TestRequest::new("slowly").payload("a").run(&router).await;
    assert_eq!(reply.payload().map(Bytes::as_ref), Some(&b"A"[..]));
    let reply = TestRequest::new("sum").attribute("app.tag", "bad").run(&router).await;
    assert_eq!((reply.outcome(), reply.code()), (Outcome::No, Some(&Code::BAD_ATTRIBUTE)));
    let reply = TestRequest::new("nothing").run(&router).await;
    assert_eq!((reply.outcome(), reply.code()), (Outcome::No, Some(&Code::UNKNOWN_METHOD)));
    assert_eq!(TestRequest::new("count").run(&router).await.outcome(), Outcome::More);
    let (items, last) = TestRequest::new("count").run_to_end(&router).await;
    assert_eq!((items.len(), last.outcome()), (2, Outcome::Ok));
    let (items, last) = TestRequest::new("sum").payload("[1]").run_to_end(&router).await;
    assert_eq!((items.len(), last.payload().map(Bytes::as_ref)), (0, Some(&b"11"[..])));
}

#[tokio::test]
async fn a_test_request_can_be_cancelled() {
    let wait = async |stopping: Stopping| {
        stopping.await;
        "stopped"
    };
    let router = Router::new().method("wait", wait);
    let request = TestRequest::new("wait");
    let mut running = pin!(request.run(&router));
    assert!(running.as_mut().now_or_never().is_none());
    request.stop();
    assert_eq!(running.await.payload().map(Bytes::as_ref), Some(&b"stopped"[..]));
}

#[tokio::test]
#[should_panic(expected = "as planned")]
async fn a_handler_panic_propagates_to_the_test() {
    let router = Router::new().method("boom", async || -> () { panic!("as planned") });
    TestRequest::new("boom").run(&router).await;
}

#[test]
fn deliveries_can_be_made_for_tests() {
    let (topic, epoch) = (Topic::new("t").unwrap(), Epoch::new("e").unwrap());
    let first = Notification::new(topic.clone(), epoch, 1, "x");
    first.ack();
    assert_eq!(Delivery::Notification(first.clone()).into_notification(), Some(first));
    let gap = Gap::new(topic, epoch, 2..=3, GapCause::Lagged);
    assert_eq!(gap.to_string(), "missed 2 to 3 of t: lagged");
}

/// The library as it was built for tests, the newest first: other compilers may have built some.
fn libraries() -> Vec<PathBuf> {
    let this = env::current_exe().expect("a path");
    let files = this.parent().expect("a directory").read_dir().expect("it can be read");
    let is_library = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("libbellwire-") && name.ends_with(".rlib")
    };
    let found = files.filter_map(|file| Some(file.ok()?.path())).filter(is_library);
    let mut found: Vec<_> = found.collect();
    let modified = |path: &PathBuf| path.metadata().and_then(|data| data.modified()).ok();
    found.sort_by_key(|path| Reverse(modified(path)));
    found
}

/// What the compiler says to a program that uses `library`.
fn compile(program: &Path, library: &Path) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let compiled = Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()))
        .args(["--edition=2024", "--crate-name=program", "--emit=metadata"])
        .args(["--error-format=short", "--out-dir"])
        .arg(directory.path())
        .arg("--extern")
        .arg(format!("bellwire={}", library.display()))
        .arg("-L")
        .arg(format!("dependency={}", library.parent().expect("a directory").display()))
        .arg(program)
        .output()
        .expect("the compiler runs");
    String::from_utf8_lossy(&compiled.stderr).into_owned()
}

/// The compiler names the argument or the return type of a handler that does not fit.
#[test]
fn compiler_errors_name_the_wrong_part_of_a_handler() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/messages/mistakes.rs");
    let source = fs::read_to_string(&path).expect("the mistakes");
    let is_of_another = |said: &String| said.contains("error[E0514]");
    let libraries = libraries();
    let mut said = libraries.iter().map(|library| compile(&path, library));
    let said = said.find(|said| !is_of_another(said)).expect("a library");
    let errors: Vec<_> = said.lines().filter(|line| line.contains(": error")).collect();
    let at = |number: usize| format!("mistakes.rs:{number}:");
    let mut expected = 0;
    for (number, line) in (1..).zip(source.lines()) {
        let Some((_, message)) = line.split_once("//~ ") else { continue };
        expected += 1;
        let is_named = |error: &&str| error.contains(&at(number)) && error.contains(message);
        assert!(errors.iter().any(is_named), "no {message:?} at line {number} in\n{said}");
    }
    assert!(expected > 10);
    assert_eq!(errors.len(), expected, "{said}");
}

/// The public types with public fields or variants: the file, the name, and the lines above.
fn open_types(source: &str) -> Vec<(String, String)> {
    let lines: Vec<_> = source.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(kind) =
            ["pub enum ", "pub struct "].into_iter().find(|kind| line.starts_with(kind))
        else {
            continue;
        };
        let body = lines[at..].iter().take_while(|line| **line != "}");
        let is_open = kind == "pub enum " || body.clone().any(|line| line.starts_with("    pub "));
        let is_head = |line: &&&str| line.starts_with('#') || line.starts_with("///");
        let head = lines[..at].iter().rev().take_while(is_head).copied().collect::<Vec<_>>();
        let name = line[kind.len()..].split(|letter: char| !letter.is_alphanumeric()).next();
        if line.ends_with('{') && is_open {
            found.push((name.unwrap_or_default().to_owned(), head.join("\n")));
        }
    }
    found
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in directory.read_dir().expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// A public type with open parts may grow, or its documentation says why it does not.
#[test]
fn public_types_are_non_exhaustive_or_documented() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    // Public with `unstable-core` alone; the re-exported ones stand in these files.
    let stable = ["cursor.rs", "backoff.rs", "flow_control.rs"];
    let unstable = ["Terms", "Overtaken"];
    let (mut growing, mut closed) = (0, 0);
    for file in files {
        let is_rule = file.components().any(|part| part.as_os_str() == "rules");
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_rule && !stable.contains(&name) {
            continue;
        }
        for (name, head) in open_types(&fs::read_to_string(&file).expect("a source")) {
            let is_unstable = unstable.contains(&name.as_str());
            let (grows, says) = (head.contains("#[non_exhaustive]"), head.contains("Exhaustive: "));
            assert!(grows || says || is_unstable, "{}: {name}", file.display());
            growing += usize::from(grows);
            closed += usize::from(says);
        }
    }
    assert!(growing > 25 && closed > 5, "{growing} and {closed}");
}

#[test]
fn names_are_accepted_in_every_form() {
    let topic = Topic::new("offers").expect("valid");
    let text = String::from("offers");
    let length = |text: &str| text.len();
    assert_eq!(length(&topic), 6);
    assert_eq!(Topic::from(&topic), topic);
    assert_eq!((Topic::try_from(&text), Topic::try_from("offers")), (Ok(topic.clone()), Ok(topic)));
    assert!(Topic::try_from(String::from("no topic")).is_err());
}

#[tokio::test]
async fn a_publisher_accepts_a_topic_in_every_form() {
    let publisher = Publisher::new(MemoryTopics::new(&Random::seeded(7)));
    let (text, topic) = (String::from("t"), Topic::new("t").expect("valid"));
    publisher.publish("t", "1").await.unwrap();
    publisher.publish(&text, "2").await.unwrap();
    publisher.publish(text, "3").await.unwrap();
    publisher.publish(&topic, "4").await.unwrap();
    assert_eq!(publisher.publish(topic.clone(), "5").await.unwrap().sequence, 5);
    assert!(publisher.close(&topic).await.unwrap().is_some());
}

#[tokio::test]
async fn errors_of_sockets_name_the_address() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let error = Server::bind(address).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().starts_with(&format!("{address}: ")), "{error}");
    let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    assert!(source.and_then(std::io::Error::raw_os_error).is_some(), "{source:?}");
    drop(listener);
    let error = Client::connect(address).await.unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    assert_eq!(source.map(std::io::Error::kind), Some(ErrorKind::ConnectionRefused));
    assert!(source.and_then(std::io::Error::raw_os_error).is_some(), "{source:?}");
    assert_eq!(error.clone(), error);
}

/// None of these addresses needs a name server.
#[tokio::test]
async fn errors_of_lookups_for_a_server_name_the_address() {
    for address in ["", "no-port", "localhost:99999"] {
        let error = Server::bind(address).await.unwrap_err();
        let resolvers = tokio::net::lookup_host(address).await.err().expect("not an address");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), format!("{address}: {resolvers}"));
        assert_eq!(chain(&error), [resolvers.to_string()]);
    }
}

#[tokio::test]
async fn an_invalid_address_of_a_client_is_named() {
    let error = TcpConnector::default().connect("no-port").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("\"no-port\""), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn errors_of_unix_sockets_name_the_path() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("none").join("socket");
    let named = path.display().to_string();
    let error = Server::bind_unix(&path).await.unwrap_err();
    assert!(error.to_string().starts_with(&named), "{error}");
    let error = Client::connect_unix(&path).await.unwrap_err();
    assert!(error.to_string().contains(&named), "{error}");
    let builder = Client::builder().connector(UnixConnector::default()).address(path.display());
    let error = builder.connect().await.unwrap_err();
    assert!(error.to_string().contains(&named), "{error}");
}

/// A codec's error is the source of the call's.
#[tokio::test]
async fn errors_of_codecs_are_kept() {
    let (near, _far) = tokio::io::duplex(64);
    let (client, _connection) = Client::new(near, ClientConfig::new());
    let bad_key = std::collections::HashMap::from([(vec![1], 1)]);
    let error = client.request::<_, u64>("m", &bad_key).await.unwrap_err();
    assert!(matches!(error, CallError::Encode(_)));
    assert!(error.source().is_some_and(|source| source.is::<serde_json::Error>()), "{error:?}");
    assert_eq!(error.clone(), error);
}

/// All requests that are sent again take the same options, typed or not.
#[tokio::test]
async fn requests_take_the_same_options() {
    macro_rules! options {
        ($request:expr) => {
            $request
                .deadline(Duration::from_secs(1))
                .deadline(None)
                .fail_fast()
                .trace(TraceParent::new(1, 2, true).expect("valid"))
                .attribute("app.tenant", 7)
        };
    }
    let (near, _far) = tokio::io::duplex(64);
    let (client, _connection) = Client::new(near, ClientConfig::new());
    drop(options!(client.call("m", "")));
    drop(options!(client.request::<_, u64>("m", &1)));
    drop(options!(client.stream("m", "")));
    drop(options!(client.request_stream::<_, u64>("m", &1)));
    drop(options!(client.one_way("m", "")));
    drop(client.publish("t", "").deadline(None).fail_fast());
    drop(client.methods().deadline(None).fail_fast());
}
