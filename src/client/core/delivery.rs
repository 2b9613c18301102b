//! The items of a stream of notifications.

use std::{fmt, ops::RangeInclusive};

use bytes::Bytes;

#[cfg(feature = "json")]
use crate::client::codecs::{CodecError, Decode, JsonCodec};
use crate::{
    client::core::reader::AckHandle,
    protocol::{Code, Epoch, Position, Topic},
};

/// Logs that a topic remembers after it has left them. Each server of a failover set may have its
/// own log.
pub(crate) const REMEMBERED: usize = 8;

/// One notification.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notification {
    /// The topic.
    pub topic: Topic,
    /// The topic's log.
    pub epoch: Epoch,
    /// Its number in the log, from 1, without holes.
    pub sequence: u64,
    /// What was published. Payloads of at most 128 bytes that come together may share an allocation
    /// of at most 512 bytes, which lives as long as one of them. To keep one for long, copy it.
    pub payload: Bytes,
    /// This notification was handed over before and was not acknowledged, so it comes again after a
    /// lost connection. Only with [`redeliver`](crate::Subscribe::redeliver).
    pub redelivered: bool,
    /// Set if the subscription is acknowledged by hand.
    pub(crate) ack: AckHandle,
}

impl Notification {
    /// Creates a notification, for tests of code that handles notifications. Acknowledging it has
    /// no effect.
    ///
    /// ```
    /// use bellwire::{Delivery, Notification, protocol::{Epoch, Topic}};
    ///
    /// fn headline(delivery: Delivery) -> String {
    ///     match delivery {
    ///         Delivery::Notification(news) => String::from_utf8_lossy(&news.payload).into_owned(),
    ///         Delivery::Gap(gap) => format!("{} missed", gap.last - gap.first + 1),
    ///         _ => String::new(),
    ///     }
    /// }
    ///
    /// let (topic, epoch) = (Topic::new("news").unwrap(), Epoch::new("k3f9").unwrap());
    /// let news = Notification::new(topic, epoch, 1, "it rains");
    /// assert_eq!(headline(Delivery::Notification(news)), "it rains");
    /// ```
    pub fn new(topic: Topic, epoch: Epoch, sequence: u64, payload: impl Into<Bytes>) -> Self {
        Self::received(topic, epoch, sequence, payload.into())
    }

    /// A notification that has just been received.
    pub(crate) fn received(topic: Topic, epoch: Epoch, sequence: u64, payload: Bytes) -> Self {
        let (redelivered, ack) = (false, AckHandle::default());
        Self { topic, epoch, sequence, payload, redelivered, ack }
    }

    /// The payload as JSON; an absent one is read as `null` (docs/protocol/calls.md, section 12).
    ///
    /// ```
    /// use bellwire::{CodecError, Notification};
    ///
    /// fn rent(news: &Notification) -> Result<u32, CodecError> {
    ///     news.json()
    /// }
    /// ```
    ///
    /// # Errors
    /// [`CodecError`], when the payload does not decode to `T`.
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, CodecError> {
        JsonCodec.decode(&self.payload)
    }

    /// Acknowledges that this one notification is handled.
    ///
    /// For subscriptions that are acknowledged [by hand](crate::Subscribe::ack_by_hand). On others,
    /// on a second call, and after the [`Subscription`](crate::Subscription) was dropped, it has no
    /// effect. It may be called in any order and from any task. The client sends an ack when the
    /// lowest unacknowledged number has risen by half the window. With
    /// [`redeliver`](crate::Subscribe::redeliver), acknowledged notifications are not redelivered.
    ///
    /// Implements docs/protocol/acks.md, section 16.
    pub fn ack(&self) {
        self.ack.ack(self.epoch, self.sequence);
    }
}

/// Numbers that were not delivered, from `first` to `last`, both included.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// The topic.
    pub topic: Topic,
    /// The topic's log.
    pub epoch: Epoch,
    /// The first number missed.
    pub first: u64,
    /// The last number missed.
    pub last: u64,
    /// Why they were not delivered.
    pub cause: GapCause,
}

impl Gap {
    /// Creates a gap, for tests of code that handles gaps: `numbers` of the topic's log were not
    /// delivered.
    ///
    /// ```
    /// use bellwire::{Gap, GapCause, protocol::{Epoch, Topic}};
    ///
    /// let (topic, epoch) = (Topic::new("news").unwrap(), Epoch::new("k3f9").unwrap());
    /// let gap = Gap::new(topic, epoch, 4..=9, GapCause::Lost);
    /// assert_eq!((gap.first, gap.last), (4, 9));
    /// ```
    pub fn new(topic: Topic, epoch: Epoch, numbers: RangeInclusive<u64>, cause: GapCause) -> Self {
        let (first, last) = numbers.into_inner();
        Self { topic, epoch, first, last, cause }
    }
}

