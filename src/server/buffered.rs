//! The bytes that connections hold: counted for each of them, and together against one limit.

use std::task::Waker;

use tokio::sync::Notify;

use crate::{
    server::waiting_tasks::{THREADS, WaitingTasks},
    sync::{AtomicIsize, AtomicU64, AtomicUsize, Mutex, OnceLock, Ordering},
};

/// A connection that holds no more than this is served whatever the others hold.
pub(super) const LITTLE: usize = 32 * 1024;

/// What all connections of a server hold together.
///
/// A connection that holds as much as before does not touch it, and one at rest holds nothing: the
/// common exchange of a request for its reply leaves no trace here.
#[derive(Debug, Default)]
pub(super) struct Buffered {
    bytes: AtomicUsize,
    /// What those connections hold that hold more than [`LITTLE`]. Signed, like their number: a
    /// change may be counted before the one that it follows.
    heavy_bytes: AtomicIsize,
    heavy: AtomicIsize,
    /// A connection has found that they hold too much.
    full: Notify,
}

impl Buffered {
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What a connection may hold while all of them hold more than `limit`; `usize::MAX` while they
    /// do not.
    ///
    /// The share is what the connections that hold little leave of the limit, divided by the number
    /// of the others. So over the limit at least one connection is above its share, and none that
    /// holds little is.
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

    /// Wakes the task that waits in [`full`](Self::full): the connections hold more than they may.
    pub(super) fn report_full(&self) {
        self.full.notify_one();
    }

    /// Waits until they hold more than they may, or did a moment ago.
    pub(super) async fn full(&self) {
        self.full.notified().await;
    }

    /// A connection that held `before` bytes holds `after` now.
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

/// What one connection holds: its buffers and the payloads of its requests, as it counted them at
/// the end of its last poll, and the replies of its tasks, from when each task has ended.
#[derive(Debug)]
pub(super) struct Holding {
    server: crate::sync::Arc<Buffered>,
    bytes: AtomicUsize,
    /// Of these, the replies of tasks that have ended and that the connection has not taken.
    finished: AtomicUsize,
    /// Bytes that wait to be written, as of the last poll.
    unwritten: AtomicUsize,
    /// Unwritten bytes and finished replies past which no task of the connection goes on.
    mark: AtomicUsize,
    /// The mark where the server's buffers are not full.
    full_mark: usize,
    /// Since when the transport has taken none of them, in milliseconds and one more; 0 for not.
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

    /// Of these, the replies of tasks that have ended and that the connection has not taken.
    pub(super) fn finished(&self) -> usize {
        self.finished.load(Ordering::Relaxed)
    }

    /// Since when the transport has taken nothing of what waits to be written, in milliseconds of the
    /// server's time.
    pub(super) fn stuck(&self) -> Option<u64> {
        self.stuck.load(Ordering::Relaxed).checked_sub(1)
    }

    pub(super) fn set_stuck(&self, since: Option<u64>) {
        let stuck = since.map_or(0, |since| since.saturating_add(1));
        self.stuck.store(stuck, Ordering::Relaxed);
    }

    /// The connection's own part was `before` bytes, and is `after` now.
    pub(super) fn change(&self, before: usize, after: usize) {
        match after.checked_sub(before) {
            Some(more) => self.add(more),
            None => self.sub(before - after),
        }
    }

    /// A task has ended with a reply of so many bytes.
    pub(super) fn add_finished(&self, bytes: usize) {
        self.finished.fetch_add(bytes, Ordering::Relaxed);
        self.add(bytes);
    }

    /// Such a reply was taken, or dropped.
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

    /// Whether a task of the connection may go on.
    pub(super) fn is_open(&self) -> bool {
        let waits = self.unwritten.load(Ordering::Relaxed).saturating_add(self.finished());
        waits < self.mark.load(Ordering::Relaxed)
    }

    /// Functions that may block that may run for the connection at a time: with the server's buffers
    /// full one, since each may end with a reply.
    pub(super) fn threads(&self) -> usize {
        match self.mark.load(Ordering::Relaxed) < self.full_mark {
            true => 1,
            false => THREADS,
        }
    }

    /// Where its tasks wait.
    pub(super) fn queue(&self) -> &Mutex<WaitingTasks> {
        self.queue.get_or_init(Box::default)
    }

    /// Wakes the tasks that have waited longest, one of each kind, if they may go on. Each that does
    /// calls this again.
    ///
    /// A task enters the queue first and then looks once more whether it may go on; here it is the
    /// other way round, so that none is missed.
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

    /// Over the limit some connection is above the allowance, and none that holds little is.
    #[test]
    fn over_the_limit_somebody_is_above_the_allowance() {
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

    /// If all hold exactly the same, none is above the allowance at the limit, and all are one byte
    /// over it.
    #[test]
    fn equals_are_treated_alike() {
        const EACH: usize = 4 * LITTLE;
        let server = Arc::<Buffered>::default();
        let all: Vec<_> = (0..10).map(|_| held(&server, EACH)).collect();
        assert_eq!(server.allowance(10 * EACH), usize::MAX);
        let allowance = server.allowance(10 * EACH - 1);
        assert!(all.iter().all(|one| one.bytes() > allowance), "{allowance}");
    }
}
