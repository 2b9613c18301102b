//! The addresses of a case: two that are listened on, and one that refuses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::{
    net::{TcpListener, TcpSocket},
    sync::mpsc::UnboundedSender,
    task::JoinHandle,
};

use crate::{client_run::play::Happening, pattern::Names};

/// Small, so that a client fills it soon when the server does not read.
const RECEIVE_BUFFER: u32 = 64 * 1024;

pub(super) struct Doors {
    address: SocketAddr,
    other: SocketAddr,
    refused: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl Doors {
    pub(super) fn open(
        address: SocketAddr,
        happenings: UnboundedSender<Happening>,
    ) -> Result<Self, String> {
        let explain = |error| format!("cannot listen on {address}: {error}");
        let any = SocketAddr::new(address.ip(), 0);
        let [first, second, third] = [listen(address), listen(any), listen(any)];
        let (first, second) = (first.map_err(explain)?, second.map_err(explain)?);
        let refused = third.and_then(|listener| listener.local_addr()).map_err(explain)?;
        Ok(Self {
            address: first.local_addr().map_err(explain)?,
            other: second.local_addr().map_err(explain)?,
            refused,
            tasks: [
                tokio::spawn(accept(first, "first", happenings.clone())),
                tokio::spawn(accept(second, "other", happenings)),
            ],
        })
    }

    /// `<address>`, `<other>` and `<refused>`.
    pub(super) fn names(&self) -> Names {
        let names = [("address", self.address), ("other", self.other), ("refused", self.refused)];
        names.into_iter().map(|(name, address)| (name.to_owned(), address.to_string())).collect()
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Any port of this machine.
pub(crate) const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind(address)?;
    socket.listen(64)
}

async fn accept(listener: TcpListener, door: &'static str, happenings: UnboundedSender<Happening>) {
    while let Ok((stream, _)) = listener.accept().await {
        if happenings.send(Happening::Accepted(stream, door)).is_err() {
            return;
        }
    }
}
