//! The client that section 10 of PROTOCOL.md prints passes the cases of its level.
//!
//! scripts/clients.sh tests the printed client on Twisted, too.

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
/// The features that the printed client does not have.
const LACKING: [&str; 5] = ["in-flight", "max-line", "one-way", "pause", "strict"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_client_passes_the_cases_of_its_level() {
    let python = python();
    let testee = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/document_testee.py");
    let folder = printed_files().into_os_string().into_string().expect("a path in UTF-8");
    // Without what a site adds, an interpreter starts faster.
    let flags = ["-S", "-E"].map(str::to_owned);
    let command = [vec![python], flags.into(), vec![testee.to_owned(), folder]].concat();
    let mut cases = load(Side::Client).unwrap();
    cases.retain(|case| case.level <= Level::L1);
    let run = Run { command, patience: Duration::from_secs(30) };
    let report = run.cases(cases, JOBS).await.unwrap();
    assert_eq!(report.failures().count(), 0, "{report}");
    assert!(report.passed() > 0, "{report}");
    assert_eq!(skipped_for(&report), LACKING.into(), "{report}");
}

/// The features for whose lack cases were skipped.
fn skipped_for(report: &Report) -> BTreeSet<&str> {
    let reasons = report.cases.iter().filter_map(|case| match &case.outcome {
        Outcome::Skipped { reason } => {
            Some(reason.strip_prefix("the testee has no ").expect("a feature"))
        }
        _ => None,
    });
    reasons.flat_map(|features| features.split(" and no ")).collect()
}

/// An interpreter that is new enough for the printed client.
fn python() -> String {
    let check = "import sys; sys.exit(sys.version_info < (3, 11))";
    let status = Command::new("python3").args(["-c", check]).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "this test runs the client that PROTOCOL.md prints, and needs `python3`, version 3.11 or \
         later, in the PATH: install it (for example `apt install python3`), and nothing else"
    );
    "python3".to_owned()
}

/// A folder that has each Python block of PROTOCOL.md as a file.
fn printed_files() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("document");
    fs::create_dir_all(&folder).unwrap();
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../PROTOCOL.md")).unwrap();
    let mut names = Vec::new();
    for block in text.split("\n```python ").skip(1) {
        let (name, code) = block.split_once('\n').expect("a name behind the word python");
        let (code, _) = code.split_once("\n```\n").expect("the end of the block");
        fs::write(folder.join(name), format!("{code}\n")).unwrap();
        names.push(name);
    }
    assert_eq!(names, ["bellwire.py", "aio.py", "tw.py"]);
    folder
}
