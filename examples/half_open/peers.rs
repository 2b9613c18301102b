//! The two programs: a server that counts its subscribers, and a client that subscribes. Both print
//! what they see.

use std::{cell::Cell, time::Duration};

use bellwire::{
    Client, ConnectionEvent, ConnectionEvents, Delivery, Failure, Publisher, Router, Server,
    ServerConfig, ServerHandle, Subscription, protocol::Code,
};
use tokio::time::{interval, sleep};

use crate::{Failed, parent::end_with_parent};

/// The arguments that select one of the programs.
pub(crate) const SERVER: &str = "--server";
pub(crate) const CLIENT: &str = "--client";

/// How often a server checks its subscribers.
const LOOK: Duration = Duration::from_millis(10);

/// `--server ADDRESS PACE IDLE`: publishes every PACE milliseconds, or not by itself if that is 0,
/// and prints how many clients are subscribed.
pub(crate) async fn serve(arguments: &[String]) -> Result<(), Failed> {
    end_with_parent();
    let [address, pace, idle] = arguments else { return Err("ADDRESS PACE IDLE".into()) };
    let config = ServerConfig::new().idle(Duration::from_secs(idle.parse()?));
    let server = Server::bind(address).await?.config(config);
    println!("listening on {}", server.local_addr()?);
    tokio::spawn(publish(server.publisher(), Duration::from_millis(pace.parse()?)));
    tokio::spawn(look(server.handle()));
    Ok(server.serve(Router::new().method("tell", tell)).await?)
}

async fn tell(publisher: Publisher) -> Result<(), Failure> {
    let told = publisher.publish("t", "").await;
    told.map(drop).map_err(|error| Failure::new(Code::INTERNAL, error.to_string()))
}

async fn publish(publisher: Publisher, pace: Duration) {
    if pace.is_zero() {
        return;
    }
    let mut ticks = interval(pace);
    loop {
        ticks.tick().await;
        publisher.publish("t", "").await.expect("an empty payload fits");
    }
}

async fn look(server: ServerHandle) {
    let mut last = 0;
    loop {
        let listening = server.stats().subscriptions;
        if listening != last {
            println!("listening: {listening}");
            last = listening;
        }
        sleep(LOOK).await;
    }
}

/// `--client ADDRESS...`: subscribes. It prints when it is connected and when not any more, the
/// first message after each connect, and what it missed. On each connection it asks for a message.
pub(crate) async fn listen(addresses: &[String]) -> Result<(), Failed> {
    end_with_parent();
    let client = Client::builder().addresses(addresses).connect_lazily();
    let events = client.events();
    let subscription = client.subscribe("t").await?;
    let said = Said::default();
    tokio::join!(say_events(&client, events, &said), say_deliveries(subscription, &said));
    Ok(())
}

/// Whether the first message of this connection was printed.
#[derive(Default)]
struct Said(Cell<bool>);

async fn say_events(client: &Client, mut events: ConnectionEvents, said: &Said) {
    while let Some(event) = events.next().await {
        match event {
            ConnectionEvent::Connected(_) => {
                println!("connected");
                said.0.set(false);
                if let Err(error) = client.call("tell", "").await {
                    println!("asked in vain: {error}");
                }
            }
            ConnectionEvent::Disconnected { error, .. } => println!("lost: {error}"),
            _ => {}
        }
    }
}

async fn say_deliveries(mut subscription: Subscription, said: &Said) {
    let mut next = None;
    while let Some(delivery) = subscription.next().await {
        match delivery {
            Delivery::Notification(told) => {
                if next.is_some_and(|next| next != told.sequence) {
                    println!("missed all before {}", told.sequence);
                }
                next = Some(told.sequence + 1);
                if !said.0.replace(true) {
                    println!("told {}", told.sequence);
                }
            }
            Delivery::Reset { position, .. } => {
                println!("another log");
                next = Some(position.next);
            }
            other => println!("missed: {other:?}"),
        }
    }
}
