//! The rules of PROTOCOL.md and docs/protocol: their ids, their levels, and the tests that name them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use bellwire_testkit::document::{
    Rule, Whom, is_id, protocol, read, root, rules, tags, transcripts,
};

fn ids(rules: &[Rule]) -> BTreeSet<&str> {
    rules.iter().map(|rule| &*rule.id).collect()
}

/// An id is unique and says the section it stands in; the numbers of a section leave none out.
#[test]
fn ids_are_unique_and_dense() {
    let rules = rules();
    assert!(rules.len() > 100);
    let mut numbers = BTreeMap::<(Whom, u32), Vec<u32>>::new();
    for rule in &rules {
        assert_eq!(rule.section, rule.stands_in, "{} stands in another section", rule.id);
        numbers.entry((rule.whom, rule.section)).or_default().push(rule.number);
    }
    for (of, numbers) in numbers {
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u32), "{of:?}: {numbers:?}");
    }
    assert_eq!(ids(&rules).len(), rules.len(), "an id stands twice");
}

/// Every MUST and MUST NOT is in a rule, and every rule has one.
#[test]
fn every_must_belongs_to_a_rule() {
    let rules = rules();
    for (path, text) in protocol() {
        let own: Vec<_> = rules.iter().filter(|rule| rule.path == path).collect();
        for (line, number) in text.lines().zip(1..) {
            // The sentences that explain the word are the one exception.
            let explains = line.contains("key words MUST") || line.contains("Every MUST");
            let is_owned = own.iter().any(|rule| rule.lines.contains(&number));
            assert!(!line.contains("MUST") || explains || is_owned, "{path}:{number}: {line}");
        }
        let lines: Vec<_> = text.lines().collect();
        for rule in own {
            let text = lines[rule.lines.start - 1..rule.lines.end - 1].join(" ");
            assert!(text.contains("MUST"), "{} binds nobody", rule.id);
        }
    }
}

/// Every rule that a document names exists.
#[test]
fn documents_name_existing_rules() {
    let rules = rules();
    let known = ids(&rules);
    let others = ["README.md", "SECURITY.md", "ARCHITECTURE.md"];
    let others = others.into_iter().map(|path| (path.to_owned(), read(path)));
    for (path, text) in protocol().into_iter().chain(others) {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
        for word in words.map(|word| word.trim_end_matches('.')).filter(|word| is_id(word)) {
            assert!(known.contains(word), "{path}: no rule {word}");
        }
    }
}

/// docs/protocol/README.md lists each rule at one level: of a client's level B and C, of a server's B
/// and S.
#[test]
fn each_rule_belongs_to_one_level() {
    let rules = rules();
    let text = read("docs/protocol/README.md");
    let mut listed = BTreeMap::<&str, BTreeSet<(&str, &str)>>::new();
    let mut list = None;
    for line in text.lines() {
        if let Some((end, level)) = line.split_once(" rules of ") {
            list = Some((end, level.trim_end_matches(':')));
        } else if line.starts_with('#') {
            list = None;
        }
        let Some((id, words)) = line.strip_prefix("- ").and_then(|item| item.split_once(' '))
        else {
            continue;
        };
        let at = list.unwrap_or_else(|| panic!("{line}: in no list"));
        assert!(listed.entry(id).or_default().insert(at), "{id} stands twice");
        let not_yet = rules.iter().any(|rule| rule.id == id && !rule.is_built);
        assert_eq!(words.ends_with("(not yet)"), not_yet, "{line}");
    }
    assert_eq!(listed.keys().copied().collect::<BTreeSet<_>>(), ids(&rules));
    for rule in &rules {
        let lists = &listed[&*rule.id];
        let ends: BTreeSet<_> = lists.iter().map(|(end, _)| *end).collect();
        let levels: BTreeSet<_> = lists.iter().map(|(_, level)| *level).collect();
        let expected = match rule.whom {
            Whom::Both => BTreeSet::from(["Client", "Server"]),
            Whom::Client => BTreeSet::from(["Client"]),
            Whom::Server => BTreeSet::from(["Server"]),
        };
        assert_eq!((ends, levels.len()), (expected, 1), "{}: {lists:?}", rule.id);
        assert!(levels.iter().all(|level| ["L0", "L1", "L2", "L3"].contains(level)));
    }
}

/// Each number of an earlier version of the rules is listed once, with a rule that exists.
#[test]
fn every_old_rule_number_maps_to_a_rule() {
    let rules = rules();
    let known = ids(&rules);
    let (mut numbers, mut found) = (Vec::new(), BTreeSet::new());
    let text = read("docs/protocol/old-numbers.md");
    for row in text.lines().filter(|line| line.starts_with("| M")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        numbers.push(cells[1][1..].parse::<u32>().expect("a number"));
        let (id, file) = cells[2].split_once("](").expect("a link");
        let rule = rules.iter().find(|rule| rule.id == id[1..]).unwrap_or_else(|| panic!("{row}"));
        let file = file.trim_end_matches(')').trim_start_matches("../../");
        assert!(rule.path.ends_with(file), "{row}");
        found.insert(&*rule.id);
    }
    assert!(numbers.iter().copied().eq(1..=203), "{numbers:?}");
    assert!(found.is_subset(&known));
}

/// Every built rule is named by a test, or by a transcript that is replayed; and no test names a rule
/// that does not exist or is not built.
#[test]
fn every_rule_is_tested() {
    let rules = rules();
    let built: BTreeSet<String> =
        rules.iter().filter(|rule| rule.is_built).map(|rule| rule.id.clone()).collect();
    let mut named = BTreeSet::new();
    for transcript in transcripts() {
        let remarks = transcript.lines.iter().filter(|line| line.starts_with('#'));
        named.extend(remarks.flat_map(|line| tags(line)));
    }
    for folder in ["tests", "src"] {
        in_sources(&root().join(folder), &mut named);
    }
    let missing: Vec<_> = built.difference(&named).collect();
    assert!(missing.is_empty(), "{} rules that no test names: {missing:?}", missing.len());
    let strange: Vec<_> = named.difference(&built).collect();
    assert!(strange.is_empty(), "named by tests, and no rule of what is built: {strange:?}");
}

fn in_sources(path: &Path, named: &mut BTreeSet<String>) {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap();
        entries.for_each(|entry| in_sources(&entry.unwrap().path(), named));
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        named.extend(tags_at_tests(&fs::read_to_string(path).unwrap()));
    }
}

/// The tags in the comments that stand directly before a test, unless it is ignored.
fn tags_at_tests(source: &str) -> Vec<String> {
    let (mut found, mut comment) = (Vec::new(), Vec::new());
    let (mut is_test, mut is_ignored) = (false, false);
    for line in source.lines().map(str::trim) {
        if line.starts_with("//") {
            comment.extend(tags(line));
        } else if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            is_ignored |= line.starts_with("#[ignore");
        } else {
            if is_test && !is_ignored && line.contains("fn ") {
                found.append(&mut comment);
            }
            comment.clear();
            (is_test, is_ignored) = (false, false);
        }
    }
    found
}

#[test]
fn rule_tags_count_only_before_a_test() {
    let tag = |number: u32| format!("[S99.{number}]");
    let source = format!(
        "//! {}\n\n/// {} and {}\n#[test]\nfn a() {{}}\n/// {}\nfn b() {{}}\n// {}\nlet x;\n\
         /// {}\n#[test]\n#[ignore]\nfn c() {{}}\n",
        tag(1),
        tag(2),
        tag(3),
        tag(4),
        tag(5),
        tag(6),
    );
    assert_eq!(tags_at_tests(&source), ["S99.2", "S99.3"]);
}
