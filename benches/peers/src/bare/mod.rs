//! The minimal multiplexer, written by hand. It shows what the machine can do at the moment,
//! without any of bellwire's guarantees. A request is `<id> echo <payload>`, its reply
//! `<id> ok <payload>`.

pub mod client;
pub mod line;
pub mod ring;
pub mod server;
pub mod writer;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};

use crate::{
    bare::{client::Multiplexer, server::Handlers, writer::Flush},
    load::{Clients, Plan},
};

/// The size of a read.
const CHUNK: usize = 64 * 1024;

/// The multiplexers with this flush policy.
pub async fn start(flush: Flush, plan: &Plan) -> Result<Clients<Multiplexer>> {
    let (listener, address) = listen().await?;
    let handlers = if plan.slow_handlers { Handlers::Futures(flush) } else { Handlers::Functions };
    tokio::spawn(server::serve(listener, handlers));
    let mut clients = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        clients.push(Multiplexer::connect(address, flush).await?);
    }
    Ok(Clients::in_process(clients))
}

pub async fn listen() -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

pub async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
