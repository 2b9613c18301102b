//! Records the log of a run in virtual time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::history::{Event, History, Line, Number, Word};

/// Longer than a message takes to a subscriber and its ack takes back, in milliseconds.
const PAUSE: u64 = 3_000;

/// The recorder of one process. All recorders write into one log, in the order of the events.
#[derive(Clone)]
pub(crate) struct Recorder {
    log: Arc<Mutex<Log>>,
    process: Arc<str>,
    is_over: Arc<AtomicBool>,
}

#[derive(Default)]
struct Log {
    /// Virtual milliseconds, set by the simulation.
    now: u64,
    history: History,
    last_number: u64,
    /// When something was last delivered.
    delivered: u64,
    /// Requests without a terminal line, on open connections.
    open: BTreeSet<(u64, u64)>,
    /// The last confirmed number, by topic and epoch.
    last: BTreeMap<(String, String), u64>,
    /// Which log each server has of a topic in the end.
    logs: Vec<(Arc<str>, String, String)>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { log: Arc::default(), process: "net".into(), is_over: Arc::default() }
    }

    /// The recorder of another process.
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

    /// Records that this server has this log of the topic in the end.
    pub(crate) fn keeps(&self, topic: &str, epoch: &str) {
        let mut log = self.log.lock().unwrap();
        log.logs.push((self.process.clone(), topic.to_owned(), epoch.to_owned()));
    }

    /// Records the heads of the logs that servers have.
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

    /// Records that a line of a connection is passed on.
    pub(crate) fn wire(&self, connection: u64, line: Line) {
        self.log.lock().unwrap().follow(connection, &line);
        self.record(Event::Wire { connection, line });
    }

    /// A number that nothing else in this log has, for a call, a connection or a message.
    pub(crate) fn number(&self) -> u64 {
        let mut log = self.log.lock().unwrap();
        log.last_number += 1;
        log.last_number
    }

    pub(crate) fn set_time(&self, now: u64) {
        self.log.lock().unwrap().now = now;
    }

    /// Whether a request waits for its terminal line on an open connection, or a subscriber still
    /// gets numbers one by one, as happens with a window of one over a slow network.
    pub(crate) fn is_busy(&self) -> bool {
        let log = self.log.lock().unwrap();
        !log.open.is_empty() || log.now - log.delivered < PAUSE
    }

    /// Ends the day: no task begins anything new, and nothing is slow.
    pub(crate) fn call_it_a_day(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// The log so far.
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
