//! The seven steps from one question to a robust service, in one process: `cargo run --example tour`
//!
//! It starts a server on a free port and connects to it. Lines marked `C:` are what the client
//! writes, lines marked `S:` what it reads, as they go over the wire; `=>` is what the program got.

#[macro_use]
#[path = "shared/print.rs"]
mod print;
#[path = "tour/by_hand.rs"]
mod by_hand;
#[path = "tour/desk.rs"]
mod desk;
#[path = "tour/wire.rs"]
mod wire;

use std::{borrow::Cow, error::Error, net::SocketAddr, time::Duration};

use bellwire::{Client, ClientConfig, Connection, ConnectionEvent, Delivery, Notification, Random};
use futures::{StreamExt, stream::FuturesUnordered};
use serde::Deserialize;
use tokio::{net::TcpStream, sync::mpsc, time::sleep};

use by_hand::ByHand;
use desk::Desk;
use wire::{Wire, paint};

type Outcome = Result<(), Box<dyn Error>>;

const LEASE: Duration = Duration::from_secs(60);
const SHORT_LEASE: Duration = Duration::from_secs(1);

// On one thread, so that the order of events and lines is the same each time.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let desk = Desk::open(7, LEASE).await?;
    println!("A server is listening on {}. C: is what its clients write, S: what", desk.address);
    println!("they read, line by line as it goes over the wire; => is what the program gets.");

    step(1, "The client sends a request and gets its reply.");
    ask(&desk).await?;
    step(2, "The client subscribes, gets one notification, unsubscribes, and quits.");
    listen_once(&desk).await?;
    step(3, "The client listens until it is stopped (by Ctrl-C in a real program).");
    listen_on(&desk).await?;
    step(4, "The client asks for the details of a new offer, and goes on listening meanwhile.");
    note("The lookup of the first one is slow; the second one overtakes it.");
    ask_while_listening(&desk).await?;
    note("It can also ask for all of them, and gets no more at a time than its credit allows:");
    ask_for_all(&desk).await?;
    step(5, "A closure handles notifications, as a stream did above; there is no class to derive.");
    listen_in_a_task(&desk).await?;
    step(6, "A subscription ends by a timeout; the client renews it in time by itself.");
    let desk = Desk::open(8, SHORT_LEASE).await?;
    stay_subscribed(&desk).await?;
    note(
        "A user who types by hand and does not renew is told where to resume, and misses nothing:",
    );
    let_it_expire(&desk).await?;
    step(7, "Both ends are robust against each other.");
    note("The server against a client that writes nonsense, and against its own handler's panic:");
    write_nonsense(&desk).await?;
    note("The client against a server that sends replies without a request, and second replies:");
    meet_a_hostile_server().await?;

    println!("\nThat was all. To go on: cargo run --example offers_server");
    Ok(())
}

async fn ask(desk: &Desk) -> Outcome {
    let client = connect(desk.address).await?;
    let number: u64 = client.request("random", &6).await?;
    got(format_args!("a number below 6: {number}"));
    Ok(client.close().await?)
}

async fn listen_once(desk: &Desk) -> Outcome {
    let client = connect(desk.address).await?;
    let mut offers = client.subscribe("offers").await?;
    desk.announce(41, "Nice flat in the 11e", 900).await;
    show(&offers.next().await.ok_or("the subscription ended")?);
    drop(offers); // leaves
    Ok(client.close().await?)
}

async fn listen_on(desk: &Desk) -> Outcome {
    let client = connect(desk.address).await?;
    let mut offers = client.subscribe("offers").await?;
    for (id, title) in [(42, "Room with a view"), (43, "Loft"), (44, "Cabin in the garden")] {
        desk.announce(id, title, 650).await;
        show(&offers.next().await.ok_or("the subscription ended")?);
    }
    drop(offers);
    Ok(client.close().await?)
}

async fn ask_while_listening(desk: &Desk) -> Outcome {
    let client = connect(desk.address).await?;
    let mut offers = client.subscribe("offers").await?;
    desk.announce_slow(50, "Mill, some repairs needed", 700).await;

    let mut asked = FuturesUnordered::new();
    let mut answered = 0;
    while answered < 2 {
        tokio::select! {
            Some(delivery) = offers.next() => {
                show(&delivery);
                asked.push(client.call("offers.get", id_in(&delivery)?.to_string()));
            }
            Some(details) = asked.next() => {
                got(format_args!("details: {}", text(&details?)));
                answered += 1;
            }
        }
    }
    drop((asked, offers));
    Ok(client.close().await?)
}

