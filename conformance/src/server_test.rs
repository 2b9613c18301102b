//! `server`: the test server, built on bellwire.

use std::{
    io::{Write, stdout},
    net::SocketAddr,
    process::ExitCode,
};

use crate::{
    server_control, server_instance::Instances, server_options::Options, server_wrong::Wrong,
};

#[derive(clap::Args)]
pub struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    addr: SocketAddr,
    /// Require authentication (token `secret`); the topic `closed` is forbidden then.
    #[arg(long)]
    auth: bool,
    /// Further options of this server, as `test.open` takes them: `in-flight=2`. README.md of this
    /// crate lists them.
    options: Vec<String>,
}

/// Prints the address in one line, and serves until it is interrupted.
///
/// # Errors
/// An unknown option, or an address that cannot be listened on.
pub async fn main(args: Args) -> Result<ExitCode, String> {
    let auth = args.auth.then_some("auth");
    let words = args.options.iter().map(String::as_str).chain(auth);
    run(args.addr, Options::parse(words)?, None).await
}

/// A test server with control methods; what it opens stands behind `wrong`.
pub(crate) async fn run(
    address: SocketAddr,
    options: Options,
    wrong: Option<&'static Wrong>,
) -> Result<ExitCode, String> {
    let address = start(address, options, wrong).await?;
    // Nobody is left to be told if this fails.
    let _ = writeln!(stdout(), "listening on {address}");
    tokio::signal::ctrl_c().await.map_err(|error| error.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// Starts a test server with control methods in this process; where it is.
///
/// # Errors
/// An address that cannot be listened on.
pub async fn start(
    address: SocketAddr,
    options: Options,
    wrong: Option<&'static Wrong>,
) -> Result<SocketAddr, String> {
    let servers = Instances::new(wrong);
    let extend = |router| server_control::extend(router, &servers);
    servers.open_at(address, options, extend).await
}
