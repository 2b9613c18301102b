//! Errors by kind.

use std::collections::{BTreeMap, btree_map};

use bellwire::{CallError, ConnectionError, NotSent, PublishError, Unknown};
use serde::Serialize;

/// How many there were of each kind: `refused busy`, `unknown deadline`, `wrong reply`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Errors(BTreeMap<String, u64>);

impl Errors {
    pub(crate) fn add(&mut self, kind: impl Into<String>, count: u64) {
        if count > 0 {
            *self.0.entry(kind.into()).or_default() += count;
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        other.0.into_iter().for_each(|(kind, count)| self.add(kind, count));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn sum(&self) -> u64 {
        self.0.values().sum()
    }

    pub(crate) fn iter(&self) -> btree_map::Iter<'_, String, u64> {
        self.0.iter()
    }
}

/// The kind of a call's error: the outcome, and the code or what stands for one.
pub(crate) fn kind_of(error: &CallError) -> String {
    match error {
        CallError::Remote(reason) => format!("remote {}", reason.code),
        CallError::Refused { reason, .. } => format!("refused {}", reason.code),
        CallError::NotSent(why) => format!("not sent {}", kind_of_not_sent(why)),
        CallError::Unknown(why) => format!("unknown {}", kind_of_unknown(why)),
        CallError::Encode(_) => "encode".into(),
        CallError::Decode(_) => "decode".into(),
        _ => "other".into(),
    }
}

pub(crate) fn kind_of_publish(error: &PublishError) -> &'static str {
    match error {
        PublishError::InvalidTopic => "publish invalid-topic",
        PublishError::TooLarge { .. } => "publish too-large",
        PublishError::TooMany => "publish too-many",
        PublishError::Busy(_) => "publish busy",
        PublishError::Unavailable(_) => "publish unavailable",
        _ => "publish other",
    }
}

/// Whether every further call on the connection would fail like this one, perhaps immediately. Then
/// the caller must stop, or it would loop without waiting.
pub(crate) fn is_final(error: &CallError) -> bool {
    match error {
        CallError::NotSent(why) => !matches!(why, NotSent::Deadline(_)),
        CallError::Unknown(why) => matches!(why, Unknown::Lost(_)),
        CallError::Encode(_) => true,
        _ => false,
    }
}

fn kind_of_not_sent(why: &NotSent) -> String {
    match why {
        NotSent::Name(_) => "name".into(),
        NotSent::Attribute(_) => "attribute".into(),
        NotSent::TooLarge { .. } => "too-large".into(),
        NotSent::AlreadySubscribed => "already-subscribed".into(),
        NotSent::Deadline(_) => "deadline".into(),
        NotSent::Lost(error) => kind_of_loss(error),
        _ => "other".into(),
    }
}

fn kind_of_unknown(why: &Unknown) -> String {
    match why {
        Unknown::Cut(reason) => format!("cut {}", reason.code),
        Unknown::Deadline => "deadline".into(),
        Unknown::Lost(error) => kind_of_loss(error),
        Unknown::Streamed => "streamed".into(),
        _ => "other".into(),
    }
}

fn kind_of_loss(error: &ConnectionError) -> String {
    match error {
        ConnectionError::Closed => "lost closed".into(),
        ConnectionError::ClosedByPeer => "lost closed-by-peer".into(),
        ConnectionError::Bye(reason) => format!("lost bye {}", reason.code),
        ConnectionError::Io { kind, .. } => format!("lost {kind}"),
        ConnectionError::Protocol(_) => "lost protocol".into(),
        ConnectionError::Version(_) => "lost version".into(),
        ConnectionError::HandshakeTimeout => "lost handshake-timeout".into(),
        _ => "lost other".into(),
    }
}
