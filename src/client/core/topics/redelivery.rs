//! What the streams of a topic get again after a resume.

use crate::{
    client::core::{
        delivery::{Delivery, Gap, GapCause},
        inbox::Inbox,
        reader::Reader,
    },
    protocol::Position,
    sync::{Arc, Weak},
};

/// The readers of a topic that redeliver, or report unacknowledged items, and the course of a
/// redelivery.
///
/// A resume asks for the lowest position that one of them has not handled. The streams that take
/// part discard their queues, and get everything from there on. Below the position that the topic
/// had reached, nobody else gets anything.
#[derive(Debug, Default)]
pub(super) struct Redelivery {
    readers: Vec<(Arc<Inbox>, Weak<Reader>)>,
    /// The position that the last `/subscribe` asked for, and the streams that take part.
    asked: Option<(Position, Vec<Arc<Inbox>>)>,
    /// Set while numbers come again.
    again: Option<Again>,
}

/// Numbers that come again.
#[derive(Debug)]
struct Again {
    /// The position that the topic had reached.
    reached: Position,
    /// The next number that comes again.
    next: u64,
    streams: Vec<Arc<Inbox>>,
}

/// A delivery, divided into what only the streams that take part get, and what all get.
pub(super) struct Divided {
    pub(super) again: Vec<Delivery>,
    pub(super) streams: Vec<Arc<Inbox>>,
    pub(super) new: Option<Delivery>,
}

impl Redelivery {
    pub(super) fn join(&mut self, inbox: Arc<Inbox>, reader: Weak<Reader>) {
        self.readers.push((inbox, reader));
    }

    pub(super) fn leave(&mut self, inbox: &Arc<Inbox>) {
        self.readers.retain(|(other, _)| !Arc::ptr_eq(other, inbox));
        let asked = self.asked.iter_mut().map(|(_, streams)| streams);
        let again = self.again.iter_mut().map(|again| &mut again.streams);
        asked.chain(again).for_each(|streams| streams.retain(|it| !Arc::ptr_eq(it, inbox)));
    }

    pub(super) fn reader(&self, inbox: &Arc<Inbox>) -> Option<Arc<Reader>> {
        let found = self.readers.iter().find(|(other, _)| Arc::ptr_eq(other, inbox));
        found.and_then(|(_, reader)| reader.upgrade())
    }

    /// Decides where a topic that has reached `own` resumes. A stream does not take part while it
    /// has still to hand over a reset, because its own position is in another log then. Nor does
    /// one that has not begun.
    pub(super) fn ask(&mut self, own: Position) -> Position {
        let (mut from, mut streams) = (own, Vec::new());
        for (inbox, reader) in &self.readers {
            let reader = reader.upgrade().filter(|reader| reader.redelivers());
            let floor = reader.and_then(|reader| reader.floor());
            let floor = floor.filter(|floor| floor.epoch == own.epoch && !inbox.has_reset());
            if let Some(floor) = floor {
                from.next = from.next.min(floor.next);
                streams.push(inbox.clone());
            }
        }
        self.asked = Some((from, streams));
        from
    }

    /// Takes in that no `/subscribe` with a position was sent last.
    pub(super) fn ask_nothing(&mut self) {
        self.asked = None;
    }

    /// Takes in that the resume was accepted in the log of `next`. Returns where the topic goes on,
    /// if it is below the position `own` that it had reached.
    pub(super) fn accepted(&mut self, own: Position, next: Position) -> Option<Position> {
        let (from, streams) = self.asked.as_ref()?;
        if from.epoch != next.epoch || from.next >= own.next {
            return None;
        }
        streams.iter().for_each(|inbox| inbox.discard());
        self.again = Some(Again { reached: own, next: from.next, streams: streams.clone() });
        Some(*from)
    }

