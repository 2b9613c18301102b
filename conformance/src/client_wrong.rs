//! `wrong-client`: a testee behind a proxy that makes one mistake, in what its client writes and
//! reads, or in what the testee is told and reports. Each client case is failed by one of them.

mod memory;
mod mistakes;
mod relay;

use std::process::ExitCode;

use crate::client_wrong::{
    memory::Memory,
    mistakes::{MISTAKES, Mistake, NO_MISTAKE},
    relay::relay,
};

#[derive(clap::Args)]
pub struct Args {
    /// The mistake; without one all are listed.
    name: Option<String>,
    /// The command that starts the right testee, behind `--`. Default: the Rust testee.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs a testee that makes the mistake.
///
/// # Errors
/// An unknown mistake, or a testee that cannot be started.
pub async fn main(args: Args) -> Result<ExitCode, String> {
    let Some(name) = &args.name else {
        for Mistake { name, about, .. } in MISTAKES {
            println!("{name:<36} {about}");
        }
        return Ok(ExitCode::SUCCESS);
    };
    let found = MISTAKES.iter().chain([&NO_MISTAKE]).find(|mistake| mistake.name == name);
    let mistake = found.ok_or_else(|| {
        format!("no wrong client is called {name:?}; `wrong-client` without a name lists them")
    })?;
    let command = match args.command.is_empty() {
        false => args.command,
        true => {
            let own = std::env::current_exe().map_err(|error| error.to_string())?;
            vec![own.display().to_string(), "testee".to_owned()]
        }
    };
    relay(mistake, &command).await
}

/// The names of all wrong clients.
pub fn names() -> impl Iterator<Item = &'static str> {
    MISTAKES.iter().map(|mistake| mistake.name)
}
