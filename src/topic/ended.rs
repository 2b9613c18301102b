//! The positions at which logs were dropped. Pure.

use std::{collections::HashMap, mem};

use crate::protocol::{Position, Topic};

/// The ends of dropped logs, by topic: the last `limit` of them, or somewhat fewer.
///
/// A topic whose log was dropped goes on at its end. So a subscriber that had received everything
/// has lost nothing, and a gap can name the numbers that another subscriber has lost.
///
/// There are two generations. When the younger one is full, the older one is dropped.
#[derive(Debug, Default)]
pub(super) struct Ended {
    young: HashMap<Topic, Position>,
    old: HashMap<Topic, Position>,
}

impl Ended {
    /// Where the log of `topic` goes on, if it was dropped.
    pub(super) fn get(&self, topic: &Topic) -> Option<Position> {
        self.young.get(topic).or_else(|| self.old.get(topic)).copied()
    }

    /// Records where the log of `topic` goes on. Returns whether other ends were dropped. The
    /// topics of those must not come back under an epoch that they may have had.
    #[must_use]
    pub(super) fn note(&mut self, topic: &Topic, end: Position, limit: usize) -> bool {
        self.old.remove(topic);
        self.young.insert(topic.clone(), end);
        if self.young.len() < (limit / 2).max(1) {
            return false;
        }
        let mut forgotten = mem::replace(&mut self.old, mem::take(&mut self.young));
        if limit < 2 {
            forgotten.extend(self.old.drain());
        }
        !forgotten.is_empty()
    }

    /// The number of ends that are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(n: usize) -> Topic {
        Topic::new(&format!("t{n}")).unwrap()
    }

    fn at(next: usize) -> Position {
        format!("e:{next}").parse().unwrap()
    }

    #[test]
    fn ends_are_kept_up_to_the_limit() {
        let (mut ended, mut forgotten) = (Ended::default(), 0);
        for n in 1..=100 {
            forgotten += usize::from(ended.note(&topic(n), at(n), 10));
            assert!(ended.len() <= 10, "{n}");
            assert_eq!(ended.get(&topic(n)), Some(at(n)));
        }
        assert_eq!((forgotten, ended.get(&topic(1))), (19, None));
        assert_eq!(ended.get(&topic(96)), Some(at(96)));
    }

    #[test]
    fn the_last_end_of_a_topic_counts() {
        let mut ended = Ended::default();
        for n in 1..=100 {
            assert!(!ended.note(&topic(1), at(n), 10));
            assert_eq!((ended.get(&topic(1)), ended.len()), (Some(at(n)), 1));
        }
    }

    /// While few topics are dropped again and again, every end is kept.
    #[test]
    fn few_topics_forget_no_ends() {
        let mut ended = Ended::default();
        for n in 1..=100 {
            assert!(!ended.note(&topic(n % 5), at(n), 10), "{n}");
            assert_eq!(ended.get(&topic(n % 5)), Some(at(n)));
        }
        assert_eq!(ended.len(), 5);
    }

    #[test]
    fn with_a_limit_below_two_every_end_is_forgotten() {
        let mut ended = Ended::default();
        assert!(ended.note(&topic(1), at(1), 0) && ended.note(&topic(1), at(2), 1));
        assert_eq!(ended.len(), 0);
    }
}
