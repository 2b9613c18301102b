//! What a run found, by level: as text for people, and as JSON.

use std::{fmt, fs, path::Path, process::ExitCode};

use serde::Serialize;

use crate::case::{Case, Level};

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "outcome")]
pub enum Outcome {
    Passed,
    Failed(Failure),
    Skipped {
        /// Why it was not run.
        reason: String,
    },
}

impl Outcome {
    /// Not run, because of `reason`.
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self::Skipped { reason: reason.into() }
    }
}

/// Why a case failed, so that it is understood without its script.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The file and line of the step that failed; absent if the case did not begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// What that step is about: what it expects, or what it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What happened instead. It begins with a rule if the fault is one that no case may have.
    pub reason: String,
    /// What both sides wrote before that, the newest last: `C:` the client, `S:` the server.
    pub dialogue: Vec<String>,
}

impl Failure {
    /// How many lines of a dialogue are shown.
    pub const SHOWN: usize = 14;

    /// One in the step `at`, behind the last lines of `log`.
    pub fn new(at: String, step: Option<String>, reason: String, mut log: Vec<String>) -> Self {
        let dialogue = log.split_off(log.len().saturating_sub(Self::SHOWN));
        Self { at: Some(at), step, reason, dialogue }
    }
}

/// One before the first step.
impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self { reason, ..Self::default() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.at, &self.step) {
            (Some(at), Some(step)) => writeln!(f, "{at}: {step}")?,
            (Some(at), None) => write!(f, "{at}: ")?,
            (None, _) => {}
        }
        write!(f, "{}", self.reason)?;
        if !self.dialogue.is_empty() {
            write!(f, "\nbefore that:")?;
        }
        self.dialogue.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// The outcome of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    pub name: String,
    pub title: String,
    pub level: Level,
    pub rules: Vec<String>,
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Entry {
    pub fn new(case: &Case, outcome: Outcome) -> Self {
        Self {
            name: case.name.clone(),
            title: case.title.clone(),
            level: case.level,
            rules: case.rules.clone(),
            outcome,
        }
    }
}

/// The outcomes of a run, in the order of the cases.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub cases: Vec<Entry>,
}

impl Report {
    /// One of entries with their places.
    pub fn sorted(mut entries: Vec<(usize, Entry)>) -> Self {
        entries.sort_by_key(|(at, _)| *at);
        Self { cases: entries.into_iter().map(|(_, entry)| entry).collect() }
    }

    pub fn passed(&self) -> usize {
        self.cases.iter().filter(|entry| entry.outcome == Outcome::Passed).count()
    }

    /// The cases that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Entry> {
        self.cases.iter().filter(|entry| matches!(entry.outcome, Outcome::Failed(_)))
    }

    /// Success if a case passed and none failed.
    pub fn exit_code(&self) -> ExitCode {
        let is_good = self.failures().next().is_none() && self.passed() > 0;
        if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// Why the file cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<(), String> {
        let json = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        fs::write(path, json + "\n")
            .map_err(|error| format!("cannot write the report to {}: {error}", path.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for level in Level::ALL {
            let cases: Vec<_> = self.cases.iter().filter(|case| case.level == level).collect();
            if !cases.is_empty() {
                write_level(f, level, &cases)?;
            }
        }
        let failed = self.failures().count();
        let skipped = self.cases.len() - self.passed() - failed;
        write!(f, "{} passed, {failed} failed, {skipped} skipped", self.passed())
    }
}

fn write_level(f: &mut fmt::Formatter<'_>, level: Level, cases: &[&Entry]) -> fmt::Result {
    let count = |is: fn(&Outcome) -> bool| cases.iter().filter(|case| is(&case.outcome)).count();
    let passed = count(|outcome| *outcome == Outcome::Passed);
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let skipped = cases.len() - passed - failed;
    let title = format!("{level} {}", level.title());
    writeln!(f, "{title:<36} {passed:>4} passed {failed:>4} failed {skipped:>4} skipped")?;
    for case in cases {
        let (word, reason) = match &case.outcome {
            Outcome::Passed => continue,
            Outcome::Failed(failure) => ("FAILED", failure.to_string()),
            Outcome::Skipped { reason } => ("skipped", reason.clone()),
        };
        writeln!(f, "  {word} {} [{}] {}", case.name, case.rules.join(" "), case.title)?;
        for line in reason.lines() {
            writeln!(f, "      {line}")?;
        }
    }
    Ok(())
}
