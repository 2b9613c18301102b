//! `bellwire methods`: what a server offers.

use std::{io::stdout, process::ExitCode};

use bellwire::ClientConfig;
use clap::Args;

use crate::{
    call::DEADLINE,
    escape,
    failed::Failed,
    style::{Style, Styled, is_colourful},
    target::TargetArgs,
};

/// Lists the methods of a server, each with its documentation
#[derive(Args)]
pub(crate) struct MethodsArgs {
    /// Prints one JSON object on each line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

pub(crate) async fn run(args: MethodsArgs) -> Result<ExitCode, Failed> {
    let client = args.target.resolve()?.connect(ClientConfig::new()).await?;
    let methods = client.methods().deadline(DEADLINE).await?;
    let width = methods.iter().map(|(name, _)| name.as_str().len()).max().unwrap_or_default();
    let is_on = is_colourful(&stdout());
    for (name, doc) in &methods {
        if args.json {
            println!("{}", serde_json::json!({ "method": name.as_str(), "doc": doc }));
            continue;
        }
        let name = Styled { style: Style::Bold, is_on, value: format!("{:width$}", name.as_str()) };
        let doc = escape::shown(doc.as_bytes(), &[]);
        println!("{}", format!("{name}  {doc}").trim_end());
    }
    if methods.is_empty() {
        eprintln!("this server has no methods of its own; it may have topics");
    }
    // The list is complete, whatever becomes of the connection.
    let _ = client.close().await;
    Ok(ExitCode::SUCCESS)
}