/// Why numbers were not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapCause {
    /// The server named them in a gap, with this reason.
    Server(Code),
    /// They were lost, and the server did not name them.
    Lost,
    /// The application read too slowly: this stream's queue was full.
    Lagged,
}

/// An item of a stream of notifications. The stream reports everything that it leaves out as one of
/// these items (guarantee "no silent loss").
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// A notification.
    Notification(Notification),
    /// Numbers that will not be delivered.
    Gap(Gap),
    /// The topic has a new log. Messages of the old log may have been missed. How many is unknown,
    /// except for those that a gap before this item names.
    Reset {
        /// The topic.
        topic: Topic,
        /// The new log and the next number. It is where the server begins or, with
        /// [`AfterReset::Head`](crate::AfterReset::Head), the position after its last message.
        position: Position,
    },
    /// The subscription is over. It can be resumed from the position.
    ///
    /// To go on, subscribe again [`from`](crate::Subscribe::from) the position after a pause. If
    /// that fails with [`NotSent::Lost`](crate::NotSent::Lost), the client has ended (unless it has
    /// [`fail_fast`](crate::ClientConfig::fail_fast)).
    End {
        /// The topic.
        topic: Topic,
        /// Why: the server's reason (`closed`, `revoked`, `slow`), or the code of a refused resume.
        /// It is `lost` if the client has ended, also by [`Client::close`](crate::Client::close),
        /// or if the subscription ends because of a loss.
        reason: Code,
        /// Where to resume; `None` if the subscription was never accepted.
        position: Option<Position>,
    },
    /// Only on a stream of all notifications
    /// ([`Client::notifications`](crate::Client::notifications)). The stream dropped deliveries of
    /// more topics than it can name
    /// ([`ClientConfig::missed_topics`](crate::ClientConfig::missed_topics)). The next delivery of
    /// any topic may follow a hole.
    Lost {
        /// The number of dropped deliveries.
        deliveries: u64,
    },
}

impl fmt::Display for GapCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(code) => code.fmt(f),
            Self::Lost => f.write_str("lost"),
            Self::Lagged => f.write_str("lagged"),
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, first, last, cause, .. } = self;
        write!(f, "missed {first} to {last} of {topic}: {cause}")
    }
}

impl Delivery {
    /// The topic of the item; `None` for [`Lost`](Self::Lost), which is about several.
    pub fn topic(&self) -> Option<&Topic> {
        match self {
            Self::Notification(Notification { topic, .. })
            | Self::Gap(Gap { topic, .. })
            | Self::Reset { topic, .. }
            | Self::End { topic, .. } => Some(topic),
            Self::Lost { .. } => None,
        }
    }

    /// The notification, if it is one.
    pub fn into_notification(self) -> Option<Notification> {
        match self {
            Self::Notification(notification) => Some(notification),
            _ => None,
        }
    }

    pub(super) fn is_reset(&self) -> bool {
        matches!(self, Self::Reset { .. })
    }

    /// Bytes of its payload.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Notification(notification) => notification.payload.len(),
            _ => 0,
        }
    }

    pub(crate) fn is_reset_to(&self, epoch: Epoch) -> bool {
        matches!(self, Self::Reset { position, .. } if position.epoch == epoch)
    }

    /// The position behind it.
    pub(crate) fn behind(&self) -> Option<Position> {
        match self {
            Self::Notification(Notification { epoch, sequence: last, .. })
            | Self::Gap(Gap { epoch, last, .. }) => {
                Some(Position { epoch: *epoch, next: last + 1 })
            }
            Self::Reset { position, .. } => Some(*position),
            Self::End { .. } | Self::Lost { .. } => None,
        }
    }

    /// The position behind it, if it is a loss. What [`Slow::Latest`](crate::Slow::Latest) leaves
    /// out is not a loss, because the subscription asked for it. Nor is what later messages have
    /// replaced.
    pub(crate) fn loss(&self) -> Option<Position> {
        match self {
            Self::Gap(Gap { cause: GapCause::Server(code), .. })
                if [Code::SLOW, Code::REPLACED].contains(code) =>
            {
                None
            }
            Self::Gap(_) | Self::Reset { .. } => self.behind(),
            Self::Notification(_) | Self::End { .. } | Self::Lost { .. } => None,
        }
    }
}
