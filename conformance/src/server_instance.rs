//! Test servers within one process: each with its own methods, topics, limits and address.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use bellwire::{
    Listener, Publisher, Router, Server, ServerHandle,
    server::{Action, Principal, TokenAuthenticator, Verdict},
    ws::{WsConfig, WsListener},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::{
    server_methods::{Shared, router},
    server_options::Options,
    server_proxy,
    server_topics::TestTopics,
    server_wrong::Wrong,
    server_ws_proxy,
};

/// A running test server. It ends when it is dropped.
pub struct Instance {
    pub shared: Shared,
    pub topics: TestTopics,
    pub publisher: Publisher,
    pub handle: ServerHandle,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Instance {
    /// Tells it to stop in order.
    pub fn stop(&self) {
        self.stop.lock().expect("no holder panics").take();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// All test servers of the process, by address.
#[derive(Clone)]
pub struct Instances(Arc<Shop>);

struct Shop {
    /// What stands in front of each server.
    wrong: Option<&'static Wrong>,
    open: Mutex<HashMap<SocketAddr, Arc<Instance>>>,
}

impl Instances {
    pub fn new(wrong: Option<&'static Wrong>) -> Self {
        Self(Arc::new(Shop { wrong, open: Mutex::default() }))
    }

    fn open_ones(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Instance>>> {
        self.0.open.lock().expect("no holder panics")
    }

    /// The server at `address`, `None` if there is none.
    pub fn get(&self, address: SocketAddr) -> Option<Arc<Instance>> {
        self.open_ones().get(&address).cloned()
    }

    /// Ends the server at `address`; whether there was one.
    pub fn remove(&self, address: SocketAddr) -> bool {
        self.open_ones().remove(&address).is_some()
    }

    /// Starts one on a port of its own of the loopback interface; where it is.
    ///
    /// # Errors
    /// Why it cannot listen.
    pub async fn open(&self, options: Options) -> Result<SocketAddr, String> {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let is_websocket = options.is_websocket;
        let (address, mut instance) = start(local, options, |router| router).await?;
        let address = match self.0.wrong {
            None => address,
            Some(wrong) => {
                let listener = TcpListener::bind(local).await.map_err(cannot_listen)?;
                let before = listener.local_addr().map_err(cannot_listen)?;
                instance.tasks.push(match is_websocket {
                    true => tokio::spawn(server_ws_proxy::serve(listener, address, wrong.ws)),
                    false => tokio::spawn(server_proxy::serve(listener, address, wrong)),
                });
                before
            }
        };
        self.open_ones().insert(address, Arc::new(instance));
        Ok(address)
    }

    /// Starts one at `address` that also has what `extend` adds; where it is.
    ///
    /// # Errors
    /// Why it cannot listen.
    pub async fn open_at(
        &self,
        address: SocketAddr,
        options: Options,
        extend: impl FnOnce(Router<Shared>) -> Router<Shared>,
    ) -> Result<SocketAddr, String> {
        let (address, instance) = start(address, options, extend).await?;
        self.open_ones().insert(address, Arc::new(instance));
        Ok(address)
    }
}

fn cannot_listen(error: std::io::Error) -> String {
    format!("cannot listen: {error}; give a free address with --addr")
}

async fn start(
    address: SocketAddr,
    options: Options,
    extend: impl FnOnce(Router<Shared>) -> Router<Shared>,
) -> Result<(SocketAddr, Instance), String> {
    let listener = TcpListener::bind(address).await.map_err(cannot_listen)?;
    let address = listener.local_addr().map_err(cannot_listen)?;
    let instance = match options.is_websocket {
        true => serve(Server::new(WsListener::new(listener, WsConfig::new())), options, extend),
        false => serve(Server::new(listener), options, extend),
    };
    Ok((address, instance))
}

fn serve<L: Listener>(
    mut server: Server<L>,
    options: Options,
    extend: impl FnOnce(Router<Shared>) -> Router<Shared>,
) -> Instance {
    let (shared, topics) = (Shared::default(), TestTopics::new(&options));
    server = server.config(options.config).topics(topics.clone());
    if options.is_authenticating {
        let tokens = TokenAuthenticator::new().token("secret", Principal::new("ada"));
        server = server.authenticator(tokens).authorizer(permission(shared.clone()));
    }
    let (publisher, handle) = (server.publisher(), server.handle());
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = server
        .serve(extend(router(shared.clone())))
        .with_graceful_shutdown(async { drop(stopped.await) });
    let task = tokio::spawn(async { drop(serve.await) });
    let stop = Mutex::new(Some(stop));
    Instance { shared, topics, publisher, handle, stop, tasks: vec![task] }
}

/// The method and the topic `closed` are forbidden. What is allowed of `unsure` cannot be decided.
/// The permission for `asked` takes until it is told to finish.
fn permission(shared: Shared) -> impl Fn(&Principal, Action<'_>) -> Verdict {
    move |_, action| {
        let (Action::Call(name) | Action::Subscribe(name) | Action::Publish(name)) = action else {
            return Verdict::Allow;
        };
        match name {
            "closed" => Verdict::Deny,
            "unsure" => Verdict::Unavailable { retry: None },
            "asked" => {
                let shared = shared.clone();
                Verdict::later(async move {
                    shared.wait("asked").await;
                    true
                })
            }
            _ => Verdict::Allow,
        }
    }
}
