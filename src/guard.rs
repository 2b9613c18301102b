//! The guard under which user code is created, polled and dropped. A panic there ends no task of
//! this crate.

use std::{
    any::Any,
    borrow::Cow,
    mem,
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tracing::{Span, span::EnteredSpan};

/// Runs user code; `None` if it panicked.
#[inline]
pub(crate) fn guarded<T>(user: impl FnOnce() -> T) -> Option<T> {
    caught(user).ok()
}

/// Runs user code. Returns the message of the panic if it panicked.
#[inline]
pub(crate) fn caught<T>(user: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(user)).map_err(disposed)
}

/// Returns the message of a panic, and drops the panic. Dropping its payload may run user code.
#[cold]
fn disposed(panic: Box<dyn Any + Send>) -> String {
    let message = message(&*panic);
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        mem::forget(another);
    }
    message
}

/// The message of a panic, or a substitute if it has none.
pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

/// Wakes a task. A waker may be user code.
pub(crate) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        guarded(|| waker.wake());
    }
}

/// An entered span. The `tracing` subscriber is user code, so it is entered and left under the
/// guard.
pub(crate) struct InSpan(Option<EnteredSpan>);

impl InSpan {
    pub(crate) fn enter(span: &Span) -> Self {
        Self(guarded(|| span.clone().entered()))
    }
}

impl Drop for InSpan {
    fn drop(&mut self) {
        let entered = self.0.take();
        guarded(|| drop(entered));
    }
}

/// A value of user code, which is dropped under the guard.
#[derive(Debug)]
pub(crate) struct Held<T>(Option<T>);

impl<T> Held<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("held until it is dropped")
    }
}

impl<T> DerefMut for Held<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("held until it is dropped")
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        guarded(|| drop(value));
    }
}

/// A future of the user. Its output is that of the future, or the message of a panic while it was
/// created, polled or dropped.
#[derive(Debug)]
pub(crate) struct Guarded<F>(Result<Held<F>, Cow<'static, str>>);

impl<F: Future + Unpin> Guarded<F> {
    pub(crate) fn new(make: impl FnOnce() -> F) -> Self {
        Self(caught(make).map(Held::new).map_err(Cow::Owned))
    }

    fn over(&mut self, message: &'static str) -> Result<Held<F>, Cow<'static, str>> {
        mem::replace(&mut self.0, Err(Cow::Borrowed(message)))
    }
}

impl<F: Future + Unpin> Future for Guarded<F> {
    type Output = Result<F::Output, String>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let polled = match &mut this.0 {
            Ok(future) => caught(|| Pin::new(&mut **future).poll(cx)),
            Err(message) => return Poll::Ready(Err(message.clone().into_owned())),
        };
        let output = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(Held::new(output)),
            Err(message) => Err(message),
        };
        let mut future = this.over("polled after its end");
        let dropped = caught(|| drop(future.as_mut().map(|future| future.0.take())));
        Poll::Ready(
            dropped
                .and(output)
                .and_then(|mut output| output.0.take().ok_or_else(|| "without an output".into())),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::{future::ready, pin::pin};

    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    fn outcome<F: Future + Unpin>(future: Guarded<F>) -> Result<F::Output, String> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Err("pending".into()),
        }
    }

    #[test]
    fn a_panic_becomes_the_outcome_of_the_guarded_future() {
        assert_eq!(outcome(Guarded::new(|| ready(7))), Ok(7));
        let made: Guarded<std::future::Ready<u8>> = Guarded::new(|| panic!("made"));
        assert_eq!(outcome(made), Err("made".into()));
        let polled = Guarded::new(|| std::future::poll_fn(|_| -> Poll<u8> { panic!("{}", 1) }));
        assert_eq!(outcome(polled), Err("1".into()));
        let bomb = Bomb;
        let dropped = Guarded::new(|| {
            Box::pin(std::future::poll_fn(move |_| {
                let _ = &bomb;
                Poll::Ready(7)
            }))
        });
        assert_eq!(outcome(dropped), Err("dropped".into()));
    }

    #[test]
    fn held_values_are_dropped_under_the_guard() {
        drop(Held::new(Bomb));
        let payload = caught(|| std::panic::panic_any(Bomb));
        assert_eq!(payload, Err("a panic without a message".into()));
    }
}
