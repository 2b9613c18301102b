//! The states of a connection (docs/protocol/leaving.md, section 18).

use std::mem;

use crate::{
    protocol::{RequestId, Time},
    server::core::access::Access,
};

/// The state of a connection, for its driver and for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// `/hello` is sent, and no line has been read.
    Greeted,
    /// Lines are processed.
    Open,
    /// `/bye` is sent. Lines are processed as before.
    Grace,
    /// `/bye;last=N` is sent. Requests up to N are finished and answered.
    LineDrawn,
    /// No further line is processed. Requests in flight are finished.
    Finishing,
    /// Everything is written: the driver has to close its direction of the transport.
    Closing,
    /// The driver has closed its direction. Input is read and discarded for a while.
    Lingering,
    /// It is over: the driver has to drop the transport.
    Closed,
}

/// The state, with the values that exist only in that state.
///
/// In GREETED, OPEN, GRACE and LINE DRAWN, lines are read and processed. A server may be told to
/// stop before it has read a line. The peer's first line is then still checked as in GREETED.
pub(super) enum FullState {
    /// GREETED.
    Greeted { reading: Reading },
    /// OPEN.
    Open { reading: Reading },
    /// GRACE.
    Grace { reading: Reading, has_read: bool },
    /// LINE DRAWN. What still runs at the time `cut` is cut.
    LineDrawn { reading: Reading, has_read: bool, cut: Time },
    /// FINISHING: no further line is processed. Requests in flight are finished, then `/quit` is
    /// answered.
    Finishing {
        quit: Option<RequestId>,
        /// The peer has closed its direction.
        eof: bool,
        /// Set if the server ends the connection.
        end: Option<End>,
        /// Whether the connection ends because of a violation of the peer.
        is_banned: bool,
    },
    /// The beginning of CLOSED: everything is written.
    Closing { eof: bool, until: Time, is_banned: bool },
    /// The driver has closed its direction. Input is discarded.
    Lingering {
        /// The end, even if the peer still sends.
        end: Time,
    },
    /// CLOSED.
    Closed {
        /// Why the connection was dropped; `None` if it ended in order.
        lost: Option<&'static str>,
    },
}

/// The values of all states in which lines are read.
#[derive(Default)]
pub(super) struct Reading {
    /// An open decision about the peer.
    access: Option<Box<Access>>,
    /// There was one violation too many. The connection ends after the current line.
    is_banned: bool,
}

/// How and when the server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// What still runs is cut at this time.
    Cut(Time),
    /// Everything was cut. The connection is dropped at this time.
    Drop(Time),
}

impl End {
    pub(super) fn time(self) -> Time {
        match self {
            Self::Cut(at) | Self::Drop(at) => at,
        }
    }

    /// This end, or a cut at `at` if that is earlier.
    fn or_cut(self, at: Time) -> Self {
        match self {
            Self::Cut(before) => Self::Cut(before.min(at)),
            Self::Drop(before) => Self::Drop(before.min(at)),
        }
    }
}

impl FullState {
    pub(super) fn new(access: Option<Box<Access>>) -> Self {
        Self::Greeted { reading: Reading { access, is_banned: false } }
    }

    pub(super) fn shown(&self) -> ConnectionState {
        match self {
            Self::Greeted { .. } => ConnectionState::Greeted,
            Self::Open { .. } => ConnectionState::Open,
            Self::Grace { .. } => ConnectionState::Grace,
            Self::LineDrawn { .. } => ConnectionState::LineDrawn,
            Self::Finishing { .. } => ConnectionState::Finishing,
            Self::Closing { .. } => ConnectionState::Closing,
            Self::Lingering { .. } => ConnectionState::Lingering,
            Self::Closed { .. } => ConnectionState::Closed,
        }
    }

    fn reading(&self) -> Option<&Reading> {
        match self {
            Self::Greeted { reading }
            | Self::Open { reading }
            | Self::Grace { reading, .. }
            | Self::LineDrawn { reading, .. } => Some(reading),
            _ => None,
        }
    }

    fn reading_mut(&mut self) -> Option<&mut Reading> {
        match self {
            Self::Greeted { reading }
            | Self::Open { reading }
            | Self::Grace { reading, .. }
            | Self::LineDrawn { reading, .. } => Some(reading),
            _ => None,
        }
    }

    pub(super) fn is_reading(&self) -> bool {
        self.reading().is_some()
    }

