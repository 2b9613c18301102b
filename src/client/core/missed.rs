//! The deliveries that a stream of notifications dropped unread. The stream names them before it
//! yields anything else.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use crate::{
    client::core::delivery::{Delivery, Gap, GapCause, Notification, REMEMBERED},
    protocol::{Code, Epoch, Position, Topic},
};

/// The capacity that is kept while there is nothing to name.
const KEPT: usize = 16;

/// Deliveries that were dropped unread, merged for each topic. All are older than the queued ones.
///
/// The cost of a dropped delivery does not depend on the number of topics. A topic has at most one
/// end, and a gap and a reset for each of its last logs.
#[derive(Debug)]
pub(crate) struct Missed {
    topics: HashMap<Topic, VecDeque<Delivery>>,
    /// The order in which the topics are named. Each topic is here once.
    order: VecDeque<Topic>,
    max_topics: usize,
    /// The number of dropped deliveries of further topics.
    unnamed: u64,
}

impl Missed {
    pub(crate) fn new(max_topics: usize) -> Self {
        let (topics, order) = (HashMap::new(), VecDeque::new());
        Self { topics, order, max_topics, unnamed: 0 }
    }

    /// Drops a delivery that was not read.
    pub(crate) fn drop_unread(&mut self, delivery: Delivery) {
        let Some(topic) = delivery.topic().cloned() else { return };
        let is_full = self.order.len() >= self.max_topics;
        let of_topic = match self.topics.entry(topic) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if is_full => {
                self.unnamed = self.unnamed.saturating_add(1);
                return;
            }
            Entry::Vacant(new) => {
                self.order.push_back(new.key().clone());
                new.insert(VecDeque::new())
            }
        };
        match delivery {
            Delivery::Notification(Notification { topic, epoch, sequence, .. }) => {
                let (first, last, cause) = (sequence, sequence, GapCause::Lagged);
                miss(of_topic, Gap { topic, epoch, first, last, cause });
            }
            Delivery::Gap(gap) => miss(of_topic, gap),
            Delivery::Reset { .. } => miss_reset(of_topic, delivery),
            Delivery::End { topic, reason, position } => {
                miss_end(of_topic, topic, reason, position);
            }
            Delivery::Lost { .. } => {}
        }
    }

    /// Takes the next item. The item for further topics comes first, so that no delivery of a topic
    /// precedes a loss before it.
    pub(crate) fn take_next(&mut self) -> Option<Delivery> {
        if self.unnamed > 0 {
            return Some(Delivery::Lost { deliveries: std::mem::take(&mut self.unnamed) });
        }
        let topic = self.order.front()?;
        let of_topic = self.topics.get_mut(topic)?;
        let next = of_topic.pop_front();
        if of_topic.is_empty() {
            self.topics.remove(topic);
            self.order.pop_front();
            if self.order.is_empty() {
                self.topics.shrink_to(KEPT);
                self.order.shrink_to(KEPT);
            }
        }
        next
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.topics.clear();
        self.order.clear();
        self.unnamed = 0;
    }

    /// Whether a reset was dropped.
    pub(crate) fn has_reset(&self) -> bool {
        self.topics.values().flatten().any(Delivery::is_reset)
    }

    /// Whether a dropped reset goes to this log.
    pub(crate) fn has_reset_to(&self, epoch: Epoch) -> bool {
        self.topics.values().flatten().any(|missed| missed.is_reset_to(epoch))
    }
}

fn miss(of_topic: &mut VecDeque<Delivery>, gap: Gap) {
    match of_topic.back_mut() {
        Some(Delivery::Gap(before)) if before.epoch == gap.epoch => {
            (before.last, before.cause) = (gap.last, GapCause::Lagged);
        }
        _ => of_topic.push_back(Delivery::Gap(gap)),
    }
}

/// Adds a reset. The gap in the log before it stays, because the topic may come back to that log
/// behind the reset. Logs that it cannot come back to are removed.
fn miss_reset(of_topic: &mut VecDeque<Delivery>, reset: Delivery) {
    of_topic.push_back(reset);
    let places = of_topic.iter().enumerate().rev();
    let mut resets = places.filter(|(_, missed)| matches!(missed, Delivery::Reset { .. }));
    if let Some((at, _)) = resets.nth(REMEMBERED) {
        of_topic.drain(..at);
    }
}

/// Adds an end, which replaces an earlier one. If a gap precedes the end, nothing behind that gap
/// was handed over. The end then gets the position of the gap, so that the application can resume
/// there.
fn miss_end(
    of_topic: &mut VecDeque<Delivery>,
    topic: Topic,
    reason: Code,
    position: Option<Position>,
) {
    let hole = match of_topic.back() {
        Some(&Delivery::Gap(Gap { epoch, first, .. })) => Some(Position { epoch, next: first }),
        _ => None,
    };
    if hole.is_some() {
        of_topic.pop_back();
    }
    let is_end = |missed: &Delivery| matches!(missed, Delivery::End { .. });
    if let Some(at) = of_topic.iter().rposition(is_end) {
        of_topic.drain(..=at);
    }
    of_topic.push_back(Delivery::End { topic, reason, position: hole.or(position) });
}
