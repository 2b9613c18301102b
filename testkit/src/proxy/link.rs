//! The commands to one connection, and the task that they wake.

use std::{
    sync::Mutex,
    task::{Context, Waker},
};

use super::plan::Fate;

/// Commands one connection, from anywhere.
#[derive(Default)]
pub struct Link(Mutex<State>);

#[derive(Default)]
struct State {
    commands: Commands,
    connection: Option<Waker>,
}

/// The commands in effect.
#[derive(Clone, Copy, Default)]
pub(super) struct Commands {
    pub(super) fate: Option<Fate>,
    pub(super) is_stalled: bool,
}

impl Link {
    pub fn cut(&self) {
        self.command(|commands| commands.fate = Some(Fate::Reset));
    }

    pub fn close(&self) {
        self.command(|commands| commands.fate = Some(Fate::Close));
    }

    pub fn black_hole(&self) {
        self.command(|commands| commands.fate = Some(Fate::Dark));
    }

    pub fn stall(&self) {
        self.command(|commands| commands.is_stalled = true);
    }

    pub fn go_on(&self) {
        self.command(|commands| commands.is_stalled = false);
    }

    /// The commands in effect. The next command wakes the connection.
    pub(super) fn look(&self, cx: &Context<'_>) -> Commands {
        let mut state = self.0.lock().unwrap();
        state.connection = Some(cx.waker().clone());
        state.commands
    }

    fn command(&self, change: impl FnOnce(&mut Commands)) {
        let mut state = self.0.lock().unwrap();
        change(&mut state.commands);
        let connection = state.connection.take();
        drop(state);
        if let Some(connection) = connection {
            connection.wake();
        }
    }
}
