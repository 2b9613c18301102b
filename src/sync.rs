//! The primitives of the crate's shared state: mutex, atomics, one-shot.
//!
//! All locks and one-shots of the crate come from here, so that only this file has to change for a
//! run under a model checker.
//!
//! Under a lock no waker is woken or dropped, because that may run the code of an executor or drop a
//! task. It may be cloned.

pub(crate) use parking_lot::MutexGuard;
pub(crate) use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicBool, AtomicIsize, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};
pub(crate) use tokio::sync::oneshot;

/// A mutex without poisoning. No user code runs under a lock, so a panic cannot leave the state
/// half changed.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(parking_lot::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    /// Access without locking, by exclusive borrow.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock()
    }
}
