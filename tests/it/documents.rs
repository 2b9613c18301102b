//! The documents themselves: their links, their references to sections, their tables and their size.

use std::{collections::BTreeSet, fs, path::Path};

use bellwire_testkit::document::{
    attribute_table, attributes, codes, methods, names, protocol, read, root, transcripts,
};

/// Every document that links to others: each path with its text.
fn documents() -> Vec<(String, String)> {
    let single = [
        "README.md",
        "PROTOCOL.md",
        "ARCHITECTURE.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "clients/js/README.md",
        "clients/python/README.md",
        "clients/twisted/README.md",
        "conformance/README.md",
        "conformance/TESTEE.md",
    ];
    let mut paths = single.map(str::to_owned).to_vec();
    in_folder("docs", &mut paths);
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

fn in_folder(folder: &str, paths: &mut Vec<String>) {
    paths.extend(names(folder, "md").into_iter().map(|name| format!("{folder}/{name}")));
    for entry in fs::read_dir(root().join(folder)).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.path().is_dir() {
            in_folder(&format!("{folder}/{}", entry.file_name().to_string_lossy()), paths);
        }
    }
}

/// PROTOCOL.md stays short enough to be read in one go.
#[test]
fn protocol_md_stays_short() {
    let length = read("PROTOCOL.md").chars().count();
    assert!(length <= 30_000, "PROTOCOL.md has {length} characters");
}

/// The command and the clients are released together with the crate.
#[test]
fn all_packages_have_the_version_of_the_crate() {
    let version = env!("CARGO_PKG_VERSION");
    let has = |path: &str, text: &str| {
        assert!(read(path).contains(text), "{path} does not say {text}");
    };
    for project in ["clients/python/pyproject.toml", "clients/twisted/pyproject.toml"] {
        has(project, &format!("\nversion = \"{version}\"\n"));
    }
    has("clients/twisted/pyproject.toml", &format!("\"bellwire=={version}\""));
    has("clients/js/package.json", &format!("\n  \"version\": \"{version}\",\n"));
    has("bellwire-cli/Cargo.toml", "\nversion.workspace = true\n");
    has("conformance/Cargo.toml", "\nversion.workspace = true\n");
    has("docs/protocol/README.md", &format!("version {version} of the crate"));
    has("docs/protocol/growth.md", &format!("Version {version} of the crate"));
    has("CHANGELOG.md", &format!("\n## {version} - "));
}

