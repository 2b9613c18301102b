//! A listener that may not be there, so that one type of server is enough.

use std::{
    future::pending,
    io,
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    Listener,
    server::{PeerAddr, Principal},
};

/// A listener; without one no connection comes.
pub(crate) struct Maybe<L>(pub(crate) Option<L>);

impl<L: Listener> Listener for Maybe<L> {
    type Io = L::Io;

    async fn accept(&mut self) -> io::Result<(L::Io, PeerAddr)> {
        match &mut self.0 {
            Some(listener) => listener.accept().await,
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        match &self.0 {
            Some(listener) => listener.local_addr(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn prepare(io: &L::Io, timeout: Option<Duration>) -> io::Result<()> {
        L::prepare(io, timeout)
    }

    fn limit_unsent(io: &L::Io, bytes: usize) -> io::Result<()> {
        L::limit_unsent(io, bytes)
    }

    fn poll_handshake(io: &mut L::Io, cx: &mut Context<'_>) -> Poll<io::Result<Principal>> {
        L::poll_handshake(io, cx)
    }

    fn is_exposed(&self) -> bool {
        self.0.as_ref().is_some_and(L::is_exposed)
    }
}
