//! The client cases: the Rust client passes all of them, and each is failed by its wrong client.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use bellwire_conformance::{
    case::{Case, Side, load},
    client_run::{Run, check},
    client_wrong, hostile,
    report::{Outcome, Report},
};
use futures::{StreamExt, stream};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
    time::timeout,
};

/// Cases at once: most of them wait.
const JOBS: usize = 24;

/// How many cases a loaded machine may fail at first.
const MAY_BE_LATE: usize = 3;

fn kit(arguments: &[&str]) -> Vec<String> {
    let kit = env!("CARGO_BIN_EXE_bellwire-conformance");
    [kit].iter().chain(arguments).map(|&one| one.to_owned()).collect()
}

fn cases() -> Vec<Case> {
    load(Side::Client).unwrap()
}

/// On a loaded machine some of the cases that depend on real time may fail. They run again, alone.
async fn all_pass(command: Vec<String>, cases: Vec<Case>) {
    let run = || Run { command: command.clone(), patience: Duration::from_secs(30) };
    let report: Report = run().cases(cases.clone(), JOBS).await.unwrap();
    let failed: Vec<_> = report.failures().map(|entry| &entry.name).collect();
    assert_eq!(report.passed() + failed.len(), cases.len(), "none is skipped: {report}");
    assert!(failed.len() <= MAY_BE_LATE, "{report}");
    for case in cases.iter().filter(|case| failed.contains(&&case.name)) {
        assert_eq!(run().case(case).await, Outcome::Passed, "{}", case.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_client_passes_all_cases() {
    all_pass(kit(&["testee"]), cases()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_case_is_failed_by_its_wrong_client() {
    let passed = stream::iter(cases()).map(|case| async move {
        let command = kit(&["wrong-client", &case.wrong, "--"]);
        let command = [command, kit(&["testee"])].concat();
        let run = Run { command, patience: Duration::from_millis(1_500) };
        (run.case(&case).await == Outcome::Passed).then(|| format!("{} {}", case.name, case.wrong))
    });
    let passed: Vec<_> =
        passed.buffer_unordered(JOBS).filter_map(async |passed| passed).collect().await;
    assert_eq!(passed, Vec::<String>::new(), "cases that their wrong clients pass");
}

/// The example of a testee in another language, by a few cases. Without a `python3` there is nothing
/// to be tested.
#[tokio::test]
async fn the_testee_in_python_passes() {
    let python = Command::new("python3").arg("--version").output().await;
    assert!(python.is_ok(), "this test needs `python3`, version 3.11 or later, in the PATH");
    let names = [
        "replies-in-any-order",
        "lost-connection",
        "streamed-reply-to-a-call",
        "unstuffed-once",
        "line-over-the-default",
        "bad-pair",
        "another-version",
        "doubled-reply",
    ];
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/testee.py");
    let command = vec!["python3".to_owned(), example.to_owned()];
    let mut cases = cases();
    cases.retain(|case| names.contains(&&case.name[..]) || case.name == "subscribe");
    let run = Run { command, patience: Duration::from_secs(30) };
    let report = run.cases(cases, JOBS).await.unwrap();
    assert_eq!((report.passed(), report.failures().count()), (names.len(), 0), "{report}");
}

/// The proxy of the mutated clients fails no case by itself, except the one about bytes that do not
/// form a line yet: the proxy forwards whole lines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mutation_proxy_without_a_mutation_passes_all_client_cases() {
    let command = [kit(&["wrong-client", "none", "--"]), kit(&["testee"])].concat();
    let mut cases = cases();
    cases.retain(|case| case.name != "endless-line");
    all_pass(command, cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_case_is_explained() {
    let command = [kit(&["wrong-client", "trims-payloads", "--"]), kit(&["testee"])].concat();
    let run = Run { command, patience: Duration::from_secs(30) };
    let case = cases().into_iter().find(|case| case.wrong == "trims-payloads").unwrap();
    let Outcome::Failed(failure) = run.case(&case).await else { panic!("it is not failed") };
    let (at, step) = (failure.at.unwrap(), failure.step.unwrap());
    let (number, _) = case.script.iter().find(|(_, line)| *line == step).unwrap();
    assert_eq!(at, format!("{}:{number}", case.file));
    assert!(failure.reason.contains("expected"), "{}", failure.reason);
    for mark in ["T: connect", "S: * /hello;version=1", "C: 1 "] {
        let is_there = failure.dialogue.iter().any(|line| line.starts_with(mark));
        assert!(is_there, "{mark} in {:?}", failure.dialogue);
    }
}

#[test]
fn each_script_can_be_played() {
    check(&cases()).unwrap();
}

#[test]
fn each_wrong_client_fails_a_case() {
    let used: BTreeSet<_> = cases().into_iter().map(|case| case.wrong).collect();
    let known: BTreeSet<_> = client_wrong::names().map(str::to_owned).collect();
    assert_eq!(used, known);
}

/// A hostile server plays its scenario to whatever client connects.
#[tokio::test]
async fn the_hostile_server_judges_a_client() {
    let kit = env!("CARGO_BIN_EXE_bellwire-conformance");
    let start = |arguments: &[&str]| {
        let mut command = Command::new(kit);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        command.spawn().unwrap()
    };
    let mut server = start(&["hostile", "unasked-for-reply"]);
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    let address = first.strip_prefix("listening on ").unwrap();
    let mut client = start(&["testee"]);
    let commands = format!("connect {address}\ncall a any.method of the author\n");
    client.stdin.as_mut().unwrap().write_all(commands.as_bytes()).await.unwrap();
    let verdict = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("a verdict");
            if line.starts_with("WRONG") || line.starts_with("the client did") {
                return line;
            }
        }
    };
    let verdict = timeout(Duration::from_secs(30), verdict).await.expect("a verdict in time");
    assert!(verdict.starts_with("the client did what it should"), "{verdict}");
}

#[test]
fn there_are_scenarios_for_a_hostile_server() {
    let scenarios = hostile::scenarios().unwrap();
    assert!(scenarios.len() >= 30, "{}", scenarios.len());
}
