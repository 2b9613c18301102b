//! Keyed requests of a connection (docs/protocol/keyed.md, section 23).

use bytes::Bytes;

use crate::server::{
    core::{arguments::Publish, connection::Connection, requests::Work},
    handlers::{reply, running::Running},
    keys::run::{KeyedStart, begin},
};

impl Connection {
    /// Whether the server runs keyed requests.
    pub(super) fn has_keys(&self) -> bool {
        self.environment.keyed.is_some()
    }

    /// Publishes with a key. The caller has checked that the client may.
    pub(super) fn publish_keyed(
        &mut self,
        work: Work,
        key: &str,
        arguments: &Publish<'_>,
        payload: &[u8],
    ) {
        let topic = arguments.topic.clone();
        let both = [topic.as_str().as_bytes(), b" ", payload].concat();
        let keyed = KeyedStart {
            key,
            method: "/publish",
            payload: &both,
            bytes: both.len(),
            limit: self.environment.config.handler_time,
        };
        let payload = Bytes::copy_from_slice(payload);
        let call = begin(
            &self.environment,
            &self.session,
            &keyed,
            move |environment, _| {
                let appended = environment.publisher.store().append(&topic, payload);
                let future = async move { reply::of_publish(appended.await) };
                Ok(Running::Inline(Box::pin(Some(future))))
            },
            Some(self.now),
        );
        self.wait_for_run(work, call);
    }
}
