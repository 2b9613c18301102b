//! The runtime's cooperative budget: how futures that are ready at once let other tasks run.
//!
//! tokio gives a task a budget for each poll. A future that is ready takes a unit of it. Without
//! budget it is pending, and the runtime polls the task again after other tasks, timers and
//! sockets. Outside a runtime there is no limit. One-shots, timers and sockets of tokio take their
//! unit themselves. These functions are for all other futures, so that no unit is taken twice.

use std::{
    cell::Cell,
    task::{Context, Poll, Waker, ready},
    thread,
};

pub(crate) use tokio::task::coop::{consume_budget, has_budget_remaining};
use tokio::task::{self, coop::poll_proceed};

/// The units of a whole budget.
const BUDGET: usize = 128;
/// The units of a published message. A reader takes one unit for each message, so that one reader
/// keeps up with several tasks that publish.
const UNITS_PER_MESSAGE: usize = 4;
/// Bytes of a message that take one more unit. A whole budget is 64 KiB: as much as a connection
/// copies out of the topics before it writes.
const BYTES_PER_UNIT: usize = 512;

thread_local! {
    /// Units that were taken on this thread outside of tasks since it last yielded.
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

/// Polls a future, and takes a unit of the budget if it is ready. Pending if no budget is left.
pub(crate) fn poll_budgeted<T>(
    cx: &mut Context<'_>,
    poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    let unit = ready!(poll_proceed(cx));
    let polled = poll(cx);
    if polled.is_ready() {
        unit.made_progress();
    }
    polled
}

/// Takes the units of a published message of this size from the task's budget. If the budget is
/// used up, other tasks run first.
///
/// So while a task publishes in a loop, connections get a turn long before a topic drops messages
/// that they have not read.
pub(crate) async fn consume_message(bytes: usize) {
    let units = units_of(bytes);
    // A thread within `block_on` is not a task: the runtime cannot run others on it.
    if task::try_id().is_none() && TAKEN.get() + units > BUDGET {
        TAKEN.set(0);
        thread::yield_now();
    }
    TAKEN.set(TAKEN.get().saturating_add(units));
    for _ in 0..units {
        consume_budget().await;
    }
}

/// As [`consume_message`], for a driver, which checks itself whether budget is left.
pub(crate) fn spend_message(bytes: usize) {
    let cx = &mut Context::from_waker(Waker::noop());
    for _ in 0..units_of(bytes) {
        match poll_proceed(cx) {
            Poll::Ready(unit) => unit.made_progress(),
            Poll::Pending => return,
        }
    }
}

fn units_of(bytes: usize) -> usize {
    UNITS_PER_MESSAGE + bytes / BYTES_PER_UNIT
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin};

    use super::*;

    /// How many messages of `bytes` bytes a task publishes in one turn.
    async fn in_one_turn(bytes: usize) -> usize {
        task::yield_now().await;
        let count = Cell::new(0);
        let mut publishing = pin!(async {
            loop {
                consume_message(bytes).await;
                count.set(count.get() + 1);
            }
        });
        let is_pending = poll_fn(|cx| Poll::Ready(publishing.as_mut().poll(cx).is_pending())).await;
        assert!(is_pending);
        count.get()
    }

    #[tokio::test]
    async fn a_turn_is_bounded_by_messages_and_by_bytes() {
        assert_eq!(in_one_turn(0).await, 32);
        assert_eq!(in_one_turn(32).await, 32);
        assert_eq!(in_one_turn(2_048).await, 16);
        assert!(in_one_turn(60_000).await <= 1);
    }

    /// A driver's budget is used up by as many messages as a task may publish in one turn.
    #[tokio::test]
    async fn a_driver_spends_its_budget_on_messages() {
        for (bytes, messages) in [(0, 32), (2_048, 16), (60_000, 2)] {
            task::yield_now().await;
            (1..messages).for_each(|_| spend_message(bytes));
            assert!(has_budget_remaining(), "{bytes}");
            spend_message(bytes);
            assert!(!has_budget_remaining(), "{bytes}");
        }
    }

    /// A thread outside of tasks yields once it has published as much as a task may in one turn.
    #[test]
    fn a_thread_yields_after_a_whole_budget() {
        let cx = &mut Context::from_waker(Waker::noop());
        for bytes in [0, 100, 2_048, 4_096].into_iter().cycle().take(1_000) {
            assert!(pin!(consume_message(bytes)).poll(cx).is_ready());
            assert!(TAKEN.get() <= BUDGET, "the thread has not yielded");
        }
        assert!(pin!(consume_message(1 << 20)).poll(cx).is_ready());
        assert!(pin!(consume_message(0)).poll(cx).is_ready());
        assert_eq!(TAKEN.get(), UNITS_PER_MESSAGE);
    }

    #[tokio::test]
    async fn ready_polls_consume_budget_and_pending_polls_do_not() {
        task::yield_now().await;
        let polls = poll_fn(|cx| {
            let pending =
                (0..1_000).filter(|_| poll_budgeted(cx, |_| Poll::<()>::Pending).is_ready());
            assert_eq!(pending.count(), 0);
            let ready =
                (0..1_000).take_while(|_| poll_budgeted(cx, |_| Poll::Ready(())).is_ready());
            Poll::Ready(ready.count())
        });
        assert_eq!(polls.await, BUDGET);
    }

    #[test]
    fn budget_is_unlimited_outside_a_runtime() {
        let cx = &mut Context::from_waker(Waker::noop());
        assert!((0..1_000).all(|_| poll_budgeted(cx, |_| Poll::Ready(())).is_ready()));
        assert!((0..1_000).all(|_| pin!(consume_message(1_000)).poll(cx).is_ready()));
        assert!(has_budget_remaining());
    }
}
