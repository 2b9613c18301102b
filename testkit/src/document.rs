//! The documents of the protocol as the tests read them: PROTOCOL.md, and docs/protocol/ with its data.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

pub use self::{
    rules::{Rule, Whom, is_id, rules, tags},
    tables::{Attribute, Codes, Methods, attribute_table, attributes, codes, methods},
    text::{hex, placeholder_name, unescape},
    transcripts::{Transcript, transcripts},
    vectors::{BodyVector, LineVector, Vectors, vectors},
};

mod rules;
mod tables;
mod text;
mod transcripts;
mod vectors;

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root").to_owned()
}

/// A file of the repository, as text.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One of the data files of docs/protocol.
fn data<T: DeserializeOwned>(name: &str) -> T {
    let text = read(&format!("docs/protocol/{name}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The names in a folder of the repository that have this extension, sorted.
pub fn names(folder: &str, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|_| panic!("no {folder}"));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let fitting = paths.filter(|path| path.extension().is_some_and(|own| own == extension));
    let mut names: Vec<_> =
        fitting.map(|path| path.file_name().expect("a name").to_string_lossy().into()).collect();
    names.sort_unstable();
    names
}

/// PROTOCOL.md and the files of docs/protocol: each path with its text.
pub fn protocol() -> Vec<(String, String)> {
    let details = names("docs/protocol", "md").into_iter();
    let details = details.map(|name| format!("docs/protocol/{name}"));
    let paths = std::iter::once("PROTOCOL.md".to_owned()).chain(details);
    paths.map(|path| (path.clone(), read(&path))).collect()
}

/// A fenced block.
pub struct Block {
    /// The info string: `nc`, `regex`.
    pub info: String,
    pub lines: Vec<String>,
}

/// All fenced blocks of a text.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => open = Some(Block { info: info.to_owned(), lines: Vec::new() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block does not end");
    blocks
}

/// The one block of PROTOCOL.md with this info string.
pub fn block(info: &str) -> Block {
    let all = blocks(&read("PROTOCOL.md"));
    let mut found: Vec<_> = all.into_iter().filter(|block| block.info == info).collect();
    assert_eq!(found.len(), 1, "one block {info}");
    found.remove(0)
}
