//! The position of the application in a subscription, and the tasks that wait for a position.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use crate::{
    client::core::inbox::Inbox,
    coop::poll_budgeted,
    guard::wake,
    protocol::{Epoch, Position},
    sync::{Arc, Mutex},
};

/// Logs that a subscription remembers after it has left them. A task that waits for a position has
/// it from a reply on the same connection. So its log was left recently, or the topic will come
/// back to it.
const LEFT_LOGS: usize = 8;

/// The position of the application in one subscription. The position of the topic on the wire is
/// higher by the items that wait in the inbox.
///
/// **Invariant:** the position only rises within a log, and every waiter waits for a position that
/// was not seen.
#[derive(Debug)]
pub(crate) struct Standing {
    reached: Mutex<Reached>,
    /// The deliveries on their way to the application. Its lock is taken after that of `reached`.
    inbox: Arc<Inbox>,
}

#[derive(Debug, Default)]
struct Reached {
    /// Everything below it was handed over or named. `None` until the beginning is known.
    position: Option<Position>,
    /// Logs that were left, the latest at the back.
    left: VecDeque<Epoch>,
    is_over: bool,
    /// The waiters of each log, by the awaited number and a key. So a delivery costs time only for
    /// the tasks that waited for it.
    waiting: HashMap<Epoch, BTreeMap<(u64, u64), Waker>>,
    /// The key of the next waiter.
    key: u64,
}

impl Standing {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Self {
        Self { reached: Mutex::default(), inbox }
    }

    pub(crate) fn position(&self) -> Option<Position> {
        self.reached.lock().position
    }

    /// Notes that all below `position` was handed over. It may be in another log than before. A
    /// lower position in the same log is ignored: it was handed over again.
    pub(crate) fn advance(&self, position: Position) {
        let mut reached = self.reached.lock();
        let before = reached.position;
        let reset = before.filter(|before| before.epoch != position.epoch);
        if reset.is_none() && before.is_some_and(|before| before.next > position.next) {
            return;
        }
        reached.position = Some(position);
        if let Some(before) = reset {
            // A log that the topic has come back to does not count as left.
            reached.left.retain(|left| *left != position.epoch && *left != before.epoch);
            if reached.left.len() == LEFT_LOGS {
                reached.left.pop_front();
            }
            reached.left.push_back(before.epoch);
            self.inbox.handed_over_reset();
        }
        if reached.waiting.is_empty() {
            return;
        }
        let done = match reset {
            Some(_) => self.take_decided(&mut reached),
            None => reached.take_seen(position),
        };
        drop(reached);
        done.into_iter().map(Some).for_each(wake);
    }

    /// Notes that nothing more is handed over.
    pub(crate) fn end(&self) {
        let mut reached = self.reached.lock();
        reached.is_over = true;
        let done = self.take_decided(&mut reached);
        drop(reached);
        done.into_iter().map(Some).for_each(wake);
    }

    /// Whether all below `position` was seen (`true`), or can no longer be seen (`false`). `None`
    /// while it may still be seen. The waiters of a log that was left get `false`, unless a reset
    /// to that log is on its way to the application.
    fn has_seen(&self, reached: &Reached, position: Position) -> Option<bool> {
        let is_behind = |own: Position| own.epoch == position.epoch && own.next >= position.next;
        if reached.position.is_some_and(is_behind) {
            return Some(true);
        }
        let is_left =
            || reached.left.contains(&position.epoch) && !self.inbox.comes_back_to(position.epoch);
        (reached.is_over || is_left()).then_some(false)
    }

    /// Takes out the waiters whose result is known, in the order in which they began to wait. Used
    /// after a reset and at the end.
    fn take_decided(&self, reached: &mut Reached) -> Vec<Waker> {
        let mut decided = Vec::new();
        for (epoch, of_log) in std::mem::take(&mut reached.waiting) {
            for ((next, key), waker) in of_log {
                match self.has_seen(reached, Position { epoch, next }) {
                    Some(_) => decided.push((key, waker)),
                    None => drop(reached.waiting_in(epoch).insert((next, key), waker)),
                }
            }
        }
        decided.sort_unstable_by_key(|(key, _)| *key);
        decided.into_iter().map(|(_, waker)| waker).collect()
    }
}

