//! The server under test: it echoes.

use std::{io, net::SocketAddr};

use bellwire::{Publisher, Router, Server, ServerConfig, blocking, handler, server::PeerAddr};
use bytes::Bytes;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{bench::callers::MAX_CALLERS, stop::Stop};

/// Serves until Ctrl-C or SIGTERM; a second one ends it at once.
pub(crate) async fn serve(address: &str) -> io::Result<()> {
    let stop = Stop::new()?;
    let server = bind(address).await?;
    eprintln!("listening on {}, Ctrl-C ends it", tcp_addr(&server)?);
    let (drain, is_told) = oneshot::channel::<()>();
    let serving = server.serve(router());
    tokio::select! {
        served = serving.with_graceful_shutdown(async { drop(is_told.await) }) => served,
        () = stop.until_second(drain) => {
            eprintln!("stopped at once");
            Ok(())
        }
    }
}

/// A server in this process, on a free port.
#[derive(Debug)]
pub(crate) struct InProcess {
    pub(crate) address: SocketAddr,
    pub(crate) publisher: Publisher,
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

impl InProcess {
    pub(crate) async fn start() -> io::Result<Self> {
        let server = bind("127.0.0.1:0").await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let address = tcp_addr(&server)?;
        let publisher = server.publisher();
        let serve = server.serve(router());
        let serve = serve.with_graceful_shutdown(async { drop(stopped.await) });
        Ok(Self { address, publisher, stop, task: tokio::spawn(serve.into_future()) })
    }

    pub(crate) async fn stop(self) -> io::Result<()> {
        drop(self.stop);
        self.task.await?
    }
}

async fn bind(address: &str) -> io::Result<Server> {
    let config = ServerConfig::new().in_flight(MAX_CALLERS as usize).allow_publish(true);
    Ok(Server::bind(address).await?.config(config))
}

fn router() -> Router {
    let echo = async |payload: Bytes| payload;
    Router::new()
        .method("echo", handler(echo).doc("BYTES: the same again"))
        .method("echo.spawned", handler(echo).spawned().doc("BYTES: the same, by a task"))
        .method("echo.blocking", blocking(|payload: Bytes| payload).doc("BYTES: by a thread"))
}

fn tcp_addr(server: &Server) -> io::Result<SocketAddr> {
    match server.local_addr()? {
        PeerAddr::Tcp(address) => Ok(address),
        other => Err(io::Error::other(format!("{other} is no TCP address"))),
    }
}
