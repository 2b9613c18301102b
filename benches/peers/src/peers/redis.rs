//! redis-server. redis-rs and fred call its ECHO.

use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use fred::{
    interfaces::{ClientInterface, ClientLike},
    types::{Builder, config::Config},
};
use redis::{
    AsyncConnectionConfig, IntoConnectionInfo, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    bare, child,
    fanout::SocketPublisher,
    load::{Call, Clients, Payload, Plan, to_payload},
    peers::{MOST_IN_FLIGHT, read_until},
};

/// redis-rs's multiplexed connection. Its documentation of `set_pipeline_buffer_size` advises a
/// larger buffer for many requests at once, and that of `set_write_backpressure_boundary` a larger
/// boundary for fewer system calls.
pub async fn start_redis_rs(plan: &Plan) -> Result<Clients<MultiplexedConnection>> {
    let server = child::redis()?;
    let info = format!("redis://{}/", server.address).into_connection_info()?;
    let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let client = redis::Client::open(info)?;
    let config = AsyncConnectionConfig::new()
        .set_pipeline_buffer_size(MOST_IN_FLIGHT)
        .set_write_backpressure_boundary(64 * 1024);
    let mut clients = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        clients.push(client.get_multiplexed_async_connection_with_config(&config).await?);
    }
    Ok(Clients { clients, server: Some(server) })
}

impl Call for MultiplexedConnection {
    async fn call(&self, payload: Payload) -> Result<Payload> {
        let mut connection = self.clone();
        let reply: Vec<u8> = redis::cmd("ECHO").arg(&payload).query_async(&mut connection).await?;
        to_payload(&reply)
    }
}

/// fred pipelines by itself. Its README sets `nodelay`.
pub async fn start_fred(plan: &Plan) -> Result<Clients<fred::clients::Client>> {
    let server = child::redis()?;
    let mut clients = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        let config = Config::from_url(&format!("redis://{}", server.address))?;
        let client = Builder::from_config(config)
            .with_connection_config(|connection| connection.tcp.nodelay = Some(true))
            .build()?;
        client.init().await?;
        clients.push(client);
    }
    Ok(Clients { clients, server: Some(server) })
}

impl Call for fred::clients::Client {
    async fn call(&self, payload: Payload) -> Result<Payload> {
        let reply: Bytes = self.echo(Bytes::copy_from_slice(&payload)).await?;
        to_payload(&reply)
    }
}

/// A socket that subscribes to this many topics.
pub async fn subscribe_socket(address: SocketAddr, topics: usize) -> Result<TcpStream> {
    let mut stream = bare::connect(address).await?;
    let names = (0..topics).map(|topic| format!(" t{topic}"));
    stream.write_all(format!("SUBSCRIBE{}\r\n", names.collect::<String>()).as_bytes()).await?;
    read_until(&mut stream, format!(":{topics}\r\n").as_bytes()).await?;
    Ok(stream)
}

/// A publisher with its own socket.
pub async fn publisher(address: SocketAddr) -> Result<SocketPublisher> {
    let stream = bare::connect(address).await?;
    Ok(SocketPublisher::new(stream, b"*3\r\n$7\r\nPUBLISH\r\n$2\r\nt0\r\n$64\r\n"))
}
