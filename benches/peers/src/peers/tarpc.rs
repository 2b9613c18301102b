//! tarpc over TCP with bincode. The server spawns each request, as its documentation does.

use std::net::SocketAddr;

use anyhow::Result;
use futures::StreamExt;
use tarpc::{
    client,
    server::{self, BaseChannel, Channel},
    tokio_serde::formats::Bincode,
    tokio_util::codec::{Framed, LengthDelimitedCodec},
};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    bare,
    load::{self, Call, Clients, Payload, Plan},
    peers::MOST_IN_FLIGHT,
};

#[tarpc::service]
pub trait Echo {
    async fn echo(payload: [u8; 32]) -> [u8; 32];
}

#[derive(Clone)]
struct EchoServer;

impl Echo for EchoServer {
    async fn echo(self, _: tarpc::context::Context, payload: [u8; 32]) -> [u8; 32] {
        load::handle(&payload).await;
        payload
    }
}

pub async fn start(plan: &Plan) -> Result<Clients<EchoClient>> {
    let (listener, address) = bare::listen().await?;
    tokio::spawn(serve(listener));
    let mut clients = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        clients.push(connect(address).await?);
    }
    Ok(Clients::in_process(clients))
}

async fn connect(address: SocketAddr) -> Result<EchoClient> {
    let stream = TcpStream::connect(address).await?;
    let transport = tarpc::serde_transport::new(framed(stream)?, Bincode::default());
    // The defaults of 1,000 and 100 would be the limits here.
    let mut config = client::Config::default();
    config.max_in_flight_requests = MOST_IN_FLIGHT;
    config.pending_request_buffer = MOST_IN_FLIGHT;
    Ok(EchoClient::new(config, transport).spawn())
}

async fn serve(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let transport = tarpc::serde_transport::new(framed(stream)?, Bincode::default());
        let config = server::Config { pending_response_buffer: MOST_IN_FLIGHT };
        let replies = BaseChannel::new(config, transport).execute(EchoServer.serve());
        tokio::spawn(replies.for_each(async |reply| {
            tokio::spawn(reply);
        }));
    }
}

fn framed(stream: TcpStream) -> Result<Framed<TcpStream, LengthDelimitedCodec>> {
    stream.set_nodelay(true)?;
    Ok(Framed::new(stream, LengthDelimitedCodec::new()))
}

impl Call for EchoClient {
    async fn call(&self, payload: Payload) -> Result<Payload> {
        Ok(self.echo(tarpc::context::current(), payload).await?)
    }
}
