//! The way to the current connection, for tasks that read. They outlast the loss of a connection.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{command::Command, connection::Connection, error::Failure};
use crate::topic::Unavailable;

/// How long a read that was refused waits before it is repeated. A refusal is not over at once.
const RETRY: Duration = Duration::from_millis(200);

/// Whether there is a connection.
pub(super) enum State {
    Up(Connection),
    /// There is none, for this reason. The writer is connecting.
    Down(String),
    /// The store was closed.
    Closed,
}

/// The current connection. The task that writes replaces it.
pub(super) struct Link {
    pub(super) state: watch::Sender<State>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
}

impl Link {
    /// Whether there is a connection.
    pub(super) fn check(&self) -> Result<(), Unavailable> {
        match &*self.state.borrow() {
            State::Up(_) => Ok(()),
            State::Down(why) => Err(down(why)),
            State::Closed => Err(ended()),
        }
    }

    /// The current connection.
    pub(super) fn connection(&self) -> Result<Connection, Unavailable> {
        match &*self.state.borrow() {
            State::Up(connection) => Ok(connection.clone()),
            State::Down(why) => Err(down(why)),
            State::Closed => Err(ended()),
        }
    }

    /// Gives a command to the writer.
    pub(super) fn send(&self, command: Command) -> Result<(), Unavailable> {
        self.commands.send(command).map_err(|_| ended())
    }

    /// Reads, once there is a connection, and again if that is lost.
    pub(super) async fn read<T, F>(&self, read: impl Fn(Connection) -> F) -> Result<T, Unavailable>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut state = self.state.subscribe();
        loop {
            match read(connection(&mut state).await?).await {
                Ok(done) => return Ok(done),
                Err(Failure::Failed(why)) => return Err(Unavailable(why)),
                Err(failure) if failure.ends_connection() => {
                    // The writer answers by a new state.
                    self.send(Command::Check)?;
                    state.changed().await.map_err(|_| ended())?;
                }
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    /// Waits until the store is closed.
    pub(super) async fn closed(&self) {
        let mut state = self.state.subscribe();
        // The sender is in `self`, so this does not fail.
        let _ = state.wait_for(|state| matches!(state, State::Closed)).await;
    }
}

async fn connection(state: &mut watch::Receiver<State>) -> Result<Connection, Unavailable> {
    let state = state.wait_for(|state| !matches!(state, State::Down(_))).await;
    match state.as_deref() {
        Ok(State::Up(connection)) => Ok(connection.clone()),
        _ => Err(ended()),
    }
}

fn down(why: &str) -> Unavailable {
    Unavailable(format!("no connection to Redis: {why}"))
}

pub(super) fn ended() -> Unavailable {
    Unavailable("the store was closed".into())
}
