//! docs/protocol/transcripts/.

use super::{names, read};

/// A dialogue; docs/protocol/transcripts.md says what its lines mean.
pub struct Transcript {
    pub name: String,
    pub lines: Vec<String>,
}

/// All of them, by name.
pub fn transcripts() -> Vec<Transcript> {
    const FOLDER: &str = "docs/protocol/transcripts";
    let transcript = |file: String| {
        let lines = read(&format!("{FOLDER}/{file}")).lines().map(str::to_owned).collect();
        let name = file.strip_suffix(".txt").expect("its extension").to_owned();
        Transcript { name, lines }
    };
    names(FOLDER, "txt").into_iter().map(transcript).collect()
}
