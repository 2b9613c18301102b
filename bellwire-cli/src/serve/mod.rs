//! `bellwire serve`: a small server for scripts.

mod follow_file;
mod script;
mod users;

use std::{collections::HashSet, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use bellwire::{
    Publisher, Router, Server, ServerConfig, handler,
    protocol::{Method, Topic},
    server::{Action, Listener, PeerAddr, Principal},
};
use bytes::Bytes;
use clap::Args;
use tokio::{sync::oneshot, task::JoinSet};

use crate::{duration, escape, failed::Failed, stop::Stop, target::UNIX, tls};
use script::{Limits, Place, Script, Slots};
use users::Users;

/// Serves scripts: methods that run a command, and topics that follow a file
///
/// The payload of a call is the command's stdin, and its stdout is the reply, without a line feed at
/// its end. If it exits with another code than 0, the call is answered `err failed` with the last line
/// of its stderr. The command runs by `sh -c`; BELLWIRE_METHOD and BELLWIRE_PRINCIPAL name the method and
/// the caller. Commands and messages are bounded by the options below.
///
///   bellwire serve --method upper='tr a-z A-Z' --topic log=/var/log/syslog
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ServeArgs {
    /// Where to listen: HOST:PORT, or unix:PATH; port 0 takes a free one
    #[arg(long, short, value_name = "ADDR", default_value = "127.0.0.1:7440")]
    listen: String,
    /// A method, and the command that it runs
    #[arg(long = "method", short, value_name = "NAME=COMMAND", value_parser = parse_method)]
    methods: Vec<(String, String)>,
    /// A topic, and the file whose lines are its messages. It is read from its beginning, and followed
    /// as it grows, is truncated, and is replaced
    #[arg(long = "topic", short, value_name = "NAME=FILE", value_parser = parse_topic)]
    topics: Vec<(String, PathBuf)>,
    /// Who may connect: a file with a name and a token on each line
    #[arg(long, value_name = "FILE")]
    users: Option<PathBuf>,
    /// Lets everyone on the network run the commands: an address beyond this machine needs --users or
    /// this
    #[arg(long, conflicts_with = "users")]
    open: bool,
    /// Lets clients publish to all topics
    #[arg(long)]
    allow_publish: bool,
    /// Lets clients read statistics with `bellwire top`
    #[arg(long)]
    stats: bool,
    /// How long a command may run
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    timeout: Duration,
    /// The bytes that a command may write to stdout
    #[arg(long, value_name = "BYTES", default_value_t = 60_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    max_output: u32,
    /// The commands that run at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    processes: u16,
    /// The calls that wait for a command to end; more are refused `no busy`
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(..=10_000))]
    queue: u16,
    /// Serves over TLS, with the certificate in this PEM file
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

fn parse_method(text: &str) -> Result<(String, String), String> {
    let (name, command) =
        text.split_once('=').ok_or("not NAME=COMMAND, as in upper='tr a-z A-Z'")?;
    Method::new(name).map_err(|error| error.to_string())?;
    match command.trim().is_empty() {
        true => Err("there is no command behind =".into()),
        false => Ok((name.into(), command.into())),
    }
}

fn parse_topic(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("not NAME=FILE, as in log=/var/log/syslog")?;
    Topic::new(name).map_err(|error| error.to_string())?;
    match file.is_empty() {
        true => Err("there is no file behind =".into()),
        false => Ok((name.into(), file.into())),
    }
}

pub(crate) async fn run(args: ServeArgs) -> Result<ExitCode, Failed> {
    args.check()?;
    let stop = Stop::new().map_err(Failed::other)?;
    let users = args.users.as_deref().map(Users::read).transpose()?;
    if let Some(path) = args.listen.strip_prefix(UNIX) {
        let server = Server::bind_unix(path).await.map_err(|error| args.cannot_listen(&error))?;
        return serve(server, &args, users, stop).await;
    }
    if let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) {
        let server = Server::bind_tls(&args.listen, tls::of_server(cert, key)?).await;
        let server = server.map_err(|error| args.cannot_listen(&error))?;
        args.check_reach(&server)?;
        return serve(server, &args, users, stop).await;
    }
    let server = Server::bind(&args.listen).await.map_err(|error| args.cannot_listen(&error))?;
    args.check_reach(&server)?;
    serve(server, &args, users, stop).await
}

