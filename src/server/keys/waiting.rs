//! A request that waits for the run of its key.

use std::task::{Context, Poll};

use crate::{
    server::{
        handlers::{reply::Ended, running::Run},
        keys::runs::SharedRun,
    },
    sync::Arc,
};

/// A keyed request, in its place in flight. Dropping it leaves the run as it is.
pub(in crate::server) struct KeyedCall {
    run: Arc<SharedRun>,
    ticket: Option<u64>,
}

impl KeyedCall {
    pub(super) fn new(run: Arc<SharedRun>) -> Self {
        Self { run, ticket: None }
    }
}

impl Run for KeyedCall {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let polled = self.run.poll(&mut self.ticket, cx);
        polled.map(|verdict| {
            self.ticket = None;
            verdict.into_ended()
        })
    }

    fn abort(&mut self) -> bool {
        false
    }
}

impl Drop for KeyedCall {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.run.leave(ticket);
        }
    }
}
