//! The planted bugs of `scripts/mutants/`: each still applies to the tree, and names tests that
//! exist. `scripts/mutants.sh` checks that those tests fail.

use std::{fs, path::Path};

/// The least number of patches.
const LEAST: usize = 40;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

struct Patch {
    name: String,
    text: String,
}

fn patches() -> Vec<Patch> {
    let dir = fs::read_dir(Path::new(ROOT).join("scripts/mutants")).expect("scripts/mutants");
    let paths = dir.map(|entry| entry.expect("an entry").path());
    let paths = paths.filter(|path| path.extension().is_some_and(|end| end == "patch"));
    let mut patches: Vec<_> = paths
        .map(|path| Patch {
            name: path.file_stem().expect("a name").to_string_lossy().into_owned(),
            text: fs::read_to_string(&path).expect("a patch"),
        })
        .collect();
    patches.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    patches
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(ROOT).join(path)).ok()
}

/// Why it does not apply; `None` if it does, at one place.
fn fault(text: &str) -> Option<String> {
    let mut file: Option<(&str, String)> = None;
    let mut hunks = 0;
    for part in text.split("\n@@ ") {
        if let Some((path, source)) = &file {
            // Behind the line numbers, as far as the next file's head.
            let lines = part.lines().skip(1).take_while(|line| !line.starts_with("--- "));
            let old: Vec<_> = lines
                .filter(|line| !line.starts_with('+'))
                .filter_map(|line| line.get(1..))
                .collect();
            let old = format!("\n{}\n", old.join("\n"));
            match format!("\n{source}").matches(&old).count() {
                1 => hunks += 1,
                count => return Some(format!("{path} has {count} places for it: {old}")),
            }
        }
        let named = part.lines().find_map(|line| line.strip_prefix("+++ b/"));
        if let Some(path) = named {
            let Some(source) = read(path) else { return Some(format!("there is no {path}")) };
            file = Some((path, source));
        }
    }
    (hunks == 0).then(|| "it changes nothing".into())
}

/// Why the tests that it names are not there.
fn nameless(text: &str) -> Option<String> {
    let mut named = text.lines().filter_map(|line| line.strip_prefix("fails: ")).peekable();
    if named.peek().is_none() {
        return Some("it names no test".into());
    }
    named.find(|test| !is_there(test)).map(|test| format!("there is no test {test}"))
}

/// Whether `TARGET NAME` is a test: of a file of `tests/`, in a folder `MODULE::NAME` of one of its
/// modules, which may be in another, or, for `lib`, of one of `src/`.
fn is_there(test: &str) -> bool {
    let Some((target, name)) = test.split_once(' ') else { return false };
    let (module, name) = name.rsplit_once("::").map_or((None, name), |(of, name)| (Some(of), name));
    let function = format!("fn {name}(");
    let file = match (target, module) {
        ("lib", None) => return holds(&Path::new(ROOT).join("src"), &function),
        (_, None) => format!("tests/{target}.rs"),
        (_, Some(module)) => format!("tests/{target}/{}.rs", module.replace("::", "/")),
    };
    read(&file).is_some_and(|text| text.contains(&function))
}

/// Whether a source below `dir` has this text.
fn holds(dir: &Path, text: &str) -> bool {
    fs::read_dir(dir).expect("a folder").any(|entry| {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => holds(&path, text),
            false => fs::read_to_string(path).is_ok_and(|source| source.contains(text)),
        }
    })
}

#[test]
fn every_patch_applies_and_names_its_tests() {
    let patches = patches();
    let faults: Vec<_> = patches
        .iter()
        .filter_map(|Patch { name, text }| Some((name, fault(text).or_else(|| nameless(text))?)))
        .map(|(name, why)| format!("scripts/mutants/{name}.patch is stale: {why}"))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(patches.len() >= LEAST, "{} patches", patches.len());
}

#[test]
fn a_stale_patch_is_found() {
    let patch = |line: &str| {
        format!(
            "x\nfails: it mutants::is_there\n\n--- a/tests/it/mutants.rs\n+++ b/tests/it/mutants.rs\n@@ -1,2 +1,2 @@\n-{line}\n+x\n"
        )
    };
    assert_eq!(fault(&patch("const LEAST: usize = 40;")), None);
    assert!(fault(&patch("no such line")).is_some());
    assert!(fault(&patch("")).is_some(), "an empty line is there often");
    assert!(fault("x\n").is_some() && fault("+++ b/tests/none.rs\n@@ -1 +1 @@\n-x\n").is_some());
    assert_eq!(nameless(&patch("")), None);
    assert!(nameless("fails: it mutants::nowhere\n").is_some() && nameless("x\n").is_some());
}
