//! The timer of a connection's driver.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::time::{Instant, Sleep};

use crate::{
    client::{clock::Clock, shared::Shared},
    coop::has_budget_remaining,
    protocol::Time,
};

/// The timer of a driver. It can be set to another time at each poll.
#[derive(Default)]
pub(crate) struct DriverTimer(Option<Alarm>);

impl DriverTimer {
    /// Whether `due` has come. If not, the task of `cx` is woken at that time.
    pub(crate) fn poll_until(
        &mut self,
        due: Option<Time>,
        clock: &Clock,
        cx: &mut Context<'_>,
    ) -> bool {
        let Some(at) = due.and_then(|due| clock.instant(due)) else {
            self.0 = None;
            return false;
        };
        let alarm = self.0.get_or_insert_with(|| Alarm::at(at));
        if alarm.deadline() != at {
            alarm.reset(at);
        }
        alarm.poll(cx).is_ready()
    }

    /// Handles the timers of the client, as opposed to those of one connection.
    pub(crate) fn poll_client(&mut self, shared: &Shared, cx: &mut Context<'_>) {
        loop {
            let due = shared.act(|core, step| core.next_timeout(cx.waker(), step));
            if !self.poll_until(due, &shared.clock, cx) {
                return;
            }
            shared.act(|core, step| core.handle_timeout(step));
        }
    }
}

/// A timer that is cheap to check before its deadline.
///
/// A driver checks each of its timers whenever it runs, and a poll of tokio's timer takes about two
/// hundred instructions. So tokio's timer is polled once for each deadline and waker. After that
/// only the time is compared.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// The waker that the timer wakes at the deadline.
    registered: Option<Waker>,
}

impl Alarm {
    /// An alarm at `deadline`. Must be called within a runtime, like [`tokio::time::sleep_until`].
    fn at(deadline: Instant) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(deadline)), registered: None }
    }

    fn deadline(&self) -> Instant {
        self.sleep.deadline()
    }

    fn reset(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.registered = None;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let wakes = |registered: &Waker| registered.will_wake(cx.waker());
        if self.registered.as_ref().is_some_and(wakes) && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        // Without budget, the timer would return pending and not register the waker.
        let registers = has_budget_remaining();
        let polled = self.sleep.as_mut().poll(cx);
        self.registered = (registers && polled.is_pending()).then(|| cx.waker().clone());
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
        time::Duration,
    };

    use futures::task::{ArcWake, waker};
    use tokio::time::advance;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl ArcWake for Wakes {
        fn wake_by_ref(wakes: &Arc<Self>) {
            wakes.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Wakes {
        fn count(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    async fn after(millis: u64) {
        advance(Duration::from_millis(millis)).await;
        tokio::task::yield_now().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_waker_that_polled_is_woken_at_the_deadline() {
        let [first, last] = [(); 2].map(|()| Arc::<Wakes>::default());
        let [by_first, by_last] = [&first, &last].map(|wakes| waker(wakes.clone()));
        let mut alarm = Alarm::at(Instant::now() + Duration::from_millis(20));
        for by in [&by_first, &by_first, &by_last, &by_last] {
            assert!(alarm.poll(&mut Context::from_waker(by)).is_pending());
        }
        after(19).await;
        assert_eq!((first.count(), last.count()), (0, 0));
        after(1).await;
        assert_eq!((first.count(), last.count()), (0, 1));
        assert!(alarm.poll(&mut Context::from_waker(&by_last)).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_that_is_reset_rings_at_the_new_deadline() {
        let wakes = Arc::<Wakes>::default();
        let by = waker(wakes.clone());
        let cx = &mut Context::from_waker(&by);
        let begun = Instant::now();
        let mut alarm = Alarm::at(begun + Duration::from_millis(20));
        assert!(alarm.poll(cx).is_pending());
        alarm.reset(begun + Duration::from_millis(50));
        assert!(alarm.poll(cx).is_pending());
        after(49).await;
        assert!(wakes.count() == 0 && alarm.poll(cx).is_pending());
        after(1).await;
        assert!(wakes.count() == 1 && alarm.poll(cx).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_that_is_polled_without_budget_rings() {
        let wakes = Arc::<Wakes>::default();
        let by = waker(wakes.clone());
        let mut alarm = Alarm::at(Instant::now() + Duration::from_millis(20));
        std::future::poll_fn(|cx| {
            while has_budget_remaining() {
                let _ = tokio::task::coop::poll_proceed(cx).map(|budget| budget.made_progress());
            }
            assert!(alarm.poll(&mut Context::from_waker(&by)).is_pending());
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
        // The task was woken because the budget was used up. Like a driver, it polls again.
        let woken = wakes.count();
        assert!(alarm.poll(&mut Context::from_waker(&by)).is_pending());
        after(20).await;
        assert_eq!(wakes.count(), woken + 1);
        assert!(alarm.poll(&mut Context::from_waker(&by)).is_ready());
    }
}
