//! Lists the offers, then shows new ones as they come: `cargo run --example offers_client`
//!
//! It needs a running `offers_server`. It subscribes and makes calls on one connection: for each
//! new offer it asks for the details. `--once` leaves after the first one.
//!
//! If you kill the server and start it again, the client goes on. With the addresses of several
//! servers, it goes on with another one.

#[macro_use]
#[path = "shared/print.rs"]
mod print;
#[path = "offers/offer.rs"]
mod offer;
#[path = "shared/stop.rs"]
mod stop;

use std::{
    collections::HashSet,
    error::Error,
    num::NonZeroU64,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
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
use stop::Stop;

/// The offers that are requested at the same time. Further new ones wait in the subscription's
/// queue.
const MAX_ASKED: usize = 8;
/// How long a server that hangs may delay the end of the program.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the client asks for an offer again after the reply was lost with the connection.
/// Asking changes nothing, so it may be repeated. For a call that changes something, the
/// application decides.
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

/// A signal ends any wait.
async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut stop = Stop::new()?;
    let connecting = Client::builder().addresses(&args.addresses).connect();
    let client = tokio::select! {
        connected = connecting => connected
            .map_err(|error| format!("no server at {}: {error}", args.addresses.join(", ")))?,
        () = stop.next() => return Ok(()),
    };
    tokio::spawn(tell_of_connections(client.events()));
    let (listened, is_stopped) = tokio::select! {
        listened = listen(&client, args) => (listened, false),
        () = stop.next() => (Ok(()), true),
    };
    tokio::select! {
        closed = close(&client) => match closed {
            Err(error) if is_stopped => eprintln!("{error}"),
            // If the connection failed, its error is the best explanation.
            closed => closed?,
        },
        () = stop.next() => {}
    }
    listened
}

/// Prints the events of the connection. The client reconnects by itself.
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
    let listed = Listed::default();
    // Before the list is requested, so that no offer is missed between the two.
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
            Some(()) = asked.next() => if args.once { return Ok(()) },
            delivery = offers.next(), if asked.len() < most => match delivery {
                Some(Delivery::Notification(news)) => asked.push(tell(client, &listed, news)),
                Some(Delivery::End { reason, .. }) => {
                    return Err(format!("the server ended the subscription: {reason}").into());
                }
                Some(other) => println!("{other:?}"),
                None => return Err("the subscription is over".into()),
            },
        }
    }
}

/// The ids that were shown.
#[derive(Clone, Default)]
struct Listed(Arc<Mutex<HashSet<NonZeroU64>>>);

impl Listed {
    /// Lists the offers that were not shown yet. Ids may come in any order, so it checks all of
    /// them.
    async fn list(&self, client: &Client) -> Result<(), CallError> {
        let mut offers = client.request_stream::<_, Summary>("offers.list", &());
        while let Some(summary) = offers.next().await {
            let summary = summary?;
            if self.add(summary.id) {
                println!("{summary}");
            }
        }
        Ok(())
    }

    /// Whether the offer was not in the set.
    fn add(&self, id: NonZeroU64) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id)
    }
}

/// Requests the offer of a notification, and shows it.
async fn tell(client: &Client, listed: &Listed, news: Notification) {
    let Notification { sequence, payload, .. } = news;
    let Ok(news) = serde_json::from_slice::<News>(&payload) else {
        return println!("notification {sequence} is none of an offer");
    };
    listed.add(news.id);
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

/// Prints what was missed, before the list is searched for it.
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
        _ => println!("the server has a new log; its notifications go on at {position}"),
    }
}
