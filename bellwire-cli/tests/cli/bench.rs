//! `bellwire bench`, run for a number of requests.

use std::{
    ffi::OsStr,
    fs,
    process::{Command, Output},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bellwire::{Router, Server};
use bytes::Bytes;
use roxmltree::{Document, ParsingOptions};
use serde_json::Value;

/// How long the server of [`a_stall_is_in_the_latency_of_each_request_that_it_delays`] stalls.
const STALL: Duration = Duration::from_millis(300);

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
fn open_loop_starts_each_request_once() {
    let output = load_test("--rate 5000 --connections 2 --callers 8 --requests 500 --json");
    let report = report(&output);
    assert!(output.status.success(), "{report}");
    assert_eq!(report["answered"], 500);
    assert_eq!(report["rate"]["started"], 500);
    assert_eq!(report["rate"]["not_started"], 0);
    assert_eq!(report["rate"]["target"], 5000);
}

/// With one caller, a stall of 300 ms is in the latency of one request as a closed loop counts it.
/// At 1,000 requests per second it delays 300 of these 2,000 requests: the n-th one of them waits for
/// at least 300 - n ms. The worst 20 are the 99th percentile, so it is at least 280 ms on a machine of
/// any speed.
#[test]
fn a_stall_is_in_the_latency_of_each_request_that_it_delays() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let address = runtime.block_on(serve_with_one_stall());
    let arguments = format!("--addr {address} --rate 1000 --callers 1 --requests 2000 --json");
    let output = load_test(&arguments);
    let report = report(&output);
    assert!(output.status.success(), "{report}");
    assert_eq!(report["answered"], 2000);
    let p99 = report["latency_us"]["p99"].as_f64().expect("a percentile");
    assert!(p99 >= 270_000.0, "{report}");
    assert_eq!(report["rate"]["held"], false);
}

async fn serve_with_one_stall() -> String {
    static REQUESTS: AtomicU64 = AtomicU64::new(0);
    let server = Server::bind("127.0.0.1:0").await.expect("a free port");
    let address = server.local_addr().expect("an address").to_string();
    let router = Router::new().method("echo", async |payload: Bytes| {
        if REQUESTS.fetch_add(1, Ordering::Relaxed) == 100 {
            tokio::time::sleep(STALL).await;
        }
        payload
    });
    tokio::spawn(server.serve(router).into_future());
    address
}

/// More requests are due than one caller can make. The report says so, and no request is left out.
#[test]
fn a_rate_that_is_not_reached_is_reported() {
    let arguments = "--rate 10000000 --callers 1 --duration 0.2 --warmup 0";
    let output = load_test(arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("NOT HELD: 10000000/s asked for"), "{text}");

    let report = report(&load_test(&format!("{arguments} --json")));
    let rate = |name: &str| report["rate"][name].as_u64().expect("a count");
    assert_eq!(report["rate"]["held"], false);
    assert_eq!(rate("started"), report["answered"].as_u64().expect("a count"));
    assert!(rate("not_started") > 0, "{report}");
    assert!(rate("started") + rate("not_started") <= 2_000_000, "{report}");
}

#[test]
fn html_report_is_well_formed_and_has_the_plots() {
    let directory = tempfile::tempdir().expect("a directory");
    for (arguments, plots) in [
        ("--requests 200 --subscribers 1", 5),
        ("--requests 200 --rate 5000", 3),
        ("--requests 10 --method nobody.has.this", 0),
    ] {
        // The page shows its command line, so the name of the file must be escaped.
        let file = directory.path().join("<b>\"&'.html");
        fs::write(&file, "of an earlier run").expect("a file");
        let mut all: Vec<&OsStr> = arguments.split(' ').map(OsStr::new).collect();
        all.extend([OsStr::new("--callers"), "4".as_ref(), "--report".as_ref(), file.as_ref()]);
        run(&all);
        let page = fs::read_to_string(&file).expect("a report");
        check_page(&page, plots);
        let files = fs::read_dir(directory.path()).expect("a directory").count();
        assert_eq!(files, 1, "no unfinished file is left");
    }
}

fn check_page(page: &str, plots: usize) {
    let options = ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = Document::parse_with_options(page, options).expect("well-formed");
    let named = |name| document.descendants().filter(move |node| node.has_tag_name(name));
    let has_shape = |svg: &roxmltree::Node<'_, '_>| {
        svg.children().any(|shape| shape.has_tag_name("polyline") || shape.has_tag_name("rect"))
    };
    assert_eq!(named("svg").filter(has_shape).count(), plots);
    assert_eq!(named("b").count(), 0);
    assert!(
        named("code").any(|code| code.text().is_some_and(|text| text.contains("<b>\"&'.html")))
    );
    assert!(named("th").any(|name| name.text() == Some("answered")));
    let places = named("svg").flat_map(|svg| svg.descendants()).flat_map(|node| node.attributes());
    assert!(places.into_iter().all(|place| !place.value().contains("NaN")), "{page}");
    for name in ["script", "link", "img", "iframe"] {
        assert_eq!(named(name).count(), 0, "the page needs no other file");
    }
}

#[test]
fn a_report_that_cannot_be_written_is_an_error_before_the_run() {
    let directory = tempfile::tempdir().expect("a directory");
    for file in [directory.path().to_owned(), directory.path().join("none").join("report.html")] {
        let output =
            run(&["--duration".as_ref(), "3600".as_ref(), "--report".as_ref(), file.as_ref()]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("cannot write the report"), "{message}");
        assert!(output.stdout.is_empty());
    }
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
        ("--duration NaN", "not a time"),
        ("--duration 2d", "not a time"),
        ("--duration 25h", "more than a day"),
        ("--method a..b", "--method"),
        ("--publish-rate 10", "--subscribers"),
        ("--rate 0", "--rate"),
        ("--connections 0", "--subscribers"),
        ("--connections 0 --subscribers 1 --rate 1", "--rate"),
        ("--connections 0 --subscribers 1 --requests 1", "--requests"),
    ] {
        let output = load_test(arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {message}");
        assert!(message.contains(named), "{arguments}: {message}");
    }
}

fn load_test(arguments: &str) -> Output {
    run(&arguments.split(' ').map(OsStr::new).collect::<Vec<_>>())
}

fn run(arguments: &[&OsStr]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bellwire"));
    // What a user has set is not what is measured.
    let command = command.arg("bench").args(arguments).env("BELLWIRE_ADDR", "127.0.0.1:9");
    command.output().expect("a process")
}

fn report(output: &Output) -> Value {
    let message = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {message}"))
}

#[tokio::test]
async fn missing_method_is_named() {
    let cli = crate::support::Cli::new();
    let (_server, address) = cli.serve(&["--method", "cat=cat"]).await;
    let bench = ["bench", "--requests", "1", "--callers", "1", "--addr", &address];
    cli.run(&bench).await.failed(1, &["no method echo", "--method"]);
}
