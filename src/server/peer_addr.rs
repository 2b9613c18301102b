//! Where a connection comes from.

use std::{fmt, net::SocketAddr, path::PathBuf};

/// The address of a peer or of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddr {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket; most clients have no path.
    Unix(Option<PathBuf>),
    /// Anything else, as the listener names it.
    Other(Box<str>),
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(Some(path)) => write!(f, "unix:{}", path.display()),
            Self::Unix(None) => f.write_str("unix"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

impl From<SocketAddr> for PeerAddr {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl PeerAddr {
    /// Whether a peer at this address may be on another machine.
    pub(in crate::server) fn is_beyond_loopback(&self) -> bool {
        match self {
            Self::Tcp(address) => !address.ip().to_canonical().is_loopback(),
            Self::Unix(_) | Self::Other(_) => false,
        }
    }
}