    /// The readers that take part in an accepted resume. The server's acks begin at `next`. Returns
    /// what each of them has handled.
    pub(super) fn resumed(&mut self, next: u64) -> Vec<(Arc<Inbox>, Position)> {
        let streams = self.asked.take().map(|(_, streams)| streams).unwrap_or_default();
        let resumed = streams.into_iter().filter_map(|inbox| {
            let floor = self.reader(&inbox)?.resume(next)?;
            Some((inbox, floor))
        });
        resumed.collect()
    }

    /// The position that the topic had reached before, while numbers come again.
    pub(super) fn reached(&self) -> Option<Position> {
        self.again.as_ref().map(|again| again.reached)
    }

    /// Divides a delivery while numbers come again. Otherwise it is returned as it is.
    pub(super) fn divide(&mut self, delivery: Delivery) -> Result<Divided, Delivery> {
        let Some(again) = &mut self.again else { return Err(delivery) };
        let (again, new, is_over) = again.divide(delivery);
        let streams = match &mut self.again {
            Some(coming) if is_over => std::mem::take(&mut coming.streams),
            Some(coming) => coming.streams.clone(),
            None => Vec::new(),
        };
        if is_over {
            self.again = None;
        }
        Ok(Divided { again, streams, new })
    }
}

impl Again {
    /// Returns what only the streams that take part get, what all get, and whether this is over.
    fn divide(&mut self, delivery: Delivery) -> (Vec<Delivery>, Option<Delivery>, bool) {
        let Position { epoch, next: reached } = self.reached;
        let (first, last) = match &delivery {
            Delivery::Notification(news) if news.epoch == epoch => (news.sequence, news.sequence),
            Delivery::Gap(gap) if gap.epoch == epoch => (gap.first, gap.last),
            // These streams resume from a position of their own.
            Delivery::End { .. } => return (Vec::new(), Some(delivery), true),
            _ => (reached, u64::MAX),
        };
        let skipped = delivery.topic().and_then(|topic| {
            let (first, last) = (self.next, first.min(reached) - 1);
            let (topic, cause) = (topic.clone(), GapCause::Lost);
            (first <= last).then(|| Delivery::Gap(Gap { topic, epoch, first, last, cause }))
        });
        self.next = last.saturating_add(1);
        let (old, new) = match delivery {
            _ if last < reached => (Some(delivery), None),
            Delivery::Gap(gap) if first < reached => {
                let old = Gap { last: reached - 1, ..gap.clone() };
                (Some(Delivery::Gap(old)), Some(Delivery::Gap(Gap { first: reached, ..gap })))
            }
            _ => (None, Some(delivery)),
        };
        (skipped.into_iter().chain(old).collect(), new, self.next >= reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Code, Topic};

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    fn gap(first: u64, last: u64, cause: GapCause) -> Delivery {
        let (topic, epoch) = (Topic::new("t").unwrap(), at("e:1").epoch);
        Delivery::Gap(Gap { topic, epoch, first, last, cause })
    }

    fn again(next: u64) -> Again {
        Again { reached: at("e:9"), next, streams: Vec::new() }
    }

    #[test]
    fn a_gap_over_the_reached_position_is_divided() {
        let named = || GapCause::Server(Code::CLOSED);
        let mut coming = again(4);
        assert_eq!(coming.divide(gap(4, 5, named())), (vec![gap(4, 5, named())], None, false));
        let (old, new) = (vec![gap(6, 8, named())], Some(gap(9, 12, named())));
        assert_eq!(coming.divide(gap(6, 12, named())), (old, new, true));
    }

    /// Numbers that were discarded and can no longer come are named.
    #[test]
    fn what_does_not_come_again_is_a_gap() {
        let lost = || vec![gap(4, 8, GapCause::Lost)];
        let reset = || Delivery::Reset { topic: Topic::new("t").unwrap(), position: at("f:1") };
        assert_eq!(again(4).divide(reset()), (lost(), Some(reset()), true));
        let later = || gap(9, 20, GapCause::Lost);
        assert_eq!(again(4).divide(later()), (lost(), Some(later()), true));
        assert_eq!(again(9).divide(reset()), (vec![], Some(reset()), true));
    }
}
