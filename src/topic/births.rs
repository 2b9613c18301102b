//! Under which epoch, and with which number, a log begins. Pure, but for its random numbers.

use crate::{
    protocol::{Epoch, Position, Topic},
    random::Random,
    topic::ended::Ended,
};

/// Where each log begins that is not there now.
///
/// **Invariant:** a log that had messages is removed only after its end is noted, and the common
/// epoch is replaced whenever an end is dropped. An epoch that was replaced never returns.
/// Otherwise (epoch, sequence) would name two messages.
#[derive(Debug)]
pub(super) struct Births {
    /// The epoch of every new log without an end in `ended`.
    birth: Epoch,
    ended: Ended,
    /// Draws the epochs of later logs.
    random: Random,
}

impl Births {
    /// New logs begin under the epoch `birth`.
    pub(super) fn new(birth: Epoch, random: &Random) -> Self {
        Self { birth, ended: Ended::default(), random: random.clone() }
    }

    /// Draws all later epochs from `random`.
    pub(super) fn reseed(&mut self, random: &Random) {
        (self.birth, self.random) = (random.next_epoch(), random.clone());
    }

    /// Where the next log of `topic` begins.
    pub(super) fn begin(&self, topic: &Topic) -> Position {
        let begin = self.ended.get(topic);
        begin.unwrap_or(Position { epoch: self.birth, next: 1 })
    }

    /// Where the last log of `topic` ended, if that had messages and was dropped.
    pub(super) fn ended(&self, topic: &Topic) -> Option<Position> {
        self.ended.get(topic).filter(|end| end.next > 1)
    }

    /// Notes where a log goes on that is about to be dropped. Keeps the last `limit` of these.
    pub(super) fn note_end(&mut self, topic: &Topic, end: Position, limit: usize) {
        if self.ended.note(topic, end, limit) {
            self.birth = self.random.next_epoch();
        }
    }

    /// Lets the next log of `topic` begin at 1 of a new epoch.
    pub(super) fn retire(&mut self, topic: &Topic, limit: usize) {
        let epoch = self.random.next_epoch();
        self.note_end(topic, Position { epoch, next: 1 }, limit);
    }
}
