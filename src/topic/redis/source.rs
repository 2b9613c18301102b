//! Where the master is.

use std::time::Duration;

use ::redis::{Client, ConnectionAddr, IntoConnectionInfo, RedisError, cmd};
use tokio::time::timeout;

use super::{
    config::{RedisConfig, Way},
    names::Names,
};

/// Leads to the master: by its address, or by servers that know it.
pub(super) struct Source {
    client: Client,
    guides: Vec<Client>,
    question: Question,
    config: RedisConfig,
}

/// What the servers that know the master are asked.
enum Question {
    /// A sentinel: where the master with this name is.
    Name(String),
    /// A node of a cluster: where the master of this key is.
    Key(String),
}

/// A host and a port.
type Address = (String, u16);

impl Source {
    /// Fails if an URL is invalid.
    pub(super) fn new(url: &str, config: &RedisConfig) -> Result<Self, RedisError> {
        let heads = || Question::Key(Names::new(&config.prefix).heads());
        let (urls, question) = match &config.way {
            Way::Url => (&[][..], heads()),
            Way::Sentinels(urls, name) => (&urls[..], Question::Name(name.clone())),
            Way::Cluster(urls) => (&urls[..], heads()),
        };
        let guides = urls.iter().map(|url| client(url.as_str(), config));
        let guides = guides.collect::<Result<_, _>>()?;
        Ok(Self { client: client(url, config)?, guides, question, config: config.clone() })
    }

    /// The server to connect to, as far as it is known. `within` bounds each question.
    pub(super) async fn master(&self, within: Duration) -> Result<Client, String> {
        let mut why = None;
        for guide in &self.guides {
            match timeout(within, self.question.ask(guide)).await {
                Ok(Ok(Some((host, port)))) => {
                    let info = self.client.get_connection_info();
                    let info = info.clone().set_addr(moved(info.addr(), host, port));
                    return client(info, &self.config).map_err(|error| error.to_string());
                }
                Ok(Ok(None)) => why = Some(self.question.unknown()),
                Ok(Err(error)) => why = Some(error.to_string()),
                Err(_) => {
                    why = Some(format!("{} does not answer", guide.get_connection_info().addr()));
                }
            }
        }
        why.map_or_else(|| Ok(self.client.clone()), Err)
    }
}

impl Question {
    async fn ask(&self, guide: &Client) -> Result<Option<Address>, RedisError> {
        let mut connection = guide.get_multiplexed_async_connection().await?;
        let key = match self {
            Self::Name(name) => {
                let mut ask = cmd("SENTINEL");
                ask.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
                return ask.query_async(&mut connection).await;
            }
            Self::Key(key) => key,
        };
        let mut ask = cmd("HGET");
        match ask.arg(key).arg("").exec_async(&mut connection).await {
            Ok(()) => Ok(address(guide)),
            Err(error) => match error.redirect_node() {
                Some((to, _)) => Ok(redirected(guide, to)),
                None => Err(error),
            },
        }
    }

    /// Why there is no master.
    fn unknown(&self) -> String {
        match self {
            Self::Name(name) => format!("no sentinel knows {name}"),
            Self::Key(key) => format!("no node of the cluster knows the master of {key}"),
        }
    }
}

/// Where a server is; `None` if it has a Unix socket.
fn address(server: &Client) -> Option<Address> {
    match server.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Some((host.clone(), *port))
        }
        _ => None,
    }
}

/// Where a redirection leads: `HOST:PORT`. A node that does not know its own name leaves the host
/// out, or says `?`: then it is the host that was asked.
fn redirected(guide: &Client, to: &str) -> Option<Address> {
    let (host, port) = to.rsplit_once(':')?;
    let host = match host {
        "" | "?" => address(guide)?.0,
        host => host.to_owned(),
    };
    Some((host, port.parse().ok()?))
}

/// The same kind of address, on another machine.
fn moved(addr: &ConnectionAddr, host: String, port: u16) -> ConnectionAddr {
    match addr.clone() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure, tls_params }
        }
        _ => ConnectionAddr::Tcp(host, port),
    }
}

#[cfg(not(feature = "tls"))]
fn client(info: impl IntoConnectionInfo, _: &RedisConfig) -> Result<Client, RedisError> {
    Client::open(info)
}

#[cfg(feature = "tls")]
fn client(info: impl IntoConnectionInfo, config: &RedisConfig) -> Result<Client, RedisError> {
    use ::redis::{ClientTlsConfig, TlsCertificates};
    use tokio_rustls::rustls::crypto::{CryptoProvider, ring};

    let info = info.into_connection_info()?;
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        return Client::open(info);
    }
    if CryptoProvider::get_default().is_none() {
        // Another thread may have been first.
        let _ = ring::default_provider().install_default();
    }
    let identity = config.identity.clone();
    let client_tls =
        identity.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    let root_cert = config.roots.clone();
    Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_lead_to_a_host_and_a_port() {
        let guide = Client::open("redis://10.0.0.1:7000").unwrap();
        for (to, host) in
            [("10.0.0.2:7001", "10.0.0.2"), (":7001", "10.0.0.1"), ("?:7001", "10.0.0.1")]
        {
            assert_eq!(redirected(&guide, to), Some((host.to_owned(), 7001)), "{to}");
        }
        assert_eq!(redirected(&guide, "2001:db8::1:7001").unwrap().0, "2001:db8::1");
        for bad in ["", "10.0.0.2", "10.0.0.2:x", ":99999"] {
            assert_eq!(redirected(&guide, bad), None, "{bad}");
        }
    }
}
