//! The end of a run: what the server has, by its own words and by its messages.

use std::net::SocketAddr;

use bellwire::{Delivery, protocol::Position};
use bellwire_testkit::{
    history::Event,
    recorder::{behind, told},
};
use tokio::time::timeout;

use crate::{Failed, PATIENCE, TOPICS, crowd::connect, log::Log};

/// The positions behind the last messages of all topics, as the server tells them to a client that
/// begins there.
pub(crate) async fn heads(
    addresses: &[SocketAddr],
) -> Result<Vec<(&'static str, Position)>, Failed> {
    let client = connect(addresses);
    let mut heads = Vec::new();
    for topic in TOPICS {
        heads.push((topic, client.subscribe(topic).deadline(PATIENCE).await?.position()));
    }
    Ok(heads)
}

/// Reads all topics from their first messages, as one more client.
pub(crate) async fn read_all(
    addresses: &[SocketAddr],
    heads: &[(&str, Position)],
    log: &Log,
) -> Result<(), Failed> {
    let (client, process) = (connect(addresses), log.process("auditor"));
    for (subscription, &(topic, head)) in (0..).zip(heads) {
        let first = Position { next: 1, ..head };
        let mut messages = client.subscribe(topic).from(first).deadline(PATIENCE).await?;
        let (topic, from) = (topic.to_owned(), behind(first));
        process.record(Event::Subscribed { subscription, topic, from });
        while messages.position() != head {
            let next = timeout(PATIENCE, messages.next()).await;
            let delivery = next.map_err(|_| "the stored messages do not come")?;
            match delivery {
                Some(Delivery::End { .. }) | None => return Err("a topic has ended".into()),
                Some(delivery) => process.record(told(subscription, &delivery)),
            }
        }
    }
    Ok(())
}

/// Records that all is over.
pub(crate) fn conclude(heads: &[(&str, Position)], log: &Log) {
    let server = log.process("server");
    for &(topic, head) in heads {
        server.record(Event::Head { topic: topic.to_owned(), next: behind(head) });
    }
    server.record(Event::Quiet);
}
