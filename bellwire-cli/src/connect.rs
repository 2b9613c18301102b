//! The client of a command.

use std::time::Duration;

use bellwire::{
    Client, ClientBuilder, ClientConfig, Connector, UnixConnector, server::TokenAuthenticator,
    ws::WsConnector,
};

use crate::{
    context::Context,
    failed::Failed,
    target::Target,
    tls,
    transport::{Transport, UNIX},
};

/// How long the end of a command waits for the server to finish.
const CLOSE: Duration = Duration::from_secs(3);

impl Target {
    /// Connects a client that reconnects.
    pub(crate) async fn connect(&self, config: ClientConfig) -> Result<Client, Failed> {
        self.connect_as(config, true).await
    }

    /// Connects a client that `reconnects` or not.
    pub(crate) async fn connect_as(
        &self,
        config: ClientConfig,
        reconnects: bool,
    ) -> Result<Client, Failed> {
        let mut config = config.connect_timeout(self.connect_timeout).close_timeout(CLOSE);
        if let Some(token) = &self.token {
            config = config.auth(TokenAuthenticator::SCHEME, token.clone());
        }
        let builder = Client::builder().config(config).reconnect(reconnects);
        let settings = &self.settings;
        match settings.transport() {
            Transport::Unix => {
                let paths = settings.addr.iter().filter_map(|address| address.strip_prefix(UNIX));
                let builder = builder.connector(UnixConnector::default()).addresses(paths);
                self.finish(builder).await
            }
            Transport::WebSocket { .. } => {
                let builder = builder.connector(web_sockets(settings)?);
                self.finish(builder.addresses(&settings.addr)).await
            }
            Transport::Tcp if settings.tls => {
                let (name, tls) = tls::of_client(settings)?;
                self.finish(builder.addresses(&settings.addr).tls(name, tls)).await
            }
            Transport::Tcp => self.finish(builder.addresses(&settings.addr)).await,
        }
    }

    async fn finish<C: Connector>(&self, builder: ClientBuilder<C>) -> Result<Client, Failed> {
        builder.connect().await.map_err(|error| Failed::connecting(&error, self))
    }
}

/// Connects to the addresses with `ws://` and `wss://`.
pub(crate) fn web_sockets(settings: &Context) -> Result<WsConnector, Failed> {
    match settings.transport() {
        Transport::WebSocket { is_tls: true } => Ok(WsConnector::new().tls(tls::config(settings)?)),
        _ => Ok(WsConnector::new()),
    }
}
