//! Contexts: connection settings by name, in a file of the user.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::{
    escape,
    failed::{Failed, of_file},
    style::{Style, Styled, is_colourful},
};

/// Manages contexts: connection settings by name
///
/// The file is bellwire/contexts.json in XDG_CONFIG_HOME, or in ~/.config. Only its owner can read it.
/// It has the path of the token's file, and never the token.
#[derive(Args)]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    command: ContextCommand,
}

#[derive(Subcommand)]
enum ContextCommand {
    /// Adds a context, or replaces the one of this name; the first one becomes the current one
    Add(AddArgs),
    /// Lists the contexts; * marks the current one
    List {
        /// Prints one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Makes a context the current one
    Use {
        /// The context; without it, no context is the current one
        name: Option<String>,
    },
    /// Removes a context
    Remove {
        /// The context
        name: String,
    },
}

#[derive(Args)]
struct AddArgs {
    /// The name: letters, digits, - and _
    #[arg(value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    context: Context,
}

/// The settings of a context.
#[derive(Args, Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// The server: HOST:PORT, unix:PATH, ws://HOST[:PORT]/PATH or wss://…; several servers of one
    /// service, separated by commas
    #[arg(long, short = 'a', value_name = "ADDR", value_delimiter = ',', required = true)]
    pub(crate) addr: Vec<String>,
    /// A file with the token
    #[arg(long, value_name = "FILE", value_parser = parse_path)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// Connects over TLS
    #[arg(long)]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) tls: bool,
    /// The name that the server's certificate must have [default: the host of the address]
    #[arg(long, value_name = "NAME")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls_name: Option<String>,
    /// Trusts the certificates in this PEM file, and not those of the system
    #[arg(long, value_name = "FILE", value_parser = parse_path)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    /// The client's own certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "client_key", value_parser = parse_path)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client_cert: Option<PathBuf>,
    /// The key of the client's certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "client_cert", value_parser = parse_path)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client_key: Option<PathBuf>,
}

fn parse_name(text: &str) -> Result<String, String> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match !text.is_empty() && !text.starts_with('-') && text.chars().all(is_known) {
        true => Ok(text.into()),
        false => Err("a name has letters, digits, - and _".into()),
    }
}

/// Absolute, so that the context works in every directory.
fn parse_path(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| error.to_string())
}

/// The file's content.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

/// The name of the current context.
pub(crate) fn current() -> Result<Option<String>, Failed> {
    match path() {
        Ok(path) => Ok(load(&path)?.current),
        // Without a home there are no contexts.
        Err(_) => Ok(None),
    }
}

pub(crate) fn find(name: &str) -> Result<Context, Failed> {
    let mut contexts = load(&path()?)?;
    contexts.contexts.remove(name).ok_or_else(|| unknown(name, &contexts))
}

pub(crate) fn run(args: ContextArgs) -> Result<ExitCode, Failed> {
    let path = path()?;
    let contexts = load(&path)?;
    match args.command {
        ContextCommand::Add(args) => add(&path, contexts, args)?,
        ContextCommand::List { json } => list(&contexts, json)?,
        ContextCommand::Use { name } => change_current(&path, contexts, name)?,
        ContextCommand::Remove { name } => remove(&path, contexts, &name)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn add(path: &Path, mut contexts: Contexts, args: AddArgs) -> Result<(), Failed> {
    let AddArgs { name, context } = args;
    context.check()?;
    if let Some(file) = context.token_file.as_deref().filter(|file| !file.exists()) {
        eprintln!("warning: there is no token file {} yet", file.display());
    }
    if contexts.contexts.is_empty() {
        contexts.current = Some(name.clone());
    }
    contexts.contexts.insert(name, context);
    store(path, &contexts)
}

fn list(contexts: &Contexts, json: bool) -> Result<(), Failed> {
    if json {
        println!("{}", serde_json::to_string(contexts).map_err(Failed::other)?);
        return Ok(());
    }
    if contexts.contexts.is_empty() {
        eprintln!("no contexts; `bellwire context add NAME --addr HOST:PORT` adds one");
    }
    let width = contexts.contexts.keys().map(String::len).max().unwrap_or_default();
    let is_on = is_colourful(&std::io::stdout());
    for (name, context) in &contexts.contexts {
        let is_current = contexts.current.as_ref() == Some(name);
        let mark = if is_current { "*" } else { " " };
        let name = Styled { style: Style::Bold, is_on, value: format!("{name:width$}") };
        let tls = if context.tls { "  tls" } else { "" };
        let token = context.token_file.as_ref().map(|file| format!("  token {}", file.display()));
        let addr = escape::shown(context.addr.join(",").as_bytes(), &[]);
        println!("{mark} {name}  {addr}{tls}{}", token.unwrap_or_default());
    }
    Ok(())
}

fn change_current(path: &Path, mut contexts: Contexts, name: Option<String>) -> Result<(), Failed> {
    if let Some(name) = &name
        && !contexts.contexts.contains_key(name)
    {
        return Err(unknown(name, &contexts));
    }
    contexts.current = name;
    store(path, &contexts)
}

fn remove(path: &Path, mut contexts: Contexts, name: &str) -> Result<(), Failed> {
    if contexts.contexts.remove(name).is_none() {
        return Err(unknown(name, &contexts));
    }
    if contexts.current.as_deref() == Some(name) {
        contexts.current = None;
        eprintln!("{name} was the current context; now there is none");
    }
    store(path, &contexts)
}

fn unknown(name: &str, contexts: &Contexts) -> Failed {
    let names = contexts.contexts.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let failed = Failed::usage(format!("there is no context {name}"));
    match names.is_empty() {
        true => failed.hint(format!("`bellwire context add {name} --addr HOST:PORT` adds it")),
        false => failed.hint(format!("there are: {names}")),
    }
}

fn path() -> Result<PathBuf, Failed> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let config = config.or_else(|| Some(set("HOME")?.join(".config")));
    let config = config.ok_or_else(|| {
        Failed::other("there is no place for contexts: HOME and XDG_CONFIG_HOME are unset")
    })?;
    Ok(config.join("bellwire").join("contexts.json"))
}

fn load(path: &Path) -> Result<Contexts, Failed> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Contexts::default()),
        Err(error) => return Err(of_file("read the contexts in", path, error)),
    };
    serde_json::from_slice(&text).map_err(|error| {
        of_file("read the contexts in", path, error).hint("correct the file, or move it away")
    })
}

/// Replaces the file as a whole, so that a reader never sees half of it.
fn store(path: &Path, contexts: &Contexts) -> Result<(), Failed> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // A temporary file has mode 0600 from its beginning.
        let mut file = NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, contexts)?;
        file.write_all(b"\n")?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok::<_, std::io::Error>(())
    };
    written().map_err(|error| of_file("write the contexts to", path, error))
}