impl Reached {
    fn waiting_in(&mut self, epoch: Epoch) -> &mut BTreeMap<(u64, u64), Waker> {
        self.waiting.entry(epoch).or_default()
    }

    /// Takes out the waiters for positions up to `position`, in its log.
    fn take_seen(&mut self, position: Position) -> Vec<Waker> {
        let mut seen = Vec::new();
        let Some(of_log) = self.waiting.get_mut(&position.epoch) else { return seen };
        while let Some(first) = of_log.first_entry().filter(|one| one.key().0 <= position.next) {
            seen.push(first.remove());
        }
        if of_log.is_empty() {
            self.waiting.remove(&position.epoch);
        }
        seen
    }

    /// Registers a waker under `key`, or under a new key. Returns the waker that it replaces, to be
    /// dropped outside the lock.
    fn wait(&mut self, key: &mut Option<u64>, position: Position, waker: Waker) -> Option<Waker> {
        let key = *key.get_or_insert_with(|| {
            self.key += 1;
            self.key
        });
        self.waiting_in(position.epoch).insert((position.next, key), waker)
    }

    /// Removes the waker of a task that no longer waits. It is returned, to be dropped outside the
    /// lock.
    fn give_up(&mut self, key: u64, position: Position) -> Option<Waker> {
        let of_log = self.waiting.get_mut(&position.epoch)?;
        let waker = of_log.remove(&(position.next, key));
        if of_log.is_empty() {
            self.waiting.remove(&position.epoch);
        }
        waker
    }
}

/// Shows other tasks how far a subscription was read: see
/// [`Subscription::progress`](crate::Subscription::progress).
///
/// ```
/// # use bellwire::{CallError, Client};
/// # async fn example(client: Client) -> Result<(), CallError> {
/// let mut offers = client.subscribe("offers").await?;
/// let progress = offers.progress();
/// tokio::spawn(async move { while let Some(_delivery) = offers.next().await {} });
///
/// let reply = client.call("offers.add", r#"{"id":44}"#).replied().await?;
/// if let Some(after) = reply.after {
///     println!("told of it: {}", progress.seen(after.position).await);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Progress {
    standing: Arc<Standing>,
    /// The position where the subscription began.
    start: Position,
}

impl Progress {
    pub(crate) fn new(standing: Arc<Standing>, start: Position) -> Self {
        Self { standing, start }
    }

    /// The position of the application: as
    /// [`Subscription::position`](crate::Subscription::position).
    pub fn position(&self) -> Position {
        self.standing.position().unwrap_or(self.start)
    }

    /// Waits until the application has seen everything below `position`: as
    /// [`Subscription::seen`](crate::Subscription::seen).
    pub fn seen(&self, position: Position) -> Seen {
        Seen::new(self.standing.clone(), position)
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("position", &self.position()).finish_non_exhaustive()
    }
}

/// A future that ends when the application has seen everything below a position (`true`), or no
/// longer can (`false`): see [`Subscription::seen`](crate::Subscription::seen).
///
/// # Cancel safety
/// Dropping it leaves nothing behind.
#[must_use = "futures do nothing unless they are polled"]
pub struct Seen {
    standing: Arc<Standing>,
    position: Position,
    key: Option<u64>,
}

impl Seen {
    pub(crate) fn new(standing: Arc<Standing>, position: Position) -> Self {
        Self { standing, position, key: None }
    }
}

impl Future for Seen {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let this = self.get_mut();
        poll_budgeted(cx, |cx| this.poll_seen(cx))
    }
}

impl Seen {
    fn poll_seen(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        // Dropping a waker runs code of the runtime, so it is dropped outside the lock.
        let waker = cx.waker().clone();
        let mut reached = self.standing.reached.lock();
        if let Some(has_seen) = self.standing.has_seen(&reached, self.position) {
            return Poll::Ready(has_seen);
        }
        let before = reached.wait(&mut self.key, self.position, waker);
        drop(reached);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut reached = self.standing.reached.lock();
        let gone = reached.give_up(key, self.position);
        drop(reached);
        drop(gone);
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seen").field("position", &self.position).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::{client::core::delivery::Delivery, protocol::Topic};

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    fn standing(text: &str) -> Arc<Standing> {
        let standing = Arc::new(Standing::new(Arc::new(Inbox::new(8, 8))));
        standing.advance(at(text));
        standing
    }

    /// The result, if it has ended.
    fn outcome(seen: &mut Seen) -> Option<bool> {
        match pin!(seen).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(has_seen) => Some(has_seen),
            Poll::Pending => None,
        }
    }

