//! The names of the keys.

use crate::protocol::{Epoch, Topic};

/// Builds the names of a store's keys. All have one hash tag, so that a script may use any of them.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// `PREFIX{0}:`
    begin: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self { begin: format!("{prefix}{{0}}:") }
    }

    /// The hash that says where each log goes on.
    pub(super) fn heads(&self) -> String {
        format!("{}heads", self.begin)
    }

    /// The hash that says where topics without a log begin.
    pub(super) fn notes(&self) -> String {
        format!("{}notes", self.begin)
    }

    /// The begin of the name of each stream.
    pub(super) fn streams(&self) -> String {
        format!("{}log:", self.begin)
    }

    /// The stream of a topic, and the channel that announces its messages.
    pub(super) fn stream(&self, topic: &Topic) -> String {
        format!("{}log:{topic}", self.begin)
    }

    /// The topic of a channel.
    pub(super) fn topic(&self, channel: &str) -> Option<Topic> {
        Topic::new(channel.strip_prefix(&self.begin)?.strip_prefix("log:")?).ok()
    }

    /// The hash that says which messages a producer has published.
    pub(super) fn producer(&self, producer: &str) -> String {
        format!("{}producer:{producer}", self.begin)
    }

    /// The hash of the keyed requests.
    pub(super) fn keyed(&self) -> String {
        format!("{}keyed", self.begin)
    }

    /// The begin of the names of the streams that a topic has after its log was closed. The epoch
    /// follows.
    pub(super) fn closed(&self, topic: &Topic) -> String {
        format!("{}closed:{topic}:", self.begin)
    }

    /// The stream of a log that was closed.
    pub(super) fn closed_stream(&self, topic: &Topic, epoch: Epoch) -> String {
        format!("{}{epoch}", self.closed(topic))
    }
}
