//! `list`: all cases with their levels and rules.

use std::{
    io::{Write, stdout},
    process::ExitCode,
};

use crate::case::{Side, load};

#[derive(clap::Args)]
pub struct Args {
    /// Only the cases of this level and of those before it.
    #[arg(long, value_enum)]
    level: Option<crate::case::Level>,
}

/// Prints them.
///
/// # Errors
/// A file of cases that cannot be read.
pub fn main(args: &Args) -> Result<ExitCode, String> {
    let mut out = stdout().lock();
    for (side, word) in [(Side::Server, "server"), (Side::Client, "client")] {
        for case in load(side)? {
            if args.level.is_some_and(|level| case.level > level) {
                continue;
            }
            let rules = case.rules.join(" ");
            let line =
                format!("{word} {} {:<44} {rules:<20} {}", case.level, case.name, case.title);
            // A closed pipe, as of `list | head`, is no fault.
            if writeln!(out, "{line}").is_err() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
