//! The options of `bellwire serve`.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use bellwire::protocol::{Method, Topic};
use clap::Args;

use crate::{duration, failed::Failed, serve::script::Limits, transport::UNIX};

/// Serves scripts: methods that run a command, and topics that follow a file
///
/// The payload of a call is the command's stdin, and its stdout is the reply, without a line feed at
/// its end. If it exits with another code than 0, the call is answered `err failed` with the last line
/// of its stderr. The command runs by `sh -c`; BELLWIRE_METHOD and BELLWIRE_PRINCIPAL name the method and
/// the caller. When it ends, its time is over, or the caller has gone, everything that it has started
/// is killed. Commands and messages are bounded by the options below.
///
///   bellwire serve --method upper='tr a-z A-Z' --topic log=/var/log/syslog
///   bellwire serve --method date=date --doc date='the time of this machine' --users tokens
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ServeArgs {
    /// Where to listen: HOST:PORT, or unix:PATH; port 0 takes a free one
    #[arg(long, short, value_name = "ADDR", default_value = "127.0.0.1:7440")]
    pub(crate) listen: String,
    /// Listens for WebSockets, too: HOST:PORT. With --tls-cert they are wss, without it --users or
    /// --open is needed
    #[arg(long, value_name = "ADDR")]
    pub(crate) ws: Option<String>,
    /// An origin whose web pages may connect to --ws, as in https://offers.example; * for all. Those
    /// of its own host and port always may
    #[arg(long = "origin", value_name = "ORIGIN", requires = "ws")]
    pub(crate) origins: Vec<String>,
    /// A method, and the command that it runs
    #[arg(long = "method", short, value_name = "NAME=COMMAND", value_parser = parse_method)]
    pub(crate) methods: Vec<(String, String)>,
    /// What `bellwire methods` shows of a method. Clients never see the command
    #[arg(long = "doc", value_name = "NAME=TEXT", value_parser = parse_doc)]
    docs: Vec<(String, String)>,
    /// A topic, and the file whose lines are its messages. It is read from its beginning, and followed
    /// as it grows, is truncated, and is replaced
    #[arg(long = "topic", short, value_name = "NAME=FILE", value_parser = parse_topic)]
    pub(crate) topics: Vec<(String, PathBuf)>,
    /// Who may connect: a file with a name and a token on each line
    #[arg(long, value_name = "FILE")]
    pub(crate) users: Option<PathBuf>,
    /// Lets everyone who reaches the server run the commands: an address beyond this machine needs
    /// --users or this, and so does --ws without TLS, which web pages reach
    #[arg(long, conflicts_with = "users")]
    pub(crate) open: bool,
    /// Lets clients publish to all topics
    #[arg(long)]
    pub(crate) allow_publish: bool,
    /// Lets clients read statistics with `bellwire top`
    #[arg(long)]
    pub(crate) stats: bool,
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
    pub(crate) tls_cert: Option<PathBuf>,
    /// The key of the certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
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

fn parse_doc(text: &str) -> Result<(String, String), String> {
    let (name, doc) = text.split_once('=').ok_or("not NAME=TEXT, as in date='the time'")?;
    match doc.chars().any(char::is_control) {
        true => Err("the text is one line".into()),
        false => Ok((name.into(), doc.into())),
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

impl ServeArgs {
    /// What no option can say by itself.
    pub(crate) fn check(&self) -> Result<(), Failed> {
        if self.methods.is_empty() && self.topics.is_empty() && !self.allow_publish {
            return Err(Failed::usage("there is nothing to serve")
                .hint("give it methods and topics: --method upper='tr a-z A-Z' --topic log=FILE"));
        }
        if let Some(name) = first_twice(self.methods.iter().map(|(name, _)| name)) {
            return Err(Failed::usage(format!("there are two methods {name}")));
        }
        if let Some(name) = first_twice(self.topics.iter().map(|(name, _)| name)) {
            return Err(Failed::usage(format!("there are two topics {name}")));
        }
        let is_unknown = |doc: &String| !self.methods.iter().any(|(name, _)| name == doc);
        if let Some((name, _)) = self.docs.iter().find(|(name, _)| is_unknown(name)) {
            return Err(Failed::usage(format!("--doc names {name}, and there is no such method"))
                .hint(format!("add --method {name}=COMMAND")));
        }
        self.check_socket()?;
        self.check_web()
    }

    /// A page of any site can reach a WebSocket on this machine: with a name of its own that leads to
    /// 127.0.0.1 (DNS rebinding), it is of the same origin. It has no token, and no certificate.
    fn check_web(&self) -> Result<(), Failed> {
        let is_guarded = self.users.is_some() || self.tls_cert.is_some() || self.open;
        if self.ws.is_none() || is_guarded {
            return Ok(());
        }
        Err(Failed::usage(
            "any web page that is open on this machine could run the commands by --ws",
        )
        .hint("--users FILE lets only those in who have a token, --open everyone"))
    }

    fn check_socket(&self) -> Result<(), Failed> {
        if !self.listen.starts_with(UNIX) {
            return Ok(());
        }
        let wrong = match (self.ws.is_some(), self.tls_cert.is_some()) {
            (true, _) => "--ws does not go with a Unix socket",
            (_, true) => "a Unix socket has no TLS",
            _ => return Ok(()),
        };
        Err(Failed::usage(wrong).hint("--listen HOST:PORT listens on TCP"))
    }

    /// What clients are told about the method.
    pub(crate) fn doc(&self, method: &str) -> String {
        let docs: BTreeMap<_, _> = self.docs.iter().cloned().collect();
        docs.get(method).cloned().unwrap_or_default()
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            time: self.timeout,
            output: self.max_output as usize,
            processes: self.processes.into(),
            queue: self.queue.into(),
        }
    }
}

fn first_twice<'a>(mut names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = HashSet::new();
    names.find(|name| !seen.insert(*name))
}
