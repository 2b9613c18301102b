//! Reuses the box of a handler's future for the next request.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use crate::{
    guard::guarded,
    server::handlers::{
        reply::{Ended, IntoReply},
        running::{ReplyFuture, Running, Started},
    },
    sync::Mutex,
};

/// The spare box of a method. Most handlers are ready at the first poll, so their boxes are free at
/// once, and the next request need not allocate one.
pub(super) struct Spare<F>(Mutex<Option<Pin<Box<Option<F>>>>>);

impl<F: Future<Output: IntoReply> + Send + 'static> Spare<F> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Constructs the handler. With a waker, also polls it.
    ///
    /// The poll and the drop have separate guards. A handler that panics in its drop while its
    /// first panic unwinds would abort the process.
    pub(super) fn begin(&self, future: F, waker: Option<&Waker>) -> Started {
        let Some(waker) = waker else {
            return Started::Made(Running::Inline(Box::pin(Some(future))));
        };
        let spare = self.0.lock().take();
        let mut place = spare.unwrap_or_else(|| Box::pin(None));
        place.set(Some(future));
        let cx = &mut Context::from_waker(waker);
        let polled = guarded(|| place.as_mut().poll_reply(cx));
        if let Some(Poll::Pending) = polled {
            return Started::Waiting(Running::Inline(place));
        }
        let dropped_well = guarded(|| place.set(None)).is_some();
        Started::Ended(match polled {
            Some(Poll::Ready(reply)) if dropped_well => {
                let before = self.0.lock().replace(place);
                drop(before);
                Ended::Replied(reply)
            }
            _ => Ended::Panicked,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[test]
    fn a_box_is_used_again_once_it_is_free() {
        let spare = Spare::new();
        let address = |spare: &Spare<std::future::Ready<&'static str>>| {
            spare.0.lock().as_ref().map(|place| std::ptr::from_ref(&**place))
        };
        let begin = || spare.begin(ready("a"), Some(Waker::noop()));
        assert!(matches!(begin(), Started::Ended(Ended::Replied(_))));
        let first = address(&spare);
        assert!(matches!(begin(), Started::Ended(Ended::Replied(_))));
        assert!(first.is_some() && address(&spare) == first);
        assert!(matches!(spare.begin(ready("a"), None), Started::Made(_)));
        let waiting = Spare::new();
        let begun = waiting.begin(pending::<()>(), Some(Waker::noop()));
        assert!(matches!(begun, Started::Waiting(_)) && waiting.0.lock().is_none());
    }

    /// A box in which a handler has panicked is not used again.
    #[test]
    fn a_box_is_not_reused_after_a_panic() {
        struct Bomb;

        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }

        for panics_at_once in [true, false] {
            let spare = Spare::new();
            let bomb = Bomb;
            let future = std::future::poll_fn(move |_| {
                let _ = &bomb;
                assert!(!panics_at_once, "polled");
                Poll::Ready(())
            });
            let begun = spare.begin(future, Some(Waker::noop()));
            assert!(matches!(begun, Started::Ended(Ended::Panicked)));
            assert!(spare.0.lock().is_none());
        }
    }
}
