//! The state that everything in a run shares: the time, the decisions, and the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard},
    task::{Poll, Waker},
};

use bellwire::protocol::{Position, Time};

use super::choices::Choices;
use crate::history::{Event, History, Line, Number};

/// A handle to the world. Clones are the same world.
#[derive(Clone)]
pub(super) struct World(Arc<Mutex<State>>);

struct State {
    choices: Choices,
    now: u64,
    history: History,
    last_number: u64,
    sleepers: BTreeMap<(u64, u64), Waker>,
    /// Calls that a caller waits for, with the client that made them.
    open: BTreeMap<u64, usize>,
    /// Calls with a running handler, and calls whose handler has ended.
    running: BTreeSet<u64>,
    finished: BTreeSet<u64>,
    /// The last confirmed number of each topic.
    last: BTreeMap<String, Number>,
    /// The positions at which subscribers ended, by topic.
    positions: BTreeMap<String, Position>,
    /// The position of each live subscription, by client and number, and whether its task has to
    /// read on.
    standing: BTreeMap<(usize, u64), (String, Number)>,
    /// Subscriptions that expired on a connection whose server leaves. Nothing new begins there, so
    /// they end with the connection.
    given_up: BTreeMap<u64, usize>,
    /// Those of them that the log records as left.
    told_as_left: BTreeSet<u64>,
    /// The number of sleeping user tasks of each client.
    pausing: BTreeMap<usize, usize>,
    hash: u64,
}

