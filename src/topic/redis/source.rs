//! Where the master is.

use std::time::Duration;

use ::redis::{Client, ConnectionAddr, IntoConnectionInfo, RedisError, cmd};
use tokio::time::timeout;

use super::config::RedisConfig;

/// Leads to the master: by its address, or by sentinels that know it.
pub(super) struct Source {
    client: Client,
    sentinels: Vec<Client>,
    /// The name that the sentinels have for the master.
    name: String,
    config: RedisConfig,
}

impl Source {
    /// Fails if an URL is invalid.
    pub(super) fn new(url: &str, config: &RedisConfig) -> Result<Self, RedisError> {
        let (urls, name) = config.sentinels.clone();
        let sentinels = urls.iter().map(|url| client(url.as_str(), config));
        let sentinels = sentinels.collect::<Result<_, _>>()?;
        Ok(Self { client: client(url, config)?, sentinels, name, config: config.clone() })
    }

    /// The server to connect to, as far as it is known. `within` bounds the question to each
    /// sentinel.
    pub(super) async fn master(&self, within: Duration) -> Result<Client, String> {
        let mut why = None;
        for sentinel in &self.sentinels {
            match timeout(within, ask(sentinel, &self.name)).await {
                Ok(Ok(Some((host, port)))) => {
                    let info = self.client.get_connection_info();
                    let info = info.clone().set_addr(moved(info.addr(), host, port));
                    return client(info, &self.config).map_err(|error| error.to_string());
                }
                Ok(Ok(None)) => why = Some(format!("no sentinel knows {}", self.name)),
                Ok(Err(error)) => why = Some(error.to_string()),
                Err(_) => why = Some("a sentinel does not answer".into()),
            }
        }
        why.map_or_else(|| Ok(self.client.clone()), Err)
    }
}

async fn ask(sentinel: &Client, name: &str) -> Result<Option<(String, u16)>, RedisError> {
    let mut connection = sentinel.get_multiplexed_async_connection().await?;
    cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name).query_async(&mut connection).await
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
