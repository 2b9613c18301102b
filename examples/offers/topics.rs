//! Where the messages of the topics and the keys of requests are kept: in memory, or in the file of
//! `--store`.

use std::path::PathBuf;

use bellwire::{Server, server::Listener};

#[cfg(feature = "sqlite")]
use bellwire::{
    server::keys::{KeysConfig, SqliteKeys},
    topic::sqlite::{OpenError, SqliteConfig, SqliteTopics},
};

/// The file of `--store`, if there is one.
pub(crate) struct Topics {
    #[cfg(feature = "sqlite")]
    file: Option<(SqliteTopics, SqliteKeys)>,
}

#[cfg(feature = "sqlite")]
impl Topics {
    pub(crate) async fn open(path: Option<PathBuf>, retain: u32) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self { file: None }) };
        let config = SqliteConfig::new().retained_messages(retain.into());
        let opened = async {
            let topics = SqliteTopics::open_with(&path, config).await?;
            let keys = SqliteKeys::open(&topics, KeysConfig::new()).await?;
            Ok::<_, OpenError>((topics, keys))
        };
        let file = opened.await.map_err(|error| format!("--store {}: {error}", path.display()))?;
        Ok(Self { file: Some(file) })
    }

    pub(crate) fn of<L: Listener>(&self, server: Server<L>) -> Server<L> {
        match &self.file {
            Some((topics, keys)) => server.topics(topics.clone()).keys(keys.clone()),
            None => server,
        }
    }

    /// Closes the file in order. Without that nothing is lost, either.
    pub(crate) async fn close(self) -> Result<(), String> {
        match self.file {
            Some((topics, _)) => topics.shutdown().await.map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }
}

#[cfg(not(feature = "sqlite"))]
impl Topics {
    pub(crate) async fn open(path: Option<PathBuf>, _retain: u32) -> Result<Self, String> {
        match path {
            Some(_) => Err("--store needs SQLite: run it with `--features sqlite`".into()),
            None => Ok(Self {}),
        }
    }

    pub(crate) fn of<L: Listener>(&self, server: Server<L>) -> Server<L> {
        server
    }

    pub(crate) async fn close(self) -> Result<(), String> {
        Ok(())
    }
}
