//! What a reader wants of deliveries that come again.

use crate::client::core::{
    delivery::{Delivery, Gap, Notification},
    reader::Reader,
};

/// Returns the part of a delivery that the reader has not handled, and the rest of a gap of which
/// only a part was taken. Marks what was handed over before. The position of an end becomes the
/// lowest one that is not handled.
pub(crate) fn sift(reader: &Reader, delivery: Delivery) -> (Option<Delivery>, Option<Delivery>) {
    match delivery {
        Delivery::Notification(news) => (notification(reader, news), None),
        Delivery::Gap(gap) => part(reader, gap),
        Delivery::End { topic, reason, position: Some(end) } => {
            let floor = reader.floor().filter(|floor| floor.epoch == end.epoch);
            (Some(Delivery::End { topic, reason, position: floor.or(Some(end)) }), None)
        }
        other => (Some(other), None),
    }
}

fn notification(reader: &Reader, mut news: Notification) -> Option<Delivery> {
    let (_, _, is_known) = reader.open(news.epoch, news.sequence, news.sequence)?;
    news.redelivered = is_known;
    Some(Delivery::Notification(news))
}

fn part(reader: &Reader, gap: Gap) -> (Option<Delivery>, Option<Delivery>) {
    let Gap { epoch, first, last, .. } = gap;
    let Some((first, end, _)) = reader.open(epoch, first, last) else {
        // The server has named it again, so it needs another ack.
        reader.hand_over_gap(epoch, first, last);
        return (None, None);
    };
    let rest = (end < last).then(|| Delivery::Gap(Gap { first: end + 1, ..gap.clone() }));
    (Some(Delivery::Gap(Gap { first, last: end, ..gap })), rest)
}
