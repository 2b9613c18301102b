//! The state of a connection, as PROTOCOL.md draws it (section 14).

use std::mem;

use crate::{
    protocol::{RequestId, Time},
    server::core::access::Access,
};

/// The state of a connection, for its driver and for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// `/hello` is said, and no line was read.
    Greeted,
    /// Lines are obeyed.
    Open,
    /// `/bye` is said. Lines are obeyed as before.
    Grace,
    /// `/bye;last=N` is said. What was read up to N is answered.
    LineDrawn,
    /// No line is looked at any more. What runs is finished.
    Finishing,
    /// Everything is written: the driver has to close its direction of the transport.
    Closing,
    /// That is done. What still comes is read and thrown away, for a while.
    Lingering,
    /// It is over: the driver has to drop the transport.
    Closed,
}

/// The state, with what makes sense only in it.
///
/// GREETED, OPEN, GRACE and LINE DRAWN are those in which lines are read and obeyed. A server may be
/// told to stop before it has read a line: the peer's first line is judged as one in GREETED still.
pub(super) enum FullState {
    /// GREETED.
    Greeted { reading: Reading },
    /// OPEN.
    Open { reading: Reading },
    /// GRACE.
    Grace { reading: Reading, has_read: bool },
    /// LINE DRAWN. What still runs at `cut` is cut.
    LineDrawn { reading: Reading, has_read: bool, cut: Time },
    /// FINISHING: no line is looked at any more. What runs is finished, then `/quit` is answered.
    Finishing {
        quit: Option<RequestId>,
        /// The peer has closed its direction.
        eof: bool,
        /// Set where the server ends the connection.
        end: Option<End>,
        /// It ends for a fault of the peer.
        is_banned: bool,
    },
    /// CLOSED begins: everything is written.
    Closing { eof: bool, until: Time, is_banned: bool },
    /// Closed in our direction. What still comes is thrown away.
    Lingering {
        /// However much comes.
        end: Time,
    },
    /// CLOSED.
    Closed {
        /// Why it was given up, if it was.
        lost: Option<&'static str>,
    },
}

/// What all states have in which lines are read.
#[derive(Default)]
pub(super) struct Reading {
    /// What is to be decided about the peer.
    access: Option<Box<Access>>,
    /// One violation too many was read: the connection ends behind the line that is obeyed.
    is_banned: bool,
}

/// The end of a connection that the server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// What still runs is cut then.
    Cut(Time),
    /// What ran was cut. The connection is dropped then.
    Drop(Time),
}

impl End {
    pub(super) fn time(self) -> Time {
        match self {
            Self::Cut(at) | Self::Drop(at) => at,
        }
    }

    /// This one, or an earlier cut.
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

    /// Whether nothing is left to be said.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self, Self::Closing { .. } | Self::Lingering { .. } | Self::Closed { .. })
    }

    /// Whether lines are read, and none was.
    pub(super) fn is_first(&self) -> bool {
        match self {
            Self::Greeted { .. } => true,
            Self::Grace { has_read, .. } | Self::LineDrawn { has_read, .. } => !has_read,
            _ => false,
        }
    }

    /// Whether lines are still read, and the line is drawn: no application request is started.
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

    /// The peer is told that the server stops.
    pub(super) fn begin_grace(&mut self) {
        let has_read = !self.is_first();
        if let Self::Greeted { reading } | Self::Open { reading } = self {
            *self = Self::Grace { reading: mem::take(reading), has_read };
        }
    }

    /// The line is drawn, and what still runs at `cut` is cut.
    pub(super) fn draw_line(&mut self, cut: Time) {
        let has_read = !self.is_first();
        if let Self::Greeted { reading } | Self::Open { reading } | Self::Grace { reading, .. } =
            self
        {
            *self = Self::LineDrawn { reading: mem::take(reading), has_read, cut };
        }
    }

    /// From here on no line is looked at.
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

    /// Cuts the connection at this time at the latest, unless the line is still to be drawn: that
    /// sets the time then.
    pub(super) fn bound_end(&mut self, at: Time) {
        match self {
            Self::LineDrawn { cut, .. } => *cut = at.min(*cut),
            Self::Finishing { end, .. } => {
                *end = Some(end.map_or(End::Cut(at), |end| end.or_cut(at)));
            }
            _ => {}
        }
    }

    /// What ran is cut: a connection that is finishing is dropped at this time.
    pub(super) fn drop_at(&mut self, at: Time) {
        if let Self::Finishing { end, .. } = self {
            *end = Some(End::Drop(at));
        }
    }

    /// A fault of the peer ends the connection.
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

    /// What is to be decided about the peer; of one whose lines are not read, nothing.
    pub(super) fn access(&self) -> Option<&Access> {
        self.reading()?.access.as_deref()
    }

    pub(super) fn access_mut(&mut self) -> Option<&mut Access> {
        self.reading_mut()?.access.as_deref_mut()
    }

    /// Everything about the peer is decided.
    pub(super) fn has_decided(&mut self) {
        if let Some(reading) = self.reading_mut() {
            reading.access = None;
        }
    }

    /// This is to be decided first.
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

    /// From GREETED, being told to stop leads where it leads from OPEN, once a line was read.
    #[test]
    fn being_told_to_stop_leads_from_greeted_where_it_leads_from_open() {
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

    /// The end of a connection is put off by nothing, and goes with it.
    #[test]
    fn an_end_only_comes_nearer() {
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
