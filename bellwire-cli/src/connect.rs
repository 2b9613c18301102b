//! The client of a command.

use std::time::Duration;

use bellwire::{
    Client, ClientBuilder, ClientConfig, Connector, UnixConnector, server::TokenAuthenticator,
};

use crate::{
    failed::Failed,
    target::{Target, UNIX},
    tls,
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
        let addresses = &self.settings.addr;
        let paths = addresses.iter().filter_map(|address| address.strip_prefix(UNIX));
        if paths.clone().next().is_some() {
            let builder = builder.connector(UnixConnector::default()).addresses(paths);
            return self.finish(builder).await;
        }
        let builder = builder.addresses(addresses);
        if !self.settings.tls {
            return self.finish(builder).await;
        }
        let (name, tls) = tls::of_client(&self.settings)?;
        self.finish(builder.tls(name, tls)).await
    }

    async fn finish<C: Connector>(&self, builder: ClientBuilder<C>) -> Result<Client, Failed> {
        builder.connect().await.map_err(|error| Failed::connecting(&error, &self.place))
    }
}
