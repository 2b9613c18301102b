//! Lists the offers, then tells of new ones as they come: `cargo run --example offers_client`
//!
//! It needs `offers_server` running. One connection does it all: it listens, and asks for the
//! details of each new offer while it goes on listening. `--once` leaves after the first one.
//!
//! Kill the server and start it again: the client goes on. Give it the addresses of several servers, and
//! it goes on with another.

#[path = "offers/offer.rs"]
mod offer;
#[path = "offers/stop.rs"]
mod stop;

use std::{
    error::Error,
    num::NonZeroU64,
    pin::pin,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bellwire::{
    CallError, Client, ConnectionEvent, ConnectionEvents, Delivery, GapCause, Loss, Notification,
    Unknown,
};
use clap::Parser;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::timeout;

use offer::{News, Offer, Shown, Summary};

/// Offers asked for at once. Past it, new ones wait in the subscription's queue.
const MAX_ASKED: usize = 8;
/// How long a server that hangs may hold up the end.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often an offer is asked for whose reply is lost with the connection. Asking changes nothing, so
/// it may be done again; a call that does something is the application's to judge.
const TRIES: usize = 3;

/// Lists the offers of an offers_server, then tells of new ones until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// Where servers listen; the first is tried first
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:7440")]
    addresses: Vec<String>,
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
    let client = Client::builder()
        .addresses(&args.addresses)
        .connect()
        .await
        .map_err(|error| format!("no server at {}: {error}", args.addresses.join(", ")))?;
    tokio::spawn(tell_of_connections(client.events()));
    let listened = listen(&client, args).await;
    // If the connection is what failed, it knows best why.
    close(&client).await?;
    listened
}

/// Says what happens to the connection, which goes on by itself.
async fn tell_of_connections(mut events: ConnectionEvents) {
    while let Some(event) = events.next().await {
        match event {
            ConnectionEvent::Leaving(reason) => eprintln!("the server is about to go: {reason}"),
            ConnectionEvent::Disconnected { error, .. } => eprintln!("disconnected: {error}"),
            ConnectionEvent::Connected(_) => eprintln!("connected again"),
            _ => {}
        }
    }
}

async fn close(client: &Client) -> Result<(), Box<dyn Error>> {
    let closed = timeout(PATIENCE, client.close()).await;
    Ok(closed.map_err(|_| "the server does not answer")??)
}

async fn listen(client: &Client, args: &Args) -> Result<(), Box<dyn Error>> {
    let mut stop = pin!(stop::stop()?);
    let listed = Listed::default();
    // Before the list is asked for, so that no offer falls between the two.
    let (asking, resuming) = (client.clone(), listed.clone());
    let subscribing = client.subscribe("offers").resync(move |loss| {
        tell_of_loss(&loss);
        let (client, listed) = (asking.clone(), resuming.clone());
        async move { listed.list(&client).await }
    });
    let mut offers = subscribing.await?;
    listed.list(client).await?;
    println!("listening for new offers; Ctrl-C ends it");

    let most = if args.once { 1 } else { MAX_ASKED };
    let mut asked = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            Some(()) = asked.next() => if args.once { return Ok(()) },
            delivery = offers.next(), if asked.len() < most => match delivery {
                Some(Delivery::Notification(news)) => asked.push(tell(client, news)),
                Some(Delivery::End { reason, .. }) => {
                    return Err(format!("the server ended the subscription: {reason}").into());
                }
                Some(other) => println!("{other:?}"),
                None => return Err("the subscription is over".into()),
            },
        }
    }
}

/// The greatest id that was listed: what has a greater one was not.
#[derive(Clone, Default)]
struct Listed(Arc<AtomicU64>);

impl Listed {
    /// Lists the offers that are not listed yet.
    async fn list(&self, client: &Client) -> Result<(), CallError> {
        let after = NonZeroU64::new(self.0.load(Ordering::Relaxed));
        let mut offers = client.request_stream::<_, Summary>("offers.list", &after);
        while let Some(summary) = offers.next().await {
            let summary = summary?;
            self.0.fetch_max(summary.id.get(), Ordering::Relaxed);
            println!("{summary}");
        }
        Ok(())
    }
}

/// Asks for the offer that is news, and shows it.
async fn tell(client: &Client, Notification { sequence, payload, .. }: Notification) {
    let Ok(news) = serde_json::from_slice::<News>(&payload) else {
        return println!("notification {sequence} is none of an offer");
    };
    let what = if news.changed { "changed" } else { "new" };
    match details(client, news.id).await {
        Ok(offer) => println!("{what}:{:1$}{offer}", "", 8 - what.len()),
        Err(error) => println!("{what}: offer {}: {}", news.id, Shown(&error.to_string())),
    }
}

async fn details(client: &Client, id: NonZeroU64) -> Result<Offer, CallError> {
    for _ in 1..TRIES {
        match client.request::<_, Offer>("offers.get", &id).await {
            Err(CallError::Unknown(Unknown::Lost(_))) => {}
            known => return known,
        }
    }
    client.request("offers.get", &id).await
}

/// Says what did not come, before the list is looked at for it.
fn tell_of_loss(Loss { missed, position, .. }: &Loss) {
    match missed {
        Delivery::Gap(gap) => {
            let why = match &gap.cause {
                GapCause::Server(code) => format!("the server says: {code}"),
                GapCause::Lost => "they went missing".to_owned(),
                GapCause::Lagged => "this client was too slow".to_owned(),
                other => format!("{other:?}"),
            };
            println!("missed: notifications {} to {}, {why}", gap.first, gap.last);
        }
        _ => println!("the server began anew; its notifications go on at {position}"),
    }
}
