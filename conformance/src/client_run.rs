//! `run client`: the client cases against a client, by way of its testee.

pub(crate) mod doors;
mod expect;
mod judge;
mod link;
pub(crate) mod play;
pub(crate) mod script;
mod testee;
pub(crate) mod text;
pub(crate) mod user;
mod websocket;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use futures::{StreamExt, stream};

use crate::{
    case::{Case, Level, Side, load},
    client_run::{doors::ANYWHERE, testee::Testee, user::User},
    report::{Entry, Outcome, Report},
};

#[derive(clap::Args)]
pub struct Args {
    /// Only the cases of this level and of those before it.
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// Only this case; may be given several times.
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Write the report as JSON to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Wait so many milliseconds for each line and each event.
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    patience: u64,
    /// Run so many cases at once.
    #[arg(long, value_name = "N", default_value_t = 8)]
    jobs: usize,
    /// The command that starts the testee, behind `--`. It speaks the lines of
    /// conformance/TESTEE.md on its stdin and stdout.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs them, prints the report, and fails if a case did.
///
/// # Errors
/// What is wrong with the cases or with the testee.
pub async fn main(args: Args) -> Result<ExitCode, String> {
    let cases = chosen(&args)?;
    let run = Run { command: args.command, patience: Duration::from_millis(args.patience) };
    let report = run.cases(cases, args.jobs).await?;
    println!("{report}");
    if let Some(path) = &args.json {
        report.write_json(path)?;
    }
    Ok(report.exit_code())
}

fn chosen(args: &Args) -> Result<Vec<Case>, String> {
    let mut cases = load(Side::Client)?;
    if let Some(name) = args.case.iter().find(|name| !cases.iter().any(|case| case.name == **name))
    {
        return Err(format!("no client case is called {name:?}; `list` names them all"));
    }
    cases.retain(|case| {
        let is_named = args.case.is_empty() || args.case.contains(&case.name);
        is_named && args.level.is_none_or(|level| case.level <= level)
    });
    Ok(cases)
}

/// How cases are run.
pub struct Run {
    /// What starts the testee.
    pub command: Vec<String>,
    /// How long each line and each event is waited for.
    pub patience: Duration,
}

impl Run {
    /// Runs cases, several at once, each with a testee of its own.
    ///
    /// # Errors
    /// Why the testee cannot be started.
    pub async fn cases(self, cases: Vec<Case>, jobs: usize) -> Result<Report, String> {
        let (testee, abilities) = Testee::start(&self.command, self.patience).await?;
        testee.kill().await;
        let run = Arc::new(self);
        let entries = stream::iter(cases.into_iter().enumerate()).map(|(at, case)| {
            let (run, lacks) = (run.clone(), abilities.lacks(&case));
            async move {
                let outcome = match lacks {
                    Some(why) => Outcome::skipped(why),
                    None => run.case(&case).await,
                };
                (at, Entry::new(&case, outcome))
            }
        });
        Ok(Report::sorted(entries.buffer_unordered(jobs.max(1)).collect().await))
    }

    /// Runs one case.
    pub async fn case(&self, case: &Case) -> Outcome {
        let played = match Testee::start(&self.command, self.patience).await {
            Ok((testee, _)) => {
                play::play(case, User::Testee(Box::new(testee)), ANYWHERE, self.patience).await
            }
            Err(why) => Err(why.into()),
        };
        played.map_or_else(Outcome::Failed, |()| Outcome::Passed)
    }
}

/// Whether the scripts of the cases can be played; the first that cannot, and why.
///
/// # Errors
/// A line that is no step.
pub fn check(cases: &[Case]) -> Result<(), String> {
    cases.iter().try_for_each(|case| script::steps(case).map(drop))
}
