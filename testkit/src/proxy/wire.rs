//! The record of what passed through the proxy, as each end saw it.

use std::{
    io,
    sync::{Arc, Mutex},
    task::{Poll, ready},
};

use tokio::sync::Notify;

use super::{Both, Direction};

/// The proxy's view of all connections, by their numbers. It can be read at any time, also after
/// the proxy was dropped.
#[derive(Clone, Default)]
pub struct Wire(Arc<Inner>);

/// Called for each whole line, without its LF, as it is delivered.
type Observer = Box<dyn FnMut(usize, Direction, &[u8]) + Send>;

#[derive(Default)]
struct Inner {
    lanes: Mutex<Vec<Lane>>,
    /// Held while bytes are written, recorded and observed. So an observer sees the lines of all
    /// connections in the order of delivery.
    observer: Mutex<Option<Observer>>,
    moved: Notify,
}

/// One connection.
#[derive(Default)]
struct Lane {
    taken: Both<Vec<u8>>,
    delivered: Both<Vec<u8>>,
    /// The offset at which the current line begins.
    line: Both<usize>,
    is_closed: bool,
}

impl Lane {
    /// Appends delivered bytes. Returns the lines that they complete.
    fn deliver(&mut self, direction: Direction, bytes: &[u8]) -> Vec<u8> {
        let (delivered, line) = (&mut self.delivered[direction], &mut self.line[direction]);
        delivered.extend_from_slice(bytes);
        let Some(lf) = bytes.iter().rposition(|&byte| byte == b'\n') else { return Vec::new() };
        let end = delivered.len() - bytes.len() + lf + 1;
        delivered[std::mem::replace(line, end)..end].to_vec()
    }
}

/// The whole lines, without their LF. Bytes after the last LF are left out.
fn whole_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"))
}

impl Wire {
    /// The number of connections so far, including those that a plan refused.
    pub fn connections(&self) -> usize {
        self.0.lanes.lock().unwrap().len()
    }

    /// Whether the connection is still open.
    pub fn is_open(&self, connection: usize) -> bool {
        !self.lane(connection, |lane| lane.is_closed)
    }

    /// All bytes that an end was given. It has read them, or can still read them.
    pub fn delivered(&self, connection: usize, direction: Direction) -> Vec<u8> {
        self.lane(connection, |lane| lane.delivered[direction].clone())
    }

    /// The number of these bytes.
    pub fn count(&self, connection: usize, direction: Direction) -> usize {
        self.lane(connection, |lane| lane.delivered[direction].len())
    }

    /// The whole lines among them, without their LF.
    pub fn lines(&self, connection: usize, direction: Direction) -> Vec<Vec<u8>> {
        let delivered = self.delivered(connection, direction);
        whole_lines(&delivered).map(<[u8]>::to_vec).collect()
    }

    /// All bytes that were taken from the sender, delivered or not.
    pub fn taken(&self, connection: usize, direction: Direction) -> Vec<u8> {
        self.lane(connection, |lane| lane.taken[direction].clone())
    }

    /// Calls `observer` for each whole line, without its LF, with its connection, in the order of
    /// delivery. It runs during the delivery, so it may read the wire, but must not wait.
    pub fn observe(&self, observer: impl FnMut(usize, Direction, &[u8]) + Send + 'static) {
        *self.0.observer.lock().unwrap() = Some(Box::new(observer));
    }

    /// Waits until `holds` returns true for the wire.
    pub async fn until(&self, holds: impl Fn(&Self) -> bool) {
        loop {
            let moved = self.0.moved.notified();
            if holds(self) {
                return;
            }
            moved.await;
        }
    }

    /// The next connection.
    pub(super) fn open(&self) -> Opened {
        let mut lanes = self.0.lanes.lock().unwrap();
        lanes.push(Lane::default());
        Opened { wire: self.clone(), number: lanes.len() - 1 }
    }

    fn lane<R>(&self, connection: usize, look: impl FnOnce(&mut Lane) -> R) -> R {
        look(&mut self.0.lanes.lock().unwrap()[connection])
    }
}

/// An open connection. It counts as closed when this is dropped.
pub(super) struct Opened {
    wire: Wire,
    number: usize,
}

impl Opened {
    pub(super) fn take(&self, direction: Direction, bytes: &[u8]) {
        self.wire.lane(self.number, |lane| lane.taken[direction].extend_from_slice(bytes));
        self.wire.0.moved.notify_waiters();
    }

    /// Delivers a prefix of `bytes` by `write`.
    pub(super) fn poll_deliver(
        &self,
        direction: Direction,
        bytes: &[u8],
        write: impl FnOnce() -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut observer = self.wire.0.observer.lock().unwrap();
        let count = ready!(write())?;
        let lines = self.wire.lane(self.number, |lane| lane.deliver(direction, &bytes[..count]));
        if let Some(observer) = &mut *observer {
            whole_lines(&lines).for_each(|line| observer(self.number, direction, line));
        }
        drop(observer);
        self.wire.0.moved.notify_waiters();
        Poll::Ready(Ok(count))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Ok(mut lanes) = self.wire.0.lanes.lock() {
            lanes[self.number].is_closed = true;
        }
        self.wire.0.moved.notify_waiters();
    }
}
