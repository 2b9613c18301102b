//! jsonrpsee over WebSocket, without compression, which is its default.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use jsonrpsee::{
    RpcModule,
    core::client::ClientT,
    rpc_params,
    server::{PendingSubscriptionSink, ServerBuilder, ServerConfig, ServerHandle},
    types::ErrorObjectOwned,
    ws_client::{WsClient, WsClientBuilder},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    bare,
    load::{self, Call, Clients, Payload, Plan, to_payload},
    peers::{MOST_IN_FLIGHT, read_until},
};

/// A client that shares its server's handle, which would end the server when it is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    client: Arc<WsClient>,
    _server: ServerHandle,
}

pub async fn start(plan: &Plan) -> Result<Clients<Client>> {
    let (address, server) = serve(plan.slow_handlers).await?;
    let mut clients = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        let client = WsClientBuilder::default()
            // The default of 256 would be the limit here.
            .max_concurrent_requests(MOST_IN_FLIGHT)
            .set_tcp_no_delay(true)
            .build(format!("ws://{address}"))
            .await?;
        clients.push(Client { client: Arc::new(client), _server: server.clone() });
    }
    Ok(Clients::in_process(clients))
}

/// Methods that are ready at once are registered as functions, as its documentation does.
pub async fn serve(has_slow_handlers: bool) -> Result<(SocketAddr, ServerHandle)> {
    let mut module = RpcModule::new(());
    if has_slow_handlers {
        module.register_async_method("echo", async |params, _, _| {
            let text: String = params.one()?;
            load::handle(text.as_bytes()).await;
            Ok::<_, ErrorObjectOwned>(text)
        })?;
    } else {
        module.register_method("echo", |params, _, _| params.one::<String>())?;
    }
    module.register_subscription(
        "subscribe",
        "tick",
        "unsubscribe",
        async |_, pending, _, _| {
            wait_for_end(pending).await;
        },
    )?;
    let config = ServerConfig::builder()
        .max_connections(20_000)
        .set_message_buffer_capacity(MOST_IN_FLIGHT as u32)
        .set_tcp_no_delay(true)
        .build();
    let server = ServerBuilder::with_config(config).build("127.0.0.1:0").await?;
    Ok((server.local_addr()?, server.start(module)))
}

async fn wait_for_end(pending: PendingSubscriptionSink) {
    if let Ok(sink) = pending.accept().await {
        sink.closed().await;
    }
}

impl Call for Client {
    async fn call(&self, payload: Payload) -> Result<Payload> {
        let text = std::str::from_utf8(&payload)?;
        let reply: String = self.client.request("echo", rpc_params![text]).await?;
        to_payload(reply.as_bytes())
    }
}

/// A socket with this many subscriptions, with the WebSocket handshake written by hand. The mask is
/// zero, which the protocol allows, so a frame is plain text.
pub async fn subscribe_socket(address: SocketAddr, topics: usize) -> Result<TcpStream> {
    let mut stream = bare::connect(address).await?;
    let upgrade = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(upgrade.as_bytes()).await?;
    read_until(&mut stream, b"\r\n\r\n").await?;
    for id in 1..=topics {
        let request = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"subscribe\"}}");
        let mut frame = vec![0x81, 0x80 | request.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(request.as_bytes());
        stream.write_all(&frame).await?;
        read_until(&mut stream, b"\"result\"").await?;
    }
    Ok(stream)
}

/// Serves until the process ends.
pub async fn serve_forever() -> Result<SocketAddr> {
    let (address, server) = serve(false).await?;
    tokio::spawn(async move {
        let _server = server;
        tokio::time::sleep(Duration::MAX).await;
    });
    Ok(address)
}
