//! How protocol requests wait for an earlier `/subscribe`, and go on (docs/protocol/calls.md,
//! section 12).

use std::mem;

use crate::{
    protocol::{Code, LeaseEvent, Line, Mark},
    server::core::{
        connection::{Connection, Taken},
        deferred::{self, Deferred},
    },
};

impl Connection {
    /// Whether a `/subscribe` waits for the authorizer or for its store.
    pub(super) fn is_subscribing(&self) -> bool {
        self.is_asking() || self.subscriptions.as_ref().is_some_and(|list| list.is_opening())
    }

    /// Whether this protocol line has to wait for an earlier `/subscribe`.
    pub(super) fn must_defer(&self, line: &Line<'_>) -> bool {
        let is_request = matches!(line.mark, Mark::Id(_)) && line.word.as_str() != "/publish";
        is_request && (self.is_subscribing() || self.has_deferred())
    }

    /// Defers a line after the others. Returns [`Taken::No`] if there is no room for it.
    pub(super) fn defer(&mut self, line: &Line<'_>, bytes: &[u8]) -> Taken {
        let bound = self.environment.config.parked_bytes;
        let active = self.active.get_or_insert_default();
        let held = active.parked.bytes() + active.deferred.bytes();
        let is_first = active.deferred.lines.is_empty();
        if !is_first && held.saturating_add(bytes.len() + deferred::LINE) > bound {
            return Taken::No;
        }
        active.deferred.push_back(bytes);
        if line.word.as_str() == "/renew"
            && self.subscriptions.as_ref().is_some_and(|list| !list.is_empty())
        {
            self.lease_event(LeaseEvent::Renewed);
        }
        Taken::Yes
    }

    /// Processes the deferred lines in line order, until one of them is a `/subscribe` that waits
    /// again.
    pub(super) fn go_on_with_deferred(&mut self) {
        while self.can_go_on_with_deferred() && self.has_turn() {
            let Some(bytes) = self.active().deferred.pop_front() else { break };
            self.lines_left -= 1;
            // The line was parsed before, so it is valid.
            if let Ok(line) = Line::parse_request(&bytes)
                && self.on_control(&line, &bytes, false) == Taken::No
            {
                self.active().deferred.push_front(bytes);
                return;
            }
            self.turn_away_banned();
        }
        let Some(active) = &mut self.active else { return };
        if active.deferred.has_ended && active.deferred.lines.is_empty() && !self.is_subscribing() {
            self.active().deferred.has_ended = false;
            self.on_eof();
        }
    }

    /// Whether a deferred line, or the deferred end of input, can be processed now.
    pub(super) fn can_go_on_with_deferred(&self) -> bool {
        self.has_deferred()
            && self.state.is_reading()
            && !self.is_subscribing()
            && !self.is_listing()
            && !self.is_over_mark()
    }

    /// Whether unanswered requests wait for an earlier `/subscribe`.
    pub(super) fn is_holding_up(&self) -> bool {
        let first = usize::from(self.is_asking());
        let waits = |deferred: &Deferred| deferred.lines.len() > first;
        self.is_subscribing() && self.active.as_ref().is_some_and(|on| waits(&on.deferred))
    }

    pub(super) fn has_deferred(&self) -> bool {
        self.active.as_ref().is_some_and(|active| !active.deferred.is_empty())
    }

    /// The peer has closed its direction. Returns whether that has to wait for a `/subscribe`.
    pub(super) fn defer_eof(&mut self) -> bool {
        let waits = self.state.is_reading() && (self.is_subscribing() || self.has_deferred());
        if waits {
            self.active().deferred.has_ended = true;
        }
        waits
    }

    /// Refuses the `/subscribe` that waits, and all requests after it, because the connection ends.
    pub(super) fn give_up_deferred(&mut self, code: &Code) {
        self.give_up_opening(code);
        if self.is_asking() {
            self.state.has_decided();
        }
        let Some(active) = &mut self.active else { return };
        for bytes in mem::take(&mut active.deferred).lines {
            if let Ok(Line { mark: Mark::Id(id), .. }) = Line::parse_request(&bytes) {
                self.refuse(id, code, format_args!(""));
            }
        }
    }
}
