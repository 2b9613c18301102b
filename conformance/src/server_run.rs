//! `run server`: plays the server cases against a server, many at a time.

use std::{
    io::{Write, stdout},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use futures::{StreamExt, stream};

use crate::{
    address::Address,
    case::{Case, Level, Side, load},
    report::{Entry, Failure, Outcome, Report},
    server_link::Link,
    server_script::{Stage, methods_of, needs_control},
};

#[derive(clap::Args)]
pub struct Args {
    /// Where the server under test listens: HOST:PORT, or ws://HOST:PORT/PATH. In the second case
    /// all cases run over WebSockets.
    #[arg(long)]
    addr: String,
    /// Run the cases of this level and of those before it.
    #[arg(long, value_enum, default_value = "L3")]
    level: Level,
    /// Run only the case of this name.
    #[arg(long)]
    case: Option<String>,
    /// Write the report as JSON to this file, too.
    #[arg(long)]
    json: Option<PathBuf>,
    /// How long to wait for a line that should come, in milliseconds.
    #[arg(long, default_value_t = 5_000)]
    patience: u64,
    /// How many cases run at the same time.
    #[arg(long, default_value_t = 16)]
    jobs: usize,
}

/// Runs the cases and prints the report.
///
/// # Errors
/// A fault that is not the server's: an unknown case, or an address that does not resolve.
pub async fn main(args: Args) -> Result<ExitCode, String> {
    let address = Address::resolve(&args.addr).await?;
    let mut cases = load(Side::Server)?;
    cases.retain(|case| case.level <= args.level);
    if let Some(name) = &args.case {
        cases.retain(|case| case.name == *name);
        if cases.is_empty() {
            return Err(format!("no server case {name:?} up to {}; see `list`", args.level));
        }
    }
    let runner =
        Runner { address, patience: Duration::from_millis(args.patience), jobs: args.jobs };
    // An address at which nothing listens is one message, and not one for each case.
    Link::connect(&runner.address, runner.patience).await?;
    let report = runner.run(&cases).await;
    if let Some(path) = &args.json {
        report.write_json(path)?;
    }
    // A closed pipe is no fault.
    let _ = writeln!(stdout(), "{report}");
    Ok(report.exit_code())
}

/// Plays cases against the server at an address.
#[derive(Clone, Debug)]
pub struct Runner {
    pub address: Address,
    /// How long to wait for a line that should come.
    pub patience: Duration,
    /// How many cases run at the same time.
    pub jobs: usize,
}

impl Runner {
    /// Plays all of them.
    pub async fn run(&self, cases: &[Case]) -> Report {
        let entries = stream::iter(cases.iter().enumerate()).map(|(at, case)| async move {
            let outcome = self.run_case(case).await;
            (at, Entry::new(case, outcome))
        });
        // In any order: a long case must not hold up those behind it.
        Report::sorted(entries.buffer_unordered(self.jobs.max(1)).collect().await)
    }

    /// Plays one.
    pub async fn run_case(&self, case: &Case) -> Outcome {
        match self.try_case(case).await {
            Ok(outcome) => outcome,
            Err(failure) => Outcome::Failed(failure),
        }
    }

    /// How the server of a case is set up.
    fn options(&self, case: &Case) -> String {
        let is_added = self.address.is_websocket() && case.option("ws").is_none();
        let added = is_added.then(|| "ws".to_owned());
        case.options.iter().cloned().chain(added).collect::<Vec<_>>().join(" ")
    }

    async fn try_case(&self, case: &Case) -> Result<Outcome, Failure> {
        if self.address.is_websocket() && case.script.iter().any(|(_, line)| line == "!eof") {
            return Ok(Outcome::skipped("a WebSocket has no half-close"));
        }
        let mut link = Link::connect(&self.address, self.patience).await?;
        let needed = methods_of(case);
        let offered = link.methods(&needed).await?;
        if let Some(lacking) = needed.iter().find(|name| !offered.contains(&(**name).to_owned())) {
            let why = format!("the server has no method {lacking}; README.md says what it does");
            return Ok(Outcome::skipped(why));
        }
        let options = self.options(case);
        let opened = match link.call("test.open", options.as_bytes()).await? {
            Ok(address) => String::from_utf8_lossy(&address).parse().ok(),
            Err(why) if why.starts_with("err no-option") => {
                let why = format!("the server cannot be set up with {options}");
                return Ok(Outcome::skipped(why));
            }
            Err(_) if case.level == Level::L0 && !needs_control(case) => None,
            Err(why) => {
                let why =
                    format!("it needs the control method test.open, which was answered {why}");
                return Ok(Outcome::skipped(why));
            }
        };
        let is_websocket = self.address.is_websocket() || case.option("ws").is_some();
        let path = is_websocket.then(|| self.address.path.clone().unwrap_or("/".to_owned()));
        let socket = opened.unwrap_or(self.address.socket);
        let mut stage = Stage::new(&mut link, Address { socket, path }, self.patience).await?;
        let played = stage.play(case).await;
        drop(stage);
        if let Some(address) = opened {
            // It is only to free what the case took.
            let _ = link.call("test.drop", address.to_string().as_bytes()).await;
        }
        played.map(|()| Outcome::Passed)
    }
}
