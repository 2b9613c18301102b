//! The guard around user code that a connection keeps and polls.

use std::task::{Context, Waker};

use crate::{
    guard::guarded,
    server::mailbox::{Mailbox, SlotWaker, Whom},
    sync::Arc,
};

/// User code that a connection keeps and polls: a handler, the future of a hook, or a store's
/// reader. It has a waker of its own. Its polls and its drop are guarded against panics.
pub(super) struct UserCode<T> {
    pub(super) kept: Option<T>,
    woken: Arc<SlotWaker>,
    waker: Waker,
}

impl<T> UserCode<T> {
    /// Wraps `kept`, which wakes the connection of `mailbox` for `whom`.
    pub(super) fn new(kept: Option<T>, mailbox: &Arc<Mailbox>, whom: Whom) -> Self {
        let woken = SlotWaker::new(mailbox.clone(), whom);
        let waker = Waker::from(woken.clone());
        Self { kept, woken, waker }
    }

    /// The waker that it is polled with.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Whether it was woken since the last call. Call this before the poll.
    pub(super) fn take_queued(&self) -> bool {
        self.woken.take_queued()
    }

    /// Whether the application has commands for the connection.
    pub(super) fn has_commands(&self) -> bool {
        self.woken.has_commands()
    }

    /// Polls the value. Returns `None` if it panicked, or if there is none.
    pub(super) fn poll<R>(
        &mut self,
        poll: impl FnOnce(&mut T, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let kept = self.kept.as_mut()?;
        guarded(|| poll(kept, &mut Context::from_waker(&self.waker)))
    }

    /// Drops the value. Returns whether that went without a panic.
    ///
    /// The poll and the drop have separate guards. A value that panics in its drop while its first
    /// panic unwinds would abort the process.
    pub(super) fn discard(&mut self) -> bool {
        let kept = self.kept.take();
        guarded(|| drop(kept)).is_some()
    }
}

impl<T> Drop for UserCode<T> {
    fn drop(&mut self) {
        self.discard();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[test]
    fn panics_of_user_code_are_caught() {
        let mut code = UserCode::new(Some(Bomb), &Arc::default(), Whom::Hook);
        assert_eq!(code.poll(|_, _| 7), Some(7));
        assert_eq!(code.poll(|_, _| -> u8 { panic!("polled") }), None);
        assert!(!code.discard() && code.discard());
        assert_eq!(code.poll(|_, _| 7), None);
        drop(UserCode::new(Some(Bomb), &Arc::default(), Whom::Hook));
    }
}
