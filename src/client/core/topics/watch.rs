//! The streams whose unacknowledged items are reported after a time.

use std::collections::{BTreeMap, HashMap};

use crate::{
    client::core::inbox::Inbox,
    protocol::{Time, Topic},
    sync::Arc,
};

/// One timer for each stream that has an unacknowledged item. It is not reset by acks: when it is
/// due, the stream's reader says whether its lowest item is overdue.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// By time, and by the address of the inbox.
    due: BTreeMap<(Time, usize), (Topic, Arc<Inbox>)>,
    times: HashMap<usize, Time>,
}

impl Watch {
    /// Sets the timer of a stream.
    pub(super) fn add(&mut self, topic: Topic, inbox: Arc<Inbox>, at: Time) {
        self.remove(&inbox);
        let key = Arc::as_ptr(&inbox).addr();
        self.times.insert(key, at);
        self.due.insert((at, key), (topic, inbox));
    }

    /// Removes a stream that leaves its topic.
    pub(super) fn remove(&mut self, inbox: &Arc<Inbox>) {
        let key = Arc::as_ptr(inbox).addr();
        if let Some(at) = self.times.remove(&key) {
            self.due.remove(&(at, key));
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        self.due.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Takes out a stream whose timer is due.
    pub(super) fn take_due(&mut self, now: Time) -> Option<(Topic, Arc<Inbox>)> {
        let first = self.due.first_entry().filter(|first| first.key().0 <= now)?;
        let ((_, key), stream) = first.remove_entry();
        self.times.remove(&key);
        Some(stream)
    }

    pub(super) fn clear(&mut self) {
        self.due.clear();
        self.times.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_has_one_timer_and_leaves_nothing() {
        let (mut watch, topic) = (Watch::default(), Topic::new("t").unwrap());
        let [one, other] = [(); 2].map(|()| Arc::new(Inbox::new(1, 1)));
        let at = Time::from_millis;
        watch.add(topic.clone(), one.clone(), at(9));
        watch.add(topic.clone(), one.clone(), at(5));
        watch.add(topic.clone(), other.clone(), at(7));
        assert_eq!((watch.next_timeout(), watch.due.len()), (Some(at(5)), 2));
        assert!(watch.take_due(at(4)).is_none());
        assert!(watch.take_due(at(6)).is_some_and(|(_, due)| Arc::ptr_eq(&due, &one)));
        assert!(watch.take_due(at(6)).is_none());
        watch.remove(&other);
        watch.remove(&one);
        assert!(watch.due.is_empty() && watch.times.is_empty());
    }
}
