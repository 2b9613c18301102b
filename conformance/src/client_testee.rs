//! `testee`: the Rust client under test. It takes commands on stdin and reports events on stdout,
//! one a line, as TESTEE.md describes.

mod command;
mod session;
mod subscribing;

use std::{
    io::{Write, stdout},
    process::ExitCode,
};

use tokio::io::{AsyncBufReadExt, BufReader, stdin};

use crate::{
    client_run::text::{escape, unescape},
    client_testee::{command::Command, session::Session},
};

#[derive(clap::Args)]
pub struct Args {}

/// What this testee can do.
const ABILITIES: &str = "testee L3 ack-by-hand addresses after attributes auth cancel counts \
                         deadline from in-flight keys max-line methods one-way pause probe publish \
                         redeliver repeat resend resubscribe strict streams window ws";

/// Takes commands until they end, in one thread, so that events come in the order of their causes.
///
/// # Errors
/// A command that cannot be understood.
pub async fn main(Args {}: Args) -> Result<ExitCode, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let ended = tokio::task::spawn_blocking(move || runtime.block_on(obey()));
    ended.await.map_err(|error| format!("the testee panicked: {error}"))?
}

async fn obey() -> Result<ExitCode, String> {
    report(ABILITIES.as_bytes());
    let mut lines = BufReader::new(stdin()).lines();
    let mut session = Session::default();
    while let Some(line) = lines.next_line().await.map_err(|error| error.to_string())? {
        let line = unescape(&line);
        session.obey(Command::parse(&line)?).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes an event.
fn report(event: &[u8]) {
    let mut out = stdout().lock();
    // A runner that has gone needs no events.
    let _ = writeln!(out, "{}", escape(event));
    let _ = out.flush();
}
