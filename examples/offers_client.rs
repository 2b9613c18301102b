//! Lists the offers, then tells of new ones as they come: `cargo run --example offers_client`
//!
//! It needs `offers_server` running. One connection does it all: it listens, and asks for the
//! details of each new offer while it goes on listening. `--once` leaves after the first one.

#[path = "offers/offer.rs"]
mod offer;
#[path = "offers/stop.rs"]
mod stop;

use std::{error::Error, pin::pin, process::ExitCode, time::Duration};

use bellwire::{CallError, Client, Delivery, Gap, GapCause, Notification};
use clap::Parser;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::timeout;

use offer::{News, Offer, Shown, Summary};

/// Offers asked for at once. Past it, new ones wait in the subscription's queue.
const MAX_ASKED: usize = 8;
/// How long a server that hangs may hold up the end.
const PATIENCE: Duration = Duration::from_secs(3);

/// Lists the offers of an offers_server, then tells of new ones until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// Where the server listens
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:7440")]
    address: String,
    /// Leave after the first new offer
    #[arg(long)]
    once: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("offers_client: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let client = Client::connect(&args.address)
        .await
        .map_err(|error| format!("no server at {}: {error}", args.address))?;
    let listened = listen(&client, args).await;
    // If the connection is what failed, it knows best why.
    close(&client).await?;
    listened
}

async fn close(client: &Client) -> Result<(), Box<dyn Error>> {
    let closed = timeout(PATIENCE, client.close()).await;
    Ok(closed.map_err(|_| "the server does not answer")??)
}

async fn listen(client: &Client, args: &Args) -> Result<(), Box<dyn Error>> {
    let mut stop = pin!(stop::stop()?);
    // Before the list is asked for, so that no offer falls between the two.
    let mut offers = client.subscribe("offers").await?;
    list(client).await?;
    println!("listening for new offers; Ctrl-C ends it");

    let most = if args.once { 1 } else { MAX_ASKED };
    let mut asked = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            Some(()) = asked.next() => if args.once { return Ok(()) },
            delivery = offers.next(), if asked.len() < most => match delivery {
                Some(Delivery::Notification(news)) => asked.push(tell(client, news)),
                Some(Delivery::Gap(gap)) => tell_of_gap(&gap),
                Some(Delivery::Reset { position, .. }) => {
                    println!("the server began anew; it goes on at {position}");
                }
                Some(Delivery::End { reason, .. }) => {
                    return Err(format!("the server ended the subscription: {reason}").into());
                }
                Some(other) => println!("{other:?}"),
                None => return Err("the subscription is over".into()),
            },
        }
    }
}

async fn list(client: &Client) -> Result<(), CallError> {
    let mut offers = client.request_stream::<_, Summary>("offers.list", &());
    while let Some(summary) = offers.next().await {
        println!("{}", summary?);
    }
    Ok(())
}

/// Asks for the offer that is news, and shows it.
async fn tell(client: &Client, Notification { sequence, payload, .. }: Notification) {
    let Ok(news) = serde_json::from_slice::<News>(&payload) else {
        return println!("notification {sequence} is none of an offer");
    };
    let what = if news.changed { "changed" } else { "new" };
    match client.request::<_, Offer>("offers.get", &news.id).await {
        Ok(offer) => println!("{what}:{:1$}{offer}", "", 8 - what.len()),
        Err(error) => println!("{what}: offer {}: {}", news.id, Shown(&error.to_string())),
    }
}

fn tell_of_gap(Gap { first, last, cause, .. }: &Gap) {
    let why = match cause {
        GapCause::Server(code) => format!("the server says: {code}"),
        GapCause::Lost => "they went missing".to_owned(),
        GapCause::Lagged => "this client was too slow".to_owned(),
        other => format!("{other:?}"),
    };
    println!("missed: notifications {first} to {last}, {why}");
}
