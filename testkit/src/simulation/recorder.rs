//! The log of a run while it is written, in virtual time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::history::{Event, History, Line, Number, Word};

/// Longer than the way to a subscriber, and back for an ack, takes, in milliseconds.
const PAUSE: u64 = 3_000;

/// One process' pen. All write into one log, in the order of what happens.
#[derive(Clone)]
pub(crate) struct Recorder {
    log: Arc<Mutex<Log>>,
    process: Arc<str>,
    is_over: Arc<AtomicBool>,
}

#[derive(Default)]
struct Log {
    /// Virtual milliseconds, by whoever turns the clock.
    now: u64,
    history: History,
    last_number: u64,
    /// When something was delivered last.
    delivered: u64,
    /// Requests without a terminal line, on connections that are open.
    open: BTreeSet<(u64, u64)>,
    /// The last number that was confirmed, by topic and epoch.
    last: BTreeMap<(String, String), u64>,
    /// Which log a server has of a topic in the end.
    logs: Vec<(Arc<str>, String, String)>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { log: Arc::default(), process: "net".into(), is_over: Arc::default() }
    }

    /// The pen of another process.
    pub(crate) fn of(&self, process: &str) -> Self {
        Self { process: process.into(), ..self.clone() }
    }

    pub(crate) fn record(&self, event: Event) {
        let mut log = self.log.lock().unwrap();
        if let Event::Published { topic, number, .. } = &event {
            let last = log.last.entry((topic.clone(), number.epoch.clone())).or_default();
            *last = number.seq.max(*last);
        }
        let now = log.now;
        if let Event::Delivered { .. } = &event {
            log.delivered = now;
        }
        log.history.record(now, &self.process, event);
    }

    /// Of this topic this server has that log in the end.
    pub(crate) fn keeps(&self, topic: &str, epoch: &str) {
        let mut log = self.log.lock().unwrap();
        log.logs.push((self.process.clone(), topic.to_owned(), epoch.to_owned()));
    }

    /// Says where the logs stand that servers have.
    pub(crate) fn record_heads(&self) {
        let logs = std::mem::take(&mut self.log.lock().unwrap().logs);
        for (server, topic, epoch) in logs {
            let last = self.log.lock().unwrap().last.get(&(topic.clone(), epoch.clone())).copied();
            let next = Number::new(epoch, last.unwrap_or(0) + 1);
            self.of(&server).record(Event::Head { topic, next });
        }
    }

    pub(crate) fn note(&self, text: impl Into<String>) {
        self.record(Event::Note(text.into()));
    }

    /// A line of a connection is passed on.
    pub(crate) fn wire(&self, connection: u64, line: Line) {
        self.log.lock().unwrap().follow(connection, &line);
        self.record(Event::Wire { connection, line });
    }

    /// A number that nothing else in this log has: of a call, a connection, a message.
    pub(crate) fn number(&self) -> u64 {
        let mut log = self.log.lock().unwrap();
        log.last_number += 1;
        log.last_number
    }

    pub(crate) fn set_time(&self, now: u64) {
        self.log.lock().unwrap().now = now;
    }

    /// Whether a request waits for its terminal line on an open connection, or somebody is still given
    /// one number after the other, as far behind as a window of one over a slow network leaves him.
    pub(crate) fn is_busy(&self) -> bool {
        let log = self.log.lock().unwrap();
        !log.open.is_empty() || log.now - log.delivered < PAUSE
    }

    /// Nothing is begun any more, and nothing is slow.
    pub(crate) fn call_it_a_day(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// The log as far as it was written.
    pub(crate) fn take(&self) -> History {
        std::mem::take(&mut self.log.lock().unwrap().history)
    }
}

impl Log {
    fn follow(&mut self, connection: u64, line: &Line) {
        match line {
            Line::Request { id, .. } => drop(self.open.insert((connection, *id))),
            Line::Reply { word: Word::More, .. } => {}
            Line::Reply { id, .. } => drop(self.open.remove(&(connection, *id))),
            Line::Closed => self.open.retain(|(other, _)| *other != connection),
            _ => {}
        }
    }
}
