//! The keyed runs in progress of a server, and who waits for them.

#![cfg_attr(
    not(feature = "unstable-core"),
    allow(unreachable_pub, reason = "`DetachedRun` is public with that feature")
)]

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    task::{Context, Poll, Waker},
};

use crate::{
    guard::{guarded, wake},
    protocol::{Code, Epoch, KeyWindow, Time},
    server::{
        config::ServerConfig,
        handlers::reply::{Ended, Rejection},
        keys::{KeyId, KeyTable, KeyedOutcome, KeyedRequest, config::Bounds, shares::Shares},
    },
    sync::{Arc, Mutex},
};

/// The memory of a run besides its line and its handler.
const RUN: usize = 1_024;

/// What a server needs for keyed requests: the table, and the runs in progress.
pub(in crate::server) struct Keyed {
    table: Arc<dyn KeyTable>,
    /// Drives a run that did not end at once.
    spawn: Box<dyn Fn(DetachedRun) + Send + Sync>,
    /// How many runs may be in progress, and how many bytes their requests may have.
    bounds: Bounds,
    runs: Mutex<Runs>,
    announced: Mutex<Announced>,
}

/// The identities of the table that connections were told, the latest last. Each has a number, which
/// takes less room in a session.
#[derive(Default)]
struct Announced {
    stores: VecDeque<Epoch>,
    /// The number of the latest one.
    last: u32,
}

/// How many of them are known. A connection that was told an older one counts as told the oldest of
/// these. The table no longer has that identity.
const KNOWN: usize = 16;

impl Bounds {
    pub(in crate::server) fn of_runs(config: &ServerConfig) -> Self {
        Self { entries: config.keyed_runs, bytes: config.keys_bytes }
    }
}

#[derive(Default)]
struct Runs {
    by_id: HashMap<Arc<KeyId>, Arc<SharedRun>>,
    shares: Shares,
}

/// A run in progress, shared with the requests that wait for it.
pub(in crate::server) struct SharedRun {
    request: KeyedRequest,
    /// The bytes of its line.
    bytes: usize,
    state: Mutex<RunState>,
}

#[derive(Default)]
struct RunState {
    verdict: Option<Verdict>,
    /// The requests that wait, each under its ticket.
    waiting: Vec<(u64, Waker)>,
    last: u64,
}

/// What the requests of a key are answered.
#[derive(Clone)]
pub(in crate::server) enum Verdict {
    Kept(KeyedOutcome),
    /// The handler was not started, so nothing is kept.
    Refused(Rejection),
}

/// The run that a request belongs to.
pub(in crate::server) enum Entered {
    /// The request is the first with its key, and begins the run.
    New(Arc<SharedRun>),
    Joined(Arc<SharedRun>),
}

impl Keyed {
    pub(in crate::server) fn new(
        table: Arc<dyn KeyTable>,
        bounds: Bounds,
        spawn: impl Fn(DetachedRun) + Send + Sync + 'static,
    ) -> Self {
        Self {
            table,
            spawn: Box::new(spawn),
            bounds,
            runs: Mutex::default(),
            announced: Mutex::default(),
        }
    }

    pub(in crate::server) fn table(&self) -> &Arc<dyn KeyTable> {
        &self.table
    }

    /// What `/hello` announces, and the number of that table. A table that panics announces nothing.
    pub(in crate::server) fn announce(&self) -> Option<(KeyWindow, u32)> {
        let window = guarded(|| self.table.window()).flatten()?;
        let mut announced = self.announced.lock();
        if announced.stores.back() != Some(&window.store) {
            announced.stores.push_back(window.store);
            announced.last = announced.last.saturating_add(1);
        }
        if announced.stores.len() > KNOWN {
            announced.stores.pop_front();
        }
        Some((window, announced.last))
    }

    /// The table that a connection was told by this number; `None` if it was told of none.
    pub(in crate::server) fn announced(&self, number: u32) -> Option<Epoch> {
        if number == 0 {
            return None;
        }
        let Announced { stores, last } = &*self.announced.lock();
        let age = (last - number) as usize;
        stores.iter().rev().nth(age).or(stores.front()).copied()
    }

    /// Finds the run of a request that is in progress, or enters a new one. `bytes` is the length
    /// of its line.
    pub(in crate::server) fn enter(
        &self,
        request: KeyedRequest,
        bytes: usize,
    ) -> Result<Entered, Rejection> {
        let bytes = bytes + RUN;
        let mut runs = self.runs.lock();
        if let Some(run) = runs.by_id.get(request.id()) {
            return match run.request.is_same(&request) {
                true => Ok(Entered::Joined(run.clone())),
                false => Err(Rejection::key_mismatch()),
            };
        }
        if !runs.shares.has_room(request.owner(), bytes, self.bounds) {
            return Err(Rejection::busy(""));
        }
        let id = request.id().clone();
        runs.shares.add(request.owner(), bytes);
        let run = Arc::new(SharedRun { request, bytes, state: Mutex::default() });
        runs.by_id.insert(id, run.clone());
        Ok(Entered::New(run))
    }

