//! What the crate's shared state is made of: mutex, atomics, one-shot.
//!
//! All locks and one-shots of the crate come from here, so that a model checker's can be put in
//! their place by changing this file alone.
//!
//! Under a lock no waker is woken or dropped, because that may run the code of an executor or drop a
//! task. It may be cloned.

use std::sync::{Mutex as StdMutex, PoisonError};

pub(crate) use std::sync::{
    Arc, MutexGuard, OnceLock, Weak,
    atomic::{AtomicBool, AtomicIsize, AtomicU8, AtomicU64, AtomicUsize, Ordering},
};
pub(crate) use tokio::sync::oneshot;

/// A mutex that ignores poison: no user code runs under a lock, so a panic leaves nothing half done.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(StdMutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(StdMutex::new(value))
    }

    /// Without locking, by exclusive access.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
