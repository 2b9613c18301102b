//! Finds out which subscribers have acknowledged a message, for [`Publisher::publish_confirmed`].
//!
//! [`Publisher::publish_confirmed`]: crate::Publisher::publish_confirmed

use std::{
    collections::{BTreeMap, BTreeSet},
    task::{Context, Poll, Waker},
};

use dashmap::DashMap;

use crate::{
    guard::wake,
    protocol::{Epoch, Position, Topic},
    sync::{Arc, AtomicUsize, Mutex, Ordering},
    topic::{Confirmed, Published},
};

/// The subscribers of a server that acknowledge, by topic.
#[derive(Debug, Default)]
pub(crate) struct Confirmations {
    /// Only topics with such subscribers, or with publishers that wait.
    topics: DashMap<Topic, Arc<Subscribers>>,
    /// The number of the next subscriber, or of the next message that is waited for.
    next: AtomicUsize,
}

/// The subscribers of a topic that acknowledge, and the messages that are waited for.
#[derive(Debug, Default)]
struct Subscribers {
    /// How many messages are waited for. An ack locks `inner` only if there are any.
    awaited: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    subscribers: BTreeSet<usize>,
    messages: BTreeMap<usize, Message>,
}

/// A message that is waited for.
#[derive(Debug, Default)]
struct Message {
    /// `None` until the store has accepted it. A subscriber may acknowledge it before that.
    published: Option<Published>,
    /// The subscribers that have not acknowledged it, with what they did until it was published.
    open: BTreeMap<usize, Early>,
    acknowledged: usize,
    waker: Option<Waker>,
}

/// What happened on a subscription.
#[derive(Clone, Copy, Debug)]
enum Progress {
    /// The subscriber has handled everything below this position.
    Acknowledged(Position),
    /// The numbers from the first to the second were named in a gap.
    Missed(Epoch, u64, u64),
}

/// What happened on a subscription before the number of the message was known.
#[derive(Debug, Default)]
struct Early {
    acknowledged: Option<Position>,
    /// The gaps. Several are merged to one, so a message between them counts as missed, too.
    missed: Option<(Epoch, u64, u64)>,
}

impl Confirmations {
    /// Registers a subscriber that acknowledges, until the returned value is dropped.
    pub(crate) fn join(self: &Arc<Self>, topic: &Topic) -> Subscriber {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let of = self.with(topic, |inner| {
            inner.subscribers.insert(id);
        });
        Subscriber(Member { confirmations: self.clone(), topic: topic.clone(), of, id })
    }

    /// Begins to wait for the acks of a message that is about to be appended.
    pub(super) fn expect(self: &Arc<Self>, topic: &Topic) -> Expected {
        let (id, mut subscribers) = (self.next.fetch_add(1, Ordering::Relaxed), 0);
        let of = self.with(topic, |inner| {
            let open: BTreeMap<_, _> =
                inner.subscribers.iter().map(|&id| (id, Early::default())).collect();
            subscribers = open.len();
            inner.messages.insert(id, Message { open, ..Message::default() });
        });
        of.awaited.fetch_add(1, Ordering::AcqRel);
        let member = Member { confirmations: self.clone(), topic: topic.clone(), of, id };
        Expected { member, subscribers }
    }

    /// Changes the entry of a topic, and creates it where there is none.
    fn with(&self, topic: &Topic, change: impl FnOnce(&mut Inner)) -> Arc<Subscribers> {
        // The entry is locked meanwhile, so that it is not removed as an empty one.
        let of = self.topics.entry(topic.clone()).or_default();
        change(&mut of.inner.lock());
        of.clone()
    }
}

/// A subscriber, or a message that is waited for, in the table.
#[derive(Debug)]
struct Member {
    confirmations: Arc<Confirmations>,
    topic: Topic,
    of: Arc<Subscribers>,
    id: usize,
}

impl Member {
    /// Removes what belongs to it, and the topic's entry once that is empty.
    fn leave(&self, remove: impl FnOnce(&mut Inner)) {
        remove(&mut self.of.inner.lock());
        self.confirmations.topics.remove_if(&self.topic, |_, of| of.inner.lock().is_empty());
    }
}

