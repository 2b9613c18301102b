//! A listener for in-memory pipes that can be reset, so that a server sees a cut as on a network.

use std::io;

use bellwire::{Listener, server::PeerAddr};
use tokio::sync::mpsc;

use crate::proxy::{End, pipe};

/// The clients' side: opens connections.
#[derive(Clone)]
pub struct Door(mpsc::UnboundedSender<End>);

/// The server's side: accepts connections.
pub struct Doorway(mpsc::UnboundedReceiver<End>);

pub fn door() -> (Door, Doorway) {
    let (clients, server) = mpsc::unbounded_channel();
    (Door(clients), Doorway(server))
}

impl Door {
    /// A client's end of a new connection, through a pipe of `size` bytes.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` if the server has ended.
    pub fn pipe(&self, size: usize) -> io::Result<End> {
        let (ours, theirs) = pipe(size);
        self.0.send(theirs).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(ours)
    }
}

impl Listener for Doorway {
    type Io = End;

    async fn accept(&mut self) -> io::Result<(End, PeerAddr)> {
        match self.0.recv().await {
            Some(io) => Ok((io, PeerAddr::Other("pipe".into()))),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("pipe".into()))
    }
}
