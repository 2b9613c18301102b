//! Topics whose subscribers are to be reset, one after the other.

use std::{
    collections::HashSet,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Interval, interval};

use crate::{protocol::Topic, random::Random};

/// Spreads resets, because each makes clients work.
pub(super) struct Resets {
    /// In random order.
    queue: Vec<Topic>,
    queued: HashSet<Topic>,
    turns: Interval,
    /// When the last turn was due.
    last: Option<Instant>,
    random: Random,
}

impl Resets {
    /// Lets one topic go in each interval. The missed turns follow at once, so that a slow answer
    /// of Redis does not delay all topics.
    pub(super) fn new(every: Duration, random: Random) -> Self {
        let (queue, queued) = Default::default();
        Self { queue, queued, turns: interval(every), last: None, random }
    }

    pub(super) fn contains(&self, topic: &Topic) -> bool {
        self.queued.contains(topic)
    }

    pub(super) fn push(&mut self, topic: Topic) {
        if !self.queued.insert(topic.clone()) {
            return;
        }
        if self.queue.is_empty() {
            // The turns since the last one were not missed.
            let (now, every) = (Instant::now(), self.turns.period());
            self.turns.reset_at(self.last.map_or(now, |last| now.max(last + every)));
        }
        self.queue.push(topic);
        let (last, count) = (self.queue.len() - 1, self.queue.len() as u64);
        self.queue.swap((self.random.next_u64() % count) as usize, last);
    }

    /// The topic was reset by other means.
    pub(super) fn remove(&mut self, topic: &Topic) {
        self.queued.remove(topic);
    }

    /// The next topic, when it is its turn.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Topic> {
        // Those that were reset by other means take no turn.
        while self.queue.pop_if(|topic| !self.queued.contains(topic)).is_some() {}
        if self.queue.is_empty() {
            return Poll::Pending;
        }
        self.last = Some(ready!(self.turns.poll_tick(cx)));
        let Some(next) = self.queue.pop() else { return Poll::Pending };
        self.queued.remove(&next);
        Poll::Ready(next)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn topics_take_turns() {
        let mut resets = Resets::new(Duration::from_secs(3600), Random::seeded(1));
        let mut cx = Context::from_waker(Waker::noop());
        let name = |n: u32| Topic::new(&format!("t{n}")).unwrap();
        (0..10).chain(0..10).for_each(|n| resets.push(name(n)));
        let Poll::Ready(first) = resets.poll_next(&mut cx) else { panic!("the first waits") };
        assert!(!resets.contains(&first) && resets.poll_next(&mut cx).is_pending());
        let others: Vec<_> = (0..10).map(name).filter(|topic| *topic != first).collect();
        resets.remove(&others[0]);
        let mut left = HashSet::new();
        for _ in 0..8 {
            tokio::time::advance(Duration::from_secs(3600)).await;
            let Poll::Ready(next) = resets.poll_next(&mut cx) else { panic!("{left:?}") };
            assert!(left.insert(next));
            assert!(resets.poll_next(&mut cx).is_pending());
        }
        assert_eq!(left, others[1..].iter().cloned().collect());
        // One that comes alone waits for its turn, too.
        resets.push(name(11));
        assert!(resets.poll_next(&mut cx).is_pending());
        tokio::time::advance(Duration::from_secs(36_000)).await;
        assert!(resets.poll_next(&mut cx).is_ready() && resets.poll_next(&mut cx).is_pending());
    }
}
