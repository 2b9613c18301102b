//! The scripts of keyed requests, for the table of keys in Redis.

use std::time::Duration;

use ::redis::Cmd;

use super::{
    RedisTopics,
    command::Command,
    connection::{Connection, Script, millis, unexpected},
    error::Failure,
};
use crate::{protocol::Epoch, sync::Arc, topic::Unavailable};

/// The scripts, and what is the same in all their calls.
pub(crate) struct KeyScripts {
    pub(crate) topics: RedisTopics,
    /// The time, if it is not that of Redis.
    pub(crate) now: Option<Arc<dyn Fn() -> Duration + Send + Sync>>,
    /// For how long outcomes are kept.
    pub(crate) kept: Duration,
    /// How long a server counts as alive after it has said so.
    pub(crate) alive: Duration,
}

/// A keyed request that begins. Of these texts, none has a space.
pub(crate) struct KeyBegin {
    /// The identity of the table that the client was told.
    pub(crate) told: Option<Epoch>,
    /// The key, with its principal.
    pub(crate) key: String,
    /// `SERVER.N`, of this run only.
    pub(crate) token: String,
    pub(crate) owner: String,
    pub(crate) method: String,
    pub(crate) digest: u128,
    /// What the entry takes at most, and what it takes without an outcome.
    pub(crate) bytes: usize,
    pub(crate) rest: usize,
    /// The limits of the table.
    pub(crate) entries: usize,
    pub(crate) bytes_total: usize,
}

/// What the table says of a key.
#[derive(Debug)]
pub(crate) enum KeyState {
    /// It was entered.
    Entered,
    /// It has a run under this token, at a server that is alive.
    Running(String),
    Ended(Vec<u8>),
    /// It does not have this run.
    Gone,
    Mismatch,
    Full,
    /// The table is another one than the client was told.
    OtherStore,
    /// The server of the token counts as dead.
    Dead,
}

/// Why a key could not be looked up.
pub(crate) struct NotBegun {
    /// It may have been entered all the same.
    pub(crate) may_be_there: bool,
    pub(crate) why: String,
}

/// What a server learns when it says that it is alive.
pub(crate) struct Beat {
    pub(crate) store: Epoch,
    /// It still counted as alive.
    pub(crate) is_alive: bool,
    /// Another one that does not.
    pub(crate) dead: Option<String>,
}

impl KeyScripts {
    /// Looks a key up, and enters it if it is new.
    pub(crate) async fn begin(&self, begin: &KeyBegin) -> Result<(Epoch, KeyState), NotBegun> {
        let begin = |connection: Connection| async move {
            let mut command = self.command(&connection, Script::KeyBegin);
            command.arg(begin.told.as_ref().map_or("", Epoch::as_str)).arg(&begin.key);
            command.arg(&begin.token).arg(&begin.owner).arg(&begin.method);
            command.arg(format!("{:032x}", begin.digest)).arg(begin.bytes).arg(begin.rest);
            command.arg(begin.entries).arg(begin.bytes_total).arg(millis(self.kept));
            state(connection.run(command).await?)
        };
        self.attempt(begin).await.map_err(|failure| NotBegun {
            may_be_there: matches!(failure, Failure::Lost(_) | Failure::Failed(_)),
            why: failure.why().into(),
        })
    }

    /// Says how a run ended, once there is a connection.
    pub(crate) async fn look(
        &self,
        key: &str,
        token: &str,
    ) -> Result<(Epoch, KeyState), Unavailable> {
        let look = |connection: Connection| async move {
            let mut command = self.command(&connection, Script::KeyLook);
            command.arg(key).arg(token).arg(millis(self.kept));
            state(connection.run(command).await?)
        };
        self.topics.0.tail.archive.link.read(look).await
    }

    /// Ends a run, once there is a connection; without an outcome, the key is new again. `bytes` is
    /// what the outcome takes. Returns whether the table knew the run.
    pub(crate) async fn end(
        &self,
        key: &str,
        token: &str,
        outcome: &[u8],
        bytes: usize,
    ) -> Result<bool, Unavailable> {
        let end = |connection: Connection| async move {
            let mut command = self.command(&connection, Script::KeyEnd);
            command.arg(key).arg(token).arg(outcome).arg(bytes).arg(millis(self.kept));
            let (_, answer): (String, String) = connection.run(command).await?;
            Ok(answer == "done")
        };
        self.topics.0.tail.archive.link.read(end).await
    }

    /// Says that a server is alive. If that fails, it may have been said.
    pub(crate) async fn beat(&self, server: Epoch, is_new: bool) -> Result<Beat, Unavailable> {
        let beat = |connection: Connection| async move {
            let mut command = self.command(&connection, Script::KeyBeat);
            command.arg(server.as_str()).arg(millis(self.alive)).arg(u8::from(is_new));
            let (store, state, dead): (String, String, String) = connection.run(command).await?;
            let dead = Some(dead).filter(|dead| !dead.is_empty());
            Ok(Beat { store: epoch(&store)?, is_alive: state == "alive", dead })
        };
        self.attempt(beat).await.map_err(unavailable)
    }

    /// Ends the runs of a dead server.
    pub(crate) async fn bury(&self, server: &str) -> Result<(), Unavailable> {
        let mut at = "0".to_owned();
        loop {
            let from = at.as_str();
            let bury = |connection: Connection| async move {
                let mut command = self.command(&connection, Script::KeyBury);
                command.arg(server).arg(from).arg(millis(self.kept));
                let (_, next): (String, String) = connection.run(command).await?;
                Ok(next)
            };
            at = self.attempt(bury).await.map_err(unavailable)?;
            if at == "0" {
                return Ok(());
            }
        }
    }

    /// Uses the current connection, once.
    async fn attempt<T, F>(&self, with: impl FnOnce(Connection) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let link = &self.topics.0.tail.archive.link;
        let connection = link.connection();
        let refused = |Unavailable(why)| Failure::Refused { why, moved: false };
        with(connection.map_err(refused)?).await.inspect_err(|failure| {
            if failure.ends_connection() {
                // If the store was closed, the next attempt says so.
                let _ = link.send(Command::Check);
            }
        })
    }

    fn command(&self, connection: &Connection, script: Script) -> Cmd {
        let mut command = connection.key_command(script);
        match &self.now {
            Some(now) => command.arg(millis(now())),
            None => command.arg(""),
        };
        command
    }
}

fn state(answer: Vec<Vec<u8>>) -> Result<(Epoch, KeyState), Failure> {
    let mut words = answer.into_iter();
    let mut next = || words.next().unwrap_or_default();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (store, word) = (text(next()), text(next()));
    let state = match word.as_str() {
        "run" => KeyState::Entered,
        "running" => KeyState::Running(text(next())),
        "end" => KeyState::Ended(next()),
        "gone" => KeyState::Gone,
        "mismatch" => KeyState::Mismatch,
        "full" => KeyState::Full,
        "moved" => KeyState::OtherStore,
        "dead" => KeyState::Dead,
        _ => return Err(unexpected(&word)),
    };
    Ok((epoch(&store)?, state))
}

fn unavailable(failure: Failure) -> Unavailable {
    Unavailable(failure.why().into())
}

fn epoch(store: &str) -> Result<Epoch, Failure> {
    Epoch::new(store).ok_or_else(|| unexpected(store))
}