    /// Lets the driver run `run` to its end.
    pub(in crate::server) fn spawn(&self, run: Box<dyn Detached>) {
        (self.spawn)(DetachedRun(run));
    }

    /// Ends a run: answers the requests that wait for it, and frees its place.
    ///
    /// A request that comes meanwhile finds either the verdict here, or the outcome in the table.
    pub(in crate::server) fn settle(&self, run: &SharedRun, verdict: Verdict) {
        let mut state = run.state.lock();
        state.verdict = Some(verdict);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        let mut runs = self.runs.lock();
        let removed = runs.by_id.remove(run.request.id());
        if removed.is_some() {
            runs.shares.remove(run.request.owner(), run.bytes);
        }
        drop(runs);
        drop(removed);
        waiting.into_iter().for_each(|(_, waker)| wake(Some(waker)));
    }

    /// The number of runs in progress.
    pub(in crate::server) fn len(&self) -> usize {
        self.runs.lock().by_id.len()
    }
}

impl SharedRun {
    pub(in crate::server) fn request(&self) -> &KeyedRequest {
        &self.request
    }

    /// The verdict. If there is none yet, the waker of `cx` is woken when there is.
    pub(in crate::server) fn poll(
        &self,
        ticket: &mut Option<u64>,
        cx: &mut Context<'_>,
    ) -> Poll<Verdict> {
        let waker = cx.waker().clone();
        let mut state = self.state.lock();
        let unused = match (&state.verdict, *ticket) {
            (Some(verdict), _) => {
                let verdict = verdict.clone();
                drop(state);
                return Poll::Ready(verdict);
            }
            (None, Some(ticket)) => {
                let mut waiting = state.waiting.iter_mut();
                waiting
                    .find(|(other, _)| *other == ticket)
                    .map(|(_, known)| std::mem::replace(known, waker))
            }
            (None, None) => {
                state.last += 1;
                let last = state.last;
                state.waiting.push((last, waker));
                *ticket = Some(last);
                None
            }
        };
        drop(state);
        drop(unused);
        Poll::Pending
    }

    /// A request no longer waits.
    pub(in crate::server) fn leave(&self, ticket: u64) {
        let mut state = self.state.lock();
        let at = state.waiting.iter().position(|(other, _)| *other == ticket);
        let unused = at.map(|at| state.waiting.swap_remove(at));
        drop(state);
        drop(unused);
    }
}

impl Verdict {
    pub(in crate::server) fn into_ended(self) -> Ended {
        match self {
            Self::Kept(outcome) => Ended::Replied(outcome.to_reply()),
            Self::Refused(rejection) => Ended::Refused(rejection),
        }
    }
}

/// A keyed run that belongs to no connection.
pub(in crate::server) trait Detached: Send {
    fn poll(&mut self, cx: &mut Context<'_>, now: Time) -> Poll<()>;

    fn next_timeout(&self) -> Option<Time>;

    fn end(&mut self, code: &Code);
}

/// A keyed run that did not end at once. It belongs to the server and not to a connection, so its
/// driver has to drive it until [`poll`](Self::poll) is ready. Dropping it drops its handler, and
/// its outcome is `cut lost`.
pub struct DetachedRun(Box<dyn Detached>);

impl DetachedRun {
    /// Goes on with it. Ready once it has ended, and must not be called again then. Otherwise the
    /// waker of `cx` is woken when there is more to do; and it has to be called again at the time
    /// of [`next_timeout`](Self::next_timeout).
    pub fn poll(&mut self, cx: &mut Context<'_>, now: Time) -> Poll<()> {
        self.0.poll(cx, now)
    }

    /// When [`poll`](Self::poll) has to be called even if nothing has woken it.
    pub fn next_timeout(&self) -> Option<Time> {
        self.0.next_timeout()
    }

    /// Tells it to end, because the server stops: its outcome is `cut closing`. It has to be polled
    /// until it has ended.
    pub fn end(&mut self) {
        self.0.end(&Code::CLOSING);
    }
}

impl fmt::Debug for DetachedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DetachedRun").finish_non_exhaustive()
    }
}

impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed").field("runs", &self.len()).finish_non_exhaustive()
    }
}
