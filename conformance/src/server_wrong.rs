//! `wrong-server`: the right test server behind a proxy that makes one mistake.

use std::{
    io::{Write, stdout},
    net::SocketAddr,
    process::ExitCode,
};

use crate::{
    server_options::Options, server_proxy::Flow, server_test, server_wrongs::WRONGS,
    server_ws_proxy::Act,
};

/// A mistake: what it does with each line of the server's, or of the client's.
pub struct Wrong {
    pub name: &'static str,
    /// What the server does wrong, in one line.
    pub what: &'static str,
    /// Takes the server's lines; `None` passes them on.
    pub server: Option<fn(&mut Flow, &str)>,
    /// Takes the client's lines; `None` passes its bytes on.
    pub client: Option<fn(&mut Flow, &str)>,
    /// Takes what was read of the client at once, instead of its lines.
    pub chunks: Option<fn(&mut Flow, &str)>,
    /// What happens when the client has ended its direction, behind these bytes without a LF.
    pub at_client_end: fn(&mut Flow, &str),
    /// Takes what passes of a WebSocket. The others act on plain connections.
    pub ws: Act,
    /// The client's end is not passed on.
    pub ignores_client_end: bool,
    /// The server's end is not passed on.
    pub ignores_server_end: bool,
}

fn nothing(_: &mut Flow, _: &str) {}

impl Wrong {
    /// One that does nothing wrong yet.
    pub const fn new(name: &'static str, what: &'static str) -> Self {
        Self {
            name,
            what,
            server: None,
            client: None,
            chunks: None,
            ws: |_, part| vec![part],
            at_client_end: nothing,
            ignores_client_end: false,
            ignores_server_end: false,
        }
    }

    pub const fn server(self, act: fn(&mut Flow, &str)) -> Self {
        Self { server: Some(act), ..self }
    }

    pub const fn client(self, act: fn(&mut Flow, &str)) -> Self {
        Self { client: Some(act), ..self }
    }

    pub const fn chunks(self, act: fn(&mut Flow, &str)) -> Self {
        Self { chunks: Some(act), ..self }
    }

    pub const fn ws(self, act: Act) -> Self {
        Self { ws: act, ..self }
    }

    pub const fn at_client_end(self, act: fn(&mut Flow, &str)) -> Self {
        Self { at_client_end: act, ..self }
    }

    pub const fn ignores_client_end(self) -> Self {
        Self { ignores_client_end: true, ..self }
    }

    pub const fn ignores_server_end(self) -> Self {
        Self { ignores_server_end: true, ..self }
    }
}

/// The one of this name.
pub fn find(name: &str) -> Option<&'static Wrong> {
    WRONGS.iter().find(|wrong| wrong.name == name)
}

#[derive(clap::Args)]
pub struct Args {
    /// Which mistake it makes.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// List the mistakes.
    #[arg(long)]
    list: bool,
    /// Where its control methods listen; port 0 takes a free one. The servers that `test.open`
    /// starts are the wrong ones.
    #[arg(long, default_value = "127.0.0.1:0")]
    addr: SocketAddr,
}

/// Prints the address in one line, and serves until it is interrupted.
///
/// # Errors
/// An unknown mistake, or an address that cannot be listened on.
pub async fn main(args: Args) -> Result<ExitCode, String> {
    if args.list {
        for wrong in WRONGS {
            // A closed pipe is no fault.
            let _ = writeln!(stdout(), "{:<36} {}", wrong.name, wrong.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let name = args.name.unwrap_or_default();
    let wrong = find(&name).ok_or_else(|| format!("no mistake {name:?}; see --list"))?;
    server_test::run(args.addr, Options::parse([])?, Some(wrong)).await
}
