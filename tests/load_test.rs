//! `examples/load_test`, run as a program for a number of requests.

use std::{
    env,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

#[test]
fn every_request_is_answered_and_counted() {
    let output = load_test("--connections 2 --callers 8 --requests 1001 --json");
    let report = report(&output);
    assert!(output.status.success(), "{report}");
    assert_eq!(report["requests"], 1001);
    assert_eq!(report["answered"], 1001);
    assert_eq!(report["failed"], 0);
    assert_eq!(report["errors"], Value::Object(Default::default()));
    assert!(report["latency_us"]["p50"].as_f64() <= report["latency_us"]["max"].as_f64());
}

#[test]
fn every_notification_is_delivered_or_named() {
    let output = load_test("--callers 4 --requests 1000 --subscribers 3 --json");
    let report = report(&output);
    assert!(output.status.success(), "{report}");
    let count = |name: &str| report["notifications"][name].as_u64().expect("a count");
    assert!(count("published") > 0);
    assert_eq!(count("delivered") + count("missed"), 3 * count("published"));
}

#[test]
fn errors_are_counted_by_kind_and_fail_the_run() {
    let output = load_test("--callers 2 --requests 10 --method nobody.has.this --json");
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report["requests"], 10);
    assert_eq!(report["answered"], 0);
    assert_eq!(report["errors"], serde_json::json!({ "refused unknown-method": 10 }));
}

#[test]
fn arguments_that_make_no_sense_are_named() {
    for (arguments, named) in [
        ("--callers 0", "--callers"),
        ("--payload 15", "--payload"),
        ("--duration -1", "--duration"),
        ("--duration NaN", "seconds"),
        ("--method a..b", "--method"),
        ("--publish-rate 10", "--subscribers"),
        ("--connections 0", "--subscribers"),
        ("--connections 0 --subscribers 1 --requests 1", "--requests"),
    ] {
        let output = load_test(arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {message}");
        assert!(message.contains(named), "{arguments}: {message}");
    }
}

fn load_test(arguments: &str) -> Output {
    let program = example("load_test");
    let run = Command::new(&program).args(arguments.split(' ')).output();
    run.unwrap_or_else(|error| panic!("{}: {error}; `cargo test` builds it", program.display()))
}

fn report(output: &Output) -> Value {
    let message = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {message}"))
}

/// `target/debug/examples/NAME`: this program is `target/debug/deps/load_test-HASH`.
fn example(name: &str) -> PathBuf {
    let mut path = env::current_exe().expect("a program has a path");
    path.pop();
    path.pop();
    path.join("examples").join(format!("{name}{}", env::consts::EXE_SUFFIX))
}
