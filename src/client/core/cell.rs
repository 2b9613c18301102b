//! The part of a request that its caller and the core share: its line and, for a call, its outcome.

use std::{
    cell::RefCell,
    mem,
    task::{Poll, Waker},
};

use crate::{
    client::core::{body::Body, key::Key, outcome::KeptResult},
    protocol::Word,
    sync::{Arc, AtomicU32, AtomicU64, Mutex, Ordering},
};

/// Cells that a thread keeps for its next requests.
const SPARE: usize = 256;
/// The longest body whose cell is kept.
const SPARE_BYTES: usize = 512;

thread_local! {
    static SPARES: RefCell<Vec<Arc<RequestCell>>> = const { RefCell::new(Vec::new()) };
}

/// A request that the caller and the core share. The caller writes the body before it shares the
/// cell. The core keeps the cell until the outcome is known, so that it can send again a request
/// that is proven not executed. A call takes its outcome from the cell, without the lock of the
/// core.
///
/// Cells are reused, so that a short request needs no allocation and is not moved.
#[derive(Debug, Default)]
pub(crate) struct RequestCell {
    pub(crate) body: Body,
    outcome: Mutex<Outcome>,
    /// The key of the request: a serial number that is not 0, and the slot. The core writes it
    /// under its lock when it takes over the request, before the request can have an outcome.
    serial: AtomicU64,
    slot: AtomicU32,
}

#[derive(Debug, Default)]
enum Outcome {
    /// No task waits.
    #[default]
    None,
    Pending(Waker),
    Ready(KeptResult),
}

impl RequestCell {
    /// Makes a request for `word`. `rest` is the body before stuffing.
    pub(crate) fn new(word: Word<'_>, rest: &[u8]) -> Arc<Self> {
        let spare = SPARES.try_with(|spares| spares.borrow_mut().pop());
        let mut cell = spare.ok().flatten().unwrap_or_default();
        match Arc::get_mut(&mut cell) {
            Some(own) => {
                own.body.set(word, rest);
                // The cell may have been another client's.
                *own.serial.get_mut() = 0;
                cell
            }
            // The core still holds a reference to it.
            None => {
                let mut body = Body::default();
                body.set(word, rest);
                Arc::new(Self { body, ..Self::default() })
            }
        }
    }

    /// The key of the request; `None` before the core has taken it over, or if the core has
    /// rejected it.
    pub(crate) fn key(&self) -> Option<Key> {
        let serial = self.serial.load(Ordering::Relaxed);
        (serial != 0).then(|| Key { serial, slot: self.slot.load(Ordering::Relaxed) })
    }

    pub(super) fn set_key(&self, key: Key) {
        self.serial.store(key.serial, Ordering::Relaxed);
        self.slot.store(key.slot, Ordering::Relaxed);
    }

    /// Sets the task to be woken by the outcome. Must be called before the call is submitted.
    pub(crate) fn await_by(&self, waker: &Waker) {
        *self.outcome.lock() = Outcome::Pending(waker.clone());
    }

    /// Stores the outcome of the call. Returns the task to be woken.
    pub(crate) fn set(&self, result: KeptResult) -> Option<Waker> {
        match mem::replace(&mut *self.outcome.lock(), Outcome::Ready(result)) {
            Outcome::Pending(waker) => Some(waker),
            Outcome::None | Outcome::Ready(_) => None,
        }
    }

    /// Takes the outcome. If there is none yet, `waker` is woken when there is.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<KeptResult> {
        let mut outcome = self.outcome.lock();
        let unused = match &mut *outcome {
            Outcome::Ready(_) => match mem::take(&mut *outcome) {
                Outcome::Ready(result) => return Poll::Ready(result),
                Outcome::None | Outcome::Pending(_) => return Poll::Pending,
            },
            Outcome::Pending(known) if !known.will_wake(waker) => {
                mem::replace(known, waker.clone())
            }
            Outcome::None | Outcome::Pending(_) => return Poll::Pending,
        };
        // Dropping a waker may run user code.
        drop(outcome);
        drop(unused);
        Poll::Pending
    }

    /// Keeps the cell of a finished request for the next one.
    pub(crate) fn recycle(self: Arc<Self>) {
        if self.body.room() <= SPARE_BYTES {
            // The thread-local is gone while the thread ends.
            let _ = SPARES.try_with(|spares| {
                let mut spares = spares.borrow_mut();
                if spares.len() < SPARE {
                    spares.push(self);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cells belong to a thread, and keys to a client. A key of another client could name an
    /// unrelated request.
    #[test]
    fn a_used_cell_has_no_key_of_another_client() {
        let word = Word::new("m").unwrap();
        let cell = RequestCell::new(word, b"");
        cell.set_key(Key { serial: 1, slot: 0 });
        let address = Arc::as_ptr(&cell);
        cell.recycle();
        let again = RequestCell::new(word, b"");
        assert_eq!((Arc::as_ptr(&again), again.key()), (address, None));
    }
}
