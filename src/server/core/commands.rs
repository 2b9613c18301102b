//! Commands of the application: a subscription to end, the connection to close.

use crate::{
    protocol::{Code, LeaseEvent, encode_end},
    server::core::connection::Connection,
};

impl Connection {
    pub(super) fn obey_commands(&mut self) {
        let Some(commands) = self.session.mailbox().take_commands() else { return };
        if commands.close.is_some() {
            self.session.ending().stop();
            self.bound_end();
        }
        if !self.state.is_reading() {
            return;
        }
        commands.revoked.iter().for_each(|topic| self.revoke(topic));
        if let Some(reason) = commands.close {
            self.close(&reason);
        }
    }

    /// Ends the subscription to `topic`, or refuses a `/subscribe` that is in progress.
    fn revoke(&mut self, topic: &str) {
        self.deny_asking(topic);
        let Some(subscriptions) = &mut self.subscriptions else { return };
        if let Some((topic, position)) = subscriptions.revoke(topic) {
            let active = self.active.get_or_insert_default();
            encode_end(active.out.bytes(), &topic, &Code::REVOKED, position);
            if self.subscriptions.as_ref().is_none_or(|list| list.is_empty()) {
                self.lease_event(LeaseEvent::Emptied);
            }
        } else if let Some(id) = subscriptions.abandon_opening(Some(topic)) {
            self.refuse(id, &Code::FORBIDDEN, format_args!(""));
        }
    }

    /// Sends `/bye;last=N` to this connection, as when the server stops, and ends its subscriptions
    /// at once.
    fn close(&mut self, reason: &Code) {
        self.draw_the_line(reason);
        self.abandon_auth();
        let subscriptions = self.subscriptions.as_mut();
        if let Some(id) = subscriptions.and_then(|list| list.abandon_opening(None)) {
            self.refuse(id, &Code::CLOSING, format_args!(""));
        }
        self.subscriptions = None;
        self.lease_event(LeaseEvent::Emptied);
    }
}