impl World {
    pub(super) fn new(choices: Choices) -> Self {
        Self(Arc::new(Mutex::new(State {
            choices,
            now: 1,
            history: History::default(),
            last_number: 0,
            sleepers: BTreeMap::new(),
            open: BTreeMap::new(),
            running: BTreeSet::new(),
            finished: BTreeSet::new(),
            last: BTreeMap::new(),
            positions: BTreeMap::new(),
            standing: BTreeMap::new(),
            given_up: BTreeMap::new(),
            told_as_left: BTreeSet::new(),
            pausing: BTreeMap::new(),
            hash: 0xcbf2_9ce4_8422_2325,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn below(&self, count: usize) -> usize {
        self.lock().choices.below(count)
    }

    /// True once in `count` times; false when no decisions are left.
    pub(super) fn chance(&self, count: usize) -> bool {
        self.below(count) == count - 1
    }

    pub(super) fn now(&self) -> Time {
        Time::from_millis(self.lock().now)
    }

    pub(super) fn number(&self) -> u64 {
        let mut state = self.lock();
        state.last_number += 1;
        state.last_number
    }

    /// Waits `millis` milliseconds.
    pub(super) async fn sleep(&self, millis: u64) {
        let id = self.number();
        let at = self.lock().now + millis;
        let _sleeper = Sleeper { world: self, key: (at, id) };
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.now >= at {
                return Poll::Ready(());
            }
            state.sleepers.insert((at, id), cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Lets a task of a client wait `millis` milliseconds, while its deliveries wait for it.
    pub(super) async fn pause(&self, client: usize, millis: u64) {
        let _pausing = Pausing::new(self, client);
        self.sleep(millis).await;
    }

    /// When the first sleeper has to wake up.
    pub(super) fn next_sleeper(&self) -> Option<Time> {
        self.lock().sleepers.keys().next().map(|&(at, _)| Time::from_millis(at))
    }

    /// Sets the time to `at`, and wakes the sleepers.
    pub(super) fn advance(&self, at: Time) {
        let mut state = self.lock();
        state.now = state.now.max(at.as_millis());
        let behind = (state.now + 1, 0);
        let later = state.sleepers.split_off(&behind);
        let woken = std::mem::replace(&mut state.sleepers, later);
        drop(state);
        woken.into_values().for_each(Waker::wake);
    }

    /// Adds bytes that passed to the hash of the run.
    pub(super) fn passed(&self, connection: u64, bytes: &[u8]) {
        let mut state = self.lock();
        let mut hash = state.hash ^ connection;
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        state.hash = hash;
    }

    pub(super) fn record(&self, process: &str, event: Event) {
        let mut state = self.lock();
        match &event {
            Event::Over { subscription, .. } | Event::Left { subscription }
                if state.told_as_left.contains(subscription) =>
            {
                return;
            }
            Event::Started { call } => drop(state.running.insert(*call)),
            Event::Finished { call } => {
                state.running.remove(call);
                state.finished.insert(*call);
            }
            Event::Published { topic, number, .. } => {
                let last = state.last.entry(topic.clone()).or_insert_with(|| number.clone());
                last.seq = last.seq.max(number.seq);
            }
            _ => {}
        }
        let now = state.now;
        state.history.record(now, process, event);
    }

    pub(super) fn wire(&self, process: &str, connection: u64, line: Line) {
        self.record(process, Event::Wire { connection, line });
    }

    /// Records whether a caller waits for a call.
    pub(super) fn set_open(&self, client: usize, call: u64, is_open: bool) {
        let mut state = self.lock();
        match is_open {
            true => drop(state.open.insert(call, client)),
            false => drop(state.open.remove(&call)),
        }
    }

    pub(super) fn position(&self, topic: &str) -> Option<Position> {
        self.lock().positions.get(topic).copied()
    }

    pub(super) fn set_position(&self, topic: &str, position: Position) {
        self.lock().positions.insert(topic.to_owned(), position);
    }

    /// Records where a subscription stands; `None` once it has ended.
    pub(super) fn set_standing(&self, client: usize, number: u64, at: Option<(&str, Number)>) {
        let mut state = self.lock();
        match at {
            Some(_) if state.given_up.contains_key(&number) => {}
            Some((topic, next)) => {
                state.standing.insert((client, number), (topic.to_owned(), next));
            }
            None => {
                state.standing.remove(&(client, number));
                state.given_up.remove(&number);
            }
        }
    }

    /// Records that the topic has expired on a client's connection whose server leaves.
    pub(super) fn give_up(&self, client: usize, topic: &str) {
        let state = &mut *self.lock();
        state.standing.retain(|(of, number), (standing, _)| {
            let is_it = *of == client && standing == topic;
            if is_it {
                state.given_up.insert(*number, client);
            }
            !is_it
        });
    }

    /// Returns what is wrong with a client whose connection lives if nothing can go on at this
    /// time: a wake-up was lost. `reads` says whether the server reads its lines and sends
    /// messages.
    pub(super) fn is_stuck(&self, client: usize, reads: bool) -> Option<String> {
        let state = self.lock();
        if state.pausing.contains_key(&client) {
            return None;
        }
        let mut open = state.open.iter().filter(|&(_, &of)| of == client).map(|(&call, _)| call);
        // A call that waits for a place may wait for a handler.
        let is_waiting = |call: u64| {
            state.running.contains(&call)
                || (!state.finished.contains(&call) && (!reads || !state.running.is_empty()))
        };
        if let Some(call) = open.find(|&call| !is_waiting(call)) {
            return Some(format!("call {call} has no outcome, and nothing can go on"));
        }
        let mut standing = state.standing.iter().filter(|((of, _), _)| reads && *of == client);
        standing.find_map(|((_, number), (topic, next))| {
            let last = state.last.get(topic)?;
            let is_behind = next.epoch == last.epoch && next.seq <= last.seq;
            is_behind.then(|| {
                format!("subscription {number} expects {next} of {topic}, the last is {last}, and nothing can go on")
            })
        })
    }

    /// Records the heads of the topics' logs, and that all has settled.
    pub(super) fn settle(&self) {
        let given_up = std::mem::take(&mut self.lock().given_up);
        for (subscription, client) in given_up {
            self.record(&format!("client{client}"), Event::Left { subscription });
            self.lock().told_as_left.insert(subscription);
        }
        let last = self.lock().last.clone();
        for (topic, Number { epoch, seq }) in last {
            self.record("server", Event::Head { topic, next: Number::new(epoch, seq + 1) });
        }
        self.record("server", Event::Quiet);
    }

    /// The log, and the hash of all bytes that passed.
    pub(super) fn take(&self) -> (History, u64) {
        let mut state = self.lock();
        (std::mem::take(&mut state.history), state.hash)
    }

    /// Calls without an outcome.
    pub(super) fn open(&self) -> Vec<u64> {
        self.lock().open.keys().copied().collect()
    }
}

struct Sleeper<'a> {
    world: &'a World,
    key: (u64, u64),
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let waker = self.world.lock().sleepers.remove(&self.key);
        drop(waker);
    }
}

struct Pausing<'a> {
    world: &'a World,
    client: usize,
}

impl<'a> Pausing<'a> {
    fn new(world: &'a World, client: usize) -> Self {
        *world.lock().pausing.entry(client).or_default() += 1;
        Self { world, client }
    }
}

impl Drop for Pausing<'_> {
    fn drop(&mut self) {
        let mut state = self.world.lock();
        if let Some(count) = state.pausing.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                state.pausing.remove(&self.client);
            }
        }
    }
}
