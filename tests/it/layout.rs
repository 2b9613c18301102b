//! The layout of the tests: every file is compiled, the independent checkers do not use the crate,
//! and nothing compiles the crate's sources a second time.

use std::{
    fs,
    path::{Path, PathBuf},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Parts of the kit that must know the protocol without the crate.
const JUDGES: [&str; 6] =
    ["cutting.rs", "history.rs", "history", "lines.rs", "proxy", "simulation/faults.rs"];

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|_| panic!("no {}", folder.display()));
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[test]
fn every_test_file_is_a_module_of_its_binary() {
    for folder in entries(&Path::new(ROOT).join("tests")) {
        let Ok(main) = fs::read_to_string(folder.join("main.rs")) else { continue };
        for file in entries(&folder) {
            let name = file.file_stem().expect("a name").to_string_lossy();
            let declared = main.lines().any(|line| line == format!("mod {name};"));
            assert!(declared || name == "main", "{} is not compiled", file.display());
        }
    }
}

#[test]
fn independent_checkers_do_not_use_the_crate() {
    for judge in JUDGES {
        let path = Path::new(ROOT).join("testkit/src").join(judge);
        let files = if path.is_dir() { entries(&path) } else { vec![path] };
        for file in files {
            let source = fs::read_to_string(&file).expect("a source");
            let mut code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
            assert!(!code.any(|line| line.contains("bellwire")), "{}", file.display());
        }
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in entries(folder) {
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|end| end == "rs") => found.push(path),
            false => {}
        }
    }
}

/// What others need of it is public, if only with `unstable-core`.
#[test]
fn nothing_includes_the_sources_of_the_crate() {
    let mut files = Vec::new();
    for folder in ["benches", "examples", "fuzz/fuzz_targets", "src", "testkit", "tests"] {
        sources(&Path::new(ROOT).join(folder), &mut files);
    }
    assert!(files.len() > 200, "{}", files.len());
    for file in files {
        let source = fs::read_to_string(&file).expect("a source");
        let paths = source.lines().filter_map(|line| line.trim().strip_prefix("#[path"));
        let included: Vec<_> = paths.filter(|path| path.contains("src/")).collect();
        assert!(included.is_empty(), "{} includes {included:?}", file.display());
    }
}
