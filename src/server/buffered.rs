//! Counts the bytes that connections hold, for each one and for all together.

use std::task::Waker;

use tokio::sync::Notify;

use crate::{
    server::waiting_tasks::{THREADS, WaitingTasks},
    sync::{AtomicIsize, AtomicU64, AtomicUsize, Mutex, OnceLock, Ordering},
};

/// A connection that holds no more than this is never limited by what others hold.
pub(super) const LITTLE: usize = 32 * 1024;

/// The bytes that all connections of a server hold together.
///
/// Connections update this only when their own bytes have changed between polls. A connection at
/// rest holds nothing, so an exchange of one request and one reply does not touch it.
#[derive(Debug, Default)]
pub(super) struct Buffered {
    bytes: AtomicUsize,
    /// The bytes of the connections that hold more than [`LITTLE`]. Signed, like their number: a
    /// decrease may be counted before the increase that it follows.
    heavy_bytes: AtomicIsize,
    heavy: AtomicIsize,
    /// Notified when a connection finds that all together hold more than the limit.
    full: Notify,
}

impl Buffered {
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What each connection may hold while all together hold more than `limit`; otherwise
    /// `usize::MAX`.
    ///
    /// It is what the connections that hold at most [`LITTLE`] leave of the limit, divided by the
    /// number of the others, and at least [`LITTLE`]. So over the limit at least one connection is
    /// above it, and no connection that holds at most `LITTLE` is.
    pub(super) fn allowance(&self, limit: usize) -> usize {
        let bytes = self.bytes();
        if bytes <= limit {
            return usize::MAX;
        }
        let heavy_bytes = self.heavy_bytes.load(Ordering::Relaxed).max(0).unsigned_abs();
        let heavy = self.heavy.load(Ordering::Relaxed).max(1).unsigned_abs();
        let left = limit.saturating_sub(bytes.saturating_sub(heavy_bytes));
        (left / heavy).max(LITTLE)
    }

    /// Wakes the task that waits in [`full`](Self::full), because the limit is exceeded.
    pub(super) fn report_full(&self) {
        self.full.notify_one();
    }

    /// Waits until the limit is exceeded, or was a moment ago.
    pub(super) async fn full(&self) {
        self.full.notified().await;
    }

    /// The bytes of a connection have changed from `before` to `after`.
    fn changed(&self, before: usize, after: usize) {
        match after.checked_sub(before) {
            Some(more) => self.bytes.fetch_add(more, Ordering::Relaxed),
            None => self.bytes.fetch_sub(before - after, Ordering::Relaxed),
        };
        if before > LITTLE || after > LITTLE {
            let heavy = |bytes: usize| if bytes > LITTLE { bytes.cast_signed() } else { 0 };
            self.heavy_bytes.fetch_add(heavy(after) - heavy(before), Ordering::Relaxed);
            let one = |bytes: usize| isize::from(bytes > LITTLE);
            self.heavy.fetch_add(one(after) - one(before), Ordering::Relaxed);
        }
    }
}

/// The bytes that one connection holds. Its buffers and the payloads of its requests are counted at
/// the end of each poll, the reply of a task when the task has ended.
#[derive(Debug)]
pub(super) struct Holding {
    server: crate::sync::Arc<Buffered>,
    bytes: AtomicUsize,
    /// The part of `bytes` that is replies of ended tasks which the connection has not taken.
    finished: AtomicUsize,
    /// Bytes that wait to be written, as of the last poll.
    unwritten: AtomicUsize,
    /// If unwritten bytes and finished replies reach this mark, the tasks of the connection wait.
    mark: AtomicUsize,
    /// The mark when the server's buffers are not full.
    full_mark: usize,
    /// Since when the transport has taken none of the waiting bytes, in milliseconds plus 1; 0 if
    /// it takes some.
    stuck: AtomicU64,
    /// Tasks that wait for the connection to fall below its mark.
    queue: OnceLock<Box<Mutex<WaitingTasks>>>,
}

impl Holding {
    pub(super) fn new(server: crate::sync::Arc<Buffered>, mark: usize) -> Self {
        let (full_mark, mark) = (mark, AtomicUsize::new(mark));
        let (bytes, finished, unwritten, stuck, queue) = Default::default();
        Self { server, bytes, finished, unwritten, mark, full_mark, stuck, queue }
    }

    /// What the connection holds, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The bytes of replies of ended tasks which the connection has not taken.
    pub(super) fn finished(&self) -> usize {
        self.finished.load(Ordering::Relaxed)
    }

    /// Since when the transport has taken none of the waiting bytes, in milliseconds of the
    /// server's time.
    pub(super) fn stuck(&self) -> Option<u64> {
        self.stuck.load(Ordering::Relaxed).checked_sub(1)
    }