/// No relative link is dead, in its path or in its anchor.
#[test]
fn links_are_not_dead() {
    let mut dead = Vec::new();
    for (path, text) in documents() {
        let folder = Path::new(&path).parent().expect("a folder");
        for link in links(&text) {
            let (target, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let file = if target.is_empty() { path.as_str().into() } else { folder.join(target) };
            let there = root().join(&file);
            let is_anchor = || anchors(&fs::read_to_string(&there).unwrap()).contains(anchor);
            if !there.exists() || (!anchor.is_empty() && !is_anchor()) {
                dead.push(format!("{path}: {link}"));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

/// The text outside of fenced blocks and inline code.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let mut prose = String::new();
    for line in text.lines() {
        is_code ^= line.trim_start().starts_with("```");
        if !is_code {
            prose.extend(line.split('`').step_by(2));
            prose.push('\n');
        }
    }
    prose
}

/// The relative targets of `](…)`.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let targets = prose.split("](").skip(1).filter_map(|after| Some(after.split_once(')')?.0));
    targets.filter(|target| !target.contains("://")).map(str::to_owned).collect()
}

/// The anchors that the headings of a text have on GitHub.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for heading in headings(text) {
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let slug: String = heading.to_lowercase().replace('`', "").chars().filter(kept).collect();
        let slug = slug.replace(' ', "-");
        let again = (1..).map(|n| format!("{slug}-{n}"));
        let mut names = std::iter::once(slug.clone()).chain(again);
        anchors.insert(names.find(|name| !anchors.contains(name)).expect("a free one"));
    }
    anchors
}

fn headings(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let mut headings = Vec::new();
    for line in text.lines() {
        is_code ^= line.starts_with("```");
        let title = line.trim_start_matches('#');
        if !is_code && title.len() < line.len() && title.starts_with(' ') {
            headings.push(title.trim());
        }
    }
    headings
}

/// The numbers of the sections of a text: `2` of `## 2. Lines`, `19.2` of `## 19.2 Permission`.
fn sections(text: &str) -> Vec<String> {
    let number = |title: &&str| {
        let word = title.split(' ').next()?.trim_end_matches('.');
        let is_number = word.starts_with(|c: char| c.is_ascii_digit())
            && word.chars().all(|c| c.is_ascii_digit() || c == '.');
        is_number.then(|| word.to_owned())
    };
    headings(text).iter().filter_map(number).collect()
}

/// Sections 1 to 24 are in one file each, and every section that the protocol refers to exists.
#[test]
fn referenced_sections_exist() {
    let documents = protocol();
    let all: Vec<_> = documents.iter().flat_map(|(_, text)| sections(text)).collect();
    let mut tops: Vec<u32> = all.iter().filter_map(|number| number.parse().ok()).collect();
    tops.sort_unstable();
    assert!(tops.iter().copied().eq(1..=24), "{tops:?}");
    let known: BTreeSet<_> = all.iter().map(String::as_str).collect();
    assert_eq!(known.len(), all.len(), "a section stands twice");
    for (path, text) in &documents {
        for number in section_references(&flowing(text), "") {
            assert!(known.contains(&*number), "{path}: no section {number}");
        }
    }
}

/// Where a document or a source names a section of a file, that file has it.
#[test]
fn references_to_sections_name_the_right_file() {
    let mut wrong = Vec::new();
    let mut sources = documents();
    ["src", "tests", "testkit/src"].iter().for_each(|folder| in_sources(folder, &mut sources));
    let files: Vec<_> =
        protocol().into_iter().map(|(path, text)| (path, sections(&text))).collect();
    for (path, text) in &sources {
        let text = flowing(text);
        for (file, known) in &files {
            for number in section_references(&text, file) {
                if !known.contains(&number) {
                    wrong.push(format!("{path}: {file} has no section {number}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn in_sources(folder: &str, sources: &mut Vec<(String, String)>) {
    let files = names(folder, "rs").into_iter().map(|name| format!("{folder}/{name}"));
    sources.extend(files.map(|path| (path.clone(), read(&path))));
    for entry in fs::read_dir(root().join(folder)).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.path().is_dir() {
            in_sources(&format!("{folder}/{}", entry.file_name().to_string_lossy()), sources);
        }
    }
}

/// A text without its line breaks and without the comment marks behind them.
fn flowing(text: &str) -> String {
    let bare = |line: &str| line.trim().trim_start_matches(['/', '!']).trim().to_owned();
    text.lines().map(bare).collect::<Vec<_>>().join(" ")
}

/// The numbers behind `FILE, section` or `FILE, sections`; without a file, behind `section` alone,
/// unless it is of another document.
fn section_references(text: &str, file: &str) -> Vec<String> {
    let lead = if file.is_empty() { "section".to_owned() } else { format!("{file}, section") };
    let mut found = Vec::new();
    for (at, _) in text.match_indices(&lead) {
        if file.is_empty() && text[..at].ends_with("RFC 8305, ") {
            continue;
        }
        let list = text[at + lead.len()..].trim_start_matches('s');
        let Some(list) = list.strip_prefix(' ') else { continue };
        for word in list.split(' ') {
            let number = word.trim_end_matches(|c: char| !c.is_ascii_digit());
            let is_number = number.starts_with(|c: char| c.is_ascii_digit());
            if is_number && number.chars().all(|c| c.is_ascii_digit() || c == '.') {
                found.push(number.to_owned());
            }
            let is_whole = is_number && matches!(&word[number.len()..], "" | ",");
            if !is_whole && !matches!(word, "and" | "to" | "or") {
                break;
            }
        }
    }
    found
}

/// The tables of reference.md are those of the data files.
#[test]
fn the_reference_agrees_with_its_data() {
    let text = read("docs/protocol/reference.md");
    let (codes, methods) = (codes(), methods());
    for table in [
        methods.method_table(),
        methods.notice_table(),
        attribute_table(&attributes()),
        codes.code_table(),
        codes.text_table(),
        codes.fault_table(),
    ] {
        let missing = table.lines().find(|line| !text.contains(&format!("\n{line}\n")));
        assert!(text.contains(&table), "the table with this line differs: {missing:?}\n{table}");
    }
}

/// transcripts.md lists each transcript once, and by its title.
#[test]
fn the_list_of_transcripts_is_complete() {
    let text = read("docs/protocol/transcripts.md");
    let transcripts = transcripts();
    for transcript in &transcripts {
        let name = &transcript.name;
        let title = transcript.lines[0].strip_prefix("# ").expect("a title");
        let row = format!("| [{name}](transcripts/{name}.txt) | {title} |");
        assert_eq!(text.lines().filter(|line| *line == row).count(), 1, "{row}");
    }
    assert_eq!(text.matches("](transcripts/").count(), transcripts.len() + 1);
}

#[test]
fn links_and_anchors_are_found() {
    let text =
        "# A b\n## A `b`\n```text\n# c\n[x](dead)\n```\n[x](y.md#a-b) `[x](no)` [z](https://a/b)\n";
    assert_eq!(links(text), ["y.md#a-b"]);
    assert_eq!(anchors(text), BTreeSet::from(["a-b".to_owned(), "a-b-1".to_owned()]));
    let text = "See x.md, section 3. And x.md, sections 4 and 5.1; section 7, 8 and 9 of it.";
    assert_eq!(section_references(text, "x.md"), ["3", "4", "5.1"]);
    assert_eq!(section_references(text, ""), ["3", "4", "5.1", "7", "8", "9"]);
}
