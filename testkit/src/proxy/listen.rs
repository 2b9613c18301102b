//! The proxy on a TCP port.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpStream};

use super::{Handle, Next, Transport, connection::Connection};

impl Handle {
    /// Listens on a free port, and connects each accepted connection to the address that `server`
    /// returns. If the plan refuses it, or the server does not accept it, it is reset at once.
    ///
    /// On a socket, "delivered" means given to the kernel. A reset loses bytes for which the
    /// receiver's kernel had no room.
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
        // Slices have to arrive as slices. This fails on a socket that is reset already.
        let _ = socket.set_nodelay(true);
    }
    Connection::new(near, far, next).play().await;
}