    fn is_seen(seen: &mut Seen) -> bool {
        outcome(seen) == Some(true)
    }

    fn is_left(seen: &mut Seen) -> bool {
        outcome(seen) == Some(false)
    }

    #[test]
    fn seen_completes_when_everything_below_is_handed_over() {
        let standing = standing("e:5");
        let mut seen = ["e:5", "e:6", "e:7"].map(|text| Seen::new(standing.clone(), at(text)));
        assert_eq!(seen.each_mut().map(is_seen), [true, false, false]);
        standing.advance(at("e:6"));
        assert_eq!(seen.each_mut().map(is_seen), [true, true, false]);
        standing.advance(at("e:9"));
        assert!(is_seen(&mut seen[2]));
    }

    #[test]
    fn seen_fails_for_an_old_log_and_waits_for_a_new_one() {
        let standing = standing("e:5");
        let mut old = Seen::new(standing.clone(), at("e:9"));
        let mut new = Seen::new(standing.clone(), at("f:2"));
        assert!(outcome(&mut old).or(outcome(&mut new)).is_none());
        standing.advance(at("f:1"));
        assert!(is_left(&mut old) && outcome(&mut new).is_none());
        standing.advance(at("f:2"));
        assert!(is_seen(&mut new));
        // The topic is back in the first log, so that one counts as present, and the second as
        // left.
        standing.advance(at("e:5"));
        assert!(!is_seen(&mut Seen::new(standing.clone(), at("e:9"))));
        assert!(is_seen(&mut Seen::new(standing.clone(), at("e:5"))));
        assert!(is_left(&mut Seen::new(standing.clone(), at("f:9"))));
    }

    #[test]
    fn seen_waits_again_after_a_return_to_a_log() {
        let standing = standing("e:5");
        standing.advance(at("f:1"));
        standing.advance(at("e:5"));
        let mut seen = ["f:9", "e:5", "e:6"].map(|text| Seen::new(standing.clone(), at(text)));
        assert_eq!(seen.each_mut().map(outcome), [Some(false), Some(true), None]);
        standing.advance(at("e:6"));
        assert!(is_seen(&mut seen[2]));
    }

    /// A reset to the log is queued, but was not handed over yet.
    #[test]
    fn seen_waits_while_a_return_to_the_log_is_queued() {
        let standing = standing("e:5");
        standing.advance(at("f:1"));
        let topic = Topic::new("t").unwrap();
        let reset = Delivery::Reset { topic, position: at("e:5") };
        assert!(standing.inbox.push(reset).is_none());
        let mut seen = Seen::new(standing.clone(), at("e:6"));
        assert!(!is_seen(&mut seen));
        let taken = standing.inbox.poll_next(&mut Context::from_waker(Waker::noop()));
        assert!(taken.is_ready() && !is_seen(&mut seen), "taken out, and not handed over");
        standing.advance(at("e:5"));
        assert!(!is_seen(&mut seen));
        standing.advance(at("e:6"));
        assert!(is_seen(&mut seen));
    }

    #[test]
    fn seen_fails_at_the_end_of_the_subscription() {
        let standing = standing("e:5");
        let mut seen = Seen::new(standing.clone(), at("g:9"));
        assert_eq!(outcome(&mut seen), None);
        standing.end();
        assert!(is_left(&mut seen) && is_seen(&mut Seen::new(standing, at("e:5"))));
    }

    #[test]
    fn a_dropped_seen_leaves_no_waker() {
        let standing = standing("e:5");
        let mut seen = Seen::new(standing.clone(), at("e:6"));
        assert!(!is_seen(&mut seen) && !is_seen(&mut seen));
        assert_eq!(standing.reached.lock().waiting[&at("e:6").epoch].len(), 1);
        drop(seen);
        assert!(standing.reached.lock().waiting.is_empty());
        (0..100).for_each(|n| standing.advance(Position { epoch: Epoch::from_bits(n), next: 1 }));
        assert_eq!(standing.reached.lock().left.len(), LEFT_LOGS);
    }
}