/// A subscriber that acknowledges. Dropping it ends the waiting for it.
#[derive(Debug)]
pub(crate) struct Subscriber(Member);

impl Subscriber {
    /// The subscriber has handled everything below `position`.
    pub(crate) fn acknowledged(&self, position: Position) {
        self.note(Progress::Acknowledged(position));
    }

    /// The numbers from `first` to `last` were named in a gap.
    pub(crate) fn missed(&self, epoch: Epoch, first: u64, last: u64) {
        self.note(Progress::Missed(epoch, first, last));
    }

    fn note(&self, progress: Progress) {
        let Member { of, id, .. } = &self.0;
        // The message was appended after its publisher began to wait, and the subscriber got it
        // after that. So its ack sees the count.
        if of.awaited.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut inner = of.inner.lock();
        let wakers: Vec<_> =
            inner.messages.values_mut().map(|one| one.note(*id, progress)).collect();
        drop(inner);
        wakers.into_iter().for_each(wake);
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let mut wakers = Vec::new();
        self.0.leave(|inner| {
            inner.subscribers.remove(&self.0.id);
            wakers.extend(inner.messages.values_mut().map(|one| one.left(self.0.id)));
        });
        wakers.into_iter().for_each(wake);
    }
}

/// A message whose acks are waited for. Dropping it gives up the waiting.
#[derive(Debug)]
pub(super) struct Expected {
    member: Member,
    /// How many subscribers there were when the waiting began.
    subscribers: usize,
}

impl Expected {
    /// The message was published under this number.
    pub(super) fn published(&self, published: Published) {
        self.change(|message| message.publish(published));
    }

    /// Waits until no subscriber's ack is missing.
    pub(super) fn poll_all(&self, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let (is_done, before) =
            self.change(|message| (message.open.is_empty(), message.waker.replace(waker)));
        // A waker is user code, so it is dropped outside the lock.
        drop(before);
        if is_done { Poll::Ready(()) } else { Poll::Pending }
    }

    /// What is known of the message now.
    pub(super) fn confirmed(&self, published: Published) -> Confirmed {
        let acknowledged = self.change(|message| message.acknowledged);
        Confirmed { published, acknowledged, subscribers: self.subscribers }
    }

    /// Changes the message. It is in the table until this value is dropped.
    fn change<T: Default>(&self, change: impl FnOnce(&mut Message) -> T) -> T {
        let mut inner = self.member.of.inner.lock();
        inner.messages.get_mut(&self.member.id).map(change).unwrap_or_default()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.member.of.awaited.fetch_sub(1, Ordering::AcqRel);
        let mut gone = None;
        self.member.leave(|inner| gone = inner.messages.remove(&self.member.id));
    }
}

impl Inner {
    fn is_empty(&self) -> bool {
        self.subscribers.is_empty() && self.messages.is_empty()
    }
}

impl Message {
    /// Takes in what happened on a subscription. Returns the task to be woken.
    fn note(&mut self, id: usize, progress: Progress) -> Option<Waker> {
        let open = self.open.get_mut(&id)?;
        let Some(published) = self.published else {
            open.note(progress);
            return None;
        };
        self.settle(id, progress.settles(published)?)
    }

    /// Returns the task to be woken.
    fn settle(&mut self, id: usize, is_acknowledged: bool) -> Option<Waker> {
        self.open.remove(&id)?;
        self.acknowledged += usize::from(is_acknowledged);
        if self.open.is_empty() { self.waker.take() } else { None }
    }

    fn left(&mut self, id: usize) -> Option<Waker> {
        self.settle(id, false)
    }

    fn publish(&mut self, published: Published) {
        self.published = Some(published);
        let settled = |(&id, early): (&usize, &Early)| Some((id, early.settles(published)?));
        let settled: Vec<_> = self.open.iter().filter_map(settled).collect();
        for (id, is_acknowledged) in settled {
            // Nobody waits yet, so nobody is woken.
            self.settle(id, is_acknowledged);
        }
    }
}

impl Progress {
    /// Whether the message was acknowledged; `None` if that is still open.
    fn settles(self, Published { epoch, sequence }: Published) -> Option<bool> {
        match self {
            Self::Acknowledged(at) => (at.epoch == epoch && at.next > sequence).then_some(true),
            Self::Missed(of, first, last) => {
                (of == epoch && (first..=last).contains(&sequence)).then_some(false)
            }
        }
    }
}

