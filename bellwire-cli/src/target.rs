//! Where to connect, and how: from the options, the environment and the context, in this order.

use std::{env, fs, io::Read, path::PathBuf, time::Duration};

use bellwire::Credentials;
use clap::Args;

use crate::{
    context::{self, Context},
    duration, escape,
    failed::{Failed, of_file},
};

/// Where to connect if nothing says so.
const DEFAULT_ADDRESS: &str = "127.0.0.1:7440";
/// The longest token that is read.
const MAX_TOKEN: u64 = 64 << 10;

/// The options of all subcommands that connect.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection")]
pub(crate) struct TargetArgs {
    /// The server: HOST:PORT, unix:PATH, ws://HOST[:PORT]/PATH or wss://…; several servers of one
    /// service, separated by commas
    #[arg(long, short = 'a', value_name = "ADDR", value_delimiter = ',')]
    pub(crate) addr: Vec<String>,
    /// The context that has the settings, instead of the current one
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// A file with the token, which is sent with /auth; - reads it from stdin
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Connects over TLS
    #[arg(long)]
    tls: bool,
    /// The name that the server's certificate must have [default: the host of the address]
    #[arg(long, value_name = "NAME")]
    tls_name: Option<String>,
    /// Trusts the certificates in this PEM file, and not those of the system
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The client's own certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// The key of the client's certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
    /// How long to try to connect
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    connect_timeout: Duration,
}

/// Where to connect, and how.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) settings: Context,
    pub(crate) token: Option<Credentials>,
    pub(crate) connect_timeout: Duration,
    /// The addresses and where they come from, for messages.
    pub(crate) place: String,
}

impl Target {
    /// A server without TLS and credentials.
    pub(crate) fn of(address: String) -> Self {
        let place = address.clone();
        let settings = Context { addr: vec![address], ..Context::default() };
        Self { settings, token: None, connect_timeout: Duration::from_secs(10), place }
    }
}

impl TargetArgs {
    /// Checks that stdin is not both the token and what `other` names.
    pub(crate) fn leave_stdin_to(&self, other: &str) -> Result<(), Failed> {
        match &self.token_file {
            Some(path) if path.as_os_str() == "-" => {
                Err(Failed::usage(format!("stdin cannot be both the token and {other}"))
                    .hint("put the token into a file, or into BELLWIRE_TOKEN"))
            }
            _ => Ok(()),
        }
    }

    /// Limits how long it may take to connect.
    pub(crate) fn connect_within(&mut self, limit: Option<Duration>) {
        if let Some(limit) = limit {
            self.connect_timeout = self.connect_timeout.min(limit);
        }
    }

    /// Whether an option says where to connect.
    pub(crate) fn is_explicit(&self) -> bool {
        !self.addr.is_empty() || self.context.is_some()
    }

    /// The settings that are in effect.
    pub(crate) fn resolve(&self) -> Result<Target, Failed> {
        // A context that is named for this command counts as an option.
        let variables = match self.context {
            Some(_) => Variables::default(),
            None => Variables::of_process()?,
        };
        let (name, context) = self.context(&variables)?;
        let (addr, origin) = self.addresses(&variables, &name, &context);
        let addr: Vec<_> = addr.iter().map(|address| address.trim().to_owned()).collect();
        if addr.iter().any(String::is_empty) {
            return Err(Failed::usage(format!("an address is empty ({origin})"))
                .hint("an address is HOST:PORT, unix:PATH, ws://HOST[:PORT]/PATH or wss://…"));
        }
        let token = self.token(&variables, &context)?;
        let settings = Context {
            tls: self.tls || variables.tls || context.tls,
            tls_name: self.tls_name.clone().or(variables.tls_name).or(context.tls_name),
            ca: self.ca.clone().or(variables.ca).or(context.ca),
            client_cert: self.client_cert.clone().or(variables.client_cert).or(context.client_cert),
            client_key: self.client_key.clone().or(variables.client_key).or(context.client_key),
            token_file: None,
            addr,
        };
        settings.check()?;
        let place = format!("{} ({origin})", settings.addr.join(", "));
        let place = escape::shown(place.as_bytes(), &[]);
        Ok(Target { settings, token, connect_timeout: self.connect_timeout, place })
    }