impl ServeArgs {
    fn check(&self) -> Result<(), Failed> {
        if self.methods.is_empty() && self.topics.is_empty() && !self.allow_publish {
            return Err(Failed::usage("there is nothing to serve")
                .hint("give it methods and topics: --method upper='tr a-z A-Z' --topic log=FILE"));
        }
        let mut names = HashSet::new();
        for (name, _) in &self.methods {
            if !names.insert(name) {
                return Err(Failed::usage(format!("there are two methods {name}")));
            }
        }
        let mut names = HashSet::new();
        for (name, _) in &self.topics {
            if !names.insert(name) {
                return Err(Failed::usage(format!("there are two topics {name}")));
            }
        }
        Ok(())
    }

    fn cannot_listen(&self, error: &std::io::Error) -> Failed {
        Failed::other(format!("cannot listen on {}: {error}", self.listen)).hint(
            "does another server use the address? --listen takes another one; port 0 takes a free \
             one",
        )
    }

    /// Commands are not run for a whole network by mistake.
    fn check_reach<L: Listener>(&self, server: &Server<L>) -> Result<(), Failed> {
        let address = server.local_addr().map_err(Failed::other)?;
        let is_near = match address {
            PeerAddr::Tcp(address) => address.ip().to_canonical().is_loopback(),
            _ => true,
        };
        if is_near || self.users.is_some() || self.open {
            return Ok(());
        }
        Err(Failed::usage(format!("on {address} everyone who reaches it could run the commands"))
            .hint("--users FILE lets only those in who have a token, --open everyone"))
    }

    fn limits(&self) -> Limits {
        Limits {
            time: self.timeout,
            output: self.max_output as usize,
            processes: self.processes.into(),
            queue: self.queue.into(),
        }
    }

    fn router(&self) -> Router<Arc<Slots>> {
        let slots = Arc::new(Slots::new(self.limits()));
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
            let doc = format!("runs {}", escape::cut(command.as_bytes(), 200));
            // The command has its own time, and a call that waits for one is bounded by the queue.
            router = router.method(name, handler(run).doc(doc).handler_time(None));
        }
        router
    }
}

async fn serve<L: Listener>(
    server: Server<L>,
    args: &ServeArgs,
    users: Option<Users>,
    stop: Stop,
) -> Result<ExitCode, Failed> {
    let (may_publish, has_stats) = (args.allow_publish, args.stats);
    let server =
        server.config(ServerConfig::new()).authorizer(move |_: &Principal, action: Action<'_>| {
            match action {
                Action::Publish(_) => may_publish,
                Action::Call(bellwire::server::STATS_METHOD) => has_stats,
                _ => true,
            }
        });
    let server = if has_stats { server.stats_method() } else { server };
    let server = match users {
        Some(users) => server.authenticator(users.authenticator()),
        None => server,
    };
    println!("listening on {}", server.local_addr().map_err(Failed::other)?);
    let mut files = follow(args, &server.publisher());
    let (drain, is_told) = oneshot::channel::<()>();
    let serving = server.serve(args.router());
    let ended = tokio::select! {
        served = serving.with_graceful_shutdown(async { drop(is_told.await) }) => {
            served.map_err(Failed::other)
        }
        () = stop.until_second(drain) => Err(Failed::interrupted("stopped at once")),
    };
    files.shutdown().await;
    ended.map(|()| ExitCode::SUCCESS)
}

fn follow(args: &ServeArgs, publisher: &Publisher) -> JoinSet<()> {
    let mut files = JoinSet::new();
    for (topic, file) in args.topics.clone() {
        files.spawn(follow_file::follow(topic, file, publisher.clone()));
    }
    files
}
