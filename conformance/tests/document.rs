//! The Python clients that the protocol's documents print pass the cases of their levels.
//!
//! scripts/clients.sh tests the printed clients on Twisted, too.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bellwire_conformance::{
    case::{Level, Side, load},
    client_run::Run,
    report::{Outcome, Report},
};

/// Cases at once: each starts an interpreter.
const JOBS: usize = 8;
/// The documents, and the Python files that each prints.
const DOCUMENTS: [(&str, &[&str]); 2] = [
    ("PROTOCOL.md", &["aio.py", "tw.py"]),
    ("docs/protocol/python-client.md", &["bellwire.py", "bellwire_aio.py", "bellwire_twisted.py"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_of_the_core_document_passes_level_0() {
    let report = run(Level::L0).await;
    assert_eq!(skipped_for(&report), ["max-line", "one-way", "strict"].into(), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longer_client_passes_level_1() {
    let report = run(Level::L1).await;
    let lacking = ["in-flight", "max-line", "one-way", "pause", "strict"];
    assert_eq!(skipped_for(&report), lacking.into(), "{report}");
}

/// Runs the printed client of this level with all cases up to it. All pass, or are skipped.
async fn run(level: Level) -> Report {
    let python = python();
    let testee = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/document_testee.py");
    let folder = printed_files(level).into_os_string().into_string().expect("a path in UTF-8");
    let command = vec![python, testee.to_owned(), folder, level.to_string()];
    let mut cases = load(Side::Client).unwrap();
    cases.retain(|case| case.level <= level);
    let run = Run { command, patience: Duration::from_secs(30) };
    let report = run.cases(cases, JOBS).await.unwrap();
    assert_eq!(report.failures().count(), 0, "{report}");
    assert!(report.passed() > 0, "{report}");
    report
}

/// The features for whose lack cases were skipped.
fn skipped_for(report: &Report) -> BTreeSet<&str> {
    let reasons = report.cases.iter().filter_map(|case| match &case.outcome {
        Outcome::Skipped(why) => Some(why.strip_prefix("the testee has no ").expect("a feature")),
        _ => None,
    });
    reasons.flat_map(|features| features.split(" and no ")).collect()
}

/// An interpreter that is new enough for the printed clients.
fn python() -> String {
    let check = "import sys; sys.exit(sys.version_info < (3, 11))";
    let status = Command::new("python3").args(["-c", check]).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "this test runs the clients that the documents print, and needs `python3`, version 3.11 or \
         later, in the PATH: install it (for example `apt install python3`), and nothing else"
    );
    "python3".to_owned()
}

/// A folder that has each Python block of the documents as a file. Each level has its own, because
/// the tests run at the same time.
fn printed_files(level: Level) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("printed-{level}"));
    fs::create_dir_all(&folder).unwrap();
    for (document, files) in DOCUMENTS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
        let text = fs::read_to_string(path).unwrap();
        let mut names = Vec::new();
        for block in text.split("\n```python ").skip(1) {
            let (name, code) = block.split_once('\n').expect("a name behind the word python");
            let (code, _) = code.split_once("\n```\n").expect("the end of the block");
            fs::write(folder.join(name), format!("{code}\n")).unwrap();
            names.push(name);
        }
        assert_eq!(names, files, "{document}");
    }
    folder
}
