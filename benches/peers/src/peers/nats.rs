//! async-nats through nats-server. Requests are answered by a task with a connection of its own.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Result, bail};
use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use crate::{
    bare, child,
    fanout::{Deliveries, SocketPublisher},
    load::{self, Call, Clients, Payload, Plan, to_payload},
    peers::read_until,
};

/// With the defaults, as its benchmarks connect.
pub async fn start(plan: &Plan) -> Result<Clients<Client>> {
    let server = child::nats()?;
    let url = format!("nats://{}", server.address);
    let responder = async_nats::connect(&url).await?;
    let requests = responder.subscribe("echo").await?;
    responder.flush().await?;
    tokio::spawn(respond(responder, requests));
    let mut clients = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        clients.push(async_nats::connect(&url).await?);
    }
    Ok(Clients { clients, server: Some(server) })
}

async fn respond(responder: Client, mut requests: Subscriber) -> Result<()> {
    while let Some(request) = requests.next().await {
        // A request gets a task only if its handler takes time.
        if load::is_slow(&request.payload) {
            tokio::spawn(reply(responder.clone(), request));
        } else {
            reply(responder.clone(), request).await?;
        }
    }
    Ok(())
}

async fn reply(responder: Client, request: Message) -> Result<()> {
    load::handle(&request.payload).await;
    if let Some(inbox) = request.reply {
        responder.publish(inbox, request.payload).await?;
    }
    Ok(())
}

impl Call for Client {
    async fn call(&self, payload: Payload) -> Result<Payload> {
        let reply = self.request("echo", Bytes::copy_from_slice(&payload)).await?;
        to_payload(&reply.payload)
    }
}

/// A client that subscribes, and its task.
pub async fn subscribe(
    address: SocketAddr,
    deliveries: Arc<Deliveries>,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let client = async_nats::connect(format!("nats://{address}")).await?;
    let mut subscription = client.subscribe("t0").await?;
    client.flush().await?;
    tasks.spawn(async move {
        let _client = client;
        while let Some(message) = subscription.next().await {
            deliveries.take(&message.payload)?;
        }
        bail!("the subscription ended")
    });
    Ok(())
}

/// A socket that subscribes to this many topics.
pub async fn subscribe_socket(address: SocketAddr, topics: usize) -> Result<TcpStream> {
    let mut stream = bare::connect(address).await?;
    read_until(&mut stream, b"\r\n").await?;
    let subscribe = (0..topics).map(|topic| format!("SUB t{topic} {}\r\n", topic + 1));
    let lines = format!(
        "CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\n{}PING\r\n",
        subscribe.collect::<String>()
    );
    stream.write_all(lines.as_bytes()).await?;
    read_until(&mut stream, b"PONG\r\n").await?;
    Ok(stream)
}

/// A publisher with its own socket.
pub async fn publisher(address: SocketAddr) -> Result<SocketPublisher> {
    let stream = subscribe_socket(address, 0).await?;
    Ok(SocketPublisher::new(stream, b"PUB t0 64\r\n"))
}
