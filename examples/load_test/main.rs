//! Measures calls and notifications: `cargo run --release --example load_test -- --help`
//!
//! It is `bellwire bench` under its own name, for builds that measure: see `bellwire_cli::bench`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bellwire_cli::bench::main()
}
