//! Two hosts with a cable between them: network namespaces, each with one end of a veth pair.

use std::{
    io,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// The hosts' addresses.
pub(crate) const SERVER: &str = "10.177.0.1";
const CLIENT: &str = "10.177.0.2";
/// An unused address on the cable.
const NOBODY: &str = "02:00:00:00:00:99";

/// Distinguishes the networks of this process.
static LAID: AtomicU32 = AtomicU32::new(0);

/// The hosts. They are removed when this is dropped.
pub(crate) struct Network {
    server: String,
    client: String,
}

impl Network {
    /// # Errors
    /// Networks cannot be created here: rights, namespaces or the program `ip` are missing.
    pub(crate) fn new() -> io::Result<Self> {
        let name = format!("bw{}-{}", std::process::id(), LAID.fetch_add(1, Ordering::Relaxed));
        let network = Self { server: format!("{name}s"), client: format!("{name}c") };
        let Self { server, client } = &network;
        ip(&format!("netns add {server}"))?;
        ip(&format!("netns add {client}"))?;
        ip(&format!("link add eth netns {server} type veth peer name eth netns {client}"))?;
        for (host, address) in [(server, SERVER), (client, CLIENT)] {
            ip(&format!("-n {host} addr add {address}/24 dev eth"))?;
            ip(&format!("-n {host} link set lo up"))?;
            ip(&format!("-n {host} link set eth up"))?;
        }
        Ok(network)
    }

    /// The server's host.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// The client's host.
    pub(crate) fn client(&self) -> &str {
        &self.client
    }

    /// From now on each host's packets to the other are lost, and neither host notices it.
    pub(crate) fn swallow(&self) -> io::Result<()> {
        self.each_way(|to| format!("neigh replace {to} lladdr {NOBODY} dev eth nud permanent"))
    }

    /// Lets packets pass again.
    pub(crate) fn deliver(&self) -> io::Result<()> {
        self.each_way(|to| format!("neigh del {to} dev eth"))
    }

    fn each_way(&self, command: impl Fn(&str) -> String) -> io::Result<()> {
        ip(&format!("-n {} {}", self.server, command(CLIENT)))?;
        ip(&format!("-n {} {}", self.client, command(SERVER)))
    }

    /// Unplugs the cable at the server's host.
    pub(crate) fn unplug(&self) -> io::Result<()> {
        ip(&format!("-n {} link set eth down", self.server))
    }

    /// Plugs the cable in again.
    pub(crate) fn plug(&self) -> io::Result<()> {
        ip(&format!("-n {} link set eth up", self.server))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in [&self.server, &self.client] {
            // The namespace may never have been created.
            let _ = ip(&format!("netns del {host}"));
        }
    }
}

/// Runs `ip` with these arguments.
fn ip(words: &str) -> io::Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output();
    let output = output.map_err(|error| io::Error::new(error.kind(), format!("ip: {error}")))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(format!("ip {words}: {}", said.trim())))
        }
    }
}
