//! Placeholder of the skeleton.

use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Args {}

pub async fn main(_: Args) -> Result<ExitCode, String> {
    Err("not written yet".to_owned())
}
