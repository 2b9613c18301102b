//! Unary calls of tonic, over one HTTP/2 connection for each client. `build.rs` generates the service;
//! the message is written by hand.

use anyhow::Result;
use bytes::Bytes;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};

use crate::{
    bare,
    load::{self, Call, Clients, Payload, Plan, to_payload},
    peers::{
        MOST_IN_FLIGHT,
        tonic::generated::{
            echo_client::EchoClient,
            echo_server::{Echo, EchoServer},
        },
    },
};

#[derive(Clone, PartialEq, prost::Message)]
pub struct EchoMessage {
    #[prost(bytes = "bytes", tag = "1")]
    pub payload: Bytes,
}

#[allow(unused_qualifications, reason = "generated code")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/peers.Echo.rs"));
}

struct Service;

#[tonic::async_trait]
impl Echo for Service {
    async fn echo(&self, request: Request<EchoMessage>) -> Result<Response<EchoMessage>, Status> {
        let message = request.into_inner();
        load::handle(&message.payload).await;
        Ok(Response::new(message))
    }
}

pub async fn start(plan: &Plan) -> Result<Clients<EchoClient<Channel>>> {
    let (listener, address) = bare::listen().await?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder()
        // The default of 200 would be the limit here.
        .max_concurrent_streams(Some(MOST_IN_FLIGHT as u32))
        .add_service(EchoServer::new(Service));
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut clients = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let channel = endpoint.tcp_nodelay(true).buffer_size(MOST_IN_FLIGHT).connect().await?;
        clients.push(EchoClient::new(channel));
    }
    Ok(Clients::in_process(clients))
}

impl Call for EchoClient<Channel> {
    async fn call(&self, payload: Payload) -> Result<Payload> {
        let message = EchoMessage { payload: Bytes::copy_from_slice(&payload) };
        // A client is cloned for each task that calls, as its documentation advises.
        let reply = self.clone().echo(message).await?;
        to_payload(&reply.into_inner().payload)
    }
}
