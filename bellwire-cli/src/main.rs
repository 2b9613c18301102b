//! The command `bellwire`: `bellwire help`, and docs/cli.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    bellwire_cli::main()
}