async fn ask_for_all(desk: &Desk) -> Outcome {
    let client = connect(desk.address).await?;
    let mut offers = client.stream("offers.list", "").window(4);
    while let Some(offer) = offers.next().await {
        got(format_args!("offer: {}", text(&offer?)));
    }
    drop(offers);
    Ok(client.close().await?)
}

async fn listen_in_a_task(desk: &Desk) -> Outcome {
    let client = connect(desk.address).await?;
    let (seen, mut all_seen) = mpsc::unbounded_channel();
    let mut offers = client.subscribe("offers").await?;
    let reading = tokio::spawn(async move {
        while let Some(delivery) = offers.next().await {
            show(&delivery);
            let _ = seen.send(());
        }
    });
    for (id, title) in [(60, "Gatehouse"), (61, "Half a castle")] {
        desk.announce(id, title, 1200).await;
        all_seen.recv().await;
    }
    reading.abort();
    Ok(client.close().await?)
}

async fn stay_subscribed(desk: &Desk) -> Outcome {
    let client = connect(desk.address).await?;
    let mut offers = client.subscribe("offers").await?;
    note("Nothing happens for longer than the lease, and the subscription lives on:");
    sleep(SHORT_LEASE * 7 / 5).await;
    desk.announce(70, "Lighthouse", 400).await;
    show(&offers.next().await.ok_or("the subscription ended")?);
    drop(offers);
    Ok(client.close().await?)
}

async fn let_it_expire(desk: &Desk) -> Outcome {
    let mut peer = ByHand::connect(desk.address).await?;
    peer.ask("1 /subscribe offers").await?;
    let end = peer.read().await?;
    let position = end.rsplit(' ').next().unwrap_or_default();
    desk.announce(71, "Treehouse", 300).await;
    peer.ask(&format!("2 /subscribe;from={position} offers")).await?;
    peer.read().await?;
    peer.ask("3 /quit").await?;
    Ok(())
}

async fn write_nonsense(desk: &Desk) -> Outcome {
    // The panic is intended, so its place is not printed.
    std::panic::set_hook(Box::new(|_| {}));
    let mut peer = ByHand::connect(desk.address).await?;
    for line in [
        "1 random 6",
        "GET / HTTP/1.1",
        "2 random..x 6",
        "3 nosuch",
        "1 random 6",
        "4 clumsy",
        "5 random 6",
        "6 /quit",
    ] {
        peer.ask(line).await?;
    }
    let _ = std::panic::take_hook();
    Ok(())
}

async fn meet_a_hostile_server() -> Outcome {
    let (client, connection) = dial(desk::open_hostile().await?).await?;
    let mut events = client.events();
    tokio::spawn(connection);
    let number: u64 = client.request("random", &6).await?;
    got(format_args!("a number below 6: {number}"));
    let number: u64 = client.request("random", &6).await?;
    got(format_args!("another one, not the left-over 5: {number}"));
    client.close().await?;
    while let Some(event) = events.next().await {
        if let ConnectionEvent::UnaskedReply(id) = event {
            got(format_args!("ignored, and counted: a reply to {id}, which was never sent"));
        }
    }
    Ok(())
}

/// A client whose lines are printed.
async fn connect(address: SocketAddr) -> Result<Client, Box<dyn Error>> {
    let (client, connection) = dial(address).await?;
    tokio::spawn(connection);
    client.connected().await?;
    Ok(client)
}

async fn dial(
    address: SocketAddr,
) -> Result<(Client, Connection<Wire<TcpStream>>), Box<dyn Error>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // Seeded, so that it renews at the same times in each tour: this seed's first two jitters are
    // short and its third is long, which leaves the end of step 6 clear of a renewal.
    Ok(Client::new(Wire::new(stream), ClientConfig::new().random(Random::seeded(833))))
}

fn step(number: u32, sentence: &str) {
    println!("\n{}", paint("1", &format!("{number}. {sentence}")));
}

fn note(sentence: &str) {
    println!("   {sentence}");
}

fn got(what: std::fmt::Arguments<'_>) {
    println!("   {} {what}", paint("33", "=>"));
}

fn show(delivery: &Delivery) {
    match delivery {
        Delivery::Notification(Notification { topic, sequence, payload, .. }) => {
            got(format_args!("number {sequence} of {topic}: {}", text(payload)));
        }
        other => got(format_args!("{other:?}")),
    }
}

/// The id in a notification, `{"id":N}`.
fn id_in(delivery: &Delivery) -> Result<u64, Box<dyn Error>> {
    #[derive(Deserialize)]
    struct New {
        id: u64,
    }
    match delivery {
        Delivery::Notification(new) => Ok(serde_json::from_slice::<New>(&new.payload)?.id),
        other => Err(format!("not a notification: {other:?}").into()),
    }
}

fn text(payload: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(payload)
}
