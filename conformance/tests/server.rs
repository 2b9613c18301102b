//! The cases for servers: the test server passes all, and each is failed by its wrong server.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use bellwire_conformance::{
    case::{Case, Side, load},
    report::Outcome,
    server_options::Options,
    server_run::Runner,
    server_test,
    server_wrong::{Wrong, find},
    server_wrongs::WRONGS,
};
use futures::{StreamExt, stream};

/// How many cases run at the same time. Most of them wait most of the time.
const JOBS: usize = 48;

/// For what has to come; a loaded machine may be slow.
const PATIENCE: Duration = Duration::from_secs(20);

/// For what a wrong server never sends. It may also be late, and the case fails as it should.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);

async fn runner(wrong: Option<&'static Wrong>, patience: Duration) -> Runner {
    let options = Options::parse([]).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let address = server_test::start(address, options, wrong).await.unwrap();
    Runner { address, patience, jobs: JOBS }
}

fn cases() -> Vec<Case> {
    load(Side::Server).unwrap()
}

#[tokio::test]
async fn the_test_server_passes_all_cases() {
    let cases = cases();
    let report = runner(None, PATIENCE).await.run(&cases).await;
    assert_eq!(report.passed(), cases.len(), "{report}");
}

/// Else a case could be failed by the proxy, and not by its mistake.
#[tokio::test]
async fn a_proxy_without_a_mistake_passes_all_cases() {
    let cases = cases();
    let report = runner(find("nothing"), PATIENCE).await.run(&cases).await;
    assert_eq!(report.passed(), cases.len(), "{report}");
}

#[tokio::test]
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
    let outcomes: Vec<_> = outcomes.buffer_unordered(JOBS).collect().await;
    let is_failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
    let others = outcomes.iter().filter(|(_, outcome)| !is_failed(outcome));
    let others: Vec<_> =
        others.map(|(case, _)| format!("{} with {}", case.name, case.wrong)).collect();
    assert!(others.is_empty(), "these are not failed: {others:#?}");
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