impl Early {
    fn note(&mut self, progress: Progress) {
        match progress {
            Progress::Acknowledged(position) => self.acknowledged = Some(position),
            Progress::Missed(epoch, first, last) => {
                let before = self.missed.filter(|before| before.0 == epoch);
                self.missed = Some((epoch, before.map_or(first, |before| before.1), last));
            }
        }
    }

    /// As [`Progress::settles`].
    fn settles(&self, published: Published) -> Option<bool> {
        let missed = self.missed.map(|(epoch, first, last)| Progress::Missed(epoch, first, last));
        let acknowledged = self.acknowledged.map(Progress::Acknowledged);
        missed.into_iter().chain(acknowledged).find_map(|progress| progress.settles(published))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> Topic {
        Topic::new("t").unwrap()
    }

    fn at(next: u64) -> Position {
        Position { epoch: Epoch::new("e").unwrap(), next }
    }

    fn number(sequence: u64) -> Published {
        Published::new(at(1).epoch, sequence)
    }

    /// How many have acknowledged it, of how many, once no ack is missing.
    fn outcome(expected: &Expected, sequence: u64) -> Option<(usize, usize)> {
        let is_done = expected.poll_all(&mut Context::from_waker(Waker::noop())).is_ready();
        let confirmed = expected.confirmed(number(sequence));
        is_done.then_some((confirmed.acknowledged, confirmed.subscribers))
    }

    #[test]
    fn each_subscriber_acknowledges_misses_or_leaves() {
        let all = Arc::new(Confirmations::default());
        let [one, two, three] = [(); 3].map(|()| all.join(&topic()));
        let expected = all.expect(&topic());
        expected.published(number(5));
        one.acknowledged(at(5));
        one.acknowledged(Position { epoch: Epoch::new("f").unwrap(), next: 9 });
        two.missed(at(1).epoch, 3, 4);
        assert_eq!(outcome(&expected, 5), None, "none of these covers number 5");
        one.acknowledged(at(6));
        one.acknowledged(at(7));
        two.missed(at(1).epoch, 5, 9);
        two.acknowledged(at(10));
        assert_eq!(outcome(&expected, 5), None);
        drop(three);
        assert_eq!(outcome(&expected, 5), Some((1, 3)));
    }

    /// The subscribers may be faster than the answer of the store.
    #[test]
    fn acks_before_the_number_is_known_count() {
        let all = Arc::new(Confirmations::default());
        let [one, two, three, four] = [(); 4].map(|()| all.join(&topic()));
        let expected = all.expect(&topic());
        one.acknowledged(at(6));
        two.acknowledged(at(5));
        three.missed(at(1).epoch, 2, 3);
        three.missed(at(1).epoch, 5, 5);
        three.acknowledged(at(6));
        expected.published(number(5));
        assert_eq!(outcome(&expected, 5), None);
        two.acknowledged(at(6));
        four.acknowledged(at(6));
        assert_eq!(outcome(&expected, 5), Some((3, 4)));
    }

    #[test]
    fn later_subscribers_and_other_topics_are_not_counted() {
        let all = Arc::new(Confirmations::default());
        let other = all.join(&Topic::new("u").unwrap());
        let expected = all.expect(&topic());
        let later = all.join(&topic());
        expected.published(number(1));
        assert_eq!(outcome(&expected, 1), Some((0, 0)));
        drop((other, later, expected));
        assert!(all.topics.is_empty());
    }

    #[test]
    fn empty_entries_are_removed() {
        let all = Arc::new(Confirmations::default());
        let subscriber = all.join(&topic());
        let expected = all.expect(&topic());
        drop(subscriber);
        assert_eq!(all.topics.len(), 1);
        drop(expected);
        assert!(all.topics.is_empty());
        let subscriber = all.join(&topic());
        assert_eq!(subscriber.0.of.awaited.load(Ordering::Relaxed), 0);
        drop(all.expect(&topic()));
        assert_eq!((all.topics.len(), subscriber.0.of.inner.lock().messages.len()), (1, 0));
    }
}
