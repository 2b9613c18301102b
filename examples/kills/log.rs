//! The log of a run: what the clients see, and when handlers started in the server, in one order.
//!
//! Both processes take their times from the system's monotonic clock, and take them before they act
//! or after they saw. So the order of the times is that of cause and effect.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use bellwire_testkit::history::Event;
use rustix::time::{ClockId, clock_gettime};

use crate::Failed;

/// What happened at a process.
pub(crate) struct Entry {
    /// When, in nanoseconds.
    pub(crate) at: i64,
    pub(crate) process: Arc<str>,
    pub(crate) event: Event,
}

/// What the clients see.
#[derive(Clone)]
pub(crate) struct Log(Arc<Mutex<Vec<Entry>>>);

/// A process that records what it sees.
#[derive(Clone)]
pub(crate) struct Process {
    log: Log,
    name: Arc<str>,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn process(&self, name: &str) -> Process {
        Process { log: self.clone(), name: name.into() }
    }

    /// All entries in their order, with the starts of this file. The log is empty then.
    pub(crate) fn merge(&self, starts: &Path) -> Result<Vec<Entry>, Failed> {
        let server: Arc<str> = "server".into();
        let started = |(call, at)| {
            let (process, event) = (server.clone(), Event::Started { call });
            Entry { at, process, event }
        };
        let mut all: Vec<_> = read_starts(starts)?.into_iter().map(started).collect();
        all.append(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort_by_key(|entry| entry.at);
        Ok(all)
    }
}

impl Process {
    pub(crate) fn record(&self, event: Event) {
        let mut entries = self.log.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push(Entry { at: now(), process: self.name.clone(), event });
    }
}

/// The file in which the server notes the starts of handlers.
pub(crate) struct Starts(File);

/// The end of a whole line.
const END: &str = " .";

impl Starts {
    /// Opens the file for another life of the server.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        // Ends a line that a kill has cut.
        file.write_all(b"\n")?;
        Ok(Self(file))
    }

    /// Notes that the handler of a call has been started, before it does anything.
    pub(crate) fn note(&self, call: u64) -> io::Result<()> {
        (&self.0).write_all(format!("{call} {}{END}\n", now()).as_bytes())
    }
}

/// The calls whose handlers have been started, and when. The handler of a line that was cut had not
/// done anything.
fn read_starts(path: &Path) -> Result<Vec<(u64, i64)>, Failed> {
    let lines = fs::read_to_string(path)?;
    let whole = lines.lines().filter_map(|line| line.strip_suffix(END));
    let read = |line: &str| {
        let (call, at) = line.split_once(' ').ok_or("a start without a time")?;
        Ok((call.parse()?, at.parse()?))
    };
    whole.map(read).collect()
}

fn now() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}
