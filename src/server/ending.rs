//! The end of a connection, for tasks that wait for it.

use std::pin::pin;

use tokio::sync::Notify;

use crate::sync::{Arc, Mutex};

/// How far a connection has ended, and the tasks that wait for it.
#[derive(Debug, Default)]
pub(super) struct Ending(Mutex<EndingState>);

#[derive(Debug, Default)]
struct EndingState {
    is_stopping: bool,
    is_closed: bool,
    /// Created for the first waiter, because most connections have none.
    changed: Option<Arc<Notify>>,
}

impl Ending {
    /// The connection was told to end.
    pub(super) fn stop(&self) {
        self.change(|stage| !std::mem::replace(&mut stage.is_stopping, true));
    }

    /// The connection has closed.
    pub(super) fn close(&self) {
        self.change(|stage| {
            stage.is_stopping = true;
            !std::mem::replace(&mut stage.is_closed, true)
        });
    }

    fn change(&self, change: impl FnOnce(&mut EndingState) -> bool) {
        let mut stage = self.0.lock();
        let changed = change(&mut stage).then(|| stage.changed.clone()).flatten();
        drop(stage);
        changed.inspect(|changed| changed.notify_waiters());
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.0.lock().is_stopping
    }

    pub(super) async fn stopping(&self) {
        self.wait(|stage| stage.is_stopping).await;
    }

    pub(super) async fn closed(&self) {
        self.wait(|stage| stage.is_closed).await;
    }

    async fn wait(&self, is_there: impl Fn(&EndingState) -> bool) {
        let changed = self.0.lock().changed.get_or_insert_default().clone();
        loop {
            let mut next = pin!(changed.notified());
            next.as_mut().enable();
            if is_there(&self.0.lock()) {
                return;
            }
            next.await;
        }
    }
}
