//! `hostile`: a server that misbehaves, for authors of clients. Each scenario is a client case that
//! is played to whatever client connects; a person drives the client and looks at it.

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    time::Duration,
};

use crate::{
    case::{Case, Side, load},
    client_run::{play::play, user::User},
};

/// How long a person may take for each step.
const PATIENCE: Duration = Duration::from_secs(3_600);

#[derive(clap::Args)]
pub struct Args {
    /// The scenario.
    #[arg(required_unless_present = "list")]
    scenario: Option<String>,
    /// List the scenarios, each with what a right client does.
    #[arg(long)]
    list: bool,
    /// The address to listen on. Default: any port of this machine.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    addr: SocketAddr,
}

/// Plays the scenario again and again, each time from the client's next connection on.
///
/// # Errors
/// An unknown scenario, or an address that cannot be listened on.
pub async fn main(args: Args) -> Result<ExitCode, String> {
    let scenarios = scenarios()?;
    let Some(name) = args.scenario.filter(|_| !args.list) else {
        for Case { name, level, title, .. } in scenarios {
            println!("{level} {name:<32} {title}");
        }
        return Ok(ExitCode::SUCCESS);
    };
    let case = scenarios.iter().find(|case| case.name == name);
    let case = case.ok_or_else(|| format!("no scenario {name:?}; `hostile --list` has them"))?;
    let address = settled(args.addr)?;
    println!("listening on {address}");
    loop {
        println!("{name}: {} [{}]", case.title, case.rules.join(" "));
        match play(case, User::Person, address, PATIENCE).await {
            Ok(()) => println!("the client did what it should, as far as the server can see\n"),
            Err(why) => println!("WRONG: {why}\n"),
        }
    }
}

/// The cases in which the server misbehaves.
///
/// # Errors
/// A file of cases that cannot be read.
pub fn scenarios() -> Result<Vec<Case>, String> {
    let mut cases = load(Side::Client)?;
    cases.retain(|case| case.option("hostile").is_some());
    Ok(cases)
}

/// The address with the port that it is given, so that each round has the same.
fn settled(address: SocketAddr) -> Result<SocketAddr, String> {
    let bound = TcpListener::bind(address).and_then(|listener| listener.local_addr());
    bound.map_err(|error| format!("cannot listen on {address}: {error}"))
}