    pub(super) fn set_stuck(&self, since: Option<u64>) {
        let stuck = since.map_or(0, |since| since.saturating_add(1));
        self.stuck.store(stuck, Ordering::Relaxed);
    }

    /// The bytes that the connection itself counts have changed from `before` to `after`.
    pub(super) fn change(&self, before: usize, after: usize) {
        match after.checked_sub(before) {
            Some(more) => self.add(more),
            None => self.sub(before - after),
        }
    }

    /// A task has ended with a reply of `bytes` bytes.
    pub(super) fn add_finished(&self, bytes: usize) {
        self.finished.fetch_add(bytes, Ordering::Relaxed);
        self.add(bytes);
    }

    /// The connection has taken or dropped such a reply.
    pub(super) fn sub_finished(&self, bytes: usize) {
        self.finished.fetch_sub(bytes, Ordering::Relaxed);
        self.sub(bytes);
    }

    /// Bytes that wait to be written, as of the connection's last poll.
    pub(super) fn unwritten(&self) -> usize {
        self.unwritten.load(Ordering::Relaxed)
    }

    pub(super) fn set_unwritten(&self, bytes: usize) {
        self.unwritten.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_mark(&self, mark: usize) {
        self.mark.store(mark, Ordering::Relaxed);
    }

    /// Whether a task of the connection may run.
    pub(super) fn is_open(&self) -> bool {
        let waits = self.unwritten.load(Ordering::Relaxed).saturating_add(self.finished());
        waits < self.mark.load(Ordering::Relaxed)
    }

    /// How many blocking functions may run for the connection at a time. It is one when the
    /// server's buffers are full, because each may end with a reply.
    pub(super) fn threads(&self) -> usize {
        match self.mark.load(Ordering::Relaxed) < self.full_mark {
            true => 1,
            false => THREADS,
        }
    }

    /// The queue of its waiting tasks.
    pub(super) fn queue(&self) -> &Mutex<WaitingTasks> {
        self.queue.get_or_init(Box::default)
    }

    /// Wakes the tasks that have waited longest, one of each kind, if they may run. Each of them
    /// calls this again when it runs.
    ///
    /// A task first enters the queue and then checks again whether it may run. This function checks
    /// first and then looks at the queue. So no task is missed.
    pub(super) fn pass_on(&self) {
        let Some(queue) = self.queue.get() else { return };
        if self.is_open() {
            let next = queue.lock().next(self.threads());
            next.into_iter().flatten().for_each(Waker::wake);
        }
    }

    fn add(&self, bytes: usize) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.server.changed(before, before + bytes);
    }

    fn sub(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.server.changed(before, before - bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Arc;

    fn held(server: &Arc<Buffered>, bytes: usize) -> Holding {
        let holding = Holding::new(server.clone(), 1);
        holding.change(0, bytes);
        holding
    }

    /// Over the limit, some connection is above the allowance, and no connection with at most
    /// `LITTLE` is.
    #[test]
    fn over_the_limit_some_connection_exceeds_the_allowance() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..2_000 {
            let server = Arc::<Buffered>::default();
            let largest = [LITTLE / 2, 2 * LITTLE, 9 * LITTLE][rng.usize(..3)];
            let all: Vec<_> =
                (0..rng.usize(1..50)).map(|_| held(&server, rng.usize(..largest))).collect();
            let bytes: usize = all.iter().map(Holding::bytes).sum();
            assert_eq!(server.bytes(), bytes);
            assert_eq!(server.allowance(bytes), usize::MAX);
            let limit = rng.usize(..=bytes);
            let allowance = server.allowance(limit);
            assert!(allowance >= LITTLE);
            let is_heavy = |one: &&Holding| one.bytes() > LITTLE;
            let light: usize = all.iter().filter(|one| !is_heavy(one)).map(Holding::bytes).sum();
            if limit < bytes && all.iter().any(|one| one.bytes() > LITTLE) {
                assert!(
                    all.iter().any(|one| one.bytes() > allowance.min(limit - light.min(limit)))
                );
            }
            all.iter().for_each(|one| one.change(one.bytes(), 0));
            let counts = (server.bytes(), server.heavy.load(Ordering::Relaxed));
            assert_eq!((counts, server.heavy_bytes.load(Ordering::Relaxed)), ((0, 0), 0));
        }
    }

    /// If all connections hold the same, none is above the allowance at the limit, and all are
    /// above it one byte over the limit.
    #[test]
    fn equal_connections_are_treated_alike() {
        const EACH: usize = 4 * LITTLE;
        let server = Arc::<Buffered>::default();
        let all: Vec<_> = (0..10).map(|_| held(&server, EACH)).collect();
        assert_eq!(server.allowance(10 * EACH), usize::MAX);
        let allowance = server.allowance(10 * EACH - 1);
        assert!(all.iter().all(|one| one.bytes() > allowance), "{allowance}");
    }
}
