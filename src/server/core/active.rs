//! The part of a connection that exists only while something is in progress.

use crate::{
    protocol::{RequestId, Time},
    server::{
        core::{deferred::Deferred, in_flight::InFlight, output::Output, parked::Parked},
        stats::Tally,
    },
};

/// The buffers and tables that an idle connection does not have.
#[derive(Default)]
pub(super) struct Active {
    pub(super) out: Output,
    pub(super) in_flight: InFlight,
    /// Events that are not yet added to the server's counters.
    pub(super) tally: Tally,
    /// Slots of handlers that were woken and are not yet polled.
    pub(super) woken: Vec<usize>,
    /// Application lines that wait for a place in flight.
    pub(super) parked: Parked,
    /// Protocol requests that wait for an earlier `/subscribe`.
    pub(super) deferred: Deferred,
    /// The line at which reading stopped, because no more lines may be parked or it waits for the
    /// authorizer.
    pub(super) held: Option<Vec<u8>>,
    /// When the client is next sent `/hold`, while the connection is not read.
    pub(super) hold_at: Option<Time>,
    /// Bytes that were received after the held line; `unread_at` is where processing continues.
    pub(super) unread: Vec<u8>,
    pub(super) unread_at: usize,
    /// Reading stopped because the client does not read. Only the next write can resume it.
    pub(super) is_held: bool,
    /// A list whose reply is not yet complete.
    pub(super) listing: Option<Listing>,
    /// Unwritten bytes when the round began.
    pub(super) unwritten_before: usize,
    /// The streams had no turn in the last round, so they have the first turn in the next one.
    pub(super) streams_first: bool,
}

/// A list whose reply is not yet complete. No further line is processed meanwhile, so that protocol
/// methods keep their order.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) id: RequestId,
    pub(super) next: Listed,
}

/// Where a list continues.
#[derive(Debug)]
pub(super) enum Listed {
    /// The method at this place in the order of names.
    Method(usize),
    /// The subscriptions whose numbers are above this one.
    SubscriptionBehind(u64),
}

impl Active {
    /// The bytes that it holds. Allocated room counts in full.
    pub(super) fn buffered(&self) -> usize {
        let held = self.held.as_ref().map_or(0, Vec::capacity);
        let lines = self.parked.bytes() + self.deferred.bytes() + held + self.unread.capacity();
        self.out.capacity() + lines + self.in_flight.bytes()
    }

    /// Whether every request that was read has been answered.
    pub(super) fn has_answered(&self) -> bool {
        self.in_flight.len() == 0 && self.parked.is_empty() && self.listing.is_none()
    }

    /// Whether nothing is in progress.
    pub(super) fn is_idle(&self) -> bool {
        self.out.is_done()
            && self.has_answered()
            && self.deferred.is_empty()
            && self.held.is_none()
            && self.unread.is_empty()
    }

    /// Whether nothing is in progress, and nothing was woken or held since the last round.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_idle() && self.woken.is_empty() && !self.is_held
    }
}
