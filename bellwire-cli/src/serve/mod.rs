//! `bellwire serve`: a small server for scripts.

mod args;
mod follow_file;
mod listeners;
mod script;
mod users;
mod watch;

use std::{process::ExitCode, sync::Arc};

use bellwire::{
    Listener, Publisher, Router, Server, ServerConfig, handler,
    server::{Action, Both, Principal, STATS_METHOD},
    tls::TlsListener,
    ws::{Origins, WsConfig, WsListener},
};
use bytes::Bytes;
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};

pub(crate) use self::{args::ServeArgs, watch::run_as_watch};
use crate::{
    failed::{Failed, of_listening},
    stop::Stop,
    tls,
    transport::UNIX,
};
use listeners::Maybe;
use script::{Place, Script, Slots};
use users::Users;
use watch::Watch;

pub(crate) async fn run(args: ServeArgs) -> Result<ExitCode, Failed> {
    args.check()?;
    let stop = Stop::new().map_err(Failed::other)?;
    let users = args.users.as_deref().map(Users::read).transpose()?;
    if let Some(path) = args.listen.strip_prefix(UNIX) {
        let server = Server::bind_unix(path).await;
        let server = server.map_err(|error| of_listening(&args.listen, "--listen", &error))?;
        return serve(server, &args, users, None, stop).await;
    }
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(tls::of_server(cert, key)?),
        _ => None,
    };
    let tcp = args.bind(&args.listen, "--listen").await?;
    let web = match &args.ws {
        Some(address) => Some(args.bind(address, "--ws").await?),
        None => None,
    };
    let web_address = web.as_ref().map(TcpListener::local_addr).transpose();
    let web_address = web_address.map_err(Failed::other)?;
    if let Some(tls) = tls {
        let web = web.map(|web| args.web_sockets(TlsListener::new(web, tls.clone())));
        let both = Both::new(TlsListener::new(tcp, tls), Maybe(web));
        let web = web_address.map(|address| format!("wss://{address}"));
        return serve(Server::new(both), &args, users, web, stop).await;
    }
    let web = web.map(|web| args.web_sockets(web));
    let both = Both::new(tcp, Maybe(web));
    let web = web_address.map(|address| format!("ws://{address}"));
    serve(Server::new(both), &args, users, web, stop).await
}

impl ServeArgs {
    /// Listens, if it is safe there: commands are not run for a whole network by mistake.
    async fn bind(&self, address: &str, option: &str) -> Result<TcpListener, Failed> {
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|error| of_listening(address, option, &error))?;
        let address = listener.local_addr().map_err(Failed::other)?;
        let is_near = address.ip().to_canonical().is_loopback();
        if is_near || self.users.is_some() || self.open {
            return Ok(listener);
        }
        Err(Failed::usage(format!("on {address} everyone who reaches it could run the commands"))
            .hint("--users FILE lets only those in who have a token, --open everyone"))
    }

    fn web_sockets<L: Listener>(&self, listener: L) -> WsListener<L> {
        WsListener::new(listener, WsConfig::new().origins(Origins::list(&self.origins)))
    }

    fn router(&self, slots: Arc<Slots>) -> Router<Arc<Slots>> {
        let mut router = Router::with_state(slots.clone());
        for (name, command) in &self.methods {
            let script = Script::new(name, command, slots.clone());
            let run = move |place: Place, caller: Principal, payload: Bytes| {
                let script = script.clone();
                async move {
                    let _place = place;
                    script.run(caller, payload).await
                }
            };
            // The command has its own time, and a call that waits for one is bounded by the queue.
            router = router.method(name, handler(run).doc(self.doc(name)).handler_time(None));
        }
        router
    }
}

/// Serves until a signal. `web` is the address for WebSockets.
async fn serve<L: Listener>(
    server: Server<L>,
    args: &ServeArgs,
    users: Option<Users>,
    web: Option<String>,
    stop: Stop,
) -> Result<ExitCode, Failed> {
    let server = with_access(server, args, users);
    let watch = Watch::start().map_err(|error| {
        Failed::other(format!("cannot start the process that ends commands: {error}"))
    })?;
    let slots = Arc::new(Slots::new(args.limits(), watch));
    println!("listening on {}", server.local_addr().map_err(Failed::other)?);
    if let Some(web) = web {
        println!("listening on {web}");
    }
    let mut files = follow(args, &server.publisher());
    let (drain, is_told) = oneshot::channel::<()>();
    let serving = server.serve(args.router(slots));
    let ended = tokio::select! {
        served = serving.with_graceful_shutdown(async { drop(is_told.await) }) => {
            served.map_err(Failed::other)
        }
        () = stop.until_second(drain) => Err(Failed::interrupted("stopped at once")),
    };
    files.shutdown().await;
    ended.map(|()| ExitCode::SUCCESS)
}

fn with_access<L: Listener>(
    server: Server<L>,
    args: &ServeArgs,
    users: Option<Users>,
) -> Server<L> {
    let (may_publish, has_stats) = (args.allow_publish, args.stats);
    let may = move |_: &Principal, action: Action<'_>| match action {
        Action::Publish(_) => may_publish,
        Action::Call(STATS_METHOD) => has_stats,
        _ => true,
    };
    let server = server.config(ServerConfig::new()).authorizer(may);
    let server = if has_stats { server.stats_method() } else { server };
    match users {
        Some(users) => server.authenticator(users.authenticator()),
        None => server,
    }
}

fn follow(args: &ServeArgs, publisher: &Publisher) -> JoinSet<()> {
    let mut files = JoinSet::new();
    for (topic, file) in args.topics.clone() {
        files.spawn(follow_file::follow(topic, file, publisher.clone()));
    }
    files
}
