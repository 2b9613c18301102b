//! What holds for the public types as a whole: getters for settings, causes of errors, constructors
//! for tests.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bellwire::{
    CallError, ClientConfig, ConnectionError, Delivery, Failure, Gap, GapCause, Json, NotSent,
    Notification, PublishError, Publisher, Random, Router, ServerConfig, State, Streamed, blocking,
    handler,
    protocol::{Code, Epoch, Method, Outcome, Reason, Topic, TraceParent},
    server::{
        HandlerFuture, Next, PeerAddr, Principal, Rejection, Reply, Request, RequestParts,
        Stopping, TestRequest,
    },
    topic::{MemoryTopics, Unavailable},
};
use bytes::Bytes;
use futures::stream;

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
fn getters_return_what_is_in_use() {
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
#[should_panic(expected = "as planned")]
async fn a_handlers_panic_is_the_tests_own() {
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

/// The library as it was built for this test.
fn library() -> PathBuf {
    let this = env::current_exe().expect("a path");
    let files = this.parent().expect("a directory").read_dir().expect("it can be read");
    let is_library = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("libbellwire-") && name.ends_with(".rlib")
    };
    let found = files.filter_map(|file| Some(file.ok()?.path())).filter(is_library);
    let modified = |path: &PathBuf| path.metadata().and_then(|data| data.modified()).ok();
    found.max_by_key(modified).expect("the library")
}

/// The compiler names the argument or the return type of a handler that does not fit.
#[test]
fn mistakes_with_handlers_are_named() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/messages/mistakes.rs");
    let source = fs::read_to_string(&path).expect("the mistakes");
    let library = library();
    let directory = tempfile::tempdir().expect("a directory");
    let compiled = Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()))
        .args(["--edition=2024", "--crate-name=mistakes", "--emit=metadata"])
        .args(["--error-format=short", "-Adeprecated", "--out-dir"])
        .arg(directory.path())
        .arg("--extern")
        .arg(format!("bellwire={}", library.display()))
        .arg("-L")
        .arg(format!("dependency={}", library.parent().expect("a directory").display()))
        .arg(&path)
        .output()
        .expect("the compiler runs");
    let said = String::from_utf8_lossy(&compiled.stderr);
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
