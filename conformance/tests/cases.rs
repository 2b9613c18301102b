//! The cases as a whole: their form, their rules, and how many there are.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    path::Path,
};

use bellwire_conformance::case::{Case, Level, Side, load, parse};

fn all() -> Vec<Case> {
    [Side::Server, Side::Client].into_iter().flat_map(|side| load(side).unwrap()).collect()
}

/// The rules of PROTOCOL.md and docs/protocol, as `S3.1`.
fn rules() -> HashSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = fs::read_dir(root.join("docs/protocol")).expect("the folder");
    let files = folder.map(|entry| entry.expect("an entry").path());
    let documents = files.chain([root.join("PROTOCOL.md")]);
    let texts = documents.filter(|path| path.extension().is_some_and(|it| it == "md"));
    let texts = texts.map(|path| fs::read_to_string(path).expect("a document"));
    let rule = |line: &str| Some(line.strip_prefix("- **")?.split_once("**")?.0.to_owned());
    texts.flat_map(|text| text.lines().filter_map(rule).collect::<Vec<_>>()).collect()
}

#[test]
fn each_rule_that_a_case_names_exists() {
    let known = rules();
    assert!(known.len() > 100, "the rules of PROTOCOL.md are found");
    for case in all() {
        for rule in &case.rules {
            assert!(known.contains(rule), "{} in {} names {rule}", case.name, case.file);
        }
    }
}

/// A rule that binds only clients is no reason to fail a server.
#[test]
fn a_server_case_names_a_rule_that_binds_servers() {
    for case in load(Side::Server).unwrap() {
        let binds = |rule: &String| rule.starts_with(['B', 'S']);
        assert!(case.rules.iter().any(binds), "{} in {}", case.name, case.file);
    }
}

/// The rules that docs/protocol/README.md lists for `Server` or `Client`, each once.
fn listed(side: Side) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol/README.md");
    let text = fs::read_to_string(path).expect("the list of rules");
    let mut rules = BTreeSet::new();
    let mut is_its = false;
    for line in text.lines() {
        if let Some((of, _)) = line.split_once(" rules of L") {
            is_its = of == format!("{side:?}");
        } else if let Some(rule) = line.strip_prefix("- ").filter(|_| is_its) {
            rules.extend(rule.split(' ').next().map(str::to_owned));
        }
    }
    rules
}

/// README.md says which rules have no case, and why.
#[test]
fn each_rule_has_a_case_or_a_reason_for_none() {
    let readme = include_str!("../README.md");
    let (_, section) = readme.split_once("### Rules without a case\n").expect("the section");
    let section = section.split("\n## ").next().expect("its text");
    let row = |line: &str| Some(line.strip_prefix("| ")?.split_once(" |")?.0.to_owned());
    let excused: BTreeSet<_> =
        section.lines().filter_map(row).filter(|one| one != "rule").collect();
    let of_client = |rule: &String| rule.starts_with('C');
    let (of_client, of_server) = excused.into_iter().partition::<BTreeSet<_>, _>(of_client);
    for (side, excused) in [(Side::Server, of_server), (Side::Client, of_client)] {
        let cases = load(side).unwrap();
        let shown: BTreeSet<_> = cases.into_iter().flat_map(|case| case.rules).collect();
        let (listed, expected) = (listed(side), excused);
        assert!(listed.len() > 40, "the rules for {side:?} are found");
        let without: BTreeSet<_> = listed.difference(&shown).cloned().collect();
        assert_eq!(without, expected, "rules for {side:?} without a case");
    }
}

#[test]
fn there_are_enough_cases_of_each_level() {
    for (side, least) in [(Side::Server, 150), (Side::Client, 110)] {
        let cases = load(side).unwrap();
        assert!(cases.len() >= least, "{} cases of {side:?}", cases.len());
        for level in Level::ALL {
            assert!(cases.iter().any(|case| case.level == level), "{side:?} {level}");
        }
    }
}

#[test]
fn invalid_case_files_are_reported_with_the_reason() {
    let good =
        "case: a\ntitle: A\nlevel: L0\nrule: S3.1 C2.2\nwrong: w\noptions: x=1 y\n\nC: 1 a\n";
    let case = parse("f", good).unwrap().remove(0);
    assert_eq!(case.rules, ["S3.1", "C2.2"]);
    assert_eq!((case.option("x"), case.option("y"), case.option("z")), (Some("1"), Some(""), None));
    assert_eq!(case.script, [(8, "C: 1 a".to_owned())]);
    for (from, to, why) in [
        ("level: L0", "level: L9", "f:3: no level \"L9\""),
        ("rule: S3.1 C2.2", "rule: S3.1 2", "f:1: case \"a\" has no `rule: S3.1`"),
        ("wrong: w\n", "", "f:1: case \"a\" has no `wrong:`"),
        ("C: 1 a\n", "", "f:1: case \"a\" has no script"),
        ("title", "heading", "f:2: no header \"heading\""),
        ("case: a\n", "", "f:1: a case begins with `case: NAME`"),
    ] {
        assert_eq!(parse("f", &good.replace(from, to)).unwrap_err(), why);
    }
}
