//! The proxy on a TCP port.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpStream};

use super::{Handle, Next, Transport, connection::Connection};

impl Handle {
    /// Listens on a free port; each connection it accepts goes on to where `server` says. One that is
    /// refused, or that the server does not take, is reset at once.
    ///
    /// On a socket, delivered means given to the kernel: a reset loses what the receiver's kernel
    /// had no room for.
    pub async fn listen(
        &self,
        server: impl Fn() -> SocketAddr + Send + 'static,
    ) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        self.spawn(accept(self.clone(), listener, server));
        Ok(address)
    }
}

async fn accept(proxy: Handle, listener: TcpListener, server: impl Fn() -> SocketAddr) {
    loop {
        let (near, _) = listener.accept().await.expect("accepted");
        match proxy.next() {
            Some(next) => proxy.spawn(pass_on(near, server(), next)),
            None => near.reset(),
        }
    }
}

async fn pass_on(near: TcpStream, server: SocketAddr, next: Next) {
    let Ok(far) = TcpStream::connect(server).await else { return near.reset() };
    for socket in [&near, &far] {
        // Slices are to arrive as such. It fails on a socket that is reset already.
        let _ = socket.set_nodelay(true);
    }
    Connection::new(near, far, next).play().await;
}