    /// Whether nothing more is written.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self, Self::Closing { .. } | Self::Lingering { .. } | Self::Closed { .. })
    }

    /// Whether lines are read, and none has been read yet.
    pub(super) fn is_first(&self) -> bool {
        match self {
            Self::Greeted { .. } => true,
            Self::Grace { has_read, .. } | Self::LineDrawn { has_read, .. } => !has_read,
            _ => false,
        }
    }

    /// Whether lines are read after `/bye;last=N`, so that application requests are refused.
    pub(super) fn is_line_drawn(&self) -> bool {
        matches!(self, Self::LineDrawn { .. })
    }

    /// A line was read.
    pub(super) fn has_read(&mut self) {
        match self {
            Self::Greeted { reading } => *self = Self::Open { reading: mem::take(reading) },
            Self::Grace { has_read, .. } | Self::LineDrawn { has_read, .. } => *has_read = true,
            _ => {}
        }
    }

    /// `/bye` was sent.
    pub(super) fn begin_grace(&mut self) {
        let has_read = !self.is_first();
        if let Self::Greeted { reading } | Self::Open { reading } = self {
            *self = Self::Grace { reading: mem::take(reading), has_read };
        }
    }

    /// `/bye;last=N` was sent. What still runs at `cut` is cut.
    pub(super) fn draw_line(&mut self, cut: Time) {
        let has_read = !self.is_first();
        if let Self::Greeted { reading } | Self::Open { reading } | Self::Grace { reading, .. } =
            self
        {
            *self = Self::LineDrawn { reading: mem::take(reading), has_read, cut };
        }
    }

    /// No further line is processed.
    pub(super) fn finish(&mut self, quit: Option<RequestId>) {
        let (end, is_banned) = (self.end(), self.is_banned());
        *self = Self::Finishing { quit, eof: false, end, is_banned };
    }

    /// When the connection is cut or dropped, if the server ends it.
    pub(super) fn end(&self) -> Option<End> {
        match self {
            Self::LineDrawn { cut, .. } => Some(End::Cut(*cut)),
            Self::Finishing { end, .. } => *end,
            _ => None,
        }
    }

    /// Cuts the connection at `at` or earlier. Before `/bye;last` this has no effect, because
    /// `draw_line` sets the time.
    pub(super) fn bound_end(&mut self, at: Time) {
        match self {
            Self::LineDrawn { cut, .. } => *cut = at.min(*cut),
            Self::Finishing { end, .. } => {
                *end = Some(end.map_or(End::Cut(at), |end| end.or_cut(at)));
            }
            _ => {}
        }
    }

    /// Everything was cut. A connection in FINISHING is dropped at `at`.
    pub(super) fn drop_at(&mut self, at: Time) {
        if let Self::Finishing { end, .. } = self {
            *end = Some(End::Drop(at));
        }
    }

    /// Ends the connection because of a violation of the peer.
    pub(super) fn ban(&mut self) {
        if let Some(reading) = self.reading_mut() {
            reading.is_banned = true;
        } else if let Self::Finishing { is_banned, .. } | Self::Closing { is_banned, .. } = self {
            *is_banned = true;
        }
    }

    pub(super) fn is_banned(&self) -> bool {
        match self {
            Self::Finishing { is_banned, .. } | Self::Closing { is_banned, .. } => *is_banned,
            _ => self.reading().is_some_and(|reading| reading.is_banned),
        }
    }

    /// The open decision about the peer; `None` if lines are no longer read.
    pub(super) fn access(&self) -> Option<&Access> {
        self.reading()?.access.as_deref()
    }

    pub(super) fn access_mut(&mut self) -> Option<&mut Access> {
        self.reading_mut()?.access.as_deref_mut()
    }

    /// There is no open decision any more.
    pub(super) fn has_decided(&mut self) {
        if let Some(reading) = self.reading_mut() {
            reading.access = None;
        }
    }

    /// Sets an open decision.
    pub(super) fn decide_first(&mut self, question: Access) {
        if let Some(reading) = self.reading_mut() {
            reading.access = Some(Box::new(question));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    /// A stop leads from GREETED to the same states as from OPEN.
    #[test]
    fn stop_leads_to_the_same_states_from_greeted_and_open() {
        for is_first in [true, false] {
            let mut state = FullState::new(None);
            let read = |state: &mut FullState| {
                if !is_first {
                    state.has_read();
                }
                assert_eq!(state.is_first(), is_first);
            };
            read(&mut state);
            state.begin_grace();
            assert_eq!(state.shown(), ConnectionState::Grace);
            read(&mut state);
            assert_eq!(state.end(), None);
            state.draw_line(at(7));
            state.begin_grace();
            assert_eq!(state.shown(), ConnectionState::LineDrawn);
            read(&mut state);
            assert_eq!(state.end(), Some(End::Cut(at(7))));
            state.has_read();
            assert!(!state.is_first() && state.is_line_drawn());
        }
    }

    /// The end of a connection can only move to an earlier time.
    #[test]
    fn the_end_of_a_connection_can_only_move_earlier() {
        let mut state = FullState::new(None);
        state.bound_end(at(1));
        assert_eq!(state.end(), None, "the line is not drawn");
        state.draw_line(at(7));
        state.bound_end(at(9));
        state.bound_end(at(5));
        state.ban();
        state.finish(None);
        assert_eq!((state.end(), state.is_banned()), (Some(End::Cut(at(5))), true));
        state.drop_at(at(6));
        state.bound_end(at(8));
        assert_eq!(state.end(), Some(End::Drop(at(6))));
    }
}
