//! bellwire, with all its guarantees and its defaults.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use bellwire::{Client, Delivery, Router, Server, ServerConfig};
use bytes::Bytes;
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use crate::{
    bare,
    fanout::{Deliveries, Message, Publish},
    load::{self, Call, Clients, Payload, Plan, to_payload},
    peers::read_until,
};

/// A server, and the publisher in its process.
pub async fn serve() -> Result<(SocketAddr, bellwire::Publisher)> {
    // Sockets that only count do not renew their leases.
    let config = ServerConfig::new().connections(20_000).lease(Duration::from_secs(3_600));
    let server = Server::bind("127.0.0.1:0").await?.config(config);
    let address = server.local_addr()?.to_string().parse()?;
    let publisher = server.publisher();
    let router = Router::new().method("echo", async |payload: Bytes| {
        load::handle(&payload).await;
        payload
    });
    tokio::spawn(server.serve(router).into_future());
    Ok((address, publisher))
}

pub async fn start(plan: &Plan) -> Result<Clients<Client>> {
    let (address, _) = serve().await?;
    let mut clients = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        clients.push(Client::connect(address).await?);
    }
    Ok(Clients::in_process(clients))
}

impl Call for Client {
    async fn call(&self, payload: Payload) -> Result<Payload> {
        to_payload(&Client::call(self, "echo", payload).await?)
    }
}

/// Publishes in the server's process.
#[derive(Debug)]
pub struct Publisher {
    publisher: bellwire::Publisher,
    queued: Vec<Bytes>,
}

impl Publisher {
    pub fn new(publisher: bellwire::Publisher) -> Self {
        Self { publisher, queued: Vec::new() }
    }
}

impl Publish for Publisher {
    fn publish(&mut self, message: &Message) -> Result<()> {
        self.queued.push(Bytes::copy_from_slice(message));
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        for message in self.queued.drain(..) {
            self.publisher.publish("t0", message).await?;
        }
        Ok(())
    }
}

/// A client that subscribes, and its task.
pub async fn subscribe(
    address: SocketAddr,
    deliveries: Arc<Deliveries>,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let client = Client::connect(address).await?;
    let mut subscription = client.subscribe("t0").await?;
    tasks.spawn(async move {
        let _client = client;
        while let Some(delivery) = subscription.next().await {
            match delivery {
                Delivery::Notification(notification) => deliveries.take(&notification.payload)?,
                other => bail!("not a notification: {other:?}"),
            }
        }
        bail!("the subscription ended")
    });
    Ok(())
}

/// A socket that subscribes to this many topics.
pub async fn subscribe_socket(address: SocketAddr, topics: usize) -> Result<TcpStream> {
    let mut stream = bare::connect(address).await?;
    let lines = (0..topics).map(|topic| format!("{} /subscribe t{topic}\n", topic + 1));
    stream.write_all(lines.collect::<String>().as_bytes()).await?;
    read_until(&mut stream, format!("\n{topics} ok").as_bytes()).await?;
    Ok(stream)
}
