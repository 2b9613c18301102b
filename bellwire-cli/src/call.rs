//! `bellwire call`: one request, and its reply.

use std::{process::ExitCode, time::Duration};

use bellwire::{Call, CallError, Client, ClientConfig, Streaming, protocol::Method};
use clap::Args;

use crate::{
    duration,
    failed::{EXIT_CODES, Failed},
    payload::{self, Printed},
    stop::Stop,
    target::TargetArgs,
};

/// Calls a method, and prints its reply
///
/// The payload is sent unchanged. A line feed is printed after the reply. On a terminal, control
/// characters in the reply are escaped.
///
///   bellwire call random 6
///   bellwire call offers.get 43 --json
///   bellwire call offers.list --stream | head -3
///   bellwire call offers.add '{"title":"Loft","rent":700}' --key order-17
#[derive(Args)]
#[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
pub(crate) struct CallArgs {
    /// The method
    #[arg(value_parser = parse_method)]
    method: String,
    /// The payload; - reads all of stdin, unchanged
    payload: Option<String>,
    /// Checks that the payload is JSON, and prints the reply as formatted JSON
    #[arg(long)]
    json: bool,
    /// Prints the reply unchanged: without a line feed after it, and without escapes
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Takes the reply as a stream, and prints each item on a line
    #[arg(long, short)]
    stream: bool,
    /// How long the reply may take, as in 250ms, 5s or 2m [default: 30s; a stream has no limit]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    deadline: Option<Duration>,
    /// An attribute of the application; its key has a dot
    #[arg(long = "attr", value_name = "KEY=VALUE", value_parser = parse_attribute)]
    attributes: Vec<(String, String)>,
    /// The request's key: the server runs it once, however often it is sent, also by a later command
    #[arg(long, conflicts_with = "stream")]
    key: Option<String>,
    /// The request may run twice: sends it again if the connection is lost
    #[arg(long, conflicts_with = "stream")]
    idempotent: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// The time for a reply when none is given.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn parse_method(text: &str) -> Result<String, String> {
    match text.strip_prefix('/') {
        Some(_) => {
            Err("methods that begin with / are the protocol's own, and have commands".into())
        }
        None => Method::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string()),
    }
}

fn parse_attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if key.contains('.') => Ok((key.into(), value.into())),
        Some(_) => {
            Err("the key of an application's attribute has a dot, as in app.tenant=7".into())
        }
        None => Err("not KEY=VALUE, as in app.tenant=7".into()),
    }
}

pub(crate) async fn run(args: CallArgs) -> Result<ExitCode, Failed> {
    if args.payload.as_deref() == Some("-") {
        args.target.leave_stdin_to("the payload")?;
    }
    let target = args.target.resolve()?;
    let payload = payload::read(args.payload.clone()).await?;
    if args.json {
        payload::check_json(&payload)?;
    }
    let mut stop = Stop::new().map_err(Failed::other)?;
    let client = tokio::select! {
        client = target.connect(ClientConfig::new()) => client?,
        () = stop.next() => return Err(Failed::interrupted("interrupted before it was sent")),
    };
    let answered = tokio::select! {
        answered = request(&client, &args, &payload) => answered,
        // Dropping the request cancels it on the server.
        () = stop.next() => {
            Err(Failed::interrupted("interrupted; the request was cancelled, and may have run"))
        }
    };
    payload::flush();
    // The outcome is known, whatever becomes of the connection.
    let _ = client.close().await;
    answered.map(|()| ExitCode::SUCCESS)
}

async fn request(client: &Client, args: &CallArgs, payload: &[u8]) -> Result<(), Failed> {
    if args.stream {
        return stream(client, args, payload).await;
    }
    let deadline = args.deadline.unwrap_or(DEADLINE);
    let mut call = client.call(&args.method, payload).deadline(deadline);
    for (key, value) in &args.attributes {
        call = Call::attribute(call, key, value);
    }
    if let Some(key) = &args.key {
        call = call.key(key);
    }
    if args.idempotent {
        call = call.idempotent();
    }
    payload::print(&call.await?, args.printed(Printed::PrettyJson))
}

/// Prints each item as it comes. What was printed stays, if the stream fails later.
async fn stream(client: &Client, args: &CallArgs, payload: &[u8]) -> Result<(), Failed> {
    let mut items = client.stream(&args.method, payload);
    if let Some(deadline) = args.deadline {
        items = items.deadline(deadline);
    }
    for (key, value) in &args.attributes {
        items = Streaming::attribute(items, key, value);
    }
    while let Some(item) = items.next().await {
        payload::print(&item.map_err(of_item)?, args.printed(Printed::JsonLine))?;
        payload::flush();
    }
    Ok(())
}

fn of_item(error: CallError) -> Failed {
    Failed::from(error).within("the stream ended early")
}

impl CallArgs {
    fn printed(&self, json: Printed) -> Printed {
        match (self.json, self.raw) {
            (true, _) => json,
            (_, true) => Printed::Raw,
            _ => Printed::Line,
        }
    }
}
