//! What a connection owns while something is under way.

use crate::{
    protocol::{RequestId, Time},
    server::{
        core::{deferred::Deferred, in_flight::InFlight, output::Output, parked::Parked},
        stats::Tally,
    },
};

/// What an idle connection does without.
#[derive(Default)]
pub(super) struct Active {
    pub(super) out: Output,
    pub(super) in_flight: InFlight,
    /// What was done since it was last counted.
    pub(super) tally: Tally,
    /// Slots whose handlers were woken and are still to be polled.
    pub(super) woken: Vec<usize>,
    /// Application lines that wait for a place in flight.
    pub(super) parked: Parked,
    /// Protocol requests that wait behind a `/subscribe`.
    pub(super) deferred: Deferred,
    /// The line at which reading stopped: no more may be parked, or it waits for the authorizer.
    pub(super) held: Option<Vec<u8>>,
    /// When the peer is to be told that nothing is read.
    pub(super) hold_at: Option<Time>,
    /// What was received behind it, and from where on it is still to be looked at.
    pub(super) unread: Vec<u8>,
    pub(super) unread_at: usize,
    /// Reading stopped since the peer does not read: nothing but the next write brings it on.
    pub(super) is_held: bool,
    /// A list whose lines are not written whole.
    pub(super) listing: Option<Listing>,
    /// Unwritten bytes, as the round began.
    pub(super) unwritten_before: usize,
    /// The streams were left without a turn, all else having had one.
    pub(super) streams_first: bool,
}

/// A list that is not written whole. No further line is looked at meanwhile, so that protocol
/// methods keep their order.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) id: RequestId,
    pub(super) next: Listed,
}

/// What a list goes on with.
#[derive(Debug)]
pub(super) enum Listed {
    /// The method at this place, among those sorted by name.
    Method(usize),
    /// The subscription behind the one of this number.
    SubscriptionBehind(u64),
}

impl Active {
    /// What it holds, in bytes: room that is kept counts, whatever stands in it.
    pub(super) fn buffered(&self) -> usize {
        let held = self.held.as_ref().map_or(0, Vec::capacity);
        let lines = self.parked.bytes() + self.deferred.bytes() + held + self.unread.capacity();
        self.out.capacity() + lines + self.in_flight.bytes()
    }

    /// Whether every request that was read has its terminal line.
    pub(super) fn has_answered(&self) -> bool {
        self.in_flight.len() == 0 && self.parked.is_empty() && self.listing.is_none()
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.out.is_done()
            && self.has_answered()
            && self.deferred.is_empty()
            && self.held.is_none()
            && self.unread.is_empty()
    }

    /// Whether nothing is under way, and nothing was woken or stopped meanwhile.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_idle() && self.woken.is_empty() && !self.is_held
    }
}
