//! Cases: dialogues in text files, each with its level and the rules that it shows.
//!
//! A file holds any number of cases. A case begins with its header, of lines `key: value`, the
//! first of which is `case`. A blank line ends the header; the script goes on to the next `case:`.
//! A line that begins with `//` between cases or in a header is a remark.
//!
//! ```text
//! case: falling-id
//! title: An id that is not above the last one is an error of its own
//! level: L0
//! rule: S3.1
//! wrong: executes-falling-ids
//! options: in-flight=2
//!
//! C: 5 random 6
//! S: 5 ok 4
//! C: 3 random 6
//! S: * /error;id=3 id-order
//! ```

use std::{fmt, fs, path::Path};

use serde::{Deserialize, Serialize};

/// What a case asks for, each level including those before it.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[value(rename_all = "verbatim")]
pub enum Level {
    /// Calls.
    L0,
    /// Notifications.
    L1,
    /// Reconnecting and resuming.
    L2,
    /// Streams, credit, acks, drain, access.
    L3,
}

impl Level {
    pub const ALL: [Self; 4] = [Self::L0, Self::L1, Self::L2, Self::L3];

    /// What it is about, for a report.
    pub fn title(self) -> &'static str {
        match self {
            Self::L0 => "calls",
            Self::L1 => "notifications",
            Self::L2 => "reconnect and resume",
            Self::L3 => "streams, acks, drain and access",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// One dialogue.
#[derive(Clone, Debug)]
pub struct Case {
    /// Unique among the cases of its side.
    pub name: String,
    /// What a right peer does, in one line.
    pub title: String,
    pub level: Level,
    /// The rules of PROTOCOL.md that it shows, as `S3.9`.
    pub rules: Vec<String>,
    /// The deliberately wrong peer that fails it.
    pub wrong: String,
    /// How the peer has to be set up: `in-flight=2`, `auth`.
    pub options: Vec<String>,
    /// The file it stands in.
    pub file: String,
    /// Its lines, each with its number in the file, from 1. Blank lines and remarks are left out.
    pub script: Vec<(usize, String)>,
}

impl Case {
    /// The value of the option `key`; empty for one without a value.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options.iter().find_map(|option| match option.split_once('=') {
            Some((found, value)) if found == key => Some(value),
            None if option == key => Some(""),
            _ => None,
        })
    }
}

/// Which peer a case judges; also the name of its folder under `cases`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Server,
    Client,
}

impl Side {
    fn folder(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// All cases of one side, in the order of the files' names and of the cases in them.
///
/// # Errors
/// What is wrong with a file, and where.
pub fn load(side: Side) -> Result<Vec<Case>, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases").join(side.folder());
    let explain = |error| format!("cannot read the cases in {}: {error}", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(&folder).map_err(explain)? {
        let path = entry.map_err(explain)?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut cases: Vec<Case> = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).map_err(explain)?;
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        for case in parse(&file, &text)? {
            if cases.iter().any(|other| other.name == case.name) {
                return Err(format!("{file}: the name {:?} is used twice", case.name));
            }
            cases.push(case);
        }
    }
    Ok(cases)
}

/// The cases of the file `file`, whose content is `text`.
///
/// # Errors
/// What is wrong, and in which line.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    let mut open: Option<Draft> = None;
    for (line, number) in text.lines().zip(1..) {
        if let Some(name) = line.strip_prefix("case:") {
            cases.extend(open.take().map(|draft| draft.finish(file)).transpose()?);
            open = Some(Draft::new(number, name.trim()));
        } else if let Some(draft) = &mut open {
            draft.take(number, line).map_err(|why| format!("{file}:{number}: {why}"))?;
        } else if !(line.is_empty() || line.starts_with("//")) {
            return Err(format!("{file}:{number}: a case begins with `case: NAME`"));
        }
    }
    cases.extend(open.map(|draft| draft.finish(file)).transpose()?);
    Ok(cases)
}

/// A case that is being read.
struct Draft {
    line: usize,
    is_header: bool,
    name: String,
    title: String,
    level: Option<Level>,
    rules: Vec<String>,
    wrong: String,
    options: Vec<String>,
    script: Vec<(usize, String)>,
}

impl Draft {
    fn new(line: usize, name: &str) -> Self {
        Self {
            line,
            is_header: true,
            name: name.to_owned(),
            title: String::new(),
            level: None,
            rules: Vec::new(),
            wrong: String::new(),
            options: Vec::new(),
            script: Vec::new(),
        }
    }

    fn take(&mut self, number: usize, line: &str) -> Result<(), String> {
        if !self.is_header {
            if !(line.is_empty() || line.starts_with('#')) {
                self.script.push((number, line.to_owned()));
            }
            return Ok(());
        }
        if line.is_empty() {
            self.is_header = false;
            return Ok(());
        }
        if line.starts_with("//") {
            return Ok(());
        }
        let (key, value) = line.split_once(':').ok_or("a header line is `key: value`")?;
        self.header(key, value.trim())
    }

    fn header(&mut self, key: &str, value: &str) -> Result<(), String> {
        let words = || value.split_whitespace().map(str::to_owned).collect();
        match key {
            "title" => self.title = value.to_owned(),
            "level" => {
                let level = Level::ALL.into_iter().find(|level| level.to_string() == value);
                self.level = Some(level.ok_or_else(|| format!("no level {value:?}"))?);
            }
            "rule" => self.rules = words(),
            "wrong" => self.wrong = value.to_owned(),
            "options" => self.options = words(),
            _ => return Err(format!("no header {key:?}")),
        }
        Ok(())
    }

    fn finish(self, file: &str) -> Result<Case, String> {
        let at = format!("{file}:{}: case {:?}", self.line, self.name);
        let is_rule = |rule: &String| {
            let numbers = rule.strip_prefix(['B', 'C', 'S']).and_then(|it| it.split_once('.'));
            numbers.is_some_and(|(a, b)| a.parse::<u32>().is_ok() && b.parse::<u32>().is_ok())
        };
        let missing = match () {
            () if self.name.is_empty() => "name",
            () if self.title.is_empty() => "`title:`",
            () if self.rules.is_empty() || !self.rules.iter().all(is_rule) => "`rule: S3.1`",
            () if self.wrong.is_empty() => "`wrong:`",
            () if self.script.is_empty() => "script",
            () => "",
        };
        if !missing.is_empty() {
            return Err(format!("{at} has no {missing}"));
        }
        Ok(Case {
            name: self.name,
            title: self.title,
            level: self.level.ok_or_else(|| format!("{at} has no `level:`"))?,
            rules: self.rules,
            wrong: self.wrong,
            options: self.options,
            file: file.to_owned(),
            script: self.script,
        })
    }
}
