//! The entries of a table, in memory.
//!
//! A durable table loads its entries at the start, and writes each change before others see it.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::{
    server::keys::{
        Begun, KeyId, KeyedOutcome, KeyedRequest, KeysUnavailable, config::Bounds, shares::Shares,
    },
    sync::{Arc, oneshot},
};

/// The memory of an entry besides its names and its outcome, rounded up.
const ENTRY: usize = 320;

#[derive(Default)]
pub(super) struct Table {
    entries: HashMap<Arc<KeyId>, Entry>,
    /// The ended runs and when their time is over, the earliest first. (If the window has become
    /// shorter since a durable table was last used, some stay longer.)
    ended: VecDeque<(Duration, Arc<KeyId>)>,
    /// A run in progress counts with the largest outcome that it can have.
    shares: Shares,
    /// The number of the last entry.
    last: u64,
}

struct Entry {
    request: KeyedRequest,
    state: State,
    bytes: usize,
    number: u64,
}

enum State {
    /// With the servers that wait for the outcome.
    Running(Waiting),
    Ended(KeyedOutcome),
}

/// Servers that wait for an outcome.
pub(super) type Waiting = Vec<oneshot::Sender<KeyedOutcome>>;

/// What a table knows of a key.
pub(super) enum Found {
    /// Nothing. It was entered, with a run in progress, under this number.
    New(#[cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "for the file"))] u64),
    Known(Begun),
}

impl Table {
    /// Looks a key up, and enters it if it is new.
    pub(super) fn look_up(&mut self, request: &KeyedRequest, bounds: Bounds) -> Found {
        if let Some(entry) = self.entries.get_mut(request.id()) {
            return Found::Known(entry.begun(request));
        }
        let bytes = size(request, request.max_outcome());
        if !self.shares.has_room(request.owner(), bytes, bounds) {
            return Found::Known(Begun::Full);
        }
        self.last += 1;
        self.enter(request, State::Running(Vec::new()), bytes, self.last);
        Found::New(self.last)
    }

    /// Enters a run that has ended, whether or not there is room. Those whose time is over earlier
    /// have to be entered first.
    #[cfg(feature = "sqlite")]
    pub(super) fn restore(
        &mut self,
        request: &KeyedRequest,
        outcome: KeyedOutcome,
        until: Duration,
        number: u64,
    ) {
        self.last = self.last.max(number);
        let bytes = size(request, outcome.bytes());
        self.enter(request, State::Ended(outcome), bytes, number);
        self.ended.push_back((until, request.id().clone()));
    }

    fn enter(&mut self, request: &KeyedRequest, state: State, bytes: usize, number: u64) {
        self.shares.add(request.owner(), bytes);
        let entry = Entry { request: request.clone(), state, bytes, number };
        self.entries.insert(request.id().clone(), entry);
    }

    /// Stores the outcome of a run in progress. Returns the servers that wait for it.
    pub(super) fn end(
        &mut self,
        request: &KeyedRequest,
        outcome: &KeyedOutcome,
        until: Duration,
    ) -> Waiting {
        let Some(entry) = self.entries.get_mut(request.id()) else { return Vec::new() };
        let State::Running(waiting) = &mut entry.state else { return Vec::new() };
        let waiting = std::mem::take(waiting);
        let bytes = size(&entry.request, outcome.bytes());
        self.shares.resize(entry.request.owner(), entry.bytes, bytes);
        entry.bytes = bytes;
        entry.state = State::Ended(outcome.clone());
        self.ended.push_back((until, request.id().clone()));
        waiting
    }

    /// Removes a run in progress. Dropping what is returned tells the servers that wait for it.
    pub(super) fn forget(&mut self, request: &KeyedRequest) -> Option<(u64, Waiting)> {
        let entry = self.entries.get(request.id())?;
        let State::Running(_) = entry.state else { return None };
        let entry = self.remove(request.id())?;
        let State::Running(waiting) = entry.state else { return None };
        Some((entry.number, waiting))
    }

    /// The number of a run in progress.
    #[cfg(feature = "sqlite")]
    pub(super) fn running(&self, request: &KeyedRequest) -> Option<u64> {
        let entry = self.entries.get(request.id())?;
        matches!(entry.state, State::Running(_)).then_some(entry.number)
    }

    /// Removes the entries whose time is over. Returns their numbers.
    pub(super) fn expire(&mut self, now: Duration) -> Vec<u64> {
        let mut expired = Vec::new();
        while self.ended.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, id)) = self.ended.pop_front() else { break };
            expired.extend(self.remove(&id).map(|entry| entry.number));
        }
        expired
    }

    fn remove(&mut self, id: &Arc<KeyId>) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        self.shares.remove(entry.request.owner(), entry.bytes);
        if self.entries.is_empty() {
            (self.entries, self.ended) = Default::default();
        }
        Some(entry)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The bytes of all entries.
    pub(super) fn bytes(&self) -> usize {
        self.shares.bytes()
    }
}

impl Entry {
    fn begun(&mut self, request: &KeyedRequest) -> Begun {
        match &mut self.state {
            _ if !self.request.is_same(request) => Begun::Mismatch,
            State::Ended(outcome) => Begun::Done(outcome.clone()),
            State::Running(waiting) => {
                let (sender, receiver) = oneshot::channel();
                // Servers whose callers have gone wait no longer.
                waiting.retain(|sender| !sender.is_closed());
                waiting.push(sender);
                Begun::Joined(Box::pin(async {
                    let forgotten = |_| KeysUnavailable("the run was not started".into());
                    receiver.await.map_err(forgotten)
                }))
            }
        }
    }
}

/// What an entry counts for, with an outcome of so many bytes.
pub(super) fn size(request: &KeyedRequest, outcome: usize) -> usize {
    let principal = request.principal().map_or(0, str::len);
    ENTRY + principal + request.key().len() + request.method().len() + outcome
}