    /// The context that counts. The credentials of a context must not go to an address that was
    /// given for this command, so it counts only if it was named at least as explicitly.
    fn context(&self, variables: &Variables) -> Result<(String, Context), Failed> {
        let name = match (&self.context, &variables.context) {
            (Some(name), _) => Some(name.clone()),
            _ if !self.addr.is_empty() => None,
            (None, Some(name)) => Some(name.clone()),
            _ if variables.addr.is_some() => None,
            (None, None) => context::current()?,
        };
        let Some(name) = name else { return Ok((String::new(), Context::default())) };
        let context = context::find(&name)?;
        Ok((name, context))
    }

    fn addresses(
        &self,
        variables: &Variables,
        name: &str,
        context: &Context,
    ) -> (Vec<String>, String) {
        match (&self.addr[..], &variables.addr, &context.addr[..]) {
            ([_, ..], _, _) => (self.addr.clone(), "from --addr".into()),
            ([], Some(addr), _) => {
                (addr.split(',').map(Into::into).collect(), "from BELLWIRE_ADDR".into())
            }
            ([], _, [_, ..]) => (context.addr.clone(), format!("from the context {name}")),
            _ => (vec![DEFAULT_ADDRESS.into()], "the default".into()),
        }
    }

    fn token(
        &self,
        variables: &Variables,
        context: &Context,
    ) -> Result<Option<Credentials>, Failed> {
        if let Some(path) = &self.token_file {
            return read_token(path).map(Some);
        }
        if let Some(token) = &variables.token {
            return trimmed(token.as_bytes(), "BELLWIRE_TOKEN").map(Some);
        }
        let file = variables.token_file.as_ref().or(context.token_file.as_ref());
        file.map(read_token).transpose()
    }
}

/// The environment.
#[derive(Default)]
struct Variables {
    addr: Option<String>,
    context: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    tls: bool,
    tls_name: Option<String>,
    ca: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
}

impl Variables {
    fn of_process() -> Result<Self, Failed> {
        let path = |name| Ok::<_, Failed>(text(name)?.map(PathBuf::from));
        let tls = match text("BELLWIRE_TLS")?.as_deref() {
            None | Some("0" | "false") => false,
            Some("1" | "true") => true,
            Some(_) => {
                return Err(Failed::usage("BELLWIRE_TLS is neither 1 nor 0")
                    .hint("unset it, or set it to 1"));
            }
        };
        Ok(Self {
            addr: text("BELLWIRE_ADDR")?,
            context: text("BELLWIRE_CONTEXT")?,
            token: text("BELLWIRE_TOKEN")?,
            token_file: path("BELLWIRE_TOKEN_FILE")?,
            tls,
            tls_name: text("BELLWIRE_TLS_NAME")?,
            ca: path("BELLWIRE_CA")?,
            client_cert: path("BELLWIRE_CLIENT_CERT")?,
            client_key: path("BELLWIRE_CLIENT_KEY")?,
        })
    }
}

/// A variable; `None` if it is unset or empty.
fn text(name: &str) -> Result<Option<String>, Failed> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(Failed::usage(format!("{name}: {error}"))),
    }
}

fn read_token(path: &PathBuf) -> Result<Credentials, Failed> {
    let mut token = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().lock().take(MAX_TOKEN).read_to_end(&mut token),
        false => fs::File::open(path).and_then(|file| file.take(MAX_TOKEN).read_to_end(&mut token)),
    };
    read.map_err(|error| of_file("read the token file", path, error))?;
    warn_if_open(path);
    trimmed(&token, &format!("the token file {}", path.display()))
}

/// The token without the line feed at its end.
fn trimmed(token: &[u8], origin: &str) -> Result<Credentials, Failed> {
    match token.trim_ascii() {
        [] => Err(Failed::usage(format!("{origin} has no token"))),
        token => Ok(Credentials::from(token)),
    }
}

fn warn_if_open(path: &PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let others = 0o077;
    let mode = fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|file| file.permissions());
    if mode.is_some_and(|mode| mode.mode() & others != 0) {
        eprintln!(
            "warning: other users may read the token file {0}; `chmod 600 {0}` keeps them out",
            path.display()
        );
    }
}
