//! The cases for servers: the test server passes all, and each is failed by its wrong server.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use bellwire::{Router, Server, server::PeerAddr};
use bellwire_conformance::{
    address::Address,
    case::{Case, Level, Side, load},
    report::Outcome,
    server_methods::METHODS,
    server_options::{OPTIONS, Options},
    server_run::Runner,
    server_test,
    server_wrong::{Wrong, find},
    server_wrongs::WRONGS,
};
use bytes::Bytes;
use futures::{StreamExt, stream};

/// How many cases run at the same time. Most of them wait most of the time.
const JOBS: usize = 16;

/// How many wrong servers run at the same time: most of what they owe never comes.
const WRONG_JOBS: usize = 48;

/// How many cases a loaded machine may fail at first.
const MAY_BE_LATE: usize = 3;

/// For what has to come; a loaded machine may be slow.
const PATIENCE: Duration = Duration::from_secs(20);

/// For what a wrong server never sends. It may also be late, and the case fails as it should.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);

async fn runner(wrong: Option<&'static Wrong>, patience: Duration) -> Runner {
    let options = Options::parse([]).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let address = server_test::start(address, options, wrong).await.unwrap();
    Runner { address: address.into(), patience, jobs: JOBS }
}

/// On a loaded machine some of the cases that depend on real time may fail. They run again, alone.
async fn all_pass(runner: Runner) {
    let mut cases = cases();
    if runner.address.is_websocket() {
        cases.retain(|case| !has_half_close(case));
    }
    let report = runner.run(&cases).await;
    let failed: Vec<_> = report.failures().map(|entry| &entry.name).collect();
    assert_eq!(report.passed() + failed.len(), cases.len(), "none is skipped: {report}");
    assert!(failed.len() <= MAY_BE_LATE, "{report}");
    for case in cases.iter().filter(|case| failed.contains(&&case.name)) {
        assert_eq!(runner.run_case(case).await, Outcome::Passed, "{}", case.name);
    }
}

/// A WebSocket has none.
fn has_half_close(case: &Case) -> bool {
    case.script.iter().any(|(_, line)| line == "!eof")
}

fn cases() -> Vec<Case> {
    load(Side::Server).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_test_server_passes_all_cases() {
    all_pass(runner(None, PATIENCE).await).await;
}

/// The server's control methods are reached over a WebSocket, too, at the same path as all servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_test_server_passes_all_cases_over_websockets() {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let socket = server_test::start(local, Options::parse(["ws"]).unwrap(), None).await.unwrap();
    let address = Address::resolve(&format!("ws://{socket}/bellwire")).await.unwrap();
    assert_eq!(address.path.as_deref(), Some("/bellwire"));
    let runner = Runner { address, patience: PATIENCE, jobs: JOBS };
    let half_close = cases().into_iter().find(has_half_close).unwrap();
    assert!(matches!(runner.run_case(&half_close).await, Outcome::Skipped { .. }));
    all_pass(runner).await;
}

/// Else a case could be failed by the proxy, and not by its mistake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_without_a_mistake_passes_all_cases() {
    all_pass(runner(find("nothing"), PATIENCE).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_case_is_failed_by_its_wrong_server() {
    let mut runners = HashMap::new();
    for wrong in WRONGS {
        runners.insert(wrong.name, runner(Some(wrong), SHORT_PATIENCE).await);
    }
    let cases = cases();
    let outcomes = stream::iter(&cases).map(|case| {
        let runner = &runners[&case.wrong[..]];
        async move { (case, runner.run_case(case).await) }
    });
    let outcomes: Vec<_> = outcomes.buffer_unordered(WRONG_JOBS).collect().await;
    let is_failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
    let others = outcomes.iter().filter(|(_, outcome)| !is_failed(outcome));
    let others: Vec<_> =
        others.map(|(case, _)| format!("{} with {}", case.name, case.wrong)).collect();
    assert!(others.is_empty(), "these are not failed: {others:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_case_is_explained() {
    let name = "resume-on-another-connection";
    let cases: Vec<_> = cases().into_iter().filter(|case| case.name == name).collect();
    let report = runner(find("resumes-one-late"), PATIENCE).await.run(&cases).await;
    let json = serde_json::to_value(&report).unwrap();
    let entry = &json["cases"][0];
    let text = |key: &str| entry[key].as_str().unwrap_or_else(|| panic!("{key} in {entry}"));
    assert_eq!((text("name"), text("outcome"), text("level")), (name, "failed", "L2"));
    assert_eq!(entry["rules"], serde_json::json!(["B4.1", "S4.4"]));
    let mut script = cases[0].script.iter();
    let (number, _) =
        script.find(|(_, line)| line.starts_with("S: 1 ok;epoch=<e>;next=2")).unwrap();
    assert_eq!(text("at"), format!("l2-resume.txt:{number}"));
    assert!(text("step").starts_with("S: 1 ok;epoch=") && !text("step").contains("<e>"), "{entry}");
    assert!(text("reason").starts_with("S4.4: next is 3 instead of 2\ngot 1 ok;"), "{entry}");
    let dialogue = entry["dialogue"].as_array().unwrap().iter();
    let shown: Vec<_> =
        dialogue.filter_map(|line| line.as_str()?.split([' ', ';']).next()).collect();
    let hello_and_request = ["connection", "S:", "C:"];
    assert_eq!(shown[..3], hello_and_request);
    assert!(shown.ends_with(&hello_and_request), "{shown:?}");
    for part in
        [name, "[B4.1 S4.4]", text("at"), text("step"), "before that:", "control: test.publish"]
    {
        assert!(report.to_string().contains(part), "{part} in {report}");
    }
}

#[test]
fn each_case_names_a_wrong_server_that_exists() {
    for case in cases() {
        assert!(find(&case.wrong).is_some(), "{} names {}", case.name, case.wrong);
    }
}

#[test]
fn each_wrong_server_fails_a_case() {
    let cases = cases();
    for wrong in WRONGS.iter().filter(|wrong| wrong.name != "nothing") {
        assert!(cases.iter().any(|case| case.wrong == wrong.name), "{} is unused", wrong.name);
    }
}

/// A server that lacks something is not wrong: what needs it is skipped, and the rest runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_control_methods_can_run_some_cases() {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let PeerAddr::Tcp(address) = server.local_addr().unwrap() else { panic!("no TCP address") };
    let router = Router::new().method("echo", async |payload: Bytes| payload);
    let serving = tokio::spawn(server.serve(router).into_future());
    let runner = Runner { address: address.into(), patience: PATIENCE, jobs: JOBS };
    let mut cases = cases();
    cases.retain(|case| case.level == Level::L0);
    let report = runner.run(&cases).await;
    serving.abort();
    assert_eq!(report.failures().count(), 0, "{report}");
    assert!((20..cases.len()).contains(&report.passed()), "{report}");
}

/// What a case may call is what README.md asks a server for.
#[test]
fn the_methods_are_those_of_the_readme() {
    let readme = include_str!("../README.md");
    for name in METHODS {
        let shown = readme.lines().any(|line| {
            line.starts_with("| `") && line.split(['`', ' ', ',']).any(|word| word == name)
        });
        assert!(shown, "README.md has no {name}");
    }
}

#[test]
fn the_options_are_those_of_the_readme() {
    let readme = include_str!("../README.md");
    for (option, _) in OPTIONS {
        assert!(readme.contains(&format!("`{option}`")), "README.md has no {option}");
    }
}
