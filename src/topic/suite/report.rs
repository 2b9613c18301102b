//! What the suite found.

use std::fmt;

/// What became of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The store does what the contract says.
    Passed,
    /// The store does something else.
    Failed {
        /// The part of the case that failed.
        check: String,
        /// What was observed.
        observed: String,
    },
    /// The case was not run, for this reason: the store lacks a capability that it needs.
    NotApplicable(String),
}

/// The result of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseReport {
    pub(super) name: String,
    pub(super) contract: &'static str,
    pub(super) verdict: Verdict,
}

impl CaseReport {
    /// The name of the case.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the contract says.
    pub fn contract(&self) -> &'static str {
        self.contract
    }

    /// What became of the case.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Whether the case failed.
    pub fn has_failed(&self) -> bool {
        matches!(self.verdict, Verdict::Failed { .. })
    }

    /// Passes if the case passed or does not apply to the store.
    ///
    /// # Panics
    /// The case failed. The message is the report.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(!self.has_failed(), "{self}");
    }
}

impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, contract, verdict } = self;
        match verdict {
            Verdict::Passed => write!(f, "pass  {name}"),
            Verdict::NotApplicable(why) => write!(f, "n/a   {name}: {why}"),
            Verdict::Failed { check, observed } => {
                writeln!(f, "FAIL  {name}")?;
                writeln!(f, "      contract: {contract}")?;
                writeln!(f, "      check:    {check}")?;
                write!(f, "      observed: {observed}")
            }
        }
    }
}

/// The results of all cases, in the order in which they ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub(super) cases: Vec<CaseReport>,
}

impl Report {
    /// The results.
    pub fn cases(&self) -> &[CaseReport] {
        &self.cases
    }

    /// The cases that failed.
    pub fn failed(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|case| case.has_failed())
    }

    /// Passes if no case failed.
    ///
    /// # Panics
    /// A case failed. The message is the report.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.failed().next().is_none(), "\n{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count =
            |is: fn(&Verdict) -> bool| self.cases.iter().filter(|case| is(&case.verdict)).count();
        for case in &self.cases {
            writeln!(f, "{case}")?;
        }
        let passed = count(|verdict| matches!(verdict, Verdict::Passed));
        let skipped = count(|verdict| matches!(verdict, Verdict::NotApplicable(_)));
        let failed = self.failed().count();
        write!(f, "{passed} passed, {failed} failed, {skipped} not applicable")
    }
}
