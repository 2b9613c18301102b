//! The listener of connections in memory.

use std::io;

use tokio::{io::DuplexStream, sync::mpsc};

use crate::server::{driver::listener::Listener, peer_addr::PeerAddr};

/// The listener of a [`pair`](crate::memory::pair).
#[derive(Debug)]
pub struct MemoryListener(mpsc::Receiver<DuplexStream>);

impl MemoryListener {
    pub(crate) fn new(connections: mpsc::Receiver<DuplexStream>) -> Self {
        Self(connections)
    }
}

impl Listener for MemoryListener {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
        match self.0.recv().await {
            Some(io) => Ok((io, peer())),
            // All connectors are gone. The connections that exist go on.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(peer())
    }
}

fn peer() -> PeerAddr {
    PeerAddr::Other("memory".into())
}
