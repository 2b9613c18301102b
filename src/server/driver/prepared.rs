//! Prepares the transport of an accepted connection.

use std::any::TypeId;

use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

#[cfg(feature = "tls")]
use crate::server::driver::tls::TlsListener;
#[cfg(feature = "ws")]
use crate::server::driver::ws::WsListener;
use crate::{
    guard::guarded,
    server::driver::{clock::apart, listener::Listener, memory::MemoryListener, serving::Serving},
    sync::Arc,
};

/// Prepares a connection's transport. If that fails, the peer may be gone already. This concerns
/// only that connection, so the accept loop does not pause.
pub(in crate::server) async fn prepared<L: Listener>(
    io: L::Io,
    serving: Arc<Serving>,
) -> Option<L::Io> {
    let prepare = move || {
        let config = &serving.environment.config;
        let limit = || config.unsent_bytes.map_or(Ok(()), |bytes| L::limit_unsent(&io, bytes));
        for done in [guarded(|| L::prepare(&io, config.tcp_user_timeout)), guarded(limit)] {
            match done {
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::debug!(%error, "cannot prepare the connection"),
                None => tracing::error!("listener panicked"),
            }
        }
        io
    };
    match is_own::<L>() {
        true => Some(prepare()),
        false => apart(prepare).await,
    }
}

/// Whether this is a listener of this crate, whose functions do not block.
fn is_own<L: Listener>() -> bool {
    let own = [
        TypeId::of::<MemoryListener>(),
        TypeId::of::<TcpListener>(),
        #[cfg(unix)]
        TypeId::of::<UnixListener>(),
        #[cfg(feature = "tls")]
        TypeId::of::<TlsListener<TcpListener>>(),
        #[cfg(all(feature = "tls", unix))]
        TypeId::of::<TlsListener<UnixListener>>(),
        #[cfg(feature = "ws")]
        TypeId::of::<WsListener<TcpListener>>(),
        #[cfg(all(feature = "ws", feature = "tls"))]
        TypeId::of::<WsListener<TlsListener<TcpListener>>>(),
    ];
    own.contains(&TypeId::of::<L>())
}
