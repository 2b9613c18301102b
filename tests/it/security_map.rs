//! SECURITY.md against the tests: each threat names existing tests.

use std::{collections::BTreeMap, fs, path::Path};

/// The threats, and those that a later release closes.
const THREATS: std::ops::RangeInclusive<u32> = 1..=46;
const LATER: [u32; 0] = [];

const MAP: &str = include_str!("../../SECURITY.md");

/// The tests that a row names; `later` as it stands.
fn rows() -> BTreeMap<u32, Vec<&'static str>> {
    let map = MAP.lines().skip_while(|line| !line.starts_with("| # |"));
    let rows = map.take_while(|line| line.starts_with('|'));
    let rows = rows.filter_map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let tests = cells.get(4)?.split("<br>").map(|test| test.trim_matches('`'));
        Some((cells[1].parse().ok()?, tests.filter(|test| !test.is_empty()).collect()))
    });
    rows.collect()
}

#[test]
fn every_threat_has_a_row() {
    assert!(rows().into_keys().eq(THREATS));
}

#[test]
fn every_threat_names_existing_tests() {
    let mut faults = Vec::new();
    for (number, tests) in rows() {
        let named = tests.iter().filter(|test| **test != "later");
        let strange: Vec<_> = named.clone().filter(|test| !is_there(test)).collect();
        if !strange.is_empty() {
            faults.push(format!("row {number}: no such test: {strange:?}"));
        }
        if named.count() == 0 && !LATER.contains(&number) {
            faults.push(format!("row {number} has no test"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Whether `FILE::FUNCTION` is a test that runs.
fn is_there(test: &str) -> bool {
    let Some((file, function)) = test.rsplit_once("::") else { return false };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(path).is_ok_and(|source| tests_of(&source).any(|name| name == function))
}

/// The functions of a source that are tests and are not ignored.
fn tests_of(source: &str) -> impl Iterator<Item = &str> {
    let (mut is_test, mut is_ignored) = (false, false);
    source.lines().map(str::trim).filter_map(move |line| {
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            is_ignored |= line.starts_with("#[ignore");
            return None;
        }
        if line.starts_with("//") {
            return None;
        }
        let counts = is_test && !is_ignored;
        (is_test, is_ignored) = (false, false);
        let (_, name) = line.split_once("fn ").filter(|_| counts)?;
        name.split(['(', '<']).next()
    })
}

#[test]
fn only_tests_that_run_are_counted() {
    let source = "#[test]\nfn a() {}\nfn b() {}\n#[tokio::test(start_paused = true)]\nasync fn c() {\n\
                  #[test]\n#[ignore]\nfn d() {}\n#[test]\n/// Words.\nfn e(\n";
    assert!(tests_of(source).eq(["a", "c", "e"]));
    assert!(is_there("tests/it/security_map.rs::only_tests_that_run_are_counted"));
    assert!(!is_there("tests/it/security_map.rs::is_there") && !is_there("tests/it/none.rs::a"));
}
